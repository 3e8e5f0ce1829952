//! Sources of text: JSON lines of two kinds, and messages of syslog.

use super::{Made, Maker, note};

/// Lines of `/v1/events`.
pub fn events(count: usize, event_bytes: usize) -> Made {
    lines(count, event_bytes, |maker| {
        maker.put(r#"{"type":"track","event":"Page Viewed","device_id":"6120646576696365277320"#);
        maker.put(r#"6f776e2e2e","user_id":""#).entity().put(r#"","timestamp":"#).millis_text();
        maker.put(r#","service":"web","properties":{"seq":""#).seq().put(r#"","note":""#);
        r#""}}"#
    })
}

/// Lines of `/ingest/ndjson`, with the names that shippers use.
pub fn shipper(count: usize, event_bytes: usize) -> Made {
    lines(count, event_bytes, |maker| {
        maker.put(r#"{"timestamp":"#).millis_text().put(r#","event_type":"access","host":""#).entity();
        maker.put(r#"","level":"info","seq":""#).seq().put(r#"","message":""#);
        r#""}"#
    })
}

/// `begin` writes a line up to its note, and says what follows that.
fn lines(count: usize, event_bytes: usize, begin: impl Fn(&mut Maker) -> &'static str) -> Made {
    let mut maker = Maker::default();
    for index in 0..count {
        let begins_at = maker.bytes.len();
        let end = begin(maker.begin_event());
        let left = (event_bytes + begins_at).saturating_sub(maker.bytes.len() + end.len());
        maker.put(note(index, left)).put(end).put("\n");
    }
    maker.made()
}

/// One message of RFC 5424 that names its tenant's key; `framed` puts its length in front, by octets.
pub fn syslog(key: &str, index: usize, event_bytes: usize, framed: bool) -> Made {
    let message = |length: &str| {
        let mut maker = Maker::default();
        maker.put(length).begin_event();
        maker.put("<134>1 2026-01-02T03:04:05.678901Z ").entity();
        maker.put(" shop 4711 paid [ringlog@32473 key=\"").put(key).put("\"] seq=").seq().put(" ");
        let left = (event_bytes + length.len()).saturating_sub(maker.bytes.len());
        maker.put(note(index, left));
        maker.made()
    };
    let whole = message("");
    if framed { message(&format!("{} ", whole.len())) } else { whole }
}
