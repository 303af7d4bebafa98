//! The cluster's layout: proposed by whichever manager leads first, and never changed afterwards.

use std::time::Duration;

use madkv_proto::control::ControlReply;
use madkv_proto::group_service::GroupService;
use smr::epoch::GroupKind;
use smr::replica::{Outcome, ReplicaHandle, Request};
use smr_service::address::are_same;
use smr_service::args::BadArgument;
use smr_service::process::{jittered, say};

use crate::options::{PROGRAM, Plan};
use crate::state::{Command, Query, Reply, encode};

/// How often a manager without a map looks again, in milliseconds. Servers and clients wait for it.
const LOOK_MS: u64 = 50;
/// After this many looks at which the group refused the layout, why it did is said: managers that start one after the
/// other need a while.
const REFUSED_LOOKS: u32 = 60; // 3 s

/// Proposes the layout of the command line until one has been applied here.
///
/// # Errors
/// If that is another one: whoever started this manager takes it for something that it is not.
pub async fn propose(replica: ReplicaHandle, plan: Plan) -> Result<(), BadArgument> {
    let mut refused_looks = 0;
    loop {
        if let Some(cluster) = replica.cluster() {
            let query = encode(&Query::Map);
            if let Some(Reply::Map(map)) = ask(&replica, Request::LocalRead { query }).await {
                // Since then it has changed on purpose; old flags resume.
                if map.epoch > 1 {
                    return Ok(());
                }
                let groups = map.partitions.len();
                let fits = map.partitions.iter().all(|partition| partition.servers.len() == plan.server_rf);
                let server_rf = map.partitions.first().map_or(0, |partition| partition.servers.len());
                let servers: Vec<String> = map.partitions.into_iter().flat_map(|part| part.servers).collect();
                let kinds = ask(&replica, Request::LocalRead { query: encode(&Query::Kinds) }).await;
                let Some(Reply::Control(ControlReply::Kinds(mut kinds))) = kinds else { continue };
                let services = ask(&replica, Request::LocalRead { query: encode(&Query::Services) }).await;
                let Some(Reply::Control(ControlReply::Services(mut services))) = services else { continue };
                // A partition may have been added since the map was read.
                kinds.truncate(groups);
                services.truncate(groups);
                if fits && are_same(&servers, &plan.servers) {
                    if !is_planned(&kinds, &plan.kinds) {
                        return Err(BadArgument(format!(
                            "--protocol: the cluster was founded with groups of other kinds, which stay; start it with \
                             --protocol {}",
                            listed(&kinds)
                        )));
                    }
                    if !is_planned(&services, &plan.services) {
                        return Err(BadArgument(format!(
                            "--service: the cluster was founded with groups of other services, which stay; start it \
                             with --service {}",
                            listed(&services)
                        )));
                    }
                    return Ok(());
                }
                let servers = servers.join(",");
                return Err(BadArgument(format!(
                    "--server_rf, --server_addrs: the cluster was founded with another layout, which stays; start it \
                     with \
                     --server_rf {server_rf} --server_addrs {servers}"
                )));
            }
            let servers = plan.servers.clone();
            let server_rf = plan.server_rf as u64;
            // Where it can be said in the words of older builds it is.
            let layout = if !plan.services.iter().all(GroupService::is_key_value) {
                let (kinds, services) = (plan.kinds.clone(), plan.services.clone());
                Command::LayoutOfServices { cluster, server_rf, servers, kinds, services }
            } else if plan.kinds.iter().all(|kind| *kind == GroupKind::Raft) {
                Command::Layout { cluster, server_rf, servers }
            } else {
                Command::LayoutOfKinds { cluster, server_rf, servers, kinds: plan.kinds.clone() }
            };
            // Only the leader can. What came of it shows in the map; but a layout that not all managers apply is
            // refused, and as long as that goes on there is none.
            if let Some(Outcome::Refused(why)) = replica.ask(Request::Idempotent { command: encode(&layout) }).await {
                refused_looks += 1;
                if refused_looks == REFUSED_LOOKS {
                    say(PROGRAM, &format!("the layout is not recorded yet: {why}"));
                }
            }
        }
        tokio::time::sleep(jittered(Duration::from_millis(LOOK_MS))).await;
    }
}

/// Whether the groups are as the command line says: one word for all, or one for each.
fn is_planned<T: PartialEq>(groups: &[T], plan: &[T]) -> bool {
    groups.iter().enumerate().all(|(at, group)| plan.get(at).or(plan.first()) == Some(group))
}

fn listed<T: ToString>(words: &[T]) -> String {
    words.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Asks the replica and waits for the state machine's answer; `None` if there was none.
async fn ask(replica: &ReplicaHandle, request: Request) -> Option<Reply> {
    match replica.ask(request).await? {
        Outcome::Answer(answer) => Some(Reply::decode(&answer)),
        _ => None,
    }
}
