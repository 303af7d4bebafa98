//! The host's async handle against replicas that say what a test wants, and on a clock of its own.

#![cfg(test)]

#[allow(dead_code, unreachable_pub, reason = "an example, whose main is not called here")]
#[path = "../examples/counter.rs"]
mod counter;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use smr::entry::Term;
use smr::id::{ClientId, ReplicaId};
use smr::replica::{Client, ClientError, NotLeader, Outcome, ReplyTo, Request, Submit};
use tokio::time::Instant;

/// What a replica does with a request.
#[derive(Clone)]
enum Then {
    Say(Outcome),
    /// Parts first, then the outcome.
    SayInParts(Vec<&'static str>),
    /// Nothing, ever.
    Hang,
    /// It drops the request.
    Drop,
}

/// A replica that follows a script, and says `Unknown` once it is over.
#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Then>>,
    heard: Mutex<Vec<Request>>,
    kept: Mutex<Vec<ReplyTo>>,
}

impl Submit for Scripted {
    fn queue(&self, request: Request, reply: ReplyTo) {
        self.heard.lock().unwrap().push(request);
        let next = self.script.lock().unwrap().pop_front().unwrap_or(Then::Say(Outcome::Unknown));
        match next {
            Then::Say(outcome) => reply.send(outcome),
            Then::SayInParts(parts) => {
                let (last, before) = parts.split_last().unwrap();
                for part in before {
                    assert!(reply.sink.deliver_part(reply.tag, Bytes::from_static(part.as_bytes())));
                }
                reply.send(Outcome::Answer(Bytes::from_static(last.as_bytes())));
            }
            Then::Hang => self.kept.lock().unwrap().push(reply),
            Then::Drop => drop(reply),
        }
    }
}

fn said(text: &'static str) -> Then {
    Then::Say(Outcome::Answer(Bytes::from_static(text.as_bytes())))
}

fn opened(index: u64) -> Then {
    Then::Say(Outcome::SessionOpened(ClientId { index, nonce: 7 }))
}

fn not_leader(leader: Option<u16>) -> Then {
    Then::Say(Outcome::NotLeader(NotLeader { leader: leader.map(ReplicaId), term: Term(1) }))
}

/// Replicas 0, 1, … with these scripts, and a client of them.
fn group(scripts: &[&[Then]]) -> (Vec<Arc<Scripted>>, Client) {
    let replicas: Vec<Arc<Scripted>> = scripts
        .iter()
        .map(|script| {
            Arc::new(Scripted { script: Mutex::new(script.iter().cloned().collect()), ..Scripted::default() })
        })
        .collect();
    let named = (0..).map(ReplicaId).zip(replicas.iter().map(|replica| Arc::clone(replica) as Arc<dyn Submit>));
    let client = Client::new(named).with_timeout(Duration::from_secs(2));
    (replicas, client)
}

/// (session, number, lowest unanswered) of the writes that a replica heard.
fn writes(replica: &Scripted) -> Vec<(u64, u64, u64)> {
    let heard = replica.heard.lock().unwrap();
    let write = |request: &Request| match request {
        Request::Write { client, number, lowest_unanswered, .. } => Some((client.index, *number, *lowest_unanswered)),
        _ => None,
    };
    heard.iter().filter_map(write).collect()
}

// covers C1
#[tokio::test(start_paused = true)]
async fn command_whose_outcome_is_unknown_is_repeated_under_its_number_until_somebody_knows() {
    let (replicas, client) = group(&[&[opened(5), Then::Say(Outcome::Unknown)], &[not_leader(Some(0)), said("1")]]);
    replicas[0].script.lock().unwrap().push_back(not_leader(Some(1)));
    assert_eq!(client.propose("add").await.unwrap(), "1");
    assert_eq!([writes(&replicas[0]), writes(&replicas[1])].concat(), [(5, 1, 1); 4]);
    // The next goes straight to whom answered, under the next number; the first is no longer waited for.
    replicas[1].script.lock().unwrap().push_back(said("2"));
    assert_eq!(client.propose("add").await.unwrap(), "2");
    assert_eq!(writes(&replicas[1]).last(), Some(&(5, 2, 2)));
}

#[tokio::test(start_paused = true)]
async fn redirect_is_followed_at_once_and_two_that_name_each_other_are_asked_at_a_bounded_rate() {
    let (replicas, client) = group(&[&[not_leader(Some(1))], &[said("here")]]);
    let began = Instant::now();
    assert_eq!(client.read("where").await.unwrap(), "here");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(replicas[0].heard.lock().unwrap().len(), 1);

    let forever = |leader| vec![not_leader(Some(leader)); 1_000];
    let (replicas, client) = group(&[&forever(1), &forever(0)]);
    assert!(matches!(client.read("where").await, Err(ClientError::TimedOut { .. })));
    let asked: usize = replicas.iter().map(|replica| replica.heard.lock().unwrap().len()).sum();
    assert!((10..200).contains(&asked), "{asked} questions in two seconds");
}

// covers C9
#[tokio::test(start_paused = true)]
async fn error_says_whether_the_command_may_have_happened() {
    let busy = || Then::Say(Outcome::Busy { retry_after_ms: 50 });
    let (_, client) = group(&[&[&[opened(5)], &vec![busy(); 100][..]].concat()]);
    assert!(matches!(client.propose("add").await, Err(ClientError::TimedOut { .. })));
    let (_, client) = group(&[&[&[opened(5), Then::Say(Outcome::Unknown)], &vec![busy(); 100][..]].concat()]);
    assert!(matches!(client.propose("add").await, Err(ClientError::Unknown { .. })));
    let (_, client) = group(&[&[opened(5), Then::Hang]]);
    assert!(matches!(client.propose("add").await, Err(ClientError::Unknown { .. })));
    let (_, client) = group(&[&[&[opened(5), Then::Drop], &vec![busy(); 100][..]].concat()]);
    assert!(matches!(client.propose("add").await, Err(ClientError::Unknown { .. })));
    // A read changes nothing, so nothing can have happened.
    let (_, client) = group(&[&[Then::Hang]]);
    assert!(matches!(client.read("value").await, Err(ClientError::TimedOut { .. })));
    // A copy that is refused says nothing of an earlier one, which may be in a log yet.
    for refused in [Outcome::DiskFull, Outcome::Refused("no".to_owned())] {
        let script = vec![Then::Say(refused); 100];
        let (_, client) = group(&[&[&[opened(5), Then::Say(Outcome::Unknown)], &script[..]].concat()]);
        assert!(matches!(client.propose("add").await, Err(ClientError::Unknown { .. })));
    }
    // Without a session the command was given to no one.
    let (_, client) = group(&[&[Then::Hang, Then::Hang]]);
    assert!(matches!(client.propose("add").await, Err(ClientError::TimedOut { .. })));
    // That a session may have been opened twice says nothing about the command.
    let (_, client) = group(&[&[&[Then::Say(Outcome::Unknown), opened(5)], &vec![busy(); 100][..]].concat()]);
    assert!(matches!(client.propose("add").await, Err(ClientError::TimedOut { .. })));
}

// covers C4
#[tokio::test(start_paused = true)]
async fn expired_session_is_opened_anew_unless_a_copy_may_have_taken_effect() {
    let expired = Then::Say(Outcome::SessionExpired);
    let (replicas, client) = group(&[&[opened(5), expired.clone(), opened(9), said("1")]]);
    assert_eq!(client.propose("add").await.unwrap(), "1");
    assert_eq!(writes(&replicas[0]), [(5, 1, 1), (9, 1, 1)]);
    let (_, client) = group(&[&[opened(5), Then::Say(Outcome::Unknown), expired, opened(9), said("1")]]);
    assert!(matches!(client.propose("add").await, Err(ClientError::Unknown { .. })));
}

#[tokio::test(start_paused = true)]
async fn commands_at_once_have_numbers_of_their_own_and_name_the_lowest_that_waits() {
    let (replicas, client) = group(&[&[opened(5), said("0"), Then::Hang, said("2"), said("3")]]);
    client.propose("add").await.unwrap();
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.propose("add").await }
    });
    tokio::task::yield_now().await;
    client.propose("add").await.unwrap();
    hanging.abort();
    assert!(hanging.await.unwrap_err().is_cancelled());
    client.propose("add").await.unwrap();
    // Once no one waits for the second, it is forgotten.
    assert_eq!(writes(&replicas[0]), [(5, 1, 1), (5, 2, 2), (5, 3, 2), (5, 4, 4)]);
}

#[tokio::test(start_paused = true)]
async fn replica_that_drops_or_never_answers_is_passed_over() {
    let (_, client) = group(&[&[opened(5), Then::Drop, said("1")]]);
    let began = Instant::now();
    assert_eq!(client.propose("add").await.unwrap(), "1");
    assert!(began.elapsed() < Duration::from_millis(100));
    let (replicas, client) = group(&[&[Then::Hang], &[said("here"), said("still")]]);
    assert_eq!(client.read("where").await.unwrap(), "here");
    assert_eq!(client.leader(), Some(ReplicaId(1)));
    assert_eq!(client.read("where").await.unwrap(), "still");
    assert_eq!(replicas[0].heard.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn session_is_opened_once_and_no_number_lies_beyond_its_window() {
    let mut script = vec![opened(5), Then::Hang];
    script.resize(3_000, said("ok"));
    let (replicas, client) = group(&[&script]);
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.propose("slow").await }
    });
    tokio::task::yield_now().await;
    let others: Vec<_> = (0..1_100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.propose("add").await })
        })
        .collect();
    for other in others {
        assert_eq!(other.await.unwrap().unwrap(), "ok");
    }
    // Its first copy hangs; the second, a second later, is answered.
    assert_eq!(first.await.unwrap().unwrap(), "ok");
    let heard = replicas[0].heard.lock().unwrap();
    assert_eq!(heard.iter().filter(|request| matches!(request, Request::OpenSession)).count(), 1);
    drop(heard);
    for (_, number, lowest) in writes(&replicas[0]) {
        assert!(number - lowest < 1_024, "number {number}, lowest {lowest}");
    }
}

#[tokio::test(start_paused = true)]
async fn answer_in_parts_comes_whole_and_what_cannot_be_helped_at_once() {
    let (_, client) = group(&[&[Then::SayInParts(vec!["a", "b", "c"])]]);
    assert_eq!(client.read("all").await.unwrap(), "abc");
    for (outcome, error) in [
        (Outcome::TooLarge { limit_bytes: 9 }, ClientError::TooLarge { limit_bytes: 9 }),
        (Outcome::DiskFull, ClientError::DiskFull),
        (Outcome::AnswerGone, ClientError::AnswerGone),
        (Outcome::Refused("no".to_owned()), ClientError::Refused("no".to_owned())),
    ] {
        let (replicas, client) = group(&[&[opened(5), Then::Say(outcome)]]);
        assert_eq!(client.propose("add").await.unwrap_err(), error);
        assert_eq!(writes(&replicas[0]).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counter_of_the_example_counts_on_when_its_leader_is_gone() {
    counter::count().await.unwrap();
}
