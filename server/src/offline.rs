//! Verbs that work on the files of a data directory, not through a server.
//! Must never: make anything where there is nothing, or open a log that another process has.

use std::fmt;

use ringlog_engine::engine::EngineError;

use crate::auth::secret::{from_hex, hex};
use crate::auth::secret_file::{self, NamedSecret, Old, SecretFileError};
use crate::catalog::audit::{Broken, prove};
use crate::catalog::engine_log::{EngineLog, EngineLogError, EngineLogSettings};
use crate::cli::{Exit, Output, Rotation};
use crate::config::Config;
use crate::start::{CATALOG_DIR, SUPERBLOCK, dir_exit, io_mode, sync_mode};

/// Why a verb did not do what it is for, and what its exit code says of that.
#[derive(Debug)]
pub struct OfflineError {
    pub exit: Exit,
    text: String,
}

impl fmt::Display for OfflineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for OfflineError {}

impl OfflineError {
    pub(crate) fn new(exit: Exit, text: impl fmt::Display) -> OfflineError {
        OfflineError { exit, text: text.to_string() }
    }
}

/// What `ringlog keys rotate-secret` prints. A server that runs takes the file in at SIGHUP.
pub fn rotate_secret(config: &Config, rotation: Rotation, output: Output) -> Result<String, OfflineError> {
    let path = &config.jwt_secret_file;
    let refused = |error: SecretFileError| {
        let exit = match &error {
            SecretFileError::Missing(_) => Exit::NotFound,
            SecretFileError::Full(_) => Exit::Conflict,
            SecretFileError::Io { .. } => Exit::Other,
            _ => Exit::BadConfiguration,
        };
        OfflineError::new(exit, error)
    };
    let before = secret_file::load(path).map_err(refused)?;
    let before = before.ok_or_else(|| {
        // Not `Missing`: nothing is known to have been signed with it.
        OfflineError::new(Exit::NotFound, format_args!("{}: there is no signing secret yet", path.display()))
    })?;
    let after = match rotation {
        Rotation::Add => secret_file::rotate(path, Old::Verify).map_err(refused)?,
        Rotation::Replace => secret_file::rotate(path, Old::Retire).map_err(refused)?,
        Rotation::Retire => {
            secret_file::retire(path).map_err(refused)?;
            before[..1].to_vec()
        }
    };
    let kids = |secrets: &[NamedSecret]| secrets.iter().map(|named| named.kid.clone()).collect::<Vec<_>>();
    let (signs, verifies) = (after[0].kid.clone(), kids(&after[1..]));
    let retired: Vec<String> = kids(&before).into_iter().filter(|kid| !kids(&after).contains(kid)).collect();
    Ok(match output {
        Output::Text => {
            let list = |kids: &[String]| if kids.is_empty() { "none".to_owned() } else { kids.join(", ") };
            format!(
                "{signs} signs; verifying too: {}; retired: {}\nin force from the server's next start or SIGHUP\n",
                list(&verifies),
                list(&retired)
            )
        }
        Output::Json => {
            let body = serde_json::json!({ "signs": signs, "verifies": verifies, "retired": retired });
            format!("{body}\n")
        }
    })
}

/// What `ringlog audit verify` prints about a chain that is whole.
pub fn verify_audit(config: &Config, contains: Option<&str>, output: Output) -> Result<String, OfflineError> {
    let wanted =
        match contains {
            None => None,
            Some(text) => Some(from_hex::<32>(text).ok_or_else(|| {
                OfflineError::new(Exit::Usage, "--contains: a head is 64 lower-case hexadecimal digits")
            })?),
        };
    let path = config.data_dir.join(CATALOG_DIR);
    if !path.join(SUPERBLOCK).exists() {
        let text = format!("{}: there is no data directory of a server", config.data_dir.display());
        return Err(OfflineError::new(Exit::NotFound, text));
    }
    let settings = EngineLogSettings { io: io_mode(config.io), sync: sync_mode(config.sync) };
    let (mut log, thread, _) = EngineLog::open(&path, settings).map_err(|error| {
        let exit = match &error {
            EngineLogError::Engine(EngineError::Dir(error)) => dir_exit(error),
            EngineLogError::Damaged(_) => Exit::VerificationFailed,
            _ => Exit::Other,
        };
        OfflineError::new(exit, format_args!("catalog: {error}"))
    })?;
    let proved = prove(&mut log, wanted);
    drop(log);
    let closed = thread.join();
    let proved = proved.map_err(|broken| {
        let exit = if matches!(broken, Broken::Log(_)) { Exit::Other } else { Exit::VerificationFailed };
        OfflineError::new(exit, format_args!("the audit log is broken: {broken}"))
    })?;
    if closed.is_err() {
        return Err(OfflineError::new(Exit::Other, "the catalog's log could not be closed"));
    }
    if wanted.is_some() && !proved.contains {
        let text = "the chain is whole and does not contain that head: it was rewritten, or belongs to another server";
        return Err(OfflineError::new(Exit::VerificationFailed, text));
    }
    let head = hex(&proved.head);
    Ok(match output {
        Output::Text => format!("ok {} changes, head {head}\n", proved.records),
        Output::Json => format!("{}\n", serde_json::json!({ "ok": true, "records": proved.records, "head": head })),
    })
}
