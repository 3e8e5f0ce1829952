//! People, as the admins of their tenant manage them, and the first of them.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::client::Reach;
use crate::client::api::{Api, Target};
use crate::client::credentials::{CredentialsFile, Environment, given};
use crate::client::failure::Failure;
use crate::client::output::{Column, Out, members};
use crate::client::pages::{self, Pages};
use crate::client::prompt::{confirm, new_secret, visible};
use crate::client::session::{stored, view, warn_of_readers};

const COLUMNS: [Column; 5] =
    [("ID", "id"), ("EMAIL", "email"), ("USER NAME", "username"), ("ROLE", "role"), ("CREATED", "created_at")];

const SETUP_EXAMPLES: &str = "\
Examples:
  ringlog users setup --email agent@your-company.com
  RINGLOG_BOOTSTRAP_KEY=... ringlog users setup --url https://events.your-company.com --email agent@your-company.com

On the server's own machine this needs no key, from elsewhere the bootstrap key. It logs in, and prints the streaming key.";

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// List the tenant's users
    #[command(after_help = "Example:\n  ringlog users list --json")]
    List {
        #[command(flatten)]
        pages: Pages,
        #[command(flatten)]
        reach: Reach,
    },
    /// Make a user, with a password that is asked for or read from standard input
    #[command(after_help = "Example:\n  ringlog users create dev@your-company.com --role developer")]
    Create {
        /// The address to log in with
        email: String,
        /// admin, developer, readonly or serviceaccount; never above your own
        #[arg(long)]
        role: String,
        /// A name to log in with, too
        #[arg(long, value_name = "NAME")]
        username: Option<String>,
        /// File of mode 0600 with the password
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Give a user another role, in force at once
    #[command(after_help = "Example:\n  ringlog users set-role user_2 readonly")]
    SetRole {
        /// The user's id, as the list has it
        id: String,
        /// admin, developer, readonly or serviceaccount; never above your own
        role: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Delete a user; their sessions end at once
    #[command(after_help = "Example:\n  ringlog users delete user_2 --yes")]
    Delete {
        /// The user's id, as the list has it
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Make the first user, admin of workspace 1
    #[command(after_help = SETUP_EXAMPLES)]
    Setup {
        /// The address to log in with [default: asked for]
        #[arg(long)]
        email: Option<String>,
        /// File of mode 0600 with the password
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        reach: Reach,
    },
}

impl Verb {
    pub fn reach(&self) -> &Reach {
        match self {
            Verb::List { reach, .. }
            | Verb::Create { reach, .. }
            | Verb::SetRole { reach, .. }
            | Verb::Delete { reach, .. }
            | Verb::Setup { reach, .. } => reach,
        }
    }
}

const USERS: &str = "/api/v1/auth/users";

pub fn run(verb: &Verb, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    let open = || Api::open(verb.reach(), environment);
    match verb {
        Verb::List { pages, .. } => pages::list(&open()?, &Target::new(USERS), pages, ("users", &COLUMNS), out),
        Verb::Create { email, role, username, password_file, .. } => {
            let api = open()?;
            warn_of_readers(&api, out);
            let password = new_secret("Password of the new user", password_file.as_deref())?;
            let mut body = json!({ "email": email, "password": password.expose(), "role": role });
            if let Some(username) = username {
                body["username"] = json!(username);
            }
            out.members(&api.post(&Target::new(USERS), &body)?)
        }
        Verb::SetRole { id, role, .. } => {
            out.members(&open()?.put(&Target::new(USERS).part(id), &json!({ "role": role }))?)
        }
        Verb::Delete { id, yes, .. } => {
            let api = open()?;
            confirm(&format!("User {id} goes, and cannot log in again."), id, *yes)?;
            let answer = api.delete(&Target::new(USERS).part(id))?;
            out.done(&answer, &format!("user {id} is deleted"))
        }
        Verb::Setup { email, password_file, reach } => {
            let key = given(reach)?.or_else(|| environment.bootstrap_key.clone());
            let api = Api::open_with(reach, environment, key, None)?;
            let file = CredentialsFile::find(reach, environment)?;
            warn_of_readers(&api, out);
            let email = match email {
                Some(email) => email.clone(),
                None => visible("Email", "--email")?,
            };
            let password = new_secret("Password", password_file.as_deref())?;
            let body = json!({ "email": email, "password": password.expose() });
            let answer = api.post(&Target::new("/api/v1/auth/setup"), &body)?;
            let stored = stored(&api, &answer)?;
            let mut view = view(&stored, &file);
            view["streaming_key"] = answer.value()["streaming_key"].clone();
            // Printed first: the streaming key is shown this once, whatever becomes of the file.
            if out.is_json() {
                out.raw(&format!("{view}\n"))?
            } else {
                out.raw(&members(&view))?
            }
            file.lock()?.write(&stored)
        }
    }
}
