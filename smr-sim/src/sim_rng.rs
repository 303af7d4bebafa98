//! Random numbers: one stream for each purpose, all from one seed.
//!
//! Streams are apart so that a change in one place (a client asks once more) does not shuffle everything else, and a
//! seed stays close to what it was.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream of random numbers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The configuration of the run.
    Swarm = 1,
    /// When what goes wrong, where, for how long.
    Faults,
    /// Delays, losses, copies.
    Network,
    /// How long devices take, and what a power cut leaves.
    Disks,
    /// What the replicas draw themselves: election timeouts.
    Nodes,
    /// When clients ask whom.
    Clients,
    /// What they ask.
    Workload,
    /// What goes wrong while a group is founded.
    Founding,
    /// How long those take who record a genesis.
    Recorder,
    /// In which order a replica hears of what happened elsewhere.
    Order,
    /// What a configuration service does, and when.
    Service,
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct SimRng(ChaCha8Rng);

impl SimRng {
    /// The stream of `seed` for one purpose.
    pub fn new(seed: u64, purpose: Purpose) -> SimRng {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(purpose as u64);
        SimRng(rng)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias is one in 2^64 / end, and the same everywhere.
        if end == 0 { 0 } else { self.any() % end }
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize]
    }

    /// A seed for someone who draws by himself.
    pub fn rng(&mut self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.any())
    }
}
