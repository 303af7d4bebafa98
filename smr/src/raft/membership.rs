//! Who belongs to the group: the configurations in the log, and the changes from one to the next (§6).
//!
//! The configuration in force is the last one *in the log*, committed or not. It is derived from log and snapshot and
//! kept nowhere else, so a truncation or an installed snapshot takes it back by itself (M3, S11, M11).

use std::collections::{BTreeSet, VecDeque};

use super::control::Change;
use super::settings::MEMBERS_MAX;
use crate::entry::{Configuration, Index, SnapshotMeta};
use crate::id::NodeId;

/// The configurations in the log, oldest first; the first one is in force at the log's start.
#[derive(Clone, Debug)]
pub(super) struct Configurations {
    history: VecDeque<(Index, Configuration)>,
}

impl Configurations {
    /// Those of a log that consists of a snapshot.
    pub(super) fn new(snapshot: &SnapshotMeta) -> Configurations {
        Configurations { history: [(snapshot.configuration_index, snapshot.configuration.clone())].into() }
    }

    /// The configuration in force.
    pub(super) fn current(&self) -> &Configuration {
        &self.newest().1
    }

    /// The entry that carried it.
    pub(super) fn current_index(&self) -> Index {
        self.newest().0
    }

    /// The one before that, if the log still has it.
    pub(super) fn previous(&self) -> Option<&Configuration> {
        self.history.iter().rev().nth(1).map(|(_, configuration)| configuration)
    }

    /// The configuration in force at `index`, and the entry that carried it.
    pub(super) fn at(&self, index: Index) -> (Configuration, Index) {
        let behind = self.history.partition_point(|(carrier, _)| *carrier <= index);
        match behind.checked_sub(1).and_then(|position| self.history.get(position)) {
            Some((carrier, configuration)) => (configuration.clone(), *carrier),
            None => panic!("no configuration is known at {index}; the oldest is of {:?}", self.history.front()),
        }
    }

    /// An entry at `index` carries a new one.
    pub(super) fn append(&mut self, index: Index, configuration: Configuration) {
        assert!(index > self.current_index(), "configuration {index} after {}", self.current_index());
        self.history.push_back((index, configuration));
    }

    /// The entries from `index` on were removed.
    pub(super) fn truncate_from(&mut self, index: Index) {
        while self.history.len() > 1 && self.current_index() >= index {
            self.history.pop_back();
        }
    }

    /// The log now starts after `start`.
    pub(super) fn compact(&mut self, start: Index) {
        while self.history.get(1).is_some_and(|(carrier, _)| *carrier <= start) {
            self.history.pop_front();
        }
    }

    /// A snapshot became the log's start; the entries behind it were kept, or not.
    pub(super) fn install(&mut self, snapshot: &SnapshotMeta, suffix_kept: bool) {
        let mut history: VecDeque<_> = [(snapshot.configuration_index, snapshot.configuration.clone())].into();
        if suffix_kept {
            history.extend(self.history.drain(..).filter(|(carrier, _)| *carrier > snapshot.last.index));
        }
        self.history = history;
    }

    /// Asserts that neighbours differ by a step that keeps their quorums overlapping (I15), and are in order.
    pub(super) fn assert_steps(&self) {
        for (before, after) in self.history.iter().zip(self.history.iter().skip(1)) {
            assert!(before.0 < after.0, "configurations out of order: {before:?}, {after:?}");
            assert!(is_step(&before.1, &after.1), "quorums may not overlap: {before:?}, {after:?}");
        }
    }

    /// How many of them are after the commit index.
    pub(super) fn uncommitted(&self, commit: Index) -> usize {
        self.history.iter().filter(|(carrier, _)| *carrier > commit).count()
    }

    fn newest(&self) -> &(Index, Configuration) {
        self.history.back().unwrap_or_else(|| panic!("the history of configurations is empty"))
    }
}

/// Whether any quorum of one and any quorum of the other share a voter by construction.
fn is_step(before: &Configuration, after: &Configuration) -> bool {
    let founding = *before == Configuration::default();
    let same_voters = before.voters == after.voters && before.outgoing == after.outgoing;
    let enter = !before.is_joint() && after.is_joint() && after.outgoing == before.voters;
    let leave = before.is_joint() && !after.is_joint() && after.voters == before.voters;
    founding || same_voters || enter || leave
}

/// The configuration that a change asks for, and the learners that it promotes.
///
/// # Errors
/// The reason, if the change makes no sense (M2).
pub(super) fn planned(current: &Configuration, change: &Change) -> Result<(Configuration, BTreeSet<NodeId>), String> {
    let mut next = current.clone();
    match change {
        Change::AddLearner(node) => {
            if current.is_member(*node) {
                return Err(format!("{node} is a member already"));
            }
            if current.members().len() >= MEMBERS_MAX {
                return Err(format!("the group has {MEMBERS_MAX} members, the most it can have"));
            }
            next.learners.insert(*node);
            Ok((next, BTreeSet::new()))
        }
        Change::RemoveLearner(node) => {
            if !next.learners.remove(node) {
                return Err(format!("{node} is no learner"));
            }
            Ok((next, BTreeSet::new()))
        }
        Change::Replace { incoming, outgoing } => {
            if !current.learners.contains(incoming) {
                return Err(format!("{incoming} is no learner"));
            }
            let mut voters = current.voters.clone();
            if !voters.remove(outgoing) {
                return Err(format!("{outgoing} is no voter"));
            }
            voters.insert(*incoming);
            joint(current, voters)
        }
        Change::Voters(voters) => joint(current, voters.clone()),
    }
}

fn joint(current: &Configuration, voters: BTreeSet<NodeId>) -> Result<(Configuration, BTreeSet<NodeId>), String> {
    if voters.is_empty() {
        return Err("a group needs a voter".to_owned());
    }
    if voters == current.voters {
        return Err("these are the voters already".to_owned());
    }
    if let Some(unknown) = voters.iter().find(|node| !current.is_member(**node)) {
        return Err(format!("{unknown} is unknown; it must catch up as a learner first"));
    }
    let promoted: BTreeSet<_> = voters.difference(&current.voters).copied().collect();
    let learners = current.learners.difference(&voters).copied().collect();
    Ok((Configuration { voters, outgoing: current.voters.clone(), learners }, promoted))
}

/// The configuration that leaves a joint one.
pub(super) fn left(joint: &Configuration) -> Configuration {
    Configuration { voters: joint.voters.clone(), outgoing: BTreeSet::new(), learners: joint.learners.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryId;

    fn node(name: u16) -> NodeId {
        NodeId::new(name, 1)
    }

    fn of(voters: &[u16], learners: &[u16]) -> Configuration {
        Configuration {
            learners: learners.iter().map(|name| node(*name)).collect(),
            ..Configuration::of(voters.iter().map(|name| node(*name)))
        }
    }

    // covers M2
    #[test]
    fn planned_senseless_change_refused() {
        let current = of(&[0, 1, 2], &[3]);
        let voters = |names: &[u16]| Change::Voters(names.iter().map(|name| node(*name)).collect());
        for change in [
            voters(&[]),
            voters(&[0, 1, 2]),
            voters(&[0, 1, 9]),
            Change::AddLearner(node(0)),
            Change::AddLearner(node(3)),
            Change::RemoveLearner(node(1)),
            Change::Replace { incoming: node(9), outgoing: node(1) },
            Change::Replace { incoming: node(3), outgoing: node(9) },
            Change::Replace { incoming: node(0), outgoing: node(1) },
        ] {
            assert!(planned(&current, &change).is_err(), "{change:?}");
        }
    }

    #[test]
    fn planned_replace_is_joint_and_promotes() {
        let current = of(&[0, 1, 2], &[3, 4]);
        let (next, promoted) =
            planned(&current, &Change::Replace { incoming: node(3), outgoing: node(1) }).expect("makes sense");
        assert_eq!(next, Configuration { outgoing: current.voters.clone(), ..of(&[0, 2, 3], &[4]) });
        assert_eq!(promoted, [node(3)].into());
        assert_eq!(left(&next), of(&[0, 2, 3], &[4]));
        assert!(is_step(&current, &next) && is_step(&next, &left(&next)) && !is_step(&current, &left(&next)));
    }

    // covers M3 S11
    #[test]
    fn configurations_truncated_or_installed_over_fall_back() {
        let base = SnapshotMeta {
            last: EntryId::new(4, 1),
            configuration: of(&[0, 1, 2], &[]),
            configuration_index: Index(1),
        };
        let mut all = Configurations::new(&base);
        all.append(Index(6), of(&[0, 1, 2], &[3]));
        all.append(Index(9), of(&[0, 1, 2], &[3, 4]));
        assert_eq!(all.at(Index(8)), (of(&[0, 1, 2], &[3]), Index(6)));
        all.truncate_from(Index(7));
        assert_eq!((all.current(), all.current_index()), (&of(&[0, 1, 2], &[3]), Index(6)));
        all.truncate_from(Index(5));
        assert_eq!((all.current(), all.current_index()), (&of(&[0, 1, 2], &[]), Index(1)));
        all.append(Index(5), of(&[0, 1, 2], &[5]));
        let newer = SnapshotMeta {
            last: EntryId::new(8, 2),
            configuration: of(&[0, 1, 2], &[6]),
            configuration_index: Index(7),
        };
        all.install(&newer, false);
        assert_eq!((all.current(), all.current_index()), (&of(&[0, 1, 2], &[6]), Index(7)));
    }
}
