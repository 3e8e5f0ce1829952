//! Opening a shard: what is on disk becomes its state, and nothing acknowledged is ever cut.
//!
//! ```text
//! sealed segments: summaries only ─► unsealed segments: every block ─► the end of the log
//!                                                                        │ torn tail: quarantined, cut, wiped
//!                                                                        └ damage:    left as it is, read-only
//! ```
//! W is the highest durable sequence that any valid block carries. A bad block at or below W, or with a valid block of
//! this life further beyond it than the in-flight window, had been acknowledged. Crashing anywhere in here leads to the same state.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::event::FingerprintKey;
use crate::format::batch::BatchView;
use crate::format::block::{BlockError, BlockKind};
use crate::format::checkpoint::checkpoint_entries;
use crate::format::index::{IndexError, IndexIdentity, IndexResident};
use crate::format::key_run::KeyEntry;
use crate::format::run::{RunError, RunView};
use crate::format::scan::{Expected, FoundBlock, LogEnd};
use crate::format::segment::{RewrittenHeader, SEGMENT_BLOCKS_FROM, SegmentError, SegmentHeader};
use crate::ids::{BlockSequence, Micros, Position, SegmentNumber, Tenant};
use crate::index::active::ActiveIndex;
use crate::index::entities::EntityDirectory;
use crate::index::sealed::{SealedSegment, SegmentFile, Snapshot};
use crate::io::{Buffer, BufferPool, Disk, DiskError, DiskFile, FileMemory, Fill, Site};
use crate::limits::{ALIGNMENT, IN_FLIGHT_BLOCKS_MAX, POSITION_MAX};
use crate::shard::erase::Erasure;
use crate::shard::jobs::{JobError, Sealed, seal};
use crate::shard::keys::KeyWindows;
use crate::shard::keys::runs::{FoundKeyRuns, KeyRuns, find_key_runs};
use crate::shard::names::{
    QUARANTINE_DIR, ShardEntry, free_path, index_path, key_run_path, log_path, parse_name, quarantine_path, run_path,
};
use crate::shard::reader::{Reach, SegmentReader, Window};
use crate::shard::restore::{BodyError, Restored, restore_batches};
use crate::shard::segments::{Frozen, NextSegment, OpenSegment};
use crate::shard::tenants::{TenantMap, TenantState};
use crate::shard::{Now, ReadOnly, Shard, ShardConfig, ShardStats};

/// Zeros of one write when a tail is wiped.
const WIPE_BYTES: u64 = 1 << 20;

/// Why a shard cannot be opened at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    Disk(DiskError),
    /// Sealing a full segment failed.
    Seal(JobError),
    /// A whole, checksummed piece has a version, kind or flag that this program does not know: it was written by a newer one.
    Newer {
        segment: SegmentNumber,
        what: &'static str,
    },
}

impl From<DiskError> for OpenError {
    fn from(error: DiskError) -> OpenError {
        OpenError::Disk(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Disk(error) => write!(f, "{error}"),
            OpenError::Seal(error) => write!(f, "sealing a full segment failed: {error:?}"),
            OpenError::Newer { segment, what } => write!(
                f,
                "segment {} has a {what} that this version does not know: open it with the version that wrote it, or a newer one",
                segment.0
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// What opening a shard found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    pub segments_sealed: usize,
    /// Segments that had to be read block by block; one is normal.
    pub segments_scanned: usize,
    /// Sealed segments whose index, entity run or key run did not verify and was made again.
    pub indexes_rebuilt: usize,
    /// Segments that were being rewritten when the machine stopped, and were indexed again.
    pub rewrites_finished: usize,
    pub blocks: u64,
    pub events: u64,
    pub tail: Option<CutTail>,
    pub damage: Vec<Damage>,
}

/// The end of the log was torn: what lay there had never been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutTail {
    pub segment: SegmentNumber,
    pub offset: u64,
    pub sequence: BlockSequence,
    /// What stood where the next block belonged.
    pub why: LogEnd,
    /// Copies of what was cut, if anything of this life was in it.
    pub quarantined: Vec<String>,
}

/// Acknowledged data that does not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub segment: SegmentNumber,
    /// Byte range within the segment.
    pub from: u64,
    pub to: u64,
    /// Blocks that are missing, inclusive; `None` if it cannot be told.
    pub sequences: Option<(BlockSequence, BlockSequence)>,
    /// What stood where the first missing block belonged, if the segment was read block by block.
    pub why: Option<LogEnd>,
    /// Positions that are missing, inclusive, of every tenant that later blocks tell of.
    pub positions: Vec<(Tenant, Position, Position)>,
}

/// A segment of the log as it was found.
struct Found {
    number: SegmentNumber,
    segment: Arc<SegmentFile>,
    sealed: Option<Arc<SealedSegment>>,
    /// It was written again without erased tenants: where it ends, and how the log goes on behind it.
    rewritten: Option<RewrittenHeader>,
}

/// What scanning builds up.
struct Builder<'a> {
    fingerprint: FingerprintKey,
    tenants: TenantMap<TenantState>,
    keys: KeyWindows,
    /// The keys of the segment being scanned are in no run: those that a merged run has dropped must not come back, or an
    /// older batch of a key would be known where a newer one is forgotten.
    takes_keys: bool,
    index: ActiveIndex,
    next_ordinal: u64,
    watermark: BlockSequence,
    last_content: BlockSequence,
    last_crc: Option<u32>,
    report: &'a mut RecoveryReport,
}

impl Shard {
    /// Opens a shard from whatever its folder holds. The folder exists and its name is durable.
    /// `seed` feeds the epochs of segments that this life of the shard prepares.
    pub fn open(
        disk: &dyn Disk,
        config: ShardConfig,
        pool: BufferPool,
        now: Now,
        seed: u64,
    ) -> Result<(Shard, RecoveryReport), OpenError> {
        let mut report = RecoveryReport::default();
        let dir = config.home.dir.clone();
        let names: Vec<ShardEntry> = disk.list(&dir)?.iter().map(|name| parse_name(name)).collect();
        remove_leftovers(disk, &dir, &names)?;
        let mut entities = open_runs(disk, &dir, config.home.shard.0, &names)?;
        let mut key_runs = find_key_runs(disk, &dir, config.home.shard.0, &names)?;
        let mut found = open_segments(disk, &config, &names, &entities, &key_runs, &mut report)?;
        let forgotten = key_runs
            .forget(|number| found.iter().any(|segment| segment.number.0 == number && segment.sealed.is_none()));
        give_up_broken_keys(disk, &dir, &key_runs, &found, &mut report)?;
        let mut known_key_runs = key_runs.list();

        let mut builder = Builder {
            fingerprint: config.fingerprint,
            tenants: TenantMap::new(),
            keys: KeyWindows::new(config.keys, config.fingerprint.0),
            takes_keys: true,
            index: ActiveIndex::new(config.segment_events_max()),
            next_ordinal: 0,
            watermark: BlockSequence(0),
            last_content: BlockSequence(0),
            last_crc: None,
            report: &mut report,
        };
        let mut expected = Expected { sequence: BlockSequence(1), previous_crc: None };
        let mut window = Window::new(config.home.segment_bytes);
        let mut memory = FileMemory::default();
        // How far what lies in each segment reaches that was looked at.
        let mut surveys: BTreeMap<SegmentNumber, Reach> = BTreeMap::new();
        let mut frozen = VecDeque::new();
        let mut open: Option<OpenSegment> = None;
        let mut cut: Option<(usize, u64, LogEnd)> = None;
        let mut end_is_lost = false;
        // The last segment that holds something.
        let mut last_used: Option<usize> = None;

        for place in 0..found.len() {
            if let Some(sealed) = &found[place].sealed {
                let identity = sealed.resident.identity();
                let starts_as_expected = place == 0 || identity.first_sequence == expected.sequence.0;
                if !starts_as_expected {
                    builder.note_gap(found[place].number, expected.sequence, identity.first_sequence);
                }
                expected = Expected {
                    sequence: BlockSequence(identity.last_sequence + 1),
                    previous_crc: Some(identity.last_block_crc),
                };
                builder.next_ordinal = identity.next_ordinal;
                builder.watermark = builder.watermark.max(BlockSequence(identity.last_sequence));
                builder.last_crc = Some(identity.last_block_crc);
                last_used = Some(place);
                continue;
            }
            builder.report.segments_scanned += 1;
            let this = Arc::clone(&found[place].segment);
            let mut reader = SegmentReader::new(disk, &config.home, &this, &mut window);
            let first = reader.view(SEGMENT_BLOCKS_FROM)?.block_at(SEGMENT_BLOCKS_FROM).ok();
            let begins_with_checkpoint = first.is_some_and(|block| block.kind == BlockKind::Checkpoint);
            if let Some(first) = first
                && place == 0
            {
                // The oldest segment says itself where it begins.
                expected = Expected { sequence: first.header.sequence(), previous_crc: None };
            }
            if !begins_with_checkpoint
                && let Some(previous) = place.checked_sub(1).and_then(|previous| found[previous].sealed.clone())
            {
                // What the checkpoint would have said, the sealed segment before it can tell.
                builder.load_state(disk, &config, &previous, &mut window)?;
            }
            // Keys come in the order of admission: those of earlier segments first.
            key_runs.load_until(this.number, &mut builder.keys);
            builder.takes_keys = !known_key_runs.covers(this.number.0);
            let later = LaterBlocks::read(disk, &config, &found[place + 1..], &mut window, &mut surveys)?;
            builder.index.clear();
            let mut reader = SegmentReader::new(disk, &config.home, &this, &mut window);
            let scanned = match &found[place].rewritten {
                Some(rewritten) => builder.scan_rewritten(&mut reader, &this, rewritten, &mut expected)?,
                None => builder.scan(&mut reader, this.number, &mut expected, &later)?,
            };
            surveys.insert(this.number, scanned.reach);
            if scanned.blocks > 0 {
                last_used = Some(place);
            }
            entities.forget(found[place].number.0);
            match scanned.end {
                ScanEnd::Tail
                    if entities.covers(found[place].number.0) || known_key_runs.covers(found[place].number.0) =>
                {
                    // A merged run has taken the segment in: it was sealed, and must not be written to again.
                    cut = Some((place, scanned.offset, scanned.why));
                    let identity = builder.identity(&config, &found[place], &scanned, &expected);
                    let visible = builder.index.event_count();
                    builder.index.set_visible(visible);
                    let segment = Arc::clone(&found[place].segment);
                    let sealed = seal(disk, &config.home, &builder.index, segment, &identity, true, &mut memory)
                        .map_err(OpenError::Seal)?;
                    found[place].sealed = Some(Arc::clone(&sealed.segment));
                    take_runs(disk, &dir, sealed, &mut entities, &mut known_key_runs)?;
                    break;
                }
                ScanEnd::Tail => {
                    cut = Some((place, scanned.offset, scanned.why));
                    if scanned.blocks > 0 {
                        open = Some(OpenSegment {
                            file: Arc::clone(&found[place].segment),
                            write_offset: scanned.offset,
                            first_sequence: scanned.first_sequence,
                        });
                    }
                    break;
                }
                ScanEnd::LostEnd => {
                    end_is_lost = true;
                    open = Some(OpenSegment {
                        file: Arc::clone(&found[place].segment),
                        write_offset: scanned.offset,
                        first_sequence: scanned.first_sequence,
                    });
                    break;
                }
                ScanEnd::GoesOn => {
                    let identity = builder.identity(&config, &found[place], &scanned, &expected);
                    let visible = builder.index.event_count();
                    builder.index.set_visible(visible);
                    let segment = Arc::clone(&found[place].segment);
                    if builder.index.has_gap() || !builder.report.damage.is_empty() {
                        let index =
                            std::mem::replace(&mut builder.index, ActiveIndex::new(config.segment_events_max()));
                        frozen.push_back(Frozen::new(segment, identity, index));
                    } else {
                        let sealed = seal(disk, &config.home, &builder.index, segment, &identity, true, &mut memory)
                            .map_err(OpenError::Seal)?;
                        found[place].sealed = Some(Arc::clone(&sealed.segment));
                        take_runs(disk, &dir, sealed, &mut entities, &mut known_key_runs)?;
                    }
                }
            }
        }

        key_runs.load_until(SegmentNumber(u64::MAX), &mut builder.keys);
        let sealed: Vec<Arc<SealedSegment>> = found.iter().filter_map(|segment| segment.sealed.clone()).collect();
        if open.is_none() {
            // No segment is open: the state is what the last sealed one leaves behind.
            builder.index.clear();
            if let Some(last) = sealed.last() {
                builder.load_state(disk, &config, last, &mut window)?;
            }
        }
        let visible = builder.index.event_count();
        builder.index.set_visible(visible);
        let keep = last_used.map_or(0, |place| place + 1);
        if !runs_are_whole(&found[..keep], &entities) {
            builder.note_gap(SegmentNumber(0), BlockSequence(0), 0);
        }
        let is_damaged = end_is_lost || !builder.report.damage.is_empty();
        if !is_damaged {
            let tail = cut_tail(disk, &config, &found, cut, keep, expected.sequence, &surveys)?;
            builder.report.tail = tail;
            // Their keys are in the batches. Left there, nobody would know of them once a tenant's batches are erased.
            for &(from, to) in forgotten.iter().filter(|run| !known_key_runs.covers(run.0)) {
                disk.remove(&key_run_path(&dir, from, to))?;
            }
        }

        let last_number = last_used.map_or(0, |place| found[place].number.0);
        let run_number = entities.runs().first().map_or(0, |run| run.segments().1);
        let Builder { tenants, keys, index, next_ordinal, watermark, last_content, last_crc, .. } = builder;
        report.segments_sealed = sealed.len();
        let durable = BlockSequence(expected.sequence.0 - 1);
        let shard = Shard {
            pool,
            tenants,
            limits: TenantMap::new(),
            entities,
            keys,
            key_runs: known_key_runs,
            active: index,
            spare_indexes: Vec::new(),
            frozen,
            snapshot: Arc::new(Snapshot { segments: sealed }),
            retiring: Vec::new(),
            segment: open,
            next: NextSegment::None,
            segment_number_next: SegmentNumber(last_number.max(run_number) + 1),
            open: None,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            next_sequence: expected.sequence,
            next_ordinal,
            last_block_crc: last_crc.unwrap_or(0),
            written: durable,
            durable,
            announced: watermark.min(durable),
            last_content,
            quiet_since_us: None,
            commit_at_us: now.monotonic_us,
            submitted_at_us: 0,
            sync_in_flight: None,
            unsynced: Vec::new(),
            sync_at_us: now.monotonic_us,
            full_until_us: None,
            latch: if is_damaged { Some(ReadOnly::Damaged) } else { None },
            closing: false,
            job_in_flight: false,
            erasure: Erasure::default(),
            seed,
            entity_numbers: Vec::new(),
            versions: Vec::new(),
            stats: ShardStats::default(),
            config,
        };
        Ok((shard, report))
    }
}

/// How the scan of one segment ended.
enum ScanEnd {
    /// The log goes on in the next segment.
    GoesOn,
    /// Here the log ends; what lies beyond was never acknowledged.
    Tail,
    /// Here the log ends in damage: acknowledged blocks are missing.
    LostEnd,
}

struct Scanned {
    end: ScanEnd,
    /// Where the next block would go.
    offset: u64,
    first_sequence: BlockSequence,
    blocks: u64,
    /// How far what lies in the segment reaches.
    reach: Reach,
    /// Why the last block was the last one.
    why: LogEnd,
}

/// What the segments behind the one being scanned say about it.
struct LaterBlocks {
    /// Sequence and chain of the next segment's first block.
    first: Option<(BlockSequence, Option<u32>)>,
    highest: BlockSequence,
    watermark: BlockSequence,
}

impl LaterBlocks {
    fn read(
        disk: &dyn Disk,
        config: &ShardConfig,
        segments: &[Found],
        window: &mut Window,
        surveys: &mut BTreeMap<SegmentNumber, Reach>,
    ) -> Result<LaterBlocks, DiskError> {
        let mut later = LaterBlocks { first: None, highest: BlockSequence(0), watermark: BlockSequence(0) };
        for (place, found) in segments.iter().enumerate() {
            if let Some(sealed) = &found.sealed {
                let identity = sealed.resident.identity();
                later.highest = later.highest.max(BlockSequence(identity.last_sequence));
                later.watermark = later.watermark.max(BlockSequence(identity.last_sequence));
                if place == 0 {
                    // The index does not keep the chain of the first block; its number decides.
                    later.first = Some((BlockSequence(identity.first_sequence), None));
                }
                continue;
            }
            let survey = SegmentReader::new(disk, &config.home, &found.segment, window).survey(SEGMENT_BLOCKS_FROM)?;
            surveys.insert(found.number, survey.reach);
            for block in survey.blocks {
                if place == 0 && block.offset == SEGMENT_BLOCKS_FROM {
                    later.first = Some((block.sequence, Some(block.previous_crc)));
                }
                if block.is_windowed {
                    later.highest = later.highest.max(block.sequence);
                }
                later.watermark = later.watermark.max(block.durable_sequence);
            }
        }
        Ok(later)
    }

    fn goes_on_with(&self, expected: &Expected) -> bool {
        self.first.is_some_and(|(sequence, crc)| {
            let follows = crc.zip(expected.previous_crc).is_none_or(|(crc, known)| crc == known);
            sequence == expected.sequence && follows
        })
    }
}

/// What ends a scan, unless a newer program wrote it: that is neither a torn tail nor damage.
fn refuse_newer(segment: SegmentNumber, end: LogEnd) -> Result<LogEnd, OpenError> {
    match end {
        LogEnd::Bad(BlockError::Version(_)) => Err(OpenError::Newer { segment, what: "block version" }),
        LogEnd::Bad(BlockError::UnknownKind(_) | BlockError::UnknownFlags(_)) => {
            Err(OpenError::Newer { segment, what: "kind of block" })
        }
        end => Ok(end),
    }
}

impl Builder<'_> {
    /// Takes every block of a segment that belongs to the log, and says how the log goes on.
    fn scan(
        &mut self,
        reader: &mut SegmentReader<'_>,
        number: SegmentNumber,
        expected: &mut Expected,
        later: &LaterBlocks,
    ) -> Result<Scanned, OpenError> {
        let mut offset = SEGMENT_BLOCKS_FROM;
        let mut scanned = Scanned {
            end: ScanEnd::GoesOn,
            offset,
            first_sequence: expected.sequence,
            blocks: 0,
            reach: Reach::to(offset),
            why: LogEnd::Empty,
        };
        let mut gap: Option<Damage> = None;
        loop {
            let end = match reader.view(offset)?.expected_at(offset, expected) {
                Ok(block) => match self.take_block(&block, &mut gap) {
                    Ok(()) => {
                        offset += block.header.block_bytes();
                        scanned.offset = offset;
                        scanned.blocks += 1;
                        *expected = Expected {
                            sequence: BlockSequence(expected.sequence.0 + 1),
                            previous_crc: Some(block.header.header_crc.get()),
                        };
                        self.last_crc = Some(block.header.header_crc.get());
                        continue;
                    }
                    Err(BodyError::Malformed) => LogEnd::Bad(BlockError::BodyCrc),
                    Err(BodyError::Newer(what)) => return Err(OpenError::Newer { segment: number, what }),
                },
                Err(end) => refuse_newer(number, end)?,
            };
            scanned.why = end;
            if later.goes_on_with(expected) {
                break;
            }
            let survey = reader.survey(offset)?;
            scanned.reach = survey.reach;
            let beyond: Vec<_> = survey.blocks.iter().filter(|block| block.sequence > expected.sequence).collect();
            let watermark = beyond
                .iter()
                .map(|block| block.durable_sequence)
                .fold(self.watermark.max(later.watermark), BlockSequence::max);
            let highest = beyond
                .iter()
                .filter(|block| block.is_windowed)
                .map(|block| block.sequence)
                .fold(later.highest, BlockSequence::max);
            let was_acknowledged =
                expected.sequence <= watermark || highest.0 >= expected.sequence.0 + IN_FLIGHT_BLOCKS_MAX;
            if !was_acknowledged {
                scanned.end = ScanEnd::Tail;
                break;
            }
            debug_assert!(end != LogEnd::Full || later.first.is_some() || expected.sequence <= watermark);
            let resume = beyond.first().map(|block| (block.offset, block.sequence));
            let to = resume.map_or(reader.segment_bytes(), |(offset, _)| offset);
            let next = resume.map(|(_, sequence)| sequence).or(later.first.map(|(sequence, _)| sequence));
            let damage = Damage {
                segment: number,
                from: offset,
                to,
                sequences: Some((expected.sequence, next.map_or(watermark, |next| BlockSequence(next.0 - 1)))),
                why: Some(end),
                positions: Vec::new(),
            };
            self.report.damage.push(damage.clone());
            gap = Some(damage);
            if let Some((at, sequence)) = resume {
                offset = at;
                *expected = Expected { sequence, previous_crc: None };
            } else if let Some(next) = next {
                *expected = Expected { sequence: next, previous_crc: None };
                break;
            } else {
                scanned.end = ScanEnd::LostEnd;
                break;
            }
        }
        Ok(scanned)
    }

    /// Takes every block of a segment that was rewritten. It was sealed before: it is never the end of the log, and what
    /// does not verify in it is damage.
    fn scan_rewritten(
        &mut self,
        reader: &mut SegmentReader<'_>,
        segment: &SegmentFile,
        rewritten: &RewrittenHeader,
        expected: &mut Expected,
    ) -> Result<Scanned, OpenError> {
        let number = segment.number;
        let first = reader.view(SEGMENT_BLOCKS_FROM)?.block_at(SEGMENT_BLOCKS_FROM).ok();
        if let Some(first) = first.map(|block| block.header.sequence())
            && first != expected.sequence
        {
            // As of a sealed one, whose index says where it begins.
            self.note_gap(number, expected.sequence, first.0);
            *expected = Expected { sequence: first, previous_crc: None };
        }
        let mut scanned = Scanned {
            end: ScanEnd::GoesOn,
            offset: SEGMENT_BLOCKS_FROM,
            first_sequence: expected.sequence,
            blocks: 0,
            reach: Reach::to(segment.bytes),
            why: LogEnd::Full,
        };
        while scanned.offset < rewritten.blocks_to.get() {
            let end = match reader.view(scanned.offset)?.expected_at(scanned.offset, expected) {
                Ok(block) => match self.take_block(&block, &mut None) {
                    Ok(()) => {
                        scanned.offset += block.header.block_bytes();
                        scanned.blocks += 1;
                        *expected = Expected {
                            sequence: BlockSequence(expected.sequence.0 + 1),
                            previous_crc: Some(block.header.header_crc.get()),
                        };
                        continue;
                    }
                    Err(BodyError::Malformed) => LogEnd::Bad(BlockError::BodyCrc),
                    Err(BodyError::Newer(what)) => return Err(OpenError::Newer { segment: number, what }),
                },
                Err(end) => refuse_newer(number, end)?,
            };
            self.report.damage.push(Damage {
                segment: number,
                from: scanned.offset,
                to: rewritten.blocks_to.get(),
                sequences: Some((expected.sequence, BlockSequence(rewritten.last_sequence.get()))),
                why: Some(end),
                positions: Vec::new(),
            });
            break;
        }
        // The log goes on as it did before the segment had fewer blocks.
        let last_sequence = BlockSequence(rewritten.last_sequence.get());
        *expected = Expected {
            sequence: BlockSequence(last_sequence.0 + 1),
            previous_crc: Some(rewritten.last_block_crc.get()),
        };
        self.last_crc = Some(rewritten.last_block_crc.get());
        self.next_ordinal = rewritten.next_ordinal.get();
        self.watermark = self.watermark.max(last_sequence);
        self.last_content = last_sequence;
        Ok(scanned)
    }

    fn identity(&self, config: &ShardConfig, found: &Found, scanned: &Scanned, expected: &Expected) -> IndexIdentity {
        IndexIdentity {
            shard: config.home.shard.0,
            segment_number: found.number.0,
            epoch: found.segment.epoch,
            first_sequence: scanned.first_sequence.0,
            last_sequence: expected.sequence.0 - 1,
            next_ordinal: self.next_ordinal,
            last_block_crc: self.last_crc.unwrap_or(0),
            has_key_run: !self.index.idempotency_keys().is_empty(),
        }
    }

    /// Takes one block into the state, whole or not at all.
    fn take_block(&mut self, block: &FoundBlock<'_>, gap: &mut Option<Damage>) -> Result<(), BodyError> {
        match block.kind {
            BlockKind::Checkpoint => {
                let entries = checkpoint_entries(block.body).ok_or(BodyError::Malformed)?;
                // It has all of them: one that it does not have has been erased.
                self.tenants = TenantMap::new();
                for entry in entries {
                    let (tenant, state) = TenantState::of_entry(entry);
                    self.tenants.set(tenant, state);
                }
            }
            BlockKind::Data => {
                let batches = restore_batches(block.body, self.fingerprint)?;
                let mut next: Vec<(Tenant, Position)> = Vec::new();
                for restored in &batches {
                    // Positions only grow. Checked before anything is taken, so that a block is taken whole or not at all.
                    let tenant = restored.batch.tenant();
                    let known = next.iter().rev().find(|known| known.0 == tenant).map(|known| known.1);
                    let known = known.or_else(|| self.tenants.get(tenant).map(|state| state.next_position));
                    let first = restored.first_position;
                    if first < known.unwrap_or(Position(1)) || first.0 > POSITION_MAX {
                        return Err(BodyError::Malformed);
                    }
                    next.push((tenant, Position(first.0 + restored.batch.event_count() as u64)));
                }
                for restored in batches {
                    self.take_batch(block, restored, gap);
                }
            }
            BlockKind::Watermark => {}
        }
        self.next_ordinal = block.header.first_ordinal.get() + u64::from(block.header.event_count.get());
        self.watermark = self.watermark.max(BlockSequence(block.header.durable_sequence.get()));
        if block.kind != BlockKind::Watermark {
            self.last_content = block.header.sequence();
        }
        self.report.blocks += 1;
        Ok(())
    }

    fn take_batch(&mut self, block: &FoundBlock<'_>, restored: Restored, gap: &mut Option<Damage>) {
        restored.add_to(&mut self.index, block.offset);
        let Restored { batch, first_position, received_at, .. } = restored;
        let tenant = batch.tenant();
        let mut state = self.tenants.get(tenant).copied().unwrap_or(TenantState::EMPTY);
        if state.next_position < first_position && gap.is_some() {
            let lost = (tenant, state.next_position, Position(first_position.0 - 1));
            if let Some(damage) = self.report.damage.last_mut() {
                damage.positions.push(lost);
            }
        }
        state.take(first_position, received_at, batch.event_count() as u64, batch.records().len() as u64);
        self.tenants.set(tenant, state);
        if let Some(idempotency) = batch.idempotency()
            && self.takes_keys
        {
            self.keys.insert(KeyEntry::new(&batch, idempotency, first_position, received_at));
        }
        self.report.events += batch.event_count() as u64;
    }

    /// The state that a sealed segment leaves behind: its checkpoint, moved on by its own batches. Only needed when the
    /// checkpoint behind the segment is not there, which takes a crash in the moment between the two.
    fn load_state(
        &mut self,
        disk: &dyn Disk,
        config: &ShardConfig,
        sealed: &SealedSegment,
        window: &mut Window,
    ) -> Result<(), DiskError> {
        let mut reader = SegmentReader::new(disk, &config.home, &sealed.segment, window);
        let view = reader.view(SEGMENT_BLOCKS_FROM)?;
        let checkpoint = view.block_at(SEGMENT_BLOCKS_FROM).ok();
        let entries = checkpoint.as_ref().and_then(|block| checkpoint_entries(block.body));
        match entries {
            Some(entries) => {
                // What earlier segments said is in there, and must not be counted twice.
                self.tenants = TenantMap::new();
                for entry in entries {
                    let (tenant, state) = TenantState::of_entry(entry);
                    self.tenants.set(tenant, state);
                }
            }
            None => self.report.damage.push(Damage {
                segment: sealed.segment.number,
                from: SEGMENT_BLOCKS_FROM,
                to: SEGMENT_BLOCKS_FROM + ALIGNMENT as u64,
                sequences: None,
                why: None,
                positions: Vec::new(),
            }),
        }
        let identity = sealed.resident.identity();
        let of_this_log = BlockSequence(identity.first_sequence)..=BlockSequence(identity.last_sequence);
        let mut counted: BTreeMap<Tenant, u64> = BTreeMap::new();
        for seen in reader.survey(SEGMENT_BLOCKS_FROM)?.blocks {
            let view = reader.view(seen.offset)?;
            match view.block_at(seen.offset) {
                Ok(block) if block.kind == BlockKind::Data && of_this_log.contains(&seen.sequence) => {
                    self.count_batches(block.body, &mut counted);
                }
                Ok(_) | Err(_) => {}
            }
        }
        for entry in sealed.resident.tenants() {
            let tenant = Tenant(entry.tenant.get());
            let event_count = u64::from(entry.event_count.get());
            let missing = event_count.saturating_sub(counted.get(&tenant).copied().unwrap_or(0));
            if missing == 0 {
                continue;
            }
            // A block that does not verify: its events are known to the index, its bytes and months to nobody.
            let mut state = self.tenants.get(tenant).copied().unwrap_or(TenantState::EMPTY);
            let end = entry.first_position.get() + event_count;
            state.take(Position(end - missing), Micros(entry.last_received_at.get()), missing, 0);
            self.tenants.set(tenant, state);
        }
        self.last_content = BlockSequence(identity.last_sequence);
        Ok(())
    }

    /// Moves the tenants of a block on by its batches, up to one that does not verify.
    fn count_batches(&mut self, body: &[u8], counted: &mut BTreeMap<Tenant, u64>) {
        let mut at = 0;
        while let Ok(batch) = BatchView::parse(&body[at..]) {
            let tenant = batch.tenant();
            let event_count = batch.event_count() as u64;
            let records_bytes = u64::from(batch.header.records_bytes.get());
            let mut state = self.tenants.get(tenant).copied().unwrap_or(TenantState::EMPTY);
            state.take(batch.first_position(), batch.received_at(), event_count, records_bytes);
            self.tenants.set(tenant, state);
            *counted.entry(tenant).or_insert(0) += event_count;
            at = (at + batch.batch_bytes()).min(body.len());
        }
    }

    fn note_gap(&mut self, segment: SegmentNumber, expected: BlockSequence, found: u64) {
        self.report.damage.push(Damage {
            segment,
            from: 0,
            to: 0,
            sequences: if expected.0 < found { Some((expected, BlockSequence(found - 1))) } else { None },
            why: None,
            positions: Vec::new(),
        });
    }
}

fn remove_leftovers(disk: &dyn Disk, dir: &str, names: &[ShardEntry]) -> Result<(), DiskError> {
    if names.contains(&ShardEntry::Aside) {
        for name in disk.list(dir)? {
            if parse_name(&name) == ShardEntry::Aside {
                disk.remove(&format!("{dir}/{name}"))?;
            }
        }
    }
    // An index whose segment went back to the pool.
    for entry in names {
        if let ShardEntry::Index(number) = entry
            && !names.contains(&ShardEntry::Log(*number))
        {
            disk.remove(&index_path(dir, *number))?;
        }
    }
    Ok(())
}

/// Whether every segment before those that hold something is covered by a run: else versions would be given twice.
fn runs_are_whole(found: &[Found], entities: &EntityDirectory) -> bool {
    let newest = entities.runs().first().map_or(0, |run| run.segments().1);
    let oldest_kept = found.first().map_or(newest + 1, |segment| segment.number.0);
    (1..oldest_kept).all(|number| entities.covers(number))
}

/// Removes a run that a merged one covers. The merged one's name may never have become durable, if its sync failed and
/// only the process ended: were the removal to outlive it, both would be gone after a power cut.
pub(super) fn remove_covered(disk: &dyn Disk, dir: &str, path: &str, site: Site) -> Result<(), DiskError> {
    disk.sync_dir(dir, site)?;
    disk.remove(path)
}

/// A key run that does not verify is made again from its segments if they are all there. If not, some keys of the last hours
/// are lost: a batch that was stored might be stored again, and that is damage.
fn give_up_broken_keys(
    disk: &dyn Disk,
    dir: &str,
    key_runs: &FoundKeyRuns,
    found: &[Found],
    report: &mut RecoveryReport,
) -> Result<(), DiskError> {
    for &(from, to) in &key_runs.broken {
        if found.first().is_some_and(|oldest| oldest.number.0 <= from) {
            disk.remove(&key_run_path(dir, from, to))?;
        } else {
            note_unreadable(report, SegmentNumber(from));
        }
    }
    Ok(())
}

/// Takes the runs that sealing has written, unless a merged one covers the segment already.
fn take_runs(
    disk: &dyn Disk,
    dir: &str,
    sealed: Sealed,
    entities: &mut EntityDirectory,
    key_runs: &mut KeyRuns,
) -> Result<(), DiskError> {
    let number = sealed.segment.segment.number.0;
    if entities.covers(number) {
        disk.remove(&run_path(dir, number, number))?;
    } else {
        entities.push(sealed.run);
    }
    match sealed.key_run {
        Some(_) if key_runs.covers(number) => disk.remove(&key_run_path(dir, number, number))?,
        Some(key_run) => key_runs.push(key_run),
        None => {}
    }
    Ok(())
}

fn open_runs(disk: &dyn Disk, dir: &str, shard: u32, names: &[ShardEntry]) -> Result<EntityDirectory, OpenError> {
    let mut runs: Vec<Arc<RunView>> = Vec::new();
    let mut ranges: Vec<(u64, u64)> = names
        .iter()
        .filter_map(|entry| match entry {
            ShardEntry::Run { from, to } => Some((*from, *to)),
            _ => None,
        })
        .collect();
    // Widest first, so that what a merge has replaced is seen as covered.
    ranges.sort_unstable_by_key(|&(from, to)| (std::cmp::Reverse(to - from.min(to)), from));
    for (from, to) in ranges {
        let is_covered = runs.iter().any(|run| run.segments().0 <= from && to <= run.segments().1);
        if is_covered {
            remove_covered(disk, dir, &run_path(dir, from, to), Site::RunDir)?;
            continue;
        }
        let file = disk.open(&run_path(dir, from, to))?;
        let bytes = disk.file_bytes(&file)?;
        let run = match RunView::open(disk.map(&file, bytes)?) {
            Ok(run) => run,
            Err(RunError::Version(_) | RunError::UnknownFlags(_)) => {
                return Err(OpenError::Newer { segment: SegmentNumber(from), what: "entity run version" });
            }
            // Made again from its segments if they are all there; damage if not.
            Err(_) => continue,
        };
        let overlaps = runs.iter().any(|known| known.segments().0 <= to && from <= known.segments().1);
        if run.segments() == (from, to) && run.shard() == shard && !overlaps {
            runs.push(Arc::new(run));
        }
    }
    Ok(EntityDirectory::new(runs))
}

fn open_segments(
    disk: &dyn Disk,
    config: &ShardConfig,
    names: &[ShardEntry],
    entities: &EntityDirectory,
    key_runs: &FoundKeyRuns,
    report: &mut RecoveryReport,
) -> Result<Vec<Found>, OpenError> {
    let dir = &config.home.dir;
    let mut found = Vec::new();
    for entry in names {
        let ShardEntry::Log(number) = *entry else { continue };
        let file = disk.open(&log_path(dir, number))?;
        let file_bytes = disk.file_bytes(&file)?;
        let mut page = vec![0; ALIGNMENT];
        let read = disk.read(&file, 0, &mut page)?;
        let header = SegmentHeader::parse(&page[..read], config.home.shard.0, number, file_bytes, config.home.instance);
        let header = match header {
            Ok(header) if header.segment_bytes.get() == config.home.segment_bytes => header,
            Err(SegmentError::Version(_) | SegmentError::UnknownFlags(_)) => {
                return Err(OpenError::Newer { segment: number, what: "segment version" });
            }
            Ok(_) | Err(_) => {
                note_unreadable(report, number);
                continue;
            }
        };
        let rewritten = if header.is_rewritten() { RewrittenHeader::parse(&page).ok() } else { None };
        let segment = Arc::new(SegmentFile { number, epoch: header.epoch.get(), file, bytes: file_bytes });
        let sealed = if names.contains(&ShardEntry::Index(number)) {
            let is_covered = |sealed: &SealedSegment| {
                let has_keys = sealed.resident.identity().has_key_run;
                entities.covers(number.0) && (!has_keys || key_runs.covers(number.0))
            };
            let (sealed, is_older) = match open_index(disk, dir, &segment)? {
                FoundIndex::Right(sealed) => (Some(*sealed).filter(is_covered), false),
                FoundIndex::OtherLife => (None, true),
                FoundIndex::Broken => (None, false),
            };
            if is_older && rewritten.is_some() {
                report.rewrites_finished += 1;
            } else {
                report.indexes_rebuilt += usize::from(sealed.is_none());
            }
            sealed
        } else {
            None
        };
        found.push(Found { number, segment, sealed: sealed.map(Arc::new), rewritten });
    }
    found.sort_unstable_by_key(|segment| segment.number);
    Ok(found)
}

/// A name in the log whose file is not a segment of this log: its header was durable before its name was.
fn note_unreadable(report: &mut RecoveryReport, number: SegmentNumber) {
    report.damage.push(Damage {
        segment: number,
        from: 0,
        to: SEGMENT_BLOCKS_FROM,
        sequences: None,
        why: None,
        positions: Vec::new(),
    });
}

/// What stands where a segment's index belongs.
enum FoundIndex {
    Right(Box<SealedSegment>),
    /// Whole, and of an earlier life of the segment.
    OtherLife,
    Broken,
}

fn open_index(disk: &dyn Disk, dir: &str, segment: &Arc<SegmentFile>) -> Result<FoundIndex, OpenError> {
    let index_file = disk.open(&index_path(dir, segment.number))?;
    let file_bytes = disk.file_bytes(&index_file)?;
    let mut page = vec![0; ALIGNMENT];
    let read = disk.read(&index_file, 0, &mut page)?;
    if read < ALIGNMENT {
        return Ok(FoundIndex::Broken);
    }
    let resident_bytes = match IndexResident::resident_bytes(&page) {
        Ok(resident_bytes) => resident_bytes,
        Err(IndexError::Version(_) | IndexError::UnknownFlags(_)) => {
            return Err(OpenError::Newer { segment: segment.number, what: "index version" });
        }
        Err(_) => return Ok(FoundIndex::Broken),
    };
    if resident_bytes > file_bytes {
        return Ok(FoundIndex::Broken);
    }
    let Ok(resident) = IndexResident::open(disk.map(&index_file, resident_bytes)?, file_bytes) else {
        return Ok(FoundIndex::Broken);
    };
    let identity = resident.identity();
    if identity.segment_number != segment.number.0 {
        return Ok(FoundIndex::Broken);
    }
    if identity.epoch != segment.epoch {
        return Ok(FoundIndex::OtherLife);
    }
    Ok(FoundIndex::Right(Box::new(SealedSegment { segment: Arc::clone(segment), index_file, resident })))
}

/// Cuts what lies beyond the end of the log: copied aside durably, then wiped durably, before anything is appended.
/// Segments that hold nothing of the log go: into the pool if they were never written to. `keep`: how many of `found` hold something.
fn cut_tail(
    disk: &dyn Disk,
    config: &ShardConfig,
    found: &[Found],
    cut: Option<(usize, u64, LogEnd)>,
    keep: usize,
    sequence: BlockSequence,
    surveys: &BTreeMap<SegmentNumber, Reach>,
) -> Result<Option<CutTail>, DiskError> {
    let mut tail: Option<CutTail> = None;
    let mut quarantined = Vec::new();
    let from_of = |place: usize| match cut {
        Some((cut_place, offset, _)) if cut_place == place => Some(offset),
        Some((cut_place, ..)) if cut_place < place => Some(SEGMENT_BLOCKS_FROM),
        _ => None,
    };
    let mut wipes = Vec::new();
    for (place, segment) in found.iter().enumerate() {
        let Some(from) = from_of(place) else { continue };
        let reach = surveys.get(&segment.number).copied().unwrap_or(Reach::to(from));
        let until = reach.marked_until;
        if until > from {
            let mut bytes = Buffer::new((until - from) as usize);
            let bytes = &mut bytes[..(until - from) as usize];
            if disk.read(&segment.segment.file, from, bytes)? < bytes.len() {
                return Err(DiskError::ShortTransfer);
            }
            quarantined.push(quarantine(disk, config, sequence, segment.number, bytes)?);
            let why = cut.map_or(LogEnd::Empty, |(_, _, why)| why);
            tail.get_or_insert(CutTail {
                segment: segment.number,
                offset: from,
                sequence,
                why,
                quarantined: Vec::new(),
            });
        }
        if reach.dirty_until > from {
            wipes.push((place, from, reach.dirty_until));
        }
    }
    if !quarantined.is_empty() {
        disk.sync_dir(QUARANTINE_DIR, Site::QuarantineDir)?;
    }
    if let Some((place, ..)) = cut
        && place < keep
    {
        let file = &found[place].segment.file;
        for &(_, from, until) in wipes.iter().filter(|wipe| wipe.0 == place) {
            wipe(disk, file, from, until)?;
        }
        // Before anything is shown or appended: the wipe, and what was found, which may still sit in a volatile cache
        // if only the process died.
        disk.sync(file, Site::Recovery)?;
    }
    // Newest first, one by one: were an older one to go alone, the newer would be taken for the beginning of the log.
    for (place, segment) in found.iter().enumerate().skip(keep).rev() {
        let path = log_path(&config.home.dir, segment.number);
        // The pool has no events in it: what a segment was once filled with may have been erased since.
        let is_clean = surveys.contains_key(&segment.number) && !wipes.iter().any(|wipe| wipe.0 == place);
        if is_clean && segment.rewritten.is_none() {
            disk.rename(&path, &free_path(&config.home.dir, segment.number))?;
        } else {
            disk.remove(&path)?;
        }
        disk.sync_dir(&config.home.dir, Site::RetireDir)?;
    }
    if let Some(tail) = &mut tail {
        tail.quarantined = quarantined;
    }
    Ok(tail)
}

/// Writes zeros from one offset to another.
fn wipe(disk: &dyn Disk, file: &DiskFile, from: u64, until: u64) -> Result<(), DiskError> {
    let zeros = vec![0; (until - from).min(WIPE_BYTES) as usize];
    let mut at = from;
    while at < until {
        let step = (until - at).min(WIPE_BYTES);
        disk.write(file, at, &zeros[..step as usize])?;
        at += step;
    }
    Ok(())
}

fn quarantine(
    disk: &dyn Disk,
    config: &ShardConfig,
    sequence: BlockSequence,
    number: SegmentNumber,
    bytes: &[u8],
) -> Result<String, DiskError> {
    let mut copy = 0;
    let (path, file) = loop {
        let path = quarantine_path(&config.home.dir, sequence, number, copy);
        match disk.create(&path, bytes.len() as u64, Fill::Allocate) {
            Ok(file) => break (path, file),
            Err(DiskError::AlreadyExists) => copy += 1,
            Err(error) => return Err(error),
        }
    };
    disk.write(&file, 0, bytes)?;
    disk.sync(&file, Site::QuarantineFile)?;
    Ok(path)
}
