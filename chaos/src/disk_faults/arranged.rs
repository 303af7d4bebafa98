//! A group of three in which a replica that forgets what it acknowledged would cost acknowledged writes.
//!
//! All writes were acknowledged by the former leader and the *victim*; the *lagging* one has only the first of them.
//! The former leader is down. The victim's directory is damaged, and it starts together with the lagging one, which are
//! a majority. If the victim has everything they serve it all. If it does not, nothing may be served until the former
//! leader is back; a victim that votes although it has forgotten lets the lagging one lead, and the later writes are
//! gone.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smr::internals::storage::ExpectedIdentity;
use smr::status::ServiceState;

use super::Cut;
use super::damage::{Damage, copy_directory};
use super::judge::{self, Verdict};
use madkv_testkit::cluster::{Cluster, Group, Node, Shape};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::process::clear_log;
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;

/// How long anything may take that must happen in the end.
const TIMEOUT: Duration = Duration::from_secs(60);
/// For how long a group without a majority that remembers is watched: several election timeouts.
const WATCH: Duration = Duration::from_millis(2500);
/// Keys that hold the proof.
const KEYS: usize = 40;
/// Size of the values that push the log over its limit, in bytes, and how many of them at most.
const LARGE_VALUE_BYTES: usize = 256 << 10;
const LARGE_VALUES_MAX: usize = 4_000;

const ONLY: Group = Group::Partition(0);
const MANAGERS_AND_SERVERS: [Group; 2] = [Group::Manager, ONLY];
/// The replica whose directory is damaged.
pub const VICTIM: Node = Node::Server { partition: 0, replica: 2 };

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What the victim went through before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// One run only: sled has written no snapshot of its own.
    NeverReopened,
    /// Killed and started again in between.
    Reopened,
    /// It has taken a snapshot, and cut its log.
    Compacted,
}

impl Past {
    /// All of them.
    pub const ALL: [Past; 3] = [Past::NeverReopened, Past::Reopened, Past::Compacted];
}

/// The group, and a copy of each of its directories as they were.
pub struct Arranged {
    cluster: Cluster,
    kept: PathBuf,
    lagging: Node,
    former_leader: Node,
    expected: BTreeMap<String, String>,
}

impl Arranged {
    /// Brings it about. Everything lives in `directory`.
    ///
    /// # Errors
    /// If a node or a client does not do what it should.
    pub fn set(programs: &Programs, directory: &Path, past: Past) -> Outcome<Arranged> {
        let flags = sync_flags(directory);
        let shape = Shape { server_rf: 3, manager_rf: 1, partitions: 1 };
        let mut cluster = Cluster::on_free_ports(programs, shape, directory, &flags)?;
        cluster.start_all()?;
        cluster.wait_ready(TIMEOUT)?;
        let mut client = cluster.client()?;
        let mut expected = BTreeMap::new();
        for number in 0..KEYS {
            client.ask(&format!("PUT key{number} early"), TIMEOUT)?;
            expected.insert(format!("key{number}"), "early".to_owned());
        }
        cluster.wait_caught_up(ONLY, TIMEOUT)?;
        if past == Past::Reopened {
            cluster.process(VICTIM).kill();
            cluster.process(VICTIM).start()?;
            cluster.wait_caught_up(ONLY, TIMEOUT)?;
        }
        let leader = cluster.wait_leader(ONLY, TIMEOUT)?;
        let lagging = cluster
            .nodes_of(ONLY)
            .find(|&node| node != leader && node != VICTIM)
            .ok_or("no replica is left to lag behind")?;
        cluster.process(lagging).kill();
        if past == Past::Compacted {
            let seen = status(&cluster, VICTIM)?.last.index;
            let value = "v".repeat(LARGE_VALUE_BYTES);
            let mut written = 0;
            // Segments are given back as wholes, a while after the snapshot that covers them.
            let begin = cluster.backer_path(VICTIM).join("log").join("00000001.segment");
            let mut cut = Cut::after(seen.0);
            while !cut.is_done(status(&cluster, VICTIM)?.snapshot.index.0) || begin.exists() {
                if written >= LARGE_VALUES_MAX {
                    return Err(format!("the log was not cut after {written} large values").into());
                }
                for _ in 0..10 {
                    client.ask(&format!("PUT large{} {value}", written % 4), TIMEOUT)?;
                    written += 1;
                }
            }
        }
        for number in 0..KEYS / 2 {
            let value = format!("late{number}");
            client.ask(&format!("PUT key{number} {value}"), TIMEOUT)?;
            expected.insert(format!("key{number}"), value);
        }
        // The victim may have led all the time; then the other one is the former leader all the same.
        let former_leader = cluster
            .nodes_of(ONLY)
            .find(|&node| node != lagging && node != VICTIM)
            .ok_or("no replica is left to be the former leader")?;
        let end = status(&cluster, leader)?.last.index;
        let caught_up = |node| status(&cluster, node).ok().filter(|status| status.applied >= end).map(drop);
        wait_for(TIMEOUT, "both others to apply everything", || caught_up(VICTIM).and(caught_up(former_leader)))?;
        // The watermark follows the last sync by a moment. After it a damage may look like an interrupted write (D2).
        let watermark = cluster.backer_path(VICTIM).join("mark");
        wait_for(TIMEOUT, "the victim's watermark", || (marked_index(&watermark)? >= end.0).then_some(()))?;
        let all: Vec<Node> = MANAGERS_AND_SERVERS.iter().flat_map(|group| cluster.nodes_of(*group)).collect();
        for node in &all {
            cluster.process(*node).kill();
        }
        let kept = directory.join("kept");
        fs::create_dir(&kept)?;
        for node in all {
            copy_directory(&cluster.backer_path(node), &kept.join(node.to_string()))?;
        }
        Ok(Arranged { cluster, kept, lagging, former_leader, expected })
    }

    /// The victim's directory before any damage. Not to be opened, but to be copied.
    pub fn sample(&self) -> PathBuf {
        self.kept.join(VICTIM.to_string())
    }

    /// The victim's replica.
    ///
    /// # Errors
    /// Never, in truth.
    pub fn expected() -> Outcome<ExpectedIdentity> {
        Ok(ExpectedIdentity { group: "s0".parse()?, name: smr::id::ReplicaId(VICTIM.replica()), cluster: None })
    }

    /// Damages one file of the victim, and sees what the group makes of it.
    ///
    /// # Errors
    /// If nothing can be said, because a node or a client does not do what it should.
    pub fn try_damage(&mut self, file: &Path, damage: Damage) -> Outcome<Verdict> {
        self.put_back()?;
        let root = self.cluster.backer_path(VICTIM);
        damage.apply(&root.join(file))?;
        let verdict = self.watch(&root, file);
        for node in self.cluster.nodes_of(ONLY).collect::<Vec<_>>() {
            self.cluster.process(node).kill();
        }
        verdict
    }

    /// Everything is as it was, the managers' memory of later starts included: else they would find the servers set
    /// back.
    fn put_back(&mut self) -> Outcome<()> {
        for group in MANAGERS_AND_SERVERS {
            for node in self.cluster.nodes_of(group).collect::<Vec<_>>() {
                self.cluster.process(node).kill();
                clear_log(self.cluster.process(node))?;
                let path = self.cluster.backer_path(node);
                fs::remove_dir_all(&path)?;
                copy_directory(&self.kept.join(node.to_string()), &path)?;
            }
        }
        for node in self.cluster.nodes_of(Group::Manager).collect::<Vec<_>>() {
            self.cluster.process(node).start()?;
        }
        Ok(())
    }

    fn watch(&mut self, root: &Path, file: &Path) -> Outcome<Verdict> {
        let cluster = &mut self.cluster;
        cluster.process(self.lagging).start()?;
        cluster.process(VICTIM).start()?;
        let what = format!("{VICTIM} to serve, to end or to be quarantined");
        let verdict = wait_for(TIMEOUT, &what, || {
            if let Some(status) = cluster.process(VICTIM).ended() {
                return Some(if status.success() { Err("it ended with success") } else { Ok(Verdict::Refused) });
            }
            match cluster.status(VICTIM).ok()?.service_state {
                ServiceState::Quarantined { reason } if reason.contains("heals by itself") => Some(Ok(Verdict::Heals)),
                ServiceState::Quarantined { .. } => Some(Ok(Verdict::Quarantined)),
                ServiceState::Uninitialized => Some(Err("it says that it is new")),
                _ => cluster.leader(ONLY).map(|_| Ok(Verdict::Whole)),
            }
        })?;
        let verdict = match verdict {
            Ok(verdict) => verdict,
            Err(what) => return Ok(Verdict::Wrong(what.to_owned())),
        };
        if verdict != Verdict::Whole {
            let text = cluster.process(VICTIM).log_text();
            let named = judge::named(root, file);
            if !text.contains(&named.display().to_string()) {
                return Ok(Verdict::Wrong(format!("{} without the file's name: {text}", verdict.word())));
            }
            if let Ok(leader) = wait_for(WATCH, "no leader", || cluster.leader(ONLY)) {
                return Ok(Verdict::Wrong(format!("{leader} leads with the vote of one that forgets")));
            }
            cluster.process(self.former_leader).start()?;
            cluster.wait_leader(ONLY, TIMEOUT)?;
        }
        if verdict == Verdict::Heals {
            wait_for(TIMEOUT, "the victim to heal", || {
                (cluster.status(VICTIM).ok()?.service_state == ServiceState::InService).then_some(())
            })?;
        }
        let mut client = cluster.client()?;
        for (key, value) in &self.expected {
            let found = client.get(key, TIMEOUT)?;
            if found.as_ref() != Some(value) {
                return Ok(Verdict::Wrong(format!("{key} holds {found:?} in the place of the acknowledged {value:?}")));
            }
        }
        Ok(verdict)
    }
}

fn status(cluster: &Cluster, node: Node) -> Outcome<smr::status::ReplicaStatus> {
    Ok(wait_for(TIMEOUT, "a status", || cluster.status(node).ok())?)
}

/// The higher index of a watermark's two slots. A slot: 24 bytes of header, the owner's hash, the index.
fn marked_index(path: &Path) -> Option<u64> {
    let bytes = fs::read(path).ok()?;
    let index = |slot: usize| {
        let from = slot * 4096 + 24 + 8;
        bytes.get(from..from + 8)?.try_into().ok().map(u64::from_le_bytes)
    };
    index(0).max(index(1))
}
