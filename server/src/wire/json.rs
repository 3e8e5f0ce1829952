//! A strict JSON scanner that yields places in the body it was given.
//!
//! Owns what is JSON here: RFC 8259, UTF-8 (checked once, by `as_text`), at most `DEPTH_MAX` levels, no lone surrogates and no NUL in strings.
//! Must never: recurse, allocate, change a byte or look at a number's value.
//! Whoever pulls (`begin_object`, `next_key`, `value`, ...) to the end and calls `finish` has validated the whole body.

use std::fmt;
use std::ops::Range;

use super::json_simd::{CHUNK_BYTES, Level, WINDOW_CHUNKS, Window};

/// Open arrays and objects of one document. One bit of a word each, so that a bomb costs nothing.
pub const DEPTH_MAX: u32 = u64::BITS;

/// Where and why a body is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    /// Offset of the byte that cannot stand there.
    pub at: usize,
    pub reason: JsonReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonReason {
    /// Something else stands there.
    Expected(Expected),
    /// The body ends there.
    Ends(Expected),
    /// The string that begins there has no closing quote.
    UnterminatedString,
    ControlCharacter(u8),
    Escape,
    LoneSurrogate,
    NulEscape,
    Utf8,
    LeadingZero,
    Depth {
        max: u32,
    },
}

/// What would have been right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Value,
    Object,
    Array,
    Key,
    Colon,
    CommaOrBrace,
    CommaOrBracket,
    Digit,
    End,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Expected::Value => "a value",
            Expected::Object => "'{'",
            Expected::Array => "'['",
            Expected::Key => "a key in quotes",
            Expected::Colon => "':'",
            Expected::CommaOrBrace => "',' or '}'",
            Expected::CommaOrBracket => "',' or ']'",
            Expected::Digit => "a digit",
            Expected::End => "the end of the body",
        })
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match self.reason {
            JsonReason::Expected(what) => write!(f, "expected {what} at byte {at}"),
            JsonReason::Ends(what) => write!(f, "expected {what} at byte {at}, where the body ends"),
            JsonReason::UnterminatedString => write!(f, "the string that begins at byte {at} has no end"),
            JsonReason::ControlCharacter(byte) => {
                write!(f, "control character 0x{byte:02x} in a string at byte {at}, it must be escaped")
            }
            JsonReason::Escape => write!(f, "unknown escape at byte {at}"),
            JsonReason::LoneSurrogate => write!(f, "half of a surrogate pair at byte {at}"),
            JsonReason::NulEscape => write!(f, "\\u0000 at byte {at} is not accepted"),
            JsonReason::Utf8 => write!(f, "the body is not UTF-8 at byte {at}"),
            JsonReason::LeadingZero => write!(f, "number with a leading zero at byte {at}"),
            JsonReason::Depth { max } => write!(f, "more than {max} levels of nesting at byte {at}"),
        }
    }
}

impl std::error::Error for JsonError {}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// The kind of a value by its first byte. Bytes that begin none are refused elsewhere.
const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Number; 256];
    kinds[b'"' as usize] = Kind::String;
    kinds[b'{' as usize] = Kind::Object;
    kinds[b'[' as usize] = Kind::Array;
    kinds[b't' as usize] = Kind::Bool;
    kinds[b'f' as usize] = Kind::Bool;
    kinds[b'n' as usize] = Kind::Null;
    kinds
};

/// A validated value: its bytes are `start..end`, quotes and brackets included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
    /// The value is a string with at least one escape.
    pub is_escaped: bool,
}

impl Value {
    pub fn span(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The string without its quotes. The value must be a string.
    pub fn text(&self) -> Text {
        assert!(self.kind == Kind::String);
        Text { start: self.start + 1, end: self.end - 1, is_escaped: self.is_escaped }
    }
}

/// The inside of a validated string: between the quotes, escapes not yet resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    pub start: usize,
    pub end: usize,
    pub is_escaped: bool,
}

impl Text {
    pub fn span(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The string it stands for: from `body` itself, or unescaped into `scratch`.
    #[inline]
    pub fn resolve<'a>(&self, body: &'a str, scratch: &'a mut String) -> &'a str {
        let raw = &body[self.start..self.end];
        if !self.is_escaped {
            return raw;
        }
        scratch.clear();
        unescape(raw, scratch);
        scratch
    }
}

/// A cursor over one document.
#[derive(Debug)]
pub struct Scanner<'a> {
    bytes: &'a [u8],
    /// Where strings may end, for the part of the body that holds the current chunk.
    window: &'a mut Window,
    level: Level,
    chunk_at: usize,
    /// Of the current chunk, which is the one where the last string ended.
    stops: u64,
    at: usize,
    depth: u32,
    /// `depth` before anything was opened: above 0 where fewer levels are allowed.
    depth_floor: u32,
    /// The open containers, the innermost in the lowest bit: 1 for an object.
    objects: u64,
    /// The innermost container was opened by a `begin_` and has given nothing yet.
    is_fresh: bool,
}

// Everything a loop goes through is inlined, and what is not gets values instead of the scanner: so the cursor stays in registers.
impl<'a> Scanner<'a> {
    /// `window` is memory only; what it held does not matter.
    #[inline]
    pub fn new(text: &'a str, window: &'a mut Window) -> Scanner<'a> {
        Scanner::with_level(text, window, Level::best())
    }

    #[inline]
    pub fn with_level(text: &'a str, window: &'a mut Window, level: Level) -> Scanner<'a> {
        let bytes = text.as_bytes();
        window.fill(level, bytes);
        let stops = window.stops(0);
        Scanner {
            bytes,
            window,
            level,
            chunk_at: 0,
            stops,
            at: 0,
            depth: 0,
            depth_floor: 0,
            objects: 0,
            is_fresh: false,
        }
    }

    /// Allows fewer levels than `DEPTH_MAX`. Called before anything is pulled.
    #[inline]
    pub fn limit_depth(mut self, depth_max: u32) -> Scanner<'a> {
        assert!(self.depth == self.depth_floor && 0 < depth_max && depth_max <= DEPTH_MAX);
        self.depth_floor = DEPTH_MAX - depth_max;
        self.depth = self.depth_floor;
        self
    }

    /// The next byte that has meaning, 0 at the end. White space before it is passed.
    #[inline(always)]
    pub fn peek(&mut self) -> u8 {
        match self.bytes.get(self.at) {
            Some(&byte) if byte > b' ' => byte,
            Some(_) => {
                self.at = skip_space(self.bytes, self.at);
                self.bytes.get(self.at).copied().unwrap_or(0)
            }
            None => 0,
        }
    }

    /// Offset of what comes next. White space before it is passed once `peek` was called.
    #[inline(always)]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Enters an object; `next_key` goes through it.
    #[inline(always)]
    pub fn begin_object(&mut self) -> Result<(), JsonError> {
        if self.peek() != b'{' {
            return Err(unexpected(self.bytes, self.at, Expected::Object));
        }
        self.is_fresh = true;
        self.open(1)
    }

    /// Enters an array; `next_element` goes through it.
    #[inline(always)]
    pub fn begin_array(&mut self) -> Result<(), JsonError> {
        if self.peek() != b'[' {
            return Err(unexpected(self.bytes, self.at, Expected::Array));
        }
        self.is_fresh = true;
        self.open(0)
    }

    /// The next key of the object that was entered, or `None` when it has closed. Its value must be pulled next.
    #[inline(always)]
    pub fn next_key(&mut self) -> Result<Option<Text>, JsonError> {
        if !self.is_fresh && has_pair(self.bytes, self.at, b",\"") {
            self.at += 1;
        } else {
            let mut byte = self.peek();
            if byte == b'}' {
                self.is_fresh = false;
                self.close();
                return Ok(None);
            }
            if !self.is_fresh {
                if byte != b',' {
                    return Err(unexpected(self.bytes, self.at, Expected::CommaOrBrace));
                }
                self.at += 1;
                byte = self.peek();
            }
            if byte != b'"' {
                return Err(unexpected(self.bytes, self.at, Expected::Key));
            }
            self.is_fresh = false;
        }
        self.key().map(Some)
    }

    /// Whether the array that was entered has another element; it must be pulled next. At `false` the array has closed.
    #[inline(always)]
    pub fn next_element(&mut self) -> Result<bool, JsonError> {
        let byte = self.peek();
        if byte == b']' {
            self.is_fresh = false;
            self.close();
            return Ok(false);
        }
        if !self.is_fresh {
            if byte != b',' {
                return Err(unexpected(self.bytes, self.at, Expected::CommaOrBracket));
            }
            self.at += 1;
        }
        self.is_fresh = false;
        Ok(true)
    }

    /// Validates and passes one value of any kind.
    #[inline(always)]
    pub fn value(&mut self) -> Result<Value, JsonError> {
        let mut byte = self.peek();
        let start = self.at;
        let kind = KINDS[byte as usize];
        let floor = self.depth;
        let mut is_escaped = false;
        loop {
            let is_at_key = match byte {
                b'"' => {
                    is_escaped = self.string()?.is_escaped;
                    false
                }
                b'{' => {
                    self.open(1)?;
                    byte = self.peek();
                    if byte == b'}' {
                        self.close();
                    } else if byte != b'"' {
                        return Err(unexpected(self.bytes, self.at, Expected::Key));
                    }
                    byte == b'"'
                }
                b'[' => {
                    self.open(0)?;
                    byte = self.peek();
                    if byte != b']' {
                        continue;
                    }
                    self.close();
                    false
                }
                b'-' | b'0'..=b'9' => {
                    self.at = number(self.bytes, self.at)?;
                    false
                }
                b't' => {
                    self.literal(b"true")?;
                    false
                }
                b'f' => {
                    self.literal(b"false")?;
                    false
                }
                b'n' => {
                    self.literal(b"null")?;
                    false
                }
                _ => return Err(unexpected(self.bytes, self.at, Expected::Value)),
            };
            if is_at_key || self.end_values(floor)? {
                self.key()?;
            } else if self.depth == floor {
                return Ok(Value { start, end: self.at, kind, is_escaped: is_escaped & (kind == Kind::String) });
            }
            byte = self.peek();
        }
    }

    /// After a value: closes what ends with it, up to the next key (`true`), the next element, or the level `floor`.
    #[inline(always)]
    fn end_values(&mut self, floor: u32) -> Result<bool, JsonError> {
        loop {
            if self.depth == floor {
                return Ok(false);
            }
            let in_object = self.objects & 1 == 1;
            if in_object && has_pair(self.bytes, self.at, b",\"") {
                self.at += 1;
                return Ok(true);
            }
            let byte = self.peek();
            if byte == b',' {
                self.at += 1;
                if in_object && self.peek() != b'"' {
                    return Err(unexpected(self.bytes, self.at, Expected::Key));
                }
                return Ok(in_object);
            }
            if byte != if in_object { b'}' } else { b']' } {
                let expected = if in_object { Expected::CommaOrBrace } else { Expected::CommaOrBracket };
                return Err(unexpected(self.bytes, self.at, expected));
            }
            self.close();
        }
    }

    /// Nothing but white space may follow.
    #[inline(always)]
    pub fn finish(mut self) -> Result<(), JsonError> {
        self.peek();
        assert!(self.depth == self.depth_floor);
        if self.at < self.bytes.len() {
            return Err(unexpected(self.bytes, self.at, Expected::End));
        }
        Ok(())
    }

    #[inline(always)]
    fn open(&mut self, is_object: u64) -> Result<(), JsonError> {
        if self.depth == DEPTH_MAX {
            return Err(refuse(self.at, JsonReason::Depth { max: DEPTH_MAX - self.depth_floor }));
        }
        self.depth += 1;
        self.objects = self.objects << 1 | is_object;
        self.at += 1;
        Ok(())
    }

    #[inline(always)]
    fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
        self.at += 1;
    }

    /// A key and its colon; the next byte is the opening quote.
    #[inline(always)]
    fn key(&mut self) -> Result<Text, JsonError> {
        let start = self.at + 1;
        let end = self.next_stop(start);
        if has_pair(self.bytes, end, b"\":") {
            self.at = end + 2;
            return Ok(Text { start, end, is_escaped: false });
        }
        let (end, is_escaped) = end_of_string(self.bytes, start, end)?;
        self.at = end + 1;
        if self.peek() != b':' {
            return Err(unexpected(self.bytes, self.at, Expected::Colon));
        }
        self.at += 1;
        Ok(Text { start, end, is_escaped })
    }

    /// A string; the next byte is its opening quote.
    #[inline(always)]
    fn string(&mut self) -> Result<Text, JsonError> {
        let start = self.at + 1;
        let end = self.next_stop(start);
        let (end, is_escaped) =
            if self.bytes.get(end) == Some(&b'"') { (end, false) } else { end_of_string(self.bytes, start, end)? };
        self.at = end + 1;
        Ok(Text { start, end, is_escaped })
    }

    /// The first quote, backslash or control character at or behind `from`, or the end of the body. `from` never goes back
    /// behind a stop that was found.
    #[inline(always)]
    fn next_stop(&mut self, from: usize) -> usize {
        let mut offset = from - self.chunk_at;
        loop {
            if offset < CHUNK_BYTES {
                let stops = self.stops & (u64::MAX << offset);
                if stops != 0 {
                    return self.chunk_at + stops.trailing_zeros() as usize;
                }
            }
            offset = offset.saturating_sub(CHUNK_BYTES);
            self.chunk_at += CHUNK_BYTES;
            if self.chunk_at.is_multiple_of(WINDOW_CHUNKS * CHUNK_BYTES) {
                let rest = self.bytes.get(self.chunk_at..).unwrap_or_default();
                self.window.fill(self.level, rest);
            }
            self.stops = self.window.stops(self.chunk_at / CHUNK_BYTES);
        }
    }

    #[inline(always)]
    fn literal(&mut self, word: &[u8]) -> Result<(), JsonError> {
        let end = self.at + word.len();
        if self.bytes.get(self.at..end) != Some(word) {
            return Err(bad_literal(self.bytes, self.at, word));
        }
        self.at = end;
        Ok(())
    }
}

/// The body as text. Everything behind this step may count on it.
#[inline]
pub fn as_text(body: &[u8]) -> Result<&str, JsonError> {
    simdutf8::compat::from_utf8(body).map_err(|error| refuse(error.valid_up_to(), JsonReason::Utf8))
}

/// Validates a whole document.
pub fn validate(body: &[u8], window: &mut Window) -> Result<Value, JsonError> {
    validate_with(Level::best(), body, window)
}

pub(super) fn validate_with(level: Level, body: &[u8], window: &mut Window) -> Result<Value, JsonError> {
    let mut scanner = Scanner::with_level(as_text(body)?, window, level);
    let value = scanner.value()?;
    scanner.finish()?;
    Ok(value)
}

/// Appends the string that `raw`, the inside of a validated string, stands for.
pub fn unescape(raw: &str, out: &mut String) {
    let mut rest = raw;
    while let Some(slash) = rest.find('\\') {
        out.push_str(&rest[..slash]);
        let code = rest.as_bytes()[slash + 1];
        rest = &rest[slash + 2..];
        out.push(match code {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = hex4(rest.as_bytes(), 0).expect("the scanner has checked the escape");
                rest = &rest[4..];
                let mut code_point = u32::from(unit);
                if (0xd800..0xdc00).contains(&unit) {
                    let low = hex4(rest.as_bytes(), 2).expect("the scanner has checked the pair");
                    rest = &rest[6..];
                    code_point = 0x10000 + ((code_point - 0xd800) << 10) + (u32::from(low) - 0xdc00);
                }
                char::from_u32(code_point).expect("pairs are joined and lone halves refused")
            }
            other => char::from(other),
        });
    }
    out.push_str(rest);
}

/// Two bytes that most encoders write side by side are one comparison. Where there is space between them, the longer way is
/// taken.
#[inline(always)]
fn has_pair(bytes: &[u8], at: usize, pair: &[u8; 2]) -> bool {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()) == Some(pair)
}

/// First offset at or behind `at` that is not white space.
#[inline(always)]
fn skip_space(bytes: &[u8], at: usize) -> usize {
    let next = at + 1;
    // One space behind a colon or a comma is what most encoders write.
    if bytes[at] == b' ' && bytes.get(next).is_some_and(|&byte| byte > b' ') {
        return next;
    }
    skip_spaces(bytes, at)
}

#[inline(never)]
fn skip_spaces(bytes: &[u8], at: usize) -> usize {
    let mut at = at;
    // Indentation comes in runs of spaces.
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk) ^ 0x2020_2020_2020_2020;
        if word == 0 {
            at += 8;
            continue;
        }
        at += (word.trailing_zeros() / 8) as usize;
        match bytes[at] {
            b'\n' | b'\r' | b'\t' => at += 1,
            _ => return at,
        }
    }
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// End of the number that begins at `at` with a digit or a minus.
#[inline(always)]
fn number(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let mut at = at;
    if bytes[at] == b'-' {
        at += 1;
    }
    match bytes.get(at) {
        Some(b'0') => {
            at += 1;
            if bytes.get(at).is_some_and(u8::is_ascii_digit) {
                return Err(refuse(at - 1, JsonReason::LeadingZero));
            }
        }
        Some(b'1'..=b'9') => at = skip_digits(bytes, at + 1),
        _ => return Err(unexpected(bytes, at, Expected::Digit)),
    }
    match bytes.get(at) {
        Some(b'.' | b'e' | b'E') => number_tail(bytes, at),
        _ => Ok(at),
    }
}

/// Fraction and exponent.
#[inline(always)]
fn number_tail(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let mut at = at;
    if bytes[at] == b'.' {
        let from = at + 1;
        at = skip_digits(bytes, from);
        if at == from {
            return Err(unexpected(bytes, at, Expected::Digit));
        }
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        let from = at;
        at = skip_digits(bytes, from);
        if at == from {
            return Err(unexpected(bytes, at, Expected::Digit));
        }
    }
    Ok(at)
}

#[inline(always)]
fn skip_digits(bytes: &[u8], at: usize) -> usize {
    const LOWS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let mut at = at;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // A digit becomes 0 to 9; anything larger reaches the high bit when 0x76 is added, without a carry.
        let word = u64::from_le_bytes(*chunk) ^ 0x3030_3030_3030_3030;
        let others = (((word & LOWS) + 0x7676_7676_7676_7676) | word) & !LOWS;
        if others != 0 {
            return at + (others.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

/// The closing quote of a string whose first stop stands at `stop`, and whether there are escapes. For strings with escapes,
/// and strings that are none.
#[inline(never)]
fn end_of_string(bytes: &[u8], start: usize, stop: usize) -> Result<(usize, bool), JsonError> {
    let mut end = stop;
    while bytes.get(end) == Some(&b'\\') {
        end = plain_end(bytes, escape(bytes, start, end)?);
    }
    if bytes.get(end) != Some(&b'"') {
        return Err(bad_string(bytes, start, end));
    }
    Ok((end, end != stop))
}

/// The first quote, backslash or control character at or behind `at`, or the end.
#[inline]
fn plain_end(bytes: &[u8], at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = at;
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        // Quotes become 0x20 and control characters stay below it. A borrow can only mark bytes behind a true hit, so the
        // lowest mark is right.
        let flipped = word ^ (ONES * 0x02);
        let slashes = word ^ (ONES * 0x5c);
        let low = flipped.wrapping_sub(ONES * 0x21) & !flipped;
        let stops = (low | (slashes.wrapping_sub(ONES) & !slashes)) & HIGHS;
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        at += 1;
    }
    at
}

/// Offset behind the escape whose backslash stands at `at`, in the string whose inside begins at `start`.
#[inline]
fn escape(bytes: &[u8], start: usize, at: usize) -> Result<usize, JsonError> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => unicode_escape(bytes, at).ok_or_else(|| bad_unicode_escape(bytes, start, at)),
        _ => Err(bad_escape(bytes, start, at, JsonReason::Escape)),
    }
}

#[inline(never)]
fn unicode_escape(bytes: &[u8], at: usize) -> Option<usize> {
    match hex4(bytes, at + 2)? {
        0 => None,
        0xd800..=0xdbff => {
            if bytes.get(at + 6..at + 8) != Some(b"\\u") {
                return None;
            }
            let low = hex4(bytes, at + 8)?;
            (0xdc00..=0xdfff).contains(&low).then_some(at + 12)
        }
        0xdc00..=0xdfff => None,
        _ => Some(at + 6),
    }
}

/// Four hexadecimal digits.
fn hex4(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 4)?;
    let mut unit = 0;
    for &digit in digits {
        unit = unit << 4 | char::from(digit).to_digit(16)? as u16;
    }
    Some(unit)
}

#[cold]
#[inline(never)]
fn refuse(at: usize, reason: JsonReason) -> JsonError {
    JsonError { at, reason }
}

#[cold]
#[inline(never)]
fn unexpected(bytes: &[u8], at: usize, expected: Expected) -> JsonError {
    let reason = if at < bytes.len() { JsonReason::Expected(expected) } else { JsonReason::Ends(expected) };
    JsonError { at, reason }
}

#[cold]
#[inline(never)]
fn bad_string(bytes: &[u8], start: usize, end: usize) -> JsonError {
    match bytes.get(end) {
        Some(&byte) => JsonError { at: end, reason: JsonReason::ControlCharacter(byte) },
        None => JsonError { at: start - 1, reason: JsonReason::UnterminatedString },
    }
}

#[cold]
#[inline(never)]
fn bad_escape(bytes: &[u8], start: usize, at: usize, reason: JsonReason) -> JsonError {
    if at + 1 == bytes.len() {
        return JsonError { at: start - 1, reason: JsonReason::UnterminatedString };
    }
    JsonError { at, reason }
}

#[cold]
#[inline(never)]
fn bad_unicode_escape(bytes: &[u8], start: usize, at: usize) -> JsonError {
    let reason = match hex4(bytes, at + 2) {
        None => JsonReason::Escape,
        Some(0) => JsonReason::NulEscape,
        Some(_) => JsonReason::LoneSurrogate,
    };
    bad_escape(bytes, start, at, reason)
}

/// A wrong word is reported where it begins, a cut one where the body ends.
#[cold]
#[inline(never)]
fn bad_literal(bytes: &[u8], at: usize, word: &[u8]) -> JsonError {
    let is_cut = word.starts_with(&bytes[at..]);
    unexpected(bytes, if is_cut { bytes.len() } else { at }, Expected::Value)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

    use super::*;

    /// What every kernel says of a body, which must be the same, pulled piece by piece or at once.
    fn verdict(bytes: &[u8]) -> Result<Value, JsonError> {
        let mut window = Window::default();
        let verdict = validate_with(Level::Portable, bytes, &mut window);
        for level in Level::available() {
            assert_eq!(validate_with(level, bytes, &mut window), verdict, "{level:?}: {bytes:?}");
        }
        if let Ok(text) = as_text(bytes) {
            let mut scanner = Scanner::new(text, &mut window);
            let pulled = pull(&mut scanner).and_then(|()| scanner.finish());
            assert_eq!(pulled.err(), verdict.err(), "pulled: {bytes:?}");
        }
        verdict
    }

    /// Goes through a value by its parts.
    fn pull(scanner: &mut Scanner<'_>) -> Result<(), JsonError> {
        match scanner.peek() {
            b'{' => {
                scanner.begin_object()?;
                while scanner.next_key()?.is_some() {
                    pull(scanner)?;
                }
                Ok(())
            }
            b'[' => {
                scanner.begin_array()?;
                while scanner.next_element()? {
                    pull(scanner)?;
                }
                Ok(())
            }
            _ => scanner.value().map(|_| ()),
        }
    }

    #[test]
    fn what_the_standard_allows_is_accepted() {
        let accepted: &[&str] = &[
            "null",
            "true",
            "false",
            "0",
            "-0",
            "1",
            "-1",
            "10",
            "1234567890",
            "12345678",
            "123456789012345678901234567890",
            "0.5",
            "-0.5",
            "0.0",
            "1.25",
            "1e1",
            "1E1",
            "1e+1",
            "1e-1",
            "1E+01",
            "0e0",
            "0E0",
            "-0e-0",
            "1.5e10",
            "1e999",
            "-1e-999",
            "0.00000000000000000000000000001",
            "123.456e78",
            "1.0e00",
            "\"\"",
            "\"a\"",
            "\" \"",
            "\"\\\"\"",
            "\"\\\\\"",
            "\"\\/\"",
            "\"/\"",
            "\"\\b\\f\\n\\r\\t\"",
            "\"\\u0001\"",
            "\"\\u0020\"",
            "\"\\u00e9\"",
            "\"\\u00E9\"",
            "\"\\uFFFF\"",
            "\"\\ufeff\"",
            "\"\\ud83d\\ude00\"",
            "\"\\uD83D\\uDE00\"",
            "\"\\ud800\\udc00\"",
            "\"\\udbff\\udfff\"",
            "\"a\\u0041b\"",
            "\"\u{e9}\"",
            "\"\u{1f600}\"",
            "\"\u{7f}\"",
            "\"\u{80}\"",
            "\"\u{2028}\u{2029}\"",
            "\"\u{feff}\"",
            "\"\u{fffe}\u{ffff}\"",
            "\"\u{10ffff}\"",
            "\"\\\\u0000\"",
            "\"\\\\\\\\\"",
            "\"\\\\\\\"\"",
            "\"'\"",
            "\"{}[]:,\"",
            "\"0123456789012345678901234567890123456789\"",
            "[]",
            "[ ]",
            "[1]",
            "[1,2]",
            "[ 1 , 2 ]",
            "[[]]",
            "[[],[]]",
            "[[[[[[]]]]]]",
            "[{}]",
            "[null,true,false,0,\"\",[],{}]",
            "[1\n,2\r,3\t]",
            "[\"a\",\"b\"]",
            "[-1,-0.0]",
            "[1e1,2]",
            "{}",
            "{ }",
            "{\"\":0}",
            "{\"a\":1}",
            "{ \"a\" : 1 }",
            "{\"a\":1,\"b\":2}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":{\"b\":{}}}",
            "{\"a\":[]}",
            "{\"a\":[1,{\"b\":[2]}],\"c\":null}",
            "{\"\\u0061\":1}",
            "{\"\u{e9}\":1}",
            "{\"a\\\"b\":1}",
            "{\"a\":\"\\u00e9\"}",
            " 1",
            "1 ",
            "\t1",
            "\n1",
            "\r1",
            "\r\n\t 1 \r\n\t ",
            "  {}  ",
            "         {}         ",
            "{\n    \"a\": 1,\n    \"b\": [\n        2\n    ]\n}",
        ];
        for text in accepted {
            let value = verdict(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(&text[value.span()], text.trim(), "{text:?}");
        }
    }

    /// Where and why a body is refused.
    fn refused(body: impl AsRef<[u8]>, at: usize, reason: JsonReason) {
        let body = body.as_ref();
        assert_eq!(verdict(body), Err(JsonError { at, reason }), "{:?}", String::from_utf8_lossy(body));
    }

    #[test]
    fn a_refusal_names_the_first_wrong_byte() {
        use Expected::*;
        use JsonReason::{Ends, Expected as Want};
        for (body, at, what) in [
            ("", 0, Value),
            (" ", 1, Value),
            ("\n\n", 2, Value),
            ("t", 1, Value),
            ("tru", 3, Value),
            ("nul", 3, Value),
            ("fals", 4, Value),
            ("[", 1, Value),
            ("[ ", 2, Value),
            ("[1", 2, CommaOrBracket),
            ("[1 ", 3, CommaOrBracket),
            ("[1,", 3, Value),
            ("[[]", 3, CommaOrBracket),
            ("{", 1, Key),
            ("{ ", 2, Key),
            ("{\"a\"", 4, Colon),
            ("{\"a\" ", 5, Colon),
            ("{\"a\":", 5, Value),
            ("{\"a\": ", 6, Value),
            ("{\"a\":1", 6, CommaOrBrace),
            ("{\"a\":1,", 7, Key),
            ("{\"a\":[1", 7, CommaOrBracket),
            ("{\"a\":{}", 7, CommaOrBrace),
            ("-", 1, Digit),
            ("1.", 2, Digit),
            ("1e", 2, Digit),
            ("1e+", 3, Digit),
            ("1e-", 3, Digit),
            ("1.5E", 4, Digit),
            ("[-", 2, Digit),
        ] {
            refused(body, at, Ends(what));
        }
        for (body, at, what) in [
            ("x", 0, Value),
            ("\0", 0, Value),
            ("\u{b}1", 0, Value),
            ("\u{c}1", 0, Value),
            ("\u{a0}1", 0, Value),
            ("\u{feff}1", 0, Value),
            ("'a'", 0, Value),
            ("+1", 0, Value),
            (".5", 0, Value),
            ("NaN", 0, Value),
            ("Infinity", 0, Value),
            ("True", 0, Value),
            ("TRUE", 0, Value),
            ("None", 0, Value),
            ("undefined", 0, Value),
            ("trux", 0, Value),
            ("nulL", 0, Value),
            ("falsy", 0, Value),
            ("t rue", 0, Value),
            ("]", 0, Value),
            ("}", 0, Value),
            (",", 0, Value),
            (":", 0, Value),
            ("/* */1", 0, Value),
            ("//\n1", 0, Value),
            ("#1", 0, Value),
            ("(1)", 0, Value),
            ("\\u0031", 0, Value),
            ("\u{e9}", 0, Value),
            ("-x", 1, Digit),
            ("--1", 1, Digit),
            ("-+1", 1, Digit),
            ("- 1", 1, Digit),
            ("-.5", 1, Digit),
            ("-Infinity", 1, Digit),
            ("-\"\"", 1, Digit),
            ("1.x", 2, Digit),
            ("1..2", 2, Digit),
            ("1.e1", 2, Digit),
            ("1ex", 2, Digit),
            ("1e 1", 2, Digit),
            ("1e++1", 3, Digit),
            ("1e1.5", 3, End),
            ("1.2.3", 3, End),
            ("[1.]", 3, Digit),
            ("1 2", 2, End),
            ("1x", 1, End),
            ("1,", 1, End),
            ("1]", 1, End),
            ("nullx", 4, End),
            ("truee", 4, End),
            ("{}{}", 2, End),
            ("[]]", 2, End),
            ("{}}", 2, End),
            ("\"\"\"", 2, End),
            ("\"a\"b", 3, End),
            ("1\0", 1, End),
            ("1 \0", 2, End),
            ("0x10", 1, End),
            ("0b1", 1, End),
            ("1_000", 1, End),
            ("1f", 1, End),
            ("1L", 1, End),
            ("null null", 5, End),
            ("[] //", 3, End),
            ("1\u{2028}", 1, End),
            ("[,]", 1, Value),
            ("[1,]", 3, Value),
            ("[1,,2]", 3, Value),
            ("[:1]", 1, Value),
            ("[}", 1, Value),
            ("[x]", 1, Value),
            ("[1,x]", 3, Value),
            ("[\u{a0}]", 1, Value),
            ("['a']", 1, Value),
            ("[*]", 1, Value),
            ("[1 2]", 3, CommaOrBracket),
            ("[1}", 2, CommaOrBracket),
            ("[1:2]", 2, CommaOrBracket),
            ("[\"a\":1]", 4, CommaOrBracket),
            ("[\"a\" \"b\"]", 5, CommaOrBracket),
            ("[[]1]", 3, CommaOrBracket),
            ("[1\u{b}]", 2, CommaOrBracket),
            ("[1;2]", 2, CommaOrBracket),
            ("[nullx]", 5, CommaOrBracket),
            ("[0x1]", 2, CommaOrBracket),
            ("[{}}", 3, CommaOrBracket),
            ("{,}", 1, Key),
            ("{1:2}", 1, Key),
            ("{a:1}", 1, Key),
            ("{'a':1}", 1, Key),
            ("{null:1}", 1, Key),
            ("{]", 1, Key),
            ("{[]:1}", 1, Key),
            ("{:1}", 1, Key),
            ("{\"a\":1,}", 7, Key),
            ("{\"a\":1,,\"b\":2}", 7, Key),
            ("{\"a\":1,b:2}", 7, Key),
            ("{{}:1}", 1, Key),
            ("{\"a\":1, 2}", 8, Key),
            ("{\"a\"}", 4, Colon),
            ("{\"a\",\"b\"}", 4, Colon),
            ("{\"a\" 1}", 5, Colon),
            ("{\"a\"=1}", 4, Colon),
            ("{\"a\"\"b\"}", 4, Colon),
            ("{\"a\";1}", 4, Colon),
            ("{\"a\":}", 5, Value),
            ("{\"a\":,}", 5, Value),
            ("{\"a\"::1}", 5, Value),
            ("{\"a\":x}", 5, Value),
            ("{\"a\":tru}", 5, Value),
            ("{\"a\":]", 5, Value),
            ("{\"a\":1]", 6, CommaOrBrace),
            ("{\"a\":1 \"b\":2}", 7, CommaOrBrace),
            ("{\"a\":1:2}", 6, CommaOrBrace),
            ("{\"a\":\"b\"\"c\"}", 8, CommaOrBrace),
            ("{\"a\":[]]", 7, CommaOrBrace),
            ("{\"a\":1;\"b\":2}", 6, CommaOrBrace),
        ] {
            refused(body, at, Want(what));
        }
        for (body, at) in [("00", 0), ("01", 0), ("-01", 1), ("[01]", 1), ("-00", 1), ("{\"a\":007}", 5), ("012.5", 0)]
        {
            refused(body, at, JsonReason::LeadingZero);
        }
        for (body, at) in [
            ("\"", 0),
            ("\"a", 0),
            ("[\"a]", 1),
            ("{\"a", 1),
            ("{\"a\":\"", 5),
            ("\"\\", 0),
            ("\"\\\"", 0),
            ("\"\u{e9}", 0),
        ] {
            refused(body, at, JsonReason::UnterminatedString);
        }
        for (body, at, byte) in [
            ("\"\0\"", 1, 0),
            ("\"a\nb\"", 2, b'\n'),
            ("\"\t\"", 1, b'\t'),
            ("\"\r\"", 1, b'\r'),
            ("\"abc\u{1f}\"", 4, 0x1f),
            ("\"\u{1}", 1, 1),
            ("{\"a\n\":1}", 3, b'\n'),
            ("[\"\u{8}\"]", 2, 8),
            ("\"\u{e9}\u{1b}\"", 3, 0x1b),
        ] {
            refused(body, at, JsonReason::ControlCharacter(byte));
        }
        for (body, at) in [
            ("\"\\x\"", 1),
            ("\"\\0\"", 1),
            ("\"\\a\"", 1),
            ("\"\\v\"", 1),
            ("\"\\'\"", 1),
            ("\"\\ \"", 1),
            ("\"\\N\"", 1),
            ("\"\\U0041\"", 1),
            ("\"\\\n\"", 1),
            ("\"a\\q\"", 2),
            ("\"\\u\"", 1),
            ("\"\\u0\"", 1),
            ("\"\\u00\"", 1),
            ("\"\\u004\"", 1),
            ("\"\\u004g\"", 1),
            ("\"\\u 041\"", 1),
            ("\"\\u+041\"", 1),
            ("\"\\u-041\"", 1),
            ("\"\\u{41}\"", 1),
            ("\"\\u00\u{e9}\"", 1),
            ("\"\\u12", 1),
            ("{\"\\z\":1}", 2),
            ("\"\\\u{e9}\"", 1),
        ] {
            refused(body, at, JsonReason::Escape);
        }
        for (body, at) in [
            ("\"\\ud800\"", 1),
            ("\"\\uD83D\"", 1),
            ("\"\\udc00\"", 1),
            ("\"\\uDFFF\"", 1),
            ("\"a\\ud800b\"", 2),
            ("\"\\ud800\\n\"", 1),
            ("\"\\ud800\\u0041\"", 1),
            ("\"\\ud800\\ud800\"", 1),
            ("\"\\ude00\\ud83d\"", 1),
            ("\"\\ud800\\u\"", 1),
            ("\"\\ud83d\\ude00\\ud83d\"", 13),
            ("\"\\ud83dude00\"", 1),
            ("\"\\ud83d\\\\ude00\"", 1),
            ("{\"\\ud800\":1}", 2),
        ] {
            refused(body, at, JsonReason::LoneSurrogate);
        }
        for (body, at) in [("\"\\u0000\"", 1), ("\"a\\u0000\"", 2), ("{\"\\u0000\":1}", 2), ("[\"\\\\\\u0000\"]", 4)] {
            refused(body, at, JsonReason::NulEscape);
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused_where_they_stand() {
        for (inside, at) in [
            (&b"\x80"[..], 1),
            (b"a\xff", 2),
            (b"\xc0\xaf", 1),
            (b"\xc1\xbf", 1),
            (b"\xc3", 1),
            (b"\xc3\x28", 1),
            (b"ab\xe2\x82", 3),
            (b"\xe0\x80\x80", 1),
            (b"\xed\xa0\x80", 1),
            (b"\xed\xbf\xbf", 1),
            (b"\xf0\x80\x80\x80", 1),
            (b"\xf4\x90\x80\x80", 1),
            (b"\xf5\x80\x80\x80", 1),
            (b"\xf0\x9f\x98", 1),
            (b"\xc3\xa9\xc3", 3),
            (b"\xfe", 1),
            (b"x\\n\xff\\q", 4),
            (b"\xff\x01", 1),
            (b"\xff\\ud800", 1),
        ] {
            let body = [b"\"", inside, b"\""].concat();
            refused(&body, at, JsonReason::Utf8);
        }
        refused(b"\"ab\xff", 3, JsonReason::Utf8);
        refused(b"\xff", 0, JsonReason::Utf8);
        refused(b"x\xff", 1, JsonReason::Utf8);
        refused(b"[1\xc3\xa9]", 2, JsonReason::Expected(Expected::CommaOrBracket));
        // Whatever stands at the border of a window.
        for len in 4080..4110 {
            let mut body = vec![b'"'];
            body.resize(len, b'x');
            body.extend_from_slice("\u{e9}\"".as_bytes());
            assert!(verdict(&body).is_ok());
            body[len + 1] = b'x';
            refused(&body, len, JsonReason::Utf8);
        }
    }

    #[test]
    fn depth_has_a_ceiling_and_a_bomb_is_not_read_beyond_it() {
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        assert!(verdict(&nested(64)).is_ok());
        refused(nested(65), 64, JsonReason::Depth { max: DEPTH_MAX });
        let objects = "{\"a\":".repeat(64) + "1" + &"}".repeat(64);
        assert!(verdict(objects.as_bytes()).is_ok());
        refused("{\"a\":".repeat(65), 64 * 5, JsonReason::Depth { max: DEPTH_MAX });
        assert!(verdict(b"[{\"a\":[]}]").is_ok());
        let wide = format!("[{}[]]", "[[[]]],".repeat(1000));
        assert!(verdict(wide.as_bytes()).is_ok());

        let bomb = vec![b'['; 16 << 20];
        let mut window = Window::default();
        assert_eq!(
            validate(&bomb, &mut window),
            Err(JsonError { at: 64, reason: JsonReason::Depth { max: DEPTH_MAX } })
        );
    }

    #[test]
    fn errors_read_as_sentences() {
        let text = |body: &str| verdict(body.as_bytes()).unwrap_err().to_string();
        assert_eq!(text("{\"event_type\" \"a\"}"), "expected ':' at byte 14");
        assert_eq!(text("{\"a\":1"), "expected ',' or '}' at byte 6, where the body ends");
        assert_eq!(text("[1] x"), "expected the end of the body at byte 4");
        assert_eq!(text("[\"a"), "the string that begins at byte 1 has no end");
        assert_eq!(text("\"a\nb\""), "control character 0x0a in a string at byte 2, it must be escaped");
    }

    #[test]
    fn values_tell_their_kind_and_place() {
        let body = r#" { "a" : [1, 2] , "b":"x\n", "c":-1.5e3,"d":true,"e":null,"f":{"g":[]} } "#;
        let mut window = Window::default();
        let mut scanner = Scanner::new(body, &mut window);
        scanner.begin_object().unwrap();
        let mut found = Vec::new();
        while let Some(key) = scanner.next_key().unwrap() {
            let value = scanner.value().unwrap();
            found.push((&body[key.span()], value.kind, &body[value.span()]));
        }
        scanner.finish().unwrap();
        let expected = vec![
            ("a", Kind::Array, "[1, 2]"),
            ("b", Kind::String, "\"x\\n\""),
            ("c", Kind::Number, "-1.5e3"),
            ("d", Kind::Bool, "true"),
            ("e", Kind::Null, "null"),
            ("f", Kind::Object, "{\"g\":[]}"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn unescaped_strings_are_what_the_oracle_says() {
        for raw in [
            "",
            "a",
            "\\\"\\\\\\/\\b\\f\\n\\r\\t",
            "\\u0041\\u00e9\\u20ac\\ud83d\\ude00x",
            "\u{e9}\\n\u{1f600}",
            "\\\\u0041",
            "\\udbff\\udfff",
        ] {
            let text = format!("\"{raw}\"");
            let value = verdict(text.as_bytes()).unwrap();
            let mut scratch = String::from("left over");
            let ours = value.text().resolve(&text, &mut scratch);
            assert_eq!(ours, serde_json::from_str::<String>(&text).unwrap());
        }
    }

    /// Both oracles and what is known to set us apart from them.
    fn compare(bytes: &[u8]) {
        let ours = verdict(bytes);
        let stricter = matches!(ours, Err(JsonError { reason: JsonReason::Depth { .. } | JsonReason::NulEscape, .. }));
        if stricter {
            return;
        }
        let shown = String::from_utf8_lossy(bytes);
        // Numbers beyond f64 are text to us and an error to serde_json.
        match serde_json::from_slice::<serde_json::Value>(bytes) {
            Ok(_) => assert!(ours.is_ok(), "serde_json accepts {shown:?}: {ours:?}"),
            Err(error) if error.to_string().contains("number out of range") => {}
            Err(error) => assert!(ours.is_err(), "serde_json refuses {shown:?}: {error}"),
        }
        // simd-json refuses integers beyond 64 bits as well, and numbers of many digits that it cannot hold.
        let mut copy = bytes.to_vec();
        match simd_json::to_owned_value(&mut copy) {
            Ok(_) => assert!(ours.is_ok(), "simd-json accepts {shown:?}: {ours:?}"),
            Err(error) if matches!(error.error(), simd_json::ErrorType::InvalidNumber) => {}
            Err(error) => assert!(ours.is_err(), "simd-json refuses {shown:?}: {error}"),
        }
    }

    fn json_text() -> impl Strategy<Value = String> {
        let string = prop_oneof![
            "[ -~]{0,12}",
            "\\PC{0,40}",
            vec(
                prop_oneof![
                    Just("\\n"),
                    Just("\\\""),
                    Just("\\\\"),
                    Just("\\u00e9"),
                    Just("\\ud83d\\ude00"),
                    Just("x"),
                    Just("\u{20ac}")
                ],
                0..8
            )
            .prop_map(|parts| format!("\u{0}{}", parts.concat())),
        ]
        .prop_map(|text| match text.strip_prefix('\u{0}') {
            Some(raw) => format!("\"{raw}\""),
            None => serde_json::to_string(&text).unwrap(),
        });
        let number = prop_oneof![
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>()
                .prop_filter("finite", |number| number.is_finite())
                .prop_map(|number| serde_json::to_string(&number).unwrap()),
            "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?",
        ];
        let space =
            prop_oneof![4 => Just(""), 1 => "[ \\n\\r\\t]{0,12}".prop_map(|text| &*Box::leak(text.into_boxed_str()))];
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("false".to_owned()),
            number,
            string.clone()
        ];
        leaf.prop_recursive(6, 48, 6, move |inner| {
            let element = (space.clone(), inner.clone(), space.clone())
                .prop_map(|(left, value, right)| format!("{left}{value}{right}"));
            let member = (space.clone(), string.clone(), space.clone(), element.clone())
                .prop_map(|(left, key, right, value)| format!("{left}{key}{right}:{value}"));
            prop_oneof![
                vec(element, 0..6).prop_map(|parts| format!("[{}]", parts.join(","))),
                vec(member, 0..6).prop_map(|parts| format!("{{{}}}", parts.join(","))),
            ]
        })
    }

    /// One change to a document: at a place, remove, replace, insert, repeat or cut.
    fn mutate(bytes: &mut Vec<u8>, (action, place, byte): (u8, usize, u8)) {
        const HOSTILE: &[u8] =
            b"\"\\{}[]:,0123456789-+.eEtrufalsn/ \n\t\0\x01\x1f\x7f\x80\xbf\xc3\xa9\xe2\xed\xa0\xf0\x9f\xff";
        let byte = if action.is_multiple_of(2) { HOSTILE[byte as usize % HOSTILE.len()] } else { byte };
        if bytes.is_empty() {
            bytes.push(byte);
            return;
        }
        let place = place % bytes.len();
        match action % 10 {
            0..=2 => bytes[place] = byte,
            3..=5 => bytes.insert(place, byte),
            6 | 7 => drop(bytes.remove(place)),
            8 => {
                let part = bytes[place..bytes.len().min(place + byte as usize % 20)].to_vec();
                bytes.splice(place..place, part);
            }
            _ => bytes.truncate(place),
        }
    }

    #[test]
    fn both_oracles_agree_on_whole_and_on_damaged_documents() {
        let config = ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let changes = vec(any::<(u8, usize, u8)>(), 1..6);
        runner
            .run(&(json_text(), vec(changes, 12)), |(text, mutants)| {
                compare(text.as_bytes());
                prop_assert!(verdict(text.as_bytes()).is_ok());
                for changes in mutants {
                    let mut bytes = text.clone().into_bytes();
                    for change in changes {
                        mutate(&mut bytes, change);
                    }
                    compare(&bytes);
                }
                Ok(())
            })
            .unwrap();
    }
}
