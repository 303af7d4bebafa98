//! Which groups a seed is about: Raft groups, or those under a configuration service.

use std::str::FromStr;

use smr::epoch::{EpochKind, GroupKind};
use smr_sim::epochs::run::{Options as EpochOptions, Report as EpochReport, run as run_epochs};
use smr_sim::run::{Failure, Options as RaftOptions, Report as RaftReport, run as run_raft};
use smr_sim::trace::Text;

/// The value of `--kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindOfSeeds {
    /// Of this kind.
    One(GroupKind),
    /// Of any but Raft, as each seed says.
    Epochs,
    /// Even seeds are about Raft, odd ones about the others.
    Any,
}

impl FromStr for KindOfSeeds {
    type Err = String;

    fn from_str(name: &str) -> Result<KindOfSeeds, String> {
        match name {
            "any" => Ok(KindOfSeeds::Any),
            "epochs" => Ok(KindOfSeeds::Epochs),
            _ => name
                .parse()
                .map(KindOfSeeds::One)
                .map_err(|_| format!("{name:?} is none of raft, chain, active, passive, epochs and any")),
        }
    }
}

impl KindOfSeeds {
    /// What a seed is about: `None` for Raft, else perhaps a kind.
    fn epochs(self, seed: u64) -> Option<Option<EpochKind>> {
        match self {
            KindOfSeeds::One(kind) => kind.epochs().map(Some),
            KindOfSeeds::Epochs => Some(None),
            KindOfSeeds::Any => (!seed.is_multiple_of(2)).then_some(None),
        }
    }
}

/// What became of a seed.
pub(super) enum SeedReport {
    Raft(Box<RaftReport>),
    Epochs(Box<EpochReport>),
}

impl SeedReport {
    pub(super) fn hash(&self) -> u64 {
        match self {
            SeedReport::Raft(report) => report.hash,
            SeedReport::Epochs(report) => report.hash,
        }
    }

    pub(super) fn into_failure(self) -> Option<Failure> {
        match self {
            SeedReport::Raft(report) => report.failure,
            SeedReport::Epochs(report) => report.failure,
        }
    }
}

/// Runs a seed. The same seed of Raft groups is the same run whatever `kind` it is among.
pub(super) fn run_seed(seed: u64, kind: KindOfSeeds, nodes: Option<u16>, text: Text) -> SeedReport {
    match kind.epochs(seed) {
        None => SeedReport::Raft(Box::new(run_raft(seed, &RaftOptions { nodes, text, ..RaftOptions::default() }))),
        Some(kind) => {
            let options = EpochOptions { kind, nodes, text, ..EpochOptions::default() };
            SeedReport::Epochs(Box::new(run_epochs(seed, &options)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_from_their_names_and_any_has_all_of_them() {
        let chain = GroupKind::Epochs(EpochKind::Chain);
        assert_eq!("chain".parse(), Ok(KindOfSeeds::One(chain)));
        assert!("ring".parse::<KindOfSeeds>().unwrap_err().contains("passive"));
        let raft: KindOfSeeds = "raft".parse().unwrap();
        assert_eq!((raft.epochs(7), KindOfSeeds::One(chain).epochs(7)), (None, Some(Some(EpochKind::Chain))));
        assert_eq!((KindOfSeeds::Any.epochs(6), KindOfSeeds::Any.epochs(7)), (None, Some(None)));
    }
}
