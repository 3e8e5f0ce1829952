//! What an operator can set, and where: flag, environment, file, default, in this order.
//! `RawConfig` is what was written and where; `Config` is checked, with units, and the only thing that others see.
//! Whatever is not known is refused: a misspelt limit that is ignored is worse than a server that does not start.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ringlog_engine::data_dir::SHARDS_MAX;
use ringlog_engine::ids::Tenant;
use ringlog_engine::limits::{ALIGNMENT, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_LIMIT};
use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::auth::secret::Secret;
use crate::handle::routes;
use crate::handle::x402::pricing::{Pricing, RawPricing};
use crate::wire::cors::Cors;
use crate::wire::forwarded::TrustedProxies;

/// Every setting: its key in the file. The flag is `--key` with dashes, the variable `RINGLOG_KEY` in capitals.
const KEYS: [&str; 20] = [
    "bootstrap_key",
    "bootstrap_key_file",
    "cores",
    "cors_origins",
    "data_dir",
    "durability",
    "http",
    "io",
    "jwt_secret_file",
    "keys_file",
    "onboard_per_hour",
    "ports_file",
    "segment_bytes",
    "shards",
    "sync",
    "syslog_tcp",
    "syslog_udp",
    "syslog_workspace",
    "tcp",
    "trusted_proxies",
];

/// The one table of the file.
const PRICING: &str = "x402";

const ENV_PREFIX: &str = "RINGLOG_";
const ENV_CONFIG: &str = "RINGLOG_CONFIG";
/// Variables of the load generator, which may be set in the same shell.
const ENV_LOAD_PREFIX: &str = "RINGLOG_LOAD_";
/// Variables of the verbs that ask a server, likewise.
const ENV_CLIENT: [&str; 3] = ["RINGLOG_URL", "RINGLOG_API_KEY", "RINGLOG_CREDENTIALS"];
const DEFAULT_FILE: &str = "ringlog.toml";
/// A configuration file is a page of text.
const FILE_BYTES_MAX: u64 = 1 << 20;

const DATA_DIR: &str = "./ringlog-data";
const HTTP_PORT: u16 = 3900;
const TCP_PORT: u16 = 50_000;
/// Above 1024, so that no privilege is needed.
const SYSLOG_PORT: u16 = 50_514;
const ONBOARD_PER_HOUR: u32 = 5;
/// A core costs a ring, buffers and a cache whether the machine has it or not.
const CORES_MAX: usize = 256;
/// The largest block and a checkpoint of every tenant fit.
const SEGMENT_BYTES_MIN: u64 = 64 << 20;
const INTERVAL_MIN: Duration = Duration::from_millis(1);
const INTERVAL_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub data_dir: PathBuf,
    pub http: SocketAddr,
    pub tcp: SocketAddr,
    pub syslog_tcp: Option<SocketAddr>,
    pub syslog_udp: Option<SocketAddr>,
    /// Whose events arrive by syslog. Named whenever a syslog listener is on.
    pub syslog_workspace: Option<Tenant>,
    pub cores: usize,
    /// Without a number: one per core, or as many as the data directory has.
    pub shards: Option<u32>,
    pub durability: Durability,
    pub sync: SyncPrimitive,
    pub segment_bytes: u64,
    pub io: IoChoice,
    /// Per address; 0 is without limit.
    pub onboard_per_hour: u32,
    /// Who may say for whom a request is, by `X-Forwarded-For`.
    pub trusted_proxies: TrustedProxies,
    /// Which web pages may read answers.
    pub cors_origins: Cors,
    /// What is paid for by request: the table `[x402]`, which no flag and no variable has.
    pub pricing: Pricing,
    pub bootstrap_key: Option<Secret>,
    /// Read at a start and at SIGHUP. Never beside `bootstrap_key`.
    pub bootstrap_key_file: Option<PathBuf>,
    pub jwt_secret_file: PathBuf,
    pub keys_file: PathBuf,
    pub ports_file: Option<PathBuf>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Answered when the disk has it.
    Commit,
    /// Answered when written; made durable this often.
    Interval(Duration),
    /// Answered when appended.
    Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPrimitive {
    Dsync,
    Fdatasync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoChoice {
    Auto,
    Uring,
    Fallback,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Flag,
    Env,
    File { path: PathBuf, line: usize },
}

#[derive(Clone, PartialEq, Eq)]
struct Written {
    text: String,
    place: Place,
}

/// What was written, by key. It cannot be printed: one of the values is a secret.
#[derive(Default)]
pub struct RawConfig {
    written: BTreeMap<&'static str, Written>,
    pricing: Option<(RawPricing, Place)>,
    file: Option<PathBuf>,
}

/// The flags of a command line: keys of this module with their values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub values: Vec<(&'static str, String)>,
}

/// Without the values: one of them is a secret.
impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.values.iter().map(|(key, _)| key).collect();
        f.debug_struct("Flags").field("config", &self.config).field("keys", &keys).finish()
    }
}

/// One sentence that names the setting, the place and the fault, and never a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

fn wrong<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError(text))
}

impl RawConfig {
    /// Reads the three places. Of `environment`, only names that begin with `RINGLOG_` are looked at.
    pub fn read(
        flags: Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<RawConfig, ConfigError> {
        let (from_env, config_by_env) = read_environment(environment)?;
        let file = match flags.config.or(config_by_env) {
            Some(named) => Some(named),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file()),
        };
        let (mut written, pricing) = match &file {
            Some(path) => parse_file(path, &read_file(path)?)?,
            None => Default::default(),
        };
        written.extend(from_env);
        written.extend(flags.values.into_iter().map(|(key, text)| (key, Written { text, place: Place::Flag })));
        Ok(RawConfig { written, pricing, file })
    }

    /// Checks every value and fills in the defaults, for a machine that has `core_count` cores.
    pub fn resolve(&self, core_count: usize) -> Result<Config, ConfigError> {
        let local = |port| SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let data_dir = self.value("data_dir", path)?.unwrap_or_else(|| DATA_DIR.into());
        let syslog_workspace = self.value("syslog_workspace", workspace)?;
        let (syslog_tcp, syslog_udp) = match (self.value("syslog_tcp", address)?, self.value("syslog_udp", address)?) {
            (None, None) if syslog_workspace.is_some() => (Some(local(SYSLOG_PORT)), Some(local(SYSLOG_PORT))),
            written => written,
        };
        if (syslog_tcp.is_some() || syslog_udp.is_some()) && syslog_workspace.is_none() {
            return wrong("syslog needs to know whose events it takes: name a workspace, --syslog-workspace 1".into());
        }
        let config = Config {
            http: self.value("http", address)?.unwrap_or(local(HTTP_PORT)),
            tcp: self.value("tcp", address)?.unwrap_or(local(TCP_PORT)),
            syslog_tcp,
            syslog_udp,
            syslog_workspace,
            cores: self.value("cores", |text| number(text, 1, CORES_MAX))?.unwrap_or(core_count.clamp(1, CORES_MAX)),
            shards: self.value("shards", |text| number(text, 1, SHARDS_MAX))?,
            durability: self.value("durability", durability)?.unwrap_or(Durability::Commit),
            sync: self.value("sync", sync)?.unwrap_or(SyncPrimitive::Dsync),
            segment_bytes: self.value("segment_bytes", segment_bytes)?.unwrap_or(SEGMENT_BYTES_DEFAULT),
            io: self.value("io", io_choice)?.unwrap_or(IoChoice::Auto),
            onboard_per_hour: self
                .value("onboard_per_hour", |text| number(text, 0, 1_000_000))?
                .unwrap_or(ONBOARD_PER_HOUR),
            trusted_proxies: self.value("trusted_proxies", networks)?.unwrap_or_default(),
            cors_origins: self.value("cors_origins", Cors::parse)?.unwrap_or_default(),
            pricing: self.pricing()?,
            bootstrap_key: self.value("bootstrap_key", bootstrap_key)?,
            bootstrap_key_file: self.value("bootstrap_key_file", path)?,
            jwt_secret_file: self.value("jwt_secret_file", path)?.unwrap_or_else(|| data_dir.join("jwt-secret")),
            keys_file: self.value("keys_file", path)?.unwrap_or_else(|| data_dir.join("apikeys.conf")),
            ports_file: self.value("ports_file", path)?,
            file: self.file.clone(),
            data_dir,
        };
        if config.bootstrap_key.is_some() && config.bootstrap_key_file.is_some() {
            return wrong("bootstrap_key and bootstrap_key_file: set one of them".into());
        }
        let streams =
            [Some(("http", config.http)), Some(("tcp", config.tcp)), config.syslog_tcp.map(|at| ("syslog_tcp", at))];
        let streams: Vec<_> = streams.into_iter().flatten().filter(|(_, address)| address.port() != 0).collect();
        for (index, (name, address)) in streams.iter().enumerate() {
            if let Some((other, _)) = streams[..index].iter().find(|(_, earlier)| earlier == address) {
                return wrong(format!("{other} and {name} cannot both listen on {address}"));
            }
        }
        Ok(config)
    }

    fn pricing(&self) -> Result<Pricing, ConfigError> {
        let Some((raw, place)) = &self.pricing else { return Ok(Pricing::default()) };
        let pricing = raw.resolve().and_then(|pricing| pricing.check_routes(routes::has).map(|()| pricing));
        pricing.map_err(|error| ConfigError(format!("{}: {error}", place.name(PRICING))))
    }

    fn value<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        let Some(written) = self.written.get(key) else { return Ok(None) };
        parse(&written.text).map(Some).map_err(|what| ConfigError(format!("{}: {what}", written.place.name(key))))
    }
}

impl Place {
    fn name(&self, key: &str) -> String {
        match self {
            Place::Flag => flag_name(key),
            Place::Env => env_name(key),
            Place::File { path, line } => format!("{}:{line}: {key}", path.display()),
        }
    }
}

fn flag_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_ascii_uppercase())
}

type ByKey = BTreeMap<&'static str, Written>;

fn read_environment(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(ByKey, Option<PathBuf>), ConfigError> {
    let mut written = BTreeMap::new();
    let mut config = None;
    for (name, value) in environment {
        let name = name.to_string_lossy().into_owned();
        // Compose files pass on variables that nobody set.
        let is_anothers = name.starts_with(ENV_LOAD_PREFIX) || ENV_CLIENT.contains(&name.as_str());
        let is_ours = name.starts_with(ENV_PREFIX) && !is_anothers;
        if !is_ours || value.is_empty() || is_kubernetes_link(&name) {
            continue;
        }
        if name == ENV_CONFIG {
            config = Some(PathBuf::from(value));
            continue;
        }
        let Some(key) = KEYS.into_iter().find(|key| env_name(key) == name) else {
            let known = KEYS.iter().map(|key| env_name(key)).chain([ENV_CONFIG.to_owned()]);
            return wrong(format!("{name} is not a setting{}", did_you_mean(&name, known)));
        };
        let Ok(text) = value.into_string() else { return wrong(format!("{name}: not UTF-8")) };
        written.insert(key, Written { text, place: Place::Env });
    }
    Ok((written, config))
}

/// A Kubernetes service called `ringlog` puts these into every pod beside it; nobody wrote them as a setting.
fn is_kubernetes_link(name: &str) -> bool {
    let rest = &name[ENV_PREFIX.len()..];
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read;
    let io_error = |error: std::io::Error| ConfigError(format!("{}: {error}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(io_error)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io_error)?;
    if FILE_BYTES_MAX < text.len() as u64 {
        return wrong(format!("{}: longer than {FILE_BYTES_MAX} bytes", path.display()));
    }
    Ok(text)
}

fn parse_file(path: &Path, text: &str) -> Result<(ByKey, Option<(RawPricing, Place)>), ConfigError> {
    let line_of = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        // Without the excerpt that the error would show: it could be the line with a key in it.
        let line = error.span().map_or(1, |span| line_of(span.start));
        ConfigError(format!("{}:{line}: {}", path.display(), error.message()))
    })?;
    let mut written = BTreeMap::new();
    let mut pricing = None;
    for (name, value) in table.into_inner() {
        let line = line_of(name.span().start);
        if name.get_ref() == PRICING {
            let raw = RawPricing::deserialize(ValueDeserializer::from(value)).map_err(|error| {
                let line = error.span().map_or(line, |span| line_of(span.start));
                ConfigError(format!("{}:{line}: {PRICING}: {}", path.display(), error.message()))
            })?;
            pricing = Some((raw, Place::File { path: path.into(), line }));
            continue;
        }
        let Some(key) = KEYS.into_iter().find(|key| *key == name.get_ref().as_ref()) else {
            let name = name.get_ref();
            let hint = did_you_mean(name, KEYS.iter().map(|key| (*key).to_owned()));
            return wrong(format!("{}:{line}: {name} is not a setting{hint}", path.display()));
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().replace('_', ""),
            other => {
                let found = other.type_str();
                return wrong(format!(
                    "{}:{line}: {key}: a string or a number is needed, found {found}",
                    path.display()
                ));
            }
        };
        written.insert(key, Written { text, place: Place::File { path: path.into(), line } });
    }
    Ok((written, pricing))
}

/// `; did you mean X?` where something known is near.
fn did_you_mean(name: &str, known: impl Iterator<Item = String>) -> String {
    let nearest = known.map(|known| (edits(name, &known), known)).min();
    match nearest {
        Some((edits, known)) if edits <= 2 + known.len() / 8 => format!("; did you mean {known}?"),
        _ => String::new(),
    }
}

/// Levenshtein distance.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, from) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("a path, not nothing".into()) } else { Ok(text.into()) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let hint = || format!("{text:?} is not an address and a port, such as 127.0.0.1:3900 or [::1]:0");
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| hint())
}

fn number<T: std::str::FromStr + PartialOrd + fmt::Display>(text: &str, min: T, max: T) -> Result<T, String> {
    match text.parse() {
        Ok(number) if min <= number && number <= max => Ok(number),
        _ => Err(format!("{text:?} is not a number from {min} to {max}")),
    }
}

/// Addresses and networks between commas.
fn networks(text: &str) -> Result<TrustedProxies, String> {
    let named = text.split(',').map(str::trim).filter(|network| !network.is_empty());
    TrustedProxies::parse(named).map_err(|error| error.to_string())
}

fn workspace(text: &str) -> Result<Tenant, String> {
    number(text.strip_prefix("ws-").unwrap_or(text), 1, u32::MAX).map(Tenant)
}

fn durability(text: &str) -> Result<Durability, String> {
    match (text, text.strip_prefix("interval:")) {
        ("commit", _) => Ok(Durability::Commit),
        ("memory", _) => Ok(Durability::Memory),
        (_, Some(interval)) => match duration(interval) {
            Some(interval) if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) => Ok(Durability::Interval(interval)),
            _ => Err(format!("{interval:?} is not a time from 1ms to 10s, such as 10ms")),
        },
        _ => Err(format!("{text:?} is none of commit, interval:10ms, memory")),
    }
}

fn duration(text: &str) -> Option<Duration> {
    if let Some(milliseconds) = text.strip_suffix("ms") {
        return milliseconds.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

fn sync(text: &str) -> Result<SyncPrimitive, String> {
    match text {
        "dsync" => Ok(SyncPrimitive::Dsync),
        "fdatasync" => Ok(SyncPrimitive::Fdatasync),
        _ => Err(format!("{text:?} is none of dsync, fdatasync")),
    }
}

fn io_choice(text: &str) -> Result<IoChoice, String> {
    match text {
        "auto" => Ok(IoChoice::Auto),
        "uring" => Ok(IoChoice::Uring),
        "fallback" => Ok(IoChoice::Fallback),
        _ => Err(format!("{text:?} is none of auto, uring, fallback")),
    }
}

fn segment_bytes(text: &str) -> Result<u64, String> {
    let bytes = bytes(text)?;
    let range = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_LIMIT;
    if !range.contains(&bytes) || !bytes.is_multiple_of(ALIGNMENT as u64) {
        let (min, max) = (SEGMENT_BYTES_MIN >> 20, SEGMENT_BYTES_LIMIT >> 20);
        return Err(format!("{text:?} is not from {min}MiB to {max}MiB, in steps of 4KiB"));
    }
    Ok(bytes)
}

/// Bytes with a binary unit or none. `MB` means two things, and so is refused.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let shift = match text[digits.len()..].trim_start() {
        "" | "B" => Some(0),
        "KiB" => Some(10),
        "MiB" => Some(20),
        "GiB" => Some(30),
        "TiB" => Some(40),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number.zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| format!("{text:?} is not a size; write bytes, or 64KiB, 64MiB, 64GiB"))
}

fn bootstrap_key(text: &str) -> Result<Secret, String> {
    let key = Secret::new(text);
    if key.is_acceptable_bootstrap_key() {
        return Ok(key);
    }
    Err("a bootstrap key has 16 to 256 visible ASCII characters".into())
}

/// One line, each value as it would be written, no secrets.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "config={} ", file.display())?;
        }
        write!(f, "data_dir={} http={} tcp={}", self.data_dir.display(), self.http, self.tcp)?;
        if let Some(at) = self.syslog_tcp {
            write!(f, " syslog_tcp={at}")?;
        }
        if let Some(at) = self.syslog_udp {
            write!(f, " syslog_udp={at}")?;
        }
        if let Some(Tenant(number)) = self.syslog_workspace {
            write!(f, " syslog_workspace={number}")?;
        }
        write!(f, " cores={} shards=", self.cores)?;
        match self.shards {
            Some(count) => write!(f, "{count}")?,
            None => write!(f, "auto")?,
        }
        write!(
            f,
            " durability={} sync={} segment_bytes={} io={} onboard_per_hour={} jwt_secret_file={} keys_file={}",
            self.durability,
            self.sync,
            self.segment_bytes,
            self.io,
            self.onboard_per_hour,
            self.jwt_secret_file.display(),
            self.keys_file.display()
        )?;
        if !self.trusted_proxies.is_empty() {
            write!(f, " trusted_proxies={}", self.trusted_proxies)?;
        }
        if self.cors_origins != Cors::default() {
            write!(f, " cors_origins={}", self.cors_origins)?;
        }
        if let Some(path) = &self.ports_file {
            write!(f, " ports_file={}", path.display())?;
        }
        if self.pricing != Pricing::default() {
            write!(f, " {PRICING}={}", self.pricing)?;
        }
        match &self.bootstrap_key_file {
            Some(path) => write!(f, " bootstrap_key_file={}", path.display()),
            None => write!(f, " bootstrap_key={}", if self.bootstrap_key.is_some() { "(set)" } else { "(kept)" }),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Durability::Commit => f.write_str("commit"),
            Durability::Interval(interval) => write!(f, "interval:{}ms", interval.as_millis()),
            Durability::Memory => f.write_str("memory"),
        }
    }
}

impl fmt::Display for SyncPrimitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SyncPrimitive::Dsync => "dsync",
            SyncPrimitive::Fdatasync => "fdatasync",
        })
    }
}

impl fmt::Display for IoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoChoice::Auto => "auto",
            IoChoice::Uring => "uring",
            IoChoice::Fallback => "fallback",
        })
    }
}

#[cfg(test)]
mod tests;
