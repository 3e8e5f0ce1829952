//! What a core is given when it starts.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use ringlog_engine::data_dir::DataDir;
use ringlog_engine::ids::{ShardNumber, Tenant};
use ringlog_engine::io::{IoMode, SyncMode};
use ringlog_engine::shard::Durability;
use ringlog_engine::shard::recover::RecoveryReport;

use crate::auth::delta::Delta;
use crate::catalog::thread::{Acks, ControlHandle};
use crate::core::mailbox::{Address, Mailbox};
use crate::core::metrics::Metrics;
use crate::core::rates::Rates;
use crate::facilitator::FacilitatorHandle;
use crate::handle::x402::pricing::Pricing;
use crate::wire::cors::Cors;
use crate::wire::forwarded::TrustedProxies;

/// Everything a core needs. Built on the starting thread, moved to the core's own.
pub struct CoreSetup {
    /// This core's place among `addresses`.
    pub core: usize,
    /// The processor to pin the thread to, if the machine has enough.
    pub cpu: Option<usize>,
    pub mailbox: Mailbox,
    /// Every core's address, this one's included.
    pub addresses: Vec<Address>,
    pub dir: DataDir,
    /// Which core owns each shard, by shard number.
    pub shard_owners: Arc<[usize]>,
    pub durability: Durability,
    pub io: IoMode,
    pub sync: SyncMode,
    /// This core's own listeners, bound with SO_REUSEPORT and listening.
    pub http: TcpListener,
    pub tcp: Option<TcpListener>,
    pub syslog_tcp: Option<TcpListener>,
    pub syslog_udp: Option<UdpSocket>,
    /// Whose syslog messages are that name nobody.
    pub syslog_workspace: Option<Tenant>,
    /// The catalog as it is at start; later changes come as deltas.
    pub catalog: Arc<Delta>,
    pub acks: Arc<Acks>,
    pub control: ControlHandle,
    /// One for all cores.
    pub rates: Arc<Rates>,
    pub metrics: Arc<Metrics>,
    pub trusted_proxies: TrustedProxies,
    /// Which web pages may read answers.
    pub cors: Cors,
    pub pricing: Arc<Pricing>,
    /// There where something is priced.
    pub facilitator: Option<FacilitatorHandle>,
    /// Key of the cursors that queries hand out, the same on every core and after every restart.
    pub cursor_secret: [u8; 32],
    /// Told once, when the core's shards are open and it accepts, or why it cannot.
    pub started: SyncSender<Result<CoreStarted, String>>,
    pub version: &'static str,
}

/// What a core found when it opened its shards.
#[derive(Debug)]
pub struct CoreStarted {
    pub core: usize,
    /// One line about how the kernel is asked.
    pub io_notice: String,
    pub reports: Vec<(ShardNumber, RecoveryReport)>,
}
