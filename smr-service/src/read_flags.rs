//! The flags that say how a replica confirms reads.

use smr::internals::raft::{CLOCK_DRIFT_MAX_PERMILLE, CLOCK_DRIFT_PERMILLE};
use smr::status::ReadMode;

use crate::args::BadArgument;

/// How a replica confirms reads while it leads.
#[derive(Clone, Debug, clap::Args)]
pub struct ReadFlags {
    /// How reads are confirmed: by asking a majority (index), or under a lease that a majority has granted (lease),
    /// which trusts that clocks do not drift further apart than --clock_drift says.
    #[arg(long = "reads", default_value = "index")]
    pub reads: String,
    /// By how much the clocks of two replicas may differ in rate, in parts per thousand.
    #[arg(long = "clock_drift", default_value_t = CLOCK_DRIFT_PERMILLE, allow_negative_numbers = true)]
    pub clock_drift: u64,
}

impl ReadFlags {
    /// The mode, and the drift per thousand.
    ///
    /// # Errors
    /// If there is no such mode, or the drift is absurd.
    pub fn check(&self) -> Result<(ReadMode, u64), BadArgument> {
        let mode = [ReadMode::Index, ReadMode::Lease].into_iter().find(|mode| mode.to_string() == self.reads);
        let mode = mode.ok_or_else(|| BadArgument(format!("--reads: {}; index and lease are possible", self.reads)))?;
        if self.clock_drift > CLOCK_DRIFT_MAX_PERMILLE {
            let (drift, most) = (self.clock_drift, CLOCK_DRIFT_MAX_PERMILLE);
            return Err(BadArgument(format!("--clock_drift: {drift}; 0 to {most} per thousand are possible")));
        }
        Ok((mode, self.clock_drift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers B9
    #[test]
    fn read_flags_senseless_are_refused() {
        let flags = |reads: &str, clock_drift| ReadFlags { reads: reads.to_owned(), clock_drift };
        assert_eq!(flags("index", 10).check(), Ok((ReadMode::Index, 10)));
        assert_eq!(flags("lease", 500).check(), Ok((ReadMode::Lease, 500)));
        assert!(flags("lease", 501).check().is_err());
        assert!(flags("leases", 10).check().is_err());
    }
}
