//! Limits of keys and values, checked before anything is replicated. Those of connections are
//! [`smr_service::limits`].

use std::time::Duration;

use smr_service::limits::{
    CONNECTION_IN_FLIGHT_MAX_BYTES, CONNECTION_REQUESTS_MAX, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT_MS,
};

/// The longest key, in bytes.
pub const KEY_MAX_BYTES: usize = 4 << 10;
/// The longest value, in bytes.
pub const VALUE_MAX_BYTES: usize = 1 << 20;
/// How many bytes one part of a SCAN's answer holds before the next begins.
pub const SCAN_PART_MAX_BYTES: usize = 256 << 10;
/// The longest line of the line protocol, in bytes: a key, a value, and room for words and separators.
pub const LINE_MAX_BYTES: usize = KEY_MAX_BYTES + VALUE_MAX_BYTES + (64 << 10);

// A part may exceed its aim by one record, and must still fit into a frame.
const _: () =
    assert!(SCAN_PART_MAX_BYTES + KEY_MAX_BYTES + VALUE_MAX_BYTES + 1024 < smr::codec::FRAME_PAYLOAD_MAX_BYTES);

/// The limits, for `--help`.
pub fn help() -> String {
    let handshake = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    format!(
        "Limits: key {KEY_MAX_BYTES} bytes, value {VALUE_MAX_BYTES} bytes, {CONNECTION_REQUESTS_MAX} requests and \
         {CONNECTION_IN_FLIGHT_MAX_BYTES} bytes under way per connection, {CONNECTIONS_MAX} connections, \
         handshake within {handshake:?}, parts of a SCAN {SCAN_PART_MAX_BYTES} bytes.",
    )
}
