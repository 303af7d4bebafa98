//! What a client or a server may ask of a manager.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::map::ClusterMap;
use smr::id::{ClusterId, ReplicaId};
use smr::replica::{ReplicaHandle, ReplyTo, Request, Submit};
use smr_service::listener::Backend;

use crate::state::{Command, Query, Reply, encode};

/// A manager replica, behind its listener.
pub struct ManagerBackend {
    replica: ReplicaHandle,
    /// The highest epoch of a map that left here.
    epoch: AtomicU64,
}

impl ManagerBackend {
    /// A listener to `replica`.
    pub fn new(replica: ReplicaHandle) -> ManagerBackend {
        ManagerBackend { replica, epoch: AtomicU64::new(0) }
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
            Ok(request) => {
                self.replica.queue(request, reply);
                None
            }
            Err(body) => Some(body),
        }
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

/// What to ask of the replica, or the answer that needs no replica.
///
/// # Errors
/// The answer to the client, if nothing is asked of the replica.
pub fn request_of(ask: ClientRequest) -> Result<Request, ClientResponse> {
    match ask {
        // From whatever is applied here, also without a quorum: a published map never changes, so an old one misleads
        // no one for long.
        ClientRequest::Map => Ok(Request::LocalRead { query: encode(&Query::Map) }),
        ClientRequest::Register(registration) => {
            Ok(Request::Idempotent { command: encode(&Command::Register(registration)) })
        }
        ClientRequest::RecordGenesis(request) => {
            Ok(Request::Idempotent { command: encode(&Command::RecordGenesis(request)) })
        }
        ClientRequest::Status => Ok(Request::Status),
        ClientRequest::Transfer { to } => Ok(Request::Transfer { to: ReplicaId(to) }),
        ClientRequest::Readmit { replica } => Ok(Request::Readmit { name: ReplicaId(replica) }),
        ClientRequest::OpenSession | ClientRequest::Write { .. } | ClientRequest::Read { .. } => {
            Err(ClientResponse::Refused("this is a manager; keys live on servers".into()))
        }
        ClientRequest::Control(_) => Err(ClientResponse::Refused("this manager answers no such question".into())),
    }
}
