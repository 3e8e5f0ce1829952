//! Fields and values of the JSON form: what may stand where a string, a number, an id, an attribute or a value is meant.
//!
//! Owns protobuf's mapping to JSON as OTLP has it: ids in hexadecimal digits, 64-bit integers as numbers or strings, enums as
//! integers, bytes as base64 in either alphabet. Must never: give an event that the protobuf form would not give.

use std::str::FromStr;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::value::{Attributes, JsonText, Member, Written};
use super::{OtlpError, RecordFault, VALUE_DEPTH_MAX};
use crate::wire::json::{Kind, Scanner, Text};

/// Padding and stray bits at the end are the sender's business.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The text that a scanner goes over, and where in the body it begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Document<'a> {
    pub text: &'a str,
    pub offset: usize,
}

impl<'a> Document<'a> {
    pub fn name<'n>(&self, key: Text, scratch: &'n mut String) -> &'n str
    where
        'a: 'n,
    {
        key.resolve(self.text, scratch)
    }

    #[cold]
    fn wrong(&self, at: usize, field: &'static str, expected: &'static str) -> OtlpError {
        OtlpError::Field { at: self.offset + at, field, expected }
    }
}

/// The known fields of one object that have been seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    bits: u32,
}

impl Seen {
    pub fn once(&mut self, bit: u32, document: Document<'_>, at: usize, field: &'static str) -> Result<(), OtlpError> {
        if self.bits & 1 << bit != 0 {
            return Err(OtlpError::Duplicate { at: document.offset + at, field });
        }
        self.bits |= 1 << bit;
        Ok(())
    }
}

pub(super) fn attributes(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    attributes: &mut Attributes,
) -> Result<(), OtlpError> {
    let mut name = String::new();
    each(scanner, document, "attributes", |scanner| {
        let (key, value_at, written) = key_value(scanner, document, VALUE_DEPTH_MAX, &mut attributes.text)?;
        let key = key.map_or("", |key| document.name(key, &mut name));
        attributes.note(key.as_bytes(), value_at, written);
        Ok(())
    })
}

/// Writes one member of an object. Returns its key, and what its value is and where it begins.
fn key_value(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    depth_left: u32,
    out: &mut JsonText,
) -> Result<(Option<Text>, usize, Written), OtlpError> {
    let mut seen = Seen::default();
    let mut scratch = String::new();
    let mut found: Option<Text> = None;
    let mut value: Option<(usize, Written)> = None;
    let member = Member::begin(out);
    expect(scanner, document, b'{', "attributes and values", "arrays of objects with \"key\" and \"value\"")?;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        match document.name(key, &mut scratch) {
            "key" if !is_null(scanner) => {
                seen.once(0, document, key.start, "key")?;
                let text = expect_text(scanner, document, "key")?;
                let key_at = out.len();
                out.escaped_text(&document.text[text.span()]);
                out.push(b':');
                if let Some((value_at, _)) = &mut value {
                    *value_at = member.key_to_front(out, key_at);
                }
                found = Some(text);
            }
            "value" if !is_null(scanner) => {
                seen.once(1, document, key.start, "value")?;
                let value_at = out.len();
                value = Some((value_at, any_value(scanner, document, depth_left, out)?));
            }
            _ => {
                scanner.value()?;
            }
        }
    }
    if value.is_none() {
        let value_at = out.len();
        out.null();
        value = Some((value_at, Written::Other));
    }
    let (mut value_at, written) = value.unwrap_or_default();
    if found.is_none() {
        let key_at = out.len();
        out.escaped_text("");
        out.push(b':');
        value_at = member.key_to_front(out, key_at);
    }
    Ok((found, value_at, written))
}

pub(super) fn any_value(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    depth_left: u32,
    out: &mut JsonText,
) -> Result<Written, OtlpError> {
    let start = out.len();
    let mut written = None;
    let mut scratch = String::new();
    expect(scanner, document, b'{', "a value", "an object such as {\"stringValue\":\"..\"}")?;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        let is_null = is_null(scanner);
        let kind = ValueKind::of(document.name(key, &mut scratch)).filter(|_| !is_null);
        let Some(kind) = kind else {
            scanner.value()?;
            continue;
        };
        // Of the members of a oneof the last one counts.
        out.truncate(start);
        written = Some(if kind == ValueKind::String { Written::Text } else { Written::Other });
        match kind {
            ValueKind::String => {
                let text = expect_text(scanner, document, "stringValue")?;
                out.escaped_text(&document.text[text.span()]);
            }
            ValueKind::Bool => match scanner.value()? {
                value if value.kind == Kind::Bool => out.bool(&document.text[value.span()] == "true"),
                value => return Err(document.wrong(value.start, "boolValue", "true or false")),
            },
            ValueKind::Int => out.integer(integer(scanner, document, "intValue")?),
            ValueKind::Double => out.double(double(scanner, document)?),
            ValueKind::Bytes => bytes(scanner, document, out)?,
            ValueKind::Array => values(scanner, document, "arrayValue", depth_left, out)?,
            ValueKind::KeyValues => values(scanner, document, "kvlistValue", depth_left, out)?,
        }
    }
    if written.is_none() {
        out.null();
    }
    Ok(written.unwrap_or_default())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    String,
    Bool,
    Int,
    Double,
    Bytes,
    Array,
    KeyValues,
}

impl ValueKind {
    fn of(key: &str) -> Option<ValueKind> {
        match key {
            "stringValue" => Some(ValueKind::String),
            "boolValue" => Some(ValueKind::Bool),
            "intValue" => Some(ValueKind::Int),
            "doubleValue" => Some(ValueKind::Double),
            "bytesValue" => Some(ValueKind::Bytes),
            "arrayValue" => Some(ValueKind::Array),
            "kvlistValue" => Some(ValueKind::KeyValues),
            _ => None,
        }
    }
}

/// `ArrayValue`, or `KeyValueList`: both hold their values in `values`.
fn values(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    field: &'static str,
    depth_left: u32,
    out: &mut JsonText,
) -> Result<(), OtlpError> {
    expect(scanner, document, b'{', field, "an object with \"values\"")?;
    let Some(depth_left) = depth_left.checked_sub(1) else {
        out.set_fault(RecordFault::TooDeep);
        scanner.value()?;
        return Ok(());
    };
    let is_object = field == "kvlistValue";
    let mut seen = Seen::default();
    let mut scratch = String::new();
    out.push(if is_object { b'{' } else { b'[' });
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        if document.name(key, &mut scratch) != "values" || is_null(scanner) {
            scanner.value()?;
            continue;
        }
        seen.once(0, document, key.start, "values")?;
        each(scanner, document, "values", |scanner| {
            if is_object {
                key_value(scanner, document, depth_left, out)?;
            } else {
                out.separate();
                any_value(scanner, document, depth_left, out)?;
            }
            Ok(())
        })?;
    }
    out.push(if is_object { b'}' } else { b']' });
    Ok(())
}

pub(super) fn string(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    field: &'static str,
    out: &mut JsonText,
) -> Result<(), OtlpError> {
    let text = expect_text(scanner, document, field)?;
    out.clear();
    if text.start < text.end {
        out.escaped_text(&document.text[text.span()]);
    }
    Ok(())
}

/// A whole number, or a string with one; `1.0` and `1e3` are whole.
pub(super) fn integer<T: FromStr + TryFrom<i64>>(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    field: &'static str,
) -> Result<T, OtlpError> {
    let value = scanner.value()?;
    let text = match value.kind {
        Kind::Number => &document.text[value.span()],
        Kind::String => &document.text[value.text().span()],
        _ => "",
    };
    let whole = text.parse().ok().or_else(|| {
        let number = finite(text).filter(|number| number.fract() == 0.0 && number.abs() < (1_u64 << 53) as f64)?;
        T::try_from(number as i64).ok()
    });
    whole.ok_or_else(|| document.wrong(value.start, field, "a whole number within the range of its field"))
}

fn double(scanner: &mut Scanner<'_>, document: Document<'_>) -> Result<f64, OtlpError> {
    let value = scanner.value()?;
    let number = match value.kind {
        Kind::Number => finite(&document.text[value.span()]),
        Kind::String => match &document.text[value.text().span()] {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => finite(text),
        },
        _ => None,
    };
    number.ok_or_else(|| document.wrong(value.start, "doubleValue", "a number, \"NaN\", \"Infinity\" or \"-Infinity\""))
}

/// A number that is written in digits and is not beyond what a double holds.
fn finite(text: &str) -> Option<f64> {
    let is_number = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    text.parse().ok().filter(|number: &f64| is_number && number.is_finite())
}

/// Base64 in either alphabet becomes what the protobuf form of it becomes.
fn bytes(scanner: &mut Scanner<'_>, document: Document<'_>, out: &mut JsonText) -> Result<(), OtlpError> {
    let text = expect_text(scanner, document, "bytesValue")?;
    let mut scratch = String::new();
    let standard = document.name(text, &mut scratch).replace('-', "+").replace('_', "/");
    let raw = BASE64.decode(standard).map_err(|_| document.wrong(text.start, "bytesValue", "base64"))?;
    out.base64(&raw);
    Ok(())
}

/// An id in hexadecimal digits. One of another length is none, as in the protobuf form.
pub(super) fn id<const N: usize>(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    field: &'static str,
) -> Result<Option<[u8; N]>, OtlpError> {
    let text = expect_text(scanner, document, field)?;
    let digits = &document.text[text.span()];
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(document.wrong(text.start, field, "in hexadecimal digits"));
    }
    if digits.len() != 2 * N {
        return Ok(None);
    }
    let mut id = [0; N];
    for (byte, pair) in id.iter_mut().zip(digits.as_bytes().as_chunks::<2>().0) {
        let nibble = |digit: u8| char::from(digit).to_digit(16).expect("only digits are left") as u8;
        *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
    }
    Ok(Some(id))
}

pub(super) fn each(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    field: &'static str,
    mut element: impl FnMut(&mut Scanner<'_>) -> Result<(), OtlpError>,
) -> Result<(), OtlpError> {
    expect(scanner, document, b'[', field, "an array")?;
    scanner.begin_array()?;
    while scanner.next_element()? {
        element(scanner)?;
    }
    Ok(())
}

fn expect_text(scanner: &mut Scanner<'_>, document: Document<'_>, field: &'static str) -> Result<Text, OtlpError> {
    let value = scanner.value()?;
    if value.kind != Kind::String {
        return Err(document.wrong(value.start, field, "a string"));
    }
    Ok(value.text())
}

/// What comes begins with `opening`; another value is a fault of its field, and anything else one of the scanner's.
#[inline]
pub(super) fn expect(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    opening: u8,
    field: &'static str,
    expected: &'static str,
) -> Result<(), OtlpError> {
    if scanner.peek() == opening {
        return Ok(());
    }
    let value = scanner.value()?;
    Err(document.wrong(value.start, field, expected))
}

#[inline]
pub(super) fn is_null(scanner: &mut Scanner<'_>) -> bool {
    scanner.peek() == b'n'
}
