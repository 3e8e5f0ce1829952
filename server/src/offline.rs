//! Verbs that work on a data directory while no server does.
//! Must never: make anything where there is nothing, or go on where another process is.

use std::fmt;

use ringlog_engine::engine::EngineError;

use crate::auth::secret::{from_hex, hex};
use crate::catalog::audit::{Broken, prove};
use crate::catalog::engine_log::{EngineLog, EngineLogError, EngineLogSettings};
use crate::cli::{Exit, Output};
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
    fn new(exit: Exit, text: impl fmt::Display) -> OfflineError {
        OfflineError { exit, text: text.to_string() }
    }
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
