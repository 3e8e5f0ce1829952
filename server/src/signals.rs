//! Signals become events on a channel; a thread of its own waits for them.
//! Must never: do the work of an event here, where the next signal would wait for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::Exit;

/// What the main thread of a running server waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// A core's thread has ended, asked to or not.
    CoreEnded { core: usize, panicked: bool },
    /// The control thread has panicked.
    ControlDied,
}

/// Turns signals into events from here on. Before `is_serving` there is nothing to finish, and a stop ends the process.
pub fn listen(events: Sender<Event>, is_serving: Arc<AtomicBool>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let work = move || {
        for signal in signals.forever() {
            let event = if signal == SIGHUP { Event::Reload } else { Event::Stop };
            if event == Event::Stop && !is_serving.load(Ordering::Acquire) {
                tracing::info!("stopped before it served");
                std::process::exit(Exit::Ok as i32);
            }
            if events.send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(work)?;
    Ok(())
}
