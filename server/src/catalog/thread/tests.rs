//! Answers come after the last core's acknowledgement, and not before.

use std::sync::mpsc::{Sender, channel};

use super::*;
use crate::auth::credentials::{Credentials, Presented};
use crate::auth::secret::Secret;
use crate::auth::secret_file::NamedSecret;
use crate::auth::tenant_id::Email;
use crate::catalog::control::ControlSettings;
use crate::catalog::log::MemoryLog;

/// Far longer than any test takes: nothing here waits for it to pass.
const LONG: Duration = Duration::from_secs(600);

struct ToTest {
    deltas: Sender<Arc<Delta>>,
    stuck: Sender<usize>,
    died: Sender<()>,
}

impl Publish for ToTest {
    fn publish(&mut self, delta: &Arc<Delta>) {
        self.deltas.send(Arc::clone(delta)).unwrap();
    }

    fn core_is_stuck(&mut self, core: usize) {
        self.stuck.send(core).unwrap();
    }

    fn control_has_died(&mut self) {
        self.died.send(()).unwrap();
    }
}

struct Fixture {
    thread: ControlThread,
    acks: Arc<Acks>,
    deltas: Receiver<Arc<Delta>>,
    stuck: Receiver<usize>,
    died: Receiver<()>,
    cores: [Credentials; 2],
}

fn signing_secret() -> NamedSecret {
    NamedSecret { kid: "k1".into(), secret: Secret::new("0123456789abcdef0123456789abcdef") }
}

fn fixture(acknowledge_within: Duration) -> Fixture {
    let settings = ControlSettings { shard_count: 2, onboard_per_hour: 0 };
    let mut control = Control::open(MemoryLog::default(), settings).unwrap();
    control.sign_with(&[signing_secret()]);
    let snapshot = control.snapshot();
    let acks = Arc::new(Acks::new(2, snapshot.epoch));
    let ((to_deltas, deltas), (to_stuck, stuck), (to_died, died)) = (channel(), channel(), channel());
    let publish = Box::new(ToTest { deltas: to_deltas, stuck: to_stuck, died: to_died });
    let thread = ControlThread::start(control, publish, Arc::clone(&acks), acknowledge_within).unwrap();
    let cores = [Credentials::new(1, &snapshot), Credentials::new(2, &snapshot)];
    Fixture { thread, acks, deltas, stuck, died, cores }
}

fn request(email: &str) -> Onboard {
    let email = Email::parse(email).unwrap();
    Onboard::new(email, None, "::1".parse().unwrap(), "r".into(), Micros(1), 1).unwrap()
}

fn reply<T: Send + 'static>() -> (Reply<T>, Receiver<T>) {
    let (sender, receiver) = channel();
    (Box::new(move |value| sender.send(value).unwrap()), receiver)
}

#[test]
fn the_answer_waits_for_the_last_core() {
    let mut fixture = fixture(LONG);
    let (to_answer, answer) = reply();
    fixture.thread.handle().onboard(request("a@x.com"), to_answer).unwrap();
    let delta = fixture.deltas.recv().unwrap();
    fixture.cores[0].apply(&delta);
    fixture.acks.acknowledge(0, fixture.cores[0].epoch());
    assert!(answer.try_recv().is_err());
    fixture.cores[1].apply(&delta);
    assert!(answer.try_recv().is_err());
    fixture.acks.acknowledge(1, fixture.cores[1].epoch());
    let Done::Onboarded(made) = answer.recv().unwrap().unwrap() else { panic!("another answer") };
    for core in &mut fixture.cores {
        let presented = Presented::none().authorization(made.api_key.expose().as_bytes());
        assert_eq!(core.authenticate(presented, Micros(2)).unwrap().tenant, made.tenant);
    }
    fixture.thread.stop().unwrap();
}

#[test]
fn a_core_that_does_not_turn_is_named_and_nothing_is_answered_as_done() {
    let fixture = fixture(Duration::from_millis(1));
    let (to_answer, answer) = reply();
    fixture.thread.handle().onboard(request("a@x.com"), to_answer).unwrap();
    let delta = fixture.deltas.recv().unwrap();
    fixture.acks.acknowledge(0, delta.epoch);
    assert_eq!(answer.recv().unwrap().unwrap_err(), Refused::OutcomeUnknown);
    let stuck = fixture.stuck.recv().unwrap();
    assert!(stuck < 2);
    fixture.thread.stop().unwrap();
}

#[test]
fn many_at_once_are_each_answered_once_and_one_address_gets_one_tenant() {
    let fixture = fixture(LONG);
    let (sender, answers) = channel();
    for number in 0..200 {
        let sender = sender.clone();
        let reply = Box::new(move |answer: Answer| sender.send(answer.is_ok()).unwrap());
        fixture.thread.handle().onboard(request(&format!("a{}@x.com", number / 2)), reply).unwrap();
    }
    drop(sender);
    // Cores acknowledge whatever comes; the thread stops once everything that was submitted is answered.
    let acks = Arc::clone(&fixture.acks);
    let deltas = fixture.deltas;
    let cores = thread::spawn(move || {
        for delta in deltas {
            acks.acknowledge(0, delta.epoch);
            acks.acknowledge(1, delta.epoch);
        }
    });
    fixture.thread.stop().unwrap();
    cores.join().unwrap();
    let answers: Vec<bool> = answers.iter().collect();
    assert_eq!((answers.len(), answers.iter().filter(|made| **made).count()), (200, 100));
}

#[test]
fn a_full_queue_and_a_stopped_thread_are_busy() {
    let fixture = fixture(LONG);
    let handle = fixture.thread.handle();
    // The first one holds the thread, which waits for cores that do not answer yet.
    handle.onboard(request("first@x.com"), Box::new(drop)).unwrap();
    let first = fixture.deltas.recv().unwrap();
    let mut accepted = 0;
    while handle.onboard(request(&format!("a{accepted}@x.com")), Box::new(drop)).is_ok() {
        accepted += 1;
    }
    assert_eq!(accepted, QUEUE_MAX);
    let (acks, deltas) = (Arc::clone(&fixture.acks), fixture.deltas);
    let cores = thread::spawn(move || {
        for delta in std::iter::once(first).chain(deltas) {
            acks.acknowledge(0, delta.epoch);
            acks.acknowledge(1, delta.epoch);
        }
    });
    fixture.thread.stop().unwrap();
    cores.join().unwrap();
    assert_eq!(handle.onboard(request("late@x.com"), Box::new(drop)), Err(Busy));
}

#[test]
fn the_key_file_is_read_again_on_demand() {
    let fixture = fixture(LONG);
    let (to_answer, answer) = reply();
    let directory = tempfile::tempdir().unwrap();
    let files = Files {
        bootstrap_key: None,
        keys: directory.path().join("apikeys.conf"),
        jwt_secret: directory.path().join("jwt-secret"),
    };
    fixture.thread.handle().read_files(files, Micros(1), to_answer).unwrap();
    // The secret was made, and the cores hear of it; the key file was not there.
    let delta = fixture.deltas.recv().unwrap();
    (0..2).for_each(|core| fixture.acks.acknowledge(core, delta.epoch));
    assert!(matches!(answer.recv().unwrap(), Err(KeysReadError::File(SetUpError::KeysFileMissing(_)))));
    fixture.thread.stop().unwrap();
}

#[test]
fn a_panic_of_the_thread_is_told_and_not_waited_out() {
    let fixture = fixture(LONG);
    // Publishing panics where nobody takes a delta.
    drop(fixture.deltas);
    let (reply, answered) = reply();
    fixture.thread.handle().onboard(request("a@x.com"), reply).unwrap();
    assert!(answered.recv().is_err());
    fixture.died.recv().unwrap();
    assert!(fixture.thread.stop().is_err());
}
