//! One message becomes its parts: RFC 5424 here, RFC 3164 next door, and what is neither as it came.
//!
//! Owns what the parts are. Must never: fail, copy a part, or read a clock. The parts are slices of the message; of
//! structured data only places are kept.
//!
//! ```text
//! <165>1 2003-10-11T22:14:15.003Z host app procid msgid [id name="value"] text
//! <34>Oct 11 22:14:15 host tag[pid]: text
//! ```
//! What is not UTF-8, and NUL, becomes U+FFFD, and the message is marked as lossy.

use std::ops::Range;

use ringlog_engine::ids::Micros;

use super::bsd;
use super::key::{KEY_ELEMENT, redact};
use crate::limits::SYSLOG_MESSAGE_BYTES_MAX;
use crate::wire::json::as_text;
use crate::wire::time::parse_moment_or_utc;

/// 23 facilities and local use, 8 severities each: RFC 5424 6.2.1.
const PRIORITY_MAX: u8 = 191;

const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const SEVERITIES: [&str; 8] = ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug"];

/// Facility and severity, 0 to 191.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority(u8);

impl Priority {
    pub fn number(self) -> u8 {
        self.0
    }

    /// As syslog.conf calls it.
    pub fn facility(self) -> &'static str {
        FACILITIES[usize::from(self.0 / 8)]
    }

    /// As RFC 5424 calls it.
    pub fn severity(self) -> &'static str {
        SEVERITIES[usize::from(self.0 % 8)]
    }
}

/// Which grammar a message fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Rfc5424,
    Rfc3164,
    /// Neither: its `text` is all of it.
    Unparsed,
}

/// The parts of a message. Parts that are absent, or `-`, are `None`.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub form: Form,
    pub priority: Option<Priority>,
    pub time: Option<Micros>,
    pub host: Option<&'a str>,
    pub app: Option<&'a str>,
    pub procid: Option<&'a str>,
    pub msgid: Option<&'a str>,
    /// What Cisco's devices put before the time: counters and their name.
    pub prefix: Option<&'a str>,
    pub text: &'a str,
    pub structured: Structured<'a>,
    /// Bytes that were no text were replaced.
    pub is_lossy: bool,
    /// The id of a key's element stands somewhere in the message.
    pub may_name_key: bool,
}

/// A place in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    pub id: Span,
    params_start: u32,
    params_end: u32,
}

impl Element {
    /// Indexes of its params.
    pub fn params(&self) -> Range<usize> {
        self.params_start as usize..self.params_end as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Index of its element.
    pub element: u32,
    pub name: Span,
    /// As it stands there, with backslashes.
    pub value: Span,
    pub is_escaped: bool,
}

/// The structured data of a message, in the order in which it stands there.
#[derive(Debug, Clone, Copy)]
pub struct Structured<'a> {
    message: &'a str,
    pub elements: &'a [Element],
    pub params: &'a [Param],
}

impl<'a> Structured<'a> {
    pub fn str(&self, span: Span) -> &'a str {
        &self.message[span.start as usize..span.end as usize]
    }

    pub fn params_of(&self, element: &Element) -> &'a [Param] {
        &self.params[element.params()]
    }
}

/// Memory that one message after the other is read with.
#[derive(Debug, Default)]
pub struct Reader {
    text: String,
    redacted: String,
    elements: Vec<Element>,
    params: Vec<Param>,
}

impl Reader {
    /// Reads one message, of at most [`SYSLOG_MESSAGE_BYTES_MAX`] bytes. `received_at` gives the year where a time has none.
    pub fn read<'a>(&'a mut self, message: &'a [u8], received_at: Micros) -> Message<'a> {
        assert!(message.len() <= SYSLOG_MESSAGE_BYTES_MAX);
        let Reader { text: replaced, redacted, elements, params } = self;
        let (mut text, is_lossy) = match as_text(message) {
            Ok(text) if !text.as_bytes().contains(&0) => (text, false),
            _ => {
                replace(message, replaced);
                (replaced.as_str(), true)
            }
        };
        let mut parts = parse(text, received_at, elements, params);
        let may_name_key = text.contains(KEY_ELEMENT);
        if may_name_key && !keeps_key_apart(&parts) {
            *redacted = redact(text).into_owned();
            text = redacted;
            parts = parse(text, received_at, elements, params);
        }
        Message { structured: Structured { message: text, elements, params }, is_lossy, may_name_key, ..parts }
    }
}

/// Whether a key can only be in structured data, or in one piece in the text, where the writer finds it.
fn keeps_key_apart(parts: &Message<'_>) -> bool {
    let names = [parts.host, parts.app, parts.procid, parts.msgid];
    parts.form == Form::Rfc5424 && !names.into_iter().flatten().any(|name| name.contains(KEY_ELEMENT))
}

/// A message as text, with U+FFFD for what is none.
pub(super) fn replace(message: &[u8], out: &mut String) {
    const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;
    out.clear();
    for chunk in message.utf8_chunks() {
        for (index, piece) in chunk.valid().split('\0').enumerate() {
            if index > 0 {
                out.push(REPLACEMENT);
            }
            out.push_str(piece);
        }
        if !chunk.invalid().is_empty() {
            out.push(REPLACEMENT);
        }
    }
}

impl<'a> Message<'a> {
    pub(super) fn new(form: Form, text: &'a str) -> Message<'a> {
        Message {
            form,
            priority: None,
            time: None,
            host: None,
            app: None,
            procid: None,
            msgid: None,
            prefix: None,
            text,
            structured: Structured { message: "", elements: &[], params: &[] },
            is_lossy: false,
            may_name_key: false,
        }
    }
}

fn parse<'a>(text: &'a str, received_at: Micros, elements: &mut Vec<Element>, params: &mut Vec<Param>) -> Message<'a> {
    elements.clear();
    params.clear();
    let (priority, at) = match priority(text.as_bytes()) {
        Some((priority, at)) => (Some(priority), at),
        None => (None, 0),
    };
    let parsed = if priority.is_some() && claims_version(&text.as_bytes()[at..]) {
        rfc5424(text, at, elements, params)
    } else {
        bsd::read(text, at, received_at, priority.is_none())
    };
    let parsed = parsed.unwrap_or_else(|| {
        elements.clear();
        params.clear();
        Message::new(Form::Unparsed, text)
    });
    Message { priority, ..parsed }
}

fn priority(bytes: &[u8]) -> Option<(Priority, usize)> {
    let rest = bytes.strip_prefix(b"<")?;
    let digits = rest.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=3).contains(&digits) || rest.get(digits) != Some(&b'>') {
        return None;
    }
    let number = rest[..digits].iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    let number = u8::try_from(number).ok().filter(|number| *number <= PRIORITY_MAX)?;
    Some((Priority(number), digits + 2))
}

/// One to three digits and a space: RFC 5424's VERSION. A message with one is of that RFC or of none.
fn claims_version(bytes: &[u8]) -> bool {
    let digits = bytes.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    matches!(bytes.first(), Some(b'1'..=b'9')) && digits <= 3 && bytes.get(digits) == Some(&b' ')
}

/// `at` is behind the priority. `None`: it does not fit the grammar, or has another version than 1.
fn rfc5424<'a>(text: &'a str, at: usize, elements: &mut Vec<Element>, params: &mut Vec<Param>) -> Option<Message<'a>> {
    let mut at = at;
    if word(text, &mut at)? != "1" {
        return None;
    }
    let time = match word(text, &mut at)? {
        "-" => None,
        stamp => Some(parse_moment_or_utc(stamp).ok()?),
    };
    let mut named = || word(text, &mut at).map(present);
    let (host, app, procid, msgid) = (named()?, named()?, named()?, named()?);
    let end = structured_data(text.as_bytes(), at, elements, params)?;
    let message = match text.as_bytes().get(end) {
        None => "",
        Some(b' ') => &text[end + 1..],
        Some(_) => return None,
    };
    let message = message.strip_prefix('\u{feff}').unwrap_or(message);
    Some(Message { time, host, app, procid, msgid, ..Message::new(Form::Rfc5424, message) })
}

/// The word at `at` and the space behind it. `None`: it is empty, or no space follows.
fn word<'a>(text: &'a str, at: &mut usize) -> Option<&'a str> {
    let rest = &text[*at..];
    let len = rest.bytes().position(|byte| byte == b' ')?;
    *at += len + 1;
    if len == 0 { None } else { Some(&rest[..len]) }
}

pub(super) fn present(word: &str) -> Option<&str> {
    if word == "-" { None } else { Some(word) }
}

/// The elements at `at`. Returns where they end. A bracket in quotes that is not escaped is taken as it stands: only the
/// quotes end a value.
fn structured_data(bytes: &[u8], at: usize, elements: &mut Vec<Element>, params: &mut Vec<Param>) -> Option<usize> {
    if bytes.get(at) == Some(&b'-') {
        return Some(at + 1);
    }
    let mut at = at;
    while bytes.get(at) == Some(&b'[') {
        let id = name(bytes, at + 1)?;
        at = id.end as usize;
        let params_start = params.len() as u32;
        while bytes.get(at) == Some(&b' ') {
            at += 1;
            if matches!(bytes.get(at), Some(b' ' | b']')) {
                continue;
            }
            let name = name(bytes, at)?;
            at = name.end as usize;
            if bytes.get(at..at + 2) != Some(b"=\"") {
                return None;
            }
            let (value, is_escaped) = value(bytes, at + 2)?;
            at = value.end as usize + 1;
            params.push(Param { element: elements.len() as u32, name, value, is_escaped });
        }
        if bytes.get(at) != Some(&b']') {
            return None;
        }
        at += 1;
        elements.push(Element { id, params_start, params_end: params.len() as u32 });
    }
    if elements.is_empty() { None } else { Some(at) }
}

/// A name without what has a meaning around it.
fn name(bytes: &[u8], at: usize) -> Option<Span> {
    let is_of_name = |byte: &&u8| **byte > b' ' && !matches!(**byte, b'=' | b']' | b'"' | 0x7f);
    let len = bytes.get(at..)?.iter().take_while(is_of_name).count();
    if len == 0 { None } else { Some(Span::new(at, at + len)) }
}

/// Up to the quote that ends the value, which is not part of it; and whether there are backslashes in it.
fn value(bytes: &[u8], start: usize) -> Option<(Span, bool)> {
    let mut at = start;
    let mut is_escaped = false;
    loop {
        match bytes.get(at)? {
            b'"' => return Some((Span::new(start, at), is_escaped)),
            b'\\' => {
                is_escaped = true;
                at += 2;
            }
            _ => at += 1,
        }
    }
}

/// A value without the backslashes before `"`, `\` and `]`. Others stand for themselves: RFC 5424 6.3.3.
pub fn unescape(value: &str, out: &mut String) {
    out.clear();
    let mut rest = value;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match rest.as_bytes().get(1) {
            Some(b'"' | b'\\' | b']') => {
                out.push_str(&rest[1..2]);
                rest = &rest[2..];
            }
            _ => {
                out.push('\\');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
}
