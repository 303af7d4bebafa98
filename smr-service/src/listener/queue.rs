//! What one connection has under way: requests that were admitted, and responses that wait to be written.
//!
//! The reader admits, the replica's threads deliver, the writer takes. Everything is counted, so that neither a client
//! that asks without listening nor one that asks for large answers costs more memory than [`ListenerLimits`] allow.
//!
//! All connections share [`ListenerLimits::total_max_bytes`]. A part of it is dealt out: each has
//! [`CONNECTION_OWN_BYTES`] that no one takes from it, so a client that asks for little is served however many others
//! take what they get. The rest, the *pool*, is for whoever needs more: of its first half a connection gets a quarter
//! of what is free at the moment; the third quarter is for those who hold next to nothing and need a large thing alone;
//! the last one is for parts of long answers. What does not fit is `Busy`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use smr::wire::SharedOutput;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ListenerLimits;
use super::connection::{RETRY_AFTER_MS, encode};
use crate::frames::{ClientResponse, Map, ResponseFrame};

/// The writer takes responses until it has this much, in bytes.
const WRITE_AIM_BYTES: usize = 256 << 10;
/// Up to this many bytes are written by the thread that delivers. It must not spend long there.
const WRITE_NOW_MAX_BYTES: usize = 16 << 10;
/// Parts of long answers wait until fewer bytes than these wait to be written.
const PARTS_WAIT_BYTES: usize = 1 << 20;
/// One connection's parts may take this share of what all connections together have left: one in this many. So those
/// who do not read leave room for the others, however many they are.
const PARTS_SHARE: usize = 128;
/// What a response costs besides its bytes.
const RESPONSE_OVERHEAD_BYTES: usize = 128;
/// What each connection has for itself, in bytes; less where there may be this many connections that it would be more
/// than half of the total.
const CONNECTION_OWN_BYTES: usize = 32 << 10;
/// Beyond that a connection gets one part in this many of what is free of the pool's first half.
const POOL_SHARE: usize = 4;
/// What a map or a status is taken to cost, in bytes.
const DESCRIPTION_BYTES: usize = 4 << 10;

/// Whether a request may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Yes, under this tag.
    Granted(u64),
    /// Too much is under way.
    Denied,
}

/// What the writer has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Write what was taken.
    Write,
    /// Wait for [`Queue::something_to_write`].
    Wait,
    /// Nothing more will come.
    End,
}

/// What the connections of a listener hold together.
#[derive(Default)]
pub(super) struct Held {
    /// All of it.
    all_bytes: AtomicUsize,
    /// What connections hold beyond their own.
    pool_bytes: AtomicUsize,
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.all_bytes.load(Ordering::Relaxed)
    }
}

/// See the module.
pub(super) struct Queue<M: Map> {
    state: Mutex<State<M>>,
    writer: Notify,
    reader: Notify,
    held: Arc<Held>,
    requests_max: usize,
    in_flight_max_bytes: usize,
    answers_max_bytes: usize,
    own_bytes: usize,
    pool_max_bytes: usize,
    scans_max: usize,
    scan_grace: Duration,
    scan_min_bytes_per_s: u32,
}

struct State<M> {
    /// Requests under way, by tag; `None` where a tag is free.
    slots: Vec<Option<Slot>>,
    /// Tags that are free, the last one is given out next.
    free: Vec<usize>,
    /// Bytes of the requests under way.
    in_flight_bytes: usize,
    /// Responses that wait to be written, and their weight.
    ready: VecDeque<ResponseFrame<M>>,
    ready_bytes: usize,
    /// What is kept free for answers that are on their way here.
    reserved_bytes: usize,
    /// What is being written, until it has left.
    writing_bytes: usize,
    /// What the reader's buffer takes, if it is large.
    reading_bytes: usize,
    /// What is counted of all this in [`Held`].
    counted_bytes: usize,
    /// The rest of frames that were begun outside of the writer; nothing else may be written before them.
    begun: Vec<u8>,
    /// Where the frames go. It belongs to the writer: with that it goes.
    output: Weak<dyn SharedOutput>,
    /// Who waits for a word.
    writer_waits: bool,
    reader_waits: bool,
    /// Those who have parts of long answers and no room for them.
    parts_wait: Vec<Waker>,
    /// Long answers under way.
    scans: usize,
    /// More requests may come.
    asking: bool,
    /// Someone takes responses.
    open: bool,
}

/// A request under way.
struct Slot {
    /// The client's number for it.
    id: u64,
    cost_bytes: usize,
    /// It changes nothing, so `Busy` is a true answer even after it was carried out.
    harmless: bool,
    /// What is kept free for its answer.
    reserved_bytes: usize,
    /// For a long answer: how it gets on.
    scan: Option<Scan>,
}

/// How a long answer gets on.
#[derive(Default)]
struct Scan {
    sent_bytes: u64,
    /// How long it has waited for its client to read, and since when it does now.
    waited: Duration,
    waits_since: Option<Instant>,
}

impl<M> State<M> {
    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(tag).ok()?)?.as_mut()
    }

    /// Bytes of answers that have not left, and of those for which there is room kept.
    fn answers_bytes(&self) -> usize {
        self.ready_bytes + self.writing_bytes + self.reserved_bytes
    }

    /// All that the connection holds.
    fn held_bytes(&self) -> usize {
        let overheads = self.in_flight() * RESPONSE_OVERHEAD_BYTES;
        self.in_flight_bytes + overheads + self.answers_bytes() + self.reading_bytes
    }
}

impl<M: Map> Queue<M> {
    pub(super) fn new(limits: &ListenerLimits, held: Arc<Held>) -> Queue<M> {
        let own_bytes = CONNECTION_OWN_BYTES.min(limits.total_max_bytes / 2 / limits.connections_max.max(1));
        let state = State {
            slots: Vec::new(),
            free: Vec::new(),
            in_flight_bytes: 0,
            ready: VecDeque::new(),
            ready_bytes: 0,
            reserved_bytes: 0,
            writing_bytes: 0,
            reading_bytes: 0,
            counted_bytes: 0,
            begun: Vec::new(),
            output: Weak::<OwnedWriteHalf>::new(),
            writer_waits: false,
            reader_waits: false,
            parts_wait: Vec::new(),
            scans: 0,
            asking: true,
            open: true,
        };
        Queue {
            state: Mutex::new(state),
            writer: Notify::new(),
            reader: Notify::new(),
            held,
            requests_max: limits.requests_max,
            in_flight_max_bytes: limits.in_flight_max_bytes,
            answers_max_bytes: limits.answers_max_bytes,
            own_bytes,
            pool_max_bytes: limits.total_max_bytes - own_bytes * limits.connections_max,
            scans_max: limits.scans_max,
            scan_grace: limits.scan_grace,
            scan_min_bytes_per_s: limits.scan_min_bytes_per_s,
        }
    }

    /// Whether there is room for this many more bytes of this connection.
    fn fits(&self, state: &State<M>, more: usize) -> bool {
        let mine = state.held_bytes();
        let beyond = (mine + more).saturating_sub(self.own_bytes);
        let used = self.held.pool_bytes.load(Ordering::Relaxed);
        let free = (self.pool_max_bytes / 2).saturating_sub(used);
        // A frame that is being read is what asks here, and no reason to refuse the rest of it.
        let lone = mine - state.reading_bytes <= self.own_bytes && used + beyond <= self.pool_max_bytes / 4 * 3;
        beyond <= free / POOL_SHARE || lone || beyond == 0
    }

    /// Counts what the connection holds now.
    fn count(&self, state: &mut State<M>) {
        let (before, now) = (state.counted_bytes, state.held_bytes());
        if before == now {
            return;
        }
        state.counted_bytes = now;
        let beyond = |bytes: usize| bytes.saturating_sub(self.own_bytes);
        for (total, before, now) in
            [(&self.held.all_bytes, before, now), (&self.held.pool_bytes, beyond(before), beyond(now))]
        {
            if now > before {
                total.fetch_add(now - before, Ordering::Relaxed);
            } else if before > now {
                total.fetch_sub(before - now, Ordering::Relaxed);
            }
        }
    }

    /// Asks for a request of `cost_bytes` to go on. A lone request may be larger than the connection's limit.
    pub(super) fn admit(&self, id: u64, cost_bytes: usize, harmless: bool) -> Admission {
        let mut state = self.lock();
        let lone = state.in_flight() == 0 && state.answers_bytes() == 0;
        let within = state.in_flight() + state.ready.len() < self.requests_max
            && state.in_flight_bytes + cost_bytes <= self.in_flight_max_bytes;
        if !(within || lone) || !self.fits(&state, cost_bytes + RESPONSE_OVERHEAD_BYTES) {
            return Admission::Denied;
        }
        state.in_flight_bytes += cost_bytes;
        let slot = Some(Slot { id, cost_bytes, harmless, reserved_bytes: 0, scan: None });
        let tag = match state.free.pop() {
            Some(tag) => {
                state.slots[tag] = slot;
                tag
            }
            None => {
                state.slots.push(slot);
                state.slots.len() - 1
            }
        };
        self.count(&mut state);
        Admission::Granted(tag as u64)
    }

    /// Takes what became of an admitted request. Never blocks.
    pub(super) fn deliver(&self, tag: u64, body: ClientResponse<M>) {
        let mut state = self.lock();
        let slot = usize::try_from(tag).ok().and_then(|tag| state.slots.get_mut(tag)?.take());
        let Some(slot) = slot else {
            tracing::error!(tag, "an answer to no request");
            return;
        };
        state.free.push(tag as usize);
        state.scans -= usize::from(slot.scan.is_some());
        state.in_flight_bytes -= slot.cost_bytes;
        state.reserved_bytes -= slot.reserved_bytes;
        let weight = weight(&body);
        let within = state.answers_bytes() + weight <= self.answers_max_bytes || state.answers_bytes() == 0;
        let kept = slot.reserved_bytes.max(slot.cost_bytes + RESPONSE_OVERHEAD_BYTES);
        // The last part of a long answer was given its room as the others were.
        let kept = if slot.scan.is_some() { usize::MAX } else { kept };
        let fits = weight <= slot.reserved_bytes || (within && (weight <= kept || self.fits(&state, weight)));
        match (fits, slot.harmless) {
            (true, _) => self.push(&mut state, ResponseFrame { id: slot.id, body }),
            (false, true) => {
                let body = ClientResponse::Busy { retry_after_ms: RETRY_AFTER_MS };
                self.push(&mut state, ResponseFrame { id: slot.id, body });
            }
            // It happened, and there is no room to say so: the client asks again on another connection, and the replica
            // knows.
            (false, false) => self.shut(&mut state),
        }
    }

    /// Whether there is any room for an answer, and someone who takes it.
    pub(super) fn has_room(&self) -> bool {
        let state = self.lock();
        state.open && state.answers_bytes() < self.answers_max_bytes && self.fits(&state, RESPONSE_OVERHEAD_BYTES)
    }

    /// Keeps room for the answer to an admitted request, until it is delivered; false if there is none.
    pub(super) fn reserve(&self, tag: u64, bytes: usize) -> bool {
        let mut state = self.lock();
        let weight = RESPONSE_OVERHEAD_BYTES + bytes;
        let within = state.answers_bytes() + weight <= self.answers_max_bytes || state.answers_bytes() == 0;
        if !state.open || !within || !self.fits(&state, weight) {
            return false;
        }
        let Some(slot) = state.slot(tag) else { return false };
        let before = std::mem::replace(&mut slot.reserved_bytes, weight);
        state.reserved_bytes = state.reserved_bytes - before + weight;
        self.count(&mut state);
        true
    }

    /// Counts what the reader's buffer takes from now on; false, and nothing is changed, if there is no room for it.
    pub(super) fn hold_buffer(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        let more = bytes.saturating_sub(state.reading_bytes);
        if more > 0 && !self.fits(&state, more) {
            return false;
        }
        state.reading_bytes = bytes;
        self.count(&mut state);
        true
    }

    /// Like [`Queue::deliver`], and writes it at once if nothing else is being written.
    pub(super) fn deliver_now(&self, tag: u64, body: ClientResponse<M>) {
        // The writer finds what is ready by itself, if it is at work.
        let waits = std::mem::take(&mut self.lock().writer_waits);
        self.deliver(tag, body);
        if !waits {
            return;
        }
        // The writer waits for a word, and until it gets one no one else writes.
        let mut state = self.lock();
        if state.open
            && state.ready_bytes <= WRITE_NOW_MAX_BYTES
            && let Some(output) = state.output.upgrade()
        {
            let State { ready, begun, .. } = &mut *state;
            ready.drain(..).for_each(|response| encode(begun, response));
            state.ready_bytes = 0;
            // An error is met again, and dealt with, by the writer.
            let written = output.try_write(&state.begun).unwrap_or(0);
            state.begun.drain(..written);
            state.writing_bytes = state.begun.len();
            self.count(&mut state);
            // At the end of the connection the writer has to look, or it would wait for ever.
            if state.begun.is_empty() && state.asking {
                state.writer_waits = true;
                self.wake_those_who_need_room(&mut state);
                return;
            }
        }
        self.writer.notify_one();
    }

    /// The answer to an admitted request will be a long one. False if the connection has too many of these under way.
    pub(super) fn begin_parts(&self, tag: u64) -> bool {
        let mut state = self.lock();
        let fits = state.scans < self.scans_max;
        let Some(slot) = state.slot(tag).filter(|_| fits) else { return false };
        slot.scan = Some(Scan::default());
        state.scans += 1;
        true
    }

    /// Whether there is room for a part; false if the connection has ended. It ends by this call for a client that
    /// takes too long: a scan keeps a copy of the state alive.
    pub(super) fn poll_room(&self, tag: u64, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        if !state.open {
            return Poll::Ready(false);
        }
        let left = self.pool_max_bytes.saturating_sub(self.held.pool_bytes.load(Ordering::Relaxed));
        let aim = PARTS_WAIT_BYTES.min(self.answers_max_bytes).min(left / PARTS_SHARE);
        let (room, client_reads) = (left > 0 && state.answers_bytes() <= aim, state.answers_bytes() == 0);
        let Some(scan) = state.slot(tag).and_then(|slot| slot.scan.as_mut()) else { return Poll::Ready(false) };
        let now = Instant::now();
        let waited =
            scan.waited + scan.waits_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if room {
            scan.waited = waited;
            scan.waits_since = None;
            return Poll::Ready(true);
        }
        if waited > self.scan_allowance(scan.sent_bytes) {
            tracing::debug!(?waited, sent_bytes = scan.sent_bytes, "a client takes its scan too slowly");
            self.shut(&mut state);
            return Poll::Ready(false);
        }
        // Only the time counts in which it is the client that does not read.
        if !client_reads {
            scan.waits_since.get_or_insert(now);
        }
        if !state.parts_wait.iter().any(|waker| waker.will_wake(context.waker())) {
            state.parts_wait.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// How long a scan of which this much was sent may have waited for its client.
    fn scan_allowance(&self, sent_bytes: u64) -> Duration {
        self.scan_grace + Duration::from_secs_f64(sent_bytes as f64 / f64::from(self.scan_min_bytes_per_s.max(1)))
    }

    /// Takes a part of a long answer. Never blocks. False if the connection has ended.
    pub(super) fn deliver_part(&self, tag: u64, part: Bytes) -> bool {
        let mut state = self.lock();
        let Some(slot) = state.slot(tag) else {
            tracing::error!(tag, "a part of an answer to no request");
            return false;
        };
        if let Some(scan) = &mut slot.scan {
            scan.sent_bytes += part.len() as u64;
        }
        let id = slot.id;
        self.push(&mut state, ResponseFrame { id, body: ClientResponse::Part(part) });
        state.open
    }

    /// Answers a request that was not admitted; waits while very many responses wait to be written.
    pub(super) async fn tell(&self, id: u64, body: ClientResponse<M>) {
        loop {
            {
                let mut state = self.lock();
                // Every admitted request keeps its place among the responses, and as many again may be refusals.
                let room = state.answers_bytes() == 0 || self.fits(&state, RESPONSE_OVERHEAD_BYTES);
                if !state.open || (room && state.ready.len() < 2 * self.requests_max) {
                    return self.push(&mut state, ResponseFrame { id, body });
                }
                state.reader_waits = true;
            }
            self.reader.notified().await;
        }
    }

    /// Appends responses to `buffer`, which is empty, as frames.
    pub(super) fn take(&self, buffer: &mut Vec<u8>) -> Turn {
        let mut state = self.lock();
        // What was taken the last time has left.
        state.writing_bytes = 0;
        self.count(&mut state);
        self.wake_those_who_need_room(&mut state);
        if !state.open {
            return Turn::End;
        }
        buffer.append(&mut state.begun);
        let begun_bytes = buffer.len();
        if state.ready.is_empty() && !buffer.is_empty() {
            self.write(&mut state, begun_bytes);
            return Turn::Write;
        }
        if state.ready.is_empty() {
            if !state.asking && state.in_flight() == 0 {
                return Turn::End;
            }
            state.writer_waits = true;
            return Turn::Wait;
        }
        let mut taken_bytes = 0;
        while taken_bytes < WRITE_AIM_BYTES {
            let Some(response) = state.ready.pop_front() else { break };
            taken_bytes += weight(&response.body);
            encode(buffer, response);
        }
        state.ready_bytes -= taken_bytes;
        self.write(&mut state, begun_bytes + taken_bytes);
        Turn::Write
    }

    /// So much is being written until the next call of [`Queue::take`].
    fn write(&self, state: &mut State<M>, bytes: usize) {
        state.writing_bytes = bytes;
        self.count(state);
        self.wake_those_who_need_room(state);
    }

    /// From now on answers may be written to `output` while the writer waits.
    pub(super) fn write_to(&self, output: &Arc<dyn SharedOutput>) {
        self.lock().output = Arc::downgrade(output);
    }

    /// Waits until [`Queue::take`] may have something.
    pub(super) async fn something_to_write(&self) {
        self.writer.notified().await;
    }

    /// The client asks nothing more; the writer ends after the last answer.
    pub(super) fn no_more_requests(&self) {
        let mut state = self.lock();
        state.asking = false;
        self.wake_writer(&mut state);
    }

    /// No one takes responses any more.
    pub(super) fn close(&self) {
        self.shut(&mut self.lock());
    }

    fn push(&self, state: &mut State<M>, response: ResponseFrame<M>) {
        if state.open {
            state.ready_bytes += weight(&response.body);
        }
        self.count(state);
        if !state.open {
            return;
        }
        state.ready.push_back(response);
        self.wake_writer(state);
    }

    fn shut(&self, state: &mut State<M>) {
        state.open = false;
        state.ready.clear();
        (state.ready_bytes, state.writing_bytes) = (0, 0);
        self.count(state);
        self.wake_writer(state);
        self.wake_those_who_need_room(state);
    }

    fn wake_writer(&self, state: &mut State<M>) {
        if std::mem::take(&mut state.writer_waits) {
            self.writer.notify_one();
        }
    }

    fn wake_those_who_need_room(&self, state: &mut State<M>) {
        if std::mem::take(&mut state.reader_waits) {
            self.reader.notify_one();
        }
        state.parts_wait.drain(..).for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // No code that holds the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Map> Drop for Queue<M> {
    fn drop(&mut self) {
        self.close();
        // Requests that a stopped replica never answered, and the reader's buffer.
        let mut state = self.lock();
        (state.in_flight_bytes, state.reading_bytes, state.reserved_bytes) = (0, 0, 0);
        state.slots.clear();
        state.free.clear();
        self.count(&mut state);
    }
}

fn weight<M>(body: &ClientResponse<M>) -> usize {
    RESPONSE_OVERHEAD_BYTES
        + match body {
            ClientResponse::Answer(bytes) | ClientResponse::Part(bytes) => bytes.len(),
            ClientResponse::Status(_)
            | ClientResponse::Map(_)
            | ClientResponse::Registered(_)
            | ClientResponse::Occupied { .. }
            | ClientResponse::GenesisRefused { .. }
            | ClientResponse::Disqualified { .. } => DESCRIPTION_BYTES,
            ClientResponse::Refused(reason) | ClientResponse::OutOfService(reason) => reason.len(),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use smr::codec;

    use super::super::connection::next_frame;
    use super::*;

    type Queue = super::Queue<()>;
    type ResponseFrame = crate::frames::ResponseFrame<()>;

    fn limits() -> ListenerLimits {
        ListenerLimits {
            requests_max: 4,
            in_flight_max_bytes: 1000,
            answers_max_bytes: 2000,
            total_max_bytes: 100_000,
            ..ListenerLimits::default()
        }
    }

    fn queue() -> Queue {
        Queue::new(&limits(), Arc::<Held>::default())
    }

    fn granted(queue: &Queue, id: u64, cost_bytes: usize, harmless: bool) -> u64 {
        match queue.admit(id, cost_bytes, harmless) {
            Admission::Granted(tag) => tag,
            Admission::Denied => panic!("request {id} was denied"),
        }
    }

    fn taken(queue: &Queue) -> Vec<ResponseFrame> {
        let mut frames = Vec::new();
        assert_eq!(queue.take(&mut frames), Turn::Write);
        responses(frames)
    }

    fn responses(mut frames: Vec<u8>) -> Vec<ResponseFrame> {
        let mut responses = Vec::new();
        while let Some(frame) = next_frame(&frames, usize::MAX).expect("frames of our own") {
            responses.push(codec::decode(frame.payload).expect("a response of our own"));
            frames.drain(..frame.len_bytes);
        }
        responses
    }

    // covers I17
    #[test]
    fn admit_beyond_requests_or_bytes_is_denied() {
        let queue = queue();
        for id in 0..4 {
            granted(&queue, id, 10, true);
        }
        assert_eq!(queue.admit(4, 10, true), Admission::Denied, "four are under way");
        queue.deliver(0, ClientResponse::Done);
        assert_eq!(queue.admit(4, 10, true), Admission::Denied, "three are under way, one waits to be written");
        assert_eq!(taken(&queue).len(), 1);
        assert_eq!(queue.admit(4, 980, true), Admission::Denied, "too many bytes");
        granted(&queue, 4, 970, true);
    }

    #[test]
    fn admit_lone_request_beyond_the_byte_limit_is_granted() {
        let queue = queue();
        granted(&queue, 1, 5000, false);
        assert_eq!(queue.admit(2, 1, false), Admission::Denied);
    }

    #[test]
    fn deliver_tag_reused_answers_carry_their_own_ids() {
        let queue = queue();
        let first = granted(&queue, 71, 1, false);
        queue.deliver(first, ClientResponse::Done);
        let second = granted(&queue, 72, 1, false);
        assert_eq!(first, second, "the tag is free again");
        queue.deliver(second, ClientResponse::Unknown);
        queue.deliver(second, ClientResponse::Done); // answered twice: dropped
        let ids: Vec<u64> = taken(&queue).iter().map(|response| response.id).collect();
        assert_eq!(ids, [71, 72]);
    }

    // covers I17
    #[test]
    fn deliver_beyond_answer_bytes_reads_are_busy_and_a_write_ends_the_connection() {
        let queue = queue();
        let large = || ClientResponse::Answer(Bytes::from(vec![0; 1500]));
        let tags: Vec<u64> = (0..3).map(|id| granted(&queue, id, 1, id != 2)).collect();
        queue.deliver(tags[0], large());
        queue.deliver(tags[1], large());
        let bodies: Vec<ClientResponse<()>> = taken(&queue).into_iter().map(|response| response.body).collect();
        assert_eq!(bodies, [large(), ClientResponse::Busy { retry_after_ms: RETRY_AFTER_MS }]);

        let other = granted(&queue, 3, 1, true);
        queue.deliver(other, large());
        queue.deliver(tags[2], large());
        assert_eq!(queue.take(&mut Vec::new()), Turn::End);
    }

    /// Both ends of a connection: what the queue may write to, and what arrives.
    async fn connection() -> (Arc<dyn SharedOutput>, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) =
            tokio::join!(tokio::net::TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let near = near.unwrap();
        near.writable().await.unwrap();
        (Arc::new(near.into_split().1), far.unwrap().0)
    }

    #[tokio::test]
    async fn deliver_now_idle_writer_writes_at_once_and_busy_writer_keeps_the_order() {
        let queue = queue();
        let (socket, mut far) = connection().await;
        queue.write_to(&socket);
        let tags: Vec<u64> = (1..=3).map(|id| granted(&queue, id, 10, false)).collect();
        // The writer has not begun to wait: it is at work, and will find the answer.
        queue.deliver_now(tags[0], ClientResponse::Done);
        assert_eq!(taken(&queue).len(), 1);
        assert_eq!(queue.take(&mut Vec::new()), Turn::Wait);
        queue.deliver_now(tags[1], ClientResponse::Done);
        queue.deliver_now(tags[2], ClientResponse::Done);
        let mut frames = vec![0; 1000];
        let count = tokio::io::AsyncReadExt::read(&mut far, &mut frames).await.unwrap();
        frames.truncate(count);
        let ids: Vec<u64> = responses(frames).iter().map(|response| response.id).collect();
        assert!(ids == [2, 3] || ids == [2], "{ids:?}");
        assert_eq!(queue.held.bytes(), 0);
        assert_eq!(queue.take(&mut Vec::new()), Turn::Wait);
    }

    #[tokio::test]
    async fn deliver_now_behind_the_last_request_lets_the_writer_end() {
        let queue = Arc::new(queue());
        let (socket, _far) = connection().await;
        queue.write_to(&socket);
        let tag = granted(&queue, 1, 10, false);
        assert_eq!(queue.take(&mut Vec::new()), Turn::Wait);
        queue.no_more_requests();
        queue.something_to_write().await;
        assert_eq!(queue.take(&mut Vec::new()), Turn::Wait);
        queue.deliver_now(tag, ClientResponse::Done);
        queue.something_to_write().await;
        assert_eq!(queue.take(&mut Vec::new()), Turn::End);
    }

    // The other side takes nothing: what does not fit into the kernel's buffers is left to the writer, in order.
    #[tokio::test]
    async fn deliver_now_full_socket_leaves_the_rest_to_the_writer() {
        let queue = queue();
        let (socket, _far) = connection().await;
        queue.write_to(&socket);
        let mut delivered = 0u64;
        let left = loop {
            assert_eq!(queue.take(&mut Vec::new()), Turn::Wait);
            let tag = granted(&queue, delivered, 10, false);
            queue.deliver_now(tag, ClientResponse::Answer(Bytes::from(vec![7; 1000])));
            delivered += 1;
            if !queue.lock().begun.is_empty() {
                break queue.lock().begun.len();
            }
        };
        queue.something_to_write().await;
        let mut frames = Vec::new();
        let tag = granted(&queue, delivered, 10, false);
        queue.deliver_now(tag, ClientResponse::Done);
        assert_eq!(queue.take(&mut frames), Turn::Write);
        let behind = responses(frames.split_off(left));
        assert_eq!(behind, [ResponseFrame { id: delivered, body: ClientResponse::Done }], "what was begun comes first");
    }

    /// Whether there is room for a part now.
    fn room(queue: &Queue, tag: u64) -> Poll<bool> {
        queue.poll_room(tag, &mut Context::from_waker(Waker::noop()))
    }

    // covers N7
    #[test]
    fn parts_wait_while_much_waits_to_be_written_and_end_with_the_connection() {
        let queue = queue();
        let tag = granted(&queue, 9, 1, true);
        assert!(queue.begin_parts(tag));
        let mut parts = 0;
        for _ in 0..10 {
            while room(&queue, tag) == Poll::Ready(true) {
                assert!(queue.deliver_part(tag, Bytes::from(vec![0; 900])));
                parts += 1;
            }
            let held = queue.held.bytes();
            // What waits, and what is being written.
            assert!(held <= 2000 + 1028 + 1 + RESPONSE_OVERHEAD_BYTES, "{held} bytes are held");
            taken(&queue);
            assert_eq!(queue.take(&mut Vec::new()), Turn::Wait, "they have left");
        }
        assert!(parts >= 10);
        queue.close();
        assert_eq!(room(&queue, tag), Poll::Ready(false));
        assert!(!queue.deliver_part(tag, Bytes::new()));
    }

    // covers B33
    #[test]
    fn scans_of_one_connection_have_a_quota() {
        let queue = Queue::new(&ListenerLimits { scans_max: 2, ..limits() }, Arc::default());
        let tags: Vec<u64> = (0..3).map(|id| granted(&queue, id, 1, true)).collect();
        assert!(queue.begin_parts(tags[0]) && queue.begin_parts(tags[1]));
        assert!(!queue.begin_parts(tags[2]));
        queue.deliver(tags[0], ClientResponse::Done);
        assert!(queue.begin_parts(tags[2]), "one has ended");
    }

    // covers B33
    #[test]
    fn scans_that_no_one_reads_leave_room_for_the_others() {
        let held = Arc::<Held>::default();
        let limits =
            ListenerLimits { connections_max: 200, answers_max_bytes: 1 << 20, total_max_bytes: 64 << 10, ..limits() };
        let mut queues = Vec::new();
        for _ in 0..200 {
            let queue = Queue::new(&limits, Arc::clone(&held));
            let tag = granted(&queue, 1, 1, true);
            assert!(queue.begin_parts(tag));
            while room(&queue, tag) == Poll::Ready(true) {
                queue.deliver_part(tag, Bytes::from(vec![0; 200]));
            }
            queues.push(queue);
        }
        let held = held.bytes();
        // The first ones take their shares, each of what is left; the last ones a part at most.
        assert!(held <= (64 << 10) + 328 + 200, "{held} bytes are held");
    }

    // covers B33
    #[tokio::test(start_paused = true)]
    async fn scan_that_is_taken_too_slowly_ends_the_connection_and_one_at_its_rate_goes_on() {
        // One part at a time.
        let limits = ListenerLimits {
            answers_max_bytes: 500,
            scan_min_bytes_per_s: 1000,
            scan_grace: Duration::from_secs(10),
            ..limits()
        };
        for (bytes_per_s, goes_on) in [(2000, true), (500, false)] {
            let queue = Queue::new(&limits, Arc::default());
            let tag = granted(&queue, 1, 1, true);
            assert!(queue.begin_parts(tag));
            let mut alive = true;
            for _ in 0..100 {
                while alive && room(&queue, tag) == Poll::Ready(true) {
                    alive = queue.deliver_part(tag, Bytes::from(vec![0; 900]));
                }
                tokio::time::advance(Duration::from_millis(900_000 / bytes_per_s)).await;
                alive &= room(&queue, tag) != Poll::Ready(false);
                if alive {
                    queue.take(&mut Vec::new());
                    // It has left.
                    queue.take(&mut Vec::new());
                }
            }
            assert_eq!(alive, goes_on, "{bytes_per_s} bytes a second");
        }
    }

    #[test]
    fn drop_with_requests_under_way_gives_back_all_bytes() {
        let held = Arc::<Held>::default();
        let queue = Queue::new(&limits(), Arc::clone(&held));
        let tag = granted(&queue, 1, 100, false);
        granted(&queue, 2, 200, false);
        queue.deliver(tag, ClientResponse::Done);
        assert!(held.bytes() > 200);
        drop(queue);
        assert_eq!(held.bytes(), 0);
    }

    // covers B13: whoever takes what it gets leaves room for others, however many there are.
    #[test]
    fn many_that_do_not_read_leave_room_for_one_that_asks_for_little() {
        let held = Arc::<Held>::default();
        let limits = ListenerLimits {
            requests_max: 1024,
            in_flight_max_bytes: 16 << 20,
            answers_max_bytes: 16 << 20,
            total_max_bytes: 256 << 20,
            ..ListenerLimits::default()
        };
        let value = Bytes::from(vec![0; 100_000]);
        let hostile: Vec<Queue> = (0..1_000).map(|_| Queue::new(&limits, Arc::clone(&held))).collect();
        let (mut answered, mut most) = (0u64, 0);
        for (number, queue) in hostile.iter().enumerate() {
            for id in 0..500 {
                let Admission::Granted(tag) = queue.admit(id, 40, true) else { break };
                if !queue.has_room() || !queue.reserve(tag, value.len()) {
                    queue.deliver(tag, ClientResponse::Busy { retry_after_ms: 1 });
                    continue;
                }
                answered += 1;
                queue.deliver(tag, ClientResponse::Answer(value.clone()));
                // Its writer has begun, and does not get on.
                if id == 0 {
                    taken(queue);
                }
            }
            let mine = queue.lock().held_bytes();
            assert!(mine <= 17 << 20, "connection {number} holds {mine} bytes");
            most = most.max(held.bytes());
            assert!(most <= limits.total_max_bytes, "{most} bytes are held");
        }
        assert!(answered > 1_000 && most > limits.total_max_bytes / 4, "{answered} answers, {most} bytes");
        let queue = Queue::new(&limits, Arc::clone(&held));
        for id in 0..10 {
            let tag = granted(&queue, id, 1_000, false);
            assert!(queue.has_room() && queue.reserve(tag, 1_000));
            queue.deliver(tag, ClientResponse::Answer(Bytes::from(vec![0; 1_000])));
        }
        assert_eq!(
            taken(&queue).iter().filter(|response| matches!(response.body, ClientResponse::Answer(_))).count(),
            10
        );
        drop((hostile, queue));
        assert_eq!(held.bytes(), 0);
    }

    // covers B13: neither what is being written nor what is being read is free.
    #[test]
    fn bytes_being_written_or_read_are_counted_until_they_have_left() {
        let queue = queue();
        let held = || queue.held.bytes();
        let tag = granted(&queue, 1, 1, true);
        queue.deliver(tag, ClientResponse::Answer(Bytes::from(vec![0; 1500])));
        assert_eq!(taken(&queue).len(), 1);
        assert_eq!(held(), 1500 + RESPONSE_OVERHEAD_BYTES);
        assert_eq!(queue.take(&mut Vec::new()), Turn::Wait);
        assert_eq!(held(), 0);
        assert!(queue.hold_buffer(20_000), "alone it may have a part of what is for all");
        assert!(!queue.hold_buffer(60_000));
        assert_eq!(held(), 20_000);
        assert!(queue.hold_buffer(0));
        assert_eq!(held(), 0);
    }

    // covers B13: what others hold does not keep a client from sending one large request.
    #[test]
    fn lone_large_request_is_read_and_admitted_while_others_hold_their_half() {
        let held = Arc::new(Held::default());
        let limits = ListenerLimits {
            requests_max: 1024,
            in_flight_max_bytes: 16 << 20,
            answers_max_bytes: 16 << 20,
            total_max_bytes: 256 << 20,
            ..ListenerLimits::default()
        };
        let queue = Queue::new(&limits, Arc::clone(&held));
        held.pool_bytes.store(queue.pool_max_bytes / 2, Ordering::Relaxed);
        for kib in [128, 256, 512, 1024] {
            assert!(queue.hold_buffer(kib << 10), "{kib} KiB of it are read");
        }
        granted(&queue, 1, 1 << 20, true);
        assert!(queue.hold_buffer(0));
    }

    #[test]
    fn take_after_no_more_requests_ends_behind_the_last_answer() {
        let queue = queue();
        let tag = granted(&queue, 1, 1, false);
        queue.no_more_requests();
        assert_eq!(queue.take(&mut Vec::new()), Turn::Wait);
        queue.deliver(tag, ClientResponse::Done);
        assert_eq!(taken(&queue).len(), 1);
        assert_eq!(queue.take(&mut Vec::new()), Turn::End);
    }
}
