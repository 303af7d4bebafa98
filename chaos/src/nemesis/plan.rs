//! What is to happen when: drawn from the seed, before anything runs.
//!
//! A run is a row of *rounds*. Each round has a mix of its own (swarm testing: a few kinds of faults at a time find
//! what all of them together hide), and ends with a recovery check. The seed decides the faults, their times and
//! lengths, and the random choices within each. It does not decide who leads at that moment, nor how fast the machine
//! is: a seed gives the same bad day, not the same trace.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use madkv_testkit::cluster::{Group, Shape};

/// A family of faults, as `--faults` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// kill -9 and restart.
    Kill,
    /// SIGSTOP and SIGCONT.
    Stop,
    /// The network between nodes, and before clients.
    Net,
    /// An emptied directory; the replica is readmitted.
    Dir,
    /// A full disk.
    Disk,
    /// SIGTERM and restart.
    Term,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] = [Kind::Kill, Kind::Stop, Kind::Net, Kind::Dir, Kind::Disk, Kind::Term];

    /// How often it is drawn. Families with many faults more often, but not as often as they have faults.
    fn weight(self) -> u32 {
        match self {
            Kind::Net => 6,
            Kind::Kill => 3,
            Kind::Stop => 2,
            Kind::Dir | Kind::Disk | Kind::Term => 1,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Kill => "kill",
            Kind::Stop => "stop",
            Kind::Net => "net",
            Kind::Dir => "dir",
            Kind::Disk => "disk",
            Kind::Term => "term",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let known = || Kind::ALL.map(|kind| kind.to_string()).join(", ");
        Kind::ALL
            .into_iter()
            .find(|kind| kind.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no kind of fault; there are {}", known()))
    }
}

/// A fault. Those of one group name no replicas: who leads is seen when the time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// kill -9 of the leader.
    KillLeader,
    /// kill -9 of a follower.
    KillFollower,
    /// kill -9 of as many as may fail, the leader among them.
    KillMinority,
    /// kill -9 of one more than may fail.
    KillMajority,
    /// kill -9 of the whole group at the same instant.
    KillGroup,
    /// kill -9 of everything at the same instant.
    KillCluster,
    /// kill -9 and restart of one replica, several times with hardly a pause: it dies while it recovers.
    KillRepeatedly,
    /// SIGSTOP of the leader.
    StopLeader,
    /// SIGSTOP of a follower.
    StopFollower,
    /// SIGSTOP of as many as may fail.
    StopMinority,
    /// SIGSTOP of the whole group.
    StopGroup,
    /// SIGSTOP of the leader by turns with SIGCONT, faster than anyone can be sure that it is gone.
    StopStutter,
    /// SIGTERM of the leader.
    TerminateLeader,
    /// SIGTERM of one replica after the other.
    RollingRestart,
    /// A follower is killed and its directory emptied; it is readmitted.
    EmptyDirectory,
    /// The file system of one replica is full.
    FillDisk,
    /// The leader hears no one and no one hears it.
    IsolateLeader,
    /// So does a follower.
    IsolateFollower,
    /// As many as may fail on one side, the rest on the other; the leader with the fewer.
    Halves,
    /// Each replica reaches its two neighbours only.
    Ring,
    /// Two halves, and one replica that reaches both.
    Bridge,
    /// The leader and one follower do not reach each other; all others reach both.
    CutLink,
    /// The leader can be heard but hears no one.
    DeafLeader,
    /// The leader hears but cannot be heard.
    MuteLeader,
    /// The connections between two replicas break every 100 ms.
    FlapLink,
    /// All connections within the group break at short intervals.
    FlapAll,
    /// Bytes within the group are late, by much less than the election timeout.
    Late,
    /// Bytes within the group are late, by more than that.
    VeryLate,
    /// Connections within the group carry few bytes per second.
    Thin,
    /// Connections between two replicas are reset in the middle of frames.
    BreakFrames,
    /// A follower's connections are accepted and never read.
    Stall,
    /// All connections of the group are reset at once.
    ResetAll,
    /// What old connections within the group said is said again.
    ReplayPeers,
    /// What old connections of clients said is said again.
    ReplayClients,
    /// Requests arrive, connections break before all the answers are back.
    LoseAnswers,
    /// Connections of clients are reset in the middle of requests.
    BreakRequests,
    /// Clients do not reach the leader but do reach the followers.
    CutClientsFromLeader,
    /// Bytes between clients and the group are late.
    LateClients,
    /// Servers do not reach the managers.
    CutServersFromManagers,
}

/// On whose account a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// Any group, the manager now and then.
    AnyGroup,
    /// A partition.
    Partition,
}

/// A fault's family, length, how often it is drawn, and what it may hit.
struct Entry(Fault, Kind, (u64, u64), u32, Aim);

/// Lengths in milliseconds. T, the election timeout, is 600 to 1200 ms; what takes a quorum away is short.
const TABLE: [Entry; 39] = [
    Entry(Fault::KillLeader, Kind::Kill, (0, 4_000), 6, Aim::AnyGroup),
    Entry(Fault::KillFollower, Kind::Kill, (0, 6_000), 4, Aim::AnyGroup),
    Entry(Fault::KillMinority, Kind::Kill, (0, 4_000), 4, Aim::AnyGroup),
    Entry(Fault::KillMajority, Kind::Kill, (0, 1_500), 2, Aim::AnyGroup),
    Entry(Fault::KillGroup, Kind::Kill, (0, 500), 2, Aim::AnyGroup),
    Entry(Fault::KillCluster, Kind::Kill, (0, 500), 1, Aim::Partition),
    Entry(Fault::KillRepeatedly, Kind::Kill, (1_000, 3_000), 2, Aim::AnyGroup),
    Entry(Fault::StopLeader, Kind::Stop, (50, 5_000), 6, Aim::AnyGroup),
    Entry(Fault::StopFollower, Kind::Stop, (50, 8_000), 3, Aim::AnyGroup),
    Entry(Fault::StopMinority, Kind::Stop, (50, 5_000), 4, Aim::AnyGroup),
    Entry(Fault::StopGroup, Kind::Stop, (50, 2_000), 2, Aim::AnyGroup),
    Entry(Fault::StopStutter, Kind::Stop, (2_000, 5_000), 2, Aim::Partition),
    Entry(Fault::TerminateLeader, Kind::Term, (0, 2_000), 4, Aim::AnyGroup),
    Entry(Fault::RollingRestart, Kind::Term, (0, 1_000), 2, Aim::AnyGroup),
    Entry(Fault::EmptyDirectory, Kind::Dir, (0, 1_000), 4, Aim::AnyGroup),
    Entry(Fault::FillDisk, Kind::Disk, (1_000, 5_000), 4, Aim::Partition),
    Entry(Fault::IsolateLeader, Kind::Net, (200, 5_000), 6, Aim::AnyGroup),
    Entry(Fault::IsolateFollower, Kind::Net, (200, 6_000), 3, Aim::AnyGroup),
    Entry(Fault::Halves, Kind::Net, (200, 5_000), 4, Aim::AnyGroup),
    Entry(Fault::Ring, Kind::Net, (1_000, 5_000), 2, Aim::Partition),
    Entry(Fault::Bridge, Kind::Net, (1_000, 5_000), 2, Aim::Partition),
    Entry(Fault::CutLink, Kind::Net, (1_000, 6_000), 4, Aim::AnyGroup),
    Entry(Fault::DeafLeader, Kind::Net, (500, 5_000), 3, Aim::AnyGroup),
    Entry(Fault::MuteLeader, Kind::Net, (500, 5_000), 3, Aim::AnyGroup),
    Entry(Fault::FlapLink, Kind::Net, (1_000, 6_000), 2, Aim::Partition),
    Entry(Fault::FlapAll, Kind::Net, (500, 3_000), 2, Aim::Partition),
    Entry(Fault::Late, Kind::Net, (1_000, 6_000), 3, Aim::AnyGroup),
    Entry(Fault::VeryLate, Kind::Net, (500, 3_000), 2, Aim::Partition),
    Entry(Fault::Thin, Kind::Net, (1_000, 4_000), 2, Aim::Partition),
    Entry(Fault::BreakFrames, Kind::Net, (1_000, 4_000), 3, Aim::Partition),
    Entry(Fault::Stall, Kind::Net, (1_000, 8_000), 2, Aim::Partition),
    Entry(Fault::ResetAll, Kind::Net, (0, 0), 3, Aim::AnyGroup),
    Entry(Fault::ReplayPeers, Kind::Net, (0, 0), 4, Aim::AnyGroup),
    Entry(Fault::ReplayClients, Kind::Net, (0, 0), 3, Aim::Partition),
    Entry(Fault::LoseAnswers, Kind::Net, (500, 4_000), 5, Aim::Partition),
    Entry(Fault::BreakRequests, Kind::Net, (500, 4_000), 2, Aim::Partition),
    Entry(Fault::CutClientsFromLeader, Kind::Net, (500, 2_500), 3, Aim::Partition),
    Entry(Fault::LateClients, Kind::Net, (1_000, 4_000), 2, Aim::Partition),
    Entry(Fault::CutServersFromManagers, Kind::Net, (1_000, 8_000), 2, Aim::Partition),
];

impl Fault {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Fault> {
        TABLE.iter().map(|entry| entry.0)
    }

    /// Its family.
    pub fn kind(self) -> Kind {
        let entry = TABLE.iter().find(|entry| entry.0 == self);
        entry.unwrap_or_else(|| unreachable!("{self:?} is in the table, as a test shows")).1
    }
}

/// A fault that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, since the start of the round.
    pub at: Duration,
    /// For how long, at least.
    pub lasts: Duration,
    /// The fault that is injected.
    pub fault: Fault,
    /// The group that it hits.
    pub group: Group,
    /// For random choices when the time has come.
    pub seed: u64,
}

/// What happens until the next recovery check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// How long the round lasts.
    pub length: Duration,
    /// The faults, by time.
    pub events: Vec<Event>,
}

/// Rounds without end.
#[derive(Clone, Debug)]
pub struct Plan {
    random: ChaCha8Rng,
    kinds: BTreeSet<Kind>,
    shape: Shape,
}

/// Shortest and longest round, in milliseconds.
const ROUND_MS: (u64, u64) = (6_000, 20_000);
/// Shortest and longest mean pause between two faults of a round, in milliseconds.
const PAUSE_MS: (u64, u64) = (200, 2_000);
/// One fault in this many of those that may hit any group hits the manager.
const MANAGER_SHARE: u32 = 6;
/// How many different faults a round draws from, at least and at most.
const MIX: (usize, usize) = (1, 6);

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, kinds: &BTreeSet<Kind>, shape: Shape) -> Plan {
        Plan { random: ChaCha8Rng::seed_from_u64(seed), kinds: kinds.clone(), shape }
    }

    /// The next round.
    pub fn next_round(&mut self) -> Round {
        let random = &mut self.random;
        let length = Duration::from_millis(random.random_range(ROUND_MS.0..=ROUND_MS.1));
        let possible: Vec<&Entry> = TABLE.iter().filter(|entry| self.kinds.contains(&entry.1)).collect();
        let count = random.random_range(MIX.0..=MIX.1);
        let mut mix: Vec<&Entry> = Vec::new();
        for _ in 0..count {
            let kinds: Vec<Kind> = self.kinds.iter().copied().collect();
            let Ok(&kind) = kinds.choose_weighted(random, |kind| kind.weight()) else { break };
            let family: Vec<&Entry> = possible.iter().filter(|entry| entry.1 == kind).copied().collect();
            if let Ok(entry) = family.choose_weighted(random, |entry| entry.3) {
                mix.push(entry);
            }
        }
        let pause_ms = random.random_range(PAUSE_MS.0..=PAUSE_MS.1);
        let mut events = Vec::new();
        let mut at = Duration::ZERO;
        loop {
            at += Duration::from_millis(random.random_range(0..=2 * pause_ms));
            let Some(Entry(fault, _, (min_ms, max_ms), _, aim)) = mix.choose(random).filter(|_| at < length) else {
                return Round { length, events };
            };
            // Short ones as often as long ones, on a scale of doublings: much goes wrong around T.
            let lasts_ms = if max_ms == min_ms {
                *min_ms
            } else {
                let (low, high) = (*min_ms as f64 + 20.0, *max_ms as f64 + 20.0);
                (low * (high / low).powf(random.random_range(0.0..1.0)) - 20.0).round() as u64
            };
            let manager = *aim == Aim::AnyGroup && random.random_ratio(1, MANAGER_SHARE);
            let partition = random.random_range(0..self.shape.partitions);
            events.push(Event {
                at,
                lasts: Duration::from_millis(lasts_ms),
                fault: *fault,
                group: if manager { Group::Manager } else { Group::Partition(partition) },
                seed: random.random(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { server_rf: 3, manager_rf: 3, partitions: 2 };

    fn rounds(seed: u64, kinds: &[Kind]) -> Vec<Round> {
        let mut plan = Plan::new(seed, &kinds.iter().copied().collect(), SHAPE);
        (0..40).map(|_| plan.next_round()).collect()
    }

    #[test]
    fn plan_of_a_seed_is_always_the_same_and_another_seed_gives_another() {
        assert_eq!(rounds(7, &Kind::ALL), rounds(7, &Kind::ALL));
        assert_ne!(rounds(7, &Kind::ALL), rounds(8, &Kind::ALL));
    }

    #[test]
    fn plan_holds_only_the_kinds_asked_for_in_order_of_time() {
        for round in rounds(1, &[Kind::Stop, Kind::Net]) {
            assert!(round.events.iter().all(|event| matches!(event.fault.kind(), Kind::Stop | Kind::Net)));
            assert!(round.events.is_sorted_by_key(|event| event.at));
            assert!(round.events.iter().all(|event| event.at < round.length));
        }
    }

    #[test]
    fn plan_draws_every_fault_some_day() {
        let drawn: BTreeSet<Fault> = (0..20)
            .flat_map(|seed| rounds(seed, &Kind::ALL))
            .flat_map(|round| round.events)
            .map(|event| event.fault)
            .collect();
        assert_eq!(drawn, Fault::all().collect());
    }

    #[test]
    fn plan_without_kinds_is_empty() {
        assert!(rounds(1, &[]).iter().all(|round| round.events.is_empty()));
    }

    #[test]
    fn kind_words_and_back() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("kil".parse::<Kind>().unwrap_err().contains("kill"));
    }
}
