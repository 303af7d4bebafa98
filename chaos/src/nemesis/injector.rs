//! Carries out a plan: injects each fault when it is time, looks after those under way, heals everything at the end of
//! each round, and then demands that everything is well.

use std::thread;
use std::time::{Duration, Instant};

use crate::nemesis::faults::{ActiveFault, Injection, inject};
use crate::nemesis::plan::{Plan, Round};
use crate::nemesis::recovery_check::{self, Health};
use crate::nemesis::traffic::Traffic;
use crate::nemesis::world::{Failure, World};
use madkv_testkit::launcher::Interrupted;

/// How often the injector looks around, in milliseconds.
const LOOK_MS: u64 = 10;

/// What a run was like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Rounds whose recovery check passed.
    pub rounds: u64,
    /// Faults that were injected.
    pub injected: u64,
    /// Faults that were planned and could not be injected: too much was broken already, or no replica was there.
    pub skipped: u64,
    /// The longest time without any acknowledgement.
    pub longest_gap: Duration,
    /// The longest time from the end of a round's faults until all was well.
    pub longest_recovery: Duration,
    /// The most that a process was seen to use.
    pub health: Health,
}

/// Injects faults into the cluster until `until`, and leaves it healed and well.
///
/// # Errors
/// If the cluster does not behave.
pub fn run(
    world: &mut World,
    plan: &mut Plan,
    until: Instant,
    traffic: &mut dyn Traffic,
    interrupted: Option<&Interrupted>,
) -> Result<Report, Failure> {
    let mut pulse = Pulse { acknowledged: traffic.acknowledged(), since: Instant::now(), longest: Duration::ZERO };
    let mut report = Report::default();
    while Instant::now() < until {
        let round = plan.next_round();
        world.diary.note(&format!(
            "round {} of {:.1?}: {} faults planned",
            report.rounds + 1,
            round.length,
            round.events.len()
        ));
        let mut active = Vec::new();
        let outcome = run_round(world, &round, until, traffic, &mut active, &mut pulse, &mut report, interrupted);
        // Also after a failure: a healthy network and thawed processes make the logs that are kept worth reading.
        let healed = heal(world, active);
        outcome?;
        healed?;
        let recovery = recovery_check::wait(world, traffic, &mut |acknowledged| pulse.feel(acknowledged))?;
        world.diary.note(&format!("recovered after {recovery:.1?}"));
        report.rounds += 1;
        report.longest_recovery = report.longest_recovery.max(recovery);
        report.health = report.health.worse(recovery_check::health(world)?);
        if interrupted.is_some_and(|interrupted| interrupted.signal().is_some()) {
            return Err(Failure("interrupted".to_owned()));
        }
    }
    report.longest_gap = pulse.longest;
    Ok(report)
}

/// When acknowledgements came.
struct Pulse {
    acknowledged: u64,
    since: Instant,
    longest: Duration,
}

impl Pulse {
    fn feel(&mut self, acknowledged: u64) {
        self.longest = self.longest.max(self.since.elapsed());
        if acknowledged != self.acknowledged {
            self.acknowledged = acknowledged;
            self.since = Instant::now();
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one loop, told apart from its caller so that healing follows in any case"
)]
fn run_round(
    world: &mut World,
    round: &Round,
    until: Instant,
    traffic: &mut dyn Traffic,
    active: &mut Vec<Box<dyn ActiveFault>>,
    pulse: &mut Pulse,
    report: &mut Report,
    interrupted: Option<&Interrupted>,
) -> Result<(), Failure> {
    let start = Instant::now();
    let mut events = round.events.iter().peekable();
    while start.elapsed() < round.length && Instant::now() < until {
        while let Some(&event) = events.next_if(|event| start.elapsed() >= event.at) {
            match inject(world, event, active)? {
                Injection::Active(fault, said) => {
                    world.diary.note(&said);
                    active.push(fault);
                }
                Injection::Done(said) => world.diary.note(&said),
                Injection::Skipped(_) => {
                    report.skipped += 1;
                    continue;
                }
            }
            report.injected += 1;
            world.diary.count(event.fault.kind(), format!("{:?}", event.fault));
        }
        let mut place = 0;
        while place < active.len() {
            if active[place].tick(world)? {
                drop(active.swap_remove(place));
            } else {
                place += 1;
            }
        }
        look(world, traffic, pulse)?;
        if interrupted.is_some_and(|interrupted| interrupted.signal().is_some()) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(LOOK_MS));
    }
    Ok(())
}

/// What must hold at any time.
fn look(world: &mut World, traffic: &mut dyn Traffic, pulse: &mut Pulse) -> Result<(), Failure> {
    pulse.feel(traffic.acknowledged());
    if let Some(failure) = world.dead() {
        return Err(failure);
    }
    if let Some(why) = traffic.failure() {
        return Err(Failure(format!("a client failed: {why}")));
    }
    match world.monitor.violations().first() {
        Some(violation) => Err(Failure(violation.clone())),
        None => Ok(()),
    }
}

fn heal(world: &mut World, mut active: Vec<Box<dyn ActiveFault>>) -> Result<(), Failure> {
    // The network first, then processes, then what needs a working cluster.
    active.sort_by_key(|fault| (fault.heals_last(), fault.links().is_none()));
    let mut outcome = Ok(());
    for mut fault in active {
        let healed = fault.heal(world);
        outcome = outcome.and(healed);
    }
    world.network.heal();
    outcome
}
