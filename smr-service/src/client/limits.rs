//! The client's own limits. What it keeps to besides, because a service does, is in [`crate::limits`].

use std::time::Duration;

use crate::limits::{CONNECTION_IN_FLIGHT_MAX_BYTES, CONNECTION_REQUESTS_MAX};

/// How far the numbers of a session's requests may lie apart; the servers refuse what lies beyond.
pub const SESSION_WINDOW_MAX: u64 = smr::id::REQUESTS_IN_FLIGHT_MAX;
/// Requests under way in one group. Leaves room for a discovery's questions under the server's limit of a connection.
pub const GROUP_REQUESTS_MAX: usize = CONNECTION_REQUESTS_MAX - 24;
/// Bytes of requests under way in one group; leaves room for frames' headers under the server's limit.
pub const GROUP_IN_FLIGHT_MAX_BYTES: usize = CONNECTION_IN_FLIGHT_MAX_BYTES - (4 << 20);
/// Bytes that wait to be written to one connection; beyond it counts as unreachable. Above what a group may have
/// under way, so only copies of abandoned requests can fill it.
pub const CONNECTION_OUT_MAX_BYTES: usize = 2 * CONNECTION_IN_FLIGHT_MAX_BYTES;
/// After this much silence on a request its replica is suspected, and the others are asked who leads.
pub const SILENCE: Duration = Duration::from_millis(500);
/// After this much silence a request is sent again to a replica that still says it leads.
pub const RESEND_AFTER: Duration = Duration::from_secs(5);
/// In a group whose members all take writes: after this much silence on a copy another one is sent there.
pub const LOST_AFTER: Duration = Duration::from_secs(1);
/// In such a group: how long other copies may be open after one was refused, before the outcome counts as unknown.
pub const REFUSAL_WAIT: Duration = Duration::from_millis(500);
/// In such a group: the shortest and longest pause before another copy goes where one came to nothing.
pub const TO_ALL_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// How long a TCP connection may take to come about.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a server may take to welcome a new connection: longer than one that is busy, and its name may have other
/// addresses.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection on which nothing came for this long, although a request had been written, is given up.
pub const CONNECTION_DEAD: Duration = Duration::from_secs(10);
/// The shortest and longest pause between attempts to connect to one address.
pub const RECONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// Redirects and other failures of one request in a row before it pauses.
pub const REDIRECT_HOPS_MAX: u32 = 4;
/// The shortest and longest of those pauses.
pub const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// After a replica has refused to answer reads in the leader's place, or was silent, it is not asked to for this long.
pub const ASIDE_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause that a `Busy` answer may impose.
pub const BUSY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The shortest and longest time between a discovery's rounds of questions. A killed leader is replaced in tens of
/// milliseconds, so the first rounds are quick; a longer outage does not deserve a storm.
pub const FIND_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(50));
/// Discovery that found no leader for this long says so, once.
pub const FIND_COMPLAIN_AFTER: Duration = Duration::from_secs(2);
/// How long a replica has to describe itself.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests of one connection that ended without its answer, and are remembered: for tracing, and to compare answers.
pub const LATE_MAX: usize = 1024;
/// Queues of events that a group keeps for its next requests, of about 1 KiB each.
pub const IDLE_INBOXES_MAX: usize = 64;

const _: () = assert!(GROUP_REQUESTS_MAX as u64 <= SESSION_WINDOW_MAX);
const _: () = assert!(GROUP_IN_FLIGHT_MAX_BYTES <= u32::MAX as usize);
