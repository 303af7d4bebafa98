//! Asks the leader of a partition's group to readmit a replica, until it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::map::ClusterMap;
use parking_lot::Mutex;
use smr::replica::MEMBER_ALREADY;
use smr_service::client::{Context, Exchange, Final, Group};
use smr_service::process::jittered;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::rm::Readmission;

/// How long one question may take, in milliseconds: longer than the group's leader tries.
const ANSWER_MS: u64 = 620_000;
/// The pause before the leader is asked again, in milliseconds.
const PAUSE_MS: u64 = 500;

/// The readmissions that this manager, while it leads, asks for. Those that are dropped are asked for no more.
#[derive(Default)]
pub struct Readmissions(BTreeMap<u16, Asking>);

struct Asking {
    /// The decision that it rests on.
    decision: u64,
    state: Arc<Mutex<Readmission>>,
    task: JoinHandle<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Readmissions {
    /// How far the readmission of `replica` is that decision number `decision` wants; asks for it, if that is still to
    /// be done. Another one of this partition is forgotten.
    pub fn follow(&mut self, map: &ClusterMap, partition: u16, replica: u16, decision: u64) -> Readmission {
        if self.0.get(&partition).is_none_or(|asking| asking.decision != decision) {
            let state = Arc::new(Mutex::new(Readmission::Asked));
            let task = tokio::spawn(ask(map.clone(), partition, replica, Arc::clone(&state)));
            self.0.insert(partition, Asking { decision, state, task });
        }
        let of = |asking: &Asking| asking.state.lock().clone();
        self.0.get(&partition).map_or_else(Readmission::default, of)
    }

    /// No readmission is wanted in this partition.
    pub fn none(&mut self, partition: u16) {
        self.0.remove(&partition);
    }
}

async fn ask(map: ClusterMap, partition: u16, replica: u16, state: Arc<Mutex<Readmission>>) {
    let context = Arc::new(Context::plain(Some(map.cluster)));
    let Some(servers) = map.partitions.get(usize::from(partition)).map(|partition| partition.servers.clone()) else {
        return;
    };
    let group: Group<ClusterMap> =
        Group::new(&context, format!("s{partition}"), Service::Server { partition }, 1, &servers);
    let group = Arc::new(group);
    loop {
        let deadline = Instant::now() + Duration::from_millis(ANSWER_MS);
        let mut exchange = Exchange::new(&context, &group, Some(deadline)).without_resends();
        let now = match exchange.run(map.epoch, &|| ClientRequest::Readmit { replica }).await {
            Ok(Final::Response(ClientResponse::Done)) => Readmission::Done,
            Ok(Final::Response(ClientResponse::Refused(why))) if why.contains(MEMBER_ALREADY) => {
                Readmission::MemberAlready
            }
            Ok(Final::Response(ClientResponse::Refused(why))) => Readmission::Refused(why),
            Ok(Final::Response(other)) => Readmission::Refused(format!("{other:?}")),
            Ok(Final::Answer(parts)) => {
                let bytes: usize = parts.iter().map(Bytes::len).sum();
                Readmission::Refused(format!("{bytes} bytes that make no sense here"))
            }
            Err(_) => Readmission::Refused("no answer in time".to_owned()),
        };
        let is_done = now == Readmission::Done;
        *state.lock() = now;
        if is_done {
            return;
        }
        tokio::time::sleep(jittered(Duration::from_millis(PAUSE_MS))).await;
    }
}
