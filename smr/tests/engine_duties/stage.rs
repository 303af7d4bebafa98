//! A core that says what it is told to, a state machine that keeps a journal, and a replica's logic between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use smr::entry::{Configuration, Entry, EntryId, Index, Payload, SnapshotMeta, Term};
use smr::id::{ClientId, NodeId};
use smr::internals::admin::{Admin, AdminContext, AdminRequest};
use smr::internals::engine::{Engine, EngineStart, LOG_LIMITS, LogLimits, Portion, UNCOMMITTED_ENTRIES_MAX};
use smr::internals::protocol::{
    CheckpointFit, CheckpointName, CoreStatus, DigestPeers, Effects, Event, Input, NotHere, Protocol, ReadToken, Route,
    Routing, Superseded, Time, WriteId,
};
use smr::internals::session::{SessionCommand, SessionTable};
use smr::replica::{Outcome, ReplySink, ReplyTo, Request};
use smr::state_machine::{Answer, Image, StateMachine};
use smr::status::{Role, ServiceState};

pub(crate) const TERM: u64 = 2;
pub(crate) const ME: NodeId = NodeId::new(0, 1);
pub(crate) const B: NodeId = NodeId::new(1, 1);
pub(crate) const C: NodeId = NodeId::new(2, 1);
/// A snapshot is taken when the log has this many bytes.
pub(crate) const SNAPSHOT_BYTES: usize = 1 << 20;
/// At multiples of this index the state is hashed.
pub(crate) const DIGEST_EVERY: u64 = 4;

/// A leader that appends what it is given, and otherwise says what the test told it to.
#[derive(Clone, Default)]
pub(crate) struct Core(pub Arc<Mutex<CoreState>>);

#[derive(Default)]
pub(crate) struct CoreState {
    pub log: Vec<Entry>,
    pub committed: usize,
    pub tokens: Vec<ReadToken>,
    pub next: VecDeque<Effects<()>>,
    pub ticks: usize,
    pub deadline: Option<Time>,
    /// Where requests go; all of them here if nothing is said.
    pub routing: Option<Routing>,
    /// It does not apply what is committed.
    pub stores_only: bool,
    /// It keeps what another one orders.
    pub keeps_writes: bool,
    /// A learner that was not there at first.
    pub newcomer: Option<NodeId>,
}

/// A kind of group whose operators are refused everything.
pub(crate) struct NoAdmin;

impl Admin<Core> for NoAdmin {
    fn begin(&mut self, _: AdminContext<'_, Core>, _: AdminRequest, reply: ReplyTo) {
        reply.send(Outcome::Refused("not here".to_owned()));
    }

    /// As operators of a group that changes its members by its own log.
    fn needs_confirmation(&self, request: &AdminRequest) -> bool {
        matches!(request, AdminRequest::Scale { .. })
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
    pub(crate) fn append(&self, term: u64, command: &SessionCommand) {
        self.append_bytes(term, command.encode());
    }

    pub(crate) fn append_bytes(&self, term: u64, bytes: Bytes) {
        let mut state = self.0.lock().unwrap();
        let id = EntryId::new(state.log.len() as u64 + 1, term);
        state.log.push(Entry { id, payload: Payload::Command(bytes) });
    }

    /// All entries are committed, or this many.
    pub(crate) fn commit_up_to(&self, most: usize) {
        let mut state = self.0.lock().unwrap();
        state.committed = state.log.len().min(most);
    }

    pub(crate) fn last_token(&self) -> ReadToken {
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

    fn keeps_writes(&self) -> bool {
        self.0.lock().unwrap().keeps_writes
    }

    fn makes_checkpoints(&self) -> bool {
        true
    }

    /// As the core of such groups does; the primary is [`B`].
    fn judge_checkpoint(&self, from: NodeId, name: &CheckpointName, applied: EntryId) -> CheckpointFit {
        let is_known = self.0.lock().unwrap().log.iter().any(|entry| entry.id == name.end);
        let is_primarys = from == B && name.epoch == self.routing().term && !self.applies();
        if !is_primarys || !is_known || name.end.index <= applied.index {
            CheckpointFit::Drop
        } else if name.base == applied {
            CheckpointFit::Apply
        } else if name.base.index > applied.index {
            CheckpointFit::ReplayTo(name.base)
        } else {
            CheckpointFit::WholeWanted
        }
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
            leader: Some(B),
            log_start: EntryId::ZERO,
            last: state.log.last().map_or(EntryId::ZERO, |entry| entry.id),
            commit: Index(state.committed as u64),
            durable: Index::ZERO,
            log_bytes: state.log.iter().map(Entry::size_bytes).sum(),
            configuration: Configuration {
                learners: state.newcomer.into_iter().collect(),
                ..Configuration::of([ME, B, C])
            },
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
pub(crate) struct Journal(pub Vec<String>);

impl Image for Journal {
    fn write(&self, output: &mut dyn std::io::Write) -> std::io::Result<()> {
        output.write_all(self.0.join(" ").as_bytes())
    }

    /// The commands since then: from another base they lead to another journal.
    fn write_difference(&self, base: &Journal, output: &mut dyn std::io::Write) -> std::io::Result<bool> {
        assert!(self.0.starts_with(&base.0), "{self:?} does not come of {base:?}");
        self.0[base.0.len()..].iter().try_for_each(|command| output.write_all(format!("{command}\n").as_bytes()))?;
        Ok(true)
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

    fn advance(image: Journal, difference: &mut dyn std::io::Read) -> std::io::Result<Journal> {
        let (mut journal, mut text) = (image, String::new());
        difference.read_to_string(&mut text)?;
        journal.0.extend(text.lines().map(str::to_owned));
        Ok(journal)
    }
}

/// A connection: which of its requests had which outcome, and whether it has no room for answers.
#[derive(Default)]
pub(crate) struct Connection(pub Mutex<BTreeMap<u64, Outcome>>, pub AtomicBool);

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

pub(crate) struct Replica {
    pub core: Core,
    pub engine: Engine<Core, Journal>,
    /// Two clients' connections.
    pub connections: [Arc<Connection>; 2],
}

impl Replica {
    pub(crate) fn new() -> Replica {
        Replica::with_uncommitted_max(UNCOMMITTED_ENTRIES_MAX)
    }

    pub(crate) fn with_uncommitted_max(uncommitted_entries_max: u64) -> Replica {
        Replica::with(uncommitted_entries_max, Portion::default())
    }

    /// One that applies so little at a time.
    pub(crate) fn with_portion(entries_max: usize, max_bytes: usize) -> Replica {
        Replica::with(UNCOMMITTED_ENTRIES_MAX, Portion { entries_max, max_bytes })
    }

    pub(crate) fn with(uncommitted_entries_max: u64, portion: Portion) -> Replica {
        Replica::hashed(uncommitted_entries_max, portion, DIGEST_EVERY)
    }

    /// One whose state is hashed at multiples of this index.
    pub(crate) fn hashed(uncommitted_entries_max: u64, portion: Portion, digest_every_entries: u64) -> Replica {
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
            digest_every_entries,
            nonce_seed: 1,
            uncommitted_entries_max,
            portion,
        });
        Replica { core, engine, connections: Default::default() }
    }

    /// A replica in whose log session 1 is open, and applied.
    pub(crate) fn with_session() -> (Replica, ClientId) {
        Replica::new().and_session()
    }

    pub(crate) fn and_session(self) -> (Replica, ClientId) {
        let mut replica = self;
        replica.core.append(1, &SessionCommand::Open { nonce: 0 });
        replica.commit_all();
        (replica, ClientId::at(1))
    }

    /// The core has this to say.
    pub(crate) fn happens(&mut self, effects: Effects<()>) {
        self.core.0.lock().unwrap().next.push_back(effects);
        self.engine.durable(Time(1), WriteId(1));
        self.turn_ends();
    }

    pub(crate) fn turn_ends(&mut self) {
        self.engine.work(|_| true);
        self.engine.take_actions();
    }

    pub(crate) fn commit_all(&mut self) {
        self.core.commit_up_to(usize::MAX);
        self.turn_ends();
    }

    /// Requests of both connections, numbered by tag, that arrive at once.
    pub(crate) fn ask(&mut self, requests: Vec<(usize, u64, Request)>) {
        let connections = &self.connections;
        let requests = requests.into_iter().map(|(connection, tag, request)| {
            (request, ReplyTo { tag, sink: Arc::clone(&connections[connection]) as Arc<dyn ReplySink> })
        });
        self.engine.requests(Time(1), requests.collect::<Vec<_>>());
        self.turn_ends();
    }

    pub(crate) fn outcome(&self, connection: usize, tag: u64) -> Option<Outcome> {
        self.connections[connection].0.lock().unwrap().get(&tag).cloned()
    }

    pub(crate) fn applied(&self) -> Vec<&str> {
        self.engine.state().0.iter().map(String::as_str).collect()
    }
}

pub(crate) fn write(client: ClientId, number: u64, command: &'static str) -> Request {
    Request::Write { client, number, lowest_unanswered: 1, command: Bytes::from_static(command.as_bytes()) }
}

pub(crate) fn read() -> Request {
    Request::Read { query: Bytes::new() }
}

pub(crate) fn answer(text: &'static str) -> Option<Outcome> {
    Some(Outcome::Answer(Bytes::from_static(text.as_bytes())))
}

pub(crate) fn deposed() -> Effects<()> {
    let event = Event::RoleChanged { role: Role::Follower, term: Term(TERM + 1), leader: Some(NodeId::new(1, 1)) };
    Effects { events: vec![event], ..Effects::default() }
}

// covers R4 R14
