//! What many seeds together have shown.

use std::fmt::Write;
use std::time::Duration;

use smr_sim::rare::{Rare, RareCounts};
use smr_sim::run::Report;

/// From this many seeds on a run must have met the rare situations: those that are met least often come five times in
/// this many, on average.
const RARE_SEEDS: u64 = 2_000;
/// Met twice in 20,000 runs, and so wanted only of one that has [`SELDOM_SEEDS`].
const SELDOM: [Rare; 1] = [Rare::DamagedSnapshot];
/// From this many seeds on a run must have met what is seldom, too.
const SELDOM_SEEDS: u64 = 50_000;

/// Sums over all seeds.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) seeds: u64,
    violations: u64,
    begun: u64,
    acknowledged: u64,
    steps: u64,
    virtual_time: Duration,
    wall_time: Duration,
    slowest: Option<(Duration, u64)>,
    rare: RareCounts,
}

impl Summary {
    pub(super) fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.violations += u64::from(report.failure.is_some());
        self.begun += report.begun;
        self.acknowledged += report.acknowledged;
        self.steps += report.steps;
        self.virtual_time += report.virtual_time;
        self.wall_time += report.wall_time;
        self.slowest = self.slowest.max(Some((report.wall_time, report.seed)));
        self.rare.add(&report.rare);
    }

    fn acknowledged_percent(&self) -> u64 {
        self.acknowledged * 100 / self.begun.max(1)
    }

    pub(super) fn line(&self, elapsed: Duration) -> String {
        format!(
            "{} seeds in {:.0} s, {} violations, {} operations, {} % answered, {} of {} rare situations met",
            self.seeds,
            elapsed.as_secs_f64(),
            self.violations,
            self.begun,
            self.acknowledged_percent(),
            self.rare.different(),
            Rare::ALL.len()
        )
    }

    pub(super) fn table(&self, elapsed: Duration) -> String {
        let mut text = String::new();
        for rare in Rare::ALL {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{:>10}  {rare}", self.rare.of(*rare));
        }
        let ratio = self.virtual_time.as_secs_f64() / self.wall_time.as_secs_f64().max(1e-9);
        let (slowest, seed) = self.slowest.unwrap_or_default();
        let _ = writeln!(text, "{}", self.line(elapsed));
        let _ = write!(
            text,
            "{:.0} virtual seconds and {} steps, {ratio:.0} times real time on one core; slowest seed {seed} with \
             {:.1} s",
            self.virtual_time.as_secs_f64(),
            self.steps,
            slowest.as_secs_f64()
        );
        text
    }

    /// What a long run should have shown and did not.
    pub(super) fn wanting(&self, acknowledged_percent_min: u64) -> Vec<String> {
        let seeds_wanted = |rare: &Rare| if SELDOM.contains(rare) { SELDOM_SEEDS } else { RARE_SEEDS };
        let never = self.rare.never().into_iter().filter(|rare| self.seeds >= seeds_wanted(rare));
        let mut wanting: Vec<String> = never.map(|rare| format!("never: {rare}")).collect();
        if self.acknowledged_percent() < acknowledged_percent_min {
            wanting.push(format!("only {} % of the operations were answered", self.acknowledged_percent()));
        }
        wanting
    }
}
