//! Who runs a replica's turns: whoever brings news, and the replica thread for all that is left.
//!
//! A request crosses threads, and on a quiet machine waking one costs more than the work it is woken for. So a thread
//! that has put something into the inbox (a connection's, or the disk thread) takes the helm, if it is free, and runs
//! the turn itself. If it is not free, whoever has it looks into the inbox again after letting go, so nothing is left
//! lying. Under load the inbox fills while a turn runs, and turns are as large as before.
//!
//! The replica thread owns time: it sleeps until the core's next deadline, which the helm calls the alarm. A turn that
//! brings the deadline forward wakes it. It also takes over from a thread that has run its few turns, because sockets
//! wait for that one, and does what takes long: starting, and the orderly end.
//!
//! What a turn decides is the same whoever runs it ([`crate::replica::turn`]); turns never overlap.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::fatal::end_process;
use crate::replica::driver::Clock;

/// Turns that a thread runs in a row if it is not the replica thread: it has sockets, or a disk, to go back to.
const TURNS_BY_OTHERS_MAX: usize = 4;
/// A busy replica is quiet again when its last turn is this long ago, in microseconds. Before that more is about to
/// come, and waiting for the replica thread lets it become a larger batch.
const QUIET_US: u64 = 40;
/// How often the replica thread lets others run, in the hope of news, before it goes to sleep.
const YIELDS_BEFORE_SLEEP: usize = 8;

/// What is steered.
pub(super) trait Steered: Send {
    /// Takes what has arrived, lets time pass, and does what follows. Nothing, once it is to stop.
    ///
    /// # Errors
    /// If it cannot go on.
    fn turn(&mut self) -> Result<(), String>;

    /// Whether it was told to stop.
    fn is_stopping(&self) -> bool;

    /// Whether the last turn was one of many: what comes right behind it is not alone then.
    fn is_busy(&self) -> bool;

    /// The orderly end.
    ///
    /// # Errors
    /// If that is not possible.
    fn farewell(&mut self) -> Result<(), String>;

    /// How long the replica thread may sleep now; it promises to look then.
    fn set_alarm(&mut self) -> Duration;

    /// Whether something is due before the replica thread would look, so that it has to be woken. Says so once.
    fn brings_alarm_forward(&mut self) -> bool;
}

/// See the module.
pub(super) struct Helm<D> {
    /// Empty before the replica serves and after it has stopped: then the replica thread waits at the inbox itself.
    driver: Mutex<Option<D>>,
    /// Whether something is in the inbox.
    has_news: Box<dyn Fn() -> bool + Send + Sync>,
    clock: Clock,
    /// When the last turn of a busy replica ended, in microseconds by the clock; 0 if it was not.
    turned_at_us: AtomicU64,
    /// The replica thread.
    keeper: OnceLock<Thread>,
    /// For the last words.
    who: String,
}

impl<D: Steered> Helm<D> {
    /// A helm without a driver.
    pub(super) fn new(who: String, has_news: impl Fn() -> bool + Send + Sync + 'static) -> Helm<D> {
        Helm {
            driver: Mutex::new(None),
            has_news: Box::new(has_news),
            clock: Clock::start(),
            turned_at_us: AtomicU64::new(0),
            keeper: OnceLock::new(),
            who,
        }
    }

    /// To be called when something was put into the inbox: runs a turn, or leaves it to whoever is at it. Takes the
    /// time of a few turns at most. Ends the process if the replica cannot go on.
    pub(super) fn steer(&self) {
        self.steer_for(TURNS_BY_OTHERS_MAX);
    }

    /// As [`Helm::steer`], for a thread that must not be kept: a single turn.
    pub(super) fn steer_once(&self) {
        self.steer_for(1);
    }

    fn steer_for(&self, turns_max: usize) {
        if self.clock.now().0 < self.turned_at_us.load(Ordering::Relaxed) + QUIET_US {
            return self.wake();
        }
        for _ in 0..turns_max {
            // Between what was put in and the look at the helm, as between letting go and the look into the inbox
            // below: one of the two sees what the other has done.
            fence(Ordering::SeqCst);
            let Ok(mut helm) = self.driver.try_lock() else { return };
            let Some(driver) = helm.as_mut() else { return };
            if let Err(why) = driver.turn() {
                end_process(&self.who, &why);
            }
            if driver.is_stopping() {
                break;
            }
            let wake = driver.brings_alarm_forward();
            self.turned(driver);
            drop(helm);
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

    /// Leaves what was put into the inbox to the replica thread.
    pub(super) fn wake(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.unpark();
        }
    }

    /// The replica thread's life: runs `driver` until the replica is stopped.
    ///
    /// # Errors
    /// If the replica cannot go on.
    pub(super) fn keep(&self, driver: D) -> Result<(), String> {
        // Set once: this thread runs once.
        let _ = self.keeper.set(thread::current());
        *self.lock() = Some(driver);
        loop {
            let rest = {
                let mut helm = self.lock();
                let Some(driver) = helm.as_mut() else { panic!("{}: the helm is empty while it is kept", self.who) };
                let ended = match driver.turn() {
                    Ok(()) if !driver.is_stopping() => None,
                    Ok(()) => Some(driver.farewell()),
                    Err(why) => Some(Err(why)),
                };
                if let Some(ended) = ended {
                    // Nobody runs a turn of what has stopped, or has failed in the middle of one.
                    *helm = None;
                    return ended;
                }
                self.turned(driver);
                driver.set_alarm()
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
        // A panic in a turn ends the process before anybody could come here.
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::time::Instant;

    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;

    /// Answers each letter; its alarm does not ring within the test's life.
    struct Clerk {
        letters: Receiver<Option<Sender<u64>>>,
        answered: u64,
        closing: bool,
    }

    fn spin(us: u64) {
        let until = Instant::now() + Duration::from_micros(us);
        while Instant::now() < until {}
    }

    impl Steered for Clerk {
        fn turn(&mut self) -> Result<(), String> {
            for letter in self.letters.try_iter().take(2) {
                match letter {
                    Some(answer) => {
                        self.answered += 1;
                        answer.send(self.answered).map_err(|error| error.to_string())?;
                    }
                    None => self.closing = true,
                }
            }
            // Letters that come now find the helm taken, and the clerk no longer looking.
            spin(2 * QUIET_US);
            Ok(())
        }

        fn is_stopping(&self) -> bool {
            self.closing
        }

        fn is_busy(&self) -> bool {
            self.answered.is_multiple_of(2)
        }

        fn farewell(&mut self) -> Result<(), String> {
            Err(format!("{} answered", self.answered))
        }

        fn set_alarm(&mut self) -> Duration {
            Duration::from_secs(3600)
        }

        fn brings_alarm_forward(&mut self) -> bool {
            false
        }
    }

    // In each round everybody waits for its own answer before anybody writes again: nobody else's letter gets a
    // forgotten one read.
    #[test]
    fn steer_while_another_has_the_helm_nothing_is_left_lying() {
        const THREADS: u64 = 3;
        const ROUNDS: u64 = 2_000;
        let (post, letters) = unbounded();
        let helm = {
            let letters = letters.clone();
            Arc::new(Helm::<Clerk>::new("clerk".to_owned(), move || !letters.is_empty()))
        };
        let keeper = {
            let helm = helm.clone();
            thread::spawn(move || helm.keep(Clerk { letters, answered: 0, closing: false }))
        };
        let round_begins = Arc::new(Barrier::new(THREADS as usize));
        let senders: Vec<_> = (0..THREADS)
            .map(|number| {
                let (helm, post, round_begins) = (helm.clone(), post.clone(), round_begins.clone());
                thread::spawn(move || {
                    for round in 0..ROUNDS {
                        round_begins.wait();
                        spin(number * (round * 7 % (3 * QUIET_US)));
                        let (answer, answers) = unbounded();
                        post.send(Some(answer)).unwrap();
                        // As the disk's thread does when more waits for it.
                        if number == 0 {
                            helm.wake()
                        } else {
                            helm.steer()
                        }
                        if answers.recv_timeout(Duration::from_secs(60)).is_err() {
                            // The others wait for this one.
                            eprintln!("letter {round} of {number} lies there unread");
                            std::process::exit(1);
                        }
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        post.send(None).unwrap();
        helm.steer();
        assert_eq!(keeper.join().unwrap(), Err(format!("{} answered", THREADS * ROUNDS)));
    }

    /// Tells who ran each turn that had news; never busy.
    struct Watch {
        news: Receiver<()>,
        turns_by: Sender<thread::ThreadId>,
        closing: bool,
    }

    impl Steered for Watch {
        fn turn(&mut self) -> Result<(), String> {
            match self.news.try_recv() {
                Ok(()) => self.turns_by.send(thread::current().id()).map_err(|error| error.to_string()),
                Err(error) => {
                    self.closing = error.is_disconnected();
                    Ok(())
                }
            }
        }

        fn is_stopping(&self) -> bool {
            self.closing
        }

        fn is_busy(&self) -> bool {
            false
        }

        fn farewell(&mut self) -> Result<(), String> {
            Ok(())
        }

        fn set_alarm(&mut self) -> Duration {
            Duration::from_secs(3600)
        }

        fn brings_alarm_forward(&mut self) -> bool {
            false
        }
    }

    // A lone client's next request comes right behind the answer to its last one: waking a thread for it would be for
    // nothing.
    #[test]
    fn steer_right_behind_a_turn_that_was_not_one_of_many_runs_the_next_at_once() {
        const ROUNDS: usize = 200;
        let (post, news) = unbounded();
        let (turns_by, turns) = unbounded();
        let helm = {
            let news = news.clone();
            Arc::new(Helm::<Watch>::new("watch".to_owned(), move || !news.is_empty()))
        };
        let keeper = {
            let helm = helm.clone();
            thread::spawn(move || helm.keep(Watch { news, turns_by, closing: false }))
        };
        let mine = (0..ROUNDS).filter(|_| {
            post.send(()).unwrap();
            helm.steer();
            turns.recv_timeout(Duration::from_secs(60)).expect("a turn") == thread::current().id()
        });
        let mine = mine.count();
        // Not all: the keeper begins with a turn of its own.
        assert!(mine > ROUNDS * 3 / 4, "{mine} of {ROUNDS}");
        drop(post);
        helm.wake();
        assert_eq!(keeper.join().unwrap(), Ok(()));
    }
}
