//! How a replica ends that cannot go on: it falls silent, and its host hears why.
//!
//! A failing disk ends a replica, and so does a bug. From then on it acknowledges nothing and takes nothing in, its
//! threads end, and [`ReplicaHandle::ended`](crate::replica::ReplicaHandle::ended) says why. What is durable is read
//! again by the next start of its directory. This library ends no process, installs no panic hook and prints nothing:
//! that is for the host to decide. Most hosts want to end their process, so that whoever watches it sees a death and
//! not a silence.
//!
//! # Why a host wants a panic hook
//! A panic in a thread of the replica's, or in a turn that runs on a thread of the host's, is caught, and ends the
//! replica as [`ReplicaFailure::Bug`]. Two kinds are out of its reach. Tasks on the host's tokio runtime: a panic there
//! ends the task, not the replica. And sled, which works on threads of its own and panics where it meets what it did
//! not expect, a full or failing disk among it: a replica whose log engine has lost a thread may wait for it for ever.
//! So a host whose replicas keep their logs in sled installs a hook ([`std::panic::set_hook`]) that ends the process.
//! The hook leaves alone what [`is_expected`](crate::panics::is_expected) says yes to: sled panics, too, on files that
//! it cannot read; those panics are caught, and mean damage.
//! ```
//! use std::io::Write as _;
//!
//! std::panic::set_hook(Box::new(|info| {
//!     if !smr::panics::is_expected() {
//!         // Not `eprintln!`: that panics, again, where stderr cannot be written.
//!         let _ = writeln!(std::io::stderr(), "{info}");
//!         std::process::exit(70);
//!     }
//! }));
//! ```

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use tokio::sync::watch;

use crate::panics::text_of;

/// Why a replica ended that could not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplicaFailure {
    /// The world around it failed: its disk, most likely, or the operating system.
    #[error("{who}: {why}")]
    World {
        /// The replica, and which part of it.
        who: String,
        /// What happened.
        why: String,
    },
    /// A broken invariant. Going on could lose data.
    #[error("{who} panicked: {what}")]
    Bug {
        /// The replica, and which part of it.
        who: String,
        /// What the panic says.
        what: String,
    },
    /// Its log or its snapshot holds what only a newer build can apply or read. Nothing is lost, and that build goes on
    /// from here.
    #[error("{who}: {why}")]
    NewerBuildNeeded {
        /// The replica.
        who: String,
        /// Which entry or snapshot, and what is known of it.
        why: String,
    },
}

/// How a replica ended: in order, or by a failure.
type End = Result<(), ReplicaFailure>;

/// Whether a replica goes on. Shared by all its threads; the first failure counts.
#[derive(Clone)]
pub(crate) struct Lifeline(Arc<Shared>);

impl fmt::Debug for Lifeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lifeline").field(&self.0.end.borrow()).finish()
    }
}

struct Shared {
    failed: AtomicBool,
    end: watch::Sender<Option<End>>,
    /// Wakes whoever has to end the rest of the replica.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Lifeline {
    pub(crate) fn new() -> Lifeline {
        let (end, _) = watch::channel(None);
        Lifeline(Arc::new(Shared { failed: AtomicBool::new(false), end, wake: OnceLock::new() }))
    }

    /// Calls this when the replica has failed. Set once.
    pub(crate) fn on_failure(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.wake.set(Box::new(wake));
    }

    /// The replica cannot go on: `who` says `why`.
    pub(crate) fn fail(&self, who: &str, why: &str) {
        self.end(Err(ReplicaFailure::World { who: who.to_owned(), why: why.to_owned() }));
    }

    /// The replica would have to apply what its build does not know.
    pub(crate) fn outdated(&self, who: &str, why: &str) {
        self.end(Err(ReplicaFailure::NewerBuildNeeded { who: who.to_owned(), why: why.to_owned() }));
    }

    /// A part of the replica panicked.
    pub(crate) fn panicked(&self, who: &str, payload: &(dyn Any + Send)) {
        self.end(Err(ReplicaFailure::Bug { who: who.to_owned(), what: text_of(payload).to_owned() }));
    }

    /// The replica has stopped in order.
    pub(crate) fn stopped(&self) {
        self.end(Ok(()));
    }

    /// Whether it must not go on. Called for each turn.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.failed.load(Ordering::SeqCst)
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) -> End {
        let mut end = self.0.end.subscribe();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            // This holds the sender.
            Err(_) => Ok(()),
        }
    }

    fn end(&self, how: End) {
        let has_failed = how.is_err();
        if has_failed {
            self.0.failed.store(true, Ordering::SeqCst);
        }
        self.0.end.send_if_modified(|end| {
            let is_first = end.is_none();
            if is_first {
                *end = Some(how);
            }
            is_first
        });
        if has_failed && let Some(wake) = self.0.wake.get() {
            wake();
        }
    }

    /// Starts a thread whose failure ends the replica.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub(crate) fn spawn(
        &self,
        name: String,
        run: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> io::Result<thread::JoinHandle<()>> {
        let lifeline = self.clone();
        thread::Builder::new().name(name.clone()).spawn(move || lifeline.watch(&name, run))
    }

    /// Runs what the replica cannot do without.
    pub(crate) fn watch(&self, who: &str, run: impl FnOnce() -> Result<(), String>) {
        match panic::catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => self.fail(who, &why),
            Err(payload) => self.panicked(who, payload.as_ref()),
        }
    }
}
