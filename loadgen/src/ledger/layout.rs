//! Bytes of the ledger: the only place that knows them.
//!
//! ```text
//! file    magic (8), zeros to 4096 | extent | extent ...
//! extent  magic (8) | salt u64 | session u16, zeros (6) | bytes u64 | offset u64 | sum u64 | zeros (16) | entry | entry ...
//! entry   body length u32 | sum u32 | body: kind u8, fields | zeros to a multiple of 8
//! ```
//!
//! Little-endian. An extent's sum and an entry's first eight bytes are written last, as one store: before it there is
//! a zero, and the reader stops there. Sums are salted with the session's random number and the place in the file, so
//! that bytes of another session, or of another place, are no entry.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub const MAGIC: &[u8; 8] = b"RLLEDG02";
/// What all versions of the magic begin with.
pub const MAGIC_FAMILY: &[u8; 6] = b"RLLEDG";
pub const FILE_HEAD_BYTES: u64 = 4096;

const EXTENT_MAGIC: &[u8; 8] = b"RLEXTENT";
/// Extents begin and end at multiples of it.
pub const EXTENT_ALIGN_BYTES: u64 = 4096;
/// Room for some 25,000 events; a guess at what makes taking one rare and a run's last ones small.
pub const EXTENT_BYTES: u64 = 1 << 20;
pub const EXTENT_HEAD_BYTES: usize = 64;
pub const EXTENT_SUM_AT: usize = 40;

pub const ENTRY_HEAD_BYTES: usize = 8;
pub const ENTRY_ALIGN_BYTES: usize = 8;

pub const KIND_RUN: u8 = 1;
pub const KIND_TENANT: u8 = 2;
pub const KIND_BASELINE: u8 = 3;
pub const KIND_SENT: u8 = 4;
pub const KIND_ACKED: u8 = 5;
pub const KIND_REFUSED: u8 = 6;

/// What an extent says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtentHead {
    pub salt: u64,
    pub session: u16,
    pub bytes: u64,
    pub offset: u64,
}

impl ExtentHead {
    /// All but the sum.
    pub fn to_bytes(self) -> [u8; EXTENT_SUM_AT] {
        let mut out = [0; EXTENT_SUM_AT];
        out[..8].copy_from_slice(EXTENT_MAGIC);
        out[8..16].copy_from_slice(&self.salt.to_le_bytes());
        out[16..18].copy_from_slice(&self.session.to_le_bytes());
        out[24..32].copy_from_slice(&self.bytes.to_le_bytes());
        out[32..40].copy_from_slice(&self.offset.to_le_bytes());
        out
    }

    pub fn sum(self) -> u64 {
        // Zero means 'not there'.
        xxh3_64(&self.to_bytes()).max(1)
    }

    /// The head of a whole extent that was written at `offset`.
    pub fn parse(bytes: &[u8], offset: u64) -> Option<Self> {
        let mut fields = Fields(bytes.strip_prefix(EXTENT_MAGIC)?);
        let (salt, session, zeros) = (fields.u64()?, fields.u16()?, fields.array::<6>()?);
        let head = Self { salt, session, bytes: fields.u64()?, offset: fields.u64()? };
        let is_whole = fields.u64()? == head.sum() && zeros == [0; 6];
        (is_whole && head.offset == offset).then_some(head)
    }
}

/// Bytes that an entry takes.
pub fn entry_bytes(body_bytes: usize) -> usize {
    ENTRY_HEAD_BYTES + body_bytes.next_multiple_of(ENTRY_ALIGN_BYTES)
}

/// An entry's first eight bytes; `offset` is the entry's place in the file.
pub fn entry_head(salt: u64, offset: u64, body: &[u8]) -> u64 {
    let sum = xxh3_64_with_seed(body, salt.wrapping_add(offset));
    sum << 32 | body.len() as u64
}

/// The body of the whole entry at `at` in an extent, if there is one.
pub fn entry_at<'a>(head: &ExtentHead, extent: &'a [u8], at: usize) -> Option<&'a [u8]> {
    let mut fields = Fields(extent.get(at..)?);
    let word = fields.u64()?;
    let length = (word & u64::from(u32::MAX)) as usize;
    if length == 0 {
        return None;
    }
    let body = fields.take(length)?;
    (entry_head(head.salt, head.offset + at as u64, body) == word).then_some(body)
}

/// Reads fields from the front.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(front)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub fn text(&mut self) -> Option<String> {
        let length = self.u16()?;
        String::from_utf8(self.take(usize::from(length))?.to_vec()).ok()
    }
}
