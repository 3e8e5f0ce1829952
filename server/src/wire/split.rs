//! A body cut at its line ends.
//!
//! Owns what a line is: what stands between two line feeds and is not blank. Must never: look into one, or change a byte.
//! A carriage return before the line feed is white space, as JSON has it.

use super::json::{JsonError, as_text};

/// One line that is not blank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// From 1, blank lines counted.
    pub number: usize,
    /// Offset in the body.
    pub at: usize,
    pub bytes: &'a [u8],
    /// The error's offset is one in the line.
    pub text: Result<&'a str, JsonError>,
}

/// The lines of a body that are not blank, in their order.
#[derive(Debug, Clone)]
pub struct LineSplit<'a> {
    body: &'a [u8],
    /// The body, when all of it is text: then no line is checked again.
    text: Option<&'a str>,
    at: usize,
    number: usize,
}

impl<'a> LineSplit<'a> {
    pub fn of(body: &'a [u8]) -> LineSplit<'a> {
        LineSplit { body, text: as_text(body).ok(), at: 0, number: 0 }
    }
}

impl<'a> Iterator for LineSplit<'a> {
    type Item = Line<'a>;

    #[inline]
    fn next(&mut self) -> Option<Line<'a>> {
        while self.at < self.body.len() {
            let at = self.at;
            let end = line_end(self.body, at);
            self.at = end + 1;
            self.number += 1;
            let bytes = &self.body[at..end];
            if bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
                continue;
            }
            let text = match self.text {
                Some(body) => Ok(&body[at..end]),
                None => as_text(bytes),
            };
            return Some(Line { number: self.number, at, bytes, text });
        }
        None
    }
}

/// Offset of the first line feed at or behind `at`, or the end.
#[inline]
fn line_end(body: &[u8], at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const FEEDS: u64 = 0x0a * ONES;
    let mut at = at;
    // Without an early exit, so that the compiler takes the whole chunk at once.
    while let Some(chunk) = body.get(at..).and_then(|rest| rest.first_chunk::<32>()) {
        if chunk.iter().fold(false, |any, &byte| any | (byte == b'\n')) {
            break;
        }
        at += 32;
    }
    while let Some(chunk) = body.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk) ^ FEEDS;
        // The lowest mark is exact: a borrow reaches only what is above it.
        let marks = word.wrapping_sub(ONES) & !word & (0x80 * ONES);
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while body.get(at).is_some_and(|&byte| byte != b'\n') {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_stands_between_line_feeds() {
        let found = |body: &'static str| {
            let lines: Vec<_> = LineSplit::of(body.as_bytes()).map(|line| (line.number, line.at, line.bytes)).collect();
            lines
        };
        assert_eq!(found(""), []);
        assert_eq!(found("\n\r\n \t\r\n"), []);
        assert_eq!(found("a"), [(1, 0, &b"a"[..])]);
        assert_eq!(found("a\n"), [(1, 0, &b"a"[..])]);
        assert_eq!(found("a\r\n\nbc\n d"), [(1, 0, &b"a\r"[..]), (3, 4, b"bc"), (4, 7, b" d")]);
    }

    #[test]
    fn a_line_end_is_found_at_every_place() {
        for len in 0..100 {
            for at in 0..=len {
                let mut body = vec![0x8a; len];
                assert_eq!(line_end(&body, at), len);
                for end in at..len {
                    body[end] = b'\n';
                    assert_eq!(line_end(&body, at), end, "{len} {at}");
                    body[end] = 0x0b;
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_spoil_their_own_line_alone() {
        let lines: Vec<_> = LineSplit::of(b"a\nb\xff\nc").map(|line| line.text.is_ok()).collect();
        assert_eq!(lines, [true, false, true]);
    }
}
