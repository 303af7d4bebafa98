//! How fast the parts of a replica are, now and normally, and which replica is a slow one.
//!
//! A replica that fails slowly answers everything, late: no timeout finds it. So each process keeps, second by second,
//! what its parts take ([`Metric`]), what they take now and what they took before ([`Measure`]), and tells whoever asks
//! ([`PaceReport`]). No replica can judge itself: with more load everything takes longer, everywhere. Whoever has the
//! reports of a group compares each replica with its own normal and with the others ([`judge()`]).
//!
//! | metric | what is measured |
//! |---|---|
//! | `cpu` | by how much the process wakes up later than it wanted to, ten times a second |
//! | `sync` | one batch of writes, until the device has it |
//! | `apply` | one entry, applied to the state |
//! | `network` | a ping to another replica's process and its answer, once a second |
//! | `queue` | a question to the replica, until it has had its turn, once a second |
//! | `cpu_used`, `memory`, `disk_read`, `disk_written` | what the kernel says of the process; shown, not judged |

mod judge;
#[cfg(feature = "serve")]
mod keeper;
#[cfg(feature = "serve")]
mod window;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smr::codec;

pub use self::judge::{ALWAYS_FACTOR, FACTOR, Finding, judge};
#[cfg(feature = "serve")]
pub use self::keeper::Pace;

/// For how many seconds what is said to be so *now* is looked at.
pub const PRESENT_SECONDS: usize = 5;
/// Fewer of these seconds with something to measure say nothing. So whoever is slow now was so for most of them.
pub const PRESENT_SECONDS_MIN: usize = 3;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// By how much the process wakes up too late, in microseconds.
    Cpu,
    /// A batch of writes with its sync, in microseconds.
    Sync,
    /// Applying an entry, in microseconds.
    Apply,
    /// A round trip to another replica's process, in microseconds.
    Network,
    /// A question to the replica through its own queue, in microseconds.
    Queue,
    /// Thousandths of one processor that the process uses.
    CpuUsed,
    /// Memory in use, in bytes.
    Memory,
    /// Read from disks, in bytes per second.
    DiskRead,
    /// Written to disks, in bytes per second.
    DiskWritten,
}

impl Metric {
    /// All of them, those that are judged first, in the order in which one explains another: without a processor
    /// everything is slow.
    pub const ALL: [Metric; 9] = [
        Metric::Cpu,
        Metric::Sync,
        Metric::Apply,
        Metric::Network,
        Metric::Queue,
        Metric::CpuUsed,
        Metric::Memory,
        Metric::DiskRead,
        Metric::DiskWritten,
    ];

    /// Its name, for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cpu => "cpu",
            Metric::Sync => "sync",
            Metric::Apply => "apply",
            Metric::Network => "network",
            Metric::Queue => "queue",
            Metric::CpuUsed => "cpu_used",
            Metric::Memory => "memory",
            Metric::DiskRead => "disk_read",
            Metric::DiskWritten => "disk_written",
        }
    }

    /// What its numbers count.
    pub fn unit(self) -> &'static str {
        match self {
            Metric::CpuUsed => "permille",
            Metric::Memory => "bytes",
            Metric::DiskRead | Metric::DiskWritten => "bytes/s",
            _ => "us",
        }
    }

    /// Whether it is a duration.
    pub fn is_duration(self) -> bool {
        self.unit() == "us"
    }

    /// Its number on the wire. None is ever used again for another one.
    fn code(self) -> u8 {
        match self {
            Metric::Cpu => 1,
            Metric::Sync => 2,
            Metric::Apply => 3,
            Metric::Network => 4,
            Metric::Queue => 5,
            Metric::CpuUsed => 6,
            Metric::Memory => 7,
            Metric::DiskRead => 8,
            Metric::DiskWritten => 9,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What something takes, in the metric's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// On average: of the seconds that it is taken from, that in the middle if it is the present level, that at the
    /// lower quarter if it is the normal one. So neither an outlier nor a fault of some minutes makes it.
    pub average: u64,
    /// The least that was seen.
    pub min: u64,
    /// The most that was seen.
    pub max: u64,
}

/// One metric of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// What was measured.
    pub metric: Metric,
    /// For [`Metric::Network`], the replica at the other end.
    pub peer: Option<u16>,
    /// What it was before, as far as is remembered: two hours. `None` in the beginning.
    pub normal: Option<Level>,
    /// What it is now. `None` if there is nothing to measure: no writes, no connection.
    pub present: Option<Level>,
}

/// What one replica says of its pace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PaceReport {
    /// Whether it leads its group.
    pub leads: bool,
    /// Whether it leaves leading to others as long as they can, because it has found its own disk to be slow.
    pub stands_back: bool,
    /// For how long it has measured, in seconds.
    pub watched_s: u32,
    /// What it has measured, by metric and peer.
    pub measures: Vec<Measure>,
}

/// The shape on the wire stays as it is. A metric that is not known is passed over, and so is what stands in `later`.
#[derive(Serialize, Deserialize)]
struct WireReport {
    leads: bool,
    stands_back: bool,
    watched_s: u32,
    measures: Vec<WireMeasure>,
    later: Bytes,
}

/// A metric by its number, its peer, its normal and its present level.
type WireMeasure = (u8, Option<u16>, Option<Level>, Option<Level>);

impl PaceReport {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let measures = self.measures.iter().map(|one| (one.metric.code(), one.peer, one.normal, one.present)).collect();
        let PaceReport { leads, stands_back, watched_s, .. } = *self;
        codec::encode(&WireReport { leads, stands_back, watched_s, measures, later: Bytes::new() }).into()
    }

    /// From bytes.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<PaceReport, String> {
        let wire: WireReport = codec::decode(bytes).map_err(|error| format!("no report of a pace: {error}"))?;
        let WireReport { leads, stands_back, watched_s, measures, later: _ } = wire;
        let measures = measures.into_iter().filter_map(|(code, peer, normal, present)| {
            let metric = Metric::ALL.into_iter().find(|metric| metric.code() == code)?;
            Some(Measure { metric, peer, normal, present })
        });
        Ok(PaceReport { leads, stands_back, watched_s, measures: measures.collect() })
    }

    /// A metric that has no peer.
    pub fn of(&self, metric: Metric) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.metric == metric && measure.peer.is_none())
    }

    /// The round trips to a peer.
    pub fn network_to(&self, peer: u16) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.metric == Metric::Network && measure.peer == Some(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVEL: Level = Level { average: 3, min: 1, max: 9 };

    #[test]
    fn report_comes_back_and_an_unknown_metric_is_passed_over() {
        let measures = Metric::ALL.map(|metric| Measure { metric, peer: None, normal: None, present: Some(LEVEL) });
        let report = PaceReport { leads: true, stands_back: true, watched_s: 7, measures: measures.to_vec() };
        assert_eq!(PaceReport::decode(&report.encode()), Ok(report.clone()));
        let newer = WireReport {
            leads: false,
            stands_back: false,
            watched_s: 1,
            measures: vec![(99, None, None, None), (2, Some(4), Some(LEVEL), None)],
            later: Bytes::from_static(b"more"),
        };
        let known = PaceReport::decode(&codec::encode(&newer)).unwrap();
        let sync = Measure { metric: Metric::Sync, peer: Some(4), normal: Some(LEVEL), present: None };
        assert_eq!(known.measures, [sync]);
        assert!(PaceReport::decode(b"x").is_err());
    }

    #[test]
    fn codes_and_names_of_metrics_are_told_apart() {
        for (one, other) in Metric::ALL.iter().zip(&Metric::ALL[1..]) {
            assert!(one.code() < other.code() && one.name() != other.name() && one < other);
        }
    }
}
