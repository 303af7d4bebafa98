//! The state of a cluster as a table for people, or as JSON for programs.

use std::collections::BTreeMap;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table};
use madkv_proto::control::{GroupMembers, Host};
use madkv_proto::group_service::GroupService;
use serde_json::{Value, json};
use smr::epoch::GroupKind;
use smr::status::{Advertised, ReadMode, ReplicaStatus, ServiceState};
use smr_service::status_json::{self, Whose};

use crate::{ClusterPace, ClusterStatus, NodeReport};

/// The columns of the table, in their order.
const HEADINGS: [&str; 11] =
    ["node", "address", "role", "term", "leader", "commit", "applied", "lag", "log bytes", "sessions", "state"];
/// The columns that hold numbers and stand on the right.
const NUMBERS: [usize; 6] = [3, 5, 6, 7, 8, 9];
/// The columns that a narrow terminal does without, the first one first.
const DISPENSABLE: [usize; 4] = [9, 8, 6, 4];
/// The last column, whose text is broken into lines where it finds no room.
const STATE: usize = 10;
/// The least that it gets, in characters.
const STATE_WIDTH_MIN: u16 = 18;
/// Between two columns.
const GAP: u16 = 2;

/// A table, with a line per replica, at most `columns` wide if that is given and the terminal is not narrower than what
/// every table needs.
pub fn table(status: &ClusterStatus, columns: Option<u16>) -> String {
    let commits = highest_commits(status);
    let nodes = status.nodes.iter();
    let commit = |node: &NodeReport| commits.get(&node.group).copied().unwrap_or(0);
    let rows: Vec<_> =
        nodes.map(|node| row(node, commit(node), (kind_of(status, node), service_of(status, node)))).collect();
    let head = match &status.cluster {
        Some(cluster) => format!("cluster {cluster}, map epoch {}\n", status.epoch),
        None => "no manager gives a map: the servers are not known\n".to_owned(),
    };
    let mut full = fill(&rows);
    let Some(width) = columns else { return format!("{head}{}\n", full.trim_fmt()) };
    let mut widths = full.column_max_content_widths();
    widths[STATE] = STATE_WIDTH_MIN;
    let mut needed: u32 = widths.iter().map(|width| u32::from(width + GAP)).sum();
    let mut left_out = Vec::new();
    for number in DISPENSABLE {
        if needed <= u32::from(width) {
            break;
        }
        needed -= u32::from(widths[number] + GAP);
        left_out.push(HEADINGS[number]);
        if let Some(column) = full.column_mut(number) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
    full.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    let tail = match &left_out[..] {
        [] => String::new(),
        names => format!("left out: {} (--json has all)\n", names.join(", ")),
    };
    format!("{head}{}\n{tail}", full.trim_fmt())
}

/// The table with all its columns.
fn fill(rows: &[[String; 11]]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(HEADINGS).add_rows(rows);
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, GAP));
        if NUMBERS.contains(&number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if number != STATE {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
}

/// The kind of a node's group, if it is known. The managers themselves are a Raft group.
fn kind_of(status: &ClusterStatus, node: &NodeReport) -> Option<GroupKind> {
    match node.group.strip_prefix('s') {
        Some(partition) => status.kinds.get(partition.parse::<usize>().ok()?).copied(),
        None => Some(GroupKind::Raft),
    }
}

/// The service of a node's group, if it is known. The managers themselves are of none.
fn service_of<'s>(status: &'s ClusterStatus, node: &NodeReport) -> Option<&'s GroupService> {
    status.services.get(node.group.strip_prefix('s')?.parse::<usize>().ok()?)
}

/// What a group is, as far as it is known: its kind, and its service.
type GroupNature<'s> = (Option<GroupKind>, Option<&'s GroupService>);

fn row(node: &NodeReport, commit: u64, nature: GroupNature<'_>) -> [String; 11] {
    let name = format!("{}.{}", node.group, node.replica);
    let address = node.address.clone();
    let status = match &node.status {
        Ok(status) => status,
        Err(why) => {
            let dash = || "-".to_owned();
            let state = format!("unreachable: {why}");
            return [name, address, dash(), dash(), dash(), dash(), dash(), dash(), dash(), dash(), state];
        }
    };
    [
        name,
        address,
        role(status),
        status.term.to_string(),
        status.leader.map_or("-".to_owned(), |leader| format!("{}.{}", node.group, leader.name)),
        status.commit.to_string(),
        status.applied.to_string(),
        commit.saturating_sub(status.applied.0).to_string(),
        status.log_bytes.to_string(),
        status.sessions.to_string(),
        state(status, nature),
    ]
}

fn state(status: &ReplicaStatus, (kind, service): GroupNature<'_>) -> String {
    // What most groups are need not be said.
    let kind = kind.filter(|kind| *kind != GroupKind::Raft).map_or(String::new(), |kind| format!("{kind}, "));
    let service = service.filter(|service| !service.is_key_value());
    let kind = service.map_or(String::new(), |service| format!("{service}, ")) + &kind;
    let mut state = match &status.service_state {
        ServiceState::InService if status.reads == ReadMode::Lease => {
            format!("in service, {kind}{}, leases", status.sync_mode)
        }
        ServiceState::InService => format!("in service, {kind}{}", status.sync_mode),
        ServiceState::Uninitialized => "uninitialized: waits for its group to be founded".to_owned(),
        ServiceState::Quarantined { reason } => format!("quarantined: {reason}"),
    };
    if let Advertised::Unreached { address, why } = &status.advertised {
        state.push_str(&format!(", does not answer at {address}: {why}"));
    }
    state
}

fn role(status: &ReplicaStatus) -> String {
    match status.service_state {
        ServiceState::InService => status.role.to_string(),
        ServiceState::Uninitialized | ServiceState::Quarantined { .. } => "-".to_owned(),
    }
}

/// The highest commit index that any replica of each group knows: what the others lag behind.
fn highest_commits(status: &ClusterStatus) -> BTreeMap<String, u64> {
    let mut highest = BTreeMap::new();
    for node in &status.nodes {
        let commit = node.status.as_ref().map_or(0, |status| status.commit.0);
        let known = highest.entry(node.group.clone()).or_insert(0);
        *known = commit.max(*known);
    }
    highest
}

/// One JSON object, on one line.
pub fn json(status: &ClusterStatus, pace: &ClusterPace) -> String {
    let commits = highest_commits(status);
    let with_host = |node: &NodeReport| {
        let mut object = node_json(node, &commits);
        let watched = watched(status, node);
        object["host"] = json!(watched.map(|(_, host)| host));
        object["member"] = json!(watched.map(|(member, _)| member));
        object["kind"] = json!(kind_of(status, node).map(|kind| kind.to_string()));
        object["service"] = json!(service_of(status, node).map(|service| service.to_string()));
        let paced = pace.nodes.iter().find(|paced| (&paced.group, paced.replica) == (&node.group, node.replica));
        let report = paced.and_then(|paced| paced.pace.as_ref().ok());
        object["stands_back"] = json!(report.map(|report| report.stands_back));
        object["pace"] = json!(report.map(status_json::paced));
        object
    };
    let nodes: Vec<Value> = status.nodes.iter().map(with_host).collect();
    let cluster = status.cluster.map(|cluster| cluster.to_string());
    let hosts = status.membership.as_ref().map(|membership| membership.hosts.iter().map(host_json).collect::<Vec<_>>());
    let groups =
        status.membership.as_ref().map(|membership| membership.groups.iter().map(group_json).collect::<Vec<_>>());
    format!(
        "{}\n",
        json!({ "cluster": cluster, "epoch": status.epoch, "nodes": nodes, "hosts": hosts, "groups": groups })
    )
}

/// Whether a replica is a member of its group, and its host, if an agent has told of it.
fn watched<'s>(status: &'s ClusterStatus, node: &NodeReport) -> Option<(bool, &'s str)> {
    let groups = &status.membership.as_ref()?.groups;
    let group = groups.iter().find(|group| format!("s{}", group.partition) == node.group)?;
    let watched = group.replicas.iter().find(|watched| watched.report.replica == node.replica)?;
    Some((group.members.contains(&node.replica), &watched.host))
}

fn host_json(host: &Host) -> Value {
    let Host { name, agent, address, has_failed } = host;
    json!({ "host": name, "agent": agent, "address": address, "has_failed": has_failed })
}

fn group_json(group: &GroupMembers) -> Value {
    let GroupMembers { partition, members, member_count, .. } = group;
    json!({ "group": format!("s{partition}"), "members": members, "member_count": member_count })
}

fn node_json(node: &NodeReport, commits: &BTreeMap<String, u64>) -> Value {
    let whose = Whose { group: &node.group, replica: node.replica, address: &node.address };
    Value::Object(match &node.status {
        Err(why) => status_json::unreachable(whose, why),
        Ok(status) => status_json::described(whose, status, commits.get(&node.group).copied().unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use madkv_proto::control::{Condition, Membership, ReplicaReport, Service, WatchedReplica};
    use smr::entry::{EntryId, Index, Term};
    use smr::id::{ClusterId, NodeId};
    use smr::status::{Role, StateDigest};

    use super::*;

    fn sample() -> ClusterStatus {
        let leader = ReplicaStatus {
            group: "s0".parse().unwrap(),
            node: NodeId::new(0, 0xab),
            service_state: ServiceState::InService,
            role: Role::Leader,
            term: Term(3),
            leader: Some(NodeId::new(0, 0xab)),
            snapshot: EntryId::ZERO,
            last: EntryId::new(120, 3),
            commit: Index(120),
            applied: Index(120),
            digest: Some(StateDigest { index: Index(64), hash: 0xfe }),
            log_bytes: 4096,
            sessions: 2,
            voters: vec![NodeId::new(0, 0xab), NodeId::new(1, 0xcd)],
            learners: vec![],
            sync_mode: "synced".into(),
            reads: ReadMode::Index,
            peers: vec![],
            advertised: Advertised::Unknown,
        };
        let follower = ReplicaStatus {
            node: NodeId::new(1, 0xcd),
            role: Role::Follower,
            reads: ReadMode::Lease,
            commit: Index(110),
            applied: Index(100),
            advertised: Advertised::Unreached { address: "127.0.0.1:3778".into(), why: "connection refused".into() },
            ..leader.clone()
        };
        let leads = ReplicaReport {
            partition: 0,
            replica: 0,
            incarnation: Some(leader.node.incarnation),
            condition: Condition::Alive { service: Service::InService },
            launches: 1,
            order: 0,
            directory_suspect: false,
            peers: Vec::new(),
            detail: String::new(),
        };
        let report = |replica: u16, status| NodeReport {
            group: "s0".into(),
            replica,
            address: format!("127.0.0.1:{}", 3777 + replica),
            status,
        };
        ClusterStatus {
            cluster: Some(ClusterId(1)),
            epoch: 1,
            nodes: vec![
                report(0, Ok(Box::new(leader))),
                report(1, Ok(Box::new(follower))),
                report(2, Err("connection refused".into())),
            ],
            membership: Some(Membership {
                hosts: vec![Host { name: "a".into(), agent: 1, address: "a:1".into(), has_failed: false }],
                groups: vec![GroupMembers {
                    partition: 0,
                    members: vec![0],
                    member_count: 1,
                    replicas: vec![WatchedReplica { host: "a".into(), report: leads }],
                }],
            }),
            kinds: vec![GroupKind::Raft],
            services: vec![GroupService::default()],
        }
    }

    #[test]
    fn table_columns_are_aligned_and_lag_counts_from_the_highest_commit() {
        let expected = "\
cluster 00000000000000000000000000000001, map epoch 1
node  address         role      term  leader  commit  applied  lag  log bytes  sessions  state
s0.0  127.0.0.1:3777  leader       3  s0.0       120      120    0       4096         2  in service, synced
s0.1  127.0.0.1:3778  follower     3  s0.0       110      100   20       4096         2  in service, synced, leases, \
does not answer at 127.0.0.1:3778: connection refused
s0.2  127.0.0.1:3779  -            -  -            -        -    -          -         -  unreachable: connection refused
";
        assert_eq!(table(&sample(), None), expected);
        assert_eq!(table(&sample(), Some(190)), expected);
    }

    #[test]
    fn table_on_a_narrow_terminal_fits_and_says_what_is_left_out() {
        let expected = "\
cluster 00000000000000000000000000000001, map epoch 1
node  address         role      term  leader  commit  lag  state
s0.0  127.0.0.1:3777  leader       3  s0.0       120    0  in service, synced
s0.1  127.0.0.1:3778  follower     3  s0.0       110   20  in service, synced,
                                                           leases, does not
                                                           answer at
                                                           127.0.0.1:3778:
                                                           connection refused
s0.2  127.0.0.1:3779  -            -  -            -    -  unreachable:
                                                           connection refused
left out: sessions, log bytes, applied (--json has all)
";
        assert_eq!(table(&sample(), Some(80)), expected);
        for columns in [70, 80, 100, 120, 160] {
            let text = table(&sample(), Some(columns));
            let widest = text.lines().skip(1).map(str::len).max().unwrap();
            assert!(widest <= usize::from(columns), "{columns}:\n{text}");
            assert!(text.contains("unreachable"), "{text}");
        }
    }

    #[test]
    fn kind_of_a_group_is_shown_where_it_is_not_raft() {
        let chain = GroupKind::Epochs(smr::epoch::EpochKind::Chain);
        let status = ClusterStatus { kinds: vec![chain], ..sample() };
        assert!(table(&status, None).contains("in service, chain, synced"));
        let value: Value = serde_json::from_str(&json(&status, &ClusterPace::default())).unwrap();
        assert_eq!(value["nodes"][2]["kind"], "chain");
        assert_eq!(kind_of(&ClusterStatus { kinds: Vec::new(), ..sample() }, &sample().nodes[0]), None);
    }

    #[test]
    fn service_of_a_group_is_shown_where_it_is_not_the_store() {
        let status = ClusterStatus { services: vec!["voting".parse().unwrap()], ..sample() };
        assert!(table(&status, None).contains("in service, voting, synced"));
        let service = |status: &ClusterStatus| {
            let value: Value = serde_json::from_str(&json(status, &ClusterPace::default())).unwrap();
            value["nodes"][0]["service"].clone()
        };
        assert_eq!((service(&status), service(&sample())), (json!("voting"), json!("kv")));
    }

    #[test]
    fn json_each_node_has_state_and_numbers() {
        let value: Value = serde_json::from_str(&json(&sample(), &ClusterPace::default())).unwrap();
        assert_eq!(value["nodes"][1]["lag"], 20);
        assert_eq!(value["nodes"][0]["role"], "leader");
        assert_eq!(value["nodes"][1]["digest"], json!({ "index": 64, "hash": "00000000000000fe" }));
        assert_eq!([&value["nodes"][0]["reads"], &value["nodes"][1]["reads"]], ["index", "lease"]);
        assert_eq!([&value["nodes"][0]["advertised"], &value["nodes"][1]["advertised"]], ["unknown", "unreached"]);
        assert_eq!(value["nodes"][1]["advertised_reason"], "connection refused");
        assert_eq!(value["nodes"][2]["state"], "unreachable");
        assert_eq!([&value["nodes"][0]["host"], &value["nodes"][0]["member"]], [&json!("a"), &json!(true)]);
        assert_eq!(value["nodes"][1]["member"], Value::Null);
        assert_eq!(value["nodes"][0]["kind"], "raft");
        assert_eq!(value["groups"][0], json!({ "group": "s0", "members": [0], "member_count": 1 }));
        assert_eq!(value["hosts"][0]["has_failed"], false);
    }
}
