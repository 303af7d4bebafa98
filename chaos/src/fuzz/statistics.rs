//! What a run was like, in numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What became of the operations of one kind.
#[derive(Clone, Debug, Default)]
struct Kind {
    answered: u64,
    not_done: u64,
    unknown: u64,
    /// Of those that were answered, in no order.
    latencies: Vec<Duration>,
}

/// Numbers of a run.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    kinds: BTreeMap<&'static str, Kind>,
    /// How long the run took.
    pub took: Duration,
    /// Operations that had to be tried again at least once before they ended, a client's first ones excepted: those may
    /// have to find the way.
    pub retried: u64,
    /// The longest time in which no operation of any client was answered.
    pub longest_gap: Duration,
    /// Why operations were not answered, with how often.
    pub reasons: BTreeMap<String, u64>,
}

/// What became of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was answered, after this long.
    Answered(Duration),
    NotDone,
    Unknown,
}

/// How many different reasons are told apart.
const REASONS_MAX: usize = 20;

impl Statistics {
    /// Counts an operation.
    pub(crate) fn add(&mut self, verb: &'static str, end: End) {
        let kind = self.kinds.entry(verb).or_default();
        match end {
            End::Answered(latency) => {
                kind.answered += 1;
                kind.latencies.push(latency);
            }
            End::NotDone => kind.not_done += 1,
            End::Unknown => kind.unknown += 1,
        }
    }

    /// Counts a reason why an operation was not answered.
    pub(crate) fn add_reason(&mut self, reason: String) {
        if self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&reason) {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    fn sum(&self, of: impl Fn(&Kind) -> u64) -> u64 {
        self.kinds.values().map(of).sum()
    }

    /// How many operations were answered.
    pub fn answered(&self) -> u64 {
        self.sum(|kind| kind.answered)
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.sum(|kind| kind.answered + kind.not_done + kind.unknown)
    }

    /// How many of 100 operations were answered; 0 if there were none.
    pub fn answered_percent(&self) -> f64 {
        100.0 * self.answered() as f64 / self.operations().max(1) as f64
    }
}

fn milliseconds(sorted: &[Duration], share: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or_default().as_secs_f64() * 1e3
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.operations() as f64 / self.took.as_secs_f64().max(1e-9);
        writeln!(f, "{} operations in {:.1} s, {rate:.0} per second", self.operations(), self.took.as_secs_f64())?;
        writeln!(f, "operation  answered  not done  unknown  p50 ms  p99 ms   max ms")?;
        for (verb, kind) in &self.kinds {
            let mut sorted = kind.latencies.clone();
            sorted.sort_unstable();
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| milliseconds(&sorted, share));
            let Kind { answered, not_done, unknown, .. } = kind;
            writeln!(f, "{verb:<9} {answered:>9} {not_done:>9} {unknown:>8} {p50:>7.2} {p99:>7.2} {max:>8.1}")?;
        }
        writeln!(
            f,
            "{:.2} % answered; {} operations had to be tried again; longest time without any answer {:.0} ms",
            self.answered_percent(),
            self.retried,
            self.longest_gap.as_secs_f64() * 1e3,
        )?;
        for (reason, count) in &self.reasons {
            writeln!(f, "  {count} times: {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_counts_by_kind_and_shares() {
        let mut statistics = Statistics { took: Duration::from_secs(2), retried: 3, ..Statistics::default() };
        statistics.add("PUT", End::Answered(Duration::from_millis(4)));
        statistics.add("PUT", End::Unknown);
        statistics.add("GET", End::NotDone);
        statistics.add("GET", End::Answered(Duration::from_millis(2)));
        assert_eq!((statistics.operations(), statistics.answered()), (4, 2));
        let text = statistics.to_string();
        assert!(text.contains("4 operations in 2.0 s, 2 per second"), "{text}");
        assert!(text.contains("PUT               1         0        1    4.00    4.00      4.0"), "{text}");
        assert!(text.contains("50.00 % answered; 3 operations"), "{text}");
    }
}
