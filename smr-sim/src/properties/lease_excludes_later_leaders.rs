//! Leases: at no moment of the true time does a node hold a lease while another one leads, or has led, in a later term.
//!
//! More than reads need, who would be content if nothing had been committed yet; so it is noticed before a client is.
//! Whether a node holds a lease is judged by its own clock, also while it is stopped: it may go on at any moment.

use smr::entry::Term;
use smr::id::NodeId;
use smr::internals::protocol::Protocol;
use smr::internals::raft::invariants;
use smr::status::Role;

use super::{NodeView, Property, View};
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct LeaseExcludesLaterLeaders {
    latest: Option<(Term, NodeId)>,
    /// Someone new leads since the last step.
    is_news: bool,
}

impl Property for LeaseExcludesLaterLeaders {
    fn name(&self) -> &'static str {
        "I14 a lease excludes later leaders"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        if let Observation::RoleChanged { node, role: Role::Leader, term, .. } = observation
            && self.latest.is_none_or(|(latest, _)| *term > latest)
        {
            self.latest = Some((*term, *node));
            self.is_news = true;
        }
        Ok(())
    }

    fn after_step(&mut self, view: &View<'_>, _ledger: &Ledger) -> Result<(), String> {
        let is_news = std::mem::take(&mut self.is_news);
        let judge = |node: NodeView<'_>| self.judge(view, node);
        if is_news {
            return (0..view.nodes.replicas()).filter_map(|replica| view.nodes.node(replica)).try_for_each(judge);
        }
        view.touched_nodes().try_for_each(judge)
    }
}

impl LeaseExcludesLaterLeaders {
    fn judge(&self, view: &View<'_>, node: NodeView<'_>) -> Result<(), String> {
        let Some((latest, leader)) = self.latest else { return Ok(()) };
        if node.raft.role() != Role::Leader || !invariants::holds_lease(node.raft, node.clock.at(view.now)) {
            return Ok(());
        }
        let term = node.raft.routing().term;
        if term >= latest {
            Ok(())
        } else {
            Err(format!("{} holds a lease in {term:?}, {leader} leads {latest:?}", node.node))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::properties::SimNodes;
    use crate::properties::testing::{A, B, Play};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;
    use smr::entry::{Configuration, Entry, EntryId, Payload};
    use smr::internals::protocol::{Input, Recovered, Time};
    use smr::internals::raft::{Raft, Settings};
    use smr::internals::session::SessionTable;
    use smr::status::ReadMode;

    struct One {
        raft: Raft,
        sessions: SessionTable,
    }

    impl SimNodes for One {
        fn node(&self, _replica: usize) -> Option<NodeView<'_>> {
            Some(NodeView {
                node: A,
                raft: &self.raft,
                clock: Clock::TRUE,
                applied: EntryId::ZERO,
                snapshot: EntryId::ZERO,
                sessions: &self.sessions,
                digest: 0,
                requests_waiting: 0,
                events_waiting_most: 0,
                events_max: 0,
                writes_under_way_high: 0,
            })
        }

        fn deep_digest(&self, _replica: usize) -> Option<u64> {
            None
        }

        fn found_after_power_cut(&self, _replica: usize) -> Option<Result<Recovered, String>> {
            None
        }

        fn replicas(&self) -> usize {
            1
        }
    }

    /// The only voter of its group, which always has its own lease.
    fn leader() -> One {
        let genesis = Entry { id: EntryId::new(1, 1), payload: Payload::Configuration(Configuration::of([A])) };
        let recovered = Recovered { entries: vec![genesis], ..Recovered::default() };
        let settings = Settings { reads: ReadMode::Lease, ..Settings::default() };
        let mut raft = Raft::new(settings, A, recovered, ChaCha8Rng::seed_from_u64(1), Time(0));
        let mut writes = raft.step(Time(1), Input::Tick).writes;
        while let Some(write) = writes.pop() {
            writes = raft.step(Time(2), Input::Durable(write.id())).writes;
        }
        assert_eq!(raft.role(), Role::Leader);
        One { raft, sessions: SessionTable::new() }
    }

    // covers I14, R6
    #[test]
    fn lease_beside_a_leader_of_a_later_term_is_rejected() {
        let machines = leader();
        let view = View { now: Time(3), step: 1, touched: &[], nodes: &machines };
        let mut play = Play::new(LeaseExcludesLaterLeaders::default());
        play.leads(A, 2).unwrap();
        play.property.after_step(&view, &Ledger::default()).unwrap();
        play.leads(B, 3).unwrap();
        assert!(play.property.after_step(&view, &Ledger::default()).unwrap_err().contains("holds a lease in t2"));
    }
}
