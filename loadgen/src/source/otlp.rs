//! Requests of OTLP/HTTP as protobuf: one resource, one scope, as many records as there are events.

use super::{Made, Maker, Place, note};

const TIME_UNIX_NANO: u8 = 1 << 3 | 1;
const OBSERVED_TIME_UNIX_NANO: u8 = 11 << 3 | 1;
const SEVERITY_NUMBER: u8 = 2 << 3;
const SEVERITY_TEXT: u8 = field(3);
const BODY: u8 = field(5);
const ATTRIBUTES: u8 = field(6);
const INFO: u8 = 9;

/// The tag of a field that has a length.
const fn field(number: u8) -> u8 {
    number << 3 | 2
}

pub fn request(count: usize, event_bytes: usize) -> Made {
    let scope = nested(field(1), &[nested(field(1), b"ringlog-load")].concat());
    let mut records = Maker::default();
    records.put(scope);
    for index in 0..count {
        let record = record(index, event_bytes);
        records.put([field(2)]).put(varint(record.bytes.len()));
        append(&mut records, record);
    }
    // What stands in front moves every place behind it.
    let mut scope_logs = Maker::default();
    scope_logs.put(nested(field(1), &attribute("service.name", "checkout")));
    scope_logs.put([field(2)]).put(varint(records.bytes.len()));
    append(&mut scope_logs, records);
    let mut request = Maker::default();
    request.put([field(1)]).put(varint(scope_logs.bytes.len()));
    append(&mut request, scope_logs);
    request.made()
}

fn record(index: usize, event_bytes: usize) -> Maker {
    let mut maker = Maker::default();
    maker.begin_event();
    for tag in [TIME_UNIX_NANO, OBSERVED_TIME_UNIX_NANO] {
        maker.put([tag]).gap(8, Place::Nanos);
    }
    maker.put([SEVERITY_NUMBER, INFO]).put(nested(SEVERITY_TEXT, b"INFO"));
    let text = note(index, event_bytes.saturating_sub(120));
    maker.put(nested(BODY, &nested(field(1), text.as_bytes())));
    for (name, is_seq) in [("seq", true), ("user", false)] {
        let mut value = Maker::default();
        value.begin_event();
        if is_seq {
            value.seq()
        } else {
            value.entity()
        };
        let key = nested(field(1), name.as_bytes());
        let string_bytes = value.bytes.len();
        let value_bytes = 1 + varint(string_bytes).len() + string_bytes;
        let pair_bytes = key.len() + 1 + varint(value_bytes).len() + value_bytes;
        maker.put([ATTRIBUTES]).put(varint(pair_bytes)).put(key).put([field(2)]).put(varint(value_bytes));
        maker.put([field(1)]).put(varint(string_bytes));
        // It is the same event's.
        let places = value.places.pop().unwrap_or_default();
        let base = maker.bytes.len();
        maker.put(value.bytes);
        let of_event = maker.places.last_mut().expect("an event has begun");
        of_event.extend(places.into_iter().map(|place| moved(place, base)));
    }
    maker
}

/// Puts what was made apart behind what there is.
fn append(into: &mut Maker, made: Maker) {
    let base = into.bytes.len();
    into.put(made.bytes);
    let places = made.places.into_iter().map(|places| places.into_iter().map(|place| moved(place, base)).collect());
    into.places.extend(places);
}

fn moved(place: Place, by: usize) -> Place {
    match place {
        Place::Seq(at) => Place::Seq(at + by),
        Place::Entity(at) => Place::Entity(at + by),
        Place::MillisText(at) => Place::MillisText(at + by),
        Place::Millis(at) => Place::Millis(at + by),
        Place::Nanos(at) => Place::Nanos(at + by),
    }
}

fn attribute(name: &str, value: &str) -> Vec<u8> {
    let value = nested(field(2), &nested(field(1), value.as_bytes()));
    nested(field(1), &[nested(field(1), name.as_bytes()), value].concat())
}

fn nested(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag], &varint(bytes.len())[..], bytes].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while 0x7f < value {
        bytes.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
