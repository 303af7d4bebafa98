//! The cluster's layout: proposed by whichever manager leads first, and never changed afterwards.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use madkv_api::process::{jittered, say};
use smr::replica::{Outcome, ReplicaHandle, ReplySink, ReplyTo, Request};
use tokio::sync::oneshot;

use crate::options::{PROGRAM, Plan};
use crate::state::{Command, Query, Reply, encode};

/// How often a manager without a map looks again, in milliseconds. Servers and clients wait for it.
const LOOK_MS: u64 = 50;

/// Proposes the layout of the command line until one has been applied here, and says so if that is another one.
pub async fn propose(replica: ReplicaHandle, plan: Plan) {
    loop {
        if let Some(cluster) = replica.cluster() {
            let query = encode(&Query::Map);
            if let Some(Reply::Map(map)) = ask(&replica, Request::LocalRead { query }).await {
                let fits = map.partitions.iter().all(|partition| partition.servers.len() == plan.server_rf)
                    && map.partitions.iter().flat_map(|partition| &partition.servers).eq(&plan.servers);
                if !fits {
                    let what = "--server_rf, --server_addrs: refused, the cluster was founded with another layout, which stays";
                    say(PROGRAM, what);
                }
                return;
            }
            let servers = plan.servers.clone();
            let layout = Command::Layout { cluster, server_rf: plan.server_rf as u64, servers };
            // Only the leader can. What came of it shows in the map.
            ask(&replica, Request::Idempotent { command: encode(&layout) }).await;
        }
        tokio::time::sleep(jittered(Duration::from_millis(LOOK_MS))).await;
    }
}

/// Asks the replica and waits for the state machine's answer; `None` if there was none.
async fn ask(replica: &ReplicaHandle, request: Request) -> Option<Reply> {
    let (sender, receiver) = oneshot::channel();
    let sink = Arc::new(Waiting(Mutex::new(Some(sender))));
    replica.submit(request, ReplyTo { tag: 0, sink });
    match receiver.await {
        Ok(Outcome::Answer(answer)) => Some(Reply::decode(&answer)),
        Ok(_) | Err(_) => None,
    }
}

/// Somebody who waits for one outcome.
struct Waiting(Mutex<Option<oneshot::Sender<Outcome>>>);

impl ReplySink for Waiting {
    fn deliver(&self, _tag: u64, outcome: Outcome) {
        if let Some(sender) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Whoever waited may have gone.
            let _ = sender.send(outcome);
        }
    }

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        false // a manager's answers are short
    }
}
