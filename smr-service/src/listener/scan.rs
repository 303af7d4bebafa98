//! How a long answer (a scan) gets on: whether its client takes it fast enough.

use std::time::Duration;

use tokio::time::Instant;

use super::ListenerLimits;

/// How slowly clients may take their scans.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanPace {
    /// How long a scan may wait for its client, in all, …
    grace: Duration,
    /// … and a second more for each of these bytes sent.
    min_bytes_per_s: u32,
}

impl ScanPace {
    pub(super) fn new(limits: &ListenerLimits) -> ScanPace {
        ScanPace { grace: limits.scan_grace, min_bytes_per_s: limits.scan_min_bytes_per_s }
    }

    /// How long a scan of which this much was sent may have waited for its client.
    fn allowance(self, sent_bytes: u64) -> Duration {
        self.grace + Duration::from_secs_f64(sent_bytes as f64 / f64::from(self.min_bytes_per_s.max(1)))
    }
}

/// A scan under way.
#[derive(Debug, Default)]
pub(super) struct Scan {
    sent_bytes: u64,
    /// How long it has waited for its client to read, and since when it does now.
    waited: Duration,
    waits_since: Option<Instant>,
}

impl Scan {
    /// This many more bytes of it were handed on.
    pub(super) fn count_sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// Its client does not read; it may have begun not to before.
    pub(super) fn wait(&mut self, now: Instant) {
        self.waits_since.get_or_insert(now);
    }

    /// There is room for its next part.
    pub(super) fn stop_waiting(&mut self, now: Instant) {
        self.waited = self.waited(now);
        self.waits_since = None;
    }

    /// Whether it has waited longer than it may.
    pub(super) fn is_too_slow(&self, pace: ScanPace, now: Instant) -> bool {
        self.waited(now) > pace.allowance(self.sent_bytes)
    }

    fn waited(&self, now: Instant) -> Duration {
        self.waited + self.waits_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}
