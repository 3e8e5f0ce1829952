//! How a null server says where it listens, so that a script need not choose a port.

use std::net::SocketAddr;
use std::path::Path;

/// Prints the addresses and writes them to a file as `{"http":"ADDRESS"}`. Call it once connections are accepted.
pub fn announce(places: &[(&str, SocketAddr)], ports_file: Option<&Path>) -> Result<(), String> {
    for (name, address) in places {
        println!("{name} {address}");
    }
    let Some(path) = ports_file else { return Ok(()) };
    let members: Vec<String> = places.iter().map(|(name, address)| format!("\"{name}\":\"{address}\"")).collect();
    std::fs::write(path, format!("{{{}}}\n", members.join(","))).map_err(|error| format!("{}: {error}", path.display()))
}
