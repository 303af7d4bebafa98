//! What a lease counts for, by a clock that may be slower than the grantor's.

/// For how long after it asked the holder may count on a lease of `length_us`, by its own clock, in
/// microseconds.
pub(crate) fn countable_us(length_us: u64, clock_drift_permille: u64) -> u64 {
    length_us.saturating_sub(1).saturating_mul(1000) / (1000 + clock_drift_permille)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::LEASE_MAX_US;

    // covers R7
    #[test]
    fn countable_fast_voter_and_slow_leader_end_in_order() {
        for drift in [0, 1, 10, 333, 500] {
            for length_us in [1, 2, 999, 300_000, LEASE_MAX_US] {
                // The leader's clock counts 1000 while the voter's counts 1000 + drift. At the latest the voter may
                // vote again when its clock has counted one less than the length: it is read in whole microseconds.
                let leader = u128::from(countable_us(length_us, drift)) * u128::from(1000 + drift);
                let voter = u128::from(length_us - 1) * 1000;
                assert!(leader <= voter, "{length_us} us, {drift} per thousand: {leader} > {voter}");
            }
        }
    }

    #[test]
    fn countable_equal_clocks_is_nearly_all_of_it() {
        assert_eq!(countable_us(300_000, 0), 299_999);
        assert_eq!(countable_us(300_000, 10), 297_028);
        assert_eq!(countable_us(0, 10), 0);
    }
}
