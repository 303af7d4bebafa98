//! How fast the simulator is, in the one case that is easy to compare: 5 healthy replicas, 100 requests per virtual
//! second, all properties on, one core.

use std::process::ExitCode;
use std::time::Instant;

use smr::internals::protocol::Time;
use smr_sim::clients::Pace;
use smr_sim::workload::Registers;
use smr_sim::world::{Setting, World};

/// Virtual time that is measured, in microseconds; the group is founded before.
const MEASURED_US: u64 = 600_000_000;
/// The aim.
const TIMES_REAL_TIME: f64 = 100.0;

pub(super) fn measure() -> ExitCode {
    let mut setting = Setting::small(1, 5);
    // Ten clients, each of which begins ten operations a second, half of them reads.
    setting.pace = Pace {
        clients: 10,
        window: 4,
        pause_min_us: 100_000,
        pause_max_us: 100_000,
        doubled: 0,
        given_up: 0,
        trusting: 0,
    };
    let mut world = World::new(setting, Registers::new(5, 50));
    world.run_until(Time(5_000_000));
    let (acknowledged, steps) = (world.clients.acknowledged(), world.steps());
    let began = Instant::now();
    world.run_for(MEASURED_US);
    let elapsed = began.elapsed().as_secs_f64();
    let virtual_s = MEASURED_US as f64 / 1e6;
    let requests = (world.clients.acknowledged() - acknowledged) as f64 / virtual_s;
    let times = virtual_s / elapsed;
    println!(
        "5 replicas, {requests:.1} requests answered per virtual second, {virtual_s:.0} virtual seconds in \
         {elapsed:.2} s: \
         {times:.0} times real time on one core; {:.2} us per step",
        elapsed * 1e6 / (world.steps() - steps) as f64
    );
    if times >= TIMES_REAL_TIME && requests > 95.0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
