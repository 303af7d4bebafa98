//! An operator's wish that a certain member be the first: what makes it impossible, and when it comes true.

use super::Arbiter;
use crate::epoch::EpochKind;
use crate::epoch_service::record::EpochRecord;
use crate::id::{NodeId, ReplicaId};
use crate::protocol::Time;

/// An epoch lasts at least this long before another first is wanted, in microseconds: each change stops the group for a
/// moment.
const PROMOTION_PAUSE_US: u64 = 1_000_000;
/// An operator's wish that has not come true for this long is over, in microseconds.
const PROMOTION_WISH_US: u64 = 5_000_000;

/// Why a replica cannot be made the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPromoted {
    /// In a chain the order is the way of the log.
    #[error("the members of a chain keep their order")]
    Chain,
    /// It is no member.
    #[error("replica {0} is no member at present")]
    NoMember(ReplicaId),
    /// It may lack what was committed.
    #[error("replica {0} does not have everything yet")]
    Incomplete(ReplicaId),
    /// It has not said anything lately.
    #[error("replica {0} is not heard")]
    NotHeard(ReplicaId),
    /// The record is not the newest one.
    #[error("the members are changing")]
    Changing,
}

impl NotPromoted {
    /// Whether it is worth while to ask again soon.
    pub fn will_pass(&self) -> bool {
        matches!(self, NotPromoted::NotHeard(_) | NotPromoted::Changing)
    }
}

impl Arbiter {
    /// An operator wants this replica to be the first. The next decision makes it that; one that comes in between ends
    /// the wish, and so does time, if it is not said again. All that was ever committed is in its log, for it is
    /// complete; what was not yet may be lost with the change, and whoever waits for it hears that its outcome is
    /// unknown. No lease has to be waited out: the former first is a member still, and nothing commits without its
    /// word.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn promote(&mut self, now: Time, record: &EpochRecord, name: ReplicaId) -> Result<(), NotPromoted> {
        let present = record.present();
        if present.kind == EpochKind::Chain {
            return Err(NotPromoted::Chain);
        }
        if self.is_outdated(record) {
            return Err(NotPromoted::Changing);
        }
        self.follow(now, record);
        let member = present.members.iter().copied().find(|member| member.name == name);
        let node = member.ok_or(NotPromoted::NoMember(name))?;
        if !record.complete().contains(&node) {
            return Err(NotPromoted::Incomplete(name));
        }
        if !self.is_there(node, now) {
            return Err(NotPromoted::NotHeard(name));
        }
        self.promoted = Some((node, now));
        Ok(())
    }

    /// No one waits for the promotion any longer. False if it may yet happen.
    pub fn forget_promotion(&mut self, name: ReplicaId) -> bool {
        self.promoted = None;
        self.proposed.as_ref().is_none_or(|next| next.first().name != name)
    }

    /// Whom an operator wants to be first, if that can be now. A wish that no one has repeated for long is forgotten.
    pub(super) fn wished_first(&mut self, now: Time, record: &EpochRecord) -> Option<NodeId> {
        self.promoted = self.promoted.filter(|(_, said_at)| now.since_us(*said_at) < PROMOTION_WISH_US);
        self.promoted.map(|(node, _)| node).filter(|node| self.may_be_first(*node, now, record))
    }

    fn may_be_first(&self, node: NodeId, now: Time, record: &EpochRecord) -> bool {
        let has_lasted = now.since_us(self.epoch_since) >= PROMOTION_PAUSE_US;
        has_lasted && record.present().first() != node && record.complete().contains(&node) && self.is_there(node, now)
    }
}
