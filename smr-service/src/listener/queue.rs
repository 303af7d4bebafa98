//! What one connection has under way: requests that were admitted, and responses that wait to be written.
//!
//! The reader admits, the replica's threads deliver, the writer takes. Everything is counted, so that neither a client
//! that asks without listening nor one that asks for large answers costs more memory than [`ListenerLimits`] allow.
//! What does not fit there, or into what all connections share ([`super::pool`]), is `Busy`.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant as Moment;

use bytes::Bytes;
use smr::wire::SharedOutput;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;

use super::ListenerLimits;
use super::framing::{RETRY_AFTER_MS, encode};
use super::pool::{Held, Share};
use super::scan::{Scan, ScanPace};
use super::sync::{Mutex, MutexGuard, Notify};
use crate::frames::{ClientResponse, Map, RequestKind, ResponseFrame};

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
pub(super) const RESPONSE_OVERHEAD_BYTES: usize = 128;
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

/// An admitted request that has ended, and what its connection was told.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) kind: RequestKind,
    /// The answer came in parts.
    pub(super) is_long: bool,
    /// When it was read, if someone wants to know.
    pub(super) began: Option<Moment>,
    pub(super) told: Told,
}

/// What a connection was told of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// What the replica had to say.
    Answer,
    /// `Busy`: there was no room for the answer.
    Busy,
    /// Nothing: the connection has ended, now or before.
    Nothing,
}

/// See the module.
pub(super) struct Queue<M: Map> {
    state: Mutex<State<M>>,
    writer: Notify,
    reader: Notify,
    share: Share,
    requests_max: usize,
    in_flight_max_bytes: usize,
    answers_max_bytes: usize,
    scans_max: usize,
    scan_pace: ScanPace,
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
    kind: RequestKind,
    /// When it was read, if someone wants to know.
    began: Option<Moment>,
    /// What is kept free for its answer.
    reserved_bytes: usize,
    /// For a long answer: how it gets on.
    scan: Option<Scan>,
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
            share: Share::new(limits, held),
            requests_max: limits.requests_max,
            in_flight_max_bytes: limits.in_flight_max_bytes,
            answers_max_bytes: limits.answers_max_bytes,
            scans_max: limits.scans_max,
            scan_pace: ScanPace::new(limits),
        }
    }

    /// Whether there is room for this many more bytes of this connection.
    fn fits(&self, state: &State<M>, more: usize) -> bool {
        self.share.fits(state.held_bytes(), state.reading_bytes, more)
    }

    /// Counts what the connection holds now.
    fn count(&self, state: &mut State<M>) {
        let now = state.held_bytes();
        self.share.count(state.counted_bytes, now);
        state.counted_bytes = now;
    }

    /// Asks for a request of `cost_bytes` to go on, which was read when it `began`, if someone counts. A lone request
    /// may be larger than the connection's limit.
    pub(super) fn admit(&self, id: u64, cost_bytes: usize, kind: RequestKind, began: Option<Moment>) -> Admission {
        let mut state = self.lock();
        let lone = state.in_flight() == 0 && state.answers_bytes() == 0;
        let within = state.in_flight() + state.ready.len() < self.requests_max
            && state.in_flight_bytes + cost_bytes <= self.in_flight_max_bytes;
        if !(within || lone) || !self.fits(&state, cost_bytes + RESPONSE_OVERHEAD_BYTES) {
            return Admission::Denied;
        }
        state.in_flight_bytes += cost_bytes;
        let slot = Some(Slot { id, cost_bytes, kind, began, reserved_bytes: 0, scan: None });
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

    /// Takes what became of an admitted request, and returns what its client hears of it; `None` if there is no such
    /// request. Never blocks.
    pub(super) fn deliver(&self, tag: u64, body: ClientResponse<M>) -> Option<Ended> {
        let mut state = self.lock();
        let slot = usize::try_from(tag).ok().and_then(|tag| state.slots.get_mut(tag)?.take());
        let Some(slot) = slot else {
            tracing::error!(tag, "an answer to no request");
            return None;
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
        let told = match (fits, slot.kind.is_harmless()) {
            (true, _) => {
                self.push(&mut state, ResponseFrame { id: slot.id, body });
                Told::Answer
            }
            (false, true) => {
                let body = ClientResponse::Busy { retry_after_ms: RETRY_AFTER_MS };
                self.push(&mut state, ResponseFrame { id: slot.id, body });
                Told::Busy
            }
            // It happened, and there is no room to say so: the client asks again on another connection, and the replica
            // knows.
            (false, false) => {
                self.shut(&mut state);
                Told::Nothing
            }
        };
        let told = if state.open { told } else { Told::Nothing };
        Some(Ended { kind: slot.kind, is_long: slot.scan.is_some(), began: slot.began, told })
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
    pub(super) fn deliver_now(&self, tag: u64, body: ClientResponse<M>) -> Option<Ended> {
        // The writer finds what is ready by itself, if it is at work.
        let waits = std::mem::take(&mut self.lock().writer_waits);
        let ended = self.deliver(tag, body);
        if !waits {
            return ended;
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
                return ended;
            }
        }
        self.writer.notify_one();
        ended
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
        let left = self.share.left();
        let aim = PARTS_WAIT_BYTES.min(self.answers_max_bytes).min(left / PARTS_SHARE);
        let (room, client_reads) = (left > 0 && state.answers_bytes() <= aim, state.answers_bytes() == 0);
        let Some(scan) = state.slot(tag).and_then(|slot| slot.scan.as_mut()) else { return Poll::Ready(false) };
        let now = Instant::now();
        if room {
            scan.stop_waiting(now);
            return Poll::Ready(true);
        }
        if scan.is_too_slow(self.scan_pace, now) {
            tracing::debug!(?scan, "a client takes its scan too slowly");
            self.shut(&mut state);
            return Poll::Ready(false);
        }
        // Only the time counts in which it is the client that does not read.
        if !client_reads {
            scan.wait(now);
        }
        if !state.parts_wait.iter().any(|waker| waker.will_wake(context.waker())) {
            state.parts_wait.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// Takes a part of a long answer. Never blocks. False if the connection has ended.
    pub(super) fn deliver_part(&self, tag: u64, part: Bytes) -> bool {
        let mut state = self.lock();
        let Some(slot) = state.slot(tag) else {
            tracing::error!(tag, "a part of an answer to no request");
            return false;
        };
        if let Some(scan) = &mut slot.scan {
            scan.count_sent(part.len());
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

    /// What the connection holds, in bytes.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.lock().held_bytes()
    }

    /// What is begun and not written, in bytes.
    #[cfg(test)]
    pub(super) fn begun_bytes(&self) -> usize {
        self.lock().begun.len()
    }

    /// Its part in what all connections hold.
    #[cfg(test)]
    pub(super) fn share(&self) -> &Share {
        &self.share
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
