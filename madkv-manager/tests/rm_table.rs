//! The replication manager's table: each row, and what is never done.

#![cfg(test)]

use madkv_manager::rm::{
    Choice, DOWN_MS, IN_VAIN_MS, LAUNCHES_IN_VAIN, NEWCOMER_DOWN_MS, ORDER_MS, PAUSE_MAX_MS, PAUSE_MIN_MS,
    QUARANTINED_MS, READMISSION_MS, Readmission, Seen, Sight, UNHEALED_MS, choose,
};
use madkv_manager::state::{GroupRepairs, GroupView, Repair, ReplicaView, Stage, Verdict};
use madkv_proto::control::{Condition, EVENT_TEXT_MAX_BYTES, Service, bounded};
use madkv_proto::group_service::GroupService;
use smr::id::Incarnation;

/// Longer than replicas are down in these cases.
const GRACE_MS: u64 = 100_000;
/// A host with room.
const SPARE: u16 = 9;
const PLACE: Verdict = Verdict::Repair(Stage::Place { agent: SPARE });
const MOVE: Verdict = Verdict::Repair(Stage::Move);
const NOW: u64 = 1_700_000_000_000;
const RELAUNCH: Verdict = Verdict::Repair(Stage::Relaunch);
const FRESH: Verdict = Verdict::Repair(Stage::FreshDirectory);
const READMIT: Verdict = Verdict::Repair(Stage::Readmit);

/// A replica, and how the leader sees it.
#[derive(Clone)]
struct One {
    view: ReplicaView,
    relaunches: bool,
    host_has_failed: bool,
    for_ms: u64,
}

/// A group of which all replicas are in service, until something is changed.
#[derive(Clone)]
struct Case {
    group: GroupView,
    replicas: Vec<One>,
    stage_for_ms: u64,
    readmission: Readmission,
    now: u64,
    spare: Option<u16>,
}

fn in_service() -> Condition {
    Condition::Alive { service: Service::InService }
}

fn quarantined() -> Condition {
    Condition::Alive { service: Service::Quarantined { proof_of_loss: false, reason: "emptied".into() } }
}

fn dead() -> Condition {
    Condition::Dead { reason: "signal 9".into() }
}

fn backing_off() -> Condition {
    Condition::BackingOff { reason: "exit 1".into() }
}

fn case(size: u16) -> Case {
    let replica = |number: u16| One {
        view: ReplicaView {
            place: (0, number),
            agent: number + 1,
            condition: in_service(),
            incarnation: Some(Incarnation(u64::from(number) + 10)),
            order: 0,
            launches_in_vain: 0,
            loss_proven: false,
            needs_move: false,
            directory_suspect: true,
            detail: String::new(),
        },
        relaunches: true,
        host_has_failed: false,
        for_ms: 3_600_000,
    };
    Case {
        group: GroupView {
            kind: smr::epoch::GroupKind::Raft,
            service: GroupService::default(),
            size,
            is_founded: true,
            members: (0..size).collect(),
            recorded: (0..size).map(|number| Some(Incarnation(u64::from(number) + 10))).collect(),
            is_changing: false,
            repairs: GroupRepairs::default(),
        },
        replicas: (0..size).map(replica).collect(),
        stage_for_ms: 0,
        readmission: Readmission::Asked,
        now: NOW,
        spare: None,
    }
}

impl Case {
    /// `replica` is in this condition for this long; as a new incarnation, if it is quarantined.
    fn with(mut self, replica: u16, condition: Condition, for_ms: u64) -> Case {
        let one = &mut self.replicas[usize::from(replica)];
        if condition == quarantined() {
            one.view.incarnation = Some(Incarnation(77));
        }
        (one.view.condition, one.for_ms) = (condition, for_ms);
        if !one.view.condition.is_member() {
            self.group.members.retain(|member| *member != replica);
        }
        self
    }

    fn changed(mut self, change: impl FnOnce(&mut Case)) -> Case {
        change(&mut self);
        self
    }

    /// A repair of `replica` is under way, at this decision for this long.
    fn repairing(mut self, replica: u16, stage: Stage, stage_for_ms: u64) -> Case {
        let open = Repair { replica, stage, order: 9, began_unix_ms: NOW, incarnation: None };
        self.group.repairs = GroupRepairs { last: 9, open: Some(open), ..GroupRepairs::default() };
        self.stage_for_ms = stage_for_ms;
        self
    }

    fn told(mut self, replica: u16) -> Case {
        self.replicas[usize::from(replica)].view.order = 9;
        self
    }

    fn choose(&self) -> Option<Choice> {
        let seen: Vec<Seen<'_>> = self
            .replicas
            .iter()
            .map(|one| Seen {
                replica: &one.view,
                relaunches: one.relaunches,
                host_has_failed: one.host_has_failed,
                for_ms: one.for_ms,
            })
            .collect();
        choose(&Sight {
            group: &self.group,
            replicas: &seen,
            stage_for_ms: self.stage_for_ms,
            readmission: &self.readmission,
            now_unix_ms: self.now,
            host_grace_ms: GRACE_MS,
            spare: self.spare,
        })
    }

    #[track_caller]
    fn expect(&self, expected: Option<(u16, Verdict)>) -> String {
        let choice = self.choose();
        assert_eq!(choice.as_ref().map(|(replica, verdict, _)| (*replica, *verdict)), expected, "{choice:?}");
        choice.map_or_else(String::new, |(_, _, reason)| reason)
    }
}

#[test]
fn nothing_is_done_for_what_is_fine_or_about_to_be() {
    case(3).expect(None);
    case(1).expect(None);
    case(3).with(1, Condition::Starting, IN_VAIN_MS).expect(None);
    case(3).with(1, Condition::Alive { service: Service::Uninitialized }, IN_VAIN_MS).expect(None);
    let failed = |case: &mut Case| case.replicas[1].host_has_failed = true;
    for condition in [dead(), Condition::Hung, backing_off(), quarantined()] {
        case(3).with(1, condition, IN_VAIN_MS).changed(failed).expect(None);
    }
}

#[test]
fn what_is_down_is_relaunched_if_its_agent_has_not_done_it_for_a_while() {
    for condition in [dead(), Condition::Hung] {
        case(3).with(1, condition.clone(), DOWN_MS - 1).expect(None);
        case(3).with(1, condition.clone(), DOWN_MS).expect(Some((1, RELAUNCH)));
        // Also without a majority, and the last one: it keeps its directory.
        case(3).with(0, dead(), 0).with(1, dead(), 0).with(2, condition.clone(), DOWN_MS).expect(Some((2, RELAUNCH)));
        case(1).with(0, condition, DOWN_MS).expect(Some((0, RELAUNCH)));
    }
}

#[test]
fn where_the_agent_does_not_relaunch_a_person_is_waited_for_and_told_once() {
    let no = |case: &mut Case| case.replicas[1].relaunches = false;
    for condition in [dead(), Condition::Hung, backing_off()] {
        case(3).with(1, condition.clone(), DOWN_MS - 1).changed(no).expect(None);
        let waits = case(3).with(1, condition, DOWN_MS).changed(no);
        let reason = waits.expect(Some((1, Verdict::Wait)));
        assert!(reason.contains("--relaunch no"), "{reason}");
        waits.changed(|case| case.group.repairs.waiting = [(1, reason)].into()).expect(None);
    }
}

#[test]
fn what_was_launched_in_vain_again_and_again_gets_a_fresh_directory() {
    let launched = |count: u32| move |case: &mut Case| case.replicas[1].view.launches_in_vain = count;
    let case = || case(3).with(1, backing_off(), IN_VAIN_MS);
    case().changed(launched(LAUNCHES_IN_VAIN)).expect(Some((1, FRESH)));
    case().changed(launched(LAUNCHES_IN_VAIN - 1)).expect(None);
    case().with(1, backing_off(), IN_VAIN_MS - 1).changed(launched(LAUNCHES_IN_VAIN)).expect(None);
}

#[test]
fn quarantined_new_incarnation_is_readmitted_and_a_member_heals_by_itself() {
    case(3).with(1, quarantined(), QUARANTINED_MS - 1).expect(None);
    case(3).with(1, quarantined(), QUARANTINED_MS).expect(Some((1, READMIT)));
    case(5).with(1, quarantined(), QUARANTINED_MS).with(3, dead(), 0).expect(Some((1, READMIT)));
    let healing = |case: &mut Case| case.replicas[1].view.incarnation = case.group.recorded[1];
    case(3).with(1, quarantined(), IN_VAIN_MS).changed(healing).expect(None);
    case(3).with(1, quarantined(), IN_VAIN_MS).changed(|case| case.group.is_founded = false).expect(None);
    // Unless it does not: then a person is told, once.
    let waits = case(3).with(1, quarantined(), UNHEALED_MS).changed(healing);
    let reason = waits.expect(Some((1, Verdict::Wait)));
    assert!(reason.contains("does not heal: emptied"), "{reason}");
    waits.changed(|case| case.group.repairs.waiting = [(1, reason)].into()).expect(None);
}

#[test]
fn reason_too_long_for_an_event_is_told_once_all_the_same() {
    let healing = |case: &mut Case| {
        case.replicas[1].view.incarnation = case.group.recorded[1];
        let reason = "x".repeat(2 * EVENT_TEXT_MAX_BYTES);
        case.replicas[1].view.condition =
            Condition::Alive { service: Service::Quarantined { proof_of_loss: false, reason } };
    };
    let waits = case(3).with(1, quarantined(), UNHEALED_MS).changed(healing);
    let reason = bounded(&waits.expect(Some((1, Verdict::Wait))), EVENT_TEXT_MAX_BYTES).to_owned();
    waits.changed(|case| case.group.repairs.waiting = [(1, reason)].into()).expect(None);
}

// A full disk or a port that is taken: what the directory holds is not to blame.
#[test]
fn what_ends_for_other_reasons_keeps_its_directory_and_a_person_is_told() {
    let waits = case(3).with(1, backing_off(), IN_VAIN_MS).changed(|case| {
        case.replicas[1].view.launches_in_vain = LAUNCHES_IN_VAIN;
        case.replicas[1].view.directory_suspect = false;
    });
    let reason = waits.expect(Some((1, Verdict::Wait)));
    assert!(reason.contains("nothing says that its directory is to blame: exit 1"), "{reason}");
    waits
        .clone()
        .changed(|case| case.replicas[1].view.launches_in_vain += 7)
        .changed(|case| case.group.repairs.waiting = [(1, reason)].into())
        .expect(None);
    waits.repairing(1, Stage::Relaunch, ORDER_MS).told(1).expect(Some((1, Verdict::Wait)));
}

#[test]
fn replica_whose_host_is_gone_for_long_is_placed_where_there_is_room() {
    let lost = |for_ms| {
        case(3).with(1, dead(), for_ms).changed(|case| {
            case.replicas[1].host_has_failed = true;
            case.spare = Some(SPARE);
        })
    };
    lost(GRACE_MS - 1).expect(None);
    lost(GRACE_MS).expect(Some((1, PLACE)));
    // As it was when its host was last heard: also in service.
    lost(GRACE_MS).changed(|case| case.replicas[1].view.condition = in_service()).expect(Some((1, PLACE)));
    lost(GRACE_MS).with(1, Condition::Stopped, GRACE_MS).expect(None);
    lost(GRACE_MS).changed(|case| case.group.is_founded = false).expect(None);
    let waits = lost(GRACE_MS).changed(|case| case.spare = None);
    let reason = waits.expect(Some((1, Verdict::Wait)));
    assert!(reason.contains("no other one has room"), "{reason}");
    // Whoever waits for that is placed once there is room.
    let waiting = |case: &mut Case| case.group.repairs.waiting = [(1, reason.clone())].into();
    lost(GRACE_MS).changed(waiting).expect(Some((1, PLACE)));
    lost(GRACE_MS).with(2, dead(), 0).expect(Some((1, Verdict::Wait)));
    lost(GRACE_MS).changed(|case| case.replicas[1].view.loss_proven = true).expect(Some((1, Verdict::Wait)));
    lost(GRACE_MS).with(2, dead(), DOWN_MS).changed(|case| case.spare = None).expect(Some((2, RELAUNCH)));
}

#[test]
fn replica_that_is_placed_is_moved_and_readmitted_once_its_group_knows_where_it_is() {
    let placing = |stage, stage_for_ms| {
        case(3).with(1, dead(), GRACE_MS).repairing(1, stage, stage_for_ms).changed(|case| {
            case.replicas[1].host_has_failed = true;
        })
    };
    let place = |stage_for_ms| placing(Stage::Place { agent: SPARE }, stage_for_ms);
    let on_the_new = |case: &mut Case| {
        case.replicas[1].host_has_failed = false;
        case.replicas[1].view.agent = SPARE;
        case.replicas[1].view.condition = quarantined();
        case.replicas[1].view.incarnation = Some(Incarnation(78));
        case.replicas[1].view.needs_move = true;
    };
    place(0).expect(None);
    place(ORDER_MS).expect(Some((1, Verdict::Abandon)));
    place(0).changed(on_the_new).expect(Some((1, MOVE)));
    place(0).changed(on_the_new).changed(|case| case.replicas[1].for_ms = QUARANTINED_MS - 1).expect(None);
    let down = |case: &mut Case| case.replicas[1].view.condition = dead();
    place(0).changed(on_the_new).changed(down).expect(None);
    place(ORDER_MS).changed(on_the_new).changed(down).expect(Some((1, Verdict::Abandon)));
    let gone_too = |case: &mut Case| case.replicas[1].host_has_failed = true;
    place(0).changed(on_the_new).changed(gone_too).expect(Some((1, Verdict::Abandon)));
    place(0).changed(on_the_new).with(2, dead(), 0).expect(Some((1, Verdict::Wait)));
    // Its own host has come back with it.
    let back = |case: &mut Case| {
        case.replicas[1].host_has_failed = false;
        case.replicas[1].view.condition = in_service();
    };
    place(0).changed(back).expect(Some((1, Verdict::Done)));

    let moving = || placing(Stage::Move, ORDER_MS).changed(on_the_new);
    moving().changed(|case| case.group.is_changing = true).expect(None);
    moving().changed(|case| case.replicas[1].view.needs_move = false).expect(Some((1, READMIT)));
    moving().expect(Some((1, Verdict::Abandon)));
    // And begins with that the next time.
    moving().changed(|case| case.group.repairs = GroupRepairs::default()).expect(Some((1, MOVE)));
}

// covers M6: what is never done. Each of these was a repair without its rule.
#[test]
fn proof_of_a_loss_waits_for_an_operator() {
    let proven = |case: &mut Case| {
        case.replicas[1].view.loss_proven = true;
        case.replicas[1].view.launches_in_vain = LAUNCHES_IN_VAIN;
    };
    for condition in [quarantined(), backing_off()] {
        let reason = case(3).with(1, condition, IN_VAIN_MS).changed(proven).expect(Some((1, Verdict::Wait)));
        assert!(reason.contains("only copy"), "{reason}");
    }
    // Launching it with the directory that it has changes nothing.
    case(3).with(1, dead(), DOWN_MS).changed(proven).expect(Some((1, RELAUNCH)));
    // Also if the proof comes while a repair is under way.
    let base = || case(3).with(1, quarantined(), IN_VAIN_MS).changed(proven);
    for stage in [Stage::Relaunch, Stage::FreshDirectory, Stage::Readmit] {
        base().repairing(1, stage, 0).told(1).expect(Some((1, Verdict::Wait)));
    }
}

// covers M5, M6
#[test]
fn last_copy_and_copies_without_a_majority_beside_them_are_never_replaced() {
    let vain = |case: &mut Case| case.replicas[0].view.launches_in_vain = LAUNCHES_IN_VAIN;
    for condition in [quarantined(), backing_off()] {
        let alone = case(1).with(0, condition.clone(), IN_VAIN_MS).changed(vain);
        let reason = alone.expect(Some((0, Verdict::Wait)));
        assert!(reason.contains("last copy"), "{reason}");
        let two_down = case(3).with(0, condition.clone(), IN_VAIN_MS).changed(vain).with(2, dead(), 0);
        let reason = two_down.expect(Some((0, Verdict::Wait)));
        assert!(reason.contains("only 1 of 3") && reason.contains("2 are needed"), "{reason}");
        let five = case(5).with(0, condition.clone(), IN_VAIN_MS).changed(vain);
        five.clone().with(1, dead(), 0).expect(Some((0, if condition == quarantined() { READMIT } else { FRESH })));
        five.with(1, dead(), 0).with(2, dead(), 0).expect(Some((0, Verdict::Wait)));
    }
    // A member on a host that has failed does not count: it is not among the members.
    let cut_off = case(3).with(0, quarantined(), IN_VAIN_MS).changed(|case| {
        case.replicas[1].host_has_failed = true;
        case.group.members.retain(|member| *member != 1);
    });
    cut_off.expect(Some((0, Verdict::Wait)));
    // And if they go while a repair is under way.
    let base = || case(3).with(0, quarantined(), IN_VAIN_MS).with(2, dead(), 0);
    base().repairing(0, Stage::FreshDirectory, 0).told(0).expect(Some((0, Verdict::Wait)));
    base().repairing(0, Stage::Readmit, 0).expect(Some((0, Verdict::Abandon)));
}

#[test]
fn one_repair_at_a_time_and_what_brings_members_back_comes_first() {
    let two = case(5).with(1, quarantined(), IN_VAIN_MS).with(3, dead(), DOWN_MS);
    two.expect(Some((3, RELAUNCH)));
    two.clone().repairing(1, Stage::Readmit, 5).expect(None);
    let both = case(5).with(1, quarantined(), IN_VAIN_MS).with(3, quarantined(), IN_VAIN_MS);
    both.expect(Some((1, READMIT)));
    both.repairing(3, Stage::Readmit, 5).expect(None);
}

#[test]
fn repair_goes_on_from_stage_to_stage_until_the_replica_is_in_service() {
    let relaunch = |condition, for_ms| case(3).with(1, condition, for_ms).repairing(1, Stage::Relaunch, 50);
    relaunch(dead(), DOWN_MS).expect(None);
    relaunch(Condition::Starting, 3).told(1).expect(None);
    relaunch(in_service(), 3).told(1).expect(Some((1, Verdict::Done)));
    relaunch(quarantined(), QUARANTINED_MS).told(1).expect(Some((1, READMIT)));
    relaunch(dead(), DOWN_MS).changed(|case| case.stage_for_ms = ORDER_MS).expect(Some((1, Verdict::Abandon)));

    let fresh = |condition| case(3).with(1, condition, QUARANTINED_MS).repairing(1, Stage::FreshDirectory, 50);
    fresh(quarantined()).expect(None);
    fresh(quarantined()).told(1).expect(Some((1, READMIT)));
    fresh(dead()).told(1).expect(None);
    fresh(dead()).told(1).changed(|case| case.stage_for_ms = ORDER_MS).expect(Some((1, Verdict::Abandon)));

    let readmit = |condition, for_ms| case(3).with(1, condition, for_ms).repairing(1, Stage::Readmit, 50);
    readmit(quarantined(), 9).expect(None);
    readmit(in_service(), 9).expect(None);
    let done = |case: &mut Case| case.readmission = Readmission::Done;
    readmit(quarantined(), 9).changed(done).expect(None);
    // The group may know its old incarnation: until it says more it is asked again, and only service counts.
    let already = |case: &mut Case| case.readmission = Readmission::MemberAlready;
    readmit(quarantined(), 9).changed(already).expect(None);
    readmit(in_service(), 9).changed(already).expect(Some((1, Verdict::Done)));
    let reason = readmit(in_service(), 9).changed(done).expect(Some((1, Verdict::Done)));
    assert!(reason.contains("as incarnation"), "{reason}");
    readmit(dead(), NEWCOMER_DOWN_MS - 1).expect(None);
    readmit(dead(), NEWCOMER_DOWN_MS).expect(Some((1, Verdict::Abandon)));
    let late = |case: &mut Case| {
        case.stage_for_ms = READMISSION_MS;
        case.readmission = Readmission::Refused("too slow".into());
    };
    let reason = readmit(quarantined(), 9).changed(late).expect(Some((1, Verdict::Abandon)));
    assert!(reason.contains("too slow"), "{reason}");
    for stage in [Stage::Relaunch, Stage::FreshDirectory, Stage::Readmit] {
        let failed = |case: &mut Case| case.replicas[1].host_has_failed = true;
        case(3).with(1, dead(), 9).repairing(1, stage, 5).changed(failed).expect(Some((1, Verdict::Abandon)));
    }
}

#[test]
fn repair_that_came_to_nothing_is_tried_again_after_a_pause_that_grows() {
    let abandoned = |count: u32, ago_ms: u64| {
        case(3)
            .with(1, quarantined(), IN_VAIN_MS)
            .changed(|case| case.group.repairs.abandoned = [(1, (count, NOW - ago_ms))].into())
    };
    abandoned(1, PAUSE_MIN_MS - 1).expect(None);
    abandoned(1, PAUSE_MIN_MS).expect(Some((1, READMIT)));
    abandoned(3, 4 * PAUSE_MIN_MS - 1).expect(None);
    abandoned(3, 4 * PAUSE_MIN_MS).expect(Some((1, READMIT)));
    abandoned(u32::MAX, PAUSE_MAX_MS).expect(Some((1, READMIT)));
    abandoned(1, 0).changed(|case| case.now = NOW - 1).expect(Some((1, READMIT)));
}
