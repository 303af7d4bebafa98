//! A disk without room: what would make it fuller is refused, and tried again.

use smr::internals::engine::Action;
use smr::internals::protocol::Time;
use smr::replica::Outcome;

use crate::stage::*;

// covers D31
#[test]
fn full_disk_refuses_growth_and_takes_what_frees_until_there_is_room() {
    let (mut replica, client) = Replica::with_session();
    replica.engine.disk_is_full(true);
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "free x"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 1), Some(Outcome::DiskFull));
    assert_eq!(replica.outcome(0, 2), answer("free x was number 1"));
    replica.engine.disk_is_full(false);
    replica.ask(vec![(0, 3, write(client, 1, "x"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 3), answer("x was number 2"));
}

// covers D31: no room for the log to be cut is as bad as a full disk, and ends with the next snapshot that succeeds.
#[test]
fn snapshot_without_room_refuses_growth_and_is_tried_again_until_it_succeeds() {
    let (mut replica, client) = Replica::with_session();
    assert!(replica.engine.snapshot_lacks_room(Time(1)));
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "free x"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 1), Some(Outcome::DiskFull));
    assert_eq!(replica.outcome(0, 2), answer("free x was number 1"));
    replica.engine.tick(Time(2));
    let takes = |replica: &mut Replica| {
        let actions = replica.engine.take_actions();
        actions.into_iter().find_map(|action| match action {
            Action::TakeSnapshot(image) => Some(image.meta.last),
            _ => None,
        })
    };
    assert_eq!(takes(&mut replica), None, "too early");
    // With room again it does not wait.
    replica.engine.disk_is_full(false);
    replica.engine.tick(Time(3));
    assert!(takes(&mut replica).is_some());
    assert!(replica.engine.snapshot_lacks_room(Time(4)));
    replica.engine.tick(Time(60_000_000));
    let last = takes(&mut replica).expect("it is tried again");
    replica.engine.snapshot_taken(Time(60_000_000), last, 100);
    replica.ask(vec![(0, 3, write(client, 1, "x"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 3), answer("x was number 2"));
}
