//! Where the server is: a URL, or the ports file that a server writes when it accepts.
//!
//! A ports file is read again for every connection, so that a server that comes back on another port is found.

use crate::failure::Failure;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub enum Target {
    Fixed { host: String, address: SocketAddr },
    PortsFile(PathBuf),
}

impl Target {
    pub fn from_url(url: &str) -> Result<Self, Failure> {
        let usage = |why: &str| Failure::Usage(format!("--url {url}: {why}"));
        let rest = url.strip_prefix("http://").ok_or_else(|| usage("expected http://HOST:PORT"))?;
        let host = rest.trim_end_matches('/');
        if host.contains('/') {
            return Err(usage("a path is not expected here"));
        }
        let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut addresses = with_port.to_socket_addrs().map_err(|error| usage(&error.to_string()))?;
        let address = addresses.next().ok_or_else(|| usage("the name has no address"))?;
        Ok(Self::Fixed { host: host.to_owned(), address })
    }

    /// What stands in the `host` header. A name that stays the same keeps the request bytes the same.
    pub fn host(&self) -> &str {
        match self {
            Self::Fixed { host, .. } => host,
            Self::PortsFile(_) => "127.0.0.1",
        }
    }

    /// The address to connect to; `None` while the ports file is not there or not yet whole.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Fixed { address, .. } => Some(*address),
            Self::PortsFile(path) => {
                let text = std::fs::read_to_string(path).ok()?;
                let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
                ports.get("http")?.as_str()?.parse().ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_and_a_port() {
        let target = Target::from_url("http://127.0.0.1:3900/").unwrap();
        assert_eq!(target.host(), "127.0.0.1:3900");
        assert_eq!(target.address(), Some("127.0.0.1:3900".parse().unwrap()));
        assert_eq!(Target::from_url("http://127.0.0.1").unwrap().address(), Some("127.0.0.1:80".parse().unwrap()));
        assert!(Target::from_url("https://127.0.0.1").is_err());
        assert!(Target::from_url("http://127.0.0.1:1/path").is_err());
    }

    #[test]
    fn a_ports_file_is_read_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ports.json");
        let target = Target::PortsFile(path.clone());
        assert_eq!(target.address(), None);
        std::fs::write(&path, r#"{"http":"127.0.0.1:41"#).unwrap();
        assert_eq!(target.address(), None);
        std::fs::write(&path, r#"{"http":"127.0.0.1:4123","tcp":"127.0.0.1:4124"}"#).unwrap();
        assert_eq!(target.address(), Some("127.0.0.1:4123".parse().unwrap()));
    }
}
