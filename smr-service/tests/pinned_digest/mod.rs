//! The bytes that replicas hash to compare their states, pinned: configuration, sessions and state machine of a small
//! fixed group. Shared by the tests of servers and managers.
//!
//! A replica whose hash differs from that of a majority is quarantined. If a build writes the same state with other
//! bytes than the one before it, a rolling upgrade would quarantine sound replicas; unless their hashes are not
//! compared, which is what the versions are for.

use std::io::{self, Write};

use bytes::Bytes;
use smr::codec;
use smr::entry::{Configuration, EntryId, Index, SnapshotMeta};
use smr::id::{ClientId, NodeId};
use smr::internals::engine::SnapshotImage;
use smr::internals::session::{SessionCommand, SessionTable};
use smr::state_machine::{Image, StateMachine};
use smr::status::StateDigest;
use smr::version::ImageVersions;

/// The versions with which the hashes here and in the tests were written down.
const VERSIONS: ImageVersions = ImageVersions::FIRST;
/// The hash of last entry and configuration.
const CONFIGURATION: u64 = 0xabef_f37a_a2d9_4c23;
/// The hash of the session table.
const SESSIONS: u64 = 0xdd4b_4f78_54c8_34df;

/// Members of every kind, in the middle of a change.
fn configuration() -> SnapshotMeta {
    let node = NodeId::new;
    SnapshotMeta {
        last: EntryId::new(300, 7),
        configuration: Configuration {
            voters: [node(0, 10), node(1, 11), node(2, 12)].into(),
            outgoing: [node(0, 10), node(1, 11), node(2, 9)].into(),
            learners: [node(3, 13)].into(),
        },
        configuration_index: Index(290),
    }
}

/// Two sessions, with numbers out of order, a stored answer that was given twice, and one that the client let go.
fn sessions() -> SessionTable {
    let mut sessions = SessionTable::new();
    let write = |client, number, lowest_unanswered| SessionCommand::Write {
        client: ClientId { index: client, nonce: 9 },
        number,
        lowest_unanswered,
        command: Bytes::from(format!("command {number}")),
    };
    let commands = [
        SessionCommand::Open { nonce: 9 },
        SessionCommand::Open { nonce: 9 },
        write(101, 1, 1),
        write(102, 3, 1),
        write(101, 2, 2),
        write(102, 70, 2),
        write(101, 2, 2),
        SessionCommand::Idempotent { command: Bytes::from_static(b"idempotent") },
    ];
    for (index, command) in (101..).zip(&commands) {
        sessions.apply(Index(index), command, |command| [b"answer to ", command].concat());
    }
    sessions
}

/// Fails unless this build writes `state` as it did when `state_hash` was written down, and also configuration and
/// sessions of a small fixed group, and all of them together, which is what replicas compare.
pub(crate) fn assert_pinned<S: StateMachine>(state: &S, state_hash: u64, whole_hash: u64) {
    let image = SnapshotImage::<S> { meta: configuration(), sessions: sessions().image(), state: state.image() };
    let index = image.meta.last.index;
    let hash = |write: &dyn Fn(&mut dyn Write) -> io::Result<()>| StateDigest::over(index, write).hash;
    let parts = [
        ("configuration", CONFIGURATION, hash(&|output| output.write_all(&codec::encode(&image.meta)))),
        ("session table", SESSIONS, hash(&|output| image.sessions.write(output))),
        ("state machine", state_hash, hash(&|output| image.state.write(output))),
        ("whole", whole_hash, hash(&|output| image.write_whole(output))),
    ];
    let versions = ImageVersions::with_machine(S::IMAGE_VERSION);
    for (part, pinned, found) in parts {
        assert!(
            found == pinned || versions != VERSIONS,
            "this build writes the {part} with other bytes, and replicas compare hashes of them: raise \
             StateMachine::IMAGE_VERSION, or ImageVersions::LIBRARY (smr/src/version.rs), or a rolling upgrade \
             quarantines sound replicas; then pin {found:#x} and the versions"
        );
        assert_eq!(found, pinned, "the {part} of {versions:?}: pin {found:#x} and the versions");
    }
    assert_eq!(versions, VERSIONS, "pin the new versions");
}
