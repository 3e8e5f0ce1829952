//! The control thread: takes requests from cores, and answers each only when its change is durable and every core has it.
//! A core never waits for it: it submits without blocking, and the answer comes back through a callback.
//!
//! ```text
//! core ─ try submit ─► bounded queue ─► Control ─► delta ─► Publish ─► mailbox of every core, woken
//!   ▲                                                                     │ start of turn: apply, then
//!   └────────── reply ◄── all acknowledged ◄── Acks ◄─────────────────────┘ acknowledge(core, epoch)
//! ```

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::delta::Delta;
use crate::auth::last_used::Used;
use crate::auth::password::{Hasher, StoredHash};
use crate::auth::password_thread::{PasswordHandle, PasswordThread};
use crate::auth::secret_file;
use crate::catalog::accounts::{Account, Prepared, Worked};
use crate::catalog::command::{Answer, Command, Done, Refused};
use crate::catalog::control::{Control, Onboard};
use crate::catalog::keys_file;
use crate::catalog::log::CatalogLog;
use crate::catalog::notes::Note;
use crate::catalog::set_up::{KeysChanged, SetUpError};

/// Requests that wait for the control thread. A guess: at a millisecond a change, a second of work.
const QUEUE_MAX: usize = 1024;

/// Requests whose changes are published together.
const BATCH_MAX: usize = 64;

/// A core that does not turn for this long is stuck.
pub const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(10);

/// How deltas reach cores. Implemented by whoever owns their mailboxes.
pub trait Publish: Send {
    /// Puts `delta` into every core's mailbox and wakes every core. Must not wait for them, but for room.
    fn publish(&mut self, delta: &Arc<Delta>);

    /// `core` did not acknowledge in time. What it would still let in is not known: a server ends the process here.
    fn core_is_stuck(&mut self, core: usize);

    /// The control thread is panicking, or the password thread has. Whoever waits for an answer would wait for ever: a
    /// server ends.
    fn control_has_died(&mut self);
}

/// Called once, on the control thread. It puts the answer into a mailbox and wakes its core, and waits for room only.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// The last epoch that each core has applied.
pub struct Acks {
    epochs: Box<[AtomicU64]>,
    waiter: OnceLock<Thread>,
}

impl Acks {
    /// `epoch` is the snapshot's, with which every core begins.
    pub fn new(core_count: usize, epoch: u64) -> Acks {
        Acks { epochs: (0..core_count).map(|_| AtomicU64::new(epoch)).collect(), waiter: OnceLock::new() }
    }

    /// `core` has applied every delta up to `epoch`, and admits nothing more under an older one.
    pub fn acknowledge(&self, core: usize, epoch: u64) {
        self.epochs[core].store(epoch, Ordering::Release);
        if let Some(waiter) = self.waiter.get() {
            waiter.unpark();
        }
    }

    fn first_behind(&self, epoch: u64) -> Option<usize> {
        self.epochs.iter().position(|applied| applied.load(Ordering::Acquire) < epoch)
    }

    /// Waits until every core has `epoch`, or says which one has not.
    fn wait(&self, epoch: u64, within: Duration) -> Result<(), usize> {
        let deadline = Instant::now() + within;
        loop {
            let Some(behind) = self.first_behind(epoch) else { return Ok(()) };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(behind);
            }
            thread::park_timeout(left);
        }
    }
}

enum Request {
    Onboard(Box<Onboard>, Reply<Answer>),
    Command(Box<Command>, Reply<Answer>),
    Account(Box<Account>, Reply<Answer>),
    /// The password of the account with this ticket is hashed or checked.
    Worked(u64, Box<Worked>),
    PasswordsDied,
    Note(Box<Note>),
    Used(Vec<Used>),
    Erased(Tenant, Micros),
    ReadFiles(Files, Micros, Reply<Result<KeysChanged, KeysReadError>>),
    ReadKeysFile(PathBuf, Micros, Reply<Result<KeysChanged, KeysReadError>>),
    Stop,
}

/// Files that people change while a server runs.
#[derive(Debug, Clone)]
pub struct Files {
    pub bootstrap_key: Option<PathBuf>,
    pub keys: PathBuf,
    pub jwt_secret: PathBuf,
}

/// Why the files' keys are not in force.
#[derive(Debug)]
pub enum KeysReadError {
    /// The keys that were there stay.
    File(SetUpError),
    /// The changes are durable, and not known everywhere.
    OutcomeUnknown,
}

/// The queue is full, or the control plane has stopped. The reply was dropped unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// A core's way to the control thread.
#[derive(Clone)]
pub struct ControlHandle {
    queue: SyncSender<Request>,
}

impl ControlHandle {
    /// Never waits. Exactly one of these happens: `Err(Busy)` here, or one call of `reply`.
    pub fn onboard(&self, request: Onboard, reply: Reply<Answer>) -> Result<(), Busy> {
        self.submit(Request::Onboard(Box::new(request), reply))
    }

    /// As `onboard`, for those who have a credential.
    pub fn command(&self, command: Command, reply: Reply<Answer>) -> Result<(), Busy> {
        self.submit(Request::Command(Box::new(command), reply))
    }

    /// As `onboard`, for those who bring a password or a token in the body.
    pub fn account(&self, account: Account, reply: Reply<Answer>) -> Result<(), Busy> {
        self.submit(Request::Account(Box::new(account), reply))
    }

    /// Nobody is told what becomes of it.
    pub fn note(&self, note: Note) -> Result<(), Busy> {
        self.submit(Request::Note(Box::new(note)))
    }

    /// Which keys a core saw used. Nobody is told what becomes of it.
    pub fn used(&self, used: Vec<Used>) -> Result<(), Busy> {
        self.submit(Request::Used(used))
    }

    /// Nothing of a deleted tenant is stored any more. That this is recorded, cores hear as `Change::TenantGone`; whoever
    /// does not, says it again.
    pub fn erased(&self, tenant: Tenant, at: Micros) -> Result<(), Busy> {
        self.submit(Request::Erased(tenant, at))
    }

    /// Reads the key file again, and nothing else.
    pub fn read_keys_file(
        &self,
        path: PathBuf,
        at: Micros,
        reply: Reply<Result<KeysChanged, KeysReadError>>,
    ) -> Result<(), Busy> {
        self.submit(Request::ReadKeysFile(path, at, reply))
    }

    /// Reads the bootstrap key's file, the signing secrets and the key file again, as SIGHUP asks for.
    pub fn read_files(
        &self,
        files: Files,
        at: Micros,
        reply: Reply<Result<KeysChanged, KeysReadError>>,
    ) -> Result<(), Busy> {
        self.submit(Request::ReadFiles(files, at, reply))
    }

    fn submit(&self, request: Request) -> Result<(), Busy> {
        self.queue.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Busy,
        })
    }
}

/// The control thread, and the one that hashes passwords for it.
pub struct ControlThread {
    queue: SyncSender<Request>,
    thread: JoinHandle<()>,
    passwords: PasswordThread,
}

impl ControlThread {
    /// Starts the thread. `acks` begins with the epoch of the snapshot that `control` gave last.
    pub fn start<L: CatalogLog + Send + 'static>(
        control: Control<L>,
        publish: Box<dyn Publish>,
        acks: Arc<Acks>,
        acknowledge_within: Duration,
    ) -> io::Result<ControlThread> {
        let (queue, requests) = sync_channel(QUEUE_MAX);
        let to_control = queue.clone();
        // It must be told even if the queue is full, and a control thread that has ended needs no telling.
        let has_died = move || drop(to_control.send(Request::PasswordsDied));
        let passwords = PasswordThread::start(Hasher::new, Box::new(has_died))?;
        let with_passwords = WithPasswords {
            passwords: passwords.handle(),
            queue: queue.clone(),
            waiting: HashMap::new(),
            next_ticket: 0,
        };
        let work = Work { control, publish, acks, acknowledge_within, with_passwords };
        let thread = thread::Builder::new().name("control".to_owned()).spawn(move || work.run(&requests))?;
        Ok(ControlThread { queue, thread, passwords })
    }

    pub fn handle(&self) -> ControlHandle {
        ControlHandle { queue: self.queue.clone() }
    }

    /// Finishes what was submitted before, then ends. Cores must turn until it returns, or their acknowledgements miss.
    pub fn stop(self) -> thread::Result<()> {
        // First: what it has done goes through the control thread.
        let passwords = self.passwords.stop();
        // A thread that has ended takes nothing any more, and joining it says why.
        let _ = self.queue.send(Request::Stop);
        self.thread.join().and(passwords)
    }
}

struct Work<L> {
    control: Control<L>,
    publish: Box<dyn Publish>,
    acks: Arc<Acks>,
    acknowledge_within: Duration,
    with_passwords: WithPasswords,
}

/// Accounts whose password is with the password thread. As many as its queue takes, at most.
struct WithPasswords {
    passwords: PasswordHandle,
    /// What is done comes back through it.
    queue: SyncSender<Request>,
    waiting: HashMap<u64, (Box<Account>, Reply<Answer>)>,
    next_ticket: u64,
}

impl WithPasswords {
    /// Gives the reply back if the password thread has enough to do.
    fn submit(
        &mut self,
        mut account: Box<Account>,
        stored: Option<Option<StoredHash>>,
        reply: Reply<Answer>,
    ) -> Result<(), Reply<Answer>> {
        let password = account.password.take().expect("whoever needs a password brings one");
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let queue = self.queue.clone();
        // Where the control thread has ended, nobody waits.
        let worked = move |worked| drop(queue.send(Request::Worked(ticket, Box::new(worked))));
        let submitted = match stored {
            None => self.passwords.hash(password, Box::new(move |hash| worked(Worked::Hashed(hash)))),
            Some(against) => {
                let done = {
                    let against = against.clone();
                    move |verified| worked(Worked::Verified { against, verified })
                };
                self.passwords.verify(against, password, Box::new(done))
            }
        };
        if submitted.is_err() {
            return Err(reply);
        }
        self.waiting.insert(ticket, (account, reply));
        Ok(())
    }
}

impl<L> Drop for Work<L> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.publish.control_has_died();
        }
    }
}

/// An answer that waits for the cores: called with whether they all have the change.
type Waiting = Box<dyn FnOnce(bool)>;

enum Handled {
    Answer(Waiting),
    /// Nobody waits.
    Silent,
    Stop,
}

fn waiting(outcome: Answer, reply: Reply<Answer>) -> Handled {
    Handled::Answer(Box::new(move |is_everywhere| {
        reply(outcome.and_then(|done| if is_everywhere { Ok(done) } else { Err(Refused::OutcomeUnknown) }));
    }))
}

fn files_read(outcome: Result<KeysChanged, SetUpError>, reply: Reply<Result<KeysChanged, KeysReadError>>) -> Handled {
    let outcome = outcome.map_err(KeysReadError::File);
    Handled::Answer(Box::new(move |is_everywhere| {
        reply(outcome.and_then(|made| if is_everywhere { Ok(made) } else { Err(KeysReadError::OutcomeUnknown) }));
    }))
}

impl<L: CatalogLog> Work<L> {
    fn run(mut self, requests: &Receiver<Request>) {
        self.acks.waiter.get_or_init(thread::current);
        while let Ok(first) = requests.recv() {
            let mut answers: Vec<Waiting> = Vec::new();
            let mut stops = false;
            let rest = requests.try_iter().take(BATCH_MAX - 1);
            for request in std::iter::once(first).chain(rest) {
                match self.handle(request) {
                    Handled::Answer(answer) => answers.push(answer),
                    Handled::Silent => {}
                    Handled::Stop => {
                        stops = true;
                        break;
                    }
                }
            }
            let is_everywhere = self.publish();
            for answer in answers {
                answer(is_everywhere);
            }
            if stops {
                return;
            }
        }
    }

    /// Makes the change durable, and returns how to answer once every core has it.
    fn handle(&mut self, request: Request) -> Handled {
        match request {
            Request::Onboard(request, reply) => {
                let outcome = self.control.onboard(&request).map(Done::Onboarded).map_err(Refused::Onboard);
                waiting(outcome, reply)
            }
            Request::Command(command, reply) => waiting(self.control.carry_out(&command), reply),
            Request::Account(account, reply) => {
                let stored = match self.control.prepare(&account) {
                    Prepared::Answer(answer) => return waiting(answer, reply),
                    Prepared::Hash => None,
                    Prepared::Verify(stored) => Some(stored),
                };
                match self.with_passwords.submit(account, stored, reply) {
                    Ok(()) => Handled::Silent,
                    Err(reply) => waiting(Err(Refused::Busy), reply),
                }
            }
            Request::Worked(ticket, worked) => {
                let waits = self.with_passwords.waiting.remove(&ticket);
                let (account, reply) = waits.expect("each ticket is given out once, and comes back once");
                waiting(self.control.finish(&account, *worked), reply)
            }
            Request::PasswordsDied => {
                tracing::error!("the password thread panicked");
                self.publish.control_has_died();
                Handled::Silent
            }
            Request::Note(note) => {
                self.control.take_note(&note);
                Handled::Silent
            }
            Request::Used(used) => {
                self.control.take_used(&used);
                Handled::Silent
            }
            Request::Erased(tenant, at) => {
                match self.control.tenant_erased(tenant, at) {
                    Ok(true) => {
                        tracing::info!(workspace = tenant.0, "nothing of the deleted tenant is stored any more")
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(
                            workspace = tenant.0,
                            "that a deleted tenant is removed is not recorded: {error}"
                        );
                    }
                }
                Handled::Silent
            }
            Request::ReadFiles(files, at, reply) => files_read(self.read_files(&files, at), reply),
            Request::ReadKeysFile(path, at, reply) => files_read(self.read_keys_file(&path, at), reply),
            Request::Stop => {
                self.control.record_uses();
                Handled::Stop
            }
        }
    }

    fn read_files(&mut self, files: &Files, at: Micros) -> Result<KeysChanged, SetUpError> {
        if let Some(path) = &files.bootstrap_key {
            let key = secret_file::load_one(path).map_err(SetUpError::Secret)?;
            let key = key.ok_or_else(|| SetUpError::BootstrapFileMissing(path.clone()))?;
            self.control.set_up_bootstrap(Some(&key), at)?;
        }
        self.control.set_up_signing(&files.jwt_secret, at)?;
        self.read_keys_file(&files.keys, at)
    }

    fn read_keys_file(&mut self, path: &Path, at: Micros) -> Result<KeysChanged, SetUpError> {
        match keys_file::load(path) {
            Ok(Some((keys, _))) => self.control.match_keys_file(path, &keys, at),
            Ok(None) => Err(SetUpError::KeysFileMissing(path.into())),
            Err(error) => Err(SetUpError::Keys { path: path.into(), error }),
        }
    }

    fn publish(&mut self) -> bool {
        let Some(delta) = self.control.take_delta() else { return true };
        let epoch = delta.epoch;
        self.publish.publish(&Arc::new(delta));
        match self.acks.wait(epoch, self.acknowledge_within) {
            Ok(()) => true,
            Err(core) => {
                tracing::error!(core, epoch, "a core does not turn");
                self.publish.core_is_stuck(core);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
