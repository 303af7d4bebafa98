//! Finding the leader and the owner of a key: redirects, terms, silence, resets, maps.

#![allow(clippy::unwrap_used)] // helpers of tests, where the lint only knows the tests themselves

mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fake::{Act, CLUSTER, Cluster, eventually, key_in, manager};
use madkv_client::{Error, WatchStart};
use madkv_proto::command::Command;
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_set::SlotSet;
use smr::id::ClusterId;
use smr::status::Role;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn calls_sound_cluster_all_answered() {
    let cluster = Cluster::start(2, 3).await;
    let client = cluster.client(None);
    assert!(!client.put(b"a", b"1").await.unwrap());
    assert!(client.put(b"a", b"2").await.unwrap());
    assert_eq!(client.swap(b"a", b"3").await.unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(client.swap(b"b", b"\xff\n ").await.unwrap(), None);
    assert_eq!(client.get(b"b").await.unwrap().as_deref(), Some(&b"\xff\n "[..]));
    assert!(client.delete(b"a").await.unwrap());
    assert!(!client.delete(b"a").await.unwrap());
    assert_eq!(client.get(b"a").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn write_leader_moved_follows_redirect_with_same_number() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    cluster.group(0).elect(2);
    client.put(b"a", b"2").await.unwrap();
    let writes = cluster.writes(0);
    let (session, number) = (writes[1].1, writes[1].2);
    assert_eq!(writes[1..], [(0, session, number, number), (2, session, number, number)]);
}

/// A redirect of an older term names a leader that has been deposed.
#[tokio::test(start_paused = true)]
async fn write_redirect_of_older_term_not_followed() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    cluster.group(0).leader = Some(1);
    client.put(b"a", b"1").await.unwrap();
    cluster.group(0).elect(2); // term 6
    cluster.rule(0, 1, |_, ask| match ask {
        ClientRequest::Write { .. } => Some(ClientResponse::NotLeader { leader: Some(0), term: 4 }.into()),
        _ => None,
    });
    client.put(b"a", b"2").await.unwrap();
    assert!(cluster.writes(0).iter().all(|write| write.0 != 0), "{:?}", cluster.writes(0));
    assert_eq!(cluster.writes(0).last().unwrap().0, 2);
}

// covers C1
#[tokio::test(start_paused = true)]
async fn swap_leader_killed_after_commit_same_number_elsewhere_same_answer() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"old").await.unwrap();
    cluster.rule(0, 0, |state, ask| {
        let ClientRequest::Write { .. } = ask else { return None };
        let _lost = state.lead(ask);
        state.elect(1);
        Some(Act::ReplyAndClose(vec![]))
    });
    let answer = client.swap(b"a", b"new").await.unwrap();
    assert_eq!(answer.as_deref(), Some(&b"old"[..]));
    assert_eq!(cluster.group(0).executed, 2);
    let writes = cluster.writes(0);
    assert_eq!(writes[1].1..=writes[1].2, writes[2].1..=writes[2].2, "session and number");
    assert_eq!((writes[1].0, writes[2].0), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn put_leader_killed_pause_is_short() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    cluster.group(0).leader = None;
    cluster.groups[0].nodes[0].kill().await;
    let started = Instant::now();
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put(b"a", b"2").await }
    });
    tokio::time::sleep(Duration::from_millis(40)).await;
    cluster.group(0).elect(1);
    put.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn put_leader_hung_goes_elsewhere_after_silence() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    cluster.rule(0, 0, |_, _| Some(Act::Silent));
    let started = Instant::now();
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put(b"a", b"2").await }
    });
    eventually("the write reaches the hung leader", || cluster.writes(0).len() == 2).await;
    // The followers name the hung leader for a while, as they do.
    tokio::time::sleep(Duration::from_millis(700)).await;
    cluster.group(0).elect(1);
    put.await.unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(500));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let writes = cluster.writes(0);
    assert_eq!(writes.len(), 3, "one copy at the hung leader, one at its successor: {writes:?}");
    assert_eq!((writes[1].1, writes[1].2), (writes[2].1, writes[2].2));
    assert_eq!(cluster.group(0).executed, 2);
}

/// Slow is not dead: the copy that is out stays the only one.
#[tokio::test(start_paused = true)]
async fn put_leader_slow_but_alive_no_second_copy() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    cluster.rule(0, 0, |_, ask| matches!(ask, ClientRequest::Write { .. }).then_some(Act::Silent));
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put(b"a", b"2").await }
    });
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert!(!put.is_finished());
    assert_eq!(cluster.writes(0).len(), 2);
    cluster.no_rule(0, 0);
    cluster.groups[0].nodes[0].kill().await;
    cluster.groups[0].nodes[0].revive().await;
    put.await.unwrap().unwrap();
}

// covers N9
#[tokio::test(start_paused = true)]
async fn put_replicas_that_name_each_other_bounded_rate_and_timeout() {
    let cluster = Cluster::start(1, 3).await;
    for replica in 0..3u16 {
        cluster.rule(0, usize::from(replica), move |state, ask| {
            if let ClientRequest::Status = ask {
                let mut status = state.status(replica);
                status.role = Role::Leader;
                return Some(ClientResponse::Status(Box::new(status)).into());
            }
            Some(ClientResponse::NotLeader { leader: Some((replica + 1) % 3), term: 5 }.into())
        });
    }
    let error = cluster.client(Some(1000)).put(b"a", b"1").await.unwrap_err();
    assert_eq!(error, Error::Timeout { after: Duration::from_secs(1), may_have_happened: false });
    let seen = cluster.group(0).seen.len();
    assert!(seen < 400, "{seen} requests in a second");
}

#[tokio::test(start_paused = true)]
async fn put_busy_waits_and_succeeds() {
    let cluster = Cluster::start(1, 3).await;
    let mut refusals = 3;
    cluster.rule(0, 0, move |_, ask| {
        let ClientRequest::Write { .. } = ask else { return None };
        refusals -= 1;
        (refusals >= 0).then(|| ClientResponse::Busy { retry_after_ms: 20 }.into())
    });
    let started = Instant::now();
    cluster.client(None).put(b"a", b"1").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(60));
    assert_eq!(cluster.writes(0).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn put_replica_out_of_service_others_asked() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    cluster.rule(0, 0, |state, ask| {
        if let ClientRequest::Write { .. } = ask {
            state.elect(2);
        }
        Some(ClientResponse::OutOfService("quarantined".into()).into())
    });
    client.put(b"a", b"2").await.unwrap();
    assert_eq!(cluster.writes(0).last().unwrap().0, 2);
}

#[tokio::test(start_paused = true)]
async fn calls_many_waiting_for_a_leader_one_finder_asks() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    cluster.group(0).leader = None;
    cluster.group(0).seen.clear();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..500u32 {
        let client = client.clone();
        calls.spawn(async move { client.put(&number.to_le_bytes(), b"1").await.unwrap() });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let questions = cluster.group(0).seen.iter().filter(|seen| matches!(seen.ask, ClientRequest::Status)).count();
    assert!((3..150).contains(&questions), "{questions} questions");
    cluster.group(0).elect(1);
    calls.join_all().await;
    assert_eq!(cluster.group(0).executed, 501);
}

#[tokio::test(start_paused = true)]
async fn map_from_managers_without_one_or_dead_next_is_asked() {
    let cluster = Cluster::start(1, 3).await;
    let empty = manager(&cluster.ground, || None).await;
    let dead = manager(&cluster.ground, || None).await;
    dead.kill().await;
    let addresses = vec![empty.address.clone(), dead.address.clone(), cluster.managers[0].address.clone()];
    for _ in 0..6 {
        // From a random one on, so each order comes up some time.
        cluster.client_of(addresses.clone(), Some(5000)).put(b"a", b"1").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn map_hung_manager_next_is_asked_soon() {
    let cluster = Cluster::start(1, 1).await;
    let mut nodes = Vec::new();
    for _ in 0..2 {
        nodes.push(fake::Node::start(&cluster.ground, Service::Manager, CLUSTER, Arc::new(|_| Act::Silent)).await);
    }
    let addresses = vec![nodes[0].address.clone(), nodes[1].address.clone(), cluster.managers[0].address.clone()];
    let started = Instant::now();
    cluster.client_of(addresses, None).put(b"a", b"1").await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn call_before_managers_and_servers_exist_waits_for_them() {
    let cluster = Cluster::start(1, 3).await;
    for node in cluster.managers.iter().chain(&cluster.groups[0].nodes) {
        node.kill().await;
    }
    let client = cluster.client(None);
    let put = tokio::spawn(async move { client.put(b"a", b"1").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.managers[1].revive().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!put.is_finished());
    cluster.groups[0].nodes[0].revive().await;
    put.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn managers_dead_after_the_map_was_had_calls_go_on() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(Some(3000));
    client.put(b"a", b"1").await.unwrap();
    for node in &cluster.managers {
        node.kill().await;
    }
    cluster.group(0).elect(1);
    client.put(b"a", b"2").await.unwrap();
}

/// Turns a map of one partition into one of two, over the servers of two groups.
async fn split() -> (Cluster, ClusterMap, Vec<u8>) {
    let cluster = Cluster::start(2, 1).await;
    let two = cluster.map.lock().unwrap().clone().unwrap();
    let key = key_in(&two, 1);
    let servers = vec![two.partitions[0].servers[0].clone()];
    let one = ClusterMap::deal(CLUSTER, 1, &servers).unwrap();
    *cluster.map.lock().unwrap() = Some(one);
    (cluster, ClusterMap { epoch: 2, ..two }, key)
}

#[tokio::test(start_paused = true)]
async fn call_wrong_partition_map_refreshed_and_rerouted() {
    let (cluster, two, key) = split().await;
    let client = cluster.client(None);
    client.put(&key, b"1").await.unwrap();
    assert_eq!(cluster.group(0).executed, 1);
    *cluster.map.lock().unwrap() = Some(two);
    client.put(&key, b"2").await.unwrap();
    assert_eq!(client.get(&key).await.unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!((cluster.group(0).executed, cluster.group(1).executed), (1, 1));
}

/// A write is lost on its way to a key's owner, or its answer is, and then the key moves: whether it happened is asked
/// of the group that it was sent to, whose sessions know. Returns how often each group has applied a write.
async fn write_while_the_key_moves(is_applied: bool) -> (u64, u64) {
    let (cluster, two, key) = split().await;
    let client = cluster.client(None);
    client.put(&key, b"1").await.unwrap();
    let map = Arc::clone(&cluster.map);
    cluster.rule(0, 0, move |state, ask| {
        let ClientRequest::Write { .. } = ask else { return None };
        if map.lock().unwrap().as_ref().unwrap().epoch == 2 {
            return None;
        }
        if is_applied {
            let _lost = state.lead(ask);
        }
        *map.lock().unwrap() = Some(two.clone());
        Some(Act::ReplyAndClose(vec![]))
    });
    let found = client.put(&key, b"2").await.unwrap();
    assert_eq!(found, is_applied, "whether there was a value, at the group that applied it");
    let (old_owner, new_owner) = (cluster.group(0).executed, cluster.group(1).executed);
    (old_owner, new_owner)
}

// covers C10
#[tokio::test(start_paused = true)]
async fn write_applied_before_its_key_moved_is_answered_by_the_old_owner_and_applied_nowhere_else() {
    assert_eq!(write_while_the_key_moves(true).await, (2, 0));
}

// covers C10
#[tokio::test(start_paused = true)]
async fn write_lost_before_its_key_moved_is_settled_and_applied_by_the_new_owner() {
    assert_eq!(write_while_the_key_moves(false).await, (1, 1));
}

/// The server lags behind the client's map: it is asked again until it has caught up.
#[tokio::test(start_paused = true)]
async fn write_server_with_older_map_is_asked_again() {
    let cluster = Cluster::start(1, 1).await;
    let mut refusals = 3;
    cluster.rule(0, 0, move |_, ask| {
        let ClientRequest::Write { .. } = ask else { return None };
        refusals -= 1;
        (refusals >= 0).then(|| ClientResponse::WrongPartition { epoch: 0 }.into())
    });
    cluster.client(None).put(b"a", b"1").await.unwrap();
    // Each under a number of its own: the one before is spent, if it was the group's state that refused.
    let numbers: Vec<u64> = cluster.writes(0).iter().map(|write| write.2).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_eq!(cluster.group(0).executed, 1);
}

/// Slots on their way take no writes: each attempt is a command in the group's log, so there are few.
#[tokio::test(start_paused = true)]
async fn write_to_frozen_slots_is_sent_again_less_and_less_often() {
    let cluster = Cluster::start(1, 1).await;
    cluster.rule(0, 0, |_, ask| {
        let ClientRequest::Write { .. } = ask else { return None };
        Some(ClientResponse::WrongPartition { epoch: 0 }.into())
    });
    let error = cluster.client(Some(10_000)).put(b"a", b"1").await.unwrap_err();
    assert!(!error.may_have_happened(), "{error}");
    let attempts = cluster.writes(0).len();
    assert!((30..90).contains(&attempts), "{attempts} attempts in 10 s");
}

// covers G2
#[tokio::test(start_paused = true)]
async fn map_older_one_offered_later_is_thrown_away() {
    let (cluster, two, key) = split().await;
    let one = cluster.map.lock().unwrap().clone();
    *cluster.map.lock().unwrap() = Some(two.clone());
    let client = cluster.client(Some(300));
    client.put(&key, b"1").await.unwrap();
    *cluster.map.lock().unwrap() = one;
    cluster.rule(1, 0, |_, ask| match ask {
        ClientRequest::Write { .. } => Some(ClientResponse::WrongPartition { epoch: 3 }.into()),
        _ => None,
    });
    let error = client.put(&key, b"2").await.unwrap_err();
    assert!(!error.may_have_happened(), "{error}");
    assert_eq!(cluster.group(0).executed, 0, "by the older map it would have gone there");
}

// covers B4
#[tokio::test(start_paused = true)]
async fn server_of_another_cluster_is_not_used() {
    let cluster = Cluster::start(1, 3).await;
    let executed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&executed);
    let handler = Arc::new(move |_: &madkv_proto::frames::RequestFrame| {
        count.fetch_add(1, Ordering::SeqCst);
        Act::Silent
    });
    let foreign = fake::Node::start(&cluster.ground, Service::Server { partition: 0 }, ClusterId(1), handler).await;
    cluster.map.lock().unwrap().as_mut().unwrap().partitions[0].servers[1] = foreign.address.clone();
    cluster.group(0).leader = Some(2);
    cluster.client(Some(5000)).put(b"a", b"1").await.unwrap();
    assert_eq!(executed.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn server_of_another_partition_is_not_used() {
    let cluster = Cluster::start(2, 1).await;
    let mut map = cluster.map.lock().unwrap().clone().unwrap();
    let key = key_in(&map, 1);
    map.partitions[1].servers = map.partitions[0].servers.clone();
    *cluster.map.lock().unwrap() = Some(map);
    let error = cluster.client(Some(200)).put(&key, b"1").await.unwrap_err();
    assert_eq!(error, Error::Timeout { after: Duration::from_millis(200), may_have_happened: false });
}

#[tokio::test(start_paused = true)]
async fn transfer_and_status_reach_the_right_replicas() {
    let cluster = Cluster::start(2, 3).await;
    let client = cluster.client(Some(3000));
    client.transfer("s1", 2).await.unwrap();
    assert_eq!((cluster.group(0).leader, cluster.group(1).leader), (Some(0), Some(2)));
    assert!(matches!(client.transfer("s2", 0).await, Err(Error::Refused { .. })));
    assert!(matches!(client.readmit("s0", 0).await, Err(Error::Refused { .. })));
    cluster.groups[0].nodes[1].kill().await;
    cluster.rule(0, 2, |_, _| Some(Act::Silent));
    let status = client.status().await;
    assert_eq!((status.cluster, status.epoch), (Some(CLUSTER), 1));
    let names: Vec<String> = status.nodes.iter().map(|node| format!("{}.{}", node.group, node.replica)).collect();
    assert_eq!(names, ["m.0", "m.1", "m.2", "s0.0", "s0.1", "s0.2", "s1.0", "s1.1", "s1.2"]);
    let is_ok: Vec<bool> = status.nodes[3..].iter().map(|node| node.status.is_ok()).collect();
    assert_eq!(is_ok, [true, false, false, true, true, true]);
    assert_eq!(status.nodes[8].status.as_ref().unwrap().role, Role::Leader);
}

// covers G12
#[tokio::test(start_paused = true)]
async fn cluster_without_a_group_of_the_store_says_so_in_one_line_and_shows_its_replicas() {
    let cluster = Cluster::start(2, 1).await;
    {
        let mut map = cluster.map.lock().unwrap();
        for partition in &mut map.as_mut().unwrap().partitions {
            (partition.slots, partition.is_store) = (SlotSet::default(), false);
        }
    }
    let client = cluster.client(Some(10_000));
    let watched = client.watch(b"a", b"b", WatchStart::Now).await.err().map(|error| error.to_string());
    let errors = [
        client.put(b"a", b"1").await.unwrap_err(),
        client.get(b"a").await.unwrap_err(),
        client.scan(b"a", b"b").await.unwrap_err(),
        client.place_of(b"a").await.unwrap_err(),
        client.why(Command::Delete { key: b"a" }).await.unwrap_err(),
    ];
    for error in errors {
        assert!(!error.may_have_happened() && error.to_string().contains("no one owns keys"), "{error}");
        assert_eq!(watched, Some(error.to_string()));
    }
    let groups = client.groups(Duration::from_secs(1)).await;
    assert_eq!(groups.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["m", "s0", "s1"]);
    assert!(client.pace().await.nodes.iter().all(|node| node.group == "m"));
    assert!(cluster.group(0).seen.is_empty() && cluster.group(1).seen.is_empty());
}
