//! The codec fed with what no sound peer sends: arbitrary bytes, cut and flipped frames, hostile lengths.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

mod memory_limit;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use smr::codec::{self, CodecError, FRAME_PAYLOAD_MAX_BYTES, FrameHeader, HEADER_LEN_BYTES};
use smr::entry::{Configuration, Entry, EntryId, Genesis, GenesisHash, HardState, Index, Payload, SnapshotMeta, Term};
use smr::id::{ClusterId, GroupName, NodeId};
use smr::internals::snapshot::SnapshotOffer;

use memory_limit::limit_memory;

/// What this process may take beyond what it has at the start, in bytes. Much more than its threads need, much less
/// than any hostile length asks for: an allocation that believes one ends the whole test run.
const MEMORY_MAX_BYTES: u64 = 4 << 30;

fn node() -> impl Strategy<Value = NodeId> {
    (any::<u16>(), any::<u64>()).prop_map(|(name, incarnation)| NodeId::new(name, incarnation))
}

fn nodes() -> impl Strategy<Value = BTreeSet<NodeId>> {
    prop::collection::btree_set(node(), 0..6)
}

fn configuration() -> impl Strategy<Value = Configuration> {
    (nodes(), nodes(), nodes()).prop_map(|(voters, outgoing, learners)| Configuration { voters, outgoing, learners })
}

fn entry() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        Just(Payload::Noop),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Payload::Command(Bytes::from(bytes))),
        configuration().prop_map(Payload::Configuration),
    ];
    (any::<u64>(), any::<u64>(), payload)
        .prop_map(|(index, term, payload)| Entry { id: EntryId::new(index, term), payload })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(entry(), 0..8)
}

fn meta() -> impl Strategy<Value = SnapshotMeta> {
    (any::<u64>(), any::<u64>(), configuration(), any::<u64>()).prop_map(|(index, term, configuration, carried)| {
        SnapshotMeta { last: EntryId::new(index, term), configuration, configuration_index: Index(carried) }
    })
}

fn hard_state() -> impl Strategy<Value = HardState> {
    (any::<u64>(), prop::option::of(node())).prop_map(|(term, vote)| HardState { term: Term(term), vote, lease_us: 0 })
}

/// Frames `entries`.
fn framed(kind: u16, entries: &Vec<Entry>) -> Vec<u8> {
    let mut frame = Vec::new();
    codec::frame(&mut frame, kind, entries).unwrap();
    frame
}

/// What a receiver does with a stream that starts with `bytes`; `None` if more must come.
fn receive(bytes: &[u8], payload_max_bytes: usize) -> Option<Result<(u16, Vec<Entry>), CodecError>> {
    let header = match FrameHeader::parse(bytes.first_chunk::<HEADER_LEN_BYTES>()?, payload_max_bytes) {
        Ok(header) => header,
        Err(error) => return Some(Err(error)),
    };
    assert!(header.payload_len_bytes <= payload_max_bytes);
    let payload = bytes[HEADER_LEN_BYTES..].get(..header.payload_len_bytes)?;
    Some(header.verify(payload).and_then(|()| codec::decode(payload)).map(|entries| (header.kind, entries)))
}

/// Decodes `bytes` as a `T` in a process that has not the memory for a length that it should not have believed.
fn decode_within_bounds<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    limit_memory(MEMORY_MAX_BYTES);
    codec::decode(bytes)
}

/// Decodes `bytes` as everything that travels or is stored.
fn decode_as_everything(bytes: &[u8]) {
    let _ = decode_within_bounds::<Vec<Entry>>(bytes);
    let _ = decode_within_bounds::<Entry>(bytes);
    let _ = decode_within_bounds::<Configuration>(bytes);
    let _ = decode_within_bounds::<SnapshotMeta>(bytes);
    let _ = decode_within_bounds::<SnapshotOffer>(bytes);
    let _ = decode_within_bounds::<HardState>(bytes);
    let _ = decode_within_bounds::<Genesis>(bytes);
    let _ = decode_within_bounds::<GroupName>(bytes);
    let _ = decode_within_bounds::<Bytes>(bytes);
    let _ = decode_within_bounds::<String>(bytes);
    let _ = decode_within_bounds::<BTreeMap<u64, Vec<u8>>>(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn value_encoded_is_value_decoded(
        entries in entries(),
        meta in meta(),
        hard_state in hard_state(),
        members in nodes(),
        cluster in prop::option::of(any::<u128>()),
        len_bytes in any::<u64>(),
        fingerprint in any::<u64>(),
    ) {
        prop_assert_eq!(&codec::decode::<Vec<Entry>>(&codec::encode(&entries)).unwrap(), &entries);
        prop_assert_eq!(codec::decode::<HardState>(&codec::encode(&hard_state)).unwrap(), hard_state);
        let genesis = Genesis { cluster: cluster.map(ClusterId), group: "s0".parse().unwrap(), members };
        prop_assert_eq!(&codec::decode::<Genesis>(&codec::encode(&genesis)).unwrap(), &genesis);
        let offer = SnapshotOffer { meta, genesis: GenesisHash(u128::from(fingerprint) << 64), len_bytes, fingerprint };
        prop_assert_eq!(&codec::decode::<SnapshotOffer>(&codec::encode(&offer)).unwrap(), &offer);
    }

    // covers B1
    #[test]
    fn arbitrary_bytes_decode_to_an_error_or_a_value(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        decode_as_everything(&bytes);
    }

    // covers B1, B2
    #[test]
    fn lengths_out_of_nowhere_allocate_nothing(
        before in prop::collection::vec(0..3u8, 0..24),
        len in prop_oneof![Just(u64::MAX), Just(1 << 63), Just(1 << 40), Just(u64::from(u32::MAX)), any::<u64>()],
        after in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes = [before.as_slice(), &len.to_le_bytes(), &after].concat();
        decode_as_everything(&bytes);
    }

    // covers B1
    #[test]
    fn prefix_of_a_value_is_an_error(entries in entries(), meta in meta()) {
        let encoded = codec::encode(&entries);
        for len in 0..encoded.len() {
            prop_assert!(codec::decode::<Vec<Entry>>(&encoded[..len]).is_err(), "{} bytes of entries", len);
        }
        let encoded = codec::encode(&meta);
        for len in 0..encoded.len() {
            prop_assert!(codec::decode::<SnapshotMeta>(&encoded[..len]).is_err(), "{} bytes of a meta", len);
        }
    }

    // covers B1
    #[test]
    fn value_with_bytes_behind_it_is_an_error(
        hard_state in hard_state(),
        behind in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let mut bytes = codec::encode(&hard_state);
        bytes.extend_from_slice(&behind);
        prop_assert!(codec::decode::<HardState>(&bytes).is_err());
    }

    // covers B1
    #[test]
    fn flipped_bit_in_a_value_is_an_error_or_another_value(
        entries in entries(),
        position in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut bytes = codec::encode(&entries);
        let at = position.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(decoded) = decode_within_bounds::<Vec<Entry>>(&bytes) {
            prop_assert_ne!(&decoded, &entries);
        }
    }

    // covers B1
    #[test]
    fn arbitrary_bytes_are_no_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!matches!(receive(&bytes, 1000), Some(Ok(_))), "a checksum of 64 bits fitted by chance");
    }

    // covers B1
    #[test]
    fn prefix_of_a_frame_waits_for_more(entries in entries(), kind in any::<u16>()) {
        let frame = framed(kind, &entries);
        for len in 0..frame.len() {
            prop_assert_eq!(receive(&frame[..len], FRAME_PAYLOAD_MAX_BYTES), None, "after {} bytes", len);
        }
        prop_assert_eq!(receive(&frame, FRAME_PAYLOAD_MAX_BYTES), Some(Ok((kind, entries))));
    }

    // covers B1
    #[test]
    fn flipped_bit_in_a_frame_never_yields_a_value(
        entries in entries(),
        kind in any::<u16>(),
        position in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let sound = framed(kind, &entries);
        let mut frame = sound.clone();
        let at = position.index(frame.len());
        frame[at] ^= 1 << bit;
        // More follows on the stream, so that a longer length finds its bytes.
        frame.extend_from_slice(&sound);
        prop_assert!(!matches!(receive(&frame, FRAME_PAYLOAD_MAX_BYTES), Some(Ok(_))), "bit {} of byte {}", bit, at);
    }

    // covers B2
    #[test]
    fn frame_header_admits_lengths_up_to_the_limit_only(len in any::<u32>(), limit in 0..=FRAME_PAYLOAD_MAX_BYTES) {
        for len in [len, len % (2 * limit as u32 + 1), 0, limit as u32, limit as u32 + 1, u32::MAX] {
            let mut header = [0; HEADER_LEN_BYTES];
            header[0..4].copy_from_slice(&len.to_le_bytes());
            header[4..6].copy_from_slice(&codec::FORMAT_VERSION.to_le_bytes());
            let found = len as usize;
            match FrameHeader::parse(&header, limit) {
                Ok(header) => prop_assert!(header.payload_len_bytes == found && found <= limit),
                Err(error) => {
                    prop_assert_eq!(error, CodecError::TooLong { found, limit });
                    prop_assert!(found > limit);
                }
            }
        }
    }

    // covers B4
    #[test]
    fn frame_of_another_version_is_refused_by_name(entries in entries(), found in any::<u16>()) {
        prop_assume!(found != codec::FORMAT_VERSION);
        let mut frame = framed(1, &entries);
        frame[4..6].copy_from_slice(&found.to_le_bytes());
        prop_assert_eq!(receive(&frame, FRAME_PAYLOAD_MAX_BYTES), Some(Err(CodecError::Version { found })));
    }
}

// covers B2
#[test]
fn value_too_long_for_a_frame_is_refused_and_leaves_the_buffer() {
    let mut buffer = b"before".to_vec();
    let overhead = codec::encode(&Bytes::new()).len();
    let fits = Bytes::from(vec![1; FRAME_PAYLOAD_MAX_BYTES - overhead]);
    let too_long = Bytes::from(vec![1; FRAME_PAYLOAD_MAX_BYTES - overhead + 1]);
    let refused = codec::frame(&mut buffer, 1, &too_long);
    let found = FRAME_PAYLOAD_MAX_BYTES + 1;
    assert_eq!(refused, Err(CodecError::TooLong { found, limit: FRAME_PAYLOAD_MAX_BYTES }));
    assert_eq!(buffer, b"before");
    codec::frame(&mut buffer, 1, &fits).unwrap();
    assert_eq!(buffer.len(), 6 + HEADER_LEN_BYTES + FRAME_PAYLOAD_MAX_BYTES);
}

// covers B1
#[test]
fn shortest_entries_in_great_number_decode() {
    // The most objects per byte that there can be: work or memory beyond proportion shows here first.
    let shortest = vec![Entry { id: EntryId::ZERO, payload: Payload::Noop }; 200_000];
    let bytes = codec::encode(&shortest);
    assert_eq!(decode_within_bounds::<Vec<Entry>>(&bytes).unwrap(), shortest);
}
