//! Verbs that ask a running server, over the same HTTP API that everyone has: `tenants`, `keys`, `users`, `audit list`,
//! `login`, `logout`, `whoami`, `status`, `query`, `rejects list`.
//!
//! ```text
//! verb ─► credentials ─► api ─► output, or failure and its exit code
//! ```
//! Must never: know more of a tenant than the API tells, or open a data directory.

pub mod api;
pub mod audit;
pub mod credentials;
pub mod failure;
pub mod keys;
pub mod output;
pub mod pages;
pub mod prompt;
pub mod query;
pub mod rejects;
pub mod session;
pub mod status;
pub mod tenants;
pub mod users;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::client::credentials::Environment;
use crate::client::failure::Failure;
use crate::client::output::Out;
use crate::exit::{Exit, Output};

/// Which server is asked, as whom, and for whom the answer is.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args)]
pub struct Reach {
    /// The server [default: RINGLOG_URL, the one that you are logged in to, or http://127.0.0.1:3900]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The tenant to act for: for operators
    #[arg(long, value_name = "ID")]
    pub tenant: Option<String>,
    /// File of mode 0600 with a key; goes before RINGLOG_API_KEY, that before the login
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// What `login` writes [default: RINGLOG_CREDENTIALS, or ~/.config/ringlog/credentials.json]
    #[arg(long, value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
    /// Certificates, in PEM form, to trust instead of the well-known ones
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Print the server's JSON
    #[arg(long)]
    pub json: bool,
}

/// Verbs that stand on their own.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// Log in with a password, or keep a key for later verbs
    #[command(after_help = session::LOGIN_EXAMPLES)]
    Login(session::Login),
    /// End the session and forget it
    #[command(after_help = "Example:\n  ringlog logout")]
    Logout {
        #[command(flatten)]
        reach: Reach,
    },
    /// Who you are to the server
    #[command(after_help = "Example:\n  ringlog whoami --json")]
    Whoami {
        #[command(flatten)]
        reach: Reach,
    },
    /// Tenants: with the bootstrap key, or as an admin of `system`
    #[command(subcommand)]
    Tenants(tenants::Verb),
    /// People: as an admin of their tenant
    #[command(subcommand)]
    Users(users::Verb),
    /// Whether the server lives and takes requests
    #[command(
        after_help = "Example:\n  ringlog status --url http://10.0.0.7:3900\n\nThe exit code is 7 when it does not."
    )]
    Status {
        #[command(flatten)]
        reach: Reach,
    },
    /// Read events
    #[command(after_help = query::EXAMPLES)]
    Query(query::Query),
    /// What was sent and not stored
    #[command(subcommand)]
    Rejects(rejects::Verb),
}

/// What a server is asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    Verb(Verb),
    Keys(keys::Verb),
    Audit(audit::Verb),
}

impl Ask {
    fn reach(&self) -> &Reach {
        match self {
            Ask::Verb(Verb::Login(login)) => &login.reach,
            Ask::Verb(Verb::Logout { reach } | Verb::Whoami { reach } | Verb::Status { reach }) => reach,
            Ask::Verb(Verb::Tenants(verb)) => verb.reach(),
            Ask::Verb(Verb::Users(verb)) => verb.reach(),
            Ask::Verb(Verb::Query(query)) => &query.reach,
            Ask::Verb(Verb::Rejects(rejects::Verb::List(list))) => &list.reach,
            Ask::Keys(verb) => verb.reach(),
            Ask::Audit(audit::Verb::List(list)) => &list.reach,
        }
    }

    fn carry_out(&self, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
        match self {
            Ask::Verb(Verb::Login(login)) => session::log_in(login, environment, out),
            Ask::Verb(Verb::Logout { reach }) => session::log_out(reach, environment, out),
            Ask::Verb(Verb::Whoami { reach }) => session::who_am_i(reach, environment, out),
            Ask::Verb(Verb::Tenants(verb)) => tenants::run(verb, environment, out),
            Ask::Verb(Verb::Users(verb)) => users::run(verb, environment, out),
            Ask::Verb(Verb::Status { reach }) => status::run(reach, environment, out),
            Ask::Verb(Verb::Query(query)) => query::run(query, environment, out),
            Ask::Verb(Verb::Rejects(rejects::Verb::List(list))) => rejects::run(list, environment, out),
            Ask::Keys(verb) => keys::run(verb, environment, out),
            Ask::Audit(audit::Verb::List(list)) => audit::run(list, environment, out),
        }
    }
}

/// Asks, prints to standard output what came of it, or to standard error why nothing did.
pub fn run(ask: &Ask) -> Exit {
    let output = if ask.reach().json { Output::Json } else { Output::Text };
    let mut stdout = io::stdout().lock();
    let mut out = Out::new(&mut stdout, output);
    let done = Environment::read(|name| std::env::var_os(name))
        .and_then(|environment| ask.carry_out(&environment, &mut out))
        .and_then(|()| Ok(stdout.flush()?));
    match done {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            // Where standard error is closed, the exit code has to say it alone.
            let _ = failure.print(&mut io::stderr(), output);
            failure.exit
        }
    }
}
