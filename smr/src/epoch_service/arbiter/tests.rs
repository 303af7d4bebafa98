use super::*;
use crate::entry::EntryId;
use crate::epoch::EpochKind;

const MS: u64 = 1000;

fn node(name: u16) -> NodeId {
    NodeId::new(name, 1)
}

/// A record, its arbiter, and the time.
struct Table {
    record: EpochRecord,
    arbiter: Arbiter,
    now: Time,
}

impl Table {
    fn new(members: u16) -> Table {
        let record = EpochRecord::found(EpochKind::Active, (0..members).map(node).collect());
        let mut table =
            Table { record, arbiter: Arbiter::new(ArbiterSettings::default(), PresiderId(1), Time(0)), now: Time(0) };
        table.decide().expect("it presides");
        // Whatever a former arbiter granted is over.
        table.now = Time(1000 * MS);
        table
    }

    fn says(&mut self, who: u16, reports: Vec<Report>) -> ServiceWord {
        let epoch = self.record.present().epoch;
        let report = MemberReport { node: node(who), epoch, last: EntryId::ZERO, reports };
        self.arbiter.hear(self.now, &self.record, &report)
    }

    fn blocked(&mut self, who: u16, by: u16) {
        let epoch = self.record.present().epoch;
        self.says(who, vec![Report::Blocked { epoch, by: node(by), last: EntryId::ZERO }]);
    }

    fn wants_lease(&mut self, who: u16) -> Option<LeaseGrant> {
        let epoch = self.record.present().epoch;
        self.says(who, vec![Report::LeaseWanted { epoch, asked_at: Time(7) }]).lease
    }

    /// The members once a decision was applied, if there was one.
    fn decide(&mut self) -> Option<Vec<u16>> {
        let decision = self.arbiter.decide(self.now, &self.record)?;
        self.record.apply(&decision).unwrap_or_else(|error| panic!("{decision:?}: {error}"));
        self.arbiter.follow(self.now, &self.record);
        Some(self.record.present().members.iter().map(|member| member.name.0).collect())
    }

    fn after(&mut self, ms: u64) -> &mut Table {
        self.now = self.now.plus_us(ms * MS);
        self
    }
}

// covers K16
#[test]
fn dead_first_of_two_is_removed_and_a_cut_between_two_leaves_the_first() {
    let mut table = Table::new(2);
    table.says(0, Vec::new());
    table.after(600).blocked(1, 0);
    assert_eq!(table.decide(), None, "it is collected first");
    table.after(200).blocked(1, 0);
    assert_eq!(table.decide(), Some(vec![1]));

    let mut table = Table::new(2);
    table.blocked(0, 1);
    table.blocked(1, 0);
    table.after(200);
    table.blocked(0, 1);
    table.blocked(1, 0);
    assert_eq!(table.decide(), Some(vec![0]), "in a tie the set with the first");
}

// covers K5
#[test]
fn dead_head_is_removed_though_only_the_one_after_it_says_so() {
    let mut table = Table::new(3);
    table.after(600).blocked(1, 0);
    table.says(2, Vec::new());
    table.after(200).blocked(1, 0);
    table.says(2, Vec::new());
    assert_eq!(table.decide(), Some(vec![1, 2]));
}

// covers K11 K16
#[test]
fn member_that_only_the_service_does_not_hear_stays() {
    let mut table = Table::new(3);
    for _ in 0..20 {
        table.after(100);
        table.says(0, Vec::new());
        table.says(1, Vec::new());
        assert_eq!(table.decide(), None);
    }
    // Now the first does not hear the third either, which is there, though.
    table.blocked(0, 2);
    table.says(2, Vec::new());
    table.after(200).blocked(0, 2);
    table.says(1, Vec::new());
    table.says(2, Vec::new());
    assert_eq!(table.decide(), Some(vec![0, 1]));
}

// covers K10
#[test]
fn last_complete_member_is_waited_for_even_if_only_a_newcomer_is_there() {
    let mut table = Table::new(1);
    table.says(0, Vec::new());
    table.says(5, Vec::new());
    let word = table.says(0, Vec::new());
    assert_eq!(word.feeds, Some(node(5)));
    table.says(0, vec![Report::CaughtUp { epoch: Term(1), newcomer: node(5) }]);
    assert_eq!(table.decide(), Some(vec![0, 5]));
    assert_eq!(table.record.present().incomplete, Some(node(5)));
    table.after(600).blocked(5, 0);
    table.after(250).blocked(5, 0);
    assert_eq!(table.decide(), None);
}

// covers K2
#[test]
fn removal_waits_until_the_last_lease_is_over_and_no_more_are_granted() {
    let mut table = Table::new(3);
    assert!(table.wants_lease(2).is_some());
    table.blocked(0, 2);
    assert_eq!(table.decide(), None);
    assert_eq!(table.wants_lease(2), None, "it is to leave");
    assert!(table.wants_lease(1).is_some());
    table.after(250).blocked(0, 2);
    table.says(1, Vec::new());
    assert_eq!(table.decide(), None, "collected, and its lease lasts");
    table.after(60).blocked(0, 2);
    table.says(1, Vec::new());
    assert_eq!(table.decide(), Some(vec![0, 1]));
}

// covers K2 K17
#[test]
fn record_that_was_read_before_a_removal_is_worth_no_lease_after_it() {
    let mut table = Table::new(3);
    let read_before = table.record.clone();
    table.blocked(0, 2);
    table.after(250).blocked(0, 2);
    table.says(1, Vec::new());
    assert_eq!(table.decide(), Some(vec![0, 1]));
    let reports = vec![Report::LeaseWanted { epoch: Term(1), asked_at: Time(7) }];
    let report = MemberReport { node: node(2), epoch: Term(1), last: EntryId::ZERO, reports };
    let word = table.arbiter.hear(table.now, &read_before, &report);
    assert_eq!((word.lease, word.configuration.epoch), (None, Term(1)));
    assert_eq!(table.arbiter.decide(table.now, &read_before), None);
    assert_eq!((table.arbiter.epoch, table.arbiter.failed.len()), (Term(2), 1), "it is where it was");
}

// covers K2
#[test]
fn no_lease_is_granted_while_a_decision_without_the_member_may_still_be_in_the_log() {
    let mut table = Table::new(3);
    table.blocked(0, 2);
    table.after(250).blocked(0, 2);
    table.says(1, Vec::new());
    let proposed = table.arbiter.decide(table.now, &table.record).expect("a removal");
    // It takes long, and meanwhile no one has said again that the third is in its way.
    table.after(2_000);
    for who in 0..3 {
        table.says(who, Vec::new());
    }
    assert_eq!(table.arbiter.decide(table.now, &table.record), Some(proposed), "this one, or none");
    assert_eq!(table.wants_lease(2), None);
    assert!(table.wants_lease(1).is_some());
    assert_eq!(table.decide(), Some(vec![0, 1]));
}

// covers K2
#[test]
fn decision_that_cannot_count_any_more_is_given_up() {
    let mut table = Table::new(2);
    table.says(0, Vec::new());
    table.says(5, Vec::new());
    table.says(0, vec![Report::CaughtUp { epoch: Term(1), newcomer: node(5) }]);
    assert_eq!(table.decide(), Some(vec![0, 1, 5]));
    table.says(0, vec![Report::FirstRestarted { epoch: Term(2), last: EntryId::ZERO }]);
    table.arbiter.decide(table.now, &table.record).expect("an epoch in which the newcomer is incomplete");
    // One that was proposed before comes first: the newcomer is complete.
    table.record.apply(&EpochDecision::Activated(Term(2))).unwrap();
    assert_eq!(table.decide(), Some(vec![0, 1, 5]));
    assert_eq!((table.record.present().epoch, table.record.present().incomplete), (Term(3), None));
}

// covers K2 K8
#[test]
fn fresh_arbiter_takes_it_that_everyone_was_granted_a_lease() {
    let mut table = Table::new(3);
    assert!(table.wants_lease(2).is_some());
    table.arbiter = Arbiter::new(ArbiterSettings::default(), PresiderId(2), table.now);
    assert_eq!(table.wants_lease(2), None, "it does not preside yet");
    table.decide();
    table.blocked(0, 2);
    table.after(250).blocked(0, 2);
    table.says(1, Vec::new());
    assert_eq!(table.decide(), None);
    table.after(60).blocked(0, 2);
    table.says(1, Vec::new());
    assert_eq!(table.decide(), Some(vec![0, 1]));
}

// covers K8
#[test]
fn arbiter_that_was_succeeded_neither_presides_again_nor_grants() {
    let mut table = Table::new(2);
    table.decide();
    assert!(!table.arbiter.is_over(&table.record));
    table.record.apply(&EpochDecision::Presides(PresiderId(9))).unwrap();
    assert!(table.arbiter.is_over(&table.record));
    assert_eq!((table.decide(), table.wants_lease(1)), (None, None));
}

// covers K9 K18
#[test]
fn first_that_restarted_gets_a_new_epoch_with_the_same_members() {
    let mut table = Table::new(3);
    let restarted = |epoch| vec![Report::FirstRestarted { epoch, last: EntryId::ZERO }];
    table.says(1, restarted(Term(1)));
    assert_eq!(table.decide(), None, "it is not the first that says so");
    table.says(0, restarted(Term(1)));
    assert_eq!(table.decide(), Some(vec![0, 1, 2]));
    assert_eq!(table.record.present().epoch, Term(2));
    table.says(0, restarted(Term(1)));
    assert_eq!(table.decide(), None, "of an epoch that is over");
}

// covers K2 K9
#[test]
fn member_that_an_operator_wants_first_becomes_that_once_the_epoch_has_lasted_and_it_is_there() {
    let mut table = Table::new(3);
    table.says(0, Vec::new());
    table.says(5, Vec::new());
    let promote = |table: &mut Table, name| table.arbiter.promote(table.now, &table.record, ReplicaId(name));
    assert_eq!(promote(&mut table, 2), Err(NotPromoted::NotHeard(ReplicaId(2))));
    assert_eq!(promote(&mut table, 5), Err(NotPromoted::NoMember(ReplicaId(5))));
    table.says(2, Vec::new());
    promote(&mut table, 2).unwrap();
    assert_eq!(table.decide(), Some(vec![2, 0, 1]));
    assert_eq!(table.decide(), None, "once");

    // Not at once again, and not one that has fallen silent meanwhile.
    table.says(0, Vec::new());
    promote(&mut table, 0).unwrap();
    assert_eq!(table.decide(), None);
    table.after(1000);
    assert_eq!(table.decide(), None);
    table.says(0, Vec::new());
    assert_eq!(table.decide(), Some(vec![0, 2, 1]));

    // Any other decision ends the wish.
    table.after(1000);
    table.says(1, Vec::new());
    promote(&mut table, 1).unwrap();
    let epoch = table.record.present().epoch;
    table.says(0, vec![Report::FirstRestarted { epoch, last: EntryId::ZERO }]);
    assert_eq!(table.decide(), Some(vec![0, 2, 1]));
    table.after(1000);
    table.says(1, Vec::new());
    assert_eq!(table.decide(), None);

    // So does time, and whoever waited for it can take it back.
    promote(&mut table, 1).unwrap();
    table.after(5000);
    table.says(1, Vec::new());
    assert_eq!(table.decide(), None);
    promote(&mut table, 1).unwrap();
    assert!(table.arbiter.forget_promotion(ReplicaId(1)));
    assert_eq!(table.decide(), None);
}

// covers K2 K9
#[test]
fn promotion_by_a_record_of_another_epoch_than_the_arbiters_is_no_wish_that_comes_true_later() {
    let mut table = Table::new(2);
    let former = table.record.clone();
    table.says(0, Vec::new());
    table.says(1, Vec::new());
    let epoch = table.record.present().epoch;
    table.says(0, vec![Report::FirstRestarted { epoch, last: EntryId::ZERO }]);
    // The arbiter has not heard of its own decision yet, and whoever asks has read it.
    let decision = table.arbiter.decide(table.now, &table.record).expect("a new epoch");
    table.record.apply(&decision).unwrap();
    table.arbiter.promote(table.now, &table.record, ReplicaId(1)).unwrap();
    table.after(1000);
    table.says(1, Vec::new());
    assert_eq!(table.decide(), Some(vec![1, 0]));
    // And the other way round.
    let refused = table.arbiter.promote(table.now, &former, ReplicaId(0));
    assert_eq!(refused, Err(NotPromoted::Changing));
    table.after(1000);
    table.says(0, Vec::new());
    assert_eq!(table.decide(), None);
}

// covers K2
#[test]
fn neither_an_incomplete_member_nor_one_of_a_chain_is_promoted() {
    let mut table = Table::new(1);
    table.says(0, Vec::new());
    table.says(5, Vec::new());
    table.says(0, vec![Report::CaughtUp { epoch: Term(1), newcomer: node(5) }]);
    assert_eq!(table.decide(), Some(vec![0, 5]));
    table.says(5, Vec::new());
    let refused = table.arbiter.promote(table.now, &table.record, ReplicaId(5));
    assert_eq!(refused, Err(NotPromoted::Incomplete(ReplicaId(5))));
    let chain = EpochRecord::found(EpochKind::Chain, vec![node(0), node(1)]);
    let mut arbiter = Arbiter::new(ArbiterSettings::default(), PresiderId(1), Time(0));
    let refused = arbiter.promote(Time(0), &chain, ReplicaId(1));
    assert_eq!(refused, Err(NotPromoted::Chain));
}

// covers K7
#[test]
fn second_newcomer_joins_once_the_first_one_is_complete_and_not_before() {
    let mut table = Table::new(1);
    let both_report = |table: &mut Table, last: u16| {
        table.says(5, Vec::new());
        table.says(6, Vec::new());
        table.says(last, Vec::new()).feeds.map(|node| node.name.0)
    };
    assert_eq!(both_report(&mut table, 0), Some(5));
    table.says(0, vec![Report::CaughtUp { epoch: Term(1), newcomer: node(5) }]);
    assert_eq!(table.decide(), Some(vec![0, 5]));
    assert_eq!(both_report(&mut table, 5), None, "one at a time");
    table.says(0, vec![Report::Activated { epoch: Term(2) }]);
    assert_eq!(table.decide(), Some(vec![0, 5]));
    assert_eq!(both_report(&mut table, 5), Some(6));
    table.says(5, vec![Report::CaughtUp { epoch: Term(2), newcomer: node(6) }]);
    assert_eq!(table.decide(), Some(vec![0, 5, 6]));
}

// covers K7
#[test]
fn newcomer_that_never_catches_up_is_in_the_way_of_no_other_for_ever() {
    let mut table = Table::new(1);
    // Whom it is to bring up to date after this many seconds in which all have reported.
    let mut feeds = |seconds: u64, newcomers: &[u16]| {
        let mut feeds = None;
        for _ in 0..10 * seconds {
            table.after(100);
            for newcomer in newcomers {
                table.says(*newcomer, Vec::new());
            }
            feeds = table.says(0, Vec::new()).feeds;
        }
        feeds.map(|node| node.name.0)
    };
    assert_eq!(feeds(100, &[5]), Some(5), "as long as it likes while no one else waits");
    assert_eq!(feeds(1, &[5, 6]), Some(6));
    assert_eq!(feeds(28, &[5, 6]), Some(6));
    assert_eq!(feeds(2, &[5, 6, 7]), Some(7), "those that have not failed yet come first");
    assert_eq!(feeds(28, &[5, 6, 7]), Some(7));
    assert_eq!(feeds(2, &[5, 6, 7]), Some(5));
    assert_eq!(feeds(30, &[5, 6, 7]), Some(5), "it has twice as long now");
    assert_eq!(feeds(30, &[5, 6, 7]), Some(6));
}

// covers K7
#[test]
fn removed_member_pauses_before_it_joins_again_and_twice_as_long_the_next_time() {
    removed_again_and_again(ArbiterSettings::default().pause_max_us, &[1000, 2000, 4000]);
    removed_again_and_again(1500 * MS, &[1000, 1500, 1500]);
}

fn removed_again_and_again(pause_max_us: u64, pauses_ms: &[u64]) {
    let mut table = Table::new(2);
    table.arbiter.settings.pause_max_us = pause_max_us;
    for pause_ms in pauses_ms {
        table.after(700).blocked(0, 1);
        table.after(200).blocked(0, 1);
        table.decide().expect("a removal");
        let epoch = table.record.present().epoch;
        table.after(pause_ms - 100);
        table.says(1, Vec::new());
        assert_eq!(table.says(0, Vec::new()).feeds, None);
        table.after(200);
        table.says(1, Vec::new());
        assert_eq!(table.says(0, Vec::new()).feeds, Some(node(1)));
        table.says(0, vec![Report::CaughtUp { epoch, newcomer: node(1) }]);
        assert_eq!(table.decide(), Some(vec![0, 1]));
        assert_eq!(table.wants_lease(1), None, "it is incomplete");
        let epoch = table.record.present().epoch;
        table.says(0, vec![Report::Activated { epoch }]);
        assert_eq!(table.decide(), Some(vec![0, 1]));
        assert!(table.wants_lease(1).is_some());
    }
}
