//! I17: queues, windows, sessions and the log stay under their named limits, and one input causes a bounded number of
//! outputs.
//!
//! Not judged here: connections, threads and memory of a real process, which the simulator does not have.

use std::collections::BTreeMap;

use smr::id::NodeId;
use smr::internals::engine::{LOG_MAX_BYTES, READS_WAITING_MAX, WRITES_WAITING_MAX, WRITES_WAITING_MAX_BYTES};
use smr::internals::raft::invariants::{self, Load};
use smr::internals::raft::{MEMBERS_MAX, Settings};

use super::{NodeView, Property, View};
use crate::ledger::Ledger;
use crate::observation::Observation;

/// Messages and writes that one input may cause for each other member, beyond a full window of appends.
const OUTPUTS_PER_MEMBER: usize = 4;

#[derive(Default)]
pub(super) struct Bounds {
    inputs: usize,
    outputs: usize,
    writes: BTreeMap<NodeId, Writes>,
}

/// Writes of a process that are not durable, counted here.
#[derive(Default)]
struct Writes {
    under_way: u64,
    /// The most with which a message was taken in; `None` if none was since the last look.
    at_receipt: Option<u64>,
}

fn bounded(load: Load, settings: &Settings, requests_waiting: usize, sessions: (usize, usize)) -> Result<(), String> {
    let limits = [
        ("appends in flight to a member", load.inflight_appends_most, settings.inflight_appends_max + 1),
        ("reads in the core", load.reads_waiting, settings.reads_waiting_max),
        ("writes on their way to the disk that only wait", load.idle_writes_pending, invariants::IDLE_WRITES_MAX),
        ("members", load.members, MEMBERS_MAX),
        ("bytes in the log", load.log_bytes, LOG_MAX_BYTES + WRITES_WAITING_MAX_BYTES),
        ("requests waiting", requests_waiting, WRITES_WAITING_MAX + READS_WAITING_MAX),
        ("sessions", sessions.0, sessions.1),
    ];
    match limits.iter().find(|(_, found, limit)| found > limit) {
        Some((what, found, limit)) => Err(format!("{found} {what}, limit {limit}")),
        None => Ok(()),
    }
}

/// A full queue, or a disk that does not keep up, costs messages and not memory. The queue is the simulator's own, in
/// service a bounded channel: that it is full now and then is what tests the replica.
fn queued(events: usize, events_max: usize, at_receipt: Option<u64>, writes_high: u64) -> Result<(), String> {
    if events > events_max {
        return Err(format!("{events} events waited, limit {events_max}"));
    }
    match at_receipt {
        Some(writes) if writes >= writes_high => {
            Err(format!("a message was taken in with {writes} writes under way, limit {writes_high}"))
        }
        _ => Ok(()),
    }
}

fn few_outputs(inputs: usize, outputs: usize, members: usize, window: usize) -> Result<(), String> {
    let limit = inputs * members * (window + OUTPUTS_PER_MEMBER);
    if outputs <= limit { Ok(()) } else { Err(format!("{outputs} outputs of {inputs} inputs, limit {limit}")) }
}

fn look(node: &NodeView<'_>) -> Result<Load, String> {
    let load = invariants::load(node.raft);
    let sessions = (node.sessions.len(), node.sessions.limits().sessions_max);
    bounded(load, node.raft.settings(), node.requests_waiting, sessions)
        .map_err(|why| format!("{}: {why}", node.node))?;
    Ok(load)
}

impl Property for Bounds {
    fn name(&self) -> &'static str {
        "I17 bounds"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Started { node, .. } | Observation::Ended { node, .. } => drop(self.writes.remove(node)),
            Observation::WriteIssued { node, .. } => self.writes.entry(*node).or_default().under_way += 1,
            Observation::WriteDurable { node, .. } => {
                let writes = self.writes.entry(*node).or_default();
                writes.under_way = writes.under_way.saturating_sub(1);
            }
            Observation::Received { to, .. } => {
                let writes = self.writes.entry(*to).or_default();
                writes.at_receipt = writes.at_receipt.max(Some(writes.under_way));
            }
            _ => {}
        }
        match observation {
            Observation::Sent { .. } | Observation::WriteIssued { .. } => self.outputs += 1,
            Observation::Received { .. }
            | Observation::Asked { .. }
            | Observation::Started { .. }
            | Observation::WriteDurable { .. }
            | Observation::SnapshotTaken { .. }
            | Observation::SnapshotInstalled { .. }
            | Observation::SnapshotSent { .. } => self.inputs += 1,
            _ => {}
        }
        Ok(())
    }

    fn after_step(&mut self, view: &View<'_>, _ledger: &Ledger) -> Result<(), String> {
        // Time passes as well, and connections break.
        let (inputs, outputs) = (std::mem::take(&mut self.inputs) + 2, std::mem::take(&mut self.outputs));
        let (mut members, mut window) = (1, 1);
        for node in view.touched_nodes() {
            let load = look(&node)?;
            let at_receipt = self.writes.get_mut(&node.node).and_then(|writes| writes.at_receipt.take());
            queued(node.events_waiting_most, node.events_max, at_receipt, node.writes_under_way_high)
                .map_err(|why| format!("{}: {why}", node.node))?;
            members = members.max(load.members + 1);
            window = window.max(node.raft.settings().inflight_appends_max);
        }
        few_outputs(inputs, outputs, members.max(MEMBERS_MAX), window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, Play};
    use smr::entry::Term;
    use smr::internals::raft::Message;

    // covers I17
    #[test]
    fn each_limit_exceeded_by_one_is_rejected() {
        let settings = Settings::default();
        let full = Load {
            inflight_appends_most: settings.inflight_appends_max + 1,
            reads_waiting: settings.reads_waiting_max,
            idle_writes_pending: invariants::IDLE_WRITES_MAX,
            members: MEMBERS_MAX,
            log_bytes: LOG_MAX_BYTES + WRITES_WAITING_MAX_BYTES,
        };
        let requests = WRITES_WAITING_MAX + READS_WAITING_MAX;
        bounded(full, &settings, requests, (10, 10)).unwrap();
        let more = [
            Load { inflight_appends_most: full.inflight_appends_most + 1, ..full },
            Load { reads_waiting: full.reads_waiting + 1, ..full },
            Load { idle_writes_pending: full.idle_writes_pending + 1, ..full },
            Load { members: full.members + 1, ..full },
            Load { log_bytes: full.log_bytes + 1, ..full },
        ];
        for load in more {
            assert!(bounded(load, &settings, requests, (10, 10)).is_err(), "{load:?}");
        }
        assert!(bounded(full, &settings, requests + 1, (10, 10)).is_err());
        assert!(bounded(full, &settings, requests, (11, 10)).is_err());
    }

    // covers I17 D12
    #[test]
    fn message_taken_in_with_too_many_writes_under_way_is_rejected_and_not_after_they_are_durable() {
        let body = smr::internals::raft::message::Body::StaleTerm;
        let message = Message { term: Term(1), body };
        let receives = |play: &mut Play<Bounds>| {
            play.feed(&Observation::Received { from: B, to: A, message: &message }).unwrap();
            let at_receipt = play.property.writes.get_mut(&A).and_then(|writes| writes.at_receipt.take());
            queued(0, 8, at_receipt, 3)
        };
        let mut play = Play::new(Bounds::default());
        for _ in 0..2 {
            play.issues(A, Some((2, None)), Vec::new()).unwrap();
        }
        receives(&mut play).unwrap();
        play.issues(A, Some((2, None)), Vec::new()).unwrap();
        assert!(receives(&mut play).is_err());
        play.completes(A).unwrap();
        receives(&mut play).unwrap();
        assert!(queued(8, 8, None, 3).is_ok() && queued(9, 8, None, 3).is_err());
    }

    // covers I17
    #[test]
    fn flood_of_messages_from_one_input_is_rejected() {
        assert!(few_outputs(3, 3 * 2 * 5, 2, 1).is_ok());
        assert!(few_outputs(3, 3 * 2 * 5 + 1, 2, 1).is_err());
        let mut play = Play::new(Bounds::default());
        for _ in 0..1_000 {
            play.sends(A, B, 1, smr::internals::raft::message::Body::StaleTerm).unwrap();
        }
        assert!(play.step().is_err());
    }
}
