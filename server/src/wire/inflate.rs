//! Compressed bodies become the bytes they stand for.
//!
//! Owns what `Content-Encoding` may say here, and the ceilings that keep a small body from becoming a large one: on what comes
//! out, and on the window that a zstd body may ask for. Must never: keep a byte of a body for the next one.
//!
//! ```text
//! gzip   one or more members   | 1f 8b 08 | flags | mtime 4 | xfl | os | extra? name? comment? crc16? | deflate | crc32 | length |
//! zstd   one or more frames
//! ```
//! What is behind the last member or frame, and what ends before its own end, is refused whole.

use std::fmt;

use flate2::{Crc, Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_frame_content_size};

use super::status::{ErrorCode, Problem};
use crate::limits::{DECODER_KEPT_BYTES_MAX, ZSTD_WINDOW_LOG_MAX};

/// The value of `Accept-Encoding` in a 415.
pub const ACCEPTED: &str = "gzip, zstd, identity";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// Why a body cannot be unpacked. What is in the buffer is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InflateError {
    /// The encoding is none of ours, or there is more than one.
    Encoding,
    /// It becomes more than this.
    TooLarge { max: usize },
    /// It ends before its end.
    Truncated,
    /// It is not what `Content-Encoding` says, or has something behind its end.
    Damaged,
    /// A zstd window above 8 MiB.
    Window,
}

impl fmt::Display for InflateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InflateError::Encoding => write!(f, "the content encoding is none of {ACCEPTED}"),
            InflateError::TooLarge { max } => write!(f, "the body becomes more than {max} bytes; send less at once"),
            InflateError::Truncated => f.write_str("the compressed body ends before its end"),
            InflateError::Damaged => f.write_str("the body is not what its content encoding says"),
            InflateError::Window => f.write_str("the body needs a window of more than 8 MiB; compress it with less"),
        }
    }
}

impl std::error::Error for InflateError {}

impl From<InflateError> for Problem {
    fn from(error: InflateError) -> Problem {
        match error {
            InflateError::Encoding | InflateError::Window => Problem::unsupported_encoding(ACCEPTED),
            InflateError::TooLarge { max } => {
                Problem::new(ErrorCode::BodyTooLarge, error.to_string()).number("limit", max as u64)
            }
            InflateError::Truncated | InflateError::Damaged => Problem::new(ErrorCode::BadRequest, error.to_string()),
        }
    }
}

impl Encoding {
    /// What the header's value asks for; without one nothing is asked.
    pub fn of(content_encoding: Option<&[u8]>) -> Result<Encoding, InflateError> {
        let value = content_encoding.unwrap_or_default().trim_ascii();
        let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
        match () {
            () if value.is_empty() || is("identity") => Ok(Encoding::Identity),
            // RFC 9110 8.4.1.3: the older name of the same.
            () if is("gzip") || is("x-gzip") => Ok(Encoding::Gzip),
            () if is("zstd") => Ok(Encoding::Zstd),
            () => Err(InflateError::Encoding),
        }
    }
}

/// The decoders of one core. Each is made by its first body and used again: a new one costs more than a small body does.
#[derive(Default)]
pub struct Inflate {
    /// Of deflate, without the wrapper: `flate2` can reset that one in place.
    gzip: Option<Decompress>,
    zstd: Option<DCtx<'static>>,
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflate").field("gzip", &self.gzip.is_some()).field("zstd", &self.zstd.is_some()).finish()
    }
}

impl Inflate {
    /// Replaces what is in `out` by what `body` stands for: at most `max` bytes.
    pub fn decode(
        &mut self,
        encoding: Encoding,
        body: &[u8],
        out: &mut Vec<u8>,
        max: usize,
    ) -> Result<(), InflateError> {
        out.clear();
        match encoding {
            Encoding::Identity if max < body.len() => Err(InflateError::TooLarge { max }),
            Encoding::Identity => {
                out.extend_from_slice(body);
                Ok(())
            }
            Encoding::Gzip => gunzip(self.gzip.get_or_insert_with(|| Decompress::new(false)), body, out, max),
            Encoding::Zstd => self.unzstd(body, out, max),
        }
    }

    fn unzstd(&mut self, body: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), InflateError> {
        let decoder = self.zstd.get_or_insert_with(|| {
            let mut decoder = DCtx::create();
            decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).expect("the log is in zstd's bounds");
            decoder
        });
        decoder.reset(ResetDirective::SessionOnly).expect("a session can always be reset");
        let outcome = unzstd(decoder, body, out, max);
        if decoder.sizeof() > DECODER_KEPT_BYTES_MAX {
            self.zstd = None;
        }
        outcome
    }
}

/// Makes room for more, twice as much as there is, and for one byte above the ceiling at most: that one tells that it was passed.
fn make_room(out: &mut Vec<u8>, expected: usize, max: usize) -> Result<(), InflateError> {
    const ROOM_BYTES_MIN: usize = 4096;
    if max < out.len() {
        return Err(InflateError::TooLarge { max });
    }
    if out.len() == out.capacity() || out.is_empty() {
        let room = out.len().max(expected).max(ROOM_BYTES_MIN).min(max + 1 - out.len());
        out.reserve_exact(room);
    }
    Ok(())
}

/// What a body of this length becomes, as a first guess: JSON lines shrink to a fifth or less. Not a ceiling.
fn first_guess(body: &[u8]) -> usize {
    body.len().saturating_mul(4)
}

fn gunzip(decoder: &mut Decompress, body: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), InflateError> {
    let mut rest = body;
    loop {
        rest = skip_gzip_header(rest)?;
        decoder.reset(false);
        let member_at = out.len();
        loop {
            make_room(out, first_guess(body), max)?;
            let (read_before, written_before) = (decoder.total_in(), decoder.total_out());
            let status = decoder.decompress_vec(rest, out, FlushDecompress::None).map_err(|_| InflateError::Damaged)?;
            let read = (decoder.total_in() - read_before) as usize;
            rest = &rest[read..];
            if status == Status::StreamEnd {
                break;
            }
            let is_stuck = read == 0 && decoder.total_out() == written_before;
            if is_stuck || (rest.is_empty() && out.len() < out.capacity()) {
                return Err(InflateError::Truncated);
            }
        }
        if max < out.len() {
            return Err(InflateError::TooLarge { max });
        }
        let (trailer, behind) = rest.split_first_chunk::<8>().ok_or(InflateError::Truncated)?;
        let member = &out[member_at..];
        let mut crc = Crc::new();
        crc.update(member);
        // Two little-endian words: the checksum and the length modulo 2^32.
        let expected = u64::from(crc.sum()) | u64::from(member.len() as u32) << 32;
        if u64::from_le_bytes(*trailer) != expected {
            return Err(InflateError::Damaged);
        }
        if behind.is_empty() {
            return Ok(());
        }
        rest = behind;
    }
}

const GZIP_HEADER_CRC: u8 = 0b0000_0010;
const GZIP_EXTRA: u8 = 0b0000_0100;
const GZIP_NAME: u8 = 0b0000_1000;
const GZIP_COMMENT: u8 = 0b0001_0000;
const GZIP_RESERVED: u8 = 0b1110_0000;

/// What follows the header of a member (RFC 1952 2.3).
fn skip_gzip_header(member: &[u8]) -> Result<&[u8], InflateError> {
    const MAGIC: &[u8] = &[0x1f, 0x8b, 8];
    let known = member.len().min(MAGIC.len());
    if member[..known] != MAGIC[..known] {
        return Err(InflateError::Damaged);
    }
    let (head, mut rest) = member.split_first_chunk::<10>().ok_or(InflateError::Truncated)?;
    let flags = head[3];
    if flags & GZIP_RESERVED != 0 {
        return Err(InflateError::Damaged);
    }
    if flags & GZIP_EXTRA != 0 {
        let (length, behind) = rest.split_first_chunk::<2>().ok_or(InflateError::Truncated)?;
        rest = behind.get(usize::from(u16::from_le_bytes(*length))..).ok_or(InflateError::Truncated)?;
    }
    for text in [GZIP_NAME, GZIP_COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|&byte| byte == 0).ok_or(InflateError::Truncated)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & GZIP_HEADER_CRC != 0 {
        let (expected, behind) = rest.split_first_chunk::<2>().ok_or(InflateError::Truncated)?;
        let mut crc = Crc::new();
        crc.update(&member[..member.len() - rest.len()]);
        if crc.sum() as u16 != u16::from_le_bytes(*expected) {
            return Err(InflateError::Damaged);
        }
        rest = behind;
    }
    Ok(rest)
}

fn unzstd(decoder: &mut DCtx<'_>, body: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), InflateError> {
    let mut input = InBuffer::around(body);
    loop {
        let declared = get_frame_content_size(&body[input.pos..]).ok().flatten();
        if declared.is_some_and(|bytes| (max as u64) < bytes.saturating_add(out.len() as u64)) {
            return Err(InflateError::TooLarge { max });
        }
        let frame_at = out.len();
        unzstd_frame(decoder, &mut input, body, declared, out, max)?;
        if max < out.len() {
            return Err(InflateError::TooLarge { max });
        }
        // zstd does not compare them where a frame's last block is empty and the frame did not fit into the room that it had.
        if declared.is_some_and(|bytes| bytes != (out.len() - frame_at) as u64) {
            return Err(InflateError::Damaged);
        }
        if input.pos == body.len() {
            return Ok(());
        }
    }
}

/// The frame at `input`, which says of itself that it becomes `declared` bytes, or nothing.
fn unzstd_frame(
    decoder: &mut DCtx<'_>,
    input: &mut InBuffer<'_>,
    body: &[u8],
    declared: Option<u64>,
    out: &mut Vec<u8>,
    max: usize,
) -> Result<(), InflateError> {
    // With room for a whole frame zstd writes it straight there, and needs no window of its own.
    let expected = declared.map_or_else(|| first_guess(body), |bytes| bytes as usize + 1);
    loop {
        make_room(out, expected, max)?;
        let (read_before, written_before) = (input.pos, out.len());
        let mut output = OutBuffer::around_pos(out, written_before);
        let hint = decoder.decompress_stream(&mut output, input).map_err(of_zstd)?;
        if hint == 0 {
            return Ok(());
        }
        let is_stuck = input.pos == read_before && out.len() == written_before;
        if is_stuck || (input.pos == body.len() && out.len() < out.capacity()) {
            return Err(InflateError::Truncated);
        }
    }
}

/// zstd says why in numbers that its crate has no names for.
fn of_zstd(code: usize) -> InflateError {
    /// `ZSTD_error_frameParameter_windowTooLarge`
    const WINDOW_TOO_LARGE: usize = 16;
    if code.wrapping_neg() == WINDOW_TOO_LARGE { InflateError::Window } else { InflateError::Damaged }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder, write::GzEncoder};

    use super::*;
    use crate::wire::broken::every_wrong_byte;

    const MAX: usize = 1 << 20;

    fn sample() -> Vec<u8> {
        (0..200)
            .flat_map(|n| format!("{{\"type\":\"track\",\"event\":\"e{}\",\"n\":{n}}}\n", n % 7).into_bytes())
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    /// As a sender writes that does not know the length beforehand.
    fn zstd_stream(bytes: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.include_contentsize(false).unwrap();
        for piece in bytes.chunks(4096) {
            encoder.write_all(piece).unwrap();
        }
        encoder.finish().unwrap()
    }

    fn decode(encoding: Encoding, body: &[u8], max: usize) -> Result<Vec<u8>, InflateError> {
        let mut out = b"left over".to_vec();
        Inflate::default().decode(encoding, body, &mut out, max).map(|()| out)
    }

    #[test]
    fn a_body_comes_back_as_it_was() {
        let mut inflate = Inflate::default();
        let mut out = Vec::new();
        let large: Vec<u8> = (0..60_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for bytes in [&b""[..], b"x", &sample(), &large] {
            for (encoding, body) in [
                (Encoding::Identity, bytes.to_vec()),
                (Encoding::Gzip, gzip(bytes)),
                (Encoding::Zstd, zstd(bytes)),
                (Encoding::Zstd, zstd_stream(bytes, 17)),
            ] {
                // The decoders are the same ones from body to body.
                inflate.decode(encoding, &body, &mut out, MAX).unwrap();
                assert_eq!(out, bytes, "{encoding:?}");
                assert_eq!(decode(encoding, &body, bytes.len()).unwrap(), bytes, "{encoding:?}");
                if !bytes.is_empty() {
                    let error = InflateError::TooLarge { max: bytes.len() - 1 };
                    assert_eq!(decode(encoding, &body, bytes.len() - 1), Err(error), "{encoding:?}");
                }
            }
        }
    }

    #[test]
    fn several_members_are_one_body() {
        for (encoding, pack) in [(Encoding::Gzip, gzip as fn(&[u8]) -> Vec<u8>), (Encoding::Zstd, zstd)] {
            let body = [pack(b"one\n"), pack(b""), pack(b"two\n")].concat();
            assert_eq!(decode(encoding, &body, MAX).unwrap(), b"one\ntwo\n");
            assert_eq!(decode(encoding, &body, 7), Err(InflateError::TooLarge { max: 7 }));
        }
    }

    #[test]
    fn everything_a_gzip_header_may_have_is_skipped() {
        let encoder = GzBuilder::new().filename("a.json").comment("c").extra(vec![7; 300]).mtime(9);
        let mut encoder = encoder.write(Vec::new(), Compression::fast());
        encoder.write_all(&sample()).unwrap();
        let body = encoder.finish().unwrap();
        assert_eq!(decode(Encoding::Gzip, &body, MAX).unwrap(), sample());
        // The checksum of the header, which that encoder never writes.
        let mut body = gzip(b"x");
        body[3] |= GZIP_HEADER_CRC;
        let mut crc = Crc::new();
        crc.update(&body[..10]);
        body.splice(10..10, (crc.sum() as u16).to_le_bytes());
        assert_eq!(decode(Encoding::Gzip, &body, MAX).unwrap(), b"x");
        body[10] ^= 1;
        assert_eq!(decode(Encoding::Gzip, &body, MAX), Err(InflateError::Damaged));
    }

    #[test]
    fn no_cut_or_lengthened_body_is_taken() {
        let sample = sample();
        for (encoding, body) in [
            (Encoding::Gzip, gzip(&sample)),
            (Encoding::Zstd, zstd(&sample)),
            (Encoding::Zstd, zstd_stream(&sample, 17)),
        ] {
            for cut in 0..body.len() {
                assert_eq!(decode(encoding, &body[..cut], MAX), Err(InflateError::Truncated), "{encoding:?} {cut}");
            }
            for garbage in [&b"x"[..], b"\0", b"\0\0\0\0\0\0\0\0\0\0\0\0", b"{\"type\":\"track\"}\n"] {
                let verdict = decode(encoding, &[&body, garbage].concat(), MAX);
                assert!(matches!(verdict, Err(InflateError::Damaged | InflateError::Truncated)), "{verdict:?}");
            }
        }
    }

    #[test]
    fn a_changed_byte_is_never_a_panic_and_gzip_never_takes_another_text() {
        let sample = &sample()[..400];
        let mut inflate = Inflate::default();
        let mut out = Vec::new();
        for (encoding, body) in
            [(Encoding::Gzip, gzip(sample)), (Encoding::Zstd, zstd(sample)), (Encoding::Zstd, zstd_stream(sample, 17))]
        {
            every_wrong_byte(&body, |place, changed| {
                if inflate.decode(encoding, changed, &mut out, MAX).is_ok() {
                    match encoding {
                        Encoding::Gzip => assert_eq!(out, sample, "{place}"),
                        // It has no checksum: the text is what the changed body says.
                        _ => assert_eq!(out, zstd::decode_all(changed).unwrap(), "{place}"),
                    }
                }
            });
            inflate.decode(encoding, &body, &mut out, MAX).unwrap();
            assert_eq!(out, sample, "the body after a damaged one is good");
        }
    }

    #[test]
    fn a_frame_that_is_not_as_long_as_it_says_is_refused() {
        // 32 bytes are promised, and one empty block is all that comes.
        let body = b"\x28\xb5\x2f\xfd\x20\x20\x01\0\0";
        assert_eq!(decode(Encoding::Zstd, body, 32), Err(InflateError::Damaged));
        assert_eq!(decode(Encoding::Zstd, body, 16), Err(InflateError::TooLarge { max: 16 }));
        // The room that is left behind the first frame is shorter than the promise.
        let first = zstd(&vec![b'x'; 4090]);
        assert_eq!(decode(Encoding::Zstd, &[&first, &body[..]].concat(), MAX), Err(InflateError::Damaged));
        assert_eq!(
            decode(Encoding::Zstd, &[&first, &body[..]].concat(), 4100),
            Err(InflateError::TooLarge { max: 4100 })
        );
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_the_ceiling() {
        let zeros = vec![b' '; 64 << 20];
        for (encoding, body) in
            [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd(&zeros)), (Encoding::Zstd, zstd_stream(&zeros, 23))]
        {
            assert!(body.len() < 100_000);
            let mut out = Vec::new();
            let mut inflate = Inflate::default();
            assert_eq!(inflate.decode(encoding, &body, &mut out, MAX), Err(InflateError::TooLarge { max: MAX }));
            assert!(out.capacity() <= MAX + 1, "{encoding:?} {}", out.capacity());
            assert!(inflate.zstd.is_none_or(|decoder| decoder.sizeof() <= DECODER_KEPT_BYTES_MAX));
        }
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused_before_it_is_made() {
        let bytes = vec![b'x'; 100_000];
        let body = zstd_stream(&bytes, ZSTD_WINDOW_LOG_MAX + 1);
        assert_eq!(decode(Encoding::Zstd, &body, MAX), Err(InflateError::Window));
        assert_eq!(decode(Encoding::Zstd, &zstd_stream(&bytes, ZSTD_WINDOW_LOG_MAX), MAX).unwrap(), bytes);
    }

    #[test]
    fn the_header_names_one_encoding_or_none() {
        for (value, expected) in [
            (None, Ok(Encoding::Identity)),
            (Some(""), Ok(Encoding::Identity)),
            (Some("identity"), Ok(Encoding::Identity)),
            (Some("GZip "), Ok(Encoding::Gzip)),
            (Some("x-gzip"), Ok(Encoding::Gzip)),
            (Some("zstd"), Ok(Encoding::Zstd)),
            (Some("deflate"), Err(InflateError::Encoding)),
            (Some("br"), Err(InflateError::Encoding)),
            (Some("gzip, gzip"), Err(InflateError::Encoding)),
            (Some("gzip,identity"), Err(InflateError::Encoding)),
        ] {
            assert_eq!(Encoding::of(value.map(str::as_bytes)), expected, "{value:?}");
        }
        assert_eq!(Problem::from(InflateError::Encoding).code().status(), 415);
        assert_eq!(Problem::from(InflateError::TooLarge { max: 1 }).code().status(), 413);
        assert_eq!(Problem::from(InflateError::Truncated).code().status(), 400);
    }
}
