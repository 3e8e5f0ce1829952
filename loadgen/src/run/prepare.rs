//! What is done once, before the first point is measured: the server is reached, tenants and payloads are made.

use super::check::check;
use super::target_of;
use crate::cli::RunArgs;
use crate::client::Client;
use crate::corpus::distribution::{Choice, Sizes};
use crate::corpus::{Corpus, Seq};
use crate::failure::Failure;
use crate::ledger::{Ledger, LedgerFile, LedgerWriter, Tenant};
use crate::probe;
use crate::protocol::Protocol;
use crate::protocol::http::request_head;
use crate::result::Server;
use crate::ring;
use crate::source;
use crate::target::Target;
use crate::tenants;
use crate::workload::mix::{Mix, Query, Shape};
use crate::workload::template::Template;
use crate::workload::{Raw, RawBody, Recipe, Scrutiny, Workload};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// A server that does not say who it is within this time is measured all the same.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);
/// Keys that are tried out before the run.
const KEYS_TRIED_MAX: usize = 16;
/// In a frame, where none is given.
const NO_KEY: &str = "00000000000000000000000000000000";
/// Between two attempts to reach a server that is not up yet.
const REACH_AGAIN: Duration = Duration::from_millis(50);

/// Everything that points have in common. [`Prepared::measure`] may be called again and again.
#[derive(Debug)]
pub struct Prepared {
    pub(super) args: RunArgs,
    pub(super) target: Target,
    pub(super) workload: Arc<Workload>,
    pub(super) server: Server,
    pub(super) event_bytes: usize,
    pub(super) run_number: u16,
    pub(super) ledger: Option<LedgerFile>,
    pub(super) stops: Arc<AtomicBool>,
}

impl Prepared {
    pub fn new(args: &RunArgs) -> Result<Self, Failure> {
        check(args)?;
        if !args.cpus.is_empty() {
            ring::pin(&args.cpus)?;
        }
        let target = target_of(&args.target)?;
        let protocol = target.protocol()?;
        let recipe = recipe_of(args, &target)?;
        if !matches!(protocol, Protocol::Http)
            && recipe.mix.operations.iter().any(|operation| !matches!(operation.shape, Shape::Single | Shape::Batch(_)))
        {
            return Err(Failure::Usage("only single and batch are spoken to servers without HTTP".to_owned()));
        }
        if args.ledger.is_some() && !recipe.mix.operations.iter().any(|operation| operation.carries_events()) {
            return Err(Failure::Usage("--ledger notes events, and this mix sends none".to_owned()));
        }
        // What cannot be read later is better known now.
        args.server_pid.map(probe::process_cpu_us).transpose()?;
        args.device.as_deref().map(probe::device_flushes).transpose()?;
        let ledger = args.ledger.as_deref().map(LedgerFile::open).transpose()?;
        let run_number = ledger.as_ref().map_or(0, |(_, known)| known.run_count);
        let scrutiny = match (args.accept_any_2xx || args.raw.is_some(), &ledger) {
            (true, _) => Scrutiny::Status,
            (false, Some(_)) => Scrutiny::Everything,
            (false, None) => Scrutiny::Counts,
        };
        let (server, tenants) = ring::block_on(introduce(
            args,
            &target,
            &protocol,
            ledger.as_ref().map(|(file, known)| (file.writer(), known)),
        ))??;
        let event_bytes = recipe.corpus.as_ref().map_or(args.event_bytes, Corpus::event_bytes_mean);
        let mut recipe = recipe;
        if let Some(skew) = &args.tenant_skew {
            recipe.tenant_choice = Some(Choice::parse("--tenant-skew", skew, tenants.len().max(1) as u64)?);
        }
        let workload = Workload::new(protocol, recipe, scrutiny, args.connections, target.host(), &tenants);
        Ok(Self {
            args: args.clone(),
            target,
            workload: Arc::new(workload),
            server,
            event_bytes,
            run_number,
            ledger: ledger.map(|(file, _)| file),
            stops: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Set it, and the point that is being measured ends early and says so; so does every later one.
    pub fn stops(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stops)
    }

    /// What a rate counts, here: `events`, or `requests` once there are some without events.
    pub fn rate_unit(&self) -> &'static str {
        if self.workload.recipe.mix.has_queries() { "requests" } else { "events" }
    }

    /// The number of the next point, which makes its sequence numbers unique.
    pub(super) fn next_run(&mut self) -> Result<u16, Failure> {
        let run = self.run_number;
        if Seq::RUN_MAX < run {
            return Err(Failure::Usage("this ledger has seen too many runs: begin another".to_owned()));
        }
        self.run_number += 1;
        Ok(run)
    }
}

fn recipe_of(args: &RunArgs, target: &Target) -> Result<Recipe, Failure> {
    let sizes = match &args.event_size {
        Some(text) => Sizes::parse(text)?,
        None => Sizes::around(args.event_bytes)?,
    };
    let mix = mix_of(args)?;
    let raw = args.raw.as_deref().map(|raw| raw_of(args, raw, target)).transpose()?;
    let entities = Choice::parse("--entity-skew", &args.entity_skew, u64::from(args.entities))?;
    if let Some(skew) = &args.tenant_skew {
        // The number of tenants is not known yet; that it makes sense is.
        Choice::parse("--tenant-skew", skew, 1)?;
    }
    let batch_max = mix.operations.iter().map(|operation| match &operation.shape {
        Shape::Batch(sizes) | Shape::Lines(sizes) => sizes.iter().copied().max().unwrap_or(1),
        Shape::Single | Shape::Query(_) | Shape::Raw => 1,
    });
    let corpus = Corpus::new(args.seed, &sizes, entities, batch_max.max().unwrap_or(1));
    let needs_corpus = match &raw {
        Some(raw) => raw.head.needs_events() || raw.body.needs_events(),
        None => true,
    };
    Ok(Recipe {
        mix,
        corpus: needs_corpus.then_some(corpus),
        raw,
        query_limit: args.query_limit,
        window: Duration::from_secs_f64(args.window),
        lines_path: args.lines_path.clone(),
        lines_type: args.lines_type.clone(),
        headers: args.header.clone(),
        tenant_choice: None,
    })
}

fn mix_of(args: &RunArgs) -> Result<Mix, Failure> {
    if args.raw.is_some() {
        return Ok(Mix::only("raw", Shape::Raw));
    }
    if args.query {
        return Ok(match args.query_entity {
            true => Mix::only("by-entity", Shape::Query(Query::ByEntity)),
            false => Mix::only("newest", Shape::Query(Query::Newest)),
        });
    }
    let Some(text) = &args.mix else {
        let sizes = if args.batch.is_empty() { &[1][..] } else { &args.batch };
        return Ok(Mix::of_events(sizes, args.always_batch));
    };
    let mix = Mix::parse(text, &args.batch)?;
    let has_batches =
        mix.operations.iter().any(|operation| matches!(operation.shape, Shape::Batch(_) | Shape::Lines(_)));
    if !args.batch.is_empty() && !has_batches {
        return Err(Failure::Usage(format!("--batch has no use in --mix {text}: it has neither batch nor lines")));
    }
    Ok(mix)
}

fn raw_of(args: &RunArgs, raw: &[String], target: &Target) -> Result<Raw, Failure> {
    let body = match (&args.body, &args.body_text) {
        (Some(path), _) => std::fs::read(path).map_err(Failure::io(format!("--body {}", path.display())))?,
        (None, Some(text)) => text.clone().into_bytes(),
        (None, None) => Vec::new(),
    };
    let key = args.key.first().map(String::as_str);
    let head = request_head(&raw[0], &raw[1], target.host(), key, &args.header);
    let parse = |from: &str, text: &[u8]| {
        if args.verbatim { Ok(Template::verbatim(text)) } else { Template::parse(from, text) }
    };
    let event_count = args.batch.first().copied().unwrap_or(1);
    let body = match args.made {
        Some(kind) => {
            let key =
                source::frame::key_bytes(args.streaming_key.as_deref().unwrap_or(NO_KEY)).map_err(Failure::Usage)?;
            RawBody::Made { made: kind.make(&key, event_count, args.event_bytes), entities: args.entities }
        }
        None => RawBody::Text(parse("--body", &body)?),
    };
    Ok(Raw { head: parse("--raw and --header", &head)?, body, event_count: event_count as u32 })
}

/// Reaches the server, learns who it is, and gets the tenants.
async fn introduce(
    args: &RunArgs,
    target: &Target,
    protocol: &Protocol,
    ledger: Option<(LedgerWriter, &Ledger)>,
) -> Result<(Server, Vec<Tenant>), Failure> {
    let mut client = Client::new(target.clone(), Duration::from_secs_f64(args.timeout));
    let patience = Duration::from_secs_f64(if args.reconnect { args.reconnect_for } else { 0.0 });
    let began_at = Instant::now();
    while let Err(failure) = client.reach().await {
        if patience <= began_at.elapsed() {
            return Err(failure);
        }
        monoio::time::sleep(REACH_AGAIN).await;
    }
    let mut server = Server { url: target.url(), ..Server::default() };
    if !matches!(protocol, Protocol::Http) {
        let tenants = (0..args.tenants).map(|index| Tenant { id: format!("t{index}"), key: String::new() });
        return Ok((server, tenants.collect()));
    }
    learn(&mut server, target).await;
    if args.raw.is_some() {
        return Ok((server, Vec::new()));
    }
    let tenants = tenants::prepare(args, &mut client, ledger).await.map_err(|failure| match failure {
        Failure::Refused { status, message } if args.key.is_empty() => {
            let message = format!("{message} (no tenant could be made; --key KEY uses one that is there)");
            Failure::Refused { status, message }
        }
        other => other,
    })?;
    if !args.accept_any_2xx {
        for tenant in tenants.iter().take(KEYS_TRIED_MAX) {
            let answer = client.get("/api/v1/events/query?limit=1", tenant.key.as_str()).await?;
            if let 401 | 403 = answer.status {
                answer.into_good().map_err(|failure| match failure {
                    Failure::Refused { status, message } => {
                        let message = format!("{message} (the key of {} is not accepted)", tenant.id);
                        Failure::Refused { status, message }
                    }
                    other => other,
                })?;
            }
        }
    }
    Ok((server, tenants))
}

/// What ringlog says of itself, or the `server` header of another. A server that says nothing is no error.
async fn learn(server: &mut Server, target: &Target) {
    #[derive(Deserialize)]
    struct Health {
        version: Option<String>,
        durability: Option<String>,
        io: Option<String>,
    }
    let mut client = Client::new(target.clone(), HEALTH_PATIENCE);
    let Ok(answer) = client.get("/health", None).await else { return };
    if let Ok(health) = serde_json::from_slice::<Health>(&answer.body) {
        (server.version, server.durability, server.io) = (health.version, health.durability, health.io);
    }
    server.version = server.version.take().or(answer.server);
}
