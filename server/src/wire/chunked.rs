//! The chunked transfer coding, decoded as it arrives.
//!
//! Owns where a chunked message ends. Strict on purpose: `httparse` reads an empty size as zero and stops at a bare
//! LF, and either lets a proxy and us disagree about the end. Never keeps a byte of framing or of a trailer.
//!
//! ```text
//! ┌► size ─;─► extension ─┐
//! │   └────── CRLF ───────┴─► data ─► CRLF ─┐
//! └─────────────────────────────────────────┘      size 0 ─► trailer lines ─► CRLF ─► done
//! ```

use crate::limits::{
    CHUNK_COUNT_MAX, CHUNK_EXTENSION_BYTES_MAX, CHUNK_OVERHEAD_FREE_BYTES, CHUNK_OVERHEAD_RATIO_MAX,
    HEADER_BLOCK_BYTES_MAX, HEADER_COUNT_MAX,
};
use crate::wire::http::{HttpError, is_token_byte};
use crate::wire::status::ErrorCode;

const SIZE_DIGITS_MAX: u8 = 16;

const fn bad(message: &'static str) -> HttpError {
    HttpError::new(ErrorCode::BadFraming, message)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    ExtensionName,
    ExtensionNameRest,
    ExtensionValue,
    ExtensionToken,
    ExtensionQuoted,
    ExtensionEscaped,
    ExtensionQuoteEnd,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    TrailerLine,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

/// The decoder of one message.
#[derive(Debug)]
pub struct ChunkDecoder {
    state: State,
    size: u64,
    size_digits: u8,
    data_left: u64,
    payload_bytes: u64,
    payload_bytes_max: u64,
    overhead_bytes: u64,
    chunk_count: u32,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailer_count: usize,
}

impl ChunkDecoder {
    pub fn new(payload_bytes_max: usize) -> Self {
        Self {
            state: State::Size,
            size: 0,
            size_digits: 0,
            data_left: 0,
            payload_bytes: 0,
            payload_bytes_max: payload_bytes_max as u64,
            overhead_bytes: 0,
            chunk_count: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailer_count: 0,
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes what it can from `source`, appends the payload in it to `payload`, and says how much it took.
    /// It takes all of it unless the message ends within. After an error the decoder is of no further use.
    pub fn decode(&mut self, source: &[u8], payload: &mut Vec<u8>) -> Result<usize, HttpError> {
        let mut offset = 0;
        while let Some(&byte) = source.get(offset)
            && self.state != State::Done
        {
            if self.state == State::Data {
                let available = &source[offset..];
                let len = available.len().min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
                payload.extend_from_slice(&available[..len]);
                offset += len;
                self.data_left -= len as u64;
                if self.data_left == 0 {
                    self.state = State::DataReturn;
                }
            } else {
                self.state = self.take_framing(byte)?;
                offset += 1;
            }
        }
        Ok(offset)
    }

    fn take_framing(&mut self, byte: u8) -> Result<State, HttpError> {
        match self.state {
            State::TrailerLine
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLineFeed
            | State::LastLineFeed => self.take_trailer(byte),
            State::Size | State::SizeLineFeed | State::DataReturn | State::DataLineFeed => {
                self.overhead_bytes += 1;
                self.take_size_line(byte)
            }
            State::Data | State::Done => Ok(self.state),
            _ => {
                self.overhead_bytes += 1;
                self.take_extension(byte)
            }
        }
    }

    fn take_size_line(&mut self, byte: u8) -> Result<State, HttpError> {
        match (self.state, byte) {
            (State::Size, _) if byte.is_ascii_hexdigit() => {
                if self.size_digits == SIZE_DIGITS_MAX {
                    return Err(bad("a chunk size of more than 16 digits"));
                }
                self.size_digits += 1;
                self.size = self.size << 4 | u64::from(char::from(byte).to_digit(16).unwrap_or_default());
                Ok(State::Size)
            }
            (State::Size, _) if self.size_digits == 0 => Err(bad("a chunk without a size")),
            (State::Size, b';') => {
                self.count_extension_byte()?;
                Ok(State::ExtensionName)
            }
            (State::Size, b'\r') => Ok(State::SizeLineFeed),
            (State::Size, _) => Err(bad("a chunk size is not hexadecimal")),
            (State::SizeLineFeed, b'\n') => self.begin_chunk(),
            (State::DataReturn, b'\r') => Ok(State::DataLineFeed),
            (State::DataLineFeed, b'\n') => {
                (self.size, self.size_digits) = (0, 0);
                Ok(State::Size)
            }
            (State::SizeLineFeed, _) => Err(bad("a chunk size line does not end in CRLF")),
            _ => Err(bad("a chunk's data is not followed by CRLF")),
        }
    }

    fn begin_chunk(&mut self) -> Result<State, HttpError> {
        if self.size == 0 {
            return Ok(State::TrailerLine);
        }
        self.chunk_count += 1;
        if self.chunk_count > CHUNK_COUNT_MAX {
            return Err(bad("too many chunks"));
        }
        self.payload_bytes = self.payload_bytes.saturating_add(self.size);
        if self.payload_bytes > self.payload_bytes_max {
            return Err(HttpError::new(ErrorCode::BodyTooLarge, "the body is longer than this route takes"));
        }
        let overhead_max = self.payload_bytes.saturating_mul(CHUNK_OVERHEAD_RATIO_MAX);
        if self.overhead_bytes > overhead_max.max(CHUNK_OVERHEAD_FREE_BYTES) {
            return Err(bad("the chunks are nearly all framing"));
        }
        self.data_left = self.size;
        Ok(State::Data)
    }

    fn count_extension_byte(&mut self) -> Result<(), HttpError> {
        self.extension_bytes += 1;
        if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX {
            return Err(bad("too many bytes of chunk extensions"));
        }
        Ok(())
    }

    /// `*( ";" token [ "=" ( token / quoted-string ) ] )`, without the white space that RFC 9112 calls bad.
    fn take_extension(&mut self, byte: u8) -> Result<State, HttpError> {
        const SHAPE: HttpError = bad("a malformed chunk extension");
        let may_end = matches!(self.state, State::ExtensionNameRest | State::ExtensionToken | State::ExtensionQuoteEnd);
        if byte == b'\r' && may_end {
            return Ok(State::SizeLineFeed);
        }
        self.count_extension_byte()?;
        match self.state {
            _ if byte == b';' && may_end => Ok(State::ExtensionName),
            State::ExtensionName | State::ExtensionNameRest if is_token_byte(byte) => Ok(State::ExtensionNameRest),
            State::ExtensionNameRest if byte == b'=' => Ok(State::ExtensionValue),
            State::ExtensionValue if byte == b'"' => Ok(State::ExtensionQuoted),
            State::ExtensionValue | State::ExtensionToken if is_token_byte(byte) => Ok(State::ExtensionToken),
            State::ExtensionQuoted if byte == b'"' => Ok(State::ExtensionQuoteEnd),
            State::ExtensionQuoted if byte == b'\\' => Ok(State::ExtensionEscaped),
            State::ExtensionQuoted | State::ExtensionEscaped if is_quoted_byte(byte) => Ok(State::ExtensionQuoted),
            _ => Err(SHAPE),
        }
    }

    /// Trailers obey the rules of headers and are dropped: merging them would let a client add a header after
    /// every check of the head has passed.
    fn take_trailer(&mut self, byte: u8) -> Result<State, HttpError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > HEADER_BLOCK_BYTES_MAX {
            return Err(HttpError::new(ErrorCode::HeadersTooLarge, "the trailers are too long"));
        }
        match (self.state, byte) {
            (State::TrailerLine, b'\r') => Ok(State::LastLineFeed),
            (State::TrailerLine, _) => {
                self.trailer_count += 1;
                if self.trailer_count > HEADER_COUNT_MAX {
                    return Err(HttpError::new(ErrorCode::HeadersTooLarge, "too many trailers"));
                }
                if is_trailer_name_byte(byte) {
                    Ok(State::TrailerName)
                } else {
                    Err(bad("a trailer does not begin with a name"))
                }
            }
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerName, _) if is_trailer_name_byte(byte) => Ok(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLineFeed),
            (State::TrailerValue, _) if is_quoted_byte(byte) || byte >= 0x80 => Ok(State::TrailerValue),
            (State::TrailerLineFeed, b'\n') => Ok(State::TrailerLine),
            (State::LastLineFeed, b'\n') => Ok(State::Done),
            (State::TrailerName, _) => Err(bad("a trailer name is not a token followed by a colon")),
            (State::TrailerValue, _) => Err(bad("a control byte in a trailer")),
            _ => Err(bad("a trailer line does not end in CRLF")),
        }
    }
}

const fn is_quoted_byte(byte: u8) -> bool {
    byte == b'\t' || (0x20 <= byte && byte <= 0x7e)
}

const fn is_trailer_name_byte(byte: u8) -> bool {
    is_token_byte(byte) && byte != b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes whole, byte by byte and split at every place; all must agree. The canary proves where it ended.
    fn decode(message: &[u8], payload_bytes_max: usize) -> Result<Vec<u8>, ErrorCode> {
        const CANARY: &[u8] = b"GET /canary";
        let mut bytes = message.to_vec();
        bytes.extend_from_slice(CANARY);
        let run = |pieces: &[&[u8]]| {
            let mut decoder = ChunkDecoder::new(payload_bytes_max);
            let (mut payload, mut taken) = (Vec::new(), 0);
            for piece in pieces {
                taken += decoder.decode(piece, &mut payload).map_err(|error| error.code)?;
                if decoder.is_done() {
                    break;
                }
            }
            assert!(decoder.is_done(), "not done: {}", message.escape_ascii());
            assert_eq!(taken, message.len(), "{}", message.escape_ascii());
            Ok(payload)
        };
        let whole = run(&[&bytes]);
        assert_eq!(run(&bytes.chunks(1).collect::<Vec<_>>()), whole, "{}", message.escape_ascii());
        let step = bytes.len() / 500 + 1;
        for split in (0..bytes.len()).step_by(step) {
            assert_eq!(run(&[&bytes[..split], &bytes[split..]]), whole, "{} at {split}", message.escape_ascii());
        }
        whole
    }

    fn accepts(message: &[u8], payload: &[u8]) {
        assert_eq!(decode(message, 1 << 20).as_deref(), Ok(payload), "{}", message.escape_ascii());
    }

    fn refuses(message: &[u8]) {
        assert_eq!(decode(message, 1 << 20), Err(ErrorCode::BadFraming), "{}", message.escape_ascii());
    }

    #[test]
    fn well_formed_messages_decode_and_end_exactly() {
        accepts(b"0\r\n\r\n", b"");
        accepts(b"5\r\nhello\r\n0\r\n\r\n", b"hello");
        accepts(b"0000000000000005\r\nhello\r\n000\r\n\r\n", b"hello");
        accepts(b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789");
        accepts(b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n");
        accepts(b"1;a\r\nx\r\n0;b=c;d=\"e \\\" ;\t\"\r\n\r\n", b"x");
        accepts(b"1\r\nx\r\n0\r\nA: b\r\nContent-Length: 99\r\nEmpty:\r\n\r\n", b"x");
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        refuses(b"\r\n0\r\n\r\n");
        refuses(b";a=b\r\n\r\n");
        refuses(b" 5\r\nhello\r\n0\r\n\r\n");
        refuses(b"5 \r\nhello\r\n0\r\n\r\n");
        refuses(b"0x5\r\nhello\r\n0\r\n\r\n");
        refuses(b"+5\r\nhello\r\n0\r\n\r\n");
        refuses(b"-1\r\nhello\r\n0\r\n\r\n");
        refuses(b"5\nhello\r\n0\r\n\r\n");
        refuses(b"5\r\rhello\r\n0\r\n\r\n");
        refuses(b"5\rhello\r\n0\r\n\r\n");
        refuses(b"00000000000000005\r\nhello\r\n0\r\n\r\n");
        refuses(b"10000000000000000\r\nhello\r\n0\r\n\r\n");
        refuses(b"5\r\nhelloX\r\n0\r\n\r\n");
        refuses(b"5\r\nhello\n0\r\n\r\n");
        refuses(b"5\r\nhello\r0\r\n\r\n");
        refuses(b"5\r\nhello0\r\n\r\n");
        refuses(b"5\r\nhell\r\n0\r\n\r\n");
        refuses(b"0\n\r\n");
        refuses(b"0\r\n\n");
        refuses(b"0\r\n\rX");
    }

    #[test]
    fn extensions_are_tokens_and_quoted_strings() {
        refuses(b"1;\r\nx\r\n0\r\n\r\n");
        refuses(b"1; a\r\nx\r\n0\r\n\r\n");
        refuses(b"1;a=\r\nx\r\n0\r\n\r\n");
        refuses(b"1;a b\r\nx\r\n0\r\n\r\n");
        refuses(b"1;a=\"b\r\nx\r\n0\r\n\r\n");
        refuses(b"1;a=\"b\"c\r\nx\r\n0\r\n\r\n");
        refuses(b"1;a\x00\r\nx\r\n0\r\n\r\n");
        refuses(b"1;a=\"\xff\"\r\nx\r\n0\r\n\r\n");
        refuses(b"1;a\nx\r\n0\r\n\r\n");
    }

    #[test]
    fn trailers_obey_the_rules_of_headers() {
        refuses(b"0\r\nA b: c\r\n\r\n");
        refuses(b"0\r\nA : c\r\n\r\n");
        refuses(b"0\r\n: c\r\n\r\n");
        refuses(b"0\r\nA_b: c\r\n\r\n");
        refuses(b"0\r\nA: b\r\n folded\r\n\r\n");
        refuses(b"0\r\nA: b\x01\r\n\r\n");
        refuses(b"0\r\nA: b\n\r\n");
        refuses(b"0\r\nA: b\rC: d\r\n\r\n");
        let many = |count: usize| [&b"0\r\n"[..], &b"A: b\r\n".repeat(count), b"\r\n"].concat();
        accepts(&many(HEADER_COUNT_MAX), b"");
        assert_eq!(decode(&many(HEADER_COUNT_MAX + 1), 0), Err(ErrorCode::HeadersTooLarge));
        let long = |len: usize| [&b"0\r\nA:"[..], &b"b".repeat(len - 6), b"\r\n\r\n"].concat();
        accepts(&long(HEADER_BLOCK_BYTES_MAX), b"");
        assert_eq!(decode(&long(HEADER_BLOCK_BYTES_MAX + 1), 0), Err(ErrorCode::HeadersTooLarge));
    }

    #[test]
    fn the_ceilings_hold_on_both_sides() {
        let extension = |len: usize| [b"5;", &b"a".repeat(len - 1)[..], b"\r\nhello\r\n0\r\n\r\n"].concat();
        accepts(&extension(CHUNK_EXTENSION_BYTES_MAX - 1), b"hello");
        accepts(&extension(CHUNK_EXTENSION_BYTES_MAX), b"hello");
        refuses(&extension(CHUNK_EXTENSION_BYTES_MAX + 1));

        assert_eq!(decode(b"5\r\nhello\r\n0\r\n\r\n", 5).as_deref(), Ok(&b"hello"[..]));
        assert_eq!(decode(b"5\r\nhello\r\n1\r\nx\r\n0\r\n\r\n", 6).as_deref(), Ok(&b"hellox"[..]));
        assert_eq!(decode(b"5\r\nhello\r\n0\r\n\r\n", 4), Err(ErrorCode::BodyTooLarge));
        assert_eq!(decode(b"5\r\nhello\r\n1\r\nx\r\n0\r\n\r\n", 5), Err(ErrorCode::BodyTooLarge));
        assert_eq!(decode(b"ffffffffffffffff\r\nhello", usize::MAX - 1), Err(ErrorCode::BodyTooLarge));
    }

    #[test]
    fn too_many_chunks_and_too_much_framing_are_refused() {
        let chunks = |count: usize| [&b"2\r\nxx\r\n".repeat(count)[..], b"0\r\n\r\n"].concat();
        let count = |count: usize| {
            let mut payload = Vec::new();
            ChunkDecoder::new(1 << 20).decode(&chunks(count), &mut payload).map(|_| payload.len())
        };
        let most = CHUNK_COUNT_MAX as usize;
        assert_eq!(count(most), Ok(2 * most));
        assert_eq!(count(most + 1).map_err(|error| error.code), Err(ErrorCode::BadFraming));

        // 20 framing bytes for one of payload.
        let padded = |count: usize| [&b"0000000000000001\r\nx\r\n".repeat(count)[..], b"0\r\n\r\n"].concat();
        accepts(&padded(51), &b"x".repeat(51));
        refuses(&padded(200));
        accepts(&[&b"1\r\nx\r\n".repeat(2000)[..], b"0\r\n\r\n"].concat(), &b"x".repeat(2000));
    }
}
