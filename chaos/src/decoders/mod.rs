//! Everything that reads bytes from outside, as one function of bytes each: for the property tests in
//! `tests/decoders.rs` and, the same ones, for the `cargo fuzz` targets in `fuzz/` (fault catalogue B1, B2, D11, G6).
//!
//! An entry must take any bytes: it may find an error or a value, but not panic, not believe a length before its bytes
//! are there, and not take more than linear time. Each comes with sound bytes to start from.

mod clients;
mod directory;
mod log_records;
mod sessions;
mod snapshots;
mod wire;

use serde::de::DeserializeOwned;
use smr::codec;

use self::clients::{
    assignment_file, client_frames, history_file, manager_commands, map_commands, sound_assignment_file,
    sound_client_frames, sound_history_file, sound_manager_commands, sound_map_commands, sound_text_lines, text_lines,
};
use self::directory::{HARD_STATE, JOURNAL, QUARANTINE, WATERMARK, open_with, sound_file, sound_quarantine};
use self::log_records::{log_records, sound_log_records};
use self::sessions::{sessions, sound_sessions};
use self::snapshots::{snapshot_file, snapshot_transfer, sound_snapshot_file, sound_snapshot_transfer};
use self::wire::{frames, peer_messages, sound_frames, sound_peer_messages, sound_stored_values, stored_values};

/// Something that reads bytes from outside.
#[derive(Clone, Copy)]
pub struct Decoder {
    /// Its name; that of its fuzz target too.
    pub name: &'static str,
    /// Reads bytes. Whatever they are, it returns.
    pub run: fn(&[u8]),
    /// Sound bytes.
    pub sound: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const ALL: [Decoder; 17] = [
    Decoder { name: "frames", run: frames, sound: sound_frames },
    Decoder { name: "peer_messages", run: peer_messages, sound: sound_peer_messages },
    Decoder { name: "stored_values", run: stored_values, sound: sound_stored_values },
    Decoder { name: "hard_state_file", run: |bytes| open_with(HARD_STATE, bytes), sound: || sound_file(HARD_STATE) },
    Decoder { name: "watermark_file", run: |bytes| open_with(WATERMARK, bytes), sound: || sound_file(WATERMARK) },
    Decoder { name: "journal_file", run: |bytes| open_with(JOURNAL, bytes), sound: || sound_file(JOURNAL) },
    Decoder { name: "quarantine_file", run: |bytes| open_with(QUARANTINE, bytes), sound: sound_quarantine },
    Decoder { name: "log_records", run: log_records, sound: sound_log_records },
    Decoder { name: "snapshot_file", run: snapshot_file, sound: sound_snapshot_file },
    Decoder { name: "snapshot_transfer", run: snapshot_transfer, sound: sound_snapshot_transfer },
    Decoder { name: "sessions", run: sessions, sound: sound_sessions },
    Decoder { name: "client_frames", run: client_frames, sound: sound_client_frames },
    Decoder { name: "map_commands", run: map_commands, sound: sound_map_commands },
    Decoder { name: "manager_commands", run: manager_commands, sound: sound_manager_commands },
    Decoder { name: "assignment_file", run: assignment_file, sound: sound_assignment_file },
    Decoder { name: "text_lines", run: text_lines, sound: sound_text_lines },
    Decoder { name: "history_file", run: history_file, sound: sound_history_file },
];

/// Runs the decoder of this name.
///
/// # Panics
/// If there is none.
pub fn run(name: &str, bytes: &[u8]) {
    let decoder = ALL.iter().find(|decoder| decoder.name == name);
    decoder.unwrap_or_else(|| panic!("no decoder {name}")).run_on(bytes);
}

impl Decoder {
    /// Reads bytes.
    pub fn run_on(&self, bytes: &[u8]) {
        (self.run)(bytes);
    }
}

/// A value that was decoded is no longer than what it came from (a set may have been written in another order, or with
/// doubles), and once encoded it stays as it is.
fn decode<T: DeserializeOwned + serde::Serialize>(bytes: &[u8]) {
    let Ok(value) = codec::decode::<T>(bytes) else { return };
    let encoded = codec::encode(&value);
    assert!(encoded.len() <= bytes.len(), "{} bytes became {}", bytes.len(), encoded.len());
    let again: T = codec::decode(&encoded).unwrap_or_else(|error| panic!("what was encoded: {error}"));
    assert!(codec::encode(&again) == encoded, "{} bytes are encoded in two ways", bytes.len());
}
