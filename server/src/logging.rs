//! What the server says while it runs: lines on standard error, for people and for whoever collects them.
//! Standard output belongs to what a command was asked for. Must never: hold a secret, or be called on a request's way.

use std::io::IsTerminal;

use tracing::Level;

/// Called once, by `main`, before the first line.
pub fn start() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(Level::INFO)
        .with_target(false)
        .init();
}
