//! Events on their way in: a batch is encoded once, by whoever received it, and only copied after that.

use std::fmt;

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::format::record::{EventKind, encode_record};
use crate::ids::{Micros, Tenant, Version};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, ENTITY_BYTES_MAX, METADATA_BYTES_MAX, PAYLOAD_BYTES_MAX, TYPE_BYTES_MAX,
};

/// The secret seed of a data directory's fingerprints, so that nobody outside can aim for collisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FingerprintKey(pub u64);

impl FingerprintKey {
    /// 96 bits that stand for an entity within its tenant.
    pub fn entity(self, entity: &str) -> u128 {
        xxh3_128_with_seed(entity.as_bytes(), self.0) >> 32
    }

    /// 64 bits that stand for an event type. Only finds candidates; the strings decide.
    pub fn event_type(self, event_type: &str) -> u64 {
        xxh3_64_with_seed(event_type.as_bytes(), self.0)
    }
}

/// One event as its sender described it. `payload` and `metadata` are stored byte for byte; empty metadata means none.
#[derive(Debug, Clone, Copy)]
pub struct EventInput<'a> {
    pub kind: EventKind,
    pub event_type: &'a str,
    pub entity: &'a str,
    /// `None`: the server's received time stands for it.
    pub timestamp: Option<Micros>,
    pub payload: &'a [u8],
    pub metadata: &'a [u8],
    /// The entity's version that the sender believes to be current; `Version(0)`: the entity must not exist.
    pub expected_version: Option<Version>,
}

impl<'a> EventInput<'a> {
    /// An event without a time of its own, metadata or expectation.
    pub fn new(event_type: &'a str, entity: &'a str, payload: &'a [u8]) -> EventInput<'a> {
        EventInput {
            kind: EventKind::Event,
            event_type,
            entity,
            timestamp: None,
            payload,
            metadata: b"",
            expected_version: None,
        }
    }
}

/// Why an event cannot join a batch. The batch is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventError {
    TypeLength { bytes: usize },
    EntityLength { bytes: usize },
    ControlCharacter,
    PayloadLength { bytes: usize },
    MetadataLength { bytes: usize },
    BatchEvents { limit: usize },
    BatchBytes { limit: usize },
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventError::TypeLength { bytes } => {
                write!(f, "event type has {bytes} bytes, 1 to {TYPE_BYTES_MAX} allowed")
            }
            EventError::EntityLength { bytes } => {
                write!(f, "entity has {bytes} bytes, 1 to {ENTITY_BYTES_MAX} allowed")
            }
            EventError::ControlCharacter => f.write_str("event type or entity has a control character"),
            EventError::PayloadLength { bytes } => write!(f, "payload has {bytes} bytes, {PAYLOAD_BYTES_MAX} allowed"),
            EventError::MetadataLength { bytes } => {
                write!(f, "metadata has {bytes} bytes, {METADATA_BYTES_MAX} allowed")
            }
            EventError::BatchEvents { limit } => write!(f, "batch has more than {limit} events"),
            EventError::BatchBytes { limit } => write!(f, "batch has more than {limit} encoded bytes"),
        }
    }
}

impl std::error::Error for EventError {}

/// `EventKey::version` on the way in: the sender expects nothing.
pub const NO_EXPECTED_VERSION: u64 = u64::MAX;

/// `EventKey::version` of a replay whose events' versions are not at hand. No event has it: versions begin at 1.
pub const UNKNOWN_VERSION: u64 = 0;

/// What the owner of a shard needs to know of an event without looking into its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventKey {
    /// 96 bits, see `FingerprintKey::entity`.
    pub entity: u128,
    pub event_type: u64,
    /// `None`: received time.
    pub timestamp: Option<Micros>,
    pub record_bytes: u32,
    /// In: the expected version or `NO_EXPECTED_VERSION`. Out, once appended: the version the event got, or, for a
    /// replay of several events, `UNKNOWN_VERSION`.
    pub version: u64,
}

/// Where a batch came in. Stored in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Source {
    #[default]
    Engine = 0,
    Http = 1,
    Tcp = 2,
    Syslog = 3,
}

/// What a batch's key is made of, and so how fast keys of its class can come. Each class has a window of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyClass {
    /// Chosen by a client for one request.
    Request = 0,
    /// Made from what was sent, of every frame of a connection.
    Frame = 1,
}

impl KeyClass {
    pub const ALL: [KeyClass; 2] = [KeyClass::Request, KeyClass::Frame];
}

/// What makes a batch be stored once, however often it is sent. See `EventBatch::set_idempotency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub class: KeyClass,
    /// Stands for the client's key and for where it holds: the route, the source, the credential. The tenant is the batch's.
    pub key: [u8; 16],
    /// Stands for everything that the client asked to be stored: another one under the same key is refused.
    pub body: [u8; 16],
}

/// Events of one tenant that are stored together or not at all.
/// Invariant: `keys` and the records in `records` agree in order, number and length.
#[derive(Debug, Clone)]
pub struct EventBatch {
    tenant: Tenant,
    source: Source,
    has_idempotency: bool,
    /// Apart, since most batches have none and all are moved about; kept for its memory.
    idempotency: Option<Box<IdempotencyKey>>,
    fingerprint: FingerprintKey,
    records: Vec<u8>,
    pub(crate) keys: Vec<EventKey>,
}

impl EventBatch {
    pub fn new(tenant: Tenant, source: Source, fingerprint: FingerprintKey) -> EventBatch {
        EventBatch::from_parts(tenant, source, None, fingerprint, Vec::new(), Vec::new())
    }

    /// A batch as it was read back from disk.
    pub(crate) fn from_parts(
        tenant: Tenant,
        source: Source,
        idempotency: Option<IdempotencyKey>,
        fingerprint: FingerprintKey,
        records: Vec<u8>,
        keys: Vec<EventKey>,
    ) -> EventBatch {
        EventBatch {
            tenant,
            source,
            has_idempotency: idempotency.is_some(),
            idempotency: idempotency.map(Box::new),
            fingerprint,
            records,
            keys,
        }
    }

    /// Encodes one event at the end of the batch.
    pub fn push(&mut self, event: EventInput<'_>) -> Result<(), EventError> {
        check_text(event.event_type, TYPE_BYTES_MAX).map_err(|bytes| match bytes {
            Some(bytes) => EventError::TypeLength { bytes },
            None => EventError::ControlCharacter,
        })?;
        check_text(event.entity, ENTITY_BYTES_MAX).map_err(|bytes| match bytes {
            Some(bytes) => EventError::EntityLength { bytes },
            None => EventError::ControlCharacter,
        })?;
        if event.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(EventError::PayloadLength { bytes: event.payload.len() });
        }
        if event.metadata.len() > METADATA_BYTES_MAX {
            return Err(EventError::MetadataLength { bytes: event.metadata.len() });
        }
        if self.keys.len() == BATCH_EVENTS_MAX {
            return Err(EventError::BatchEvents { limit: BATCH_EVENTS_MAX });
        }
        let before = self.records.len();
        let record_bytes = encode_record(
            &mut self.records,
            event.kind,
            event.timestamp,
            event.event_type,
            event.entity,
            event.payload,
            event.metadata,
        );
        if self.records.len() > BATCH_BYTES_MAX {
            self.records.truncate(before);
            return Err(EventError::BatchBytes { limit: BATCH_BYTES_MAX });
        }
        self.keys.push(EventKey {
            entity: self.fingerprint.entity(event.entity),
            event_type: self.fingerprint.event_type(event.event_type),
            timestamp: event.timestamp,
            record_bytes,
            version: event.expected_version.map_or(NO_EXPECTED_VERSION, |version| version.0),
        });
        Ok(())
    }

    /// Empties the batch for another use; its memory stays.
    pub fn reset(&mut self, tenant: Tenant, source: Source) {
        self.tenant = tenant;
        self.source = source;
        self.has_idempotency = false;
        self.records.clear();
        self.keys.clear();
    }

    /// Makes room for so many events and encoded bytes more.
    pub fn reserve(&mut self, event_count: usize, record_bytes: usize) {
        self.keys.reserve(event_count);
        self.records.reserve(record_bytes);
    }

    /// Bytes of memory that the batch has, filled or not.
    pub fn memory_bytes(&self) -> usize {
        self.records.capacity() + self.keys.capacity() * size_of::<EventKey>()
    }

    /// Takes back every event behind the first `event_count`.
    pub fn truncate(&mut self, event_count: usize) {
        let removed = self.keys.drain(event_count.min(self.keys.len())..);
        let removed_bytes: usize = removed.map(|key| key.record_bytes as usize).sum();
        self.records.truncate(self.records.len() - removed_bytes);
    }

    /// Makes the batch one that is stored once: if the tenant's batch of the same key is remembered, the answer to this
    /// one is that one's, with `Appended::is_replay`, or `AppendError::IdempotencyMismatch` if the body differs.
    ///
    /// Both hashes decide, nothing else is compared: the caller takes 128 bits of a hash whose collisions nobody outside
    /// can prepare. Until `reset`.
    pub fn set_idempotency(&mut self, idempotency: IdempotencyKey) {
        self.has_idempotency = true;
        match &mut self.idempotency {
            Some(known) => **known = idempotency,
            None => self.idempotency = Some(Box::new(idempotency)),
        }
    }

    pub fn idempotency(&self) -> Option<IdempotencyKey> {
        if self.has_idempotency { self.idempotency.as_deref().copied() } else { None }
    }

    pub fn tenant(&self) -> Tenant {
        self.tenant
    }

    pub fn source(&self) -> Source {
        self.source
    }

    pub fn event_count(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The encoded records, one behind the other.
    pub fn records(&self) -> &[u8] {
        &self.records
    }

    pub fn keys(&self) -> &[EventKey] {
        &self.keys
    }
}

/// `Err(Some(bytes))`: wrong length; `Err(None)`: a control character.
fn check_text(text: &str, bytes_max: usize) -> Result<(), Option<usize>> {
    if text.is_empty() || text.len() > bytes_max {
        return Err(Some(text.len()));
    }
    // Whole bytes at a time and without an early end, so that it compiles to vector compares.
    let bytes = text.as_bytes();
    let (mut control, mut is_ascii) = (false, true);
    for &byte in bytes {
        control |= byte < 0x20 || byte == 0x7f;
        is_ascii &= byte < 0x80;
    }
    // C1 (U+0080 to U+009F) is C2 followed by 80 to 9F.
    control |= !is_ascii && bytes.windows(2).any(|pair| pair[0] == 0xc2 && pair[1] < 0xa0);
    if control { Err(None) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(event_type: &str, entity: &str) -> Result<(), EventError> {
        let mut batch = EventBatch::new(Tenant(1), Source::Engine, FingerprintKey(1));
        batch.push(EventInput {
            kind: EventKind::Event,
            event_type,
            entity,
            timestamp: None,
            payload: b"{}",
            metadata: b"",
            expected_version: None,
        })
    }

    #[test]
    fn an_idempotency_key_is_the_batchs_until_it_is_reset() {
        let mut batch = EventBatch::new(Tenant(1), Source::Http, FingerprintKey(1));
        assert_eq!(batch.idempotency(), None);
        for at in 0..2 {
            let key = IdempotencyKey { class: KeyClass::Request, key: [at; 16], body: [7; 16] };
            batch.set_idempotency(key);
            assert_eq!(batch.idempotency(), Some(key));
            batch.reset(Tenant(2), Source::Tcp);
            assert_eq!(batch.idempotency(), None);
        }
    }

    #[test]
    fn names_are_bounded_and_free_of_control_characters() {
        assert_eq!(push("a", "b"), Ok(()));
        assert_eq!(push("Sign Up é", &"x".repeat(256)), Ok(()));
        assert_eq!(push("", "b"), Err(EventError::TypeLength { bytes: 0 }));
        assert_eq!(push("a", &"x".repeat(257)), Err(EventError::EntityLength { bytes: 257 }));
        for control in ["\0", "\n", "\x1f", "\x7f", "\u{80}", "\u{9f}"] {
            assert_eq!(push(&format!("a{control}"), "b"), Err(EventError::ControlCharacter), "{control:?}");
        }
        assert_eq!(push("a", "\u{a0}b"), Ok(()));
    }

    #[test]
    fn a_batch_that_is_used_again_has_its_memory() {
        let mut batch = EventBatch::new(Tenant(1), Source::Engine, FingerprintKey(1));
        batch.reserve(10, 1000);
        let memory_bytes = batch.memory_bytes();
        assert!(1000 + 10 * size_of::<EventKey>() <= memory_bytes);
        batch.push(EventInput::new("a", "b", b"{}")).unwrap();
        batch.reset(Tenant(2), Source::Tcp);
        assert_eq!(batch.memory_bytes(), memory_bytes);
    }

    #[test]
    fn a_batch_cut_short_is_the_batch_before() {
        let mut batch = EventBatch::new(Tenant(1), Source::Engine, FingerprintKey(1));
        batch.push(EventInput::new("a", "b", b"{}")).unwrap();
        let before = (batch.records().to_vec(), batch.keys().to_vec());
        batch.push(EventInput::new("longer", "c", b"{\"x\":1}")).unwrap();
        batch.push(EventInput::new("d", "e", b"")).unwrap();
        batch.truncate(3);
        assert_eq!(batch.event_count(), 3);
        batch.truncate(1);
        assert_eq!((batch.records().to_vec(), batch.keys().to_vec()), before);
        batch.truncate(0);
        assert!(batch.is_empty() && batch.records().is_empty());
    }
}
