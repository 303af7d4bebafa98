//! How a primary stops for a successor: over a real connection, with no managers behind it.

#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use factory::managed::gate::Gate;
use factory::managed::lookout::Situation;
use factory::managed::promotion::serve_successor;
use factory::managed::words::{KIND_YIELD, KIND_YIELD_ANSWER, Yield, YieldAnswer};
use factory::message::{CUSTOMER_FRAME_MAX_BYTES, Dialler};
use factory::wire::{self, Connection};
use factory::words::ServerId;
use smr::id::ClusterId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long something must not happen for.
const A_WHILE: Duration = Duration::from_millis(50);

struct Primary {
    gate: Arc<Gate>,
    situation: watch::Sender<Situation>,
    address: String,
}

fn leads(epoch: u64) -> Situation {
    let since = Instant::now().checked_sub(Duration::from_secs(2)).expect("this machine has been up for 2 s");
    Situation { epoch, primary: Some(ServerId(0)), is_primary: true, is_member: true, since }
}

impl Primary {
    async fn in_epoch(epoch: u64) -> Primary {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (gate, situation) = (Arc::new(Gate::default()), watch::Sender::new(leads(epoch)));
        let (inside, known) = (Arc::clone(&gate), situation.subscribe());
        tokio::spawn(async move {
            loop {
                let mut connection = wire::prepare(listener.accept().await.unwrap().0).unwrap();
                let (gate, known) = (Arc::clone(&inside), known.clone());
                tokio::spawn(async move {
                    let welcomed = connection.welcome(ServerId(0), |_| Ok(CUSTOMER_FRAME_MAX_BYTES)).await.unwrap();
                    assert!(welcomed.is_some());
                    // The other side may be gone.
                    let _ = serve_successor(&gate, known, connection).await;
                });
            }
        });
        Primary { gate, situation, address }
    }

    async fn asked_to_yield(&self, epoch: u64) -> Connection {
        let mut connection = wire::prepare(TcpStream::connect(&self.address).await.unwrap()).unwrap();
        let group = vec![ServerId(0), ServerId(1)];
        let (cluster, partition) = (ClusterId(7), 0);
        let dialler = Dialler::Successor { id: ServerId(1), to: ServerId(0), group, cluster, partition };
        connection.greet(dialler, CUSTOMER_FRAME_MAX_BYTES).await.unwrap();
        connection.send(KIND_YIELD, &Yield { epoch }).await.unwrap();
        connection
    }

    async fn takes_no_order(&self) -> bool {
        timeout(A_WHILE, self.gate.enter()).await.is_err()
    }
}

async fn answer(connection: &mut Connection) -> YieldAnswer {
    connection.receive(KIND_YIELD_ANSWER).await.unwrap().unwrap()
}

#[tokio::test]
async fn primary_confirms_once_what_it_was_given_is_through_and_takes_no_order_until_the_epoch_has_ended() {
    let primary = Primary::in_epoch(5).await;
    let under_way = primary.gate.enter().await;
    let mut successor = primary.asked_to_yield(5).await;
    let early = timeout(A_WHILE, successor.receive::<YieldAnswer>(KIND_YIELD_ANSWER)).await;
    assert!(early.is_err(), "an order is under way: {:?}", early.map(|answer| answer.unwrap()));
    drop(under_way);
    assert_eq!(answer(&mut successor).await, YieldAnswer::Stopped);
    assert!(primary.takes_no_order().await);
    primary.situation.send_modify(|now| (now.epoch, now.is_primary) = (6, false));
    drop(primary.gate.enter().await);
}

#[tokio::test]
async fn primary_goes_on_if_the_successor_is_gone() {
    let primary = Primary::in_epoch(5).await;
    let mut successor = primary.asked_to_yield(5).await;
    assert_eq!(answer(&mut successor).await, YieldAnswer::Stopped);
    assert!(primary.takes_no_order().await);
    drop(successor);
    drop(primary.gate.enter().await);
}

#[tokio::test]
async fn primary_stops_for_one_at_a_time_and_for_the_present_epoch_alone() {
    let primary = Primary::in_epoch(5).await;
    assert_eq!(answer(&mut primary.asked_to_yield(4).await).await, YieldAnswer::NotPrimary);
    let mut successor = primary.asked_to_yield(5).await;
    assert_eq!(answer(&mut successor).await, YieldAnswer::Stopped);
    let mut other = primary.asked_to_yield(5).await;
    assert!(matches!(answer(&mut other).await, YieldAnswer::GoesOn(_)));
    assert!(primary.takes_no_order().await, "it has stopped for the first one");
}
