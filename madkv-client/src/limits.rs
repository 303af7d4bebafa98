//! The client's own limits. Those of keys and values are [`madkv_proto::limits`].

use std::time::Duration;

use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};

pub use smr_service::client::limits::*;

/// How long one manager has to answer before the next is asked as well.
pub const MANAGER_HEDGE: Duration = Duration::from_millis(100);
/// The shortest and longest pause between rounds over all managers.
pub const MANAGER_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// The shortest and longest pause before a client that has a map looks for a newer one.
pub const MAP_LOOK: (Duration, Duration) = (Duration::from_millis(800), Duration::from_millis(1_200));
/// The shortest and longest pause before a request goes again to a partition that has sent it elsewhere, while no newer
/// map says where.
pub const MOVED_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// The pause before an operator's client looks again whether a change of a group has ended.
pub const CHANGE_LOOK: Duration = Duration::from_millis(100);

const _: () = assert!(KEY_MAX_BYTES + VALUE_MAX_BYTES < GROUP_IN_FLIGHT_MAX_BYTES);
