//! What was sent and not stored, newest first.

use clap::{Args, Subcommand};

use crate::client::Reach;
use crate::client::api::{Api, Target};
use crate::client::credentials::Environment;
use crate::client::failure::Failure;
use crate::client::output::{Column, Out};
use crate::client::pages::{self, Pages};

const LIST_EXAMPLES: &str = "\
Examples:
  ringlog rejects list --limit 20
  ringlog rejects list --source tcp --reason quota --since 2026-11-22T00:00:00Z
  ringlog rejects list --follow-pages --json";

const COLUMNS: [Column; 8] = [
    ("AT", "at"),
    ("SOURCE", "source"),
    ("REASON", "reason"),
    ("COUNT", "count"),
    ("KEY", "key_id"),
    ("REQUEST", "request_id"),
    ("MESSAGE", "message"),
    ("SAMPLE", "sample"),
];

/// Of rejects, what a server is asked.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// Read what was sent and not stored, newest first
    #[command(after_help = LIST_EXAMPLES)]
    List(List),
}

#[derive(Debug, PartialEq, Eq, Args)]
pub struct List {
    /// Refused for this reason, such as quota
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Of this source: tcp, syslog_tcp, syslog_udp, http, http_frame, otlp, shipper or api
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// From this moment on
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
    /// Up to this moment
    #[arg(long, value_name = "MOMENT")]
    until: Option<String>,
    /// asc or desc [default: desc]
    #[arg(long, value_name = "ORDER")]
    order: Option<String>,
    #[command(flatten)]
    pages: Pages,
    #[command(flatten)]
    pub reach: Reach,
}

pub fn run(list: &List, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    let api = Api::open(&list.reach, environment)?;
    let target = Target::new("/api/v1/rejects")
        .query("reason", list.reason.as_deref())
        .query("source", list.source.as_deref())
        .query("since", list.since.as_deref())
        .query("until", list.until.as_deref())
        .query("order", list.order.as_deref());
    pages::list(&api, &target, &list.pages, ("rejects", &COLUMNS), out)
}
