//! Reading a ledger, extent by extent, into columns: 44 bytes per event and 48 per request.
//!
//! It trusts nothing: an entry that is not whole ends its extent as a killed writer ends it. A whole entry beyond one
//! that is not whole is another matter, because a writer never leaves that: such a ledger is damaged, and refused.

use super::layout::{
    ENTRY_ALIGN_BYTES, EXTENT_ALIGN_BYTES, EXTENT_HEAD_BYTES, ExtentHead, FILE_HEAD_BYTES, Fields, KIND_ACKED,
    KIND_BASELINE, KIND_REFUSED, KIND_RUN, KIND_SENT, KIND_TENANT, MAGIC, MAGIC_FAMILY, entry_at, entry_bytes,
};
use super::{Ack, Moment, Outcome, SentRequest, Tenant};
use crate::corpus::{Mark, Seq};
use crate::failure::Failure;
use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A ledger as it is read back.
#[derive(Debug, Default)]
pub struct Ledger {
    pub run_count: u16,
    /// Of each run, so that its requests can be made again.
    pub seeds: Vec<u64>,
    pub tenants: Vec<Tenant>,
    /// Events that were there before the first run, by tenant.
    pub baselines: HashMap<u16, Vec<u128>>,
    /// By sequence number.
    pub requests: Vec<SentRequest>,
    /// Bytes after an extent's last whole entry: its writer was killed.
    pub torn_bytes: u64,
    pub(super) session_count: u16,
    /// Where the next extent belongs; 0 in a file without a head.
    pub(super) end: u64,
    marks: Vec<Mark>,
    request_of: Vec<u32>,
    acked_ids: Vec<u128>,
    acked_versions: Vec<u64>,
    /// Keeps runs from writing what is being read.
    lock: Option<File>,
}

impl Ledger {
    /// Reads a ledger that nobody writes; while it lives, nobody can.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let what = || format!("ledger {}", path.display());
        let file = File::open(path).map_err(Failure::io(what()))?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Other(format!("{}: a run still writes it", what())));
            }
            Err(TryLockError::Error(error)) => return Err(Failure::io(what())(error)),
        }
        let mut ledger = Self::of_file(&file).map_err(|why| Failure::Other(format!("{}: {why}", what())))?;
        ledger.lock = Some(file);
        Ok(ledger)
    }

    pub(super) fn of_file(file: &File) -> Result<Self, String> {
        let mut reader = Reader::default();
        reader.read_file(file)?;
        reader.finish()
    }

    pub fn event_count(&self) -> u32 {
        self.marks.len() as u32
    }

    pub fn mark(&self, event: u32) -> Mark {
        self.marks[event as usize]
    }

    /// The place of an event's request in [`Ledger::requests`].
    pub fn request_index(&self, event: u32) -> u32 {
        self.request_of[event as usize]
    }

    pub fn request_of(&self, event: u32) -> &SentRequest {
        &self.requests[self.request_index(event) as usize]
    }

    pub fn seq(&self, event: u32) -> Seq {
        let request = self.request_of(event);
        request.first_seq.plus(u64::from(event - request.first_event))
    }

    pub fn ack(&self, event: u32) -> Option<Ack> {
        let request = self.request_of(event);
        let Outcome::Acked { first_ack, .. } = request.outcome else { return None };
        let at = (first_ack + (event - request.first_event)) as usize;
        Some(Ack { id_hash: self.acked_ids[at], version: self.acked_versions[at] })
    }

    pub fn event_by_seq(&self, seq: Seq) -> Option<u32> {
        let after = self.requests.partition_point(|request| request.first_seq <= seq);
        let request = self.requests.get(after.checked_sub(1)?)?;
        let place = seq.0 - request.first_seq.0;
        (place < u64::from(request.event_count)).then(|| request.first_event + place as u32)
    }
}

const _: () = assert!(size_of::<SentRequest>() == 48);

#[derive(Debug, Default)]
struct Reader {
    ledger: Ledger,
    /// Outcomes, in the order of the file: that of another writer's extents, so they wait for the last of them.
    answers: Vec<Answer>,
}

#[derive(Debug)]
struct Answer {
    first: Seq,
    outcome: Outcome,
    ack_count: u32,
}

impl Reader {
    fn read_file(&mut self, file: &File) -> Result<(), String> {
        let file_bytes = file.metadata().map_err(|error| error.to_string())?.len();
        if file_bytes == 0 {
            return Ok(());
        }
        let mut bytes = Vec::new();
        read_range(file, 0, MAGIC.len(), &mut bytes)?;
        if bytes != MAGIC {
            return Err(match bytes.strip_prefix(MAGIC_FAMILY) {
                Some([tens, ones]) => format!(
                    "it has format {}{}, this program reads and writes 02: begin another ledger",
                    tens.escape_ascii(),
                    ones.escape_ascii()
                ),
                _ => "this is not a ledger".to_owned(),
            });
        }
        let mut offset = FILE_HEAD_BYTES;
        while offset < file_bytes {
            read_range(file, offset, EXTENT_HEAD_BYTES, &mut bytes)?;
            let Some(head) = ExtentHead::parse(&bytes, offset) else {
                no_extent_after(file, offset, file_bytes)?;
                break;
            };
            // A file that was cut is read as if it ended in zeros.
            let there = head.bytes.min(file_bytes - offset);
            read_range(file, offset, there as usize, &mut bytes)?;
            bytes.resize(head.bytes as usize, 0);
            self.extent(&head, &bytes)?;
            offset += head.bytes;
        }
        self.ledger.end = offset;
        Ok(())
    }

    fn extent(&mut self, head: &ExtentHead, bytes: &[u8]) -> Result<(), String> {
        self.ledger.session_count = self.ledger.session_count.max(head.session.saturating_add(1));
        let mut at = EXTENT_HEAD_BYTES;
        while let Some(body) = entry_at(head, bytes, at) {
            let place = head.offset + at as u64;
            self.apply(body).ok_or_else(|| format!("the whole entry at {place} makes no sense"))?;
            at += entry_bytes(body.len());
        }
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(last) = rest.iter().rposition(|&byte| byte != 0) else { return Ok(()) };
        let mut beyond = (at + ENTRY_ALIGN_BYTES..at + last).step_by(ENTRY_ALIGN_BYTES);
        if let Some(whole) = beyond.find(|&later| entry_at(head, bytes, later).is_some()) {
            let (damaged, whole) = (head.offset + at as u64, head.offset + whole as u64);
            return Err(format!("damaged: the entry at {damaged} is not whole, and one at {whole} is"));
        }
        self.ledger.torn_bytes += last as u64 + 1;
        Ok(())
    }

    fn apply(&mut self, body: &[u8]) -> Option<()> {
        let mut fields = Fields(body);
        let ledger = &mut self.ledger;
        match fields.u8()? {
            KIND_RUN => {
                ledger.run_count = ledger.run_count.checked_add(1)?;
                ledger.seeds.push(fields.u64()?);
            }
            KIND_TENANT => {
                let tenant = Tenant { id: fields.text()?, key: fields.text()? };
                ledger.tenants.push(tenant);
            }
            KIND_BASELINE => {
                let tenant = fields.u16()?;
                let ids = ledger.baselines.entry(tenant).or_default();
                while !fields.0.is_empty() {
                    ids.push(fields.u128()?);
                }
            }
            KIND_SENT => {
                let sent_at = Moment(fields.u64()?);
                let (first_seq, tenant, event_count) = (Seq(fields.u64()?), fields.u16()?, fields.u32()?);
                let first_event = u32::try_from(ledger.marks.len()).ok()?;
                first_event.checked_add(event_count)?;
                for _ in 0..event_count {
                    let mark = Mark { entity: fields.u32()?, payload_hash: fields.u64()?, rest_hash: fields.u32()? };
                    ledger.marks.push(mark);
                }
                let outcome = Outcome::Unknown;
                ledger.requests.push(SentRequest { first_seq, sent_at, outcome, first_event, event_count, tenant });
            }
            KIND_ACKED => {
                let (at, first) = (Moment(fields.u64()?), Seq(fields.u64()?));
                let first_ack = u32::try_from(ledger.acked_ids.len()).ok()?;
                while !fields.0.is_empty() {
                    ledger.acked_ids.push(fields.u128()?);
                    ledger.acked_versions.push(fields.u64()?);
                }
                let ack_count = u32::try_from(ledger.acked_ids.len()).ok()? - first_ack;
                self.answers.push(Answer { first, outcome: Outcome::Acked { at, first_ack }, ack_count });
            }
            KIND_REFUSED => {
                let (first, status) = (Seq(fields.u64()?), fields.u16()?);
                self.answers.push(Answer { first, outcome: Outcome::Refused { status }, ack_count: 0 });
            }
            _ => return None,
        }
        fields.0.is_empty().then_some(())
    }

    /// Puts requests in order and gives them their outcomes.
    fn finish(self) -> Result<Ledger, String> {
        let Self { mut ledger, answers } = self;
        ledger.requests.sort_unstable_by_key(|request| request.first_seq);
        for pair in ledger.requests.windows(2) {
            if pair[1].first_seq < pair[0].first_seq.plus(u64::from(pair[0].event_count)) {
                return Err(format!("two requests share seq {}", pair[1].first_seq));
            }
        }
        ledger.request_of = vec![0; ledger.marks.len()];
        for (index, request) in (0..).zip(&ledger.requests) {
            let events = request.events();
            ledger.request_of[events.start as usize..events.end as usize].fill(index);
        }
        for Answer { first, outcome, ack_count } in answers {
            let found = ledger.requests.binary_search_by_key(&first, |request| request.first_seq);
            let index = found.map_err(|_| format!("seq {first} was answered and never sent"))?;
            let request = &mut ledger.requests[index];
            let is_acked = matches!(outcome, Outcome::Acked { .. });
            if is_acked && ack_count != request.event_count {
                return Err(format!("seq {first}: {} events and {ack_count} acknowledgements", request.event_count));
            }
            if request.outcome != Outcome::Unknown {
                return Err(format!("seq {first} was answered twice"));
            }
            request.outcome = outcome;
        }
        Ok(ledger)
    }
}

/// An extent beyond a place where none is: nobody writes that.
fn no_extent_after(file: &File, offset: u64, file_bytes: u64) -> Result<(), String> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let mut bytes = Vec::new();
    let mut chunk = offset;
    while chunk < file_bytes {
        read_range(file, chunk, CHUNK_BYTES.min(file_bytes - chunk) as usize, &mut bytes)?;
        for at in (0..bytes.len()).step_by(EXTENT_ALIGN_BYTES as usize) {
            let later = chunk + at as u64;
            if ExtentHead::parse(&bytes[at..], later).is_some() {
                return Err(format!("damaged: there is no extent at {offset}, and one at {later}"));
            }
        }
        chunk += CHUNK_BYTES;
    }
    Ok(())
}

/// Fills `bytes` with a range of the file; beyond the file's end it stays shorter.
fn read_range(file: &File, offset: u64, length: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
    bytes.resize(length, 0);
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    bytes.truncate(filled);
    Ok(())
}
