//! Exactly-once from the client's side: numbers, windows, expiry, and what is said when time is over.

#![allow(clippy::unwrap_used)] // helpers of tests, where the lint only knows the tests themselves

mod fake;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::{Act, Cluster, eventually};
use madkv_client::limits::{RESEND_AFTER, SESSION_WINDOW_MAX};
use madkv_client::{Error, Options, Trace};
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};

fn may_have_happened(error: &Error) -> bool {
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    error.may_have_happened()
}

#[tokio::test(start_paused = true)]
async fn writes_pipelined_one_session_each_number_once_within_window() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..3000u32 {
        let client = client.clone();
        calls.spawn(async move { client.put(&number.to_le_bytes(), b"1").await.unwrap() });
    }
    calls.join_all().await;
    let state = cluster.group(0);
    assert_eq!((state.executed, state.opened), (3000, 101));
    drop(state);
    let writes = cluster.writes(0);
    let numbers: BTreeSet<u64> = writes.iter().map(|write| write.2).collect();
    assert_eq!(numbers, (1..=3000).collect());
    for (_, _, number, lowest) in writes {
        assert!(lowest >= 1 && lowest <= number && number - lowest < SESSION_WINDOW_MAX, "{number} from {lowest}");
    }
}

/// The first write hangs: the window must not move over it, however many others are done.
#[tokio::test(start_paused = true)]
async fn writes_lowest_unanswered_window_waits_for_it() {
    let cluster = Cluster::start(1, 1).await;
    let held = Arc::new(Mutex::new(true));
    let is_held = Arc::clone(&held);
    cluster.rule(0, 0, move |_, ask| match ask {
        ClientRequest::Write { number: 1, .. } if *is_held.lock().unwrap() => Some(Act::Silent),
        _ => None,
    });
    let client = cluster.client(None);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..2000u32 {
        let client = client.clone();
        calls.spawn(async move { client.put(&number.to_le_bytes(), b"1").await.unwrap() });
    }
    eventually("the window is full", || cluster.group(0).executed == SESSION_WINDOW_MAX - 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(cluster.group(0).executed, SESSION_WINDOW_MAX - 1);
    assert!(cluster.writes(0).iter().all(|write| write.3 == 1));
    *held.lock().unwrap() = false;
    cluster.groups[0].nodes[0].kill().await;
    cluster.groups[0].nodes[0].revive().await;
    calls.join_all().await;
    assert_eq!(cluster.group(0).executed, 2000);
}

#[tokio::test(start_paused = true)]
async fn write_session_expired_never_sent_before_reopened_and_done() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    cluster.group(0).sessions.clear();
    assert!(client.put(b"a", b"2").await.unwrap());
    assert_eq!(cluster.group(0).executed, 2);
    let writes = cluster.writes(0);
    assert_ne!(writes[1].1, writes[2].1, "another session");
}

// covers C4
#[tokio::test(start_paused = true)]
async fn write_session_expired_after_unknown_copy_evicted_and_not_resent() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    for lost in [Act::ReplyAndClose(vec![]), ClientResponse::Unknown.into()] {
        let mut first = true;
        cluster.rule(0, 0, move |state, ask| {
            let ClientRequest::Write { .. } = ask else { return None };
            if !std::mem::take(&mut first) {
                return None;
            }
            let _lost = state.lead(ask);
            state.sessions.clear();
            Some(lost.clone())
        });
        let executed = cluster.group(0).executed;
        let error = client.put(b"a", b"2").await.unwrap_err();
        assert!(matches!(error, Error::Evicted { .. }) && error.to_string().contains("may have happened"), "{error}");
        assert_eq!(cluster.group(0).executed, executed + 1);
        client.put(b"a", b"3").await.unwrap();
    }
}

// covers C4
#[tokio::test(start_paused = true)]
async fn write_session_expired_while_another_copy_is_out_evicted() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    cluster.rule(0, 0, |state, ask| {
        if let ClientRequest::Write { .. } = ask {
            state.elect(1);
            state.sessions.clear();
        }
        Some(Act::Silent)
    });
    let error = client.put(b"a", b"2").await.unwrap_err();
    assert!(matches!(error, Error::Evicted { .. }), "{error}");
    assert_eq!(cluster.group(0).executed, 1);
}

// covers C6
#[tokio::test(start_paused = true)]
async fn write_answer_gone_evicted() {
    let cluster = Cluster::start(1, 1).await;
    cluster.rule(0, 0, |_, ask| matches!(ask, ClientRequest::Write { .. }).then(|| ClientResponse::AnswerGone.into()));
    let error = cluster.client(None).put(b"a", b"1").await.unwrap_err();
    assert!(matches!(error, Error::Evicted { .. }) && error.may_have_happened(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn write_unknown_outcome_same_number_again() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    let mut first = true;
    cluster.rule(0, 0, move |state, ask| {
        let ClientRequest::Write { .. } = ask else { return None };
        std::mem::take(&mut first).then(|| {
            let _lost = state.lead(ask);
            ClientResponse::Unknown.into()
        })
    });
    assert_eq!(client.swap(b"a", b"2").await.unwrap().as_deref(), Some(&b"1"[..]));
    let writes = cluster.writes(0);
    assert_eq!((writes[1].1, writes[1].2), (writes[2].1, writes[2].2));
    assert_eq!(cluster.group(0).executed, 2);
}

#[tokio::test(start_paused = true)]
async fn write_refused_reason_reaches_the_caller() {
    let cluster = Cluster::start(1, 1).await;
    cluster.rule(0, 0, |_, ask| {
        matches!(ask, ClientRequest::Write { .. }).then(|| ClientResponse::Refused("no".into()).into())
    });
    let error = cluster.client(None).put(b"a", b"1").await.unwrap_err();
    assert_eq!(error, Error::Refused { reason: "no".into(), may_have_happened: false });
}

// covers C9
#[tokio::test(start_paused = true)]
async fn timeout_certainly_not_done_says_so() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(Some(150));
    // No one leads.
    cluster.group(0).leader = None;
    assert!(!may_have_happened(&client.put(b"a", b"1").await.unwrap_err()));
    // Refused before it was proposed, each time.
    cluster.group(0).leader = Some(0);
    cluster.rule(0, 0, |_, ask| {
        matches!(ask, ClientRequest::Write { .. }).then(|| ClientResponse::Busy { retry_after_ms: 10 }.into())
    });
    assert!(!may_have_happened(&client.put(b"a", b"1").await.unwrap_err()));
    cluster.rule(0, 0, |_, ask| {
        matches!(ask, ClientRequest::Write { .. }).then(|| ClientResponse::NotLeader { leader: None, term: 5 }.into())
    });
    assert!(!may_have_happened(&client.put(b"a", b"1").await.unwrap_err()));
    // No session.
    cluster.rule(0, 0, |_, ask| matches!(ask, ClientRequest::OpenSession).then_some(Act::Silent));
    let fresh = cluster.client(Some(150));
    assert!(!may_have_happened(&fresh.put(b"a", b"1").await.unwrap_err()));
    // No one there at all.
    for node in cluster.groups[0].nodes.iter().chain(&cluster.managers) {
        node.kill().await;
    }
    assert!(!may_have_happened(&client.put(b"a", b"1").await.unwrap_err()));
    assert!(!may_have_happened(&cluster.client(Some(150)).put(b"a", b"1").await.unwrap_err()));
    assert_eq!(cluster.group(0).executed, 0);
}

// covers C9
#[tokio::test(start_paused = true)]
async fn timeout_copy_that_left_may_have_happened() {
    let cluster = Cluster::start(1, 3).await;
    let client = cluster.client(Some(150));
    client.put(b"a", b"1").await.unwrap();
    let lost = [Act::Silent, Act::ReplyAndClose(vec![]), ClientResponse::Unknown.into()];
    for act in lost {
        let mut first = true;
        cluster.group(0).leader = Some(0);
        cluster.rule(0, 0, move |state, ask| {
            let ClientRequest::Write { .. } = ask else { return None };
            state.leader = None; // and no one can say what became of the first copy
            std::mem::take(&mut first).then(|| act.clone())
        });
        assert!(may_have_happened(&client.put(b"a", b"2").await.unwrap_err()));
    }
}

// covers C9: the copy that was sent again is refused for certain, but no one knows what became of the first one.
#[tokio::test(start_paused = true)]
async fn timeout_copy_given_up_for_another_may_have_happened() {
    let cluster = Cluster::start(1, 3).await;
    let enough = RESEND_AFTER + Duration::from_secs(1);
    let client = cluster.client(Some(enough.as_millis() as u64));
    client.put(b"a", b"1").await.unwrap();
    let copies = Arc::new(Mutex::new(0));
    let counted = copies.clone();
    cluster.rule(0, 0, move |state, ask| {
        let ClientRequest::Write { .. } = ask else { return None };
        let mut copies = counted.lock().unwrap();
        *copies += 1;
        if *copies == 1 {
            return Some(Act::Silent);
        }
        state.leader = None;
        Some(ClientResponse::NotLeader { leader: None, term: 5 }.into())
    });
    assert!(may_have_happened(&client.put(b"a", b"2").await.unwrap_err()));
    assert_eq!(*copies.lock().unwrap(), 2, "the first copy was given up for a second one");
}

#[tokio::test(start_paused = true)]
async fn timeout_of_a_read_changes_nothing() {
    let cluster = Cluster::start(1, 1).await;
    cluster.rule(0, 0, |_, ask| matches!(ask, ClientRequest::Read { .. }).then_some(Act::Silent));
    let error = cluster.client(Some(100)).get(b"a").await.unwrap_err();
    assert_eq!(error.to_string(), "timeout after 100 ms: nothing was changed");
}

/// The abandoned number no longer holds the window, and its late copy is a duplicate to the server.
#[tokio::test(start_paused = true)]
async fn timeout_number_is_given_up() {
    let cluster = Cluster::start(1, 1).await;
    cluster.rule(0, 0, |_, ask| matches!(ask, ClientRequest::Write { number: 1, .. }).then_some(Act::Silent));
    let client = cluster.client(Some(150));
    client.put(b"a", b"1").await.unwrap_err();
    client.put(b"a", b"2").await.unwrap();
    assert_eq!(cluster.writes(0).last().unwrap().3, 2);
}

// covers B6
#[tokio::test(start_paused = true)]
async fn limits_at_accepted_above_refused_before_sending() {
    let cluster = Cluster::start(1, 1).await;
    let client = cluster.client(Some(5000));
    let key = vec![0xff; KEY_MAX_BYTES + 1];
    let value = vec![0xff; VALUE_MAX_BYTES + 1];
    assert!(matches!(client.put(&key, b"").await, Err(Error::TooLarge { limit_bytes: KEY_MAX_BYTES, .. })));
    assert!(matches!(client.swap(b"", &value).await, Err(Error::TooLarge { limit_bytes: VALUE_MAX_BYTES, .. })));
    assert!(matches!(client.get(&key).await, Err(Error::TooLarge { .. })));
    assert!(matches!(client.scan(b"", &key).await, Err(Error::TooLarge { .. })));
    assert_eq!(cluster.group(0).seen.len(), 0);
    client.put(&key[1..], &value[1..]).await.unwrap();
    assert_eq!(client.get(&key[1..]).await.unwrap().unwrap().len(), VALUE_MAX_BYTES);
    client.put(b"", b"").await.unwrap();
    assert_eq!(client.get(b"").await.unwrap().as_deref(), Some(&b""[..]));
}

/// More bytes than may be under way: the rest waits, and all are done.
#[tokio::test(start_paused = true)]
async fn writes_large_more_than_may_be_under_way_all_done() {
    let cluster = Cluster::start(1, 1).await;
    let client = cluster.client(None);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..20u8 {
        let client = client.clone();
        calls.spawn(async move { client.put(&[number], &vec![number; VALUE_MAX_BYTES]).await.unwrap() });
    }
    calls.join_all().await;
    assert_eq!(cluster.group(0).executed, 20);
}

/// Dropping a call gives its number and its room back.
#[tokio::test(start_paused = true)]
async fn call_dropped_leaves_nothing_behind() {
    let cluster = Cluster::start(1, 1).await;
    let client = cluster.client(None);
    client.put(b"a", b"1").await.unwrap();
    cluster.rule(0, 0, |_, ask| matches!(ask, ClientRequest::Write { .. }).then_some(Act::Silent));
    for _ in 0..2 * SESSION_WINDOW_MAX {
        let call = tokio::time::timeout(Duration::ZERO, client.put(b"a", b"2")).await;
        assert!(call.is_err());
    }
    cluster.no_rule(0, 0);
    tokio::time::timeout(Duration::from_secs(5), client.put(b"a", b"3")).await.unwrap().unwrap();
    let (_, _, number, lowest) = *cluster.writes(0).last().unwrap();
    assert_eq!(number, lowest);
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Trace for Recorder {
    fn sent(&self, server: usize, number: u32) {
        self.0.lock().unwrap().push(format!("sent S{server} {number}"));
    }

    fn received(&self, server: usize, number: u32) {
        self.0.lock().unwrap().push(format!("received S{server} {number}"));
    }

    fn duplicate(&self, server: usize, number: u32) {
        self.0.lock().unwrap().push(format!("duplicate S{server} {number}"));
    }
}

#[tokio::test(start_paused = true)]
async fn trace_each_message_heard_of() {
    let cluster = Cluster::start(1, 3).await;
    let recorder = Arc::new(Recorder::default());
    let trace: Arc<dyn Trace> = recorder.clone();
    let client =
        cluster.connect(Options { managers: cluster.manager_addrs(), trace: Some(trace), ..Options::default() });
    client.put(b"a", b"1").await.unwrap();
    cluster.group(0).elect(1);
    client.put(b"a", b"2").await.unwrap();
    let heard = recorder.0.lock().unwrap().clone();
    assert_eq!(heard[heard.len() - 5..], ["sent S1 1", "received S1 1", "sent S1 2", "sent S2 2", "received S2 2"]);
}

/// A hung leader comes back and answers what its successor has answered long since.
#[tokio::test(start_paused = true)]
async fn trace_late_answer_of_hung_leader_is_a_discarded_duplicate() {
    let cluster = Cluster::start(1, 3).await;
    let recorder = Arc::new(Recorder::default());
    let trace: Arc<dyn Trace> = recorder.clone();
    let client =
        cluster.connect(Options { managers: cluster.manager_addrs(), trace: Some(trace), ..Options::default() });
    client.put(b"a", b"1").await.unwrap();
    cluster.rule(0, 0, |state, ask| {
        let ClientRequest::Write { .. } = ask else { return None };
        let Act::Reply(answer) = state.lead(ask) else { return None };
        state.elect(1);
        Some(Act::ReplyLate(Duration::from_millis(800), answer))
    });
    assert_eq!(client.swap(b"a", b"2").await.unwrap().as_deref(), Some(&b"1"[..]));
    let last = || recorder.0.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last(), "received S2 2");
    eventually("the late answer comes", || last() == "duplicate S1 2").await;
    assert_eq!(client.get(b"a").await.unwrap().as_deref(), Some(&b"2"[..]));
}
