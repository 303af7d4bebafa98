//! The client's handle and its calls.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::command::{Command, Malformed, Query, decode_found, decode_value};
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_move::{decode_elsewhere, decode_settled};
use madkv_proto::why::WhyRequest;
use smr::id::ClientId;
use smr_service::client::{
    Context, Exchange, Failure, Final, Jitter, RequestNames, Trace, World, Write, WriteEnd, before,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::limits::MOVED_PAUSE;
use crate::router::{Router, Routes};
use crate::scan::{self, Record};
use crate::{Error, Group};

/// What a client needs to know.
#[derive(Clone, Default)]
pub struct Options {
    /// `host:port` of each manager replica.
    pub managers: Vec<String>,
    /// How long a call may take; `None` retries until it succeeds.
    pub timeout: Option<Duration>,
    /// Hears of each message.
    pub trace: Option<Arc<dyn Trace>>,
    /// What the client calls itself to servers that trace messages: `C7` is 7. It costs a count for each request.
    pub client_id: Option<u32>,
    /// Where reads may go.
    pub read_from: ReadFrom,
    /// What replaces the outside world in a simulation; `None` in service.
    pub world: Option<World>,
}

/// Where reads may go. They are linearizable in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// To whoever leads.
    #[default]
    Leader,
    /// To all replicas in turn, where the kind of the group allows it; else to the leader.
    Any,
}

/// The replica that a read goes to first, if not to the leader.
fn group_aside(read_from: ReadFrom, group: &Group) -> Option<u16> {
    match read_from {
        ReadFrom::Leader => None,
        ReadFrom::Any => group.next_aside(),
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("managers", &self.managers).field("timeout", &self.timeout).finish()
    }
}

/// A handle to a cluster. Cheap to clone; clones share connections and sessions. Calls may run at the same time, in any
/// number, and are then unordered. Dropping a call's future abandons it: a write may then have happened.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) context: Arc<Context>,
    pub(crate) router: Arc<Router>,
    timeout: Option<Duration>,
    read_from: ReadFrom,
}

impl Client {
    /// Makes a client; nothing is contacted before the first call. Its calls must run on a tokio runtime with time and
    /// network enabled.
    ///
    /// # Panics
    /// If no manager is named.
    pub fn connect(options: Options) -> Client {
        assert!(!options.managers.is_empty(), "no manager address");
        let Options { managers, timeout, trace, client_id, read_from, world } = options;
        let (seed, network) = world.map(|world| (world.seed, world.network)).unzip();
        let names = RequestNames::new(client_id, trace.is_some());
        let context = Arc::new(Context { cluster: OnceLock::new(), jitter: Jitter::new(seed), trace, names, network });
        let router = Router::new(&context, &managers);
        Client { shared: Arc::new(Shared { context, router, timeout, read_from }) }
    }

    /// Sets a value, and says whether the key was there before.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(&self, key: &[u8], value: &[u8]) -> Result<bool, Error> {
        let answer = self.write(Command::Put { key, value }).await?;
        decode_found(&answer).map_err(bad_answer)
    }

    /// Sets a value, and gives the old one. An absent key is created.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn swap(&self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>, Error> {
        let answer = self.write(Command::Swap { key, value }).await?;
        decode_value(answer).map_err(bad_answer)
    }

    /// Removes a key, and says whether it was there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: &[u8]) -> Result<bool, Error> {
        let answer = self.write(Command::Delete { key }).await?;
        decode_found(&answer).map_err(bad_answer)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        check("key", key.len(), KEY_MAX_BYTES)?;
        let deadline = self.deadline();
        let query = Query::Get { key }.encode();
        let mut routes = self.store_routes(deadline).await?;
        let (number, mut waits) = (self.next_number(), 0);
        loop {
            let group = Arc::clone(routes.group_of(key));
            match self.read(&group, routes.map.epoch, &query, number, deadline).await? {
                Read::Answer(parts) => {
                    let [answer] =
                        <[Bytes; 1]>::try_from(parts).map_err(|_| bad_answer(Malformed("answer in parts")))?;
                    return decode_value(answer).map_err(bad_answer);
                }
                Read::Elsewhere { epoch } => routes = self.moved(&routes, epoch, deadline, &mut waits).await?,
            }
        }
    }

    /// All records with `from <= key <= to`, sorted by the keys' bytes. Each key and each absence is checked on its
    /// own; inside one partition the result is one moment. Never partial.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn scan(&self, from: &[u8], to: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Error> {
        check("key", from.len(), KEY_MAX_BYTES)?;
        check("key", to.len(), KEY_MAX_BYTES)?;
        if from > to {
            return Ok(Vec::new());
        }
        let deadline = self.deadline();
        let mut routes = self.store_routes(deadline).await?;
        let (number, mut waits) = (self.next_number(), 0);
        loop {
            match self.scan_all(&routes, (from, to), number, deadline).await? {
                Ok(lists) => return Ok(scan::merge(lists)),
                // Some keys have moved: parts of different epochs could miss them, or have them twice.
                Err(epoch) => routes = self.moved(&routes, epoch, deadline, &mut waits).await?,
            }
        }
    }

    /// Asks all partitions that own slots at once. The inner error is the epoch of a newer map.
    async fn scan_all(
        &self,
        routes: &Arc<Routes>,
        range: (&[u8], &[u8]),
        number: u32,
        deadline: Option<Instant>,
    ) -> Result<Result<Vec<Vec<Record>>, u64>, Error> {
        let owners = owners(&routes.map);
        if let [partition] = owners[..] {
            let queries = scan_queries(&routes.map, partition, range);
            let list = self.scan_one(&routes.groups[partition], routes.map.epoch, queries, number, deadline).await?;
            return Ok(list.map(|list| vec![list]));
        }
        let mut tasks = JoinSet::new(); // dropped on an early return, which ends its tasks
        for &partition in &owners {
            let (client, group, epoch) = (self.clone(), Arc::clone(&routes.groups[partition]), routes.map.epoch);
            let queries = scan_queries(&routes.map, partition, range);
            tasks.spawn(async move { client.scan_one(&group, epoch, queries, number, deadline).await });
        }
        let mut lists = Vec::with_capacity(owners.len());
        while let Some(task) = tasks.join_next().await {
            match task.unwrap_or_else(|error| panic!("a part of a SCAN failed: {error}"))? {
                Ok(list) => lists.push(list),
                Err(epoch) => return Ok(Err(epoch)),
            }
        }
        Ok(Ok(lists))
    }

    /// Asks a partition for its part of a SCAN, by the first of these questions that it knows.
    async fn scan_one(
        &self,
        group: &Arc<Group>,
        epoch: u64,
        queries: Vec<Bytes>,
        number: u32,
        deadline: Option<Instant>,
    ) -> Result<Result<Vec<Record>, u64>, Error> {
        let mut queries = queries.iter().peekable();
        loop {
            let Some(query) = queries.next() else { panic!("a SCAN of {} without a question", group.name) };
            match self.read(group, epoch, query, number, deadline).await {
                Ok(Read::Answer(parts)) => return Ok(Ok(scan::records(&parts).map_err(bad_answer)?)),
                Ok(Read::Elsewhere { epoch }) => return Ok(Err(epoch)),
                // A server of the release before; its group has never taken part in a move of slots.
                Err(Error::Refused { .. }) if queries.peek().is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn read(
        &self,
        group: &Arc<Group>,
        epoch: u64,
        query: &Bytes,
        number: u32,
        deadline: Option<Instant>,
    ) -> Result<Read, Error> {
        let _admission = group.admit(query.len(), deadline).await.map_err(|_| self.timeout(false))?;
        let aside = group_aside(self.shared.read_from, group);
        let mut exchange = Exchange::new(&self.shared.context, group, deadline).numbered(number).aside(aside);
        let end = exchange.run(epoch, &|| ClientRequest::Read { query: query.clone() }).await;
        match end.map_err(|_| self.timeout(false))? {
            Final::Answer(parts) => Ok(Read::Answer(parts)),
            Final::Response(ClientResponse::WrongPartition { epoch }) => Ok(Read::Elsewhere { epoch }),
            Final::Response(other) => Err(refusal(other, false)),
        }
    }

    async fn write(&self, command: Command<'_>) -> Result<Bytes, Error> {
        let key = command.key();
        check("key", key.len(), KEY_MAX_BYTES)?;
        check("value", command.value().len(), VALUE_MAX_BYTES)?;
        let deadline = self.deadline();
        let command = command.encode();
        let mut routes = self.store_routes(deadline).await?;
        let (number, mut waits) = (self.next_number(), 0);
        loop {
            let group = Arc::clone(routes.group_of(key));
            match self.write_in(&group, &mut routes, &command, number, deadline, &mut waits).await? {
                Some(answer) => return Ok(answer),
                None => continue,
            }
        }
    }

    /// Writes under the group's present session. `None` if it certainly did not happen and must be tried again: under
    /// another session, or in another group by newer `routes`.
    async fn write_in(
        &self,
        group: &Arc<Group>,
        routes: &mut Arc<Routes>,
        command: &Bytes,
        number: u32,
        deadline: Option<Instant>,
        waits: &mut u32,
    ) -> Result<Option<Bytes>, Error> {
        let begun = Write::begin(&self.shared.context, group, routes.map.epoch, command.clone(), deadline).await;
        let mut write = begun.map_err(|failure| self.failure(failure, false))?.numbered(number);
        let mut settles = false;
        loop {
            let frame: &WriteFrame = if settles { &settle_frame } else { &write_frame };
            let end = match write.run_as(routes.map.epoch, frame).await {
                Ok(end) => end,
                Err(late) => return Err(self.failure(late.into(), write.may_have_happened())),
            };
            match end {
                WriteEnd::Answer(answer) => match decode_settled(&answer) {
                    None => return Ok(Some(answer)),
                    Some(answer) => match decode_elsewhere(&answer) {
                        None => return Ok(Some(answer)),
                        // By the group's own sessions: no copy was applied, and none under this number ever will be.
                        Some(epoch) => {
                            *routes = self.moved(routes, epoch, deadline, waits).await?;
                            return Ok(None);
                        }
                    },
                },
                WriteEnd::NotDone => return Ok(None),
                WriteEnd::Evicted { what } => return Err(Error::Evicted { what }),
                WriteEnd::Senseless(what) => return Err(Error::BadAnswer { what }),
                WriteEnd::Response(ClientResponse::WrongPartition { .. }) if settles || write.may_have_happened() => {
                    // A map that was published once had this group for the key's owner: it may have applied an earlier
                    // copy before the key moved, and only it knows.
                    if routes.map.epoch == 0 {
                        return Err(Error::Evicted { what: "the key moved to another partition" });
                    }
                    if settles {
                        // Its server is behind.
                        self.wait_for_a_move(waits, deadline, write.may_have_happened()).await?;
                    }
                    settles = true;
                }
                WriteEnd::Response(ClientResponse::WrongPartition { epoch }) => {
                    *routes = self.moved(routes, epoch, deadline, waits).await?;
                    return Ok(None);
                }
                WriteEnd::Response(other) => return Err(refusal(other, write.may_have_happened())),
            }
        }
    }

    /// A server of `epoch` says that a key lives elsewhere, for the time number `waits` that nothing is newer.
    async fn moved(
        &self,
        routes: &Arc<Routes>,
        epoch: u64,
        deadline: Option<Instant>,
        waits: &mut u32,
    ) -> Result<Arc<Routes>, Error> {
        let newer = self.shared.router.refreshed(epoch, deadline).await.map_err(|_| self.timeout(false))?;
        if newer.map.epoch == routes.map.epoch {
            self.wait_for_a_move(waits, deadline, false).await?;
        } else {
            *waits = 0;
        }
        Ok(newer)
    }

    /// Waits while slots are between two owners, or a server is behind: longer each time, for each attempt is a command
    /// in the group's log.
    async fn wait_for_a_move(&self, waits: &mut u32, deadline: Option<Instant>, unknown: bool) -> Result<(), Error> {
        let pause = self.shared.context.jitter.growing(*waits, MOVED_PAUSE);
        *waits = waits.saturating_add(1);
        before(deadline, tokio::time::sleep(pause)).await.map_err(|_| self.timeout(unknown))
    }

    /// The map, if anyone owns keys by it.
    pub(crate) async fn store_routes(&self, deadline: Option<Instant>) -> Result<Arc<Routes>, Error> {
        let routes = self.shared.router.routes(deadline).await.map_err(|_| self.timeout(false))?;
        match routes.map.has_store() {
            true => Ok(routes),
            false => Err(no_store()),
        }
    }

    /// What consoles call the next request.
    fn next_number(&self) -> u32 {
        self.shared.context.names.next()
    }

    /// How long a call may take, if that is bounded.
    #[cfg(feature = "cli")]
    pub(crate) fn call_timeout(&self) -> Option<Duration> {
        self.shared.timeout
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.shared.timeout.map(|timeout| Instant::now() + timeout)
    }

    pub(crate) fn failure(&self, failure: Failure, may_have_happened: bool) -> Error {
        match failure {
            Failure::TimedOut => self.timeout(may_have_happened),
            Failure::Refused(reason) => Error::Refused { reason, may_have_happened },
            Failure::Senseless(what) => Error::BadAnswer { what },
        }
    }

    pub(crate) fn timeout(&self, may_have_happened: bool) -> Error {
        Error::Timeout { after: self.shared.timeout.unwrap_or_default(), may_have_happened }
    }
}

/// What every call about keys comes to where all groups are of other services.
pub(crate) fn no_store() -> Error {
    let reason = "no group of this cluster is of the key-value store: all are of other services, so no one owns keys";
    Error::Refused { reason: reason.to_owned(), may_have_happened: false }
}

/// Makes a request of session, number, lowest unanswered number and command.
type WriteFrame = dyn Fn(ClientId, u64, u64, Bytes) -> ClientRequest + Sync;

fn write_frame(client: ClientId, number: u64, lowest_unanswered: u64, command: Bytes) -> ClientRequest {
    ClientRequest::Write { client, number, lowest_unanswered, command }
}

fn settle_frame(client: ClientId, number: u64, lowest_unanswered: u64, command: Bytes) -> ClientRequest {
    ClientRequest::Control(WhyRequest::Settle { client, number, lowest_unanswered, command }.encode())
}

/// What became of a read.
enum Read {
    Answer(Vec<Bytes>),
    /// A key lives elsewhere, by the map of this epoch.
    Elsewhere {
        epoch: u64,
    },
}

/// The partitions that own slots by this map. Others may not have begun yet, and have nothing to answer for: the parts
/// of these name all slots, and are refused once one of them has moved.
fn owners(map: &ClusterMap) -> Vec<usize> {
    (0..map.partitions.len()).filter(|&partition| owns_slots(map, partition)).collect()
}

/// Whether a partition owns any slots by this map.
pub(crate) fn owns_slots(map: &ClusterMap, partition: usize) -> bool {
    map.partitions.get(partition).is_some_and(|part| !part.slots.is_empty())
}

/// How to ask a partition for its part of a SCAN, the preferred way first. Once the map may have changed it names the
/// slots that are meant: only then all parts together hold each key once.
pub(crate) fn scan_queries(map: &ClusterMap, partition: usize, (from, to): (&[u8], &[u8])) -> Vec<Bytes> {
    let plain = Query::Scan { from, to }.encode();
    if map.epoch <= 1 {
        return vec![plain];
    }
    let slots = map.partitions.get(partition).map(|part| part.slots.to_bytes()).unwrap_or_default();
    vec![Query::ScanOf { slots: &slots, from, to }.encode(), plain]
}

pub(crate) fn check(what: &'static str, size_bytes: usize, limit_bytes: usize) -> Result<(), Error> {
    if size_bytes > limit_bytes { Err(Error::TooLarge { what, size_bytes, limit_bytes }) } else { Ok(()) }
}

pub(crate) fn refusal(body: ClientResponse, may_have_happened: bool) -> Error {
    match body {
        ClientResponse::Refused(reason) => Error::Refused { reason, may_have_happened },
        ClientResponse::DiskFull => Error::DiskFull { may_have_happened },
        ClientResponse::TooLarge { limit_bytes } => {
            Error::Refused { reason: format!("too large, the limit is {limit_bytes} bytes"), may_have_happened }
        }
        other => Error::BadAnswer { what: format!("{other:?}") },
    }
}

fn bad_answer(what: Malformed) -> Error {
    Error::BadAnswer { what: what.to_string() }
}
