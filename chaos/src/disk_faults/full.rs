//! The disk of one replica is full (fault catalogue D7): it acknowledges nothing that it could not write, stops with a
//! line that says so, the others go on, and with room again it goes on too. A leader whose disk is almost full goes on
//! without more data (D31).

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use smr_service::fatal::EXIT_FATAL;

use super::small_disk::SmallDisk;
use super::{BEHIND_ENTRIES, Cut};
use madkv_testkit::cluster::{Cluster, Group, Node, Shape};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::load::{Load, Plan};
use madkv_testkit::process::clear_log;
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;

/// How long anything may take that must happen in the end.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Answers that show that a group serves.
const ANSWERS: u64 = 50;
/// Room for a log that is cut once in a while, in bytes.
pub const DISK_BYTES: u64 = 192 << 20;
/// Less than a leader needs to take everything, and enough to go on for long, in bytes.
const LITTLE_ROOM_BYTES: u64 = 12 << 20;
/// A value that fills a disk quickly, in bytes, and how many of them at most.
const LARGE_VALUE_BYTES: usize = 256 << 10;
const LARGE_VALUES_MAX: usize = 2_000;
/// Under how many keys they are put: together the size of the state.
const LARGE_KEYS: usize = 40;

const ONLY: Group = Group::Partition(0);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Which of the replicas has the small disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// One that follows.
    Followers,
    /// The one that leads.
    Leaders,
}

/// How writing large values ended.
enum Written {
    /// The replica has stopped.
    Stopped,
    /// All of them were written, and it runs.
    All,
}

/// A group of three, one of them on a small disk of its own.
pub struct SmallDiskGroup {
    /// The group, and a manager.
    pub cluster: Cluster,
    /// Who has the small disk.
    pub node: Node,
    disk: SmallDisk,
}

impl SmallDiskGroup {
    /// Starts it in `directory`.
    ///
    /// # Errors
    /// [`super::Skipped`] where mounting is not possible, and if a node does not do what it should.
    pub fn start(programs: &Programs, directory: &Path) -> Outcome<SmallDiskGroup> {
        let node = Node::Server { partition: 0, replica: 1 };
        let flags = sync_flags(directory);
        let shape = Shape { server_rf: 3, manager_rf: 1, partitions: 1 };
        let mut cluster = Cluster::on_free_ports(programs, shape, directory, &flags)?;
        let disk = SmallDisk::mount(directory, &format!("backer.{node}"), DISK_BYTES)?;
        assert_eq!(disk.path(), cluster.backer_path(node));
        // The first start, on a full disk: no hard state can be saved, so the process does not run.
        disk.fill(0)?;
        cluster.start_all()?;
        let group = SmallDiskGroup { cluster, node, disk };
        let mut group = group;
        group.wait_stopped("the first start")?;
        group.disk.make_room()?;
        group.cluster.start_all()?;
        group.cluster.wait_ready(TIMEOUT)?;
        Ok(group)
    }

    /// The leader's disk is almost full: it goes on, and refuses what makes the state larger until there is room again.
    ///
    /// # Errors
    /// If it takes it all the same, or ends, or does not take it once there is room.
    pub fn leave_leader_little_room(&mut self) -> Outcome<String> {
        self.give_role(Whose::Leaders)?;
        let term = wait_for(TIMEOUT, "a status", || self.cluster.status(self.node).ok())?.term;
        let mut client = self.cluster.client()?;
        let mut ask = |line: &str| client.ask(line, TIMEOUT);
        ask("PUT doomed value")?;
        self.disk.fill(LITTLE_ROOM_BYTES)?;
        let refusal = until(|| Ok(Some(ask("PUT more value")?).filter(|answer| answer.contains("disk full"))))?;
        let found = ask("GET doomed")?;
        if !found.contains("value") {
            return Err(format!("a read on a full disk: {found}").into());
        }
        let deleted = ask("DELETE doomed")?;
        if !deleted.contains(" found") {
            return Err(format!("a removal on a full disk: {deleted}").into());
        }
        self.disk.make_room()?;
        until(|| Ok(Some(ask("PUT more value")?).filter(|answer| !answer.contains("disk full"))))?;
        let after = wait_for(TIMEOUT, "a status", || self.cluster.status(self.node).ok())?.term;
        if after != term {
            return Err(format!("the leadership moved from term {term} to {after}").into());
        }
        Ok(refusal)
    }

    /// Lets the disk of a follower run full under load; then gives it room again.
    ///
    /// # Errors
    /// If the replica does not stop, says nothing of use, or anything acknowledged is lost.
    pub fn run_full_under_load(&mut self) -> Outcome<String> {
        self.give_role(Whose::Followers)?;
        clear_log(self.cluster.process(self.node))?;
        let plan = Plan { clients: 4, keys: 5, prefix: "full".to_owned() };
        let mut load = Load::start(&self.cluster, &plan)?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        self.disk.fill(0)?;
        self.fill_log()?;
        let line = self.wait_stopped("a full disk")?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        // Without room it may start or not; but it is not to hang, and not to be believed to be new.
        self.cluster.process(self.node).start()?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        self.cluster.process(self.node).kill();
        self.go_on_with_room()?;
        clear_log(self.cluster.process(self.node))?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        load.finish()?.check(&self.cluster)?;
        Ok(line)
    }

    /// Lets the disk run full while large values and snapshots are written; then gives it room again. With room enough
    /// for all that it ever needs at a time a replica goes on instead, and must have everything.
    ///
    /// # Errors
    /// As [`SmallDiskGroup::run_full_under_load`].
    pub fn run_full_with_spare(&mut self, spare_bytes: u64) -> Outcome<String> {
        self.give_role(Whose::Followers)?;
        let plan = Plan { clients: 2, keys: 5, prefix: format!("spare{spare_bytes}-") };
        let mut load = Load::start(&self.cluster, &plan)?;
        self.disk.fill(spare_bytes)?;
        let line = match self.write_large_values()? {
            Written::Stopped => self.wait_stopped("a disk that is almost full")?,
            Written::All => {
                self.cluster.wait_caught_up(ONLY, TIMEOUT)?;
                let written = (LARGE_VALUES_MAX * LARGE_VALUE_BYTES) >> 20;
                format!("it goes on: {written} MiB were written in the room of {} MiB", DISK_BYTES >> 20)
            }
        };
        load.wait_answers(ANSWERS, TIMEOUT)?;
        self.go_on_with_room()?;
        load.finish()?.check(&self.cluster)?;
        Ok(line)
    }

    /// A replica that is far behind has no room for the snapshot that it needs.
    ///
    /// # Errors
    /// As [`SmallDiskGroup::run_full_under_load`].
    pub fn receive_snapshot_without_room(&mut self) -> Outcome<String> {
        let plan = Plan { clients: 2, keys: 5, prefix: "behind".to_owned() };
        let mut load = Load::start(&self.cluster, &plan)?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        self.give_role(Whose::Followers)?;
        let seen = wait_for(TIMEOUT, "a status", || self.cluster.status(self.node).ok())?.last.index;
        self.cluster.process(self.node).kill();
        let leader = self.cluster.wait_leader(ONLY, TIMEOUT)?;
        let mut client = self.cluster.client()?;
        let mut written = 0;
        let mut cut = Cut::after(seen.0 + BEHIND_ENTRIES);
        while !cut.is_done(wait_for(TIMEOUT, "a status", || self.cluster.status(leader).ok())?.snapshot.index.0) {
            if written > LARGE_VALUES_MAX {
                return Err("the log is never cut".into());
            }
            put_large(&mut client, &mut written)?;
        }
        // Enough to open the log, and less than the large values in the state.
        self.disk.fill((LARGE_KEYS * LARGE_VALUE_BYTES / 2) as u64)?;
        clear_log(self.cluster.process(self.node))?;
        self.cluster.process(self.node).start()?;
        let line = self.wait_line("a snapshot without room", "No space left")?;
        load.wait_answers(ANSWERS, TIMEOUT)?;
        self.go_on_with_room()?;
        load.finish()?.check(&self.cluster)?;
        Ok(line)
    }

    /// Stopped or not, with room the replica goes on.
    fn go_on_with_room(&mut self) -> Outcome<()> {
        self.disk.make_room()?;
        self.cluster.process(self.node).start()?;
        Ok(self.cluster.wait_caught_up(ONLY, TIMEOUT)?)
    }

    fn give_role(&mut self, whose: Whose) -> Outcome<()> {
        for _ in 0..20 {
            let leader = self.cluster.wait_leader(ONLY, TIMEOUT)?;
            if (leader == self.node) == (whose == Whose::Leaders) {
                return Ok(());
            }
            // Whoever leads and should not is killed; sooner or later the right one leads.
            self.cluster.process(leader).kill();
            self.cluster.wait_leader(ONLY, TIMEOUT)?;
            self.cluster.process(leader).start()?;
            self.cluster.wait_caught_up(ONLY, TIMEOUT)?;
        }
        Err(format!("{} does not get the role {whose:?}", self.node).into())
    }

    /// Writes large values until the replica has stopped.
    fn fill_log(&mut self) -> Outcome<()> {
        match self.write_large_values()? {
            Written::Stopped => Ok(()),
            Written::All => Err(format!("{} still runs on a full disk", self.node).into()),
        }
    }

    /// Writes large values until the replica has stopped, or they are several times what the disk holds. The log may
    /// have room in segments of its own for a while.
    fn write_large_values(&mut self) -> Outcome<Written> {
        let mut client = self.cluster.client()?;
        let mut written = 0;
        while self.cluster.process(self.node).is_running() {
            if written > LARGE_VALUES_MAX {
                return Ok(Written::All);
            }
            put_large(&mut client, &mut written)?;
        }
        Ok(Written::Stopped)
    }

    /// It has ended with a code that says so, and with a line that says why.
    fn wait_stopped(&mut self, when: &str) -> Outcome<String> {
        let process = self.cluster.process(self.node);
        let status = process.wait_end(TIMEOUT).ok_or_else(|| format!("{when}: it does not end"))?;
        if !matches!(status.code(), Some(1 | EXIT_FATAL)) {
            return Err(format!("{when}: ended with {status}: {}", process.log_tail()).into());
        }
        let line = self.wait_line(when, "No space left")?;
        clear_log(self.cluster.process(self.node))?;
        Ok(line)
    }

    fn wait_line(&mut self, when: &str, what: &str) -> Outcome<String> {
        let path = self.cluster.backer_path(self.node).display().to_string();
        let process = self.cluster.process(self.node);
        let found = wait_for(TIMEOUT, "a line", || {
            process.log_text().lines().find(|line| line.contains(what) && line.contains(&path)).map(str::to_owned)
        });
        found.map_err(|_| format!("{when}: no line with {what:?} and {path}: {}", process.log_tail()).into())
    }
}

/// Asks until there is an answer.
fn until(mut ask: impl FnMut() -> Outcome<Option<String>>) -> Outcome<String> {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("what should come in the end does not".into())
}

fn put_large(client: &mut madkv_testkit::line_client::LineClient, written: &mut usize) -> Outcome<()> {
    let value = "v".repeat(LARGE_VALUE_BYTES);
    for _ in 0..4 {
        client.ask(&format!("PUT large{} {value}", *written % LARGE_KEYS), TIMEOUT)?;
        *written += 1;
    }
    Ok(())
}
