//! The password thread: hashes and checks passwords away from the cores, one at a time.
//! A core never waits for it: it submits without blocking, and the answer comes back through a callback. The queue is
//! short, because whoever waits longer than a login takes has gone: full means a refusal, not a wait.
//!
//! ```text
//! core ─ try submit ─► queue of 16 ─► Hasher (19 MiB, one job at a time) ─► reply ─► mailbox of that core
//! ```

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::auth::password::{Hasher, Password, StoredHash, Verdict};

/// Jobs that wait. At 40 to 190 ms a job (measured, the latter on a busy machine) the last one waits up to 3 s.
const QUEUE_MAX: usize = 16;

/// Called once, on the password thread. It puts the answer into a mailbox and wakes its core, and waits for room only.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

enum Job {
    Hash(Password, Reply<StoredHash>),
    Verify(Option<StoredHash>, Password, Reply<Verified>),
    Stop,
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub verdict: Verdict,
    /// The same password's hash at what hashes cost by now, where the stored one is outdated.
    pub renewed: Option<StoredHash>,
}

/// The queue is full, or the thread has stopped. The reply was dropped unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// A core's way to the password thread.
#[derive(Clone)]
pub struct PasswordHandle {
    queue: SyncSender<Job>,
}

impl PasswordHandle {
    /// Never waits. Exactly one of these happens: `Err(Busy)` here, or one call of `reply`.
    pub fn hash(&self, password: Password, reply: Reply<StoredHash>) -> Result<(), Busy> {
        self.submit(Job::Hash(password, reply))
    }

    /// `stored` is `None` for an address that has no account: that takes as long as a wrong password.
    pub fn verify(&self, stored: Option<StoredHash>, password: Password, reply: Reply<Verified>) -> Result<(), Busy> {
        self.submit(Job::Verify(stored, password, reply))
    }

    fn submit(&self, job: Job) -> Result<(), Busy> {
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Busy,
        })
    }
}

pub struct PasswordThread {
    queue: SyncSender<Job>,
    thread: JoinHandle<()>,
}

impl PasswordThread {
    /// Starts the thread, which makes its hasher when it first needs one. `has_died` is called on it if it panics: whoever waits for an answer of it would wait for
    /// ever, so a server ends there.
    pub fn start(hasher: fn() -> Hasher, has_died: Box<dyn FnOnce() + Send>) -> io::Result<PasswordThread> {
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let death = Death(Some(has_died));
        let thread = thread::Builder::new().name("passwords".to_owned()).spawn(move || run(hasher, &jobs, &death))?;
        Ok(PasswordThread { queue, thread })
    }

    pub fn handle(&self) -> PasswordHandle {
        PasswordHandle { queue: self.queue.clone() }
    }

    /// Finishes what was submitted before, then ends.
    pub fn stop(self) -> thread::Result<()> {
        // A thread that has ended takes nothing any more, and joining it says why.
        let _ = self.queue.send(Job::Stop);
        self.thread.join()
    }
}

struct Death(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Death {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(has_died) = self.0.take()
        {
            has_died();
        }
    }
}

fn run(hasher: fn() -> Hasher, jobs: &Receiver<Job>, _death: &Death) {
    // 19 MiB that a server without people does without.
    let mut made = None;
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Hash(password, reply) => reply(made.get_or_insert_with(hasher).hash(&password)),
            Job::Verify(stored, password, reply) => {
                let hasher = made.get_or_insert_with(hasher);
                let verdict = hasher.verify(stored.as_ref(), &password);
                let is_outdated = verdict == Verdict::Right { is_outdated: true };
                reply(Verified { verdict, renewed: is_outdated.then(|| hasher.hash(&password)) });
            }
            Job::Stop => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::auth::password::tests::{cheap_hasher, dearer_hasher};

    fn started() -> PasswordThread {
        PasswordThread::start(cheap_hasher, Box::new(|| ())).unwrap()
    }

    fn typed(text: &str) -> Password {
        Password::presented(text).unwrap()
    }

    fn into<T: Send + 'static>(sender: &Sender<T>) -> Reply<T> {
        let sender = sender.clone();
        Box::new(move |value| sender.send(value).unwrap())
    }

    /// A job that holds the thread until the returned sender goes.
    fn hold(handle: &PasswordHandle) -> Sender<()> {
        let (release, released) = channel::<()>();
        let (busy, is_busy) = channel();
        let reply = Box::new(move |_| {
            busy.send(()).unwrap();
            assert!(released.recv().is_err());
        });
        handle.hash(typed("hold the thread"), reply).unwrap();
        is_busy.recv().unwrap();
        release
    }

    #[test]
    fn what_it_hashed_it_verifies() {
        let thread = started();
        let (hashed, hashes) = channel();
        thread.handle().hash(typed("correct horse"), into(&hashed)).unwrap();
        let stored = hashes.recv().unwrap();
        let (judged, verdicts) = channel();
        for (stored, password) in
            [(Some(stored.clone()), "correct horse"), (Some(stored), "wrong horse"), (None, "correct horse")]
        {
            thread.handle().verify(stored, typed(password), into(&judged)).unwrap();
        }
        let expected = [Verdict::Right { is_outdated: false }, Verdict::Wrong, Verdict::Wrong];
        let found: Vec<Verified> = verdicts.iter().take(3).collect();
        assert_eq!(found.iter().map(|verified| verified.verdict).collect::<Vec<_>>(), expected);
        assert!(found.iter().all(|verified| verified.renewed.is_none()));
        thread.stop().unwrap();
    }

    #[test]
    fn an_outdated_hash_is_renewed_while_the_password_is_at_hand() {
        let thread = started();
        let stored = dearer_hasher().hash(&typed("correct horse"));
        let (judged, verdicts) = channel();
        for password in ["correct horse", "wrong horse"] {
            thread.handle().verify(Some(stored.clone()), typed(password), into(&judged)).unwrap();
        }
        let right: Verified = verdicts.recv().unwrap();
        assert_eq!(right.verdict, Verdict::Right { is_outdated: true });
        let again = Verdict::Right { is_outdated: false };
        assert_eq!(cheap_hasher().verify(right.renewed.as_ref(), &typed("correct horse")), again);
        assert_eq!(verdicts.recv().unwrap(), Verified { verdict: Verdict::Wrong, renewed: None });
        thread.stop().unwrap();
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_every_job_before_is_answered() {
        let thread = started();
        let handle = thread.handle();
        let release = hold(&handle);
        let (judged, verdicts) = channel();
        for _ in 0..QUEUE_MAX {
            handle.verify(None, typed("anything"), into(&judged)).unwrap();
        }
        assert_eq!(handle.verify(None, typed("anything"), into(&judged)), Err(Busy));
        assert_eq!(handle.hash(typed("anything"), Box::new(|_| ())), Err(Busy));
        drop(release);
        assert_eq!(verdicts.iter().take(QUEUE_MAX).count(), QUEUE_MAX);
        thread.stop().unwrap();
    }

    #[test]
    fn stopping_finishes_what_was_submitted_and_then_refuses() {
        let thread = started();
        let handle = thread.handle();
        let release = hold(&handle);
        let (judged, verdicts) = channel();
        for _ in 0..QUEUE_MAX {
            handle.verify(None, typed("anything"), into(&judged)).unwrap();
        }
        drop(release);
        thread.stop().unwrap();
        assert_eq!(verdicts.try_iter().count(), QUEUE_MAX);
        assert_eq!(handle.verify(None, typed("anything"), into(&judged)), Err(Busy));
    }

    #[test]
    fn its_death_is_noticed() {
        let (died, deaths) = channel();
        let thread = PasswordThread::start(cheap_hasher, Box::new(move || died.send(()).unwrap())).unwrap();
        let handle = thread.handle();
        handle.hash(typed("anything"), Box::new(|_| panic!("a reply that panics"))).unwrap();
        deaths.recv().unwrap();
        assert!(thread.stop().is_err());
        assert_eq!(handle.hash(typed("anything"), Box::new(|_| ())), Err(Busy));
    }

    #[test]
    fn an_orderly_end_is_not_a_death() {
        let (died, deaths) = channel::<()>();
        let thread = PasswordThread::start(cheap_hasher, Box::new(move || died.send(()).unwrap())).unwrap();
        thread.stop().unwrap();
        assert!(deaths.recv().is_err());
    }
}
