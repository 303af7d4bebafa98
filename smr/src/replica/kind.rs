//! The kinds of groups that a node can be built for. Nothing else outside of the cores names one.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::configured::{self, Configured};
use crate::entry::{HardState, Term};
use crate::id::NodeId;
use crate::protocol::{Protocol, Recovered, StoredState, Time};
use crate::raft::{self, Raft};
use crate::replica::admin::{Admin, RaftAdmin, ServiceDecides};
use crate::replica::options::ReplicaOptions;

/// A newcomer is caught up if it has all that was in the log this long ago, in microseconds. A disk that takes longer
/// for a sync is never level with one that is written to all the time; and for so long the group waits at most once the
/// newcomer is a member, which is well within its detection.
const LEVEL_US: u64 = 300_000;

/// A protocol that a node can be built for.
pub(super) trait Kind: Protocol + Sized {
    /// A core that starts from what was recovered, and what operators may ask of it.
    ///
    /// # Panics
    /// If the options, or what was recovered, are of another kind.
    fn build(options: &ReplicaOptions, node: NodeId, recovered: Recovered, now: Time) -> (Self, Box<dyn Admin<Self>>);
}

impl Kind for Raft {
    fn build(options: &ReplicaOptions, node: NodeId, recovered: Recovered, now: Time) -> (Raft, Box<dyn Admin<Raft>>) {
        let settings = raft::Settings {
            reads: options.reads,
            clock_drift_permille: options.clock_drift_permille,
            ..raft::Settings::default()
        };
        // The genesis is of term 1, which no one campaigned in.
        let stored = match recovered.hard_state() {
            HardState { term: Term::ZERO, .. } => HardState { term: Term(1), ..HardState::default() },
            hard_state => hard_state,
        };
        let recovered = Recovered { stored: StoredState::Raft(stored), ..recovered };
        (Raft::new(settings, node, recovered, fresh_rng(), now), Box::new(RaftAdmin::default()))
    }
}

impl Kind for Configured {
    fn build(
        options: &ReplicaOptions,
        node: NodeId,
        recovered: Recovered,
        now: Time,
    ) -> (Configured, Box<dyn Admin<Configured>>) {
        let Some(kind) = options.kind.epochs() else { panic!("a core with epochs for a group of {}", options.kind) };
        let settings = configured::Settings {
            kind,
            reads: options.reads,
            clock_drift_permille: options.clock_drift_permille,
            level_us: LEVEL_US,
            ..configured::Settings::default()
        };
        (Configured::new(settings, node, recovered, fresh_rng(), now), Box::new(ServiceDecides { kind }))
    }
}

fn fresh_rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(rand::random())
}
