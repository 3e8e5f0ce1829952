//! Events of a tenant.

use clap::Args;

use crate::client::Reach;
use crate::client::api::{Api, Target};
use crate::client::credentials::Environment;
use crate::client::failure::Failure;
use crate::client::output::{Column, Out};
use crate::client::pages::{self, Pages};

pub const EXAMPLES: &str = "\
Examples:
  ringlog query --type user.action --limit 10 --order desc
  ringlog query --entity user-123 --json
  ringlog query --type-prefix order. --since 2026-11-22T00:00:00Z --follow-pages --json";

/// Of a page, where nothing is said: a few screens.
const LIMIT_DEFAULT: u32 = 100;

const COLUMNS: [Column; 5] = [
    ("TIMESTAMP", "timestamp"),
    ("EVENT TYPE", "event_type"),
    ("ENTITY", "entity_id"),
    ("VERSION", "version"),
    ("PAYLOAD", "payload"),
];

#[derive(Debug, PartialEq, Eq, Args)]
pub struct Query {
    /// Events of this type
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "type_prefix")]
    event_type: Option<String>,
    /// Events whose type begins with this
    #[arg(long, value_name = "PREFIX")]
    type_prefix: Option<String>,
    /// Events of this entity
    #[arg(long, value_name = "ID")]
    entity: Option<String>,
    /// From this moment on
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
    /// Up to this moment
    #[arg(long, value_name = "MOMENT")]
    until: Option<String>,
    /// Members that the payload must have, as a JSON object
    #[arg(long, value_name = "JSON")]
    payload_filter: Option<String>,
    /// asc or desc [default: asc]
    #[arg(long, value_name = "ORDER")]
    order: Option<String>,
    #[command(flatten)]
    pages: Pages,
    #[command(flatten)]
    pub reach: Reach,
}

pub fn run(query: &Query, environment: &Environment, out: &mut Out<'_>) -> Result<(), Failure> {
    let api = Api::open(&query.reach, environment)?;
    let target = Target::new("/api/v1/events/query")
        .query("event_type", query.event_type.as_deref())
        .query("event_type_prefix", query.type_prefix.as_deref())
        .query("entity_id", query.entity.as_deref())
        .query("since", query.since.as_deref())
        .query("until", query.until.as_deref())
        .query("payload_filter", query.payload_filter.as_deref())
        .query("order", query.order.as_deref());
    let pages = Pages { limit: Some(query.pages.limit.unwrap_or(LIMIT_DEFAULT)), ..query.pages.clone() };
    pages::list(&api, &target, &pages, ("events", &COLUMNS), out)
}
