//! Registration with the manager: who I am, and what am I to serve?
//!
//! Any manager may be asked. One that does not lead names the leader; one that does not answer is passed over.
//! Registering twice is harmless, so a lost answer is simply asked for again (fault catalogue G1). So is asking twice
//! that a genesis be recorded.

use std::io;
use std::time::Duration;

use madkv_proto::control::{Announcement, ControlReply, ControlRequest};
use madkv_proto::frames::{ClientRequest, ClientResponse, Registration, Service};
use madkv_proto::group_service::{GroupService, KEY_VALUE};
use madkv_proto::map::ClusterMap;
use smr::entry::{GenesisHash, GenesisRequest, Incumbent};
use smr::epoch::GroupKind;
use smr::epoch_service::MemberReport;
use smr::id::{ClusterId, Disqualified, Incarnation, StartTrail};
use smr::internals::storage::Succession;
use smr::replica::{ConfigurationSource, GenesisAnswer, GenesisReply, ServiceReply};
use smr_service::args::BadArgument;
use smr_service::dial::Dialled;
use smr_service::process::jittered;
use tokio::runtime::Handle;

use crate::service_link::ServiceLink;

/// How long one manager is waited for, in milliseconds. A commit takes far less; a manager that hangs must not hold us
/// up.
const ANSWER_TIMEOUT_MS: u64 = 2_000;
/// How long one manager may take to say which cluster it is of, in milliseconds. Nine that hang cost less than 1 s.
const GREETING_TIMEOUT_MS: u64 = 100;
/// How often a hint to the leader is followed in a row before the managers are asked in turn again.
const HOPS_MAX: u32 = 3;
/// Pauses between rounds grow from this, in milliseconds …
const PAUSE_MIN_MS: u64 = 50;
/// … to this.
const PAUSE_MAX_MS: u64 = 1_000;

/// What the manager said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The replica is this directory's.
    Registered(ClusterMap),
    /// The replica is another directory's.
    Occupied {
        /// The incarnation that has it.
        by: Incarnation,
        /// The map all the same.
        map: ClusterMap,
    },
    /// The directory must not take part any longer.
    Disqualified {
        /// The reason.
        why: Disqualified,
        /// The map all the same.
        map: ClusterMap,
    },
    /// There is no such replica.
    Refused(String),
}

/// A server that wants to be known.
#[derive(Clone, Debug)]
pub struct Registrar {
    /// The managers, by replica number.
    pub managers: Vec<String>,
    /// The cluster, once it is known. A manager of another one is refused.
    pub cluster: Option<ClusterId>,
    /// The partition that it is to serve.
    pub partition: u16,
    /// The replica number.
    pub replica: u16,
    /// The directory's incarnation.
    pub incarnation: Incarnation,
    /// This start of its process, which is durable already.
    pub start: StartTrail,
}

/// Whether a server's directory is a member's: the genesis of its group, if it is.
pub type Membership = Option<GenesisHash>;

/// What came of asking one manager.
enum Asked {
    /// An answer of the group's state.
    Answer(ClientResponse),
    /// ClientRequest this one.
    Leader(usize),
    /// Nothing that helps, with the reason.
    Nothing(String),
}

/// The pauses of whoever asks until a manager answers.
struct Pauses<C> {
    complain: Option<C>,
    next_ms: u64,
}

impl<C: FnOnce(&str)> Pauses<C> {
    /// `complain` hears once why it takes time.
    fn new(complain: C) -> Pauses<C> {
        Pauses { complain: Some(complain), next_ms: PAUSE_MIN_MS }
    }

    /// No manager has answered, for this reason: waits until they are asked again.
    async fn pass(&mut self, reason: &str) {
        // The first rounds of a fresh cluster find managers that are just being bootstrapped; that is nothing to talk
        // about.
        if self.next_ms > 4 * PAUSE_MIN_MS
            && let Some(complain) = self.complain.take()
        {
            complain(reason);
        }
        tokio::time::sleep(jittered(Duration::from_millis(self.next_ms))).await;
        self.next_ms = (self.next_ms * 2).min(PAUSE_MAX_MS);
    }
}

impl Registrar {
    /// Registers; asks until a manager answers. `complain` hears once why it takes time.
    pub async fn until_answered(&self, member: Membership, complain: impl FnOnce(&str)) -> Verdict {
        let mut pauses = Pauses::new(complain);
        loop {
            match self.one_round(member).await {
                Ok(verdict) => return verdict,
                Err(reason) => pauses.pass(&reason).await,
            }
        }
    }

    /// Whether the managers are of another cluster than this directory: the first one that says so, unless another one
    /// is of ours. Managers that do not answer say nothing.
    pub async fn foreign_manager(&self) -> Option<(&str, ClusterId)> {
        let ours = self.cluster?;
        let timeout = Duration::from_millis(GREETING_TIMEOUT_MS);
        let mut foreign = None;
        for address in &self.managers {
            // Without a word of ours, so that the manager tells its own instead of turning us away.
            let Ok(manager) = Dialled::to(address, Service::Manager, None, timeout).await else { continue };
            match manager.welcome().cluster {
                Some(theirs) if theirs == ours => return None,
                Some(theirs) => foreign = foreign.or(Some((address.as_str(), theirs))),
                None => {}
            }
        }
        foreign
    }

    /// Asks each manager once whether it is that replica, and for the leader that one of them names.
    ///
    /// # Errors
    /// Why none of them answered.
    pub async fn one_round(&self, member: Membership) -> Result<Verdict, String> {
        let Registrar { partition, replica, incarnation, start, .. } = *self;
        let genesis = member;
        let registration = Registration { partition, replica, incarnation, member: member.is_some(), genesis, start };
        match self.round_of(&ClientRequest::Register(registration)).await? {
            ClientResponse::Registered(map) => Ok(Verdict::Registered(*map)),
            ClientResponse::Occupied { by, map } => Ok(Verdict::Occupied { by, map: *map }),
            ClientResponse::Disqualified { why, map } => Ok(Verdict::Disqualified { why, map: *map }),
            ClientResponse::Refused(reason) => Ok(Verdict::Refused(reason)),
            other => Err(format!("unexpected answer {other:?}")),
        }
    }

    /// Asks that a genesis be recorded in the place of another one; asks until a manager answers. `complain` hears once
    /// why it takes time. Otherwise the group that is recorded instead, if it is another one.
    pub async fn until_recorded(&self, succession: &Succession, complain: impl FnOnce(&str)) -> Result<(), Incumbent> {
        let mut complain = Some(complain);
        let mut pause_ms = PAUSE_MIN_MS;
        let mut instead_of = Incumbent::Recorded(succession.instead_of);
        loop {
            let request = GenesisRequest { genesis: succession.genesis.clone(), instead_of: Some(instead_of) };
            match self.record(request).await {
                GenesisAnswer::Recorded => return Ok(()),
                // A group of an older build: it is the only one that there was.
                GenesisAnswer::Refused { incumbent: Incumbent::Unrecorded, .. }
                    if instead_of != Incumbent::Unrecorded =>
                {
                    instead_of = Incumbent::Unrecorded;
                    continue;
                }
                GenesisAnswer::Refused { incumbent, .. } => return Err(incumbent),
                GenesisAnswer::NotYet(reason) if pause_ms > 4 * PAUSE_MIN_MS => {
                    if let Some(complain) = complain.take() {
                        complain(&reason);
                    }
                }
                GenesisAnswer::NotYet(_) => {}
            }
            tokio::time::sleep(jittered(Duration::from_millis(pause_ms))).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        }
    }

    /// Asks each manager once to record a genesis, and the leader that one of them names.
    async fn record(&self, request: GenesisRequest) -> GenesisAnswer {
        match self.round_of(&ClientRequest::RecordGenesis(request)).await {
            Ok(ClientResponse::GenesisRecorded) => GenesisAnswer::Recorded,
            Ok(ClientResponse::GenesisRefused { incumbent, genesis }) => GenesisAnswer::Refused { incumbent, genesis },
            Ok(ClientResponse::Refused(reason)) | Err(reason) => GenesisAnswer::NotYet(reason),
            Ok(other) => GenesisAnswer::NotYet(format!("unexpected answer {other:?}")),
        }
    }

    /// Tells a manager where a replica is.
    ///
    /// # Errors
    /// Why none of them has taken that.
    pub async fn announce(&self, announcement: &Announcement) -> Result<(), String> {
        let request = ControlRequest::Announce(announcement.clone()).encode();
        match self.round_of(&ClientRequest::Control(request)).await? {
            ClientResponse::Answer(answer) => match ControlReply::decode(&answer)? {
                ControlReply::Done | ControlReply::Change(_) => Ok(()),
                ControlReply::Refused(why) => Err(why),
                other => Err(format!("unexpected answer {other:?}")),
            },
            ClientResponse::Refused(why) => Err(why),
            other => Err(format!("unexpected answer {other:?}")),
        }
    }

    /// The map that a manager has.
    ///
    /// # Errors
    /// Why none of them gave one.
    pub async fn map(&self) -> Result<ClusterMap, String> {
        match self.round_of(&ClientRequest::Map).await? {
            ClientResponse::Map(map) => Ok(*map),
            other => Err(format!("unexpected answer {other:?}")),
        }
    }

    /// The map; asks until a manager gives one. `complain` hears once why it takes time.
    pub async fn until_map(&self, complain: impl FnOnce(&str)) -> ClusterMap {
        let mut complain = Some(complain);
        let mut pause_ms = PAUSE_MIN_MS;
        loop {
            match self.map().await {
                Ok(map) => return map,
                Err(reason) if pause_ms > 4 * PAUSE_MIN_MS => {
                    if let Some(complain) = complain.take() {
                        complain(&reason);
                    }
                }
                Err(_) => {}
            }
            tokio::time::sleep(jittered(Duration::from_millis(pause_ms))).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        }
    }

    /// The kind of the partition's group, as the managers were told; `None` if none of them says so. Those of older
    /// builds know of none but one.
    pub async fn kind(&self) -> Option<GroupKind> {
        match self.round_of(&ClientRequest::Control(ControlRequest::Kinds.encode())).await.ok()? {
            ClientResponse::Answer(answer) => match ControlReply::decode(&answer).ok()? {
                ControlReply::Kinds(kinds) => kinds.get(usize::from(self.partition)).copied(),
                _ => None,
            },
            ClientResponse::Refused(_) => Some(GroupKind::Raft),
            _ => None,
        }
    }

    /// The service of the partition's group, as the managers were told; `None` if there is no such partition. Those of
    /// older builds know the key-value store alone.
    async fn service(&self) -> Result<Option<GroupService>, String> {
        match self.round_of(&ClientRequest::Control(ControlRequest::Services.encode())).await? {
            ClientResponse::Answer(answer) => match ControlReply::decode(&answer)? {
                ControlReply::Services(services) if services.is_empty() => Err("no cluster map yet".to_owned()),
                ControlReply::Services(services) => Ok(services.get(usize::from(self.partition)).cloned()),
                other => Err(format!("unexpected answer {other:?}")),
            },
            ClientResponse::Refused(_) => Ok(Some(GroupService::default())),
            other => Err(format!("unexpected answer {other:?}")),
        }
    }

    /// That the partition's group is of service `wanted`; asks until a manager says of which one it is. Who is told of
    /// another one must not register: it would take the place of a server that belongs there. Where the managers know
    /// no such partition only the store's servers may: what is added later is the store's. They hear it when they do.
    /// `complain` hears once why it takes time.
    ///
    /// # Errors
    /// If it is of another service, or there is none, with what to say.
    pub async fn until_of_service(&self, wanted: &str, complain: impl FnOnce(&str)) -> Result<(), BadArgument> {
        let mut pauses = Pauses::new(complain);
        let service = loop {
            match self.service().await {
                Ok(service) => break service,
                Err(reason) => pauses.pass(&reason).await,
            }
        };
        let Some(service) = service else {
            if wanted == KEY_VALUE {
                return Ok(());
            }
            let partition = self.partition;
            return Err(BadArgument(format!("--partition_id: {partition}; the managers know no such partition")));
        };
        let expected = service.expect(wanted, self.partition);
        expected.map_err(|why| BadArgument(format!("--partition_id: {}; {why}", self.partition)))
    }

    async fn round_of(&self, ask: &ClientRequest) -> Result<ClientResponse, String> {
        let mut reason = String::new();
        let mut hops = 0;
        for first in 0..self.managers.len() {
            let mut target = first;
            loop {
                match self.ask(target, ask).await {
                    Asked::Answer(body) => return Ok(body),
                    Asked::Leader(leader) if leader != target && hops < HOPS_MAX => {
                        hops += 1;
                        target = leader;
                    }
                    Asked::Leader(_) => {
                        reason = "the managers are electing a leader".into();
                        break;
                    }
                    Asked::Nothing(why) => {
                        reason = format!("{}: {why}", self.managers[target]);
                        break;
                    }
                }
            }
        }
        Err(reason)
    }

    async fn ask(&self, target: usize, ask: &ClientRequest) -> Asked {
        let address = &self.managers[target];
        let limit = Duration::from_millis(ANSWER_TIMEOUT_MS);
        let body = match tokio::time::timeout(limit, self.converse(address, ask.clone())).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Asked::Nothing(error.to_string()),
            Err(_) => return Asked::Nothing("no answer in time".into()),
        };
        match body {
            ClientResponse::NotLeader { leader: Some(leader), .. } if usize::from(leader) < self.managers.len() => {
                Asked::Leader(usize::from(leader))
            }
            ClientResponse::NotLeader { .. } => Asked::Nothing("no leader yet".into()),
            ClientResponse::NoMap => Asked::Nothing("no cluster map yet".into()),
            ClientResponse::OutOfService(reason) => Asked::Nothing(reason),
            ClientResponse::Busy { .. } | ClientResponse::Unknown => Asked::Nothing("the manager could not say".into()),
            body => Asked::Answer(body),
        }
    }

    /// One connection, one question, one answer.
    async fn converse(&self, address: &str, ask: ClientRequest) -> io::Result<ClientResponse> {
        let timeout = Duration::from_millis(ANSWER_TIMEOUT_MS);
        let mut manager = Dialled::to(address, Service::Manager, self.cluster, timeout).await?;
        manager.ask(ask).await
    }
}

/// The managers, as those who record geneses, and name the members of some groups.
#[derive(Clone)]
pub struct Recorders {
    /// Whom to ask, and for whom.
    pub registrar: Registrar,
    /// Where members are named.
    pub link: ServiceLink,
    /// Where to do so.
    pub runtime: Handle,
}

impl ConfigurationSource for Recorders {
    fn record_genesis(&self, request: GenesisRequest, reply: GenesisReply) {
        let registrar = self.registrar.clone();
        self.runtime.spawn(async move { reply(registrar.record(request).await) });
    }

    fn exchange(&self, report: MemberReport, reply: ServiceReply) {
        self.link.exchange(&report, reply);
    }
}
