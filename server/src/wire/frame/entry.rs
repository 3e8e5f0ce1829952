//! The tables that a frame's data can hold, each read into one shape.
//!
//! Owns the slots of `Event` in both layouts, `LogEntry`, `MetricEntry`, `Span` and `Snapshot`. Must never: decide what a
//! field means to an event, or check text.

use super::flat::{Bounds, Buffer, Fields, Template};
use super::{Fault, Part};

/// What the tables have in common, as it was sent. Empty bytes are an absent field.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry<'a> {
    pub event_type: u8,
    /// In the table's own unit; 0 is none.
    pub timestamp: u64,
    pub name: &'a [u8],
    pub payload: &'a [u8],
    pub origin: Origin<'a>,
    /// What a snapshot is of.
    pub entity: &'a [u8],
}

/// Who sent it, which seldom changes from one entry to the next.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    pub service: &'a [u8],
    pub session: &'a [u8],
    pub device: &'a [u8],
    pub level: Option<u8>,
    pub source: &'a [u8],
}

impl Origin<'_> {
    /// Asked for each entry: ids are compared as numbers, and what is absent in both is not compared at all.
    #[inline(always)]
    pub fn is(&self, other: &Origin<'_>) -> bool {
        self.level == other.level
            && is_same_id(self.session, other.session)
            && is_same_id(self.device, other.device)
            && is_same_text(self.service, other.service)
            && is_same_text(self.source, other.source)
    }
}

#[inline(always)]
fn is_same_id(one: &[u8], other: &[u8]) -> bool {
    match (one.as_array::<ID_BYTES>(), other.as_array()) {
        (Some(one), Some(other)) => u128::from_le_bytes(*one) == u128::from_le_bytes(*other),
        _ => one.is_empty() && other.is_empty(),
    }
}

#[inline(always)]
fn is_same_text(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && (one.is_empty() || one == other)
}

/// Events of either layout: the newer one has the service in front of the device, and so a vtable of seven slots.
const EVENT_VTABLE_BYTES: usize = 18;

const EVENT: Template<7> =
    Template::new([18, 0, 36, 0, 28, 0, 20, 0, 32, 0, 4, 0, 8, 0, 12, 0, 16, 0, 0, 0, 20, 0, 0, 0], 0b111_1100);
const LOG: Template<7> =
    Template::new([18, 0, 32, 0, 28, 0, 4, 0, 29, 0, 20, 0, 8, 0, 12, 0, 16, 0, 0, 0, 20, 0, 0, 0], 0b111_0010);

const ID_BYTES: usize = 16;
const SPAN_ID_BYTES: usize = 8;

/// Whether vtables of the published SDKs are recognised, or all of them walked. Only tests walk them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    Recognise,
    #[cfg(test)]
    Everything,
}

impl Walk {
    #[inline(always)]
    pub fn recognises(self) -> bool {
        matches!(self, Walk::Recognise)
    }

    #[inline(always)]
    fn fields<const N: usize>(
        self,
        template: &Template<N>,
        buffer: Buffer<'_>,
        at: usize,
    ) -> Result<Fields<N>, Bounds> {
        match template.fields(buffer, at) {
            Some(fields) if self.recognises() => Ok(fields),
            _ => buffer.fields(at),
        }
    }
}

#[inline(always)]
pub fn event<'a>(walk: Walk, buffer: Buffer<'a>, at: usize) -> Result<Entry<'a>, Fault> {
    let Fields { places, vtable_bytes } = walk.fields(&EVENT, buffer, at)?;
    let [event_type, timestamp, service, device, session, name, payload] = if vtable_bytes >= EVENT_VTABLE_BYTES {
        places
    } else {
        let [event_type, timestamp, device, session, name, payload, _] = places;
        [event_type, timestamp, 0, device, session, name, payload]
    };
    Ok(Entry {
        event_type: buffer.u8(event_type)?.unwrap_or(0),
        timestamp: buffer.u64(timestamp)?,
        name: buffer.bytes(name)?,
        payload: buffer.bytes(payload)?,
        origin: Origin {
            service: buffer.bytes(service)?,
            session: id::<ID_BYTES>(buffer, session, Part::SessionId)?,
            device: id::<ID_BYTES>(buffer, device, Part::DeviceId)?,
            ..Origin::default()
        },
        ..Entry::default()
    })
}

#[inline(always)]
pub fn log<'a>(walk: Walk, buffer: Buffer<'a>, at: usize) -> Result<Entry<'a>, Fault> {
    let [event_type, session, level, timestamp, source, service, payload] = walk.fields(&LOG, buffer, at)?.places;
    Ok(Entry {
        event_type: buffer.u8(event_type)?.unwrap_or(0),
        timestamp: buffer.u64(timestamp)?,
        payload: buffer.bytes(payload)?,
        origin: Origin {
            service: buffer.bytes(service)?,
            session: id::<ID_BYTES>(buffer, session, Part::SessionId)?,
            level: buffer.u8(level)?,
            source: buffer.bytes(source)?,
            ..Origin::default()
        },
        ..Entry::default()
    })
}

pub fn snapshot(buffer: Buffer<'_>, at: usize) -> Result<Entry<'_>, Fault> {
    let [timestamp, source, entity, payload] = buffer.fields(at)?.places;
    Ok(Entry {
        timestamp: buffer.u64(timestamp)?,
        payload: buffer.bytes(payload)?,
        origin: Origin { source: buffer.bytes(source)?, ..Origin::default() },
        entity: buffer.bytes(entity)?,
        ..Entry::default()
    })
}

/// A number and what it was measured of. Labels and buckets are read where the payload is made.
#[derive(Debug, Clone, Copy)]
pub struct Metric<'a> {
    pub entry: Entry<'a>,
    pub metric_type: u8,
    pub temporality: u8,
    pub value: f64,
    /// Places in the buffer, 0 for none.
    pub labels: usize,
    pub int_labels: usize,
    pub histogram: usize,
}

pub fn metric(buffer: Buffer<'_>, at: usize) -> Result<Metric<'_>, Fault> {
    let places = buffer.fields(at)?.places;
    let [metric_type, timestamp, name, value, source, service, labels, temporality, histogram, session, int_labels] =
        places;
    Ok(Metric {
        entry: Entry {
            timestamp: buffer.u64(timestamp)?,
            name: buffer.bytes(name)?,
            origin: Origin {
                service: buffer.bytes(service)?,
                session: id::<ID_BYTES>(buffer, session, Part::SessionId)?,
                source: buffer.bytes(source)?,
                ..Origin::default()
            },
            ..Entry::default()
        },
        metric_type: buffer.u8(metric_type)?.unwrap_or(0),
        temporality: buffer.u8(temporality)?.unwrap_or(0),
        value: buffer.f64(value)?,
        labels,
        int_labels,
        histogram,
    })
}

/// A piece of work within a trace. Its own JSON payload is in the entry.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    pub entry: Entry<'a>,
    pub trace_id: &'a [u8],
    pub span_id: &'a [u8],
    pub parent_span_id: &'a [u8],
    pub duration_ns: u64,
    pub kind: u8,
    pub status: u8,
}

pub fn span(buffer: Buffer<'_>, at: usize) -> Result<Span<'_>, Fault> {
    let places = buffer.fields(at)?.places;
    let [trace_id, span_id, parent_span_id, timestamp, duration, name, kind, status, source, service, session, payload] =
        places;
    Ok(Span {
        entry: Entry {
            timestamp: buffer.u64(timestamp)?,
            name: buffer.bytes(name)?,
            payload: buffer.bytes(payload)?,
            origin: Origin {
                service: buffer.bytes(service)?,
                session: id::<ID_BYTES>(buffer, session, Part::SessionId)?,
                source: buffer.bytes(source)?,
                ..Origin::default()
            },
            ..Entry::default()
        },
        trace_id: id::<ID_BYTES>(buffer, trace_id, Part::TraceId)?,
        span_id: id::<SPAN_ID_BYTES>(buffer, span_id, Part::SpanId)?,
        parent_span_id: id::<SPAN_ID_BYTES>(buffer, parent_span_id, Part::SpanId)?,
        duration_ns: buffer.u64(duration)?,
        kind: buffer.u8(kind)?.unwrap_or(0),
        status: buffer.u8(status)?.unwrap_or(0),
    })
}

/// An id has all its bytes or none.
#[inline(always)]
fn id<const N: usize>(buffer: Buffer<'_>, place: usize, part: Part) -> Result<&[u8], Fault> {
    let bytes = buffer.bytes(place)?;
    if bytes.is_empty() || bytes.len() == N { Ok(bytes) } else { Err(Fault::IdBytes { part, bytes: bytes.len() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_the_same_when_all_of_their_parts_are() {
        let whole = Origin { service: b"web", session: &[1; 16], device: &[2; 16], level: Some(3), source: b"host" };
        let others = [
            Origin::default(),
            Origin { service: b"wen", ..whole },
            Origin { service: b"", ..whole },
            Origin { session: &[3; 16], ..whole },
            Origin { session: b"", ..whole },
            Origin { device: &[1; 16], ..whole },
            Origin { device: b"", ..whole },
            Origin { level: None, ..whole },
            Origin { source: b"hos", ..whole },
        ];
        for (index, one) in others.iter().chain([&whole]).enumerate() {
            for (other_index, other) in others.iter().chain([&whole]).enumerate() {
                assert_eq!(one.is(other), index == other_index, "{one:?} {other:?}");
            }
        }
    }
}
