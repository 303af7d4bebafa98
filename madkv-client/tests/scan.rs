//! SCAN: merged, and whole or not at all.

#![allow(clippy::unwrap_used)] // helpers of tests, where the lint only knows the tests themselves

mod fake;

use std::time::Duration;

use fake::{Act, Cluster};
use madkv_client::{Client, Error};
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::map::Partition;
use madkv_proto::slot_set::SlotSet;

async fn fill(client: &Client, count: u32) -> Vec<String> {
    let keys: Vec<String> = (0..count).map(|number| format!("k{number:03}")).collect();
    for key in &keys {
        client.put(key.as_bytes(), format!("v{key}").as_bytes()).await.unwrap();
    }
    keys
}

async fn keys(client: &Client, from: &str, to: &str) -> Result<Vec<String>, Error> {
    let records = client.scan(from.as_bytes(), to.as_bytes()).await?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Ok(records
        .iter()
        .map(|(key, value)| {
            assert_eq!(text(value), format!("v{}", text(key)));
            text(key)
        })
        .collect())
}

#[tokio::test(start_paused = true)]
async fn scan_many_partitions_sorted_both_ends_included() {
    for partitions in [1, 3, 5] {
        let cluster = Cluster::start(partitions, 1).await;
        let client = cluster.client(None);
        let all = fill(&client, 60).await;
        assert!(partitions == 1 || cluster.group(partitions - 1).executed > 0, "the keys are spread");
        assert_eq!(keys(&client, "", "z").await.unwrap(), all);
        assert_eq!(keys(&client, "k010", "k019").await.unwrap(), all[10..20]);
        assert_eq!(keys(&client, "k010", "k010").await.unwrap(), all[10..11]);
        assert_eq!(keys(&client, "l", "z").await.unwrap(), Vec::<String>::new());
        assert_eq!(keys(&client, "z", "a").await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn scan_partition_dead_waits_never_partial() {
    let cluster = Cluster::start(3, 1).await;
    let client = cluster.client(None);
    let all = fill(&client, 30).await;
    cluster.groups[1].nodes[0].kill().await;
    let error = keys(&cluster.client(Some(200)), "", "z").await.unwrap_err();
    assert_eq!(error, Error::Timeout { after: Duration::from_millis(200), may_have_happened: false });
    let scan = tokio::spawn(async move { keys(&client, "", "z").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!scan.is_finished());
    cluster.groups[1].nodes[0].revive().await;
    assert_eq!(scan.await.unwrap().unwrap(), all);
}

/// A partition that was just added has no slots, and perhaps no servers yet; one of another service never has any.
// covers G12
#[tokio::test(start_paused = true)]
async fn scan_partition_without_slots_is_not_asked() {
    for (partitions, is_store) in [(1, true), (2, true), (2, false)] {
        let cluster = Cluster::start(partitions, 1).await;
        {
            let mut map = cluster.map.lock().unwrap();
            let map = map.as_mut().unwrap();
            let servers = vec!["127.0.0.1:9".to_owned()];
            map.partitions.push(Partition { slots: SlotSet::default(), servers, is_store });
            map.epoch = 2;
        }
        let client = cluster.client(Some(10_000));
        let all = fill(&client, 30).await;
        assert_eq!(keys(&client, "", "z").await.unwrap(), all);
    }
}

#[tokio::test(start_paused = true)]
async fn scan_connection_broken_between_parts_starts_over_without_doubles() {
    let cluster = Cluster::start(2, 3).await;
    let client = cluster.client(None);
    let all = fill(&client, 30).await;
    let mut first = true;
    cluster.rule(1, 0, move |state, ask| {
        let ClientRequest::Read { query } = ask else { return None };
        std::mem::take(&mut first).then(|| {
            let mut parts = state.query(query);
            parts.truncate(parts.len() / 2);
            state.elect(1);
            Act::ReplyAndClose(parts)
        })
    });
    assert_eq!(keys(&client, "", "z").await.unwrap(), all);
}

#[tokio::test(start_paused = true)]
async fn scan_newer_map_all_partitions_asked_again() {
    let cluster = Cluster::start(2, 1).await;
    let client = cluster.client(None);
    let all = fill(&client, 30).await;
    let map = cluster.map.clone();
    let mut first = true;
    cluster.rule(1, 0, move |_, ask| {
        let ClientRequest::Read { .. } = ask else { return None };
        std::mem::take(&mut first).then(|| {
            map.lock().unwrap().as_mut().unwrap().epoch = 2;
            ClientResponse::WrongPartition { epoch: 2 }.into()
        })
    });
    assert_eq!(keys(&client, "", "z").await.unwrap(), all);
    let reads = |group: usize| {
        cluster.group(group).seen.iter().filter(|seen| matches!(seen.ask, ClientRequest::Read { .. })).count()
    };
    assert_eq!((reads(0), reads(1)), (2, 2));
}
