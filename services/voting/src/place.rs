//! Which replica this is, as the managers know it.

use madkv_proto::map::ClusterMap;
use madkv_server::service_replica::{ServiceReplica, Wanted};
use smr::epoch::GroupKind;
use smr::replica::Opened;
use smr_service::address::are_same;
use smr_service::args::BadArgument;
use smr_service::process::Fatal;

use crate::options::{PROGRAM, Plan};
use crate::words::SERVICE_NAME;

/// Registers with the managers, however long it takes until one answers.
///
/// # Errors
/// Why this replica has no place there.
pub async fn take(opened: Opened, plan: &Plan, kind: GroupKind) -> Result<(Opened, ServiceReplica), Fatal> {
    let wanted = Wanted {
        program: PROGRAM,
        service: SERVICE_NAME,
        managers: plan.managers.clone(),
        partition: plan.partition,
        replica: plan.replica,
        directory: plan.directory.clone(),
        kind,
    };
    let (opened, place) = wanted.register(opened).await?;
    check(&place.map, plan)?;
    Ok((opened, place))
}

/// The managers must have just these two servers there.
fn check(map: &ClusterMap, plan: &Plan) -> Result<(), Fatal> {
    let theirs = map.partitions.get(usize::from(plan.partition)).map(|partition| partition.servers.as_slice());
    let theirs = theirs.unwrap_or_default();
    if are_same(theirs, &plan.servers) {
        return Ok(());
    }
    let (given, theirs) = (plan.servers.join(","), theirs.join(","));
    Err(BadArgument(format!("--servers: {given}; the managers have {theirs} (--server_addrs)")).into())
}
