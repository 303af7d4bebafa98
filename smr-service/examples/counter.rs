//! A counter as a service: replicas that are processes of their own, and a client that finds whoever leads.
//!
//! Three times, with 0, 1 and 2 in the place of 0 and each one's own addresses:
//! ```text
//! counter serve --replica_id 0 --listen 127.0.0.1:4000 --p2p_listen 127.0.0.1:4100 \
//!     --peer_addrs 127.0.0.1:4101,127.0.0.1:4102 --backer_path ./counter.0
//! ```
//! and then `counter add --replicas 127.0.0.1:4000,127.0.0.1:4001,127.0.0.1:4002 5`, or `counter get --replicas ...`.
//! (`counter` stands for `cargo run -p smr-service --example counter-service --`.)

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use smr::{Answer, Image, Index, StateMachine};
use smr_service::args;
use smr_service::client::{ServiceClient, ServiceOptions};
use smr_service::process::{self, Fatal};
use smr_service::program::{self, ReplicaFlags};

/// The replicated state. A command adds the number that it holds, the answer is the sum.
#[derive(Clone, Default)]
struct Counter(i64);

impl StateMachine for Counter {
    type Image = Counter;

    fn apply(&mut self, _index: Index, command: &[u8]) -> Vec<u8> {
        // Never an error: what makes no sense has the same answer on each replica.
        let more = command.try_into().map(i64::from_le_bytes).unwrap_or_default();
        self.0 = self.0.saturating_add(more);
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

/// A counter on several machines.
#[derive(Clone, Debug, clap::Parser)]
enum Options {
    /// Run a replica.
    Serve(ReplicaFlags),
    /// Add a number, and print the sum.
    Add {
        /// Where the replicas serve clients, separated by commas.
        #[arg(long)]
        replicas: String,
        /// The number.
        #[arg(allow_negative_numbers = true)]
        number: i64,
    },
    /// Print the sum.
    Get {
        /// Where the replicas serve clients, separated by commas.
        #[arg(long)]
        replicas: String,
    },
}

fn main() -> ExitCode {
    process::start("counter", |options: Options| match options {
        Options::Serve(flags) => program::run("counter", flags, Counter::default()),
        Options::Add { replicas, number } => ask(&replicas, Some(number)),
        Options::Get { replicas } => ask(&replicas, None),
    })
}

fn ask(replicas: &str, add: Option<i64>) -> Result<(), Fatal> {
    let options = ServiceOptions {
        replicas: args::addresses("--replicas", replicas)?,
        timeout: Some(Duration::from_secs(10)),
        ..ServiceOptions::default()
    };
    let sum = process::runtime()?.block_on(async {
        let client = ServiceClient::connect("counter", options);
        match add {
            Some(number) => client.write(number.to_le_bytes().to_vec()).await,
            None => client.read("").await,
        }
    });
    let sum = sum.map_err(|error| Fatal::Failed(error.to_string()))?;
    writeln!(io::stdout(), "{}", String::from_utf8_lossy(&sum)).map_err(|error| Fatal::Failed(error.to_string()))
}
