//! The command line of a server. Both replicas have the same one, but for their number: so a primary can start the
//! other one.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use smr::LogEngine;
use smr::epoch::GroupKind;
use smr_service::args::{self, BadArgument};

use crate::ballots::Timetable;
use crate::restart::RestartBy;
use crate::words::VOTERS_MAX;

/// The program's name.
pub const PROGRAM: &str = "voting-server";
/// What an interval may be at least, in milliseconds.
const INTERVAL_MIN_MS: u64 = 1;
/// What an interval may be at most, in milliseconds: a day.
const INTERVAL_MAX_MS: u64 = 86_400_000;
/// A heartbeat's interval at least, in milliseconds: an answer must fit into it.
const HEARTBEAT_MIN_MS: u64 = 20;
/// The most heartbeats that may be missed.
const MISSED_MAX: u32 = 1_000;

/// One of the two replicas of a voting service: primary or backup, as the managers say at each moment.
#[derive(Clone, Debug, Parser)]
#[command(name = PROGRAM, version)]
pub struct Options {
    /// Number of this replica: 0 or 1.
    #[arg(long = "replica_id", allow_negative_numbers = true)]
    pub replica_id: u16,
    /// Number of the group in the managers' layout, from 0: it is of service voting there.
    #[arg(long = "partition_id", default_value_t = 0, allow_negative_numbers = true)]
    pub partition_id: u16,
    /// Where the managers' replicas listen: host:port, separated by commas, in replica order.
    #[arg(long = "manager_addrs")]
    pub manager_addrs: String,
    /// Where the two replicas listen for clients: IP:port,IP:port, as the managers were told (--server_addrs).
    #[arg(long = "servers")]
    pub servers: String,
    /// Where the two replicas listen for each other: IP:port,IP:port.
    #[arg(long = "p2p")]
    pub p2p: String,
    /// Where each replica is dialled by the other one, if that is not where it listens.
    #[arg(long = "p2p_via")]
    pub p2p_via: Option<String>,
    /// Where each replica is dialled for heartbeats, if that is not where it listens for clients.
    #[arg(long = "heartbeat_via")]
    pub heartbeat_via: Option<String>,
    /// Where the replicas' directories are; replica 1 has DIRECTORY.1.
    #[arg(long = "backer_path", value_name = "DIRECTORY")]
    pub backer_path: PathBuf,
    /// How the two are kept in step, as the managers were told: passive, active or chain.
    #[arg(long = "protocol", default_value = "passive")]
    pub protocol: GroupKind,
    /// What keeps the log: sled or segments. A directory keeps the one that it was made with.
    #[arg(long = "log_engine", default_value_t)]
    pub log_engine: LogEngine,
    /// Start although writes cannot be proved to reach the device.
    #[arg(long = "allow_unsynced")]
    pub allow_unsynced: bool,
    /// This many clients must be there before a ballot begins.
    #[arg(long = "voters", value_name = "COUNT", default_value_t = 1, allow_negative_numbers = true)]
    pub voters: usize,
    /// Hold this many ballots, all starts of the service together; 0 for no end.
    #[arg(long = "ballots", value_name = "COUNT", default_value_t = 0, allow_negative_numbers = true)]
    pub ballots: u64,
    /// The time between two ballots, in milliseconds.
    #[arg(long = "ballot_interval", value_name = "MS", default_value_t = 1_000, allow_negative_numbers = true)]
    pub ballot_interval: u64,
    /// A ballot ends after this long with the votes that there are, in milliseconds.
    #[arg(long = "ballot_timeout", value_name = "MS", default_value_t = 10_000, allow_negative_numbers = true)]
    pub ballot_timeout: u64,
    /// How often the replicas exchange heartbeats, in milliseconds.
    #[arg(long = "heartbeat_interval", value_name = "MS", default_value_t = 1_000, allow_negative_numbers = true)]
    pub heartbeat_interval: u64,
    /// After this many intervals without a heartbeat the other replica counts as dead.
    #[arg(long = "heartbeats_missed", value_name = "COUNT", default_value_t = 5, allow_negative_numbers = true)]
    pub heartbeats_missed: u32,
    /// How long a start takes, in milliseconds: servers are heavy.
    #[arg(long = "start_delay", value_name = "MS", default_value_t = 30_000, allow_negative_numbers = true)]
    pub start_delay: u64,
    /// How a primary starts a dead backup again: self (this program), a command of the shell, or no (something else
    /// does).
    #[arg(long = "restart_backup", value_name = "COMMAND", default_value = "self")]
    pub restart_backup: RestartBy,
    /// End in order, as at SIGTERM, when stdin ends: for programs that start this one and may be killed.
    #[arg(long = "end_with_stdin")]
    pub end_with_stdin: bool,
}

/// A command line that makes sense.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of the group in the managers' layout.
    pub partition: u16,
    /// Number of this replica: 0 or 1.
    pub replica: u16,
    /// The managers, by replica number.
    pub managers: Vec<String>,
    /// Where the two listen for clients.
    pub servers: [String; 2],
    /// Where this one listens for clients.
    pub listen: SocketAddr,
    /// Where this one listens for the other one.
    pub p2p_listen: SocketAddr,
    /// Where the other one is.
    pub peer: String,
    /// Where the other one answers heartbeats.
    pub heartbeats: String,
    /// Where its data is.
    pub directory: PathBuf,
    /// When ballots begin and end.
    pub timetable: Timetable,
    /// The interval of heartbeats.
    pub heartbeat_interval: Duration,
    /// How long a start takes.
    pub start_delay: Duration,
    /// The arguments of the other replica.
    pub other_arguments: Vec<OsString>,
}

fn two(flag: &str, text: &str) -> Result<[String; 2], BadArgument> {
    let list = args::addresses(flag, text)?;
    let count = list.len();
    list.try_into().map_err(|_| BadArgument(format!("{flag}: {count} addresses; there are two replicas")))
}

fn interval(flag: &str, ms: u64, min_ms: u64) -> Result<Duration, BadArgument> {
    if !(min_ms..=INTERVAL_MAX_MS).contains(&ms) {
        return Err(BadArgument(format!("{flag}: {ms} ms; {min_ms} to {INTERVAL_MAX_MS} ms are possible")));
    }
    Ok(Duration::from_millis(ms))
}

impl Options {
    /// Checks everything that can be checked without touching the world.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(&self) -> Result<Plan, BadArgument> {
        let bad = |what: String| Err(BadArgument(what));
        if self.replica_id > 1 {
            return bad(format!("--replica_id: {}; there are two replicas, 0 and 1", self.replica_id));
        }
        let (own, other) = (usize::from(self.replica_id), usize::from(1 - self.replica_id));
        let managers = args::addresses("--manager_addrs", &self.manager_addrs)?;
        if managers.is_empty() {
            return bad("--manager_addrs: at least one manager is needed".to_owned());
        }
        let servers = two("--servers", &self.servers)?;
        let p2p = two("--p2p", &self.p2p)?;
        let listen = args::listen_address("--servers", &servers[own])?;
        let p2p_listen = args::listen_address("--p2p", &p2p[own])?;
        args::distinct(("--servers", listen), ("--p2p", p2p_listen))?;
        let via = |flag, given: &Option<String>, listens: &[String; 2]| match given {
            Some(text) => two(flag, text),
            None => Ok(listens.clone()),
        };
        let peer = via("--p2p_via", &self.p2p_via, &p2p)?[other].clone();
        let heartbeats = via("--heartbeat_via", &self.heartbeat_via, &servers)?[other].clone();
        if self.protocol.epochs().is_none() {
            return bad("--protocol: raft needs three replicas; passive, active and chain are possible".to_owned());
        }
        if !(1..=VOTERS_MAX).contains(&self.voters) {
            return bad(format!("--voters: {}; 1 to {VOTERS_MAX} are possible", self.voters));
        }
        if !(1..=MISSED_MAX).contains(&self.heartbeats_missed) {
            return bad(format!("--heartbeats_missed: {}; 1 to {MISSED_MAX} are possible", self.heartbeats_missed));
        }
        if self.restart_backup == RestartBy::Shell(String::new()) {
            return bad("--restart_backup: self, a command, or no".to_owned());
        }
        let timetable = Timetable {
            voters_min: self.voters,
            last: (self.ballots > 0).then_some(self.ballots),
            interval: interval("--ballot_interval", self.ballot_interval, 0)?,
            open_max: interval("--ballot_timeout", self.ballot_timeout, INTERVAL_MIN_MS)?,
        };
        Ok(Plan {
            partition: self.partition_id,
            replica: self.replica_id,
            managers,
            listen,
            servers,
            p2p_listen,
            peer,
            heartbeats,
            directory: self.directory(),
            timetable,
            heartbeat_interval: interval("--heartbeat_interval", self.heartbeat_interval, HEARTBEAT_MIN_MS)?,
            start_delay: interval("--start_delay", self.start_delay, 0)?,
            other_arguments: self.of_the_other(),
        })
    }

    fn directory(&self) -> PathBuf {
        let mut path = self.backer_path.clone().into_os_string();
        path.push(format!(".{}", self.replica_id));
        path.into()
    }

    /// The arguments with which the other replica is started.
    fn of_the_other(&self) -> Vec<OsString> {
        let restart_backup = match &self.restart_backup {
            RestartBy::No => "no",
            RestartBy::Itself => "self",
            RestartBy::Shell(command) => command,
        };
        let values: [(&str, OsString); 16] = [
            ("replica_id", (1 - self.replica_id.min(1)).to_string().into()),
            ("partition_id", self.partition_id.to_string().into()),
            ("manager_addrs", self.manager_addrs.clone().into()),
            ("servers", self.servers.clone().into()),
            ("p2p", self.p2p.clone().into()),
            ("backer_path", self.backer_path.clone().into()),
            ("protocol", self.protocol.to_string().into()),
            ("log_engine", self.log_engine.to_string().into()),
            ("voters", self.voters.to_string().into()),
            ("ballots", self.ballots.to_string().into()),
            ("ballot_interval", self.ballot_interval.to_string().into()),
            ("ballot_timeout", self.ballot_timeout.to_string().into()),
            ("heartbeat_interval", self.heartbeat_interval.to_string().into()),
            ("heartbeats_missed", self.heartbeats_missed.to_string().into()),
            ("start_delay", self.start_delay.to_string().into()),
            ("restart_backup", restart_backup.into()),
        ];
        let via = [("p2p_via", &self.p2p_via), ("heartbeat_via", &self.heartbeat_via)];
        let via = via.into_iter().filter_map(|(flag, value)| Some((flag, value.clone()?.into())));
        let flags = values.into_iter().chain(via).map(|(flag, value)| {
            let mut argument = OsString::from(format!("--{flag}="));
            argument.push(value);
            argument
        });
        let switches = [("--allow_unsynced", self.allow_unsynced), ("--end_with_stdin", self.end_with_stdin)];
        flags.chain(switches.into_iter().filter(|(_, is_on)| *is_on).map(|(flag, _)| flag.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use smr_service::args::{Parsed, parse};

    use super::*;

    const LEAST: [&str; 5] = [
        "--manager_addrs=127.0.0.1:1",
        "--servers=127.0.0.1:2,127.0.0.1:3",
        "--p2p=127.0.0.1:4,127.0.0.1:5",
        "--backer_path=./b",
        "--replica_id=0",
    ];

    fn options(more: &[&str]) -> Result<Options, BadArgument> {
        let words = [PROGRAM].iter().chain(&LEAST).chain(more).map(OsString::from);
        match parse(words)? {
            Parsed::Options(options) => Ok(options),
            Parsed::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn arguments_of_the_other_are_the_own_ones_with_the_other_number() {
        let all = [
            "--p2p_via=127.0.0.1:6,127.0.0.1:7",
            "--heartbeat_via=127.0.0.1:8,127.0.0.1:9",
            "--protocol=active",
            "--partition_id=2",
            "--log_engine=segments",
            "--allow_unsynced",
            "--voters=5",
            "--ballots=50",
            "--ballot_interval=10",
            "--ballot_timeout=2000",
            "--heartbeat_interval=100",
            "--heartbeats_missed=3",
            "--start_delay=250",
            "--restart_backup=./start it 'now'",
            "--end_with_stdin",
        ];
        for more in [&[][..], &all] {
            let own = options(more).unwrap();
            let line = [OsString::from(PROGRAM)].into_iter().chain(own.of_the_other());
            let Ok(Parsed::Options(other)) = parse::<Options>(line) else { panic!("{more:?}") };
            let expected = Options { replica_id: 1, ..own.clone() };
            assert_eq!(format!("{other:?}"), format!("{expected:?}"));
            let (own, other) = (own.check().unwrap(), other.check().unwrap());
            assert_eq!((other.directory, other.listen.port()), (PathBuf::from("./b.1"), 3));
            assert_eq!((own.directory, own.listen.port()), (PathBuf::from("./b.0"), 2));
            let vias = if more.is_empty() { ["127.0.0.1:5", "127.0.0.1:3"] } else { ["127.0.0.1:7", "127.0.0.1:9"] };
            assert_eq!([own.peer, own.heartbeats], vias);
        }
    }

    // covers B9
    #[test]
    fn wrong_use_gives_one_line() {
        let wrong: [(&[&str], &str); 11] = [
            (&["--replica_id=2"], "cannot be used multiple times"),
            (&["--protocol=raft"], "--protocol: raft needs three replicas; passive, active and chain are possible"),
            (&["--protocol=warm"], "is no kind of group"),
            (&["--voters=0"], "--voters: 0; 1 to 1024 are possible"),
            (&["--ballots=-1"], "--ballots"),
            (&["--ballot_timeout=0"], "--ballot_timeout: 0 ms; 1 to 86400000 ms are possible"),
            (&["--heartbeat_interval=5"], "--heartbeat_interval: 5 ms; 20 to 86400000 ms are possible"),
            (&["--heartbeats_missed=0"], "--heartbeats_missed: 0; 1 to 1000 are possible"),
            (&["--p2p_via=127.0.0.1:9"], "--p2p_via: 1 addresses; there are two replicas"),
            (&["--restart_backup="], "--restart_backup: self, a command, or no"),
            (&["--start_dely=5"], "did you mean '--start_delay'?"),
        ];
        for (more, expected) in wrong {
            let BadArgument(line) = options(more).and_then(|options| options.check()).unwrap_err();
            assert!(line.contains(expected) && !line.contains('\n'), "{more:?}: {line}");
        }
        let of = |change: fn(&mut Options)| {
            let mut options = options(&[]).unwrap();
            change(&mut options);
            options.check().unwrap_err().0
        };
        assert_eq!(of(|options| options.replica_id = 2), "--replica_id: 2; there are two replicas, 0 and 1");
        let three = of(|options| options.servers.push_str(",127.0.0.1:9"));
        assert_eq!(three, "--servers: 3 addresses; there are two replicas");
        let same = of(|options| options.p2p = "127.0.0.1:2,127.0.0.1:9".to_owned());
        assert_eq!(same, "--servers and --p2p are both 127.0.0.1:2");
        assert!(of(|options| options.servers = "here:2,there:2".to_owned()).contains("is no IP address with a port"));
        assert!(of(|options| options.manager_addrs = "none".to_owned()).contains("at least one manager"));
    }
}
