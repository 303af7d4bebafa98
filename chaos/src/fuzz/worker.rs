//! One client's life: ask, hear, write down, again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::fuzz::Shared;
use crate::fuzz::statistics::End;
use crate::fuzz::workload::Workload;
use madkv_testkit::caller::{Caller, Heard, Maker};
use madkv_testkit::history::{Operation, Outcome};

/// For how long a client that is to die goes on with its last request: long enough that it may be under way, short
/// enough that it may not be over.
const LAST_MOMENT: Duration = Duration::from_micros(700);

/// A client.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    number: u32,
    caller: Caller,
    workload: Workload,
    maker: Maker,
    /// Retries of this caller up to its last answer.
    retries: u64,
    /// Whether this caller was answered before.
    is_warm: bool,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, number: u32, caller: Caller, workload: Workload, maker: Maker) -> Worker {
        Worker { shared, number, caller, workload, maker, retries: 0, is_warm: false }
    }

    /// Asks until it is time to stop.
    pub(crate) fn work(mut self) {
        while !self.shared.must_stop() && self.shared.begin() {
            let action = self.workload.next();
            let dies = self.workload.chance(self.shared.options.deaths_permille);
            let (verb, call, started) = (action.verb(), self.shared.now(), Instant::now());
            let mut operation = Operation { client: self.number, action, call, outcome: Outcome::Unknown };
            if dies {
                self.caller.abandon(&operation.action, LAST_MOMENT);
                if !self.is_reborn() {
                    return;
                }
                self.note(operation, verb, End::Unknown, Some("the client was killed"));
                continue;
            }
            let heard = self.caller.call(&operation.action);
            let at = self.shared.now();
            match heard {
                Heard::Answer(answer) => {
                    operation.outcome = Outcome::Answered { at, answer };
                    self.shared.answered.fetch_add(1, Ordering::Relaxed);
                    self.note(operation, verb, End::Answered(started.elapsed()), None);
                }
                Heard::NotDone(why) => {
                    operation.outcome = Outcome::NotDone { at };
                    self.note(operation, verb, End::NotDone, Some(&why));
                }
                Heard::Unknown(why) => self.note(operation, verb, End::Unknown, Some(&why)),
                Heard::Broken(why) => {
                    self.note(operation, verb, End::Unknown, None);
                    self.shared.fail(format!("client {} {why}", self.number));
                    return;
                }
            }
        }
    }

    /// Another client takes the place of one that died.
    fn is_reborn(&mut self) -> bool {
        match self.maker.make(self.number) {
            Ok(caller) => {
                self.caller = caller;
                (self.retries, self.is_warm) = (0, false);
                true
            }
            Err(error) => {
                self.shared.fail(format!("client {} cannot be started again: {error}", self.number));
                false
            }
        }
    }

    fn note(&mut self, operation: Operation, verb: &'static str, end: End, why: Option<&str>) {
        let retries = self.caller.retries();
        let had_to_retry = self.is_warm && retries > self.retries;
        self.retries = retries;
        let mut book = self.shared.book();
        book.keep(operation);
        book.statistics.add(verb, end);
        book.statistics.retried += u64::from(had_to_retry);
        if let Some(why) = why {
            book.statistics.add_reason(why.to_owned());
        }
        if let End::Answered(_) = end {
            self.is_warm = true;
            let now = Instant::now();
            let gap = now.duration_since(book.last_answer);
            book.statistics.longest_gap = book.statistics.longest_gap.max(gap);
            book.last_answer = now;
        }
    }
}
