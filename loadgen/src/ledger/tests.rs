//! Ledgers that are whole, torn, damaged, foreign, shared by threads, and left behind by a process that was killed.

use super::layout::{ENTRY_HEAD_BYTES, EXTENT_BYTES, EXTENT_HEAD_BYTES, FILE_HEAD_BYTES, entry_bytes};
use super::*;
use crate::corpus::{Mark, Rng};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn mark(entity: u32) -> Mark {
    Mark { entity, payload_hash: u64::from(entity) * 3, rest_hash: entity * 5 }
}

fn ack(number: u64) -> Ack {
    Ack { id_hash: u128::from(number) << 64 | 1, version: number + 1 }
}

fn fresh_path() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    (folder, path)
}

/// A run with a baseline, one request acknowledged, one unknown and one refused, in this order.
fn write_three(path: &Path) {
    let (file, ledger) = LedgerFile::open(path).unwrap();
    assert_eq!(ledger.run_count, 0);
    let mut writer = file.writer();
    writer.run(9);
    writer.tenant(&Tenant { id: "t".into(), key: "k".into() });
    writer.baseline(0, &[7, 8]);
    writer.sent(Seq(10), 0, &[mark(1), mark(2)]);
    writer.sent(Seq(12), 0, &[mark(3)]);
    writer.acked(Seq(10), &[ack(100), ack(101)]);
    writer.sent(Seq(13), 0, &[mark(4)]);
    writer.refused(Seq(13), 429);
    writer.flush().unwrap();
}

/// Where the last two entries of [`write_three`] begin and end: a sending of one event, and a refusal.
fn ends_of_three() -> [usize; 3] {
    let bodies = [9, 1 + 2 + 1 + 2 + 1, 3 + 32, 23 + 32, 23 + 16, 17 + 48, 23 + 16, 11];
    let mut at = FILE_HEAD_BYTES as usize + EXTENT_HEAD_BYTES;
    let ends = bodies.map(|body_bytes| {
        at += entry_bytes(body_bytes);
        at
    });
    [ends[5], ends[6], ends[7]]
}

fn outcomes(ledger: &Ledger) -> Vec<&'static str> {
    let name = |request: &SentRequest| match request.outcome {
        Outcome::Unknown => "unknown",
        Outcome::Acked { .. } => "acked",
        Outcome::Refused { .. } => "refused",
    };
    ledger.requests.iter().map(name).collect()
}

fn error_of(path: &Path) -> String {
    let read = Ledger::read(path).unwrap_err().to_string();
    let opened = LedgerFile::open(path).unwrap_err().to_string();
    assert_eq!(read, opened);
    read
}

#[test]
fn what_is_written_is_read_back() {
    let (_folder, path) = fresh_path();
    write_three(&path);
    let ledger = Ledger::read(&path).unwrap();
    assert_eq!((ledger.run_count, ledger.torn_bytes), (1, 0));
    assert_eq!(ledger.seeds, [9]);
    assert_eq!(ledger.tenants, [Tenant { id: "t".into(), key: "k".into() }]);
    assert_eq!(ledger.baselines[&0], [7, 8]);
    assert_eq!(outcomes(&ledger), ["acked", "unknown", "refused"]);
    assert_eq!(ledger.requests[2].outcome, Outcome::Refused { status: 429 });
    assert_eq!((ledger.ack(0), ledger.ack(1), ledger.ack(2)), (Some(ack(100)), Some(ack(101)), None));
    assert_eq!(ledger.mark(1), mark(2));
    assert_eq!(
        (ledger.event_by_seq(Seq(13)), ledger.event_by_seq(Seq(14)), ledger.event_by_seq(Seq(9))),
        (Some(3), None, None)
    );
    assert_eq!(ledger.seq(1), Seq(11));
    // Sent, sent, acknowledged, sent: noted one after the other.
    let moments = [ledger.requests[0].sent_at, ledger.requests[1].sent_at, ledger.requests[0].acked_at()];
    assert!(moments.is_sorted() && moments[2] <= ledger.requests[2].sent_at);
    assert_eq!(ledger.requests[1].acked_at(), Moment::NEVER);
}

#[test]
fn a_later_session_is_later() {
    let (_folder, path) = fresh_path();
    write_three(&path);
    let (file, _) = LedgerFile::open(&path).unwrap();
    file.writer().sent(Seq(20), 0, &[mark(1)]);
    drop(file);
    let ledger = Ledger::read(&path).unwrap();
    let first_of_second = ledger.requests[3].sent_at;
    assert!(ledger.requests[..3].iter().all(|request| request.sent_at < first_of_second));
    assert!(ledger.requests[0].acked_at() < first_of_second);
}

#[test]
fn many_threads_write_one_ledger() {
    const THREADS: u32 = 4;
    const REQUESTS: u64 = 3_000;
    let (_folder, path) = fresh_path();
    let (file, _) = LedgerFile::open(&path).unwrap();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let mut writer = file.writer();
            std::thread::spawn(move || {
                let mut rng = Rng::new(u64::from(thread));
                let mut number = 0;
                for _ in 0..REQUESTS {
                    let first = Seq::new(0, thread, number);
                    let count = 1 + rng.below(40);
                    let marks: Vec<Mark> = (0..count).map(|index| mark((number + index) as u32)).collect();
                    let acks: Vec<Ack> = (0..count).map(|index| ack(first.0 + index)).collect();
                    writer.sent(first, thread as u16, &marks);
                    writer.acked(first, &acks);
                    number += count;
                }
                writer.flush().unwrap();
                number
            })
        })
        .collect();
    let counts: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    drop(file);
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    assert!(u64::from(THREADS) * EXTENT_BYTES < file_bytes, "each thread needs several extents: {file_bytes}");
    let ledger = Ledger::read(&path).unwrap();
    assert_eq!(ledger.torn_bytes, 0);
    assert_eq!(u64::from(ledger.event_count()), counts.iter().sum::<u64>());
    assert_eq!(ledger.requests.len() as u64, u64::from(THREADS) * REQUESTS);
    for (thread, &count) in counts.iter().enumerate() {
        for number in 0..count {
            let seq = Seq::new(0, thread as u32, number);
            let event = ledger.event_by_seq(seq).unwrap();
            assert_eq!((ledger.mark(event), ledger.ack(event)), (mark(number as u32), Some(ack(seq.0))));
            assert_eq!((ledger.seq(event), ledger.request_of(event).tenant), (seq, thread as u16));
        }
    }
    assert!(ledger.requests.iter().all(|request| request.sent_at <= request.acked_at()));
}

#[test]
fn an_entry_may_be_larger_than_an_extent() {
    let (_folder, path) = fresh_path();
    let (file, _) = LedgerFile::open(&path).unwrap();
    let marks: Vec<Mark> = (0..100_000).map(mark).collect();
    let mut writer = file.writer();
    writer.sent(Seq(1), 0, &marks[..1]);
    writer.sent(Seq(2), 0, &marks);
    writer.sent(Seq(200_000), 0, &marks[..1]);
    writer.flush().unwrap();
    drop((file, writer));
    let ledger = Ledger::read(&path).unwrap();
    assert_eq!((ledger.requests.len(), ledger.event_count()), (3, 100_002));
    assert_eq!(ledger.mark(ledger.event_by_seq(Seq(100_001)).unwrap()), mark(99_999));
}

/// Cuts the ledger of three requests in three ways at every byte of its last two entries. Whole entries are read,
/// the torn one is not, and the next session writes on.
#[test]
fn a_kill_at_any_byte_leaves_whole_entries() {
    let (_folder, path) = fresh_path();
    write_three(&path);
    let mut whole = std::fs::read(&path).unwrap();
    let [from, sent_end, end] = ends_of_three();
    assert!(whole[end..].iter().all(|&byte| byte == 0));
    // The rest is zeros, written or not.
    whole.truncate(end + 64);
    assert!(whole[end - 8..end].iter().any(|&byte| byte != 0));
    for cut in from..end {
        let zeroed = [&whole[..cut], &vec![0; whole.len() - cut]].concat();
        // A writer makes an entry's first eight bytes last: they are still zero when it dies.
        let entry = if cut < sent_end { from } else { sent_end };
        let mut headless = zeroed.clone();
        headless[entry..entry + ENTRY_HEAD_BYTES].fill(0);
        for torn in [&zeroed[..], &headless[..], &whole[..cut]] {
            std::fs::write(&path, torn).unwrap();
            // Bytes that are zero anyway may be missing.
            let filled_up = [torn, &vec![0; whole.len() - torn.len()]].concat();
            let is_whole = |end: usize| filled_up[..end] == whole[..end];
            let (file, ledger) = LedgerFile::open(&path).unwrap();
            let expected = match (is_whole(sent_end), is_whole(end)) {
                (true, true) => vec!["acked", "unknown", "refused"],
                (true, false) => vec!["acked", "unknown", "unknown"],
                (false, _) => vec!["acked", "unknown"],
            };
            assert_eq!(outcomes(&ledger), expected, "cut at {cut}");
            assert!(ledger.torn_bytes <= (end - from) as u64);
            let mut writer = file.writer();
            writer.sent(Seq(50), 0, &[mark(6)]);
            writer.refused(Seq(50), 400);
            writer.flush().unwrap();
            drop((file, writer));
            let again = Ledger::read(&path).unwrap();
            assert_eq!(outcomes(&again), [&expected[..], &["refused"]].concat());
        }
    }
}

#[test]
fn a_kill_between_two_extents_leaves_both_readable() {
    let (_folder, path) = fresh_path();
    write_three(&path);
    let end = std::fs::metadata(&path).unwrap().len() as usize;
    let (file, _) = LedgerFile::open(&path).unwrap();
    file.writer().sent(Seq(50), 0, &[mark(6)]);
    drop(file);
    let whole = std::fs::read(&path).unwrap();
    for cut in end..end + EXTENT_HEAD_BYTES {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(whole.len() as u64 + EXTENT_BYTES).unwrap();
        let (file, ledger) = LedgerFile::open(&path).unwrap();
        assert_eq!(ledger.requests.len(), 3);
        file.writer().sent(Seq(60), 0, &[mark(6)]);
        drop(file);
        let again = Ledger::read(&path).unwrap();
        assert_eq!((again.requests.len(), again.requests[3].first_seq), (4, Seq(60)));
    }
}

#[test]
fn damage_before_whole_entries_is_refused() {
    let (_folder, path) = fresh_path();
    write_three(&path);
    let mut whole = std::fs::read(&path).unwrap();
    let from = FILE_HEAD_BYTES as usize + EXTENT_HEAD_BYTES;
    let [_, last, end] = ends_of_three();
    whole.truncate(end);
    for at in from..last {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        // The zeros that fill an entry up mean nothing.
        if whole[at] == 0 && std::fs::write(&path, &damaged).is_ok() && Ledger::read(&path).is_ok() {
            continue;
        }
        std::fs::write(&path, &damaged).unwrap();
        assert!(error_of(&path).contains("damaged"), "at {at}");
    }
}

#[test]
fn a_damaged_extent_before_a_whole_one_is_refused() {
    let (_folder, path) = fresh_path();
    write_three(&path);
    let (file, _) = LedgerFile::open(&path).unwrap();
    file.writer().sent(Seq(50), 0, &[mark(6)]);
    drop(file);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[FILE_HEAD_BYTES as usize + 9] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(error_of(&path).contains("damaged: there is no extent at 4096, and one at"));
}

#[test]
fn entries_of_another_place_or_session_are_none() {
    let (_folder, path) = fresh_path();
    write_three(&path);
    let mut bytes = std::fs::read(&path).unwrap();
    let [from, sent_end, end] = ends_of_three();
    // The same entry once more, behind the last.
    let copy = bytes[from..sent_end].to_vec();
    bytes[end..end + copy.len()].copy_from_slice(&copy);
    std::fs::write(&path, &bytes).unwrap();
    let ledger = Ledger::read(&path).unwrap();
    assert_eq!(ledger.requests.len(), 3);
    assert!((1..=copy.len() as u64).contains(&ledger.torn_bytes));
    drop(ledger);
    // The same entries at the same place of another session.
    let other_path = path.with_extension("other");
    write_three(&other_path);
    let mut other = std::fs::read(&other_path).unwrap();
    let entries = FILE_HEAD_BYTES as usize + EXTENT_HEAD_BYTES;
    other[entries..end].copy_from_slice(&bytes[entries..end]);
    std::fs::write(&other_path, &other).unwrap();
    assert_eq!(Ledger::read(&other_path).unwrap().requests.len(), 0);
}

#[test]
fn another_file_is_refused() {
    let (_folder, path) = fresh_path();
    for text in ["some text of mine", "x"] {
        std::fs::write(&path, text).unwrap();
        assert!(error_of(&path).ends_with("this is not a ledger"));
        assert_eq!(std::fs::read(&path).unwrap(), text.as_bytes());
    }
}

#[test]
fn another_version_is_refused_by_its_name() {
    let (_folder, path) = fresh_path();
    std::fs::write(&path, b"RLLEDG01 and whatever it held").unwrap();
    assert!(error_of(&path).contains("it has format 01, this program reads and writes 02"));
}

#[test]
fn a_ledger_has_one_run_at_a_time() {
    let (_folder, path) = fresh_path();
    let (file, _) = LedgerFile::open(&path).unwrap();
    let writer = file.writer();
    drop(file);
    // The writer alone keeps it.
    assert!(LedgerFile::open(&path).unwrap_err().to_string().contains("another run writes it"));
    assert!(Ledger::read(&path).unwrap_err().to_string().contains("a run still writes it"));
    drop(writer);
    let reader = Ledger::read(&path).unwrap();
    assert!(Ledger::read(&path).is_ok());
    assert!(LedgerFile::open(&path).is_err());
    drop(reader);
    assert!(LedgerFile::open(&path).is_ok());
}

/// A process of this very test binary that runs one test, which does nothing when it is not asked like this.
pub fn command_of_test(name: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(CHILD, path);
    command
}

pub const CHILD: &str = "RINGLOG_LOAD_TEST_CHILD";

#[test]
fn child_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let (file, _) = LedgerFile::open(Path::new(&path)).unwrap();
    let threads: Vec<_> = (0..3)
        .map(|thread| {
            let mut writer = file.writer();
            std::thread::spawn(move || {
                for number in 0.. {
                    let first = Seq::new(0, thread, number * 2);
                    writer.sent(first, 0, &[mark(1), mark(2)]);
                    writer.acked(first, &[ack(first.0), ack(first.0 + 1)]);
                    writer.flush().unwrap();
                    // Ends this process when nobody listens any more.
                    writeln!(std::io::stdout().lock(), "\nnoted {first}").unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn what_was_noted_survives_kill_9() {
    let (_folder, path) = fresh_path();
    let name = "ledger::tests::child_writes_until_it_is_killed";
    let mut child = command_of_test(name, &path).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut heard = String::new();
    // Several extents of every thread.
    while heard.len() < 1_500_000 {
        assert!(0 < output.read_line(&mut heard).unwrap(), "the child ended by itself");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    output.read_to_string(&mut heard).unwrap();

    let ledger = Ledger::read(&path).unwrap();
    let noted = heard.split_inclusive('\n').filter_map(|line| line.strip_prefix("noted ")?.strip_suffix('\n'));
    let noted: Vec<Seq> = noted.map(|digits| Seq::parse(digits).unwrap()).collect();
    assert!(50_000 < noted.len());
    for seq in &noted {
        let event = ledger.event_by_seq(*seq).unwrap();
        assert_eq!(ledger.ack(event), Some(ack(seq.0)));
    }
    // Each thread may have had one request in hand.
    assert!(ledger.requests.len() <= noted.len() + 2 * 3);
    drop(ledger);
    let (file, ledger) = LedgerFile::open(&path).unwrap();
    let mut writer = file.writer();
    writer.sent(Seq::new(1, 0, 0), 0, &[mark(1)]);
    writer.flush().unwrap();
    drop((file, writer));
    assert_eq!(Ledger::read(&path).unwrap().requests.len(), ledger.requests.len() + 1);
}

#[test]
fn a_writer_that_failed_writes_nothing_more() {
    use rustix::fs::{MemfdFlags, SealFlags};
    use std::os::fd::AsRawFd;
    // A file in memory that may not grow any more stands for the full disk.
    let memory = rustix::fs::memfd_create("ledger", MemfdFlags::ALLOW_SEALING).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    let (file, _) = LedgerFile::open(&path).unwrap();
    let (mut writer, mut other) = (file.writer(), file.writer());
    writer.sent(Seq(1), 0, &[mark(1)]);
    writer.flush().unwrap();
    rustix::fs::fcntl_add_seals(&memory, SealFlags::GROW).unwrap();
    let large: Vec<Mark> = (0..1_000_000).map(mark).collect();
    writer.sent(Seq(2), 0, &large);
    assert!(writer.flush().is_err());
    // There would be room for it, but not for what it answers.
    writer.acked(Seq(2), &[ack(2)]);
    assert!(writer.flush().is_err());
    // What was allocated before is still given out.
    other.sent(Seq(3_000_000), 0, &[mark(1)]);
    other.flush().unwrap();
    drop((file, writer, other));
    let ledger = Ledger::read(&path).unwrap();
    let seqs: Vec<Seq> = ledger.requests.iter().map(|request| request.first_seq).collect();
    assert_eq!(seqs, [Seq(1), Seq(3_000_000)]);
}
