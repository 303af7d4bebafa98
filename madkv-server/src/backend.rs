//! What is checked before a request is replicated: that it makes sense, is not too large, and belongs here.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use madkv_proto::command::{Command, Query};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_move::decode_elsewhere;
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::slot_of;
use madkv_proto::watch::WatchQuery;
use parking_lot::{RwLock, RwLockReadGuard};
use smr::epoch::{EpochKind, GroupKind};
use smr::id::{ClusterId, ReplicaId};
use smr::replica::{ReplicaHandle, ReplyTo, Request, Submit};
use smr::status::{Advertised, ReplicaStatus};
use smr_service::listener::{Backend, Label};
use smr_service::pace::Pace;

use crate::map::JudgesKeys;
use crate::trace::{self, Tracer};
use crate::watch::{self, Holding};
use crate::why::{self, Asked};

/// What this partition owns, by the newest map known.
///
/// Until the partition takes part in a move, its slots are those of every map that was ever published, and this is what
/// keeps keys of others out, whatever a request says of the map that it goes by. From then on the replicated state
/// ([`crate::map`]) has the last word, and refuses with the same words; this only saves a request that is certainly for
/// someone else its way through the replica, and whoever goes by a newer map is let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    epoch: u64,
    /// The epoch since which the slots are certainly these.
    slots_epoch: u64,
    slots: Arc<SlotSet>,
}

impl Owned {
    /// What `map` gives to `partition`; nothing if it has no such partition.
    pub fn of(map: &ClusterMap, partition: u16) -> Owned {
        let slots = map.partitions.get(usize::from(partition)).map(|part| part.slots.clone()).unwrap_or_default();
        Owned { epoch: map.epoch, slots_epoch: map.epoch, slots: Arc::new(slots) }
    }

    /// What counts after `map` was seen, if it is newer. Epochs never go back, whoever sent the map.
    fn after(&self, map: &ClusterMap, partition: u16) -> Option<Owned> {
        (map.epoch > self.epoch).then(|| {
            let newer = Owned::of(map, partition);
            if newer.slots == self.slots { Owned { slots_epoch: self.slots_epoch, ..newer } } else { newer }
        })
    }

    /// A SCAN names no slots: by an older map, partitions might together have some keys twice, or not at all.
    fn check_scan(&self, routed: Routed) -> Result<(), ClientResponse> {
        if routed.by < self.slots_epoch { Err(ClientResponse::WrongPartition { epoch: self.epoch }) } else { Ok(()) }
    }

    fn check_scan_of(&self, slots: &[u8], routed: Routed) -> Result<(), ClientResponse> {
        let slots = SlotSet::from_bytes(slots).ok_or_else(|| ClientResponse::Refused("malformed slots".to_owned()))?;
        self.check_by(routed, || *self.slots == slots)
    }

    fn check(&self, key: &[u8], routed: Routed) -> Result<(), ClientResponse> {
        self.check_by(routed, || self.slots.contains(slot_of(key)))
    }

    fn check_by(&self, routed: Routed, is_here: impl FnOnce() -> bool) -> Result<(), ClientResponse> {
        if is_here() {
            return Ok(());
        }
        if routed.by <= self.epoch {
            return Err(ClientResponse::WrongPartition { epoch: self.epoch });
        }
        routed.trusted()
    }
}

/// By what a request came here, and whether it is judged once more.
#[derive(Clone, Copy, Debug)]
pub struct Routed {
    /// The epoch of the map by which the client found this partition, as it says itself.
    pub by: u64,
    /// Whether the replicated state judges which keys are the partition's.
    pub is_judged: bool,
}

impl Routed {
    /// That a key is here which the map known here does not give to the partition is believed only where it is judged.
    /// Elsewhere it is not true, or this replica has yet to apply the move by which it became so: then it knows soon.
    fn trusted(self) -> Result<(), ClientResponse> {
        if self.is_judged { Ok(()) } else { Err(ClientResponse::OutOfService(BEHIND.to_owned())) }
    }
}

/// Why a server does not take a request by a map that it does not know.
const BEHIND: &str = "knows of no move by which this key came here";

/// A replica of a partition, behind its listener.
pub struct ServerBackend<R = ReplicaHandle> {
    replica: R,
    partition: u16,
    cluster: ClusterId,
    owned: RwLock<Owned>,
    /// The servers of the partition, by replica, by the newest map known.
    servers: RwLock<Vec<String>>,
    judges_keys: JudgesKeys,
    advertised: RwLock<Advertised>,
    all_take_writes: bool,
    /// Said once the process measures.
    pace: OnceLock<Pace>,
    /// Without it, whoever watches keys is answered at once.
    holding: OnceLock<Holding>,
}

impl<R: Submit> ServerBackend<R> {
    /// `replica` of `partition`, which owns what `map` says, unless the replica's state has its own word on that.
    pub fn new(replica: R, partition: u16, map: &ClusterMap, judges_keys: JudgesKeys) -> ServerBackend<R> {
        let owned = RwLock::new(Owned::of(map, partition));
        let servers = RwLock::new(servers_of(map, partition));
        let advertised = RwLock::default();
        ServerBackend {
            replica,
            partition,
            cluster: map.cluster,
            owned,
            servers,
            judges_keys,
            advertised,
            all_take_writes: false,
            pace: OnceLock::new(),
            holding: OnceLock::new(),
        }
    }

    /// The same of a group of this kind.
    pub fn of_kind(mut self, kind: GroupKind) -> ServerBackend<R> {
        self.all_take_writes = kind.epochs().is_some_and(EpochKind::all_take_writes);
        self
    }

    /// Tells from now on how fast the parts of the replica are. Said once.
    pub fn tells_pace(&self, pace: Pace) {
        // A process has one.
        let _ = self.pace.set(pace);
    }

    /// Lets those who watch keys wait for changes, from now on. Said once.
    pub fn holds(&self, holding: Holding) {
        // A process has one replica.
        let _ = self.holding.set(holding);
    }

    /// Goes by `map` from now on, if it is newer. Returns whether it is (G2).
    pub fn adopt(&self, map: &ClusterMap) -> bool {
        let mut owned = self.owned.write();
        let newer = owned.after(map, self.partition).filter(|_| map.cluster == self.cluster);
        let Some(newer) = newer else { return false };
        *owned = newer;
        *self.servers.write() = servers_of(map, self.partition);
        true
    }

    /// Where the map says that the partition's servers are, by replica.
    pub fn servers(&self) -> Vec<String> {
        self.servers.read().clone()
    }

    /// What is known by now of the own address in the map; the status says it.
    pub fn set_advertised(&self, advertised: Advertised) {
        *self.advertised.write() = advertised;
    }

    fn ask_quietly(&self, ask: ClientRequest, epoch: u64, reply: ReplyTo) -> Option<ClientResponse> {
        let (ask, reply) = match why::unpacked(ask) {
            Ok(Asked::Plain(ask)) => (ask, reply),
            Ok(Asked::Timed(ask)) => (ask, why::timed(reply)),
            Ok(Asked::Timings(which)) => {
                self.replica.queue(Request::Timings(which), reply);
                return None;
            }
            Ok(Asked::Scale(replicas)) => {
                self.replica.queue(Request::Scale { replicas }, reply);
                return None;
            }
            Ok(Asked::MoveSlots(command)) => {
                self.replica.queue(Request::Idempotent { command }, reply);
                return None;
            }
            Ok(Asked::AskSlots(query)) => {
                self.replica.queue(Request::Read { query }, reply);
                return None;
            }
            Ok(Asked::Pace) => {
                return Some(match self.pace.get() {
                    Some(pace) => ClientResponse::Answer(pace.report().encode()),
                    None => ClientResponse::Refused("nothing is measured yet".to_owned()),
                });
            }
            Ok(Asked::Watch(query, hold_ms)) => {
                let checked = check_watch(&query, self.routed(epoch), &self.owned());
                return match checked {
                    Ok(()) => self.watch(query, hold_ms, reply),
                    Err(body) => Some(body),
                };
            }
            Ok(Asked::Settle(ask)) => {
                let settled = settled(ask, self.routed(u64::MAX), &self.owned());
                return match settled {
                    Ok(request) => {
                        self.replica.queue(request, why::settled(reply));
                        None
                    }
                    Err(body) => Some(body),
                };
            }
            Err(body) => return Some(body),
        };
        let admitted = admit(ask, self.routed(epoch), &self.owned());
        match admitted {
            Ok(request) => {
                self.replica.queue(request, reply);
                None
            }
            Err(body) => Some(body),
        }
    }

    fn watch(&self, query: WatchQuery, hold_ms: u32, reply: ReplyTo) -> Option<ClientResponse> {
        let reply = watch::of_group(reply, self.holding.get().map_or(0, Holding::genesis));
        match self.holding.get().filter(|_| hold_ms > 0) {
            Some(holding) => holding.answer(query, hold_ms, reply),
            None => {
                self.replica.queue(Request::Read { query: query.encode() }, reply);
                None
            }
        }
    }

    fn ask_traced(
        &self,
        tracer: &'static Tracer,
        client: u64,
        called: String,
        ask: ClientRequest,
        epoch: u64,
        reply: ReplyTo,
    ) -> Option<ClientResponse> {
        let admitted = admit(ask, self.routed(epoch), &self.owned());
        match admitted {
            Ok(request) => {
                let reply = match &request {
                    Request::Write { command: bytes, .. } | Request::Read { query: bytes } => {
                        tracer.admitted(client, called, bytes.clone(), reply)
                    }
                    _ => reply,
                };
                self.replica.queue(request, reply);
                None
            }
            Err(body) => {
                tracer.turned_away(&called, body.refusal().unwrap_or("answered"));
                Some(body)
            }
        }
    }

    /// Adds to the replica's description what is known here.
    pub fn complete(&self, status: &mut ReplicaStatus) {
        status.advertised = self.advertised.read().clone();
    }

    fn routed(&self, by: u64) -> Routed {
        Routed { by, is_judged: self.judges_keys.get() }
    }

    /// Not to be held while the replica has a turn, which may ask for it again.
    fn owned(&self) -> RwLockReadGuard<'_, Owned> {
        self.owned.read()
    }
}

impl<R: Submit> Backend for ServerBackend<R> {
    type Map = ClusterMap;

    fn service(&self) -> Service {
        Service::Server { partition: self.partition }
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(self.cluster)
    }

    fn epoch(&self) -> u64 {
        self.owned().epoch
    }

    fn all_take_writes(&self) -> bool {
        self.all_take_writes
    }

    fn ask(&self, ask: ClientRequest, epoch: u64, reply: ReplyTo) -> Option<ClientResponse> {
        if let (Some(tracer), ClientRequest::Write { client, number, .. }) = (trace::tracer(), &ask) {
            // A client without a name is called after its session.
            let request = tracer.received(client.index, *number);
            return self.ask_traced(tracer, client.index, request, ask, epoch, reply);
        }
        self.ask_quietly(ask, epoch, reply)
    }

    fn ask_labelled(&self, label: Label, ask: ClientRequest, epoch: u64, reply: ReplyTo) -> Option<ClientResponse> {
        match (trace::tracer(), &ask) {
            (Some(tracer), ClientRequest::Write { .. } | ClientRequest::Read { .. }) => {
                let request = tracer.received(u64::from(label.client), u64::from(label.number));
                self.ask_traced(tracer, u64::from(label.client), request, ask, epoch, reply)
            }
            _ => self.ask_quietly(ask, epoch, reply),
        }
    }

    fn flush(&self) {
        self.replica.flush();
    }

    fn answer(&self, answer: Bytes) -> ClientResponse {
        match decode_elsewhere(&answer) {
            Some(epoch) => ClientResponse::WrongPartition { epoch },
            None => ClientResponse::Answer(answer),
        }
    }

    fn status(&self, mut status: Box<ReplicaStatus>) -> ClientResponse {
        self.complete(&mut status);
        ClientResponse::Status(status)
    }
}

fn servers_of(map: &ClusterMap, partition: u16) -> Vec<String> {
    map.partitions.get(usize::from(partition)).map_or_else(Vec::new, |part| part.servers.clone())
}

/// What to ask of the replica, or the answer that needs no replica.
///
/// # Errors
/// The answer to the client, if nothing is asked of the replica.
pub fn admit(ask: ClientRequest, routed: Routed, owned: &Owned) -> Result<Request, ClientResponse> {
    match ask {
        ClientRequest::OpenSession => Ok(Request::OpenSession),
        ClientRequest::Write { client, number, lowest_unanswered, command } => {
            owned.check(checked_key(&command)?, routed)?;
            Ok(Request::Write { client, number, lowest_unanswered, command })
        }
        ClientRequest::Read { query } => {
            check_query(&query, routed, owned)?;
            Ok(Request::Read { query })
        }
        ClientRequest::Status => Ok(Request::Status),
        ClientRequest::Transfer { to } => Ok(Request::Transfer { to: ReplicaId(to) }),
        ClientRequest::Readmit { replica } => Ok(Request::Readmit { name: ReplicaId(replica) }),
        ClientRequest::Map
        | ClientRequest::Register(_)
        | ClientRequest::RecordGenesis(_)
        | ClientRequest::Control(_) => Err(ClientResponse::Refused("this is a server; ask a manager".into())),
    }
}

/// A write that the replica is to judge, whoever owns its key by now. Where it does not judge, a key of another
/// partition was never here, whatever the client says.
fn settled(ask: ClientRequest, routed: Routed, owned: &Owned) -> Result<Request, ClientResponse> {
    match ask {
        ClientRequest::Write { client, number, lowest_unanswered, command } => {
            owned.check(checked_key(&command)?, routed)?;
            Ok(Request::Write { client, number, lowest_unanswered, command })
        }
        other => Err(ClientResponse::Refused(format!("no write: {other:?}"))),
    }
}

/// The key of a command, which is not too large.
fn checked_key(command: &Bytes) -> Result<&[u8], ClientResponse> {
    let command = Command::decode(command).map_err(refused)?;
    check_len(command.key(), KEY_MAX_BYTES)?;
    check_len(command.value(), VALUE_MAX_BYTES)?;
    Ok(command.key())
}

fn check_query(query: &Bytes, routed: Routed, owned: &Owned) -> Result<(), ClientResponse> {
    match Query::decode(query).map_err(refused)? {
        Query::Get { key } => {
            check_len(key, KEY_MAX_BYTES)?;
            owned.check(key, routed)
        }
        // Keys between two others may live anywhere: the client asks all partitions.
        Query::Scan { from, to } => {
            check_len(from, KEY_MAX_BYTES)?;
            check_len(to, KEY_MAX_BYTES)?;
            owned.check_scan(routed)
        }
        Query::ScanOf { slots, from, to } => {
            check_len(from, KEY_MAX_BYTES)?;
            check_len(to, KEY_MAX_BYTES)?;
            owned.check_scan_of(slots, routed)
        }
    }
}

/// A watch of a range goes to all partitions; one of a single key begins where that is.
fn check_watch(query: &WatchQuery, routed: Routed, owned: &Owned) -> Result<(), ClientResponse> {
    check_len(&query.first, KEY_MAX_BYTES)?;
    check_len(&query.last, KEY_MAX_BYTES)?;
    match query.only_key().filter(|_| query.begins) {
        Some(key) => owned.check(key, routed),
        None => Ok(()),
    }
}

fn check_len(part: &[u8], limit: usize) -> Result<(), ClientResponse> {
    if part.len() > limit { Err(ClientResponse::TooLarge { limit_bytes: limit as u32 }) } else { Ok(()) }
}

fn refused(error: madkv_proto::command::Malformed) -> ClientResponse {
    ClientResponse::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    use smr::id::ClientId;

    use super::*;

    fn map(partitions: usize) -> ClusterMap {
        let servers: Vec<String> = (0..partitions).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect();
        ClusterMap::deal(ClusterId(1), 1, &servers).unwrap()
    }

    /// At a partition whose state judges keys.
    fn by(epoch: u64) -> Routed {
        Routed { by: epoch, is_judged: true }
    }

    fn put(key: &[u8], value: &[u8]) -> ClientRequest {
        let command = Command::Put { key, value }.encode();
        ClientRequest::Write { client: ClientId::at(1), number: 1, lowest_unanswered: 1, command }
    }

    // covers G7
    #[test]
    fn admit_key_of_another_partition_is_refused_with_epoch() {
        let map = map(3);
        for number in 0..300u32 {
            let key = format!("key{number}");
            let home = map.partition_of(key.as_bytes());
            for partition in 0..3 {
                let owned = Owned::of(&map, partition);
                let get = ClientRequest::Read { query: Query::Get { key: key.as_bytes() }.encode() };
                for ask in [put(key.as_bytes(), b"v"), get] {
                    let verdict = admit(ask, by(1), &owned);
                    if usize::from(partition) == home {
                        assert!(verdict.is_ok(), "{key} lives in {home}");
                    } else {
                        let wrong = ClientResponse::WrongPartition { epoch: 1 };
                        assert_eq!(verdict.err(), Some(wrong), "{key} lives in {home}, not {partition}");
                    }
                }
            }
        }
    }

    // covers B6
    #[test]
    fn admit_at_and_above_the_limits_accepted_and_too_large() {
        let owned = Owned::of(&map(1), 0);
        let (key, value) = (vec![0xff; KEY_MAX_BYTES], vec![0; VALUE_MAX_BYTES]);
        assert!(admit(put(&key, &value), by(1), &owned).is_ok());
        assert!(admit(put(b"", b""), by(1), &owned).is_ok(), "an empty key is a key");
        let too_large = |limit: usize| Some(ClientResponse::TooLarge { limit_bytes: limit as u32 });
        let (long_key, long_value) = (vec![0; KEY_MAX_BYTES + 1], vec![0; VALUE_MAX_BYTES + 1]);
        assert_eq!(admit(put(&long_key, b""), by(1), &owned).err(), too_large(KEY_MAX_BYTES));
        assert_eq!(admit(put(b"", &long_value), by(1), &owned).err(), too_large(VALUE_MAX_BYTES));
        for query in [
            Query::Get { key: &long_key },
            Query::Scan { from: &long_key, to: b"" },
            Query::Scan { from: b"", to: &long_key },
        ] {
            assert_eq!(
                admit(ClientRequest::Read { query: query.encode() }, by(1), &owned).err(),
                too_large(KEY_MAX_BYTES)
            );
        }
    }

    #[test]
    fn admit_scan_over_foreign_keys_goes_on() {
        let owned = Owned::of(&map(3), 1);
        let query = Query::Scan { from: b"a", to: b"z" }.encode();
        assert!(matches!(admit(ClientRequest::Read { query }, by(1), &owned), Ok(Request::Read { .. })));
    }

    // covers G2
    #[test]
    fn admit_scan_by_a_map_from_before_the_slots_moved_is_redirected() {
        let scan = || ClientRequest::Read { query: Query::Scan { from: b"a", to: b"z" }.encode() };
        let (old, mut moved) = (Owned::of(&map(2), 0), map(3));
        moved.epoch = 2;
        let owned = old.after(&moved, 0).unwrap();
        assert_eq!(admit(scan(), by(1), &owned).err(), Some(ClientResponse::WrongPartition { epoch: 2 }));
        assert!(admit(scan(), by(2), &owned).is_ok());
        // A map that changes addresses only makes no one ask for it.
        moved.epoch = 3;
        let owned = owned.after(&moved, 0).unwrap();
        assert_eq!(owned.epoch, 3);
        assert!(admit(scan(), by(2), &owned).is_ok());
    }

    #[test]
    fn admit_malformed_or_managers_business_is_refused() {
        let owned = Owned::of(&map(1), 0);
        let malformed = Bytes::from_static(&[9, 1, 0, 0, 0, b'k']);
        let write = ClientRequest::Write {
            client: ClientId::at(1),
            number: 1,
            lowest_unanswered: 1,
            command: malformed.clone(),
        };
        for ask in [
            write,
            ClientRequest::Read { query: malformed },
            ClientRequest::Read { query: Bytes::new() },
            ClientRequest::Map,
        ] {
            assert!(matches!(admit(ask, by(1), &owned), Err(ClientResponse::Refused(_))));
        }
    }

    // covers G2
    #[test]
    fn owned_after_older_or_equal_epoch_stays_after_newer_changes() {
        let (mut newer, mut other) = (map(2), map(3));
        newer.epoch = 5;
        let owned = Owned::of(&newer, 0);
        for epoch in [0, 4, 5] {
            other.epoch = epoch;
            assert_eq!(owned.after(&other, 0), None, "epoch {epoch} behind 5");
        }
        other.epoch = 6;
        assert_eq!(owned.after(&other, 0), Some(Owned::of(&other, 0)));
    }

    #[test]
    fn owned_partition_missing_in_map_owns_nothing() {
        let owned = Owned::of(&map(2), 7);
        assert!((0..100u32).all(|number| owned.check(&number.to_le_bytes(), by(1)).is_err()));
    }
}
