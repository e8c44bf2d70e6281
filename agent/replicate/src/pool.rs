//! A bounded pool of threads for disk reads and writes, hashing and compression.
//!
//! Dropping the pool closes its queue; [`Pool::join`] waits until every job that was taken has ended. That wait is how
//! an epoch is drained before the next one may write (law 4).

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

/// What a thread is given to do.
pub type Job = Box<dyn FnOnce() + Send>;

/// The pool.
#[derive(Debug)]
pub struct Pool {
    queue: mpsc::Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads` threads; at most as many jobs again wait in the queue.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let (queue, jobs) = mpsc::channel::<Job>(threads);
        let jobs = Arc::new(Mutex::new(jobs));
        let threads = (0..threads)
            .map(|i| {
                let jobs = Arc::clone(&jobs);
                std::thread::Builder::new().name(format!("{name}-{i}")).spawn(move || {
                    loop {
                        // The lock is held while waiting: idle threads queue up behind one that waits for a job.
                        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                        match job {
                            Some(job) => job(),
                            None => break,
                        }
                    }
                })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { queue, threads })
    }

    /// A handle that jobs can be given to.
    pub fn queue(&self) -> Queue {
        Queue(self.queue.clone())
    }

    /// Closes the queue and waits for the jobs that were taken. All [`Queue`]s must be gone or idle.
    pub async fn join(self) {
        let Self { queue, threads } = self;
        drop(queue);
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        // A job that panicked has already said so; there is nothing more to wait for.
        drop(joined.await);
    }
}

/// Gives jobs to a [`Pool`].
#[derive(Debug, Clone)]
pub struct Queue(mpsc::Sender<Job>);

impl Queue {
    /// Waits for a place in the queue. False if the pool is gone.
    pub async fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.0.send(Box::new(job)).await.is_ok()
    }

    /// The same in two steps, for who does other things while it waits. Nothing if the pool is gone.
    pub async fn reserve(&self) -> Option<mpsc::Permit<'_, Job>> {
        self.0.reserve().await.ok()
    }
}
