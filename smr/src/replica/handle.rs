//! How a process talks to a replica that runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::entry::{GenesisHash, Index};
use crate::fatal::{Lifeline, ReplicaFailure};
use crate::id::{ClusterId, Disqualified, Incarnation, StartTrail};
use crate::replica::engine::BUSY_RETRY_MS;
use crate::replica::metrics::{Meters, ReplicaMetrics, ReplicaPace};
use crate::replica::turn_executor::ExecuteTurns;
use crate::replica::{Outcome, ReplySink, ReplyTo, Request, Submit, Tuning};
use crate::storage::Witness;

/// What the handle may be asked without a trip through the replica thread.
pub(super) struct Facts {
    pub(super) cluster: OnceLock<ClusterId>,
    pub(super) present: Mutex<Present>,
    /// What each incarnation begins with.
    pub(super) tuning: Mutex<Tuning>,
}

/// The present incarnation.
pub(super) struct Present {
    pub(super) incarnation: Incarnation,
    pub(super) start: StartTrail,
    /// Once it is initialized.
    pub(super) genesis: Option<GenesisHash>,
    /// The entry by which the group went on without it, if it did.
    pub(super) retired: Option<Index>,
}

impl Facts {
    pub(super) fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock()
    }

    pub(super) fn tuning(&self) -> MutexGuard<'_, Tuning> {
        self.tuning.lock()
    }
}

/// The queue of requests once no one serves it any more. Closing a queue of this kind leaves what is in it where it is.
pub(super) struct RequestQueue {
    pub(super) leftovers: Receiver<(Request, ReplyTo)>,
    pub(super) closed: AtomicBool,
}

impl RequestQueue {
    /// From now on each request is refused, those that wait included.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.refuse_if_closed();
    }

    /// Closes it when what is returned goes.
    pub(super) fn close_at_end(self: &Arc<RequestQueue>) -> impl Drop + use<> {
        ClosesAtEnd(Arc::clone(self))
    }

    /// Called after each request that was queued: either the one who closed it has found it, or this does.
    fn refuse_if_closed(&self) {
        if self.closed.load(Ordering::SeqCst) {
            for (_, reply) in self.leftovers.try_iter() {
                reply.send(Outcome::OutOfService("stopping".to_owned()));
            }
        }
    }
}

struct ClosesAtEnd(Arc<RequestQueue>);

impl Drop for ClosesAtEnd {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A running replica. Cheap to clone.
#[derive(Clone)]
pub struct ReplicaHandle {
    pub(super) requests: Sender<(Request, ReplyTo)>,
    pub(super) queue: Arc<RequestQueue>,
    pub(super) executor: Arc<dyn ExecuteTurns>,
    pub(super) stop: Arc<dyn Fn() + Send + Sync>,
    pub(super) exclude: Sender<Witness>,
    pub(super) disqualify: Arc<dyn Fn(String) -> bool + Send + Sync>,
    pub(super) tune: Arc<dyn Fn(Tuning) -> bool + Send + Sync>,
    pub(super) facts: Arc<Facts>,
    pub(super) lifeline: Lifeline,
    pub(super) meters: Arc<Meters>,
}

impl ReplicaHandle {
    /// As [`Submit::submit`]. If the queue is full the outcome is `Busy`, at once.
    pub fn submit(&self, request: Request, reply: ReplyTo) {
        Submit::submit(self, request, reply);
    }

    /// Asks something whose answer comes whole, and waits for it; `None` if the answer came in parts or never will.
    pub async fn ask(&self, request: Request) -> Option<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let sink = Arc::new(Asker(Mutex::new(Some(sender))));
        self.submit(request, ReplyTo { tag: 0, sink });
        receiver.await.ok()
    }

    /// The cluster id once it is known (a founding group learns it at its bootstrap).
    pub fn cluster(&self) -> Option<ClusterId> {
        self.facts.cluster.get().copied()
    }

    /// Whether the replica is initialized: a member, or about to be one.
    pub fn is_initialized(&self) -> bool {
        self.facts.present().genesis.is_some()
    }

    /// The genesis of its group, once it is initialized.
    pub fn genesis(&self) -> Option<GenesisHash> {
        self.facts.present().genesis
    }

    /// The entry by which the group went on without this replica, if it did, as far as is applied here: an older
    /// configuration may say so for a moment while a replica that starts catches up with its own log. It says nothing
    /// and is asked nothing any more.
    pub fn retired(&self) -> Option<Index> {
        self.facts.present().retired
    }

    /// As [`Opened::exclude`](crate::replica::Opened::exclude), while the replica runs. It is done soon, and
    /// has no effect on one that is initialized.
    pub fn exclude(&self, witness: Witness) {
        // If one waits there already, that one is enough; if no one listens, the replica is initialized.
        let _ = self.exclude.try_send(witness);
    }

    /// The present incarnation of the directory, and this start of it.
    pub fn start(&self) -> (Incarnation, StartTrail) {
        let present = self.facts.present();
        (present.incarnation, present.start)
    }

    /// Someone outside of the group knows why this replica must not take part any longer: it goes into quarantine.
    /// Says whether it was told.
    pub fn disqualify(&self, why: Disqualified, by: &str) -> bool {
        (self.disqualify)(why.said_by(by))
    }

    /// What its parts have counted. Waits for no one, and answers also while the replica hangs.
    pub fn metrics(&self) -> ReplicaMetrics {
        ReplicaMetrics { requests_queued: self.requests.len() as u64, ..self.meters.read() }
    }

    /// How long things took since this was last called. For one caller, who looks about once in a while of
    /// `known_after`: what has been under way for longer counts as far as it has come. Waits for no one, and answers
    /// also while the replica hangs.
    pub fn take_pace(&self, known_after: Duration) -> ReplicaPace {
        self.meters.take_pace(known_after)
    }

    /// Goes by other limits from now on, also in later incarnations of the directory in this process. The same again
    /// costs nothing. Says whether the replica was told; one that has ended, or is too busy, was not.
    pub fn tune(&self, tuning: Tuning) -> bool {
        let before = std::mem::replace(&mut *self.facts.tuning(), tuning);
        let told = before == tuning || (self.tune)(tuning);
        if !told {
            *self.facts.tuning() = before;
        }
        told
    }

    /// Waits until the replica has ended: in order, by [`ReplicaHandle::shutdown`], or because it could not go on. From
    /// then on requests are refused; the turn and the write that are under way may still be finished, and told of if
    /// they are durable, while its last threads end; the directory stays locked until they have. See [`crate::fatal`]
    /// for what a host does then.
    ///
    /// # Errors
    /// Why it could not go on.
    pub async fn ended(&self) -> Result<(), ReplicaFailure> {
        self.lifeline.ended().await
    }

    /// Hands leadership over if it leads, lets what is under way finish, and stops. Blocks for at most 6 s.
    pub fn shutdown(&self) {
        (self.stop)();
    }
}

/// Someone who waits for one outcome.
struct Asker(Mutex<Option<oneshot::Sender<Outcome>>>);

impl ReplySink for Asker {
    fn deliver(&self, _tag: u64, outcome: Outcome) {
        if let Some(sender) = self.0.lock().take() {
            // Whoever waited may have gone.
            let _ = sender.send(outcome);
        }
    }

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        false
    }
}

impl Submit for ReplicaHandle {
    fn queue(&self, request: Request, reply: ReplyTo) {
        match self.requests.try_send((request, reply)) {
            Ok(()) => self.queue.refuse_if_closed(),
            Err(TrySendError::Full((_, reply))) => reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS }),
            Err(TrySendError::Disconnected((_, reply))) => reply.send(Outcome::OutOfService("stopping".to_owned())),
        }
    }

    fn flush(&self) {
        self.executor.try_run_inline();
    }
}
