//! Bodies of the sources over HTTP: from bytes in any of their forms to a batch, and from what became of it to an answer.
//!
//! Owns which body a route takes and the words in which its clients are refused. Must never: answer for a batch that is
//! not stored, or tell one surface's clients of a refusal in another's words.
//!
//! ```text
//! body ─► inflate ─► lines | frame | otlp | shipper | envelope ─► batch + Taken ─► .. ─► Taken::answer
//! ```

use std::net::IpAddr;

use ringlog_engine::event::{EventBatch, IdempotencyKey, KeyClass};
use ringlog_engine::event_id::EventIdKey;
use ringlog_engine::ids::Tenant;
use ringlog_engine::shard::Appended;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::auth::credentials::TENANTS_MAX;
use crate::handle::events::{self, Ids, Shape, StoredBatch};
use crate::limits::{
    BUFFER_KEPT_BYTES_MAX, EVENT_BYTES_MAX, IDEMPOTENCY_KEY_BYTES_MAX, INFLATED_BYTES_MAX, REJECT_SAMPLE_BYTES,
};
use crate::wire::envelope;
use crate::wire::frame::{self, Frame, FrameError};
use crate::wire::http::Head;
use crate::wire::inflate::{Encoding, Inflate};
use crate::wire::lines::answer::{in_words_of_v1, respond, respond_to_frame, respond_to_shipper};
use crate::wire::lines::{self, Lines, LinesError};
use crate::wire::otlp::{self, Outcome};
use crate::wire::params::ParamError;
use crate::wire::response::{Durability, ReplyTo};
use crate::wire::shipper::{self, Fields};
use crate::wire::status::{ErrorCode, Problem};

/// Where one surface begins, whose clients drop what they sent on any 4xx and try again on a 503.
pub const V1_PREFIX: &str = "/v1/";

/// What a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceEndpoint {
    /// `POST /api/v1/events` and `/batch`.
    Event,
    EventBatch,
    /// `POST /v1/events`, `/v1/logs` and `/v1/ingest`.
    Events,
    Logs,
    Frame,
    Otlp,
    Shipper,
}

/// What a body turned out to be, and so what its answer looks like.
#[derive(Debug)]
pub enum Taken {
    Envelope(Shape),
    Lines(Box<Lines>),
    Frame,
    Otlp(otlp::Encoding, Box<Outcome>),
    Shipper(Box<Lines>),
}

/// Why a body became nothing, and what of it is worth keeping as rejects.
#[derive(Debug)]
pub struct Refused {
    pub problem: Problem,
    pub lines: Option<Box<Lines>>,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Refused {
        Refused { problem, lines: None }
    }
}

impl From<LinesError> for Refused {
    fn from(error: LinesError) -> Refused {
        let problem = Problem::from(&error);
        let lines = match error {
            LinesError::NoGoodLine(lines) => Some(Box::new(lines)),
            _ => None,
        };
        Refused { problem, lines }
    }
}

/// Memory that a core keeps from body to body.
#[derive(Default)]
pub struct Scratch {
    envelope: envelope::Scratch,
    lines: lines::Scratch,
    frame: frame::Scratch,
    otlp: otlp::Scratch,
    inflate: Inflate,
    inflated: Vec<u8>,
}

/// A body with what is known of its request.
pub struct Body<'a> {
    pub endpoint: SourceEndpoint,
    pub head: &'a Head<'a>,
    pub bytes: &'a [u8],
    pub tenant_id: &'a str,
    /// Who sent it; behind a trusted proxy, for whom it was sent.
    pub client: IpAddr,
    /// The data directory's secret, for hashes that nobody can aim.
    pub seed: u64,
}

/// Fills an empty batch. `check_key` says whether a frame's own key may write where the request's does. `look` sees the body
/// as it was read, whatever became of it.
pub fn read(
    body: &Body<'_>,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
    check_key: impl FnOnce(&[u8; 16]) -> bool,
    look: impl FnOnce(&[u8], &Result<Taken, Refused>),
) -> Result<Taken, Refused> {
    let encoding = Encoding::of(body.head.content_encoding()).map_err(Problem::from)?;
    let mut inflated = std::mem::take(&mut scratch.inflated);
    inflated.clear();
    let bytes = match encoding {
        Encoding::Identity => body.bytes,
        packed => {
            let max = if body.endpoint == SourceEndpoint::Event { EVENT_BYTES_MAX } else { INFLATED_BYTES_MAX };
            let unpacked = scratch.inflate.decode(packed, body.bytes, &mut inflated, max);
            if let Err(error) = unpacked {
                scratch.keep(inflated);
                return Err(Problem::from(error).into());
            }
            &inflated
        }
    };
    let taken = take(body, bytes, scratch, batch, check_key).and_then(|taken| {
        if let Taken::Envelope(_) = taken
            && let Some(key) = idempotency_of(body)?
        {
            batch.set_idempotency(key);
        }
        Ok(taken)
    });
    look(bytes, &taken);
    scratch.keep(inflated);
    taken
}

impl Scratch {
    fn keep(&mut self, mut inflated: Vec<u8>) {
        inflated.clear();
        inflated.shrink_to(BUFFER_KEPT_BYTES_MAX);
        self.inflated = inflated;
    }
}

fn take(
    body: &Body<'_>,
    bytes: &[u8],
    scratch: &mut Scratch,
    batch: &mut EventBatch,
    check_key: impl FnOnce(&[u8; 16]) -> bool,
) -> Result<Taken, Refused> {
    let received = lines::Received { source_ip: body.client };
    match body.endpoint {
        SourceEndpoint::Event => {
            events::read(Shape::One, bytes, body.tenant_id, &mut scratch.envelope, batch)?;
            Ok(Taken::Envelope(Shape::One))
        }
        SourceEndpoint::EventBatch => {
            let shape = if has_lines(body.head) { Shape::Lines } else { Shape::Many };
            events::read(shape, bytes, body.tenant_id, &mut scratch.envelope, batch)?;
            Ok(Taken::Envelope(Shape::Many))
        }
        SourceEndpoint::Logs if otlp_encoding(body.head) == Some(otlp::Encoding::Protobuf) => {
            take_otlp(otlp::Encoding::Protobuf, bytes, body.client, scratch, batch)
        }
        SourceEndpoint::Otlp => {
            let encoding = otlp_encoding(body.head)
                .ok_or_else(|| Problem::unsupported_media_type("application/x-protobuf, application/json"))?;
            take_otlp(encoding, bytes, body.client, scratch, batch)
        }
        SourceEndpoint::Events => {
            let taken = lines::put(bytes, lines::Shape::Events, &received, &mut scratch.lines, batch)?;
            Ok(Taken::Lines(Box::new(taken)))
        }
        SourceEndpoint::Logs => {
            let taken = lines::put(bytes, lines::Shape::Logs, &received, &mut scratch.lines, batch)?;
            Ok(Taken::Lines(Box::new(taken)))
        }
        SourceEndpoint::Shipper => {
            let fields = Fields::parse(body.head.query()).map_err(|error| wrong_query(&error))?;
            let taken = shipper::put(bytes, &fields, &received, &mut scratch.lines, batch)?;
            Ok(Taken::Shipper(Box::new(taken)))
        }
        SourceEndpoint::Frame => {
            if !is_frame(body.head) {
                return Err(Problem::unsupported_media_type(FRAME_TYPES).into());
            }
            let frame = Frame::parse(bytes).map_err(|error| bad_frame(&error))?;
            if !check_key(&frame.key) {
                let message = "the key in the frame is not the one that the request is made with";
                return Err(Problem::new(ErrorCode::ApiKeyMismatch, message).into());
            }
            let received = frame::Received { source_kind: "http", peer: body.client, trust_source_ip: false };
            frame.put(&received, &mut scratch.frame, batch).map_err(|error| bad_frame(&error))?;
            if let Some(replay_key) = frame.replay_key(body.seed) {
                batch.set_idempotency(replay_key.idempotency(body.seed));
            }
            Ok(Taken::Frame)
        }
    }
}

/// The key of `Idempotency-Key`, scoped to the route, and the hash of the body as it was sent.
fn idempotency_of(body: &Body<'_>) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(key) = body.head.header("Idempotency-Key") else { return Ok(None) };
    if key.is_empty() || IDEMPOTENCY_KEY_BYTES_MAX < key.len() || !key.iter().all(u8::is_ascii_graphic) {
        let message = format!("Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible characters");
        return Err(Problem::new(ErrorCode::InvalidParameter, message).text("param", "Idempotency-Key"));
    }
    let route: &[u8] = match body.endpoint {
        SourceEndpoint::Event => b"event\0",
        _ => b"batch\0",
    };
    let key = xxh3_128_with_seed(&[route, key].concat(), body.seed).to_le_bytes();
    let body = xxh3_128_with_seed(body.bytes, body.seed).to_le_bytes();
    Ok(Some(IdempotencyKey { class: KeyClass::Request, key, body }))
}

fn take_otlp(
    encoding: otlp::Encoding,
    bytes: &[u8],
    client: IpAddr,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<Taken, Refused> {
    let outcome = otlp::parse_logs(encoding, bytes, Some(client), &mut scratch.otlp, batch);
    let outcome = outcome.map_err(|error| Problem::from(&error))?;
    Ok(Taken::Otlp(encoding, Box::new(outcome)))
}

const FRAME_TYPES: &str = "application/x-flatbuffers, application/octet-stream, application/x-tell";

fn is_frame(head: &Head<'_>) -> bool {
    let content_type = head.content_type().unwrap_or_default().trim_ascii();
    FRAME_TYPES
        .split(", ")
        .any(|known| content_type.get(..known.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(known.as_bytes())))
}

/// Whether a batch comes as lines: the media types that are in use for them.
pub fn has_lines(head: &Head<'_>) -> bool {
    let content_type = head.content_type().unwrap_or_default();
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    LINE_TYPES.iter().any(|known| essence.eq_ignore_ascii_case(known.as_bytes()))
}

const LINE_TYPES: [&str; 5] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/json-lines",
];

fn otlp_encoding(head: &Head<'_>) -> Option<otlp::Encoding> {
    otlp::Encoding::of_content_type(head.content_type().unwrap_or_default())
}

fn wrong_query(error: &ParamError) -> Problem {
    Problem::new(ErrorCode::InvalidParameter, error.to_string())
}

fn bad_frame(error: &FrameError) -> Problem {
    Problem::new(ErrorCode::InvalidFlatbuffer, error.to_string()).text("reason", error.reason())
}

impl Taken {
    /// Whether nothing of it is to be stored.
    pub fn is_answered_at_once(&self, batch: &EventBatch) -> bool {
        matches!(self, Taken::Otlp(..)) && batch.is_empty()
    }

    /// Appends the whole answer for a batch that was stored. `ids` is memory.
    pub fn answer(&self, out: &mut Vec<u8>, reply: &ReplyTo, stored: &Stored<'_>, key: &EventIdKey, ids: &mut Ids) {
        let &Stored { batch, appended, durability } = stored;
        match self {
            Taken::Envelope(shape) => {
                let stored = StoredBatch { shape: *shape, batch, appended, durability };
                events::answer(out, reply, &stored, key, ids);
            }
            Taken::Lines(lines) => respond(lines, out, reply, durability),
            Taken::Shipper(lines) => respond_to_shipper(lines, out, reply, durability),
            Taken::Frame => respond_to_frame(out, reply, durability),
            Taken::Otlp(encoding, outcome) => otlp::respond(out, reply, &[], *encoding, outcome),
        }
    }

    /// A refusal in the words of those who sent it.
    pub fn worded(&self, problem: Problem) -> Problem {
        match self {
            Taken::Envelope(_) | Taken::Shipper(_) => problem,
            Taken::Lines(_) | Taken::Frame => in_words_of_v1(problem),
            Taken::Otlp(encoding, _) => problem.in_otlp(*encoding),
        }
    }

    /// The shape in which the envelope's clients are told of a refusal.
    pub fn shape(&self) -> Shape {
        match self {
            Taken::Envelope(shape) => *shape,
            _ => Shape::Many,
        }
    }
}

/// A batch that was stored.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    pub batch: &'a EventBatch,
    pub appended: Appended,
    pub durability: Durability,
}

/// Set in the number of the tenant that holds another's rejects. No tenant's own number comes near it.
const SHADOW: u32 = 1 << 31;
const _: () = assert!(TENANTS_MAX <= SHADOW as usize);

/// The tenant that holds this one's rejects.
pub fn shadow_of(tenant: Tenant) -> Tenant {
    Tenant(tenant.0 | SHADOW)
}

/// Whose rejects a tenant holds; itself, if it holds none.
pub fn owner_of(tenant: Tenant) -> Tenant {
    Tenant(tenant.0 & !SHADOW)
}

/// Something that was sent and not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// One word.
    pub reason: &'static str,
    pub message: String,
    /// The beginning of what was sent, where it is text.
    pub sample: Option<String>,
    /// What it stands for: itself, or so many of its kind.
    pub count: u64,
}

/// What of a body goes to the tenant's rejects: lines and records one by one, a frame as a whole. A client of the envelope is
/// told of each refusal and stores its batch as a whole or not at all.
pub fn rejected(bytes: &[u8], outcome: &Result<Taken, Refused>) -> Vec<Reject> {
    let of_lines = |lines: &Lines| {
        let mut rejects: Vec<Reject> = lines
            .refused
            .iter()
            .map(|refused| Reject {
                reason: refused.fault.reason(),
                message: format!("line {}: {}", refused.line, refused.fault),
                sample: Some(clipped(&bytes[refused.span.clone()])),
                count: 1,
            })
            .collect();
        let unnamed = lines.rejected.saturating_sub(lines.refused.len());
        if let Some(last) = rejects.last_mut().filter(|_| 0 < unnamed) {
            last.count += unnamed as u64;
        }
        rejects
    };
    match outcome {
        Ok(Taken::Lines(lines) | Taken::Shipper(lines)) => of_lines(lines),
        Ok(Taken::Otlp(_, outcome)) => {
            let first = outcome.first_rejection.as_ref();
            first
                .map(|first| Reject {
                    reason: first.fault.reason(),
                    message: first.to_string(),
                    sample: None,
                    count: outcome.rejected_count as u64,
                })
                .into_iter()
                .collect()
        }
        Ok(Taken::Envelope(_) | Taken::Frame) => Vec::new(),
        Err(Refused { lines: Some(lines), .. }) => of_lines(lines),
        Err(Refused { problem, lines: None }) => match problem.code() {
            ErrorCode::InvalidFlatbuffer | ErrorCode::ParseError | ErrorCode::BodyTooLarge => {
                let (reason, message) = (problem.code().as_str(), problem.message().to_owned());
                vec![Reject { reason, message, sample: None, count: 1 }]
            }
            _ => Vec::new(),
        },
    }
}

/// The beginning of what was sent, as text.
fn clipped(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(REJECT_SAMPLE_BYTES)]).into_owned()
}

/// A refusal in the words of those who asked for this path.
pub fn worded(problem: Problem, head: &Head<'_>) -> Problem {
    let path = head.path();
    let is_otlp =
        path == "/otlp/v1/logs" || (path == "/v1/logs" && otlp_encoding(head) == Some(otlp::Encoding::Protobuf));
    if is_otlp {
        problem.in_otlp(otlp_encoding(head).unwrap_or(otlp::Encoding::Json))
    } else if path.starts_with(V1_PREFIX) {
        in_words_of_v1(problem)
    } else {
        problem
    }
}
