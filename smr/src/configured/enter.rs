//! Epochs: how a node learns of one, and what it begins with there.
//!
//! A configuration is a decision of the service. Whoever hears of a later one than its own enters it, makes it durable
//! as a whole before anything of it leaves the node ([`super::output`]), and from then on refuses all lower epochs. It
//! may jump over epochs. It does not matter who said it: so a member needs the service for leases only.

use std::collections::BTreeMap;

use super::Configured;
use super::message::Body;
use super::progress::Progress;
use crate::entry::{Entry, EntryId, Index, Payload};
use crate::epoch::EpochConfiguration;
use crate::id::NodeId;
use crate::protocol::{LogChange, StoredState, Time};

impl Configured {
    /// Someone who acts in a lower epoch spoke. What it said counts for nothing, but it should know.
    pub(super) fn receive_lower_epoch(&mut self, from: NodeId, body: &Body) {
        self.told.remove(&from);
        // Each of these waits for an answer; the others would only make more of the same.
        if matches!(
            body,
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Confirm { .. } | Body::ConfigurationWanted
        ) {
            self.send(from, Body::Announce);
        }
    }

    /// A later configuration than its own; false if it is none of this group's.
    pub(super) fn receive_configuration(&mut self, from: NodeId, configuration: EpochConfiguration) -> bool {
        let sound = configuration.validate().and_then(|()| {
            let own = self.settings.kind;
            (configuration.kind == own).then_some(()).ok_or_else(|| format!("{configuration}, but this one is {own}"))
        });
        match sound {
            Ok(()) => {
                self.enter(configuration);
                true
            }
            Err(violation) => {
                self.violation(from, violation);
                false
            }
        }
    }

    fn enter(&mut self, configuration: EpochConfiguration) {
        let epoch = self.epoch();
        assert!(configuration.epoch > epoch, "entering {configuration} from epoch {epoch}");
        self.configuration = Some(configuration.clone());
        self.entered_at = Some(self.now);
        self.out.store(StoredState::Configured(Some(configuration)));
        self.told.clear();
        self.heard.clear();
        self.newcomer = None;
        self.is_activated = false;
        (self.durable_before, self.durable_said, self.commit_said) = (EntryId::ZERO, Index::ZERO, Index::ZERO);
        // It was asked for in another epoch.
        self.leased_until = Time(0);
        self.checkpoints.begin_epoch(self.now);
        self.peers = self.receivers();
        self.reads_enter_epoch();
        if self.is_first() {
            self.begin_epoch();
        }
    }

    /// Those that it sends its log to as a member: in a star the first sends to all, in a chain each to the next. Where
    /// they agree with it is unknown, whatever was known in another epoch.
    pub(super) fn receivers(&self) -> BTreeMap<NodeId, Progress> {
        let Some(membership) = self.membership() else { return BTreeMap::new() };
        let receivers: Vec<NodeId> = if self.is_chain() {
            membership.after(self.node).into_iter().collect()
        } else if self.is_first() {
            membership.members.iter().copied().filter(|member| *member != self.node).collect()
        } else {
            Vec::new()
        };
        let last = self.log.last().index;
        receivers.into_iter().map(|node| (node, Progress::new(last, self.now))).collect()
    }

    /// The first entry of the epoch. Once it is committed, every member holds all that was ever committed, and knows
    /// it.
    fn begin_epoch(&mut self) {
        let id = EntryId { index: self.log.last().index.next(), term: self.epoch() };
        let noop = Entry { id, payload: Payload::Noop };
        self.log.append(noop.clone());
        self.out.change(LogChange::Append(vec![noop]));
        self.replicate_to_all();
    }
}
