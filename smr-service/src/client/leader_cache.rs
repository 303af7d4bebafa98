//! Who leads a group, as far as this client knows. Pure, so that each rule has a test.
//!
//! Rules:
//! - A redirect, or a replica's own claim, counts only if its term is not below the highest term of which a leader was
//!   heard. Terms without a leader do not count: a replica that is cut off may be terms ahead and lead no one.
//! - A suspect is believed to lead again only on its own word, or if it is named in a newer term. The followers of a
//!   dead leader name it until they have elected another; following them would waste the whole pause.

use std::collections::BTreeSet;

/// What a client has heard of the leader of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaderCache {
    leader: Option<u16>,
    /// The highest term of which a leader was heard; 0 for none.
    term: u64,
    suspects: BTreeSet<u16>,
}

impl LeaderCache {
    /// Who leads.
    pub(crate) fn leader(&self) -> Option<u16> {
        self.leader
    }

    /// Whether `replica` was silent or unreachable, and has not spoken since.
    pub(crate) fn is_suspect(&self, replica: u16) -> bool {
        self.suspects.contains(&replica)
    }

    /// `replica` said something.
    pub(crate) fn heard(&mut self, replica: u16) {
        self.suspects.remove(&replica);
    }

    /// `replica` served a request as a leader does. The answer may be old: it fills a gap, it does not overrule.
    pub(crate) fn served(&mut self, replica: u16) {
        self.heard(replica);
        self.leader.get_or_insert(replica);
    }

    /// `replica` says that it leads in `term`. Returns whether that is believed.
    pub(crate) fn claimed(&mut self, replica: u16, term: u64) -> bool {
        self.heard(replica);
        if term < self.term {
            return false;
        }
        self.term = term;
        self.leader = Some(replica);
        true
    }

    /// `replica` says that it does not lead, and that `leader` does in `term`.
    pub(crate) fn redirected(&mut self, replica: u16, leader: Option<u16>, term: u64) {
        self.deposed(replica);
        let Some(leader) = leader else { return };
        if leader == replica || term < self.term || (term == self.term && self.is_suspect(leader)) {
            return;
        }
        self.suspects.remove(&leader);
        self.term = term;
        self.leader = Some(leader);
    }

    /// `replica` itself says that it does not lead (any more).
    pub(crate) fn deposed(&mut self, replica: u16) {
        self.heard(replica);
        if self.leader == Some(replica) {
            self.leader = None;
        }
    }

    /// `replica` was silent for too long, its connection broke, or it cannot be reached.
    pub(crate) fn suspect(&mut self, replica: u16) {
        self.suspects.insert(replica);
        if self.leader == Some(replica) {
            self.leader = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirected_older_term_not_followed() {
        let mut cache = LeaderCache::default();
        assert!(cache.claimed(1, 7));
        cache.redirected(2, Some(0), 6);
        assert_eq!(cache.leader(), Some(1));
        cache.redirected(1, Some(0), 6);
        assert_eq!(cache.leader(), None, "1 itself says that it does not lead, and 0 led earlier");
        cache.redirected(2, Some(0), 8);
        assert_eq!(cache.leader(), Some(0));
    }

    #[test]
    fn claimed_older_term_not_believed() {
        let mut cache = LeaderCache::default();
        cache.redirected(2, Some(0), 8);
        assert!(!cache.claimed(1, 7));
        assert_eq!(cache.leader(), Some(0));
    }

    #[test]
    fn redirected_high_term_without_leader_does_not_bar_real_leader() {
        let mut cache = LeaderCache::default();
        cache.redirected(2, None, 900);
        assert!(cache.claimed(1, 7));
        assert_eq!(cache.leader(), Some(1));
    }

    #[test]
    fn redirected_to_suspect_of_same_term_not_followed_until_it_speaks() {
        let mut cache = LeaderCache::default();
        cache.claimed(0, 7);
        cache.suspect(0);
        cache.redirected(1, Some(0), 7);
        assert_eq!(cache.leader(), None);
        cache.heard(0);
        cache.redirected(1, Some(0), 7);
        assert_eq!(cache.leader(), Some(0));
    }

    #[test]
    fn redirected_to_suspect_of_newer_term_followed() {
        let mut cache = LeaderCache::default();
        cache.claimed(0, 7);
        cache.suspect(0);
        cache.redirected(1, Some(0), 8);
        assert_eq!(cache.leader(), Some(0));
    }

    #[test]
    fn served_late_answer_does_not_overrule_known_leader() {
        let mut cache = LeaderCache::default();
        cache.claimed(0, 7);
        cache.redirected(0, Some(1), 8);
        cache.served(0);
        assert_eq!(cache.leader(), Some(1));
    }

    #[test]
    fn redirected_to_itself_is_no_leader() {
        let mut cache = LeaderCache::default();
        cache.redirected(1, Some(1), 8);
        assert_eq!(cache.leader(), None);
    }
}
