//! The file that holds the signing secrets: readable by its owner alone, made once, complete or not there at all.
//! Never shown, never logged, never guessed around: a file that could be another's work is refused.
//!
//! ```text
//! k2 0Uj…     the first line signs
//! k1 9sC…     the others only verify; a line without a name is k1
//! ```

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::OFlags;

use crate::auth::jwt::SIGNING_KEYS_MAX;
use crate::auth::secret::{Secret, random};

/// The name of the first secret, and of one that has none in the file.
pub const FIRST_KID: &str = "k1";
const KID_PREFIX: &str = "k";

/// HS256 takes its strength from the secret: as many bytes as its digest has.
const SECRET_BYTES_MIN: usize = 32;
const SECRET_BYTES_MAX: usize = 4096;
/// Of all lines, with their names.
const FILE_BYTES_MAX: usize = SIGNING_KEYS_MAX * (SECRET_BYTES_MAX + 32);
const OTHERS: u32 = 0o077;

/// What the examples of the systems in the seeds, and of half the world, ship with.
const KNOWN_DEFAULTS: [&str; 7] =
    ["change_me", "change-me", "changeme", "default-secret", "default_secret", "your-secret", "your_secret"];

#[derive(Debug)]
pub enum SecretFileError {
    Missing(PathBuf),
    TooShort {
        path: PathBuf,
        bytes: usize,
    },
    TooLong(PathBuf),
    NotAFile(PathBuf),
    Readable {
        path: PathBuf,
        mode: u32,
    },
    Owner {
        path: PathBuf,
        uid: u32,
    },
    KnownDefault(PathBuf),
    NotText(PathBuf),
    /// A line's name is not `k` and a number, or stands there twice.
    Name(PathBuf),
    /// As many secrets as there can be, or more.
    Full(PathBuf),
    Io {
        path: PathBuf,
        error: io::Error,
    },
}

impl fmt::Display for SecretFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretFileError::Missing(path) => write!(
                f,
                "{}: the signing secret is not there, and keys were signed with it: restore the file",
                path.display()
            ),
            SecretFileError::TooShort { path, bytes } => {
                write!(f, "{}: {bytes} bytes are too short, at least {SECRET_BYTES_MIN} are needed", path.display())
            }
            SecretFileError::TooLong(path) => {
                write!(f, "{}: longer than {SECRET_BYTES_MAX} bytes", path.display())
            }
            SecretFileError::NotAFile(path) => write!(f, "{}: not a regular file", path.display()),
            SecretFileError::Readable { path, mode } => write!(
                f,
                "{0}: mode {mode:04o} lets others read the secret: chmod 600 '{0}', and replace it if they may have",
                path.display()
            ),
            SecretFileError::Owner { path, uid } => {
                write!(f, "{}: belongs to user {uid}, who could replace it", path.display())
            }
            SecretFileError::KnownDefault(path) => {
                write!(f, "{}: this is an example's secret, which everybody knows", path.display())
            }
            SecretFileError::Name(path) => {
                write!(f, "{}: a line is a name such as k2, a space, and a secret, each name once", path.display())
            }
            SecretFileError::Full(path) => write!(
                f,
                "{}: at most {SIGNING_KEYS_MAX} secrets: retire those whose keys are no longer used first",
                path.display()
            ),
            SecretFileError::NotText(path) => write!(f, "{}: not a line of visible ASCII", path.display()),
            SecretFileError::Io { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for SecretFileError {}

/// A secret and what tokens call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSecret {
    pub kid: String,
    pub secret: Secret,
}

/// Reads the secrets, at least one, the one that signs first; or `None` where no file is.
pub fn load(path: &Path) -> Result<Option<Vec<NamedSecret>>, SecretFileError> {
    read_private(path)?.map(|bytes| read_lines(path, &bytes)).transpose()
}

/// Reads a file that holds one secret of any length and nothing else; or `None` where no file is.
pub fn load_one(path: &Path) -> Result<Option<Secret>, SecretFileError> {
    let Some(bytes) = read_private(path)? else { return Ok(None) };
    match std::str::from_utf8(bytes.trim_ascii()) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(Secret::new(text))),
        _ => Err(SecretFileError::NotText(path.into())),
    }
}

/// What a file holds that nobody else can read or replace.
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, SecretFileError> {
    let io_error = |error| SecretFileError::Io { path: path.into(), error };
    // A link could point at something that others write.
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags as i32).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(SecretFileError::NotAFile(path.into()));
        }
        Err(error) => return Err(io_error(error)),
    };
    let metadata = file.metadata().map_err(io_error)?;
    if !metadata.is_file() {
        return Err(SecretFileError::NotAFile(path.into()));
    }
    if metadata.mode() & OTHERS != 0 {
        return Err(SecretFileError::Readable { path: path.into(), mode: metadata.mode() & 0o7777 });
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own && metadata.uid() != 0 {
        return Err(SecretFileError::Owner { path: path.into(), uid: metadata.uid() });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(io_error)?;
    if FILE_BYTES_MAX < bytes.len() {
        return Err(SecretFileError::TooLong(path.into()));
    }
    Ok(Some(bytes))
}

/// Makes a file with a new secret in it. It must not be there yet.
pub fn create(path: &Path) -> Result<NamedSecret, SecretFileError> {
    let secret = NamedSecret { kid: FIRST_KID.to_owned(), secret: new_secret() };
    write(path, std::slice::from_ref(&secret))?;
    Ok(secret)
}

/// What becomes of the secrets that were there before a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// Keys that they signed go on.
    Verify,
    /// Keys that they signed end.
    Retire,
}

/// Puts a new secret before those that are there, and gives back what the file holds now.
pub fn rotate(path: &Path, old: Old) -> Result<Vec<NamedSecret>, SecretFileError> {
    let mut secrets = load(path)?.ok_or_else(|| SecretFileError::Missing(path.into()))?;
    let newest = secrets.iter().filter_map(|named| number(&named.kid)).max().unwrap_or(0);
    if old == Old::Retire {
        secrets.clear();
    }
    if SIGNING_KEYS_MAX <= secrets.len() {
        return Err(SecretFileError::Full(path.into()));
    }
    secrets.insert(0, NamedSecret { kid: format!("{KID_PREFIX}{}", newest + 1), secret: new_secret() });
    write(path, &secrets)?;
    Ok(secrets)
}

/// Takes every secret out but the one that signs, and gives back the names of those that went.
pub fn retire(path: &Path) -> Result<Vec<String>, SecretFileError> {
    let mut secrets = load(path)?.ok_or_else(|| SecretFileError::Missing(path.into()))?;
    let gone = secrets.split_off(1);
    write(path, &secrets)?;
    Ok(gone.into_iter().map(|named| named.kid).collect())
}

fn new_secret() -> Secret {
    Secret::new(URL_SAFE_NO_PAD.encode(random::<32>()))
}

fn write(path: &Path, secrets: &[NamedSecret]) -> Result<(), SecretFileError> {
    let line = |named: &NamedSecret| format!("{} {}\n", named.kid, named.secret.expose());
    let text: String = secrets.iter().map(line).collect();
    write_private(path, text.as_bytes()).map_err(|error| SecretFileError::Io { path: path.into(), error })
}

fn read_lines(path: &Path, bytes: &[u8]) -> Result<Vec<NamedSecret>, SecretFileError> {
    let mut secrets: Vec<NamedSecret> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        let (kid, secret) = match line.iter().position(|byte| *byte == b' ') {
            Some(end) => (std::str::from_utf8(&line[..end]).unwrap_or_default(), line[end..].trim_ascii()),
            None => (FIRST_KID, line),
        };
        if number(kid).is_none() || secrets.iter().any(|known| known.kid == kid) {
            return Err(SecretFileError::Name(path.into()));
        }
        secrets.push(NamedSecret { kid: kid.to_owned(), secret: check(path, secret)? });
    }
    match secrets.len() {
        0 => Err(SecretFileError::TooShort { path: path.into(), bytes: 0 }),
        count if SIGNING_KEYS_MAX < count => Err(SecretFileError::Full(path.into())),
        _ => Ok(secrets),
    }
}

/// Of a name such as `k2`, in its one spelling.
fn number(kid: &str) -> Option<u32> {
    let digits = kid.strip_prefix(KID_PREFIX)?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    if is_plain { digits.parse().ok() } else { None }
}

/// Puts a file of mode 0600 in place: written aside, synced, renamed, its directory synced. The old file's owner keeps it:
/// whoever runs this may be another, and the server must be able to read it from the first moment.
pub fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    // What a crash left behind here is nobody's.
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    give_to_owner_of(path, &file)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// Whoever owns `path` owns what is made beside it; where it is not there yet, whoever makes it.
pub fn give_to_owner_of(path: &Path, file: &File) -> io::Result<()> {
    let made = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(old) if (old.uid(), old.gid()) != (made.uid(), made.gid()) => fchown(file, Some(old.uid()), Some(old.gid())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn check(path: &Path, bytes: &[u8]) -> Result<Secret, SecretFileError> {
    if SECRET_BYTES_MAX < bytes.len() {
        return Err(SecretFileError::TooLong(path.into()));
    }
    if bytes.len() < SECRET_BYTES_MIN {
        return Err(SecretFileError::TooShort { path: path.into(), bytes: bytes.len() });
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => text,
        _ => return Err(SecretFileError::NotText(path.into())),
    };
    let lower = text.to_ascii_lowercase();
    let is_one_character = text.bytes().all(|byte| byte == bytes[0]);
    if is_one_character || KNOWN_DEFAULTS.iter().any(|known| lower.contains(known)) {
        return Err(SecretFileError::KnownDefault(path.into()));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn written(contents: &str, mode: u32) -> Result<Option<Secret>, SecretFileError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jwt-secret");
        std::fs::write(&path, contents).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        load(&path).map(|found| found.map(|mut secrets| secrets.remove(0).secret))
    }

    #[test]
    fn a_made_secret_is_private_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jwt-secret");
        assert!(load(&path).unwrap().is_none());
        std::fs::write(directory.path().join("jwt-secret.new"), "left by a crash").unwrap();
        let made = create(&path).unwrap();
        assert_eq!(load(&path).unwrap(), Some(vec![made.clone()]));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_ne!(create(&path).unwrap(), made);
    }

    #[test]
    fn weak_or_open_secrets_are_refused() {
        let good = "0123456789abcdef0123456789abcdef";
        assert_eq!(written(&format!("{good}\n"), 0o600).unwrap().unwrap().expose(), good);
        assert!(matches!(written(good, 0o400), Ok(Some(_))));
        for mode in [0o640, 0o604, 0o644, 0o620, 0o601, 0o660] {
            assert!(matches!(written(good, mode), Err(SecretFileError::Readable { .. })), "{mode:o}");
        }
        assert!(matches!(written(&good[1..], 0o600), Err(SecretFileError::TooShort { bytes: 31, .. })));
        assert!(matches!(written("", 0o600), Err(SecretFileError::TooShort { bytes: 0, .. })));
        assert!(matches!(written(&"x1".repeat(2049), 0o600), Err(SecretFileError::TooLong(_))));
        assert!(matches!(written(&format!("k1 {good} {good}"), 0o600), Err(SecretFileError::NotText(_))));
        for name in ["k", "k0", "k01", "1", "k1x", "K1", "k4294967296"] {
            assert!(matches!(written(&format!("{name} {good}"), 0o600), Err(SecretFileError::Name(_))), "{name}");
        }
        assert!(matches!(written(&format!("{good}\nk1 {good}"), 0o600), Err(SecretFileError::Name(_))));
        for known in ["default-secret-change-in-production", "CHANGE_ME_IN_PRODUCTION_0123456789", &"0".repeat(64)] {
            let refused = written(known, 0o600);
            assert!(matches!(refused, Err(SecretFileError::KnownDefault(_))), "{known}");
        }
    }

    #[test]
    fn a_rotation_keeps_the_old_secrets_until_they_are_retired() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("jwt-secret");
        assert!(matches!(rotate(&path, Old::Verify), Err(SecretFileError::Missing(_))));
        // As the first version wrote it.
        let first = "0123456789abcdef0123456789abcdef";
        write_private(&path, format!("{first}\n").as_bytes()).unwrap();
        let kids = |secrets: &[NamedSecret]| secrets.iter().map(|named| named.kid.clone()).collect::<Vec<_>>();
        for number in 2..=SIGNING_KEYS_MAX {
            let now = rotate(&path, Old::Verify).unwrap();
            assert_eq!((now.len(), now[0].kid.clone()), (number, format!("k{number}")));
            assert_eq!(load(&path).unwrap().unwrap(), now);
            assert_eq!(now.last().unwrap().secret.expose(), first);
        }
        let full = load(&path).unwrap().unwrap();
        assert!(matches!(rotate(&path, Old::Verify), Err(SecretFileError::Full(_))));
        assert_eq!(load(&path).unwrap().unwrap(), full);
        assert_eq!(retire(&path).unwrap(), ["k3", "k2", "k1"]);
        assert_eq!(load(&path).unwrap().unwrap(), full[..1]);
        // A name is not used again.
        assert_eq!(kids(&rotate(&path, Old::Retire).unwrap()), ["k5"]);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn links_and_directories_are_not_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        create(&target).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(load(&link), Err(SecretFileError::NotAFile(_))));
        assert!(matches!(load(directory.path()), Err(SecretFileError::NotAFile(_))));
    }

    #[test]
    fn an_error_does_not_show_the_secret() {
        let error = written("default-secret-change-in-production", 0o600).unwrap_err();
        assert!(!error.to_string().contains("change-in"), "{error}");
    }
}
