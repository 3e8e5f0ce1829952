//! Ctrl-C: the first ends the run in good order, so that its result is still written; the second ends the program.

use crate::failure::Failure;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// From now on Ctrl-C, and a polite kill, set `stops`.
pub fn watch(stops: Arc<AtomicBool>) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Failure::io("signals"))?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if stops.swap(true, Ordering::Relaxed) {
                std::process::exit(128 + signal);
            }
            eprintln!("\nringlog-load: ending; the result is partial (once more to end at once)");
        }
    });
    Ok(())
}
