//! One TCP connection, shared by all requests to one replica.
//!
//! A single task reads and writes. The writer takes everything that waits and writes it at once; batches form by
//! themselves while a write is under way, and a lone request waits for nothing. Requests may be queued before the
//! connection exists: they leave right behind the greeting.
//!
//! It begins with the range of versions that this build speaks. A replica of a build that knows no ranges refuses that,
//! and has then taken nothing: everything is sent to it once more, on another socket and after a greeting of its
//! version. Requests that not every build knows wait until the version is agreed upon; if it is too old for them, they
//! are refused here, with a reason that says so.
//!
//! When a connection ends each request on it hears whether it may have left: one that the writer had not taken yet can
//! still be withdrawn, and is certainly not done (fault catalogue C9).

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use smr::codec::{self, FRAME_PAYLOAD_MAX_BYTES};
use smr::internals::reach;
use smr::wire::{self, Frame, FrameReader, WireError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::limits::{CONNECT_TIMEOUT, CONNECTION_DEAD, CONNECTION_OUT_MAX_BYTES, LATE_MAX, WELCOME_TIMEOUT};
use crate::client::{Context, lock};
use crate::frames::{
    self, ClientRequest, ClientResponse, Hello, HelloFields, KIND_HELLO, KIND_RANGED_HELLO, KIND_RANGED_WELCOME,
    KIND_REFUSAL, KIND_REQUEST, KIND_RESPONSE, KIND_WELCOME, MAGIC, Map, RangedHello, RangedWelcome, Refusal,
    RequestFrame, ResponseFrame, Service, VERSION_BEFORE_RANGES, Welcome, WelcomeFields, is_before_ranges, needs_newer,
};

/// A write buffer above this is given back after use, in bytes.
const WRITE_BUFFER_KEEP_BYTES: usize = 1 << 20;

/// What became of a copy.
#[derive(Debug)]
pub enum Event<M> {
    /// An answer came.
    Reply(ClientResponse<M>),
    /// The connection ended before an answer came.
    Broken {
        /// Whether the copy may have reached the other side.
        sent: bool,
    },
}

/// An event and the copy that it concerns.
#[derive(Debug)]
pub struct CopyEvent<M> {
    /// The copy, by the number that its exchange gave it.
    pub copy: u32,
    /// What became of that copy. Apart, because a queue makes room for many at once.
    pub event: Box<Event<M>>,
}

/// Where the events of a request's copies go. Each copy sends one, except for the parts of a SCAN, which the receiver
/// collects anyway; so the queue needs no bound of its own.
pub type EventSender<M> = mpsc::UnboundedSender<CopyEvent<M>>;

/// A connection, from the attempt to its end.
pub struct Connection<M: Map> {
    context: Arc<Context>,
    address: String,
    service: Service,
    /// The replica's number in traces.
    number: usize,
    /// Of its group: whether writes go to all replicas. Set once a replica says so.
    sends_to_all: Arc<AtomicBool>,
    /// Which of the address's addresses answered, over TCP.
    reached: OnceLock<SocketAddr>,
    state: Mutex<State<M>>,
    wake: Notify,
}

struct State<M> {
    /// Frames that wait to be written.
    out: Vec<u8>,
    /// Requests that were written and may have to be written once more, after another greeting. `None` once the other
    /// side has welcomed us, or there is no other greeting left.
    early: Option<Vec<u8>>,
    /// Requests that not every build knows, until the version is known: their numbers, the versions that they need, and
    /// their frames.
    held: Vec<(u64, u16, Vec<u8>)>,
    /// In the order of the numbers, so that those who wait hear of the end in the order in which they came.
    pending: BTreeMap<u64, Pending<M>>,
    /// The number of the last request.
    last_id: u64,
    /// The number of the last request that the writer took; those up to it may have left.
    taken_id: u64,
    welcomed: bool,
    /// What both sides speak, once welcomed.
    version: u16,
    end: Option<End>,
    /// Requests that ended without this connection's answer. Kept while tracing, and where another replica answered.
    late: VecDeque<Late>,
}

/// A request whose answer, should it come, is discarded.
struct Late {
    id: u64,
    /// Its number in traces.
    number: u32,
    /// [`answer_hash`] of the answer that ended it.
    answer: Option<u64>,
}

/// Tells answers apart that should be equal.
pub(crate) fn answer_hash(answer: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(answer);
    hasher.finish()
}

/// A request that waits for its answer.
struct Pending<M> {
    events: EventSender<M>,
    copy: u32,
    /// Where its frame lies in `out`, until the writer takes it.
    start: usize,
    end: usize,
    /// When it was written, all of it.
    written_at: Option<Instant>,
}

/// How a connection ended.
#[derive(Clone)]
pub(crate) struct End {
    /// Whether the other side had welcomed us.
    pub(crate) welcomed: bool,
    /// For a person to read.
    pub(crate) why: String,
}

/// A request handed to a connection. Dropping it ends the interest in the answer.
pub struct Posted<M: Map> {
    connection: Arc<Connection<M>>,
    id: u64,
    /// Its number in traces; 0 for none.
    pub(crate) number: u32,
    /// Of the answer that another replica has given.
    answer: Option<u64>,
}

impl<M> Default for State<M> {
    fn default() -> State<M> {
        State {
            out: Vec::new(),
            early: Some(Vec::new()),
            held: Vec::new(),
            pending: BTreeMap::new(),
            last_id: 0,
            taken_id: 0,
            welcomed: false,
            version: VERSION_BEFORE_RANGES,
            end: None,
            late: VecDeque::new(),
        }
    }
}

impl<M: Map> Connection<M> {
    /// Starts to connect, and returns at once.
    pub(crate) fn open(
        context: Arc<Context>,
        address: String,
        service: Service,
        number: usize,
        sends_to_all: Arc<AtomicBool>,
    ) -> Arc<Connection<M>> {
        let (reached, state, wake) = (OnceLock::new(), Mutex::default(), Notify::new());
        let connection = Connection { context, address, service, number, sends_to_all, reached, state, wake };
        let connection = Arc::new(connection);
        tokio::spawn(Arc::clone(&connection).run());
        connection
    }

    /// Queues a request. `None` if the connection has ended, or too much waits already.
    pub fn post(
        self: &Arc<Connection<M>>,
        ask: ClientRequest,
        epoch: u64,
        events: &EventSender<M>,
        copy: u32,
    ) -> Option<Posted<M>> {
        self.post_numbered(ask, epoch, events, copy, 0)
    }

    /// Queues a request that consoles call `number`.
    pub(crate) fn post_numbered(
        self: &Arc<Connection<M>>,
        ask: ClientRequest,
        epoch: u64,
        events: &EventSender<M>,
        copy: u32,
        number: u32,
    ) -> Option<Posted<M>> {
        let mut state = lock(&self.state);
        let held_bytes: usize = state.held.iter().map(|(_, _, frame)| frame.len()).sum();
        let waiting_bytes = state.out.len() + held_bytes + state.early.as_ref().map_or(0, Vec::len);
        if state.end.is_some() || waiting_bytes > CONNECTION_OUT_MAX_BYTES {
            return None;
        }
        let named = self.context.names.client().is_some();
        let Some(id) = frames::next_id(state.last_id, named.then_some(number)) else {
            drop(state);
            self.close("all numbers of the connection are used", true);
            return None;
        };
        state.last_id = id;
        let needs = ask.version();
        let mut request = Pending { events: events.clone(), copy, start: 0, end: 0, written_at: None };
        if state.welcomed && needs > state.version {
            request.tell(Event::Reply(ClientResponse::Refused(needs_newer(needs, state.version))));
            drop(state);
            return Some(Posted { connection: Arc::clone(self), id, number, answer: None });
        }
        let frame = RequestFrame { id, epoch, ask };
        if !state.welcomed && needs > VERSION_BEFORE_RANGES {
            let mut bytes = Vec::new();
            append(&mut bytes, KIND_REQUEST, &frame);
            state.held.push((id, needs, bytes));
        } else {
            request.start = state.out.len();
            append(&mut state.out, KIND_REQUEST, &frame);
            request.end = state.out.len();
        }
        state.pending.insert(id, request);
        drop(state);
        self.wake.notify_one();
        Some(Posted { connection: Arc::clone(self), id, number, answer: None })
    }

    /// How it ended, if it did.
    pub(crate) fn end(&self) -> Option<End> {
        lock(&self.state).end.clone()
    }

    /// Ends it. Requests that wait hear so. `served` is false if the other side said that it took none of them.
    pub(crate) fn close(&self, why: &str, served: bool) {
        let mut state = lock(&self.state);
        if state.end.is_some() {
            return;
        }
        tracing::debug!(address = self.address, why, "connection ended");
        state.end = Some(End { welcomed: state.welcomed, why: why.to_owned() });
        state.out = Vec::new();
        state.held = Vec::new();
        let taken_id = state.taken_id;
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for (id, request) in pending {
            request.tell(Event::Broken { sent: served && id <= taken_id });
        }
        self.wake.notify_one();
    }

    async fn run(self: Arc<Connection<M>>) {
        let mut ended = self.serve(self.ranged_greeting()).await;
        if let Err(Broken::Refused(why)) = &ended
            && is_before_ranges(why)
        {
            ended = self.serve(self.begin_again()).await;
        }
        let why = match ended {
            Ok(()) => return, // closed from this side
            Err(Broken::Refused(why)) => {
                self.close(&format!("refused: {why}"), false);
                return;
            }
            Err(Broken::Lost(why)) => why,
        };
        self.close(&why, true);
    }

    fn ranged_greeting(&self) -> Vec<u8> {
        let mut greeting = Vec::new();
        let mut hello = RangedHello::new(self.context.cluster.get().copied(), self.service);
        hello.later = HelloFields { client: self.context.names.client() }.encode();
        append(&mut greeting, KIND_RANGED_HELLO, &hello);
        greeting
    }

    /// The greeting of version 1. What was written after another greeting waits once more.
    fn begin_again(&self) -> Vec<u8> {
        let mut greeting = Vec::new();
        let cluster = self.context.cluster.get().copied();
        append(&mut greeting, KIND_HELLO, &Hello { magic: MAGIC, cluster, service: self.service });
        lock(&self.state).put_early_back();
        greeting
    }

    async fn serve(&self, greeting: Vec<u8>) -> Result<(), Broken> {
        if let Some(network) = &self.context.network {
            let dialled = timeout(CONNECT_TIMEOUT, network.dial(&self.address)).await;
            let (reader, writer) = dialled.map_err(|_| Broken::Lost("timed out".into()))??;
            return self.talk(greeting, reader, writer).await;
        }
        let mut stream = reach::connect(&self.address, CONNECT_TIMEOUT).await?;
        if let Ok(reached) = stream.peer_addr() {
            let _ = self.reached.set(reached); // once for each connection
        }
        let (reader, writer) = stream.split();
        self.talk(greeting, reader, writer).await
    }

    async fn talk(
        &self,
        greeting: Vec<u8>,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
    ) -> Result<(), Broken> {
        // Biased: nothing but an end is ready here, and which one is named first must not be left to chance.
        tokio::select! {
            biased;
            ended = self.write_all(greeting, writer) => ended,
            ended = self.read_all(FrameReader::new(reader, FRAME_PAYLOAD_MAX_BYTES)) => ended,
        }
    }

    /// Returns `Ok` when the connection was closed from this side.
    async fn write_all(&self, greeting: Vec<u8>, mut writer: impl AsyncWrite + Unpin) -> Result<(), Broken> {
        let mut batch = greeting;
        loop {
            {
                let mut state = lock(&self.state);
                if state.end.is_some() {
                    return Ok(());
                }
                state.take_out(&mut batch);
            }
            if batch.is_empty() {
                self.wake.notified().await;
                continue;
            }
            wire::write_all(&mut writer, &batch, CONNECTION_DEAD).await?;
            batch.clear();
            batch.shrink_to(WRITE_BUFFER_KEEP_BYTES);
        }
    }

    async fn read_all(&self, mut reader: FrameReader<impl AsyncRead + Unpin>) -> Result<(), Broken> {
        let began = Instant::now();
        let mut heard_at = began;
        // One timer for all answers. The silence never ends earlier than by what was known when the timer was set: what
        // is written and heard later only puts it off.
        let mut look = pin!(sleep_until(began + WELCOME_TIMEOUT));
        loop {
            while let Some(frame) = reader.buffered()? {
                self.take(frame)?;
            }
            tokio::select! {
                // Whatever was read counts as heard now: before it was taken this client may have stood still.
                biased;
                read = reader.next() => match read? {
                    Some(frame) => {
                        self.take(frame)?;
                        heard_at = Instant::now();
                    }
                    None => return Err(Broken::Lost("closed by the other side".into())),
                },
                () = &mut look => {
                    let now = Instant::now();
                    match self.silence_ends(began, heard_at) {
                        Some(due) if due <= now => return Err(Broken::Lost("silent for too long".into())),
                        due => look.as_mut().reset(due.unwrap_or(now + CONNECTION_DEAD)),
                    }
                }
            }
        }
    }

    /// When the connection's silence has lasted too long, by what is known now. Silence counts from when the oldest
    /// request that waits was written: an idle connection may be silent for ever, and so may this client (fault
    /// catalogue N15).
    fn silence_ends(&self, began: Instant, heard_at: Instant) -> Option<Instant> {
        let state = lock(&self.state);
        if !state.welcomed {
            return Some(began + WELCOME_TIMEOUT);
        }
        let (_, oldest) = state.pending.first_key_value()?;
        Some(oldest.written_at?.max(heard_at) + CONNECTION_DEAD)
    }

    fn take(&self, frame: Frame<'_>) -> Result<(), Broken> {
        let payload = frame.payload;
        match frame.kind {
            KIND_WELCOME => self.welcomed_by(&codec::decode(payload)?, VERSION_BEFORE_RANGES),
            KIND_RANGED_WELCOME => {
                let welcome: RangedWelcome = codec::decode(payload)?;
                let version = welcome.version;
                if WelcomeFields::decode(&welcome.later).all_take_writes {
                    self.sends_to_all.store(true, Ordering::Relaxed);
                }
                self.welcomed_by(&welcome.checked().map_err(Broken::Lost)?, version)
            }
            // Instead of a welcome it means that nothing was taken; after one it would prove nothing.
            KIND_REFUSAL if !lock(&self.state).welcomed => {
                Err(Broken::Refused(codec::decode::<Refusal>(payload)?.reason))
            }
            KIND_RESPONSE if !lock(&self.state).welcomed => {
                Err(Broken::Lost("answers before it has welcomed this client".into()))
            }
            KIND_RESPONSE => {
                self.deliver(codec::decode(payload)?);
                Ok(())
            }
            other => Err(Broken::Lost(format!("a frame of unknown kind {other:#x}"))),
        }
    }

    fn welcomed_by(&self, welcome: &Welcome, version: u16) -> Result<(), Broken> {
        if let (Some(ours), Some(theirs)) = (self.context.cluster.get(), welcome.cluster)
            && *ours != theirs
        {
            return Err(Broken::Lost(format!("it belongs to cluster {theirs}, not {ours}")));
        }
        let mut state = lock(&self.state);
        state.welcomed = true;
        state.version = version;
        state.early = None;
        state.release_held();
        drop(state);
        self.wake.notify_one();
        if let Some(reached) = self.reached.get() {
            reach::greeted(&self.address, *reached);
        }
        Ok(())
    }

    fn deliver(&self, response: ResponseFrame<M>) {
        let mut state = lock(&self.state);
        if let ClientResponse::Part(_) = response.body {
            let Some(request) = state.pending.get(&response.id) else { return };
            request.tell(Event::Reply(response.body));
            return;
        }
        match state.pending.remove(&response.id) {
            Some(request) => {
                drop(state);
                request.tell(Event::Reply(response.body));
            }
            // Its exchange has ended: another copy was answered, or the caller gave up.
            None => {
                let Some(place) = state.late.iter().position(|late| late.id == response.id) else { return };
                let late = state.late.remove(place);
                drop(state);
                if let (Some(late), ClientResponse::Answer(answer)) = (late, &response.body) {
                    discard(&self.context, (&self.address, self.number), late.number, late.answer, answer);
                }
            }
        }
    }
}

/// `answer` came from the server with this address and number to request `number`, which another answer has ended: one
/// with the hash `first`, if both come of one command.
pub(crate) fn discard(
    context: &Context,
    (address, server): (&str, usize),
    number: u32,
    first: Option<u64>,
    answer: &[u8],
) {
    let trace = context.trace.as_ref().filter(|_| number != 0);
    if let Some(trace) = trace {
        trace.received(server, number);
        trace.duplicate(server, number);
    }
    if first.is_some_and(|hash| hash != answer_hash(answer)) {
        tracing::error!("{address}: another answer than an earlier one to the same write: two states differ");
        if let Some(trace) = trace {
            trace.diverged(server, number);
        }
    }
}

impl<M: Map> Posted<M> {
    /// Another replica has answered the request, so: an answer that still comes here is discarded, and compared.
    pub(crate) fn answered_elsewhere(&mut self, answer: u64) {
        self.answer = Some(answer);
    }

    /// Takes the request back if it has not left yet. Returns false if it may have left.
    pub(crate) fn withdraw(&self) -> bool {
        lock(&self.connection.state).withdraw(self.id)
    }
}

impl<M> Pending<M> {
    fn tell(&self, event: Event<M>) {
        let _ = self.events.send(CopyEvent { copy: self.copy, event: Box::new(event) }); // whoever asked may have gone
    }
}

impl<M> State<M> {
    /// Hands everything that waits to the writer, which has written what it took before. `batch` holds nothing, or the
    /// greeting, which goes first.
    fn take_out(&mut self, batch: &mut Vec<u8>) {
        if let Some(early) = &mut self.early {
            early.extend_from_slice(&self.out);
        }
        if batch.is_empty() {
            std::mem::swap(&mut self.out, batch);
        } else {
            batch.append(&mut self.out);
        }
        self.note_written();
        self.taken_id = self.last_id;
    }

    /// What was written waits again, before what waits already.
    fn put_early_back(&mut self) {
        let Some(mut early) = self.early.take() else { return };
        let taken_id = self.taken_id;
        for (_, request) in self.pending.iter_mut().filter(|(id, _)| **id > taken_id) {
            request.start += early.len();
            request.end += early.len();
        }
        early.append(&mut self.out);
        self.out = early;
    }

    /// The version is known: what waited for it leaves, or is refused.
    fn release_held(&mut self) {
        for (id, needs, frame) in std::mem::take(&mut self.held) {
            if needs > self.version {
                if let Some(request) = self.pending.remove(&id) {
                    request.tell(Event::Reply(ClientResponse::Refused(needs_newer(needs, self.version))));
                }
            } else if let Some(request) = self.pending.get_mut(&id) {
                request.start = self.out.len();
                self.out.extend_from_slice(&frame);
                request.end = self.out.len();
                // Requests after it may have been written long ago, and none of them stands for it.
                request.written_at = Some(Instant::now());
            }
        }
    }

    /// What the writer had taken is written.
    fn note_written(&mut self) {
        let now = Instant::now();
        let taken = self.pending.range_mut(..=self.taken_id).rev();
        for (_, request) in taken.take_while(|(_, request)| request.written_at.is_none()) {
            request.written_at = Some(now);
        }
    }

    fn withdraw(&mut self, id: u64) -> bool {
        if id <= self.taken_id {
            return false;
        }
        let Some(request) = self.pending.remove(&id) else { return self.end.is_some() };
        self.out.drain(request.start..request.end);
        let taken_id = self.taken_id;
        let behind = |other: &u64, place: usize| *other > taken_id && place >= request.end;
        for (_, behind) in self.pending.iter_mut().filter(|(other, there)| behind(other, there.start)) {
            behind.start -= request.end - request.start;
            behind.end -= request.end - request.start;
        }
        true
    }
}

impl<M: Map> Drop for Posted<M> {
    fn drop(&mut self) {
        let mut state = lock(&self.connection.state);
        if state.withdraw(self.id) || state.pending.remove(&self.id).is_none() {
            return;
        }
        let is_traced = self.number != 0 && self.connection.context.trace.is_some();
        if is_traced || self.answer.is_some() {
            if state.late.len() == LATE_MAX {
                state.late.pop_front();
            }
            state.late.push_back(Late { id: self.id, number: self.number, answer: self.answer });
        }
    }
}

/// Why a connection ended by itself.
enum Broken {
    /// The other side took no request of it.
    Refused(String),
    /// Anything else: what was sent may have been taken.
    Lost(String),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Broken {
        Broken::Lost(error.to_string())
    }
}

impl From<WireError> for Broken {
    fn from(error: WireError) -> Broken {
        Broken::Lost(error.to_string())
    }
}

impl From<codec::CodecError> for Broken {
    fn from(error: codec::CodecError) -> Broken {
        Broken::Lost(error.to_string())
    }
}

fn append<T: serde::Serialize>(out: &mut Vec<u8>, kind: u16, value: &T) {
    codec::frame(out, kind, value).unwrap_or_else(|error| panic!("a request passed the limits: {error}"));
}

#[cfg(test)]
mod tests;
