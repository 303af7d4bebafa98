//! A model of [`queue`]'s hand-over: `loom` tries every order of events, up to two preemptions, for threads of the
//! replica that deliver answers and write them themselves, the connection's writer, and the end of the connection. The
//! file is the one that serves; what its threads share things by is loom's here.
//!
//! The socket insists that no two write at once, and takes less than it is given at times. The writer sleeps until it
//! is woken, so an answer that is left lying without a word to the writer is a deadlock, which loom reports. At the end
//! every answer has arrived once and whole, and nothing counts as held.

#![allow(clippy::unwrap_used)] // helpers of tests, where the lint only knows the tests themselves
#![allow(dead_code)] // the queue does more than hand over

#[path = "../src/listener/pool.rs"]
mod pool;
#[path = "../src/listener/queue.rs"]
mod queue;
#[path = "../src/listener/scan.rs"]
mod scan;

/// In place of those of `smr-service`.
mod frames {
    pub(crate) use smr_service::frames::{ClientResponse, Map, RequestKind, ResponseFrame};
}

/// In place of the listener's.
mod framing {
    use crate::frames::{Map, ResponseFrame};

    pub(crate) const RETRY_AFTER_MS: u32 = 50;

    /// Two bytes, so that it can be torn.
    pub(crate) fn encode<M: Map>(buffer: &mut Vec<u8>, response: ResponseFrame<M>) {
        let id = u8::try_from(response.id).unwrap();
        buffer.extend([id, id]);
    }
}

/// In place of the listener's.
mod sync {
    pub(crate) use loom::sync::{Mutex, MutexGuard};

    /// In place of tokio's, for one who waits: a word to someone who does not wait yet is kept. Waiting holds up the
    /// thread, for here each task has one.
    pub(crate) struct Notify {
        is_told: Mutex<bool>,
        told: loom::sync::Condvar,
    }

    impl Notify {
        pub(crate) fn new() -> Notify {
            Notify { is_told: Mutex::new(false), told: loom::sync::Condvar::new() }
        }

        pub(crate) fn notify_one(&self) {
            *self.is_told.lock().unwrap() = true;
            self.told.notify_one();
        }

        pub(crate) async fn notified(&self) {
            let mut is_told = self.is_told.lock().unwrap();
            while !*is_told {
                is_told = self.told.wait(is_told).unwrap();
            }
            *is_told = false;
        }
    }
}

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc as LoomArc, Condvar, Mutex};
use loom::thread;
use queue::{Admission, Turn};
use smr::wire::SharedOutput;
use smr_service::frames::{ClientResponse, RequestKind};
use smr_service::listener::ListenerLimits;

/// How many times a thread may be interrupted where it need not wait.
const PREEMPTIONS_MAX: usize = 2;

type Queue = queue::Queue<()>;

/// A socket that is full now and then.
struct Socket {
    /// Whoever writes holds this.
    writes: Mutex<()>,
    /// How many writes there were.
    count: AtomicUsize,
    /// Which of them takes a single byte.
    short_write: Option<usize>,
    arrived: Mutex<Vec<u8>>,
    /// Something arrived.
    progress: Condvar,
}

impl SharedOutput for Socket {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let _alone = self.writes.try_lock().expect("two write at once");
        // Others may run here.
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let taken = if self.short_write == Some(number) { 1 } else { bytes.len() };
        self.arrived.lock().unwrap().extend_from_slice(&bytes[..taken]);
        self.progress.notify_one();
        Ok(taken)
    }

    /// It always is: the writer tries again at once.
    fn poll_writable(&self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What `connection::write_responses` does.
fn write_responses(queue: &Queue, socket: Arc<dyn SharedOutput>) {
    queue.write_to(&socket);
    let mut buffer = Vec::new();
    loop {
        match queue.take(&mut buffer) {
            Turn::Wait => {
                // It waits inside.
                let told = pin!(queue.something_to_write()).poll(&mut Context::from_waker(Waker::noop()));
                assert_eq!(told, Poll::Ready(()));
                continue;
            }
            Turn::End => break,
            Turn::Write => {}
        }
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            rest = &rest[socket.try_write(rest).unwrap()..];
        }
        buffer.clear();
    }
    queue.close();
}

/// When a client asks nothing more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// As soon as it has asked: the end comes anywhere among the answers.
    UntilItHasAsked,
    /// It waits for the answers.
    UntilItIsAnswered,
}

/// As many threads as there are `answers` deliver this many each; one write is short, if it is said which.
fn explore(answers: &'static [u8], short_write: Option<usize>, asks: Asks) {
    let limits = ListenerLimits { scans_max: 1, ..ListenerLimits::default() };
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS_MAX);
    model.check(move || {
        let held = Arc::<pool::Held>::default();
        let queue = LoomArc::new(Queue::new(&limits, Arc::clone(&held)));
        let socket = Arc::new(Socket {
            writes: Mutex::new(()),
            count: AtomicUsize::new(0),
            short_write,
            arrived: Mutex::new(Vec::new()),
            progress: Condvar::new(),
        });
        let writer = {
            let (queue, socket) = (LoomArc::clone(&queue), Arc::clone(&socket));
            thread::spawn(move || write_responses(&queue, socket))
        };
        let mut id = 0;
        let replicas: Vec<_> = answers
            .iter()
            .map(|count| {
                let tags: Vec<u64> = (0..*count)
                    .map(|_| {
                        id += 1;
                        match queue.admit(id, 10, RequestKind::Write, None) {
                            Admission::Granted(tag) => tag,
                            Admission::Denied => panic!("request {id} was denied"),
                        }
                    })
                    .collect();
                let queue = LoomArc::clone(&queue);
                thread::spawn(move || {
                    tags.into_iter().for_each(|tag| {
                        queue.deliver_now(tag, ClientResponse::Done);
                    })
                })
            })
            .collect();
        if asks == Asks::UntilItIsAnswered {
            let all_bytes = 2 * usize::from(answers.iter().sum::<u8>());
            let mut arrived = socket.arrived.lock().unwrap();
            while arrived.len() < all_bytes {
                arrived = socket.progress.wait(arrived).unwrap();
            }
        }
        queue.no_more_requests();
        for replica in replicas {
            replica.join().unwrap();
        }
        writer.join().unwrap();
        let arrived = socket.arrived.lock().unwrap();
        let mut ids: Vec<u8> = arrived.chunks(2).map(|frame| frame[0]).collect();
        assert!(arrived.chunks(2).all(|frame| frame == [frame[0]; 2]), "a torn answer: {arrived:?}");
        // Each thread's own are in order.
        let mut first = 1;
        for count in answers {
            let own: Vec<u8> = ids.iter().copied().filter(|id| (first..first + count).contains(id)).collect();
            assert!(own.is_sorted(), "{own:?}");
            first += count;
        }
        ids.sort_unstable();
        assert_eq!(ids, (1..first).collect::<Vec<_>>());
        assert_eq!(held.bytes(), 0);
    });
}

#[test]
fn answers_of_one_thread_all_arrive_in_order() {
    explore(&[2], None, Asks::UntilItHasAsked);
    explore(&[2], None, Asks::UntilItIsAnswered);
}

#[test]
fn answers_of_two_threads_all_arrive() {
    explore(&[1, 1], None, Asks::UntilItHasAsked);
    explore(&[1, 1], None, Asks::UntilItIsAnswered);
}

#[test]
fn answers_to_a_socket_that_is_full_all_arrive() {
    explore(&[2], Some(0), Asks::UntilItHasAsked);
    explore(&[2], Some(0), Asks::UntilItIsAnswered);
    explore(&[1, 1], Some(0), Asks::UntilItIsAnswered);
}
