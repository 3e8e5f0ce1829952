//! `verify`: everything that a ledger knows, compared with everything that the server gives back.
//!
//! It is told nothing by the run but the ledger. What it holds a server to:
//! an acknowledged event is there once, as sent, in its tenant, with the id and version that were acknowledged; a
//! refused one is not there; a request is there as a whole or not at all; versions of an entity count from 1 in feed
//! order; and whoever was acknowledged before another was sent comes before it.
//!
//! ```text
//! readback (pages) ─► judge (who is it, as it was sent?) ─► feed (in order?) ─► order      all ─► verdict
//! ```

mod feed;
mod judge;
mod order;
pub mod readback;
mod verdict;

use crate::cli::VerifyArgs;
use crate::client::Client;
use crate::failure::{EXIT_VERIFICATION_FAILED, Failure};
use crate::ledger::Ledger;
use crate::report;
use crate::run::target_of;
use feed::Feed;
use judge::Judge;
use std::time::{Duration, Instant};
use verdict::{Findings, Verdict};

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

pub fn main(args: &VerifyArgs) -> Result<u8, Failure> {
    let target = target_of(&args.target)?;
    let ledger = Ledger::read(&args.ledger)?;
    if ledger.tenants.is_empty() {
        // Saying that all is well with nothing would be true, and mistaken for more.
        return Err(Failure::Other(format!("ledger {}: no run was noted in it", args.ledger.display())));
    }
    let client = Client::new(target, Duration::from_secs_f64(args.timeout));
    let judge = Judge::new(&ledger, !args.allow_gaps, Findings::new(args.list.as_deref())?);
    let verdict = crate::ring::block_on(verify(&ledger, client, args.page, judge, !args.quiet))??;
    report::publish(&verdict, &verdict.text(), args.json.as_deref())?;
    Ok(if verdict.is_good() { 0 } else { EXIT_VERIFICATION_FAILED })
}

async fn verify(
    ledger: &Ledger,
    mut client: Client,
    page_events: u32,
    mut judge: Judge<'_>,
    tells_progress: bool,
) -> Result<Verdict, Failure> {
    let expected = judge.events_expected();
    let mut told_at = Instant::now();
    for (index, tenant) in ledger.tenants.iter().enumerate() {
        let mut feed = Feed::new(index as u16, ledger);
        readback::for_each_event(&mut client, &tenant.key, page_events, |event| {
            judge.see(&mut feed, event);
            // The clock is dear, compared with an event.
            let read = judge.events_read();
            if tells_progress && read.is_multiple_of(1024) && PROGRESS_EVERY <= told_at.elapsed() {
                told_at = Instant::now();
                eprintln!("{read} events read, of {expected} or more");
            }
        })
        .await?;
        judge.end_feed(feed);
    }
    judge.conclude()
}

#[cfg(test)]
mod tests;
