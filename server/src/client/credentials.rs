//! With which credential a verb asks, and the file that `ringlog login` leaves one in.
//!
//! Owns the order in which credentials are looked for. Must never: send what belongs to one server to another, read a file
//! that others can read, or leave half a file.
//!
//! ```text
//! {"url":"http://127.0.0.1:3900","token":"rl_st_…","expires_at":1795262400,"user":{…}}    a key has no expires_at
//! ```

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::auth::secret::Secret;
use crate::auth::secret_file::{load_one, read_private, write_private};
use crate::client::Reach;
use crate::client::failure::Failure;
use crate::exit::Exit;

pub const ENV_URL: &str = "RINGLOG_URL";
pub const ENV_API_KEY: &str = "RINGLOG_API_KEY";
pub const ENV_BOOTSTRAP_KEY: &str = "RINGLOG_BOOTSTRAP_KEY";
pub const ENV_CREDENTIALS: &str = "RINGLOG_CREDENTIALS";

/// What the environment says to verbs that ask a server. An empty variable is one that nobody set.
#[derive(Debug, Default)]
pub struct Environment {
    pub url: Option<String>,
    pub api_key: Option<Secret>,
    pub bootstrap_key: Option<Secret>,
    credentials: Option<PathBuf>,
    config_home: Option<PathBuf>,
    home: Option<PathBuf>,
}

impl Environment {
    pub fn read(look_up: impl Fn(&str) -> Option<OsString>) -> Result<Environment, Failure> {
        let set = |name| look_up(name).filter(|value| !value.is_empty());
        let text = |name| match set(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.trim().to_owned())),
            Some(Err(_)) => Err(Failure::usage(format!("{name}: not UTF-8"))),
        };
        // The specification of these directories says that a relative one is none.
        let directory = |name| set(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Ok(Environment {
            url: text(ENV_URL)?,
            api_key: text(ENV_API_KEY)?.map(Secret::new),
            bootstrap_key: text(ENV_BOOTSTRAP_KEY)?.map(Secret::new),
            credentials: set(ENV_CREDENTIALS).map(PathBuf::from),
            config_home: directory("XDG_CONFIG_HOME"),
            home: directory("HOME"),
        })
    }
}

/// What a login leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub url: String,
    pub token: Secret,
    /// Seconds since 1970. A key has none.
    pub expires_at: Option<i64>,
    pub user: Value,
}

#[derive(Serialize, Deserialize)]
struct Form {
    url: String,
    token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    #[serde(default)]
    user: Value,
}

impl Stored {
    /// A session, which a logout ends; a key outlives it.
    pub fn is_session(&self) -> bool {
        self.expires_at.is_some()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsFile {
    path: PathBuf,
}

/// The one process that may change the file. The lock is the directory's, so that it leaves nothing behind.
pub struct Locked<'a> {
    file: &'a CredentialsFile,
    _directory: File,
}

impl CredentialsFile {
    pub fn find(reach: &Reach, environment: &Environment) -> Result<CredentialsFile, Failure> {
        let named = reach.credentials_file.clone().or_else(|| environment.credentials.clone());
        let config = || {
            let home = || environment.home.as_ref().map(|home| home.join(".config"));
            environment.config_home.clone().or_else(home).map(|config| config.join("ringlog/credentials.json"))
        };
        let path = named.or_else(config).ok_or_else(|| {
            Failure::usage("there is no place for credentials: HOME is not set")
                .fix(format!("name a file with --credentials-file or {ENV_CREDENTIALS}"))
        })?;
        Ok(CredentialsFile { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn read(&self) -> Result<Option<Stored>, Failure> {
        let bytes = read_private(&self.path).map_err(|error| Failure::new(Exit::NotAllowed, error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        // The error would quote what it read.
        let form: Form = serde_json::from_slice(&bytes).map_err(|_| {
            Failure::new(Exit::Other, format!("{}: not a file of credentials", self.path.display()))
                .fix("delete it and log in again: ringlog login")
        })?;
        let Form { url, token, expires_at, user } = form;
        Ok(Some(Stored { url, token: Secret::new(token), expires_at, user }))
    }

    /// Makes the file's directory where there is none, for its owner alone.
    pub fn lock(&self) -> Result<Locked<'_>, Failure> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        let opened = made.and_then(|()| File::open(directory));
        let opened = opened.and_then(|opened| {
            flock(&opened, FlockOperation::LockExclusive)?;
            Ok(opened)
        });
        let directory = opened.map_err(|error| self.failed(error))?;
        Ok(Locked { file: self, _directory: directory })
    }

    fn failed(&self, error: io::Error) -> Failure {
        Failure::new(Exit::Other, format!("{}: {error}", self.path.display()))
    }
}

impl Locked<'_> {
    pub fn write(&self, stored: &Stored) -> Result<(), Failure> {
        let form = Form {
            url: stored.url.clone(),
            token: stored.token.expose().to_owned(),
            expires_at: stored.expires_at,
            user: stored.user.clone(),
        };
        let mut bytes = serde_json::to_vec(&form).expect("strings and numbers are JSON");
        bytes.push(b'\n');
        write_private(&self.file.path, &bytes).map_err(|error| self.file.failed(error))
    }

    pub fn remove(&self) -> Result<(), Failure> {
        match std::fs::remove_file(&self.file.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.file.failed(error)),
            _ => Ok(()),
        }
    }
}

/// Whose credential it is, and where a new one of its kind has to go.
#[derive(Debug, PartialEq, Eq)]
pub enum Held {
    Given(Secret),
    Stored { stored: Stored, file: CredentialsFile },
}

impl Held {
    pub fn secret(&self) -> &Secret {
        match self {
            Held::Given(secret) => secret,
            Held::Stored { stored, .. } => &stored.token,
        }
    }
}

/// The credential and the server's URL as they were written: `--key-file`, then `RINGLOG_API_KEY`, then the file of a login,
/// and `RINGLOG_BOOTSTRAP_KEY` if there is nothing else.
pub fn find(reach: &Reach, environment: &Environment) -> Result<(Held, Option<String>), Failure> {
    let url = reach.url.clone().or_else(|| environment.url.clone());
    if let Some(given) = given(reach)?.or_else(|| environment.api_key.clone()) {
        let url = match url {
            // The server that one is logged in to is the one that is meant; an unreadable file says nothing about it.
            None => CredentialsFile::find(reach, environment)
                .and_then(|file| file.read())
                .ok()
                .flatten()
                .map(|stored| stored.url),
            named => named,
        };
        return Ok((Held::Given(given), url));
    }
    let file = match CredentialsFile::find(reach, environment) {
        Err(_) if environment.bootstrap_key.is_some() => None,
        found => Some(found?),
    };
    if let Some(file) = file
        && let Some(stored) = file.read()?
    {
        let url = url.or_else(|| Some(stored.url.clone()));
        return Ok((Held::Stored { stored, file }, url));
    }
    match &environment.bootstrap_key {
        Some(key) => Ok((Held::Given(key.clone()), url)),
        None => Err(Failure::new(Exit::NotAllowed, "there is no credential")
            .fix(format!("log in with `ringlog login`, or give a key with --key-file or {ENV_API_KEY}"))),
    }
}

/// The key of `--key-file`.
pub fn given(reach: &Reach) -> Result<Option<Secret>, Failure> {
    let Some(path) = &reach.key_file else { return Ok(None) };
    match load_one(path) {
        Ok(Some(key)) if !key.expose().is_empty() => Ok(Some(key)),
        Ok(Some(_)) => Err(Failure::usage(format!("{}: the file is empty", path.display()))),
        Ok(None) => Err(Failure::new(Exit::NotFound, format!("{}: there is no such file", path.display()))),
        Err(error) => Err(Failure::new(Exit::NotAllowed, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use serde_json::json;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        Environment::read(find).unwrap()
    }

    fn session() -> Stored {
        Stored {
            url: "http://127.0.0.1:1".into(),
            token: Secret::new("rl_st_x"),
            expires_at: Some(7),
            user: json!({ "id": "user_1" }),
        }
    }

    #[test]
    fn the_file_is_its_owners_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/deep/credentials.json");
        let file = CredentialsFile { path: path.clone() };
        assert_eq!(file.read().unwrap(), None);
        file.lock().unwrap().write(&session()).unwrap();
        assert_eq!(file.read().unwrap(), Some(session()));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(file.read().unwrap_err().exit, Exit::NotAllowed);
        let locked = file.lock().unwrap();
        locked.remove().unwrap();
        locked.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_credential_is_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let file = CredentialsFile { path: directory.path().join("c") };
        write_private(file.path(), b"{\"token\":\"rl_st_secret\",\"url\":7}").unwrap();
        assert!(!format!("{:?}", file.read().unwrap_err()).contains("secret"));
        assert!(!format!("{:?}", session()).contains("rl_st_x"));
    }

    #[test]
    fn the_file_is_where_it_is_named_or_where_configuration_is() {
        let find = |reach: &Reach, variables: &[(&str, &str)]| {
            CredentialsFile::find(reach, &environment(variables)).map(|file| file.path.display().to_string()).ok()
        };
        let home = ("HOME", "/home/me");
        let reach = Reach::default();
        assert_eq!(find(&reach, &[home]).unwrap(), "/home/me/.config/ringlog/credentials.json");
        assert_eq!(find(&reach, &[home, ("XDG_CONFIG_HOME", "/cfg")]).unwrap(), "/cfg/ringlog/credentials.json");
        assert_eq!(
            find(&reach, &[home, ("XDG_CONFIG_HOME", "cfg")]).unwrap(),
            "/home/me/.config/ringlog/credentials.json"
        );
        assert_eq!(find(&reach, &[home, (ENV_CREDENTIALS, "c")]).unwrap(), "c");
        let named = Reach { credentials_file: Some("mine".into()), ..Reach::default() };
        assert_eq!(find(&named, &[(ENV_CREDENTIALS, "c")]).unwrap(), "mine");
        assert_eq!(find(&reach, &[]), None);
    }

    #[test]
    fn credentials_are_taken_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let (file, key_file) = (directory.path().join("c"), directory.path().join("k"));
        let reach = Reach { credentials_file: Some(file.clone()), ..Reach::default() };
        let found = |reach: &Reach, variables: &[(&str, &str)]| {
            find(reach, &environment(variables)).map(|(held, url)| (held.secret().expose().to_owned(), url))
        };
        let (api, boot) = ((ENV_API_KEY, "api"), (ENV_BOOTSTRAP_KEY, "boot"));
        assert_eq!(found(&reach, &[]).unwrap_err().exit, Exit::NotAllowed);
        assert_eq!(found(&reach, &[boot]).unwrap(), ("boot".to_owned(), None));
        let file = CredentialsFile { path: file };
        file.lock().unwrap().write(&session()).unwrap();
        let url = Some("http://127.0.0.1:1".to_owned());
        assert_eq!(found(&reach, &[boot]).unwrap(), ("rl_st_x".to_owned(), url.clone()));
        assert_eq!(found(&reach, &[boot, api]).unwrap(), ("api".to_owned(), url));
        write_private(&key_file, b"mine\n").unwrap();
        let reach = Reach { key_file: Some(key_file.clone()), ..reach };
        let elsewhere = Some("http://b".to_owned());
        assert_eq!(found(&reach, &[boot, api, (ENV_URL, "http://b")]).unwrap(), ("mine".to_owned(), elsewhere));
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(found(&reach, &[api]).unwrap_err().exit, Exit::NotAllowed);
    }

    #[test]
    fn the_server_starts_beside_these_variables() {
        let flags = crate::config::Flags::default();
        for name in [ENV_URL, ENV_API_KEY, ENV_CREDENTIALS] {
            crate::config::RawConfig::read(flags.clone(), [(name.into(), "x".into())]).unwrap();
        }
    }
}
