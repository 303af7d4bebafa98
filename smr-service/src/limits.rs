//! Limits of connections between clients and services, kept by the listener before anything is replicated.

/// The most replicas of a group.
pub const REPLICAS_MAX: usize = 9;
/// Requests that one connection may have under way; the next ones are answered `Busy`.
pub const CONNECTION_REQUESTS_MAX: usize = 1024;
/// Bytes of requests that one connection may have under way.
pub const CONNECTION_IN_FLIGHT_MAX_BYTES: usize = 16 << 20;
/// Long answers (of SCANs) that one connection may have under way.
pub const CONNECTION_SCANS_MAX: usize = 16;
/// After ten seconds of waiting in all, a SCAN's client must have taken its answer at this rate, in bytes per second.
pub const SCAN_MIN_BYTES_PER_S: u32 = 1 << 20;
/// Connections that one process accepts from clients.
pub const CONNECTIONS_MAX: usize = 2048;
/// Connections that have not said yet who they are; one more takes the place of another.
pub const STRANGERS_MAX: usize = 128;
/// Bytes of requests and answers of all connections of a server or manager.
pub const TOTAL_MAX_BYTES: usize = 256 << 20;
/// How long a fresh connection may take to say who it is, in milliseconds.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 2_000;
