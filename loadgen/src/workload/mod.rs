//! What is sent, and what a good answer looks like. Everything that can be is rendered before the first request.

pub mod judge;
pub mod mix;
pub mod template;

use crate::corpus::distribution::Choice;
use crate::corpus::{Corpus, EVENT_TYPES, Mark, Rng, Seq, entity_name};
use crate::ledger::{Ack, Tenant};
use crate::protocol::http::{push_length_and_end, request_head};
use crate::protocol::{Outcome, Protocol};
use crate::source::Made;
use judge::Expected;
use mix::{Mix, Query, Shape};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use template::Template;

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

/// A request of the user's own.
#[derive(Debug)]
pub struct Raw {
    /// Method, path, headers: everything but the body's length.
    pub head: Template,
    pub body: RawBody,
    /// How many events it counts for.
    pub event_count: u32,
}

#[derive(Debug)]
pub enum RawBody {
    Text(Template),
    /// Of one of so many entities each event.
    Made {
        made: Made,
        entities: u32,
    },
}

impl RawBody {
    pub fn needs_events(&self) -> bool {
        matches!(self, Self::Text(text) if text.needs_events())
    }

    fn is_constant(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_constant())
    }
}

/// What the requests are made of, as the command line has it.
#[derive(Debug)]
pub struct Recipe {
    pub mix: Mix,
    pub corpus: Option<Corpus>,
    pub raw: Option<Raw>,
    pub query_limit: u32,
    pub window: Duration,
    pub lines_path: String,
    pub lines_type: String,
    pub headers: Vec<String>,
    /// Which tenant a request is of; `None`: connections take turns.
    pub tenant_choice: Option<Choice>,
}

#[derive(Debug)]
pub struct Workload {
    pub protocol: Protocol,
    pub scrutiny: Scrutiny,
    pub recipe: Recipe,
    /// A raw request that is always the same, whole.
    constant: Option<Vec<u8>>,
    connection_count: u32,
    heads: Vec<TenantHeads>,
}

/// Request heads up to the body's length, by tenant.
#[derive(Debug)]
struct TenantHeads {
    single: Vec<u8>,
    batch: Vec<u8>,
    lines: Vec<u8>,
    /// From behind the query string on.
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
    scratch: Vec<u8>,
    /// Of the request written last; kept only for the ledger.
    pub marks: Vec<Mark>,
}

#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Which kind of the mix.
    pub operation: u8,
    pub tenant: u16,
    pub event_count: u32,
    pub first_seq: Seq,
}

impl Stream {
    pub fn new(seed: u64, run: u16, connection: u32) -> Self {
        let rng = Rng::stream(seed, run, connection);
        Self { run, connection, request_count: 0, event_count: 0, rng, scratch: Vec::new(), marks: Vec::new() }
    }

    /// The number of its connection in the run.
    pub fn connection(&self) -> u32 {
        self.connection
    }
}

impl Workload {
    pub fn new(
        protocol: Protocol,
        recipe: Recipe,
        scrutiny: Scrutiny,
        connection_count: u32,
        host: &str,
        keys: &[Tenant],
    ) -> Self {
        let with_type = |name: &str| {
            let mut headers = vec![format!("content-type: {name}")];
            headers.extend_from_slice(&recipe.headers);
            headers
        };
        let json = with_type("application/json");
        let lines = with_type(&recipe.lines_type);
        let heads = keys
            .iter()
            .map(|tenant| {
                let key = Some(tenant.key.as_str());
                let query = request_head("GET", "", host, key, &recipe.headers);
                TenantHeads {
                    single: request_head("POST", "/api/v1/events", host, key, &json),
                    batch: request_head("POST", "/api/v1/events/batch", host, key, &json),
                    lines: request_head("POST", &recipe.lines_path, host, key, &lines),
                    query: query["GET ".len()..].to_vec(),
                }
            })
            .collect();
        let constant = recipe.raw.as_ref().filter(|raw| raw.head.is_constant() && raw.body.is_constant()).map(|raw| {
            let mut whole = Vec::new();
            raw.append(&mut whole, Seq(0), None, &mut Rng::new(0), &mut Vec::new());
            whole
        });
        Self { protocol, scrutiny, recipe, constant, connection_count, heads }
    }

    /// What a rate counts: events of a request, or 1 where requests themselves are counted.
    pub fn rate_units_per_request(&self) -> f64 {
        let raw_events = self.recipe.raw.as_ref().map_or(1, |raw| raw.event_count);
        if self.recipe.mix.has_queries() { 1.0 } else { self.recipe.mix.events_per_request(raw_events) }
    }

    /// Appends the next request of `stream`.
    pub fn write(&self, stream: &mut Stream, out: &mut Vec<u8>) -> Written {
        let recipe = &self.recipe;
        let operation = recipe.mix.draw(&mut stream.rng);
        let tenant = match &recipe.tenant_choice {
            Some(choice) => choice.draw(&mut stream.rng) as u16,
            None => self.turn_of(stream),
        };
        stream.request_count += 1;
        stream.marks.clear();
        let first_seq = Seq::new(stream.run, stream.connection, stream.event_count);
        let shape = &recipe.mix.operations[operation].shape;
        let event_count = match (shape, &recipe.corpus) {
            (Shape::Single, Some(corpus)) => self.write_events(corpus, Form::Single, 1, tenant, stream, out),
            (Shape::Batch(sizes), Some(corpus)) => {
                let count = pick(sizes, &mut stream.rng);
                self.write_events(corpus, Form::Batch, count, tenant, stream, out)
            }
            (Shape::Lines(sizes), Some(corpus)) => {
                let count = pick(sizes, &mut stream.rng);
                self.write_events(corpus, Form::Lines, count, tenant, stream, out)
            }
            (Shape::Query(query), _) => {
                self.write_query(*query, tenant, stream, out);
                0
            }
            (Shape::Raw, _) => self.write_raw(first_seq, stream, out),
            (Shape::Single | Shape::Batch(_) | Shape::Lines(_), None) => {
                unreachable!("a mix with events is made with a corpus")
            }
        };
        Written { operation: operation as u8, tenant, event_count, first_seq }
    }

    /// With fewer tenants than connections, each connection speaks for one tenant as real clients do;
    /// with more, the connections take turns through all of them.
    fn turn_of(&self, stream: &Stream) -> u16 {
        if self.heads.len() < 2 {
            return 0;
        }
        let turn = u64::from(stream.connection) + stream.request_count * u64::from(self.connection_count);
        (turn % self.heads.len() as u64) as u16
    }

    fn write_events(
        &self,
        corpus: &Corpus,
        form: Form,
        count: usize,
        tenant: u16,
        stream: &mut Stream,
        out: &mut Vec<u8>,
    ) -> u32 {
        const OPEN: &[u8] = br#"{"events":["#;
        const CLOSE: &[u8] = b"]}";
        let first_seq = Seq::new(stream.run, stream.connection, stream.event_count);
        stream.event_count += count as u64;
        let chosen = corpus.choose(&mut stream.rng, count);
        let marks = (self.scrutiny == Scrutiny::Everything).then_some(&mut stream.marks);
        if !matches!(self.protocol, Protocol::Http) {
            stream.scratch.clear();
            corpus.append(&mut stream.scratch, chosen, count, first_seq, &mut stream.rng, marks);
            let events = corpus.events(&stream.scratch, chosen.0, count);
            self.protocol.write_events(stream.connection, tenant, events, out);
            return count as u32;
        }
        let heads = &self.heads[usize::from(tenant)];
        let (head, more_bytes) = match form {
            Form::Single => (&heads.single, 0),
            Form::Batch => (&heads.batch, OPEN.len() + CLOSE.len()),
            Form::Lines => (&heads.lines, 1),
        };
        out.extend_from_slice(head);
        push_length_and_end(out, chosen.1 + more_bytes);
        if form == Form::Batch {
            out.extend_from_slice(OPEN);
        }
        let base = out.len();
        corpus.append(out, chosen, count, first_seq, &mut stream.rng, marks);
        match form {
            Form::Single => {}
            Form::Batch => out.extend_from_slice(CLOSE),
            Form::Lines => {
                corpus.part_with(&mut out[base..], chosen.0, count, b'\n');
                out.push(b'\n');
            }
        }
        count as u32
    }

    fn write_query(&self, query: Query, tenant: u16, stream: &mut Stream, out: &mut Vec<u8>) {
        let mut path = format!("GET /api/v1/events/query?order=desc&limit={}", self.recipe.query_limit);
        match query {
            Query::Newest => {}
            Query::ByType => {
                let event_type = EVENT_TYPES[stream.rng.below(EVENT_TYPES.len() as u64) as usize];
                path.push_str("&event_type=");
                path.push_str(event_type);
            }
            Query::ByEntity => {
                let entity = self.recipe.corpus.as_ref().map_or(0, |corpus| corpus.draw_entity(&mut stream.rng));
                path.push_str("&entity_id=");
                path.push_str(&entity_name(entity));
            }
            Query::Window => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                path.push_str("&since=");
                path.push_str(&rfc3339(now.saturating_sub(self.recipe.window)));
                path.push_str("&until=");
                path.push_str(&rfc3339(now));
            }
        }
        out.extend_from_slice(path.as_bytes());
        out.extend_from_slice(&self.heads[usize::from(tenant)].query);
        out.extend_from_slice(b"\r\n");
    }

    fn write_raw(&self, seq: Seq, stream: &mut Stream, out: &mut Vec<u8>) -> u32 {
        let Some(raw) = &self.recipe.raw else { unreachable!("a raw mix is made with a request") };
        // Each request is one step of the sequence, however many events it counts for, but where they are numbered.
        stream.event_count += match &raw.body {
            RawBody::Text(_) => 1,
            RawBody::Made { made, .. } => made.event_count() as u64,
        };
        match &self.constant {
            Some(whole) => out.extend_from_slice(whole),
            None => raw.append(out, seq, self.recipe.corpus.as_ref(), &mut stream.rng, &mut stream.scratch),
        }
        raw.event_count
    }

    /// Whether an answer is good; with [`Scrutiny::Everything`] fills `acks`. The error is its kind, for counting.
    pub fn judge(&self, sent: Written, outcome: &Outcome, body: &[u8], acks: &mut Vec<Ack>) -> Result<(), String> {
        acks.clear();
        let status = match outcome {
            Outcome::Good => return Ok(()),
            Outcome::Refused(kind) => return Err(kind.clone()),
            Outcome::Status(status) => *status,
        };
        let expected = match self.recipe.mix.operations[usize::from(sent.operation)].shape {
            Shape::Raw => Expected::Anything,
            Shape::Query(_) => Expected::Page,
            Shape::Single | Shape::Batch(_) | Shape::Lines(_) => Expected::Events(sent.event_count),
        };
        judge::judge(self.scrutiny, expected, status, body, acks)
    }
}

impl Raw {
    fn append(&self, out: &mut Vec<u8>, seq: Seq, corpus: Option<&Corpus>, rng: &mut Rng, scratch: &mut Vec<u8>) {
        self.head.render(out, seq, corpus, rng);
        scratch.clear();
        match &self.body {
            RawBody::Text(text) => text.render(scratch, seq, corpus, rng),
            RawBody::Made { made, entities } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                // No batch has the number 0.
                made.append(scratch, seq.0 + 1, seq, now, || rng.below(u64::from(*entities)) as u32);
            }
        }
        push_length_and_end(out, scratch.len());
        out.extend_from_slice(scratch);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Single,
    Batch,
    Lines,
}

fn pick(sizes: &[usize], rng: &mut Rng) -> usize {
    match sizes {
        [only] => *only,
        _ => sizes[rng.below(sizes.len() as u64) as usize],
    }
}

/// A moment as query strings take it, in UTC to the millisecond.
fn rfc3339(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (days, of_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Days since 0000-03-01, so that the leap day is the last of its year (Hinnant, chrono-compatible date algorithms).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_1970.subsec_millis()
    )
}

#[cfg(test)]
mod tests;
