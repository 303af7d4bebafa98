//! The manager's replicated state.
//!
//! It holds the cluster map, and for each seat (partition and replica) the incarnation of the directory that fills it.
//! Commands come again after lost answers and lost leaders, so each of them is idempotent (fault catalogue G1).
//!
//! # Who gets a seat
//! | the seat has       | newcomer                 | result                                                     |
//! |--------------------|--------------------------|------------------------------------------------------------|
//! | nobody             | anyone                   | registered                                                 |
//! | the same directory | itself                   | registered; once a member always a member                  |
//! | a non-member       | another directory        | registered: the other one has never made a promise          |
//! | a member           | a directory, no member   | occupied: it may have been emptied (M6), or be a second one |
//! | a member           | a member                 | registered: the group's configuration has taken it in       |
//!
//! The group's configuration decides who votes; this table only tells a server early that it will not.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use madkv_api::frames::{Body, Registration};
use madkv_api::map::ClusterMap;
use serde::{Deserialize, Serialize};
use smr::codec;
use smr::entry::Index;
use smr::id::{ClusterId, Incarnation};
use smr::state_machine::{Answer, Image, StateMachine};

/// The longest image, in bytes: far more than the most partitions and replicas need.
const IMAGE_MAX_BYTES: u32 = 1 << 20;

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
    /// A server says who it is.
    Register(Registration),
}

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
    /// The server has its seat.
    Registered(ClusterMap),
    /// Another one has it.
    Occupied {
        /// That one.
        by: Incarnation,
        /// The map.
        map: ClusterMap,
    },
    /// It makes no sense.
    Refused(String),
}

impl Reply {
    /// Reads what the state machine answered.
    pub fn decode(answer: &[u8]) -> Reply {
        codec::decode(answer)
            .unwrap_or_else(|error| Reply::Refused(format!("the state machine answered nonsense: {error}")))
    }

    /// For the one who asked.
    pub fn into_body(self) -> Body {
        match self {
            Reply::NoMap => Body::NoMap,
            Reply::Map(map) => Body::Map(Box::new(map)),
            Reply::Registered(map) => Body::Registered(Box::new(map)),
            Reply::Occupied { by, map } => Body::Occupied { by, map: Box::new(map) },
            Reply::Refused(reason) => Body::Refused(reason),
        }
    }
}

/// As bytes for the log.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    codec::encode(value).into()
}

/// Who fills a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seat {
    incarnation: Incarnation,
    /// Whether it has been seen as a member of its group.
    member: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    map: Option<ClusterMap>,
    /// By partition and replica.
    seats: BTreeMap<(u16, u16), Seat>,
}

/// The state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagerState {
    contents: Arc<Contents>,
}

impl ManagerState {
    fn carry_out(&mut self, command: Command) -> Reply {
        match command {
            Command::Layout { cluster, server_rf, servers } => self.lay_out(cluster, server_rf, &servers),
            Command::Register(registration) => self.register(registration),
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
        let Some(map) = self.contents.map.clone() else { return Reply::NoMap };
        let partition = map.partitions.get(usize::from(newcomer.partition));
        if partition.is_none_or(|partition| usize::from(newcomer.replica) >= partition.servers.len()) {
            let seat = format!("s{}.{}", newcomer.partition, newcomer.replica);
            return Reply::Refused(format!("the cluster has no {seat}"));
        }
        let place = (newcomer.partition, newcomer.replica);
        let recorded = self.contents.seats.get(&place).copied();
        let seat = match recorded {
            Some(seat) if seat.incarnation == newcomer.incarnation => {
                Seat { member: seat.member || newcomer.member, ..seat }
            }
            Some(seat) if seat.member && !newcomer.member => return Reply::Occupied { by: seat.incarnation, map },
            _ => Seat { incarnation: newcomer.incarnation, member: newcomer.member },
        };
        if recorded != Some(seat) {
            Arc::make_mut(&mut self.contents).seats.insert(place, seat);
        }
        Reply::Registered(map)
    }
}

/// Whether two maps deal the same slots to the same servers, however their addresses are spelled.
fn is_same_layout(map: &ClusterMap, other: &ClusterMap) -> bool {
    map.partitions.len() == other.partitions.len()
        && map.partitions.iter().zip(&other.partitions).all(|(one, other)| one.is_same(other))
}

impl StateMachine for ManagerState {
    type Image = ManagerState;

    fn apply(&mut self, _index: Index, command: &[u8]) -> Vec<u8> {
        let reply = match codec::decode(command) {
            Ok(command) => self.carry_out(command),
            Err(error) => Reply::Refused(format!("no command of a manager: {error}")),
        };
        codec::encode(&reply)
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
        if len > IMAGE_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an image of {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        input.read_exact(&mut bytes)?;
        let contents = codec::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
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
