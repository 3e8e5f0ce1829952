//! The thread that looks at the key file, and has the control plane take up what changed.
//! It hands over no keys: the control thread reads the file itself, so that what it changed there a moment ago is in it.
//! Must never: touch what only an operator's signal may reload.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ringlog_engine::ids::Micros;
use ringlog_engine::io::clock::wall_us;

use crate::catalog::keys_file_watch::{KeysFile, KeysFileWatch, LOOK_EVERY_US, Seen};
use crate::catalog::set_up::KeysChanged;
use crate::catalog::thread::{ControlHandle, KeysReadError, Reply};

/// Looks until the process ends.
pub fn start(path: PathBuf, control: ControlHandle) -> io::Result<()> {
    let work = move || {
        // Whatever stands in it first is a change: a start that was slow may have missed one.
        let mut watch = KeysFileWatch::new(KeysFile::at(path.clone()), &[]);
        let mut has_change = false;
        loop {
            thread::sleep(Duration::from_micros(LOOK_EVERY_US));
            let now = Micros(wall_us());
            match watch.look(now) {
                Seen::Unchanged => {}
                Seen::Changed(_) => has_change = true,
                Seen::Bad(error) => tracing::error!("{}: {error}", path.display()),
            }
            // One that is busy is asked again at the next look.
            has_change = has_change && control.read_keys_file(path.clone(), now, told(&path)).is_err();
        }
    };
    thread::Builder::new().name("keys-file".to_owned()).spawn(work)?;
    Ok(())
}

/// Says in the server's log what became of a reading.
pub fn told(path: &Path) -> Reply<Result<KeysChanged, KeysReadError>> {
    let path = path.display().to_string();
    Box::new(move |outcome| match outcome {
        Ok(KeysChanged { added: 0, revoked: 0 }) => tracing::debug!("{path}: read again, no streaming key changed"),
        Ok(KeysChanged { added, revoked }) => tracing::info!(added, revoked, "{path}: streaming keys read again"),
        Err(KeysReadError::File(error)) => tracing::error!("not everything was read again: {error}"),
        Err(KeysReadError::OutcomeUnknown) => {
            tracing::error!("{path}: the changed streaming keys are stored, and may not be in force everywhere");
        }
    })
}
