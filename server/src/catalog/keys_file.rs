//! The key file: one streaming key a line, `HEX:WORKSPACE[:NAME]`, with blank lines and `#` comments.
//! People and tools edit it, so one wrong line refuses the whole file: half a set of keys is worse than the old set.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ringlog_engine::ids::Tenant;

use crate::auth::secret::{Secret, canonical, from_hex};

/// Some 300,000 keys.
pub(super) const FILE_BYTES_MAX: u64 = 16 << 20;
const NAME_CHARS_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileKey {
    pub secret: Secret,
    pub tenant: Tenant,
    pub name: String,
}

#[derive(Debug)]
pub enum KeysFileError {
    Io(io::Error),
    TooLong,
    NotText,
    /// Lines count from 1.
    Line {
        line: usize,
        what: LineError,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineError {
    NoWorkspace,
    Key,
    Workspace,
    Name,
    Duplicate,
}

impl fmt::Display for KeysFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeysFileError::Io(error) => write!(f, "{error}"),
            KeysFileError::TooLong => write!(f, "longer than {FILE_BYTES_MAX} bytes"),
            KeysFileError::NotText => write!(f, "not UTF-8"),
            KeysFileError::Line { line, what } => {
                let what = match what {
                    LineError::NoWorkspace => "it has no workspace; a line is HEX:WORKSPACE[:NAME]",
                    LineError::Key => "its key is not 32 hex digits",
                    LineError::Workspace => "its workspace is not a number from 1",
                    LineError::Name => "its name is longer than 100 characters, or has control characters",
                    LineError::Duplicate => "its key stands in an earlier line too",
                };
                write!(f, "line {line}: {what}")
            }
        }
    }
}

impl std::error::Error for KeysFileError {}

/// The keys in the file, and whether others than its owner may read it; or `None` where no file is.
pub fn load(path: &Path) -> Result<Option<(Vec<FileKey>, bool)>, KeysFileError> {
    let Some((text, is_open_to_others)) = read(path)? else { return Ok(None) };
    Ok(Some((parse(&text)?, is_open_to_others)))
}

/// Where a key stands in the file, counted from 1, if the file still has it: for whoever is told that something is wrong with it.
pub fn line_of(path: &Path, key: &FileKey) -> Option<usize> {
    let (text, _) = read(path).ok()??;
    let is_it = |line: &str| parse_line(line).is_ok_and(|found| found.secret.digest() == key.secret.digest());
    lines(&text).find(|(_, line)| is_it(line)).map(|(number, _)| number)
}

fn read(path: &Path) -> Result<Option<(String, bool)>, KeysFileError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(KeysFileError::Io(error)),
    };
    let is_open_to_others = file.metadata().map_err(KeysFileError::Io)?.mode() & 0o077 != 0;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(KeysFileError::Io)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err(KeysFileError::TooLong);
    }
    let text = String::from_utf8(bytes).map_err(|_| KeysFileError::NotText)?;
    Ok(Some((text, is_open_to_others)))
}

/// Those that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

pub fn parse(text: &str) -> Result<Vec<FileKey>, KeysFileError> {
    let mut keys: Vec<FileKey> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (number, line) in lines(text) {
        let wrong = |what| KeysFileError::Line { line: number, what };
        let key = parse_line(line).map_err(wrong)?;
        if !seen.insert(key.secret.digest()) {
            return Err(wrong(LineError::Duplicate));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// The line that [`parse`] reads back.
pub fn line(key: &FileKey) -> String {
    format!("{}:{}:{}\n", key.secret.expose(), key.tenant.0, key.name)
}

fn parse_line(line: &str) -> Result<FileKey, LineError> {
    let mut fields = line.splitn(3, ':').map(str::trim);
    let key = fields.next().ok_or(LineError::Key)?;
    let lower = String::from_utf8(canonical(key.as_bytes()).into_owned()).map_err(|_| LineError::Key)?;
    from_hex::<16>(&lower).ok_or(LineError::Key)?;
    let tenant = match fields.next().ok_or(LineError::NoWorkspace)?.parse() {
        Ok(number) if number != 0 => Tenant(number),
        _ => return Err(LineError::Workspace),
    };
    let name = fields.next().unwrap_or("");
    if NAME_CHARS_MAX < name.chars().count() || name.chars().any(char::is_control) {
        return Err(LineError::Name);
    }
    Ok(FileKey { secret: Secret::new(lower), tenant, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn lines_are_read_as_the_second_seed_writes_them() {
        let upper = "FF0102030405060708090A0B0C0D0E0F";
        let text = format!("# keys\n\n  {KEY}:1:web app: main \n{upper}:7\r\n");
        let keys = parse(&text).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!((keys[0].secret.expose(), keys[0].tenant, keys[0].name.as_str()), (KEY, Tenant(1), "web app: main"));
        assert_eq!((keys[1].secret.expose(), keys[1].tenant), (upper.to_lowercase().as_str(), Tenant(7)));
        assert_eq!(parse(&line(&keys[0])).unwrap(), keys[..1]);
    }

    #[test]
    fn one_wrong_line_refuses_the_file_and_is_named() {
        for (line, what) in [
            (KEY.to_owned(), LineError::NoWorkspace),
            (format!("{}:1", &KEY[1..]), LineError::Key),
            (format!("{}g:1", &KEY[1..]), LineError::Key),
            (format!("{KEY}:"), LineError::Workspace),
            (format!("{KEY}:0"), LineError::Workspace),
            (format!("{KEY}:-1"), LineError::Workspace),
            (format!("{KEY}:4294967296"), LineError::Workspace),
            (format!("{KEY}:1:{}", "n".repeat(101)), LineError::Name),
            (format!("{KEY}:1:a\u{7}b"), LineError::Name),
            (format!("{KEY}:1\n{}:2", KEY.to_uppercase()), LineError::Duplicate),
        ] {
            let text = format!("# first\n{line}\n");
            match parse(&text) {
                Err(KeysFileError::Line { line, what: found }) => {
                    assert_eq!((line, found), (if what == LineError::Duplicate { 3 } else { 2 }, what), "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_error_does_not_show_the_key() {
        let error = parse(&format!("{KEY}:x")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("0001"), "{error}");
    }
}
