//! From a checked configuration to a server that accepts, and from a signal back to an orderly end.
//!
//! ```text
//! process ─► data directory, locked ─► sockets, bound ─► catalog, replayed ─► first-run text ─► cores ─► ports file ─► ready
//! stop: every core finishes and ends ─► control thread ─► catalog's log closed ─► 0
//! ```
//! Sockets come before keys: a start that fails on a taken port has made no key that nobody saw.
//! Must never: carry the whole configuration into a core, or leave a core running alone when another has died.

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringlog_engine::data_dir::{DataDir, NewDir, OpenDirError, SHARDS_MAX};
use ringlog_engine::engine::EngineError;
use ringlog_engine::ids::{Micros, ShardNumber, Tenant};
use ringlog_engine::io::clock::{random_bytes, wall_us};
use ringlog_engine::io::{DataDirError, IoMode, SyncMode};
use ringlog_engine::shard;
use ringlog_engine::shard::recover::RecoveryReport;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

use crate::auth::delta::Delta;
use crate::auth::secret::Secret;
use crate::auth::secret_file;
use crate::catalog::control::{Control, ControlSettings, OpenError};
use crate::catalog::engine_log::{EngineLog, EngineLogError, EngineLogSettings, EngineLogThread};
use crate::catalog::keys_file::KeysFileError;
use crate::catalog::keys_file_thread;
use crate::catalog::set_up::{Made, SetUp, SetUpError};
use crate::catalog::thread::{ACKNOWLEDGE_WITHIN, Acks, ControlHandle, ControlThread, Files, Publish};
use crate::cli::Exit;
use crate::config::{Config, Durability, IoChoice, SyncPrimitive};
use crate::core;
use crate::core::mailbox::{Address, Message, mailbox};
use crate::core::metrics::Metrics;
use crate::core::rates::Rates;
use crate::core::setup::{CoreSetup, CoreStarted};
use crate::facilitator;
use crate::first_run::{FirstRun, Style};
use crate::listeners::{ListenError, bind_udp, datagrams_dropped, keep_alive, listen_tcp};
use crate::signals::{self, Event};

/// The catalog's own data directory, below the events'.
pub const CATALOG_DIR: &str = "catalog";
pub const SUPERBLOCK: &str = "superblock";

/// From a signal to the end. Ten seconds are promised, and what supervises us may count a little faster.
const STOP_WITHIN: Duration = Duration::from_millis(9_500);

/// A server without io_uring says so as long as it runs.
const REMIND_EVERY: Duration = Duration::from_secs(3600);

/// How old the count of dropped datagrams can be.
const COUNT_DROPS_EVERY: Duration = Duration::from_secs(5);

/// One key of the signing secret's file, for the cursors alone.
const CURSOR_PURPOSE: &[u8] = b"ringlog query cursors, version 1";

/// Why a server does not serve, or no longer does, and what its exit code says of that.
#[derive(Debug)]
pub struct ServeError {
    pub exit: Exit,
    text: String,
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ServeError {}

impl ServeError {
    fn new(exit: Exit, text: impl fmt::Display) -> ServeError {
        ServeError { exit, text: text.to_string() }
    }
}

/// Serves until a signal asks it to stop.
pub fn serve(config: &Config) -> Result<(), ServeError> {
    prepare_process();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "configuration: {config}");
    let (events, inbox) = mpsc::channel();
    let is_serving = Arc::new(AtomicBool::new(false));
    signals::listen(events.clone(), Arc::clone(&is_serving))
        .map_err(|error| ServeError::new(Exit::Other, format_args!("cannot listen for signals: {error}")))?;

    remove_old_ports_file(config)?;
    let dir = open_data_dir(config)?;
    let sockets = Sockets::bind(config)?;
    let catalog = Catalog::open(config, dir.shard_count())?;
    show_first_run(config, sockets.http_at, &catalog.made);
    warn_of_weak_settings(config, &catalog.made);

    is_serving.store(true, Ordering::Release);
    let server = Server::start(config, &dir, sockets, catalog, events)?;
    server.run(&inbox)
}

/// Files that we make are ours alone, and what is in memory stays there. What the system refuses here is not worth
/// not serving for.
fn prepare_process() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    let outcomes = [
        ("core dumps stay on", rustix::process::setrlimit(Resource::Core, no_core)),
        ("memory stays readable", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        ("the limit of open files stays", raise_open_files()),
    ];
    for (what, outcome) in outcomes {
        if let Err(error) = outcome {
            tracing::warn!("{what}: {error}");
        }
    }
}

/// Shells give out 1024, which is a tenth of the connections that we take.
fn raise_open_files() -> rustix::io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
}

/// Whoever waits for the file must not find the last life's.
fn remove_old_ports_file(config: &Config) -> Result<(), ServeError> {
    let Some(path) = &config.ports_file else { return Ok(()) };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ServeError::new(Exit::BadConfiguration, format_args!("--ports-file {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

fn open_data_dir(config: &Config) -> Result<DataDir, ServeError> {
    let mut random = [0; 40];
    random_bytes(&mut random);
    let new = NewDir { now: Micros(wall_us()), segment_bytes: config.segment_bytes, random };
    // More cores than before do not mean more shards: those are raised when somebody says so.
    let has_shards = config.data_dir.join(SUPERBLOCK).exists();
    let per_core = (config.cores as u32).min(SHARDS_MAX);
    let shards = config.shards.or((!has_shards).then_some(per_core));
    DataDir::open(&config.data_dir, shards, new).map_err(|error| ServeError::new(dir_exit(&error), error))
}

pub fn dir_exit(error: &OpenDirError) -> Exit {
    match error {
        OpenDirError::Dir(DataDirError::InUse { .. }) => Exit::Unavailable,
        OpenDirError::Dir(_) | OpenDirError::ShardCount { .. } | OpenDirError::SegmentBytes { .. } => {
            Exit::BadConfiguration
        }
        OpenDirError::Disk(_) | OpenDirError::Superblock(_) => Exit::Other,
    }
}

/// Everything that the server listens on.
struct Sockets {
    /// One per core.
    http: Vec<TcpListener>,
    http_at: SocketAddr,
    /// One per core each, or none.
    tcp: Vec<TcpListener>,
    syslog_tcp: Vec<TcpListener>,
    syslog_udp: Vec<UdpSocket>,
    /// What the ports file holds.
    ports: serde_json::Map<String, serde_json::Value>,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Sockets, ServeError> {
        let refused = |error: ListenError| {
            let exit = if error.is_taken() { Exit::Unavailable } else { Exit::BadConfiguration };
            ServeError::new(exit, error)
        };
        let mut ports = serde_json::Map::new();
        let mut note = |name: &str, at: SocketAddr| ports.insert(name.to_owned(), at.to_string().into());
        let (http, http_at) = listen_tcp("--http", config.http, config.cores).map_err(refused)?;
        note("http", http_at);
        let mut listen = |name: &str, flag, address: Option<SocketAddr>| {
            let Some(address) = address else { return Ok(Vec::new()) };
            let (listeners, at) = listen_tcp(flag, address, config.cores).map_err(refused)?;
            for listener in &listeners {
                keep_alive(listener).map_err(|error| refused(ListenError { flag, address, error }))?;
            }
            note(name, at);
            Ok(listeners)
        };
        let tcp = listen("tcp", "--tcp", Some(config.tcp))?;
        let syslog_tcp = listen("syslog_tcp", "--syslog-tcp", config.syslog_tcp)?;
        let mut syslog_udp = Vec::new();
        if let Some(address) = config.syslog_udp {
            let (sockets, at) = bind_udp("--syslog-udp", address, config.cores).map_err(refused)?;
            note("syslog_udp", at);
            syslog_udp = sockets;
        }
        Ok(Sockets { http, http_at, tcp, syslog_tcp, syslog_udp, ports })
    }
}

/// The catalog as this start found and made it.
struct Catalog {
    control: Control<EngineLog>,
    log: EngineLogThread,
    made: Made,
    snapshot: Delta,
    cursor_secret: [u8; 32],
}

impl Catalog {
    fn open(config: &Config, shard_count: u32) -> Result<Catalog, ServeError> {
        let path = config.data_dir.join(CATALOG_DIR);
        let settings = EngineLogSettings { io: io_mode(config.io), sync: sync_mode(config.sync) };
        let (log, thread, report) = EngineLog::open(&path, settings).map_err(|error| {
            let exit = match &error {
                EngineLogError::Engine(EngineError::Dir(error)) => dir_exit(error),
                // Only asked for by name does io_uring have to be there.
                EngineLogError::Engine(EngineError::Ring(_)) => Exit::BadConfiguration,
                _ => Exit::Other,
            };
            ServeError::new(exit, format_args!("catalog: {error}"))
        })?;
        log_recovery("catalog", &path, &report);
        let settings = ControlSettings { shard_count, onboard_per_hour: config.onboard_per_hour };
        let mut control = Control::open(log, settings).map_err(|error| match error {
            OpenError::ShardGone { .. } => ServeError::new(Exit::BadConfiguration, error),
            OpenError::Log(_) => ServeError::new(Exit::Other, error),
        })?;
        // Before `set_up`, so that nothing is made by a start that fails; the first workspace is what it makes.
        if let Some(workspace) = config.syslog_workspace
            && control.state().tenant(workspace).is_none()
        {
            if control.state().has_had_tenant(workspace) {
                let number = workspace.0;
                tracing::warn!(
                    "--syslog-workspace: workspace {number} is deleted: messages without a key are not stored"
                );
            } else if workspace != Tenant(1) {
                let text = format!("--syslog-workspace: there is no workspace {}", workspace.0);
                return Err(ServeError::new(Exit::BadConfiguration, text));
            }
        }
        let from_file = bootstrap_key_of_file(config)?;
        let set_up = SetUp {
            jwt_secret_file: &config.jwt_secret_file,
            keys_file: &config.keys_file,
            bootstrap_key: config.bootstrap_key.as_ref().or(from_file.as_ref()),
        };
        let made =
            control.set_up(&set_up, Micros(wall_us())).map_err(|error| ServeError::new(set_up_exit(&error), error))?;
        let snapshot = control.snapshot();
        let cursor_secret = cursor_secret(&config.jwt_secret_file)?;
        Ok(Catalog { control, log: thread, made, snapshot, cursor_secret })
    }
}

fn bootstrap_key_of_file(config: &Config) -> Result<Option<Secret>, ServeError> {
    let Some(path) = &config.bootstrap_key_file else { return Ok(None) };
    let wrong = |error: &dyn fmt::Display| ServeError::new(Exit::BadConfiguration, error);
    match secret_file::load_one(path) {
        Ok(Some(key)) => Ok(Some(key)),
        Ok(None) => Err(wrong(&SetUpError::BootstrapFileMissing(path.clone()))),
        Err(error) => Err(wrong(&error)),
    }
}

fn set_up_exit(error: &SetUpError) -> Exit {
    match error {
        SetUpError::Keys { error: KeysFileError::Io(_), .. } => Exit::Other,
        SetUpError::Change(_) => Exit::Other,
        _ => Exit::BadConfiguration,
    }
}

/// The same on every core and in every life: derived from a secret that has both properties.
fn cursor_secret(jwt_secret_file: &Path) -> Result<[u8; 32], ServeError> {
    let secrets = secret_file::load(jwt_secret_file)
        .map_err(|error| ServeError::new(Exit::BadConfiguration, error))?
        .ok_or_else(|| ServeError::new(Exit::Other, format_args!("{}: gone", jwt_secret_file.display())))?;
    // The oldest: a rotation does not end the cursors, its retirement does.
    let oldest = secrets.last().expect("a file of secrets holds one");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, oldest.secret.expose().as_bytes());
    let tag = ring::hmac::sign(&key, CURSOR_PURPOSE);
    Ok(tag.as_ref().try_into().expect("SHA-256 gives 32 bytes"))
}

fn show_first_run(config: &Config, http: SocketAddr, made: &Made) {
    let first_run = FirstRun { data_dir: &config.data_dir, keys_file: &config.keys_file, http, made };
    let style = if io::stdout().is_terminal() { Style::Bold } else { Style::Plain };
    let Some(text) = first_run.text(style) else { return };
    let mut out = io::stdout();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::error!(
            "what the first run made could not be shown on standard output: {error}; \
             set RINGLOG_BOOTSTRAP_KEY to have a bootstrap key that you know"
        );
    }
}

fn warn_of_weak_settings(config: &Config, made: &Made) {
    if config.durability != Durability::Commit {
        tracing::warn!(
            "durability is {}: events are answered before they are on disk, and a crash loses some",
            config.durability
        );
    }
    if made.keys_file_open {
        let path = config.keys_file.display();
        tracing::warn!("{path} can be read by other users, and whoever reads it can write events: chmod 600 {path}");
    }
}

/// What runs once everything is open.
struct Server {
    addresses: Vec<Address>,
    cores: Vec<JoinHandle<()>>,
    control: ControlThread,
    log: EngineLogThread,
    files: Files,
    reminder: Option<String>,
    syslog_udp: Vec<UdpSocket>,
    metrics: Arc<Metrics>,
}

impl Server {
    fn start(
        config: &Config,
        dir: &DataDir,
        sockets: Sockets,
        catalog: Catalog,
        events: Sender<Event>,
    ) -> Result<Server, ServeError> {
        let (mailboxes, addresses): (Vec<_>, Vec<_>) = (0..config.cores).map(|_| mailbox()).unzip();
        let acks = Arc::new(Acks::new(config.cores, catalog.snapshot.epoch));
        let publish = Box::new(ToCores { addresses: addresses.clone(), events: events.clone() });
        let no_thread = |error| ServeError::new(Exit::Other, format_args!("cannot start a thread: {error}"));
        let control =
            ControlThread::start(catalog.control, publish, Arc::clone(&acks), ACKNOWLEDGE_WITHIN).map_err(no_thread)?;
        let snapshot = Arc::new(catalog.snapshot);
        let rates = Arc::new(Rates::default());
        let metrics = Arc::new(Metrics::new(config.cores, !sockets.syslog_udp.is_empty()));
        let pricing = Arc::new(config.pricing.clone());
        let facilitator = pricing.facilitator_url().filter(|_| pricing.is_enabled());
        let facilitator = facilitator.map(facilitator::start).transpose().map_err(no_thread)?;
        let shard_owners: Arc<[usize]> = (0..dir.shard_count() as usize).map(|shard| shard % config.cores).collect();
        let cpus = cpus_to_pin(config.cores);
        // A core reports once, and its end may be a second report.
        let (started, reports) = sync_channel(2 * config.cores);
        let (mut tcp, mut syslog_tcp) = (sockets.tcp.into_iter(), sockets.syslog_tcp.into_iter());
        let mut cores = Vec::new();
        for (core, (mailbox, http)) in mailboxes.into_iter().zip(sockets.http).enumerate() {
            // The ring's own; what the kernel tells of the socket is asked of ours.
            let syslog_udp = sockets.syslog_udp.get(core).map(UdpSocket::try_clone).transpose().map_err(|error| {
                ServeError::new(Exit::Other, format_args!("the syslog socket cannot be shared: {error}"))
            })?;
            let setup = CoreSetup {
                core,
                cpu: cpus.get(core).copied(),
                mailbox,
                addresses: addresses.clone(),
                dir: dir.clone(),
                shard_owners: Arc::clone(&shard_owners),
                durability: durability(config.durability),
                io: io_mode(config.io),
                sync: sync_mode(config.sync),
                http,
                tcp: tcp.next(),
                syslog_tcp: syslog_tcp.next(),
                syslog_udp,
                syslog_workspace: config.syslog_workspace,
                catalog: Arc::clone(&snapshot),
                acks: Arc::clone(&acks),
                control: control.handle(),
                rates: Arc::clone(&rates),
                metrics: Arc::clone(&metrics),
                trusted_proxies: config.trusted_proxies.clone(),
                cors: config.cors_origins.clone(),
                pricing: Arc::clone(&pricing),
                facilitator: facilitator.clone(),
                cursor_secret: catalog.cursor_secret,
                started: started.clone(),
                version: env!("CARGO_PKG_VERSION"),
            };
            let end = CoreEnd { core, acks: Arc::clone(&acks), started: started.clone(), events: events.clone() };
            let work = move || {
                let _end = end;
                core::run(setup);
            };
            cores.push(thread::Builder::new().name(format!("core-{core}")).spawn(work).map_err(no_thread)?);
        }
        let started = wait_for_cores(&reports, config.cores)?;
        let reminder = log_cores(&config.data_dir, &started);
        if let Some(path) = &config.ports_file {
            write_ports_file(path, &sockets.ports)
                .map_err(|error| ServeError::new(Exit::Other, format_args!("{}: {error}", path.display())))?;
        }
        let ports = serde_json::Value::Object(sockets.ports);
        tracing::info!("ready: {ports}");
        let bootstrap_key = config.bootstrap_key_file.clone();
        keys_file_thread::start(config.keys_file.clone(), control.handle()).map_err(no_thread)?;
        let files = Files { bootstrap_key, keys: config.keys_file.clone(), jwt_secret: config.jwt_secret_file.clone() };
        let syslog_udp = sockets.syslog_udp;
        Ok(Server { addresses, cores, control, log: catalog.log, files, reminder, syslog_udp, metrics })
    }

    fn run(self, inbox: &Receiver<Event>) -> Result<(), ServeError> {
        let mut remind_at = Instant::now() + REMIND_EVERY;
        loop {
            let look_within = if self.syslog_udp.is_empty() { REMIND_EVERY } else { COUNT_DROPS_EVERY };
            match inbox.recv_timeout(look_within.min(remind_at.saturating_duration_since(Instant::now()))) {
                Ok(Event::Stop) => return self.stop(inbox),
                Ok(Event::Reload) => reload_keys(&self.control.handle(), &self.files),
                Ok(Event::CoreEnded { core, panicked }) => return Err(core_died(core, panicked)),
                Ok(Event::ControlDied) => return Err(control_died()),
                Err(RecvTimeoutError::Timeout) => {
                    self.count_dropped_datagrams();
                    if remind_at <= Instant::now() {
                        remind_at += REMIND_EVERY;
                        if let Some(reminder) = &self.reminder {
                            tracing::warn!("{reminder}");
                        }
                    }
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the signal thread keeps a sender"),
            }
        }
    }

    /// What the kernel tells of a socket lies in a file, which a core must not wait for.
    fn count_dropped_datagrams(&self) -> u64 {
        let dropped = self.syslog_udp.iter().filter_map(datagrams_dropped).sum();
        if let Some(count) = &self.metrics.datagrams_dropped {
            // The kernel's own counts end with their sockets; ours never falls.
            count.fetch_max(dropped, Ordering::Relaxed);
        }
        dropped
    }

    /// Cores go first: until they have ended, they need the control thread's answers.
    fn stop(self, inbox: &Receiver<Event>) -> Result<(), ServeError> {
        tracing::info!("stopping: what was received is finished and made durable");
        leave_in_time().map_err(|error| ServeError::new(Exit::Other, format_args!("cannot stop: {error}")))?;
        for (core, address) in self.addresses.iter().enumerate() {
            if address.send(Message::Stop).is_err() {
                tracing::error!(core, "a core's mailbox takes no message to stop");
            }
        }
        let mut running = self.cores.len();
        while 0 < running {
            match inbox.recv() {
                Ok(Event::CoreEnded { core, panicked: true }) => return Err(core_died(core, true)),
                Ok(Event::CoreEnded { .. }) => running -= 1,
                Ok(Event::ControlDied) => return Err(control_died()),
                Ok(Event::Stop) => return Err(ServeError::new(Exit::Interrupted, "interrupted while stopping")),
                Ok(Event::Reload) => {}
                Err(_) => unreachable!("the signal thread keeps a sender"),
            }
        }
        let dropped = self.count_dropped_datagrams();
        // Each has said that it ended, so nothing is waited for here but their last instructions.
        let outcomes = self.cores.into_iter().map(JoinHandle::join);
        let threads = outcomes.chain([self.control.stop(), self.log.join()]);
        if threads.filter(Result::is_err).count() != 0 {
            return Err(ServeError::new(Exit::Other, "a thread panicked while stopping"));
        }
        if 0 < dropped {
            tracing::warn!(dropped, "syslog over UDP: the kernel had no room for some datagrams");
        }
        tracing::info!("stopped");
        Ok(())
    }
}

fn core_died(core: usize, panicked: bool) -> ServeError {
    let how = if panicked { "panicked" } else { "ended without being asked to" };
    // The others hold nothing acknowledged that is not on disk, and cannot answer for this one's tenants.
    ServeError::new(Exit::Other, format_args!("core {core} {how}: leaving, so that a restart recovers"))
}

fn control_died() -> ServeError {
    // Nothing can be revoked any more, and those who wait for an answer would wait for ever.
    ServeError::new(Exit::Other, "the control or the password thread panicked: leaving, so that a restart recovers")
}

/// Tells everybody who waits for a core that it has ended, however it did.
struct CoreEnd {
    core: usize,
    acks: Arc<Acks>,
    started: SyncSender<Result<CoreStarted, String>>,
    events: Sender<Event>,
}

impl Drop for CoreEnd {
    fn drop(&mut self) {
        // It admits nothing any more, under no epoch: changes must not wait for it.
        self.acks.acknowledge(self.core, u64::MAX);
        // Nobody listens to the first once the server has started, or to the second once it has stopped.
        let _ = self.started.try_send(Err(format!("core {} ended before it served", self.core)));
        let _ = self.events.send(Event::CoreEnded { core: self.core, panicked: thread::panicking() });
    }
}

/// How deltas reach the cores.
struct ToCores {
    addresses: Vec<Address>,
    events: Sender<Event>,
}

impl Publish for ToCores {
    fn publish(&mut self, delta: &Arc<Delta>) {
        for (core, address) in self.addresses.iter().enumerate() {
            // A core that has ended needs none, and has acknowledged everything. One that stands still makes no room,
            // and then its acknowledgement misses.
            if address.send(Message::Delta(Arc::clone(delta))).is_err() {
                tracing::warn!(core, epoch = delta.epoch, "a core's mailbox took no change of the catalog");
            }
        }
    }

    fn core_is_stuck(&mut self, core: usize) {
        tracing::error!(core, "a core stands still, and may let in what was revoked: ending the process");
        std::process::abort();
    }

    fn control_has_died(&mut self) {
        // Nobody listens any more once the server is leaving.
        let _ = self.events.send(Event::ControlDied);
    }
}

/// Ends the process if stopping takes too long: whoever waits for it would kill it then, and recovery copes with both.
fn leave_in_time() -> io::Result<()> {
    let work = || {
        thread::sleep(STOP_WITHIN);
        tracing::error!("stopping took longer than {STOP_WITHIN:?}: leaving as it is");
        std::process::exit(Exit::Other as i32);
    };
    thread::Builder::new().name("stop-deadline".to_owned()).spawn(work)?;
    Ok(())
}

fn reload_keys(control: &ControlHandle, files: &Files) {
    if control.read_files(files.clone(), Micros(wall_us()), keys_file_thread::told(&files.keys)).is_err() {
        tracing::error!("the control plane is busy: the key file was not read, send SIGHUP again");
    }
}

/// Processors to pin cores to. One core alone gains nothing by it, and more of them than processors would only queue.
fn cpus_to_pin(cores: usize) -> Vec<usize> {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if (2..=cpus.len()).contains(&cores) { cpus } else { Vec::new() }
}

fn wait_for_cores(
    reports: &Receiver<Result<CoreStarted, String>>,
    count: usize,
) -> Result<Vec<CoreStarted>, ServeError> {
    let mut started = Vec::new();
    while started.len() < count {
        let report = reports.recv().unwrap_or_else(|_| Err("every core has ended".to_owned()));
        started.push(report.map_err(|text| ServeError::new(Exit::Other, text))?);
    }
    started.sort_by_key(|core| core.core);
    Ok(started)
}

/// Returns what has to be said again and again.
fn log_cores(data_dir: &Path, started: &[CoreStarted]) -> Option<String> {
    let mut notices: Vec<&str> = started.iter().map(|core| core.io_notice.as_str()).collect();
    notices.dedup();
    let mut reminder = None;
    for notice in notices {
        if notice.contains("fallback") {
            tracing::warn!("{notice}");
            reminder = Some(notice.to_owned());
        } else {
            tracing::info!("{notice}");
        }
    }
    for (ShardNumber(shard), report) in started.iter().flat_map(|core| &core.reports) {
        log_recovery(&format!("shard {shard}"), data_dir, report);
    }
    reminder
}

fn log_recovery(what: &str, dir: &Path, report: &RecoveryReport) {
    let RecoveryReport { segments_sealed, segments_scanned, indexes_rebuilt, blocks, events, .. } = report;
    if 0 < *blocks || 0 < *segments_sealed {
        tracing::info!(segments_sealed, segments_scanned, indexes_rebuilt, blocks, events, "{what}: recovered");
    }
    if let Some(tail) = &report.tail {
        let copies: Vec<_> = tail.quarantined.iter().map(|path| dir.join(path).display().to_string()).collect();
        let kept = if copies.is_empty() { "nothing of this log was in it".to_owned() } else { copies.join(", ") };
        tracing::warn!(
            segment = tail.segment.0,
            offset = tail.offset,
            block = tail.sequence.0,
            why = ?tail.why,
            "{what}: the log ended in a torn write, which nobody had been told was stored; cut, and kept: {kept}"
        );
    }
    for damage in &report.damage {
        let lost: Vec<_> = damage
            .positions
            .iter()
            .map(|(tenant, first, last)| format!("ws-{} positions {} to {}", tenant.0, first.0, last.0))
            .collect();
        let lost = if lost.is_empty() { "which events cannot be told".to_owned() } else { lost.join(", ") };
        tracing::error!(
            segment = damage.segment.0,
            from = damage.from,
            to = damage.to,
            why = ?damage.why,
            "{what}: ACKNOWLEDGED EVENTS ARE DAMAGED ({lost}); nothing was cut, what is good is served, and the shard \
             takes no events until it was repaired"
        );
    }
}

/// Complete or not there at all: somebody waits for it.
fn write_ports_file(path: &Path, ports: &serde_json::Map<String, serde_json::Value>) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.new", std::process::id()));
    let text = serde_json::to_string(ports)?;
    fs::write(&aside, format!("{text}\n"))?;
    fs::rename(&aside, path)
}

pub fn io_mode(choice: IoChoice) -> IoMode {
    match choice {
        IoChoice::Auto => IoMode::Auto,
        IoChoice::Uring => IoMode::Uring,
        IoChoice::Fallback => IoMode::Fallback,
    }
}

pub fn sync_mode(primitive: SyncPrimitive) -> SyncMode {
    match primitive {
        SyncPrimitive::Dsync => SyncMode::Dsync,
        SyncPrimitive::Fdatasync => SyncMode::Fdatasync,
    }
}

fn durability(durability: Durability) -> shard::Durability {
    match durability {
        Durability::Commit => shard::Durability::Commit,
        Durability::Interval(every) => shard::Durability::Interval { every_us: every.as_micros() as u64 },
        Durability::Memory => shard::Durability::Memory,
    }
}
