//! The configuration of a run: which faults happen at all in a run, how often, to how large a group, under what load.
//!
//! Each seed has another one (swarm testing: Groce et al., ISSTA 2012). A run with every fault at once is a poor one:
//! most of them hide each other. So each kind is off in about half of the runs, and some runs are long and nearly
//! quiet. One run in four is concentrated on one thing that hardly ever happens by itself.

use smr::LogEngine;
use smr::internals::engine::{Portion, UNCOMMITTED_ENTRIES_MAX};
use smr::status::ReadMode;

use crate::clients::Pace;
use crate::clock::Clock;
use crate::journal::JOURNAL;
use crate::network::Weather;
use crate::sim_node::Shape;
use crate::sim_rng::SimRng;
use crate::virtual_map::SIMULATED;

/// In this many of a hundred runs reads go by leases ...
const LEASES_PERCENT: u64 = 30;
/// ... and in this many others clocks drift beyond any bound.
const WILD_CLOCKS_PERCENT: u64 = 5;
/// How far, per thousand.
const WILD_DRIFT_PERMILLE: u64 = 300;
/// What a leader may leave uncommitted, and what arrives at once, fits into this many appends, which a pipeline of one
/// append at a time works off within the time that recovery may take, also with the slowest disk.
pub(super) const BACKLOG_APPENDS_MAX: u64 = 60;
/// In this many of a thousand runs each limit of a replica's thread is so small that it is met.
const SMALL_LIMIT_PERMILLE: u64 = 100;
/// In this many of a thousand runs there are slow disks.
const SLOW_DISK_PERMILLE: u64 = 200;
/// In this many of a thousand runs a turn applies little.
const SLOW_APPLY_PERMILLE: u64 = 250;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process is killed.
    Kill,
    /// A machine loses power.
    PowerCut,
    /// All processes are killed, or all machines lose power.
    CrashAll,
    /// A process is stopped and goes on.
    Pause,
    /// A device does nothing for a while.
    HangDisk,
    /// Each sync of a device takes long for seconds, and ends (E21, E22).
    SlowDisk,
    /// All links of a node are cut.
    CutOff,
    /// A node sends and does not hear, or the reverse.
    OneWay,
    /// Each link by itself, each way by itself.
    RandomCuts,
    /// Clients do not reach a node, or its answers do not reach them.
    ClientsCut,
    /// Connections break.
    Resets,
    /// An operator moves the leadership.
    Transfer,
    /// A directory is emptied.
    LoseDirectory,
    /// A file that is compared with others is damaged.
    Damage,
    /// A directory is set back to an earlier state.
    SetBack,
    /// A device fails in a write or a sync, and the process must stop.
    DiskError,
    /// A device is full for a while.
    DiskFull,
    /// A read fails, while the process runs or when it starts.
    ReadError,
    /// The power goes in the middle of a start.
    CrashInStart,
    /// Very many requests at once.
    Flood,
    /// Some lose the leader, and another one restarts again and again. Or the others lose it one by one, and may be
    /// killed and back at once; the leader may be stopped and go on, alone, with their old answers in its buffers. In
    /// runs with leases only.
    Siege,
    /// One leader after the other is cut from some nodes as soon as it leads, and crashes soon after (Figure 8 of the
    /// paper).
    Succession,
    /// A leader is cut off while requests go on reaching it: its log grows by what will never be.
    Stranded,
    /// A leader is cut off; half of the clients turn to others, and half go on asking it.
    Deposed,
    /// A node crashes at the moment of something rare.
    Ambush,
    /// A received snapshot is put in place only when a later leader has sent entries behind it (S2).
    LateInstall,
    /// Replicas join, leave and take each other's place; several changes may be asked for at once (M1 to M5, M11).
    Members,
    /// A node loses its log, whatever it has acknowledged, and heals while the leader changes and others are away
    /// (D18).
    LoseLog,
}

/// What a run may be concentrated on, with how often it happens: up to this many microseconds from one to the next.
const FOCUSES: [(Kind, u64); 8] = [
    (Kind::Succession, 1_500_000),
    (Kind::Succession, 1_500_000),
    (Kind::Stranded, 3_000_000),
    (Kind::Deposed, 2_000_000),
    (Kind::Ambush, 1_000_000),
    (Kind::Ambush, 1_000_000),
    (Kind::Damage, 300_000),
    (Kind::LoseDirectory, 2_000_000),
];

/// As [`FOCUSES`], of what would otherwise be met once in thousands of runs ...
const RAREST: [(Kind, u64); 2] = [(Kind::PowerCut, 400_000), (Kind::LateInstall, 2_500_000)];
/// ... in this many of a thousand.
const RAREST_PERMILLE: u64 = 100;

/// In this many of a thousand runs logs are lost and heal ...
const LOSE_LOG_PERMILLE: u64 = 120;
/// ... up to this many microseconds after each other.
const LOSE_LOG_GAP_US: u64 = 1_500_000;

/// In this many of a thousand runs members change ...
const MEMBERS_PERMILLE: u64 = 150;
/// ... up to this many microseconds after each other.
const MEMBERS_GAP_US: u64 = 600_000;

const KINDS: [(Kind, u64); 19] = [
    (Kind::Kill, 6),
    (Kind::PowerCut, 6),
    (Kind::CrashAll, 1),
    (Kind::Pause, 4),
    (Kind::HangDisk, 2),
    (Kind::CutOff, 4),
    (Kind::OneWay, 3),
    (Kind::RandomCuts, 3),
    (Kind::ClientsCut, 2),
    (Kind::Resets, 3),
    (Kind::Transfer, 3),
    (Kind::LoseDirectory, 2),
    (Kind::Damage, 2),
    (Kind::SetBack, 2),
    (Kind::DiskError, 2),
    (Kind::DiskFull, 1),
    (Kind::ReadError, 2),
    (Kind::CrashInStart, 2),
    (Kind::Flood, 1),
];

/// What one run is made of.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// How many replicas, and their limits.
    pub shape: Shape,
    /// The network.
    pub weather: Weather,
    /// The clients.
    pub pace: Pace,
    /// How long a write takes at most, in microseconds.
    pub disk_us: u64,
    /// What goes wrong, with weights.
    pub kinds: Vec<(Kind, u64)>,
    /// The time between two faults is drawn up to this, in microseconds.
    pub gap_us: u64,
    /// How long faults happen, in microseconds.
    pub chaos_us: u64,
    /// Registers, for the workload of our own.
    pub registers: u8,
    /// How many of a hundred operations are reads.
    pub reads_percent: u64,
    /// Whether every second client only reads.
    pub readers: bool,
    /// Bytes of ballast in each command.
    pub ballast_bytes: usize,
    /// The log may hold as much as is written in this many periods between snapshots. In service there are four.
    pub log_periods: usize,
    /// The machines' clocks, by replica.
    pub clocks: Vec<Clock>,
}

impl SwarmConfig {
    /// The mix of a seed. `size` overrides the group's size.
    pub fn draw(rng: &mut SimRng, size: Option<u16>) -> SwarmConfig {
        let drawn = rng.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 7]);
        let size = size.unwrap_or(drawn);
        let mut shape = Shape::small(size);
        let log_bytes = rng.pick(&[2_000, 5_000, 20_000, 100_000]);
        shape.snapshot_log_bytes = log_bytes..=2 * log_bytes;
        shape.settings.log_retain_bytes = rng.pick(&[0, 1_000, 10_000]);
        shape.settings.log_retain_held_bytes = rng.pick(&[0, 300, usize::MAX]);
        shape.settings.append_entries_max = rng.pick(&[1, 4, 16, 256]);
        shape.settings.inflight_appends_max = rng.pick(&[1, 2, 16, 256]);
        if rng.chance(300) {
            shape.sessions.sessions_max = rng.pick(&[3, 8]);
        }
        if rng.chance(300) {
            shape.sessions.answers_max_bytes = rng.pick(&[400, 2_000]);
        }
        let weather = Weather {
            loss: rng.pick(&[0, 0, 0, 10, 50, 200]),
            doubled: rng.pick(&[0, 10, 100]),
            late: rng.pick(&[0, 0, 20, 100]),
            late_us: rng.pick(&[10_000, 100_000, 1_000_000]),
            replayed: rng.pick(&[0, 1, 10]),
            held: 0,
            least_us: rng.pick(&[50, 50, 500, 20_000]),
            jitter_us: rng.pick(&[10, 1_000, 1_000, 30_000]),
        };
        let pause_max_us = rng.pick(&[2_000, 12_000, 50_000, 200_000]);
        let pace = Pace {
            clients: rng.between(1, 6) as usize,
            window: rng.pick(&[1, 1, 2, 4, 16]),
            pause_min_us: pause_max_us / 10,
            pause_max_us,
            doubled: rng.pick(&[0, 10, 100]),
            given_up: rng.pick(&[0, 0, 5, 50]),
            trusting: rng.pick(&[0, 20, 300]),
        };
        let mut kinds: Vec<(Kind, u64)> = KINDS.iter().copied().filter(|_| rng.chance(450)).collect();
        if kinds.is_empty() {
            kinds.push((Kind::PowerCut, 1));
        }
        shape.turn_us = rng.pick(&[0, 0, 20, 200, 1_000]);
        shape.engine = rng.pick(&[JOURNAL, SIMULATED]);
        let mut config = SwarmConfig {
            shape,
            weather,
            pace,
            disk_us: rng.pick(&[300, 2_000, 2_000, 10_000, 60_000]),
            kinds,
            gap_us: rng.pick(&[50_000, 300_000, 1_000_000, 3_000_000]),
            chaos_us: rng.between(4_000_000, 18_000_000),
            registers: rng.pick(&[1, 2, 5]),
            reads_percent: rng.pick(&[10, 50, 80]),
            readers: false,
            ballast_bytes: rng.pick(&[0, 0, 100, 1_000]),
            log_periods: 4,
            clocks: vec![Clock::TRUE; usize::from(size)],
        };
        if rng.chance(250) {
            config.concentrate(rng);
        }
        config.draw_clocks(rng);
        // Last, so that the other mixes are what they were before there was this engine.
        if rng.below(3) == 1 {
            config.shape.engine = LogEngine::Segments;
        }
        // Likewise. There is room for what all members of a group say at the same time, and for a little pipeline.
        if rng.chance(SMALL_LIMIT_PERMILLE) {
            config.shape.writes_under_way_high = rng.pick(&[8, 32, 128]);
        }
        if rng.chance(SMALL_LIMIT_PERMILLE) {
            config.shape.events_max = rng.pick(&[16, 64, 256]);
        }
        if rng.chance(RAREST_PERMILLE) {
            config.concentrate_on_rarest(rng);
        }
        if rng.chance(SLOW_DISK_PERMILLE) {
            config.kinds.push((Kind::SlowDisk, 4));
        }
        // Likewise. A turn applies so little that reads are confirmed, leaders elected and snapshots taken in the
        // middle of a backlog.
        if rng.chance(SLOW_APPLY_PERMILLE) {
            let (entries_max, max_bytes) = rng.pick(&[(1, 1), (2, 1_000), (8, 1_000), (64, 100_000)]);
            config.shape.portion = Portion { entries_max, max_bytes };
            config.shape.apply_us = rng.pick(&[0, 50, 300]);
            config.shape.turn_us = config.shape.turn_us.max(rng.pick(&[20, 200]));
        }
        // Likewise.
        if rng.chance(LOSE_LOG_PERMILLE) {
            config.kinds.push((Kind::LoseLog, 20));
            config.gap_us = config.gap_us.min(LOSE_LOG_GAP_US);
        }
        config.log_periods = rng.pick(&[4, 4, 40]);
        // Likewise.
        if rng.chance(MEMBERS_PERMILLE) {
            config.change_members(rng);
        }
        config.fit();
        config
    }

    /// Limits that follow from what was drawn.
    fn fit(&mut self) {
        self.shape.log_max_bytes = self.log_periods * self.shape.snapshot_log_bytes.end();
        // A group whose leaders are cut off one after the other gets copies of what clients want from each of them.
        let backlog_max = BACKLOG_APPENDS_MAX * self.pipeline_entries();
        self.shape.uncommitted_entries_max = UNCOMMITTED_ENTRIES_MAX.min(backlog_max);
    }

    /// Whether members come and go.
    pub fn changes_members(&self) -> bool {
        self.kinds.iter().any(|(kind, _)| *kind == Kind::Members)
    }

    /// Members come and go, some of them from outside of those who found the group. What may be lost at the same time
    /// is judged for whole directories only (`fault_injector/member_changes.rs`).
    fn change_members(&mut self, rng: &mut SimRng) {
        self.kinds.retain(|(kind, _)| !matches!(kind, Kind::Damage | Kind::SetBack | Kind::LoseLog));
        self.kinds.push((Kind::Members, 20));
        self.gap_us = self.gap_us.min(MEMBERS_GAP_US);
        self.shape.spares = rng.pick(&[0, 1, 2, 2]);
        self.clocks.resize(self.clocks.len() + usize::from(self.shape.spares), Clock::TRUE);
    }

    /// As [`SwarmConfig::concentrate`], on one of [`RAREST`].
    fn concentrate_on_rarest(&mut self, rng: &mut SimRng) {
        let (kind, gap_us) = rng.pick(&RAREST);
        self.kinds.retain(|_| rng.chance(200));
        self.kinds.push((kind, 40));
        self.gap_us = gap_us;
        let settings = &mut self.shape.settings;
        match kind {
            Kind::PowerCut => {
                // Records of several blocks, so that some are on the device in part (D2).
                self.shape.engine = LogEngine::Segments;
                (settings.append_entries_max, self.ballast_bytes, self.disk_us) = (256, 1_000, 10_000);
                (self.pace.clients, self.pace.window, self.pace.pause_max_us) = (5, 16, 2_000);
                self.reads_percent = 10;
            }
            // Whoever was away for a moment needs a snapshot.
            _ => {
                self.shape.snapshot_log_bytes = 8_000..=16_000;
                settings.log_retain_bytes = 0;
                (self.ballast_bytes, self.pace.pause_max_us) = (100, self.pace.pause_max_us.min(12_000));
                (self.pace.clients, self.reads_percent) = (self.pace.clients.max(3), self.reads_percent.min(50));
                self.disk_us = self.disk_us.min(2_000);
            }
        }
        self.pace.pause_min_us = self.pace.pause_min_us.min(self.pace.pause_max_us);
    }

    /// One thing happens again and again, and others hardly.
    fn concentrate(&mut self, rng: &mut SimRng) {
        let (kind, gap_us) = rng.pick(&FOCUSES);
        self.kinds.retain(|_| rng.chance(200));
        self.kinds.push((kind, 40));
        self.gap_us = gap_us;
        let settings = &mut self.shape.settings;
        match kind {
            Kind::Succession => {
                // Entry by entry, so that a majority may have one and not the next.
                settings.append_entries_max = rng.pick(&[1, 1, 4, 16]);
                self.weather.held = rng.pick(&[0, 100, 400]);
                // Each leader gets a copy of whatever the one before left open.
                (self.pace.clients, self.pace.window) = (self.pace.clients.min(3), self.pace.window.min(2));
                let narrow = settings.append_entries_max * settings.inflight_appends_max < 16;
                self.disk_us = rng.pick(if narrow { &[300, 2_000] } else { &[300, 10_000, 60_000] });
            }
            Kind::Stranded => {
                settings.append_entries_max = settings.append_entries_max.max(4);
                settings.inflight_appends_max = settings.inflight_appends_max.max(4);
            }
            Kind::Deposed => {
                (self.pace.clients, self.pace.window) = (self.pace.clients.max(3), self.pace.window.max(2));
                // Writes hang at a leader that is cut off, and with them whoever waits for them; a reader goes on.
                (self.registers, self.reads_percent, self.readers) = (1, 30, true);
                self.pace.pause_max_us = self.pace.pause_max_us.min(50_000);
            }
            Kind::LoseDirectory => {
                // What happens to a group that readmits someone.
                self.kinds.extend([(Kind::Kill, 20), (Kind::Transfer, 20)]);
                self.weather.held = rng.pick(&[0, 100]);
            }
            Kind::Ambush => {
                // Whoever was away for a moment needs a snapshot.
                self.shape.snapshot_log_bytes = 2_000..=4_000;
                settings.log_retain_bytes = 0;
                (self.ballast_bytes, self.pace.pause_max_us) = (100, self.pace.pause_max_us.min(12_000));
                self.disk_us = self.disk_us.min(2_000);
            }
            Kind::Damage => {
                // Only a node that the others can do without is damaged: so there must be moments without work.
                (self.pace.clients, self.pace.window) = (1, 1);
                (self.pace.pause_min_us, self.pace.pause_max_us) = (20_000, 200_000);
                self.weather = Weather::calm();
                self.disk_us = self.disk_us.min(2_000);
            }
            _ => {}
        }
        self.pace.pause_min_us = self.pace.pause_min_us.min(self.pace.pause_max_us);
    }

    /// Some runs read under leases, with clocks that differ as much as they may. Some others have clocks that differ by
    /// far more, and read without leases, which must not depend on them (R7).
    fn draw_clocks(&mut self, rng: &mut SimRng) {
        let lot = rng.below(100);
        let drift_permille = if lot < LEASES_PERCENT {
            let settings = &mut self.shape.settings;
            settings.reads = ReadMode::Lease;
            settings.lease_us = rng.pick(&[150_000, 300_000, 300_000, settings.election_timeout_us]);
            settings.clock_drift_permille = rng.pick(&[0, 10, 100, 300]);
            // What can go wrong with leases: one who goes on where it was stopped, is cut off, comes back at once,
            // hands over.
            self.kinds.push((Kind::Siege, 8));
            for kind in [(Kind::Pause, 6), (Kind::CutOff, 4), (Kind::Kill, 6), (Kind::Transfer, 3), (Kind::Resets, 3)] {
                if rng.chance(500) && !self.kinds.contains(&kind) {
                    self.kinds.push(kind);
                }
            }
            settings.clock_drift_permille
        } else if lot < LEASES_PERCENT + WILD_CLOCKS_PERCENT {
            WILD_DRIFT_PERMILLE
        } else {
            return;
        };
        for clock in &mut self.clocks {
            // The bound is about the fastest and the slowest.
            let faster_permille = rng.between(0, drift_permille + 1);
            clock.rate_permille = 1000 + rng.pick(&[0, drift_permille, faster_permille]);
            clock.origin_us = rng.pick(&[0, 1_000_000, 1 << 40]);
        }
    }

    /// How many entries a pipeline to a member carries at once: of what is too much for that one, the rest is dropped
    /// there.
    fn pipeline_entries(&self) -> u64 {
        let Shape { settings, events_max, writes_under_way_high, .. } = &self.shape;
        let appends = (settings.inflight_appends_max.min(*events_max) as u64).min(*writes_under_way_high);
        settings.append_entries_max as u64 * appends
    }
}
