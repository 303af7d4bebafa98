//! Commands of sessions, and tables of them in images.

use bytes::Bytes;
use smr::entry::Index;
use smr::id::ClientId;
use smr::internals::session::{SessionCommand, SessionTable};

pub(super) fn sessions(bytes: &[u8]) {
    let owned = Bytes::copy_from_slice(bytes);
    if let Ok(command) = SessionCommand::decode(&owned) {
        assert_eq!(SessionCommand::decode(&command.encode()), Ok(command));
    }
    if let Ok(table) = SessionTable::restore(&mut &bytes[..]) {
        let mut image = Vec::new();
        table.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
        assert!(bytes.starts_with(&image), "a table that is written differently than it was read");
    }
    if let Ok(table) = two_sessions().image().advance(&mut &bytes[..]) {
        let mut image = Vec::new();
        table.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
        SessionTable::restore(&mut &image[..]).unwrap_or_else(|error| panic!("a table that is none: {error}"));
    }
}

fn two_sessions() -> SessionTable {
    let open = SessionCommand::Open { nonce: 0 };
    let mut table = SessionTable::new();
    table.apply(Index(2), &open, |_| Vec::new());
    table.apply(Index(3), &open, |_| Vec::new());
    table
}

pub(super) fn sound_sessions() -> Vec<Vec<u8>> {
    let open = SessionCommand::Open { nonce: 0 };
    let mut table = two_sessions();
    let base = table.image();
    let write = SessionCommand::Write {
        client: ClientId::at(2),
        number: 1,
        lowest_unanswered: 1,
        command: Bytes::from_static(b"a command"),
    };
    table.apply(Index(4), &write, |_| b"its answer".to_vec());
    let (mut image, mut difference) = (Vec::new(), Vec::new());
    table.image().write(&mut image).unwrap_or_else(|error| panic!("{error}"));
    table.image().write_difference(&base, &mut difference).unwrap_or_else(|error| panic!("{error}"));
    vec![image, difference, open.encode().to_vec(), write.encode().to_vec()]
}
