//! The managers, as servers and customers of a factory ask them: where the factories of the group are, of which kind it
//! is, and that another one become the primary.

use std::io;
use std::time::Duration;

use madkv_proto::control::{ControlReply, ControlRequest};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::group_service::GroupService;
use smr::epoch::GroupKind;
use smr::id::ClusterId;
use smr_service::dial::Dialled;
use smr_service::process::jittered;
use tokio::time::Instant;

/// What groups of factories are called in the managers' layout (`madkv-manager --service`).
pub const SERVICE_NAME: &str = "factory";
/// How long one manager may take to be reached and to greet, in milliseconds: one that hangs is passed over.
const DIAL_TIMEOUT_MS: u64 = 1_000;
/// How long one manager may take to answer from what it knows, in milliseconds.
const ANSWER_TIMEOUT_MS: u64 = 2_000;
/// How long the manager that leads may take for a promotion, in milliseconds: it gives up after 5 s itself.
const PROMOTION_TIMEOUT_MS: u64 = 7_000;
/// How often a hint to the manager that leads is followed, in one round.
const HOPS_MAX: u32 = 3;
/// Pauses between rounds grow from this, in milliseconds …
const PAUSE_MIN_MS: u64 = 50;
/// … to this.
const PAUSE_MAX_MS: u64 = 1_000;
/// Whoever waits hears why once pauses have become longer than this, in milliseconds: managers that are just being
/// started are nothing to talk about.
const COMPLAIN_AFTER_MS: u64 = 4 * PAUSE_MIN_MS;

/// The group as the managers were told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The managers' cluster.
    pub cluster: ClusterId,
    /// The kind of the group.
    pub kind: GroupKind,
    /// `host:port` where each factory serves customers, by id.
    pub servers: Vec<String>,
}

/// Why a replica was not made the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPromoted {
    /// The managers say why.
    Refused(String),
    /// None of them could say in time: it may yet happen.
    Unknown(String),
}

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Managers {
    /// By replica number.
    pub addresses: Vec<String>,
    /// The cluster, once it is known. A manager of another one is refused.
    pub cluster: Option<ClusterId>,
    /// The number of the factories' group in their layout.
    pub partition: u16,
}

impl Managers {
    /// Asks each manager in turn, and the one that leads if one names it.
    async fn ask(&self, request: &ClientRequest, limit: Duration) -> Result<ClientResponse, String> {
        let mut why = String::new();
        let mut hops = 0;
        for first in 0..self.addresses.len() {
            let mut target = first;
            loop {
                let address = &self.addresses[target];
                match self.converse(address, request.clone(), limit).await {
                    Ok(ClientResponse::NotLeader { leader: Some(leader), .. })
                        if usize::from(leader) < self.addresses.len()
                            && usize::from(leader) != target
                            && hops < HOPS_MAX =>
                    {
                        hops += 1;
                        target = usize::from(leader);
                        continue;
                    }
                    Ok(ClientResponse::NotLeader { .. }) => why = "the managers are electing a leader".to_owned(),
                    Ok(ClientResponse::NoMap) => why = "no cluster map yet".to_owned(),
                    Ok(ClientResponse::OutOfService(reason)) => why = reason,
                    Ok(ClientResponse::Busy { .. } | ClientResponse::Unknown) => {
                        why = format!("{address} could not say");
                    }
                    Ok(answer) => return Ok(answer),
                    Err(error) => why = format!("{address}: {error}"),
                }
                break;
            }
        }
        Err(why)
    }

    async fn converse(&self, address: &str, request: ClientRequest, limit: Duration) -> io::Result<ClientResponse> {
        let talk = async {
            let dialled = Dialled::to(address, Service::Manager, self.cluster, limit);
            let mut manager = tokio::time::timeout(Duration::from_millis(DIAL_TIMEOUT_MS), dialled).await??;
            manager.ask(request).await
        };
        tokio::time::timeout(limit, talk).await?
    }

    async fn control(&self, request: &ControlRequest, limit: Duration) -> Result<ControlReply, String> {
        match self.ask(&ClientRequest::Control(request.encode()), limit).await? {
            ClientResponse::Answer(answer) => ControlReply::decode(&answer),
            ClientResponse::Refused(why) => Ok(ControlReply::Refused(why)),
            other => Err(format!("unexpected answer {other:?}")),
        }
    }

    /// The group, if a manager can say; `Ok(Err)` if there is none for factories there.
    async fn look(&self) -> Result<Result<Layout, String>, String> {
        let limit = Duration::from_millis(ANSWER_TIMEOUT_MS);
        let map = match self.ask(&ClientRequest::Map, limit).await? {
            ClientResponse::Map(map) => map,
            other => return Err(format!("unexpected answer {other:?}")),
        };
        let partition = self.partition;
        let Some(group) = map.partitions.get(usize::from(partition)) else {
            let last = map.partitions.len().saturating_sub(1);
            return Ok(Err(format!("--partition_id: {partition}; the managers have partitions 0 to {last}")));
        };
        let service = match self.control(&ControlRequest::Services, limit).await? {
            ControlReply::Services(services) => {
                services.get(usize::from(partition)).cloned().ok_or("no cluster map yet")?
            }
            // Builds that know of the key-value store alone.
            ControlReply::Refused(_) => GroupService::default(),
            other => return Err(format!("unexpected answer {other:?}")),
        };
        if let Err(why) = service.expect(SERVICE_NAME, partition) {
            return Ok(Err(format!("--partition_id: {partition}; {why}")));
        }
        let kind = match self.control(&ControlRequest::Kinds, limit).await? {
            ControlReply::Kinds(kinds) => kinds.get(usize::from(partition)).copied().ok_or("no cluster map yet")?,
            // Builds that know of one kind alone.
            ControlReply::Refused(_) => GroupKind::Raft,
            other => return Err(format!("unexpected answer {other:?}")),
        };
        Ok(Ok(Layout { cluster: map.cluster, kind, servers: group.servers.clone() }))
    }

    /// The group; asks until a manager says it, or this moment comes. `complain` hears once why it takes time.
    ///
    /// # Errors
    /// That there is no such group, or why no manager said anything.
    pub async fn layout(&self, until: Option<Instant>, complain: impl FnOnce(&str)) -> Result<Layout, String> {
        let mut complain = Some(complain);
        let mut pause_ms = PAUSE_MIN_MS;
        loop {
            let why = match self.look().await {
                Ok(found) => return found,
                Err(why) => why,
            };
            let pause = jittered(Duration::from_millis(pause_ms));
            if until.is_some_and(|until| Instant::now() + pause >= until) {
                return Err(format!("no manager answers: {why}"));
            }
            if pause_ms > COMPLAIN_AFTER_MS
                && let Some(complain) = complain.take()
            {
                complain(&why);
            }
            tokio::time::sleep(pause).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        }
    }

    /// Has the managers make a replica the primary. They do so once the present epoch has lasted for a second.
    ///
    /// # Errors
    /// Why it is not, or may not be.
    pub async fn promote(&self, replica: u16) -> Result<(), NotPromoted> {
        let request = ControlRequest::Promote { partition: self.partition, replica };
        match self.control(&request, Duration::from_millis(PROMOTION_TIMEOUT_MS)).await {
            Ok(ControlReply::Done) => Ok(()),
            Ok(ControlReply::Refused(why)) => Err(NotPromoted::Refused(why)),
            Ok(other) => Err(NotPromoted::Unknown(format!("unexpected answer {other:?}"))),
            Err(why) => Err(NotPromoted::Unknown(why)),
        }
    }
}
