//! Notices that the key file has changed, by asking for its inode, length and times a few times a second: that works in
//! every container and on every file system, and costs a microsecond.
//! A change is read once the file has stood still from one look to the next, so that a file that is being written is not
//! taken for one that lost its keys. What is wrong is said once, and the keys that were in force stay.
//!
//! ```text
//! stamp as taken ─► Unchanged
//! new stamp ─► wait for the next look ─► the same again? read ─► other keys ─► Changed
//!                                                            └► wrong, gone ─► Bad, once
//! ```

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use ringlog_engine::ids::Micros;

use crate::auth::secret::{Digest, sha256};
use crate::catalog::keys_file::{self, FileKey, KeysFileError, line};

/// How often to look. A change is in force after two looks: half a second.
pub const LOOK_EVERY_US: u64 = 250_000;

/// A file that was written less than this ago may be written again without its times showing it: kernels stamp files
/// with a clock that ticks every few milliseconds, some file systems every two seconds.
const TIMES_SETTLE_US: i64 = 2_500_000;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
    /// Nanoseconds since the epoch.
    pub modified_at_ns: i128,
    /// Likewise, and nobody can set it.
    pub changed_at_ns: i128,
}

/// Where a watch looks.
pub trait Source {
    /// The file's state, or `None` where no file is.
    fn stamp(&mut self) -> io::Result<Option<Stamp>>;

    /// What stands in it, or `None` where no file is.
    fn read(&mut self) -> Result<Option<Vec<FileKey>>, KeysFileError>;
}

/// The file itself.
pub struct KeysFile {
    path: PathBuf,
}

impl KeysFile {
    pub fn at(path: PathBuf) -> KeysFile {
        KeysFile { path }
    }
}

impl Source for KeysFile {
    fn stamp(&mut self) -> io::Result<Option<Stamp>> {
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Ok(Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_at_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_at_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }))
    }

    fn read(&mut self) -> Result<Option<Vec<FileKey>>, KeysFileError> {
        Ok(keys_file::load(&self.path)?.map(|(keys, _)| keys))
    }
}

/// What a look found.
#[derive(Debug)]
pub enum Seen {
    Unchanged,
    /// These are to be in force from now on.
    Changed(Vec<FileKey>),
    /// Said once for each state of the file. What was in force stays.
    Bad(WatchError),
}

#[derive(Debug)]
pub enum WatchError {
    /// An empty file takes all keys back; a missing one is a mistake.
    Missing,
    Stamp(io::Error),
    Keys(KeysFileError),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchError::Missing => write!(f, "the key file is gone; its keys stay in force until it is back"),
            WatchError::Stamp(error) => write!(f, "the key file cannot be looked at: {error}"),
            WatchError::Keys(error) => write!(f, "the key file was not taken: {error}"),
        }
    }
}

impl std::error::Error for WatchError {}

/// The state of the file as a look found it; errors by their number, which is all that repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    File(Stamp),
    Missing,
    Failed(Option<i32>),
}

/// The state that was read last, or complained of.
#[derive(Debug, Clone, Copy)]
struct Settled {
    state: State,
    at: Micros,
    was_bad: bool,
}

pub struct KeysFileWatch<S> {
    source: S,
    in_force: Digest,
    settled: Option<Settled>,
    /// The state that the last look saw.
    last_seen: Option<State>,
}

impl<S: Source> KeysFileWatch<S> {
    /// `in_force` are the keys that the server runs with, wherever they come from: what the file says else is a change.
    pub fn new(source: S, in_force: &[FileKey]) -> KeysFileWatch<S> {
        KeysFileWatch { source, in_force: digest(in_force), settled: None, last_seen: None }
    }

    /// Another has put these keys in force, such as a reload that the operator asked for.
    pub fn put_in_force(&mut self, keys: &[FileKey]) {
        self.in_force = digest(keys);
        self.settled = None;
    }

    /// Looks once. `now` is wall-clock time, as the file's times are.
    pub fn look(&mut self, now: Micros) -> Seen {
        let (state, error) = match self.source.stamp() {
            Ok(Some(stamp)) => (State::File(stamp), None),
            Ok(None) => (State::Missing, Some(WatchError::Missing)),
            Err(error) => (State::Failed(error.raw_os_error()), Some(WatchError::Stamp(error))),
        };
        if self.is_settled(state) {
            self.last_seen = Some(state);
            return Seen::Unchanged;
        }
        if self.last_seen.replace(state) != Some(state) {
            return Seen::Unchanged;
        }
        let was_said = self.settled.is_some_and(|settled| settled.state == state && settled.was_bad);
        let found = match error {
            Some(error) => Err(error),
            None => self.read(),
        };
        self.settled = Some(Settled { state, at: now, was_bad: found.is_err() });
        match found {
            Ok(seen) => seen,
            Err(_) if was_said => Seen::Unchanged,
            Err(error) => Seen::Bad(error),
        }
    }

    /// Whether nothing can be new about this state.
    fn is_settled(&self, state: State) -> bool {
        let Some(settled) = self.settled else { return false };
        let times_tell = match state {
            State::File(stamp) => {
                let written_us = stamp.modified_at_ns.max(stamp.changed_at_ns) / 1000;
                written_us + i128::from(TIMES_SETTLE_US) <= i128::from(settled.at.0)
            }
            State::Missing | State::Failed(_) => true,
        };
        settled.state == state && times_tell
    }

    fn read(&mut self) -> Result<Seen, WatchError> {
        let keys = self.source.read().map_err(WatchError::Keys)?.ok_or(WatchError::Missing)?;
        let found = digest(&keys);
        if found == self.in_force {
            return Ok(Seen::Unchanged);
        }
        self.in_force = found;
        Ok(Seen::Changed(keys))
    }
}

fn digest(keys: &[FileKey]) -> Digest {
    let lines: Vec<String> = keys.iter().map(line).collect();
    let parts: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
    sha256(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::keys_file::parse;

    const SECOND: i64 = 1_000_000;
    const ONE: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90:1\n";
    const TWO: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90:1\nb2c3d4e5f6071829304a5b6c7d8e9f01:2:staging\n";

    /// A file whose state a test sets. Its clock starts long after the file was written.
    struct Fake {
        text: Option<String>,
        inode: u64,
        written_at: i64,
        fails: Option<i32>,
        reads: usize,
    }

    impl Source for Fake {
        fn stamp(&mut self) -> io::Result<Option<Stamp>> {
            if let Some(code) = self.fails {
                return Err(io::Error::from_raw_os_error(code));
            }
            let written = i128::from(self.written_at) * 1000;
            Ok(self.text.as_ref().map(|text| Stamp {
                device: 1,
                inode: self.inode,
                bytes: text.len() as u64,
                modified_at_ns: written,
                changed_at_ns: written,
            }))
        }

        fn read(&mut self) -> Result<Option<Vec<FileKey>>, KeysFileError> {
            self.reads += 1;
            self.text.as_deref().map(parse).transpose()
        }
    }

    struct Watched {
        watch: KeysFileWatch<Fake>,
        now: i64,
    }

    impl Watched {
        fn with(text: &str) -> Watched {
            let fake = Fake { text: Some(text.to_owned()), inode: 7, written_at: 0, fails: None, reads: 0 };
            Watched { watch: KeysFileWatch::new(fake, &parse(text).unwrap()), now: 100 * SECOND }
        }

        fn write(&mut self, text: &str) {
            self.watch.source.text = Some(text.to_owned());
            self.watch.source.written_at = self.now;
        }

        /// What the next look says: `.`, the number of keys, or the error.
        fn look(&mut self) -> String {
            self.now += LOOK_EVERY_US as i64;
            match self.watch.look(Micros(self.now)) {
                Seen::Unchanged => ".".to_owned(),
                Seen::Changed(keys) => keys.len().to_string(),
                Seen::Bad(error) => error.to_string(),
            }
        }

        fn looks(&mut self, count: usize) -> Vec<String> {
            (0..count).map(|_| self.look()).collect()
        }
    }

    #[test]
    fn a_change_is_taken_within_a_second() {
        let mut watched = Watched::with(ONE);
        assert_eq!(watched.looks(3), [".", ".", "."]);
        watched.write(TWO);
        let looks_in_a_second = (1_000_000 / LOOK_EVERY_US) as usize;
        assert!(watched.looks(looks_in_a_second).contains(&"2".to_owned()));
        assert!(watched.looks(40).iter().all(|seen| seen == "."));
    }

    #[test]
    fn a_file_at_rest_is_not_read_again() {
        let mut watched = Watched::with(ONE);
        watched.looks(1000);
        assert_eq!(watched.watch.source.reads, 1);
        watched.write(TWO);
        watched.looks(1000);
        let settling = TIMES_SETTLE_US as usize / LOOK_EVERY_US as usize;
        assert!(watched.watch.source.reads <= 2 + settling, "{}", watched.watch.source.reads);
    }

    #[test]
    fn a_file_that_is_being_written_is_not_taken() {
        let mut watched = Watched::with(TWO);
        watched.looks(2);
        for length in 0..ONE.len() {
            watched.write(&TWO[..length]);
            assert_eq!(watched.look(), ".");
        }
        watched.write(TWO);
        assert_eq!(watched.looks(20), vec!["."; 20]);
    }

    #[test]
    fn keys_that_changed_while_nobody_looked_are_seen_at_the_first_look() {
        let mut watched = Watched::with(ONE);
        watched.write(TWO);
        assert_eq!(watched.looks(3), [".", "2", "."]);
    }

    #[test]
    fn a_second_write_in_the_same_tick_of_the_files_clock_is_seen() {
        let mut watched = Watched::with(ONE);
        watched.looks(2);
        watched.write(&ONE.replace(":1", ":2"));
        assert_eq!(watched.looks(2), [".", "1"]);
        // The same inode, length and time, and other keys.
        watched.watch.source.text = Some(ONE.replace(":1", ":3"));
        assert_eq!(watched.look(), "1");
        watched.watch.source.text = Some(ONE.replace(":1", "?1"));
        let said = watched.looks(20);
        assert!(said[0].contains("line 1"), "{said:?}");
        assert_eq!(said.iter().filter(|seen| *seen != ".").count(), 1);
    }

    #[test]
    fn another_file_of_the_same_length_and_time_is_seen() {
        let mut watched = Watched::with(ONE);
        watched.looks(2);
        watched.watch.source.text = Some(ONE.replace(":1", ":2"));
        watched.watch.source.inode = 8;
        assert_eq!(watched.looks(3), [".", "1", "."]);
    }

    #[test]
    fn a_bad_line_is_said_once_and_the_old_keys_stay() {
        let mut watched = Watched::with(ONE);
        watched.looks(2);
        watched.write("# first\nnot a key\n");
        let said = watched.looks(40);
        assert!(said[1].contains("line 2"), "{said:?}");
        assert_eq!(said.iter().filter(|seen| *seen != ".").count(), 1);
        watched.write("# first\nstill no key\n");
        assert!(watched.looks(2)[1].contains("line 2"));
        watched.write(ONE);
        assert_eq!(watched.looks(20), vec!["."; 20]);
        watched.write(TWO);
        assert_eq!(watched.looks(2), [".", "2"]);
    }

    #[test]
    fn a_missing_file_is_said_once_and_takes_nothing_back() {
        let mut watched = Watched::with(TWO);
        watched.looks(2);
        watched.watch.source.text = None;
        let said = watched.looks(20);
        assert!(said[1].contains("gone"), "{said:?}");
        assert_eq!(said.iter().filter(|seen| *seen != ".").count(), 1);
        watched.write(TWO);
        assert_eq!(watched.looks(20), vec!["."; 20]);
        watched.write("");
        assert_eq!(watched.looks(2), [".", "0"]);
    }

    #[test]
    fn an_editor_that_renames_is_not_a_missing_file() {
        let mut watched = Watched::with(ONE);
        watched.looks(2);
        watched.watch.source.text = None;
        assert_eq!(watched.look(), ".");
        watched.write(TWO);
        assert_eq!(watched.looks(2), [".", "2"]);
    }

    #[test]
    fn a_file_that_cannot_be_looked_at_is_said_once() {
        let mut watched = Watched::with(ONE);
        watched.looks(2);
        watched.watch.source.fails = Some(13);
        let said = watched.looks(20);
        assert!(said[1].contains("cannot be looked at"), "{said:?}");
        assert_eq!(said.iter().filter(|seen| *seen != ".").count(), 1);
        watched.watch.source.fails = None;
        assert_eq!(watched.looks(20), vec!["."; 20]);
    }

    #[test]
    fn comments_and_spelling_are_no_change() {
        let mut watched = Watched::with(ONE);
        watched.looks(2);
        watched.write(&format!("# a comment\n\n{}", ONE.to_uppercase()));
        assert_eq!(watched.looks(20), vec!["."; 20]);
    }

    #[test]
    fn what_another_put_in_force_is_what_changes_are_from() {
        let mut watched = Watched::with(ONE);
        watched.looks(2);
        watched.write(TWO);
        watched.watch.put_in_force(&parse(TWO).unwrap());
        assert_eq!(watched.looks(20), vec!["."; 20]);
        watched.watch.put_in_force(&parse(ONE).unwrap());
        assert!(watched.looks(2).contains(&"2".to_owned()));
    }

    #[test]
    fn a_file_dated_in_the_future_is_read_at_each_look_and_changes_when_it_does() {
        let mut watched = Watched::with(ONE);
        watched.watch.source.written_at = i64::MAX / 1_000_000;
        watched.now = 0;
        watched.looks(10);
        assert!(8 < watched.watch.source.reads);
        watched.watch.source.text = Some(ONE.replace(":1", ":2"));
        assert_eq!(watched.look(), "1");
    }

    #[test]
    fn a_real_file_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("apikeys.conf");
        let mut file = KeysFile::at(path.clone());
        assert!(file.stamp().unwrap().is_none() && file.read().unwrap().is_none());
        std::fs::write(&path, ONE).unwrap();
        let first = file.stamp().unwrap().unwrap();
        assert_eq!((first.bytes, file.read().unwrap().unwrap().len()), (ONE.len() as u64, 1));
        crate::auth::secret_file::write_private(&path, ONE.as_bytes()).unwrap();
        let second = file.stamp().unwrap().unwrap();
        assert_ne!(first.inode, second.inode);
        std::fs::write(&path, "no key\n").unwrap();
        assert!(matches!(file.read(), Err(KeysFileError::Line { line: 1, .. })));
    }
}
