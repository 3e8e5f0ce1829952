//! Queries: parameters become a search, and its rows become an answer, in bites.
//!
//! Owns what the engine's search does not know: the payload filter with its own offset and limit, the cursor, and the
//! JSON. Must never: hold more than one bite of an answer.
//!
//! ```text
//! begin ─► step ─► Ask | Wait | Grown ─► step ... ─► Done       output: what leaves next
//! ```

use std::sync::Arc;

use ringlog_engine::event::FingerprintKey;
use ringlog_engine::event_id::EventIdKey;
use ringlog_engine::ids::{Position, Version};
use ringlog_engine::io::{DiskDone, DiskOp};
use ringlog_engine::query::active::{ActiveAnswer, ActiveRequest};
use ringlog_engine::query::{Rows, Search, SearchError, SearchStep};
use xxhash_rust::xxh3::xxh3_128;

use crate::auth::credentials::Credentials;
use crate::handle::routes::Access;
use crate::handle::sources::owner_of;
use crate::wire::answer::{EventView, EventsAnswer, PageEnd};
use crate::wire::http::Head;
use crate::wire::params::{CursorError, CursorKey, ParamError, ParamFault, QueryParams};
use crate::wire::response::{Chunks, ContentType, HeaderValue, ReplyTo, Response};
use crate::wire::status::{ErrorCode, Problem};

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    Events,
    /// Of the tenant that holds another's.
    Rejects,
}

/// What a server's queries have in common.
pub struct QueryKeys {
    pub cursor: CursorKey,
    pub event_id: EventIdKey,
    pub fingerprint: FingerprintKey,
}

/// What a query wants next.
#[derive(Debug)]
pub enum QueryStep {
    /// Pass this to the owner of the tenant's shard, and its answer to `owner_answered`.
    Ask(ActiveRequest),
    /// Disk operations or the owner's answer are under way.
    Wait,
    /// `output` may have grown.
    Grown,
    /// `output` is the rest.
    Done,
}

/// One query on its way.
pub struct QueryRun {
    pub access: Access,
    listing: Listing,
    params: QueryParams,
    search: Search,
    answer: Option<EventsAnswer>,
    filtering: Option<Filtering>,
    /// Of the last event in the answer.
    last_position: Option<Position>,
    entity_version: Option<Version>,
    /// JSON that has not been given out.
    output: Vec<u8>,
    if_none_match: Option<Vec<u8>>,
    /// Set once a part of the answer has left.
    chunks: Option<Chunks>,
}

/// The offset, limit and count of a query whose payload filter the engine knows nothing of.
#[derive(Debug, Clone, Copy)]
struct Filtering {
    skip: u64,
    want: usize,
    matched: u64,
    has_more: bool,
}

impl QueryRun {
    /// Reads the question. Nothing has been asked yet.
    pub fn begin(
        head: &Head<'_>,
        access: Access,
        credentials: &Credentials,
        keys: &QueryKeys,
        listing: Listing,
    ) -> Result<QueryRun, Problem> {
        let query = head.query().unwrap_or_default().as_bytes();
        let params = match listing {
            Listing::Events => QueryParams::parse(query, access.tenant),
            Listing::Rejects => QueryParams::parse_for_rejects(query, access.tenant),
        };
        let mut params = params.map_err(|error| refused(&error))?;
        let is_own =
            |name: &str| credentials.tenant_named(name).is_some_and(|row| row.number == owner_of(access.tenant));
        if params.tenant_id.as_deref().is_some_and(|name| !is_own(name)) {
            return Err(Problem::new(ErrorCode::TenantForbidden, "tenant_id is not the tenant of your credential")
                .text("param", "tenant_id"));
        }
        params.resume(&keys.cursor).map_err(|error| refused(&error))?;
        let mut spec = params.spec.clone();
        let filtering = params.payload_filter.as_ref().map(|_| {
            let filtering = Filtering { skip: spec.offset, want: spec.limit, matched: 0, has_more: false };
            spec.offset = 0;
            spec.limit = usize::MAX;
            filtering
        });
        let mut output = Vec::new();
        let member = if listing == Listing::Events { "events" } else { "rejects" };
        Ok(QueryRun {
            access,
            listing,
            params,
            search: Search::new(spec, keys.fingerprint),
            answer: Some(EventsAnswer::open(&mut output, member)),
            filtering,
            last_position: None,
            entity_version: None,
            output,
            if_none_match: head.if_none_match().map(<[u8]>::to_vec),
            chunks: None,
        })
    }

    /// Goes on as far as it can without waiting, or by one bite of rows.
    pub fn step(&mut self, keys: &QueryKeys, ops: &mut Vec<DiskOp>) -> Result<QueryStep, Problem> {
        if self.answer.is_none() {
            return Ok(QueryStep::Done);
        }
        match self.search.step(ops).map_err(failed)? {
            SearchStep::AskOwner(request) => Ok(QueryStep::Ask(request)),
            SearchStep::Wait => Ok(QueryStep::Wait),
            SearchStep::Rows(rows) => {
                self.render(&rows, keys);
                if self.filtering.is_some_and(|filtering| filtering.has_more) {
                    self.close(keys, true, None);
                    return Ok(QueryStep::Done);
                }
                Ok(QueryStep::Grown)
            }
            SearchStep::Done(summary) => {
                let total = match self.filtering {
                    // Everything was looked at, unless the question began in the middle.
                    Some(filtering) => self.params.spec.after.is_none().then_some(filtering.matched),
                    None => summary.total,
                };
                self.close(keys, summary.has_more, total);
                Ok(QueryStep::Done)
            }
        }
    }

    pub fn owner_answered(&mut self, answer: ActiveAnswer) {
        self.entity_version = answer.entity_version;
        self.search.owner_answered(answer);
    }

    pub fn disk_done(&mut self, done: DiskDone) {
        self.search.disk_done(done);
    }

    /// Bytes that wait to be given out.
    pub fn output_bytes(&self) -> usize {
        self.output.len()
    }

    pub fn has_begun_to_leave(&self) -> bool {
        self.chunks.is_some()
    }

    /// Appends what has come together so far as a piece of a stream, with the head before the first.
    pub fn put_piece(&mut self, out: &mut Vec<u8>, reply: &ReplyTo, is_last: bool) {
        let chunks = *self.chunks.get_or_insert_with(|| {
            let mut response = Response::begin(out, 200, reply);
            response.content_type(ContentType::Json);
            response.chunked()
        });
        chunks.push(out, &self.output);
        self.output.clear();
        if is_last {
            chunks.end(out);
        }
    }

    /// Appends the whole answer, which is small enough to be named: a client that has it already is told so.
    pub fn put_whole(&self, out: &mut Vec<u8>, reply: &ReplyTo) {
        let etag = format!("\"xxh3:{:032x}\"", xxh3_128(&self.output));
        let is_known = self.if_none_match.as_deref().is_some_and(|list| names(list, etag.as_bytes()));
        let mut response = Response::begin(out, if is_known { 304 } else { 200 }, reply);
        response.etag(&HeaderValue::new(etag).expect("hexadecimal digits in quotes"));
        if is_known {
            response.without_body();
        } else {
            response.content_type(ContentType::Json);
            response.with_body(&self.output);
        }
    }

    fn render(&mut self, rows: &Rows, keys: &QueryKeys) {
        let answer = self.answer.as_mut().expect("an answer is closed with its last step");
        let tenant_id = Arc::clone(&self.access.tenant_id);
        for row in rows.iter() {
            if let (Some(filter), Some(filtering)) = (&self.params.payload_filter, &mut self.filtering) {
                if !filter.matches(row.record.payload) {
                    continue;
                }
                filtering.matched += 1;
                if filtering.skip > 0 {
                    filtering.skip -= 1;
                    continue;
                }
                if filtering.want == 0 {
                    filtering.has_more = true;
                    return;
                }
                filtering.want -= 1;
            }
            self.last_position = Some(row.position);
            let id = keys.event_id.id(self.access.tenant, row.position, row.received_at);
            if self.listing == Listing::Rejects {
                answer.reject(&mut self.output, &id, row.timestamp, row.record.payload);
                continue;
            }
            answer.event(
                &mut self.output,
                &EventView {
                    id,
                    event_type: row.record.event_type,
                    entity: row.record.entity,
                    tenant_id: &tenant_id,
                    payload: row.record.payload,
                    timestamp: row.timestamp,
                    metadata: row.record.metadata,
                    version: row.version,
                    position: row.position,
                },
            );
        }
    }

    fn close(&mut self, keys: &QueryKeys, has_more: bool, total: Option<u64>) {
        let answer = self.answer.take().expect("closed once");
        let next_cursor =
            self.last_position.filter(|_| has_more).map(|position| self.params.cursor_after(&keys.cursor, position));
        let end = PageEnd {
            total_count: total,
            has_more,
            entity_version: self.entity_version.filter(|_| self.listing == Listing::Events),
            next_cursor: next_cursor.as_deref(),
        };
        answer.close(&mut self.output, &end);
    }
}

/// Whether an `If-None-Match` list has an entity tag: compared weakly, as RFC 9110 13.1.2 wants it.
fn names(list: &[u8], etag: &[u8]) -> bool {
    list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).any(|found| {
        let found = found.strip_prefix(b"W/").unwrap_or(found);
        found == b"*" || found == etag
    })
}

fn refused(error: &ParamError) -> Problem {
    let code = match error.fault {
        ParamFault::Cursor(CursorError::CursorMismatch) => ErrorCode::CursorMismatch,
        _ => ErrorCode::InvalidParameter,
    };
    Problem::new(code, error.to_string()).text("param", error.name.clone())
}

fn failed(error: SearchError) -> Problem {
    match error {
        SearchError::Damaged { .. } => Problem::new(ErrorCode::DataDamaged, error.to_string()),
        SearchError::Disk(_) => Problem::new(ErrorCode::Internal, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_found_in_its_list() {
        let etag = b"\"xxh3:00\"";
        for (list, expected) in [
            (&b"\"xxh3:00\""[..], true),
            (b"\"a\", W/\"xxh3:00\"", true),
            (b"*", true),
            (b"\"xxh3:01\"", false),
            (b"xxh3:00", false),
            (b"", false),
        ] {
            assert_eq!(names(list, etag), expected, "{}", String::from_utf8_lossy(list));
        }
    }
}
