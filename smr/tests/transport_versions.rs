//! Replicas of two builds: what they agree upon, to the byte. A build of version 5 is played by hand.
#![allow(missing_docs, dead_code, unreachable_pub, reason = "each test file uses a part of the shared helpers")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod transport_support;

use smr::codec;
use smr::id::{NodeId, ReplicaId};
use smr::internals::transport::{Lane, PEER_VERSIONS, TransportEvent};
use smr::version::CommandVersions;
use transport_support::*;

const A: NodeId = NodeId::new(0, 100);
const B: NodeId = NodeId::new(1, 101);

/// What a build of version 5 says to every other version.
fn refusal_of_5() -> Refusal {
    Refusal::new("peer protocol version 6 meets version 5")
}

#[test]
fn present_version_and_the_one_before_it_are_spoken() {
    assert_eq!((PEER_VERSIONS.oldest(), PEER_VERSIONS.newest()), (FORMER_VERSION, VERSION));
}

#[test]
fn dialler_of_the_former_version_is_answered_in_it_to_the_byte() {
    let (listener, address) = listen();
    let a = Node::start(config(A, &[(1, "127.0.0.1:1")]), listener);
    let mut wire = Wire::dial(&address);
    wire.send(kind::HELLO, &hello_of_5(B, 0));
    let (found, payload) = wire.receive().unwrap();
    assert_eq!((found, payload), (kind::WELCOME, codec::encode(&welcome_of_5(A))));
    wire.send(kind::MESSAGE, &(7u64, vec![1u8]));
    let received = TransportEvent::Received { from: B, message: (7, vec![1]) };
    a.await_event(|event| (*event == received).then_some(()));
    assert_eq!(a.transport.commands_of(B), Some(CommandVersions::FIRST));
}

#[test]
fn answerer_of_the_former_version_is_dialled_again_in_it_to_the_byte() {
    let (listener_a, _) = listen();
    let (listener_b, address_b) = listen();
    let a = Node::start(config(A, &[(1, &address_b)]), listener_a);
    let mut wire = Wire::accept(&listener_b);
    let (found, payload) = wire.receive().unwrap();
    assert_eq!((found, codec::decode(&payload)), (kind::HELLO, Ok(hello(A, 1))));
    wire.send(kind::REFUSAL, &refusal_of_5());
    let mut again = Wire::accept(&listener_b);
    let (found, payload) = again.receive().unwrap();
    assert_eq!((found, payload), (kind::HELLO, codec::encode(&hello_of_5(A, 1))));
    again.send(kind::WELCOME, &welcome_of_5(B));
    // Nothing was refused, as far as anyone needs to know.
    assert_eq!(a.events.recv_timeout(TIMEOUT).unwrap(), Event::Connected { peer: B });
    a.transport.queue_for(B, |version| Some((u64::from(version), Vec::new())), Lane::Urgent, 10);
    a.transport.flush();
    assert_eq!(again.receive().unwrap(), (kind::MESSAGE, codec::encode(&(5u64, Vec::<u8>::new()))));
}

#[test]
fn one_that_knows_neither_version_is_refused_with_both_ranges() {
    let (listener_a, address_a) = listen();
    let (listener_b, address_b) = listen();
    let a = Node::start(config(A, &[(1, &address_b)]), listener_a);
    let mut newer = Wire::dial(&address_a);
    newer.send(kind::HELLO, &Hello { newest: 9, oldest: 8, ..hello(B, 0) });
    let (found, payload) = newer.receive().unwrap();
    let Refusal { reason, .. } = codec::decode(&payload).unwrap();
    let both = "a replica with peer protocol versions 8 to 9 meets one with versions 5 to 6";
    assert_eq!((found, reason.as_str()), (kind::REFUSAL, both));
    // The dialler's side of it: an operator is told, and nothing older is tried.
    for _ in 0..2 {
        let mut wire = Wire::accept(&listener_b);
        let (_, payload) = wire.receive().unwrap();
        assert_eq!(codec::decode(&payload), Ok(hello(A, 1)));
        wire.send(kind::REFUSAL, &Refusal::new(both));
    }
    let reason = a.await_event(|event| match event {
        TransportEvent::Refused { peer: ReplicaId(1), reason } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(reason, both);
}

#[test]
fn two_of_this_build_speak_the_newest_version_and_know_each_others_commands() {
    let (listener_a, address_a) = listen();
    let (listener_b, address_b) = listen();
    let commands = CommandVersions { library: 3, machine: 4 };
    let a = Node::start(config(A, &[(1, &address_b)]), listener_a);
    let newer = smr::internals::transport::TransportConfig { commands, ..config(B, &[(0, &address_a)]) };
    let b = Node::start(newer, listener_b);
    a.await_connected(B);
    b.await_connected(A);
    assert_eq!(a.transport.commands_of(B), Some(commands));
    assert_eq!(b.transport.commands_of(A), Some(CommandVersions::FIRST));
    assert_eq!(b.transport.commands_of(NodeId::new(0, 99)), None, "another incarnation may be of another build");
    a.transport.queue_for(B, |version| Some((u64::from(version), Vec::new())), Lane::Urgent, 10);
    a.transport.flush();
    let received = TransportEvent::Received { from: A, message: (u64::from(VERSION), Vec::new()) };
    b.await_event(|event| (*event == received).then_some(()));
}
