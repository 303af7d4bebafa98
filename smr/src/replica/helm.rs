//! Who runs a replica's turns: whoever brings news, and the replica thread for all that is left.
//!
//! A request crosses threads, and on a quiet machine waking one costs more than the work it is woken for. So a thread that
//! has put something into the inbox (a connection's, or the disk thread) takes the helm, if it is free, and runs the turn
//! itself. If it is not free, whoever has it looks into the inbox again after letting go, so nothing is left lying. Under load the
//! inbox fills while a turn runs, and turns are as large as before.
//!
//! The replica thread owns time: it sleeps until the core's next deadline, which the helm calls the alarm. A turn that brings the
//! deadline forward wakes it. It also takes over from a thread that has run its few turns, because sockets wait for that one, and
//! does what takes long: starting, and the orderly end.
//!
//! What a turn decides is the same whoever runs it ([`crate::replica::turn`]); turns never overlap.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use crossbeam_channel::{SendTimeoutError, Sender, TrySendError};

use crate::fatal::end_process;
use crate::protocol::Protocol;
use crate::replica::driver::{Clock, Driver, Happening, Inbox};
use crate::replica::message::PeerMessage;
use crate::state_machine::StateMachine;
use crate::transport::{EventSink, TransportEvent};

/// Turns that a thread runs in a row if it is not the replica thread: it has sockets, or a disk, to go back to.
const TURNS_BY_OTHERS_MAX: usize = 4;

/// A replica is quiet if its last turn is at least this long ago, in microseconds. Otherwise more is about to come, and waiting
/// for the replica thread lets it become a larger batch.
const QUIET_US: u64 = 40;
/// How often the replica thread lets others run, in the hope of news, before it goes to sleep.
const YIELDS_BEFORE_SLEEP: usize = 8;

/// See the module.
pub(super) struct Helm<P: Protocol, S: StateMachine> {
    /// Empty before the replica serves and after it has stopped: then the replica thread waits at the inbox itself.
    driver: Mutex<Option<Driver<P, S>>>,
    inbox: Inbox<P, S>,
    clock: Clock,
    /// When the last turn ended, in microseconds by the clock.
    turned_at_us: AtomicU64,
    /// The replica thread.
    keeper: OnceLock<Thread>,
    /// For the last words.
    who: String,
}

impl<P: Protocol, S: StateMachine> Helm<P, S> {
    /// A helm without a driver. `inbox` is looked at, the driver takes from it.
    pub(super) fn new(inbox: Inbox<P, S>, who: String) -> Helm<P, S> {
        let (clock, turned_at_us) = (Clock::start(), AtomicU64::new(0));
        Helm { driver: Mutex::new(None), inbox, clock, turned_at_us, keeper: OnceLock::new(), who }
    }

    /// To be called when something was put into the inbox: runs a turn, or leaves it to whoever is at it. Takes the time of a few
    /// turns at most. Ends the process if the replica cannot go on.
    pub(super) fn steer(&self) {
        if self.clock.now().0 < self.turned_at_us.load(Ordering::Relaxed) + QUIET_US {
            return self.wake();
        }
        for _ in 0..TURNS_BY_OTHERS_MAX {
            // Between what was put in and the look at the helm, as between letting go and the look into the inbox below: one of
            // the two sees what the other has done.
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
            self.turned_at_us.store(self.clock.now().0, Ordering::Relaxed);
            drop(helm);
            if wake {
                self.wake();
            }
            fence(Ordering::SeqCst);
            if !self.inbox.has_news() {
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
    pub(super) fn keep(&self, driver: Driver<P, S>) -> Result<(), String> {
        // Set once: this thread runs once.
        let _ = self.keeper.set(std::thread::current());
        *self.lock() = Some(driver);
        loop {
            let rest = {
                let mut helm = self.lock();
                let Some(driver) = helm.as_mut() else { panic!("{}: the helm is empty while it is kept", self.who) };
                if !driver.is_stopping() {
                    driver.turn()?;
                }
                if driver.is_stopping() {
                    let ended = driver.farewell();
                    *helm = None;
                    return ended;
                }
                self.turned_at_us.store(self.clock.now().0, Ordering::Relaxed);
                driver.set_alarm()
            };
            fence(Ordering::SeqCst);
            let news = (0..YIELDS_BEFORE_SLEEP).any(|_| {
                std::thread::yield_now();
                self.inbox.has_news()
            });
            if !news {
                std::thread::park_timeout(rest);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Driver<P, S>>> {
        // A panic in a turn ends the process before anybody could come here.
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way into the inbox for a replica's own threads.
pub(super) struct News<P: Protocol, S: StateMachine> {
    pub(super) events: Sender<Happening<P, S>>,
    pub(super) helm: Arc<Helm<P, S>>,
}

impl<P: Protocol, S: StateMachine> Clone for News<P, S> {
    fn clone(&self) -> News<P, S> {
        News { events: self.events.clone(), helm: self.helm.clone() }
    }
}

impl<P: Protocol, S: StateMachine> News<P, S> {
    /// Puts it in, waiting for room, and leaves it to the replica thread. False if nobody listens any more.
    pub(super) fn tell(&self, happening: Happening<P, S>) -> bool {
        let told = self.events.send(happening).is_ok();
        self.helm.wake();
        told
    }

    /// As [`News::tell`], but gives up after a while: false.
    pub(super) fn tell_within(&self, happening: Happening<P, S>, patience: std::time::Duration) -> bool {
        let told = match self.events.send_timeout(happening, patience) {
            Ok(()) => true,
            Err(SendTimeoutError::Timeout(_) | SendTimeoutError::Disconnected(_)) => false,
        };
        self.helm.wake();
        told
    }
}

impl<P: Protocol, S: StateMachine> EventSink<PeerMessage<P::Message>> for News<P, S> {
    fn take(&self, event: TransportEvent<PeerMessage<P::Message>>) -> bool {
        match self.events.try_send(Happening::Peer(event)) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    fn flush(&self) {
        self.helm.steer();
    }
}
