//! RFC 3164 and what is really sent in its name.
//!
//! Owns how a line's time, host and tag are told apart. Must never: guess beyond that; what is no tag is text.
//!
//! ```text
//! Oct 11 22:14:15 mymachine su: 'su root' failed            the RFC
//! 2003-10-11T22:14:15.003+02:00 mymachine su[17]: text      rsyslog's forward format
//! 29: router1: *Mar  1 2020 18:46:11.123 CET: %SYS-5-CONFIG_I: text      Cisco: counters and name, then time and zone
//! Jul 08 2021 14:33:04 fw1 : %ASA-6-302013: text
//! 1990 Oct 22 10:52:01 TZ-6 host text                       the RFC's own bad example
//! su: 'su root' failed                                      without a time: only behind a priority
//! ```

use ringlog_engine::ids::Micros;

use super::parse::{Form, Message, present};
use crate::wire::time::{Civil, parse_moment_or_utc, year_of};

/// A time without a year lies at most so far ahead of its receipt: clocks differ, and zones are left out.
const AHEAD_US: i64 = 86_400_000_000;
/// Years between two leap days, at most: around 1900 and 2100.
const LEAP_YEARS_GAP: i64 = 8;
/// Longest tag and process id. The RFC has 32; real names of services are longer.
const TAG_BYTES_MAX: usize = 128;
/// Words before a time, each with a colon behind it: a counter, the device's name, another counter.
const PREFIX_WORDS_MAX: usize = 3;
/// Years that stand for themselves behind a time. Other numbers there are names of hosts.
const YEARS: std::ops::RangeInclusive<i64> = 1970..=2199;

/// RFC 5322 4.3, and Europe's. In minutes ahead of UTC.
const ZONES: [(&str, i64); 19] = [
    ("UTC", 0),
    ("GMT", 0),
    ("UT", 0),
    ("Z", 0),
    ("EST", -300),
    ("EDT", -240),
    ("CST", -360),
    ("CDT", -300),
    ("MST", -420),
    ("MDT", -360),
    ("PST", -480),
    ("PDT", -420),
    ("WET", 0),
    ("WEST", 60),
    ("CET", 60),
    ("CEST", 120),
    ("EET", 120),
    ("EEST", 180),
    ("MSK", 180),
];

/// Reads a line from `at` on, behind its priority. `None`: it has no time, and needs one.
pub(super) fn read<'a>(text: &'a str, at: usize, received_at: Micros, needs_time: bool) -> Option<Message<'a>> {
    let at = at + spaces(&text.as_bytes()[at..]);
    match find_time(text, at, received_at) {
        Some(stamp) => Some(behind_time(text, at, &stamp)),
        None if needs_time => None,
        None => Some(tagged(&text[at..])),
    }
}

/// A time and where it stood.
struct Stamp {
    moment: Micros,
    start: usize,
    /// Behind the time and the space after it.
    end: usize,
    /// A colon ended it: no host follows.
    has_colon: bool,
}

fn find_time(text: &str, at: usize, received_at: Micros) -> Option<Stamp> {
    let bytes = text.as_bytes();
    let mut at = at;
    for words in 0..=PREFIX_WORDS_MAX {
        if let Some(stamp) = time_at(text, at, received_at) {
            return Some(stamp);
        }
        // A tag would look the same, so that the first must be a counter, or Nexus' lone colon.
        let len = bytes[at..].iter().take(TAG_BYTES_MAX).position(|byte| *byte == b' ')?;
        let counter = bytes[at..at + len].strip_suffix(b":")?;
        if words == 0 && !counter.iter().all(u8::is_ascii_digit) {
            return None;
        }
        at += len;
        at += spaces(&bytes[at..]);
    }
    None
}

fn behind_time<'a>(text: &'a str, at: usize, stamp: &Stamp) -> Message<'a> {
    let mut host = None;
    let mut prefix = None;
    if at < stamp.start {
        let words = text[at..stamp.start].trim_ascii_end();
        prefix = Some(words);
        let name = |word: &'a str| Some(word.trim_end_matches(':')).filter(|word| !is_number(word));
        host = words.split_ascii_whitespace().find_map(name);
    }
    let mut rest = &text[stamp.end..];
    if !stamp.has_colon {
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        let is_tag = word.ends_with(':') || (word.contains('[') && !word.starts_with('['));
        if word.len() < rest.len() && !is_tag {
            host = present(word).or(host);
            rest = behind.trim_start_matches(' ');
            rest = rest.strip_prefix(": ").unwrap_or(rest);
        }
    }
    Message { time: Some(stamp.moment), host, prefix, ..tagged(rest) }
}

fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

/// `tag: text`, `tag[pid]: text`, or text alone. A tag with a percent sign is what Cisco's devices call a message.
fn tagged(rest: &str) -> Message<'_> {
    let plain = Message::new(Form::Rfc3164, rest);
    let bytes = rest.as_bytes();
    let ends_tag = |at: usize| bytes[at] == b':' && matches!(bytes.get(at + 1), None | Some(b' '));
    for (index, &byte) in bytes.iter().enumerate().take(TAG_BYTES_MAX + 1) {
        match byte {
            0..=b' ' | 0x7f => return plain,
            b':' | b'[' if index == 0 => return plain,
            b':' if ends_tag(index) => {
                let tag = &rest[..index];
                let text = behind_colon(rest, index);
                return match tag.strip_prefix('%') {
                    Some(msgid) => Message { msgid: present(msgid), text, ..plain },
                    None => Message { app: present(tag), text, ..plain },
                };
            }
            b'[' => {
                let pid = &rest[index + 1..];
                let is_of_pid = |byte: &u8| *byte > b' ' && *byte != b']';
                let len = pid.bytes().take(TAG_BYTES_MAX).take_while(is_of_pid).count();
                let colon = index + 1 + len + 1;
                if len == 0 || bytes.get(colon - 1) != Some(&b']') || bytes.get(colon) != Some(&b':') {
                    return plain;
                }
                let text = behind_colon(rest, colon);
                return Message { app: Some(&rest[..index]), procid: present(&pid[..len]), text, ..plain };
            }
            _ => {}
        }
    }
    plain
}

fn behind_colon(rest: &str, colon: usize) -> &str {
    let text = &rest[colon + 1..];
    text.strip_prefix(' ').unwrap_or(text)
}

fn time_at(text: &str, start: usize, received_at: Micros) -> Option<Stamp> {
    let bytes = text.as_bytes();
    if bytes.get(start + 4) == Some(&b'-') && bytes[start].is_ascii_digit() {
        let rest = &text[start..];
        let len = rest.bytes().position(|byte| byte == b' ').unwrap_or(rest.len());
        let word = &rest[..len];
        let stamp = word.strip_suffix(':').unwrap_or(word);
        let moment = parse_moment_or_utc(stamp).ok()?;
        let end = start + len;
        return Some(Stamp { moment, start, end: end + spaces(&bytes[end..]), has_colon: stamp.len() < len });
    }
    // Cisco: the clock was never set, or has lost its server.
    let marked = usize::from(matches!(bytes.get(start), Some(b'*' | b'.')));
    let mut scan = Scan { bytes, at: start + marked };
    let (moment, has_colon) = scan.bsd_time(received_at)?;
    Some(Stamp { moment, start, end: scan.at + spaces(&bytes[scan.at..]), has_colon })
}

fn spaces(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| **byte == b' ').count()
}

/// A place in a line that moves only over what fits.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    /// Up to the colon that ends it, if there is one; and whether there is.
    fn bsd_time(&mut self, received_at: Micros) -> Option<(Micros, bool)> {
        let mut year = self.year();
        if year.is_some() {
            self.spaces()?;
        }
        let month = self.month()?;
        self.spaces()?;
        let day = self.number(1, 2)?;
        self.spaces()?;
        if year.is_none() {
            // Behind the day: `Jul 08 2021 14:33:04`. Two digits and a colon are the hour.
            year = self.year();
            if year.is_some() {
                self.spaces()?;
            }
        }
        let hour = self.number(2, 2)?;
        self.byte(b':')?;
        let minute = self.number(2, 2)?;
        self.byte(b':')?;
        let second = self.number(2, 2)?;
        let fraction_us = self.fraction()?;
        let offset = self.optional(Scan::zone);
        if year.is_none() {
            year = self.optional(Scan::year);
        }
        let has_colon = self.byte(b':').is_some();
        if !self.is_end_of_word() {
            return None;
        }
        let civil = |year| Civil { year, month, day, hour, minute, second, fraction_us };
        let moment = match year {
            Some(year) => Some(civil(year)).filter(Civil::exists)?.at_offset(offset.unwrap_or(0)).ok()?,
            None => nearest(civil, offset.unwrap_or(0), received_at)?,
        };
        Some((moment, has_colon))
    }

    /// A space and what `read` reads, or nothing.
    fn optional(&mut self, read: impl Fn(&mut Self) -> Option<i64>) -> Option<i64> {
        let start = self.at;
        let found = self.byte(b' ').and_then(|()| read(self)).filter(|_| self.is_end_of_word());
        if found.is_none() {
            self.at = start;
        }
        found
    }

    fn is_end_of_word(&self) -> bool {
        matches!(self.bytes.get(self.at), None | Some(b' ' | b':'))
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        if self.bytes.get(self.at) != Some(&byte) {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn spaces(&mut self) -> Option<()> {
        let count = spaces(&self.bytes[self.at..]);
        self.at += count;
        if count == 0 { None } else { Some(()) }
    }

    fn number(&mut self, digits_min: usize, digits_max: usize) -> Option<i64> {
        let rest = self.bytes.get(self.at..)?;
        let digits = rest.iter().take(digits_max).take_while(|byte| byte.is_ascii_digit()).count();
        if digits < digits_min {
            return None;
        }
        self.at += digits;
        Some(rest[..digits].iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    /// Four digits that can be a year. Moves only if they are.
    fn year(&mut self) -> Option<i64> {
        let start = self.at;
        let year = self.number(4, 4).filter(|year| YEARS.contains(year));
        if year.is_none() {
            self.at = start;
        }
        year
    }

    fn month(&mut self) -> Option<i64> {
        const MONTHS: &[u8; 36] = b"janfebmaraprmayjunjulaugsepoctnovdec";
        let word: &[u8; 3] = self.bytes.get(self.at..)?.first_chunk()?;
        let word = word.map(|letter| letter.to_ascii_lowercase());
        let index = MONTHS.as_chunks::<3>().0.iter().position(|month| *month == word)?;
        self.at += 3;
        Some(index as i64 + 1)
    }

    /// Up to nine digits behind a point or a comma, of which six count. `None`: the digits are missing, or too many.
    fn fraction(&mut self) -> Option<i64> {
        if !matches!(self.bytes.get(self.at), Some(b'.' | b',')) {
            return Some(0);
        }
        self.at += 1;
        let start = self.at;
        let number = self.number(1, 9)?;
        let digits = (self.at - start) as u32;
        Some(number * 10_i64.pow(9 - digits) / 1000)
    }

    /// Minutes ahead of UTC: a known name, an offset, or both (`GMT+2`, and `TZ-6` as the RFC writes it).
    fn zone(&mut self) -> Option<i64> {
        let rest = &self.bytes[self.at..];
        let letters = rest.iter().take(5).take_while(|byte| byte.is_ascii_uppercase()).count();
        let name = &rest[..letters];
        let is_base = matches!(name, b"" | b"TZ" | b"UTC" | b"GMT");
        self.at += letters;
        let sign = match self.bytes.get(self.at) {
            Some(b'+') if is_base => 1,
            Some(b'-') if is_base => -1,
            _ => return ZONES.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, minutes)| *minutes),
        };
        self.at += 1;
        let hours = self.number(1, 2)?;
        let _ = self.byte(b':');
        let minutes = self.number(2, 2).unwrap_or(0);
        if hours > 23 || minutes > 59 { None } else { Some(sign * (hours * 60 + minutes)) }
    }
}

/// The last year in which the time was not more than a day after its receipt: no other is nearer.
fn nearest(civil: impl Fn(i64) -> Civil, offset: i64, received_at: Micros) -> Option<Micros> {
    let year = year_of(received_at);
    let candidates = (year - LEAP_YEARS_GAP..=year + 1).rev().map(civil);
    let mut moments = candidates.filter(Civil::exists).filter_map(|candidate| candidate.at_offset(offset).ok());
    moments.find(|moment| moment.0 - received_at.0 <= AHEAD_US)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::time::{format_moment, parse_moment};

    /// What is read as the time of a line that begins with `stamp`, when it is received at `received`.
    fn check(stamp: &str, received: &str, expected: &str) {
        let line = format!("{stamp} host app: text");
        let message = read(&line, 0, parse_moment(received).unwrap(), true);
        let found = message.and_then(|message| message.time).map(format_moment);
        let found = found.as_ref().map_or("none", |moment| std::str::from_utf8(moment).unwrap());
        assert_eq!(found, expected, "{stamp} received at {received}");
    }

    #[test]
    fn a_year_is_the_one_that_brings_the_time_nearest() {
        for (stamp, received, expected) in [
            ("Oct 11 22:14:15", "2026-11-22T00:00:00Z", "2026-10-11T22:14:15.000000Z"),
            ("Oct 11 22:14:15", "2026-10-11T22:14:15Z", "2026-10-11T22:14:15.000000Z"),
            // A day ahead and no more.
            ("Oct 11 22:14:15", "2026-10-10T22:14:15Z", "2026-10-11T22:14:15.000000Z"),
            ("Oct 11 22:14:15", "2026-10-10T22:14:14Z", "2025-10-11T22:14:15.000000Z"),
            // Over New Year, both ways.
            ("Dec 31 23:59:59", "2027-01-01T00:00:01Z", "2026-12-31T23:59:59.000000Z"),
            ("Jan  1 00:00:01", "2026-12-31T23:59:59Z", "2027-01-01T00:00:01.000000Z"),
            ("Jan  1 23:59:59", "2026-12-31T23:59:58Z", "2026-01-01T23:59:59.000000Z"),
            ("Jan  2 00:00:00", "2027-01-01T00:00:00Z", "2027-01-02T00:00:00.000000Z"),
            // The leap day is in a leap year, however long ago that was.
            ("Feb 29 12:00:00", "2028-02-29T12:00:01Z", "2028-02-29T12:00:00.000000Z"),
            ("Feb 29 12:00:00", "2028-02-28T12:00:00Z", "2028-02-29T12:00:00.000000Z"),
            ("Feb 29 12:00:00", "2028-02-28T11:00:00Z", "2024-02-29T12:00:00.000000Z"),
            ("Feb 29 12:00:00", "2026-03-01T00:00:00Z", "2024-02-29T12:00:00.000000Z"),
            ("Feb 29 12:00:00", "2103-03-01T00:00:00Z", "2096-02-29T12:00:00.000000Z"),
            // A zone can move the time into another year.
            ("Dec 31 23:30:00 EST", "2027-01-01T04:30:01Z", "2027-01-01T04:30:00.000000Z"),
        ] {
            check(stamp, received, expected);
        }
    }

    #[test]
    fn every_way_to_write_a_time_is_read() {
        const RECEIVED: &str = "2026-11-22T00:00:00Z";
        for (stamp, expected) in [
            ("Oct 11 22:14:15", "2026-10-11T22:14:15.000000Z"),
            ("OCT 11 22:14:15", "2026-10-11T22:14:15.000000Z"),
            ("Oct  1 22:14:15", "2026-10-01T22:14:15.000000Z"),
            ("Oct 1 22:14:15", "2026-10-01T22:14:15.000000Z"),
            ("Oct 01 22:14:15", "2026-10-01T22:14:15.000000Z"),
            ("Oct 11 22:14:15.1", "2026-10-11T22:14:15.100000Z"),
            ("Oct 11 22:14:15,123456789", "2026-10-11T22:14:15.123456Z"),
            ("Oct 11 23:59:60", "2026-10-11T23:59:59.000000Z"),
            ("2003 Oct 11 22:14:15", "2003-10-11T22:14:15.000000Z"),
            ("Oct 11 2003 22:14:15", "2003-10-11T22:14:15.000000Z"),
            ("Oct 11 22:14:15 2003", "2003-10-11T22:14:15.000000Z"),
            ("Aug 24 05:34:00 CST 1987", "1987-08-24T11:34:00.000000Z"),
            ("1990 Oct 22 10:52:01 TZ-6", "1990-10-22T16:52:01.000000Z"),
            ("Oct 11 22:14:15 UTC", "2026-10-11T22:14:15.000000Z"),
            ("Oct 11 22:14:15 CEST", "2026-10-11T20:14:15.000000Z"),
            ("Oct 11 22:14:15 GMT+2", "2026-10-11T20:14:15.000000Z"),
            ("Oct 11 22:14:15 +0530", "2026-10-11T16:44:15.000000Z"),
            ("Oct 11 22:14:15 -05:30", "2026-10-12T03:44:15.000000Z"),
            ("*Mar  1 18:46:11.123:", "2026-03-01T18:46:11.123000Z"),
            (".Mar  1 2020 18:46:11.123 CET:", "2020-03-01T17:46:11.123000Z"),
            ("29: *Mar  1 18:46:11:", "2026-03-01T18:46:11.000000Z"),
            ("29: router1: 000031: Mar  1 18:46:11:", "2026-03-01T18:46:11.000000Z"),
            (": 2020 Mar  1 18:46:11 UTC:", "2020-03-01T18:46:11.000000Z"),
            ("2003-10-11T22:14:15.003Z", "2003-10-11T22:14:15.003000Z"),
            ("2003-10-11T22:14:15.003+02:00", "2003-10-11T20:14:15.003000Z"),
            ("2003-10-11T22:14:15", "2003-10-11T22:14:15.000000Z"),
            ("29: 2003-10-11T22:14:15Z:", "2003-10-11T22:14:15.000000Z"),
        ] {
            check(stamp, RECEIVED, expected);
        }
        for stamp in [
            "",
            "Oct",
            "Okt 11 22:14:15",
            "Oct 0 22:14:15",
            "Oct 32 22:14:15",
            "Feb 30 22:14:15",
            "Oct 11 24:00:00",
            "Oct 11 22:60:00",
            "Oct 11 22:14:61",
            "Oct 11 22:14",
            "Oct 11 2:14:15",
            "Oct 11 22:14:15.",
            "Oct 11 22:14:15.1234567890",
            "Oct 11 22:14:15x",
            "2023 Feb 29 00:00:00",
            "2003-10-32T22:14:15Z",
            "router1: Oct 11 22:14:15:",
            "1: 2: 3: 4: Oct 11 22:14:15:",
            "1792922400123",
        ] {
            check(stamp, RECEIVED, "none");
        }
    }

    #[test]
    fn host_and_tag_are_told_apart() {
        let check = |line: &str, host: Option<&str>, app: Option<&str>, procid: Option<&str>, text: &str| {
            let line = format!("Oct 11 22:14:15 {line}");
            let found = read(&line, 0, Micros(0), true).unwrap();
            assert_eq!((found.host, found.app, found.procid, found.text), (host, app, procid, text), "{line}");
        };
        check("mymachine su: 'su root' failed", Some("mymachine"), Some("su"), None, "'su root' failed");
        check("m sshd[12]: in", Some("m"), Some("sshd"), Some("12"), "in");
        check("su: in", None, Some("su"), None, "in");
        check("sshd[12]: in", None, Some("sshd"), Some("12"), "in");
        check("10.0.0.99 Use the BFG!", Some("10.0.0.99"), None, None, "Use the BFG!");
        check("hello", None, None, None, "hello");
        check("fe80::1 app: in", Some("fe80::1"), Some("app"), None, "in");
        check("[fe80::1] app: in", Some("[fe80::1]"), Some("app"), None, "in");
        check("m a::b: in", Some("m"), Some("a::b"), None, "in");
        check("m postfix/smtpd[9]: in", Some("m"), Some("postfix/smtpd"), Some("9"), "in");
        check("m app:", Some("m"), Some("app"), None, "");
        check("m app:  in", Some("m"), Some("app"), None, " in");
        check("m app[12]:in", Some("m"), Some("app"), Some("12"), "in");
        check("m app[12] in", Some("m"), None, None, "app[12] in");
        check("m app[]: in", Some("m"), None, None, "app[]: in");
        check("m app[1 2]: in", Some("m"), None, None, "app[1 2]: in");
        check("m http://x is up", Some("m"), None, None, "http://x is up");
        check("m [1]: in", Some("m"), None, None, "[1]: in");
        check("m : in", Some("m"), None, None, "in");
        check("- app: in", None, Some("app"), None, "in");
        check("", None, None, None, "");
        let long = "x".repeat(200);
        check(&format!("m {long}: in"), Some("m"), None, None, &format!("{long}: in"));
        check("m é[é]: é", Some("m"), Some("é"), Some("é"), "é");
    }
}
