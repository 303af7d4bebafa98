//! Long answers on their way to those who asked.
//!
//! A scan has a thread only while it makes a part of its answer, and there are few ([`SCAN_THREADS`]). Between two
//! parts it waits for room at its connection, and costs nothing but the copy of the state that it reads: clients that
//! do not read hold up no one else (fault catalogue B33). How many scans a connection may have, and how long they may
//! wait for their client, is the connection's business.

use std::future::poll_fn;
use std::iter::Peekable;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::fatal::Lifeline;
use crate::replica::engine::BUSY_RETRY_MS;
use crate::replica::{Outcome, ReplyTo};

/// Threads that make parts of answers: as many as there are processors, within these bounds. They exist from the start:
/// a process that can have no more threads still scans.
const SCAN_THREADS: (usize, usize) = (2, 8);
/// How often a scan that waits for room looks whether it still may, in milliseconds.
const LOOK_MS: u64 = 1_000;

type Parts = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// Where scans get their threads.
pub(super) struct Scans {
    /// Scans that may go on, for whichever thread comes first. At most as long as all connections' quotas together.
    ready: Arc<Sender<Scan>>,
}

/// One long answer.
struct Scan {
    reply: ReplyTo,
    parts: Peekable<Parts>,
}

impl Scans {
    /// Starts the threads. They end when the last owner has gone.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub(super) fn start(lifeline: &Lifeline, who: &str, runtime: Handle) -> std::io::Result<Scans> {
        let (ready, waiting) = unbounded();
        let ready = Arc::new(ready);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..processors.clamp(SCAN_THREADS.0, SCAN_THREADS.1) {
            let (waiting, runtime, ready) = (waiting.clone(), runtime.clone(), Arc::downgrade(&ready));
            lifeline.spawn(format!("{who} scan"), move || {
                work(&waiting, &runtime, &ready);
                Ok(())
            })?;
        }
        Ok(Scans { ready })
    }

    /// Begins to send `parts`. Never blocks.
    pub(super) fn begin(&self, reply: ReplyTo, parts: Parts) {
        if !reply.sink.begin_parts(reply.tag) {
            return reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        // The threads live as long as this.
        let _ = self.ready.send(Scan { reply, parts: parts.peekable() });
    }
}

/// Makes parts until there is no one left to ask for any.
fn work(waiting: &Receiver<Scan>, runtime: &Handle, ready: &Weak<Sender<Scan>>) {
    while let Ok(mut scan) = waiting.recv() {
        if scan.make_parts().is_pending() {
            runtime.spawn(wait(scan, ready.clone()));
        }
    }
}

/// Waits for room, on no thread.
async fn wait(scan: Scan, ready: Weak<Sender<Scan>>) {
    let (sink, tag) = (Arc::clone(&scan.reply.sink), scan.reply.tag);
    // Whether someone still listens is found out again, and acted upon, by the thread.
    while timeout(Duration::from_millis(LOOK_MS), poll_fn(|context| sink.poll_room(tag, context))).await.is_err() {}
    match ready.upgrade() {
        // As above.
        Some(ready) => drop(ready.send(scan)),
        None => scan.reply.send(Outcome::OutOfService("this replica is stopping".to_owned())),
    }
}

impl Scan {
    /// Ready when the answer is complete, or no one wants it.
    fn make_parts(&mut self) -> Poll<()> {
        let (sink, tag) = (&self.reply.sink, self.reply.tag);
        let last = loop {
            match sink.poll_room(tag, &mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(false) => break Vec::new(),
                Poll::Ready(true) => {}
            }
            let Some(part) = self.parts.next() else { break Vec::new() };
            if self.parts.peek().is_none() {
                break part;
            }
            if !sink.deliver_part(tag, part.into()) {
                break Vec::new();
            }
        };
        self.reply.clone().send(Outcome::Answer(last.into()));
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use bytes::Bytes;

    use super::*;
    use crate::replica::ReplySink;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// A connection with room for a number of parts, which tells what it gets.
    struct Reader {
        room: Mutex<(usize, Option<Waker>)>,
        got: Sender<Option<Bytes>>,
        quota: usize,
        begun: Mutex<usize>,
    }

    impl Reader {
        fn new(room: usize, quota: usize) -> (Arc<Reader>, Receiver<Option<Bytes>>) {
            let (got, gets) = channel();
            (Arc::new(Reader { room: Mutex::new((room, None)), got, quota, begun: Mutex::new(0) }), gets)
        }

        fn reads(&self, parts: usize) {
            let mut room = self.room.lock().unwrap();
            room.0 += parts;
            if let Some(waker) = room.1.take() {
                waker.wake();
            }
        }
    }

    impl ReplySink for Reader {
        fn deliver(&self, _tag: u64, outcome: Outcome) {
            let last = match outcome {
                Outcome::Answer(last) => Some(last),
                _ => None,
            };
            self.got.send(last).unwrap();
        }

        fn begin_parts(&self, _tag: u64) -> bool {
            *self.begun.lock().unwrap() += 1;
            *self.begun.lock().unwrap() <= self.quota
        }

        fn poll_room(&self, _tag: u64, context: &mut Context<'_>) -> Poll<bool> {
            let mut room = self.room.lock().unwrap();
            if room.0 > 0 {
                return Poll::Ready(true);
            }
            room.1 = Some(context.waker().clone());
            Poll::Pending
        }

        fn deliver_part(&self, _tag: u64, part: Bytes) -> bool {
            self.room.lock().unwrap().0 -= 1;
            self.got.send(Some(part)).unwrap();
            true
        }
    }

    fn parts(count: u8) -> Parts {
        Box::new((0..count).map(|number| vec![number]))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    // covers B33
    #[test]
    fn scans_whose_clients_do_not_read_hold_up_no_other() {
        let runtime = runtime();
        let scans = Scans::start(&Lifeline::new(), "test", runtime.handle().clone()).unwrap();
        let mut hung = Vec::new();
        for _ in 0..20 * SCAN_THREADS.1 {
            let (reader, gets) = Reader::new(1, 1);
            scans.begin(ReplyTo { tag: 0, sink: reader.clone() }, parts(5));
            hung.push((reader, gets));
        }
        let (reader, gets) = Reader::new(100, 1);
        scans.begin(ReplyTo { tag: 0, sink: reader }, parts(5));
        let got: Vec<_> = (0..5).map(|_| gets.recv_timeout(TIMEOUT).unwrap()).collect();
        let all: Vec<_> = (0..5).map(|number| Some(Bytes::from(vec![number]))).collect();
        assert_eq!(got, all, "in order, and all of it");
        // And those who read at last get all of theirs.
        for (reader, gets) in hung {
            reader.reads(10);
            let got: Vec<_> = (0..5).map(|_| gets.recv_timeout(TIMEOUT).unwrap()).collect();
            assert_eq!(got, all);
        }
    }

    // covers B33
    #[test]
    fn scan_beyond_the_quota_of_its_connection_is_busy() {
        let runtime = runtime();
        let scans = Scans::start(&Lifeline::new(), "test", runtime.handle().clone()).unwrap();
        let (reader, gets) = Reader::new(0, 2);
        for _ in 0..3 {
            scans.begin(ReplyTo { tag: 0, sink: reader.clone() }, parts(2));
        }
        assert_eq!(gets.recv_timeout(TIMEOUT).unwrap(), None, "busy");
    }
}
