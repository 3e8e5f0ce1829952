//! A disk and file system in memory that lose, tear, reorder and refuse as real ones may, decided by a seed.
//!
//! Owns two images of every file and every name: what readers see and what a power cut leaves.
//! Must never: be kinder than a real disk (nothing is durable that was not synced), nor impossible (within one
//! 512-byte sector completed writes land in order; names change atomically and in an order that was asked for).
//!
//! ```text
//!  On ──crash_after ran out──► Failing ──crash()──► Off ──reopen()──► On, old handles dead
//!   └────────────crash()─────────────────────────────┘
//!   └─reopen(): the process restarts, the machine does not: nothing is lost but the handles
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use xxhash_rust::xxh3::xxh3_64;

use super::rng::{Rng, mix};
use crate::io::{Disk, DiskDone, DiskError, DiskFile, DiskOp, DiskResult, Fill, Map, Persist, ReadFrom, Site};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// What O_DIRECT wants offsets and lengths to be multiples of.
const DIRECT_BYTES: u64 = 4096;

const CAPACITY_BYTES_DEFAULT: u64 = 1 << 40;

/// One operation in this many is slow: others overtake it until little else is left.
const SLOW_ONE_IN: u64 = 6;

/// How often each kind of operation fails by chance.
#[derive(Debug, Clone, Copy)]
pub struct FaultRates {
    pub write_per_million: u32,
    pub sync_per_million: u32,
    pub read_per_million: u32,
}

/// A failure to schedule, by the kind of operation that it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO from a write; any of its sectors may have been written.
    Write,
    /// EIO from a sync; what was not yet durable never will be, though readers still see it.
    Sync,
    /// EIO from a read or a mapping.
    Read,
    /// ENOSPC from a create or from a write that extends a file.
    Space,
}

/// A simulated disk. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty, faultless disk without a limit that matters.
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            rng: Rng::new(seed).fork("disk"),
            power: Power::On,
            life: 1,
            countdown: None,
            names: Names::default(),
            inodes: BTreeMap::new(),
            inode_next: 1,
            pending: Vec::new(),
            clock: 0,
            capacity_bytes: CAPACITY_BYTES_DEFAULT,
            rates: FaultRates { write_per_million: 0, sync_per_million: 0, read_per_million: 0 },
            scheduled: [None; 4],
            is_lying: false,
            ignored: [false; Site::ALL.len()],
            syncs: [0; Site::ALL.len()],
            op_count: 0,
            trace: mix(seed),
        };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Hands over an operation. After a power loss it is swallowed: nobody is left to tell.
    ///
    /// # Panics
    /// If a write, or a read past the cache, is not aligned to 4096 bytes: the kernel would answer EINVAL.
    pub fn submit(&self, op: DiskOp) {
        let mut state = self.lock();
        let (arguments, payload) = match &op {
            DiskOp::Write { ticket, offset, buffer, bytes, persist, file } => {
                assert!(offset.is_multiple_of(DIRECT_BYTES), "offset {offset} of a direct write");
                assert!((*bytes as u64).is_multiple_of(DIRECT_BYTES), "length {bytes} of a direct write");
                let payload = xxh3_64(&buffer[..*bytes]);
                ([1, *ticket, handle(file), *offset, *bytes as u64, u64::from(*persist == Persist::Durable)], payload)
            }
            DiskOp::Read { ticket, offset, buffer, bytes, from, file } => {
                if *from == ReadFrom::Device {
                    assert!(offset.is_multiple_of(DIRECT_BYTES), "offset {offset} of a direct read");
                    assert!((*bytes as u64).is_multiple_of(DIRECT_BYTES), "length {bytes} of a direct read");
                }
                assert!(*bytes <= buffer.len());
                ([2, *ticket, handle(file), *offset, *bytes as u64, u64::from(*from == ReadFrom::Device)], 0)
            }
            DiskOp::Sync { ticket, file } => ([3, *ticket, handle(file), 0, 0, 0], 0),
        };
        let Ok(moment) = state.begin(Call::Submit, &arguments) else { return };
        state.note(payload);
        if moment == Moment::LastWithoutEffect {
            return;
        }
        let is_slow = state.rng.chance(1, SLOW_ONE_IN);
        let file_bytes = match &op {
            DiskOp::Sync { file, .. } => state.inode(file).map_or(0, |inode| inode.cached.len()),
            DiskOp::Write { .. } | DiskOp::Read { .. } => 0,
        };
        let order = state.tick();
        state.pending.push(Pending { op, order, file_bytes, is_slow });
    }

    /// Operations that were submitted and not completed; 0 after a power loss.
    pub fn pending(&self) -> usize {
        let state = self.lock();
        if state.power == Power::On { state.pending.len() } else { 0 }
    }

    /// Completes up to `how_many` pending operations, in any order. At least one if there is one, unless the power fails.
    pub fn complete_some(&self, how_many: usize) -> Vec<DiskDone> {
        let mut state = self.lock();
        let mut done = Vec::new();
        while done.len() < how_many && state.power == Power::On && !state.pending.is_empty() {
            let index = state.next_to_complete();
            let Ok(moment) = state.begin(Call::Complete, &[index as u64]) else { break };
            if moment == Moment::LastWithoutEffect {
                break;
            }
            let pending = state.pending.remove(index);
            let completion = state.complete(pending);
            if moment == Moment::Ordinary {
                done.push(completion);
            }
        }
        done
    }

    /// Cuts the power: leaves what a power cut may leave, and nothing else. Every operation fails until `reopen`.
    pub fn crash(&self) {
        self.lock().cut_power();
    }

    /// Lets `operations` more succeed; the next one fails with `Crashed`, perhaps after it took effect, and so does
    /// everything after it. Counts blocking calls, submissions and completions. A crash clears it.
    pub fn crash_after(&self, operations: u64) {
        self.lock().countdown = Some(operations);
    }

    /// Starts the next life. After a power loss it sees what is durable; otherwise only the process restarted, and
    /// what was submitted has its effect, though nobody hears of it. Handles from before are dead.
    pub fn reopen(&self) {
        let mut state = self.lock();
        match state.power {
            Power::On => {
                while !state.pending.is_empty() {
                    let index = state.next_to_complete();
                    let pending = state.pending.remove(index);
                    state.complete(pending);
                }
                state.evict_lost();
            }
            Power::Failing => state.cut_power(),
            Power::Off => {}
        }
        state.power = Power::On;
        state.countdown = None;
        state.life += 1;
        let life = u64::from(state.life);
        state.note(life);
    }

    /// The power is gone: every operation fails with `Crashed`.
    pub fn is_down(&self) -> bool {
        self.lock().power != Power::On
    }

    pub fn set_fault_rates(&self, rates: FaultRates) {
        self.lock().rates = rates;
    }

    /// Fails the `nth` operation of this kind from here; 0 is the next one.
    pub fn fail_nth(&self, fault: Fault, nth: u64) {
        self.lock().scheduled[fault as usize] = Some(nth);
    }

    /// The disk's size. Files count with their length from their creation on.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity_bytes = bytes;
    }

    /// From here on every sync, directory sync and durable write succeeds and guarantees nothing.
    pub fn lie_about_sync(&self, lie: bool) {
        self.lock().is_lying = lie;
    }

    /// From here on this one site's syncs succeed and guarantee nothing. `Site::Block` is `Persist::Durable`,
    /// `Site::Interval` is `DiskOp::Sync`.
    pub fn ignore_site(&self, site: Site) {
        self.lock().ignored[site as usize] = true;
    }

    /// How often this site asked for durability: a site that nothing visits proves nothing when it is ignored.
    pub fn syncs_at(&self, site: Site) -> u64 {
        self.lock().syncs[site as usize]
    }

    /// Rots one bit, on the medium and in the cache.
    ///
    /// # Panics
    /// If the file is absent or shorter.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) {
        assert!(bit < 8);
        self.rot(path, offset..offset + 1, |byte| *byte ^= 1 << bit);
    }

    /// Rots a range to zeros, on the medium and in the cache.
    ///
    /// # Panics
    /// If the file is absent or shorter.
    pub fn zero_range(&self, path: &str, offset: u64, bytes: u64) {
        self.rot(path, offset..offset + bytes, |byte| *byte = 0);
    }

    /// A file's bytes as readers see them, outside the count and the faults: for those who judge a test.
    pub fn peek(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        let Some(Node::File(inode)) = state.names.current.get(path) else { return None };
        Some(state.inodes[inode].cached.clone())
    }

    /// Every operation so far: blocking calls, submissions, completions.
    pub fn op_count(&self) -> u64 {
        self.lock().op_count
    }

    /// A hash of every operation with its arguments, bytes and result. The same seed and calls give the same hash.
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace
    }

    fn rot(&self, path: &str, range: Range<u64>, change: impl Fn(&mut u8)) {
        let mut state = self.lock();
        let Some(&Node::File(inode)) = state.names.current.get(path) else { panic!("no file {path} to rot") };
        let inode = state.inodes.get_mut(&inode).expect("a name's inode exists");
        let range = range.start as usize..range.end as usize;
        assert!(range.end <= inode.cached.len(), "{range:?} of {path}");
        inode.cached[range.clone()].iter_mut().for_each(&change);
        let durable_bytes = inode.durable.len();
        inode.durable[range.start.min(durable_bytes)..range.end.min(durable_bytes)].iter_mut().for_each(&change);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic leaves a simulated disk half changed")
    }

    /// One blocking call: counted, perhaps struck by the power cut, traced with its result.
    fn call<T>(
        &self,
        call: Call,
        arguments: &[u64],
        run: impl FnOnce(&mut State) -> DiskResult<T>,
        digest: impl FnOnce(&T) -> u64,
    ) -> DiskResult<T> {
        let mut state = self.lock();
        let result = match state.begin(call, arguments)? {
            Moment::Ordinary => run(&mut state),
            Moment::LastWithEffect => {
                // Whatever it was, nobody hears of it.
                let _ = run(&mut state);
                Err(DiskError::Crashed)
            }
            Moment::LastWithoutEffect => Err(DiskError::Crashed),
        };
        let outcome = match &result {
            Ok(value) => digest(value),
            Err(error) => digest_error(*error),
        };
        state.note(outcome);
        result
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        write!(f, "SimDisk(life {}, {:?}, {} operations)", state.life, state.power, state.op_count)
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &str) -> DiskResult<()> {
        self.call(Call::CreateDir, &[digest_path(path)], |state| state.create_dir(path), |()| 0)
    }

    fn list(&self, dir: &str) -> DiskResult<Vec<String>> {
        let digest = |names: &Vec<String>| names.iter().fold(0, |hash, name| mix(hash ^ digest_path(name)));
        self.call(Call::List, &[digest_path(dir)], |state| state.names.list(dir), digest)
    }

    fn create(&self, path: &str, bytes: u64, fill: Fill) -> DiskResult<DiskFile> {
        let arguments = [digest_path(path), bytes, u64::from(fill == Fill::Zeros)];
        self.call(Call::Create, &arguments, |state| state.create(path, bytes), handle)
    }

    fn open(&self, path: &str) -> DiskResult<DiskFile> {
        self.call(Call::Open, &[digest_path(path)], |state| state.open(path), handle)
    }

    fn file_bytes(&self, file: &DiskFile) -> DiskResult<u64> {
        let run = |state: &mut State| Ok(state.inode(file)?.cached.len() as u64);
        self.call(Call::FileBytes, &[handle(file)], run, |bytes| *bytes)
    }

    fn read(&self, file: &DiskFile, offset: u64, into: &mut [u8]) -> DiskResult<usize> {
        let arguments = [handle(file), offset, into.len() as u64];
        let run = |state: &mut State| {
            let count = state.read(file, offset, into)?;
            Ok((count, xxh3_64(&into[..count])))
        };
        self.call(Call::Read, &arguments, run, |(_, payload)| *payload).map(|(count, _)| count)
    }

    fn write(&self, file: &DiskFile, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        let arguments = [handle(file), offset, bytes.len() as u64, xxh3_64(bytes)];
        self.call(Call::Write, &arguments, |state| state.write(file, offset, bytes, None), |()| 0)
    }

    fn sync(&self, file: &DiskFile, site: Site) -> DiskResult<()> {
        let run = |state: &mut State| {
            let file_bytes = state.inode(file)?.cached.len();
            state.sync(file, u64::MAX, file_bytes, site)
        };
        self.call(Call::Sync, &[handle(file), site as u64], run, |()| 0)
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        let arguments = [digest_path(from), digest_path(to)];
        self.call(Call::Rename, &arguments, |state| state.rename(from, to), |()| 0)
    }

    fn remove(&self, path: &str) -> DiskResult<()> {
        self.call(Call::Remove, &[digest_path(path)], |state| state.remove(path), |()| 0)
    }

    fn sync_dir(&self, dir: &str, site: Site) -> DiskResult<()> {
        self.call(Call::SyncDir, &[digest_path(dir), site as u64], |state| state.sync_dir(dir, site), |()| 0)
    }

    fn map(&self, file: &DiskFile, bytes: u64) -> DiskResult<Map> {
        let run = |state: &mut State| {
            if state.strikes(Fault::Read) {
                return Err(DiskError::Io(libc::EIO));
            }
            let bytes = usize::try_from(bytes).map_err(|_| DiskError::ShortTransfer)?;
            let mapped = state.inode(file)?.cached.get(..bytes).ok_or(DiskError::ShortTransfer)?;
            Ok(Map::owned(mapped.to_vec()))
        };
        self.call(Call::Map, &[handle(file), bytes], run, |map| xxh3_64(map))
    }

    fn free_bytes(&self) -> DiskResult<u64> {
        self.call(Call::FreeBytes, &[], |state| Ok(state.free_bytes()), |bytes| *bytes)
    }
}

#[derive(Debug, Clone, Copy)]
enum Call {
    CreateDir = 1,
    List,
    Create,
    Open,
    FileBytes,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
    Map,
    FreeBytes,
    Submit,
    Complete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// Nothing works any more; what survives is not decided yet.
    Failing,
    Off,
}

/// Where an operation stands towards the power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Ordinary,
    LastWithEffect,
    LastWithoutEffect,
}

struct State {
    rng: Rng,
    power: Power,
    /// Handles carry the life that they were opened in.
    life: u32,
    countdown: Option<u64>,
    names: Names,
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    pending: Vec<Pending>,
    /// Orders all that is not durable, over files and names alike.
    clock: u64,
    capacity_bytes: u64,
    rates: FaultRates,
    scheduled: [Option<u64>; 4],
    is_lying: bool,
    ignored: [bool; Site::ALL.len()],
    syncs: [u64; Site::ALL.len()],
    op_count: u64,
    trace: u64,
}

/// An operation between submission and completion.
struct Pending {
    op: DiskOp,
    order: u64,
    /// A sync covers what was completed when it was submitted, and the length that the file had then.
    file_bytes: usize,
    is_slow: bool,
}

impl State {
    fn begin(&mut self, call: Call, arguments: &[u64]) -> DiskResult<Moment> {
        if self.power != Power::On {
            return Err(DiskError::Crashed);
        }
        self.op_count += 1;
        self.note(call as u64);
        arguments.iter().for_each(|&argument| self.note(argument));
        match &mut self.countdown {
            None => Ok(Moment::Ordinary),
            Some(0) => {
                self.power = Power::Failing;
                let has_effect = self.rng.chance(1, 2);
                Ok(if has_effect { Moment::LastWithEffect } else { Moment::LastWithoutEffect })
            }
            Some(left) => {
                *left -= 1;
                Ok(Moment::Ordinary)
            }
        }
    }

    fn note(&mut self, word: u64) {
        self.trace = mix(self.trace.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word);
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn strikes(&mut self, fault: Fault) -> bool {
        if let Some(left) = &mut self.scheduled[fault as usize] {
            if *left == 0 {
                self.scheduled[fault as usize] = None;
                return true;
            }
            *left -= 1;
        }
        let per_million = match fault {
            Fault::Write => self.rates.write_per_million,
            Fault::Sync => self.rates.sync_per_million,
            Fault::Read => self.rates.read_per_million,
            Fault::Space => 0,
        };
        per_million != 0 && self.rng.chance(u64::from(per_million), 1_000_000)
    }

    fn honours(&mut self, site: Site) -> bool {
        self.syncs[site as usize] += 1;
        !self.is_lying && !self.ignored[site as usize]
    }

    fn inode_number(&self, file: &DiskFile) -> DiskResult<u64> {
        let handle = handle(file);
        if handle >> 32 != u64::from(self.life) {
            return Err(DiskError::Crashed);
        }
        Ok(handle & u64::from(u32::MAX))
    }

    fn inode(&mut self, file: &DiskFile) -> DiskResult<&mut Inode> {
        let number = self.inode_number(file)?;
        Ok(self.inodes.get_mut(&number).expect("an inode outlives the handles of its life"))
    }

    fn handle_to(&self, inode: u64) -> DiskFile {
        DiskFile::simulated(u64::from(self.life) << 32 | inode)
    }

    fn free_bytes(&self) -> u64 {
        let files = self.names.current.values().filter_map(|node| match node {
            Node::File(inode) => Some(self.inodes[inode].cached.len() as u64),
            Node::Folder => None,
        });
        self.capacity_bytes.saturating_sub(files.sum())
    }

    fn create_dir(&mut self, path: &str) -> DiskResult<()> {
        self.names.require_parent(path)?;
        match self.names.current.get(path) {
            Some(Node::Folder) => Ok(()),
            Some(Node::File(_)) => Err(DiskError::AlreadyExists),
            None => {
                self.change_names(NameChange::Add { path: path.into(), node: Node::Folder });
                Ok(())
            }
        }
    }

    fn create(&mut self, path: &str, bytes: u64) -> DiskResult<DiskFile> {
        self.names.require_parent(path)?;
        if self.names.current.contains_key(path) {
            return Err(DiskError::AlreadyExists);
        }
        if self.free_bytes() < bytes || self.strikes(Fault::Space) {
            return Err(DiskError::NoSpace);
        }
        let number = self.inode_next;
        self.inode_next += 1;
        self.inodes.insert(number, Inode::new(bytes as usize));
        self.change_names(NameChange::Add { path: path.into(), node: Node::File(number) });
        Ok(self.handle_to(number))
    }

    fn open(&mut self, path: &str) -> DiskResult<DiskFile> {
        Ok(self.handle_to(self.names.file(path)?))
    }

    fn rename(&mut self, from: &str, to: &str) -> DiskResult<()> {
        let inode = self.names.file(from)?;
        self.names.require_parent(to)?;
        let replaced = match self.names.file(to) {
            Ok(inode) => Some(inode),
            Err(DiskError::NotFound) => None,
            Err(error) => return Err(error),
        };
        if from != to {
            self.change_names(NameChange::Move { from: from.into(), to: to.into(), inode, replaced });
        }
        Ok(())
    }

    fn remove(&mut self, path: &str) -> DiskResult<()> {
        let inode = self.names.file(path)?;
        self.change_names(NameChange::Remove { path: path.into(), inode });
        Ok(())
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names.current);
        let order = self.tick();
        self.names.unsynced.push(UnsyncedName { order, change });
    }

    fn sync_dir(&mut self, dir: &str, site: Site) -> DiskResult<()> {
        self.names.require_folder(dir)?;
        if self.strikes(Fault::Sync) {
            return Err(DiskError::Io(libc::EIO));
        }
        if self.honours(site) {
            self.names.sync(dir);
        }
        Ok(())
    }

    fn read(&mut self, file: &DiskFile, offset: u64, into: &mut [u8]) -> DiskResult<usize> {
        if self.strikes(Fault::Read) {
            return Err(DiskError::Io(libc::EIO));
        }
        let cached = &self.inode(file)?.cached;
        let from = usize::try_from(offset).map_or(cached.len(), |offset| offset.min(cached.len()));
        let count = into.len().min(cached.len() - from);
        into[..count].copy_from_slice(&cached[from..from + count]);
        Ok(count)
    }

    /// A write that is volatile, or durable when it returns if a site that is honoured asks for it.
    fn write(&mut self, file: &DiskFile, offset: u64, bytes: &[u8], durable_at: Option<Site>) -> DiskResult<()> {
        let number = self.inode_number(file)?;
        let is_durable = durable_at.is_some_and(|site| self.honours(site));
        let file_bytes = self.inodes[&number].cached.len() as u64;
        let growth = (offset + bytes.len() as u64).saturating_sub(file_bytes);
        if growth != 0 && (self.free_bytes() < growth || self.strikes(Fault::Space)) {
            return Err(DiskError::NoSpace);
        }
        let is_struck = self.strikes(Fault::Write);
        let order = self.tick();
        let inode = self.inodes.get_mut(&number).expect("looked up above");
        let offset = offset as usize;
        if is_struck {
            inode.write_torn(order, offset, bytes, &mut self.rng);
            return Err(DiskError::Io(libc::EIO));
        }
        if is_durable {
            inode.write_durable(offset, bytes);
        } else {
            inode.write(order, offset, bytes);
        }
        Ok(())
    }

    fn sync(&mut self, file: &DiskFile, before: u64, file_bytes: usize, site: Site) -> DiskResult<()> {
        let number = self.inode_number(file)?;
        let is_honoured = self.honours(site);
        let is_struck = self.strikes(Fault::Sync);
        let inode = self.inodes.get_mut(&number).expect("an inode outlives the handles of its life");
        if is_struck {
            inode.lose_unsynced(&mut self.rng);
            return Err(DiskError::Io(libc::EIO));
        }
        if is_honoured {
            inode.sync(before, file_bytes);
        }
        Ok(())
    }

    fn next_to_complete(&mut self) -> usize {
        let waits_for_slow = self.rng.chance(1, 16);
        let fast_count = self.pending.iter().filter(|pending| !pending.is_slow).count();
        if waits_for_slow || fast_count == 0 {
            return self.rng.index(self.pending.len());
        }
        let chosen = self.rng.index(fast_count);
        let mut fast = (0..self.pending.len()).filter(|&index| !self.pending[index].is_slow);
        fast.nth(chosen).expect("below the count of fast ones")
    }

    fn complete(&mut self, pending: Pending) -> DiskDone {
        let (done, payload) = match pending.op {
            DiskOp::Write { ticket, file, offset, buffer, bytes, persist } => {
                let durable_at = (persist == Persist::Durable).then_some(Site::Block);
                let result = self.write(&file, offset, &buffer[..bytes], durable_at).map(|()| bytes);
                (DiskDone { ticket, result, buffer: Some(buffer) }, 0)
            }
            DiskOp::Read { ticket, file, offset, mut buffer, bytes, from: _ } => {
                let result = self.read(&file, offset, &mut buffer[..bytes]);
                let payload = result.map_or(0, |count| xxh3_64(&buffer[..count]));
                (DiskDone { ticket, result, buffer: Some(buffer) }, payload)
            }
            DiskOp::Sync { ticket, file } => {
                let result = self.sync(&file, pending.order, pending.file_bytes, Site::Interval).map(|()| 0);
                (DiskDone { ticket, result, buffer: None }, 0)
            }
        };
        self.note(done.ticket);
        self.note(done.result.map_or_else(digest_error, |count| count as u64));
        self.note(payload);
        done
    }

    /// The page cache may or may not have dropped what a failed sync left in it by the time that someone reads again.
    fn evict_lost(&mut self) {
        for inode in self.inodes.values_mut().filter(|inode| inode.has_lost) {
            if self.rng.chance(1, 2) {
                inode.evict();
            }
        }
    }

    fn cut_power(&mut self) {
        if self.power == Power::Off {
            return;
        }
        self.power = Power::Off;
        self.countdown = None;
        let fate = self.draw_fate();

        let mut in_flight: BTreeMap<u64, Vec<UnsyncedWrite>> = BTreeMap::new();
        for pending in std::mem::take(&mut self.pending) {
            if let DiskOp::Write { file, offset, buffer, bytes, .. } = pending.op
                && let Ok(inode) = self.inode_number(&file)
            {
                let write = UnsyncedWrite::new(pending.order, offset as usize, &buffer[..bytes]);
                in_flight.entry(inode).or_default().push(write);
            }
        }

        let names_kept = self.names.cut_power(fate, &mut self.rng);
        let alive: BTreeSet<u64> = self.names.current.values().filter_map(|node| node.inode()).collect();
        self.inodes.retain(|number, _| alive.contains(number));
        let mut sectors_kept = 0;
        for (number, inode) in &mut self.inodes {
            let mut in_flight = in_flight.remove(number).unwrap_or_default();
            self.rng.shuffle(&mut in_flight);
            sectors_kept += inode.cut_power(in_flight, fate, &mut self.rng);
        }
        self.note(names_kept as u64);
        self.note(sectors_kept as u64);
    }

    fn draw_fate(&mut self) -> Fate {
        match self.rng.below(8) {
            0 => Fate::Nothing,
            1 => Fate::Everything,
            2 | 3 => {
                let names = self.names.unsynced.iter().map(|name| name.order);
                let writes = self.inodes.values().flat_map(|inode| &inode.unsynced).map(|write| write.order);
                let pending = self.pending.iter().map(|pending| pending.order);
                let oldest = names.chain(writes).chain(pending).min().unwrap_or(self.clock);
                Fate::UpTo(self.rng.range(oldest..self.clock + 1))
            }
            _ => Fate::Scattered,
        }
    }
}

/// How much of what was not durable a power cut leaves. One for the whole machine: independent dice for each write would
/// almost never lose two things together.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Nothing,
    Everything,
    /// All before this moment, part of what happened at it, nothing after it.
    UpTo(u64),
    /// Each write and each folder for itself.
    Scattered,
}

/// A file: what readers see, what the medium holds, and the writes that make the difference.
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<UnsyncedWrite>,
    /// The images may differ.
    has_diverged: bool,
    /// A failed sync took writes out of `unsynced` that readers still see.
    has_lost: bool,
}

/// A completed write that a power cut may undo, or one in flight that it may tear.
struct UnsyncedWrite {
    order: u64,
    offset: usize,
    bytes: Vec<u8>,
    /// Ranges of the file that a later durable write settled: this write must not come back over it.
    settled: Vec<Range<usize>>,
}

impl Inode {
    fn new(bytes: usize) -> Inode {
        Inode { cached: vec![0; bytes], durable: Vec::new(), unsynced: Vec::new(), has_diverged: true, has_lost: false }
    }

    fn write(&mut self, order: u64, offset: usize, bytes: &[u8]) {
        put(&mut self.cached, offset, bytes);
        self.unsynced.push(UnsyncedWrite::new(order, offset, bytes));
        self.has_diverged = true;
    }

    /// This write alone becomes durable, and the file's length as far as it reaches.
    fn write_durable(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.cached, offset, bytes);
        put(&mut self.durable, offset, bytes);
        let range = offset..offset + bytes.len();
        for write in &mut self.unsynced {
            if range.start < write.end() && write.offset < range.end {
                write.settled.push(range.clone());
            }
        }
    }

    /// A write that failed: any of its sectors are there, none beyond the file's end.
    fn write_torn(&mut self, order: u64, offset: usize, bytes: &[u8], rng: &mut Rng) {
        let whole = UnsyncedWrite::new(order, offset, bytes);
        let landed = torn(whole.sector_count(), rng);
        for sector in (0..landed.len()).filter(|&sector| landed[sector]) {
            let range = whole.sector(sector);
            if range.end <= self.cached.len() {
                self.write(order, range.start, &bytes[range.start - offset..range.end - offset]);
            }
        }
    }

    fn sync(&mut self, before: u64, file_bytes: usize) {
        if self.durable.len() < file_bytes {
            grow(&mut self.durable, file_bytes);
        }
        let durable = &mut self.durable;
        self.unsynced.retain(|write| {
            let is_covered = write.order < before;
            if is_covered {
                write.land(durable, write.offset..write.end());
            }
            !is_covered
        });
    }

    /// After a failed sync the kernel marks the pages clean: readers see them, and no later sync writes them.
    fn lose_unsynced(&mut self, rng: &mut Rng) {
        let writes = std::mem::take(&mut self.unsynced);
        let completed_count = writes.len();
        land_some(&mut self.durable, &writes, completed_count, Fate::Scattered, rng);
        self.has_lost = true;
    }

    /// Readers see the medium again, under the writes that are still to come to it.
    fn evict(&mut self) {
        let file_bytes = self.cached.len();
        self.cached.clone_from(&self.durable);
        grow(&mut self.cached, file_bytes);
        for write in &self.unsynced {
            write.land(&mut self.cached, write.offset..write.end());
        }
        self.has_lost = false;
    }

    fn cut_power(&mut self, in_flight: Vec<UnsyncedWrite>, fate: Fate, rng: &mut Rng) -> usize {
        let mut writes = std::mem::take(&mut self.unsynced);
        let completed_count = writes.len();
        writes.extend(in_flight);
        let synced_bytes = self.durable.len();
        let longest = writes.iter().map(UnsyncedWrite::end).fold(self.cached.len(), usize::max);
        if synced_bytes < longest {
            let bytes = match (fate, rng.below(4)) {
                (Fate::Nothing, _) => synced_bytes,
                (Fate::Everything, _) | (_, 2) => longest,
                (_, 3) => {
                    let anywhere = synced_bytes + rng.index(longest - synced_bytes + 1);
                    (anywhere / SECTOR_BYTES * SECTOR_BYTES).max(synced_bytes)
                }
                _ => synced_bytes,
            };
            grow(&mut self.durable, bytes);
        }
        let landed = land_some(&mut self.durable, &writes, completed_count, fate, rng);
        if self.has_diverged || !writes.is_empty() {
            self.cached.clone_from(&self.durable);
            self.has_diverged = false;
            self.has_lost = false;
        }
        landed
    }
}

/// Applies to the medium what fate leaves of these writes, of which the last ones were still in flight.
/// Returns the number of sectors that landed.
fn land_some(durable: &mut [u8], writes: &[UnsyncedWrite], completed_count: usize, fate: Fate, rng: &mut Rng) -> usize {
    let mut landed: Vec<Vec<bool>> = Vec::with_capacity(writes.len());
    for write in writes {
        let sectors = write.sector_count();
        landed.push(match fate {
            Fate::Nothing => vec![false; sectors],
            Fate::Everything => vec![true; sectors],
            Fate::UpTo(moment) if write.order < moment => vec![true; sectors],
            Fate::UpTo(moment) if moment < write.order => vec![false; sectors],
            Fate::UpTo(_) | Fate::Scattered => torn(sectors, rng),
        });
    }
    // A sector is written as it stood in the cache. Where a write that covers only a part of a sector landed,
    // the completed writes before it are there too.
    let mut together = BTreeSet::new();
    for (write, landed) in writes[..completed_count].iter().zip(&mut landed).rev() {
        let last = landed.len().saturating_sub(1);
        for (sector, lands) in landed.iter_mut().enumerate() {
            let number = write.offset / SECTOR_BYTES + sector;
            *lands |= together.contains(&number);
            let is_edge = sector == 0 || sector == last;
            if is_edge && *lands && write.sector(sector).len() < SECTOR_BYTES {
                together.insert(number);
            }
        }
    }
    let mut count = 0;
    for (write, landed) in writes.iter().zip(&landed) {
        for sector in (0..landed.len()).filter(|&sector| landed[sector]) {
            write.land(durable, write.sector(sector));
            count += 1;
        }
    }
    count
}

/// Which sectors of a write a power cut leaves: none, all, the first few, or any.
fn torn(sector_count: usize, rng: &mut Rng) -> Vec<bool> {
    match rng.below(4) {
        0 => vec![false; sector_count],
        1 => vec![true; sector_count],
        2 => {
            let kept = rng.index(sector_count + 1);
            (0..sector_count).map(|sector| sector < kept).collect()
        }
        _ => (0..sector_count).map(|_| rng.chance(1, 2)).collect(),
    }
}

impl UnsyncedWrite {
    fn new(order: u64, offset: usize, bytes: &[u8]) -> UnsyncedWrite {
        UnsyncedWrite { order, offset, bytes: bytes.to_vec(), settled: Vec::new() }
    }

    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }

    fn sector_count(&self) -> usize {
        self.end().div_ceil(SECTOR_BYTES) - self.offset / SECTOR_BYTES
    }

    /// The range of the file that this write covers in its n-th sector.
    fn sector(&self, index: usize) -> Range<usize> {
        let start = (self.offset / SECTOR_BYTES + index) * SECTOR_BYTES;
        start.max(self.offset)..(start + SECTOR_BYTES).min(self.end())
    }

    /// Puts a range of this write on the medium, except where it is settled and where the file does not reach.
    fn land(&self, durable: &mut [u8], range: Range<usize>) {
        let end = range.end.min(durable.len());
        let mut at = range.start;
        while at < end {
            if let Some(settled) = self.settled.iter().find(|settled| settled.contains(&at)) {
                at = settled.end;
                continue;
            }
            let next_settled = self.settled.iter().map(|settled| settled.start).filter(|&start| at < start).min();
            let stop = next_settled.unwrap_or(end).min(end);
            durable[at..stop].copy_from_slice(&self.bytes[at - self.offset..stop - self.offset]);
            at = stop;
        }
    }
}

/// Names: what is seen, what the medium holds, and the changes that make the difference, in order.
///
/// A rename is atomic, also between folders, and belongs to the folder of its target, as on a journaling file system.
/// Invariant: both images are what some of the changes leave that were asked for, done in order, none without
/// the earlier ones that touch the same name or file. So a file never has two names, nor a name two files.
#[derive(Default)]
struct Names {
    current: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    unsynced: Vec<UnsyncedName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(u64),
}

impl Node {
    fn inode(self) -> Option<u64> {
        match self {
            Node::File(inode) => Some(inode),
            Node::Folder => None,
        }
    }
}

struct UnsyncedName {
    order: u64,
    change: NameChange,
}

enum NameChange {
    Add { path: String, node: Node },
    Move { from: String, to: String, inode: u64, replaced: Option<u64> },
    Remove { path: String, inode: u64 },
}

impl Names {
    fn require_folder(&self, path: &str) -> DiskResult<()> {
        match self.current.get(path) {
            _ if path.is_empty() => Ok(()),
            Some(Node::Folder) => Ok(()),
            Some(Node::File(_)) => Err(DiskError::Io(libc::ENOTDIR)),
            None => Err(DiskError::NotFound),
        }
    }

    fn require_parent(&self, path: &str) -> DiskResult<()> {
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")), "path {path:?}");
        self.require_folder(parent(path))
    }

    fn file(&self, path: &str) -> DiskResult<u64> {
        match self.current.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Folder) => Err(DiskError::Io(libc::EISDIR)),
            None => Err(DiskError::NotFound),
        }
    }

    fn list(&self, dir: &str) -> DiskResult<Vec<String>> {
        self.require_folder(dir)?;
        let children = self.current.keys().filter(|path| parent(path) == dir);
        let mut names: Vec<String> = children.map(|path| name(path).to_string()).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn sync(&mut self, dir: &str) {
        let mut kept: Vec<bool> = self.unsynced.iter().map(|name| name.change.folder() == dir).collect();
        for later in (0..kept.len()).rev() {
            for earlier in 0..later {
                kept[earlier] |= kept[later] && self.unsynced[earlier].change.meets(&self.unsynced[later].change);
            }
        }
        self.settle(&kept);
    }

    /// Returns how many changes were kept.
    fn cut_power(&mut self, fate: Fate, rng: &mut Rng) -> usize {
        let mut kept = match fate {
            Fate::Nothing => vec![false; self.unsynced.len()],
            Fate::Everything => vec![true; self.unsynced.len()],
            Fate::UpTo(moment) => self.unsynced.iter().map(|name| name.order <= moment).collect(),
            Fate::Scattered => self.scatter(rng),
        };
        for later in 0..kept.len() {
            for earlier in 0..later {
                let needs = self.unsynced[earlier].change.meets(&self.unsynced[later].change);
                kept[later] &= !needs || kept[earlier];
            }
        }
        self.settle(&kept);
        self.unsynced.clear();
        // What lies in a folder whose own name is lost is lost with it. A folder sorts before what is in it.
        let names = std::mem::take(&mut self.durable);
        for (path, node) in names {
            let folder = parent(&path);
            if folder.is_empty() || self.durable.contains_key(folder) {
                self.durable.insert(path, node);
            }
        }
        self.current.clone_from(&self.durable);
        kept.iter().filter(|&&kept| kept).count()
    }

    /// For each folder either its first few changes or any of them.
    fn scatter(&self, rng: &mut Rng) -> Vec<bool> {
        let mut kept = vec![false; self.unsynced.len()];
        let folders: BTreeSet<&str> = self.unsynced.iter().map(|name| name.change.folder()).collect();
        for folder in folders {
            let of_folder = |index: &usize| self.unsynced[*index].change.folder() == folder;
            let indexes: Vec<usize> = (0..kept.len()).filter(of_folder).collect();
            let is_prefix = rng.chance(1, 2);
            let prefix = rng.index(indexes.len() + 1);
            for (place, index) in indexes.into_iter().enumerate() {
                kept[index] = if is_prefix { place < prefix } else { rng.chance(1, 2) };
            }
        }
        kept
    }

    fn settle(&mut self, kept: &[bool]) {
        let changes = std::mem::take(&mut self.unsynced);
        for (name, &is_kept) in changes.into_iter().zip(kept) {
            if is_kept {
                name.change.apply(&mut self.durable);
            } else {
                self.unsynced.push(name);
            }
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            NameChange::Add { path, node } => {
                names.insert(path.clone(), *node);
            }
            NameChange::Move { from, to, inode, replaced: _ } => {
                names.remove(from);
                names.insert(to.clone(), Node::File(*inode));
            }
            NameChange::Remove { path, inode: _ } => {
                names.remove(path);
            }
        }
    }

    /// The folder whose sync makes it durable.
    fn folder(&self) -> &str {
        match self {
            NameChange::Add { path, .. } | NameChange::Remove { path, .. } => parent(path),
            NameChange::Move { to, .. } => parent(to),
        }
    }

    /// Whether the two touch a common name or file, so that the later makes no sense without the earlier.
    fn meets(&self, other: &NameChange) -> bool {
        let share = |a: [Option<&str>; 2], b: [Option<&str>; 2]| a.iter().flatten().any(|path| b.contains(&Some(path)));
        let share_inode =
            |a: [Option<u64>; 2], b: [Option<u64>; 2]| a.iter().flatten().any(|id| b.contains(&Some(*id)));
        share(self.paths(), other.paths()) || share_inode(self.inodes(), other.inodes())
    }

    fn paths(&self) -> [Option<&str>; 2] {
        match self {
            NameChange::Add { path, .. } | NameChange::Remove { path, .. } => [Some(path), None],
            NameChange::Move { from, to, .. } => [Some(from), Some(to)],
        }
    }

    fn inodes(&self) -> [Option<u64>; 2] {
        match self {
            NameChange::Add { node, .. } => [node.inode(), None],
            NameChange::Remove { inode, .. } => [Some(*inode), None],
            NameChange::Move { inode, replaced, .. } => [Some(*inode), *replaced],
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// # Panics
/// If the file belongs to a real disk.
fn handle(file: &DiskFile) -> u64 {
    file.simulated_inode().expect("a simulated disk is given its own files only")
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        grow(image, end);
    }
    image[offset..end].copy_from_slice(bytes);
}

fn grow(image: &mut Vec<u8>, bytes: usize) {
    if image.is_empty() {
        *image = vec![0; bytes];
    } else {
        image.resize(bytes, 0);
    }
}

fn digest_path(path: &str) -> u64 {
    xxh3_64(path.as_bytes())
}

fn digest_error(error: DiskError) -> u64 {
    let number = match error {
        DiskError::NotFound => 1,
        DiskError::AlreadyExists => 2,
        DiskError::NoSpace => 3,
        DiskError::ShortTransfer => 4,
        DiskError::Crashed => 5,
        DiskError::Io(errno) => 1000 + i64::from(errno),
    };
    mix(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Buffer;

    const SEEDS: u64 = 200;
    const SITE: Site = Site::SegmentHeader;
    const BLOCK: usize = 8192;

    /// A disk with one file of `bytes` zeros, durable with its name.
    fn disk_with_file(seed: u64, bytes: u64) -> (SimDisk, DiskFile) {
        let disk = SimDisk::new(seed);
        let file = disk.create("log", bytes, Fill::Zeros).unwrap();
        disk.sync(&file, SITE).unwrap();
        disk.sync_dir("", SITE).unwrap();
        (disk, file)
    }

    fn lose_power(disk: &SimDisk) {
        disk.crash();
        disk.reopen();
    }

    fn filled(byte: u8, bytes: usize) -> Buffer {
        let mut buffer = Buffer::new(bytes);
        buffer.fill(byte);
        buffer
    }

    fn write_op(ticket: u64, file: &DiskFile, offset: u64, byte: u8, persist: Persist) -> DiskOp {
        DiskOp::Write { ticket, file: file.clone(), offset, buffer: filled(byte, BLOCK), bytes: BLOCK, persist }
    }

    fn read_all(disk: &SimDisk, path: &str) -> Vec<u8> {
        let file = disk.open(path).unwrap();
        let mut bytes = vec![0; disk.file_bytes(&file).unwrap() as usize];
        assert_eq!(disk.read(&file, 0, &mut bytes), Ok(bytes.len()));
        bytes
    }

    /// Runs a life per seed and gives the different ends that were seen.
    fn ends<T: Ord>(life: impl Fn(u64) -> T) -> BTreeSet<T> {
        (0..SEEDS).map(life).collect()
    }

    /// Whether a run of bytes is all `byte`, all zeros, or torn between them at sector granularity.
    fn verdict(bytes: &[u8], byte: u8) -> &'static str {
        let whole = |sector: &[u8]| sector.iter().all(|&b| b == byte);
        let gone = |sector: &[u8]| sector.iter().all(|&b| b == 0);
        assert!(bytes.chunks(SECTOR_BYTES).all(|sector| whole(sector) || gone(sector)), "a sector is torn");
        match bytes {
            _ if whole(bytes) => "kept",
            _ if gone(bytes) => "lost",
            _ => "torn",
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_short_at_the_end() {
        let (disk, file) = disk_with_file(1, 1000);
        disk.write(&file, 990, &[7; 20]).unwrap();
        assert_eq!(disk.file_bytes(&file), Ok(1010));
        let mut bytes = [9; 40];
        assert_eq!(disk.read(&file, 985, &mut bytes), Ok(25));
        assert_eq!(bytes[..25], [[0; 5].as_slice(), &[7; 20]].concat());
        assert_eq!(disk.read(&file, 5000, &mut bytes), Ok(0));
        assert_eq!(disk.map(&file, 1010).unwrap()[990], 7);
        assert_eq!(disk.map(&file, 1011).err(), Some(DiskError::ShortTransfer));
    }

    #[test]
    fn names_answer_as_a_file_system_does() {
        let disk = SimDisk::new(1);
        assert_eq!(disk.list(""), Ok(vec![]));
        assert_eq!(disk.list("a"), Err(DiskError::NotFound));
        assert_eq!(disk.create("a/x", 1, Fill::Allocate).err(), Some(DiskError::NotFound));
        disk.create_dir("a").unwrap();
        disk.create_dir("a").unwrap();
        disk.create_dir("a/b").unwrap();
        disk.create("a/y", 1, Fill::Allocate).unwrap();
        disk.create("a/x", 1, Fill::Allocate).unwrap();
        disk.create("ab", 1, Fill::Allocate).unwrap();
        assert_eq!(disk.create("a/x", 1, Fill::Allocate).err(), Some(DiskError::AlreadyExists));
        assert_eq!(disk.create_dir("a/x"), Err(DiskError::AlreadyExists));
        assert_eq!(disk.list(""), Ok(vec!["a".into(), "ab".into()]));
        assert_eq!(disk.list("a"), Ok(vec!["b".into(), "x".into(), "y".into()]));
        disk.rename("a/x", "a/b/z").unwrap();
        assert_eq!(disk.rename("a/x", "q"), Err(DiskError::NotFound));
        assert_eq!(disk.rename("a/y", "nowhere/y"), Err(DiskError::NotFound));
        disk.rename("a/y", "a/b/z").unwrap();
        assert_eq!(disk.list("a/b"), Ok(vec!["z".into()]));
        disk.remove("a/b/z").unwrap();
        assert_eq!(disk.remove("a/b/z"), Err(DiskError::NotFound));
        assert_eq!(disk.open("a").err(), Some(DiskError::Io(libc::EISDIR)));
        assert_eq!(disk.sync_dir("nowhere", SITE), Err(DiskError::NotFound));
    }

    #[test]
    fn an_unsynced_write_is_lost_kept_or_torn_by_sectors() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 32 * 512);
            disk.write(&file, 512, &[7; 16 * 512]).unwrap();
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            assert_eq!(bytes.len(), 32 * 512);
            assert!(bytes[..512].iter().chain(&bytes[17 * 512..]).all(|&byte| byte == 0));
            verdict(&bytes[512..17 * 512], 7)
        });
        assert_eq!(ends, BTreeSet::from(["kept", "lost", "torn"]));
    }

    #[test]
    fn unsynced_writes_survive_out_of_order() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 4096);
            disk.write(&file, 0, &[1; 512]).unwrap();
            disk.write(&file, 1024, &[2; 512]).unwrap();
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            (bytes[0], bytes[1024])
        });
        assert_eq!(ends, BTreeSet::from([(0, 0), (0, 2), (1, 0), (1, 2)]));
    }

    #[test]
    fn a_sector_holds_a_moment_of_its_past() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 512);
            disk.write(&file, 0, &[1; 10]).unwrap();
            disk.write(&file, 10, &[2; 10]).unwrap();
            disk.write(&file, 0, &[3; 1]).unwrap();
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            (bytes[0], bytes[1], bytes[10])
        });
        assert_eq!(ends, BTreeSet::from([(0, 0, 0), (1, 1, 0), (1, 1, 2), (3, 1, 2)]));
    }

    #[test]
    fn a_synced_write_is_never_lost() {
        for seed in 0..SEEDS {
            let (disk, file) = disk_with_file(seed, 4096);
            disk.write(&file, 100, &[7; 6000]).unwrap();
            disk.sync(&file, SITE).unwrap();
            disk.write(&file, 8000, &[8; 100]).unwrap();
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            assert!(6100 <= bytes.len());
            assert!(bytes[100..6100].iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn a_length_is_durable_by_sync_only() {
        let ends = ends(|seed| {
            let disk = SimDisk::new(seed);
            let file = disk.create("log", 8192, Fill::Zeros).unwrap();
            disk.sync_dir("", SITE).unwrap();
            if seed % 2 == 0 {
                disk.sync(&file, SITE).unwrap();
            }
            lose_power(&disk);
            (seed % 2 == 0, read_all(&disk, "log").len())
        });
        let of_synced: Vec<_> = ends.iter().filter(|(is_synced, _)| *is_synced).collect();
        assert_eq!(of_synced, [&(true, 8192)]);
        assert!(ends.contains(&(false, 0)) && ends.contains(&(false, 8192)) && 3 < ends.len());
    }

    #[test]
    fn a_file_whose_name_is_not_durable_may_be_lost_with_its_content() {
        let ends = ends(|seed| {
            let disk = SimDisk::new(seed);
            let file = disk.create("log", 512, Fill::Zeros).unwrap();
            disk.sync(&file, SITE).unwrap();
            lose_power(&disk);
            disk.open("log").is_ok()
        });
        assert_eq!(ends, BTreeSet::from([false, true]));
    }

    #[test]
    fn a_folder_is_lost_with_what_is_in_it() {
        let ends = ends(|seed| {
            let disk = SimDisk::new(seed);
            disk.create_dir("shard").unwrap();
            let file = disk.create("shard/log", 512, Fill::Zeros).unwrap();
            disk.sync(&file, SITE).unwrap();
            disk.sync_dir("shard", SITE).unwrap();
            if seed % 2 == 0 {
                disk.sync_dir("", SITE).unwrap();
            }
            lose_power(&disk);
            assert_eq!(disk.list("shard").is_ok(), disk.open("shard/log").is_ok());
            (seed % 2 == 0, disk.open("shard/log").is_ok())
        });
        assert_eq!(ends, BTreeSet::from([(false, false), (false, true), (true, true)]));
    }

    #[test]
    fn a_rename_may_be_undone_before_the_directory_sync_and_never_after() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 512);
            disk.write(&file, 0, &[1]).unwrap();
            disk.sync(&file, SITE).unwrap();
            let other = disk.create("aside", 512, Fill::Zeros).unwrap();
            disk.write(&other, 0, &[2]).unwrap();
            disk.sync(&other, SITE).unwrap();
            disk.sync_dir("", SITE).unwrap();
            disk.rename("aside", "log").unwrap();
            if seed % 2 == 0 {
                disk.sync_dir("", SITE).unwrap();
            }
            lose_power(&disk);
            (seed % 2 == 0, disk.list("").unwrap().len(), read_all(&disk, "log")[0])
        });
        assert_eq!(ends, BTreeSet::from([(false, 2, 1), (false, 1, 2), (true, 1, 2)]));
    }

    #[test]
    fn a_rename_between_folders_is_whole_and_durable_with_its_target() {
        let ends = ends(|seed| {
            let disk = SimDisk::new(seed);
            disk.create_dir("pool").unwrap();
            disk.create_dir("shard").unwrap();
            disk.sync_dir("", SITE).unwrap();
            disk.create("pool/s", 512, Fill::Zeros).unwrap();
            disk.sync_dir("pool", SITE).unwrap();
            disk.rename("pool/s", "shard/s").unwrap();
            disk.sync_dir(["pool", "shard"][seed as usize % 2], SITE).unwrap();
            lose_power(&disk);
            (seed % 2, disk.open("pool/s").is_ok(), disk.open("shard/s").is_ok())
        });
        assert_eq!(ends, BTreeSet::from([(0, true, false), (0, false, true), (1, false, true)]));
    }

    #[test]
    fn names_survive_as_if_some_of_the_changes_had_been_asked_for() {
        let ends = ends(|seed| {
            let disk = SimDisk::new(seed);
            disk.create("a", 1, Fill::Zeros).unwrap();
            disk.create("x", 1, Fill::Zeros).unwrap();
            disk.rename("a", "b").unwrap();
            disk.rename("b", "c").unwrap();
            lose_power(&disk);
            disk.list("").unwrap().concat()
        });
        assert_eq!(ends, BTreeSet::from(["", "a", "ax", "b", "bx", "c", "cx", "x"].map(String::from)));
    }

    #[test]
    fn a_removal_may_be_undone_before_the_directory_sync() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 512);
            disk.write(&file, 0, &[1]).unwrap();
            disk.sync(&file, SITE).unwrap();
            disk.remove("log").unwrap();
            let mut byte = [0];
            assert_eq!(disk.read(&file, 0, &mut byte), Ok(1));
            if seed % 2 == 0 {
                disk.sync_dir("", SITE).unwrap();
            }
            lose_power(&disk);
            (seed % 2 == 0, disk.peek("log").map(|bytes| bytes[0]))
        });
        assert_eq!(ends, BTreeSet::from([(false, None), (false, Some(1)), (true, None)]));
    }

    #[test]
    fn a_durable_write_survives_from_its_completion_on() {
        for seed in 0..SEEDS {
            let (disk, file) = disk_with_file(seed, 4 * BLOCK as u64);
            disk.write(&file, 100, &[1; 20_000]).unwrap();
            disk.submit(write_op(5, &file, 0, 7, Persist::Durable));
            let done = disk.complete_some(9);
            assert_eq!((done.len(), done[0].ticket, done[0].result), (1, 5, Ok(BLOCK)));
            assert_eq!(disk.peek("log").unwrap()[BLOCK - 1], 7);
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            // The older unsynced write does not come back over it.
            assert_eq!(verdict(&bytes[..BLOCK], 7), "kept");
        }
    }

    #[test]
    fn a_pending_write_is_unseen_and_is_lost_kept_or_torn() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 4 * BLOCK as u64);
            disk.submit(write_op(1, &file, BLOCK as u64, 7, Persist::Durable));
            assert_eq!(disk.pending(), 1);
            assert_eq!(verdict(&disk.peek("log").unwrap(), 7), "lost");
            disk.crash();
            assert_eq!(disk.pending(), 0);
            disk.reopen();
            assert!(disk.complete_some(9).is_empty());
            verdict(&read_all(&disk, "log")[BLOCK..2 * BLOCK], 7)
        });
        assert_eq!(ends, BTreeSet::from(["kept", "lost", "torn"]));
    }

    #[test]
    fn a_written_block_is_volatile_until_a_sync_that_came_after_it() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 4 * BLOCK as u64);
            disk.submit(write_op(1, &file, 0, 7, Persist::Written));
            let syncs_first = seed % 2 == 0;
            if syncs_first {
                disk.submit(DiskOp::Sync { ticket: 2, file: file.clone() });
            }
            while disk.pending() != 0 {
                disk.complete_some(1);
            }
            if !syncs_first {
                disk.submit(DiskOp::Sync { ticket: 2, file: file.clone() });
                assert_eq!(disk.complete_some(1)[0].result, Ok(0));
            }
            lose_power(&disk);
            (syncs_first, verdict(&read_all(&disk, "log")[..BLOCK], 7))
        });
        assert_eq!(ends, BTreeSet::from([(true, "lost"), (true, "torn"), (true, "kept"), (false, "kept")]));
    }

    #[test]
    fn completions_come_in_any_order_each_once() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 4 * BLOCK as u64);
            (0..3).for_each(|n| disk.submit(write_op(n, &file, n * BLOCK as u64, 7, Persist::Durable)));
            let mut tickets = Vec::new();
            while disk.pending() != 0 {
                let done = disk.complete_some(2);
                assert!(!done.is_empty());
                tickets.extend(done.iter().map(|done| done.ticket));
            }
            tickets
        });
        assert_eq!(ends.len(), 6);
    }

    #[test]
    fn an_asynchronous_read_sees_what_is_there_when_it_completes() {
        let (disk, file) = disk_with_file(1, BLOCK as u64 + 10);
        let buffer = Buffer::new(2 * BLOCK);
        let bytes = buffer.len();
        disk.submit(DiskOp::Read { ticket: 1, file: file.clone(), offset: 4096, buffer, bytes, from: ReadFrom::Cache });
        disk.write(&file, 4096, &[9; 4]).unwrap();
        let done = disk.complete_some(1).remove(0);
        assert_eq!(done.result, Ok(BLOCK + 10 - 4096));
        assert_eq!(done.buffer.unwrap()[..5], [9, 9, 9, 9, 0]);
    }

    #[test]
    fn handles_die_with_their_life_and_the_process_may_die_alone() {
        let (disk, file) = disk_with_file(1, 2 * BLOCK as u64);
        disk.write(&file, 0, &[3; 5]).unwrap();
        disk.submit(write_op(1, &file, BLOCK as u64, 7, Persist::Durable));
        disk.reopen();
        assert_eq!(disk.pending(), 0);
        assert_eq!(disk.write(&file, 0, &[1]), Err(DiskError::Crashed));
        disk.submit(DiskOp::Sync { ticket: 4, file });
        assert_eq!(disk.complete_some(1)[0].result, Err(DiskError::Crashed));
        let bytes = read_all(&disk, "log");
        assert_eq!((bytes[0], bytes[BLOCK]), (3, 7));
        disk.crash();
        assert!(disk.is_down());
        assert_eq!(disk.list(""), Err(DiskError::Crashed));
    }

    #[test]
    fn a_failed_write_leaves_any_of_its_sectors() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 4 * BLOCK as u64);
            disk.fail_nth(Fault::Write, 1);
            disk.write(&file, 3 * BLOCK as u64, &[1]).unwrap();
            disk.submit(write_op(1, &file, 0, 7, Persist::Durable));
            assert_eq!(disk.complete_some(1)[0].result, Err(DiskError::Io(libc::EIO)));
            disk.write(&file, 3 * BLOCK as u64, &[1]).unwrap();
            verdict(&disk.peek("log").unwrap()[..BLOCK], 7)
        });
        assert_eq!(ends, BTreeSet::from(["kept", "lost", "torn"]));
    }

    #[test]
    fn after_a_failed_sync_the_next_one_succeeds_and_the_data_is_gone() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, BLOCK as u64);
            disk.write(&file, 0, &[7; BLOCK]).unwrap();
            disk.fail_nth(Fault::Sync, 0);
            assert_eq!(disk.sync(&file, SITE), Err(DiskError::Io(libc::EIO)));
            assert_eq!(disk.sync(&file, SITE), Ok(()));
            assert_eq!(verdict(&disk.peek("log").unwrap(), 7), "kept");
            lose_power(&disk);
            verdict(&read_all(&disk, "log"), 7)
        });
        assert_eq!(ends, BTreeSet::from(["kept", "lost", "torn"]));
    }

    #[test]
    fn after_a_failed_sync_a_restarted_process_may_see_either_image() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 512);
            disk.write(&file, 0, &[7; 512]).unwrap();
            disk.fail_nth(Fault::Sync, 0);
            disk.sync(&file, SITE).unwrap_err();
            disk.reopen();
            let seen = read_all(&disk, "log")[0];
            lose_power(&disk);
            (seen, read_all(&disk, "log")[0])
        });
        assert_eq!(ends, BTreeSet::from([(0, 0), (7, 0), (7, 7)]));
    }

    #[test]
    fn reads_and_mappings_fail_when_told_to() {
        let (disk, file) = disk_with_file(1, 512);
        disk.fail_nth(Fault::Read, 0);
        assert_eq!(disk.read(&file, 0, &mut [0]), Err(DiskError::Io(libc::EIO)));
        assert_eq!(disk.read(&file, 0, &mut [0]), Ok(1));
        disk.fail_nth(Fault::Read, 0);
        assert!(disk.map(&file, 1).is_err());
    }

    #[test]
    fn rates_make_some_operations_fail() {
        let (disk, file) = disk_with_file(1, 512);
        let per_million = 100_000;
        disk.set_fault_rates(FaultRates {
            write_per_million: per_million,
            sync_per_million: per_million,
            read_per_million: per_million,
        });
        let failures = |run: &dyn Fn() -> bool| (0..1000).filter(|_| run()).count();
        let writes = failures(&|| disk.write(&file, 0, &[1]).is_err());
        let syncs = failures(&|| disk.sync(&file, SITE).is_err());
        let reads = failures(&|| disk.read(&file, 0, &mut [0]).is_err());
        for count in [writes, syncs, reads] {
            assert!((50..150).contains(&count), "{count}");
        }
    }

    #[test]
    fn a_full_disk_refuses_growth_and_nothing_else() {
        let disk = SimDisk::new(1);
        disk.set_capacity(1000);
        let file = disk.create("a", 600, Fill::Allocate).unwrap();
        assert_eq!(disk.free_bytes(), Ok(400));
        assert_eq!(disk.create("b", 401, Fill::Allocate).err(), Some(DiskError::NoSpace));
        assert_eq!(disk.list("").unwrap(), ["a"]);
        assert_eq!(disk.write(&file, 600, &[1; 401]), Err(DiskError::NoSpace));
        assert_eq!(disk.write(&file, 0, &[1; 600]), Ok(()));
        assert_eq!(disk.write(&file, 600, &[1; 400]), Ok(()));
        assert_eq!(disk.free_bytes(), Ok(0));
        disk.remove("a").unwrap();
        assert_eq!(disk.free_bytes(), Ok(1000));
        disk.fail_nth(Fault::Space, 0);
        assert_eq!(disk.create("b", 1, Fill::Allocate).err(), Some(DiskError::NoSpace));
    }

    #[test]
    fn a_disk_that_lies_about_sync_loses_what_was_synced() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 2 * BLOCK as u64);
            disk.lie_about_sync(true);
            disk.write(&file, 0, &[7; BLOCK]).unwrap();
            disk.sync(&file, SITE).unwrap();
            disk.submit(write_op(1, &file, BLOCK as u64, 8, Persist::Durable));
            assert_eq!(disk.complete_some(1)[0].result, Ok(BLOCK));
            disk.rename("log", "sealed").unwrap();
            disk.sync_dir("", SITE).unwrap();
            lose_power(&disk);
            let names = disk.list("").unwrap();
            let bytes = read_all(&disk, &names[0]);
            (names[0] == "sealed", verdict(&bytes[..BLOCK], 7) == "kept", verdict(&bytes[BLOCK..], 8) == "kept")
        });
        assert_eq!(ends.len(), 8, "{ends:?}");
    }

    #[test]
    fn each_site_can_be_ignored_alone() {
        for site in Site::ALL {
            let ends = ends(|seed| {
                let (disk, file) = disk_with_file(seed, 2 * BLOCK as u64);
                let visits = disk.syncs_at(site);
                disk.ignore_site(site);
                let other = Site::ALL[(site as usize + 1) % Site::ALL.len()];
                let make_durable = |site: Site, offset: usize| match site {
                    Site::Block => {
                        disk.submit(write_op(1, &file, offset as u64, 7, Persist::Durable));
                        disk.complete_some(1);
                    }
                    Site::Interval => {
                        disk.submit(write_op(1, &file, offset as u64, 7, Persist::Written));
                        disk.complete_some(1);
                        disk.submit(DiskOp::Sync { ticket: 2, file: file.clone() });
                        disk.complete_some(1);
                    }
                    _ => {
                        disk.write(&file, offset as u64, &[7; BLOCK]).unwrap();
                        disk.sync(&file, site).unwrap();
                    }
                };
                make_durable(other, 0);
                make_durable(site, BLOCK);
                assert_eq!(disk.syncs_at(site), visits + 1);
                lose_power(&disk);
                let bytes = read_all(&disk, "log");
                assert_eq!(verdict(&bytes[..BLOCK], 7), "kept");
                verdict(&bytes[BLOCK..], 7)
            });
            assert_eq!(ends, BTreeSet::from(["kept", "lost", "torn"]), "{site:?}");
        }
    }

    #[test]
    fn rot_is_on_the_medium_and_in_the_cache() {
        let (disk, file) = disk_with_file(1, 1024);
        disk.write(&file, 0, &[0xff; 1024]).unwrap();
        disk.sync(&file, SITE).unwrap();
        disk.flip_bit("log", 3, 0);
        disk.zero_range("log", 600, 2);
        for _ in 0..2 {
            let bytes = read_all(&disk, "log");
            assert_eq!((bytes[2], bytes[3], bytes[599], bytes[600], bytes[601]), (0xff, 0xfe, 0xff, 0, 0));
            lose_power(&disk);
        }
    }

    /// A small workload that uses every operation and gives up at the first error.
    fn script(disk: &SimDisk, rng: &mut Rng) -> DiskResult<()> {
        disk.create_dir("s")?;
        disk.sync_dir("", Site::ShardDir)?;
        for name in disk.list("s")? {
            disk.remove(&format!("s/{name}"))?;
        }
        let file = disk.create("s/tmp", 8 * BLOCK as u64, Fill::Zeros)?;
        disk.sync(&file, Site::SegmentFill)?;
        disk.write(&file, 0, &[1; 700])?;
        disk.sync(&file, Site::SegmentHeader)?;
        disk.rename("s/tmp", "s/log")?;
        disk.sync_dir("s", Site::SegmentDir)?;
        for ticket in 0..12 {
            let persist = if rng.chance(1, 2) { Persist::Durable } else { Persist::Written };
            disk.submit(write_op(ticket, &file, rng.below(7) * BLOCK as u64, rng.draw() as u8, persist));
            if rng.chance(1, 3) {
                disk.submit(DiskOp::Sync { ticket: 100 + ticket, file: file.clone() });
            }
            for done in disk.complete_some(rng.index(3)) {
                done.result?;
            }
        }
        let open = disk.open("s/log")?;
        let buffer = Buffer::new(BLOCK);
        disk.submit(DiskOp::Read { ticket: 50, file: open, offset: 0, buffer, bytes: BLOCK, from: ReadFrom::Device });
        while disk.pending() != 0 {
            disk.complete_some(2);
        }
        let bytes = disk.file_bytes(&file)?;
        disk.map(&file, bytes)?;
        disk.free_bytes()?;
        disk.read(&file, 0, &mut [0; 100])?;
        if disk.is_down() { Err(DiskError::Crashed) } else { Ok(()) }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        let life = |seed: u64| {
            let disk = SimDisk::new(seed);
            disk.set_fault_rates(FaultRates {
                write_per_million: 9000,
                sync_per_million: 9000,
                read_per_million: 9000,
            });
            let mut rng = Rng::new(seed);
            for _ in 0..3 {
                disk.crash_after(rng.below(100));
                let _ = script(&disk, &mut rng);
                lose_power(&disk);
            }
            (disk.trace_hash(), disk.op_count(), disk.peek("s/log"))
        };
        let traces: BTreeSet<u64> = (0..SEEDS)
            .map(|seed| {
                assert!(life(seed) == life(seed), "seed {seed}");
                life(seed).0
            })
            .collect();
        assert_eq!(traces.len() as u64, SEEDS);
    }

    #[test]
    fn the_power_may_fail_at_every_operation() {
        for seed in 0..20 {
            for operations in 0.. {
                let disk = SimDisk::new(seed);
                disk.crash_after(operations);
                let outcome = script(&disk, &mut Rng::new(seed));
                if outcome.is_ok() {
                    assert!(40 < operations, "{operations}");
                    break;
                }
                assert_eq!(outcome, Err(DiskError::Crashed));
                assert!(disk.is_down());
                assert_eq!(disk.op_count(), operations + 1);
                assert_eq!(disk.list(""), Err(DiskError::Crashed));
                assert!(disk.complete_some(1).is_empty());
                if operations % 2 == 0 {
                    disk.crash();
                }
                disk.reopen();
                assert_eq!(script(&disk, &mut Rng::new(seed)), Ok(()), "after {operations} operations of seed {seed}");
            }
        }
    }

    #[test]
    fn the_operation_that_the_power_cut_strikes_may_take_effect() {
        let ends = ends(|seed| {
            let (disk, _file) = disk_with_file(seed, 512);
            disk.crash_after(0);
            assert_eq!(disk.rename("log", "moved"), Err(DiskError::Crashed));
            disk.reopen();
            disk.open("moved").is_ok()
        });
        assert_eq!(ends, BTreeSet::from([false, true]));
    }

    #[test]
    #[ignore = "prints a time: cargo test -p ringlog-engine sim::disk -- --ignored --nocapture"]
    #[expect(clippy::disallowed_methods, reason = "a measurement, run by hand")]
    fn time_of_a_thousand_seeds() {
        let started = std::time::Instant::now();
        let mut op_count = 0;
        for seed in 0..1000 {
            let disk = SimDisk::new(seed);
            let mut rng = Rng::new(seed);
            for _ in 0..5 {
                let _ = script(&disk, &mut rng);
                let names: Vec<String> = disk.list("s").unwrap();
                for name in names {
                    let file = disk.open(&format!("s/{name}")).unwrap();
                    let mut bytes = vec![0; 8 * BLOCK];
                    disk.read(&file, 0, &mut bytes).unwrap();
                }
                lose_power(&disk);
            }
            op_count += disk.op_count();
        }
        println!("1000 seeds, 5 lives each, {op_count} operations: {:?}", started.elapsed());
    }
}
