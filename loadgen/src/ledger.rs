//! The ledger: what was sent and what was acknowledged, on disk before anybody can ask about it.
//!
//! An append-only file. A request is noted before its first byte leaves, so that whatever the server holds is known
//! here; its outcome is noted as it arrives. A request without an outcome may be stored or not: both are honest.
//!
//! ```text
//! magic (8) | frame | frame ...      frame: body length u32 | xxh3 of body u32 | kind u8, fields, little-endian
//! ```
//!
//! The file holds keys: it is made readable by its owner alone.

use crate::corpus::{Mark, Seq};
use crate::failure::Failure;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

const MAGIC: &[u8; 8] = b"RLLEDG01";
const FRAME_BYTES_MAX: usize = 64 << 20;

const KIND_RUN: u8 = 1;
const KIND_TENANT: u8 = 2;
const KIND_BASELINE: u8 = 3;
const KIND_SENT: u8 = 4;
const KIND_ACKED: u8 = 5;
const KIND_REFUSED: u8 = 6;

/// Who the events belong to, and the key that reads them back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: String,
    pub key: String,
}

/// What the server said of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub id_hash: u128,
    pub version: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Unknown,
    /// `at` counts the ledger's entries: an entry with a smaller number was made earlier.
    Acked {
        at: u32,
    },
    Refused {
        status: u16,
    },
}

#[derive(Debug)]
pub struct SentRequest {
    pub tenant: u16,
    pub first_event: u32,
    pub event_count: u32,
    pub at: u32,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub struct SentEvent {
    pub seq: Seq,
    pub request: u32,
    pub mark: Mark,
    pub ack: Option<Ack>,
}

/// A ledger as it is read back.
#[derive(Debug, Default)]
pub struct Ledger {
    pub run_count: u16,
    /// Of each run, so that its requests can be made again.
    pub seeds: Vec<u64>,
    pub tenants: Vec<Tenant>,
    /// Events that were there before the first run, by tenant.
    pub baselines: HashMap<u16, Vec<u128>>,
    pub requests: Vec<SentRequest>,
    pub events: Vec<SentEvent>,
    by_seq: HashMap<Seq, u32>,
    entry_count: u32,
    /// Bytes at the end that are no whole frame: the writer was killed.
    pub torn_bytes: u64,
    whole_bytes: u64,
}

pub fn id_hash(id: &str) -> u128 {
    xxh3_128(id.as_bytes())
}

impl Ledger {
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(Failure::io(format!("ledger {}", path.display())))?;
        Self::from_bytes(&bytes).map_err(|why| Failure::Other(format!("ledger {}: {why}", path.display())))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut rest = bytes.strip_prefix(MAGIC).ok_or("this is not a ledger")?;
        let mut ledger = Self::default();
        while let Some((body, after)) = split_frame(rest) {
            ledger.apply(body).ok_or("a whole entry makes no sense")?;
            rest = after;
        }
        ledger.torn_bytes = rest.len() as u64;
        ledger.whole_bytes = (bytes.len() - rest.len()) as u64;
        Ok(ledger)
    }

    pub fn event_by_seq(&self, seq: Seq) -> Option<u32> {
        self.by_seq.get(&seq).copied()
    }

    fn apply(&mut self, body: &[u8]) -> Option<()> {
        let mut fields = Fields(body);
        let kind = fields.u8()?;
        let at = self.entry_count;
        self.entry_count = at.checked_add(1)?;
        match kind {
            KIND_RUN => {
                self.run_count += 1;
                self.seeds.push(fields.u64()?);
            }
            KIND_TENANT => {
                let tenant = Tenant { id: fields.text()?, key: fields.text()? };
                self.tenants.push(tenant);
            }
            KIND_BASELINE => {
                let tenant = fields.u16()?;
                let ids = self.baselines.entry(tenant).or_default();
                while !fields.0.is_empty() {
                    ids.push(fields.u128()?);
                }
            }
            KIND_SENT => {
                let (first, tenant, event_count) = (Seq(fields.u64()?), fields.u16()?, fields.u32()?);
                let first_event = u32::try_from(self.events.len()).ok()?;
                let request = u32::try_from(self.requests.len()).ok()?;
                for index in 0..event_count {
                    let seq = first.plus(u64::from(index));
                    let mark = Mark { entity: fields.u32()?, payload_hash: fields.u64()?, rest_hash: fields.u32()? };
                    self.by_seq.insert(seq, first_event + index);
                    self.events.push(SentEvent { seq, request, mark, ack: None });
                }
                self.requests.push(SentRequest { tenant, first_event, event_count, at, outcome: Outcome::Unknown });
            }
            KIND_ACKED => {
                let first = self.event_by_seq(Seq(fields.u64()?))?;
                let request = &mut self.requests[self.events[first as usize].request as usize];
                request.outcome = Outcome::Acked { at };
                let range = first as usize..(first + request.event_count) as usize;
                for event in &mut self.events[range] {
                    event.ack = Some(Ack { id_hash: fields.u128()?, version: fields.u64()? });
                }
            }
            KIND_REFUSED => {
                let first = self.event_by_seq(Seq(fields.u64()?))?;
                let status = fields.u16()?;
                self.requests[self.events[first as usize].request as usize].outcome = Outcome::Refused { status };
            }
            _ => return None,
        }
        fields.0.is_empty().then_some(())
    }
}

/// Appends to a ledger. Entries gather in memory until [`LedgerWriter::flush`].
#[derive(Debug)]
pub struct LedgerWriter {
    file: File,
    pending: Vec<u8>,
}

impl LedgerWriter {
    /// Opens or creates the ledger, cuts what a killed writer left behind, and answers what is in it.
    pub fn open(path: &Path) -> Result<(Self, Ledger), Failure> {
        let what = || format!("ledger {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(Failure::io(what()))?;
        let ledger = Ledger::read(path)?;
        if ledger.whole_bytes == 0 {
            file.write_all(MAGIC).map_err(Failure::io(what()))?;
        } else {
            file.set_len(ledger.whole_bytes).map_err(Failure::io(what()))?;
            file.seek(SeekFrom::End(0)).map_err(Failure::io(what()))?;
        }
        Ok((Self { file, pending: Vec::new() }, ledger))
    }

    pub fn run(&mut self, seed: u64) {
        self.frame(|out| {
            out.push(KIND_RUN);
            out.extend_from_slice(&seed.to_le_bytes());
        });
    }

    pub fn tenant(&mut self, tenant: &Tenant) {
        self.frame(|out| {
            out.push(KIND_TENANT);
            for text in [&tenant.id, &tenant.key] {
                out.extend_from_slice(&(text.len() as u16).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        });
    }

    pub fn baseline(&mut self, tenant: u16, ids: &[u128]) {
        self.frame(|out| {
            out.push(KIND_BASELINE);
            out.extend_from_slice(&tenant.to_le_bytes());
            for id in ids {
                out.extend_from_slice(&id.to_le_bytes());
            }
        });
    }

    pub fn sent(&mut self, first: Seq, tenant: u16, marks: &[Mark]) {
        self.frame(|out| {
            out.push(KIND_SENT);
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&tenant.to_le_bytes());
            out.extend_from_slice(&(marks.len() as u32).to_le_bytes());
            for mark in marks {
                out.extend_from_slice(&mark.entity.to_le_bytes());
                out.extend_from_slice(&mark.payload_hash.to_le_bytes());
                out.extend_from_slice(&mark.rest_hash.to_le_bytes());
            }
        });
    }

    pub fn acked(&mut self, first: Seq, acks: &[Ack]) {
        self.frame(|out| {
            out.push(KIND_ACKED);
            out.extend_from_slice(&first.0.to_le_bytes());
            for ack in acks {
                out.extend_from_slice(&ack.id_hash.to_le_bytes());
                out.extend_from_slice(&ack.version.to_le_bytes());
            }
        });
    }

    pub fn refused(&mut self, first: Seq, status: u16) {
        self.frame(|out| {
            out.push(KIND_REFUSED);
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&status.to_le_bytes());
        });
    }

    /// Hands everything to the kernel: from then on it survives this process.
    pub fn flush(&mut self) -> std::io::Result<()> {
        if !self.pending.is_empty() {
            self.file.write_all(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    fn frame(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.pending.len();
        self.pending.extend_from_slice(&[0; 8]);
        write(&mut self.pending);
        let body = &self.pending[at + 8..];
        let (length, sum) = (body.len() as u32, xxh3_64(body) as u32);
        self.pending[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self.pending[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(bytes);
    let (length, sum) = (fields.u32()? as usize, fields.u32()?);
    if FRAME_BYTES_MAX < length {
        return None;
    }
    let body = fields.take(length)?;
    (xxh3_64(body) as u32 == sum).then_some((body, fields.0))
}

/// Reads fields from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u16()?;
        String::from_utf8(self.take(usize::from(length))?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(entity: u32) -> Mark {
        Mark { entity, payload_hash: u64::from(entity) * 3, rest_hash: entity * 5 }
    }

    fn write_three(path: &Path) {
        let (mut writer, ledger) = LedgerWriter::open(path).unwrap();
        assert_eq!(ledger.run_count, 0);
        writer.run(9);
        writer.tenant(&Tenant { id: "t".into(), key: "k".into() });
        writer.baseline(0, &[7, 8]);
        writer.sent(Seq(10), 0, &[mark(1), mark(2)]);
        writer.sent(Seq(12), 0, &[mark(3)]);
        writer.acked(Seq(10), &[Ack { id_hash: 100, version: 1 }, Ack { id_hash: 101, version: 4 }]);
        writer.sent(Seq(13), 0, &[mark(4)]);
        writer.refused(Seq(13), 429);
        writer.flush().unwrap();
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        write_three(&path);
        let ledger = Ledger::read(&path).unwrap();
        assert_eq!((ledger.run_count, ledger.torn_bytes), (1, 0));
        assert_eq!(ledger.seeds, [9]);
        assert_eq!(ledger.tenants, [Tenant { id: "t".into(), key: "k".into() }]);
        assert_eq!(ledger.baselines[&0], [7, 8]);
        let outcomes: Vec<Outcome> = ledger.requests.iter().map(|request| request.outcome).collect();
        assert_eq!(outcomes, [Outcome::Acked { at: 5 }, Outcome::Unknown, Outcome::Refused { status: 429 }]);
        assert_eq!(ledger.events[1].ack, Some(Ack { id_hash: 101, version: 4 }));
        assert_eq!(ledger.events[1].mark, mark(2));
        assert_eq!(ledger.event_by_seq(Seq(13)), Some(3));
        assert_eq!(ledger.event_by_seq(Seq(14)), None);
    }

    #[test]
    fn a_torn_end_is_cut_before_the_next_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        write_three(&path);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..20 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let (mut writer, ledger) = LedgerWriter::open(&path).unwrap();
            assert_eq!(ledger.requests.len() + usize::from(19 < cut), 3);
            assert_eq!(ledger.requests[2].outcome, Outcome::Unknown);
            writer.refused(Seq(13), 400);
            writer.flush().unwrap();
            let again = Ledger::read(&path).unwrap();
            assert_eq!(again.requests[2].outcome, Outcome::Refused { status: 400 });
            assert_eq!(again.torn_bytes, 0);
        }
    }

    #[test]
    fn another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not-a-ledger");
        std::fs::write(&path, "some text of mine").unwrap();
        assert!(LedgerWriter::open(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"some text of mine");
    }
}
