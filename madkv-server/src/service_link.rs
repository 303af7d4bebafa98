//! The way to the manager for a replica whose group's members are named there: a connection that stays, to the manager
//! that leads.
//!
//! One exchange is under way at a time, and the replica asks again by itself: so what cannot be answered soon is better
//! not answered, and the next manager is tried.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::control::{ControlReply, ControlRequest};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use smr::codec;
use smr::epoch_service::{MemberReport, ServiceWord};
use smr::id::ClusterId;
use smr::replica::ServiceReply;
use smr_service::dial::Dialled;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

/// How long one manager is waited for, in milliseconds: a few heartbeats of a group.
const ANSWER_TIMEOUT_MS: u64 = 300;
/// How often a hint to the manager that leads is followed, in one exchange.
const HOPS_MAX: usize = 2;

/// Whom to ask.
#[derive(Clone)]
pub struct ServiceLink {
    managers: Vec<String>,
    cluster: Option<ClusterId>,
    partition: u16,
    runtime: Handle,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Which manager is asked.
    target: usize,
    connection: Option<Dialled>,
}

impl ServiceLink {
    /// A link for a replica of this partition.
    pub fn new(managers: Vec<String>, cluster: Option<ClusterId>, partition: u16, runtime: Handle) -> ServiceLink {
        ServiceLink { managers, cluster, partition, runtime, state: Arc::default() }
    }

    /// Says something to the manager that leads.
    pub fn exchange(&self, report: &MemberReport, reply: ServiceReply) {
        let (link, report) = (self.clone(), Bytes::from(codec::encode(report)));
        self.runtime.spawn(async move {
            // Another one under way is as good as this one.
            let Ok(mut state) = link.state.try_lock() else { return reply(None) };
            reply(link.ask(&mut state, report).await);
        });
    }

    /// Asks the manager that answered last; one that does not answer, or does not lead, is left for another one, which
    /// the next exchange goes to.
    async fn ask(&self, state: &mut State, report: Bytes) -> Option<ServiceWord> {
        let managers = self.managers.len();
        for _ in 0..HOPS_MAX {
            match self.converse(state, report.clone()).await {
                Ok(ClientResponse::Answer(answer)) => {
                    let Ok(ControlReply::Word(word)) = ControlReply::decode(&answer) else { return None };
                    return word.and_then(|word| codec::decode(&word).ok());
                }
                Ok(ClientResponse::NotLeader { leader: Some(leader), .. }) if usize::from(leader) < managers => {
                    (state.target, state.connection) = (usize::from(leader), None);
                }
                Ok(ClientResponse::Busy { .. } | ClientResponse::Unknown) => return None,
                Ok(_) | Err(_) => {
                    (state.target, state.connection) = ((state.target + 1) % managers, None);
                    return None;
                }
            }
        }
        None
    }

    async fn converse(&self, state: &mut State, report: Bytes) -> io::Result<ClientResponse> {
        let limit = Duration::from_millis(ANSWER_TIMEOUT_MS);
        let mut manager = match state.connection.take() {
            Some(manager) => manager,
            None => Dialled::to(&self.managers[state.target], Service::Manager, self.cluster, limit).await?,
        };
        let request = ControlRequest::Exchange { partition: self.partition, report }.encode();
        // A connection on which an answer is due that may still come is of no use: then it is not kept.
        let answer = tokio::time::timeout(limit, manager.ask(ClientRequest::Control(request))).await??;
        state.connection = Some(manager);
        Ok(answer)
    }
}
