//! What many seeds together have shown.

use std::fmt::Write;
use std::time::Duration;

use smr_sim::epochs::rare as of_epochs;
use smr_sim::rare::{Counts, Rare, Situation};

use super::kinds::SeedReport;

/// From this many seeds on a run must have met the rare situations: those that are met least often come five times in
/// this many, on average.
const RARE_SEEDS: u64 = 2_000;
/// Met twice in 20,000 runs, and so wanted only of one that has [`SELDOM_SEEDS`].
const SELDOM: [Rare; 1] = [Rare::DamagedSnapshot];
/// From this many seeds on a run must have met what is seldom, too.
const SELDOM_SEEDS: u64 = 50_000;
/// From this many seeds of groups under a configuration service on a run must have met all that is rare in them ...
const EPOCHS_RARE_SEEDS: u64 = 2_000;
/// ... but what no run should meet.
const EPOCHS_UNWANTED: [of_epochs::Rare; 1] = [of_epochs::Rare::LostForGood];

/// Sums over all seeds.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) seeds: u64,
    /// How many of them were about Raft groups.
    raft_seeds: u64,
    violations: u64,
    begun: u64,
    acknowledged: u64,
    steps: u64,
    virtual_time: Duration,
    wall_time: Duration,
    slowest: Option<(Duration, u64)>,
    rare: Counts<Rare>,
    epochs_rare: Counts<of_epochs::Rare>,
}

/// What reports of all kinds have.
struct Figures {
    seed: u64,
    is_failure: bool,
    begun: u64,
    acknowledged: u64,
    steps: u64,
    virtual_time: Duration,
    wall_time: Duration,
}

macro_rules! figures {
    ($report:expr) => {
        Figures {
            seed: $report.seed,
            is_failure: $report.failure.is_some(),
            begun: $report.begun,
            acknowledged: $report.acknowledged,
            steps: $report.steps,
            virtual_time: $report.virtual_time,
            wall_time: $report.wall_time,
        }
    };
}

impl Summary {
    pub(super) fn add(&mut self, report: &SeedReport) {
        let figures = match report {
            SeedReport::Raft(report) => {
                self.raft_seeds += 1;
                self.rare.add(&report.rare);
                figures!(report)
            }
            SeedReport::Epochs(report) => {
                self.epochs_rare.add(&report.rare);
                figures!(report)
            }
        };
        self.seeds += 1;
        self.violations += u64::from(figures.is_failure);
        self.begun += figures.begun;
        self.acknowledged += figures.acknowledged;
        self.steps += figures.steps;
        self.virtual_time += figures.virtual_time;
        self.wall_time += figures.wall_time;
        self.slowest = self.slowest.max(Some((figures.wall_time, figures.seed)));
    }

    fn epochs_seeds(&self) -> u64 {
        self.seeds - self.raft_seeds
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
            self.met(),
            self.to_meet()
        )
    }

    /// How many situations there are, of the kinds that were run.
    fn to_meet(&self) -> usize {
        let raft = if self.raft_seeds > 0 { Rare::ALL.len() } else { 0 };
        raft + if self.epochs_seeds() > 0 { of_epochs::Rare::ALL.len() } else { 0 }
    }

    fn met(&self) -> usize {
        self.rare.different() + self.epochs_rare.different()
    }

    pub(super) fn table(&self, elapsed: Duration) -> String {
        let mut text = String::new();
        if self.raft_seeds > 0 {
            list(&mut text, &self.rare);
        }
        if self.epochs_seeds() > 0 {
            list(&mut text, &self.epochs_rare);
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
        let never = self.rare.never().into_iter().filter(|rare| self.raft_seeds >= seeds_wanted(rare));
        let mut wanting: Vec<String> = never.map(|rare| format!("never: {rare}")).collect();
        if self.epochs_seeds() >= EPOCHS_RARE_SEEDS {
            let never = self.epochs_rare.never().into_iter().filter(|rare| !EPOCHS_UNWANTED.contains(rare));
            wanting.extend(never.map(|rare| format!("never: {rare}")));
        }
        if self.acknowledged_percent() < acknowledged_percent_min {
            wanting.push(format!("only {} % of the operations were answered", self.acknowledged_percent()));
        }
        wanting
    }
}

fn list<R: Situation + std::fmt::Display>(text: &mut String, counts: &Counts<R>) {
    for rare in R::ALL {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:>10}  {rare}", counts.of(*rare));
    }
}
