//! Who runs a replica's turns: whoever brings news, and the replica thread for all that is left.
//!
//! A request crosses threads, and on a quiet machine waking one costs more than the work it is woken for. So a thread
//! that has put something into the inbox (a connection's, or the disk thread) runs the turn itself, if no other one is
//! at it. If one is, that one looks into the inbox again after its turn, so nothing is left lying. Under load the inbox
//! fills while a turn runs, and turns are as large as before. (This is flat combining: one thread at a time works off
//! what all have queued.)
//!
//! The replica thread owns time: it sleeps until the core's next deadline, its next wakeup. A turn that brings the
//! deadline forward wakes it. It also takes over from a thread that has run its few turns, because sockets wait for
//! that one, and does what takes long: starting, and the end.
//!
//! What a turn decides is the same whoever runs it ([`crate::replica::turn`]); turns never overlap. Where a turn fails
//! or panics, or another thread of the replica has failed, no further one is run.
//!
//! That nothing is left lying rests on three fences. `tests/turn_executor_model.rs` tries this file in every order of
//! events, and with every value that the memory model lets a thread read.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use crate::fatal::Lifeline;
use crate::replica::clock::Clock;
use crate::replica::sync::{AtomicU64, Mutex, MutexGuard, Ordering, Thread, fence, thread};

/// Turns that a thread runs in a row if it is not the replica thread: it has sockets, or a disk, to go back to.
const TURNS_BY_OTHERS_MAX: usize = 4;
/// A busy replica is quiet again when its last turn is this long ago, in microseconds. Before that more is about to
/// come, and waiting for the replica thread lets it become a larger batch.
pub(super) const QUIET_US: u64 = 40;
/// What the replica thread says when it ends because another one has said why.
const HAS_FAILED: &str = "a part of the replica has failed";
/// How often the replica thread lets others run, in the hope of news, before it goes to sleep.
const YIELDS_BEFORE_SLEEP: usize = 8;

/// What takes turns.
pub(super) trait TakeTurns: Send + 'static {
    /// Takes what has arrived, lets time pass, and does what follows. Nothing, once it is to stop.
    ///
    /// # Errors
    /// If it cannot go on.
    fn turn(&mut self) -> Result<(), String>;

    /// Whether it was told to stop.
    fn is_stopping(&self) -> bool;

    /// Whether the last turn was one of many: what comes right after it is not alone then.
    fn is_busy(&self) -> bool;

    /// The orderly end.
    ///
    /// # Errors
    /// If that is not possible.
    fn shutdown(&mut self) -> Result<(), String>;

    /// The end when a part of the replica has failed: answers who waits, and does nothing else.
    fn abandon(&mut self);

    /// How long the replica thread may sleep now; it will look then.
    fn set_next_wakeup(&mut self) -> Duration;

    /// Whether something is due before the replica thread would look, so that it has to be woken. Says so once.
    fn brings_wakeup_forward(&mut self) -> bool;
}

/// Sees to it that a turn follows on what was put into the inbox. Never waits.
pub(super) trait ExecuteTurns: Send + Sync {
    /// Runs a turn, or leaves it to whoever is at it. Takes the time of a few turns at most.
    fn try_run_inline(&self);

    /// The same for a thread that must not be kept: a single turn.
    fn try_run_one_inline(&self);

    /// Leaves it to the replica thread.
    fn wake(&self);
}

/// See the module.
pub(super) struct TurnExecutor<D> {
    /// Empty before the replica serves and after it has stopped: then the replica thread waits at the inbox itself.
    driver: Mutex<Option<D>>,
    /// Whether something is in the inbox.
    has_news: Box<dyn Fn() -> bool + Send + Sync>,
    clock: Clock,
    /// When the last turn of a busy replica ended, in microseconds by the clock; 0 if it was not.
    turned_at_us: AtomicU64,
    /// The replica thread.
    thread: OnceLock<Thread>,
    lifeline: Lifeline,
    /// Who says it, if a turn fails.
    who: String,
}

impl<D: TakeTurns> TurnExecutor<D> {
    /// One without a driver.
    pub(super) fn new(
        who: String,
        lifeline: Lifeline,
        has_news: impl Fn() -> bool + Send + Sync + 'static,
    ) -> TurnExecutor<D> {
        TurnExecutor {
            driver: Mutex::new(None),
            has_news: Box::new(has_news),
            clock: Clock::start(),
            turned_at_us: AtomicU64::new(0),
            thread: OnceLock::new(),
            lifeline,
            who,
        }
    }

    fn run_inline(&self, turns_max: usize) {
        if self.clock.now().0 < self.turned_at_us.load(Ordering::Relaxed) + QUIET_US {
            return self.wake();
        }
        for _ in 0..turns_max {
            // Between what was put in and the look at who runs turns, as between letting go and the look into the inbox
            // below: one of the two sees what the other has done.
            fence(Ordering::SeqCst);
            let Ok(mut holder) = self.driver.try_lock() else { return };
            if !self.turn(&mut holder) {
                break;
            }
            let Some(driver) = holder.as_mut() else { return };
            if driver.is_stopping() {
                break;
            }
            let wake = driver.brings_wakeup_forward();
            self.turned(driver);
            drop(holder);
            if wake {
                self.wake();
            }
            fence(Ordering::SeqCst);
            if !(self.has_news)() {
                return;
            }
        }
        self.wake();
    }

    /// Runs one turn, unless the replica has failed. False if there is to be no other one.
    fn turn(&self, holder: &mut Option<D>) -> bool {
        if self.lifeline.has_failed() {
            return false;
        }
        let Some(driver) = holder.as_mut() else { return true };
        match panic::catch_unwind(AssertUnwindSafe(|| driver.turn())) {
            Ok(Ok(())) => return true,
            Ok(Err(why)) => self.lifeline.fail(&self.who, &why),
            Err(payload) => {
                // What a panic left behind is of no use to anyone.
                *holder = None;
                self.lifeline.panicked(&self.who, payload.as_ref());
            }
        }
        false
    }

    /// The replica thread's work: runs the turns of `driver` until the replica is stopped.
    ///
    /// # Errors
    /// If the replica cannot go on.
    pub(super) fn run(&self, driver: D) -> Result<(), String> {
        // The same thread, should the replica go on in its directory's next incarnation.
        let _ = self.thread.set(thread::current());
        *self.lock() = Some(driver);
        loop {
            let rest = {
                let mut holder = self.lock();
                if !self.turn(&mut holder) {
                    if let Some(mut driver) = holder.take() {
                        driver.abandon();
                    }
                    return Err(HAS_FAILED.to_owned());
                }
                let Some(driver) = holder.as_mut() else { panic!("{}: the driver has gone", self.who) };
                if driver.is_stopping() {
                    let ended = driver.shutdown();
                    // No one runs a turn of what has stopped.
                    *holder = None;
                    return ended;
                }
                self.turned(driver);
                driver.set_next_wakeup()
            };
            fence(Ordering::SeqCst);
            if !self.news_within_a_moment() {
                thread::park_timeout(rest);
            }
        }
    }

    /// While others are at work something may come, and a thread that has not gone to sleep need not be woken.
    fn news_within_a_moment(&self) -> bool {
        (0..YIELDS_BEFORE_SLEEP).any(|_| {
            thread::yield_now();
            (self.has_news)()
        })
    }

    fn turned(&self, driver: &D) {
        let at = if driver.is_busy() { self.clock.now().0 } else { 0 };
        self.turned_at_us.store(at, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Option<D>> {
        // A panic in a turn is caught while the lock is held.
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: TakeTurns> ExecuteTurns for TurnExecutor<D> {
    fn try_run_inline(&self) {
        self.run_inline(TURNS_BY_OTHERS_MAX);
    }

    fn try_run_one_inline(&self) {
        self.run_inline(1);
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
