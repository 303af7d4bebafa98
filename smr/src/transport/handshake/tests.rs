//! What each side makes of the other, and of what is no handshake.

use super::*;
use proptest::prelude::*;

fn start() -> StartTrail {
    StartTrail::default().next(44)
}

fn met(name: u16, incarnation: u64, version: u16) -> Met {
    let commands = if version == 5 { CommandVersions::FIRST } else { COMMANDS };
    Met { node: NodeId::new(name, incarnation), start: start(), version, commands }
}

const COMMANDS: CommandVersions = CommandVersions { library: 2, machine: 3 };

fn myself(node: NodeId) -> Myself {
    Myself { facts: Facts { node, ..facts() }, commands: COMMANDS }
}

/// A frame's payload.
fn payload(frame: &[u8]) -> &[u8] {
    &frame[codec::HEADER_LEN_BYTES..]
}

fn facts() -> Facts {
    Facts {
        cluster: Some(ClusterId(7)),
        group: "s0".parse().unwrap(),
        node: NodeId::new(1, 11),
        genesis: Some(GenesisHash(70)),
        start: start(),
        kind: GroupKind::Raft,
    }
}

fn hello() -> Hello {
    super::hello(&myself(NodeId::new(2, 22)), ReplicaId(1), Purpose::Messages)
}

fn judged<T: Serialize>(hello: &T) -> Result<(Met, Purpose), String> {
    judge_hello(&codec::encode(hello), &facts(), |name| name.0 < 3).map_err(|error| match error {
        HandshakeError::Refused(reason) => reason,
        HandshakeError::Failed(reason) => format!("failed: {reason}"),
        HandshakeError::Disqualified(why) => format!("disqualified: {why}"),
    })
}

#[test]
fn hello_of_a_peer_accepted_with_its_incarnation() {
    assert_eq!(judged(&hello()), Ok((met(2, 22, 6), Purpose::Messages)));
}

#[test]
fn hello_without_range_is_one_of_version_5() {
    let hello = hello_without_range(&myself(NodeId::new(2, 22)), ReplicaId(1), Purpose::Snapshot);
    assert_eq!(judged(&hello), Ok((met(2, 22, 5), Purpose::Snapshot)));
    let older = HelloWithoutRange { version: 4, ..hello };
    let said = judged(&older).unwrap_err();
    assert_eq!(said, "a replica with peer protocol version 4 meets one with versions 5 to 6");
}

/// What versions to come may say.
#[test]
fn hello_of_a_newer_build_is_taken_in_the_highest_common_version_with_what_it_adds() {
    let newer = Hello { newest: 9, oldest: 6, later: vec![7; 30], ..hello() };
    assert_eq!(judged(&newer), Ok((met(2, 22, 6), Purpose::Messages)));
    let much_newer = Hello { newest: 9, oldest: 7, ..hello() };
    let said = judged(&much_newer).unwrap_err();
    assert_eq!(said, "a replica with peer protocol versions 7 to 9 meets one with versions 5 to 6");
}

fn myself_of(kind: GroupKind) -> Myself {
    let facts = Facts { kind, node: NodeId::new(2, 22), ..facts() };
    Myself { facts, commands: COMMANDS }
}

// covers B4
#[test]
fn replicas_of_groups_of_different_kinds_refuse_each_other_with_both_kinds() {
    let judged = |theirs: GroupKind, mine: GroupKind| {
        let hello = super::hello(&myself_of(theirs), ReplicaId(1), Purpose::Messages);
        judge_hello(&codec::encode(&hello), &Facts { kind: mine, ..facts() }, |_| true)
    };
    for theirs in GroupKind::ALL {
        for mine in GroupKind::ALL {
            let said = judged(theirs, mine);
            if theirs == mine {
                let (Met { version, .. }, _) = said.unwrap();
                assert!(versions_of(mine).contains(version));
                let frame = welcome_frame(&myself_of(mine), version);
                let own = Facts { kind: mine, ..facts() };
                let met = judge_welcome(payload(&frame), &own, ReplicaId(2), Greeting::Range).unwrap();
                assert_eq!(met.version, version);
            } else {
                let Err(HandshakeError::Refused(why)) = said else { panic!("{theirs} meets {mine}: {said:?}") };
                let expected = format!("a replica of a group of kind {theirs} meets one of a group of kind {mine}");
                assert_eq!(why, expected);
            }
        }
    }
}

// covers B4
#[test]
fn older_builds_are_refused_by_groups_with_epochs_and_refuse_them() {
    let chain = GroupKind::Epochs(crate::epoch::EpochKind::Chain);
    let older = hello_without_range(&myself(NodeId::new(2, 22)), ReplicaId(1), Purpose::Messages);
    let said = judge_hello(&codec::encode(&older), &Facts { kind: chain, ..facts() }, |_| true);
    assert!(matches!(said, Err(HandshakeError::Refused(why)) if why.contains("kind raft meets")));
    // A build that knows no kinds looks at the versions alone.
    let hello = super::hello(&myself_of(chain), ReplicaId(1), Purpose::Messages);
    assert_eq!((hello.oldest, hello.newest), (7, 8));
    assert!(VersionRange::new(7, 8).common(PEER_VERSIONS).is_none());
}

#[test]
fn refusal_of_a_build_before_ranges_is_known_by_its_words() {
    assert!(is_before_ranges("peer protocol version 6 meets version 5"));
    assert!(!is_before_ranges("peer protocol version 6 meets version 4"));
    assert!(!is_before_ranges("a replica with peer protocol versions 5 to 6 meets one with versions 7 to 8"));
}

// covers M10, B4
#[test]
fn facts_unknown_to_one_side_are_not_compared() {
    let mut uninitialized = hello();
    uninitialized.facts.cluster = None;
    uninitialized.facts.genesis = None;
    assert!(judged(&uninitialized).is_ok());
}

// covers M10, B4
#[test]
fn hello_of_each_kind_of_stranger_refused_with_its_reason() {
    type Spoil = fn(&mut Hello);
    let cases: [(Spoil, &str); 10] = [
        (|h| h.oldest = 9, "failed: a range of versions ends before it begins"),
        (|h| h.facts.group = "s1".parse().unwrap(), "a replica of group s1 meets one of group s0"),
        (|h| h.facts.cluster = Some(ClusterId(8)), "meets one of cluster"),
        (|h| h.facts.genesis = Some(GenesisHash(71)), "meets one with genesis"),
        (|h| h.facts.node = NodeId::new(2, 0), "an incarnation is never zero"),
        (|h| h.facts.start.id.number = 0, "a start has a number"),
        (|h| h.to = ReplicaId(0), "this is replica 1, not 0"),
        (|h| h.facts.node = NodeId::new(1, 99), "a replica 1 dials replica 1"),
        (|h| h.facts.node = NodeId::new(3, 33), "replica 3 is not among the peers"),
        (|h| h.magic = 0, "failed: the handshake is no replica's"),
    ];
    for (spoil, reason) in cases {
        let mut hello = hello();
        spoil(&mut hello);
        let said = judged(&hello).unwrap_err();
        assert!(said.contains(reason), "{said:?} lacks {reason:?}");
    }
}

#[test]
fn welcome_from_the_wrong_replica_refused() {
    for (greeting, version) in [(Greeting::Range, 6), (Greeting::WithoutRange, 5)] {
        let frame = welcome_frame(&myself(NodeId::new(2, 22)), version);
        let judge = |to| judge_welcome(payload(&frame), &facts(), to, greeting);
        assert_eq!(judge(ReplicaId(2)), Ok(met(2, 22, version)));
        assert_eq!(judge(ReplicaId(0)).unwrap_err(), "replica 2 answers at the address of replica 0");
    }
}

#[test]
fn welcome_in_a_version_that_was_not_offered_refused() {
    for (greeting, version) in [(Greeting::Range, 5), (Greeting::Range, 7), (Greeting::WithoutRange, 6)] {
        let frame = welcome_frame(&myself(NodeId::new(2, 22)), version);
        let said = judge_welcome(payload(&frame), &facts(), ReplicaId(2), greeting).unwrap_err();
        assert!(said.starts_with(&format!("peer protocol version {version} answers")), "{said}");
    }
}

#[test]
fn refusal_reason_is_cut_and_printable() {
    let reason = "\u{1b}[31mé\n".repeat(1000);
    let plain = printable(&reason);
    assert!(plain.len() <= REASON_MAX_BYTES && !plain.chars().any(char::is_control));
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let id = (any::<u16>(), any::<u64>()).prop_map(|(name, incarnation)| NodeId::new(name, incarnation));
    let cluster = proptest::option::of(any::<u128>().prop_map(ClusterId));
    let genesis = proptest::option::of(any::<u128>().prop_map(GenesisHash));
    let start = any::<u64>().prop_map(|nonce| StartTrail::default().next(nonce));
    (cluster, "[a-z0-9_-]{1,32}", id, genesis, start).prop_map(|(cluster, group, node, genesis, start)| Facts {
        cluster,
        group: group.parse().unwrap(),
        node,
        genesis,
        start,
        kind: GroupKind::Raft,
    })
}

proptest! {
    // covers B1
    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_welcome(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(judge_hello(&bytes, &facts(), |_| true).is_err());
        for greeting in [Greeting::Range, Greeting::WithoutRange] {
            prop_assert!(judge_welcome(&bytes, &facts(), ReplicaId(2), greeting).is_err());
        }
        read_refusal(&bytes);
    }

    // covers B1
    #[test]
    fn every_prefix_of_a_hello_is_an_error(facts in any_facts(), to in any::<u16>(), cut in 0.0..1.0f64) {
        let myself = Myself { facts: facts.clone(), commands: COMMANDS };
        let hello = super::hello(&myself, ReplicaId(to), Purpose::Snapshot);
        let bytes = codec::encode(&hello);
        prop_assert!(bytes.len() <= HANDSHAKE_PAYLOAD_MAX_BYTES);
        let decoded: Result<Hello, _> = codec::decode(&bytes);
        prop_assert_eq!(decoded, Ok(hello));
        let length = (bytes.len() as f64 * cut) as usize;
        let judged = judge_hello(&bytes[..length], &facts, |_| true);
        prop_assert!(matches!(judged, Err(HandshakeError::Failed(_))));
    }

    // covers B1
    #[test]
    fn single_bit_change_of_a_hello_never_panics(bit in 0usize..8 * 70) {
        let mut bytes = codec::encode(&hello());
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let whole = judge_hello(&codec::encode(&hello()), &facts(), |name| name.0 < 3);
        prop_assert!(whole.is_ok());
        // An incarnation, a start or a purpose may change into another valid one (the frame's checksum is what
        // notices); whatever else changes must be refused.
        if let Ok((Met { node, start, .. }, _)) = judge_hello(&bytes, &facts(), |name| name.0 < 3) {
            prop_assert!(node.name.0 < 3 && node.name.0 != 1 && node.incarnation.0 != 0 && start.id.number != 0);
        }
    }
}
