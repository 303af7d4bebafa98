//! How YCSB chooses records: uniform, zipfian with scrambling, latest.
//!
//! After Cooper et al., "Benchmarking Cloud Serving Systems with YCSB" (SoCC 2010), and the generators of its core:
//! Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994), with the constant 0.99; popular
//! items are spread over the whole space with the hash FNV-1a over the eight bytes of a number.

use clap::ValueEnum;
use rand::{Rng, RngExt};
use serde::Serialize;

/// YCSB's zipfian constant.
const THETA: f64 = 0.99;
/// The item space of the scrambled zipfian: so large that it need not grow with the records.
const SCRAMBLED_ITEMS: u64 = 10_000_000_000;
/// The sum of 1/i^0.99 over that space, as YCSB publishes it: adding it up takes minutes.
const SCRAMBLED_ZETA: f64 = 26.469_028_201_783_02;
/// Of the hash FNV-1a for 64 bits.
const FNV_OFFSET_BASIS: u64 = 0xCBF2_9CE4_8422_2325;
/// Of the hash FNV-1a for 64 bits.
const FNV_PRIME: u64 = 1_099_511_628_211;

/// Which records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// All alike
    Uniform,
    /// Few very often, spread over the whole space
    Zipfian,
    /// The later inserted, the more often
    Latest,
}

/// The hash by which YCSB spreads numbers.
pub(super) fn fnv_hash(mut number: u64) -> u64 {
    let mut hash = FNV_OFFSET_BASIS;
    for _ in 0..8 {
        hash ^= number & 0xff;
        hash = hash.wrapping_mul(FNV_PRIME);
        number >>= 8;
    }
    // YCSB takes the absolute value of what Java sees as a signed number.
    (hash as i64).unsigned_abs()
}

/// Numbers from 0 on, number i with a probability in proportion to 1/(i + 1)^0.99.
#[derive(Clone, Debug)]
pub(super) struct Zipfian {
    items: u64,
    /// The sum of 1/i^0.99 from 1 to `items`.
    zeta: f64,
}

impl Zipfian {
    pub(super) fn new(items: u64) -> Zipfian {
        let mut zipfian = Zipfian { items: 0, zeta: 0.0 };
        zipfian.grow(items);
        zipfian
    }

    /// Over more items; fewer are not possible and change nothing.
    fn grow(&mut self, items: u64) {
        self.zeta += (self.items + 1..=items).map(|item| (item as f64).powf(-THETA)).sum::<f64>();
        self.items = self.items.max(items);
    }

    fn next(&self, rng: &mut impl Rng) -> u64 {
        let zeta_of_two = 1.0 + 0.5_f64.powf(THETA);
        let point: f64 = rng.random();
        let scaled = point * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < zeta_of_two {
            return 1;
        }
        let items = self.items as f64;
        let eta = (1.0 - (2.0 / items).powf(1.0 - THETA)) / (1.0 - zeta_of_two / self.zeta);
        let drawn = items * (eta * point - eta + 1.0).powf(1.0 / (1.0 - THETA));
        (drawn as u64).min(self.items - 1)
    }
}

/// Chooses records out of those that are there.
#[derive(Clone, Debug)]
pub(super) enum Chooser {
    Uniform,
    Scrambled {
        zipfian: Zipfian,
        /// The records, and those that the run will probably insert: the popular ones must not change meanwhile.
        items: u64,
    },
    Latest(Zipfian),
}

impl Chooser {
    /// Over `records`, and `expected` more that will probably be inserted.
    pub(super) fn new(distribution: Distribution, records: u64, expected: u64) -> Chooser {
        match distribution {
            Distribution::Uniform => Chooser::Uniform,
            Distribution::Zipfian => Chooser::Scrambled {
                zipfian: Zipfian { items: SCRAMBLED_ITEMS, zeta: SCRAMBLED_ZETA },
                items: records + expected,
            },
            Distribution::Latest => Chooser::Latest(Zipfian::new(records)),
        }
    }

    /// One of the records 0 to `limit` - 1; there must be one.
    pub(super) fn next(&mut self, limit: u64, rng: &mut impl Rng) -> u64 {
        match self {
            Chooser::Uniform => rng.random_range(0..limit),
            Chooser::Scrambled { zipfian, items } => loop {
                let chosen = fnv_hash(zipfian.next(rng)) % *items;
                // Not there yet: drawn again, as YCSB does.
                if chosen < limit {
                    return chosen;
                }
            },
            Chooser::Latest(zipfian) => {
                zipfian.grow(limit);
                limit - 1 - zipfian.next(rng).min(limit - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const DRAWS: u64 = 200_000;

    /// Pearson's statistic over classes with their expected shares, divided by its degrees of freedom: about 1 if the
    /// draws follow them.
    fn chi_square(counts: &[u64], shares: &[f64]) -> f64 {
        let total = counts.iter().sum::<u64>() as f64;
        let sum: f64 = counts
            .iter()
            .zip(shares)
            .map(|(&count, share)| (count as f64 - share * total).powi(2) / (share * total))
            .sum();
        sum / (counts.len() - 1) as f64
    }

    #[test]
    fn fnv_hash_gives_the_first_keys_of_every_ycsb_run() {
        let found = [0, 1, 2].map(fnv_hash);
        assert_eq!(found, [6_284_781_860_667_377_211, 8_517_097_267_634_966_620, 1_820_151_046_732_198_393]);
    }

    #[test]
    fn zipfian_of_a_hundred_items_has_the_published_shares() {
        let (zipfian, mut rng) = (Zipfian::new(100), ChaCha8Rng::seed_from_u64(1));
        let mut counts = [0; 100];
        (0..DRAWS).for_each(|_| counts[zipfian.next(&mut rng) as usize] += 1);
        let zeta: f64 = (1..=100).map(|item| f64::from(item).powf(-THETA)).sum();
        let share = |item: usize| (item as f64 + 1.0).powf(-THETA) / zeta;
        // Gray's method is exact for the first two items, and an approximation by an integral after them.
        for item in [0, 1] {
            let error = counts[item] as f64 / DRAWS as f64 / share(item);
            assert!((error - 1.0).abs() < 0.02, "item {item}: {error}");
        }
        let in_tens: Vec<u64> = counts.chunks(10).map(|ten| ten.iter().sum()).collect();
        for (ten, &count) in in_tens.iter().enumerate() {
            let expected: f64 = (ten * 10..ten * 10 + 10).map(share).sum();
            let error = count as f64 / DRAWS as f64 / expected;
            assert!((error - 1.0).abs() < 0.1, "items {}0 to {}9: {error}", ten, ten);
        }
    }

    #[test]
    fn zipfian_grown_step_by_step_is_the_one_made_at_once() {
        let mut grown = Zipfian::new(10);
        grown.grow(500);
        grown.grow(400);
        grown.grow(1_000);
        let whole = Zipfian::new(1_000);
        assert_eq!(grown.items, whole.items);
        assert!((grown.zeta - whole.zeta).abs() < 1e-9);
    }

    #[test]
    fn scrambled_zeta_is_the_sum_that_it_stands_for() {
        // The first million terms one by one, and the rest by Euler and Maclaurin.
        let head: f64 = (1..=1_000_000_u32).map(|item| f64::from(item).powf(-THETA)).sum();
        let power = |number: f64| number.powf(1.0 - THETA) / (1.0 - THETA);
        let ends = (1e6_f64.powf(-THETA) + 1e10_f64.powf(-THETA)) / 2.0;
        let tail = power(1e10) - power(1e6) + ends - 1e6_f64.powf(-THETA);
        assert!((head + tail - SCRAMBLED_ZETA).abs() < 1e-4, "{}", head + tail);
    }

    #[test]
    fn scrambled_most_popular_record_is_the_hash_of_zero_with_its_share() {
        let mut chooser = Chooser::new(Distribution::Zipfian, 1_000, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut counts = vec![0_u64; 1_000];
        (0..DRAWS).for_each(|_| counts[chooser.next(1_000, &mut rng) as usize] += 1);
        let first = (0..1_000).max_by_key(|&record| counts[record]).unwrap();
        assert_eq!(first as u64, fnv_hash(0) % 1_000);
        let share = counts[first] as f64 / DRAWS as f64;
        // 1/zeta, and a thousandth of all the others.
        assert!((share - 1.0 / SCRAMBLED_ZETA).abs() < 0.003, "{share}");
        assert!(counts.iter().all(|&count| count > 0));
    }

    #[test]
    fn scrambled_with_room_for_inserts_never_gives_what_is_not_there() {
        let mut chooser = Chooser::new(Distribution::Zipfian, 100, 50);
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        assert!((0..DRAWS).all(|_| chooser.next(100, &mut rng) < 100));
        assert!((0..DRAWS).any(|_| chooser.next(150, &mut rng) >= 100));
    }

    #[test]
    fn uniform_gives_all_alike() {
        let (mut chooser, mut rng) = (Chooser::new(Distribution::Uniform, 50, 0), ChaCha8Rng::seed_from_u64(4));
        let mut counts = [0; 50];
        (0..DRAWS).for_each(|_| counts[chooser.next(50, &mut rng) as usize] += 1);
        let found = chi_square(&counts, &[0.02; 50]);
        assert!((0.5..1.7).contains(&found), "{found}");
    }

    #[test]
    fn latest_gives_the_last_most_often_also_after_inserts() {
        let (mut chooser, mut rng) = (Chooser::new(Distribution::Latest, 100, 0), ChaCha8Rng::seed_from_u64(5));
        for limit in [100, 1_000] {
            let mut counts = vec![0_u64; limit];
            (0..DRAWS).for_each(|_| counts[chooser.next(limit as u64, &mut rng) as usize] += 1);
            let zeta: f64 = (1..=limit).map(|item| (item as f64).powf(-THETA)).sum();
            let share = counts[limit - 1] as f64 / DRAWS as f64;
            assert!((share * zeta - 1.0).abs() < 0.03, "{limit}: {share}");
            assert!(counts[limit - 1] > counts[limit - 2] && counts[limit - 2] > counts[limit - 10]);
        }
    }
}
