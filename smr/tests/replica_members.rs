//! A group grows, moves and shrinks while it runs: newcomers never found one, addresses are learned and remembered, and
//! whoever leaves hears of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod replica_support;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use bytes::Bytes;
use smr::id::ReplicaId;
use smr::replica::{Opened, Outcome, ReplicaHandle, Request};
use tokio::runtime::Runtime;

use replica_support::{Counter, ask, listener, options, status, wait_until};

struct Site {
    temporary: tempfile::TempDir,
    runtime: Runtime,
}

impl Site {
    fn new() -> Site {
        let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Site { temporary, runtime }
    }

    fn start(&self, name: u16, peers: &[(u16, String)], listener: TcpListener, joins: bool) -> ReplicaHandle {
        let directory = self.temporary.path().join(format!("g.{name}"));
        // What was handed to the disk before the end is done before the directory's lock is let go.
        let opened = wait_until("the directory's lock", || {
            let listener = listener.try_clone().unwrap();
            let options = options(name, peers.to_vec(), listener, Path::new(&directory), &self.runtime);
            Opened::open(smr::replica::ReplicaOptions { joins, ..options }).ok()
        });
        opened.run(Counter::default()).unwrap()
    }
}

fn address(listener: &TcpListener) -> String {
    listener.local_addr().unwrap().to_string()
}

fn scale(replicas: &[&ReplicaHandle], wanted: &[(u16, &str)]) -> Outcome {
    let wanted: BTreeMap<ReplicaId, String> =
        wanted.iter().map(|(name, address)| (ReplicaId(*name), (*address).to_owned())).collect();
    wait_until("a leader that takes the change", || {
        let outcomes = replicas.iter().map(|replica| ask(replica, Request::Scale { replicas: wanted.clone() }));
        // A leader that leaves, or loses its role, does not know; the next one is asked again.
        outcomes
            .into_iter()
            .find(|outcome| !matches!(outcome, Outcome::NotLeader(_) | Outcome::Unknown | Outcome::OutOfService(_)))
    })
}

fn count(replicas: &[&ReplicaHandle]) -> u64 {
    let answer = wait_until("a write", || {
        replicas.iter().find_map(|replica| match ask(replica, Request::Idempotent { command: Bytes::from("count") }) {
            Outcome::Answer(answer) => Some(answer),
            _ => None,
        })
    });
    u64::from_le_bytes(answer[..].try_into().unwrap())
}

fn voters(replica: &ReplicaHandle) -> Vec<u16> {
    status(replica).voters.iter().map(|node| node.name.0).collect()
}

// covers M2 M4 M5 M7
#[test]
fn group_grows_moves_and_shrinks_and_newcomers_wait_until_they_are_taken_in() {
    let site = Site::new();
    let listeners = [listener(), listener(), listener()];
    let addresses = listeners.each_ref().map(address);
    let [first_listener, second_listener, third_listener] = listeners;
    let known = |names: &[u16]| -> Vec<(u16, String)> {
        names.iter().map(|name| (*name, addresses[usize::from(*name)].clone())).collect()
    };
    // The newcomers come first: there is no group yet, and they found none.
    let second = site.start(1, &known(&[0]), second_listener, true);
    let third = site.start(2, &known(&[0]), third_listener, true);
    let first = site.start(0, &[], first_listener, false);
    let all = [&first, &second, &third];
    assert_eq!(count(&all), 1);
    assert!(!second.is_initialized() && !third.is_initialized());
    assert_eq!(voters(&first), [0]);

    let with = |names: &[u16]| -> Vec<(u16, &str)> {
        names.iter().map(|name| (*name, addresses[usize::from(*name)].as_str())).collect()
    };
    let refused = scale(&all, &[]);
    assert!(matches!(&refused, Outcome::Refused(why) if why.contains("last replica")), "{refused:?}");
    assert_eq!(scale(&all, &with(&[0, 1, 2])), Outcome::Done);
    assert_eq!(scale(&all, &with(&[0, 1, 2])), Outcome::Done, "asked for again it is done");
    wait_until("all to know it", || all.iter().all(|replica| voters(replica) == [0, 1, 2]).then_some(()));
    assert_eq!(count(&all), 2);

    // A replica comes back on another port, with the flags of its first start. No one finds it there before the group
    // hears of it, and then everyone does, also who starts with older flags later.
    third.shutdown();
    let moved = listener();
    let moved_to = address(&moved);
    let third = site.start(2, &known(&[0]), moved, true);
    let all = [&first, &second, &third];
    assert_eq!(scale(&all, &[(0, ""), (1, ""), (2, &moved_to)]), Outcome::Done);
    let before = count(&all);
    wait_until("the moved one to follow", || (status(&third).applied >= status(&first).applied).then_some(()));

    // The one that leads leaves. Whoever stays goes on, and it hears that it left.
    first.shutdown();
    // The runtime lets go of the old listener a moment after the end.
    let again = wait_until("the address", || TcpListener::bind(&addresses[0]).ok());
    let first = site.start(0, &[], again, false);
    let all = [&first, &second, &third];
    assert_eq!(count(&all), before + 1, "without flags for anyone it found them by what it remembers");
    assert_eq!(scale(&all, &[(1, ""), (2, "")]), Outcome::Done);
    wait_until("the one that left to hear of it", || first.retired());
    assert_eq!(count(&[&second, &third]), before + 2);
    assert_eq!((second.retired(), third.retired()), (None, None));
    [first, second, third].iter().for_each(ReplicaHandle::shutdown);
    site.runtime.shutdown_background();
}
