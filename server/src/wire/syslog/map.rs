//! A message becomes a log event.
//!
//! Owns the event's names and the members of its payload and metadata. Must never: store a streaming key, or write a
//! member for what the message does not have.
//!
//! ```text
//! event_type  log
//! entity      app, else host, else the sender's address
//! payload     {"message","facility","severity","priority","host","app","procid","msgid","structured_data","prefix","encoding"}
//!             {"parsed":false,"raw","facility","severity","priority","encoding"}
//! metadata    {"service","source","level","source_ip","source_kind":"syslog"}
//! ```

use ringlog_engine::event::{EventBatch, EventError, EventInput};
use ringlog_engine::format::record::EventKind;

use super::key::{KEY_ELEMENT, redact};
use super::parse::{Element, Form, Message, Param, Priority, Structured, unescape};
use crate::limits::EVENT_BYTES_MAX;
use crate::wire::answer::{put_number, put_string};
use crate::wire::envelope::{ENTITY_ID_BYTES_MAX, check_entity_id};

pub const EVENT_TYPE: &str = "log";
pub const SOURCE_KIND: &str = "syslog";

/// What a name may have in metadata; the longest HOSTNAME of RFC 5424. The payload has all of it.
const NAME_BYTES_MAX: usize = 255;
/// Of a message without a priority: RFC 3164 4.3.3 has a relay take user.notice for it.
const LEVEL_DEFAULT: &str = "notice";

/// Memory that one event after the other is written with.
#[derive(Debug, Default)]
pub struct Writer {
    payload: Vec<u8>,
    metadata: Vec<u8>,
    value: String,
    elements: Links,
    params: Links,
}

impl Writer {
    /// Appends the message to a batch. `source_ip` is the address it came from, as text. A message of at most
    /// [`crate::limits::SYSLOG_MESSAGE_BYTES_MAX`] bytes is refused only because the batch is full.
    pub fn push(&mut self, message: &Message<'_>, source_ip: &str, batch: &mut EventBatch) -> Result<(), EventError> {
        self.write_payload(message);
        self.write_metadata(message, source_ip);
        assert!(self.payload.len() <= EVENT_BYTES_MAX);
        let names = [message.app, message.host];
        let mut candidates = names.into_iter().flatten().map(|name| clip(name, ENTITY_ID_BYTES_MAX));
        let entity = candidates.find(|name| check_entity_id(name).is_ok());
        batch.push(EventInput {
            kind: EventKind::Log,
            timestamp: message.time,
            metadata: &self.metadata,
            ..EventInput::new(EVENT_TYPE, entity.unwrap_or(source_ip), &self.payload)
        })
    }

    fn write_payload(&mut self, message: &Message<'_>) {
        let out = &mut self.payload;
        out.clear();
        out.reserve(message.text.len() + 256);
        out.extend_from_slice(match message.form {
            Form::Unparsed => b"{\"parsed\":false,\"raw\":".as_slice(),
            Form::Rfc5424 | Form::Rfc3164 => b"{\"message\":",
        });
        put_text(out, message, message.text);
        if let Some(priority) = message.priority {
            put_priority(out, priority);
        }
        for (member, text) in [
            (&b",\"host\":"[..], message.host),
            (b",\"app\":", message.app),
            (b",\"procid\":", message.procid),
            (b",\"msgid\":", message.msgid),
            (b",\"prefix\":", message.prefix),
        ] {
            if let Some(text) = text {
                out.extend_from_slice(member);
                put_string(out, text);
            }
        }
        if message.structured.elements.iter().any(|element| is_stored(&message.structured, element)) {
            out.extend_from_slice(b",\"structured_data\":");
            self.write_structured(message);
        }
        let out = &mut self.payload;
        if message.is_lossy {
            out.extend_from_slice(b",\"encoding\":\"lossy\"");
        }
        out.push(b'}');
    }

    /// One object per id, with one member per name. What has the same name is together in an array.
    fn write_structured(&mut self, message: &Message<'_>) {
        let Writer { payload: out, elements: same_id, params: same_name, value, .. } = self;
        let structured = &message.structured;
        let (elements, params) = (structured.elements, structured.params);
        same_id.link(elements.len(), |index| structured.str(elements[index].id));
        same_name.link(params.len(), |index| {
            let param = &params[index];
            (same_id.first[param.element as usize], structured.str(param.name))
        });
        out.push(b'{');
        let mut is_first = true;
        for (index, element) in elements.iter().enumerate() {
            if same_id.first[index] as usize != index || !is_stored(structured, element) {
                continue;
            }
            put_comma(out, &mut is_first);
            put_string(out, structured.str(element.id));
            out.extend_from_slice(b":{");
            let mut is_first = true;
            for index in same_id.from(index) {
                let element = &elements[index];
                for index in element.params() {
                    if same_name.first[index] as usize != index {
                        continue;
                    }
                    put_comma(out, &mut is_first);
                    put_string(out, structured.str(params[index].name));
                    out.push(b':');
                    put_values(out, message, same_name.from(index).map(|index| &params[index]), value);
                }
            }
            out.push(b'}');
        }
        out.push(b'}');
    }

    fn write_metadata(&mut self, message: &Message<'_>, source_ip: &str) {
        let out = &mut self.metadata;
        out.clear();
        out.push(b'{');
        for (member, text) in [(&b"\"service\":"[..], message.app), (b"\"source\":", message.host)] {
            if let Some(text) = text {
                out.extend_from_slice(member);
                put_string(out, clip(text, NAME_BYTES_MAX));
                out.push(b',');
            }
        }
        out.extend_from_slice(b"\"level\":\"");
        out.extend_from_slice(message.priority.map_or(LEVEL_DEFAULT, Priority::severity).as_bytes());
        out.extend_from_slice(b"\",\"source_ip\":");
        put_string(out, source_ip);
        out.extend_from_slice(b",\"source_kind\":\"");
        out.extend_from_slice(SOURCE_KIND.as_bytes());
        out.extend_from_slice(b"\"}");
    }
}

fn put_priority(out: &mut Vec<u8>, priority: Priority) {
    out.extend_from_slice(b",\"facility\":\"");
    out.extend_from_slice(priority.facility().as_bytes());
    out.extend_from_slice(b"\",\"severity\":\"");
    out.extend_from_slice(priority.severity().as_bytes());
    out.extend_from_slice(b"\",\"priority\":");
    put_number(out, u64::from(priority.number()));
}

/// A value, or an array of the values of one name.
fn put_values<'p>(
    out: &mut Vec<u8>,
    message: &Message<'_>,
    mut values: impl Iterator<Item = &'p Param> + Clone,
    scratch: &mut String,
) {
    let is_many = values.clone().nth(1).is_some();
    if is_many {
        out.push(b'[');
    }
    let mut is_first = true;
    for param in &mut values {
        put_comma(out, &mut is_first);
        let value = message.structured.str(param.value);
        if param.is_escaped {
            unescape(value, scratch);
            put_text(out, message, scratch);
        } else {
            put_text(out, message, value);
        }
    }
    if is_many {
        out.push(b']');
    }
}

fn put_comma(out: &mut Vec<u8>, is_first: &mut bool) {
    if !std::mem::take(is_first) {
        out.push(b',');
    }
}

/// Text of a sender's choice, without a key.
fn put_text(out: &mut Vec<u8>, message: &Message<'_>, text: &str) {
    if message.may_name_key { put_string(out, &redact(text)) } else { put_string(out, text) }
}

fn is_stored(structured: &Structured<'_>, element: &Element) -> bool {
    structured.str(element.id) != KEY_ELEMENT
}

/// As many whole characters as fit.
fn clip(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Which of a number of things have the same key. Sorted, so that a message of nothing but names costs no square.
#[derive(Debug, Default)]
struct Links {
    order: Vec<u32>,
    /// The first thing with the same key.
    first: Vec<u32>,
    /// The next thing with the same key, or `u32::MAX`.
    next: Vec<u32>,
}

impl Links {
    fn link<K: Ord>(&mut self, count: usize, key: impl Fn(usize) -> K) {
        let Links { order, first, next } = self;
        order.clear();
        order.extend(0..count as u32);
        order.sort_unstable_by(|left, right| key(*left as usize).cmp(&key(*right as usize)).then(left.cmp(right)));
        first.clear();
        first.extend(0..count as u32);
        next.clear();
        next.resize(count, u32::MAX);
        for pair in order.windows(2) {
            let (left, right) = (pair[0] as usize, pair[1] as usize);
            if key(left) == key(right) {
                first[right] = first[left];
                next[left] = pair[1];
            }
        }
    }

    /// All things with this one's key, from it on.
    fn from(&self, index: usize) -> impl Iterator<Item = usize> + Clone + '_ {
        std::iter::successors(Some(index), |index| {
            let next = self.next[*index];
            (next != u32::MAX).then_some(next as usize)
        })
    }
}
