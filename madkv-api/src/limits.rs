//! Limits, checked at the front door before anything is replicated.

/// The longest key, in bytes.
pub const KEY_MAX_BYTES: usize = 4 << 10;
/// The longest value, in bytes.
pub const VALUE_MAX_BYTES: usize = 1 << 20;
/// Requests that one connection may have under way; the next ones are answered `Busy`.
pub const CONNECTION_REQUESTS_MAX: usize = 1024;
/// Bytes of requests that one connection may have under way.
pub const CONNECTION_IN_FLIGHT_MAX_BYTES: usize = 16 << 20;
/// SCANs that one connection may have under way, if their answers have parts.
pub const CONNECTION_SCANS_MAX: usize = 16;
/// After ten seconds of waiting in all, a SCAN's client must have taken its answer at this rate, in bytes per second.
pub const SCAN_MIN_BYTES_PER_S: u32 = 1 << 20;
/// Connections that one process accepts from clients.
pub const CONNECTIONS_MAX: usize = 2048;
/// Connections that have not said yet who they are; one more takes the place of another.
pub const STRANGERS_MAX: usize = 128;
/// Bytes of requests and answers of all connections of a server or manager.
pub const TOTAL_MAX_BYTES: usize = 256 << 20;
/// How many bytes one part of a SCAN's answer holds before the next begins.
pub const SCAN_PART_MAX_BYTES: usize = 256 << 10;
/// How long a fresh connection may take to say who it is, in milliseconds.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 2_000;

// A part may exceed its aim by one record, and must still fit into a frame.
const _: () =
    assert!(SCAN_PART_MAX_BYTES + KEY_MAX_BYTES + VALUE_MAX_BYTES + 1024 < smr::codec::FRAME_PAYLOAD_MAX_BYTES);
