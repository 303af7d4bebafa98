//! What travels between a client and a server or manager, in the frames of [`smr::codec`].
//!
//! The side that dials sends [`RangedHello`] with the versions that it speaks, and may send requests right after it;
//! the other side answers [`RangedWelcome`] with the highest version that both speak, or [`Refusal`] and closes. Builds
//! of version 1 know that version alone: their handshake is [`Hello`] and [`Welcome`]. Whoever meets one is refused
//! ([`is_before_ranges`]) and begins again in their words. Requests carry a number of the connection's own; responses
//! carry it back, in any order. The answer to a SCAN comes in [`ClientResponse::Part`]s and ends with a
//! [`ClientResponse::Answer`].

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smr::entry::{Genesis, GenesisHash, GenesisRequest, Incumbent};
use smr::id::{ClientId, ClusterId, Disqualified, Incarnation, StartTrail};
use smr::status::ReplicaStatus;
use smr::version::VersionRange;

/// What a manager tells clients about where the parts of a service are. Opaque here: the service's own client and
/// servers know what it means.
pub trait Map: Serialize + DeserializeOwned + Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static {}

impl<M: Serialize + DeserializeOwned + Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static> Map for M {}

/// The versions of what clients, servers and managers say to each other. 1: one version, nothing else. 2: ranges of
/// versions. 3: [`ClientRequest::Control`].
pub const CLIENT_VERSIONS: VersionRange = VersionRange::new(1, 3);
/// The version of builds that know no ranges.
pub const VERSION_BEFORE_RANGES: u16 = 1;
/// The version in which [`ClientRequest::Control`] came.
pub const VERSION_OF_CONTROL: u16 = 3;

/// The first bytes of a [`Hello`] and of a [`RangedHello`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"madkv/1\n");

/// Kind of the frame that carries a [`Hello`].
pub const KIND_HELLO: u16 = 0x4d01;
/// Kind of the frame that carries a [`Welcome`].
pub const KIND_WELCOME: u16 = 0x4d02;
/// Kind of the frame that carries a [`Refusal`].
pub const KIND_REFUSAL: u16 = 0x4d03;
/// Kind of the frame that carries a [`RequestFrame`].
pub const KIND_REQUEST: u16 = 0x4d04;
/// Kind of the frame that carries a [`ResponseFrame`].
pub const KIND_RESPONSE: u16 = 0x4d05;

/// Kind of the frame that carries a [`RangedHello`].
pub const KIND_RANGED_HELLO: u16 = 0x4d06;
/// Kind of the frame that carries a [`RangedWelcome`].
pub const KIND_RANGED_WELCOME: u16 = 0x4d07;

/// Who dials, whom it wants, and which versions it speaks. The shape stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangedHello {
    /// [`MAGIC`].
    pub magic: u64,
    /// The newest version that the dialling side speaks.
    pub newest: u16,
    /// The oldest version that it speaks.
    pub oldest: u16,
    /// The cluster that it means, once it knows.
    pub cluster: Option<ClusterId>,
    /// The service that it expects.
    pub service: Service,
    /// What versions to come add to this frame ([`HelloFields`]); others pass over it.
    pub later: Bytes,
}

impl RangedHello {
    /// The hello of this build.
    pub fn new(cluster: Option<ClusterId>, service: Service) -> RangedHello {
        let (newest, oldest) = (CLIENT_VERSIONS.newest(), CLIENT_VERSIONS.oldest());
        RangedHello { magic: MAGIC, newest, oldest, cluster, service, later: Bytes::new() }
    }

    /// The version for a connection with the one who says this.
    ///
    /// # Errors
    /// The reason to refuse it, if there is none.
    pub fn agree(&self) -> Result<u16, String> {
        let theirs = VersionRange::checked(self.oldest, self.newest)
            .ok_or_else(|| "a range of versions ends before it begins".to_owned())?;
        theirs
            .common(CLIENT_VERSIONS)
            .ok_or_else(|| format!("a client that speaks {theirs} meets a replica that speaks {CLIENT_VERSIONS}"))
    }
}

/// What a hello says besides: a tag of one byte, the length of the value in one byte, the value; again and again.
/// Whoever does not know a tag passes over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HelloFields {
    /// What the client calls itself on consoles: `C7` is 7. Then the ids of its requests carry their numbers, see
    /// [`next_id`].
    pub client: Option<u32>,
}

const FIELD_CLIENT: u8 = 1;

impl HelloFields {
    /// As it stands in [`RangedHello::later`].
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        if let Some(client) = self.client {
            bytes.extend([FIELD_CLIENT, size_of::<u32>() as u8]);
            bytes.extend(client.to_le_bytes());
        }
        bytes.into()
    }

    /// The fields that this build knows. What makes no sense is passed over, too: nothing depends on it.
    pub fn decode(bytes: &[u8]) -> HelloFields {
        let named = fields(bytes).filter(|(tag, _)| *tag == FIELD_CLIENT).last();
        HelloFields { client: named.and_then(|(_, value)| value.try_into().ok()).map(u32::from_le_bytes) }
    }
}

/// What a welcome says besides, in the form of [`HelloFields`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WelcomeFields {
    /// Clients send writes to all replicas of this group: each answers. Whoever does not know that sends to the leader.
    pub all_take_writes: bool,
}

const FIELD_ALL_TAKE_WRITES: u8 = 1;

impl WelcomeFields {
    /// As it stands in [`RangedWelcome::later`].
    pub fn encode(&self) -> Bytes {
        if self.all_take_writes { Bytes::from_static(&[FIELD_ALL_TAKE_WRITES, 0]) } else { Bytes::new() }
    }

    /// The fields that this build knows.
    pub fn decode(bytes: &[u8]) -> WelcomeFields {
        WelcomeFields { all_take_writes: fields(bytes).any(|(tag, _)| tag == FIELD_ALL_TAKE_WRITES) }
    }
}

/// Tags and values, as far as they make sense.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [tag, len, rest @ ..] = bytes else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        bytes = rest;
        Some((*tag, value))
    })
}

/// Bits of a request's id that are its number, where the client has a name. Those above count the connection's
/// requests, so that ids rise whatever the numbers are.
const NUMBER_BITS: u32 = 32;

/// The id after `last` for a request with this number, or without numbers. `None` if all are used.
pub(crate) fn next_id(last: u64, number: Option<u32>) -> Option<u64> {
    match number {
        None => last.checked_add(1),
        Some(number) => {
            let count = u32::try_from(last >> NUMBER_BITS).ok()?.checked_add(1)?;
            Some(u64::from(count) << NUMBER_BITS | u64::from(number))
        }
    }
}

/// The number in the id of a request of a client that has a name; 0 for a request that consoles do not show.
pub fn number_of(id: u64) -> u32 {
    id as u32
}

/// Who answers a [`RangedHello`]. The shape stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangedWelcome {
    /// The version of everything that follows, in both directions.
    pub version: u16,
    /// Its cluster; a manager that is not initialized yet has none.
    pub cluster: Option<ClusterId>,
    /// Epoch of the map that it knows; 0 for none.
    pub epoch: u64,
    /// As in [`RangedHello`].
    pub later: Bytes,
}

impl RangedWelcome {
    /// What it says besides the version.
    ///
    /// # Errors
    /// If the version is none that was offered.
    pub fn checked(self) -> Result<Welcome, String> {
        if !CLIENT_VERSIONS.contains(self.version) {
            return Err(format!("version {} answers one who speaks {CLIENT_VERSIONS}", self.version));
        }
        Ok(Welcome { cluster: self.cluster, epoch: self.epoch })
    }
}

/// Whether this is why a build of version 1 refuses a [`RangedHello`]. It took nothing of what was sent to it.
pub fn is_before_ranges(reason: &str) -> bool {
    reason == format!("this is no greeting: frame of kind {KIND_RANGED_HELLO:#06x}")
}

/// Who dials, and whom it wants, as version 1 says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: u64,
    /// The cluster that the dialling side means, once it knows.
    pub cluster: Option<ClusterId>,
    /// The service that it expects.
    pub service: Service,
}

/// Who answers a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its cluster; a manager that is not initialized yet has none.
    pub cluster: Option<ClusterId>,
    /// Epoch of the map that it knows; 0 for none.
    pub epoch: u64,
}

/// Why a connection was not accepted. It is closed after this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For a person to read.
    pub reason: String,
}

/// A replica's service, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Service {
    /// A manager replica, whichever.
    Manager,
    /// A replica of a partition, whichever.
    Server {
        /// The partition.
        partition: u16,
    },
}

impl Service {
    /// The group of a service that has but one, and no manager.
    pub const ONLY_GROUP: Service = Service::Server { partition: 0 };
}

/// The payload of [`KIND_REQUEST`]: one request, numbered by its connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestFrame {
    /// The connection's own number for it.
    pub id: u64,
    /// Epoch of the map that the sender routed by; 0 if it has none.
    pub epoch: u64,
    /// The request itself.
    pub ask: ClientRequest,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientRequest {
    /// Server: open a session.
    OpenSession,
    /// Server: apply a command exactly once.
    Write {
        /// The session.
        client: ClientId,
        /// The request's number in it, from 1.
        number: u64,
        /// The lowest number whose answer the client still waits for.
        lowest_unanswered: u64,
        /// The command.
        command: Bytes,
    },
    /// Server: answer a query.
    Read {
        /// The query.
        query: Bytes,
    },
    /// Both: describe the replica.
    Status,
    /// Both: hand leadership over.
    Transfer {
        /// The replica that is to lead.
        to: u16,
    },
    /// Both: put the present incarnation of a replica into the place of the previous one.
    Readmit {
        /// The replica.
        replica: u16,
    },
    /// Manager: the map.
    Map,
    /// Manager: a server says who it is.
    Register(Registration),
    /// Manager: a server that could found its partition's group asks that the genesis be recorded.
    RecordGenesis(GenesisRequest),
    /// A question or an order of the service's own; opaque here. Answered with [`ClientResponse::Answer`].
    Control(Bytes),
}

impl ClientRequest {
    /// The version in which this came.
    pub fn version(&self) -> u16 {
        if let ClientRequest::Control(_) = self { VERSION_OF_CONTROL } else { VERSION_BEFORE_RANGES }
    }
}

/// Why a request is not sent to a replica whose build does not know it.
pub fn needs_newer(version: u16, agreed: u16) -> String {
    format!(
        "the replica speaks version {agreed} at most, and this needs version {version}: it is of an older build, which \
         has to be replaced first"
    )
}

/// What kind of request it is, for those who count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// [`ClientRequest::OpenSession`].
    OpenSession,
    /// [`ClientRequest::Write`].
    Write,
    /// [`ClientRequest::Read`].
    Read,
    /// [`ClientRequest::Status`].
    Status,
    /// [`ClientRequest::Map`].
    Map,
    /// What operators and servers ask.
    Other,
}

impl RequestKind {
    /// Whether it changes nothing, so that `Busy` is a true answer even after it was carried out.
    pub fn is_harmless(self) -> bool {
        matches!(self, RequestKind::Read | RequestKind::Status | RequestKind::Map)
    }
}

impl ClientRequest {
    /// What kind of request this is.
    pub fn kind(&self) -> RequestKind {
        match self {
            ClientRequest::OpenSession => RequestKind::OpenSession,
            ClientRequest::Write { .. } => RequestKind::Write,
            ClientRequest::Read { .. } => RequestKind::Read,
            ClientRequest::Status => RequestKind::Status,
            ClientRequest::Map => RequestKind::Map,
            _ => RequestKind::Other,
        }
    }
}

/// A server, to the manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The partition that it serves.
    pub partition: u16,
    /// Its replica number.
    pub replica: u16,
    /// The incarnation of its directory.
    pub incarnation: Incarnation,
    /// Whether that incarnation is a member of its group (initialized, and named by the configuration), as opposed to a
    /// fresh directory.
    pub member: bool,
    /// The genesis of that group, for a member.
    pub genesis: Option<GenesisHash>,
    /// This start of its process.
    pub start: StartTrail,
}

/// The payload of [`KIND_RESPONSE`]: the answer to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResponseFrame<M> {
    /// The request's number.
    pub id: u64,
    /// What became of it.
    pub body: ClientResponse<M>,
}

/// What became of a request. Unless it says otherwise the request had no effect and never will.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClientResponse<M> {
    /// It was applied, or read: the state machine's answer (for a SCAN: its last part).
    Answer(Bytes),
    /// More of a SCAN's answer follows.
    Part(Bytes),
    /// A session was opened; writes in it are numbered under this id.
    SessionOpened(ClientId),
    /// What the replica says of itself.
    Status(Box<ReplicaStatus>),
    /// What the operator asked for was done.
    Done,
    /// The newest map that this process knows.
    Map(Box<M>),
    /// This manager replica has not applied a map yet; try another, or again.
    NoMap,
    /// The server is registered; the map says what it owns.
    Registered(Box<M>),
    /// The replica has another incarnation. A server that hears this is not a member until it is readmitted.
    Occupied {
        /// The one that has it.
        by: Incarnation,
        /// The map all the same.
        map: Box<M>,
    },
    /// Ask the leader.
    NotLeader {
        /// Its replica number, if it is known.
        leader: Option<u16>,
        /// The term in which it leads.
        term: u64,
    },
    /// The key lives elsewhere, by the map of this epoch.
    WrongPartition {
        /// The answering side's epoch.
        epoch: u64,
    },
    /// Too much is under way.
    Busy {
        /// When to try again, in milliseconds.
        retry_after_ms: u32,
    },
    /// A key or value beyond the limits.
    TooLarge {
        /// The limit in bytes.
        limit_bytes: u32,
    },
    /// Not applied now; whether an earlier copy was is unknown.
    SessionExpired,
    /// Applied once; the answer is no longer stored.
    AnswerGone,
    /// It may or may not take effect.
    Unknown,
    /// It makes no sense, or cannot be granted.
    Refused(String),
    /// The replica is uninitialized or quarantined.
    OutOfService(String),
    /// The genesis that was shown is recorded now, or was before.
    GenesisRecorded,
    /// The partition has another group already.
    GenesisRefused {
        /// The group that is recorded.
        incumbent: Incumbent,
        /// Its genesis, if it is known.
        genesis: Option<Genesis>,
    },
    /// The directory that registers must not take part any longer.
    Disqualified {
        /// The reason.
        why: Disqualified,
        /// The map all the same.
        map: Box<M>,
    },
    /// Not done: the leader's disk is full, and the request may make the state larger.
    DiskFull,
}

impl<M> ClientResponse<M> {
    /// Why it is no answer, in words for a console.
    pub fn refusal(&self) -> Option<&'static str> {
        Some(match self {
            ClientResponse::NotLeader { .. } => "not the leader",
            ClientResponse::WrongPartition { .. } => "another partition",
            ClientResponse::Busy { .. } => "busy",
            ClientResponse::TooLarge { .. } => "too large",
            ClientResponse::SessionExpired => "session evicted",
            ClientResponse::AnswerGone => "answer evicted",
            ClientResponse::Unknown => "outcome unknown",
            ClientResponse::Refused(_) => "refused",
            ClientResponse::OutOfService(_) => "out of service",
            ClientResponse::DiskFull => "disk full",
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_fields_come_back_and_unknown_or_mangled_ones_are_passed_over() {
        for client in [None, Some(0), Some(7), Some(u32::MAX)] {
            assert_eq!(HelloFields::decode(&HelloFields { client }.encode()), HelloFields { client });
        }
        let mut bytes = vec![99, 2, 0, 0];
        bytes.extend(HelloFields { client: Some(7) }.encode());
        assert_eq!(HelloFields::decode(&bytes).client, Some(7));
        for mangled in [&[FIELD_CLIENT][..], &[FIELD_CLIENT, 4, 1], &[FIELD_CLIENT, 1, 7], &[99, 255]] {
            assert_eq!(HelloFields::decode(mangled), HelloFields::default(), "{mangled:?}");
        }
    }

    #[test]
    fn welcome_fields_come_back_and_unknown_or_mangled_ones_are_passed_over() {
        for all_take_writes in [false, true] {
            let fields = WelcomeFields { all_take_writes };
            assert_eq!(WelcomeFields::decode(&fields.encode()), fields);
        }
        assert!(WelcomeFields::decode(&[99, 2, 0, 0, FIELD_ALL_TAKE_WRITES, 0]).all_take_writes);
        for mangled in [&[FIELD_ALL_TAKE_WRITES][..], &[FIELD_ALL_TAKE_WRITES, 4, 1], &[99, 255]] {
            assert_eq!(WelcomeFields::decode(mangled), WelcomeFields::default(), "{mangled:?}");
        }
    }

    #[test]
    fn ids_rise_whatever_the_numbers_are_and_end_before_they_repeat() {
        let ids: Vec<u64> = [5, 1, 0, u32::MAX, 1]
            .into_iter()
            .scan(0, |last, number| {
                *last = next_id(*last, Some(number))?;
                Some(*last)
            })
            .collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]) && ids.len() == 5, "{ids:?}");
        assert_eq!(ids.into_iter().map(number_of).collect::<Vec<_>>(), [5, 1, 0, u32::MAX, 1]);
        assert_eq!(next_id(u64::MAX - 1, Some(1)), None);
        assert_eq!(next_id(6, None), Some(7));
    }

    fn hello() -> RangedHello {
        RangedHello::new(None, Service::Manager)
    }

    #[test]
    fn hello_agrees_upon_the_highest_common_version_or_says_both_ranges() {
        assert_eq!(hello().agree(), Ok(3));
        assert_eq!(RangedHello { newest: 9, ..hello() }.agree(), Ok(3));
        assert_eq!(RangedHello { newest: 2, ..hello() }.agree(), Ok(2));
        assert_eq!(RangedHello { newest: 1, ..hello() }.agree(), Ok(1));
        let newer = RangedHello { newest: 9, oldest: 4, ..hello() }.agree();
        assert_eq!(
            newer.unwrap_err(),
            "a client that speaks versions 4 to 9 meets a replica that speaks versions 1 to 3"
        );
        assert!(RangedHello { oldest: 4, ..hello() }.agree().is_err());
    }

    #[test]
    fn welcome_in_a_version_that_was_not_offered_is_refused() {
        let welcome = |version| RangedWelcome { version, cluster: None, epoch: 7, later: Bytes::new() };
        assert_eq!(welcome(3).checked(), Ok(Welcome { cluster: None, epoch: 7 }));
        assert!(welcome(4).checked().is_err() && welcome(0).checked().is_err());
    }

    #[test]
    fn refusal_of_version_1_is_known_by_its_words() {
        assert!(is_before_ranges("this is no greeting: frame of kind 0x4d06"));
        assert!(!is_before_ranges("this is no greeting: frame of kind 0x4d04"));
    }
}
