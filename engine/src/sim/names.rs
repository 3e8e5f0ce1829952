//! The names of a simulated disk: what is seen, what the medium holds, and the changes in between.
//!
//! Owns both images of every folder, and what a power cut leaves of the changes.
//! Must never: lose half of a rename, give a file two names or a name two files, or know what is in a file.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::Fate;
use super::rng::Rng;
use crate::io::{DiskError, DiskResult};

/// Names: what is seen, what the medium holds, and the changes that make the difference, in order.
///
/// A rename is atomic, also between folders, and belongs to the folder of its target, as on a journaling file system.
/// Invariant: both images are what some of the changes leave that were asked for, done in order, none without
/// the earlier ones that touch the same name or file. So a file never has two names, nor a name two files.
#[derive(Default)]
pub(super) struct Names {
    pub(super) current: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pub(super) unsynced: Vec<UnsyncedName>,
}

impl Names {
    pub(super) fn require_folder(&self, path: &str) -> DiskResult<()> {
        match self.current.get(path) {
            _ if path.is_empty() => Ok(()),
            Some(Node::Folder) => Ok(()),
            Some(Node::File(_)) => Err(DiskError::Io(libc::ENOTDIR)),
            None => Err(DiskError::NotFound),
        }
    }

    pub(super) fn require_parent(&self, path: &str) -> DiskResult<()> {
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")), "path {path:?}");
        self.require_folder(parent(path))
    }

    pub(super) fn file(&self, path: &str) -> DiskResult<u64> {
        match self.current.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Folder) => Err(DiskError::Io(libc::EISDIR)),
            None => Err(DiskError::NotFound),
        }
    }

    pub(super) fn list(&self, dir: &str) -> DiskResult<Vec<String>> {
        self.require_folder(dir)?;
        let children = self.current.keys().filter(|path| parent(path) == dir);
        let mut names: Vec<String> = children.map(|path| name(path).to_string()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The files of a folder that the medium knows.
    pub(super) fn durable_files(&self, dir: &str) -> impl Iterator<Item = (&str, u64)> {
        let of_folder = self.durable.iter().filter(move |(path, _)| parent(path) == dir);
        of_folder.filter_map(|(path, node)| Some((path.as_str(), node.inode()?)))
    }

    pub(super) fn sync(&mut self, dir: &str) {
        let mut kept: Vec<bool> = self.unsynced.iter().map(|name| name.change.folder() == dir).collect();
        for later in (0..kept.len()).rev() {
            for earlier in 0..later {
                kept[earlier] |= kept[later] && self.unsynced[earlier].change.meets(&self.unsynced[later].change);
            }
        }
        self.settle(&kept);
    }

    /// Returns how many changes were kept.
    pub(super) fn cut_power(&mut self, fate: Fate, rng: &mut Rng) -> usize {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File(u64),
}

impl Node {
    pub(super) fn inode(self) -> Option<u64> {
        match self {
            Node::File(inode) => Some(inode),
            Node::Folder => None,
        }
    }
}

pub(super) struct UnsyncedName {
    pub(super) order: u64,
    pub(super) change: NameChange,
}

pub(super) enum NameChange {
    Add { path: String, node: Node },
    Move { from: String, to: String, inode: u64, replaced: Option<u64> },
    Remove { path: String, inode: u64 },
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<String, Node>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Disk, Fill};
    use crate::sim::SimDisk;
    use crate::sim::trial::{SITE, disk_with_file, ends, lose_power, read_all};

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
}
