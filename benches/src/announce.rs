//! How a null server says where it listens, so that a script need not choose a port.

use std::net::SocketAddr;
use std::path::Path;

/// Prints the address and writes it to a file as `{"http":"ADDRESS"}`. Call it once connections are accepted.
pub fn announce(address: SocketAddr, ports_file: Option<&Path>) -> Result<(), String> {
    println!("http {address}");
    match ports_file {
        Some(path) => std::fs::write(path, format!("{{\"http\":\"{address}\"}}\n"))
            .map_err(|error| format!("{}: {error}", path.display())),
        None => Ok(()),
    }
}
