//! A whole run: cluster, clients, faults, calm, verdict.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use tempfile::TempDir;

use crate::chaos::calm;
use crate::chaos::injector::{self, Report, Traffic};
use crate::chaos::plan::{Kind, Plan};
use crate::chaos::world::{Failure, World};
use crate::cluster::Shape;
use crate::launcher::Interrupted;
use crate::load::{self, Load};
use crate::programs::Programs;

/// How long the cluster may take to come up.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// What a run may take beyond the time asked for: coming up, the last calm, comparing. Beyond it, it hangs.
const GRACE: Duration = Duration::from_secs(300);

/// What kind of chaos.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Replicas of each partition
    #[arg(long = "server_rf", alias = "server-rf", default_value_t = 3)]
    pub server_rf: u16,
    /// Replicas of the manager
    #[arg(long = "manager_rf", alias = "manager-rf", default_value_t = 3)]
    pub manager_rf: u16,
    /// Partitions
    #[arg(long, default_value_t = 1)]
    pub partitions: u16,
    /// How long faults are injected, in seconds
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Decides the faults and their times; without it a fresh one is drawn, and said
    #[arg(long)]
    pub seed: Option<u64>,
    /// Kinds of faults: kill, stop, net, dir, disk, term; all of them by default
    #[arg(long, value_delimiter = ',')]
    pub faults: Vec<Kind>,
    /// Put the fresh data directory below this one; by default beside the executables
    #[arg(long, value_name = "DIRECTORY")]
    pub directory: Option<PathBuf>,
    /// Say each fault on stderr when it strikes
    #[arg(long)]
    pub verbose: bool,
}

/// A cluster for a chaos run, ready. Its directory is removed by [`Stage::done`] and kept if that was not reached.
#[derive(Debug)]
pub struct Stage {
    /// The cluster and its network.
    pub world: World,
    plan: Plan,
    seconds: u64,
    directory: Option<TempDir>,
}

impl Stage {
    /// Brings up a cluster. Says what cannot be injected here, and goes on without it.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn set(options: &Options, programs: &Programs, seed: u64) -> Result<Stage, Failure> {
        let shape =
            Shape { server_rf: options.server_rf, manager_rf: options.manager_rf, partitions: options.partitions };
        let mut kinds: BTreeSet<Kind> =
            if options.faults.is_empty() { Kind::ALL.into() } else { options.faults.iter().copied().collect() };
        let below = options.directory.as_deref().unwrap_or(programs.directory());
        let fresh = fresh_directory(below)?;
        let small_disk = kinds.contains(&Kind::Disk);
        let mut world = match World::new(programs, shape, fresh.path(), seed, small_disk) {
            Ok(world) => world,
            Err(error) if small_disk => {
                println!("disk faults are SKIPPED: {error}");
                kinds.remove(&Kind::Disk);
                World::new(programs, shape, fresh.path(), seed, false)?
            }
            Err(error) => return Err(error.into()),
        };
        if options.verbose {
            world.diary.speak();
        }
        let plan = Plan::new(seed, &kinds, shape);
        let mut stage = Stage { world, plan, seconds: options.seconds, directory: Some(fresh) };
        stage.world.start_all()?;
        stage.world.cluster.wait_ready(READY_PATIENCE).map_err(|error| Failure(error.to_string()))?;
        Ok(stage)
    }

    /// Injects faults for as long as was asked, while `traffic` runs.
    ///
    /// # Errors
    /// If the cluster does not behave.
    pub fn torment(&mut self, traffic: &mut dyn Traffic, interrupted: Option<&Interrupted>) -> Result<Report, Failure> {
        let length = Duration::from_secs(self.seconds);
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

/// A seed that nobody asked for.
pub fn fresh_seed() -> u64 {
    use rand::RngExt;
    rand::rng().random_range(0..1_000_000)
}

impl Traffic for Load {
    fn acknowledged(&self) -> u64 {
        self.answered()
    }

    fn failure(&mut self) -> Option<String> {
        Load::failure(self).map(|error| error.to_string())
    }
}

/// A run with clients that swap, judged by the chains of their answers.
///
/// # Errors
/// If the cluster does not behave, or a write was lost or came twice.
pub fn swaps(options: &Options) -> Result<(), Failure> {
    let interrupted = Interrupted::watch()?;
    let programs = Programs::beside_this_one().map_err(|error| Failure(error.to_string()))?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}, server_rf {}, partitions {}, {} s", options.server_rf, options.partitions, options.seconds);
    let mut stage = Stage::set(options, &programs, seed)?;
    let plan = load::Plan { clients: 6, keys: 8, prefix: "k".to_owned() };
    let mut load = Load::start(&stage.world.cluster, &plan)?;
    let report = stage.torment(&mut load, Some(&interrupted))?;
    let failed = |error: load::Failed| Failure(error.to_string());
    let history = load.finish().map_err(failed)?;
    history.check(&stage.world.cluster).map_err(failed)?;
    let records = calm::compare(&stage.world)?;
    print(&stage, &report);
    println!("{} swaps acknowledged, each exactly once; {records} records, equal on all replicas", history.swaps.len());
    stage.done()
}

/// Prints what a run was like.
pub fn print(stage: &Stage, report: &Report) {
    let kinds = stage.world.diary.kinds().iter().map(|(kind, count)| format!("{kind} {count}"));
    println!("{} rounds, {} faults: {}", report.rounds, report.struck, kinds.collect::<Vec<_>>().join(", "));
    let counts = stage.world.diary.counts().iter().map(|(what, count)| format!("{what} {count}"));
    println!("  {}; {} more could not strike", counts.collect::<Vec<_>>().join(", "), report.skipped);
    println!(
        "longest time without an acknowledgement {:.1?}, until calm {:.1?}; {} leader changes; at most {} MiB and {} descriptors",
        report.longest_gap,
        report.longest_calm,
        stage.world.board.leader_changes(),
        report.health.memory_bytes >> 20,
        report.health.descriptors,
    );
}
