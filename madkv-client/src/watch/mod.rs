//! Watching keys: each change once and in order, whoever leads, wherever the keys' slots are.
//!
//! A watch asks each partition that owns slots for what has changed since the entry that it has heard last; of a single
//! key, the partition that owns it. Any replica answers alike, so a failover costs nothing but time. What the watch has
//! heard, and what that means, is in [`streams`], without a socket; here are the questions.

mod streams;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::limits::KEY_MAX_BYTES;
use madkv_proto::watch::{HOLD_MAX_MS, WatchAnswer, WatchQuery};
use madkv_proto::why::WhyRequest;
use smr_service::client::{Exchange, Final, before};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::streams::{Heard, Question, Streams};
use crate::client::{check, refusal};
use crate::limits::MOVED_PAUSE;
use crate::router::Routes;
use crate::{Client, Error, Group};

/// Where a watch begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WatchStart {
    /// With what is written from now on.
    #[default]
    Now,
    /// With the entry of this index. It is of one log, so more than 1, which is all that is remembered, is refused
    /// where the keys are in several partitions.
    Index(u64),
    /// With the entry of this index in these partitions, by number. Each that has some of the keys is to be named.
    Indexes(BTreeMap<u16, u64>),
}

/// What a watch hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A key has changed.
    Changed(KeyChange),
    /// Slots have left a partition, by the map of this epoch; their keys are watched where they are now.
    Moved {
        /// The number of the partition.
        partition: u16,
        /// The epoch.
        epoch: u64,
    },
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The number of the partition in whose log it is.
    pub partition: u16,
    /// The index of its entry there. Changes of one partition come in the order of these; of the same key, in the order
    /// in which they happened, also if it has moved.
    pub index: u64,
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` if it was removed.
    pub value: Option<Bytes>,
}

/// Why a watch has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Changes that it has not heard are not kept any more.
    #[error(
        "compacted: changes of s{partition} from entry {wanted} on are not kept any more, those from {oldest} on are; \
         read the keys and watch again"
    )]
    Compacted {
        /// The number of the partition.
        partition: u16,
        /// The first entry that it has not heard; 0 if it followed slots that had moved.
        wanted: u64,
        /// The first one that is kept.
        oldest: u64,
    },
    /// What it has heard, or was told to begin after, is not of this group.
    #[error(
        "s{partition} has no entry {wanted}: its group was founded anew, or the index is of another one; read the keys \
         and watch again"
    )]
    AnotherGroup {
        /// The number of the partition.
        partition: u16,
        /// The entry that it wanted.
        wanted: u64,
    },
    /// It was to begin at one index, and the keys are in several partitions, each of which has its own.
    #[error(
        "the index {index} is of one partition, and the keys are in {}: name an index of each, as s0:{index},s1:9, \
         or 1 for all that is remembered",
        names(partitions)
    )]
    Ambiguous {
        /// The index.
        index: u64,
        /// The numbers of the partitions.
        partitions: Vec<u16>,
    },
    /// It was told where to begin in some of the partitions that have its keys, and not in this one.
    #[error("s{partition} has some of the keys: name an index of it, too; s{partition}:1 is all that it remembers")]
    NotNamed {
        /// The number of the partition.
        partition: u16,
    },
    /// It was told where to begin in a partition that the map does not have, or in a group of another service.
    #[error("there is no s{partition} that has keys")]
    NoPartition {
        /// The number.
        partition: u16,
    },
    /// It was to begin at one index, and keys came since from a partition that was not watched.
    #[error(
        "by entry {index} keys have come to s{partition} from a partition of which no index was named, and what they \
         did there is not told; read the keys and watch again"
    )]
    CameFromElsewhere {
        /// The number of the partition to which they came.
        partition: u16,
        /// The entry.
        index: u64,
    },
    /// A call has failed.
    #[error(transparent)]
    Call(#[from] Error),
}

fn names(partitions: &[u16]) -> String {
    let names: Vec<String> = partitions.iter().map(|partition| format!("s{partition}")).collect();
    names.join(", ")
}

/// A watch of a range of keys. Nothing is asked while no one waits for its events, so one that is slow costs the
/// servers nothing, and hears in the end that it was too slow.
pub struct Watch {
    client: Client,
    routes: Arc<Routes>,
    first: Bytes,
    last: Bytes,
    streams: Streams,
    tasks: JoinSet<Told>,
    is_fetching: bool,
    fetches: u32,
    events: VecDeque<WatchEvent>,
    failed: Option<WatchError>,
}

/// What a task brings.
enum Told {
    /// An answer to a question.
    Heard(Question, Result<Heard, Error>),
    /// A map.
    Map(Arc<Routes>),
}

impl Client {
    /// Watches the keys from `first` to `last`, both included. Every write that begins when this has returned is told,
    /// and so is every one since `start`.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub async fn watch(&self, first: &[u8], last: &[u8], start: WatchStart) -> Result<Watch, WatchError> {
        check("key", first.len(), KEY_MAX_BYTES)?;
        check("key", last.len(), KEY_MAX_BYTES)?;
        if first > last {
            let reason = "the first key of a watch comes after its last one".to_owned();
            return Err(Error::Refused { reason, may_have_happened: false }.into());
        }
        let deadline = self.deadline();
        let late = |_| self.timeout(false);
        let routes = self.store_routes(deadline).await?;
        let (first, last) = (Bytes::copy_from_slice(first), Bytes::copy_from_slice(last));
        let streams = Streams::new((first == last).then(|| first.clone()), start, &routes.map)?;
        let mut watch = Watch {
            client: self.clone(),
            routes,
            first,
            last,
            streams,
            tasks: JoinSet::new(),
            is_fetching: false,
            fetches: 0,
            events: VecDeque::new(),
            failed: None,
        };
        before(deadline, async {
            while !watch.streams.has_begun() && watch.failed.is_none() {
                watch.advance().await;
            }
        })
        .await
        .map_err(late)?;
        match watch.failed.take() {
            None => Ok(watch),
            Some(error) => Err(error),
        }
    }
}

impl Watch {
    /// The next event. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// Why the watch has ended; all before that was told.
    pub async fn next(&mut self) -> Result<WatchEvent, WatchError> {
        loop {
            if let Some(event) = self.try_next() {
                return Ok(event);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            self.advance().await;
        }
    }

    /// The next event, if it was heard already.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        self.events.extend(self.streams.events());
        self.events.pop_front()
    }

    /// All events up to now: every write that was answered before this was called is among them, or was told before.
    ///
    /// # Errors
    /// See [`WatchError`]; all before that is in the first part of the result.
    pub async fn up_to_now(&mut self) -> (Vec<WatchEvent>, Result<(), WatchError>) {
        let deadline = self.client.deadline();
        let mark = self.streams.mark();
        let late = before(deadline, async {
            while !self.streams.has_reached(mark) && self.failed.is_none() {
                self.advance().await;
            }
        });
        let late = late.await.map_err(|_| WatchError::Call(self.client.timeout(false)));
        let events = std::iter::from_fn(|| self.try_next()).collect();
        (events, late.and_then(|()| self.failed.clone().map_or(Ok(()), Err)))
    }

    /// Where another watch goes on if this one ends now: the next entry of each partition, for [`WatchStart::Indexes`].
    /// `None` while something that was heard is not taken yet, or slots that have moved are being followed: then no
    /// such numbers say it all.
    pub fn position(&self) -> Option<BTreeMap<u16, u64>> {
        if self.events.is_empty() { self.streams.position() } else { None }
    }

    /// Asks what there is to ask, and takes in the next answer.
    async fn advance(&mut self) {
        if let Some(epoch) = self.streams.wants_map().filter(|_| !self.is_fetching) {
            self.is_fetching = true;
            let (client, fetches, known) = (self.client.clone(), self.fetches, self.routes.map.epoch);
            self.tasks.spawn(async move { Told::Map(fetch(&client, epoch, known, fetches).await) });
        }
        for question in self.streams.questions() {
            let Some(group) = self.routes.groups.get(usize::from(question.partition)) else { continue };
            let (client, group, epoch) = (self.client.clone(), Arc::clone(group), self.routes.map.epoch);
            let (first, last) = (self.first.clone(), self.last.clone());
            let query = WatchQuery { from: question.from, first, last, begins: question.begins, waits: false };
            let hold_ms = if question.is_urgent { 0 } else { HOLD_MAX_MS };
            self.tasks.spawn(async move {
                let heard = ask(&client, &group, epoch, &query, hold_ms).await;
                Told::Heard(question, heard)
            });
        }
        let Some(told) = self.tasks.join_next().await else { panic!("a watch that asks nothing: {:?}", self.streams) };
        match told.unwrap_or_else(|error| panic!("a question of a watch failed: {error}")) {
            Told::Map(routes) => {
                self.is_fetching = false;
                self.fetches =
                    if routes.map.epoch > self.routes.map.epoch { 0 } else { self.fetches.saturating_add(1) };
                if let Err(error) = self.streams.follow(&routes.map) {
                    self.failed.get_or_insert(error);
                }
                self.routes = routes;
            }
            Told::Heard(question, heard) => {
                let taken = match heard {
                    Ok(heard) => self.streams.take(&question, heard),
                    Err(error) => self.streams.fail(&question, error),
                };
                self.events.extend(self.streams.events());
                if let Err(error) = taken {
                    self.failed.get_or_insert(error);
                }
            }
        }
    }
}

/// A map of at least `epoch`, if there is one by now; the one that is known, after a pause, if not.
async fn fetch(client: &Client, epoch: u64, known: u64, fetches: u32) -> Arc<Routes> {
    if fetches > 0 {
        tokio::time::sleep(client.shared.context.jitter.growing(fetches - 1, MOVED_PAUSE)).await;
    }
    loop {
        if let Ok(routes) = client.shared.router.refreshed(epoch.max(known), None).await {
            return routes;
        }
    }
}

async fn ask(
    client: &Client,
    group: &Arc<Group>,
    epoch: u64,
    query: &WatchQuery,
    hold_ms: u32,
) -> Result<Heard, Error> {
    let question = WhyRequest::Watch { query: query.encode(), hold_ms }.encode();
    let never: Option<Instant> = None;
    let _admission = group.admit(question.len(), never).await.map_err(|_| client.timeout(false))?;
    let mut exchange = Exchange::new(&client.shared.context, group, never);
    let end = exchange.run(epoch, &|| ClientRequest::Control(question.clone())).await;
    match end.map_err(|_| client.timeout(false))? {
        Final::Answer(parts) => {
            let answer = WatchAnswer::decode_of_group(&parts.concat());
            let (answer, genesis) = answer.map_err(|bad| Error::BadAnswer { what: bad.to_string() })?;
            Ok(Heard::Answer { answer, genesis })
        }
        Final::Response(ClientResponse::WrongPartition { epoch }) => Ok(Heard::Elsewhere { epoch }),
        Final::Response(other) => Err(refusal(other, false)),
    }
}

// A question that is kept is answered before its client takes that for silence.
const _: () = assert!((HOLD_MAX_MS as u128) < crate::limits::SILENCE.as_millis());
