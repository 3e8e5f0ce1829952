//! Answers of `/api/v1/events*`: JSON written straight into the bytes that leave.
//!
//! Owns the shape of what the first seed's clients read. Must never: format through `fmt`, or change a byte of a payload.
//!
//! ```text
//! {"event_id":"..","timestamp":"..","version":1}
//! {"total":n,"ingested":n,"events":[{..},{..}]}
//! {"events":[{"id","event_type","entity_id","tenant_id","payload","timestamp","metadata","version","position"}, ..],"count":n,..}
//! ```

use ringlog_engine::event::UNKNOWN_VERSION;
use ringlog_engine::ids::{Micros, Position, Version};

use super::time::{MOMENT_BYTES, format_moment};

/// What a writer is told of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub id: [u8; 16],
    pub timestamp: Micros,
    pub version: Version,
}

/// What a reader is told of an event. `payload` and `metadata` are JSON; where they are empty, `null` is written.
#[derive(Debug, Clone, Copy)]
pub struct EventView<'a> {
    pub id: [u8; 16],
    pub event_type: &'a str,
    pub entity: &'a str,
    pub tenant_id: &'a str,
    pub payload: &'a [u8],
    pub timestamp: Micros,
    pub metadata: &'a [u8],
    pub version: Version,
    pub position: Position,
}

/// What stands behind the events of an answer. Absent parts are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEnd<'a> {
    pub total_count: Option<u64>,
    pub has_more: bool,
    pub entity_version: Option<Version>,
    pub next_cursor: Option<&'a str>,
}

const UUID_BYTES: usize = 36;
const STORED_HEAD: &[u8; 103] =
    b"{\"event_id\":\"00000000-0000-0000-0000-000000000000\",\"timestamp\":\"0000-00-00T00:00:00.000000Z\",\"version\":";
const VERSION_MEMBER: &[u8] = b",\"version\":";
const STORED_ID_AT: usize = 13;
const STORED_TIMESTAMP_AT: usize = 64;
/// Everything in an event's answer but its strings, rounded up.
const EVENT_FRAME_BYTES: usize = 320;

/// The answer to one event.
#[inline]
pub fn put_stored(out: &mut Vec<u8>, event: &Stored) {
    let mut head = *STORED_HEAD;
    head[STORED_ID_AT..STORED_ID_AT + UUID_BYTES].copy_from_slice(&uuid(&event.id));
    head[STORED_TIMESTAMP_AT..STORED_TIMESTAMP_AT + MOMENT_BYTES].copy_from_slice(&format_moment(event.timestamp));
    if event.version == Version(UNKNOWN_VERSION) {
        // Of a batch that was stored before, and is answered again.
        out.extend_from_slice(&head[..head.len() - VERSION_MEMBER.len()]);
    } else {
        out.extend_from_slice(&head);
        put_number(out, event.version.0);
    }
    out.push(b'}');
}

/// The answer to a batch, all of which was stored.
pub fn put_stored_batch(out: &mut Vec<u8>, events: impl ExactSizeIterator<Item = Stored>) {
    let count = events.len();
    out.reserve(64 + count * (STORED_HEAD.len() + 24));
    out.extend_from_slice(b"{\"total\":");
    put_number(out, count as u64);
    out.extend_from_slice(b",\"ingested\":");
    put_number(out, count as u64);
    out.extend_from_slice(b",\"events\":[");
    for (index, event) in events.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_stored(out, &event);
    }
    out.extend_from_slice(b"]}");
}

/// The answer to a query, written in pieces: `open`, an `event` for each, `close`. What is in `out` may leave in between.
#[derive(Debug)]
#[must_use = "an answer that is not closed is not JSON"]
pub struct EventsAnswer {
    count: u64,
}

impl EventsAnswer {
    /// `member` is what the list is called.
    pub fn open(out: &mut Vec<u8>, member: &'static str) -> EventsAnswer {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(member.as_bytes());
        out.extend_from_slice(b"\":[");
        EventsAnswer { count: 0 }
    }

    /// Events so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    #[inline]
    pub fn event(&mut self, out: &mut Vec<u8>, event: &EventView<'_>) {
        if self.count > 0 {
            out.push(b',');
        }
        self.count += 1;
        put_event(out, event);
    }

    /// A reject: `payload` is an object with members, and gets two more.
    pub fn reject(&mut self, out: &mut Vec<u8>, id: &[u8; 16], at: Micros, payload: &[u8]) {
        if self.count > 0 {
            out.push(b',');
        }
        self.count += 1;
        out.extend_from_slice(b"{\"id\":\"");
        put_uuid(out, id);
        out.extend_from_slice(b"\",\"at\":\"");
        out.extend_from_slice(&format_moment(at));
        out.extend_from_slice(b"\",");
        out.extend_from_slice(payload.strip_prefix(b"{").expect("the server wrote an object"));
    }

    pub fn close(self, out: &mut Vec<u8>, end: &PageEnd<'_>) {
        out.extend_from_slice(b"],\"count\":");
        put_number(out, self.count);
        if let Some(total_count) = end.total_count {
            out.extend_from_slice(b",\"total_count\":");
            put_number(out, total_count);
        }
        out.extend_from_slice(if end.has_more { b",\"has_more\":true" } else { b",\"has_more\":false" });
        if let Some(version) = end.entity_version {
            out.extend_from_slice(b",\"entity_version\":");
            put_number(out, version.0);
        }
        if let Some(cursor) = end.next_cursor {
            out.extend_from_slice(b",\"next_cursor\":");
            put_string(out, cursor);
        }
        out.push(b'}');
    }
}

/// One event as readers get it, in a query, a feed or a stream. It has no member `type`, which the streams' clients forbid.
pub fn put_event(out: &mut Vec<u8>, event: &EventView<'_>) {
    out.reserve(
        EVENT_FRAME_BYTES + event.event_type.len() + event.entity.len() + event.payload.len() + event.metadata.len(),
    );
    out.extend_from_slice(b"{\"id\":\"");
    put_uuid(out, &event.id);
    out.extend_from_slice(b"\",\"event_type\":");
    put_string(out, event.event_type);
    out.extend_from_slice(b",\"entity_id\":");
    put_string(out, event.entity);
    out.extend_from_slice(b",\"tenant_id\":");
    put_string(out, event.tenant_id);
    out.extend_from_slice(b",\"payload\":");
    put_json(out, event.payload);
    out.extend_from_slice(b",\"timestamp\":\"");
    out.extend_from_slice(&format_moment(event.timestamp));
    out.extend_from_slice(b"\",\"metadata\":");
    put_json(out, event.metadata);
    out.extend_from_slice(b",\"version\":");
    put_number(out, event.version.0);
    out.extend_from_slice(b",\"position\":");
    put_number(out, event.position.0);
    out.push(b'}');
}

/// A string in quotes, with what JSON wants escaped.
#[inline]
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let needs_escape = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    out.push(b'"');
    // Without an early exit, so that the compiler can take many bytes at once.
    if !bytes.iter().fold(false, |any, &byte| any | needs_escape(byte)) {
        out.extend_from_slice(bytes);
    } else {
        for &byte in bytes {
            match byte {
                b'"' => out.extend_from_slice(b"\\\""),
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..0x20 => {
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(&HEX[byte as usize]);
                }
                other => out.push(other),
            }
        }
    }
    out.push(b'"');
}

/// A whole number in decimal digits.
#[inline]
pub fn put_number(out: &mut Vec<u8>, number: u64) {
    if number < 10 {
        out.push(b'0' + number as u8);
        return;
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    while rest >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&DECIMAL[(rest % 100) as usize]);
        rest /= 100;
    }
    if rest > 0 {
        at -= 1;
        digits[at] = b'0' + rest as u8;
    }
    out.extend_from_slice(&digits[at..]);
}

/// An id as 36 characters, without quotes.
#[inline]
pub fn put_uuid(out: &mut Vec<u8>, id: &[u8; 16]) {
    out.extend_from_slice(&uuid(id));
}

#[inline]
fn uuid(id: &[u8; 16]) -> [u8; UUID_BYTES] {
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut text = [b'-'; UUID_BYTES];
    for (&byte, &place) in id.iter().zip(&PLACES) {
        text[place..place + 2].copy_from_slice(&HEX[byte as usize]);
    }
    text
}

/// Stored JSON as it is.
#[inline]
fn put_json(out: &mut Vec<u8>, json: &[u8]) {
    out.extend_from_slice(if json.is_empty() { b"null" } else { json });
}

const DECIMAL: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;

    const ID: [u8; 16] =
        [0x01, 0x92, 0xfe, 0xdc, 0xba, 0x98, 0x70, 0x12, 0x80, 0x00, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45];
    const ID_TEXT: &str = "0192fedc-ba98-7012-8000-abcdef012345";
    const AT: Micros = Micros(1_793_095_200_123_456);
    const AT_TEXT: &str = "2026-10-27T10:00:00.123456Z";

    fn rendered(put: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"> ".to_vec();
        put(&mut out);
        String::from_utf8(out.split_off(2)).unwrap()
    }

    fn stored(version: u64) -> Stored {
        Stored { id: ID, timestamp: AT, version: Version(version) }
    }

    fn view<'a>(entity: &'a str, payload: &'a [u8], metadata: &'a [u8]) -> EventView<'a> {
        EventView {
            id: ID,
            event_type: "order.paid",
            entity,
            tenant_id: "acme",
            payload,
            timestamp: AT,
            metadata,
            version: Version(3),
            position: Position(u64::MAX),
        }
    }

    #[test]
    fn one_stored_event_is_answered_as_clients_expect() {
        let text = rendered(|out| put_stored(out, &stored(12)));
        assert_eq!(text, format!("{{\"event_id\":\"{ID_TEXT}\",\"timestamp\":\"{AT_TEXT}\",\"version\":12}}"));
    }

    #[test]
    fn a_stored_batch_keeps_its_order() {
        let text = rendered(|out| put_stored_batch(out, [stored(1), stored(u64::MAX)].into_iter()));
        let event = |version: u64| json!({"event_id": ID_TEXT, "timestamp": AT_TEXT, "version": version});
        let expected = json!({"total": 2, "ingested": 2, "events": [event(1), event(u64::MAX)]});
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        assert_eq!(rendered(|out| put_stored_batch(out, [].into_iter())), "{\"total\":0,\"ingested\":0,\"events\":[]}");
    }

    #[test]
    fn a_page_has_its_events_and_only_the_parts_that_are_known() {
        let payload = br#"{ "n": 123456789012345678901234567890, "n": 1e999 }"#;
        let text = rendered(|out| {
            let mut answer = EventsAnswer::open(out, "events");
            answer.event(out, &view("a\"\\\n\u{1}\u{e9}\u{1f600}", payload, b"{\"a\":1}"));
            answer.event(out, &view("b", b"null", b""));
            let end = PageEnd {
                total_count: Some(9),
                has_more: true,
                entity_version: Some(Version(4)),
                next_cursor: Some("abc"),
            };
            answer.close(out, &end);
        });
        let event = |entity: &str, payload: &str, metadata: &str| {
            format!(
                "{{\"id\":\"{ID_TEXT}\",\"event_type\":\"order.paid\",\"entity_id\":{entity},\"tenant_id\":\"acme\",\
                 \"payload\":{payload},\"timestamp\":\"{AT_TEXT}\",\"metadata\":{metadata},\"version\":3,\
                 \"position\":18446744073709551615}}"
            )
        };
        let first = event("\"a\\\"\\\\\\n\\u0001\u{e9}\u{1f600}\"", std::str::from_utf8(payload).unwrap(), "{\"a\":1}");
        let second = event("\"b\"", "null", "null");
        let expected = format!(
            "{{\"events\":[{first},{second}],\"count\":2,\"total_count\":9,\"has_more\":true,\"entity_version\":4,\
             \"next_cursor\":\"abc\"}}"
        );
        assert_eq!(text, expected);

        let end = PageEnd { total_count: None, has_more: false, entity_version: None, next_cursor: None };
        let empty = rendered(|out| EventsAnswer::open(out, "events").close(out, &end));
        assert_eq!(empty, "{\"events\":[],\"count\":0,\"has_more\":false}");
    }

    #[test]
    fn a_reject_is_one_flat_object() {
        let text = rendered(|out| {
            let mut answer = EventsAnswer::open(out, "rejects");
            answer.reject(out, &ID, AT, br#"{"source":"tcp","count":1}"#);
            answer.reject(out, &ID, AT, br#"{"source":"http","count":2}"#);
            answer.close(out, &PageEnd { total_count: None, has_more: false, entity_version: None, next_cursor: None });
        });
        let one = |rest: &str| format!("{{\"id\":\"{ID_TEXT}\",\"at\":\"{AT_TEXT}\",{rest}}}");
        let (first, second) = (one(r#""source":"tcp","count":1"#), one(r#""source":"http","count":2"#));
        assert_eq!(text, format!("{{\"rejects\":[{first},{second}],\"count\":2,\"has_more\":false}}"));
    }

    #[test]
    fn strings_and_numbers_read_back() {
        let every: String = (0..0x250).filter_map(char::from_u32).collect();
        for text in ["", "a", "\u{7f}\u{80}\u{2028}", "</script>", &every] {
            let written = rendered(|out| put_string(out, text));
            assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }
        for number in [0, 1, 9, 10, 99, 100, 12_345, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            assert_eq!(rendered(|out| put_number(out, number)), number.to_string());
        }
        for byte in 0..=255 {
            let written = rendered(|out| put_uuid(out, &[byte; 16]));
            assert_eq!(written.replace('-', ""), format!("{byte:02x}").repeat(16));
        }
    }

    /// `cargo test --release -p ringlog --lib timing -- --ignored --nocapture --test-threads 1`
    #[test]
    #[ignore = "a measurement, not a check"]
    fn timing_of_answers() {
        const COUNT: u64 = 1_000_000;
        let mut out = Vec::with_capacity(1 << 20);
        let mut report = |name: &str, work: &mut dyn FnMut(&mut Vec<u8>, u64)| {
            let start = Instant::now();
            for step in 0..COUNT {
                if step % 1000 == 0 {
                    out.clear();
                }
                work(&mut out, step);
            }
            black_box(&out);
            println!("{name}: {:.1} ns", start.elapsed().as_nanos() as f64 / COUNT as f64);
        };
        report("put_uuid", &mut |out, step| {
            let mut id = ID;
            id[7] = step as u8;
            put_uuid(out, &black_box(id));
        });
        report("put_stored", &mut |out, step| put_stored(out, &black_box(stored(step))));
        let payload =
            br#"{"sku":"A-0001","quantity":3,"price":12.99,"currency":"EUR","note":"gift wrapped","paid":true}"#;
        let mut event = view("order-000123", payload, br#"{"source":"checkout","ip":"10.1.2.3"}"#);
        event.position = Position(12_345_678);
        report("put_event", &mut |out, _| put_event(out, black_box(&event)));
    }
}
