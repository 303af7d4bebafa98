//! The disk of one replica fails or hangs (fault catalogue D6, D8, D12, D14, D15, E19). The system calls of a real
//! server are tampered with.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use smr::LogEngine;
use smr::status::ServiceState;
use smr_service::fatal::EXIT_FATAL;

use super::injector::{self, Injector, Tampering, starter, tampered};
use super::{BEHIND_ENTRIES, Cut};
use madkv_testkit::cluster::{Cluster, Group, Node, Shape};
use madkv_testkit::launcher::{choose_log_engine, sync_flags};
use madkv_testkit::load::{Load, Plan};
use madkv_testkit::proc::has_ended;
use madkv_testkit::process::clear_log;
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;

/// How long anything may take that must happen in the end.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A process that is asked to end is gone within 5 s, also if its disk hangs; the rest is for a busy machine.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// Answers that show that a group serves.
const ANSWERS: u64 = 30;
/// What a start takes at most until its directory is read, as far as kills are spread over it.
const RECOVERY_MAX: Duration = Duration::from_millis(400);
/// A leader whose writes take this long gives up its role, in milliseconds: several election timeouts.
const MOVES_MS: u64 = 5_000;
/// Values that push the log over its limit, in bytes, and how many of them at most.
const LARGE_VALUE_BYTES: usize = 256 << 10;
const LARGE_VALUES_MAX: usize = 4_000;
/// How often a snapshot is sent until the right one sends it.
const SENDING_TRIES: u32 = 5;
/// What makes something durable, in sled (first and last) and in our own code.
pub const WRITING: &str = "pwrite64,fdatasync,fsync,sync_file_range";

/// What brings the log to the device, in the engine of the clusters that this process starts.
///
/// # Errors
/// If the environment names an engine that there is not.
pub fn log_sync() -> Result<&'static str, String> {
    Ok(match choose_log_engine(None)? {
        LogEngine::Sled => "sync_file_range",
        _ => "fdatasync",
    })
}

const ONLY: Group = Group::Partition(0);
/// Whose disk it is.
const NODE: Node = Node::Server { partition: 0, replica: 0 };

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What the replica with the bad disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It follows.
    Follower,
    /// It leads.
    Leader,
}

/// How a start with a failing disk went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// It ended with this line.
    Refused(String),
    /// It serves: the call was not needed, or never made.
    Serves,
}

/// A group of three whose first replica gets a bad disk.
pub struct BadDiskGroup {
    /// The group, and a manager.
    pub cluster: Cluster,
    trace: PathBuf,
    rounds: u64,
}

impl BadDiskGroup {
    /// Starts it in `directory`.
    ///
    /// # Errors
    /// [`super::Skipped`] without strace, and if a node does not do what it should.
    pub fn start(programs: &Programs, directory: &Path) -> Outcome<BadDiskGroup> {
        injector::available()?;
        let flags = sync_flags(directory);
        let shape = Shape { server_rf: 3, manager_rf: 1, partitions: 1 };
        let mut cluster = Cluster::on_free_ports(programs, shape, directory, &flags)?;
        cluster.start_all()?;
        cluster.wait_ready(TIMEOUT)?;
        Ok(BadDiskGroup { cluster, trace: directory.join("strace"), rounds: 0 })
    }

    /// Lets one call on one file or directory of the replica fail under load: the process ends at once, the others go
    /// on, and after a restart it is whole. Gives its last line.
    ///
    /// # Errors
    /// If not.
    pub fn fail(&mut self, role: Role, file: &str, calls: &str, number: u32) -> Outcome<String> {
        self.give_role(role)?;
        let mut load = self.load()?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        clear_log(self.cluster.process(NODE))?;
        let injector = self.attach(file, calls, Tampering::FailOnce(number))?;
        let at = format!("{calls} number {number} on {file} of the {role:?}");
        let status = self.cluster.process(NODE).wait_end(TIMEOUT).ok_or_else(|| format!("{at}: it goes on"))?;
        drop(injector);
        let log = self.cluster.process(NODE).log_text();
        if status.code() != Some(EXIT_FATAL) {
            return Err(format!("{at}: ended with {status}: {log}").into());
        }
        let failed = tampered(&self.trace);
        if failed == 0 {
            return Err(format!("{at}: ended although nothing had failed: {log}").into());
        }
        load.wait_answers(ANSWERS, TIMEOUT)?;
        self.cluster.process(NODE).start()?;
        self.cluster.wait_caught_up(ONLY, TIMEOUT)?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        load.finish()?.check(&self.cluster)?;
        last_line(&log, &self.cluster.backer_path(NODE)).ok_or_else(|| format!("{at}: no useful line: {log}").into())
    }

    /// Lets all writing calls hang for `delay_ms` each, under load. Those who are not concerned go on, a leader that
    /// hangs is replaced, and a signal ends the process all the same. Gives the longest wait for an answer meanwhile,
    /// and when another one led.
    ///
    /// # Errors
    /// If not.
    pub fn hang(&mut self, role: Role, delay_ms: u64) -> Outcome<(Duration, Option<Duration>)> {
        self.give_role(role)?;
        let mut load = self.load()?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        let from = Instant::now();
        let injector = self.attach("", WRITING, Tampering::DelayFrom(1, delay_ms))?;
        let attached = Instant::now();
        let mut moved = None;
        if role == Role::Leader && delay_ms >= MOVES_MS {
            wait_for(TIMEOUT, "another leader", || self.cluster.leader(ONLY).filter(|&leader| leader != NODE))?;
            moved = Some(attached.elapsed());
        }
        load.wait_answers(4 * ANSWERS, TIMEOUT)?;
        self.cluster.process(NODE).send_terminate();
        let asked = Instant::now();
        let pid = self.cluster.process(NODE).pid().ok_or("the replica has ended by itself")?;
        let ended = wait_for(END_TIMEOUT, "its end", || has_ended(pid).then_some(()));
        drop(injector);
        if ended.is_err() {
            let what = format!("each write hangs for {delay_ms} ms: asked to end, it runs after {:?}", asked.elapsed());
            return Err(what.into());
        }
        self.cluster.process(NODE).wait_end(END_TIMEOUT).ok_or("it is not gone")?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        self.cluster.process(NODE).start()?;
        self.cluster.wait_caught_up(ONLY, TIMEOUT)?;
        let history = load.finish()?;
        history.check(&self.cluster)?;
        Ok((history.longest_wait(from, None), moved))
    }

    /// Starts the replica with one call failing: it ends with a line, or serves everything; and then it starts whole,
    /// for an error of the device is no damage.
    ///
    /// # Errors
    /// If not.
    pub fn fail_at_start(&mut self, calls: &str, number: u32) -> Outcome<Start> {
        self.cluster.process(NODE).kill();
        clear_log(self.cluster.process(NODE))?;
        let command = starter(calls, Tampering::FailOnce(number), Some(&self.cluster.backer_path(NODE)), &self.trace)?;
        self.cluster.process(NODE).start_by(command)?;
        let at = format!("{calls} number {number} of the start");
        let start = wait_for(TIMEOUT, "the start", || self.started(&at))??;
        self.cluster.process(NODE).kill();
        self.start_whole(&at)?;
        Ok(start)
    }

    fn started(&mut self, at: &str) -> Option<Outcome<Start>> {
        if let Some(status) = self.cluster.process(NODE).ended() {
            let log = self.cluster.process(NODE).log_text();
            let line = last_line(&log, &self.cluster.backer_path(NODE));
            return Some(match (status.code(), line) {
                (Some(1 | EXIT_FATAL), Some(line)) => Ok(Start::Refused(line)),
                (code, _) => Err(format!("{at}: ended with {code:?} and without a useful line: {log}").into()),
            });
        }
        match self.cluster.status(NODE).ok()?.service_state {
            ServiceState::InService => {
                let leader = self.cluster.leader(ONLY)?;
                let commit = self.cluster.status(leader).ok()?.commit;
                (self.cluster.status(NODE).ok()?.applied >= commit).then_some(Ok(Start::Serves))
            }
            other => Some(Err(format!("{at}: it is {other:?}").into())),
        }
    }

    /// Kills the replica with a call of its start, and starts it again. False if the start makes no such call.
    ///
    /// # Errors
    /// If it is not whole then.
    pub fn kill_at_start(&mut self, calls: &str, number: u32) -> Outcome<bool> {
        self.cluster.process(NODE).kill();
        let command = starter(calls, Tampering::Kill(number), None, &self.trace)?;
        self.cluster.process(NODE).start_by(command)?;
        let at = format!("killed with {calls} number {number} of the start");
        let serves = |group: &mut BadDiskGroup| match group.cluster.process(NODE).ended() {
            Some(_) => Some(false),
            None => group.cluster.status(NODE).is_ok().then_some(true),
        };
        let survived = wait_for(TIMEOUT, "the start or its end", || serves(self))?;
        if survived {
            self.cluster.process(NODE).kill();
            return Ok(false);
        }
        self.start_whole(&at)?;
        Ok(true)
    }

    /// Starts and kills the replica again and again, each time after a part of the time that a start takes; then it
    /// must be whole.
    ///
    /// # Errors
    /// If not.
    pub fn kill_in_starts(&mut self, rounds: u32) -> Outcome<()> {
        self.cluster.process(NODE).kill();
        let begun = Instant::now();
        self.start_whole("before")?;
        // What comes after, finding the leader, is no recovery.
        let whole = begun.elapsed().min(RECOVERY_MAX);
        for round in 0..rounds {
            self.cluster.process(NODE).kill();
            self.cluster.process(NODE).start()?;
            // The moment is the fault, nothing is waited for: spread over the start by the golden ratio.
            std::thread::sleep(whole.mul_f64(f64::from(round) * 0.618_034 % 1.0));
        }
        self.cluster.process(NODE).kill();
        self.start_whole(&format!("after {rounds} kills in its starts"))
    }

    /// Lets a read of the leader's snapshot fail while it sends it to a replica that is far behind: the leader ends
    /// with a line, the others go on, and in the end everyone has everything. Gives the line; `None` if the snapshot
    /// was sent with fewer reads.
    ///
    /// # Errors
    /// If not.
    pub fn fail_sending(&mut self, number: u32) -> Outcome<Option<String>> {
        for _ in 0..SENDING_TRIES {
            if let Some(line) = self.try_fail_sending(number)? {
                return Ok(Some(line));
            }
            // On a busy machine another one may have come to lead, and to send.
            if self.cluster.leader(ONLY) == Some(NODE) {
                return Ok(None);
            }
        }
        Err(format!("pread64 number {number}: others lead whenever a snapshot is sent").into())
    }

    fn try_fail_sending(&mut self, number: u32) -> Outcome<Option<String>> {
        self.give_role(Role::Leader)?;
        let behind = Node::Server { partition: 0, replica: 2 };
        let status = |cluster: &Cluster, node| wait_for(TIMEOUT, "a status", || cluster.status(node).ok());
        let seen = status(&self.cluster, behind)?.last.index;
        self.cluster.process(behind).kill();
        let mut client = self.cluster.client()?;
        let value = "v".repeat(LARGE_VALUE_BYTES);
        let mut written = 0;
        let mut cut = Cut::after(seen.0 + BEHIND_ENTRIES);
        while !cut.is_done(status(&self.cluster, NODE)?.snapshot.index.0) {
            if written > LARGE_VALUES_MAX {
                return Err("the log is never cut".into());
            }
            for _ in 0..10 {
                client.ask(&format!("PUT large{} {value}", written % 8), TIMEOUT)?;
                written += 1;
            }
        }
        clear_log(self.cluster.process(NODE))?;
        let end = status(&self.cluster, NODE)?.last.index;
        let injector = self.attach("snapshots", "pread64", Tampering::FailOnce(number))?;
        self.cluster.process(behind).start()?;
        let at = format!("pread64 number {number} of a snapshot that is sent");
        let ended = wait_for(TIMEOUT, &at, || match self.cluster.process(NODE).ended() {
            Some(status) => Some(Some(status)),
            None => self.cluster.status(behind).is_ok_and(|status| status.applied >= end).then_some(None),
        })?;
        drop(injector);
        let Some(ended) = ended else {
            return match tampered(&self.trace) {
                0 => Ok(None),
                _ => Err(format!("{at}: it failed, and the leader goes on").into()),
            };
        };
        let log = self.cluster.process(NODE).log_text();
        if ended.code() != Some(EXIT_FATAL) {
            return Err(format!("{at}: ended with {ended}: {log}").into());
        }
        client.ask("PUT after 1", TIMEOUT)?;
        self.cluster.process(NODE).start()?;
        self.cluster.wait_caught_up(ONLY, TIMEOUT)?;
        let line = last_line(&log, &self.cluster.backer_path(NODE));
        line.map(Some).ok_or_else(|| format!("{at}: no useful line: {log}").into())
    }

    /// Writes something, so that each start has something to recover.
    ///
    /// # Errors
    /// If a client gets no answer.
    pub fn write_some(&mut self) -> Outcome<()> {
        let mut load = self.load()?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        load.finish()?.check(&self.cluster)?;
        Ok(())
    }

    fn start_whole(&mut self, at: &str) -> Outcome<()> {
        self.cluster.process(NODE).start()?;
        let started = wait_for(TIMEOUT, at, || self.started(at))??;
        if started != Start::Serves {
            return Err(format!("{at}: {started:?}").into());
        }
        Ok(())
    }

    fn attach(&mut self, file: &str, calls: &str, tampering: Tampering) -> Outcome<Injector> {
        let pid = self.cluster.process(NODE).pid().ok_or("the replica does not run")?;
        Injector::attach(pid, calls, tampering, &self.cluster.backer_path(NODE).join(file), &self.trace)
    }

    fn load(&mut self) -> Outcome<Load> {
        self.rounds += 1;
        let plan = Plan { clients: 4, keys: 5, prefix: format!("r{}-", self.rounds) };
        Ok(Load::start(&self.cluster, &plan)?)
    }

    fn give_role(&mut self, role: Role) -> Outcome<()> {
        for _ in 0..20 {
            let leader = self.cluster.wait_leader(ONLY, TIMEOUT)?;
            if (leader == NODE) == (role == Role::Leader) {
                return Ok(());
            }
            self.cluster.process(leader).kill();
            self.cluster.wait_leader(ONLY, TIMEOUT)?;
            self.cluster.process(leader).start()?;
            self.cluster.wait_caught_up(ONLY, TIMEOUT)?;
        }
        Err(format!("{NODE} does not get the role {role:?}").into())
    }
}

/// The line that names something below `path` as the reason for the process's end, or else the last line that names
/// such a thing: until the process is gone its other threads go on, and may say theirs behind it.
fn last_line(log: &str, path: &Path) -> Option<String> {
    let path = path.display().to_string();
    let naming = || log.lines().rev().filter(|line| line.contains(&path));
    naming().find(|line| line.contains("this process ends")).or_else(|| naming().next()).map(str::to_owned)
}
