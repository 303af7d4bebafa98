//! YCSB's core workloads A to F: what is asked for how often.

use std::fmt;

use clap::ValueEnum;
use rand::distr::Distribution as _;
use rand::distr::weighted::WeightedIndex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::ycsb::distribution::{Chooser, Distribution};
use crate::ycsb::keys::{Keys, key_name};

/// The most records that a scan asks for, unless told otherwise.
pub(super) const SCAN_MAX_DEFAULT: u64 = 100;

/// A core workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Half reads, half updates
    A,
    /// 95 of 100 are reads, the others updates
    B,
    /// Reads only
    C,
    /// 95 of 100 are reads of what came last, the others insert
    D,
    /// 95 of 100 are scans, the others insert
    E,
    /// Half reads, half read, modify and write back
    F,
}

/// What an operation does, by YCSB's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// A GET.
    Read,
    /// A SWAP.
    Update,
    /// A PUT of a key that was not there.
    Insert,
    /// A SCAN.
    Scan,
    /// A GET, and then a SWAP of the same key.
    ReadModifyWrite,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Read, Kind::Update, Kind::Insert, Kind::Scan, Kind::ReadModifyWrite];

    /// YCSB's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "READ",
            Kind::Update => "UPDATE",
            Kind::Insert => "INSERT",
            Kind::Scan => "SCAN",
            Kind::ReadModifyWrite => "READ-MODIFY-WRITE",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 6] = [Workload::A, Workload::B, Workload::C, Workload::D, Workload::E, Workload::F];

    /// How many of 100 operations are of which kind.
    pub fn percents(self) -> &'static [(Kind, u32)] {
        match self {
            Workload::A => &[(Kind::Read, 50), (Kind::Update, 50)],
            Workload::B => &[(Kind::Read, 95), (Kind::Update, 5)],
            Workload::C => &[(Kind::Read, 100)],
            Workload::D => &[(Kind::Read, 95), (Kind::Insert, 5)],
            Workload::E => &[(Kind::Scan, 95), (Kind::Insert, 5)],
            Workload::F => &[(Kind::Read, 50), (Kind::ReadModifyWrite, 50)],
        }
    }

    /// Which records it asks for, unless told otherwise.
    pub fn distribution(self) -> Distribution {
        match self {
            Workload::D => Distribution::Latest,
            _ => Distribution::Zipfian,
        }
    }

    /// Its letter, as recipes and logs have it.
    pub fn letter(self) -> char {
        match self {
            Workload::A => 'a',
            Workload::B => 'b',
            Workload::C => 'c',
            Workload::D => 'd',
            Workload::E => 'e',
            Workload::F => 'f',
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read(String),
    Update(String),
    /// The record's number, if it is one of ours.
    Insert(Option<u64>, String),
    /// From this key on, this many records.
    Scan(String, usize),
    ReadModifyWrite(String),
}

impl Operation {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Operation::Read(_) => Kind::Read,
            Operation::Update(_) => Kind::Update,
            Operation::Insert(..) => Kind::Insert,
            Operation::Scan(..) => Kind::Scan,
            Operation::ReadModifyWrite(_) => Kind::ReadModifyWrite,
        }
    }
}

/// What one client asks for, decided by a seed.
#[derive(Clone, Debug)]
pub(super) struct Generator {
    kinds: &'static [(Kind, u32)],
    weights: WeightedIndex<u32>,
    chooser: Chooser,
    scan_max: u64,
    rng: ChaCha8Rng,
}

impl Generator {
    /// `operations` of all clients tell how many inserts to expect.
    pub(super) fn new(
        workload: Workload,
        distribution: Distribution,
        records: u64,
        operations: u64,
        scan_max: u64,
    ) -> Generator {
        let kinds = workload.percents();
        let weights = WeightedIndex::new(kinds.iter().map(|(_, percent)| *percent));
        let inserts = kinds.iter().find(|(kind, _)| *kind == Kind::Insert).map_or(0, |(_, percent)| *percent);
        // Twice as many as will come on average, as YCSB does.
        let expected = operations / 100 * u64::from(inserts) * 2;
        Generator {
            kinds,
            weights: weights.unwrap_or_else(|error| panic!("the percents of {workload}: {error}")),
            chooser: Chooser::new(distribution, records, expected),
            scan_max,
            rng: ChaCha8Rng::seed_from_u64(0),
        }
    }

    /// The same with another seed.
    pub(super) fn seeded(&self, seed: u64) -> Generator {
        Generator { rng: ChaCha8Rng::seed_from_u64(seed), ..self.clone() }
    }

    pub(super) fn next(&mut self, keys: &Keys) -> Operation {
        let (kind, _) = self.kinds[self.weights.sample(&mut self.rng)];
        if kind == Kind::Insert {
            let number = keys.begin_insert();
            return Operation::Insert(Some(number), key_name(number));
        }
        let key = key_name(self.chooser.next(keys.acknowledged(), &mut self.rng));
        match kind {
            Kind::Read | Kind::Insert => Operation::Read(key),
            Kind::Update => Operation::Update(key),
            Kind::ReadModifyWrite => Operation::ReadModifyWrite(key),
            Kind::Scan => Operation::Scan(key, self.rng.random_range(1..=self.scan_max) as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_of_each_workload_are_a_hundred() {
        for workload in Workload::ALL {
            assert_eq!(workload.percents().iter().map(|(_, percent)| percent).sum::<u32>(), 100, "{workload}");
        }
    }

    #[test]
    fn generator_of_e_scans_and_inserts_as_published() {
        let keys = Keys::loaded(1_000);
        let mut generator = Generator::new(Workload::E, Distribution::Zipfian, 1_000, 20_000, 100).seeded(1);
        let (mut scans, mut inserts, mut records) = (0_u32, 0_u32, 0);
        for _ in 0..20_000 {
            match generator.next(&keys) {
                Operation::Scan(_, count) => {
                    assert!((1..=100).contains(&count));
                    (scans, records) = (scans + 1, records + count);
                }
                Operation::Insert(Some(number), key) => {
                    assert_eq!((number, &key), (u64::from(1_000 + inserts), &key_name(number)));
                    keys.acknowledge(Some(number), &key);
                    inserts += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((f64::from(inserts) / 20_000.0 - 0.05).abs() < 0.006, "{inserts}");
        assert!((records as f64 / f64::from(scans) - 50.5).abs() < 1.5, "{records} in {scans}");
    }

    #[test]
    fn generator_of_the_same_seed_asks_the_same() {
        let keys = Keys::loaded(100);
        let asked = |seed| {
            let mut generator = Generator::new(Workload::F, Distribution::Uniform, 100, 50, 100).seeded(seed);
            (0..50).map(|_| generator.next(&keys)).collect::<Vec<_>>()
        };
        assert_eq!(asked(7), asked(7));
        assert_ne!(asked(7), asked(8));
    }
}
