//! The audit log, newest first.

use clap::{Args, Subcommand};

use crate::client::Reach;
use crate::client::api::{Api, Target};
use crate::client::credentials::Environment;
use crate::client::failure::Failure;
use crate::client::output::{Column, Out};
use crate::client::pages::{self, Pages};

const LIST_EXAMPLES: &str = "\
Examples:
  ringlog audit list --since 2026-11-22T00:00:00Z
  ringlog audit list --action permission_denied --actor user:1
  ringlog audit list --follow-pages --json

A page looks at a bounded part of the log: a short one need not be the last.";

const COLUMNS: [Column; 7] = [
    ("AT", "at"),
    ("ACTOR", "actor"),
    ("ACTION", "action"),
    ("OUTCOME", "outcome"),
    ("TARGET", "target"),
    ("TENANT", "tenant_id"),
    ("SOURCE", "source"),
];

/// Of the audit log, what a server is asked.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// Read who did what, newest first
    #[command(after_help = LIST_EXAMPLES)]
    List(List),
}

#[derive(Debug, PartialEq, Eq, Args)]
pub struct List {
    /// From this moment on
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
    /// Up to this moment
    #[arg(long, value_name = "MOMENT")]
    until: Option<String>,
    /// server, anonymous, key:N or user:N
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// A kind of change, such as key_minted
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    #[command(flatten)]
    pages: Pages,
    #[command(flatten)]
    pub reach: Reach,
}

pub fn run(list: &List, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    let api = Api::open(&list.reach, environment)?;
    let target = Target::new("/api/v1/audit/events")
        .query("since", list.since.as_deref())
        .query("until", list.until.as_deref())
        .query("actor", list.actor.as_deref())
        .query("action", list.action.as_deref());
    pages::list(&api, &target, &list.pages, ("events", &COLUMNS), out)
}
