//! The configuration service in simulation: the production record and arbiters, without the Raft group that keeps the
//! one and runs the others.
//!
//! What such a group may do is drawn. A report is taken in after a round that confirms the leader, and the record is as
//! of somewhere in that round; the answer may come later, from one who does not lead any more. A decision takes its
//! time to be committed, and may be lost with the leader that proposed it. Between two leaders there is none for a
//! while. Each leader has a clock of its own, within the bound that all clocks keep.

use std::collections::VecDeque;

use smr::epoch::EpochConfiguration;
use smr::epoch_service::{
    Arbiter, ArbiterSettings, EpochDecision, EpochRecord, MemberReport, NotDecided, PresiderId, ServiceWord,
};
use smr::id::NodeId;
use smr::internals::protocol::Time;

use crate::clock::Clock;
use crate::sim_rng::SimRng;

/// How often a leader looks what is to be decided, in microseconds: as the manager does.
pub(super) const LOOK_US: u64 = 25_000;
/// A leader waits at most this long for what it has proposed, in microseconds.
const PROPOSAL_US: u64 = 1_000_000;

/// How fast the service is.
#[derive(Clone, Debug)]
pub struct ServicePace {
    /// A round that confirms the leader takes up to this, in microseconds.
    pub confirm_us: u64,
    /// From there to the answer it takes up to this, in microseconds.
    pub answer_us: u64,
    /// A decision takes up to this to be committed, in microseconds.
    pub commit_us: u64,
    /// Between two leaders there is none for up to this, in microseconds.
    pub leaderless_us: u64,
    /// What arbiters go by.
    pub settings: ArbiterSettings,
}

impl ServicePace {
    pub(super) fn draw(rng: &mut SimRng, clock_drift_permille: u64) -> ServicePace {
        ServicePace {
            confirm_us: rng.pick(&[1_000, 10_000, 100_000]),
            answer_us: rng.pick(&[100, 100, 20_000, 400_000]),
            commit_us: rng.pick(&[2_000, 20_000, 300_000]),
            leaderless_us: rng.pick(&[300_000, 1_500_000]),
            settings: ArbiterSettings {
                clock_drift_permille,
                pause_us: rng.pick(&[50_000, 300_000]),
                ..ArbiterSettings::default()
            },
        }
    }

    /// One that answers at once.
    pub(crate) fn calm(&self) -> ServicePace {
        ServicePace { confirm_us: 2_000, answer_us: 100, commit_us: 5_000, ..self.clone() }
    }
}

struct Leader {
    number: u64,
    clock: Clock,
    arbiter: Arbiter,
    /// When what it proposed last should be through.
    proposed_until: Time,
}

/// A report on its way through the service.
pub(super) struct Confirmed {
    leader: u64,
    record: EpochRecord,
    pub(super) report: MemberReport,
}

/// See the module.
pub(super) struct Service {
    pub(super) pace: ServicePace,
    record: EpochRecord,
    /// The one who leads, if there is one.
    leader: Option<Leader>,
    /// The one before.
    former: Option<Leader>,
    leaders: u64,
    /// What is proposed and not committed yet.
    proposed: VecDeque<EpochDecision>,
    /// It does nothing before then.
    pub(super) stopped_until: Time,
    rng: SimRng,
}

impl Service {
    pub(super) fn new(pace: ServicePace, founded: &EpochConfiguration, rng: SimRng) -> Service {
        let record = EpochRecord::found(founded.kind, founded.members.clone());
        Service {
            pace,
            record,
            leader: None,
            former: None,
            leaders: 0,
            proposed: VecDeque::new(),
            stopped_until: Time(0),
            rng,
        }
    }

    pub(super) fn record(&self) -> &EpochRecord {
        &self.record
    }

    /// A number below this.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.rng.below(end)
    }

    /// Another one leads from now on.
    pub(super) fn lead(&mut self, now: Time) {
        if let Some(leader) = self.leader.take() {
            self.former = Some(leader);
        }
        self.leaders += 1;
        let drift_permille = self.pace.settings.clock_drift_permille;
        let clock = Clock {
            origin_us: self.rng.below(1 << 30),
            rate_permille: 1_000 + self.rng.pick(&[0, drift_permille, drift_permille / 2]),
        };
        let id = PresiderId(self.rng.any());
        let arbiter = Arbiter::new(self.pace.settings.clone(), id, clock.at(now));
        self.leader = Some(Leader { number: self.leaders, clock, arbiter, proposed_until: Time(0) });
    }

    pub(super) fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    /// The leader is gone. What it proposed last may be lost; how much was.
    pub(super) fn depose(&mut self) -> usize {
        let Some(leader) = self.leader.take() else { return 0 };
        self.former = Some(leader);
        let kept = self.rng.below(self.proposed.len() as u64 + 1) as usize;
        self.proposed.split_off(kept).len()
    }

    /// The leader was confirmed after this report had arrived, and read the record; `None` if there is none.
    pub(super) fn confirm(&self, report: MemberReport) -> Option<Confirmed> {
        let leader = self.leader.as_ref()?.number;
        Some(Confirmed { leader, record: self.record.clone(), report })
    }

    /// The one who was confirmed takes the report in; its word, and whether it still leads.
    pub(super) fn hear(&mut self, now: Time, confirmed: &Confirmed) -> Option<(ServiceWord, bool)> {
        let is_it = |leader: &&mut Leader| leader.number == confirmed.leader;
        let (leader, leads) = match self.leader.as_mut().filter(is_it) {
            Some(leader) => (leader, true),
            None => (self.former.as_mut().filter(is_it)?, false),
        };
        Some((leader.arbiter.hear(leader.clock.at(now), &confirmed.record, &confirmed.report), leads))
    }

    /// The leader looks what is to be decided; whether it has proposed something.
    pub(super) fn look(&mut self, now: Time) -> bool {
        let Some(leader) = &mut self.leader else { return false };
        if !self.proposed.is_empty() && now < leader.proposed_until {
            return false;
        }
        if leader.arbiter.is_over(&self.record) {
            let id = PresiderId(self.rng.any());
            leader.arbiter = Arbiter::new(self.pace.settings.clone(), id, leader.clock.at(now));
        }
        let Some(decision) = leader.arbiter.decide(leader.clock.at(now), &self.record) else { return false };
        leader.proposed_until = now.plus_us(PROPOSAL_US);
        self.proposed.push_back(decision);
        true
    }

    /// Whether something is proposed and not committed yet.
    pub(super) fn has_proposals(&self) -> bool {
        !self.proposed.is_empty()
    }

    /// The oldest of what was proposed is committed.
    pub(super) fn commit(&mut self) -> Option<(EpochDecision, Result<(), NotDecided>)> {
        let decision = self.proposed.pop_front()?;
        let applied = self.record.apply(&decision);
        Some((decision, applied))
    }

    /// Whether a node is known to have everything, now and whatever of what is proposed is decided.
    pub(super) fn stays_complete(&self, node: NodeId) -> bool {
        let goes = self.proposed.iter().any(|decision| match decision {
            EpochDecision::Next { configuration, .. } => !configuration.is_member(node),
            EpochDecision::Presides(_) | EpochDecision::Activated(_) => false,
        });
        self.record.complete().contains(&node) && !goes
    }
}
