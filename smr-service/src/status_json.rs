//! What a replica says of itself as JSON: the fields that `status --json` has for a replica, and `/status`.

use serde_json::{Map, Value, json};
use smr::status::{Advertised, ReplicaStatus, ServiceState};

use crate::pace::{Level, Measure, PaceReport};

/// Which replica it is, and where.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// Its group: `m`, `s0`, ...
    pub group: &'a str,
    /// Its number in the group.
    pub replica: u16,
    /// Where clients reach it.
    pub address: &'a str,
}

/// A replica that has described itself. `commit` is the highest commit index that is known of its group, which its lag
/// counts from.
pub fn described(whose: Whose<'_>, status: &ReplicaStatus, commit: u64) -> Map<String, Value> {
    let (state, reason) = match &status.service_state {
        ServiceState::InService => ("in_service", None),
        ServiceState::Uninitialized => ("uninitialized", None),
        ServiceState::Quarantined { reason } => ("quarantined", Some(reason)),
    };
    let (advertised, advertised_reason) = match &status.advertised {
        Advertised::Unknown => ("unknown", None),
        Advertised::Reached => ("reached", None),
        Advertised::Unreached { why, .. } => ("unreached", Some(why)),
    };
    let digest =
        status.digest.map(|digest| json!({ "index": digest.index.0, "hash": format!("{:016x}", digest.hash) }));
    let names = |nodes: &[smr::id::NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
    with(
        whose,
        json!({
            "state": state,
            "reason": reason,
            "role": status.role.to_string(),
            "term": status.term.0,
            "leader": status.leader.map(|leader| leader.name.0),
            "incarnation": status.node.incarnation.to_string(),
            "snapshot": status.snapshot.index.0,
            "last": status.last.index.0,
            "commit": status.commit.0,
            "applied": status.applied.0,
            "digest": digest,
            "lag": commit.saturating_sub(status.applied.0),
            "log_bytes": status.log_bytes,
            "sessions": status.sessions,
            "sync_mode": status.sync_mode,
            "advertised": advertised,
            "advertised_reason": advertised_reason,
            "reads": status.reads.to_string(),
            "voters": names(&status.voters),
            "learners": names(&status.learners),
        }),
    )
}

/// What a replica measures of itself: each metric in its unit, now and normally. Null where there is nothing.
pub fn paced(report: &PaceReport) -> Value {
    let level = |level: Option<Level>| {
        level.map(|Level { average, min, max }| json!({ "average": average, "min": min, "max": max }))
    };
    let measure = |measure: &Measure| {
        let Measure { metric, peer, normal, present } = *measure;
        json!({
            "metric": metric.name(), "unit": metric.unit(), "peer": peer, "normal": level(normal),
            "present": level(present),
        })
    };
    let measures: Vec<Value> = report.measures.iter().map(measure).collect();
    json!({ "watched_s": report.watched_s, "measures": measures })
}

/// A replica that does not answer, and why.
pub fn unreachable(whose: Whose<'_>, why: &str) -> Map<String, Value> {
    with(whose, json!({ "state": "unreachable", "reason": why }))
}

fn with(whose: Whose<'_>, more: Value) -> Map<String, Value> {
    let Whose { group, replica, address } = whose;
    let whose = json!({ "node": format!("{group}.{replica}"), "group": group, "replica": replica, "address": address });
    let mut fields = Map::new();
    for part in [whose, more] {
        if let Value::Object(part) = part {
            fields.extend(part);
        }
    }
    fields
}
