//! A model of [`turn_executor`]: `loom` tries every order of events, up to two preemptions, and every value that the
//! memory model lets a thread read, for one or two threads that put a letter into the inbox and the replica thread. The
//! file is the one that serves; what its threads share things by is loom's here.
//!
//! The inbox is as weak as it may be: a counter without any ordering. So what keeps a letter from being left lying is
//! what the executor itself does, its fences and its look into the inbox after letting go. The replica thread sleeps
//! until it is woken and no timer helps it: a letter that no one reads is a deadlock, which loom reports.

#![allow(clippy::unwrap_used)] // helpers of tests, where the lint only knows the tests themselves

#[path = "../src/replica/turn_executor.rs"]
mod turn_executor;

/// In place of `smr::fatal`.
mod fatal {
    use std::any::Any;

    pub(crate) struct Lifeline;

    impl Lifeline {
        pub(crate) fn has_failed(&self) -> bool {
            false
        }

        pub(crate) fn fail(&self, who: &str, why: &str) {
            panic!("{who}: {why}");
        }

        pub(crate) fn panicked(&self, _who: &str, _payload: &(dyn Any + Send)) {}
    }
}

/// In place of those of `smr`.
mod replica {
    pub(crate) mod clock {
        pub(crate) struct Time(pub(crate) u64);

        /// It stands still: a replica that is busy stays so until a turn ends as a quiet one.
        #[derive(Clone, Copy)]
        pub(crate) struct Clock;

        impl Clock {
            pub(crate) fn start() -> Clock {
                Clock
            }

            pub(crate) fn now(self) -> Time {
                Time(1000)
            }
        }
    }

    pub(crate) mod sync {
        pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
        pub(crate) use loom::sync::{Mutex, MutexGuard};
        pub(crate) use loom::thread::Thread;

        pub(crate) mod thread {
            use std::time::Duration;

            pub(crate) use loom::thread::current;

            /// No time passes.
            pub(crate) fn park_timeout(_rest: Duration) {
                loom::thread::park();
            }

            /// A hope that costs the model much and that nothing may rest on.
            pub(crate) fn yield_now() {}
        }
    }
}

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use turn_executor::{ExecuteTurns, TakeTurns, TurnExecutor};

/// How many times a thread may be interrupted where it need not wait. Each of the fences is missed with one already.
const PREEMPTIONS_MAX: usize = 2;

/// Reads letters until there were as many as are expected.
struct Clerk {
    inbox: Arc<AtomicUsize>,
    expected: usize,
    read: usize,
    /// Whether its turns say that they were busy.
    busy: bool,
}

impl TakeTurns for Clerk {
    fn turn(&mut self) -> Result<(), String> {
        self.read += self.inbox.swap(0, Ordering::Relaxed);
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.read == self.expected
    }

    fn is_busy(&self) -> bool {
        self.busy
    }

    fn shutdown(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn abandon(&mut self) {}

    fn set_next_wakeup(&mut self) -> Duration {
        Duration::MAX
    }

    fn brings_wakeup_forward(&mut self) -> bool {
        false
    }
}

fn explore(letters: usize, busy: bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS_MAX);
    model.check(move || {
        let inbox = Arc::new(AtomicUsize::new(0));
        let looked_into = Arc::clone(&inbox);
        let executor = Arc::new(TurnExecutor::new("clerk".to_owned(), fatal::Lifeline, move || {
            looked_into.load(Ordering::Relaxed) > 0
        }));
        let senders: Vec<_> = (0..letters)
            .map(|number| {
                let (executor, inbox) = (Arc::clone(&executor), Arc::clone(&inbox));
                thread::spawn(move || {
                    inbox.fetch_add(1, Ordering::Relaxed);
                    if number == 0 { executor.try_run_inline() } else { executor.try_run_one_inline() }
                })
            })
            .collect();
        let clerk = Clerk { inbox, expected: letters, read: 0, busy };
        // On a thread of its own: loom takes a wake-up for the end of whatever else a thread waits for.
        let replica = thread::spawn(move || executor.run(clerk));
        for sender in senders {
            sender.join().unwrap();
        }
        assert_eq!(replica.join().unwrap(), Ok(()));
    });
}

#[test]
fn letters_to_a_quiet_replica_are_all_read() {
    explore(1, false);
    explore(2, false);
}

#[test]
fn letters_to_a_busy_replica_are_all_read() {
    explore(1, true);
    explore(2, true);
}
