//! The verb `apikeys`: streaming keys, in the file where they stand. A server that runs takes a change up by itself.
//! Must never: show a whole key where it was not asked for, or take one out that could be another.

use std::io::{BufRead, Write};
use std::path::Path;

use ringlog_engine::ids::Tenant;
use serde_json::{Value, json};

use crate::auth::secret::{STREAMING_KEY_CHARS, Secret};
use crate::catalog::keys_file::{FileKey, KeysFileError};
use crate::catalog::keys_file_edit::{self, EditError, Which};
use crate::cli::{ApikeysAction, Exit, Output};
use crate::config::Config;
use crate::offline::OfflineError;

const SHOWN_CHARS: usize = 8;

/// Does it, and gives what is to be printed. `delete` asks on `out` and reads the answer from `answers`.
pub fn apikeys(
    config: &Config,
    action: &ApikeysAction,
    output: Output,
    answers: &mut dyn BufRead,
    out: &mut dyn Write,
) -> Result<String, OfflineError> {
    let path = &config.keys_file;
    match action {
        ApikeysAction::List => {
            let keys = keys_file_edit::list(path).map_err(|error| refused(path, &error))?;
            Ok(listed(&keys, output))
        }
        ApikeysAction::New { name, workspace } => {
            let key =
                FileKey { secret: Secret::random_streaming_key(), tenant: Tenant(*workspace), name: name.clone() };
            keys_file_edit::add(path, &key).map_err(|error| refused(path, &error))?;
            Ok(whole(&key, output))
        }
        ApikeysAction::Show { name, workspace } => Ok(whole(&find(path, name, *workspace)?, output)),
        ApikeysAction::Delete { name, workspace, yes } => {
            let key = find(path, name, *workspace)?;
            if !yes && !is_confirmed(&key, answers, out) {
                return Err(OfflineError::new(Exit::NotAllowed, "nothing was deleted: say yes, or add --yes"));
            }
            keys_file_edit::delete(path, Which::Key(&key.secret)).map_err(|error| refused(path, &error))?;
            Ok(match output {
                Output::Text => format!("deleted {}\n", described(&key)),
                Output::Json => format!("{}\n", json!({ "deleted": view(&key) })),
            })
        }
    }
}

/// The one key that is meant: by its name, or by itself.
fn find(path: &Path, name: &str, workspace: Option<u32>) -> Result<FileKey, OfflineError> {
    let keys = keys_file_edit::list(path).map_err(|error| refused(path, &error))?;
    let is_key = name.len() == STREAMING_KEY_CHARS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digest = is_key.then(|| Secret::new(name).digest());
    let is_meant = |key: &FileKey| (key.name == name && !name.is_empty()) || Some(key.secret.digest()) == digest;
    let mut meant =
        keys.into_iter().filter(|key| workspace.is_none_or(|number| key.tenant.0 == number) && is_meant(key));
    let key = meant.next().ok_or_else(|| refused(path, &EditError::NotFound))?;
    match meant.count() {
        0 => Ok(key),
        more => {
            let text = format!("{} keys have this name: add --workspace, or name the key itself", 1 + more);
            Err(OfflineError::new(Exit::Conflict, text))
        }
    }
}

fn is_confirmed(key: &FileKey, answers: &mut dyn BufRead, out: &mut dyn Write) -> bool {
    let asked = write!(out, "delete {}? whoever sends with it is refused [y/N] ", described(key));
    let mut answer = String::new();
    let is_heard = asked.and_then(|()| out.flush()).and_then(|()| answers.read_line(&mut answer)).is_ok();
    is_heard && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn refused(path: &Path, error: &EditError) -> OfflineError {
    let exit = match error {
        EditError::Missing | EditError::NotFound => Exit::NotFound,
        EditError::NameTaken | EditError::KeyTaken | EditError::Ambiguous(_) => Exit::Conflict,
        EditError::Unwritable => Exit::Usage,
        EditError::File(KeysFileError::Io(_)) | EditError::Write(_) => Exit::Other,
        EditError::File(_) | EditError::Full => Exit::BadConfiguration,
    };
    OfflineError::new(exit, format_args!("{}: {error}", path.display()))
}

fn listed(keys: &[FileKey], output: Output) -> String {
    match output {
        Output::Json => {
            let keys: Vec<Value> = keys.iter().map(view).collect();
            format!("{}\n", json!({ "count": keys.len(), "keys": keys }))
        }
        Output::Text if keys.is_empty() => "no keys\n".to_owned(),
        Output::Text => {
            let name = |key: &FileKey| if key.name.is_empty() { "-".to_owned() } else { key.name.clone() };
            let width = keys.iter().map(|key| name(key).chars().count()).max().unwrap_or_default().max(4);
            let mut text = format!("{:<width$}  {:<11}  workspace\n", "name", "key");
            for key in keys {
                text += &format!("{:<width$}  {}...  {}\n", name(key), prefix(key), key.tenant.0);
            }
            text
        }
    }
}

/// On a line of its own, so that a script can take it.
fn whole(key: &FileKey, output: Output) -> String {
    match output {
        Output::Text => format!("{}\n", key.secret.expose()),
        Output::Json => {
            let mut body = view(key);
            body["key"] = json!(key.secret.expose());
            format!("{body}\n")
        }
    }
}

fn view(key: &FileKey) -> Value {
    json!({ "name": key.name, "key_prefix": prefix(key), "workspace": key.tenant.0 })
}

fn described(key: &FileKey) -> String {
    format!("{:?} ({}...) of workspace {}", key.name, prefix(key), key.tenant.0)
}

fn prefix(key: &FileKey) -> &str {
    &key.secret.expose()[..SHOWN_CHARS]
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home {
        directory: tempfile::TempDir,
        asked: Vec<u8>,
    }

    impl Home {
        fn new() -> Home {
            Home { directory: tempfile::tempdir().unwrap(), asked: Vec::new() }
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.directory.path().join("apikeys.conf")).unwrap_or_default()
        }

        fn run(&mut self, action: ApikeysAction, answer: &str) -> Result<String, Exit> {
            let mut config = crate::config::RawConfig::default().resolve(1).unwrap();
            config.keys_file = self.directory.path().join("apikeys.conf");
            let mut answers = answer.as_bytes();
            apikeys(&config, &action, Output::Text, &mut answers, &mut self.asked).map_err(|error| error.exit)
        }
    }

    fn new(name: &str, workspace: u32) -> ApikeysAction {
        ApikeysAction::New { name: name.to_owned(), workspace }
    }

    fn show(name: &str, workspace: Option<u32>) -> ApikeysAction {
        ApikeysAction::Show { name: name.to_owned(), workspace }
    }

    fn delete(name: &str, workspace: Option<u32>, yes: bool) -> ApikeysAction {
        ApikeysAction::Delete { name: name.to_owned(), workspace, yes }
    }

    #[test]
    fn a_key_is_made_shown_and_deleted() {
        let mut home = Home::new();
        assert_eq!(home.run(ApikeysAction::List, "").unwrap(), "no keys\n");
        let key = home.run(new("mobile-prod", 1), "").unwrap();
        assert_eq!(home.text(), format!("{}:1:mobile-prod\n", key.trim_end()));
        assert_eq!(home.run(show("mobile-prod", None), "").unwrap(), key);
        let list = home.run(ApikeysAction::List, "").unwrap();
        assert!(list.contains(&format!("mobile-prod  {}...  1\n", &key[..8])) && !list.contains(key.trim_end()));
        assert_eq!(home.run(new("mobile-prod", 1), ""), Err(Exit::Conflict));
        assert_eq!(home.run(new("a\nb", 1), ""), Err(Exit::Usage));

        for no in ["", "n\n", "\n", "yesterday\n"] {
            assert_eq!(home.run(delete("mobile-prod", None, false), no), Err(Exit::NotAllowed), "{no:?}");
        }
        assert!(home.text().contains(key.trim_end()));
        home.run(delete("mobile-prod", None, false), "y\n").unwrap();
        assert_eq!(home.text(), "");
        assert!(String::from_utf8(home.asked.clone()).unwrap().contains("\"mobile-prod\""));
        assert_eq!(home.run(delete("mobile-prod", None, true), ""), Err(Exit::NotFound));
        assert_eq!(home.run(show("mobile-prod", None), ""), Err(Exit::NotFound));
    }

    #[test]
    fn keys_of_one_name_are_told_apart_by_workspace_or_key() {
        let mut home = Home::new();
        let first = home.run(new("web", 1), "").unwrap();
        let second = home.run(new("web", 2), "").unwrap();
        assert_eq!(home.run(show("web", None), ""), Err(Exit::Conflict));
        assert_eq!(home.run(delete("web", None, true), ""), Err(Exit::Conflict));
        assert_eq!(home.run(show("web", Some(2)), "").unwrap(), second);
        assert_eq!(home.run(show(first.trim_end().to_uppercase().as_str(), None), "").unwrap(), first);
        home.run(delete(first.trim_end(), None, true), "").unwrap();
        assert_eq!(home.text(), format!("{}:2:web\n", second.trim_end()));
    }

    #[test]
    fn a_file_with_a_wrong_line_is_named_and_left_alone() {
        let mut home = Home::new();
        std::fs::write(home.directory.path().join("apikeys.conf"), "# mine\nnonsense\n").unwrap();
        for action in [ApikeysAction::List, new("x", 1), show("x", None), delete("x", None, true)] {
            assert_eq!(home.run(action, ""), Err(Exit::BadConfiguration));
        }
        assert_eq!(home.text(), "# mine\nnonsense\n");
    }
}
