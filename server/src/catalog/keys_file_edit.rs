//! Changes to the key file: one line is added or taken out, everything else stays as people wrote it.
//! The file is replaced as a whole, so that a reader sees the old keys or the new ones, and never half of them. A file
//! with a wrong line is not touched: what we cannot read we cannot keep.
//!
//! ```text
//! lock FILE.lock ─► read, check ─► one line ─► FILE.new (0600, same owner) ─► sync ─► rename ─► sync directory ─► unlock
//! ```

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::auth::secret::Secret;
use crate::auth::secret_file::{give_to_owner_of, write_private};
use crate::catalog::keys_file::{self, FILE_BYTES_MAX, FileKey, KeysFileError, line, parse};

/// An edit takes milliseconds. A guess: what holds the lock for longer than some hundreds of those stands still.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub enum EditError {
    /// The file is not there, and nothing can be taken out of it.
    Missing,
    /// The file could not be read, or a line of it is wrong. Nothing was changed.
    File(KeysFileError),
    /// The key cannot stand in a file: its name has control characters, is too long, or begins or ends with a space.
    Unwritable,
    /// The workspace has a key of this name already: names are how people take keys out.
    NameTaken,
    /// This key is there already.
    KeyTaken,
    /// With the key the file would be longer than a start reads.
    Full,
    /// No line has this name or key.
    NotFound,
    /// This many lines have this name.
    Ambiguous(usize),
    /// The file could not be replaced. The old one stays, unless the last step, which makes the new one durable, failed.
    Write(io::Error),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EditError::Missing => write!(f, "there is no key file"),
            EditError::File(error) => write!(f, "the key file was not changed: {error}"),
            EditError::Unwritable => {
                write!(f, "a name has at most 100 characters, none of them a control character, and no outer spaces")
            }
            EditError::NameTaken => write!(f, "the workspace has a key of this name already"),
            EditError::KeyTaken => write!(f, "this key is there already"),
            EditError::Full => {
                write!(
                    f,
                    "with the key the file would be longer than {FILE_BYTES_MAX} bytes: take out keys or comments"
                )
            }
            EditError::NotFound => write!(f, "there is no such key"),
            EditError::Ambiguous(count) => write!(f, "{count} keys have this name: name the key itself"),
            EditError::Write(error) => write!(f, "the key file could not be written: {error}"),
        }
    }
}

impl std::error::Error for EditError {}

/// Which line is meant.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    Name(&'a str),
    Key(&'a Secret),
}

impl Which<'_> {
    fn is(self, key: &FileKey) -> bool {
        match self {
            Which::Name(name) => key.name == name,
            Which::Key(secret) => key.secret.digest() == secret.digest(),
        }
    }
}

/// The keys in the file in their order; none where no file is.
pub fn list(path: &Path) -> Result<Vec<FileKey>, EditError> {
    let loaded = keys_file::load(path).map_err(EditError::File)?;
    Ok(loaded.map(|(keys, _)| keys).unwrap_or_default())
}

/// Puts a key at the end of the file, which is made if it is not there. Durable when it returns.
pub fn add(path: &Path, key: &FileKey) -> Result<(), EditError> {
    edit(path, |text| with_line(text.unwrap_or_default(), key).map(|text| (text, ())))
}

/// Takes a key out of the file, and gives it. Durable when it returns.
pub fn delete(path: &Path, which: Which<'_>) -> Result<FileKey, EditError> {
    edit(path, |text| without_line(text.ok_or(EditError::Missing)?, which))
}

fn with_line(text: &str, key: &FileKey) -> Result<String, EditError> {
    let keys = parse(text).map_err(EditError::File)?;
    if keys.iter().any(|known| Which::Key(&key.secret).is(known)) {
        return Err(EditError::KeyTaken);
    }
    let has_name = |known: &FileKey| known.tenant == key.tenant && Which::Name(&key.name).is(known);
    if !key.name.is_empty() && keys.iter().any(has_name) {
        return Err(EditError::NameTaken);
    }
    let added = line(key);
    // Whatever the name holds, it must not become another line, or another name.
    match parse(&added) {
        Ok(read) if read == [key.clone()] => {}
        Ok(_) | Err(_) => return Err(EditError::Unwritable),
    }
    let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{text}{separator}{added}"))
}

fn without_line(text: &str, which: Which<'_>) -> Result<(String, FileKey), EditError> {
    let keys = parse(text).map_err(EditError::File)?;
    let mut meant = keys.into_iter().filter(|key| which.is(key));
    let Some(key) = meant.next() else { return Err(EditError::NotFound) };
    match meant.count() {
        0 => {}
        more => return Err(EditError::Ambiguous(1 + more)),
    }
    // The whole text was read, so each line of it reads alone.
    let is_it = |line: &str| parse(line).is_ok_and(|keys| keys.first() == Some(&key));
    Ok((text.split_inclusive('\n').filter(|line| !is_it(line)).collect(), key))
}

/// Reads, changes and replaces the file, alone.
fn edit<T>(path: &Path, change: impl FnOnce(Option<&str>) -> Result<(String, T), EditError>) -> Result<T, EditError> {
    // A link stays one: what it points at is the file.
    let path = match path.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(EditError::Write(error)),
    };
    let _lock = lock(&path).map_err(EditError::Write)?;
    // Its limits on length and its words for errors; the text itself comes after.
    keys_file::load(&path).map_err(EditError::File)?;
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(EditError::File(KeysFileError::Io(error))),
    };
    let (text, changed) = change(text.as_deref())?;
    // What is written is read at the next start.
    if FILE_BYTES_MAX < text.len() as u64 {
        return Err(EditError::Full);
    }
    write_private(&path, text.as_bytes()).map_err(EditError::Write)?;
    Ok(changed)
}

/// Waits until no other holds it, within a bound: the control plane waits here, too. The lock is on a file beside, which stays: the key file itself is another after each
/// change, and a lock file that goes would let two in.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(beside(path, ".lock"))?;
    give_to_owner_of(path, &file)?;
    let until = Instant::now() + LOCK_WITHIN;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(LOCK_RETRY),
            Err(Errno::WOULDBLOCK) => return Err(io::Error::new(io::ErrorKind::TimedOut, "another keeps it locked")),
            Err(error) => return Err(error.into()),
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use ringlog_engine::ids::Tenant;

    use super::*;

    const WRITTEN: &str = concat!(
        "# Production workspace\n",
        "a1b2c3d4e5f60718293a4b5c6d7e8f90:1\n",
        "\n",
        "   # Staging workspace, with odd spacing\n",
        "  B2C3D4E5F6071829304A5B6C7D8E9F01 : 2 : staging \r\n",
        "c3d4e5f60718293a4b5c6d7e8f901234:3:web: app",
    );

    fn key(digit: char, tenant: u32, name: &str) -> FileKey {
        FileKey { secret: Secret::new(digit.to_string().repeat(32)), tenant: Tenant(tenant), name: name.to_owned() }
    }

    struct Home {
        directory: tempfile::TempDir,
    }

    impl Home {
        fn with(contents: &str) -> Home {
            let home = Home { directory: tempfile::tempdir().unwrap() };
            std::fs::write(home.path(), contents).unwrap();
            home
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("apikeys.conf")
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.path()).unwrap()
        }
    }

    #[test]
    fn an_added_key_is_the_last_line_and_the_rest_is_untouched() {
        let home = Home::with(WRITTEN);
        add(&home.path(), &key('d', 4, "mobile-prod")).unwrap();
        assert_eq!(home.text(), format!("{WRITTEN}\n{}:4:mobile-prod\n", "d".repeat(32)));
        add(&home.path(), &key('e', 4, "")).unwrap();
        assert_eq!(home.text(), format!("{WRITTEN}\n{}:4:mobile-prod\n{}:4:\n", "d".repeat(32), "e".repeat(32)));
        let names: Vec<String> = list(&home.path()).unwrap().into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["", "staging", "web: app", "mobile-prod", ""]);
    }

    #[test]
    fn a_deleted_key_is_gone_and_the_rest_is_untouched() {
        let home = Home::with(WRITTEN);
        let staging = delete(&home.path(), Which::Name("staging")).unwrap();
        assert_eq!(staging.secret.expose(), "b2c3d4e5f6071829304a5b6c7d8e9f01");
        let line = "  B2C3D4E5F6071829304A5B6C7D8E9F01 : 2 : staging \r\n";
        assert_eq!(home.text(), WRITTEN.replace(line, ""));
        let upper = Secret::new("A1B2C3D4E5F60718293A4B5C6D7E8F90");
        delete(&home.path(), Which::Key(&upper)).unwrap();
        delete(&home.path(), Which::Name("web: app")).unwrap();
        assert_eq!(home.text(), "# Production workspace\n\n   # Staging workspace, with odd spacing\n");
        assert!(matches!(delete(&home.path(), Which::Name("staging")), Err(EditError::NotFound)));
    }

    #[test]
    fn the_file_is_made_when_the_first_key_is_added() {
        let home = Home { directory: tempfile::tempdir().unwrap() };
        assert!(list(&home.path()).unwrap().is_empty());
        assert!(matches!(delete(&home.path(), Which::Name("x")), Err(EditError::Missing)));
        add(&home.path(), &key('d', 1, "first")).unwrap();
        assert_eq!(list(&home.path()).unwrap(), [key('d', 1, "first")]);
    }

    #[test]
    fn a_file_with_a_wrong_line_is_named_and_not_touched() {
        let wrong = format!("{WRITTEN}\nnot a key\n");
        let home = Home::with(&wrong);
        let is_line_7 = |error: &EditError| matches!(error, EditError::File(KeysFileError::Line { line: 7, .. }));
        assert!(is_line_7(&add(&home.path(), &key('d', 1, "x")).unwrap_err()));
        assert!(is_line_7(&delete(&home.path(), Which::Name("staging")).unwrap_err()));
        assert!(is_line_7(&list(&home.path()).unwrap_err()));
        assert_eq!(home.text(), wrong);
        std::fs::write(home.path(), b"\xff\n").unwrap();
        let not_text = add(&home.path(), &key('d', 1, "x"));
        assert!(matches!(not_text, Err(EditError::File(KeysFileError::NotText))));
    }

    #[test]
    fn names_and_keys_that_are_taken_are_refused() {
        let home = Home::with(WRITTEN);
        assert!(matches!(add(&home.path(), &key('d', 2, "staging")), Err(EditError::NameTaken)));
        let known = FileKey { secret: Secret::new("A1B2C3D4E5F60718293A4B5C6D7E8F90"), ..key('d', 9, "new") };
        assert!(matches!(add(&home.path(), &known), Err(EditError::KeyTaken)));
        assert_eq!(home.text(), WRITTEN);
        // What another workspace calls its keys is no business of this one's.
        add(&home.path(), &key('d', 9, "staging")).unwrap();
    }

    #[test]
    fn no_name_becomes_a_line_or_another_name() {
        let home = Home::with(WRITTEN);
        let injected = format!("x\n{}:1:y", "e".repeat(32));
        for name in [injected.as_str(), "x\r", "\n", " x", "x ", "a\u{0}b", "\u{85}", &"n".repeat(101)] {
            let refused = add(&home.path(), &key('d', 1, name));
            assert!(matches!(refused, Err(EditError::Unwritable)), "{name:?}");
        }
        let short = FileKey { secret: Secret::new("abc"), ..key('d', 1, "x") };
        assert!(matches!(add(&home.path(), &short), Err(EditError::Unwritable)));
        assert!(matches!(add(&home.path(), &key('d', 0, "x")), Err(EditError::Unwritable)));
        assert_eq!(home.text(), WRITTEN);
        for name in ["# not a comment", "a:b:c", "ä", &"n".repeat(100)] {
            add(&home.path(), &FileKey { secret: Secret::random_streaming_key(), ..key('d', 1, name) }).unwrap();
            delete(&home.path(), Which::Name(name)).unwrap();
        }
    }

    #[test]
    fn a_name_that_two_lines_have_takes_out_neither() {
        let home = Home::with(&format!("{}:1:twin\n{}:1:twin\n", "d".repeat(32), "e".repeat(32)));
        assert!(matches!(delete(&home.path(), Which::Name("twin")), Err(EditError::Ambiguous(2))));
        delete(&home.path(), Which::Key(&key('d', 1, "").secret)).unwrap();
        assert_eq!(home.text(), format!("{}:1:twin\n", "e".repeat(32)));
    }

    #[test]
    fn a_line_that_makes_the_file_too_long_to_be_read_is_not_written() {
        let (fits, more) = (key('d', 1, "fits"), key('e', 1, "more"));
        let comment = "#".repeat(FILE_BYTES_MAX as usize - line(&fits).len() - 1);
        let home = Home::with(&format!("{comment}\n"));
        add(&home.path(), &fits).unwrap();
        let full = home.text();
        assert_eq!(full.len() as u64, FILE_BYTES_MAX);
        assert!(matches!(add(&home.path(), &more), Err(EditError::Full)));
        assert!(home.text() == full, "nothing was changed");
        assert_eq!(list(&home.path()).unwrap(), [fits]);
        delete(&home.path(), Which::Name("fits")).unwrap();
        add(&home.path(), &more).unwrap();
    }

    #[test]
    fn the_file_is_private_and_nothing_is_left_beside_it_but_the_lock() {
        let home = Home::with(WRITTEN);
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(beside(&home.path(), ".new"), "left by a crash").unwrap();
        add(&home.path(), &key('d', 1, "x")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&home.path()), mode(&beside(&home.path(), ".lock"))), (0o600, 0o600));
        let mut names: Vec<_> =
            std::fs::read_dir(home.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["apikeys.conf", "apikeys.conf.lock"]);
    }

    /// Only root may give files away, so that elsewhere this shows less.
    #[test]
    fn the_file_keeps_its_owner() {
        let home = Home::with(WRITTEN);
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(home.path(), Some(12_345), Some(54_321)).unwrap();
        }
        let owner = |path: &Path| std::fs::metadata(path).map(|found| (found.uid(), found.gid())).unwrap();
        let before = owner(&home.path());
        add(&home.path(), &key('d', 1, "x")).unwrap();
        assert_eq!((owner(&home.path()), owner(&beside(&home.path(), ".lock"))), (before, before));
    }

    #[test]
    fn a_link_stays_a_link() {
        let home = Home::with(WRITTEN);
        let link = home.directory.path().join("link");
        std::os::unix::fs::symlink("apikeys.conf", &link).unwrap();
        add(&link, &key('d', 1, "x")).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(list(&home.path()).unwrap().len(), 4);
    }

    #[test]
    fn of_many_writers_none_loses_what_another_wrote() {
        let home = Home::with("# shared\n");
        let path = home.path();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for number in 0..8 {
                        let name = format!("{writer}-{number}");
                        let key = FileKey { secret: Secret::random_streaming_key(), ..key('d', 1, &name) };
                        add(path, &key).unwrap();
                        if number % 2 == 0 {
                            delete(path, Which::Name(&name)).unwrap();
                        }
                    }
                });
            }
        });
        let mut names: Vec<String> = list(&path).unwrap().into_iter().map(|key| key.name).collect();
        names.sort();
        let kept = |writer| [1, 3, 5, 7].map(|number| format!("{writer}-{number}"));
        assert_eq!(names, (0..4).flat_map(kept).collect::<Vec<_>>());
        assert!(home.text().starts_with("# shared\n"));
    }
}
