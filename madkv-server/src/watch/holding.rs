//! Keeps questions to which there is nothing new yet.
//!
//! The bell rings whatever key is written. One task hears it for all who wait: it looks at what is new since it looked
//! last, and wakes those in whose range some of it is. So while others' keys are written the replica is asked once per
//! [`LOOK_PAUSE`], however many wait; and the looking itself, a comparison for each of them and each change, is done
//! outside of the replica's turns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::frames::ClientResponse;
use madkv_proto::watch::{HOLD_MAX_MS, WatchAnswer, WatchFrom, WatchQuery, concerns};
use parking_lot::Mutex;
use smr::replica::{Outcome, ReplicaHandle, ReplyTo, Request};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use super::Bell;

/// Questions that a server keeps at a time.
const HELD_MAX: usize = 256;
/// How long the one who looks stays asleep after a change: more changes come with it.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
/// When a client that is one too many may try again, in milliseconds.
const RETRY_MS: u32 = 200;

/// Keeps questions until there is something new, or for as long as the client said.
#[derive(Clone)]
pub struct Holding {
    replica: ReplicaHandle,
    runtime: Handle,
    permits: Arc<Semaphore>,
    held: Arc<Held>,
}

impl Holding {
    /// Waits with tasks on `runtime` until `replica`, whose state rings this bell, has something new.
    pub fn new(replica: ReplicaHandle, runtime: Handle, bell: Bell) -> Holding {
        let held = Arc::<Held>::default();
        runtime.spawn(look(replica.clone(), bell, Arc::clone(&held)));
        Holding { replica, runtime, permits: Arc::new(Semaphore::new(HELD_MAX)), held }
    }

    /// The genesis of the group; 0 before there is one.
    pub(crate) fn genesis(&self) -> u128 {
        self.replica.genesis().map_or(0, |genesis| genesis.0)
    }

    /// Answers a question. The response, if there is one, is the answer.
    pub(crate) fn answer(&self, query: WatchQuery, hold_ms: u32, reply: ReplyTo) -> Option<ClientResponse> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return Some(ClientResponse::Busy { retry_after_ms: RETRY_MS });
        };
        let holding = self.clone();
        let until = Instant::now() + Duration::from_millis(u64::from(hold_ms.min(HOLD_MAX_MS)));
        self.runtime.spawn(async move {
            let outcome = holding.wait(query, until).await;
            drop(permit);
            let outcome = outcome.unwrap_or(Outcome::Busy { retry_after_ms: RETRY_MS });
            match &outcome {
                Outcome::Answer(answer) if !reply.sink.reserve(reply.tag, answer.len()) => {
                    reply.send(Outcome::Busy { retry_after_ms: RETRY_MS });
                }
                _ => reply.send(outcome),
            }
        });
        None
    }

    /// The first answer that says something, or the last one. Linearizable as of its arrival: the first look is, and
    /// later ones see no less.
    async fn wait(self, mut query: WatchQuery, until: Instant) -> Option<Outcome> {
        // Before the first look: what comes after that is not missed.
        let waiting = Held::wait_for(&self.held, &query);
        query.waits = true;
        let mut outcome = self.replica.ask(Request::Read { query: query.encode() }).await?;
        while let Some((position, epoch)) = nothing_until(&outcome) {
            (query.from, query.begins) = (WatchFrom::Index(position + 1), false);
            let is_woken = timeout_at(until, waiting.wake.notified()).await.is_ok();
            let (is_new, seen) = waiting.take();
            if is_new {
                match self.replica.ask(Request::LocalRead { query: query.encode() }).await? {
                    Outcome::Answer(answer) if tells_changes(&answer) => outcome = Outcome::Answer(answer),
                    // By now another one may lead, which has what this one lacks: the client asks again, whoever leads.
                    _ => break,
                }
            } else if let Some(position) = seen.filter(|seen| *seen > position) {
                let nothing = WatchAnswer::Changes { items: Vec::new(), position, is_end: true, epoch };
                outcome = Outcome::Answer(nothing.encode().into());
            }
            if !is_woken {
                break;
            }
        }
        Some(outcome)
    }
}

fn tells_changes(answer: &[u8]) -> bool {
    matches!(WatchAnswer::decode(answer), Ok(WatchAnswer::Changes { .. }))
}

/// The position and the epoch, if this answer says that there is nothing new.
fn nothing_until(outcome: &Outcome) -> Option<(u64, u64)> {
    let Outcome::Answer(answer) = outcome else { return None };
    match WatchAnswer::decode(answer) {
        Ok(WatchAnswer::Changes { items, position, is_end: true, epoch }) if items.is_empty() => {
            Some((position, epoch))
        }
        _ => None,
    }
}

/// Looks at what is new, for all who wait, until the replica has ended.
async fn look(replica: ReplicaHandle, bell: Bell, held: Arc<Held>) {
    let mut rung = bell.0.rung.subscribe();
    while rung.changed().await.is_ok() {
        loop {
            sleep(LOOK_PAUSE).await;
            rung.mark_unchanged();
            let Some(query) = held.query() else { break };
            let Some(outcome) = replica.ask(Request::LocalRead { query: query.encode() }).await else {
                return held.wake_all();
            };
            let answer = match &outcome {
                Outcome::Answer(answer) => WatchAnswer::decode(answer).ok(),
                _ => None,
            };
            if held.looked(&query, answer.as_ref()) == Look::WhenRung {
                break;
            }
        }
    }
}

/// The ranges of those who wait, and up to where all that is new was compared with them.
#[derive(Debug, Default)]
struct Held(Mutex<Ranges>);

#[derive(Debug, Default)]
struct Ranges {
    by_number: BTreeMap<u64, Range>,
    next_number: u64,
    /// All entries up to this one were looked at, since the first one of those who wait began to. `None`: none were.
    position: Option<u64>,
}

#[derive(Debug)]
struct Range {
    query: WatchQuery,
    /// There is something that may be new.
    is_new: bool,
    wake: Arc<Notify>,
}

/// Someone who waits, until it is dropped.
struct Waiting {
    held: Arc<Held>,
    number: u64,
    wake: Arc<Notify>,
}

/// When the state is to be looked at next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// After a pause.
    Soon,
    /// Once the bell rings: the look, or whoever is woken by it, has armed it.
    WhenRung,
}

impl Held {
    fn wait_for(held: &Arc<Held>, query: &WatchQuery) -> Waiting {
        let wake = Arc::<Notify>::default();
        let mut ranges = held.0.lock();
        let number = ranges.next_number;
        ranges.next_number += 1;
        ranges.by_number.insert(number, Range { query: query.clone(), is_new: false, wake: Arc::clone(&wake) });
        Waiting { held: Arc::clone(held), number, wake }
    }

    /// What to ask, about all keys from the first to the last that someone waits for; `None` if no one waits.
    fn query(&self) -> Option<WatchQuery> {
        let mut ranges = self.0.lock();
        let queries = || ranges.by_number.values().map(|range| &range.query);
        let first: Option<Bytes> = queries().map(|query| &query.first).min().cloned();
        let last: Option<Bytes> = queries().map(|query| &query.last).max().cloned();
        let (Some(first), Some(last)) = (first, last) else {
            ranges.position = None;
            return None;
        };
        let from = ranges.position.map_or(WatchFrom::Now, |position| WatchFrom::Index(position + 1));
        Some(WatchQuery { from, first, last, begins: false, waits: true })
    }

    /// Wakes those whom an answer to this question concerns.
    fn looked(&self, asked: &WatchQuery, answer: Option<&WatchAnswer>) -> Look {
        let mut ranges = self.0.lock();
        let Some(WatchAnswer::Changes { items, position, is_end, .. }) = answer else {
            // Each of them finds out by itself.
            ranges.position = None;
            ranges.by_number.values_mut().for_each(Range::wake);
            return Look::WhenRung;
        };
        ranges.position = Some(*position);
        for range in ranges.by_number.values_mut() {
            // Some may have begun to wait before this was looked at, or after it was asked, for other keys.
            let is_asked =
                asked.from != WatchFrom::Now && asked.has(&range.query.first) && asked.has(&range.query.last);
            if !is_asked || items.iter().any(|(_, item)| concerns(item, &range.query)) {
                range.wake();
            }
        }
        if *is_end && items.is_empty() { Look::WhenRung } else { Look::Soon }
    }

    fn wake_all(&self) {
        self.0.lock().by_number.values_mut().for_each(Range::wake);
    }
}

impl Range {
    fn wake(&mut self) {
        self.is_new = true;
        self.wake.notify_one();
    }
}

impl Waiting {
    /// Whether there may be something new since this was asked last, and up to where there is not if not.
    fn take(&self) -> (bool, Option<u64>) {
        let mut ranges = self.held.0.lock();
        let position = ranges.position;
        let range = ranges.by_number.get_mut(&self.number);
        (range.is_some_and(|range| std::mem::take(&mut range.is_new)), position)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.held.0.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use madkv_proto::command::Command;
    use madkv_proto::slot_set::SlotSet;
    use madkv_proto::watch::SlotsMoved;

    use super::*;

    fn waits_for(held: &Arc<Held>, first: &'static str, last: &'static str) -> Waiting {
        let [first, last] = [first, last].map(|key| Bytes::from_static(key.as_bytes()));
        Held::wait_for(held, &WatchQuery { from: WatchFrom::Now, first, last, begins: true, waits: false })
    }

    fn put(key: &str) -> Bytes {
        Command::Put { key: key.as_bytes(), value: b"" }.encode()
    }

    fn changes(items: &[(u64, Bytes)], position: u64, is_end: bool) -> WatchAnswer {
        WatchAnswer::Changes { items: items.to_vec(), position, is_end, epoch: 0 }
    }

    /// The state is looked at once, and has this to say.
    fn look(held: &Held, answer: &WatchAnswer) -> Look {
        let query = held.query().unwrap();
        held.looked(&query, Some(answer))
    }

    // covers C19
    #[test]
    fn who_waits_for_a_key_is_woken_once_at_first_and_never_by_writes_of_others() {
        let held = Arc::<Held>::default();
        let (a, c) = (waits_for(&held, "a", "a"), waits_for(&held, "c", "d"));
        // The first look says where the others begin.
        assert_eq!(look(&held, &changes(&[], 7, true)), Look::WhenRung);
        assert_eq!([a.take(), c.take()], [(true, Some(7)); 2]);
        for index in 8..1_000 {
            assert_eq!(look(&held, &changes(&[(index, put("b"))], index, true)), Look::Soon);
            assert_eq!([a.take(), c.take()], [(false, Some(index)); 2]);
        }
        assert_eq!(look(&held, &changes(&[(1_000, put("b")), (1_001, put("d"))], 1_001, false)), Look::Soon);
        assert_eq!([a.take(), c.take()], [(false, Some(1_001)), (true, Some(1_001))]);
        assert_eq!(look(&held, &changes(&[], 1_005, true)), Look::WhenRung);
        assert_eq!([a.take(), c.take()], [(false, Some(1_005)); 2]);
    }

    // covers C17 C18
    #[test]
    fn who_waits_is_woken_whenever_something_of_it_may_be_new() {
        let held = Arc::<Held>::default();
        let a = waits_for(&held, "a", "a");
        look(&held, &changes(&[], 7, true));
        a.take();
        let moved = SlotsMoved { epoch: 2, left: SlotSet::range(0, 1), came: SlotSet::default() };
        look(&held, &changes(&[(8, moved.encode())], 8, true));
        assert_eq!(a.take(), (true, Some(8)), "slots have moved");
        // One that came after the question was asked was not asked for.
        let query = held.query().unwrap();
        let c = waits_for(&held, "c", "c");
        held.looked(&query, Some(&changes(&[], 9, true)));
        assert_eq!([a.take(), c.take()], [(false, Some(9)), (true, Some(9))]);
        let query = held.query().unwrap();
        assert_eq!(held.looked(&query, Some(&WatchAnswer::Compacted { oldest: 70 })), Look::WhenRung);
        assert_eq!([a.take(), c.take()], [(true, None); 2], "it fell behind");
        look(&held, &changes(&[], 90, true));
        assert_eq!([a.take(), c.take()], [(true, Some(90)); 2], "what was between is not known");
        drop((a, c));
        assert_eq!(held.query(), None);
        let d = waits_for(&held, "d", "d");
        assert_eq!(held.query().unwrap().from, WatchFrom::Now, "what was while no one waited is of no interest");
        drop(d);
    }
}
