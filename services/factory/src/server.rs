//! `factory-server`: one factory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rand::RngExt;
use smr::internals::disk::RealDisk;
use smr_service::args::BadArgument;
use smr_service::fatal::EXIT_FATAL;
use smr_service::log_sink;
use smr_service::process::{self, Fatal, Signals};
use tokio::sync::mpsc;

use crate::admin::{Admin, EVENTS_MAX, Event, Group};
use crate::core::Core;
use crate::engineers::Engineers;
use crate::listener::{self, Listener};
use crate::managed;
use crate::managed::server::{Plan, Program, RECORD_UNDER_MANAGERS, check_mode};
use crate::message::SERVERS_MAX;
use crate::store::Store;
use crate::words::ServerId;

/// The program's name.
pub const PROGRAM: &str = "factory-server";
/// How often the primary tries again to reach who is dead, in milliseconds.
const TICK_MS: u64 = 100;

/// A factory: the one that is sent orders produces, the others keep its customer records.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version)]
pub struct Options {
    /// Port, for customers and for the other factories
    #[arg(value_name = "PORT", allow_negative_numbers = true)]
    pub port: u16,
    /// Unique id of this factory, from 0
    #[arg(value_name = "ID", allow_negative_numbers = true)]
    pub id: u32,
    /// Number of peer factories
    #[arg(value_name = "PEERS", allow_negative_numbers = true)]
    pub peers: usize,
    /// Of each peer its id, IP address and port
    #[arg(value_name = "ID IP PORT", allow_negative_numbers = true)]
    pub peer: Vec<String>,
    /// The factory's directory; made if it does not exist. ./backer.factory.ID by default
    #[arg(long = "backer_path", value_name = "DIRECTORY")]
    pub backer_path: Option<PathBuf>,
    /// Where to listen; by default 127.0.0.1 if all peers are there, else 0.0.0.0
    #[arg(long = "listen_host", value_name = "IP")]
    pub listen_host: Option<IpAddr>,
    /// What directories held that are not here any more is lost for good: the first order need not wait for them
    #[arg(long = "found_anew")]
    pub found_anew: bool,
    /// End when stdin ends: for programs that start this one and may be killed
    #[arg(long = "end_with_stdin")]
    pub end_with_stdin: bool,
    /// Who decides who produces, if it is managers.
    #[command(flatten)]
    pub managed: managed::server::Flags,
}

impl Options {
    /// Who this factory is, and where the others are.
    ///
    /// # Errors
    /// What is wrong with the command line.
    pub fn group(&self) -> Result<Group, BadArgument> {
        let bad = |what: String| Err(BadArgument(what));
        if self.port == 0 {
            return bad("the port is a number from 1 to 65535".to_owned());
        }
        if self.peer.len() != 3 * self.peers {
            let (given, peers) = (self.peer.len(), self.peers);
            return bad(format!("{peers} peers are {} words, ID IP PORT for each, not {given}", 3 * peers));
        }
        if self.peers >= SERVERS_MAX {
            return bad(format!("{} peers; up to {} are possible", self.peers, SERVERS_MAX - 1));
        }
        let mut others: BTreeMap<ServerId, String> = BTreeMap::new();
        for peer in self.peer.chunks(3) {
            let [id, host, port] = peer else { return bad("a peer is ID IP PORT".to_owned()) };
            let Ok(id) = id.parse::<u32>() else { return bad(format!("peer {id:?}: an id is a number from 0 on")) };
            let address = format!("{host}:{port}");
            smr_service::args::check_address("peer", &address)?;
            if id == self.id {
                return bad(format!("peer {id} has this factory's own id"));
            }
            if others.values().any(|other| smr_service::address::is_same(other, &address)) {
                return bad(format!("peer {id}: {address} is another peer's address"));
            }
            if others.insert(ServerId(id), address).is_some() {
                return bad(format!("peer {id} is given twice"));
            }
        }
        Ok(Group { id: ServerId(self.id), others })
    }

    fn listen(&self, group: &Group) -> SocketAddr {
        let is_loopback = |address: &String| {
            let host = address.rsplit_once(':').map_or("", |(host, _)| host);
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        };
        let here = !group.others.is_empty() && group.others.values().all(is_loopback);
        let default = if here { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        SocketAddr::new(self.listen_host.unwrap_or(IpAddr::V4(default)), self.port)
    }
}

fn say(line: &str) {
    process::say(PROGRAM, line);
}

/// Runs a factory until a signal ends it.
///
/// # Errors
/// Why it cannot run.
pub fn run(options: &Options) -> Result<(), Fatal> {
    let group = Arc::new(options.group()?);
    let listen = options.listen(&group);
    let directory = options.backer_path.clone().unwrap_or_else(|| format!("./backer.factory.{}", group.id).into());
    if let Some(managers) = &options.managed.managers {
        if options.found_anew {
            return Err(BadArgument("--found_anew is for factories without --managers".to_owned()).into());
        }
        let plan = Plan::new(&options.managed, managers, group, listen, directory, options.end_with_stdin)?;
        return managed::server::run(plan, Program { name: PROGRAM, say });
    }
    options.managed.check_without_managers()?;
    let listener = process::bind("port", listen)?;
    process::check_directory(&directory)?;
    check_mode(&directory, RECORD_UNDER_MANAGERS, "with --managers")?;
    let runtime = process::runtime()?;
    let (store, stored) = Store::open(RealDisk, &directory, group.id, &group.ids(), || rand::rng().random())
        .map_err(|error| Fatal::Failed(error.to_string()))?;
    let others: BTreeSet<ServerId> = group.others.keys().copied().collect();
    let core = Core::new(group.id, &others, stored, options.found_anew);
    let mut signals = runtime.block_on(async { Signals::listen(options.end_with_stdin) })?;
    let listener = {
        let _inside = runtime.enter();
        listener::adopt(listener, listen)?
    };
    let (events, incoming) = mpsc::channel(EVENTS_MAX);
    let admin = Admin::new(Arc::clone(&group), core, store, runtime.handle().clone(), events.clone(), say);
    let shared = admin.shared();
    std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            if let Err(error) = admin.run(incoming) {
                say(&format!("the disk fails: {error}; this process ends; what it acknowledged is safe"));
                log_sink::exit(EXIT_FATAL);
            }
        })
        .map_err(|error| Fatal::Failed(format!("cannot start threads: {error}")))?;
    say(&format!("server {} listens on {listen}, with {} peers", group.id, group.others.len()));
    if !group.others.is_empty() {
        say("a broken connection counts as a dead server here: where links can fail, acknowledged orders can be lost");
    }
    runtime.spawn(Listener::new(Engineers::new(group, shared, events.clone())).open(listener));
    runtime.spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A full queue has news of its own.
            let _ = events.try_send(Event::Tick);
        }
    });
    runtime.block_on(signals.next());
    // What is not durable was not acknowledged: there is nothing to wait for.
    runtime.shutdown_background();
    Ok(())
}
