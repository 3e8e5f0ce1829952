//! Where the server is: a URL, or the ports file that a server writes when it accepts.
//!
//! A ports file is read again for every connection, so that a server that comes back on another port is found.

use crate::failure::Failure;
use crate::protocol::Protocol;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

#[derive(Debug, Clone)]
pub enum Target {
    /// `path` is what stands behind HOST:PORT, with its slash.
    Fixed {
        scheme: String,
        host: String,
        address: SocketAddr,
        path: String,
    },
    PortsFile(PathBuf),
}

impl Target {
    pub fn from_url(url: &str) -> Result<Self, Failure> {
        let usage = |why: &str| Failure::Usage(format!("--url {url}: {why}"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| usage("expected http://HOST:PORT"))?;
        let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        // Who connects, as in USER@HOST, is the protocol's matter.
        let place = host.rsplit_once('@').map_or(host, |(_, place)| place);
        let with_port = if place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            place.to_owned()
        } else {
            format!("{place}:{}", Protocol::default_port(scheme))
        };
        let mut addresses = with_port.to_socket_addrs().map_err(|error| usage(&error.to_string()))?;
        let address = addresses.next().ok_or_else(|| usage("the name has no address"))?;
        let (scheme, host, path) = (scheme.to_owned(), host.to_owned(), path.to_owned());
        Ok(Self::Fixed { scheme, host, address, path })
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Result<Protocol, Failure> {
        match self {
            Self::Fixed { scheme, path, .. } => Protocol::from_url(scheme, path),
            Self::PortsFile(_) => Ok(Protocol::Http),
        }
    }

    pub fn url(&self) -> String {
        match self {
            Self::Fixed { scheme, host, path, .. } => format!("{scheme}://{host}{path}"),
            Self::PortsFile(path) => match self.address() {
                Some(address) => format!("http://{address}"),
                None => path.display().to_string(),
            },
        }
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
            Self::PortsFile(_) => self.address_of("http"),
        }
    }

    /// The address of another listener, as the ports file names it. A URL knows of none.
    pub fn address_of(&self, listener: &str) -> Option<SocketAddr> {
        let Self::PortsFile(path) = self else { return None };
        let text = std::fs::read_to_string(path).ok()?;
        let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
        ports.get(listener)?.as_str()?.parse().ok()
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
        let refused = |url: &str| Target::from_url(url).and_then(|target| target.protocol()).is_err();
        assert!(refused("https://127.0.0.1") && refused("127.0.0.1:3900") && refused("http://127.0.0.1:1/path"));
        assert!(!refused("http://127.0.0.1:1/"));
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
        assert_eq!(target.address_of("tcp"), Some("127.0.0.1:4124".parse().unwrap()));
        assert_eq!(target.address_of("syslog_tcp"), None);
    }
}
