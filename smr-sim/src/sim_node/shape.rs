//! What all nodes of a world have in common.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use smr::id::{ClusterId, GroupName, ReplicaId};
use smr::internals::engine::{LogLimits, Portion, UNCOMMITTED_ENTRIES_MAX};
use smr::internals::raft::Settings;
use smr::internals::session::SessionLimits;
use smr::internals::storage::LogEngine;
use smr::internals::turn::{EVENTS_MAX, WRITES_UNDER_WAY_HIGH};

use crate::journal::JOURNAL;
use crate::virtual_map::SIMULATED;

/// A pipeline of one small append at a time carries little more through the slowest disk.
const SLOWED_MIN_BYTES_PER_S: u64 = 200;

/// What all nodes of a world have in common.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many replicas found the group.
    pub size: u16,
    /// How many others may join it later.
    pub spares: u16,
    /// Limits of the cores.
    pub settings: Settings,
    /// When snapshots are taken, by bytes in the log.
    pub snapshot_log_bytes: RangeInclusive<usize>,
    /// What the log that cannot be cut may hold, in bytes.
    pub log_max_bytes: usize,
    /// See [`LogLimits::drain_us`] and [`LogLimits::grace_us`].
    pub log_drain_us: u64,
    /// Entries of a leader that are not committed, at most.
    pub uncommitted_entries_max: u64,
    /// Events that wait for a replica's thread, at most: messages beyond are dropped.
    pub events_max: usize,
    /// With this many writes under way at the disk messages are dropped.
    pub writes_under_way_high: u64,
    /// Limits of the session tables.
    pub sessions: SessionLimits,
    /// What a turn of a replica's thread takes, in microseconds; as much again for each eight things that it takes in.
    pub turn_us: u64,
    /// What is applied in a turn.
    pub portion: Portion,
    /// What applying an entry takes, in microseconds.
    pub apply_us: u64,
    /// What keeps the logs: the record log over a journal file or over a map with sled's manners, or segments.
    pub engine: LogEngine,
}

impl Shape {
    /// A group of `size` with small limits, so that everything that takes megabytes in service happens every second.
    pub fn small(size: u16) -> Shape {
        Shape {
            size,
            spares: 0,
            settings: Settings {
                append_entries_max: 16,
                log_retain_bytes: 1_000,
                log_retain_held_bytes: 300,
                log_retain_sending_bytes: 4_000,
                snapshot_install_us: 2_000_000,
                ..Settings::default()
            },
            snapshot_log_bytes: 5_000..=10_000,
            log_max_bytes: 400_000,
            log_drain_us: 200_000,
            uncommitted_entries_max: UNCOMMITTED_ENTRIES_MAX,
            events_max: EVENTS_MAX,
            writes_under_way_high: WRITES_UNDER_WAY_HIGH,
            sessions: SessionLimits::default(),
            turn_us: 0,
            portion: Portion::default(),
            apply_us: 0,
            engine: JOURNAL,
        }
    }

    pub(super) fn log_limits(&self) -> LogLimits {
        LogLimits {
            snapshot_bytes: self.snapshot_log_bytes.clone(),
            max_bytes: self.log_max_bytes,
            drain_us: self.log_drain_us,
            grace_us: self.log_drain_us,
            slowed_min_bytes_per_s: SLOWED_MIN_BYTES_PER_S,
        }
    }

    /// A group of `size` as in service.
    pub fn production(size: u16) -> Shape {
        use smr::internals::engine::LOG_LIMITS;
        Shape {
            size,
            spares: 0,
            settings: Settings::default(),
            snapshot_log_bytes: LOG_LIMITS.snapshot_bytes,
            log_max_bytes: LOG_LIMITS.max_bytes,
            log_drain_us: LOG_LIMITS.drain_us,
            uncommitted_entries_max: UNCOMMITTED_ENTRIES_MAX,
            events_max: EVENTS_MAX,
            writes_under_way_high: WRITES_UNDER_WAY_HIGH,
            sessions: SessionLimits::default(),
            turn_us: 0,
            portion: Portion::default(),
            apply_us: 0,
            engine: SIMULATED,
        }
    }
}

/// The group's name in every simulation.
pub fn group() -> GroupName {
    GroupName::try_from("g".to_owned()).unwrap_or_else(|error| panic!("{error}"))
}

/// The cluster in every simulation.
pub const CLUSTER: ClusterId = ClusterId(1);

/// What starts need, and all nodes share.
pub(crate) struct Common<S> {
    pub(crate) shape: Shape,
    pub(crate) replicas: BTreeSet<ReplicaId>,
    pub(crate) empty: Box<dyn Fn() -> S + Send>,
    /// Whether the group's genesis has to be recorded before it counts.
    pub(crate) is_recorded: bool,
}
