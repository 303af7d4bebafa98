//! A whole run: cluster, clients, faults, recovery check, verdict.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use smr::epoch::GroupKind;
use tempfile::TempDir;

use crate::fuzz::{Fuzz, FuzzOptions};
use crate::nemesis::injector::{self, Report};
use crate::nemesis::plan::{Kind, Plan};
use crate::nemesis::recovery_check;
use crate::nemesis::traffic::Traffic;
use crate::nemesis::world::{Failure, World};
use madkv_testkit::cluster::Shape;
use madkv_testkit::launcher::{Interrupted, choose_log_engine, sync_flags};
use madkv_testkit::programs::Programs;

/// How long the cluster may take to come up.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// What a run may take beyond the time asked for: coming up, the last recovery check, comparing. Beyond it, it hangs.
const GRACE: Duration = Duration::from_secs(300);

/// The cluster, and what kind of chaos.
#[derive(Clone, Debug, Args)]
pub struct ChaosOptions {
    /// How many of what.
    #[command(flatten)]
    pub shape: Shape,
    /// How the partitions' groups are kept in step: raft, chain, active or passive; one for all, or one for each
    /// [default: raft]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub protocol: Vec<GroupKind>,
    /// Kinds of faults: kill, stop, net, dir, disk, term; all of them by default
    #[arg(long, value_delimiter = ',')]
    pub faults: Vec<Kind>,
    /// Put the cluster's fresh directory below this one; by default beside the executables
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// A further flag for each server and manager, for example --node_flag=--reads=lease; may be given several times
    #[arg(long = "node_flag", alias = "node-flag", value_name = "FLAG", allow_hyphen_values = true)]
    pub node_flags: Vec<OsString>,
    /// Say each fault on stderr when it is injected
    #[arg(long)]
    pub verbose: bool,
}

/// A cluster for a chaos run, ready. Its directory is removed by [`Stage::done`] and kept if that was not reached.
#[derive(Debug)]
pub struct Stage {
    /// The cluster and its network.
    pub world: World,
    plan: Plan,
    directory: Option<TempDir>,
}

impl Stage {
    /// Brings up a cluster. Says what cannot be injected here, and goes on without it.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn set(options: &ChaosOptions, programs: &Programs, seed: u64) -> Result<Stage, Failure> {
        choose_log_engine(None).map_err(Failure)?;
        let shape = options.shape;
        let groups = if options.protocol.is_empty() { &[GroupKind::Raft][..] } else { &options.protocol };
        shape.check_for(groups).map_err(Failure)?;
        let mut kinds: BTreeSet<Kind> =
            if options.faults.is_empty() { Kind::ALL.into() } else { options.faults.iter().copied().collect() };
        let below = options.directory.as_deref().unwrap_or(programs.directory());
        let fresh = fresh_directory(below)?;
        let small_disk = kinds.contains(&Kind::Disk);
        let flags = [sync_flags(fresh.path()), options.node_flags.clone()].concat();
        let mut world = match World::new(programs, shape, fresh.path(), &flags, seed, small_disk) {
            Ok(world) => world,
            Err(error) if small_disk => {
                eprintln!("disk faults are SKIPPED: {error}");
                kinds.remove(&Kind::Disk);
                World::new(programs, shape, fresh.path(), &flags, seed, false)?
            }
            Err(error) => return Err(error.into()),
        };
        if !options.protocol.is_empty() {
            world.cluster.set_kinds(&options.protocol);
        }
        if options.verbose {
            world.diary.speak();
        }
        let plan = Plan::new(seed, &kinds, shape);
        let mut stage = Stage { world, plan, directory: Some(fresh) };
        stage.world.start_all()?;
        stage.world.cluster.wait_ready(READY_TIMEOUT).map_err(|error| Failure(error.to_string()))?;
        Ok(stage)
    }

    /// Brings up a cluster with the programs beside this one, for the fuzzer to go to.
    pub(super) fn set_for(options: &ChaosOptions, fuzz: &mut FuzzOptions) -> Result<Stage, Failure> {
        let programs = Programs::beside_this_one().map_err(|error| Failure(error.to_string()))?;
        let stage = Stage::set(options, &programs, fuzz.seed)?;
        fuzz.managers = stage.world.cluster.manager_addresses().split(',').map(str::to_owned).collect();
        Ok(stage)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        self.world.cluster.directory()
    }

    /// Injects faults for `length`, while `traffic` runs.
    ///
    /// # Errors
    /// If the cluster does not behave.
    pub fn run_nemesis(
        &mut self,
        length: Duration,
        traffic: &mut dyn Traffic,
        interrupted: Option<&Interrupted>,
    ) -> Result<Report, Failure> {
        let _watchdog = self.world.watchdog(length + GRACE);
        let until = Instant::now() + length;
        injector::run(&mut self.world, &mut self.plan, until, traffic, interrupted)
    }

    /// Ends the cluster, and removes what it left.
    ///
    /// # Errors
    /// If something is left.
    pub fn done(mut self) -> Result<(), Failure> {
        self.world.cluster.kill_all();
        self.world.unmount()?;
        match self.directory.take() {
            Some(directory) => Ok(directory.close()?),
            None => Ok(()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            self.world.cluster.kill_all();
            eprintln!("data, logs and the list of faults are kept in {}", directory.keep().display());
        }
    }
}

fn fresh_directory(below: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("madkv-chaos-").tempdir_in(below)
}

impl Traffic for Fuzz {
    fn acknowledged(&self) -> u64 {
        self.answered()
    }

    fn failure(&mut self) -> Option<String> {
        Fuzz::failure(self)
    }
}

/// The fuzzer on a cluster of its own, with faults for `fuzz.length`. Whether all was well; what there is to say goes
/// to `say`.
///
/// # Errors
/// If there was no run to judge.
pub fn fuzz(
    options: &ChaosOptions,
    mut fuzz: FuzzOptions,
    interrupted: &Interrupted,
    say: &mut dyn FnMut(&str),
) -> Result<bool, Failure> {
    let length = fuzz.length;
    let mut stage = Stage::set_for(options, &mut fuzz)?;
    // The injector says when it is over.
    fuzz.grace = GRACE;
    let mut traffic = Fuzz::start(fuzz).map_err(|error| Failure(error.to_string()))?;
    let ran = stage.run_nemesis(length, &mut traffic, Some(interrupted));
    traffic.stop();
    let judged = traffic.finish().map_err(|error| Failure(error.to_string()))?;
    say(&judged.to_string());
    let report = match ran {
        Ok(report) => report,
        Err(failure) => {
            say(&format!("failure: {failure}\n"));
            return Ok(false);
        }
    };
    say(&describe(&stage, &report));
    match recovery_check::compare(&stage.world) {
        Ok(records) => say(&format!("{records} records, equal on all replicas\n")),
        Err(failure) => {
            say(&format!("failure: {failure}\n"));
            return Ok(false);
        }
    }
    if judged.passed {
        stage.done()?;
    }
    Ok(judged.passed)
}

/// What a run was like, for people.
pub fn describe(stage: &Stage, report: &Report) -> String {
    let diary = &stage.world.diary;
    let kinds = diary.kinds().iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>();
    let counts = diary.counts().iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{} rounds, {} faults: {}", report.rounds, report.injected, kinds.join(", "));
    let _ = writeln!(text, "  {}; {} more could not be injected", counts.join(", "), report.skipped);
    let _ = writeln!(
        text,
        "longest time without an answer {:.1?}, until recovered {:.1?}; {} leader changes; at most {} MiB and {} \
         descriptors",
        report.longest_gap,
        report.longest_recovery,
        stage.world.monitor.leader_changes(),
        report.health.memory_bytes >> 20,
        report.health.descriptors,
    );
    text
}
