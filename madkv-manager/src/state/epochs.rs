//! Which kinds the groups are of, and who the members are of those whose members the manager names.

use std::collections::BTreeMap;
use std::sync::Arc;

use madkv_proto::control::ControlReply;
use serde::{Deserialize, Serialize};
use smr::entry::Genesis;
use smr::epoch::{EpochKind, GroupKind};
use smr::epoch_service::{EpochDecision, EpochRecord};

use super::ManagerState;

/// What came with version 3 of the commands. Empty where all groups are of kind raft.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Epochs {
    /// By partition; those of kind raft are not there.
    kinds: BTreeMap<u16, EpochKind>,
    /// By partition, once its group is founded.
    records: BTreeMap<u16, EpochRecord>,
}

impl Epochs {
    /// The groups that are laid out, by partition.
    pub(super) fn of(kinds: &[GroupKind], partitions: usize) -> Epochs {
        let kind_of = |partition: usize| kinds.get(partition).or(kinds.first()).copied().unwrap_or_default();
        let kinds = (0..partitions).zip(0..).filter_map(|(at, partition)| Some((partition, kind_of(at).epochs()?)));
        Epochs { kinds: kinds.collect(), records: BTreeMap::new() }
    }

    /// The kind of a partition's group.
    fn kind(&self, partition: u16) -> GroupKind {
        self.kinds.get(&partition).map_or(GroupKind::Raft, |kind| GroupKind::Epochs(*kind))
    }

    /// Whether the groups that are laid out are of the same kinds.
    pub(super) fn are_of_the_same_kinds(&self, other: &Epochs) -> bool {
        self.kinds == other.kinds
    }
}

impl ManagerState {
    /// The kind of a partition's group.
    pub(super) fn kind(&self, partition: u16) -> GroupKind {
        self.contents.epochs.kind(partition)
    }

    /// The kinds of all groups.
    pub(super) fn kinds(&self) -> Vec<GroupKind> {
        let partitions = self.contents.map.as_ref().map_or(0, |map| map.partitions.len());
        (0..partitions).zip(0..).map(|(_, partition)| self.kind(partition)).collect()
    }

    pub(super) fn epochs_of(&self, partition: u16) -> Option<&EpochRecord> {
        self.contents.epochs.records.get(&partition)
    }

    pub(super) fn all_epochs(&self) -> Vec<(u16, EpochRecord)> {
        self.contents.epochs.records.iter().map(|(partition, record)| (*partition, record.clone())).collect()
    }

    /// A partition's group is founded, or founded again.
    pub(super) fn begin_epochs(&mut self, partition: u16, genesis: &Genesis) {
        if let Some(kind) = self.kind(partition).epochs() {
            let record = EpochRecord::found(kind, genesis.members.iter().copied().collect());
            Arc::make_mut(&mut self.contents).epochs.records.insert(partition, record);
        }
    }

    /// The manager that leads has decided about the members of a group.
    pub(super) fn decide_epoch(&mut self, partition: u16, decision: &EpochDecision, at_unix_ms: u64) -> ControlReply {
        let contents = Arc::make_mut(&mut self.contents);
        let Some(record) = contents.epochs.records.get_mut(&partition) else {
            return ControlReply::Refused(format!("the manager names no members of s{partition}"));
        };
        let before = record.present().clone();
        if let Err(why) = record.apply(decision) {
            return ControlReply::Refused(why.to_string());
        }
        if let EpochDecision::Next { configuration, .. } = decision {
            let mut text = configuration.to_string();
            // Members keep their order whoever leaves or comes, but for a wish.
            let next_in_line = before.members.iter().find(|member| configuration.is_member(**member));
            if next_in_line.is_some_and(|member| *member != configuration.first()) {
                text.push_str("; an operator wants that one to be the first");
            }
            contents.control.events.append(at_unix_ms, &format!("s{partition}"), &text);
        }
        ControlReply::Done
    }
}
