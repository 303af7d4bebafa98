//! Recognises rare situations in what happens.

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::protocol::{Role, Time};
use crate::raft::message::Body;
use crate::replica::Outcome;
use crate::sim::properties::{End, Happening, Spoiled};
use crate::sim::rare::{Rare, RareCounts};

/// What is kept of a node to recognise something later.
#[derive(Default)]
struct Known {
    leads: bool,
}

#[derive(Default)]
pub(super) struct RareWatch {
    nodes: BTreeMap<NodeId, Known>,
    leaders: usize,
}

impl RareWatch {
    pub(super) fn on(&mut self, happening: &Happening<'_>, _now: Time, rare: &mut RareCounts) {
        match happening {
            Happening::RoleChanged { node, role, .. } => {
                let known = self.nodes.entry(*node).or_default();
                let leads = *role == Role::Leader;
                if leads && !known.leads {
                    self.leaders += 1;
                    if self.leaders > 1 {
                        rare.saw(Rare::TwoLeaders);
                    }
                } else if !leads && known.leads {
                    self.leaders -= 1;
                }
                known.leads = leads;
            }
            Happening::Ended { node, end } => {
                let known = self.nodes.entry(*node).or_default();
                if std::mem::take(&mut known.leads) {
                    self.leaders -= 1;
                }
                if let End::DiskError(_) = end {
                    rare.saw(Rare::DiskErrorStop);
                }
            }
            Happening::DirectorySpoiled { how: Spoiled::Emptied, .. } => rare.saw(Rare::DirectoryEmptied),
            Happening::Forgot { .. } => rare.saw(Rare::SetBackFound),
            Happening::Sent { message, .. } => match message.body {
                Body::PreVoteRefused { .. } => rare.saw(Rare::PreVoteRefused),
                Body::VoteRefused => rare.saw(Rare::VoteRefused),
                Body::Outdated => rare.saw(Rare::Outdated),
                Body::AppendRejected { .. } => rare.saw(Rare::AppendRejected),
                _ => {}
            },
            Happening::SnapshotTaken { .. } => rare.saw(Rare::SnapshotTaken),
            Happening::SnapshotInstalled { accepted, .. } => {
                rare.saw(if *accepted { Rare::SnapshotInstalled } else { Rare::SnapshotDiscarded });
            }
            Happening::SnapshotSent { last: None, .. } => rare.saw(Rare::TransferBroken),
            Happening::Answered { outcome: Outcome::Unknown, .. } => rare.saw(Rare::WriteUnknown),
            _ => {}
        }
    }
}
