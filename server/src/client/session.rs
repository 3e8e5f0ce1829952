//! Logging in and out, and who one is.

use std::path::PathBuf;

use clap::Args;
use ringlog_engine::ids::Micros;
use serde_json::{Value, json};

use crate::auth::secret::Secret;
use crate::client::Reach;
use crate::client::api::{Answer, Api, Target};
use crate::client::credentials::{CredentialsFile, Environment, Stored, given};
use crate::client::failure::Failure;
use crate::client::output::{Out, members, shown};
use crate::client::prompt;
use crate::exit::Exit;
use crate::wire::time::format_moment;

pub const LOGIN_EXAMPLES: &str = "\
Examples:
  ringlog login --email agent@your-company.com
  ringlog login --email agent@your-company.com --password-file password      a file of mode 0600
  ringlog login --key-file key                                               a key instead of a person

The password or the key is asked for, or read from standard input where that is no terminal. What the server gives for it
is kept in a file of mode 0600; `ringlog logout` ends it there and here.";

#[derive(Debug, PartialEq, Eq, Args)]
pub struct Login {
    /// Whose password: an address or a user name [default: asked for]
    #[arg(long, value_name = "EMAIL", conflicts_with_all = ["key", "key_file"])]
    pub email: Option<String>,
    /// File of mode 0600 with the password
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "key_file"])]
    pub password_file: Option<PathBuf>,
    /// Keep a key, of --key-file or asked for: a bootstrap key, or one that was made for a program
    #[arg(long)]
    pub key: bool,
    #[command(flatten)]
    pub reach: Reach,
}

pub fn log_in(login: &Login, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    let file = CredentialsFile::find(&login.reach, environment)?;
    // One logs in again where one was. A file that cannot be read is about to be replaced.
    let last = file.read().ok().flatten();
    let open = |key| Api::open_with(&login.reach, environment, key, last.as_ref().map(|last| last.url.as_str()));
    let key = match given(&login.reach)? {
        None if login.key => Some(prompt::secret("Key", None)?),
        given => given,
    };
    let stored = if let Some(key) = key {
        let api = open(Some(key.clone()))?;
        warn_of_readers(&api, out);
        let user = api.get(&Target::new("/api/v1/auth/me"))?.value();
        Stored { url: api.base().url().to_owned(), token: key, expires_at: None, user }
    } else {
        let api = open(None)?;
        warn_of_readers(&api, out);
        let email = match &login.email {
            Some(email) => email.clone(),
            None => prompt::visible("Email", "--email")?,
        };
        let password = prompt::secret("Password", login.password_file.as_deref())?;
        let body = json!({ "email": email, "password": password.expose() });
        stored(&api, &api.post(&Target::new("/api/v1/auth/login"), &body)?)?
    };
    file.lock()?.write(&stored)?;
    let view = view(&stored, &file);
    if out.is_json() { out.raw(&format!("{view}\n")) } else { out.raw(&format!("logged in\n{}", members(&view))) }
}

/// What a login's or a set-up's answer leaves behind.
pub fn stored(api: &Api, answer: &Answer) -> Result<Stored, Failure> {
    let value = answer.value();
    let expires_at = value["expires_at"].as_i64();
    let expires_at = expires_at.ok_or_else(|| Failure::new(Exit::Other, "the answer has no expires_at"))?;
    let token = Secret::new(answer.text("token")?);
    Ok(Stored { url: api.base().url().to_owned(), token, expires_at: Some(expires_at), user: value["user"].clone() })
}

/// All of it but the token.
pub fn view(stored: &Stored, file: &CredentialsFile) -> Value {
    let micros = stored.expires_at.and_then(|seconds| seconds.checked_mul(1_000_000));
    let expires_at = micros.map(|at| String::from_utf8_lossy(&format_moment(Micros(at))).into_owned());
    json!({
        "url": stored.url,
        "user": stored.user,
        "expires_at": expires_at,
        "credentials_file": file.path().to_string_lossy(),
    })
}

pub fn warn_of_readers(api: &Api, out: &Out<'_>) {
    if !api.base().is_private() {
        out.note(&format!(
            "note: {} is not encrypted: whoever is on the way reads the password or key",
            api.base().url()
        ));
    }
}

/// Ends the session on the server, then here. One that the server no longer knows is forgotten all the same.
pub fn log_out(reach: &Reach, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    let file = CredentialsFile::find(reach, environment)?;
    let locked = file.lock()?;
    let Some(stored) = file.read()? else {
        return say(out, false, "you are not logged in");
    };
    if stored.is_session() {
        let named = reach.url.is_some() || environment.url.is_some();
        let api = Api::open_with(reach, environment, Some(stored.token.clone()), Some(&stored.url))?;
        if named && api.base().url() != stored.url {
            let text = format!("you are logged in to {}, not to {}", stored.url, api.base().url());
            return Err(Failure::new(Exit::NotAllowed, text).fix("leave --url and RINGLOG_URL out"));
        }
        match api.post(&Target::new("/api/v1/auth/logout"), &json!({})) {
            // One that the server does not take opens nothing.
            Err(failure) if failure.exit != Exit::NotAllowed => {
                return Err(failure.fix(format!(
                    "the session goes on: try again, or only forget it by deleting {}",
                    shown(&file.path().to_string_lossy())
                )));
            }
            _ => {}
        }
    }
    locked.remove()?;
    let sentence =
        if stored.is_session() { "logged out" } else { "the key is forgotten here; it still opens what it did" };
    say(out, true, sentence)
}

fn say(out: &mut Out<'_>, logged_out: bool, sentence: &str) -> Result<(), Failure> {
    let json = json!({ "logged_out": logged_out });
    if out.is_json() { out.raw(&format!("{json}\n")) } else { out.raw(&format!("{sentence}\n")) }
}

pub fn who_am_i(reach: &Reach, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    out.members(&Api::open(reach, environment)?.get(&Target::new("/api/v1/auth/me"))?)
}
