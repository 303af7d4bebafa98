//! Finds a group's leader: asks all replicas, in rounds, until one says that it leads. Runs once per group, however
//! many requests wait for it, and only as long as any does.

use std::sync::Arc;

use smr::status::{Role, ServiceState};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::Context;
use crate::client::connection::{CopyEvent, Event, Posted};
use crate::client::group::{Group, Waiting};
use crate::client::limits::{FIND_COMPLAIN_AFTER, FIND_PAUSE, LOST_AFTER};
use crate::client::link::troubles;
use crate::frames::{ClientRequest, ClientResponse, Map};

impl<M: Map> Group<M> {
    /// Waits until someone is believed to lead. Cancelling is fine.
    pub(crate) async fn leader_known(self: &Arc<Group<M>>, context: &Arc<Context>) {
        let _waiting = Waiting::new(self);
        loop {
            let changed = self.changed();
            tokio::pin!(changed);
            changed.as_mut().enable(); // before looking, so that a change in between is not missed
            if self.start_finding() {
                tokio::spawn(find(Arc::clone(self), Arc::clone(context)));
            }
            if self.leader().is_some() {
                return;
            }
            changed.await;
        }
    }
}

/// Runs until a leader is believed in, or no one waits for one.
async fn find<M: Map>(group: Arc<Group<M>>, context: Arc<Context>) {
    let (sender, mut events) = mpsc::unbounded_channel();
    // At most one question is out at each replica: a hung one does not collect them.
    let mut questions: Vec<Option<Posted<M>>> = Vec::new();
    let mut asked_at: Vec<Instant> = Vec::new();
    let started = Instant::now();
    let mut complained = false;
    for round in 0u32.. {
        if group.stop_finding() {
            break;
        }
        let links = group.links();
        questions.resize_with(links.len(), || None);
        asked_at.resize(links.len(), Instant::now());
        for (replica, link) in links.iter().enumerate() {
            // Where messages between clients and servers are said to be lost, an answer may be.
            if group.sends_to_all() && asked_at[replica].elapsed() > LOST_AFTER {
                questions[replica] = None;
            }
            if questions[replica].is_none() {
                asked_at[replica] = Instant::now();
                questions[replica] = link
                    .connection()
                    .and_then(|connection| connection.post(ClientRequest::Status, 0, &sender, replica as u32));
            }
        }
        let round_end = Instant::now() + context.jitter.growing(round, FIND_PAUSE);
        if let Some((replica, term)) = hear(&group, &mut events, &mut questions, round_end).await {
            group.learn(|cache| cache.claimed(replica, term));
            continue;
        }
        if !complained && started.elapsed() > FIND_COMPLAIN_AFTER {
            complained = true;
            complain(&group);
        }
        // Everyone has answered, and no one leads: the next round waits for the rest of this one.
        tokio::time::sleep_until(round_end).await;
    }
    if complained && group.leader().is_some() {
        tracing::warn!("{}: a leader answers again", group.name);
    }
}

/// Collects the answers of a round. A suspect's claim must wait for the others' answers: it may be a deposed leader
/// that has not noticed yet, while its successor answers in the same round.
async fn hear<M: Map>(
    group: &Group<M>,
    events: &mut mpsc::UnboundedReceiver<CopyEvent<M>>,
    questions: &mut [Option<Posted<M>>],
    round_end: Instant,
) -> Option<(u16, u64)> {
    let mut claim: Option<(u16, u64)> = None;
    while questions.iter().any(Option::is_some) {
        let Ok(Some(CopyEvent { copy, event })) = tokio::time::timeout_at(round_end, events.recv()).await else {
            break;
        };
        let replica = copy as u16; // below REPLICAS_MAX
        if let Some(question) = questions.get_mut(usize::from(replica)) {
            *question = None;
        }
        match *event {
            Event::Reply(ClientResponse::Status(status)) => {
                let leads = status.role == Role::Leader && status.service_state == ServiceState::InService;
                let term = status.term.0;
                if !leads {
                    group.learn(|cache| cache.deposed(replica));
                } else if !group.learn(|cache| cache.is_suspect(replica)) {
                    return Some((replica, term));
                } else if claim.is_none_or(|(_, best)| term > best) {
                    claim = Some((replica, term));
                }
            }
            Event::Reply(_) => {} // busy, or out of service: the next round asks again
            Event::Broken { .. } => group.learn(|cache| cache.suspect(replica)),
        }
    }
    claim
}

fn complain<M: Map>(group: &Group<M>) {
    let why = troubles(&group.links()).unwrap_or_else(|| "no replica says that it leads".to_owned());
    tracing::warn!("{}: no leader answers yet, trying on ({why})", group.name);
}
