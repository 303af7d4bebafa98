//! What a run of such a group is made of, drawn from its seed.

use std::ops::RangeInclusive;

use smr::epoch::EpochKind;
use smr::internals::configured::Settings;
use smr::internals::engine::{LogLimits, Portion};
use smr::internals::storage::LogEngine;
use smr::status::ReadMode;

use super::service::ServicePace;
use crate::clients::{Habits, Pace};
use crate::clock::Clock;
use crate::journal::JOURNAL;
use crate::network::Weather;
use crate::sim_rng::SimRng;
use crate::virtual_map::SIMULATED;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process is killed.
    Kill,
    /// A machine loses its power, and what was not synced may be gone.
    PowerCut,
    /// All machines do.
    CrashAll,
    /// The first is killed or loses its power, and is back at once or later (K9, K18).
    CrashFirst,
    /// A process is stopped for up to several leases (K11).
    Pause,
    /// The first, or another member that clients read at, is stopped and loses its links (K2).
    PauseCutOff,
    /// A disk hangs.
    HangDisk,
    /// A machine is cut off from the others, and perhaps from the service (K16).
    CutOff,
    /// Two machines do not hear each other.
    CutPair,
    /// A link carries nothing in one direction.
    OneWay,
    /// A machine does not reach the service (K16).
    CutService,
    /// The clients do not reach a machine, or the other way round.
    CutClients,
    /// A connection breaks and is made again.
    Reset,
    /// A directory is emptied (K7, K17).
    Empty,
    /// The service is without a leader for a while; what it was about to decide may be lost (K8).
    FailOver,
    /// The leader of the service is stopped, and answers late.
    ServiceStops,
}

const KINDS: [(Kind, u64); 16] = [
    (Kind::Kill, 6),
    (Kind::PowerCut, 6),
    (Kind::CrashAll, 1),
    (Kind::CrashFirst, 4),
    (Kind::Pause, 5),
    (Kind::PauseCutOff, 5),
    (Kind::HangDisk, 2),
    (Kind::CutOff, 4),
    (Kind::CutPair, 4),
    (Kind::OneWay, 3),
    (Kind::CutService, 3),
    (Kind::CutClients, 1),
    (Kind::Reset, 2),
    (Kind::Empty, 3),
    (Kind::FailOver, 3),
    (Kind::ServiceStops, 2),
];

/// What one run is made of.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// How many replicas found the group.
    pub size: u16,
    /// How many others join it later.
    pub spares: u16,
    /// Limits and intervals of the cores; the kind of the group.
    pub settings: Settings,
    /// What keeps the logs.
    pub engine: LogEngine,
    /// When snapshots are taken, by bytes in the log.
    pub snapshot_log_bytes: RangeInclusive<usize>,
    /// What is applied in a turn.
    pub portion: Portion,
    /// The network.
    pub weather: Weather,
    /// The clients.
    pub pace: Pace,
    /// Whom they ask.
    pub habits: Habits,
    /// How long a write takes at most, in microseconds.
    pub disk_us: u64,
    /// How long a checkpoint, or a part of it, takes at most to be made or built, in microseconds.
    pub checkpoint_work_us: u64,
    /// The configuration service.
    pub service: ServicePace,
    /// What goes wrong, with weights.
    pub kinds: Vec<(Kind, u64)>,
    /// The time between two faults is drawn up to this, in microseconds.
    pub gap_us: u64,
    /// How long faults happen, in microseconds.
    pub chaos_us: u64,
    /// Registers of the workload.
    pub registers: u8,
    /// How many of a hundred operations are reads.
    pub reads_percent: u64,
    /// Whether every second client only reads.
    pub readers: bool,
    /// Bytes of ballast in each command.
    pub ballast_bytes: usize,
    /// The machines' clocks, by replica.
    pub clocks: Vec<Clock>,
}

impl SwarmConfig {
    /// The mix of a seed. `kind` and `size` override what it says.
    pub fn draw(rng: &mut SimRng, kind: Option<EpochKind>, size: Option<u16>) -> SwarmConfig {
        let drawn_kind = rng.pick(&[EpochKind::Chain, EpochKind::Active, EpochKind::Passive]);
        let drawn_size = rng.pick(&[1, 2, 2, 2, 3, 3, 3, 4, 5]);
        let (kind, size) = (kind.unwrap_or(drawn_kind), size.unwrap_or(drawn_size));
        let spares = rng.pick(&[0, 1, 1]);
        let drift_permille = rng.pick(&[0, 10, 10, 100, 300]);
        let log_bytes = rng.pick(&[2_000, 5_000, 20_000, 100_000]);
        let settings = Settings {
            kind,
            append_entries_max: rng.pick(&[1, 4, 16, 256]),
            inflight_appends_max: rng.pick(&[1, 2, 16, 256]),
            log_retain_bytes: rng.pick(&[0, 1_000, 10_000]),
            level_us: rng.pick(&[100_000, 300_000]),
            reads: rng.pick(&[ReadMode::Lease, ReadMode::Lease, ReadMode::Index]),
            clock_drift_permille: drift_permille,
            checkpoint_us: rng.pick(&[20_000, 200_000, 1_000_000]),
            checkpoint_entries_max: rng.pick(&[5, 50, 20_000]),
            ..Settings::default()
        };
        let weather = Weather {
            loss: rng.pick(&[0, 0, 0, 10, 50]),
            doubled: rng.pick(&[0, 10, 100]),
            late: rng.pick(&[0, 0, 20, 100]),
            late_us: rng.pick(&[10_000, 100_000, 1_000_000]),
            replayed: rng.pick(&[0, 1, 10]),
            held: 0,
            least_us: rng.pick(&[50, 50, 500, 10_000]),
            jitter_us: rng.pick(&[10, 1_000, 1_000, 20_000]),
        };
        let pause_max_us = rng.pick(&[2_000, 12_000, 50_000]);
        let pace = Pace {
            clients: rng.between(2, 6) as usize,
            window: rng.pick(&[1, 1, 2, 4, 16]),
            pause_min_us: pause_max_us / 10,
            pause_max_us,
            doubled: rng.pick(&[0, 10, 100]),
            given_up: rng.pick(&[0, 0, 5, 50]),
            trusting: rng.pick(&[0, 20, 300]),
        };
        let habits = Habits {
            reads_anywhere: kind.all_apply() && rng.chance(850),
            writes_everywhere: kind == EpochKind::Active && rng.chance(500),
            reads_at: None,
        };
        let mut kinds: Vec<(Kind, u64)> = KINDS.iter().copied().filter(|_| rng.chance(450)).collect();
        if kinds.is_empty() {
            kinds.push((Kind::CrashFirst, 1));
        }
        let mut clocks = Vec::new();
        for _ in 0..size + spares {
            let between_permille = rng.between(0, drift_permille);
            let faster_permille = rng.pick(&[0, drift_permille, between_permille]);
            clocks
                .push(Clock { origin_us: rng.pick(&[0, 1_000_000, 1 << 40]), rate_permille: 1_000 + faster_permille });
        }
        SwarmConfig {
            size,
            spares,
            settings,
            engine: rng.pick(&[JOURNAL, SIMULATED, LogEngine::Segments]),
            snapshot_log_bytes: log_bytes..=2 * log_bytes,
            portion: if rng.chance(200) { Portion { entries_max: 2, max_bytes: 1_000 } } else { Portion::default() },
            weather,
            pace,
            habits,
            disk_us: rng.pick(&[300, 2_000, 2_000, 10_000, 40_000]),
            checkpoint_work_us: rng.pick(&[1_000, 20_000, 300_000]),
            service: ServicePace::draw(rng, drift_permille),
            kinds,
            gap_us: rng.pick(&[50_000, 300_000, 1_000_000, 3_000_000]),
            chaos_us: rng.between(3_000_000, 14_000_000),
            registers: rng.pick(&[1, 2, 5]),
            reads_percent: rng.pick(&[10, 50, 80]),
            readers: rng.chance(300),
            ballast_bytes: rng.pick(&[0, 0, 100, 1_000]),
            clocks,
        }
    }

    /// How many machines there are.
    pub fn machines(&self) -> u16 {
        self.size + self.spares
    }

    pub(super) fn log_limits(&self) -> LogLimits {
        LogLimits {
            snapshot_bytes: self.snapshot_log_bytes.clone(),
            max_bytes: 40 * self.snapshot_log_bytes.end(),
            drain_us: 200_000,
            grace_us: 200_000,
            slowed_min_bytes_per_s: 200,
        }
    }
}
