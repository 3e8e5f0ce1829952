//! The machine under a simulated disk: its power, its lives, what it has in flight, and the trace of it all.
//!
//! Owns the order of things: one clock over files and names, completions in any order, the moment of a power cut.
//! Must never: let an operation pass untraced or uncounted, or serve a handle of an earlier life.
//!
//! ```text
//!  On ──the countdown ran out──► Failing ──cut_power()──► Off ──reopen()──► On, old handles dead
//!   └───────────cut_power()────────────────────────────────┘
//!   └─reopen(): the process restarts, the machine does not: nothing is lost but the handles
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::fault::{Fate, Fault, Faults};
use super::inode::{Inode, UnsyncedWrite};
use super::names::{NameChange, Names, Node, UnsyncedName};
use super::rng::{Rng, mix};
use crate::io::{DiskDone, DiskError, DiskFile, DiskOp, DiskResult, Map, Persist, ReadFrom, Site};

/// What O_DIRECT wants offsets and lengths to be multiples of.
const DIRECT_BYTES: u64 = 4096;

const CAPACITY_BYTES_DEFAULT: u64 = 1 << 40;

/// One operation in this many is slow: others overtake it until little else is left.
const SLOW_ONE_IN: u64 = 6;

/// All that the handles to one simulated disk share.
pub(super) struct Machine {
    rng: Rng,
    power: Power,
    /// Handles carry the life that they were opened in.
    life: u32,
    pub(super) countdown: Option<u64>,
    names: Names,
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    pending: Vec<Pending>,
    /// Orders all that is not durable, over files and names alike.
    clock: u64,
    pub(super) capacity_bytes: u64,
    pub(super) faults: Faults,
    op_count: u64,
    trace: u64,
}

impl Machine {
    pub(super) fn new(seed: u64) -> Machine {
        Machine {
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
            faults: Faults::none(),
            op_count: 0,
            trace: mix(seed),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.power == Power::On
    }

    pub(super) fn op_count(&self) -> u64 {
        self.op_count
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace
    }

    /// One blocking call: counted, perhaps struck by the power cut, traced with its result.
    pub(super) fn call<T>(
        &mut self,
        call: Call,
        arguments: &[u64],
        run: impl FnOnce(&mut Machine) -> DiskResult<T>,
        digest: impl FnOnce(&T) -> u64,
    ) -> DiskResult<T> {
        let result = match self.begin(call, arguments)? {
            Moment::Ordinary => run(self),
            Moment::LastWithEffect => {
                // Whatever it was, nobody hears of it.
                let _ = run(self);
                Err(DiskError::Crashed)
            }
            Moment::LastWithoutEffect => Err(DiskError::Crashed),
        };
        let outcome = match &result {
            Ok(value) => digest(value),
            Err(error) => digest_error(*error),
        };
        self.note(outcome);
        result
    }

    pub(super) fn submit(&mut self, op: DiskOp) {
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
        let Ok(moment) = self.begin(Call::Submit, &arguments) else { return };
        self.note(payload);
        if moment == Moment::LastWithoutEffect {
            return;
        }
        let is_slow = self.rng.chance(1, SLOW_ONE_IN);
        let file_bytes = match &op {
            DiskOp::Sync { file, .. } => self.inode(file).map_or(0, |inode| inode.cached.len()),
            DiskOp::Write { .. } | DiskOp::Read { .. } => 0,
        };
        let order = self.tick();
        self.pending.push(Pending { op, order, file_bytes, is_slow });
    }

    pub(super) fn pending_count(&self) -> usize {
        if self.power == Power::On { self.pending.len() } else { 0 }
    }

    pub(super) fn complete_some(&mut self, how_many: usize) -> Vec<DiskDone> {
        let mut done = Vec::new();
        while done.len() < how_many && self.power == Power::On && !self.pending.is_empty() {
            let index = self.next_to_complete();
            let Ok(moment) = self.begin(Call::Complete, &[index as u64]) else { break };
            if moment == Moment::LastWithoutEffect {
                break;
            }
            let pending = self.pending.remove(index);
            let completion = self.complete(pending);
            if moment == Moment::Ordinary {
                done.push(completion);
            }
        }
        done
    }

    /// Leaves what a power cut may leave, and nothing else.
    pub(super) fn cut_power(&mut self) {
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

    pub(super) fn reopen(&mut self) {
        match self.power {
            Power::On => {
                while !self.pending.is_empty() {
                    let index = self.next_to_complete();
                    let pending = self.pending.remove(index);
                    self.complete(pending);
                }
                self.evict_lost();
            }
            Power::Failing => self.cut_power(),
            Power::Off => {}
        }
        self.power = Power::On;
        self.countdown = None;
        self.life += 1;
        let life = u64::from(self.life);
        self.note(life);
    }

    pub(super) fn peek(&self, path: &str) -> Option<Vec<u8>> {
        let Some(Node::File(inode)) = self.names.current.get(path) else { return None };
        Some(self.inodes[inode].cached.clone())
    }

    /// Every file of a folder that would be there if nothing came to the medium any more, and what would be in it.
    pub(super) fn durable_files(&self, dir: &str) -> Vec<(String, Vec<u8>)> {
        let files = self.names.durable_files(dir).filter_map(|(path, inode)| Some((path, self.inodes.get(&inode)?)));
        files.map(|(path, inode)| (path.to_owned(), inode.durable.clone())).collect()
    }

    pub(super) fn rot(&mut self, path: &str, range: Range<u64>, change: impl Fn(&mut u8)) {
        let Some(&Node::File(inode)) = self.names.current.get(path) else { panic!("no file {path} to rot") };
        let inode = self.inodes.get_mut(&inode).expect("a name's inode exists");
        let range = range.start as usize..range.end as usize;
        assert!(range.end <= inode.cached.len(), "{range:?} of {path}");
        inode.cached[range.clone()].iter_mut().for_each(&change);
        let durable_bytes = inode.durable.len();
        inode.durable[range.start.min(durable_bytes)..range.end.min(durable_bytes)].iter_mut().for_each(&change);
    }

    pub(super) fn create_dir(&mut self, path: &str) -> DiskResult<()> {
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

    pub(super) fn list(&self, dir: &str) -> DiskResult<Vec<String>> {
        self.names.list(dir)
    }

    pub(super) fn create(&mut self, path: &str, bytes: u64) -> DiskResult<DiskFile> {
        self.names.require_parent(path)?;
        if self.names.current.contains_key(path) {
            return Err(DiskError::AlreadyExists);
        }
        if self.free_bytes() < bytes || self.faults.strikes(Fault::Space, &mut self.rng) {
            return Err(DiskError::NoSpace);
        }
        let number = self.inode_next;
        self.inode_next += 1;
        self.inodes.insert(number, Inode::new(bytes as usize));
        self.change_names(NameChange::Add { path: path.into(), node: Node::File(number) });
        Ok(self.handle_to(number))
    }

    pub(super) fn open(&mut self, path: &str) -> DiskResult<DiskFile> {
        Ok(self.handle_to(self.names.file(path)?))
    }

    pub(super) fn file_bytes(&self, file: &DiskFile) -> DiskResult<u64> {
        Ok(self.inode(file)?.cached.len() as u64)
    }

    pub(super) fn read(&mut self, file: &DiskFile, offset: u64, into: &mut [u8]) -> DiskResult<usize> {
        if self.faults.strikes(Fault::Read, &mut self.rng) {
            return Err(DiskError::Io(libc::EIO));
        }
        let cached = &self.inode(file)?.cached;
        let from = usize::try_from(offset).map_or(cached.len(), |offset| offset.min(cached.len()));
        let count = into.len().min(cached.len() - from);
        into[..count].copy_from_slice(&cached[from..from + count]);
        Ok(count)
    }

    /// A blocking write: volatile when it returns.
    pub(super) fn write(&mut self, file: &DiskFile, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        self.write_at(file, offset, bytes, None)
    }

    /// A blocking sync: covers all that was written, and the file's length.
    pub(super) fn sync(&mut self, file: &DiskFile, site: Site) -> DiskResult<()> {
        let file_bytes = self.inode(file)?.cached.len();
        self.sync_before(file, u64::MAX, file_bytes, site)
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> DiskResult<()> {
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

    pub(super) fn remove(&mut self, path: &str) -> DiskResult<()> {
        let inode = self.names.file(path)?;
        self.change_names(NameChange::Remove { path: path.into(), inode });
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &str, site: Site) -> DiskResult<()> {
        self.names.require_folder(dir)?;
        if self.faults.strikes(Fault::Sync, &mut self.rng) {
            return Err(DiskError::Io(libc::EIO));
        }
        if self.faults.honours(site) {
            self.names.sync(dir);
        }
        Ok(())
    }

    pub(super) fn map(&mut self, file: &DiskFile, bytes: u64) -> DiskResult<Map> {
        if self.faults.strikes(Fault::Read, &mut self.rng) {
            return Err(DiskError::Io(libc::EIO));
        }
        let bytes = usize::try_from(bytes).map_err(|_| DiskError::ShortTransfer)?;
        let mapped = self.inode(file)?.cached.get(..bytes).ok_or(DiskError::ShortTransfer)?;
        Ok(Map::owned(mapped.to_vec()))
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes())
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let files = self.names.current.values().filter_map(|node| match node {
            Node::File(inode) => Some(self.inodes[inode].cached.len() as u64),
            Node::Folder => None,
        });
        files.sum()
    }

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

    fn inode_number(&self, file: &DiskFile) -> DiskResult<u64> {
        let handle = handle(file);
        if handle >> 32 != u64::from(self.life) {
            return Err(DiskError::Crashed);
        }
        Ok(handle & u64::from(u32::MAX))
    }

    fn inode(&self, file: &DiskFile) -> DiskResult<&Inode> {
        let number = self.inode_number(file)?;
        Ok(self.inodes.get(&number).expect("an inode outlives the handles of its life"))
    }

    fn handle_to(&self, inode: u64) -> DiskFile {
        DiskFile::simulated(u64::from(self.life) << 32 | inode)
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names.current);
        let order = self.tick();
        self.names.unsynced.push(UnsyncedName { order, change });
    }

    /// A write that is volatile, or durable when it returns if a site that is honoured asks for it.
    fn write_at(&mut self, file: &DiskFile, offset: u64, bytes: &[u8], durable_at: Option<Site>) -> DiskResult<()> {
        let number = self.inode_number(file)?;
        let is_durable = durable_at.is_some_and(|site| self.faults.honours(site));
        let file_bytes = self.inodes[&number].cached.len() as u64;
        let growth = (offset + bytes.len() as u64).saturating_sub(file_bytes);
        if growth != 0 && (self.free_bytes() < growth || self.faults.strikes(Fault::Space, &mut self.rng)) {
            return Err(DiskError::NoSpace);
        }
        let is_struck = self.faults.strikes(Fault::Write, &mut self.rng);
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

    fn sync_before(&mut self, file: &DiskFile, before: u64, file_bytes: usize, site: Site) -> DiskResult<()> {
        let number = self.inode_number(file)?;
        let is_honoured = self.faults.honours(site);
        let is_struck = self.faults.strikes(Fault::Sync, &mut self.rng);
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
                let result = self.write_at(&file, offset, &buffer[..bytes], durable_at).map(|()| bytes);
                (DiskDone { ticket, result, buffer: Some(buffer) }, 0)
            }
            DiskOp::Read { ticket, file, offset, mut buffer, bytes, from: _ } => {
                let result = self.read(&file, offset, &mut buffer[..bytes]);
                let payload = result.map_or(0, |count| xxh3_64(&buffer[..count]));
                (DiskDone { ticket, result, buffer: Some(buffer) }, payload)
            }
            DiskOp::Sync { ticket, file } => {
                let result = self.sync_before(&file, pending.order, pending.file_bytes, Site::Interval).map(|()| 0);
                (DiskDone { ticket, result, buffer: None }, 0)
            }
        };
        self.note(done.ticket);
        self.note(done.result.map_or_else(digest_error, |count| count as u64));
        self.note(payload);
        done
    }

    /// A new process reads past the page cache: what a failed sync has lost is not shown to it.
    fn evict_lost(&mut self) {
        for inode in self.inodes.values_mut().filter(|inode| inode.has_lost) {
            inode.evict();
        }
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

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "life {}, {:?}, {} operations", self.life, self.power, self.op_count)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
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

/// An operation between submission and completion.
struct Pending {
    op: DiskOp,
    order: u64,
    /// A sync covers what was completed when it was submitted, and the length that the file had then.
    file_bytes: usize,
    is_slow: bool,
}

/// # Panics
/// If the file belongs to a real disk.
pub(super) fn handle(file: &DiskFile) -> u64 {
    file.simulated_inode().expect("a simulated disk is given its own files only")
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
    use crate::io::{Buffer, Disk, Fill};
    use crate::sim::SimDisk;
    use crate::sim::trial::{BLOCK, disk_with_file, ends, lose_power, read_all, verdict, write_op};

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
}
