//! One seed: chaos, in which only safety is judged; then calm with a fixed set of healthy replicas, in which progress
//! is judged as well.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use smr::internals::protocol::{Protocol, Time};
use smr::internals::raft::invariants;
use smr::internals::session::UNUSED_SHARE;

use crate::clients::Pace;
use crate::fault_injector::{FaultInjector, is_outside};
use crate::founding;
use crate::network::Weather;
use crate::observation::Observation;
use crate::properties::{self, SimNodes};
use crate::rare::{Rare, RareCounts};
use crate::sim_node::Shape;
use crate::sim_rng::{Purpose, SimRng};
use crate::swarm_config::SwarmConfig;
use crate::trace::Text;
use crate::watch::Violation;
use crate::workload::{Registers, Workload};
use crate::world::{Setting, World};

/// In the calm everything must be well again within this many election timeouts.
const RECOVERY_T: u64 = 10;
/// A readmission has snapshots to carry, so it may take longer, in microseconds.
const READMISSION_TIMEOUT_US: u64 = 60_000_000;

/// The sizes of the groups that are founded and lose everything.
const FOUNDERS: [u16; 4] = [3, 1, 2, 5];

/// How seeds are run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The group's size, instead of what the seed says.
    pub nodes: Option<u16>,
    /// What becomes of the trace's text. A failing seed without text is run once more, for the last lines.
    pub text: Text,
    /// The command that replays a seed, with `{seed}` and `{next}` in it; ours if it is empty.
    pub replay: String,
}

/// What became of a seed. `R`: the counts of what is rare; `C`: what a run is made of.
#[derive(Clone, Debug)]
pub struct Report<R = RareCounts, C = SwarmConfig> {
    /// The seed that this is the report of.
    pub seed: u64,
    /// What was wrong, if anything.
    pub failure: Option<Failure>,
    /// Hash of the trace.
    pub hash: u64,
    /// What was seen.
    pub rare: R,
    /// Operations that clients began.
    pub begun: u64,
    /// Operations that were answered.
    pub acknowledged: u64,
    /// Steps made.
    pub steps: u64,
    /// How much virtual time went by.
    pub virtual_time: Duration,
    /// How long that took.
    pub wall_time: Duration,
    /// What the run was made of.
    pub config: C,
}

/// Something was wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed that shows it again.
    pub seed: u64,
    /// What did not hold, where and when.
    pub violation: Violation,
    /// The last lines of the trace.
    pub tail: Vec<String>,
    /// The command that runs this seed again.
    pub replay: String,
}

/// Runs a seed with the workload of our own.
pub fn run(seed: u64, options: &Options) -> Report {
    run_with(seed, options, |config| {
        let mut registers = Registers::new(config.registers, config.reads_percent).with_ballast(config.ballast_bytes);
        registers.readers = config.readers;
        registers
    })
}

/// Runs a seed with another workload, which may follow the configuration.
pub fn run_with<W: Workload + Clone>(seed: u64, options: &Options, workload: impl Fn(&SwarmConfig) -> W) -> Report {
    again_if_failed(options.text, |text| run_once(seed, options, text, &workload))
}

/// Runs a seed. One that fails without a text is run once more, for the last lines of its trace.
pub(crate) fn again_if_failed<R, C>(text: Text, run_once: impl Fn(Text) -> Report<R, C>) -> Report<R, C> {
    let mut report = run_once(text);
    let hash = report.hash;
    if text == Text::None && report.failure.is_some() {
        report = run_once(Text::Tail);
        if report.hash != hash
            && let Some(failure) = &mut report.failure
        {
            failure.violation.why.push_str(" (and the seed does not replay: its trace has another hash)");
        }
    }
    report
}

fn run_once<W: Workload + Clone>(
    seed: u64,
    options: &Options,
    text: Text,
    workload: &impl Fn(&SwarmConfig) -> W,
) -> Report {
    let began = Instant::now();
    let config = SwarmConfig::draw(&mut SimRng::new(seed, Purpose::Swarm), options.nodes);
    let setting = Setting {
        seed,
        shape: config.shape.clone(),
        weather: config.weather,
        pace: config.pace,
        properties: properties::all(),
        text,
    };
    let mut world = World::new(setting, workload(&config));
    world.disk_us = config.disk_us;
    for (machine, clock) in world.nodes.iter_mut().zip(&config.clocks) {
        machine.clock = *clock;
    }
    let mut injector = FaultInjector::new(seed, config.clone());
    let driven = catch_unwind(AssertUnwindSafe(|| drive(&mut world, &mut injector, &config)));
    if let Err(panic) = driven {
        world.watch.violate("I18 no panic", words_of(panic.as_ref()));
    }
    let mut hash = world.watch.trace.hash();
    if world.watch.violation.is_none() {
        let shape = Shape::small(options.nodes.unwrap_or_else(|| FOUNDERS[(seed % FOUNDERS.len() as u64) as usize]));
        let (weather, pace) = (Weather::calm(), Pace { clients: 0, ..Pace::default() });
        let properties = properties::of_founding();
        let mut founded = World::new(Setting { seed, shape, weather, pace, properties, text }, workload(&config));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| founding::play(seed, &mut founded))) {
            founded.watch.violate("I18 no panic", words_of(panic.as_ref()));
        }
        hash ^= founded.watch.trace.hash().rotate_left(1);
        world.watch.rare.add(&founded.watch.rare);
        if founded.watch.violation.is_some() {
            world.watch.violation = founded.watch.violation.take();
            world.watch.trace = founded.watch.trace;
        }
    }
    let failure = world.watch.violation.clone().map(|violation| Failure {
        seed,
        violation,
        tail: world.watch.trace.tail(),
        replay: replay(&options.replay, seed, options.nodes),
    });
    Report {
        seed,
        failure,
        hash,
        rare: std::mem::take(&mut world.watch.rare),
        begun: world.clients.begun(),
        acknowledged: world.clients.acknowledged(),
        steps: world.steps(),
        virtual_time: Duration::from_micros(world.now.0),
        wall_time: began.elapsed(),
        config,
    }
}

/// What a panic said.
pub(crate) fn words_of(panic: &(dyn Any + Send)) -> String {
    let why = panic.downcast_ref::<String>().cloned();
    let why = why.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    why.unwrap_or_else(|| "a panic without a message".to_owned())
}

fn replay(command: &str, seed: u64, nodes: Option<u16>) -> String {
    if command.is_empty() {
        let nodes = nodes.map_or(String::new(), |nodes| format!(" --nodes {nodes}"));
        return format!("cargo run --release --bin madkv-sim -- --seeds {seed}..{}{nodes} --verbose", seed + 1);
    }
    command.replace("{seed}", &seed.to_string()).replace("{next}", &(seed + 1).to_string())
}

/// Both phases. Ends at the first violation.
fn drive<W: Workload>(world: &mut World<W>, injector: &mut FaultInjector, config: &SwarmConfig) {
    while world.now < Time(config.chaos_us) && world.watch.violation.is_none() {
        if injector.due_at() <= world.now {
            injector.act(world);
        }
        if world.step_before(injector.due_at()) {
            injector.pursue(world);
        } else {
            world.skip_to(injector.due_at());
        }
    }
    calm(world, injector, config);
    if world.watch.violation.is_none()
        && let Err(why) = world.clients.judge()
    {
        world.watch.violate("I12 I13 I14 what clients saw", why);
    }
}

/// Faults end; a minority may stay away for good.
fn calm<W: Workload>(world: &mut World<W>, injector: &mut FaultInjector, config: &SwarmConfig) {
    if world.watch.violation.is_some() {
        return;
    }
    // Who counts may still change.
    let broken = if config.changes_members() { Vec::new() } else { choose_broken(world) };
    injector.want_all();
    world.end_faults();
    world.watch.observe(&Observation::Calm);
    for replica in 0..world.nodes.len() {
        if broken.contains(&replica) {
            break_for_good(world, replica);
        } else if world.nodes[replica].is_down() {
            world.start_at(replica, world.now);
        }
    }
    world.clients.live_on();
    // With more clients than may have a session that they have not used yet, each one that is opened may end another
    // (C6, B30), and no write need ever get through.
    world.clients.keep((config.shape.sessions.sessions_max / UNUSED_SHARE).max(1));
    let healthy: Vec<usize> = (0..world.nodes.len()).filter(|replica| !broken.contains(replica)).collect();
    let timeout_us = RECOVERY_T * world.shape().settings.election_timeout_us;
    let calm_at = world.now;
    progress(world, injector, timeout_us, "a leader", |world| world.leader().is_some());
    progress(world, injector, timeout_us, "a fresh write", |world| world.clients.last_write_at() > calm_at);
    progress(world, injector, READMISSION_TIMEOUT_US, "all healthy nodes are members", |world| {
        let Some(leader) = world.leader() else { return false };
        let counts = |replica: &usize| !is_outside(world, leader, *replica) || is_ahead(world, leader, *replica);
        healthy.iter().all(counts)
    });
    world.clients.stop();
    progress(world, injector, timeout_us, "every operation has an outcome", |world| world.clients.is_idle());
    world.begin_last_reads();
    progress(world, injector, timeout_us, "a fresh read", |world| world.clients.is_idle());
    progress(world, injector, timeout_us, "all healthy replicas are equally far", |world| {
        let first = world.applied(healthy[0]);
        first.is_some() && healthy.iter().all(|replica| world.applied(*replica) == first)
    });
    if world.watch.violation.is_some() {
        return;
    }
    let digests: Vec<Option<u64>> = healthy.iter().map(|replica| world.nodes.deep_digest(*replica)).collect();
    if digests.windows(2).any(|pair| pair[0] != pair[1]) {
        world.watch.violate("I7 equal digests in the end", format!("{digests:?} of replicas {healthy:?}"));
    }
}

/// Whether a replica heals that once had a longer log than its leader has: entries that nothing came of, in most cases.
/// It is silent until the group has written as many, which may take any time.
fn is_ahead<W: Workload>(world: &World<W>, leader: usize, replica: usize) -> bool {
    let core = |replica: usize| Some(world.nodes[replica].serving()?.engine().core());
    let (Some(lead), Some(heals)) = (core(leader), core(replica)) else { return false };
    invariants::heals_past(heals.raft()).is_some_and(|past| past > lead.status().last.index)
}

/// A replica is down for good, or does not hear the others, or is not heard by them.
fn break_for_good<W: Workload>(world: &mut World<W>, replica: usize) {
    let how = world.draw(3);
    if how == 0 || world.nodes[replica].is_down() {
        return world.crash_for(replica, false, None);
    }
    for other in (0..world.nodes.len()).filter(|other| *other != replica) {
        let (from, to) = if how == 1 { (other, replica) } else { (replica, other) };
        world.cut(from as u16, to as u16);
    }
    world.watch.rare.saw(Rare::HalfDeadForGood);
}

/// Replicas that stay away for good: those that are lost anyway, and others, up to a minority.
fn choose_broken<W: Workload>(world: &mut World<W>) -> Vec<usize> {
    let size = world.nodes.len();
    let minority = (size - 1) / 2;
    let leader = world.leader();
    let lost: Vec<usize> =
        (0..size).filter(|replica| leader.is_none_or(|leader| is_outside(world, leader, *replica))).collect();
    let mut broken = Vec::new();
    if leader.is_none_or(|leader| is_changing(world, leader)) || world.draw(2) == 0 {
        return broken;
    }
    for _ in 0..world.draw(minority as u64 + 1) {
        // The leader is the one whose loss costs something.
        let replica = if world.draw(3) == 0 { leader.unwrap_or(0) } else { world.draw(size as u64) as usize };
        let others = lost.iter().filter(|lost| !broken.contains(*lost) && **lost != replica).count();
        if !broken.contains(&replica) && broken.len() + 1 + others <= minority {
            broken.push(replica);
        }
    }
    broken
}

/// Whether another configuration than the leader's newest may still count. In that one a replica that is being
/// readmitted is lost, and those who stay away for good would be more than it can do without.
fn is_changing<W: Workload>(world: &World<W>, leader: usize) -> bool {
    let Some(serving) = world.nodes[leader].serving() else { return true };
    let status = Protocol::status(serving.engine().core());
    status.configuration.is_joint() || status.configuration_index > status.commit
}

fn progress<W: Workload>(
    world: &mut World<W>,
    injector: &mut FaultInjector,
    within_us: u64,
    what: &str,
    holds: impl Fn(&World<W>) -> bool,
) {
    let deadline = world.now.plus_us(within_us);
    let mut look_at = world.now;
    while world.watch.violation.is_none() {
        if look_at <= world.now {
            if holds(world) {
                return;
            }
            if world.now >= deadline {
                world.watch.violate("liveness in the calm", format!("not within {} ms: {what}", within_us / 1000));
                return;
            }
            injector.operate(world);
            look_at = world.now.plus_us(5_000);
        }
        if !world.step_before(look_at) {
            world.skip_to(look_at);
        }
    }
}
