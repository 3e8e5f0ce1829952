//! What the first run tells the person in front of it: what was made, and the line to type next.
//! Secrets that can be seen only once are shown here and nowhere else, on standard output.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::catalog::set_up::Made;

#[derive(Debug, Clone, Copy)]
pub struct FirstRun<'a> {
    pub data_dir: &'a Path,
    pub keys_file: &'a Path,
    /// As bound: a port was picked.
    pub http: SocketAddr,
    pub made: &'a Made,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// For a terminal.
    Bold,
}

impl FirstRun<'_> {
    /// The text, or nothing when this start made nothing that a person must know.
    pub fn text(&self, style: Style) -> Option<String> {
        let made = self.made;
        if !made.tenant && made.streaming_key.is_none() && made.bootstrap_key.is_none() {
            return None;
        }
        let bold = |text: &str| match style {
            Style::Plain => text.to_owned(),
            Style::Bold => format!("\x1b[1m{text}\x1b[0m"),
        };
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            writeln!(text, "  {name:<15}{value}").expect("writing to a string does not fail");
        };
        line("data", &self.data_dir.display().to_string());
        if made.tenant {
            line("tenant", "default (workspace 1, ws-1)");
        }
        if let Some(key) = &made.streaming_key {
            line("streaming key", &format!("{}   writes events to ws-1", bold(key.expose())));
            line("", &format!("kept in {}", self.keys_file.display()));
        }
        if let Some(key) = &made.bootstrap_key {
            line("bootstrap key", &bold(key.expose()));
            line("", "acts for every tenant; shown once, keep it safe, keep it out of applications");
        }
        Some(format!(
            "This is the first run. It made:\n\n{text}\nMake a tenant of your own and get its API key:\n\n{}\n",
            bold(&self.onboard_line())
        ))
    }

    fn onboard_line(&self) -> String {
        format!(
            "  curl -X POST http://{}/api/v1/onboard/start -H 'Content-Type: application/json' \
             -d '{{\"email\":\"agent@your-company.com\",\"name\":\"My Production App\"}}'\n",
            reachable(self.http)
        )
    }
}

/// An address to type on this machine: one that listens everywhere is reached here.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::secret::Secret;

    fn text(made: &Made, http: &str, style: Style) -> Option<String> {
        let first_run = FirstRun {
            data_dir: Path::new("./ringlog-data"),
            keys_file: Path::new("./ringlog-data/apikeys.conf"),
            http: http.parse().unwrap(),
            made,
        };
        first_run.text(style)
    }

    fn all() -> Made {
        Made {
            tenant: true,
            jwt_secret: true,
            streaming_key: Some(Secret::new("000102030405060708090a0b0c0d0e0f")),
            bootstrap_key: Some(Secret::new("rl_bk_x")),
            keys_file_open: false,
        }
    }

    #[test]
    fn everything_that_was_made_is_shown_with_a_line_to_paste() {
        let text = text(&all(), "127.0.0.1:41234", Style::Plain).unwrap();
        for part in [
            "./ringlog-data",
            "default (workspace 1, ws-1)",
            "000102030405060708090a0b0c0d0e0f",
            "rl_bk_x",
            "curl -X POST http://127.0.0.1:41234/api/v1/onboard/start -H 'Content-Type: application/json' \
             -d '{\"email\":\"agent@your-company.com\",\"name\":\"My Production App\"}'\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn only_what_was_made_is_shown() {
        assert_eq!(text(&Made::default(), "127.0.0.1:1", Style::Plain), None);
        assert_eq!(text(&Made { keys_file_open: true, ..Made::default() }, "127.0.0.1:1", Style::Plain), None);
        let configured = Made { bootstrap_key: None, ..all() };
        assert!(!text(&configured, "127.0.0.1:1", Style::Plain).unwrap().contains("bootstrap"));
    }

    #[test]
    fn an_address_for_everyone_is_typed_as_a_local_one() {
        assert!(text(&all(), "0.0.0.0:3900", Style::Plain).unwrap().contains("http://127.0.0.1:3900/"));
        assert!(text(&all(), "[::]:3900", Style::Plain).unwrap().contains("http://[::1]:3900/"));
        assert!(text(&all(), "10.1.2.3:3900", Style::Bold).unwrap().contains("\x1b[1m"));
    }
}
