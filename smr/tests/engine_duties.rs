//! The duties of the replica's logic towards any core ([`smr::protocol`]), one by one: a core that says exactly what a
//! test wants it to say stands in for Raft, so that situations which Raft makes rare can be told in a few lines.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use smr::entry::{Configuration, Entry, EntryId, GenesisHash, Index, Payload, SnapshotMeta, Term};
use smr::id::{ClientId, NodeId};
use smr::internals::admin::{Admin, AdminContext, AdminRequest};
use smr::internals::engine::{
    ANSWERS_PER_TURN_MAX_BYTES, Action, BUSY_RETRY_MS, Engine, EngineStart, LOG_LIMITS, LogLimits, Portion,
    UNCOMMITTED_ENTRIES_MAX,
};
use smr::internals::turn::{BootstrapRecord, Turns, WRITES_UNDER_WAY_HIGH};
use smr::protocol::{
    CoreStatus, DigestPeers, Effects, Envelope, Event, Input, NotHere, Protocol, ReadOutcome, ReadToken, Route,
    Routing, Superseded, Time, WriteId,
};
use smr::replica::{NotLeader, Outcome, ReplySink, ReplyTo, Request};
use smr::session::{SessionCommand, SessionTable};
use smr::state_machine::{Answer, Image, StateMachine};
use smr::status::{Role, ServiceState, StateDigest};
use smr::version::CommandVersions;

const TERM: u64 = 2;
const ME: NodeId = NodeId::new(0, 1);
const B: NodeId = NodeId::new(1, 1);
const C: NodeId = NodeId::new(2, 1);
/// A snapshot is taken when the log has this many bytes.
const SNAPSHOT_BYTES: usize = 1 << 20;
/// At multiples of this index the state is hashed.
const DIGEST_EVERY: u64 = 4;

/// A leader that appends what it is given, and otherwise says what the test told it to.
#[derive(Clone, Default)]
struct Core(Arc<Mutex<CoreState>>);

#[derive(Default)]
struct CoreState {
    log: Vec<Entry>,
    committed: usize,
    tokens: Vec<ReadToken>,
    next: VecDeque<Effects<()>>,
    ticks: usize,
    deadline: Option<Time>,
    /// Where requests go; all of them here if nothing is said.
    routing: Option<Routing>,
    /// It does not apply what is committed.
    stores_only: bool,
    /// One more member than at first.
    newcomer: Option<NodeId>,
}

/// A kind of group whose operators are refused everything.
struct NoAdmin;

impl Admin<Core> for NoAdmin {
    fn begin(&mut self, _: AdminContext<'_, Core>, _: AdminRequest, reply: ReplyTo) {
        reply.send(Outcome::Refused("not here".to_owned()));
    }

    fn tick(&mut self, _: AdminContext<'_, Core>) {}

    fn next_tick(&self) -> Option<Time> {
        None
    }

    fn waiting(&self) -> usize {
        0
    }

    fn met(&mut self, _: Time, _: NodeId) {}

    fn routing_changed(&mut self, _: &Routing) {}

    fn transfer_failed(&mut self) {}

    fn hand_over(&mut self, _: AdminContext<'_, Core>) -> bool {
        false
    }

    fn stop(&mut self, _: &mut Vec<String>) {}
}

impl Core {
    fn append(&self, term: u64, command: &SessionCommand) {
        self.append_bytes(term, command.encode());
    }

    fn append_bytes(&self, term: u64, bytes: Bytes) {
        let mut state = self.0.lock().unwrap();
        let id = EntryId::new(state.log.len() as u64 + 1, term);
        state.log.push(Entry { id, payload: Payload::Command(bytes) });
    }

    /// All entries are committed, or this many.
    fn commit_up_to(&self, most: usize) {
        let mut state = self.0.lock().unwrap();
        state.committed = state.log.len().min(most);
    }

    fn last_token(&self) -> ReadToken {
        *self.0.lock().unwrap().tokens.last().unwrap()
    }
}

impl Protocol for Core {
    type Message = ();

    fn step(&mut self, _: Time, input: Input<()>) -> Effects<()> {
        let mut state = self.0.lock().unwrap();
        state.ticks += usize::from(matches!(input, Input::Tick));
        let effects = state.next.pop_front().unwrap_or_default();
        for event in &effects.events {
            if let Event::RoleChanged { role, term, leader } = event {
                let there = Route::There(leader.map(|leader| leader.name));
                let route = if *role == Role::Leader { Route::Here } else { there };
                state.routing = Some(Routing { term: *term, writes: route, reads: route, answers: Route::Here });
            }
        }
        effects
    }

    fn propose(&mut self, _: Time, commands: Vec<Bytes>, _: &mut Effects<()>) -> Result<EntryId, NotHere> {
        let first = EntryId::new(self.0.lock().unwrap().log.len() as u64 + 1, TERM);
        commands.into_iter().for_each(|command| self.append_bytes(TERM, command));
        Ok(first)
    }

    fn read(&mut self, _: Time, token: ReadToken, _: &mut Effects<()>) -> Result<(), NotHere> {
        self.0.lock().unwrap().tokens.push(token);
        Ok(())
    }

    fn install(&mut self, _: Time, _: &SnapshotMeta, _: &mut Effects<()>) -> Result<(), Superseded> {
        Err(Superseded)
    }

    fn routing(&self) -> Routing {
        let here = Route::Here;
        let routing = Routing { term: Term(TERM), writes: here, reads: here, answers: here };
        self.0.lock().unwrap().routing.unwrap_or(routing)
    }

    fn applies(&self) -> bool {
        !self.0.lock().unwrap().stores_only
    }

    fn deadline(&self) -> Time {
        self.0.lock().unwrap().deadline.unwrap_or(Time(u64::MAX))
    }

    fn status(&self) -> CoreStatus {
        let state = self.0.lock().unwrap();
        CoreStatus {
            node: ME,
            role: Role::Leader,
            term: Term(TERM),
            leader: None,
            log_start: EntryId::ZERO,
            last: state.log.last().map_or(EntryId::ZERO, |entry| entry.id),
            commit: Index(state.committed as u64),
            durable: Index::ZERO,
            log_bytes: state.log.iter().map(Entry::size_bytes).sum(),
            configuration: Configuration::of([ME, B, C].into_iter().chain(state.newcomer)),
            configuration_index: Index::ZERO,
            reads: smr::status::ReadMode::Index,
            peers: Vec::new(),
        }
    }

    fn digest_peers(&self) -> DigestPeers {
        let members: BTreeSet<_> = [ME, B, C].into();
        DigestPeers { majorities_of: vec![members.clone()], members }
    }

    fn committed_from(&self, from: Index, entries_max: usize, max_bytes: usize) -> Vec<Entry> {
        let state = self.0.lock().unwrap();
        let mut left = max_bytes;
        let fits = |position: &usize| {
            let size = state.log[*position].size_bytes();
            let fits = *position as u64 + 1 == from.0 || size <= left;
            left = left.saturating_sub(size);
            fits
        };
        let positions = (from.0 as usize - 1..state.committed).take(entries_max).take_while(fits);
        positions.map(|position| state.log[position].clone()).collect()
    }

    fn message_size_bytes((): &()) -> usize {
        0
    }

    fn is_bulk((): &()) -> bool {
        false
    }

    fn may_wait(_message: &Self::Message) -> bool {
        false
    }

    fn configuration_at(&self, _: Index) -> (Configuration, Index) {
        (Configuration::of([ME, B, C]), Index::ZERO)
    }
}

/// Remembers each command that was applied; a query asks for all of them.
#[derive(Clone, Debug, Default)]
struct Journal(Vec<String>);

impl Image for Journal {
    fn write(&self, output: &mut dyn std::io::Write) -> std::io::Result<()> {
        output.write_all(self.0.join(" ").as_bytes())
    }
}

impl StateMachine for Journal {
    type Image = Journal;

    fn apply(&mut self, _: Index, command: &[u8]) -> Vec<u8> {
        self.0.push(String::from_utf8_lossy(command).into_owned());
        format!("{} was number {}", self.0.last().unwrap(), self.0.len()).into_bytes()
    }

    const COMMANDS_VERSION: u16 = 2;

    fn command_version(command: &[u8]) -> Option<u16> {
        match command.first() {
            Some(b'2') => Some(2),
            Some(b'9') => None,
            _ => Some(1),
        }
    }

    fn frees(command: &[u8]) -> bool {
        command.starts_with(b"free")
    }

    fn query(&self, _: &[u8]) -> Answer {
        Answer::Now(self.0.join(" ").into_bytes())
    }

    fn image(&self) -> Journal {
        self.clone()
    }

    fn restore(_: &mut dyn std::io::Read) -> std::io::Result<Journal> {
        Ok(Journal::default())
    }
}

/// A connection: which of its requests had which outcome, and whether it has no room for answers.
#[derive(Default)]
struct Connection(Mutex<BTreeMap<u64, Outcome>>, AtomicBool);

impl ReplySink for Connection {
    fn deliver(&self, tag: u64, outcome: Outcome) {
        let before = self.0.lock().unwrap().insert(tag, outcome);
        assert!(before.is_none(), "request {tag} was answered twice, first with {before:?}");
    }

    fn has_room(&self) -> bool {
        !self.1.load(Ordering::Relaxed)
    }

    fn deliver_part(&self, _: u64, _: Bytes) -> bool {
        true
    }
}

struct Replica {
    core: Core,
    engine: Engine<Core, Journal>,
    /// Two clients' connections.
    connections: [Arc<Connection>; 2],
}

impl Replica {
    fn new() -> Replica {
        Replica::with_uncommitted_max(UNCOMMITTED_ENTRIES_MAX)
    }

    fn with_uncommitted_max(uncommitted_entries_max: u64) -> Replica {
        Replica::with(uncommitted_entries_max, Portion::default())
    }

    /// One that applies so little at a time.
    fn with_portion(entries_max: usize, max_bytes: usize) -> Replica {
        Replica::with(UNCOMMITTED_ENTRIES_MAX, Portion { entries_max, max_bytes })
    }

    fn with(uncommitted_entries_max: u64, portion: Portion) -> Replica {
        let core = Core::default();
        let engine = Engine::new(EngineStart {
            group: "g".parse().unwrap(),
            service_state: ServiceState::InService,
            healing: None,
            sync_mode: String::new(),
            core: core.clone(),
            admin: Box::new(NoAdmin),
            state: Journal::default(),
            sessions: SessionTable::new(),
            snapshot: EntryId::ZERO,
            snapshot_len_bytes: 0,
            log_limits: LogLimits { snapshot_bytes: SNAPSHOT_BYTES..=SNAPSHOT_BYTES, ..LOG_LIMITS },
            digest_every_entries: DIGEST_EVERY,
            nonce_seed: 1,
            uncommitted_entries_max,
            portion,
        });
        Replica { core, engine, connections: Default::default() }
    }

    /// A replica in whose log session 1 is open, and applied.
    fn with_session() -> (Replica, ClientId) {
        Replica::new().and_session()
    }

    fn and_session(self) -> (Replica, ClientId) {
        let mut replica = self;
        replica.core.append(1, &SessionCommand::Open { nonce: 0 });
        replica.commit_all();
        (replica, ClientId::at(1))
    }

    /// The core has this to say.
    fn happens(&mut self, effects: Effects<()>) {
        self.core.0.lock().unwrap().next.push_back(effects);
        self.engine.durable(Time(1), WriteId(1));
        self.turn_ends();
    }

    fn turn_ends(&mut self) {
        self.engine.work(|| true);
        self.engine.take_actions();
    }

    fn commit_all(&mut self) {
        self.core.commit_up_to(usize::MAX);
        self.turn_ends();
    }

    /// Requests of both connections, numbered by tag, that arrive at once.
    fn ask(&mut self, requests: Vec<(usize, u64, Request)>) {
        let connections = &self.connections;
        let requests = requests.into_iter().map(|(connection, tag, request)| {
            (request, ReplyTo { tag, sink: Arc::clone(&connections[connection]) as Arc<dyn ReplySink> })
        });
        self.engine.requests(Time(1), requests.collect::<Vec<_>>());
        self.turn_ends();
    }

    fn outcome(&self, connection: usize, tag: u64) -> Option<Outcome> {
        self.connections[connection].0.lock().unwrap().get(&tag).cloned()
    }

    fn applied(&self) -> Vec<&str> {
        self.engine.state().0.iter().map(String::as_str).collect()
    }
}

fn write(client: ClientId, number: u64, command: &'static str) -> Request {
    Request::Write { client, number, lowest_unanswered: 1, command: Bytes::from_static(command.as_bytes()) }
}

fn read() -> Request {
    Request::Read { query: Bytes::new() }
}

fn answer(text: &'static str) -> Option<Outcome> {
    Some(Outcome::Answer(Bytes::from_static(text.as_bytes())))
}

fn deposed() -> Effects<()> {
    let event = Event::RoleChanged { role: Role::Follower, term: Term(TERM + 1), leader: Some(NodeId::new(1, 1)) };
    Effects { events: vec![event], ..Effects::default() }
}

// covers R4 R14
#[test]
fn read_confirmed_before_its_entries_are_applied_waits_for_them() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y"))]);
    replica.ask(vec![(1, 1, read())]);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(3) };
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    assert_eq!(replica.outcome(1, 1), None, "nothing of 2 and 3 is applied");
    replica.core.commit_up_to(2);
    replica.turn_ends();
    assert_eq!(replica.outcome(1, 1), None, "3 is not applied");
    replica.commit_all();
    assert_eq!(replica.outcome(1, 1), answer("x y"));
}

// covers R4 I18
#[test]
fn reads_that_wait_when_the_role_is_lost_fail_and_are_never_answered() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.ask(vec![(1, 1, read())]);
    let unconfirmed = replica.core.last_token();
    replica.ask(vec![(1, 2, read())]);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(2) };
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    replica.happens(deposed());
    for tag in [1, 2] {
        assert!(matches!(replica.outcome(1, tag), Some(Outcome::NotLeader(NotLeader { .. }))), "read {tag}");
    }
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown), "the write may yet be committed");
    // It leads again, and what the reads waited for is applied. A second answer would fail in the connection.
    let event = Event::RoleChanged { role: Role::Leader, term: Term(TERM + 2), leader: None };
    replica.happens(Effects { events: vec![event], ..Effects::default() });
    let late = ReadOutcome::Ready { token: unconfirmed, index: Index(1) };
    replica.happens(Effects { reads: vec![late], ..Effects::default() });
    replica.commit_all();
    assert_eq!(replica.applied(), ["x"]);
    assert_eq!(replica.engine.requests_waiting(), 0);
}

// covers C2 I13
#[test]
fn copies_of_a_write_in_one_batch_and_terms_apart_have_one_effect_and_one_answer() {
    let (mut replica, client) = Replica::with_session();
    // The leader takes both: neither is applied yet, nor waits.
    replica.ask(vec![(0, 1, write(client, 1, "x")), (1, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y"))]);
    // This one waits along with another.
    replica.ask(vec![(0, 3, write(client, 1, "x"))]);
    // One more was put into the log by a later leader, to which the client had turned.
    let Request::Write { client, number, lowest_unanswered, command } = write(client, 1, "x") else { unreachable!() };
    replica.core.append(TERM + 1, &SessionCommand::Write { client, number, lowest_unanswered, command });
    replica.commit_all();
    assert_eq!(replica.applied(), ["x", "y"]);
    for (connection, tag) in [(0, 1), (1, 1), (0, 3)] {
        assert_eq!(replica.outcome(connection, tag), answer("x was number 1"), "copy {connection} {tag}");
    }
    assert_eq!(replica.outcome(0, 2), answer("y was number 2"));
    // And on arrival, now that it is applied.
    replica.ask(vec![(1, 9, write(client, 1, "x"))]);
    assert_eq!(replica.outcome(1, 9), answer("x was number 1"));
}

// covers E18: after a pause the news comes first, however long ago the tick was due; but it waits neither for many
// turns nor for long ones.
#[test]
fn tick_that_is_due_waits_for_news_but_neither_for_many_turns_nor_for_long_ones() {
    let Replica { core, engine, .. } = Replica::new();
    let bootstrap_record = BootstrapRecord { genesis: GenesisHash(1), founders: None, cluster: None };
    let mut turns = Turns::new(engine, bootstrap_record, false, WRITES_UNDER_WAY_HIGH);
    core.0.lock().unwrap().deadline = Some(Time(1_000));
    let ticks = || core.0.lock().unwrap().ticks;
    turns.tick_if_due(Time(999), false);
    assert_eq!(ticks(), 0);
    turns.tick_if_due(Time(1_000), false);
    assert_eq!(ticks(), 1, "nothing else has arrived");
    // Short turns after a long pause.
    let mut turns_until_tick = 0;
    while ticks() == 1 {
        turns.tick_if_due(Time(9_000_000 + turns_until_tick), true);
        turns_until_tick += 1;
    }
    assert_eq!(turns_until_tick, 9);
    // Long ones.
    for (now, expected) in [(20_000_000, 2), (20_049_999, 2), (20_050_000, 3)] {
        turns.tick_if_due(Time(now), true);
        assert_eq!(ticks(), expected, "at {now}");
    }
}

// covers D31
#[test]
fn full_disk_refuses_growth_and_takes_what_frees_until_there_is_room() {
    let (mut replica, client) = Replica::with_session();
    replica.engine.disk_is_full(true);
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "free x"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 1), Some(Outcome::DiskFull));
    assert_eq!(replica.outcome(0, 2), answer("free x was number 1"));
    replica.engine.disk_is_full(false);
    replica.ask(vec![(0, 3, write(client, 1, "x"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 3), answer("x was number 2"));
}

// covers D31: no room for the log to be cut is as bad as a full disk, and ends with the next snapshot that succeeds.
#[test]
fn snapshot_without_room_refuses_growth_and_is_tried_again_until_it_succeeds() {
    let (mut replica, client) = Replica::with_session();
    assert!(replica.engine.snapshot_lacks_room(Time(1)));
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "free x"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 1), Some(Outcome::DiskFull));
    assert_eq!(replica.outcome(0, 2), answer("free x was number 1"));
    replica.engine.tick(Time(2));
    let takes = |replica: &mut Replica| {
        let actions = replica.engine.take_actions();
        actions.into_iter().find_map(|action| match action {
            Action::TakeSnapshot(image) => Some(image.meta.last),
            _ => None,
        })
    };
    assert_eq!(takes(&mut replica), None, "too early");
    // With room again it does not wait.
    replica.engine.disk_is_full(false);
    replica.engine.tick(Time(3));
    assert!(takes(&mut replica).is_some());
    assert!(replica.engine.snapshot_lacks_room(Time(4)));
    replica.engine.tick(Time(60_000_000));
    let last = takes(&mut replica).expect("it is tried again");
    replica.engine.snapshot_taken(Time(60_000_000), last, 100);
    replica.ask(vec![(0, 3, write(client, 1, "x"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 3), answer("x was number 2"));
}

// covers C9 I17
#[test]
fn writes_behind_what_earlier_leaders_left_uncommitted_busy_until_it_is_committed() {
    let (mut replica, client) = Replica::with_uncommitted_max(4).and_session();
    // Two leaders were cut off one after the other, each with the same write in its log.
    let Request::Write { number, lowest_unanswered, command, .. } = write(client, 1, "x") else { unreachable!() };
    for term in [TERM - 1, TERM] {
        let command = command.clone();
        replica.core.append(term, &SessionCommand::Write { client, number, lowest_unanswered, command });
    }
    replica.ask((1..=4).map(|number| (0, number, write(client, number, "y"))).collect());
    assert_eq!(replica.core.status().last.index, Index(5), "two of theirs and two more");
    for number in [3, 4] {
        assert_eq!(replica.outcome(0, number), Some(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS }));
    }
    // One that waits already adds nothing.
    replica.ask(vec![(1, 2, write(client, 2, "y"))]);
    assert_eq!(replica.outcome(1, 2), None);
    replica.commit_all();
    assert_eq!(replica.outcome(1, 2), answer("y was number 2"));
    replica.ask(vec![(0, 13, write(client, 3, "y"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 13), answer("y was number 3"));
    assert_eq!(replica.applied(), ["x", "y", "y"]);
}

// covers C2 I13 I17
#[test]
fn copy_of_a_write_that_waits_for_its_commit_waits_along_and_adds_no_entry() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y"))]);
    let entries = replica.core.status().last.index;
    // Its answer is late, so the client asks again and again: a log that commits slowly must not fill with copies.
    for tag in 10..20 {
        replica.ask(vec![(1, tag, write(client, 2, "y")), (1, tag + 100, write(client, 1, "x"))]);
    }
    assert_eq!(replica.core.status().last.index, entries);
    assert_eq!(replica.outcome(1, 10), None);
    // Another command under the number of one that waits is no copy of it.
    replica.ask(vec![(0, 3, write(client, 2, "z"))]);
    replica.commit_all();
    assert_eq!(replica.applied(), ["x", "y"]);
    for tag in 10..20 {
        assert_eq!(replica.outcome(1, tag), answer("y was number 2"));
        assert_eq!(replica.outcome(1, tag + 100), answer("x was number 1"));
    }
    assert!(matches!(replica.outcome(0, 3), Some(Outcome::Refused(_))), "{:?}", replica.outcome(0, 3));
    // Applied, nothing of it waits any more: the next copy is answered on arrival.
    replica.ask(vec![(1, 30, write(client, 2, "y"))]);
    assert_eq!(replica.outcome(1, 30), answer("y was number 2"));
}

// covers C2 C9
#[test]
fn copies_of_a_write_whose_leader_loses_its_role_all_hear_that_its_outcome_is_unknown() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.ask(vec![(1, 1, write(client, 1, "x"))]);
    let lost = Event::RoleChanged { role: Role::Follower, term: Term(TERM + 1), leader: None };
    replica.happens(Effects { events: vec![lost], ..Effects::default() });
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown));
    assert_eq!(replica.outcome(1, 1), Some(Outcome::Unknown));
}

// covers C7 C2
#[test]
fn number_of_a_session_used_by_two_connections_for_two_commands_applies_one_and_refuses_the_other() {
    let (mut replica, client) = Replica::with_session();
    // Both are taken, and only applying them can tell.
    replica.ask(vec![(0, 1, write(client, 1, "x")), (1, 1, write(client, 1, "other"))]);
    // A gap after that is none of its business.
    replica.ask(vec![(1, 2, write(client, 7, "z"))]);
    replica.commit_all();
    assert_eq!(replica.applied(), ["x", "z"]);
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
    assert!(matches!(replica.outcome(1, 1), Some(Outcome::Refused(_))), "{:?}", replica.outcome(1, 1));
    assert_eq!(replica.outcome(1, 2), answer("z was number 2"));
}

// covers L11 C9
#[test]
fn entry_of_another_leader_at_the_place_of_a_waiting_write_is_not_taken_for_it() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    let Request::Write { client, number, lowest_unanswered, command } = write(client, 2, "y") else { unreachable!() };
    let command = SessionCommand::Write { client, number, lowest_unanswered, command };
    replica.core.0.lock().unwrap().log.pop();
    replica.core.append(TERM + 1, &command);
    replica.commit_all();
    assert_eq!(replica.applied(), ["y"]);
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown));
}

// covers L20 I18
#[test]
fn committed_command_of_a_kind_unknown_to_this_build_stops_the_replica_before_it_is_applied() {
    let unknown_to_the_machine = SessionCommand::Idempotent { command: Bytes::from_static(b"9 of a build to come") };
    for unknown in [&[200, 1, 2, 3][..], &[], &[2, 1], &unknown_to_the_machine.encode()] {
        let (mut replica, client) = Replica::with_session();
        replica.ask(vec![(0, 1, write(client, 1, "x"))]);
        replica.core.append_bytes(TERM, Bytes::copy_from_slice(unknown));
        replica.ask(vec![(0, 2, write(client, 2, "y"))]);
        replica.core.commit_up_to(usize::MAX);
        replica.engine.work(|| true);
        let stops: Vec<String> = replica
            .engine
            .take_actions()
            .into_iter()
            .filter_map(|action| match action {
                Action::Stop(why) => Some(why),
                _ => None,
            })
            .collect();
        let [why] = &stops[..] else { panic!("{stops:?}") };
        assert!(
            why.contains("entry 3.t2 cannot be applied") && why.contains("version 1 of the library and 2 of"),
            "{why}"
        );
        assert_eq!(replica.engine.applied().index, Index(2));
        assert!(!replica.engine.has_work(), "it would go on");
        assert_eq!(replica.applied(), ["x"], "what stands after it must not be applied either");
        assert_eq!(replica.outcome(0, 2), Some(Outcome::Unknown));
    }
}

// covers L20
#[test]
fn command_of_a_new_kind_is_proposed_only_once_every_member_applies_it() {
    let (mut replica, client) = Replica::with_session();
    let (of_1, of_2) = (CommandVersions::FIRST, CommandVersions::with_machine(2));
    let mut tag = 0;
    let mut is_taken = |replica: &mut Replica| {
        tag += 1;
        let entries = replica.core.status().last.index;
        replica.ask(vec![(0, tag, write(client, tag, "2 is new"))]);
        let taken = replica.core.status().last.index > entries;
        if !taken {
            let said = replica.outcome(0, tag);
            assert!(matches!(&said, Some(Outcome::Refused(why)) if why.contains("upgraded")), "{said:?}");
        }
        taken
    };
    assert!(!is_taken(&mut replica), "no one was heard");
    replica.engine.peer_applies(B, of_2);
    assert!(!is_taken(&mut replica), "C was not heard");
    replica.engine.peer_applies(C, of_1);
    assert!(!is_taken(&mut replica), "C runs the older build");
    replica.engine.peer_applies(NodeId::new(2, 9), of_2);
    assert!(!is_taken(&mut replica), "that is another incarnation, which is no member");
    replica.engine.peer_applies(C, of_2);
    assert!(is_taken(&mut replica));
    replica.engine.peer_applies(B, of_1);
    assert!(!is_taken(&mut replica), "B went back to the older build");
    // Known everywhere, or nowhere.
    replica.ask(vec![(0, 100, write(client, 100, "x")), (0, 101, write(client, 101, "9 is unknown"))]);
    assert!(matches!(replica.outcome(0, 101), Some(Outcome::Refused(_))));
    assert_eq!(replica.outcome(0, 100), None);
}

// covers L20
#[test]
fn versions_of_a_newcomer_that_was_met_before_it_became_a_member_are_known() {
    let (mut replica, client) = Replica::with_session();
    let newcomer = NodeId::new(3, 1);
    for peer in [newcomer, B, C] {
        replica.engine.peer_applies(peer, CommandVersions::with_machine(2));
    }
    replica.core.0.lock().unwrap().newcomer = Some(newcomer);
    replica.ask(vec![(0, 1, write(client, 1, "2 is new"))]);
    assert_eq!(replica.outcome(0, 1), None, "it is proposed");
}

// covers L20
#[test]
fn version_of_an_applied_command_stays_open_after_a_restart_while_members_are_down() {
    let image_of = |table: &SessionTable| {
        let mut image = Vec::new();
        table.image().write(&mut image).unwrap();
        image
    };
    let (mut replica, client) = Replica::with_session();
    assert!(image_of(replica.engine.sessions()).starts_with(b"SES2"), "older builds read it");
    let of_2 = CommandVersions::with_machine(2);
    for peer in [B, C] {
        replica.engine.peer_applies(peer, of_2);
    }
    replica.ask(vec![(0, 1, write(client, 1, "2 is new"))]);
    replica.commit_all();

    let mut restarted = Replica::new();
    let log = replica.core.0.lock().unwrap().log.clone();
    restarted.core.0.lock().unwrap().log = log;
    restarted.commit_all();
    restarted.ask(vec![(0, 1, write(client, 2, "2 as well"))]);
    assert_eq!(restarted.outcome(0, 1), None, "it is proposed");

    let image = image_of(restarted.engine.sessions());
    let restored = SessionTable::restore(&mut &image[..]).unwrap();
    assert_eq!(restored.open_versions(), of_2, "the log may be cut");
    assert_eq!(image_of(&restored), image);
}

// covers C7
#[test]
fn repeat_of_a_write_is_answered_also_when_its_kind_would_not_be_proposed_any_more() {
    let (mut replica, client) = Replica::with_session();
    let (of_1, of_2) = (CommandVersions::FIRST, CommandVersions::with_machine(2));
    for peer in [B, C] {
        replica.engine.peer_applies(peer, of_2);
    }
    replica.ask(vec![(0, 1, write(client, 1, "2 is new"))]);
    replica.engine.peer_applies(B, of_1);
    // It waits along, on another connection.
    replica.ask(vec![(1, 1, write(client, 1, "2 is new"))]);
    assert_eq!(replica.outcome(1, 1), None);
    replica.commit_all();
    replica.ask(vec![(1, 2, write(client, 1, "2 is new"))]);
    let answer = Some(Outcome::Answer(Bytes::from_static(b"2 is new was number 1")));
    assert_eq!([(0, 1), (1, 1), (1, 2)].map(|(at, tag)| replica.outcome(at, tag)), [(); 3].map(|()| answer.clone()));
}

/// The hash that a replica takes of its state after entry 4, and the replica, which has just told the others.
fn hashed(third: &'static str) -> (Replica, StateDigest) {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y")), (0, 3, write(client, 3, third))]);
    // What is applied after the entry is none of the hash's business.
    replica.ask(vec![(0, 4, write(client, 4, "later"))]);
    replica.core.commit_up_to(usize::MAX);
    replica.engine.work(|| true);
    let taken = replica.engine.take_actions().into_iter().find_map(|action| match action {
        Action::TakeDigest(image) => Some(StateDigest::over(image.meta.last.index, |output| image.write_whole(output))),
        _ => None,
    });
    let digest = taken.expect("entry 4 is due");
    assert_eq!(digest.index, Index(DIGEST_EVERY));
    replica.engine.digest_taken(digest);
    let told = replica.engine.take_actions().into_iter().filter_map(|action| match action {
        Action::SendDigest(to, digest) => Some((to, digest)),
        _ => None,
    });
    assert_eq!(told.collect::<Vec<_>>(), [(B, digest), (C, digest)]);
    assert_eq!(replica.engine.status().digest, Some(digest));
    (replica, digest)
}

/// What a replica says and does when it hears the hashes of two others.
fn heard(replica: &mut Replica, hashes: [StateDigest; 2]) -> (Vec<String>, Vec<String>) {
    let (mut quarantines, mut reports) = (Vec::new(), Vec::new());
    for (from, digest) in [B, C].into_iter().zip(hashes) {
        replica.engine.digest_heard(from, digest);
        for action in replica.engine.take_actions() {
            match action {
                Action::Quarantine(why) => quarantines.push(why),
                Action::Report(line) => reports.push(line),
                _ => {}
            }
        }
    }
    (quarantines, reports)
}

// covers L17 I7
#[test]
fn state_unlike_that_of_a_majority_puts_the_replica_into_quarantine_at_the_next_comparison() {
    let ((mut odd, wrong), (mut sound, right)) = (hashed("z"), hashed("Z"));
    assert_ne!(wrong, right, "the states differ by one bit");
    let (quarantines, _) = heard(&mut odd, [right; 2]);
    assert!(matches!(&quarantines[..], [why] if why.contains("differs from that of a majority")), "{quarantines:?}");
    let (quarantines, reports) = heard(&mut sound, [right, wrong]);
    assert_eq!(quarantines, Vec::<String>::new(), "those who agree go on");
    assert!(matches!(&reports[..], [line] if line.contains("differ")), "and say who does not: {reports:?}");
    let (mut equal, digest) = hashed("z");
    assert_eq!(heard(&mut equal, [digest; 2]), (Vec::new(), Vec::new()));
}

/// What a portion leaves of what is committed.
fn backlog(replica: &Replica) -> u64 {
    replica.core.status().commit.0 - replica.engine.applied().index.0
}

// covers L21
#[test]
fn backlog_is_applied_over_many_turns_and_what_is_due_leaves_between_them() {
    const WRITES: u64 = 1_000;
    let (mut replica, client) = Replica::with_portion(64, usize::MAX).and_session();
    for number in 1..=WRITES {
        let command = Bytes::from(vec![b'x'; 100]);
        replica.core.append(1, &SessionCommand::Write { client, number, lowest_unanswered: 1, command });
    }
    replica.core.commit_up_to(usize::MAX);
    let mut turns = 0;
    while replica.engine.has_work() {
        let before = backlog(&replica);
        let heartbeat = Envelope { to: B, message: () };
        replica.core.0.lock().unwrap().next.push_back(Effects { messages: vec![heartbeat], ..Effects::default() });
        replica.engine.tick(Time(turns));
        replica.engine.work(|| false);
        let sent = replica.engine.take_actions().into_iter().filter(|action| matches!(action, Action::Send(_)));
        assert_eq!(sent.count(), 1, "turn {turns}: a heartbeat waited for {before} entries");
        assert_eq!(backlog(&replica), before.saturating_sub(64), "turn {turns}");
        turns += 1;
    }
    assert_eq!(turns, WRITES.div_ceil(64));
    assert_eq!(replica.applied().len(), WRITES as usize);
}

// covers L21
#[test]
fn portion_is_bounded_in_bytes_and_a_larger_entry_goes_alone() {
    let mut replica = Replica::with_portion(100, 1_000);
    for len in [300, 300, 300, 5_000, 300] {
        replica.core.append(1, &SessionCommand::Idempotent { command: Bytes::from(vec![b'x'; len]) });
    }
    replica.core.commit_up_to(usize::MAX);
    let mut lengths = Vec::new();
    while replica.engine.has_work() {
        let before = replica.applied().len();
        replica.engine.work(|| false);
        lengths.push(replica.applied().len() - before);
    }
    assert_eq!(lengths, [2, 1, 1, 1], "entries of about 340 bytes, and one that is larger than a portion");
    // With time left, it goes on.
    replica.core.append(1, &SessionCommand::Idempotent { command: Bytes::from(vec![b'x'; 5_000]) });
    replica.core.append(1, &SessionCommand::Idempotent { command: Bytes::from(vec![b'x'; 5_000]) });
    replica.commit_all();
    assert_eq!((replica.applied().len(), backlog(&replica)), (7, 0));
}

// covers R14 L21
#[test]
fn read_confirmed_in_the_middle_of_a_backlog_is_answered_behind_it_and_in_order() {
    let (mut replica, client) = Replica::with_portion(1, usize::MAX).and_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y")), (0, 3, write(client, 3, "z"))]);
    replica.core.commit_up_to(usize::MAX);
    let mut ready = Vec::new();
    for (tag, index) in [(1, 3), (2, 2), (3, 4)] {
        let reply = ReplyTo { tag, sink: Arc::clone(&replica.connections[1]) as Arc<dyn ReplySink> };
        replica.engine.requests(Time(1), [(read(), reply)]);
        ready.push(ReadOutcome::Ready { token: replica.core.last_token(), index: Index(index) });
    }
    replica.core.0.lock().unwrap().next.push_back(Effects { reads: ready, ..Effects::default() });
    replica.engine.durable(Time(1), WriteId(1));
    let mut answered = Vec::new();
    while replica.engine.has_work() {
        replica.engine.work(|| false);
        replica.engine.take_actions();
        answered.push([1, 2, 3].map(|tag| replica.outcome(1, tag)));
    }
    let both = || answer("x y");
    assert_eq!(
        answered,
        [[None, None, None], [both(), both(), None], [both(), both(), answer("x y z")]],
        "the second one came later than the first, and waits for no less"
    );
    assert_eq!(replica.engine.requests_waiting(), 0);
}

// covers L21 C9: what is committed has its true answer, also from a leader that has lost its role meanwhile.
#[test]
fn writes_committed_and_not_applied_when_the_role_is_lost_have_their_answers_and_later_ones_are_unknown() {
    let (mut replica, client) = Replica::with_portion(1, usize::MAX).and_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y")), (0, 3, write(client, 3, "z"))]);
    replica.ask(vec![(1, 2, write(client, 2, "y")), (1, 3, write(client, 3, "z"))]);
    replica.core.commit_up_to(3);
    replica.core.0.lock().unwrap().next.push_back(deposed());
    replica.engine.durable(Time(1), WriteId(1));
    assert_eq!(replica.outcome(0, 1), None, "committed, and not applied yet");
    for connection in [0, 1] {
        assert_eq!(replica.outcome(connection, 3), Some(Outcome::Unknown), "the write may yet be committed");
    }
    replica.turn_ends();
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
    for connection in [0, 1] {
        assert_eq!(replica.outcome(connection, 2), answer("y was number 2"));
    }
    assert_eq!(replica.engine.requests_waiting(), 0);
}

// covers L22
#[test]
fn snapshot_in_a_backlog_ends_with_what_is_applied_and_none_is_taken_in_the_middle_of_a_large_one() {
    let mut replica = Replica::with_portion(4, usize::MAX);
    for _ in 0..40 {
        let command = Bytes::from(vec![b'x'; SNAPSHOT_BYTES / 20]);
        replica.core.append(1, &SessionCommand::Idempotent { command });
    }
    replica.core.commit_up_to(usize::MAX);
    let mut taken = Vec::new();
    while replica.engine.has_work() {
        replica.engine.work(|| false);
        for action in replica.engine.take_actions() {
            if let Action::TakeSnapshot(image) = action {
                assert_eq!(image.meta.last, replica.engine.applied());
                assert_eq!(image.state.0.len() as u64, image.meta.last.index.0);
                taken.push(image.meta.last.index.0);
            }
        }
    }
    assert_eq!(taken, [36], "each one before would have been followed by the next at once");
}

// covers L23
#[test]
fn entry_that_puts_the_replica_into_quarantine_is_the_last_one_that_it_applies() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    {
        let mut core = replica.core.0.lock().unwrap();
        let id = EntryId::new(core.log.len() as u64 + 1, TERM);
        let successor = NodeId::new(ME.name.0, 2);
        core.log.push(Entry { id, payload: Payload::Configuration(Configuration::of([successor, B, C])) });
    }
    replica.ask(vec![(0, 2, write(client, 2, "y")), (1, 1, read())]);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(4) };
    replica.core.commit_up_to(usize::MAX);
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    assert!(replica.engine.is_quarantined());
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
    assert_eq!(replica.outcome(0, 2), Some(Outcome::Unknown));
    assert!(matches!(replica.outcome(1, 1), Some(Outcome::NotLeader(_))), "{:?}", replica.outcome(1, 1));
    assert_eq!((replica.applied(), replica.engine.applied().index), (vec!["x"], Index(3)));
    assert!(!replica.engine.has_work(), "what is committed stays as it is");
    replica.turn_ends();
    assert_eq!(replica.applied(), ["x"]);
}

/// Bytes of answers that have reached the connections.
fn answered_bytes(replica: &Replica) -> usize {
    let outcomes = |connection: &Arc<Connection>| {
        let outcomes = connection.0.lock().unwrap();
        let bytes = outcomes.values().map(|outcome| match outcome {
            Outcome::Answer(answer) => answer.len(),
            _ => 0,
        });
        bytes.sum::<usize>()
    };
    replica.connections.iter().map(outcomes).sum()
}

// covers B13: one client that asks for large values again and again does not make a turn long, nor memory full.
#[test]
fn answers_of_a_turn_are_bounded_in_bytes_those_of_reads_and_those_of_writes() {
    const LARGE: usize = 1 << 20;
    const COUNT: usize = 20;
    let (mut replica, client) = Replica::with_session();
    let large = || Bytes::from(vec![b'x'; LARGE]);
    let write = |number| Request::Write { client, number, lowest_unanswered: 1, command: large() };
    replica.ask((1..=COUNT as u64).map(|number| (0, number, write(number))).collect());
    replica.core.commit_up_to(usize::MAX);
    let turns = |replica: &mut Replica| {
        let (mut turns, mut before) = (0, answered_bytes(replica));
        while replica.engine.has_work() {
            replica.turn_ends();
            let now = answered_bytes(replica);
            assert!(
                now - before <= ANSWERS_PER_TURN_MAX_BYTES + 2 * LARGE,
                "a turn gave {} bytes of answers",
                now - before
            );
            (turns, before) = (turns + 1, now);
        }
        turns
    };
    assert!(turns(&mut replica) >= COUNT * LARGE / (ANSWERS_PER_TURN_MAX_BYTES + LARGE));
    assert_eq!(replica.applied().len(), COUNT);
    // Each answer to a read is all that was ever written.
    let (mut replica, client) = Replica::with_session();
    let write = Request::Write { client, number: 1, lowest_unanswered: 1, command: large() };
    replica.ask(vec![(0, 1, write)]);
    replica.commit_all();
    replica.ask((1..=COUNT as u64).map(|tag| (1, tag, read())).collect());
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(2) };
    replica.core.0.lock().unwrap().next.push_back(Effects { reads: vec![ready], ..Effects::default() });
    replica.engine.durable(Time(1), WriteId(1));
    assert!(turns(&mut replica) >= COUNT * LARGE / (ANSWERS_PER_TURN_MAX_BYTES + LARGE));
    for tag in 1..=COUNT as u64 {
        assert!(matches!(replica.outcome(1, tag), Some(Outcome::Answer(bytes)) if bytes.len() == LARGE), "read {tag}");
    }
}

// covers B13
#[test]
fn read_of_a_connection_without_room_for_answers_is_busy_and_others_are_answered() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.commit_all();
    replica.connections[1].1.store(true, Ordering::Relaxed);
    replica.ask(vec![(1, 1, read()), (0, 2, read())]);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(2) };
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    assert_eq!(replica.outcome(1, 1), Some(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS }));
    assert_eq!(replica.outcome(0, 2), answer("x"));
}

/// A replica whose core says where requests go.
fn routed(writes: Route, reads: Route, answers: Route) -> (Replica, ClientId) {
    let (replica, client) = Replica::with_session();
    replica.core.0.lock().unwrap().routing = Some(Routing { term: Term(TERM), writes, reads, answers });
    (replica, client)
}

// A replica that orders nothing may still take reads (each complete member of a chain does), or the reverse.
#[test]
fn requests_go_where_the_core_says_for_each_kind_alone() {
    let there = Route::There(Some(B.name));
    let elsewhere = Some(Outcome::NotLeader(NotLeader { leader: Some(B.name), term: Term(TERM) }));
    let (mut replica, client) = routed(there, Route::Here, Route::Here);
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, read())]);
    assert_eq!(replica.outcome(0, 1), elsewhere);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(1) };
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    assert_eq!(replica.outcome(0, 2), answer(""));

    let (mut replica, client) = routed(Route::Here, there, Route::Here);
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, read())]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
    assert_eq!(replica.outcome(0, 2), elsewhere);
}

// covers C9: who is not to answer must not claim an outcome either way; the session has the answer for whoever is.
#[test]
fn write_that_another_replica_answers_has_an_unknown_outcome_here() {
    let (mut replica, client) = routed(Route::Here, Route::Here, Route::There(Some(C.name)));
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.commit_all();
    assert_eq!(replica.applied(), ["x"]);
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown));
}

// A warm backup keeps the log; when it takes over, it applies what it has kept.
#[test]
fn replica_that_does_not_apply_keeps_what_is_committed_until_it_does() {
    let (mut replica, client) = Replica::with_session();
    replica.core.0.lock().unwrap().stores_only = true;
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.commit_all();
    assert!(replica.applied().is_empty() && replica.outcome(0, 1).is_none());
    assert!(!replica.engine.has_work());
    replica.core.0.lock().unwrap().stores_only = false;
    assert!(replica.engine.has_work());
    replica.turn_ends();
    assert_eq!(replica.applied(), ["x"]);
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
}
