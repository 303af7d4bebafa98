//! A counter on three replicas, all in this process: it counts on when the leader is gone.
//!
//! `cargo run -p smr --example counter`

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use smr::{Answer, Client, Image, Index, Opened, ReplicaHandle, ReplicaId, ReplicaOptions, StateMachine, Submit};

/// The replicated state. A command adds the number that it holds, the answer is the sum.
#[derive(Clone, Default)]
struct Counter(i64);

fn number(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

impl StateMachine for Counter {
    type Image = Counter;

    fn apply(&mut self, _index: Index, command: &[u8]) -> Vec<u8> {
        // Never an error: what makes no sense has the same answer on each replica.
        match number(command).and_then(|more| self.0.checked_add(more)) {
            Some(sum) => self.0 = sum,
            None => return b"not a number, or too much".to_vec(),
        }
        self.0.to_string().into_bytes()
    }

    fn query(&self, _query: &[u8]) -> Answer {
        Answer::Now(self.0.to_string().into_bytes())
    }

    fn image(&self) -> Counter {
        self.clone()
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<Counter> {
        let mut bytes = [0; 8];
        input.read_exact(&mut bytes)?;
        Ok(Counter(i64::from_le_bytes(bytes)))
    }
}

impl Image for Counter {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        output.write_all(&self.0.to_le_bytes())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    count().await
}

/// Brings up the group, counts to ten, stops the leader, and goes on to 42.
pub async fn count() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let mut listeners = BTreeMap::new();
    for name in (0..3).map(ReplicaId) {
        listeners.insert(name, TcpListener::bind("127.0.0.1:0")?);
    }
    let mut addresses = BTreeMap::new();
    for (name, listener) in &listeners {
        addresses.insert(*name, listener.local_addr()?.to_string());
    }

    // In service each of these is a process of its own, on a machine of its own.
    let mut replicas: BTreeMap<ReplicaId, Arc<ReplicaHandle>> = BTreeMap::new();
    for (name, listener) in listeners {
        let mut options =
            ReplicaOptions::new("counter".parse()?, name, listener, directory.path().join(name.to_string()));
        options.peers = addresses.iter().filter(|(peer, _)| **peer != name).map(|(n, a)| (*n, a.clone())).collect();
        // The temporary directory may lie where nothing survives a power cut.
        options.allow_unsynced = true;
        replicas.insert(name, Arc::new(Opened::open(options)?.run(Counter::default())?));
    }

    let reached = replicas.iter().map(|(name, replica)| (*name, Arc::clone(replica) as Arc<dyn Submit>));
    let client = Client::new(reached);
    for _ in 0..10 {
        client.propose("1").await?;
    }
    println!("after ten: {}", String::from_utf8_lossy(&client.read("").await?));

    let leader = client.leader().ok_or("no one leads")?;
    replicas[&leader].shutdown();
    println!("replica {leader} led, and is gone");
    let sum = client.propose("32").await?;
    println!("and 32 more: {}", String::from_utf8_lossy(&sum));
    assert_eq!(client.read("").await?, "42");
    replicas.values().for_each(|replica| replica.shutdown());
    Ok(())
}
