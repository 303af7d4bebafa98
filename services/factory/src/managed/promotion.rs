//! How a factory that is sent orders becomes the primary: the present one stops and confirms that all it was given is
//! committed, and then the managers are asked to issue the next epoch.
//!
//! If the present primary does not answer, the managers are asked all the same: they know whether it lives. Whatever it
//! had under way then, it finishes under the same numbers at the next one, so it is recorded once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smr::id::ClusterId;
use smr::internals::reach;
use smr_service::process::jittered;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::admin::Group;
use crate::managed::gate::Gate;
use crate::managed::lookout::Situation;
use crate::managed::managers::{Managers, NotPromoted};
use crate::managed::words::{KIND_YIELD, KIND_YIELD_ANSWER, Yield, YieldAnswer};
use crate::message::{CUSTOMER_FRAME_MAX_BYTES, Dialler};
use crate::wire::{self, Connection};
use crate::words::ServerId;

/// A primary goes on for this long at least, in milliseconds, as with the managers: each change stops the group for a
/// moment.
const EPOCH_MIN_MS: u64 = 1_000;
/// How long a primary may take to finish what is under way, in milliseconds. A backup that died holds orders up until
/// it is removed; then the primary goes on, and is asked again.
const DRAIN_MS: u64 = 2_000;
/// How long a primary that has stopped waits for the managers' decision, in milliseconds.
const STOPPED_MAX_MS: u64 = 6_000;
/// How long the primary may take to be reached, in milliseconds.
const DIAL_TIMEOUT_MS: u64 = 1_000;
/// How long it may take to answer, in milliseconds.
const YIELD_TIMEOUT_MS: u64 = EPOCH_MIN_MS + DRAIN_MS + 1_000;
/// How long it may take until a decision of the managers is known here, in milliseconds.
const KNOWN_MS: u64 = 2_000;
/// How long one attempt may take that has to begin again because the primary has changed, in milliseconds.
const ATTEMPT_MAX_MS: u64 = 8_000;
/// How long a factory that is being caught up waits until it has everything, in milliseconds.
const CATCH_UP_MS: u64 = 3_000;
/// How long it may take until what the managers refused for is known here, in milliseconds: some heartbeats.
const SETTLE_MS: u64 = 1_000;
/// The pause before it begins again, in milliseconds.
const PAUSE_MS: u64 = 50;

/// An attempt that came to nothing.
#[derive(Clone, Debug)]
struct Failed {
    attempt: u64,
    why: String,
}

/// That this factory become the primary, as long as someone waits for that.
pub struct Promotion {
    situation: watch::Receiver<Situation>,
    waiting: AtomicUsize,
    wanted: Notify,
    /// How many attempts have begun.
    begun: watch::Sender<u64>,
    failed: watch::Sender<Option<Failed>>,
}

/// Someone who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Promotion {
    /// That the factory become the primary that is described there.
    pub fn new(situation: watch::Receiver<Situation>) -> Arc<Promotion> {
        let (waiting, wanted) = (AtomicUsize::new(0), Notify::new());
        let (begun, failed) = (watch::Sender::new(0), watch::Sender::new(None));
        Arc::new(Promotion { situation, waiting, wanted, begun, failed })
    }

    /// Waits until this factory is the primary.
    ///
    /// # Errors
    /// Why it is not; no attempt that began before this was called counts.
    pub async fn come_true(&self, until: Instant) -> Result<(), String> {
        let mut situation = self.situation.clone();
        if situation.borrow().is_primary {
            return Ok(());
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let mut failed = self.failed.subscribe();
        let counts_from = *self.begun.borrow() + 1;
        self.wanted.notify_one();
        loop {
            if situation.borrow_and_update().is_primary {
                return Ok(());
            }
            if let Some(Failed { attempt, why }) = &*failed.borrow_and_update()
                && *attempt >= counts_from
            {
                return Err(why.clone());
            }
            let news = async {
                tokio::select! {
                    changed = situation.changed() => changed,
                    changed = failed.changed() => changed,
                }
            };
            match timeout_at(until, news).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("this factory ends".to_owned()),
                Err(_) => return Err("this factory did not become the production factory in time".to_owned()),
            }
        }
    }

    /// Has it come true whenever someone waits. Never returns.
    pub async fn run(&self, successor: Successor) {
        loop {
            self.wanted.notified().await;
            while self.waiting.load(Ordering::Relaxed) > 0 && !self.situation.borrow().is_primary {
                self.begun.send_modify(|begun| *begun += 1);
                let attempt = *self.begun.borrow();
                if let Err(why) = successor.take_over(self.situation.clone()).await {
                    self.failed.send_replace(Some(Failed { attempt, why }));
                    // Whoever waits takes it in, and may want it again.
                    sleep(jittered(Duration::from_millis(PAUSE_MS))).await;
                }
            }
        }
    }
}

/// A factory that takes over.
pub struct Successor {
    /// This one and the others.
    pub group: Arc<Group>,
    /// Who decides.
    pub managers: Managers,
    /// Their cluster.
    pub cluster: ClusterId,
}

impl Successor {
    async fn take_over(&self, mut situation: watch::Receiver<Situation>) -> Result<(), String> {
        let until = Instant::now() + Duration::from_millis(ATTEMPT_MAX_MS);
        let caught_up = situation.wait_for(|now| now.is_member);
        if !timeout(Duration::from_millis(CATCH_UP_MS), caught_up).await.is_ok_and(|known| known.is_ok()) {
            return Err("this factory is being caught up, or is no member at present".to_owned());
        }
        loop {
            let before = *situation.borrow_and_update();
            let is_over = |now: &Situation| now.is_primary || now.epoch != before.epoch;
            let mut changes = situation.clone();
            // Whoever is primary by now has not stopped.
            let stopped = tokio::select! {
                biased;
                _ = changes.wait_for(is_over) => Err("the primary has changed meanwhile".to_owned()),
                stopped = self.stop_primary(&before) => stopped,
            };
            let stopped = match stopped {
                Ok(stopped) => stopped,
                // It may be about to be the primary, or not know yet that it is none; or someone else takes over.
                Err(why) if Instant::now() >= until => return Err(why),
                Err(_) => {
                    let known = situation.wait_for(is_over);
                    let _ = timeout(Duration::from_millis(PAUSE_MS), known).await;
                    if situation.borrow().is_primary {
                        return Ok(());
                    }
                    continue;
                }
            };
            let promoted = self.promote().await;
            if promoted.is_ok() {
                let known = situation.wait_for(|now| now.is_primary || now.epoch > before.epoch + 1);
                // Until then the former primary stays stopped.
                let _ = timeout(Duration::from_millis(KNOWN_MS), known).await;
            }
            drop(stopped);
            if situation.borrow().is_primary {
                return Ok(());
            }
            let why = promoted.err().unwrap_or_else(|| "what the managers have decided is not known here".to_owned());
            // What the managers refuse while members change is about another epoch than that which is known here.
            let changed = timeout(Duration::from_millis(SETTLE_MS), situation.wait_for(is_over)).await;
            let may_go_on = changed.is_ok_and(|known| known.is_ok());
            if !may_go_on || Instant::now() >= until {
                return Err(why);
            }
        }
    }

    async fn promote(&self) -> Result<(), String> {
        let Ok(replica) = u16::try_from(self.group.id.0) else { return Err("no such replica".to_owned()) };
        self.managers.promote(replica).await.map_err(|not| match not {
            NotPromoted::Refused(why) => format!("the managers do not make this factory the primary: {why}"),
            NotPromoted::Unknown(why) => format!("the managers do not say whether this factory is the primary: {why}"),
        })
    }

    /// Has the primary stop. What is returned, if there is one that answers, keeps it stopped.
    async fn stop_primary(&self, situation: &Situation) -> Result<Option<Connection>, String> {
        let primary = situation.primary.filter(|primary| *primary != self.group.id);
        let Some((to, address)) = primary.and_then(|to| Some((to, self.group.others.get(&to)?))) else {
            return Ok(None);
        };
        match timeout(Duration::from_millis(YIELD_TIMEOUT_MS), self.ask(to, address, situation.epoch)).await {
            Ok(Ok((YieldAnswer::Stopped, connection))) => Ok(Some(connection)),
            Ok(Ok((YieldAnswer::NotPrimary, _))) => Err(format!("server {to} is not the production factory any more")),
            Ok(Ok((YieldAnswer::GoesOn(why), _))) => Err(format!("server {to} stays the production factory: {why}")),
            Ok(Err(error)) => {
                tracing::debug!(%error, server = to.0, "the primary cannot be asked to stop");
                Ok(None)
            }
            // It hangs, or is being removed: the managers know.
            Err(_) => Ok(None),
        }
    }

    async fn ask(&self, to: ServerId, address: &str, epoch: u64) -> io::Result<(YieldAnswer, Connection)> {
        let stream = reach::connect(address, Duration::from_millis(DIAL_TIMEOUT_MS)).await?;
        let mut connection = wire::prepare(stream)?;
        let (id, group) = (self.group.id, self.group.ids());
        let (cluster, partition) = (self.cluster, self.managers.partition);
        let dialler = Dialler::Successor { id, to, group, cluster, partition };
        connection.greet(dialler, CUSTOMER_FRAME_MAX_BYTES).await?;
        connection.send(KIND_YIELD, &Yield { epoch }).await?;
        let answer = connection.receive(KIND_YIELD_ANSWER).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((answer, connection))
    }
}

/// Stops this primary for a successor, as that wants: until the epoch has ended, the successor is gone, or it takes too
/// long.
///
/// # Errors
/// If the connection breaks.
pub async fn serve_successor(
    gate: &Gate,
    mut situation: watch::Receiver<Situation>,
    mut connection: Connection,
) -> io::Result<()> {
    let heard = timeout(Duration::from_millis(DIAL_TIMEOUT_MS), connection.receive(KIND_YIELD));
    let Some(Yield { epoch }) = heard.await?? else { return Ok(()) };
    let mut is_primary = || {
        let now = *situation.borrow_and_update();
        now.is_primary && now.epoch == epoch
    };
    if !is_primary() {
        return connection.send(KIND_YIELD_ANSWER, &YieldAnswer::NotPrimary).await;
    }
    let since = situation.borrow().since;
    let epoch_min = Duration::from_millis(EPOCH_MIN_MS).saturating_sub(since.elapsed());
    // Whoever is gone, or speaks out of turn, is not waited for.
    tokio::select! {
        () = sleep(epoch_min) => {}
        heard = connection.receive::<Yield>(KIND_YIELD) => return heard.map(|_| ()),
    }
    let Some(_closed) = gate.close(Duration::from_millis(DRAIN_MS)).await else {
        let why = "it has orders under way, or stops for another one".to_owned();
        return connection.send(KIND_YIELD_ANSWER, &YieldAnswer::GoesOn(why)).await;
    };
    let is_over = |now: &Situation| !now.is_primary || now.epoch != epoch;
    let answer = if is_over(&situation.borrow()) { YieldAnswer::NotPrimary } else { YieldAnswer::Stopped };
    connection.send(KIND_YIELD_ANSWER, &answer).await?;
    tokio::select! {
        _ = situation.wait_for(is_over) => {}
        _ = connection.receive::<Yield>(KIND_YIELD) => {}
        () = sleep(Duration::from_millis(STOPPED_MAX_MS)) => {}
    }
    Ok(())
}
