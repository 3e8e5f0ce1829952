//! The catalog's log on an engine of its own: one shard, small segments, in a data directory beside the events'.
//! An engine belongs to the thread that opened it, so it lives on one; what is asked of it waits for the answer.
//! Must never: be less durable than `commit`, whatever the events' durability is, or retire a segment.
//!
//! ```text
//! control ─ append ─► queue ─► thread "catalog": engine ─► DATA/catalog/     tenant 1: type = kind, payload = record
//!    ▲                              │ durable
//!    └───────────── reply ◄─────────┘
//! ```

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ringlog_engine::engine::{Engine, EngineError, EngineOptions};
use ringlog_engine::io::{IoMode, SyncMode};
use ringlog_engine::shard::Durability;
use ringlog_engine::shard::recover::{Damage, RecoveryReport};

use crate::catalog::engine_records::EngineRecords;
use crate::catalog::log::{CatalogError, CatalogLog};

/// A record takes a block of 4 KiB, so this is a thousand changes.
const SEGMENT_BYTES: u64 = 4 << 20;

/// The events' reserve is there so that the catalog has room: it leaves no more than a few of its own segments.
const RESERVE_BYTES: u64 = 16 << 20;

/// Records on their way from the engine to whoever replays them.
const REPLAYED_MAX: usize = 256;

/// With nothing to do for this long, the log says on disk how far it is durable. A guess: longer than a burst's gaps.
const SETTLE_AFTER: Duration = Duration::from_millis(10);

/// How the catalog asks the kernel.
#[derive(Debug, Clone, Copy)]
pub struct EngineLogSettings {
    pub io: IoMode,
    pub sync: SyncMode,
}

/// Why the catalog's log cannot be opened.
#[derive(Debug)]
pub enum EngineLogError {
    Engine(EngineError),
    Damaged(Vec<Damage>),
    Thread(io::Error),
}

impl std::fmt::Display for EngineLogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EngineLogError::Engine(error) => error.fmt(f),
            EngineLogError::Damaged(damage) => {
                write!(f, "stored changes are damaged:")?;
                for part in damage {
                    write!(f, " segment {} bytes {} to {}", part.segment.0, part.from, part.to)?;
                    for (_, first, last) in &part.positions {
                        write!(f, ", changes {} to {} are missing", first.0, last.0)?;
                    }
                }
                Ok(())
            }
            EngineLogError::Thread(error) => write!(f, "no thread for the catalog's log: {error}"),
        }
    }
}

impl std::error::Error for EngineLogError {}

/// Records with their numbers.
type Numbered = Vec<(u64, Vec<u8>)>;

enum Request {
    Append { record: Vec<u8>, entity: String, kind: String, reply: SyncSender<Result<(), CatalogError>> },
    Replay { records: SyncSender<Replayed> },
    ReadBefore { before: u64, count: usize, reply: SyncSender<Result<Numbered, CatalogError>> },
}

enum Replayed {
    Record(Vec<u8>),
    End(Result<(), CatalogError>),
}

/// The asking end. Its thread lets go of the directory when this is dropped.
pub struct EngineLog {
    requests: SyncSender<Request>,
}

/// The thread behind an `EngineLog`.
pub struct EngineLogThread {
    thread: JoinHandle<()>,
}

impl EngineLogThread {
    /// Waits until the log is closed. Its `EngineLog` must have been dropped, or this waits for that too.
    pub fn join(self) -> thread::Result<()> {
        self.thread.join()
    }
}

impl EngineLog {
    /// Opens or makes the catalog's directory. What recovery found there comes back for the server's log.
    pub fn open(
        path: &Path,
        settings: EngineLogSettings,
    ) -> Result<(EngineLog, EngineLogThread, RecoveryReport), EngineLogError> {
        let (opened, is_open) = sync_channel(1);
        // Whoever asks waits for the answer, so there is never more than one request.
        let (requests, queue) = sync_channel(1);
        let path = path.to_path_buf();
        let work = move || match open(&path, settings) {
            Ok((records, report)) => {
                if opened.send(Ok(report)).is_ok() {
                    Work { records }.run(&queue);
                }
            }
            Err(error) => {
                // Whoever wanted to know has gone with its own error.
                let _ = opened.send(Err(error));
            }
        };
        let thread = thread::Builder::new().name("catalog".to_owned()).spawn(work).map_err(EngineLogError::Thread)?;
        let report = is_open.recv().unwrap_or_else(|_| Err(EngineLogError::Thread(io::ErrorKind::Other.into())))?;
        Ok((EngineLog { requests }, EngineLogThread { thread }, report))
    }
}

fn open(path: &Path, settings: EngineLogSettings) -> Result<(EngineRecords<Engine>, RecoveryReport), EngineLogError> {
    let options = EngineOptions {
        shard_count: Some(1),
        segment_bytes: SEGMENT_BYTES,
        durability: Durability::Commit,
        io: settings.io,
        sync: settings.sync,
        reserve_bytes: RESERVE_BYTES,
    };
    let engine = Engine::open(path, &options).map_err(EngineLogError::Engine)?;
    let report = engine.recovery_reports()[0].clone();
    let records = EngineRecords::new(engine, &report).map_err(EngineLogError::Damaged)?;
    Ok((records, report))
}

impl CatalogLog for EngineLog {
    fn append(&mut self, record: &[u8], entity: &str, kind: &str) -> Result<(), CatalogError> {
        let ended = || CatalogError::OutcomeUnknown("its thread has ended".to_owned());
        let (reply, answer) = sync_channel(1);
        let (entity, kind) = (entity.to_owned(), kind.to_owned());
        let request = Request::Append { record: record.to_vec(), entity, kind, reply };
        self.requests.send(request).map_err(|_| ended())?;
        answer.recv().unwrap_or_else(|_| Err(ended()))
    }

    fn replay(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<(), CatalogError>) -> Result<(), CatalogError> {
        let ended = || CatalogError::Damaged("its thread has ended".to_owned());
        let (records, replayed) = sync_channel(REPLAYED_MAX);
        self.requests.send(Request::Replay { records }).map_err(|_| ended())?;
        loop {
            match replayed.recv() {
                Ok(Replayed::Record(record)) => each(&record)?,
                Ok(Replayed::End(result)) => return result,
                Err(_) => return Err(ended()),
            }
        }
    }

    fn read_before(&mut self, before: u64, count: usize, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), CatalogError> {
        let ended = || CatalogError::Damaged("its thread has ended".to_owned());
        let (reply, answer) = sync_channel(1);
        self.requests.send(Request::ReadBefore { before, count, reply }).map_err(|_| ended())?;
        let records = answer.recv().unwrap_or_else(|_| Err(ended()))?;
        records.iter().for_each(|(number, record)| each(*number, record));
        Ok(())
    }
}

struct Work {
    records: EngineRecords<Engine>,
}

impl Work {
    fn run(mut self, queue: &Receiver<Request>) {
        loop {
            let request = match queue.recv_timeout(SETTLE_AFTER) {
                Ok(request) => request,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.records.engine().settle();
                    match queue.recv() {
                        Ok(request) => request,
                        Err(_) => break,
                    }
                }
            };
            self.answer(request);
        }
        self.records.into_engine().close();
    }

    /// A caller that does not wait cannot be told; the record is as durable as it is.
    fn answer(&mut self, request: Request) {
        match request {
            Request::Append { record, entity, kind, reply } => {
                let _ = reply.send(self.records.append(&record, &entity, &kind));
            }
            Request::Replay { records } => {
                let result = self.records.replay(&mut |record| {
                    let _ = records.send(Replayed::Record(record.to_vec()));
                    Ok(())
                });
                let _ = records.send(Replayed::End(result));
            }
            Request::ReadBefore { before, count, reply } => {
                let mut read = Vec::new();
                let result = self.records.read_before(before, count, &mut |number, record| {
                    read.push((number, record.to_vec()));
                });
                let _ = reply.send(result.map(|()| read));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FALLBACK: EngineLogSettings = EngineLogSettings { io: IoMode::Fallback, sync: SyncMode::Dsync };

    fn opened(path: &Path) -> (EngineLog, EngineLogThread, Vec<Vec<u8>>) {
        let (mut log, thread, _) = EngineLog::open(path, FALLBACK).unwrap();
        let mut records = Vec::new();
        log.replay(&mut |record| {
            records.push(record.to_vec());
            Ok(())
        })
        .unwrap();
        (log, thread, records)
    }

    fn record(number: usize) -> Vec<u8> {
        format!("{{\"number\":{number}}}").into_bytes()
    }

    #[test]
    fn records_come_back_in_order_after_every_restart() {
        let directory = tempfile::tempdir().unwrap();
        // More than the channel of a replay holds.
        let per_life = REPLAYED_MAX + 10;
        for life in 0..3 {
            let (mut log, thread, records) = opened(directory.path());
            let expected: Vec<_> = (0..life * per_life).map(record).collect();
            assert_eq!(records, expected);
            for number in life * per_life..(life + 1) * per_life {
                log.append(&record(number), "tenant:1", "tenant_created").unwrap();
            }
            drop(log);
            thread.join().unwrap();
        }
    }

    /// The helper that prepares segments may end at any moment of it.
    #[test]
    fn a_log_that_is_only_read_closes() {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            let (log, thread, records) = opened(directory.path());
            assert!(records.is_empty());
            drop(log);
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_replay_stops_at_the_first_error_and_the_log_lives_on() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, thread, _) = opened(directory.path());
        for number in 0..2 * REPLAYED_MAX {
            log.append(&record(number), "tenant:1", "tenant_created").unwrap();
        }
        let mut seen = 0;
        let refused = log.replay(&mut |_| {
            seen += 1;
            Err(CatalogError::Damaged("as told".to_owned()))
        });
        assert_eq!((refused, seen), (Err(CatalogError::Damaged("as told".to_owned())), 1));
        log.append(&record(0), "tenant:1", "tenant_created").unwrap();
        drop(log);
        thread.join().unwrap();
    }

    #[test]
    fn records_are_read_backwards_from_any_place() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, thread, _) = opened(directory.path());
        for number in 1..=20 {
            log.append(&record(number), "tenant:1", "tenant_created").unwrap();
        }
        let mut read = |before: u64, count: usize| {
            let mut numbers = Vec::new();
            log.read_before(before, count, &mut |number, bytes| {
                assert_eq!(bytes, record(number as usize));
                numbers.push(number);
            })
            .unwrap();
            numbers
        };
        assert_eq!(read(21, 3), [20, 19, 18]);
        assert_eq!(read(u64::MAX, 1), [20]);
        assert_eq!(read(3, 10), [2, 1]);
        assert!(read(1, 10).is_empty());
        drop(log);
        thread.join().unwrap();
    }

    #[test]
    fn a_directory_is_opened_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let (log, thread, _) = opened(directory.path());
        assert!(matches!(EngineLog::open(directory.path(), FALLBACK), Err(EngineLogError::Engine(_))));
        drop(log);
        thread.join().unwrap();
        opened(directory.path());
    }

    #[test]
    fn damaged_changes_are_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, thread, _) = opened(directory.path());
        for number in 0..8 {
            log.append(&record(number), "tenant:1", "tenant_created").unwrap();
        }
        drop(log);
        thread.join().unwrap();
        let needle = record(3);
        let mut is_damaged = false;
        for entry in std::fs::read_dir(directory.path().join("shard-0000")).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                bytes[at] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                is_damaged = true;
            }
        }
        assert!(is_damaged);
        match EngineLog::open(directory.path(), FALLBACK) {
            Err(EngineLogError::Damaged(damage)) => assert!(!damage.is_empty()),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("opened"),
        };
    }
}
