//! One seed: chaos, in which only safety is judged; then calm, in which the group has to serve again, and all replicas
//! to be members with equal copies.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use smr::epoch::EpochKind;
use smr::internals::configured::invariants;
use smr::internals::protocol::{Protocol, Time};

use super::faults::FaultInjector;
use super::rare::{Rare, RareCounts};
use super::swarm::SwarmConfig;
use super::world::World;
use crate::run::{Failure, again_if_failed, words_of};
use crate::sim_rng::{Purpose, SimRng};
use crate::trace::Text;

/// In the calm this many clients begin something ...
const CALM_CLIENTS: usize = 2;
/// ... in such intervals, in microseconds.
const CALM_PAUSE_US: (u64, u64) = (50_000, 150_000);
/// In the calm there is a fresh write within this, in microseconds: leases, detection and a decision of the service for
/// each member that is in the way.
const WRITE_TIMEOUT_US: u64 = 15_000_000;
/// Within this all replicas are members, in microseconds: one newcomer at a time, after pauses that have doubled.
const MEMBERS_TIMEOUT_US: u64 = 200_000_000;
/// Within this all operations have an outcome, and all copies are equal, in microseconds.
const SETTLE_TIMEOUT_US: u64 = 15_000_000;

/// How seeds are run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The kind of the group, instead of what the seed says.
    pub kind: Option<EpochKind>,
    /// How many replicas found the group, instead of what the seed says.
    pub nodes: Option<u16>,
    /// What becomes of the trace's text. A failing seed without text is run once more, for the last lines.
    pub text: Text,
    /// The command that replays a seed, with `{seed}`, `{next}` and `{kind}` in it; ours if it is empty.
    pub replay: String,
}

/// What became of a seed.
pub type Report = crate::run::Report<RareCounts, SwarmConfig>;

/// Runs a seed.
pub fn run(seed: u64, options: &Options) -> Report {
    again_if_failed(options.text, |text| run_once(seed, options, text))
}

fn run_once(seed: u64, options: &Options, text: Text) -> Report {
    let began = Instant::now();
    let config = SwarmConfig::draw(&mut SimRng::new(seed, Purpose::Swarm), options.kind, options.nodes);
    let mut world = World::new(seed, config.clone(), text);
    let mut injector = FaultInjector::new(seed, &config);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drive(&mut world, &mut injector))) {
        world.violate("I18 no panic", words_of(panic.as_ref()));
    }
    let failure = world.violation.clone().map(|violation| Failure {
        seed,
        violation,
        tail: world.trace.tail(),
        replay: replay(options, seed, config.settings.kind),
    });
    Report {
        seed,
        failure,
        hash: world.trace.hash(),
        rare: std::mem::take(&mut world.rare),
        begun: world.clients.begun(),
        acknowledged: world.clients.acknowledged(),
        steps: world.steps(),
        virtual_time: Duration::from_micros(world.now.0),
        wall_time: began.elapsed(),
        config,
    }
}

fn replay(options: &Options, seed: u64, kind: EpochKind) -> String {
    if options.replay.is_empty() {
        let nodes = options.nodes.map_or(String::new(), |nodes| format!(" --nodes {nodes}"));
        let kind = options.kind.map_or("epochs".to_owned(), |_| kind.to_string());
        let next = seed + 1;
        return format!("cargo run --release --bin madkv-sim -- --kind {kind} --seeds {seed}..{next}{nodes} --verbose");
    }
    let command = options.replay.replace("{seed}", &seed.to_string()).replace("{next}", &(seed + 1).to_string());
    command.replace("{kind}", &kind.to_string())
}

/// Both phases. Ends at the first violation.
fn drive(world: &mut World, injector: &mut FaultInjector) {
    while world.now < Time(world.config().chaos_us) && world.violation.is_none() {
        if injector.due_at() <= world.now {
            injector.act(world);
        }
        if !world.step_before(injector.due_at()) {
            world.skip_to(injector.due_at());
        }
    }
    if world.violation.is_none() {
        calm(world);
    }
    if world.violation.is_none()
        && let Err(why) = world.clients.judge()
    {
        world.violate("I12 I13 I14 what clients saw", why);
    }
}

fn calm(world: &mut World) {
    world.end_faults();
    world.say(|| "calm".to_owned());
    world.clients.live_on();
    // Whoever has to wait for its turn to join should not have to wait for many clients as well.
    (world.clients.pace.pause_min_us, world.clients.pace.pause_max_us) = CALM_PAUSE_US;
    world.clients.keep(CALM_CLIENTS);
    let calm_at = world.now;
    progress(world, WRITE_TIMEOUT_US, "a fresh write", |world| world.clients.last_write_at() > calm_at);
    progress(world, MEMBERS_TIMEOUT_US, "all replicas are complete members", |world| {
        (0..world.machines.len()).all(|replica| is_settled_member(world, replica))
    });
    world.clients.stop();
    progress(world, SETTLE_TIMEOUT_US, "every operation has an outcome", |world| world.clients.is_idle());
    world.begin_last_reads();
    progress(world, SETTLE_TIMEOUT_US, "a fresh read", |world| world.clients.is_idle());
    progress(world, SETTLE_TIMEOUT_US, "all replicas are equally far", |world| {
        let last = world.last_committed();
        (0..world.machines.len()).all(|replica| world.applied(replica) == Some(last))
    });
    if world.violation.is_some() || !world.is_recoverable() {
        return;
    }
    let digests: Vec<Option<u64>> = (0..world.machines.len()).map(|replica| world.deep_digest(replica)).collect();
    if digests.windows(2).any(|pair| pair[0] != pair[1]) {
        world.violate("I7 equal digests in the end", format!("{digests:?}"));
    }
}

/// Whether the node on a replica is a member of the present configuration, and complete by its own and by the service's
/// word.
fn is_settled_member(world: &World, replica: usize) -> bool {
    let (machine, record) = (&world.machines[replica], world.service.record());
    let in_step = machine
        .core()
        .is_some_and(|core| core.routing().term == record.present().epoch && invariants::is_complete(core));
    in_step && record.present().is_member(machine.id) && record.complete().contains(&machine.id)
}

fn progress(world: &mut World, within_us: u64, what: &str, holds: impl Fn(&World) -> bool) {
    let deadline = world.now.plus_us(within_us);
    let mut look_at = world.now;
    while world.violation.is_none() {
        if !world.is_recoverable() {
            // Nothing can be asked of a group that the experiment has taken everything from.
            return world.rare.saw(Rare::LostForGood);
        }
        if look_at <= world.now {
            if holds(world) {
                return;
            }
            if world.now >= deadline {
                let why = format!("not within {} ms: {what}; {}", within_us / 1000, world.described());
                return world.violate("liveness in the calm", why);
            }
            look_at = world.now.plus_us(5_000);
        }
        if !world.step_before(look_at) {
            world.skip_to(look_at);
        }
    }
}
