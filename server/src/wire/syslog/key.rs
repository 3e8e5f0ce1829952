//! Streaming keys in structured data: `[ringlog@32473 key="00112233445566778899aabbccddeeff"]`.
//!
//! Owns how such an element is found and how it is kept out of everything that is stored. Must never: say whether a key
//! is good, or show one. 32473 is the enterprise number that RFC 5612 sets aside for documentation.

use std::borrow::Cow;

use super::parse::{Message, replace};

/// The id of the element.
pub const KEY_ELEMENT: &str = "ringlog@32473";
const KEY_PARAM: &str = "key";

/// The element is there and does not hold exactly one key of 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedKey;

/// The key that a message carries. `Ok(None)`: it carries none, and belongs to whom its listener belongs to.
pub fn find_key(message: &Message<'_>) -> Result<Option<[u8; 16]>, MalformedKey> {
    if !message.may_name_key {
        return Ok(None);
    }
    let structured = message.structured;
    let mut found = None;
    let mut is_there = false;
    for element in structured.elements {
        if structured.str(element.id) != KEY_ELEMENT {
            continue;
        }
        is_there = true;
        for param in structured.params_of(element) {
            if structured.str(param.name) != KEY_PARAM {
                continue;
            }
            let key = from_hex(structured.str(param.value)).ok_or(MalformedKey)?;
            if found.is_some_and(|other| other != key) {
                return Err(MalformedKey);
            }
            found = Some(key);
        }
    }
    if is_there && found.is_none() { Err(MalformedKey) } else { Ok(found) }
}

/// In either case, as streaming keys are accepted everywhere.
fn from_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut key = [0; 16];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(key)
}

/// Text in which nothing stands behind [`KEY_ELEMENT`], up to the bracket that ends the element or to the end. For what is
/// kept without having been understood: unparsed messages, refused ones, texts that only look like structured data.
pub fn redact(text: &str) -> Cow<'_, str> {
    let Some(mut at) = text.find(KEY_ELEMENT) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let from = at + KEY_ELEMENT.len();
        out.push_str(&rest[..from]);
        rest = &rest[from + element_rest(&rest.as_bytes()[from..])..];
        match rest.find(KEY_ELEMENT) {
            Some(next) => at = next,
            None => {
                out.push_str(rest);
                return Cow::Owned(out);
            }
        }
    }
}

/// A message, or what there is of it, as a list of rejects can show it.
pub fn refused_text(message: &[u8]) -> String {
    let mut text = String::new();
    replace(message, &mut text);
    redact(&text).into_owned()
}

/// Bytes up to the bracket that is in no quotes.
fn element_rest(bytes: &[u8]) -> usize {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b']' if !is_quoted => return index,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::super::parse::Reader;
    use super::*;
    use ringlog_engine::ids::Micros;

    const KEY: [u8; 16] = [0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255];

    fn check(structured: &str, expected: Result<Option<[u8; 16]>, MalformedKey>) {
        let line = format!("<34>1 - host app - - {structured} text");
        let mut reader = Reader::default();
        assert_eq!(find_key(&reader.read(line.as_bytes(), Micros(0))), expected, "{structured}");
    }

    #[test]
    fn a_key_is_found_wherever_its_element_stands() {
        check(r#"[ringlog@32473 key="00112233445566778899aabbccddeeff"]"#, Ok(Some(KEY)));
        check(r#"[ringlog@32473 key="00112233445566778899AABBCCDDEEFF"]"#, Ok(Some(KEY)));
        check(r#"[a b="c"][ringlog@32473 x="y" key="00112233445566778899aabbccddeeff"][d]"#, Ok(Some(KEY)));
        check("-", Ok(None));
        check(r#"[a key="00112233445566778899aabbccddeeff"]"#, Ok(None));
        check(r#"[ringlog@324730 key="00112233445566778899aabbccddeeff"]"#, Ok(None));
        check(r#"[a note="ringlog@32473"]"#, Ok(None));
    }

    #[test]
    fn an_element_without_exactly_one_key_is_malformed() {
        check("[ringlog@32473]", Err(MalformedKey));
        check(r#"[ringlog@32473 key=""]"#, Err(MalformedKey));
        check(r#"[ringlog@32473 Key="00112233445566778899aabbccddeeff"]"#, Err(MalformedKey));
        check(r#"[ringlog@32473 key="00112233445566778899aabbccddeef"]"#, Err(MalformedKey));
        check(r#"[ringlog@32473 key="00112233445566778899aabbccddeefg"]"#, Err(MalformedKey));
        check(r#"[ringlog@32473 key="+0112233445566778899aabbccddeeff"]"#, Err(MalformedKey));
        let two = "00112233445566778899aabbccddeeff\" key=\"10112233445566778899aabbccddeeff";
        check(&format!("[ringlog@32473 key=\"{two}\"]"), Err(MalformedKey));
    }

    #[test]
    fn redacted_text_has_nothing_behind_the_name() {
        for (text, expected) in [
            ("plain", "plain"),
            (r#"a [ringlog@32473 key="0011"] b"#, "a [ringlog@32473] b"),
            (r#"[ringlog@32473 x="\"]" key="0011"][ringlog@32473 key="22"]"#, "[ringlog@32473][ringlog@32473]"),
            (r#"[ringlog@32473 key="00"#, "[ringlog@32473"),
            (r#"[ringlog@32473 x="é\"#, "[ringlog@32473"),
            ("ringlog@32473", "ringlog@32473"),
        ] {
            assert_eq!(redact(text), expected);
        }
        let refused = b"\xff\0<1>1 - h a - - [ringlog@32473 key=\"00";
        assert_eq!(refused_text(refused), "\u{fffd}\u{fffd}<1>1 - h a - - [ringlog@32473");
    }
}
