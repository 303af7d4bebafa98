//! One connection: reads requests, hands them over, and writes what comes back.
//!
//! Clients are strangers and may be thousands, so reading is stricter here than [`smr::wire::FrameReader`] is among
//! peers: an idle connection keeps a small buffer, and a frame that has begun must end in time. Writing is the same: a
//! client that takes a byte now and then opens no room in the kernel's buffer, and so makes no progress (N7).

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as Moment};

use bytes::{Buf, Bytes, BytesMut};
use smr::codec::{self, HEADER_LEN_BYTES};
use smr::internals::lobby::Guest;
use smr::replica::{Outcome, ReplySink, ReplyTo};
use smr::wire::{SharedOutput, write_all_shared};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::framing::{RETRY_AFTER_MS, next_frame};
use super::handshake::{self, Welcomed};
use super::meter::OutcomeName;
use super::queue::{Admission, Ended, Queue, Told, Turn};
use super::{Backend, Label, ListenerLimits, Phase, RequestMeter, Shared, response_of};
use crate::frames::{ClientResponse, KIND_REQUEST, RequestFrame, number_of};

/// The least room that a read is given, in bytes: some tens of small requests.
const READ_MIN_BYTES: usize = 16 << 10;
/// The most room that is made before the bytes for it have arrived.
const READ_AHEAD_MAX_BYTES: usize = 128 << 10;
/// A reader's buffer of this size is counted with the connection; what is larger takes of what all connections share,
/// and is given back when it is empty.
const READ_FREE_BYTES: usize = 32 << 10;
/// An empty writer's buffer larger than this is given back.
const BUFFER_KEPT_MAX_BYTES: usize = 256 << 10;
/// How often a reader looks whether there is room for the rest of a frame, in milliseconds.
const ROOM_LOOK_MS: u64 = 10;

/// Where the replica delivers the outcomes of a connection's requests.
struct Responder<B: Backend> {
    backend: Arc<B>,
    queue: Queue<B::Map>,
    meter: Option<Arc<RequestMeter>>,
}

impl<B: Backend> Responder<B> {
    /// Hands an answer over to `deliver`, and counts what the client was really told.
    fn answer(&self, response: ClientResponse<B::Map>, deliver: impl FnOnce(ClientResponse<B::Map>) -> Option<Ended>) {
        let answer = OutcomeName::of(&response);
        if let Some(ended) = deliver(response)
            && let (Some(meter), Some(began)) = (&self.meter, ended.began)
        {
            let outcome = match ended.told {
                Told::Answer => answer,
                Told::Busy => OutcomeName::BUSY,
                Told::Nothing => OutcomeName::DROPPED,
            };
            meter.ended(ended.kind, ended.is_long, outcome, began.elapsed());
        }
    }
}

impl<B: Backend> ReplySink for Responder<B> {
    fn deliver(&self, tag: u64, outcome: Outcome) {
        let response = response_of(&*self.backend, outcome);
        self.answer(response, |response| self.queue.deliver(tag, response));
    }

    fn deliver_now(&self, tag: u64, outcome: Outcome) {
        let response = response_of(&*self.backend, outcome);
        self.answer(response, |response| self.queue.deliver_now(tag, response));
    }

    fn has_room(&self) -> bool {
        self.queue.has_room()
    }

    fn reserve(&self, tag: u64, bytes: usize) -> bool {
        self.queue.reserve(tag, bytes)
    }

    fn begin_parts(&self, tag: u64) -> bool {
        self.queue.begin_parts(tag)
    }

    fn poll_room(&self, tag: u64, context: &mut Context<'_>) -> Poll<bool> {
        self.queue.poll_room(tag, context)
    }

    fn deliver_part(&self, tag: u64, part: Bytes) -> bool {
        self.queue.deliver_part(tag, part)
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve<B: Backend, R: AsyncRead + Unpin>(
    shared: &Shared<B>,
    guest: Guest,
    input: R,
    output: Arc<dyn SharedOutput>,
    mut phases: watch::Receiver<Phase>,
) {
    let limits = &shared.limits;
    // Biased, as all choices here: what happens must not be left to chance.
    let greeted = tokio::select! {
        biased;
        greeted = handshake::welcome(shared, input, output) => greeted,
        () = guest.shown_out() => return,
        _ = phases.wait_for(|phase| *phase == Phase::Closing) => return,
    };
    drop(guest);
    let Welcomed { input, output, buffer, permit: _permit, client } = match greeted {
        Ok(Some(greeted)) => greeted,
        Ok(None) => return,
        Err(error) => {
            tracing::debug!(%error, "a connection ended before it said who it is");
            return;
        }
    };
    let queue = Queue::new(limits, Arc::clone(&shared.held));
    let (backend, meter) = (Arc::clone(&shared.backend), shared.meter.clone());
    let responder = Arc::new(Responder { backend, queue, meter });
    let mut writer = tokio::spawn(write_responses(Arc::clone(&responder), output, limits.write_timeout));
    // The reader comes last: a client that never pauses uses up all that a task may do at a time, and nothing after
    // would get its turn.
    let writer_ended = tokio::select! {
        biased;
        _ = &mut writer => true,
        _ = phases.wait_for(|phase| *phase == Phase::Closing) => false,
        ended = read_requests(&responder, input, buffer, limits, client) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ends");
            }
            false
        }
    };
    responder.queue.no_more_requests();
    if !writer_ended && timeout(limits.drain_timeout, &mut writer).await.is_err() {
        writer.abort();
    }
    responder.queue.close();
}

async fn read_requests<B: Backend>(
    responder: &Arc<Responder<B>>,
    mut input: impl AsyncRead + Unpin,
    mut buffer: BytesMut,
    limits: &ListenerLimits,
    client: Option<u32>,
) -> io::Result<()> {
    // When the rest of the frame that stands first in the buffer must be there.
    let mut deadline = Instant::now() + limits.frame_timeout;
    loop {
        let taken = take_requests(responder, &mut buffer, limits.request_max_bytes, client).await;
        responder.backend.flush();
        if taken? {
            deadline = Instant::now() + limits.frame_timeout;
        }
        if buffer.is_empty() && buffer.capacity() > READ_FREE_BYTES {
            buffer = BytesMut::new();
        }
        make_room(responder, &mut buffer, deadline).await?;
        let count = if buffer.is_empty() {
            let count = input.read_buf(&mut buffer).await?;
            deadline = Instant::now() + limits.frame_timeout;
            count
        } else {
            timeout_at(deadline, input.read_buf(&mut buffer)).await??
        };
        if count == 0 {
            return Ok(());
        }
    }
}

/// Makes room for what comes next. A frame that is larger than what each connection has waits for its share of what
/// they have together, not longer than the rest of a frame may take.
async fn make_room<B: Backend>(responder: &Responder<B>, buffer: &mut BytesMut, deadline: Instant) -> io::Result<()> {
    let counted = |buffer: &BytesMut| if buffer.capacity() > READ_FREE_BYTES { buffer.capacity() } else { 0 };
    let room = room_for(buffer);
    let needed = if buffer.len() + room > READ_FREE_BYTES {
        (buffer.len() + room).max(counted(buffer))
    } else {
        counted(buffer)
    };
    while !responder.queue.hold_buffer(needed) {
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no room for the rest of a frame"));
        }
        tokio::time::sleep(Duration::from_millis(ROOM_LOOK_MS)).await;
    }
    buffer.reserve(room);
    Ok(())
}

/// Takes all whole requests out of `buffer`; returns whether there was any.
async fn take_requests<B: Backend>(
    responder: &Arc<Responder<B>>,
    buffer: &mut BytesMut,
    max_bytes: usize,
    client: Option<u32>,
) -> io::Result<bool> {
    let mut any = false;
    // All of them came with one read.
    let began = responder.meter.as_ref().map(|_| Moment::now());
    while let Some(frame) = next_frame(buffer, max_bytes).map_err(io::Error::other)? {
        if frame.kind != KIND_REQUEST {
            return Err(io::Error::other(format!("a frame of kind {:#06x} is no request", frame.kind)));
        }
        let request: RequestFrame = codec::decode(frame.payload).map_err(io::Error::other)?;
        let len = frame.len_bytes;
        let label = client.map(|client| Label { client, number: number_of(request.id) });
        take_request(responder, request, len, label, began).await;
        buffer.advance(len);
        any = true;
    }
    Ok(any)
}

/// How many bytes to make room for. Never all that a header announces: only bytes that arrive earn more room.
fn room_for(buffer: &[u8]) -> usize {
    let Some((len, _)) = buffer.split_first_chunk::<4>() else { return READ_MIN_BYTES };
    let missing = (u32::from_le_bytes(*len) as usize + HEADER_LEN_BYTES).saturating_sub(buffer.len());
    missing.clamp(READ_MIN_BYTES, READ_AHEAD_MAX_BYTES)
}

async fn take_request<B: Backend>(
    responder: &Arc<Responder<B>>,
    request: RequestFrame,
    len_bytes: usize,
    label: Option<Label>,
    began: Option<Moment>,
) {
    let kind = request.ask.kind();
    match responder.queue.admit(request.id, len_bytes, kind, began) {
        Admission::Granted(tag) => {
            let reply = ReplyTo { tag, sink: Arc::clone(responder) as Arc<dyn ReplySink> };
            let RequestFrame { ask, epoch, .. } = request;
            let answered = match label.filter(|label| label.number != 0) {
                None => responder.backend.ask(ask, epoch, reply),
                Some(label) => responder.backend.ask_labelled(label, ask, epoch, reply),
            };
            if let Some(body) = answered {
                responder.answer(body, |body| responder.queue.deliver(tag, body));
            }
        }
        // A client that keeps asking without listening is not read any further.
        Admission::Denied => {
            responder.meter.iter().for_each(|meter| meter.denied(kind));
            responder.backend.flush();
            responder.queue.tell(request.id, ClientResponse::Busy { retry_after_ms: RETRY_AFTER_MS }).await;
        }
    }
}

async fn write_responses<B: Backend>(responder: Arc<Responder<B>>, output: Arc<dyn SharedOutput>, timeout: Duration) {
    responder.queue.write_to(&output);
    let mut buffer = Vec::new();
    loop {
        match responder.queue.take(&mut buffer) {
            Turn::Wait => {
                responder.queue.something_to_write().await;
                continue;
            }
            Turn::End => break,
            Turn::Write => {}
        }
        if let Err(error) = write_all_shared(&*output, &buffer, timeout).await {
            tracing::debug!(%error, "a client does not take its answers");
            break;
        }
        buffer.clear();
        if buffer.capacity() > BUFFER_KEPT_MAX_BYTES {
            buffer = Vec::new();
        }
    }
    // With the last owner of the socket's half the connection is shut down for writing.
    responder.queue.close();
}
