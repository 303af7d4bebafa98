//! Frames, what travels between replicas, and values as they are stored.

use bytes::Bytes;
use smr::codec::{self, FRAME_PAYLOAD_MAX_BYTES};
use smr::entry::{Configuration, Entry, EntryId, Genesis, HardState, Index, SnapshotMeta, Term};
use smr::id::{ClientId, ReplicaId};
use smr::internals::bootstrap::{BootstrapMessage, Claim};
use smr::internals::engine::{CheckpointPiece, ForwardedWrite};
use smr::internals::message::PeerMessage;
use smr::internals::protocol::CheckpointName;
use smr::internals::raft::Message;
use smr::internals::raft::message::Body as Said;
use smr::internals::snapshot::SnapshotOffer;
use smr::version::ImageVersions;
use smr::wire::FrameReader;

use super::decode;
use super::directory::{ME, entries, genesis, meta};

pub(super) fn frames(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(async {
        let mut reader = FrameReader::new(bytes, FRAME_PAYLOAD_MAX_BYTES);
        let mut payloads = 0;
        while let Ok(Some(frame)) = reader.next().await {
            payloads += frame.payload.len() + codec::HEADER_LEN_BYTES;
            assert!(payloads <= bytes.len(), "more was read than there is");
        }
    });
}

pub(super) fn sound_frames() -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for (kind, value) in [vec![1u8, 2, 3], vec![], vec![9; 70]].iter().enumerate() {
        codec::frame(&mut bytes, kind as u16, value).unwrap_or_else(|error| panic!("{error}"));
    }
    vec![bytes]
}

pub(super) fn peer_messages(bytes: &[u8]) {
    decode::<PeerMessage<Message>>(bytes);
    decode::<SnapshotOffer>(bytes);
}

pub(super) fn sound_peer_messages() -> Vec<Vec<u8>> {
    let say = |body| codec::encode(&PeerMessage::Protocol(Message { term: Term(3), body }));
    let bootstrap = |message| codec::encode(&PeerMessage::<Message>::Bootstrap(message));
    vec![
        say(Said::Append { previous: EntryId::new(1, 1), entries: entries(), commit: Index(1) }),
        say(Said::Vote { last: EntryId::new(4, 2), transfer: true }),
        say(Said::AppendRejected { previous: Index(5), hint: EntryId::new(4, 2) }),
        bootstrap(BootstrapMessage::Uninitialized {
            replicas: (0..3).map(ReplicaId).collect(),
            claim: Claim { is_excluded: true, found_anew: true },
            sees: None,
        }),
        bootstrap(BootstrapMessage::Initialized {
            genesis: genesis().hash(),
            founders: Some(genesis()),
            cluster: genesis().cluster,
            configuration: Configuration { voters: genesis().members, ..Configuration::default() },
        }),
        codec::encode(&PeerMessage::<Message>::Checkpoint(CheckpointPiece {
            name: CheckpointName { epoch: Term(3), base: EntryId::new(4, 2), end: EntryId::new(9, 3) },
            count: 7,
            input: ImageVersions::FIRST,
            len_bytes: 900,
            offset: 256,
            bytes: Bytes::from_static(b"a part of it"),
        })),
        codec::encode(&PeerMessage::<Message>::Forward(vec![ForwardedWrite {
            client: ClientId::at(2),
            number: 3,
            lowest_unanswered: 1,
            command: Bytes::from_static(b"command"),
        }])),
        codec::encode(&SnapshotOffer { meta: meta(), genesis: genesis().hash(), len_bytes: 900, fingerprint: 7 }),
    ]
}

pub(super) fn stored_values(bytes: &[u8]) {
    decode::<Vec<Entry>>(bytes);
    decode::<Entry>(bytes);
    decode::<Configuration>(bytes);
    decode::<SnapshotMeta>(bytes);
    decode::<HardState>(bytes);
    decode::<Genesis>(bytes);
}

pub(super) fn sound_stored_values() -> Vec<Vec<u8>> {
    let hard_state = HardState { term: Term(3), vote: Some(ME), lease_us: 0 };
    vec![codec::encode(&entries()), codec::encode(&meta()), codec::encode(&hard_state), codec::encode(&genesis())]
}
