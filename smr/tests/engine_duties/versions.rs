//! Kinds of commands that not everyone knows yet.

use bytes::Bytes;
use smr::entry::Index;
use smr::id::NodeId;
use smr::internals::engine::Action;
use smr::internals::protocol::Protocol;
use smr::internals::session::{SessionCommand, SessionTable};
use smr::replica::Outcome;
use smr::version::CommandVersions;

use crate::stage::*;

// covers L20 I18
#[test]
fn committed_command_of_a_kind_unknown_to_this_build_stops_the_replica_before_it_is_applied() {
    let unknown_to_the_machine = SessionCommand::Idempotent { command: Bytes::from_static(b"9 of a build to come") };
    for unknown in [&[200, 1, 2, 3][..], &[], &[2, 1], &unknown_to_the_machine.encode()] {
        let (mut replica, client) = Replica::with_session();
        replica.ask(vec![(0, 1, write(client, 1, "x"))]);
        replica.core.append_bytes(TERM, Bytes::copy_from_slice(unknown));
        replica.ask(vec![(0, 2, write(client, 2, "y"))]);
        replica.core.commit_up_to(usize::MAX);
        replica.engine.work(|_| true);
        let stops: Vec<String> = replica
            .engine
            .take_actions()
            .into_iter()
            .filter_map(|action| match action {
                Action::Stop(why) => Some(why),
                _ => None,
            })
            .collect();
        let [why] = &stops[..] else { panic!("{stops:?}") };
        assert!(
            why.contains("entry 3.t2 cannot be applied") && why.contains("version 2 of the library and 2 of"),
            "{why}"
        );
        assert_eq!(replica.engine.applied().index, Index(2));
        assert!(!replica.engine.has_work(), "it would go on");
        assert_eq!(replica.applied(), ["x"], "what stands after it must not be applied either");
        assert_eq!(replica.outcome(0, 2), Some(Outcome::Unknown));
    }
}

// covers L20
#[test]
fn command_of_a_new_kind_is_proposed_only_once_every_member_applies_it() {
    let (mut replica, client) = Replica::with_session();
    let (of_1, of_2) = (CommandVersions::FIRST, CommandVersions::with_machine(2));
    let mut tag = 0;
    let mut is_taken = |replica: &mut Replica| {
        tag += 1;
        let entries = replica.core.status().last.index;
        replica.ask(vec![(0, tag, write(client, tag, "2 is new"))]);
        let taken = replica.core.status().last.index > entries;
        if !taken {
            let said = replica.outcome(0, tag);
            assert!(matches!(&said, Some(Outcome::Refused(why)) if why.contains("upgraded")), "{said:?}");
        }
        taken
    };
    assert!(!is_taken(&mut replica), "no one was heard");
    replica.engine.peer_applies(B, of_2);
    assert!(!is_taken(&mut replica), "C was not heard");
    replica.engine.peer_applies(C, of_1);
    assert!(!is_taken(&mut replica), "C runs the older build");
    replica.engine.peer_applies(NodeId::new(2, 9), of_2);
    assert!(!is_taken(&mut replica), "that is another incarnation, which is no member");
    replica.engine.peer_applies(C, of_2);
    assert!(is_taken(&mut replica));
    replica.engine.peer_applies(B, of_1);
    assert!(!is_taken(&mut replica), "B went back to the older build");
    // Known everywhere, or nowhere.
    replica.ask(vec![(0, 100, write(client, 100, "x")), (0, 101, write(client, 101, "9 is unknown"))]);
    assert!(matches!(replica.outcome(0, 101), Some(Outcome::Refused(_))));
    assert_eq!(replica.outcome(0, 100), None);
}

// covers L20
#[test]
fn versions_of_a_newcomer_that_was_met_before_it_became_a_member_are_known() {
    let (mut replica, client) = Replica::with_session();
    let newcomer = NodeId::new(3, 1);
    for peer in [newcomer, B, C] {
        replica.engine.peer_applies(peer, CommandVersions::with_machine(2));
    }
    replica.core.0.lock().unwrap().newcomer = Some(newcomer);
    replica.ask(vec![(0, 1, write(client, 1, "2 is new"))]);
    assert_eq!(replica.outcome(0, 1), None, "it is proposed");
}

// covers L20 M5
#[test]
fn learner_whose_directory_was_replaced_keeps_no_command_back() {
    let (mut replica, client) = Replica::with_session();
    let (gone, in_its_place) = (NodeId::new(3, 1), NodeId::new(3, 2));
    let of_2 = CommandVersions::with_machine(2);
    for peer in [B, C] {
        replica.engine.peer_applies(peer, of_2);
    }
    replica.core.0.lock().unwrap().newcomer = Some(gone);
    replica.ask(vec![(0, 1, write(client, 1, "2 is new"))]);
    assert!(matches!(replica.outcome(0, 1), Some(Outcome::Refused(_))), "it may come at any time");
    replica.engine.peer_applies(in_its_place, CommandVersions::FIRST);
    replica.ask(vec![(0, 2, write(client, 2, "2 is new"))]);
    assert_eq!(replica.outcome(0, 2), None, "no one will ever hear what it applies");
}

// covers L20
#[test]
fn version_of_an_applied_command_stays_open_after_a_restart_while_members_are_down() {
    let image_of = |table: &SessionTable| {
        let mut image = Vec::new();
        table.image().write(&mut image).unwrap();
        image
    };
    let (mut replica, client) = Replica::with_session();
    assert!(image_of(replica.engine.sessions()).starts_with(b"SES2"), "older builds read it");
    let of_2 = CommandVersions::with_machine(2);
    for peer in [B, C] {
        replica.engine.peer_applies(peer, of_2);
    }
    replica.ask(vec![(0, 1, write(client, 1, "2 is new"))]);
    replica.commit_all();

    let mut restarted = Replica::new();
    let log = replica.core.0.lock().unwrap().log.clone();
    restarted.core.0.lock().unwrap().log = log;
    restarted.commit_all();
    restarted.ask(vec![(0, 1, write(client, 2, "2 as well"))]);
    assert_eq!(restarted.outcome(0, 1), None, "it is proposed");

    let image = image_of(restarted.engine.sessions());
    let restored = SessionTable::restore(&mut &image[..]).unwrap();
    let opened = CommandVersions { library: 1, machine: 2 };
    assert_eq!(restored.open_versions(), opened, "the log may be cut; no command of the library's own was newer");
    assert_eq!(image_of(&restored), image);
}

// covers C7
#[test]
fn repeat_of_a_write_is_answered_also_when_its_kind_would_not_be_proposed_any_more() {
    let (mut replica, client) = Replica::with_session();
    let (of_1, of_2) = (CommandVersions::FIRST, CommandVersions::with_machine(2));
    for peer in [B, C] {
        replica.engine.peer_applies(peer, of_2);
    }
    replica.ask(vec![(0, 1, write(client, 1, "2 is new"))]);
    replica.engine.peer_applies(B, of_1);
    // It waits along, on another connection.
    replica.ask(vec![(1, 1, write(client, 1, "2 is new"))]);
    assert_eq!(replica.outcome(1, 1), None);
    replica.commit_all();
    replica.ask(vec![(1, 2, write(client, 1, "2 is new"))]);
    let answer = Some(Outcome::Answer(Bytes::from_static(b"2 is new was number 1")));
    assert_eq!([(0, 1), (1, 1), (1, 2)].map(|(at, tag)| replica.outcome(at, tag)), [(); 3].map(|()| answer.clone()));
}
