//! `voting-client`: votes on each ballot, at both replicas, and logs each result.
//!
//! Each server has a task that asks it for news, on one connection, and a task that sends it votes, on another. Both
//! servers are asked: the one that is the backup says nothing until it is the primary, and then at once.

mod log_file;
mod voter;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use madkv_proto::map::ClusterMap;
use parking_lot::Mutex;
use rand::RngExt;
use smr::codec;
use smr::id::ClusterId;
use smr_service::address::is_same;
use smr_service::args::{self, BadArgument};
use smr_service::dial::Dialled;
use smr_service::frames::{ClientRequest, ClientResponse, Service};
use smr_service::notifications::Batch;
use smr_service::process::{self, Fatal, Signals, jittered};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::words::{Ask, POLL_HOLD_MS, Said, Situation, VoteFate, check_voter, service};

pub use log_file::LogFile;
pub use voter::{CannotGoOn, Cast, Voter};

/// The program's name.
pub const PROGRAM: &str = "voting-client";
/// How long a server may take to answer beyond the time for which it may keep a question, in milliseconds.
const ANSWER_MS: u64 = 1_000;
/// How long a server may take to answer for a vote, in milliseconds.
const VOTE_MS: u64 = 3_000;
/// The pause before a server is tried again, in milliseconds.
const PAUSE_MS: u64 = 100;
/// Servers that a client keeps in touch with: those that it was given, and those that it was told of.
const SERVERS_MAX: usize = 8;

/// What a client votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Always yes.
    Yes,
    /// Always no.
    No,
    /// A coin for each ballot.
    Random,
}

/// A client that votes on each ballot and logs each result.
#[derive(Clone, Debug, Parser)]
#[command(name = PROGRAM, version)]
pub struct Options {
    /// Where servers are: host:port, separated by commas; one is enough.
    #[arg(long = "servers")]
    pub servers: String,
    /// Number of the group in the managers' layout, from 0.
    #[arg(long = "partition_id", default_value_t = 0, allow_negative_numbers = true)]
    pub partition_id: u16,
    /// The client's name: who votes twice under one name votes once.
    #[arg(long = "name")]
    pub name: String,
    /// The log: a line VOTE_ID YES NO for each result. It goes on where it ends.
    #[arg(long = "log", value_name = "FILE")]
    pub log: PathBuf,
    /// What it votes.
    #[arg(long = "vote", value_enum, default_value_t = Choice::Random)]
    pub vote: Choice,
    /// End once this result is logged.
    #[arg(long = "until", value_name = "VOTE ID", allow_negative_numbers = true)]
    pub until: Option<u64>,
    /// End in order, as at SIGTERM, when stdin ends: for programs that start this one and may be killed.
    #[arg(long = "end_with_stdin")]
    pub end_with_stdin: bool,
}

impl Options {
    fn check(&self) -> Result<Vec<String>, BadArgument> {
        check_voter(&self.name).map_err(|error| BadArgument(format!("--name: {error}")))?;
        let servers = args::addresses("--servers", &self.servers)?;
        if !(1..=SERVERS_MAX).contains(&servers.len()) {
            return Err(BadArgument(format!("--servers: {}; 1 to {SERVERS_MAX} are possible", servers.len())));
        }
        Ok(servers)
    }
}

fn say(line: &str) {
    process::say(PROGRAM, line);
}

/// What all tasks of a client share.
struct Shared {
    service: Service,
    name: String,
    vote: Choice,
    until: Option<u64>,
    known: Mutex<Known>,
    cast: watch::Sender<Option<Cast>>,
    ended: Notify,
    failed: mpsc::Sender<String>,
    /// Addresses that no task keeps in touch with yet.
    named: mpsc::Sender<String>,
}

struct Known {
    voter: Voter,
    log: LogFile,
    cluster: Option<ClusterId>,
}

/// Runs a client until its last result is logged, or a signal ends it.
///
/// # Errors
/// Why it cannot run, or go on.
pub fn run(options: &Options) -> Result<(), Fatal> {
    let servers = options.check()?;
    let log = LogFile::open(&options.log).map_err(|error| Fatal::Failed(error.to_string()))?;
    if options.until.is_some_and(|until| log.next() > until) {
        return Ok(());
    }
    let runtime = process::runtime()?;
    let (failed, mut failures) = mpsc::channel(1);
    let (named, mut new_servers) = mpsc::channel(SERVERS_MAX);
    let voter = Voter::new(log.next());
    let shared = Arc::new(Shared {
        service: service(options.partition_id),
        name: options.name.clone(),
        vote: options.vote,
        until: options.until,
        known: Mutex::new(Known { voter, log, cluster: None }),
        cast: watch::Sender::new(None),
        ended: Notify::new(),
        failed,
        named,
    });
    let ended = runtime.block_on(async {
        let mut signals = Signals::listen(options.end_with_stdin)?;
        let mut known: Vec<String> = Vec::new();
        let keep_in_touch = |address: String, known: &mut Vec<String>| {
            if known.len() < SERVERS_MAX && !known.iter().any(|other| is_same(other, &address)) {
                known.push(address.clone());
                tokio::spawn(Arc::clone(&shared).hear(address.clone()));
                tokio::spawn(Arc::clone(&shared).vote(address));
            }
        };
        servers.into_iter().for_each(|address| keep_in_touch(address, &mut known));
        loop {
            tokio::select! {
                Some(address) = new_servers.recv() => keep_in_touch(address, &mut known),
                Some(why) = failures.recv() => return Err(Fatal::Failed(why)),
                () = shared.ended.notified() => return Ok(()),
                () = signals.next() => return Ok(()),
            }
        }
    });
    runtime.shutdown_background();
    ended
}

/// Asks a server, on the connection that there is, or on a new one.
async fn ask(
    connection: &mut Option<Dialled>,
    (address, service): (&str, Service),
    cluster: Option<ClusterId>,
    limit: Duration,
    ask: &Ask,
) -> Result<Said, String> {
    let mut server = match connection.take() {
        Some(server) => server,
        None => Dialled::to(address, service, cluster, limit).await.map_err(|error| error.to_string())?,
    };
    let request = ClientRequest::Control(codec::encode(ask).into());
    // The connection is not kept if an answer may still come on it.
    let answer = timeout(limit, server.ask::<ClusterMap>(request)).await.map_err(|_| "no answer".to_owned())?;
    let said = match answer.map_err(|error| error.to_string())? {
        ClientResponse::Answer(bytes) => codec::decode(&bytes).map_err(|error| error.to_string())?,
        other => return Err(format!("{other:?}")),
    };
    *connection = Some(server);
    Ok(said)
}

/// Whether a server is of the cluster that is known, which is that of the first server that was reached.
///
/// # Errors
/// If it is not.
fn check_cluster(known: &mut Option<ClusterId>, theirs: Option<ClusterId>, address: &str) -> Result<(), String> {
    let theirs = theirs.ok_or_else(|| format!("{address} names no cluster"))?;
    let known = *known.get_or_insert(theirs);
    if theirs != known {
        return Err(format!("{address} is of cluster {theirs}, but results are logged of cluster {known}"));
    }
    Ok(())
}

impl Shared {
    /// Hears what a server has to say, again and again.
    async fn hear(self: Arc<Shared>, address: String) {
        let limit = Duration::from_millis(POLL_HOLD_MS + ANSWER_MS);
        let mut connection = None;
        loop {
            if connection.is_none() {
                // Told which cluster is meant, one of another would refuse, and be taken for one that is down.
                match Dialled::to(&address, self.service, None, limit).await {
                    Ok(server) => {
                        let theirs = server.welcome().cluster;
                        if let Err(why) = check_cluster(&mut self.known.lock().cluster, theirs, &address) {
                            let _ = self.failed.try_send(why);
                            return;
                        }
                        connection = Some(server);
                    }
                    Err(error) => {
                        tracing::debug!(%error, %address, "not reached");
                        sleep(jittered(Duration::from_millis(PAUSE_MS))).await;
                        continue;
                    }
                }
            }
            let (from, seen, cluster) = {
                let known = self.known.lock();
                (known.voter.next(), known.voter.situation().cloned(), known.cluster)
            };
            let poll = Ask::Poll { voter: self.name.clone(), from, seen };
            match ask(&mut connection, (&address, self.service), cluster, limit, &poll).await {
                Ok(Said::News { results, situation }) => {
                    if let Err(why) = self.take(results, situation) {
                        // One reason is enough.
                        let _ = self.failed.try_send(why);
                        return;
                    }
                }
                Ok(Said::Refused(why)) => {
                    let _ = self.failed.try_send(format!("{address} refuses: {why}"));
                    return;
                }
                Ok(other) => {
                    tracing::debug!(?other, %address, "no news");
                    sleep(jittered(Duration::from_millis(PAUSE_MS))).await;
                }
                Err(why) => {
                    tracing::debug!(%why, %address, "not heard");
                    sleep(jittered(Duration::from_millis(PAUSE_MS))).await;
                }
            }
        }
    }

    /// Takes in what a server said.
    fn take(&self, results: Batch, situation: Option<Situation>) -> Result<(), String> {
        let mut known = self.known.lock();
        let Known { voter, log, cluster } = &mut *known;
        let cluster = cluster.ok_or("a server names no cluster")?;
        let new = voter.results(results).map_err(|error| error.to_string())?;
        log.append(&new).map_err(|error| error.to_string())?;
        for (vote, tally) in &new {
            let (yes, no, percent) = (tally.yes, tally.no, tally.yes_percent());
            say(&format!("result {cluster}:{vote}: {yes} yes, {no} no, {percent:.0} % voted yes"));
        }
        if let Some(situation) = situation {
            let before = voter.situation().map(ToString::to_string);
            let now = situation.to_string();
            if voter.hear(situation) && before.as_ref() != Some(&now) {
                say(&now);
                for address in voter.named() {
                    // If there is no room it is heard of again.
                    let _ = self.named.try_send(address);
                }
            }
        }
        let cast = voter.cast(|_| match self.vote {
            Choice::Yes => true,
            Choice::No => false,
            Choice::Random => rand::rng().random(),
        });
        if self.until.is_some_and(|until| voter.next() > until) {
            self.ended.notify_one();
        }
        // Under the lock, so that it is never that of before.
        self.cast.send_if_modified(|known| std::mem::replace(known, cast) != cast);
        Ok(())
    }

    /// Sends each vote to a server, if that collects votes, until it has it.
    async fn vote(self: Arc<Shared>, address: String) {
        let limit = Duration::from_millis(VOTE_MS);
        let mut cast = self.cast.subscribe();
        let mut connection = None;
        let mut had: Option<Cast> = None;
        loop {
            let now = *cast.borrow_and_update();
            let due = now.filter(|cast| had != Some(*cast) && self.known.lock().voter.votes_at(&address));
            let Some(vote) = due else {
                // The situation may have changed without another vote: it is looked at again after a pause.
                let pause = sleep(jittered(Duration::from_millis(PAUSE_MS)));
                tokio::select! {
                    changed = cast.changed() => if changed.is_err() { return },
                    () = pause => {}
                }
                continue;
            };
            let cluster = self.known.lock().cluster;
            let question = Ask::Vote { ballot: vote.ballot, voter: self.name.clone(), yes: vote.yes };
            match ask(&mut connection, (&address, self.service), cluster, limit, &question).await {
                Ok(Said::Vote(VoteFate::Counted | VoteFate::Kept | VoteFate::Closed)) => had = Some(vote),
                other => {
                    tracing::debug!(?other, ?vote, %address, "not voted");
                    sleep(jittered(Duration::from_millis(PAUSE_MS))).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_two_clusters_do_not_go_together() {
        let mut known = None;
        let mut check = |id| check_cluster(&mut known, Some(ClusterId(id)), "127.0.0.1:1");
        assert_eq!([check(7), check(7)], [Ok(()), Ok(())]);
        let said = check(8).unwrap_err();
        assert!(said.contains("127.0.0.1:1 is of cluster 00000000000000000000000000000008, but"), "{said}");
        assert_eq!(check(7), Ok(()), "the first one stays");
        assert!(check_cluster(&mut known, None, "127.0.0.1:1").is_err());
    }
}
