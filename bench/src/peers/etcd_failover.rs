//! Kills of etcd's leader under a running client.
//!
//! The client knows all nodes. It stays with one as long as that answers, and goes to the next one when it does not, as
//! etcd's own clients do; any node hands a write on to the leader.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::peers::etcd::{Connection, Etcd};
use madkv_testkit::failover::Way;
use madkv_testkit::measure::Trouble;
use madkv_testkit::place::Outcome;

/// Answers between two kills.
const ANSWERS_BETWEEN: usize = 300;
/// A node that says nothing for this long is left. Sooner than our own client leaves one (500 ms), and than any that
/// etcd has: a node without a leader keeps a write for seconds, and that is not to count against etcd.
const SILENCE: Duration = Duration::from_millis(100);
/// How long to wait after a refusal.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// How long anything may take that must happen in the end.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long to pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Each answered write: when it began, and when it was answered.
type Answers = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// Makes the leader fail this often; the client's longest wait for each. `go_on` as with MadKV's.
pub(super) async fn inject(
    etcd: &mut Etcd,
    way: Way,
    kills: usize,
    go_on: &dyn Fn() -> Outcome,
) -> Result<Vec<Duration>, Trouble> {
    let (answers, stop) = (Answers::default(), Arc::new(AtomicBool::new(false)));
    let client = tokio::spawn(write(etcd.addresses(), Arc::clone(&answers), Arc::clone(&stop)));
    let mut moments = Vec::new();
    for _ in 0..kills {
        more(&answers).await?;
        let leader = etcd.wait_leader(TIMEOUT).await?;
        moments.push(Instant::now());
        match way {
            Way::Kill => etcd.process(leader).kill(),
            Way::Freeze => etcd.process(leader).freeze(),
        }
        more(&answers).await?;
        match way {
            Way::Kill => etcd.process(leader).start()?,
            Way::Freeze => etcd.process(leader).thaw(),
        }
        etcd.wait_whole(TIMEOUT).await?;
        if let Err(error) = go_on() {
            stop.store(true, Ordering::Relaxed);
            return Err(error);
        }
    }
    more(&answers).await?;
    stop.store(true, Ordering::Relaxed);
    client.await?;
    let answers = answers.lock();
    let ends = moments.iter().skip(1).copied().map(Some).chain([None]);
    let pauses = moments.iter().zip(ends).map(|(&from, until)| {
        let inside = answers.iter().filter(|(_, end)| *end >= from && until.is_none_or(|until| *end < until));
        inside.map(|(start, end)| *end - *start).max().unwrap_or_default()
    });
    Ok(pauses.collect())
}

fn count(answers: &Answers) -> usize {
    answers.lock().len()
}

async fn more(answers: &Answers) -> Result<(), Trouble> {
    let (start, target) = (Instant::now(), count(answers) + ANSWERS_BETWEEN);
    while count(answers) < target {
        if start.elapsed() > TIMEOUT {
            return Err("etcd answers no more".into());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

async fn write(addresses: Vec<std::net::SocketAddr>, answers: Answers, stop: Arc<AtomicBool>) {
    let (mut at, mut connection) = (0, None);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        loop {
            let attempt = async {
                let open = match connection.take() {
                    Some(open) => open,
                    None => Connection::new(addresses[at]).await?,
                };
                let open = connection.insert(open);
                open.put(b"failover", format!("{start:?}").as_bytes()).await
            };
            match tokio::time::timeout(SILENCE, attempt).await {
                Ok(Ok(())) => break,
                Ok(Err(_)) | Err(_) if stop.load(Ordering::Relaxed) => return,
                Ok(Err(_)) | Err(_) => {
                    connection = None;
                    at = (at + 1) % addresses.len();
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
        answers.lock().push((start, Instant::now()));
    }
}
