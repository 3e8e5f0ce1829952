//! A strict JSON scanner that yields places in the body it was given.
//!
//! Owns what is JSON here: RFC 8259, UTF-8, at most `DEPTH_MAX` levels, no lone surrogates and no NUL in strings.
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
    Depth,
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
            JsonReason::Utf8 => write!(f, "the string is not UTF-8 at byte {at}"),
            JsonReason::LeadingZero => write!(f, "number with a leading zero at byte {at}"),
            JsonReason::Depth => write!(f, "more than {DEPTH_MAX} levels of nesting at byte {at}"),
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
    pub fn resolve<'a>(&self, body: &'a [u8], scratch: &'a mut String) -> &'a str {
        let raw = std::str::from_utf8(&body[self.start..self.end]).expect("the scanner has checked the string");
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
    /// All of that part is ASCII.
    is_ascii: bool,
    chunk_index: usize,
    /// The stops of the current chunk that were not yet taken. None of them is before the cursor's last string.
    stops: u64,
    at: usize,
    depth: u32,
    /// The open containers, the innermost in the lowest bit: 1 for an object.
    objects: u64,
    /// The innermost container was opened by a `begin_` and has given nothing yet.
    is_fresh: bool,
}

// Everything a loop goes through is inlined, and what is not gets values instead of the scanner: so the cursor stays in registers.
impl<'a> Scanner<'a> {
    /// `window` is memory only; what it held does not matter.
    #[inline]
    pub fn new(bytes: &'a [u8], window: &'a mut Window) -> Scanner<'a> {
        Scanner::with_level(bytes, window, Level::best())
    }

    #[inline]
    pub fn with_level(bytes: &'a [u8], window: &'a mut Window, level: Level) -> Scanner<'a> {
        let is_ascii = window.fill(level, bytes);
        let stops = window.stops(0);
        Scanner { bytes, window, level, is_ascii, chunk_index: 0, stops, at: 0, depth: 0, objects: 0, is_fresh: false }
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
        self.is_fresh = false;
        self.key(byte).map(Some)
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
            match byte {
                b'"' => is_escaped = self.string()?.is_escaped,
                b'{' => {
                    self.open(1)?;
                    byte = self.peek();
                    if byte != b'}' {
                        self.key(byte)?;
                        byte = self.peek();
                        continue;
                    }
                    self.close();
                }
                b'[' => {
                    self.open(0)?;
                    byte = self.peek();
                    if byte != b']' {
                        continue;
                    }
                    self.close();
                }
                b'-' | b'0'..=b'9' => self.at = number(self.bytes, self.at)?,
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => return Err(unexpected(self.bytes, self.at, Expected::Value)),
            }
            // A value has ended: close what ends with it, up to the next one.
            loop {
                if self.depth == floor {
                    return Ok(Value { start, end: self.at, kind, is_escaped });
                }
                let in_object = self.objects & 1 == 1;
                byte = self.peek();
                if byte == b',' {
                    self.at += 1;
                    byte = self.peek();
                    if in_object {
                        self.key(byte)?;
                        byte = self.peek();
                    }
                    break;
                }
                if byte != if in_object { b'}' } else { b']' } {
                    let expected = if in_object { Expected::CommaOrBrace } else { Expected::CommaOrBracket };
                    return Err(unexpected(self.bytes, self.at, expected));
                }
                self.close();
            }
        }
    }

    /// Nothing but white space may follow.
    #[inline(always)]
    pub fn finish(mut self) -> Result<(), JsonError> {
        self.peek();
        assert!(self.depth == 0);
        if self.at < self.bytes.len() {
            return Err(unexpected(self.bytes, self.at, Expected::End));
        }
        Ok(())
    }

    #[inline(always)]
    fn open(&mut self, is_object: u64) -> Result<(), JsonError> {
        if self.depth == DEPTH_MAX {
            return Err(refuse(self.at, JsonReason::Depth));
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

    /// A key and its colon; `byte` is the next byte with meaning.
    #[inline(always)]
    fn key(&mut self, byte: u8) -> Result<Text, JsonError> {
        if byte != b'"' {
            return Err(unexpected(self.bytes, self.at, Expected::Key));
        }
        let text = self.string()?;
        if self.peek() != b':' {
            return Err(unexpected(self.bytes, self.at, Expected::Colon));
        }
        self.at += 1;
        Ok(text)
    }

    /// A string; the next byte is its opening quote.
    #[inline(always)]
    fn string(&mut self) -> Result<Text, JsonError> {
        let bytes = self.bytes;
        let start = self.at + 1;
        let (mut end, mut is_ascii) = self.next_stop(start);
        let mut is_escaped = false;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    is_escaped = true;
                    let run = self.next_stop(escape(bytes, start, end)?);
                    end = run.0;
                    is_ascii &= run.1;
                }
                _ => return Err(bad_string(bytes, start, end)),
            }
        }
        if !is_ascii {
            check_utf8(bytes, start, end)?;
        }
        self.at = end + 1;
        Ok(Text { start, end, is_escaped })
    }

    /// The first quote, backslash or control character at or behind `from`, or the end of the body; and whether all bytes
    /// before it are ASCII (`false` may be wrong). Stops are taken in order, and the end of the body is the last one.
    #[inline(always)]
    fn next_stop(&mut self, from: usize) -> (usize, bool) {
        let mut is_ascii = self.is_ascii;
        loop {
            while self.stops == 0 {
                self.chunk_index += 1;
                if self.chunk_index.is_multiple_of(WINDOW_CHUNKS) {
                    let rest = self.bytes.get(self.chunk_index * CHUNK_BYTES..).unwrap_or_default();
                    self.is_ascii = self.window.fill(self.level, rest);
                    is_ascii &= self.is_ascii;
                }
                self.stops = self.window.stops(self.chunk_index);
            }
            let at = self.chunk_index * CHUNK_BYTES + self.stops.trailing_zeros() as usize;
            self.stops &= self.stops - 1;
            if at >= from {
                return (at, is_ascii);
            }
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

/// Validates a whole document.
pub fn validate(bytes: &[u8], window: &mut Window) -> Result<Value, JsonError> {
    validate_with(Level::best(), bytes, window)
}

pub(super) fn validate_with(level: Level, bytes: &[u8], window: &mut Window) -> Result<Value, JsonError> {
    let mut scanner = Scanner::with_level(bytes, window, level);
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

#[inline(never)]
fn check_utf8(bytes: &[u8], start: usize, end: usize) -> Result<(), JsonError> {
    match std::str::from_utf8(&bytes[start..end]) {
        Ok(_) => Ok(()),
        Err(error) => Err(refuse(start + error.valid_up_to(), JsonReason::Utf8)),
    }
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

/// What is wrong with a string is the first wrong thing in it.
#[cold]
#[inline(never)]
fn bad_string(bytes: &[u8], start: usize, end: usize) -> JsonError {
    if let Err(error) = check_utf8(bytes, start, end) {
        return error;
    }
    match bytes.get(end) {
        Some(&byte) => JsonError { at: end, reason: JsonReason::ControlCharacter(byte) },
        None => JsonError { at: start - 1, reason: JsonReason::UnterminatedString },
    }
}

#[cold]
#[inline(never)]
fn bad_escape(bytes: &[u8], start: usize, at: usize, reason: JsonReason) -> JsonError {
    if let Err(error) = check_utf8(bytes, start, at) {
        return error;
    }
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
