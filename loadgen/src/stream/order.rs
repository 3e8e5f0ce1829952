//! Whether a tenant's feed holds what was sent for it, nothing else, and in the order of each connection.

use crate::corpus::Seq;

/// Findings that are shown. The rest is counted.
const SHOWN_MAX: usize = 20;

/// One tenant's feed, as it is read.
#[derive(Debug)]
pub struct Feed {
    tenant: u16,
    /// The number that comes next, by connection.
    next: Vec<u64>,
    pub findings: Vec<String>,
    pub finding_count: u64,
}

impl Feed {
    pub fn new(tenant: u16, connections: usize) -> Self {
        Self { tenant, next: vec![0; connections], findings: Vec::new(), finding_count: 0 }
    }

    /// The next event's payload.
    pub fn see(&mut self, payload: &str) {
        let Some(Seq(seq)) = seq_of(payload) else {
            return self.find(format!("an event that nobody sent: {}", payload.chars().take(100).collect::<String>()));
        };
        let (tenant, connection, number) = ((seq >> 52) as u16, (seq >> 38 & 0x3fff) as usize, seq & ((1 << 38) - 1));
        if tenant != self.tenant {
            return self.find(format!("event {number} of connection {connection} is tenant {tenant}'s"));
        }
        let Some(next) = self.next.get_mut(connection) else {
            return self.find(format!("there is no connection {connection}"));
        };
        let expected = std::mem::replace(next, number + 1);
        if number != expected {
            self.find(format!("connection {connection}: event {number} where {expected} comes next"));
        }
    }

    /// After the last one: `sent` is what each connection has sent.
    pub fn end(&mut self, sent: impl Iterator<Item = u64>) {
        for (connection, sent) in sent.enumerate() {
            let seen = self.next[connection];
            if seen != sent {
                self.find(format!("connection {connection}: {sent} were sent, and the last one there is {seen}"));
            }
        }
    }

    fn find(&mut self, what: String) {
        self.finding_count += 1;
        if self.findings.len() < SHOWN_MAX {
            self.findings.push(format!("tenant {}: {what}", self.tenant));
        }
    }
}

/// The sequence number in a payload: behind its name and what parts the two.
fn seq_of(payload: &str) -> Option<Seq> {
    payload.match_indices("seq").find_map(|(at, name)| {
        let rest = payload[at + name.len()..].trim_start_matches(['"', ':', '=', ' ']);
        Seq::parse(rest.get(..16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(feed: &[(u16, u32, u64)], sent: &[u64]) -> Vec<String> {
        let mut of_tenant = Feed::new(1, 2);
        for &(tenant, connection, number) in feed {
            of_tenant.see(&format!(r#"{{"user_id":"seq","seq":"{}"}}"#, Seq::new(tenant, connection, number)));
        }
        of_tenant.end(sent.iter().copied());
        assert_eq!(of_tenant.finding_count as usize, of_tenant.findings.len());
        of_tenant.findings
    }

    #[test]
    fn connections_may_stand_between_each_other() {
        assert!(findings(&[(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1), (1, 1, 2)], &[2, 3]).is_empty());
    }

    #[test]
    fn what_is_lost_doubled_moved_or_somebody_elses_is_found() {
        for feed in [
            &[(1, 0, 0)][..],
            &[(1, 0, 0), (1, 0, 0), (1, 0, 1)],
            &[(1, 0, 1), (1, 0, 0)],
            &[(1, 0, 0), (2, 0, 1), (1, 0, 1)],
            &[(1, 0, 0), (1, 0, 1), (1, 5, 0)],
            &[(1, 0, 0), (1, 0, 1), (1, 0, 2)],
        ] {
            assert!(!findings(feed, &[2, 0]).is_empty(), "{feed:?}");
        }
    }

    #[test]
    fn a_number_is_found_in_json_and_in_text() {
        let expected = Some(Seq(0x10_0000_0000_002a));
        assert_eq!(seq_of(r#"{"seq":"001000000000002a"}"#), expected);
        assert_eq!(seq_of("paid seq=001000000000002a note"), expected);
        assert_eq!(seq_of(r#"{"seq":"12"}"#), None);
    }
}
