//! Sees to changes of groups that operators want, while this manager leads: asks the group's own leader until it has
//! gone over to the wanted replicas, and then says so. A manager that takes over asks again; a group that has gone over
//! already says that it is done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::map::ClusterMap;
use madkv_proto::why::WhyRequest;
use smr::replica::{CHANGE_UNDER_WAY, Outcome, ReplicaHandle, Request};
use smr_service::client::{Context, Exchange, Final, Group};
use smr_service::process::jittered;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::lead::now_unix_ms;
use crate::state::{Command, Query, Reply, Wanted, encode};

/// How often the leader looks, in milliseconds: while something is open, and while nothing is.
const LOOK_MS: u64 = 100;
const IDLE_LOOK_MS: u64 = 250;
/// How long one question may take, in milliseconds. A group that takes longer goes on, and says so to the next.
const ANSWER_MS: u64 = 10_000;
/// The pause before the group is asked again, in milliseconds.
const PAUSE_MS: u64 = 300;

/// The question to a group, while it is out.
struct Asking {
    id: u64,
    task: JoinHandle<Result<(), String>>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Does this whenever this replica leads. Never returns.
pub async fn run(replica: ReplicaHandle) {
    let mut asking: BTreeMap<u16, Asking> = BTreeMap::new();
    let mut look_ms = IDLE_LOOK_MS;
    loop {
        tokio::time::sleep(Duration::from_millis(look_ms)).await;
        look_ms = IDLE_LOOK_MS;
        // Most of the time there is none, and whoever does not lead need not know.
        let open = local(&replica, &Query::Changes).await;
        let Some(Reply::Changes(open)) = open.filter(|open| *open != Reply::Changes(Vec::new())) else {
            asking.clear();
            continue;
        };
        look_ms = LOOK_MS;
        let leads = replica.ask(Request::Read { query: encode(&Query::Map) }).await;
        let Some(Outcome::Answer(answer)) = leads else {
            asking.clear();
            continue;
        };
        let Reply::Map(map) = Reply::decode(&answer) else { continue };
        asking.retain(|partition, asking| open.iter().any(|(at, wanted)| at == partition && wanted.id == asking.id));
        for (partition, wanted) in open {
            let id = wanted.id;
            let asked = asking
                .entry(partition)
                .or_insert_with(|| Asking { id, task: tokio::spawn(ask(map.clone(), partition, wanted)) });
            if !asked.task.is_finished() {
                continue;
            }
            if let Ok(ended) = (&mut asked.task).await {
                let ended = Command::ChangeEnded { partition, id, refused: ended.err(), at_unix_ms: now_unix_ms() };
                // Should it come to nothing, the group is asked once more, and says the same.
                replica.ask(Request::Idempotent { command: encode(&ended) }).await;
            }
            asking.remove(&partition);
        }
    }
}

async fn local(replica: &ReplicaHandle, query: &Query) -> Option<Reply> {
    match replica.ask(Request::LocalRead { query: encode(query) }).await? {
        Outcome::Answer(answer) => Some(Reply::decode(&answer)),
        _ => None,
    }
}

/// Asks the group until it has gone over, or will not.
async fn ask(map: ClusterMap, partition: u16, wanted: Wanted) -> Result<(), String> {
    let context = Arc::new(Context::plain(Some(map.cluster)));
    let present = map.partitions.get(usize::from(partition)).map(|part| part.servers.clone()).unwrap_or_default();
    // One of the newcomers may lead before the map knows it, and one that moves may be here or there.
    let longer = |first: &[String], second: &[String]| -> Vec<String> {
        first.iter().chain(second.iter().skip(first.len())).cloned().collect()
    };
    let groups = [longer(&present, &wanted.servers), longer(&wanted.servers, &present)].map(|servers| {
        let service = Service::Server { partition };
        Arc::new(Group::<ClusterMap>::new(&context, format!("s{partition}"), service, 1, &servers))
    });
    let replicas: Vec<(u16, String)> = (0..).zip(wanted.peers).collect();
    let request = WhyRequest::Scale { replicas }.encode();
    for group in groups.iter().cycle() {
        let deadline = Instant::now() + Duration::from_millis(ANSWER_MS);
        let mut exchange = Exchange::new(&context, group, Some(deadline)).without_resends();
        match exchange.run(map.epoch, &|| ClientRequest::Control(request.clone())).await {
            Ok(Final::Response(ClientResponse::Done)) => return Ok(()),
            Ok(Final::Response(ClientResponse::Refused(why))) if !why.contains(CHANGE_UNDER_WAY) => return Err(why),
            other => tracing::debug!(partition, answered = other.is_ok(), "a group is asked again"),
        }
        tokio::time::sleep(jittered(Duration::from_millis(PAUSE_MS))).await;
    }
    unreachable!("the loop has no end")
}
