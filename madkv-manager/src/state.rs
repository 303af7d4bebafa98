//! The manager's replicated state.
//!
//! It holds the cluster map, for each partition the genesis of its group, and for each replica (by partition and
//! number) the incarnation of the directory that fills it. Commands come again after lost answers and lost leaders, so
//! each of them is idempotent (fault catalogue G1).
//!
//! # Which group a partition has
//! A group acknowledges nothing before its genesis is recorded here ([`smr::replica::ConfigurationSource`]). The first
//! one is; the same one again is fine; another one is refused, unless the operator says that it replaces the very one
//! that is recorded.
//!
//! Managers of older builds recorded replicas only. There a group whose members are known is not founded again; its
//! genesis is the one that the first of these members names which registers. If no member is known, any directory of
//! this cluster that is initialized belongs to that group: nothing was founded here since, or its genesis would be
//! recorded.
//!
//! # Who becomes a replica
//! | the replica has    | newcomer                 | result                                                     |
//! |--------------------|--------------------------|------------------------------------------------------------|
//! | no one             | a directory, no member   | registered                                                 |
//! | the same directory | itself                   | registered; once a member always a member                  |
//! | a non-member       | a directory, no member   | registered: the other one has never voted                  |
//! | a member           | a directory, no member   | occupied: it may have been emptied (M6), or be a second one |
//! | anyone            | a member of the recorded group | registered: the group's configuration has taken it in |
//! | anyone            | a member of another group | refused                                                    |
//! | the same directory | itself, in an older start | disqualified: it was set back, or is a copy                |
//!
//! Members are those who found the recorded group, from that moment on, and who prove to belong to it by its genesis.
//! The group's configuration decides who votes: whether another one has taken the place of a member for good, the
//! members say. This table only tells a server early that it will not vote.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use madkv_proto::frames::{ClientResponse, Registration};
use madkv_proto::map::ClusterMap;
use serde::{Deserialize, Serialize};
use smr::codec::{self, CodecError};
use smr::entry::{Genesis, GenesisHash, GenesisRequest, Incumbent, Index};
use smr::id::{ClusterId, Disqualified, Incarnation, NodeId, ReplicaId, StartId, StartTrail};
use smr::state_machine::{Answer, Image, StateMachine};

/// The longest image, in bytes: far more than the most partitions and replicas need.
const IMAGE_MAX_BYTES: u32 = 1 << 20;
/// An image of version 1 begins with its length, which is at most [`IMAGE_MAX_BYTES`]. Those of later versions begin
/// with these bits and their version in the lower 16.
const IMAGE_VERSION_MARK: u32 = 0xffff_0000;

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Deal the slots to these servers. Only the first layout counts.
    Layout {
        /// The cluster.
        cluster: ClusterId,
        /// Replicas of each partition.
        server_rf: u64,
        /// The servers' addresses, by partition first.
        servers: Vec<String>,
    },
    /// What a server of an older build said of itself. It is in logs of that time; no one proposes it any more.
    RegisterUnproved {
        /// Its partition.
        partition: u16,
        /// Its replica number.
        replica: u16,
        /// The incarnation of its directory.
        incarnation: Incarnation,
        /// Whether that one is a member of its group, as it says.
        member: bool,
    },
    /// A server says who it is.
    Register(Registration),
    /// A server that could found its partition's group asks that the genesis be recorded.
    RecordGenesis(GenesisRequest),
}

/// How many kinds of commands there are: all of version 1. Those of a later version follow after them.
const COMMAND_KINDS: u32 = 4;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The cluster map.
    Map,
}

/// An answer to either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// There is no map yet.
    NoMap,
    /// The map.
    Map(ClusterMap),
    /// The server is that replica.
    Registered(ClusterMap),
    /// Another one has it.
    Occupied {
        /// The incarnation that is there.
        by: Incarnation,
        /// The map.
        map: ClusterMap,
    },
    /// It makes no sense.
    Refused(String),
    /// The genesis is recorded.
    GenesisRecorded,
    /// The partition has another group already.
    GenesisRefused {
        /// The group that is recorded.
        incumbent: Incumbent,
        /// Its genesis, if it is known.
        genesis: Option<Genesis>,
    },
    /// Whether the server is a member shows only when a member that is known has registered.
    NotProved,
    /// The server must not take part any longer.
    Disqualified {
        /// The reason.
        why: Disqualified,
        /// The map.
        map: ClusterMap,
    },
}

impl Reply {
    /// Reads what the state machine answered.
    pub fn decode(answer: &[u8]) -> Reply {
        codec::decode(answer)
            .unwrap_or_else(|error| Reply::Refused(format!("the state machine gave a malformed answer: {error}")))
    }

    /// For the one who asked.
    pub fn into_body(self) -> ClientResponse {
        match self {
            Reply::NoMap => ClientResponse::NoMap,
            Reply::Map(map) => ClientResponse::Map(Box::new(map)),
            Reply::Registered(map) => ClientResponse::Registered(Box::new(map)),
            Reply::Occupied { by, map } => ClientResponse::Occupied { by, map: Box::new(map) },
            Reply::Refused(reason) => ClientResponse::Refused(reason),
            Reply::GenesisRecorded => ClientResponse::GenesisRecorded,
            Reply::GenesisRefused { incumbent, genesis } => ClientResponse::GenesisRefused { incumbent, genesis },
            Reply::NotProved => {
                ClientResponse::OutOfService("no known member of the partition has registered yet".into())
            }
            Reply::Disqualified { why, map } => ClientResponse::Disqualified { why, map: Box::new(map) },
        }
    }
}

/// As bytes for the log.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    codec::encode(value).into()
}

/// Which incarnation a replica has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReplicaRecord {
    incarnation: Incarnation,
    /// Whether it has been seen as a member of its group.
    member: bool,
    /// Its newest start that was seen; number 0 if none was.
    start: StartId,
}

/// The group of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Founded {
    hash: GenesisHash,
    /// `None` for a group of an older build, of which a member has told the hash.
    genesis: Option<Genesis>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    map: Option<ClusterMap>,
    /// By partition and replica.
    records: BTreeMap<(u16, u16), ReplicaRecord>,
    /// By partition.
    founded: BTreeMap<u16, Founded>,
}

/// What images of builds hold that recorded no genesis and counted no starts.
#[derive(Deserialize)]
struct OlderContents {
    map: Option<ClusterMap>,
    records: BTreeMap<(u16, u16), (Incarnation, bool)>,
}

impl From<OlderContents> for Contents {
    fn from(old: OlderContents) -> Contents {
        let record = |(incarnation, member)| ReplicaRecord { incarnation, member, start: StartId::default() };
        let records = old.records.into_iter().map(|(place, old)| (place, record(old))).collect();
        Contents { map: old.map, records, founded: BTreeMap::new() }
    }
}

impl Contents {
    /// An image of an older build is shorter, and no beginning of a newer one.
    fn decode(bytes: &[u8]) -> Result<Contents, CodecError> {
        codec::decode(bytes)
            .or_else(|error| codec::decode::<OlderContents>(bytes).map(Contents::from).map_err(|_| error))
    }
}

/// The state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagerState {
    contents: Arc<Contents>,
}

impl ManagerState {
    /// The cluster, once it has a map.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.contents.map.as_ref().map(|map| map.cluster)
    }

    fn carry_out(&mut self, command: Command) -> Reply {
        match command {
            Command::Layout { cluster, server_rf, servers } => self.lay_out(cluster, server_rf, &servers),
            Command::RegisterUnproved { partition, replica, incarnation, member } => {
                let known =
                    self.contents.records.get(&(partition, replica)).map(|record| record.start).unwrap_or_default();
                let start = StartTrail { id: known, ..StartTrail::default() };
                let registration = Registration { partition, replica, incarnation, member, genesis: None, start };
                self.register_unproved(registration)
            }
            Command::Register(registration) => self.register(registration),
            Command::RecordGenesis(request) => self.record_genesis(request),
        }
    }

    fn lay_out(&mut self, cluster: ClusterId, server_rf: u64, servers: &[String]) -> Reply {
        let server_rf = usize::try_from(server_rf).unwrap_or(usize::MAX);
        let wanted = match ClusterMap::deal(cluster, server_rf, servers) {
            Ok(map) => map,
            Err(error) => return Reply::Refused(error.to_string()),
        };
        match &self.contents.map {
            Some(map) if map.cluster == wanted.cluster && is_same_layout(map, &wanted) => Reply::Map(map.clone()),
            Some(_) => Reply::Refused("the cluster has another layout already".into()),
            None => {
                Arc::make_mut(&mut self.contents).map = Some(wanted.clone());
                Reply::Map(wanted)
            }
        }
    }

    fn register(&mut self, newcomer: Registration) -> Reply {
        let map = match self.map_with((newcomer.partition, newcomer.replica)) {
            Ok(map) => map,
            Err(reply) => return reply,
        };
        let Registration { partition, replica, incarnation, .. } = newcomer;
        if newcomer.member {
            let Some(genesis) = newcomer.genesis else {
                return Reply::Refused("a member names no genesis".into());
            };
            match self.contents.founded.get(&partition) {
                Some(Founded { hash, .. }) if *hash != genesis => {
                    return Reply::Refused(format!(
                        "the group of s{partition} has genesis {hash}, this directory is of one with genesis {genesis}"
                    ));
                }
                Some(_) => {}
                None if self.proves(partition, replica, incarnation) => {
                    let founded = Founded { hash: genesis, genesis: None };
                    Arc::make_mut(&mut self.contents).founded.insert(partition, founded);
                }
                None => return Reply::NotProved,
            }
        }
        self.admit(newcomer, map)
    }

    fn register_unproved(&mut self, newcomer: Registration) -> Reply {
        match self.map_with((newcomer.partition, newcomer.replica)) {
            Ok(map) => self.admit(newcomer, map),
            Err(reply) => reply,
        }
    }

    /// The map, if it has this replica.
    fn map_with(&self, (partition, replica): (u16, u16)) -> Result<ClusterMap, Reply> {
        let Some(map) = self.contents.map.clone() else { return Err(Reply::NoMap) };
        let servers = map.partitions.get(usize::from(partition)).map_or(0, |partition| partition.servers.len());
        if usize::from(replica) >= servers {
            return Err(Reply::Refused(format!("the cluster has no s{partition}.{replica}")));
        }
        Ok(map)
    }

    /// See the table of this module.
    fn admit(&mut self, newcomer: Registration, map: ClusterMap) -> Reply {
        let place = (newcomer.partition, newcomer.replica);
        let fresh =
            ReplicaRecord { incarnation: newcomer.incarnation, member: newcomer.member, start: newcomer.start.id };
        let recorded = self.contents.records.get(&place);
        let record = match recorded {
            None => fresh,
            Some(record) if record.incarnation == newcomer.incarnation => match newcomer.start.judge(record.start) {
                Err(why) => return Reply::Disqualified { why, map },
                Ok(_) => ReplicaRecord {
                    member: record.member || newcomer.member,
                    start: newcomer.start.id,
                    ..record.clone()
                },
            },
            Some(record) if record.member && !newcomer.member => {
                return Reply::Occupied { by: record.incarnation, map };
            }
            Some(_) => fresh,
        };
        if recorded != Some(&record) {
            Arc::make_mut(&mut self.contents).records.insert(place, record);
        }
        Reply::Registered(map)
    }

    /// Whether a server, where no genesis is recorded, proves by its incarnation which group its partition has.
    fn proves(&self, partition: u16, replica: u16, incarnation: Incarnation) -> bool {
        let recorded = self.contents.records.get(&(partition, replica));
        !self.has_members(partition)
            || recorded.is_some_and(|record| record.member && record.incarnation == incarnation)
    }

    fn has_members(&self, partition: u16) -> bool {
        self.contents.records.range((partition, 0)..=(partition, u16::MAX)).any(|(_, record)| record.member)
    }

    fn record_genesis(&mut self, request: GenesisRequest) -> Reply {
        let GenesisRequest { genesis, instead_of } = request;
        let Some(map) = &self.contents.map else { return Reply::NoMap };
        let Some(partition) = partition_of(&genesis, map, instead_of.is_some()) else {
            return Reply::Refused(format!("the cluster has no group {} with these members", genesis.group));
        };
        let hash = genesis.hash();
        let founded = self.contents.founded.get(&partition);
        let incumbent = match founded {
            Some(founded) if founded.hash == hash => return Reply::GenesisRecorded,
            Some(founded) => Some(Incumbent::Recorded(founded.hash)),
            None => self.has_members(partition).then_some(Incumbent::Unrecorded),
        };
        if let Some(incumbent) = incumbent
            && instead_of != Some(incumbent)
        {
            return Reply::GenesisRefused { incumbent, genesis: founded.and_then(|founded| founded.genesis.clone()) };
        }
        let contents = Arc::make_mut(&mut self.contents);
        // No one of the group that was there is a replica of this one, unless it is named.
        contents.records.retain(|&(of, name), record| {
            let node = NodeId { name: ReplicaId(name), incarnation: record.incarnation };
            of != partition || incumbent.is_none() || genesis.members.contains(&node)
        });
        for member in &genesis.members {
            // From now on it may vote at any time.
            let place = (partition, member.name.0);
            let known = contents.records.get(&place).filter(|record| record.incarnation == member.incarnation);
            let start = known.map(|record| record.start).unwrap_or_default();
            // Members of a group that this one follows are refused for their genesis.
            let record = ReplicaRecord { incarnation: member.incarnation, member: true, start };
            contents.records.insert(place, record);
        }
        contents.founded.insert(partition, Founded { hash, genesis: Some(genesis) });
        Reply::GenesisRecorded
    }
}

/// Which partition of the cluster this is the genesis of: one with that name, and with one member for each of its
/// replicas; or, for a group that replaces another one, with a single member, whose directory was recovered.
fn partition_of(genesis: &Genesis, map: &ClusterMap, is_successor: bool) -> Option<u16> {
    let number: u16 = genesis.group.as_str().strip_prefix('s')?.parse().ok()?;
    let partition = map.partitions.get(usize::from(number))?;
    let names = genesis.members.iter().map(|member| member.name);
    let replicas = (0..=u16::MAX).map(ReplicaId).take(partition.servers.len());
    let is_recovered =
        is_successor && names.len() == 1 && names.clone().all(|name| usize::from(name.0) < partition.servers.len());
    let is_named_so = genesis.group.as_str() == format!("s{number}");
    (is_named_so && genesis.cluster == Some(map.cluster) && (is_recovered || names.eq(replicas))).then_some(number)
}

/// Whether two maps deal the same slots to the same servers, however their addresses are spelled.
fn is_same_layout(map: &ClusterMap, other: &ClusterMap) -> bool {
    map.partitions.len() == other.partitions.len()
        && map.partitions.iter().zip(&other.partitions).all(|(one, other)| one.is_same(other))
}

impl StateMachine for ManagerState {
    type Image = ManagerState;

    /// The kind is the number that a [`Command`] begins with.
    fn command_version(command: &[u8]) -> Option<u16> {
        match command.first_chunk::<4>().map(|kind| u32::from_le_bytes(*kind)) {
            None | Some(0..COMMAND_KINDS) => Some(1),
            Some(_) => None,
        }
    }

    fn apply(&mut self, _index: Index, command: &[u8]) -> Vec<u8> {
        let reply = match codec::decode(command) {
            Ok(command) => self.carry_out(command),
            Err(error) => Reply::Refused(format!("no command of a manager: {error}")),
        };
        codec::encode(&reply)
    }

    /// How large this state can become is given by the layout; servers that start must be able to register.
    fn frees(_command: &[u8]) -> bool {
        true
    }

    fn query(&self, query: &[u8]) -> Answer {
        let reply = match codec::decode(query) {
            Ok(Query::Map) => self.contents.map.clone().map_or(Reply::NoMap, Reply::Map),
            Err(error) => Reply::Refused(format!("no question to a manager: {error}")),
        };
        Answer::Now(codec::encode(&reply))
    }

    fn image(&self) -> ManagerState {
        self.clone()
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<ManagerState> {
        let mut len = [0; 4];
        input.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len);
        if len & IMAGE_VERSION_MARK == IMAGE_VERSION_MARK {
            let what = format!("an image of version {}, this build reads version 1", len & !IMAGE_VERSION_MARK);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if len > IMAGE_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an image of {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        input.read_exact(&mut bytes)?;
        let contents = Contents::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(ManagerState { contents: Arc::new(contents) })
    }
}

impl Image for ManagerState {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        let bytes = codec::encode(&*self.contents);
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        output.write_all(&len.to_le_bytes())?;
        output.write_all(&bytes)
    }
}
