//! Groups whose members a configuration service decides on, as whole replicas: three of them, a service in this
//! process, writes, and members that go and come back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod replica_support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use smr::entry::{GenesisHash, GenesisRequest, Incumbent};
use smr::epoch::{EpochKind, GroupKind};
use smr::epoch_service::{Arbiter, ArbiterSettings, EpochRecord, MemberReport, PresiderId};
use smr::id::ClientId;
use smr::internals::protocol::Time;
use smr::replica::{
    ConfigurationSource, GenesisAnswer, GenesisReply, Opened, Outcome, ReplicaHandle, ReplicaOptions, Request,
    ServiceReply, Tuning,
};
use smr::{ClusterId, ReadMode, ReportSink};
use tokio::runtime::Runtime;

use replica_support::{Counter, ask, listener, options, status, wait_until};

const CLUSTER: ClusterId = ClusterId(77);

/// A configuration service that never fails.
struct Service {
    kind: EpochKind,
    began: Instant,
    state: Mutex<ServiceState>,
}

struct ServiceState {
    founded: Option<(GenesisHash, EpochRecord)>,
    arbiter: Arbiter,
}

impl Service {
    fn new(kind: EpochKind) -> Arc<Service> {
        let arbiter = Arbiter::new(ArbiterSettings::default(), PresiderId(1), Time(0));
        let state = Mutex::new(ServiceState { founded: None, arbiter });
        Arc::new(Service { kind, began: Instant::now(), state })
    }

    /// The epoch, and the replicas that are members.
    fn present(&self) -> (u64, Vec<u16>) {
        let state = self.state.lock().unwrap();
        state.founded.as_ref().map_or((0, Vec::new()), |(_, record)| {
            let present = record.present();
            (present.epoch.0, present.members.iter().map(|node| node.name.0).collect())
        })
    }

    /// Waits until these are the members, and all of them are known to have everything.
    fn settles_on(&self, members: &[u16]) {
        wait_until(&format!("members {members:?}"), || {
            let state = self.state.lock().unwrap();
            let (_, record) = state.founded.as_ref()?;
            let names: Vec<u16> = record.present().members.iter().map(|node| node.name.0).collect();
            (names == members && record.complete().len() == members.len()).then_some(())
        });
    }
}

impl ConfigurationSource for Service {
    fn record_genesis(&self, request: GenesisRequest, reply: GenesisReply) {
        let mut state = self.state.lock().unwrap();
        let hash = request.genesis.hash();
        let founded = state.founded.as_ref().map(|(founded, _)| *founded);
        reply(match founded {
            None => {
                let record = EpochRecord::found(self.kind, request.genesis.members.iter().copied().collect());
                state.founded = Some((hash, record));
                GenesisAnswer::Recorded
            }
            Some(founded) if founded == hash => GenesisAnswer::Recorded,
            Some(founded) => GenesisAnswer::Refused { incumbent: Incumbent::Recorded(founded), genesis: None },
        });
    }

    fn exchange(&self, report: MemberReport, reply: ServiceReply) {
        let now = Time(u64::try_from(self.began.elapsed().as_micros()).unwrap());
        let mut state = self.state.lock().unwrap();
        let ServiceState { founded, arbiter } = &mut *state;
        let word = founded.as_mut().map(|(_, record)| {
            arbiter.hear(now, record, &report);
            while let Some(decision) = arbiter.decide(now, record) {
                record.apply(&decision).unwrap();
            }
            // The answer speaks of what was just decided.
            arbiter.hear(now, record, &report)
        });
        drop(state);
        reply(word);
    }
}

/// Remembers what replicas say.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl ReportSink for Lines {
    fn line(&self, who: &str, text: &str) {
        self.0.lock().unwrap().push(format!("{who}: {text}"));
    }
}

struct Site {
    temporary: tempfile::TempDir,
    runtime: Runtime,
    kind: GroupKind,
    reads: ReadMode,
    addresses: BTreeMap<u16, String>,
    lines: Arc<Lines>,
}

impl Site {
    fn new(kind: GroupKind, replicas: u16, reads: ReadMode) -> Site {
        let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Kept free by no one for a moment: whoever takes one meanwhile is not of this test.
        let listeners: Vec<_> = (0..replicas).map(|_| listener()).collect();
        let address = |listener: &std::net::TcpListener| listener.local_addr().unwrap().to_string();
        let addresses = (0..replicas).zip(&listeners).map(|(name, listener)| (name, address(listener))).collect();
        Site { temporary, runtime, kind, reads, addresses, lines: Arc::default() }
    }

    fn directory(&self, name: u16) -> PathBuf {
        self.temporary.path().join(format!("g.{name}"))
    }

    fn open(&self, name: u16, kind: GroupKind) -> Result<Opened, smr::StartError> {
        let peers = self.addresses.iter().filter(|(other, _)| **other != name);
        let peers: Vec<_> = peers.map(|(other, address)| (*other, address.clone())).collect();
        let listener = wait_until("its port", || std::net::TcpListener::bind(&self.addresses[&name]).ok());
        let options = options(name, peers, listener, &self.directory(name), &self.runtime);
        Opened::open(ReplicaOptions { kind, reads: self.reads, reports: self.lines.clone(), ..options })
    }

    fn start(&self, name: u16, service: &Arc<Service>) -> ReplicaHandle {
        self.start_with(name, service, Counter::default())
    }

    fn start_with(&self, name: u16, service: &Arc<Service>, state: Counter) -> ReplicaHandle {
        // What was handed to the disk before the end is done before the directory's lock is let go.
        let opened = wait_until("the directory's lock", || self.open(name, self.kind).ok());
        opened.run_in(CLUSTER, service.clone(), state).unwrap()
    }
}

fn number(answer: &[u8]) -> u64 {
    u64::from_le_bytes(answer.try_into().unwrap())
}

/// Counts on, at whoever takes it. Where the outcome stays unknown it is asked again, and has had an effect or not.
fn count(replicas: &[&ReplicaHandle]) -> u64 {
    wait_until("a write", || {
        replicas.iter().find_map(|replica| match ask(replica, Request::Idempotent { command: Bytes::from("count") }) {
            Outcome::Answer(answer) => Some(number(&answer)),
            _ => None,
        })
    })
}

/// What this very replica answers.
fn read(replica: &ReplicaHandle) -> u64 {
    wait_until("a read", || match ask(replica, Request::Read { query: Bytes::new() }) {
        Outcome::Answer(answer) => Some(number(&answer)),
        _ => None,
    })
}

/// Writes through the group, and reads at each of its members what was written.
fn serves(replicas: &[&ReplicaHandle]) -> u64 {
    let counted = count(replicas);
    for replica in replicas {
        assert_eq!(read(replica), counted, "at replica {}", status(replica).node);
    }
    counted
}

/// What a replica has applied of it, whatever it is worth.
fn peek(replica: &ReplicaHandle) -> u64 {
    match ask(replica, Request::LocalRead { query: Bytes::new() }) {
        Outcome::Answer(answer) => number(&answer),
        other => panic!("a local read: {other:?}"),
    }
}

/// Writes through a group whose first alone applies, and reads there; then its backups get as far.
fn serves_passively(replicas: &[&ReplicaHandle]) -> u64 {
    let counted = count(replicas);
    let answer = wait_until("a read", || {
        replicas.iter().find_map(|replica| match ask(replica, Request::Read { query: Bytes::new() }) {
            Outcome::Answer(answer) => Some(number(&answer)),
            _ => None,
        })
    });
    assert_eq!(answer, counted);
    for replica in replicas {
        wait_until("its checkpoint", || (peek(replica) == counted).then_some(()));
    }
    counted
}

fn survives_each_member_and_takes_it_back(kind: EpochKind, reads: ReadMode) {
    let serves = if kind.all_apply() { serves } else { serves_passively };
    let site = Site::new(GroupKind::Epochs(kind), 3, reads);
    let service = Service::new(kind);
    let mut replicas: Vec<ReplicaHandle> = (0..3).map(|name| site.start(name, &service)).collect();
    let mut counted = serves(&replicas.iter().collect::<Vec<_>>());
    assert!(counted >= 1);
    service.settles_on(&[0, 1, 2]);
    let mut members = vec![0, 1, 2];
    for gone in [2, 0, 2] {
        let epoch = service.present().0;
        replicas[usize::from(gone)].shutdown();
        let rest: Vec<&ReplicaHandle> =
            replicas.iter().zip(0..).filter(|(_, name)| *name != gone).map(|(replica, _)| replica).collect();
        let more = serves(&rest);
        assert!(more > counted, "{more} after {counted}");
        members.retain(|name| *name != gone);
        assert_eq!(service.present().1, members);
        assert!(service.present().0 > epoch);
        replicas[usize::from(gone)] = site.start(gone, &service);
        members.push(gone);
        service.settles_on(&members);
        counted = serves(&replicas.iter().collect::<Vec<_>>());
        assert!(counted > more);
    }
    replicas.iter().for_each(ReplicaHandle::shutdown);
    site.runtime.shutdown_background();
}

// covers K4 K5 K6 K7
#[test]
fn chain_goes_on_without_its_tail_head_and_middle_and_takes_each_back() {
    survives_each_member_and_takes_it_back(EpochKind::Chain, ReadMode::Index);
}

// covers K2 K7 K13
#[test]
fn active_goes_on_without_any_member_and_takes_each_back() {
    survives_each_member_and_takes_it_back(EpochKind::Active, ReadMode::Lease);
}

// covers K7 K14 K15
#[test]
fn passive_goes_on_without_its_primary_or_a_backup_and_takes_each_back() {
    survives_each_member_and_takes_it_back(EpochKind::Passive, ReadMode::Lease);
}

/// No checkpoint comes between the writes and the end of the primary: what the backups have stored is all there is.
// covers K14
#[test]
fn backup_that_is_promoted_between_two_checkpoints_has_every_acknowledged_write() {
    let kind = EpochKind::Passive;
    let site = Site::new(GroupKind::Epochs(kind), 3, ReadMode::Index);
    let service = Service::new(kind);
    let shown: [Counter; 3] = Default::default();
    let start = |(state, name): (&Counter, u16)| site.start_with(name, &service, state.clone());
    let replicas: Vec<ReplicaHandle> = shown.iter().zip(0..).map(start).collect();
    let all: Vec<&ReplicaHandle> = replicas.iter().collect();
    service.settles_on(&[0, 1, 2]);
    let often = Tuning { checkpoint_ms: 20, ..Tuning::default() };
    replicas.iter().for_each(|replica| assert!(replica.tune(often)));
    let before = (0..20).map(|_| serves_passively(&all)).max().unwrap();
    // The primary says the number of its next one.
    wait_until("the same numbers at all", || {
        let counts = [0, 1, 2].map(|name: usize| replicas[name].metrics().checkpoint_count.unwrap());
        (counts[0] > 10 && counts[1..] == [counts[0] - 1; 2]).then_some(())
    });

    let never = Tuning { checkpoint_ms: 3_600_000, checkpoint_requests: u64::MAX, ..Tuning::default() };
    replicas.iter().for_each(|replica| assert!(replica.tune(never)));
    // The interval that was running ends once more.
    let before = before.max(serves_passively(&all));
    let counted = (0..50).map(|_| count(&all)).max().unwrap();
    assert!(counted >= before + 50);
    assert_eq!((peek(all[1]), peek(all[2])), (before, before), "the backups store, and do not apply");
    let shown = [1, 2].map(|name: usize| shown[name].shown.load(Ordering::SeqCst));
    assert_eq!(shown, [before; 2], "their hosts see what a checkpoint brought");
    replicas[0].shutdown();
    let answer = wait_until("a read", || {
        all[1..].iter().find_map(|replica| match ask(replica, Request::Read { query: Bytes::new() }) {
            Outcome::Answer(answer) => Some(number(&answer)),
            _ => None,
        })
    });
    assert_eq!(answer, counted);
    replicas[1..].iter().for_each(ReplicaHandle::shutdown);
    site.runtime.shutdown_background();
}

/// Opens a session at whoever orders.
fn session(replicas: &[&ReplicaHandle]) -> ClientId {
    wait_until("a session", || {
        replicas.iter().find_map(|replica| match ask(replica, Request::OpenSession) {
            Outcome::SessionOpened(client) => Some(client),
            _ => None,
        })
    })
}

/// A write that never reaches the first is ordered by it all the same, and by the next one if the first is gone.
// covers K5 K13
#[test]
fn write_at_some_members_of_an_active_group_is_answered_there_and_counts_once() {
    let site = Site::new(GroupKind::Epochs(EpochKind::Active), 3, ReadMode::Lease);
    let service = Service::new(EpochKind::Active);
    let replicas: Vec<ReplicaHandle> = (0..3).map(|name| site.start(name, &service)).collect();
    service.settles_on(&[0, 1, 2]);
    let all: Vec<&ReplicaHandle> = replicas.iter().collect();
    let client = session(&all);
    let write = |replica: &ReplicaHandle, number: u64| {
        let command = Bytes::from("count");
        let request = || Request::Write { client, number, lowest_unanswered: 1, command: command.clone() };
        // A member that hears of another epoch meanwhile may not know what becomes of it.
        wait_until("an answer", || match ask(replica, request()) {
            Outcome::Answer(answer) => Some(self::number(&answer)),
            Outcome::Unknown | Outcome::Busy { .. } => None,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!((write(all[2], 1), write(all[1], 1), write(all[0], 1)), (1, 1, 1), "wherever it is asked for");
    assert_eq!((write(all[1], 2), read(all[2])), (2, 2));
    replicas[0].shutdown();
    assert_eq!((write(all[2], 3), write(all[1], 3)), (3, 3));
    service.settles_on(&[1, 2]);
    assert_eq!((read(all[1]), read(all[2])), (3, 3));
    replicas[1..].iter().for_each(ReplicaHandle::shutdown);
    site.runtime.shutdown_background();
}

/// Two replicas survive the failure of one, and one that lost its directory comes back as a newcomer.
// covers K7 K10
#[test]
fn group_of_two_goes_on_with_one_and_takes_in_an_emptied_directory() {
    let kind = EpochKind::Chain;
    let site = Site::new(GroupKind::Epochs(kind), 2, ReadMode::Lease);
    let service = Service::new(kind);
    let (first, second) = (site.start(0, &service), site.start(1, &service));
    let counted = serves(&[&first, &second]);
    first.shutdown();
    let more = serves(&[&second]);
    assert!(more > counted);
    wait_until("the directory to be let go", || std::fs::remove_dir_all(site.directory(0)).ok());
    let first = site.start(0, &service);
    service.settles_on(&[1, 0]);
    assert!(serves(&[&first, &second]) > more);
    // All of them at once: the first orders again in a new epoch, and nothing is lost.
    let counted = serves(&[&first, &second]);
    [&first, &second].into_iter().for_each(ReplicaHandle::shutdown);
    let (first, second) = (site.start(0, &service), site.start(1, &service));
    assert!(serves(&[&first, &second]) > counted);
    [first, second].iter().for_each(ReplicaHandle::shutdown);
    site.runtime.shutdown_background();
}

// covers B4
#[test]
fn directories_peers_and_hosts_of_another_kind_are_refused_with_one_line() {
    let chain = GroupKind::Epochs(EpochKind::Chain);
    let alone = Site::new(chain, 1, ReadMode::Index);
    let service = Service::new(EpochKind::Chain);
    let opened = alone.open(0, chain).unwrap();
    let without_service = opened.run(Counter::default()).err().unwrap();
    assert_eq!(without_service.to_string(), "a group of kind chain needs a configuration service");
    let replica = alone.start(0, &service);
    assert_eq!(serves(&[&replica]), 1);
    replica.shutdown();
    for (kind, name) in [(GroupKind::Raft, "raft"), (GroupKind::Epochs(EpochKind::Active), "active")] {
        let refused = || alone.open(0, kind).err().map(|error| error.to_string());
        let why = wait_until("the lock", || refused().filter(|why| !why.contains("in use")));
        let expected = format!("holds a replica of a group of kind chain, this process serves one of kind {name}");
        assert!(why.ends_with(&expected), "{why}");
    }
    let replica = alone.start(0, &service);
    assert_eq!(serves(&[&replica]), 2, "it is as it was");
    replica.shutdown();
    alone.runtime.shutdown_background();

    let site = Site::new(chain, 2, ReadMode::Index);
    let service = Service::new(EpochKind::Chain);

    let first = site.start(0, &service);
    // It is of no group yet: it may begin again as one of another kind.
    let opened = wait_until("the lock", || site.open(1, GroupKind::Raft).ok());
    let second = opened.run_in(CLUSTER, service.clone(), Counter::default()).unwrap();
    let said = "a replica of a group of kind";
    wait_until("a line that says so", || site.lines.0.lock().unwrap().iter().find(|line| line.contains(said)).cloned());
    assert_eq!(service.present(), (0, Vec::new()), "they found no group");
    [first, second].iter().for_each(ReplicaHandle::shutdown);
    site.runtime.shutdown_background();
}
