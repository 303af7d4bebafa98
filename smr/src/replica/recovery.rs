//! Recovery: of a replica's directory that no one uses a new one is made, of a group of one.
//!
//! It is for a group that has lost its majority for good. What the one directory does not hold is lost, and no one can
//! say what that was; so an operator decides, is told what is known to be missing, and says the word at the next start
//! (`--found_anew`). See [`crate::storage`] for what is read.
//!
//! Sessions are left behind: a client that outlives this hears that its session has expired, and never gets an answer
//! that another one was meant for.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, RealDisk};
use crate::entry::{Configuration, Entry, Genesis, GenesisHash, Index, Payload, SnapshotMeta};
use crate::epoch::GroupKind;
use crate::id::{ClusterId, GroupName, Incarnation, NodeId, ReplicaId};
use crate::replica::StartError;
use crate::replica::engine::versions;
use crate::session::SessionTable;
use crate::snapshot::SnapshotDir;
use crate::state_machine::{Image as _, StateMachine};
use crate::storage::recovery::{self, NewIncarnation, Remains};
use crate::storage::{ExpectedIdentity, Identity, LogEngine, ReplicaDirectory, StoreOptions, Succession};

/// What a directory of a file system may hold although no one has put anything there.
const NOBODYS: &str = "lost+found";

/// What to recover, and where to.
#[derive(Clone, Debug)]
pub struct RecoverOptions {
    /// The directory that is read. Nothing in it is changed.
    pub from: PathBuf,
    /// The directory that is made. Absent, or empty.
    pub to: PathBuf,
    /// What keeps the new log; `None` for what kept the old one.
    pub log_engine: Option<LogEngine>,
    /// Make it although writes cannot be proved to reach the device.
    pub allow_unsynced: bool,
    /// Which replica it was, if that cannot be read there any more.
    pub name_if_lost: Option<ReplicaId>,
    /// Its cluster, if that cannot be read there any more.
    pub cluster_if_lost: Option<ClusterId>,
}

/// What was recovered.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The group whose directory it was.
    pub group: GroupName,
    /// The replica, and the incarnation that it has from now on.
    pub node: NodeId,
    /// For a person: what there is, what is missing, what could not be read. A line each.
    pub report: Vec<String>,
}

/// Makes a new directory of what verifies in an old one. `state` is the empty state. `group_fits` says whether a group
/// is one of this program's, and `cluster_of` which cluster a state knows that it is in.
///
/// # Errors
/// If the directories do not fit, the old one is in use or of another group, or nothing of it can be read. Then nothing
/// was made and nothing changed.
pub fn recover<S: StateMachine>(
    options: &RecoverOptions,
    state: S,
    group_fits: impl Fn(&GroupName) -> bool,
    cluster_of: impl Fn(&S) -> Option<ClusterId>,
) -> Result<Recovered, StartError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let RecoverOptions { from, to, .. } = options;
    check_directories(from, to)?;
    let _lock = recovery::claim(disk.as_ref(), from)?;
    let scratch = Scratch::beside(to);
    let remains = recovery::look(&disk, from, &scratch.0).map_err(StartError::of)?;
    drop(scratch);

    let place = from.display();
    if remains.end().index == Index::ZERO {
        return Err(StartError::new(format!("--from: {place}: nothing of a replica can be read there")));
    }
    let group = match (&remains.replica, &remains.snapshot) {
        (Some((group, _)), _) => group.clone(),
        (None, Some(snapshot)) => snapshot.group.clone(),
        (None, None) => {
            let what = "neither term and vote nor a snapshot can be read, so whose log that is remains unknown: \
                        start its replica there once, which notes that, and stop it";
            return Err(StartError::new(format!("--from: {place}: {what}")));
        }
    };
    if !group_fits(&group) {
        return Err(StartError::new(format!("--from: {place}: is of group {group}, which another program serves")));
    }
    let members = members(&remains);
    let name = match &remains.replica {
        Some((_, name)) => *name,
        None => options.name_if_lost.or(only(&members)).ok_or_else(|| {
            StartError::new(format!("--from: {place}: which replica it was cannot be read: say it with --replica_id"))
        })?,
    };
    let was = remains.identity.clone();
    // The managers' own genesis names no cluster.
    let founders = |members| Genesis { cluster: options.cluster_if_lost, group: group.clone(), members };
    let Some(instead_of) = remains.genesis.or(founding_members(&remains).map(founders).map(|genesis| genesis.hash()))
    else {
        return Err(StartError::new(format!("--from: {place}: the genesis of its group cannot be read")));
    };
    let (end, term, lease_us) = (remains.end(), remains.term, remains.lease_us);
    let report = report(from, &remains, &members);
    let log_engine = options.log_engine.or(remains.engine).unwrap_or_default();
    let state = replay(&disk, remains, state)?;

    let cluster = was.and_then(|was| was.cluster).or_else(|| cluster_of(&state)).or(options.cluster_if_lost);
    let Some(cluster) = cluster else {
        return Err(StartError::new(format!("--from: {place}: which cluster it was of cannot be read")));
    };
    let node = NodeId { name, incarnation: Incarnation(rand::random::<u64>().max(1)) };
    let genesis = Genesis { cluster: Some(cluster), group: group.clone(), members: [node].into() };
    let meta = SnapshotMeta { last: end, configuration: Configuration::of([node]), configuration_index: end.index };
    let succession = Succession { genesis, instead_of };
    let incarnation = NewIncarnation {
        identity: Identity { cluster: Some(cluster), group, node },
        succession,
        term,
        lease_us,
        last: end,
    };
    let store = StoreOptions {
        snapshot: SnapshotMeta::default(),
        kind: GroupKind::Raft,
        incarnation_if_new: node.incarnation,
        engine: log_engine,
        allow_unsynced: options.allow_unsynced,
        now_unix_s: 0,
        start_nonce: 0,
    };
    let group = incarnation.identity.group.clone();
    let was_there = to.exists();
    let expected = ExpectedIdentity { group: group.clone(), name: node.name, cluster: Some(cluster) };
    // Whoever has locked it meanwhile keeps what is there.
    let directory = ReplicaDirectory::open(disk.clone(), to, expected)?;
    if let Err(error) = make(&disk, directory, &meta, &state, incarnation, &store) {
        unmake(to, was_there);
        return Err(error);
    }
    Ok(Recovered { group, node, report })
}

fn make<S: StateMachine>(
    disk: &Arc<dyn Disk>,
    directory: ReplicaDirectory,
    meta: &SnapshotMeta,
    state: &S,
    incarnation: NewIncarnation,
    options: &StoreOptions,
) -> Result<(), StartError> {
    let (group, genesis) = (incarnation.identity.group.clone(), incarnation.succession.genesis.hash());
    let place = directory.snapshots();
    let failed = |error: &dyn std::fmt::Display| StartError::new(format!("--to: {}: {error}", place.display()));
    let (snapshots, _) =
        SnapshotDir::open(disk.clone(), directory.snapshots(), group, Some(genesis)).map_err(|error| failed(&error))?;
    let (sessions, image) = (SessionTable::new().image(), state.image());
    let fill = |output: &mut dyn io::Write| {
        sessions.write(output)?;
        image.write(output)
    };
    snapshots.write(meta, genesis, fill).map_err(|error| failed(&error))?;
    recovery::write(directory, options, incarnation)?;
    Ok(())
}

/// Takes back what a failed try has made. What cannot be removed either stays, and keeps the next try from this place.
fn unmake(to: &Path, was_there: bool) {
    if !was_there {
        let _ = std::fs::remove_dir_all(to);
        return;
    }
    let Ok(names) = std::fs::read_dir(to) else { return };
    for entry in names.flatten().filter(|entry| entry.file_name() != NOBODYS) {
        let path = entry.path();
        let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
}

/// Applies what was committed, or may have been.
fn replay<S: StateMachine>(disk: &Arc<dyn Disk>, remains: Remains, empty: S) -> Result<S, StartError> {
    let (mut sessions, mut state) = (SessionTable::new(), empty);
    if let Some(snapshot) = &remains.snapshot {
        let mut reader = snapshot.read(disk.as_ref()).map_err(StartError::of)?;
        sessions = SessionTable::restore(&mut reader).map_err(StartError::of)?;
        state = S::restore(&mut reader).map_err(StartError::of)?;
        reader.finish().map_err(StartError::of)?;
    }
    for entry in remains.entries {
        let Payload::Command(bytes) = entry.payload else { continue };
        let (index, id) = (entry.id.index, entry.id);
        let (command, _) = versions::decode::<S>(&bytes).map_err(|what| {
            StartError::new(format!("entry {id} cannot be applied: {what}; a newer build has to recover this"))
        })?;
        sessions.apply(index, &command, |command| state.apply(index, command));
    }
    Ok(state)
}

/// The members, as the last configuration that can be read says.
fn members(remains: &Remains) -> Configuration {
    let in_log = remains.entries.iter().rev().find_map(|entry| match &entry.payload {
        Payload::Configuration(configuration) => Some(configuration.clone()),
        Payload::Noop | Payload::Command(_) => None,
    });
    in_log.or(remains.snapshot.as_ref().map(|snapshot| snapshot.info.meta.configuration.clone())).unwrap_or_default()
}

/// Those that the first entry names, if it is there.
fn founding_members(remains: &Remains) -> Option<BTreeSet<NodeId>> {
    match remains.entries.first() {
        Some(Entry { id, payload: Payload::Configuration(founders) }) if id.index == Index(1) => {
            Some(founders.voters.clone())
        }
        _ => None,
    }
}

fn only(members: &Configuration) -> Option<ReplicaId> {
    let mut names = members.voters.iter().map(|voter| voter.name);
    names.next().filter(|_| names.next().is_none())
}

fn report(from: &Path, remains: &Remains, members: &Configuration) -> Vec<String> {
    let end = remains.end();
    let mut report = remains.notes.iter().map(|note| format!("not read: {note}")).collect::<Vec<_>>();
    let base = match &remains.snapshot {
        Some(snapshot) => format!("a snapshot at entry {}", snapshot.info.meta.last.index),
        None => "no snapshot".to_owned(),
    };
    let entries = remains.entries.len();
    report.push(format!("read: {base} and {entries} entries after it, to entry {} of term {}", end.index, end.term));
    if remains.reached > end.index {
        let (first, reached) = (end.index.next(), remains.reached);
        report.push(format!("missing: entries {first} to {reached}, which this replica once had"));
    }
    let others = members.voters.len().saturating_sub(1);
    if others > 0 {
        report.push(format!(
            "perhaps missing: whatever the {others} other members acknowledged that never got to {}; and its last \
             entries may never have been acknowledged",
            from.display()
        ));
    } else if remains.reached <= end.index {
        report.push("nothing that was acknowledged is known to be missing".to_owned());
    }
    report
}

fn check_directories(from: &Path, to: &Path) -> Result<(), StartError> {
    let usage = |what: String| StartError { what, is_usage: true };
    let found = std::fs::metadata(from).map_err(|error| usage(format!("--from: {}: {error}", from.display())))?;
    if !found.is_dir() {
        return Err(usage(format!("--from: {} is not a directory", from.display())));
    }
    let absolute = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path));
    let failed = |error: io::Error| usage(format!("--to: {}: {error}", to.display()));
    let (whole_from, whole_to) = (absolute(from).map_err(failed)?, absolute(to).map_err(failed)?);
    if whole_to.starts_with(&whole_from) || whole_from.starts_with(&whole_to) {
        let (from, to) = (from.display(), to.display());
        return Err(usage(format!("--to: {to} and --from: {from} must not be the same, nor one in the other")));
    }
    let names = match std::fs::read_dir(to) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for name in names {
        if name.map_err(failed)?.file_name() != NOBODYS {
            return Err(usage(format!("--to: {} is not empty", to.display())));
        }
    }
    Ok(())
}

/// A place for copies, which goes when this does.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(to: &Path) -> Scratch {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".recovering");
        let scratch = Scratch(to.with_file_name(name));
        scratch.remove();
        scratch
    }

    fn remove(&self) {
        // One that stays is in no one's way, and the next recovery removes it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

/// What a recovered directory still has to have done before its replica may run.
#[derive(Clone, Debug)]
pub(super) struct Unsettled(pub(super) Succession);

impl Unsettled {
    /// Looks whether a directory was recovered and has not replaced its group yet.
    pub(super) fn of(
        root: &Path,
        genesis: Option<GenesisHash>,
        has_word: bool,
    ) -> Result<Option<Unsettled>, StartError> {
        let Some(succession) = Succession::read(&RealDisk, root)? else { return Ok(None) };
        if Some(succession.genesis.hash()) != genesis {
            return Ok(None);
        }
        if !has_word {
            return Err(StartError::new(format!(
                "{}: was recovered from a replica of the group with genesis {}: stop all that is left of that one, \
                 and start this with \
                 --found_anew, which puts it in that group's place",
                root.display(),
                succession.instead_of
            )));
        }
        Ok(Some(Unsettled(succession)))
    }
}
