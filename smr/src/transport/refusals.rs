//! Which refusals of peers are worth a line: whoever is turned away tries again, for ever, and may give another reason
//! each time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A reason gets one line in this time.
const PERIOD: Duration = Duration::from_secs(60);
/// Lines of different reasons in that time: more than a group has peers, and nothing to fill a disk with.
const LINES_MAX: usize = 16;

/// What was said of refusals lately.
#[derive(Debug)]
pub(super) struct Refusals {
    began: Instant,
    said: BTreeSet<String>,
    unsaid: u64,
}

impl Refusals {
    pub(super) fn new(now: Instant) -> Refusals {
        Refusals { began: now, said: BTreeSet::new(), unsaid: 0 }
    }

    /// A peer was turned away. If that is worth a line: how many were turned away without one since the last line.
    pub(super) fn note(&mut self, reason: &str, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.began) >= PERIOD {
            self.began = now;
            self.said.clear();
        }
        if self.said.contains(reason) || self.said.len() >= LINES_MAX {
            self.unsaid += 1;
            return None;
        }
        self.said.insert(reason.to_owned());
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers B4
    #[test]
    fn note_same_reason_again_one_line_a_minute_with_the_count() {
        let begin = Instant::now();
        let mut refusals = Refusals::new(begin);
        // A peer that tries again every second.
        let said: Vec<(u64, u64)> = (0..150)
            .filter_map(|second| {
                let unsaid = refusals.note("another cluster", begin + Duration::from_secs(second))?;
                Some((second, unsaid))
            })
            .collect();
        assert_eq!(said, [(0, 0), (60, 59), (120, 59)]);
    }

    // covers B4 I17
    #[test]
    fn note_another_reason_each_time_few_lines_a_minute_and_none_uncounted() {
        let begin = Instant::now();
        let mut refusals = Refusals::new(begin);
        let mut lines = 0;
        let mut counted = 0;
        for number in 0..10_000_u64 {
            // Over ten minutes.
            let now = begin + Duration::from_millis(60 * number);
            if let Some(unsaid) = refusals.note(&format!("incarnation {number:x}"), now) {
                lines += 1;
                counted += 1 + unsaid;
            }
        }
        assert_eq!(lines, 10 * LINES_MAX);
        assert_eq!(counted + refusals.unsaid, 10_000);
        assert!(refusals.said.len() <= LINES_MAX);
    }
}
