//! Bounds and wake-ups of [`super::queue`]. In a file of its own, because the model of the hand-over takes that one as
//! it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use smr::codec;
use smr::wire::SharedOutput;

use super::ListenerLimits;
use super::framing::{RETRY_AFTER_MS, next_frame};
use super::pool::{Held, Share};
use super::queue::{Admission, RESPONSE_OVERHEAD_BYTES, Told, Turn};
use crate::frames::{ClientResponse, RequestKind};

type Queue = super::queue::Queue<()>;
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
    let kind = if harmless { RequestKind::Read } else { RequestKind::Write };
    match queue.admit(id, cost_bytes, kind, None) {
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
    assert_eq!(queue.admit(4, 10, RequestKind::Read, None), Admission::Denied, "four are under way");
    queue.deliver(0, ClientResponse::Done);
    assert_eq!(
        queue.admit(4, 10, RequestKind::Read, None),
        Admission::Denied,
        "three are under way, one waits to be written"
    );
    assert_eq!(taken(&queue).len(), 1);
    assert_eq!(queue.admit(4, 980, RequestKind::Read, None), Admission::Denied, "too many bytes");
    granted(&queue, 4, 970, true);
}

#[test]
fn admit_lone_request_beyond_the_byte_limit_is_granted() {
    let queue = queue();
    granted(&queue, 1, 5000, false);
    assert_eq!(queue.admit(2, 1, RequestKind::Write, None), Admission::Denied);
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
    let told = |tag, body| queue.deliver(tag, body).map(|ended| ended.told);
    assert_eq!(told(tags[0], large()), Some(Told::Answer));
    assert_eq!(told(tags[1], large()), Some(Told::Busy), "what is counted is what was said");
    assert_eq!(told(tags[1], large()), None, "it has ended");
    let bodies: Vec<ClientResponse<()>> = taken(&queue).into_iter().map(|response| response.body).collect();
    assert_eq!(bodies, [large(), ClientResponse::Busy { retry_after_ms: RETRY_AFTER_MS }]);

    let other = granted(&queue, 3, 1, true);
    let late = granted(&queue, 4, 1, true);
    assert_eq!(told(other, large()), Some(Told::Busy), "the first one is being written");
    assert_eq!(told(tags[2], large()), Some(Told::Nothing), "the write ends the connection");
    assert_eq!(told(late, ClientResponse::Done), Some(Told::Nothing), "no one hears it");
    assert_eq!(queue.take(&mut Vec::new()), Turn::End);
}

/// Both ends of a connection: what the queue may write to, and what arrives.
async fn connection() -> (Arc<dyn SharedOutput>, tokio::net::TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(tokio::net::TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
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
    assert_eq!(queue.share().held.bytes(), 0);
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
        if queue.begun_bytes() > 0 {
            break queue.begun_bytes();
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
        let held = queue.share().held.bytes();
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
            let Admission::Granted(tag) = queue.admit(id, 40, RequestKind::Read, None) else { break };
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
        let mine = queue.held_bytes();
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
    assert_eq!(taken(&queue).iter().filter(|response| matches!(response.body, ClientResponse::Answer(_))).count(), 10);
    drop((hostile, queue));
    assert_eq!(held.bytes(), 0);
}

// covers B13: neither what is being written nor what is being read is free.
#[test]
fn bytes_being_written_or_read_are_counted_until_they_have_left() {
    let queue = queue();
    let held = || queue.share().held.bytes();
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
    held.pool_bytes.store(Share::new(&limits, Arc::clone(&held)).pool_max_bytes / 2, Ordering::Relaxed);
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
