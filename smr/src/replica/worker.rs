//! Threads that wait for work. They exist from the start, because a process may later be refused another one (a limit,
//! a lack of memory): what a replica cannot do without must not depend on that (fault catalogue B33, D7).

use std::io;

use crossbeam_channel::{Sender, unbounded};

use crate::fatal::Lifeline;
use crate::replica::snapshots::lower_priority;

type Job = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// A thread that works off what it is given, in order, at a lower priority than the threads that serve. It ends with
/// its owner.
pub(super) struct Worker {
    /// Not bounded: whoever gives has one job at a time under way.
    jobs: Sender<Job>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the operating system gives none.
    pub(super) fn start(lifeline: &Lifeline, name: String) -> io::Result<Worker> {
        let (jobs, waiting) = unbounded::<Job>();
        lifeline.spawn(name, move || {
            lower_priority();
            waiting.iter().try_for_each(|job| job())
        })?;
        Ok(Worker { jobs })
    }

    /// Never blocks. A job that fails ends the replica.
    pub(super) fn give(&self, job: impl FnOnce() -> Result<(), String> + Send + 'static) {
        // The thread lives as long as this, or the replica has failed.
        let _ = self.jobs.send(Box::new(job));
    }
}
