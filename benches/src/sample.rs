//! One feed of events for every bench: the same events as JSON bodies, as encoded batches and as requests.
//!
//! Owns what an event of a bench looks like. Must never: measure anything.

use std::fmt::Write;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use ringlog_engine::event::{EventBatch, EventInput, FingerprintKey, Source};
use ringlog_engine::ids::{Micros, Tenant};

/// Bytes of one event as JSON.
pub const EVENT_BYTES: usize = 220;
pub const ENTITIES: usize = 10_000;
pub const TENANT: Tenant = Tenant(1);
/// For batches that go to no engine; an engine has its own.
pub const KEY: FingerprintKey = FingerprintKey(0x5EED);

const EVENT_TYPE: &str = "order.placed";
/// The first event's timestamp, and how far apart events are.
const FIRST_AT_US: i64 = 1_700_000_000_000_000;
const STEP_US: i64 = 1_000;

/// Events as an SDK sends them. Neighbours are about different entities, as in a feed of many clients.
pub struct Sample {
    entities: Vec<String>,
    payload: String,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample::new()
    }
}

impl Sample {
    pub fn new() -> Sample {
        let mut sample = Sample {
            entities: (0..ENTITIES).map(|entity_index| format!("order-{entity_index:06}")).collect(),
            payload: payload_with_note(0),
        };
        let note_bytes = EVENT_BYTES - sample.event(0).len();
        sample.payload = payload_with_note(note_bytes);
        sample
    }

    pub fn entity(&self, event_index: usize) -> &str {
        // A prime that does not divide ENTITIES: each entity comes once before the first comes again.
        &self.entities[event_index * 7919 % ENTITIES]
    }

    /// When the event happened, for engines that are asked for a window of time.
    pub fn timestamp(&self, event_index: usize) -> Micros {
        Micros(FIRST_AT_US + event_index as i64 * STEP_US)
    }

    /// The body of a request with one event: `EVENT_BYTES`.
    pub fn event(&self, event_index: usize) -> String {
        let entity = self.entity(event_index);
        format!(r#"{{"event_type":"{EVENT_TYPE}","entity_id":"{entity}","payload":{}}}"#, self.payload)
    }

    /// The body of a request with many events.
    pub fn events(&self, from: usize, count: usize) -> String {
        let mut body = String::from(r#"{"events":["#);
        for event_index in from..from + count {
            if event_index > from {
                body.push(',');
            }
            let _ = write!(body, "{}", self.event(event_index));
        }
        body.push_str("]}");
        body
    }

    pub fn fill(&self, batch: &mut EventBatch, from: usize, count: usize) {
        for event_index in from..from + count {
            let event = EventInput {
                timestamp: Some(self.timestamp(event_index)),
                ..EventInput::new(EVENT_TYPE, self.entity(event_index), self.payload.as_bytes())
            };
            batch.push(event).expect("a valid event");
        }
    }

    pub fn batch(&self, key: FingerprintKey, from: usize, count: usize) -> EventBatch {
        let mut batch = EventBatch::new(TENANT, Source::Engine, key);
        self.fill(&mut batch, from, count);
        batch
    }
}

fn payload_with_note(note_bytes: usize) -> String {
    format!(r#"{{"amount":1200,"currency":"EUR","lines":[1,2,3],"note":"{}"}}"#, "n".repeat(note_bytes))
}

/// A group whose every function takes a second and a half, so that a bench ends in about a minute.
pub fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlog_server::wire::envelope::{Scratch, parse_batch, parse_event};

    #[test]
    fn an_event_has_the_bytes_that_it_says() {
        let sample = Sample::new();
        for event_index in [0, 1, 77, 9_999, 123_456] {
            assert_eq!(sample.event(event_index).len(), EVENT_BYTES);
        }
    }

    #[test]
    fn the_server_takes_the_bodies_and_sees_the_same_events() {
        let sample = Sample::new();
        let mut scratch = Scratch::default();
        let mut one = EventBatch::new(TENANT, Source::Engine, KEY);
        parse_event(sample.event(7).as_bytes(), "tenant", &mut scratch, &mut one).unwrap();
        assert_eq!(one.event_count(), 1);
        let mut many = EventBatch::new(TENANT, Source::Engine, KEY);
        parse_batch(sample.events(7, 100).as_bytes(), "tenant", &mut scratch, &mut many).unwrap();
        assert_eq!(many.event_count(), 100);
        let entities = |batch: &EventBatch| batch.keys().iter().map(|key| key.entity).collect::<Vec<_>>();
        assert_eq!(entities(&many), entities(&sample.batch(KEY, 7, 100)));
        assert_eq!(entities(&many)[..1], entities(&one));
    }
}
