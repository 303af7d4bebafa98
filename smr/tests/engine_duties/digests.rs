//! Hashes of the state, compared.

use smr::entry::Index;
use smr::internals::engine::Action;
use smr::status::StateDigest;

use crate::stage::*;

/// The hash that a replica takes of its state after entry 4, and the replica, which has just told the others.
fn hashed(third: &'static str) -> (Replica, StateDigest) {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y")), (0, 3, write(client, 3, third))]);
    // What is applied after the entry is none of the hash's business.
    replica.ask(vec![(0, 4, write(client, 4, "later"))]);
    replica.core.commit_up_to(usize::MAX);
    replica.engine.work(|_| true);
    let taken = replica.engine.take_actions().into_iter().find_map(|action| match action {
        Action::TakeDigest(image) => Some(StateDigest::over(image.meta.last.index, |output| image.write_whole(output))),
        _ => None,
    });
    let digest = taken.expect("entry 4 is due");
    assert_eq!(digest.index, Index(DIGEST_EVERY));
    replica.engine.digest_taken(digest);
    let told = replica.engine.take_actions().into_iter().filter_map(|action| match action {
        Action::SendDigest(to, digest) => Some((to, digest)),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(B, digest), (C, digest)]);
    assert_eq!(replica.engine.status().digest, Some(digest));
    (replica, digest)
}

/// What a replica says and does when it hears the hashes of two others.
fn heard(replica: &mut Replica, hashes: [StateDigest; 2]) -> (Vec<String>, Vec<String>) {
    let (mut quarantines, mut reports) = (Vec::new(), Vec::new());
    for (from, digest) in [B, C].into_iter().zip(hashes) {
        replica.engine.digest_heard(from, digest);
        for action in replica.engine.take_actions() {
            match action {
                Action::Quarantine(why) => quarantines.push(why),
                Action::Report(line) => reports.push(line),
                _ => {}
            }
        }
    }
    (quarantines, reports)
}

// covers L17 I7
#[test]
fn state_unlike_that_of_a_majority_puts_the_replica_into_quarantine_at_the_next_comparison() {
    let ((mut odd, wrong), (mut sound, right)) = (hashed("z"), hashed("Z"));
    assert_ne!(wrong, right, "the states differ by one bit");
    let (quarantines, _) = heard(&mut odd, [right; 2]);
    assert!(matches!(&quarantines[..], [why] if why.contains("differs from that of a majority")), "{quarantines:?}");
    let (quarantines, reports) = heard(&mut sound, [right, wrong]);
    assert_eq!(quarantines, Vec::<String>::new(), "those who agree go on");
    assert!(matches!(&reports[..], [line] if line.contains("differ")), "and say who does not: {reports:?}");
    let (mut equal, digest) = hashed("z");
    assert_eq!(heard(&mut equal, [digest; 2]), (Vec::new(), Vec::new()));
}
