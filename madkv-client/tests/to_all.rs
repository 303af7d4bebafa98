//! Writes in a group whose replicas all take them: a copy to each, the first answer, and what becomes of the others.

#![allow(clippy::unwrap_used)] // helpers of tests, where the lint only knows the tests themselves

mod fake;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use madkv_client::{Client, Error, Options, Trace};
use madkv_proto::frames::{ClientRequest, ClientResponse};

use fake::{Act, Cluster, GroupState, eventually};

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn says(&self, what: &str) -> BTreeSet<String> {
        let heard = self.0.lock().unwrap();
        heard.iter().filter(|line| line.starts_with(what)).cloned().collect()
    }

    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl Trace for Recorder {
    fn sent(&self, server: usize, number: u32) {
        self.push(format!("sent S{server} {number}"));
    }

    fn received(&self, server: usize, number: u32) {
        self.push(format!("received S{server} {number}"));
    }

    fn duplicate(&self, server: usize, number: u32) {
        self.push(format!("duplicate S{server} {number}"));
    }

    fn diverged(&self, server: usize, number: u32) {
        self.push(format!("diverged S{server} {number}"));
    }
}

/// A client that knows the group, with two requests behind it.
async fn client(cluster: &Cluster, timeout_ms: Option<u64>) -> (Client, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let trace: Arc<dyn Trace> = recorder.clone();
    let timeout = timeout_ms.map(Duration::from_millis);
    let options = Options { managers: cluster.manager_addrs(), trace: Some(trace), timeout, ..Options::default() };
    let client = cluster.connect(options);
    client.get(b"warm").await.unwrap();
    client.put(b"a", b"0").await.unwrap();
    (client, recorder)
}

fn lines(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

/// Does this with each write.
fn on_writes(act: impl Fn(&mut GroupState, &ClientRequest) -> Act + Send + 'static) -> Rule {
    Box::new(move |state, ask| matches!(ask, ClientRequest::Write { .. }).then(|| act(state, ask)))
}

type Rule = Box<dyn FnMut(&mut GroupState, &ClientRequest) -> Option<Act> + Send>;

fn silent() -> Rule {
    on_writes(|_, _| Act::Silent)
}

fn refuses(response: ClientResponse) -> Rule {
    on_writes(move |_, _| response.clone().into())
}

// covers K13
#[tokio::test(start_paused = true)]
async fn write_goes_to_all_the_first_answer_counts_and_the_rest_is_discarded() {
    let cluster = Cluster::start_taking_writes_everywhere(3).await;
    let (client, heard) = client(&cluster, None).await;
    assert!(client.put(b"a", b"1").await.unwrap());
    assert_eq!(client.swap(b"a", b"2").await.unwrap().as_deref(), Some(&b"1"[..]));
    eventually("all answers of the last request", || {
        heard.says("received").iter().filter(|line| line.ends_with(" 4")).count() == 3
    })
    .await;
    for request in 2..=4 {
        let of = |what: &str| {
            let said = heard.says(what);
            said.into_iter().filter(|line| line.ends_with(&format!(" {request}"))).collect::<BTreeSet<_>>()
        };
        assert_eq!((of("sent").len(), of("received").len(), of("duplicate").len()), (3, 3, 2), "request {request}");
    }
    assert_eq!(cluster.group(0).executed, 3, "each once");
    assert_eq!(heard.says("diverged"), lines(&[]));
    // Reads go to one.
    client.get(b"a").await.unwrap();
    assert_eq!(heard.says("sent S").iter().filter(|line| line.ends_with(" 5")).count(), 1);
}

// covers K13 N8
#[tokio::test(start_paused = true)]
async fn copies_that_are_lost_at_all_but_one_delay_nothing() {
    let cluster = Cluster::start_taking_writes_everywhere(3).await;
    let (client, _) = client(&cluster, None).await;
    for replica in [0, 1] {
        cluster.rule(0, replica, silent());
    }
    let began = tokio::time::Instant::now();
    assert_eq!(client.swap(b"a", b"1").await.unwrap().as_deref(), Some(&b"0"[..]));
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    // Where all are lost, more follow.
    cluster.rule(0, 2, silent());
    let (again, began) = (client.clone(), tokio::time::Instant::now());
    let write = tokio::spawn(async move { again.swap(b"a", b"2").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.no_rule(0, 2);
    assert_eq!(write.await.unwrap().unwrap().as_deref(), Some(&b"1"[..]));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

// covers K13 C9
#[tokio::test(start_paused = true)]
async fn refusal_of_one_copy_says_nothing_while_another_is_open() {
    let cluster = Cluster::start_taking_writes_everywhere(3).await;
    let (client, _) = client(&cluster, Some(5_000)).await;
    cluster.rule(0, 0, refuses(ClientResponse::DiskFull));
    // Another one has it, and answers a little later.
    for replica in [1, 2] {
        cluster.rule(
            0,
            replica,
            on_writes(|state, ask| match state.lead(ask) {
                Act::Reply(answer) => Act::ReplyLate(Duration::from_millis(200), answer),
                other => other,
            }),
        );
    }
    assert_eq!(client.swap(b"a", b"1").await.unwrap().as_deref(), Some(&b"0"[..]));
    // No one says what becomes of the others.
    for replica in [1, 2] {
        cluster.rule(0, replica, silent());
    }
    let unknown = client.swap(b"a", b"2").await.unwrap_err();
    assert!(matches!(unknown, Error::DiskFull { may_have_happened: true }), "{unknown:?}");
    // One of them has forgotten it: it may have sent it on before.
    cluster.rule(0, 1, refuses(ClientResponse::Unknown));
    cluster.rule(0, 2, refuses(ClientResponse::DiskFull));
    let unknown = client.swap(b"a", b"3").await.unwrap_err();
    assert!(matches!(unknown, Error::DiskFull { may_have_happened: true }), "{unknown:?}");
}

// covers K13 C9
#[tokio::test(start_paused = true)]
async fn write_that_every_member_refused_had_no_effect() {
    let cluster = Cluster::start_taking_writes_everywhere(3).await;
    let (client, _) = client(&cluster, Some(5_000)).await;
    for replica in 0..3 {
        cluster.rule(0, replica, refuses(ClientResponse::DiskFull));
    }
    let refused = client.swap(b"a", b"1").await.unwrap_err();
    assert!(matches!(refused, Error::DiskFull { may_have_happened: false }), "{refused:?}");
    // One that is not there has no copy.
    cluster.groups[0].nodes[2].kill().await;
    let refused = client.swap(b"a", b"2").await.unwrap_err();
    assert!(matches!(refused, Error::DiskFull { may_have_happened: false }), "{refused:?}");
    // One that dies with it may have sent it on.
    cluster.groups[0].nodes[2].revive().await;
    (0..3).for_each(|replica| cluster.no_rule(0, replica));
    let before = cluster.writes(0).len();
    while !cluster.writes(0)[before..].iter().any(|(replica, ..)| *replica == 2) {
        client.put(b"b", b"1").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (0..2).for_each(|replica| cluster.rule(0, replica, refuses(ClientResponse::DiskFull)));
    cluster.rule(0, 2, on_writes(|_, _| Act::ReplyAndClose(Vec::new())));
    let unknown = client.swap(b"a", b"3").await.unwrap_err();
    assert!(matches!(unknown, Error::DiskFull { may_have_happened: true }), "{unknown:?}");
}

/// Two have no room; the third is busy, and takes the next copy.
// covers K13 C9
#[tokio::test(start_paused = true)]
async fn member_that_was_busy_is_asked_again_before_others_refusals_count() {
    let cluster = Cluster::start_taking_writes_everywhere(3).await;
    let (client, _) = client(&cluster, Some(5_000)).await;
    (0..2).for_each(|replica| cluster.rule(0, replica, refuses(ClientResponse::DiskFull)));
    let busy = || ClientResponse::Busy { retry_after_ms: 50 };
    let asked = AtomicU32::new(0);
    cluster.rule(
        0,
        2,
        on_writes(move |state, ask| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => busy().into(),
            _ => state.lead(ask),
        }),
    );
    assert_eq!(client.swap(b"a", b"1").await.unwrap().as_deref(), Some(&b"0"[..]));
    // It is still busy when the others are waited for no longer.
    cluster.rule(0, 2, refuses(busy()));
    let unknown = client.swap(b"a", b"2").await.unwrap_err();
    assert!(matches!(unknown, Error::DiskFull { may_have_happened: true }), "{unknown:?}");
}

// covers K13 C5
#[tokio::test(start_paused = true)]
async fn session_that_opens_slowly_is_not_opened_twice() {
    let cluster = Cluster::start_taking_writes_everywhere(3).await;
    let (client, _) = client(&cluster, None).await;
    cluster.group(0).sessions.clear();
    let opened = cluster.group(0).opened;
    for replica in 0..3 {
        cluster.rule(0, replica, |state, ask| {
            let is_opening = matches!(ask, ClientRequest::OpenSession);
            let answers = is_opening.then(|| state.lead(ask));
            answers.map(|act| match act {
                Act::Reply(answer) => Act::ReplyLate(Duration::from_secs(3), answer),
                other => other,
            })
        });
    }
    client.put(b"a", b"1").await.unwrap();
    assert_eq!(cluster.group(0).opened, opened + 1);
}

// covers K13 C5
#[tokio::test(start_paused = true)]
async fn session_that_all_have_forgotten_is_opened_anew_and_the_write_done_once() {
    let cluster = Cluster::start_taking_writes_everywhere(3).await;
    let (client, _) = client(&cluster, None).await;
    cluster.group(0).sessions.clear();
    let executed = cluster.group(0).executed;
    assert_eq!(client.swap(b"a", b"1").await.unwrap().as_deref(), Some(&b"0"[..]));
    assert_eq!(cluster.group(0).executed, executed + 1);
}

// covers K13 I7
#[tokio::test(start_paused = true)]
async fn answers_whose_bytes_differ_are_reported() {
    let cluster = Cluster::start_taking_writes_everywhere(3).await;
    let (client, heard) = client(&cluster, None).await;
    cluster.rule(
        0,
        1,
        on_writes(|_, _| Act::ReplyLate(Duration::from_millis(50), vec![ClientResponse::Answer(vec![9, 9].into())])),
    );
    client.put(b"a", b"1").await.unwrap();
    eventually("the other answer", || heard.says("diverged") == lines(&["diverged S2 3"])).await;
    assert!(heard.says("duplicate").contains("duplicate S2 3"));
}

/// A member that is no member at present, or of a build whose clients send to one.
// covers K13 C6
#[tokio::test(start_paused = true)]
async fn member_that_sends_elsewhere_is_passed_over() {
    let cluster = Cluster::start_taking_writes_everywhere(3).await;
    let (client, _) = client(&cluster, None).await;
    for replica in [0, 2] {
        cluster.rule(0, replica, refuses(ClientResponse::NotLeader { leader: Some(1), term: 9 }));
    }
    assert_eq!(client.swap(b"a", b"1").await.unwrap().as_deref(), Some(&b"0"[..]));
}
