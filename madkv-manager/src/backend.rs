//! What a client or a server may ask of a manager.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use madkv_proto::control::{
    AgentReport, ControlReply, ControlRequest, EXCHANGE_MAX_BYTES, SETTING_NAME_MAX_BYTES, SETTING_VALUE_MAX_BYTES,
};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::map::ClusterMap;
use madkv_proto::settings;
use smr::codec;
use smr::epoch_service::MemberReport;
use smr::id::{ClusterId, ReplicaId};
use smr::replica::{Outcome, ReplicaHandle, ReplyTo, Request, Submit};
use smr_service::listener::Backend;
use smr_service::pace::Pace;
use tokio::runtime::Handle;

use crate::epochs::{EpochService, report_of};
use crate::heard::Heard;
use crate::lead::now_unix_ms;
use crate::state::{Command, Query, Reply, encode};

/// Why a move of slots is given up, if an operator says so.
const BY_OPERATOR: &str = "an operator gives it up";

/// A manager replica, behind its listener.
pub struct ManagerBackend {
    replica: ReplicaHandle,
    runtime: Handle,
    /// The highest epoch of a map that left here.
    epoch: AtomicU64,
    heard: Arc<Heard>,
    epochs: Arc<EpochService>,
    pace: Pace,
}

impl ManagerBackend {
    /// A listener to `replica`.
    pub fn new(
        replica: ReplicaHandle,
        runtime: Handle,
        heard: Arc<Heard>,
        epochs: Arc<EpochService>,
        pace: Pace,
    ) -> ManagerBackend {
        ManagerBackend { replica, runtime, epoch: AtomicU64::new(0), heard, epochs, pace }
    }
}

impl Backend for ManagerBackend {
    type Map = ClusterMap;

    fn service(&self) -> Service {
        Service::Manager
    }

    fn cluster(&self) -> Option<ClusterId> {
        self.replica.cluster()
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    fn ask(&self, ask: ClientRequest, _epoch: u64, reply: ReplyTo) -> Option<ClientResponse> {
        match request_of(ask) {
            Ok(Asked::One(request)) => self.replica.queue(request, reply),
            Ok(Asked::Pace) => return Some(ClientResponse::Answer(self.pace.report().encode())),
            Ok(Asked::Report(report)) => {
                let (replica, heard) = (self.replica.clone(), Arc::clone(&self.heard));
                // As many at a time as requests may be under way on the connections.
                self.runtime.spawn(async move { reply.send(take_report(&replica, &heard, report).await) });
            }
            Ok(Asked::Exchange { partition, report }) => {
                let (replica, epochs) = (self.replica.clone(), Arc::clone(&self.epochs));
                self.runtime.spawn(async move {
                    let outcome = match epochs.exchange(&replica, partition, &report).await {
                        Ok(word) => {
                            let word = word.map(|word| codec::encode(&word).into());
                            Outcome::Answer(codec::encode(&Reply::Control(ControlReply::Word(word))).into())
                        }
                        Err(outcome) => outcome,
                    };
                    reply.send(outcome);
                });
            }
            Ok(Asked::Promote { partition, name }) => {
                let (replica, epochs) = (self.replica.clone(), Arc::clone(&self.epochs));
                self.runtime.spawn(async move {
                    reply.send(match epochs.promote(&replica, partition, name).await {
                        Ok(done) => Outcome::Answer(codec::encode(&Reply::Control(done)).into()),
                        Err(outcome) => outcome,
                    });
                });
            }
            Err(body) => return Some(body),
        }
        None
    }

    fn flush(&self) {
        self.replica.flush();
    }

    fn answer(&self, answer: Bytes) -> ClientResponse {
        let reply = Reply::decode(&answer);
        if let Reply::Map(map)
        | Reply::Registered(map)
        | Reply::Occupied { map, .. }
        | Reply::Disqualified { map, .. } = &reply
        {
            self.epoch.fetch_max(map.epoch, Ordering::Relaxed);
        }
        reply.into_body()
    }
}

/// Sees to an agent's report. It is a question first, which only a leader answers; what differs from what is recorded
/// becomes a command.
async fn take_report(replica: &ReplicaHandle, heard: &Heard, report: AgentReport) -> Outcome {
    let stopping = || Outcome::OutOfService("stopping".to_owned());
    let agent = report.agent;
    let query = encode(&Query::Report(report.clone()));
    let mut outcome = replica.ask(Request::Read { query }).await.unwrap_or_else(stopping);
    if let Outcome::Answer(answer) = &outcome
        && Reply::decode(answer) == Reply::ReportDiffers
    {
        let command = encode(&Command::AgentReport { report, at_unix_ms: now_unix_ms() });
        outcome = replica.ask(Request::Idempotent { command }).await.unwrap_or_else(stopping);
    }
    if let Outcome::Answer(answer) = &outcome
        && let Reply::Control(ControlReply::Orders(orders)) = Reply::decode(answer)
    {
        heard.note(agent, orders.gfd_heartbeat_freq_ms);
    }
    outcome
}

/// What is to be done for a client.
#[derive(Debug)]
pub enum Asked {
    /// One request to the replica.
    One(Request),
    /// How fast the parts of this replica are.
    Pace,
    /// An agent's report.
    Report(AgentReport),
    /// The report of a member of a group whose members are named here.
    Exchange {
        /// Its partition.
        partition: u16,
        /// The report.
        report: MemberReport,
    },
    /// Another first for such a group.
    Promote {
        /// Its partition.
        partition: u16,
        /// Who.
        name: ReplicaId,
    },
}

/// What to ask of the replica, or the answer that needs no replica.
///
/// # Errors
/// The answer to the client, if nothing is asked of the replica.
pub fn request_of(ask: ClientRequest) -> Result<Asked, ClientResponse> {
    Ok(Asked::One(match ask {
        // From whatever is applied here, also without a quorum: a published map never changes, so an old one misleads
        // no one for long.
        ClientRequest::Map => Request::LocalRead { query: encode(&Query::Map) },
        ClientRequest::Register(registration) => {
            Request::Idempotent { command: encode(&Command::Register(registration)) }
        }
        ClientRequest::RecordGenesis(request) => {
            Request::Idempotent { command: encode(&Command::RecordGenesis(request)) }
        }
        ClientRequest::Status => Request::Status,
        ClientRequest::Transfer { to } => Request::Transfer { to: ReplicaId(to) },
        ClientRequest::Readmit { replica } => Request::Readmit { name: ReplicaId(replica) },
        ClientRequest::OpenSession | ClientRequest::Write { .. } | ClientRequest::Read { .. } => {
            return Err(ClientResponse::Refused("this is a manager; keys live on servers".into()));
        }
        ClientRequest::Control(request) => return control(&request).map_err(ClientResponse::Refused),
    }))
}

fn control(request: &[u8]) -> Result<Asked, String> {
    Ok(Asked::One(match ControlRequest::decode(request)? {
        ControlRequest::AgentReport(report) => {
            report.check()?;
            return Ok(Asked::Report(report));
        }
        // A server that follows them goes by their version.
        ControlRequest::Settings => Request::LocalRead { query: encode(&Query::Settings) },
        ControlRequest::Set { name, value, version } => {
            if name.len() > SETTING_NAME_MAX_BYTES || value.len() > SETTING_VALUE_MAX_BYTES {
                return Err("the name or the value of the setting is too long".to_owned());
            }
            let value = settings::parse_value(&name, &value)?;
            // In the log it would mean something to a later build, and nothing to this one.
            if settings::definition(&name).is_none() && settings::partition_of_replicas(&name).is_none() {
                return Err(settings::unknown(&name));
            }
            Request::Idempotent { command: encode(&Command::Set { name, value, version, at_unix_ms: now_unix_ms() }) }
        }
        ControlRequest::Events { after, limit } => Request::Read { query: encode(&Query::Events { after, limit }) },
        ControlRequest::Announce(announcement) => {
            Request::Idempotent { command: encode(&Command::Announce { announcement, at_unix_ms: now_unix_ms() }) }
        }
        ControlRequest::Scale { partition, replicas, epoch } => {
            let command = Command::Scale { partition, replicas, epoch, at_unix_ms: now_unix_ms() };
            Request::Idempotent { command: encode(&command) }
        }
        ControlRequest::Relocate(announcement) => {
            Request::Idempotent { command: encode(&Command::Relocate { announcement, at_unix_ms: now_unix_ms() }) }
        }
        ControlRequest::Change { partition } => Request::Read { query: encode(&Query::Change { partition }) },
        ControlRequest::AddPartition { servers } => {
            Request::Idempotent { command: encode(&Command::AddPartition { servers, at_unix_ms: now_unix_ms() }) }
        }
        ControlRequest::MoveSlots { slots, to } => {
            Request::Idempotent { command: encode(&Command::MoveSlots { slots, to, at_unix_ms: now_unix_ms() }) }
        }
        ControlRequest::SlotMoves => Request::Read { query: encode(&Query::SlotMoves) },
        ControlRequest::GiveUpMove { id } => {
            let (why, at_unix_ms) = (BY_OPERATOR.to_owned(), now_unix_ms());
            Request::Idempotent { command: encode(&Command::GiveUpMove { id, why, unable: None, at_unix_ms }) }
        }
        ControlRequest::Pace => return Ok(Asked::Pace),
        ControlRequest::Membership => Request::Read { query: encode(&Query::Membership) },
        // They never change once there is a map.
        ControlRequest::Kinds => Request::LocalRead { query: encode(&Query::Kinds) },
        ControlRequest::Services => Request::LocalRead { query: encode(&Query::Services) },
        ControlRequest::Promote { partition, replica } => {
            return Ok(Asked::Promote { partition, name: ReplicaId(replica) });
        }
        ControlRequest::Exchange { partition, report } => {
            if report.len() > EXCHANGE_MAX_BYTES {
                return Err(format!("a report of {} bytes; {EXCHANGE_MAX_BYTES} are possible", report.len()));
            }
            return Ok(Asked::Exchange { partition, report: report_of(&report)? });
        }
    }))
}
