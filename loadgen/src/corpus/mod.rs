//! The events that are sent: made once from a seed, patched with an entity and a sequence number when they are sent.
//!
//! The templates lie one after another, joined by commas, so that a batch of any size is one copy:
//!
//! ```text
//! {"event_type":"order.created","entity_id":"e-0000002a","payload":{"seq":"0010004000000007","note":".."},"metadata":{..}},{...
//!                                              ^ 8 hex digits               ^ 16 hex digits
//! ```

pub mod distribution;

use distribution::{Choice, Sizes};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// 1024 events of 220 bytes stay in the second-level cache of the client's core.
const TEMPLATE_COUNT: usize = 1024;
const ENTITY_PREFIX: &str = "e-";
const ENTITY_DIGITS: usize = 8;
const SEQ_DIGITS: usize = 16;

pub const EVENT_TYPES: [&str; 20] = [
    "order.created",
    "order.fulfilled",
    "order.cancelled",
    "payment.processed",
    "payment.refunded",
    "user.signed_up",
    "user.logged_in",
    "user.profile_updated",
    "cart.item_added",
    "cart.item_removed",
    "inventory.reserved",
    "inventory.released",
    "shipment.dispatched",
    "shipment.delivered",
    "notification.sent",
    "invoice.issued",
    "session.started",
    "session.ended",
    "device.reported",
    "audit.checked",
];

/// Words with what a parser may stumble over: escapes, several bytes per character, braces inside strings.
const WORDS: [&str; 16] = [
    "parcel",
    "north",
    r#"\"quoted\""#,
    "überall",
    "blue",
    r"line\nbreak",
    "東京",
    "{curly}",
    "seventeen",
    "a,b",
    r"back\\slash",
    "[list]",
    r"\u00e9t\u00e9",
    "warehouse",
    "🙂",
    "plain",
];

/// A small, fast generator (splitmix64): the same seed gives the same numbers everywhere and for ever.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent stream of the same seed.
    pub fn stream(seed: u64, run: u16, connection: u32) -> Self {
        let mut mixed = Self(seed ^ (u64::from(run) << 48) ^ (u64::from(connection) << 16) ^ 0x5851_f42d);
        Self(mixed.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0, and below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// With mean 0 and standard deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Who sent an event and as which: unique over all runs that share a ledger.
///
/// ```text
/// 63      52 51        38 37                 0
/// | run (12) | conn (14) | number of event (38) |
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    pub const RUN_MAX: u16 = (1 << 12) - 1;
    pub const CONNECTION_MAX: u32 = (1 << 14) - 1;

    pub fn new(run: u16, connection: u32, number: u64) -> Self {
        assert!(run <= Self::RUN_MAX);
        assert!(connection <= Self::CONNECTION_MAX);
        assert!(number < 1 << 38);
        Self(u64::from(run) << 52 | u64::from(connection) << 38 | number)
    }

    pub fn plus(self, events: u64) -> Self {
        Self(self.0 + events)
    }

    /// Reads the digits that [`Corpus`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let is_ours = text.len() == SEQ_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_ours { u64::from_str_radix(text, 16).ok().map(Self) } else { None }
    }
}

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Places within one template, counted from its first byte.
#[derive(Debug, Clone)]
struct Places {
    event_type: Range<u32>,
    entity_at: u32,
    payload: Range<u32>,
    seq_at: u32,
    metadata: Range<u32>,
}

/// What the ledger remembers of an event that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub entity: u32,
    pub payload_hash: u64,
    pub rest_hash: u32,
}

/// One event as it was rendered, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// All of it, as a JSON object.
    pub json: &'a [u8],
    pub event_type: &'a [u8],
    pub entity: &'a [u8],
    /// A JSON value.
    pub payload: &'a [u8],
    /// A JSON object.
    pub metadata: &'a [u8],
}

#[derive(Debug)]
pub struct Corpus {
    joined: Vec<u8>,
    starts: Vec<u32>,
    places: Vec<Places>,
    entities: Choice,
}

impl Corpus {
    /// Events of such sizes, about such entities; batches of up to `batch_max` can be cut from it.
    pub fn new(seed: u64, sizes: &Sizes, entities: Choice, batch_max: usize) -> Self {
        let mut rng = Rng::new(seed);
        let mut corpus = Self { joined: Vec::new(), starts: Vec::new(), places: Vec::new(), entities };
        let mut templates = Vec::with_capacity(TEMPLATE_COUNT);
        for _ in 0..TEMPLATE_COUNT {
            let target_bytes = sizes.draw(&mut rng);
            let (bytes, places) = make_template(&mut rng, target_bytes);
            templates.push(bytes);
            corpus.places.push(places);
        }
        for index in 0..TEMPLATE_COUNT + batch_max {
            corpus.starts.push(corpus.joined.len() as u32);
            corpus.joined.extend_from_slice(&templates[index % TEMPLATE_COUNT]);
            corpus.joined.push(b',');
        }
        corpus.starts.push(corpus.joined.len() as u32);
        corpus
    }

    /// Bytes of one event, on average.
    pub fn event_bytes_mean(&self) -> usize {
        self.starts[TEMPLATE_COUNT] as usize / TEMPLATE_COUNT - 1
    }

    /// An entity, as events have them.
    pub fn draw_entity(&self, rng: &mut Rng) -> u32 {
        self.entities.draw(rng) as u32
    }

    /// Chooses `count` neighbouring events; answers the first and how many bytes they are, joined.
    pub fn choose(&self, rng: &mut Rng, count: usize) -> (usize, usize) {
        let first = rng.below(TEMPLATE_COUNT as u64) as usize;
        (first, (self.starts[first + count] - self.starts[first]) as usize - 1)
    }

    /// Appends the chosen events with fresh entities and sequence numbers from `seq`; with `marks`, notes each.
    pub fn append(
        &self,
        out: &mut Vec<u8>,
        (first, joined_bytes): (usize, usize),
        count: usize,
        seq: Seq,
        rng: &mut Rng,
        mut marks: Option<&mut Vec<Mark>>,
    ) {
        let base = out.len();
        let from = self.starts[first] as usize;
        out.extend_from_slice(&self.joined[from..from + joined_bytes]);
        for index in 0..count {
            let event = base + self.starts[first + index] as usize - from;
            let places = &self.places[(first + index) % TEMPLATE_COUNT];
            let entity = self.entities.draw(rng) as u32;
            let at = |offset: u32| event + offset as usize;
            write_hex(&mut out[at(places.entity_at)..][..ENTITY_DIGITS], u64::from(entity));
            write_hex(&mut out[at(places.seq_at)..][..SEQ_DIGITS], seq.plus(index as u64).0);
            if let Some(marks) = marks.as_deref_mut() {
                let cut = |range: &Range<u32>| &out[at(range.start)..at(range.end)];
                marks.push(Mark {
                    entity,
                    payload_hash: payload_hash(cut(&places.payload)),
                    rest_hash: rest_hash(cut(&places.event_type), cut(&places.metadata)),
                });
            }
        }
    }
}

impl Corpus {
    /// Replaces the commas between rendered events; `rendered` is all of them, from template `first` on.
    pub fn part_with(&self, rendered: &mut [u8], first: usize, count: usize, separator: u8) {
        let from = self.starts[first] as usize;
        for next in first + 1..first + count {
            rendered[self.starts[next] as usize - from - 1] = separator;
        }
    }

    /// The parts of `count` events that [`Corpus::append`] rendered, from template `first` on; `rendered` is all of them.
    pub fn events<'a>(&self, rendered: &'a [u8], first: usize, count: usize) -> impl Iterator<Item = Event<'a>> {
        let from = self.starts[first] as usize;
        (first..first + count).map(move |index| {
            let json = &rendered[self.starts[index] as usize - from..self.starts[index + 1] as usize - from - 1];
            let places = &self.places[index % TEMPLATE_COUNT];
            let cut = |range: &Range<u32>| &json[range.start as usize..range.end as usize];
            let entity_end = places.entity_at + ENTITY_DIGITS as u32;
            Event {
                json,
                event_type: cut(&places.event_type),
                entity: cut(&(places.entity_at - ENTITY_PREFIX.len() as u32..entity_end)),
                payload: cut(&places.payload),
                metadata: cut(&places.metadata),
            }
        })
    }
}

pub fn payload_hash(payload: &[u8]) -> u64 {
    xxh3_64(payload)
}

/// Over what is neither payload nor entity: the type and the metadata.
pub fn rest_hash(event_type: &[u8], metadata: &[u8]) -> u32 {
    (xxh3_64(event_type).rotate_left(17) ^ xxh3_64(metadata)) as u32
}

pub fn entity_name(entity: u32) -> String {
    format!("{ENTITY_PREFIX}{entity:08x}")
}

/// The number in a name that [`entity_name`] made.
pub fn parse_entity(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(ENTITY_PREFIX)?;
    let is_ours = digits.len() == ENTITY_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_ours { u32::from_str_radix(digits, 16).ok() } else { None }
}

fn make_template(rng: &mut Rng, target_bytes: usize) -> (Vec<u8>, Places) {
    let mut text = String::from(r#"{"event_type":""#);
    let event_type = EVENT_TYPES[rng.below(EVENT_TYPES.len() as u64) as usize];
    let type_at = text.len();
    text.push_str(event_type);
    text.push_str(r#"","entity_id":""#);
    text.push_str(ENTITY_PREFIX);
    let entity_at = text.len();
    text.push_str(&"0".repeat(ENTITY_DIGITS));
    text.push_str(r#"","payload":"#);
    let payload_at = text.len();
    text.push_str(r#"{"seq":""#);
    let seq_at = text.len();
    text.push_str(&"0".repeat(SEQ_DIGITS));
    text.push_str(&format!(r#"","n":{}.{:02}"#, rng.below(1000), rng.below(100)));
    let metadata = format!(r#"{{"source":"load-{}"}}"#, rng.below(10));
    let closing_bytes = r#"},"metadata":}"#.len() + metadata.len();
    let note_start = r#","note":""#;
    if text.len() + closing_bytes + note_start.len() < target_bytes {
        text.push_str(note_start);
        while text.len() + closing_bytes + 1 < target_bytes {
            let word = WORDS[rng.below(WORDS.len() as u64) as usize];
            let room = target_bytes - closing_bytes - 1 - text.len();
            if word.len() < room {
                text.push_str(word);
                text.push(' ');
            } else {
                text.push_str(&"x".repeat(room));
            }
        }
        text.push('"');
    }
    text.push('}');
    let payload_end = text.len();
    text.push_str(r#","metadata":"#);
    let metadata_at = text.len();
    text.push_str(&metadata);
    let metadata_end = text.len();
    text.push('}');
    let range = |from: usize, to: usize| from as u32..to as u32;
    let places = Places {
        event_type: range(type_at, type_at + event_type.len()),
        entity_at: entity_at as u32,
        payload: range(payload_at, payload_end),
        seq_at: seq_at as u32,
        metadata: range(metadata_at, metadata_end),
    };
    (text.into_bytes(), places)
}

fn write_hex(out: &mut [u8], value: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut rest = value;
    for digit in out.iter_mut().rev() {
        *digit = DIGITS[(rest & 15) as usize];
        rest >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(seed: u64, count: usize) -> (Vec<u8>, Vec<Mark>) {
        let corpus = Corpus::new(seed, &Sizes::Uniform(180, 260), Choice::Uniform(1000), 500);
        let mut rng = Rng::stream(seed, 0, 3);
        let (mut out, mut marks) = (Vec::new(), Vec::new());
        let chosen = corpus.choose(&mut rng, count);
        corpus.append(&mut out, chosen, count, Seq::new(0, 3, 7), &mut rng, Some(&mut marks));
        (out, marks)
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        assert_eq!(batch(11, 500), batch(11, 500));
        assert_ne!(batch(11, 500), batch(12, 500));
    }

    #[test]
    fn batches_are_json_with_the_numbers_they_claim() {
        let (out, marks) = batch(5, 500);
        let array = format!("[{}]", String::from_utf8(out).unwrap());
        let events: Vec<serde_json::Value> = serde_json::from_str(&array).unwrap();
        assert_eq!(events.len(), 500);
        for (index, (event, mark)) in events.iter().zip(&marks).enumerate() {
            assert_eq!(event["payload"]["seq"].as_str().and_then(Seq::parse), Some(Seq::new(0, 3, 7 + index as u64)));
            assert_eq!(event["entity_id"].as_str().and_then(parse_entity), Some(mark.entity));
            assert!(mark.entity < 1000);
        }
        let mean = array.len() / 500;
        assert!((215..=225).contains(&mean), "{mean}");
    }

    #[test]
    fn marks_are_hashes_of_what_is_sent() {
        let (out, marks) = batch(5, 1);
        #[derive(serde::Deserialize)]
        struct Event<'a> {
            event_type: &'a str,
            #[serde(borrow)]
            payload: &'a serde_json::value::RawValue,
            #[serde(borrow)]
            metadata: &'a serde_json::value::RawValue,
        }
        let event: Event<'_> = serde_json::from_slice(&out).unwrap();
        assert_eq!(marks[0].payload_hash, payload_hash(event.payload.get().as_bytes()));
        assert_eq!(marks[0].rest_hash, rest_hash(event.event_type.as_bytes(), event.metadata.get().as_bytes()));
    }

    #[test]
    fn rendered_events_come_apart_again() {
        let corpus = Corpus::new(5, &Sizes::Uniform(180, 260), Choice::Uniform(1000), 500);
        let (mut rng, mut out) = (Rng::new(3), Vec::new());
        let chosen = corpus.choose(&mut rng, 500);
        corpus.append(&mut out, chosen, 500, Seq(9), &mut rng, None);
        let mut count = 0;
        for event in corpus.events(&out, chosen.0, 500) {
            let json: serde_json::Value = serde_json::from_slice(event.json).unwrap();
            assert_eq!(json["event_type"].as_str().map(str::as_bytes), Some(event.event_type));
            assert_eq!(json["entity_id"].as_str().map(str::as_bytes), Some(event.entity));
            assert_eq!(json["payload"], serde_json::from_slice::<serde_json::Value>(event.payload).unwrap());
            count += 1;
        }
        assert_eq!(count, 500);
    }

    #[test]
    fn any_event_size_is_met_closely() {
        for bytes in [200, 220, 1000, 20_000] {
            let corpus = Corpus::new(1, &Sizes::around(bytes).unwrap(), Choice::Uniform(10), 1);
            let mean = corpus.event_bytes_mean();
            assert!(mean.abs_diff(bytes) * 50 < bytes, "{mean} for {bytes}");
        }
    }
}
