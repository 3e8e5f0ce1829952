//! How the server is.

use ringlog_engine::ids::ShardNumber;
use ringlog_engine::shard::Durability;
use serde::Serialize;

use crate::wire::response::{ContentType, HeaderValue, ReplyTo, Response};

/// What a core knows of its server.
#[derive(Debug, Clone, Copy)]
pub struct Health<'a> {
    pub version: &'a str,
    pub uptime_secs: u64,
    pub durability: Durability,
    pub io: &'a str,
    /// Shards that take no events.
    pub read_only_shards: &'a [ShardNumber],
}

impl Health<'_> {
    /// As it is configured.
    pub fn durability_text(&self) -> String {
        match self.durability {
            Durability::Commit => "commit".to_owned(),
            Durability::Interval { every_us } => format!("interval:{}ms", every_us / 1000),
            Durability::Memory => "memory".to_owned(),
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    status: &'static str,
    version: &'a str,
    uptime_secs: u64,
    durability: String,
    io: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    read_only_shards: Vec<u32>,
}

/// Appends the whole answer. A server that has lost a shard still serves the others: it lives, and says so.
pub fn answer(out: &mut Vec<u8>, reply: &ReplyTo, health: &Health<'_>) {
    let body = Body {
        status: if health.read_only_shards.is_empty() { "healthy" } else { "degraded" },
        version: health.version,
        uptime_secs: health.uptime_secs,
        durability: health.durability_text(),
        io: health.io,
        read_only_shards: health.read_only_shards.iter().map(|shard| shard.0).collect(),
    };
    put(out, reply, &serde_json::to_vec(&body).expect("strings and numbers are JSON"));
}

/// Appends the whole answer of a server that accepts requests: it would not have been asked otherwise.
pub fn answer_ready(out: &mut Vec<u8>, reply: &ReplyTo) {
    put(out, reply, b"{\"status\":\"ready\"}");
}

fn put(out: &mut Vec<u8>, reply: &ReplyTo, body: &[u8]) {
    let mut response = Response::begin(out, 200, reply);
    response.content_type(ContentType::Json).header("Cache-Control", &HeaderValue::from_static("no-store"));
    response.with_body(body);
}
