//! Keys of a tenant, and of programs that act for a person. A new key is printed once, alone on its line.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::auth::secret::Secret;
use crate::client::Reach;
use crate::client::api::{Answer, Api, Target};
use crate::client::credentials::{Environment, Held, Stored};
use crate::client::failure::Failure;
use crate::client::output::{Column, Out, table};
use crate::client::prompt::confirm;

const COLUMNS: [Column; 6] = [
    ("NAME", "name"),
    ("KEY ID", "key_id"),
    ("ROLE", "role"),
    ("STATUS", "status"),
    ("CREATED", "created_at"),
    ("EXPIRES", "expires_at"),
];

const PROGRAMMATIC_COLUMNS: [Column; 8] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("PREFIX", "key_prefix"),
    ("WORKSPACE", "workspace_id"),
    ("PERMISSIONS", "permissions"),
    ("ACTIVE", "active"),
    ("LAST USED", "last_used_at"),
    ("EXPIRES", "expires_at"),
];

const CREATE_EXAMPLES: &str = "\
Examples:
  ringlog keys create prod-agent --role readonly
  ringlog keys create ci --role serviceaccount --expires-in-days 90 > ci.key
  RINGLOG_BOOTSTRAP_KEY=... ringlog keys create admin --role admin --tenant my-company-prod

The key goes to standard output and is shown this once.";

const PROGRAMMATIC_CREATE_EXAMPLES: &str = "\
Examples:
  ringlog keys programmatic create 'CI pipeline' --workspace ws-1 --expires-at 2026-12-31T23:59:59Z
  ringlog keys programmatic create dashboard --permission read --permission metrics

The key goes to standard output and is shown this once.";

/// Of keys, what a server is asked.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// List the tenant's keys
    #[command(after_help = "Example:\n  ringlog keys list --json")]
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Make a key and print it, once
    #[command(after_help = CREATE_EXAMPLES)]
    Create {
        /// What the key is called
        name: String,
        /// admin, developer, readonly or serviceaccount; never above your own
        #[arg(long)]
        role: String,
        /// When it ends by itself [default: never]
        #[arg(long, value_name = "DAYS")]
        expires_in_days: Option<u32>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Put a new key in a key's place and print it, once
    #[command(after_help = "Example:\n  ringlog keys rotate prod-agent --grace 3600 > prod-agent.key")]
    Rotate {
        /// What the key is called
        name: String,
        #[command(flatten)]
        grace: Grace,
        #[command(flatten)]
        reach: Reach,
    },
    /// End every key of a name
    #[command(after_help = "Example:\n  ringlog keys revoke prod-agent --yes")]
    Revoke {
        /// What the key is called
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Put a new key in the place of the one that asks, and print it, once
    #[command(after_help = "Example:\n  ringlog keys rotate-self --key-file old.key > new.key")]
    RotateSelf {
        #[command(flatten)]
        grace: Grace,
        #[command(flatten)]
        reach: Reach,
    },
    /// End the key that asks
    #[command(after_help = "Example:\n  ringlog keys revoke-self --key-file leaked.key --yes")]
    RevokeSelf {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Keys of programs that act for you
    #[command(subcommand)]
    Programmatic(Programmatic),
}

#[derive(Debug, PartialEq, Eq, Args)]
pub struct Grace {
    /// How long the old key goes on, at most 72 hours [default: not at all]
    #[arg(long = "grace", value_name = "SECONDS")]
    seconds: Option<u32>,
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Programmatic {
    /// List your keys
    #[command(after_help = "Example:\n  ringlog keys programmatic list")]
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// Make a key that can do what you can, or less, and print it, once
    #[command(after_help = PROGRAMMATIC_CREATE_EXAMPLES)]
    Create {
        /// What the key is called
        name: String,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
        /// Its workspace, ws-N [default: each of yours]
        #[arg(long, value_name = "ID")]
        workspace: Option<String>,
        /// One of the permissions that it has; may stand more than once [default: those of your role]
        #[arg(long = "permission", value_name = "PERMISSION")]
        permissions: Vec<String>,
        /// When it ends, at most a year from now [default: never]
        #[arg(long, value_name = "MOMENT")]
        expires_at: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// End a key
    #[command(after_help = "Example:\n  ringlog keys programmatic revoke key_0123456789abcdef01234567 --yes")]
    Revoke {
        /// The key's id, as the list has it
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        reach: Reach,
    },
}

impl Verb {
    pub fn reach(&self) -> &Reach {
        use Programmatic as P;
        match self {
            Verb::List { reach }
            | Verb::Create { reach, .. }
            | Verb::Rotate { reach, .. }
            | Verb::Revoke { reach, .. }
            | Verb::RotateSelf { reach, .. }
            | Verb::RevokeSelf { reach, .. }
            | Verb::Programmatic(P::List { reach } | P::Create { reach, .. } | P::Revoke { reach, .. }) => reach,
        }
    }
}

const KEYS: &str = "/api/v1/teams/agent-keys";
const SELF: &str = "/api/v1/auth/keys/self";
const PROGRAMMATIC: &str = "/api/v1/user/apikeys";

pub fn run(verb: &Verb, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    let api = Api::open(verb.reach(), environment)?;
    match verb {
        Verb::List { .. } => {
            let answer = api.get(&Target::new(KEYS))?;
            out.answer(&answer, |value| table(&COLUMNS, value["agent_keys"].as_array().into_iter().flatten()))
        }
        Verb::Create { name, role, expires_in_days, .. } => {
            let mut body = json!({ "name": name, "role": role });
            if let Some(days) = expires_in_days {
                body["expires_in_days"] = json!(days);
            }
            show_key(&api.post(&Target::new(KEYS), &body)?, out)
        }
        Verb::Rotate { name, grace, .. } => {
            show_key(&api.post(&Target::new(KEYS).part(name).then("/rotate"), &grace.body())?, out)
        }
        Verb::Revoke { name, yes, .. } => {
            confirm(&format!("Every key {name} ends at once."), name, *yes)?;
            let answer = api.delete(&Target::new(KEYS).part(name))?;
            out.done(&answer, &format!("key {name} is revoked"))
        }
        Verb::RotateSelf { grace, .. } => {
            let answer = api.post(&Target::new(SELF).then("/rotate"), &grace.body())?;
            // Shown first: if the file cannot be written, this is the only copy.
            show_key(&answer, out)?;
            if let Some(Held::Stored { stored, file }) = api.held() {
                let token = Secret::new(answer.text("key")?);
                file.lock()?.write(&Stored { token, ..stored.clone() })?;
                out.note(&format!("{} has the new key", file.path().display()));
            }
            Ok(())
        }
        Verb::RevokeSelf { yes, .. } => {
            confirm("The key that asks ends at once.", "revoke", *yes)?;
            let answer = api.delete(&Target::new(SELF))?;
            if let Some(Held::Stored { file, .. }) = api.held() {
                file.lock()?.remove()?;
            }
            out.done(&answer, "the key is revoked")
        }
        Verb::Programmatic(verb) => programmatic(verb, &api, out),
    }
}

fn programmatic(verb: &Programmatic, api: &Api, out: &mut Out<'_>) -> Result<(), Failure> {
    match verb {
        Programmatic::List { .. } => {
            let answer = api.get(&Target::new(PROGRAMMATIC))?;
            out.answer(&answer, |value| {
                table(&PROGRAMMATIC_COLUMNS, value["api_keys"].as_array().into_iter().flatten())
            })
        }
        Programmatic::Create { name, description, workspace, permissions, expires_at, .. } => {
            let mut body = json!({ "name": name });
            let named = [("description", description), ("workspace_id", workspace), ("expires_at", expires_at)];
            for (member, value) in named.into_iter().filter_map(|(member, value)| Some((member, value.as_ref()?))) {
                body[member] = json!(value);
            }
            if !permissions.is_empty() {
                body["permissions"] = json!(permissions);
            }
            show_key(&api.post(&Target::new(PROGRAMMATIC), &body)?, out)
        }
        Programmatic::Revoke { id, yes, .. } => {
            confirm(&format!("Key {id} ends at once."), id, *yes)?;
            let answer = api.delete(&Target::new(PROGRAMMATIC).part(id))?;
            out.done(&answer, &format!("key {id} is revoked"))
        }
    }
}

impl Grace {
    fn body(&self) -> serde_json::Value {
        match self.seconds {
            Some(seconds) => json!({ "grace_seconds": seconds }),
            None => json!({}),
        }
    }
}

fn show_key(answer: &Answer, out: &mut Out<'_>) -> Result<(), Failure> {
    let name = answer.text("name")?;
    out.secret(answer, "key", &format!("key {name}: keep it, it is not shown again"))
}
