//! What the person at the terminal is asked: secrets without an echo, and whether they are sure.
//! Must never: take a secret from the command line, where every process of the machine can read it.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::auth::secret::Secret;
use crate::auth::secret_file::read_private;
use crate::client::failure::Failure;
use crate::exit::Exit;

/// No password or key is as long.
const LINE_BYTES_MAX: usize = 4096;
/// What Ctrl-C sends.
const INTERRUPT: u8 = 0x03;

/// A secret from `file`, from standard input where that is no terminal, or from the person.
pub fn secret(what: &str, file: Option<&Path>) -> Result<Secret, Failure> {
    match file {
        Some(path) => from_file(path),
        None if io::stdin().is_terminal() => hidden(what),
        None => line(&mut io::stdin().lock()).map(Secret::new),
    }
}

/// As [`secret`], for one that is new: a person types it twice.
pub fn new_secret(what: &str, file: Option<&Path>) -> Result<Secret, Failure> {
    let first = secret(what, file)?;
    if file.is_none() && io::stdin().is_terminal() && hidden(&format!("{what} again"))? != first {
        return Err(Failure::usage("the two are not the same"));
    }
    Ok(first)
}

/// A line that may be seen. `flag` is what to use where nobody is there to type.
pub fn visible(what: &str, flag: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{flag} is needed where standard input is no terminal")));
    }
    ask(what);
    line(&mut io::stdin().lock())
}

/// Goes on only if `expected` is typed.
pub fn confirm(question: &str, expected: &str, is_sure: bool) -> Result<(), Failure> {
    if is_sure {
        return Ok(());
    }
    let typed = visible(&format!("{question} Type {expected} to go on"), "--yes")?;
    if typed.trim() == expected { Ok(()) } else { Err(Failure::new(Exit::Other, "nothing was changed")) }
}

/// A secret that is a file's whole content. The file must be its reader's alone.
fn from_file(path: &Path) -> Result<Secret, Failure> {
    let bytes = read_private(path).map_err(|error| Failure::new(Exit::NotAllowed, error.to_string()))?;
    let Some(bytes) = bytes else {
        return Err(Failure::new(Exit::NotFound, format!("{}: there is no such file", path.display())));
    };
    line(&mut &*bytes).map(Secret::new)
}

/// The first line, without its end.
fn line(from: &mut dyn BufRead) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    for byte in from.take(LINE_BYTES_MAX as u64 + 1).bytes() {
        match byte.map_err(|error| Failure::new(Exit::Other, format!("standard input: {error}")))? {
            // A terminal hands out what was typed up to here, and would then wait for the rest of the line.
            INTERRUPT => return Err(Failure::interrupted()),
            b'\n' => break,
            byte => bytes.push(byte),
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::usage("what was read is not UTF-8"))?;
    let text = text.strip_suffix('\r').unwrap_or(&text);
    match text.len() {
        0 => Err(Failure::usage("nothing was given")),
        length if LINE_BYTES_MAX < length => Err(Failure::usage("the line is too long")),
        _ => Ok(text.to_owned()),
    }
}

fn ask(what: &str) {
    let _ = write!(io::stderr(), "{what}: ");
}

fn hidden(what: &str) -> Result<Secret, Failure> {
    ask(what);
    let _silent = Silent::begin().map_err(|error| Failure::new(Exit::Other, format!("terminal: {error}")))?;
    line(&mut io::stdin().lock()).map(Secret::new)
}

/// A terminal that shows nothing, until this is dropped. Ctrl-C is read as the end of the line instead of ending the
/// process, which would leave the terminal silent.
struct Silent {
    before: Termios,
}

impl Silent {
    fn begin() -> rustix::io::Result<Silent> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silent { before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // A terminal that has gone shows nothing either.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        let _ = writeln!(io::stderr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<String, Exit> {
        line(&mut &*bytes).map_err(|failure| failure.exit)
    }

    #[test]
    fn a_line_ends_at_its_end_and_keeps_its_spaces() {
        assert_eq!(read(b"correct horse \nmore").unwrap(), "correct horse ");
        assert_eq!(read(b"windows\r\n").unwrap(), "windows");
        assert_eq!(read(b"no end").unwrap(), "no end");
        assert_eq!(read("é\n".as_bytes()).unwrap(), "é");
    }

    #[test]
    fn nothing_too_much_and_an_interruption_are_no_line() {
        assert_eq!(read(b""), Err(Exit::Usage));
        assert_eq!(read(b"\n"), Err(Exit::Usage));
        assert_eq!(read(b"\xff\n"), Err(Exit::Usage));
        assert_eq!(read(&[b'x'; LINE_BYTES_MAX + 1]), Err(Exit::Usage));
        assert_eq!(read(&[b'x'; LINE_BYTES_MAX]).unwrap().len(), LINE_BYTES_MAX);
        assert_eq!(read(b"half\x03"), Err(Exit::Interrupted));
    }

    #[test]
    fn a_secret_in_a_file_that_others_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "correct horse\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        assert_eq!(from_file(&path).unwrap_err().exit, Exit::NotAllowed);
        mode(0o600);
        assert_eq!(from_file(&path).unwrap().expose(), "correct horse");
        assert_eq!(from_file(&directory.path().join("none")).unwrap_err().exit, Exit::NotFound);
    }
}
