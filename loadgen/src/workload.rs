//! What is sent, and what a good answer looks like.

use crate::corpus::{Corpus, Mark, Rng, Seq, entity_name};
use crate::ledger::{Ack, Tenant, id_hash};
use crate::protocol::http;
use crate::protocol::{Outcome, Protocol};
use serde::Deserialize;
use std::borrow::Cow;

/// How closely answers are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrutiny {
    /// The status alone.
    Status,
    /// That the answer speaks of as many events as were sent.
    Counts,
    /// Every id and version, for the ledger.
    Everything,
}

#[derive(Debug)]
pub enum Kind {
    Events { corpus: Corpus, batch_sizes: Vec<usize>, always_batch: bool },
    Query { entity_count: Option<u32>, limit: u32 },
    Raw { request: Vec<u8>, event_count: u32 },
}

#[derive(Debug)]
pub struct Workload {
    pub protocol: Protocol,
    pub kind: Kind,
    pub scrutiny: Scrutiny,
    connection_count: u32,
    heads: Vec<TenantHeads>,
}

/// Request heads up to the body's length, by tenant.
#[derive(Debug)]
struct TenantHeads {
    single: Vec<u8>,
    batch: Vec<u8>,
    /// From the path on: `GET` and the query string come before it.
    query: Vec<u8>,
}

/// One connection's place in the workload: the same seed, run and connection give the same requests.
#[derive(Debug)]
pub struct Stream {
    run: u16,
    connection: u32,
    request_count: u64,
    event_count: u64,
    rng: Rng,
    /// Of the request written last; kept only for the ledger.
    pub marks: Vec<Mark>,
}

#[derive(Debug, Clone, Copy)]
pub struct Written {
    pub tenant: u16,
    pub first_seq: Seq,
    pub event_count: u32,
}

impl Stream {
    pub fn new(seed: u64, run: u16, connection: u32) -> Self {
        let rng = Rng::stream(seed, run, connection);
        Self { run, connection, request_count: 0, event_count: 0, rng, marks: Vec::new() }
    }
}

impl Workload {
    pub fn new(
        kind: Kind,
        scrutiny: Scrutiny,
        connection_count: u32,
        host: &str,
        keys: &[Tenant],
        more: &[String],
    ) -> Self {
        let mut headers = vec!["content-type: application/json".to_owned()];
        headers.extend_from_slice(more);
        let heads = keys
            .iter()
            .map(|tenant| {
                let key = Some(tenant.key.as_str());
                let query = http::request_head("GET", "", host, key, more);
                TenantHeads {
                    single: http::request_head("POST", "/api/v1/events", host, key, &headers),
                    batch: http::request_head("POST", "/api/v1/events/batch", host, key, &headers),
                    query: query["GET ".len()..].to_vec(),
                }
            })
            .collect();
        Self { protocol: Protocol::Http, kind, scrutiny, connection_count, heads }
    }

    /// Appends the next request of `stream`.
    pub fn write(&self, stream: &mut Stream, out: &mut Vec<u8>) -> Written {
        // With fewer tenants than connections, each connection speaks for one tenant as real clients do;
        // with more, the connections take turns through all of them.
        let turn = u64::from(stream.connection) + stream.request_count * u64::from(self.connection_count);
        let tenant = (turn % self.heads.len().max(1) as u64) as u16;
        stream.request_count += 1;
        let first_seq = Seq::new(stream.run, stream.connection, stream.event_count);
        let mut event_count = 0;
        match &self.kind {
            Kind::Events { corpus, batch_sizes, always_batch } => {
                let count = match batch_sizes[..] {
                    [only] => only,
                    _ => batch_sizes[stream.rng.below(batch_sizes.len() as u64) as usize],
                };
                const OPEN: &[u8] = br#"{"events":["#;
                const CLOSE: &[u8] = b"]}";
                let heads = &self.heads[usize::from(tenant)];
                let is_batch = 1 < count || *always_batch;
                let chosen = corpus.choose(&mut stream.rng, count);
                stream.marks.clear();
                let marks = (self.scrutiny == Scrutiny::Everything).then_some(&mut stream.marks);
                if is_batch {
                    out.extend_from_slice(&heads.batch);
                    http::push_length_and_end(out, OPEN.len() + chosen.1 + CLOSE.len());
                    out.extend_from_slice(OPEN);
                    corpus.append(out, chosen, count, first_seq, &mut stream.rng, marks);
                    out.extend_from_slice(CLOSE);
                } else {
                    out.extend_from_slice(&heads.single);
                    http::push_length_and_end(out, chosen.1);
                    corpus.append(out, chosen, count, first_seq, &mut stream.rng, marks);
                }
                stream.event_count += count as u64;
                event_count = count as u32;
            }
            Kind::Query { entity_count, limit } => {
                let mut path = format!("GET /api/v1/events/query?order=desc&limit={limit}");
                if let Some(entity_count) = entity_count {
                    let entity = stream.rng.below(u64::from(*entity_count)) as u32;
                    path.push_str(&format!("&entity_id={}", entity_name(entity)));
                }
                out.extend_from_slice(path.as_bytes());
                out.extend_from_slice(&self.heads[usize::from(tenant)].query);
                out.extend_from_slice(b"\r\n");
            }
            Kind::Raw { request, event_count: count } => {
                out.extend_from_slice(request);
                event_count = *count;
            }
        }
        Written { tenant, first_seq, event_count }
    }

    /// Whether an answer is good; with [`Scrutiny::Everything`] fills `acks`. The error is its kind, for counting.
    pub fn judge(&self, sent: Written, outcome: &Outcome, body: &[u8], acks: &mut Vec<Ack>) -> Result<(), String> {
        acks.clear();
        let status = match outcome {
            Outcome::Good => return Ok(()),
            Outcome::Refused(kind) => return Err(kind.clone()),
            Outcome::Status(status) => *status,
        };
        if !(200..300).contains(&status) {
            return Err(status_kind(status, body));
        }
        match (self.scrutiny, &self.kind) {
            (Scrutiny::Status, _) | (_, Kind::Raw { .. }) => Ok(()),
            (_, Kind::Query { .. }) => {
                http::find(body, br#""events""#).map(|_| ()).ok_or_else(|| "answer without events".to_owned())
            }
            (Scrutiny::Counts, Kind::Events { .. }) if speaks_of(body, sent.event_count) => Ok(()),
            (_, Kind::Events { .. }) => read_acks(body, sent.event_count, acks),
        }
    }
}

#[derive(Deserialize)]
struct EventAck<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    version: u64,
}

#[derive(Deserialize)]
struct BatchAck<'a> {
    ingested: u32,
    #[serde(borrow)]
    events: Vec<EventAck<'a>>,
}

/// The quick look: the usual fields, found without parsing. Saying no is safe, the slow look follows.
fn speaks_of(body: &[u8], event_count: u32) -> bool {
    let Some(at) = http::find(body, br#""ingested":"#) else {
        return event_count == 1 && http::find(body, br#""event_id":""#).is_some();
    };
    let digits = body[at + br#""ingested":"#.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |sum, digit| (sum * 10 + u64::from(digit - b'0')).min(1 << 40)) == u64::from(event_count)
}

fn read_acks(body: &[u8], event_count: u32, acks: &mut Vec<Ack>) -> Result<(), String> {
    let mut push = |event: &EventAck<'_>| acks.push(Ack { id_hash: id_hash(&event.event_id), version: event.version });
    if let Ok(batch) = serde_json::from_slice::<BatchAck<'_>>(body) {
        if batch.ingested != event_count || batch.events.len() != event_count as usize {
            return Err("answer with another count of events".to_owned());
        }
        batch.events.iter().for_each(push);
        return Ok(());
    }
    match serde_json::from_slice::<EventAck<'_>>(body) {
        Ok(event) if event_count == 1 => {
            push(&event);
            Ok(())
        }
        _ => Err("answer that is no acknowledgement".to_owned()),
    }
}

/// `status 429 rate_limited`: the status and the error code that the body gives, if it gives one.
fn status_kind(status: u16, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct ErrorBody<'a> {
        #[serde(borrow)]
        error: Cow<'a, str>,
    }
    match serde_json::from_slice::<ErrorBody<'_>>(body) {
        // Codes are counted, sentences would fill the table.
        Ok(body) if body.error.len() <= 40 && !body.error.contains(' ') => format!("status {status} {}", body.error),
        _ => format!("status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(scrutiny: Scrutiny, batch_sizes: &[usize]) -> Workload {
        let batch_max = batch_sizes.iter().copied().max().unwrap_or(1);
        let kind = Kind::Events {
            corpus: Corpus::new(1, 220, 100, batch_max),
            batch_sizes: batch_sizes.to_vec(),
            always_batch: false,
        };
        let tenants = ["a", "b"].map(|name| Tenant { id: name.into(), key: format!("key-{name}") });
        Workload::new(kind, scrutiny, 2, "h", &tenants, &[])
    }

    fn written(event_count: u32) -> Written {
        Written { tenant: 0, first_seq: Seq(0), event_count }
    }

    #[test]
    fn the_same_seed_sends_the_same_requests() {
        let workload = events(Scrutiny::Counts, &[1, 10]);
        let send = |seed| {
            let (mut stream, mut out) = (Stream::new(seed, 0, 1), Vec::new());
            for _ in 0..50 {
                workload.write(&mut stream, &mut out);
            }
            out
        };
        assert_eq!(send(3), send(3));
        assert_ne!(send(3), send(4));
    }

    #[test]
    fn requests_are_http_with_the_right_length() {
        let workload = events(Scrutiny::Everything, &[1, 10, 500]);
        let mut stream = Stream::new(1, 0, 1);
        let mut sizes = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let mut out = Vec::new();
            let sent = workload.write(&mut stream, &mut out);
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
            assert!(head.contains("Bearer key-b"));
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            let count = json.get("events").map_or(1, |events| events.as_array().unwrap().len());
            assert_eq!((count, stream.marks.len()), (sent.event_count as usize, sent.event_count as usize));
            sizes.insert(count);
        }
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [1, 10, 500]);
    }

    #[test]
    fn answers_are_judged() {
        let quick = events(Scrutiny::Counts, &[1]);
        let thorough = events(Scrutiny::Everything, &[1]);
        let check = |count: u32, status: u16, body: &str, expected: Result<(), &str>| {
            for workload in [&quick, &thorough] {
                let judged = workload.judge(written(count), &Outcome::Status(status), body.as_bytes(), &mut Vec::new());
                assert_eq!(judged, expected.map_err(str::to_owned));
            }
        };
        check(1, 200, r#"{"event_id":"a","timestamp":"t","version":1}"#, Ok(()));
        check(1, 200, r#"{"total":1,"ingested":1,"events":[{"event_id":"a","version":1}]}"#, Ok(()));
        check(
            2,
            200,
            r#"{"ingested":1,"events":[{"event_id":"a","version":1}]}"#,
            Err("answer with another count of events"),
        );
        check(1, 200, "thanks", Err("answer that is no acknowledgement"));
        check(2, 200, r#"{"event_id":"a","version":1}"#, Err("answer that is no acknowledgement"));
        check(1, 429, r#"{"error":"rate_limited","message":"slow down"}"#, Err("status 429 rate_limited"));
        check(1, 500, r#"{"error":"Storage error: it broke"}"#, Err("status 500"));
        check(1, 503, "", Err("status 503"));
    }

    #[test]
    fn acknowledgements_keep_ids_and_versions() {
        let workload = events(Scrutiny::Everything, &[1]);
        let mut acks = Vec::new();
        let body = br#"{"ingested":2,"events":[{"event_id":"a","version":7},{"event_id":"b","version":9}]}"#;
        workload.judge(written(2), &Outcome::Status(200), body, &mut acks).unwrap();
        assert_eq!(acks, [Ack { id_hash: id_hash("a"), version: 7 }, Ack { id_hash: id_hash("b"), version: 9 }]);
    }
}
