//! A scenario of its own beside each run: a group is founded among faults, its directories are emptied one after the
//! other until all are, and at last the operator says that it begins again.
//!
//! The runs themselves never empty this many directories that the group could not go on, so they cannot see what
//! becomes of a group that has lost all of them. Here nothing is asked of the group; what counts is who founds it, and
//! when.

use crate::network::Weather;
use crate::observation::Observation;
use crate::rare::Rare;
use crate::sim_rng::{Purpose, SimRng};
use crate::workload::Workload;
use crate::world::World;

/// In the calm a group is in service within this, in microseconds.
const TIMEOUT_US: u64 = 20_000_000;
/// Time enough in the calm for whatever should not happen, in microseconds.
const AFTERWARDS_US: u64 = 3_000_000;

/// Plays the scenario of a seed in a fresh world of its own.
pub(super) fn play<W: Workload>(seed: u64, world: &mut World<W>) {
    let mut rng = SimRng::new(seed, Purpose::Founding);
    let scenario = &mut Scenario { world, rng: &mut rng, never_told: 0 };
    scenario.begin();
    scenario.found_among_faults();
    scenario.empty_until_all_are();
    scenario.begin_again();
}

struct Scenario<'a, W: Workload> {
    world: &'a mut World<W>,
    rng: &'a mut SimRng,
    /// The replica whose operator says nothing before all do.
    never_told: usize,
}

impl<W: Workload> Scenario<'_, W> {
    fn begin(&mut self) {
        self.never_told = self.some_replica();
        if self.rng.chance(400) {
            self.world.without_recorder();
        }
        self.world.recorder.is_up = self.rng.chance(700);
        self.world.recorder.delay_us = self.rng.pick(&[0, 5_000, 100_000, 1_000_000]);
        self.world.recorder.lost_permille = self.rng.pick(&[0, 100, 500]);
        if self.rng.chance(300) {
            self.world.network.weather = Weather { loss: 200, late: 100, ..Weather::default() };
        }
    }

    fn found_among_faults(&mut self) {
        let until = self.world.now.plus_us(self.rng.between(200_000, 5_000_000));
        let longest_us = self.rng.pick(&[100_000, 500_000, 1_500_000]);
        while self.world.now < until && self.is_sound() {
            let gap_us = 1_000 + self.rng.below(longest_us);
            self.pass(gap_us);
            self.inject();
        }
    }

    fn inject(&mut self) {
        let replica = self.some_replica();
        match self.rng.below(9) {
            0 => self.world.crash(replica, false),
            1 => self.world.crash(replica, true),
            2 => self.world.pause(replica, 10_000 + self.rng.below(1_000_000)),
            3 => self.world.cut_off(replica, self.rng.chance(500)),
            4 => self.world.heal_cuts(),
            5 => self.world.recorder.is_up ^= true,
            6 => self.restart_all(),
            7 => {
                // The word to some: it must not do.
                if replica != self.never_told {
                    self.world.nodes[replica].found_anew ^= true;
                    self.world.crash(replica, false);
                }
            }
            _ => self.world.lose_directory(replica),
        }
    }

    fn empty_until_all_are(&mut self) {
        let size = self.world.nodes.len();
        let first = self.some_replica();
        for replica in (0..size).map(|replica| (replica + first) % size) {
            if self.rng.chance(300) {
                self.inject();
            }
            let longest_us = self.rng.pick(&[1_000, 100_000, 2_000_000]);
            let gap_us = self.rng.below(longest_us);
            self.pass(gap_us);
            self.world.lose_directory(replica);
        }
        self.world.watch.rare.saw(Rare::AllEmptied);
        self.calm();
        self.pass(AFTERWARDS_US);
        // Who may found at all was judged all along. Where nothing has ever been founded, there is nothing in the way.
        if self.world.has_recorder() && self.world.recorder.recorded.is_none() {
            self.serves("a fresh group is founded");
        }
    }

    fn begin_again(&mut self) {
        for replica in 0..self.world.nodes.len() {
            if !self.world.nodes[replica].is_waiting() {
                self.world.lose_directory(replica);
            }
            self.world.nodes[replica].found_anew = true;
        }
        self.world.watch.observe(&Observation::ToldToFoundAnew);
        self.restart_all();
        self.serves("the group begins again by the operator's word");
        self.world.watch.rare.saw(Rare::FoundedAnew);
        // The words on the command lines are still there.
        self.restart_all();
        self.pass(AFTERWARDS_US);
        self.serves("the group that was founded again goes on");
    }

    fn restart_all(&mut self) {
        for replica in 0..self.world.nodes.len() {
            let down_us = 1_000 + self.rng.below(200_000);
            self.world.crash_for(replica, self.rng.chance(300), Some(down_us));
        }
    }

    fn calm(&mut self) {
        self.world.end_faults();
        self.world.recorder.is_up = true;
        self.world.recorder.lost_permille = 0;
    }

    fn pass(&mut self, us: u64) {
        let until = self.world.now.plus_us(us);
        while self.is_sound() && self.world.step_before(until) {}
        self.world.skip_to(until);
    }

    fn serves(&mut self, what: &str) {
        let deadline = self.world.now.plus_us(TIMEOUT_US);
        let serves = |world: &World<W>| world.leader().is_some() && world.serving_replicas().len() == world.nodes.len();
        while self.is_sound() && !serves(self.world) {
            if self.world.now >= deadline {
                let why = format!("not within {} ms: {what}", TIMEOUT_US / 1000);
                return self.world.watch.violate("liveness of founding", why);
            }
            self.pass(10_000);
        }
    }

    fn some_replica(&mut self) -> usize {
        self.rng.below(self.world.nodes.len() as u64) as usize
    }

    fn is_sound(&self) -> bool {
        self.world.watch.violation.is_none()
    }
}
