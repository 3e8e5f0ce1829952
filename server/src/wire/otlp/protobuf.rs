//! The protobuf form of a request, walked in place.
//!
//! Owns the wire format: tags, varints of at most ten bytes, lengths within their message. Must never: copy a submessage,
//! follow a length out of the message that holds it, or go deeper than `VALUE_DEPTH_MAX`.
//!
//! ```text
//! field    varint(number << 3 | type)   0 varint   1 eight bytes   2 varint length, bytes   5 four bytes   3, 4 groups: refused
//! ```
//! Fields come in any order, so that a message with a resource or a scope is gone through twice: what it holds is skipped by
//! its length. Unknown fields are skipped. A known field of another wire type is refused: nothing that writes this schema sends
//! it, and a repeated scalar, which may be packed, is nowhere in it.

use std::fmt;

use super::map::{Record, Sink};
use super::value::{Attributes, JsonText, Member, Written};
use super::{RecordFault, VALUE_DEPTH_MAX};

const VARINT_BYTES_MAX: usize = 10;

/// Where and why bytes are not such a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireError {
    /// Offset of the field, in the body.
    pub at: usize,
    pub reason: WireReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireReason {
    /// The field goes on behind the end of its message.
    Ends,
    /// A varint of more than ten bytes or 64 bits.
    Varint,
    /// Field number 0, or one beyond 29 bits.
    FieldNumber,
    Group,
    /// Wire types 6 and 7.
    UnknownType,
    /// A known field with the wire type of another kind.
    WrongType {
        number: u32,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match self.reason {
            WireReason::Ends => write!(f, "the protobuf field at byte {at} goes beyond the end of its message"),
            WireReason::Varint => write!(f, "the protobuf field at byte {at} has a varint of more than 64 bits"),
            WireReason::FieldNumber => write!(f, "the protobuf field at byte {at} has no valid number"),
            WireReason::Group => write!(f, "the protobuf field at byte {at} is a group, which is not read here"),
            WireReason::UnknownType => write!(f, "the protobuf field at byte {at} has an unknown wire type"),
            WireReason::WrongType { number } => {
                write!(f, "the protobuf field {number} at byte {at} has the wire type of another kind")
            }
        }
    }
}

impl std::error::Error for WireError {}

/// A message that is being walked: the bytes `at..end` of the body are left.
#[derive(Debug, Clone, Copy)]
struct Message<'a> {
    body: &'a [u8],
    at: usize,
    end: usize,
}

#[derive(Debug, Clone, Copy)]
struct Field<'a> {
    /// Of its tag.
    at: usize,
    number: u32,
    value: FieldValue<'a>,
}

#[derive(Debug, Clone, Copy)]
enum FieldValue<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(Message<'a>),
}

impl<'a> Message<'a> {
    fn bytes(&self) -> &'a [u8] {
        &self.body[self.at..self.end]
    }

    #[inline]
    fn next(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.at == self.end {
            return Ok(None);
        }
        let at = self.at;
        let refuse = |reason| WireError { at, reason };
        let tag = self.varint().map_err(refuse)?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let Some(number) = number else { return Err(refuse(WireReason::FieldNumber)) };
        let value = match tag & 7 {
            0 => FieldValue::Varint(self.varint().map_err(refuse)?),
            1 => FieldValue::Fixed64(u64::from_le_bytes(self.fixed().map_err(refuse)?)),
            2 => {
                let length = self.varint().map_err(refuse)?;
                let left = self.end - self.at;
                let length = usize::try_from(length).ok().filter(|&length| length <= left);
                let Some(length) = length else { return Err(refuse(WireReason::Ends)) };
                let inside = Message { body: self.body, at: self.at, end: self.at + length };
                self.at = inside.end;
                FieldValue::Bytes(inside)
            }
            5 => FieldValue::Fixed32(u32::from_le_bytes(self.fixed().map_err(refuse)?)),
            3 | 4 => return Err(refuse(WireReason::Group)),
            _ => return Err(refuse(WireReason::UnknownType)),
        };
        Ok(Some(Field { at, number, value }))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, WireReason> {
        let left = self.bytes();
        if let Some(&byte) = left.first()
            && byte < 0x80
        {
            self.at += 1;
            return Ok(u64::from(byte));
        }
        let mut value = 0;
        for (index, &byte) in left.iter().take(VARINT_BYTES_MAX).enumerate() {
            // The tenth byte has one bit left.
            if index == VARINT_BYTES_MAX - 1 && byte > 1 {
                return Err(WireReason::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(WireReason::Ends)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireReason> {
        let chunk = self.bytes().first_chunk::<N>().ok_or(WireReason::Ends)?;
        self.at += N;
        Ok(*chunk)
    }
}

impl<'a> Field<'a> {
    fn message(&self) -> Result<Message<'a>, WireError> {
        if let FieldValue::Bytes(inside) = self.value { Ok(inside) } else { Err(self.wrong_type()) }
    }

    fn bytes(&self) -> Result<&'a [u8], WireError> {
        self.message().map(|inside| inside.bytes())
    }

    fn varint(&self) -> Result<u64, WireError> {
        if let FieldValue::Varint(value) = self.value { Ok(value) } else { Err(self.wrong_type()) }
    }

    fn fixed64(&self) -> Result<u64, WireError> {
        if let FieldValue::Fixed64(value) = self.value { Ok(value) } else { Err(self.wrong_type()) }
    }

    fn fixed32(&self) -> Result<u32, WireError> {
        if let FieldValue::Fixed32(value) = self.value { Ok(value) } else { Err(self.wrong_type()) }
    }

    #[cold]
    fn wrong_type(&self) -> WireError {
        WireError { at: self.at, reason: WireReason::WrongType { number: self.number } }
    }
}

/// `ExportLogsServiceRequest`.
pub(super) fn walk(body: &[u8], sink: &mut Sink<'_>) -> Result<(), WireError> {
    let mut request = Message { body, at: 0, end: body.len() };
    while let Some(field) = request.next()? {
        if field.number == 1 {
            resource_logs(field.message()?, sink)?;
        }
    }
    Ok(())
}

fn resource_logs(message: Message<'_>, sink: &mut Sink<'_>) -> Result<(), WireError> {
    sink.begin_resource();
    let mut fields = message;
    while let Some(field) = fields.next()? {
        if field.number != 1 {
            continue;
        }
        let mut resource = field.message()?;
        while let Some(field) = resource.next()? {
            match field.number {
                1 => attribute(field.message()?, &mut sink.parts.resource)?,
                2 => sink.parts.resource_dropped_count = field.varint()? as u32,
                _ => {}
            }
        }
    }
    sink.end_resource();
    fields = message;
    while let Some(field) = fields.next()? {
        if field.number == 2 {
            scope_logs(field.message()?, sink)?;
        }
    }
    Ok(())
}

fn scope_logs(message: Message<'_>, sink: &mut Sink<'_>) -> Result<(), WireError> {
    sink.begin_scope();
    let mut fields = message;
    while let Some(field) = fields.next()? {
        if field.number != 1 {
            continue;
        }
        let mut inside = field.message()?;
        let scope = &mut sink.parts.scope;
        while let Some(field) = inside.next()? {
            match field.number {
                1 => replace_text(&mut scope.name, field.bytes()?),
                2 => replace_text(&mut scope.version, field.bytes()?),
                3 => attribute(field.message()?, &mut scope.attributes)?,
                4 => scope.dropped_count = field.varint()? as u32,
                _ => {}
            }
        }
    }
    sink.end_scope();
    fields = message;
    while let Some(field) = fields.next()? {
        if field.number == 2 {
            let inside = field.message()?;
            if sink.begin_record() {
                record(inside, &mut sink.parts.record)?;
            }
            sink.end_record(inside.at..inside.end);
        }
    }
    Ok(())
}

fn record(mut message: Message<'_>, record: &mut Record) -> Result<(), WireError> {
    while let Some(field) = message.next()? {
        match field.number {
            1 => record.time_unix_nano = field.fixed64()?,
            // An int32: the upper half of the varint is its sign.
            2 => record.severity_number = field.varint()? as i32,
            3 => replace_text(&mut record.severity_text, field.bytes()?),
            5 => {
                record.body.clear();
                record.body_written = any_value(field.message()?, VALUE_DEPTH_MAX, &mut record.body)?;
            }
            6 => attribute(field.message()?, &mut record.attributes)?,
            7 => record.dropped_count = field.varint()? as u32,
            8 => record.flags = field.fixed32()?,
            9 => record.trace_id = field.bytes()?.try_into().ok(),
            10 => record.span_id = field.bytes()?.try_into().ok(),
            11 => record.observed_time_unix_nano = field.fixed64()?,
            12 => replace_text(&mut record.event_name, field.bytes()?),
            _ => {}
        }
    }
    Ok(())
}

fn replace_text(text: &mut JsonText, raw: &[u8]) {
    text.clear();
    if !raw.is_empty() {
        text.text(raw);
    }
}

fn attribute(message: Message<'_>, attributes: &mut Attributes) -> Result<(), WireError> {
    let (key, value_at, written) = key_value(message, VALUE_DEPTH_MAX, &mut attributes.text)?;
    attributes.note(key, value_at, written);
    Ok(())
}

/// Writes one member of an object. Returns its key, and what its value is and where it begins.
fn key_value<'a>(
    mut message: Message<'a>,
    depth_left: u32,
    out: &mut JsonText,
) -> Result<(&'a [u8], usize, Written), WireError> {
    let mut key = &b""[..];
    let mut value = None;
    while let Some(field) = message.next()? {
        match field.number {
            1 => key = field.bytes()?,
            2 => value = Some(field.message()?),
            _ => {}
        }
    }
    Member::begin(out);
    out.text(key);
    out.push(b':');
    let value_at = out.len();
    let written = match value {
        Some(value) => any_value(value, depth_left, out)?,
        None => {
            out.null();
            Written::Other
        }
    };
    Ok((key, value_at, written))
}

fn any_value(mut message: Message<'_>, depth_left: u32, out: &mut JsonText) -> Result<Written, WireError> {
    let start = out.len();
    let mut written = None;
    while let Some(field) = message.next()? {
        if !(1..=7).contains(&field.number) {
            continue;
        }
        // Of the members of a oneof the last one counts.
        out.truncate(start);
        written = Some(if field.number == 1 { Written::Text } else { Written::Other });
        match field.number {
            1 => out.text(field.bytes()?),
            2 => out.bool(field.varint()? != 0),
            3 => out.integer(field.varint()? as i64),
            4 => out.double(f64::from_bits(field.fixed64()?)),
            7 => out.base64(field.bytes()?),
            number => values(field.message()?, number == 6, depth_left, out)?,
        }
    }
    if written.is_none() {
        out.null();
    }
    Ok(written.unwrap_or(Written::Other))
}

/// `ArrayValue`, or `KeyValueList`: both hold their values in field 1.
fn values(mut list: Message<'_>, is_object: bool, depth_left: u32, out: &mut JsonText) -> Result<(), WireError> {
    let Some(depth_left) = depth_left.checked_sub(1) else {
        out.set_fault(RecordFault::TooDeep);
        return Ok(());
    };
    out.push(if is_object { b'{' } else { b'[' });
    while let Some(field) = list.next()? {
        if field.number != 1 {
            continue;
        }
        if is_object {
            key_value(field.message()?, depth_left, out)?;
        } else {
            out.separate();
            any_value(field.message()?, depth_left, out)?;
        }
    }
    out.push(if is_object { b'}' } else { b']' });
    Ok(())
}
