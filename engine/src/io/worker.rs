//! One helper thread for work that blocks or is slow: creating and renaming files, sealing, hashing passwords.
//!
//! Owns the thread and the way there and back. Jobs are done in order; each ends in exactly one result.
//!
//! Must never: hold more jobs and untaken results than `WORKER_JOBS_MAX`.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

/// Jobs submitted whose results have not been taken. A guess: helpers get a few jobs per second.
pub const WORKER_JOBS_MAX: usize = 256;

/// Belongs to one thread, which submits and takes results. Dropping it finishes the queue first.
pub struct Worker<J, D> {
    /// `None` only inside `drop`.
    jobs: Option<Sender<J>>,
    done: Receiver<D>,
    outstanding: Cell<usize>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static, D: Send + 'static> Worker<J, D> {
    /// Starts the thread. `wake` is called on it after each result has become visible to `try_next`.
    ///
    /// # Panics
    /// If the machine refuses a thread: helpers are started with the engine, never later.
    pub fn start(
        name: &str,
        mut run: impl FnMut(J) -> D + Send + 'static,
        wake: impl Fn() + Send + 'static,
    ) -> Worker<J, D> {
        let (jobs, queue) = channel::<J>();
        let (results, done) = channel::<D>();
        let thread = std::thread::Builder::new()
            .name(name.to_string())
            .spawn(move || {
                for job in queue {
                    // The owner may be gone already, when the queue is being finished for it.
                    let _ = results.send(run(job));
                    wake();
                }
            })
            .expect("the machine has a thread for us at start");
        Worker { jobs: Some(jobs), done, outstanding: Cell::new(0), thread: Some(thread) }
    }

    /// Queues a job; gives it back when the worker is full.
    pub fn submit(&self, job: J) -> Result<(), J> {
        if self.outstanding.get() >= WORKER_JOBS_MAX {
            return Err(job);
        }
        let jobs = self.jobs.as_ref().expect("taken in drop only");
        if jobs.send(job).is_err() {
            panic!("a helper thread has died");
        }
        self.outstanding.set(self.outstanding.get() + 1);
        Ok(())
    }

    /// The next result, if one is there.
    ///
    /// # Panics
    /// If the thread has died in a job: its result will never come, and the owner would wait for ever.
    pub fn try_next(&self) -> Option<D> {
        match self.done.try_recv() {
            Ok(result) => Some(self.taken(result)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("a helper thread has died"),
        }
    }

    /// Waits for the next result; `None` when no job is outstanding.
    ///
    /// # Panics
    /// As `try_next`.
    pub fn next(&self) -> Option<D> {
        if self.outstanding.get() == 0 {
            return None;
        }
        match self.done.recv() {
            Ok(result) => Some(self.taken(result)),
            Err(_) => panic!("a helper thread has died"),
        }
    }

    /// Jobs submitted whose results have not been taken.
    pub fn outstanding(&self) -> usize {
        self.outstanding.get()
    }

    fn taken(&self, result: D) -> D {
        self.outstanding.set(self.outstanding.get() - 1);
        result
    }
}

impl<J, D> Drop for Worker<J, D> {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_the_order_of_jobs_and_each_one_wakes() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let seen = wakes.clone();
        let worker = Worker::start(
            "test",
            |job: u32| job * 2,
            move || {
                seen.fetch_add(1, Ordering::SeqCst);
            },
        );
        for job in 0..10 {
            worker.submit(job).expect("there is room for ten");
        }
        let results: Vec<u32> = std::iter::from_fn(|| worker.next()).collect();
        assert_eq!(results, (0..10).map(|job| job * 2).collect::<Vec<u32>>());
        assert!(worker.try_next().is_none());
        drop(worker);
        assert_eq!(wakes.load(Ordering::SeqCst), 10);
    }

    #[test]
    fn a_full_worker_gives_the_job_back() {
        let worker = Worker::start("test", |job: usize| job, || {});
        for job in 0..WORKER_JOBS_MAX {
            worker.submit(job).expect("below the limit");
        }
        assert_eq!(worker.submit(7), Err(7));
        assert_eq!(worker.next(), Some(0));
        worker.submit(8).expect("one result was taken");
    }

    #[test]
    fn dropping_finishes_the_queue() {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = count.clone();
        let worker = Worker::start(
            "test",
            move |_: ()| {
                seen.fetch_add(1, Ordering::SeqCst);
            },
            || {},
        );
        for _ in 0..100 {
            worker.submit(()).expect("below the limit");
        }
        drop(worker);
        assert_eq!(count.load(Ordering::SeqCst), 100);
    }
}
