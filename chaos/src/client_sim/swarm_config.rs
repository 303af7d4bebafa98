//! The configuration of one run: how large everything is, and what goes wrong how often. One seed decides it (swarm:
//! most things are off in most runs, and then one of them is frequent).

use bytes::Bytes;
use smr::internals::session::SessionLimits;
use smr_service::listener::ListenerLimits;
use smr_sim::network::Weather as PeerWeather;
use smr_sim::sim_rng::{Purpose, SimRng};

use super::callers::Habits;
use super::sim_net::Weather;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A partition's leader is killed, and comes back.
    KillLeader,
    /// Some server is.
    KillServer,
    /// All servers of a partition are.
    KillAll,
    /// A server loses its power.
    PowerCut,
    /// A partition's leader is stopped for a while.
    StopLeader,
    /// Some server is.
    StopServer,
    /// A leader's device hangs.
    HangDisk,
    /// A leader is cut off from its peers, not from clients.
    CutOffLeader,
    /// One link between two peers is cut, in one direction.
    CutPeers,
    /// A leader is asked to hand over.
    Transfer,
    /// A connection between a client and a server is reset.
    ResetClient,
    /// Nothing arrives from a client at a server, or from the server at the client.
    SilenceOneWay,
    /// A client cannot reach a leader, but the others.
    SilenceLeader,
    /// A client process is killed; another one takes its place.
    KillClient,
    /// A manager is down for a while.
    ManagerDown,
    /// All of them are.
    ManagersDown,
    /// A server takes no more connections for a while, and all that it had are reset.
    FullAccept,
    /// One server of a partition loses its directory, comes back as a stranger, and is readmitted later. Once per
    /// partition.
    EmptyDirectory,
    /// Slots begin to move from one partition to another. Nothing goes wrong by that alone.
    MoveSlots,
    /// A move of slots that is under way is given up. Drawn only beside [`Fault::MoveSlots`].
    AbandonMove,
    /// Two servers name each other as the leader for a while. Sound ones do not; a client must bear it all the same.
    Mislead,
}

impl Fault {
    const ALL: [Fault; 20] = [
        Fault::KillLeader,
        Fault::KillServer,
        Fault::KillAll,
        Fault::PowerCut,
        Fault::StopLeader,
        Fault::StopServer,
        Fault::HangDisk,
        Fault::CutOffLeader,
        Fault::CutPeers,
        Fault::Transfer,
        Fault::ResetClient,
        Fault::SilenceOneWay,
        Fault::SilenceLeader,
        Fault::KillClient,
        Fault::ManagerDown,
        Fault::ManagersDown,
        Fault::FullAccept,
        Fault::EmptyDirectory,
        Fault::Mislead,
        Fault::MoveSlots,
    ];
}

/// See the module.
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// Partitions.
    pub partitions: u16,
    /// Replicas of each.
    pub replicas: u16,
    /// Managers, and how many of them begin behind.
    pub managers: (u16, u16),
    /// What clients do.
    pub habits: Habits,
    /// Between clients and listeners.
    pub weather: Weather,
    /// Between peers.
    pub peer_weather: PeerWeather,
    /// How long a device takes at most, in microseconds.
    pub disk_us: u64,
    /// The listeners' limits.
    pub limits: ListenerLimits,
    /// The groups' session limits.
    pub sessions: SessionLimits,
    /// What goes wrong, one drawn at a time.
    pub faults: Vec<Fault>,
    /// The time between two faults, in microseconds, at most.
    pub fault_gap_us: u64,
    /// Server processes per mille that start behind the map.
    pub behind: u64,
    /// When clients begin, in microseconds: perhaps before the groups are founded.
    pub start_us: u64,
    /// How long things go wrong, in microseconds.
    pub chaos_us: u64,
    /// Whether the groups' own properties are judged as well.
    pub with_properties: bool,
}

impl SwarmConfig {
    /// The mix of a seed.
    pub fn of(seed: u64) -> SwarmConfig {
        let rng = &mut SimRng::new(seed, Purpose::Swarm);
        let partitions = rng.pick(&[1, 1, 2, 2, 3]);
        let replicas = rng.pick(&[1, 3, 3, 3, 3, 5]);
        let managers = rng.pick(&[1, 3, 3]);
        let behind = if rng.chance(400) { rng.below(u64::from(managers) + 1) as u16 } else { 0 };
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| rng.chance(350)).collect();
        if faults.is_empty() && rng.chance(900) {
            faults.push(rng.pick(&Fault::ALL));
        }
        let habits = habits(rng, partitions);
        let mut limits = ListenerLimits {
            // Not what this machine happens to allow.
            connections_max: 2048,
            ..ListenerLimits::default()
        };
        if rng.chance(150) {
            // Connections stay open for as long as their client lives, and the last reader is one more.
            limits.connections_max = habits.clients as usize + rng.between(1, 2) as usize;
        }
        if rng.chance(150) {
            limits.requests_max = rng.between(1, 4) as usize;
        }
        let mut sessions = SessionLimits::default();
        if rng.chance(250) {
            sessions.sessions_max = rng.between(1, 4) as usize;
        }
        if rng.chance(200) {
            sessions.answers_max_bytes = rng.between(0, 600) as usize;
        }
        let mut config = SwarmConfig {
            partitions,
            replicas,
            managers: (managers, behind),
            habits,
            weather: weather(rng),
            peer_weather: peer_weather(rng),
            disk_us: rng.pick(&[500, 2_000, 2_000, 20_000]),
            limits,
            sessions,
            faults,
            fault_gap_us: rng.pick(&[100_000, 400_000, 1_500_000]),
            behind: if rng.chance(250) { 300 } else { 0 },
            start_us: rng.pick(&[0, 20_000, 300_000]),
            chaos_us: rng.between(3_000_000, 7_000_000),
            with_properties: rng.chance(250),
        };
        if config.faults.contains(&Fault::MoveSlots) && rng.chance(600) {
            config.faults.push(Fault::AbandonMove);
        }
        config
    }
}

fn habits(rng: &mut SimRng, partitions: u16) -> Habits {
    let keys = rng.between(1, 3 + 2 * u64::from(partitions));
    let mut shares = [0; 5];
    for share in &mut shares {
        *share = rng.pick(&[0, 1, 3, 6]);
    }
    // Something must be written, and seen.
    shares[1] += 2;
    shares[2] += 1;
    Habits {
        clients: rng.between(2, 4) as u32,
        callers: rng.between(1, 3) as u32,
        keys: (0..keys).map(|number| Bytes::from(format!("k{number}"))).collect(),
        pause_max_us: rng.pick(&[5_000, 40_000, 200_000]),
        timeouts_ms: (0..4).map(|_| rng.pick(&[None, Some(40), Some(300), Some(700), Some(2_000)])).collect(),
        shares,
        abandoned: rng.pick(&[0, 0, 20]),
        long: (rng.pick(&[0, 0, 100]), rng.between(500, 20_000) as usize),
    }
}

fn weather(rng: &mut SimRng) -> Weather {
    let mut weather = Weather::calm();
    weather.jitter_us = rng.pick(&[300, 2_000, 20_000]);
    if rng.chance(300) {
        (weather.late, weather.late_us) = (rng.between(1, 30), rng.pick(&[100_000, 800_000, 3_000_000]));
    }
    if rng.chance(400) {
        weather.split = rng.between(1, 300);
    }
    if rng.chance(300) {
        weather.broken_up = rng.between(1, 30);
    }
    if rng.chance(400) {
        weather.broken_down = rng.between(1, 40);
    }
    if rng.chance(150) {
        weather.room_bytes = rng.between(30, 400) as usize;
    }
    weather
}

fn peer_weather(rng: &mut SimRng) -> PeerWeather {
    let mut weather = PeerWeather::default();
    if rng.chance(300) {
        weather.loss = rng.between(1, 100);
    }
    weather
}
