//! The kinds of groups that a node can be built for. Nothing else outside of the cores names one.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::id::NodeId;
use crate::protocol::{Protocol, Recovered, Time};
use crate::raft::{Raft, Settings};
use crate::replica::admin::{Admin, RaftAdmin};
use crate::replica::options::ReplicaOptions;

/// The kind of all groups, so far.
pub(super) type Only = Raft;

/// A protocol that a node can be built for.
pub(super) trait Kind: Protocol + Sized {
    /// A core that starts from what was recovered, and what operators may ask of it.
    fn build(options: &ReplicaOptions, node: NodeId, recovered: Recovered, now: Time) -> (Self, Box<dyn Admin<Self>>);
}

impl Kind for Raft {
    fn build(options: &ReplicaOptions, node: NodeId, recovered: Recovered, now: Time) -> (Raft, Box<dyn Admin<Raft>>) {
        let settings = Settings {
            reads: options.reads,
            clock_drift_permille: options.clock_drift_permille,
            ..Settings::default()
        };
        let rng = ChaCha8Rng::seed_from_u64(rand::random());
        (Raft::new(settings, node, recovered, rng, now), Box::new(RaftAdmin::default()))
    }
}
