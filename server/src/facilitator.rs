//! Payments, verified and settled by the facilitator that the operator named: the home of `ureq` in a server.
//!
//! Owns the threads that wait for it, and which payments are under way or were settled. Must never: say that a payment was
//! settled because it was verified, or that it was not because no answer came. The chain is the authority: what
//! is remembered here keeps a payment from buying twice within one life of the server, and is bounded.
//!
//! ```text
//! submit ─► queue ─► verify ─┬─► settle ─┬─► Settled, NotSettled
//!    │                       │           └─► Unknown (no answer that says)
//!    └─► used already, busy  └─► Invalid, Unavailable
//! ```

mod payments;

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ureq::{Agent, Timeout};

use crate::facilitator::payments::Payments;
use crate::handle::x402::due::{Due, Outcome, Settlement};
use crate::handle::x402::{PaymentRequirements, VERSION};
use crate::limits::{FACILITATOR_ANSWER_BYTES_MAX, FACILITATOR_QUEUE_MAX, FACILITATOR_THREADS};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const VERIFY_WITHIN: Duration = Duration::from_secs(10);
/// Chains take seconds; a facilitator that waits for one answers by then.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);
/// A payment that waited longer is not begun: its client may have gone, and would pay for nothing.
const QUEUE_WITHIN: Duration = Duration::from_secs(10);
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Called once, on a thread of the facilitator's.
pub type Reply = Box<dyn FnOnce(Outcome) + Send>;

/// Why a payment is not asked about. The reply was dropped unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// It is under way, or was settled.
    UsedAlready,
    Busy,
}

/// A core's way to the facilitator.
#[derive(Clone)]
pub struct FacilitatorHandle {
    queue: SyncSender<Job>,
    payments: Arc<Mutex<Payments>>,
}

/// Starts the threads. They end when the last handle is gone and what was submitted is done.
pub fn start(url: &str) -> io::Result<FacilitatorHandle> {
    let (queue, jobs) = sync_channel(FACILITATOR_QUEUE_MAX);
    let jobs = Arc::new(Mutex::new(jobs));
    let facilitator = Arc::new(Facilitator::new(url));
    for number in 0..FACILITATOR_THREADS {
        let (jobs, facilitator) = (Arc::clone(&jobs), Arc::clone(&facilitator));
        let work = move || {
            while let Some(job) = next(&jobs) {
                facilitator.work(job);
            }
        };
        thread::Builder::new().name(format!("facilitator-{number}")).spawn(work)?;
    }
    Ok(FacilitatorHandle { queue, payments: Arc::default() })
}

/// The lock is held while waiting: one thread waits for the next job, and the others for their turn to.
fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl FacilitatorHandle {
    /// Never waits for the facilitator. Exactly one of these happens: an error here, or one call of `reply`.
    pub fn submit(&self, due: &Due, reply: Reply) -> Result<(), NotTaken> {
        let digest = due.payment.digest;
        if !lock(&self.payments).begin(digest) {
            return Err(NotTaken::UsedAlready);
        }
        let question = question(due);
        let payments = Arc::clone(&self.payments);
        let job = Job { question, digest, payments, reply: Some(reply), submitted_at: Instant::now() };
        self.queue.try_send(job).map_err(|error| {
            let (TrySendError::Full(mut job) | TrySendError::Disconnected(mut job)) = error;
            job.reply = None;
            lock(&self.payments).end(digest, false);
            NotTaken::Busy
        })
    }
}

fn lock(payments: &Mutex<Payments>) -> std::sync::MutexGuard<'_, Payments> {
    // Whatever a panic left there, each entry stands for itself.
    payments.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of both questions.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    x402_version: u8,
    payment_payload: &'a RawValue,
    payment_requirements: &'a PaymentRequirements,
}

fn question(due: &Due) -> String {
    let payment_payload = serde_json::from_str(&due.payment.json).expect("a payment that was read is JSON");
    let payment_requirements = &due.route.requirements;
    let question = Question { x402_version: VERSION, payment_payload, payment_requirements };
    serde_json::to_string(&question).expect("strings and numbers are JSON")
}

struct Job {
    question: String,
    digest: [u8; 32],
    payments: Arc<Mutex<Payments>>,
    reply: Option<Reply>,
    submitted_at: Instant,
}

impl Job {
    fn end(&mut self, outcome: Outcome) {
        if let Some(reply) = self.reply.take() {
            // One whose outcome is unknown may come again: nothing was carried out for it, and who settled it knows.
            lock(&self.payments).end(self.digest, matches!(outcome, Outcome::Settled(_)));
            reply(outcome);
        }
    }
}

/// Somebody holds a request for the answer, whatever becomes of the thread that should have given it.
impl Drop for Job {
    fn drop(&mut self) {
        self.end(Outcome::Unknown);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    is_valid: bool,
    #[serde(default)]
    invalid_reason: Option<String>,
}

struct Facilitator {
    agent: Agent,
    verify_url: String,
    settle_url: String,
    warned_at: Mutex<Option<Instant>>,
}

impl Facilitator {
    fn new(url: &str) -> Facilitator {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_resolve(Some(CONNECT_WITHIN))
            .user_agent(concat!("ringlog/", env!("CARGO_PKG_VERSION")))
            .accept("application/json")
            .build();
        let url = url.trim_end_matches('/');
        Facilitator {
            agent: Agent::new_with_config(config),
            verify_url: format!("{url}/verify"),
            settle_url: format!("{url}/settle"),
            warned_at: Mutex::new(None),
        }
    }

    fn work(&self, mut job: Job) {
        let outcome = if QUEUE_WITHIN < job.submitted_at.elapsed() {
            self.warn("payments wait too long for it");
            Outcome::Unavailable
        } else {
            self.verify(&job.question).unwrap_or_else(|| self.settle(&job.question))
        };
        match &outcome {
            Outcome::Settled(Settlement { transaction, network, payer, .. }) => {
                tracing::info!(?transaction, ?network, ?payer, "a payment was settled");
            }
            // Money may have moved: each of them is worth a line.
            Outcome::Unknown => tracing::warn!("a payment may have been settled: the facilitator did not say"),
            Outcome::Invalid { .. } | Outcome::NotSettled(_) | Outcome::Unavailable => {}
        }
        job.end(outcome);
    }

    /// Nothing: it is valid.
    fn verify(&self, question: &str) -> Option<Outcome> {
        match self.post(&self.verify_url, question, VERIFY_WITHIN) {
            Ok((status, body)) => {
                let outcome = verified(status, &body);
                if outcome == Some(Outcome::Unavailable) {
                    self.warn(&format!("POST /verify was answered with {status}"));
                }
                outcome
            }
            Err(error) => {
                self.warn(&error.to_string());
                Some(Outcome::Unavailable)
            }
        }
    }

    fn settle(&self, question: &str) -> Outcome {
        match self.post(&self.settle_url, question, SETTLE_WITHIN) {
            Ok((status, body)) => settled(status, &body),
            Err(error) => {
                self.warn(&error.to_string());
                if was_not_sent(&error) { Outcome::Unavailable } else { Outcome::Unknown }
            }
        }
    }

    fn post(&self, url: &str, body: &str, within: Duration) -> Result<(u16, String), ureq::Error> {
        let request = self.agent.post(url).config().timeout_global(Some(within)).build();
        let mut response = request.header("Content-Type", "application/json").send(body)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(FACILITATOR_ANSWER_BYTES_MAX).lossy_utf8(true);
        Ok((status, body.read_to_string()?))
    }

    /// Once a minute: clients decide how often a facilitator is asked.
    fn warn(&self, why: &str) {
        let mut warned_at = self.warned_at.lock().unwrap_or_else(PoisonError::into_inner);
        if warned_at.is_none_or(|at| WARN_EVERY <= at.elapsed()) {
            *warned_at = Some(Instant::now());
            tracing::warn!(?why, "the x402 facilitator does not work");
        }
    }
}

/// What an answer to `/verify` says. Nothing: the payment is valid.
fn verified(status: u16, body: &str) -> Option<Outcome> {
    match serde_json::from_str::<Verified>(body) {
        Ok(Verified { is_valid: true, .. }) if status == 200 => None,
        // Some say no with a 4xx.
        Ok(Verified { is_valid: false, invalid_reason }) if status < 500 => {
            Some(Outcome::Invalid { reason: invalid_reason })
        }
        _ => Some(Outcome::Unavailable),
    }
}

/// What an answer to `/settle` says. The payment was handed over: what is no answer leaves it open.
fn settled(status: u16, body: &str) -> Outcome {
    match serde_json::from_str::<Settlement>(body) {
        Ok(settlement) if status == 200 || (!settlement.success && (400..500).contains(&status)) => {
            Outcome::of(settlement)
        }
        _ => Outcome::Unknown,
    }
}

/// Whether there was no connection to send anything over.
fn was_not_sent(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        ureq::Error::Timeout(timeout) => matches!(timeout, Timeout::Resolve | Timeout::Connect),
        ureq::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::handle::x402::due::tests::due_with;

    #[test]
    fn whoever_waits_is_told_and_what_is_not_taken_stays_good() {
        let (queue, jobs) = sync_channel(1);
        let handle = FacilitatorHandle { queue, payments: Arc::default() };
        let (told, is_told) = channel();
        let reply = || -> Reply {
            let told = told.clone();
            Box::new(move |outcome| told.send(outcome).unwrap())
        };
        assert_eq!(handle.submit(&due_with("0x1"), reply()), Ok(()));
        assert_eq!(handle.submit(&due_with("0x1"), reply()), Err(NotTaken::UsedAlready));
        for _ in 0..2 {
            assert_eq!(handle.submit(&due_with("0x2"), reply()), Err(NotTaken::Busy));
        }
        assert!(is_told.try_recv().is_err());
        let job = jobs.recv().unwrap();
        let asked: serde_json::Value = serde_json::from_str(&job.question).unwrap();
        assert_eq!(
            (&asked["x402Version"], &asked["paymentPayload"]["accepted"]),
            (&2.into(), &asked["paymentRequirements"])
        );
        // A thread that dies with it.
        drop(job);
        assert_eq!(is_told.try_recv(), Ok(Outcome::Unknown));
        assert_eq!(handle.submit(&due_with("0x1"), reply()), Ok(()));
        let settlement = serde_json::from_str(r#"{"success":true}"#).unwrap();
        jobs.recv().unwrap().end(Outcome::of(settlement));
        assert!(matches!(is_told.try_recv(), Ok(Outcome::Settled(_))));
        assert!(is_told.try_recv().is_err(), "told once");
        assert_eq!(handle.submit(&due_with("0x1"), reply()), Err(NotTaken::UsedAlready));
    }

    #[test]
    fn only_a_clear_yes_is_valid() {
        let invalid = |reason: &str| Some(Outcome::Invalid { reason: Some(reason.to_owned()) });
        assert_eq!(verified(200, r#"{"isValid":true,"payer":"0x1","more":{}}"#), None);
        assert_eq!(
            verified(200, r#"{"isValid":false,"invalidReason":"insufficient_funds"}"#),
            invalid("insufficient_funds")
        );
        assert_eq!(verified(400, r#"{"isValid":false,"invalidReason":"invalid_payload"}"#), invalid("invalid_payload"));
        for (status, body) in [
            (200, ""),
            (200, "{}"),
            (200, r#"{"isValid":"true"}"#),
            (202, r#"{"isValid":true}"#),
            (302, r#"{"isValid":true}"#),
            (401, r#"{"isValid":true}"#),
            (429, "{}"),
            (500, r#"{"isValid":false}"#),
            (503, "<html>"),
        ] {
            assert_eq!(verified(status, body), Some(Outcome::Unavailable), "{status} {body}");
        }
    }

    #[test]
    fn what_is_no_answer_about_a_settlement_leaves_it_open() {
        let good = r#"{"success":true,"transaction":"0x1","network":"eip155:8453","payer":"0x2"}"#;
        let bad = r#"{"success":false,"errorReason":"insufficient_funds","transaction":"","network":"eip155:8453"}"#;
        assert!(matches!(settled(200, good), Outcome::Settled(settlement) if settlement.transaction == "0x1"));
        for status in [200, 400, 402] {
            assert!(matches!(settled(status, bad), Outcome::NotSettled(_)), "{status}");
        }
        for (status, body) in [
            (200, ""),
            (200, "{}"),
            (200, r#"{"success":"true"}"#),
            (200, r#"{"success":false,"errorReason":"settlement_pending"}"#),
            (202, good),
            (202, bad),
            (302, good),
            (400, good),
            (404, ""),
            (500, bad),
            (500, good),
        ] {
            assert_eq!(settled(status, body), Outcome::Unknown, "{status} {body}");
        }
    }

    #[test]
    fn what_was_not_sent_cannot_have_been_settled() {
        let io = |kind: io::ErrorKind| ureq::Error::Io(kind.into());
        for error in [
            ureq::Error::HostNotFound,
            ureq::Error::ConnectionFailed,
            ureq::Error::Timeout(Timeout::Connect),
            ureq::Error::Timeout(Timeout::Resolve),
            io(io::ErrorKind::ConnectionRefused),
        ] {
            assert!(was_not_sent(&error), "{error}");
        }
        for error in [
            ureq::Error::Timeout(Timeout::Global),
            ureq::Error::Timeout(Timeout::RecvResponse),
            ureq::Error::Timeout(Timeout::SendBody),
            io(io::ErrorKind::ConnectionReset),
            io(io::ErrorKind::UnexpectedEof),
        ] {
            assert!(!was_not_sent(&error), "{error}");
        }
    }
}
