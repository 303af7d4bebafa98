//! How a link behaves, and since when.

use std::time::Duration;

use tokio::time::Instant;

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They arrive.
    #[default]
    Pass,
    /// Nothing arrives, the end of the connection neither; and nothing is read, once the bounded buffers are full. What
    /// was held arrives when the flow changes.
    Hold,
    /// They arrive late, in order.
    Late {
        /// By this much.
        delay: Duration,
        /// And by up to this much more.
        jitter: Duration,
    },
    /// They arrive at this rate.
    Thin {
        /// Bytes per second.
        bytes_per_s: u32,
    },
    /// One byte at a time, with this pause after each.
    Trickle {
        /// The pause.
        pause: Duration,
    },
    /// Single frames are lost, by chance, and nothing else is; on connections that come about while this is the rule.
    /// What consists of many frames, as the answer to a SCAN, may then miss one.
    LoseFrames {
        /// This many in a thousand.
        permille: u16,
    },
    /// After a random number of bytes the connection is reset, on both sides: most often in the middle of a frame.
    ResetAfter {
        /// At most this many bytes arrive on each connection.
        bytes_max: u32,
    },
}

/// Whether there can be connections at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    #[default]
    Open,
    /// No: those that are there are reset, and so are new ones.
    Shut,
    /// Open and shut by turns, each for this long.
    Flapping {
        /// How long each state lasts.
        period: Duration,
    },
}

/// How a link behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// From the dialler to the target.
    pub forward: Flow,
    /// From the target to the dialler.
    pub backward: Flow,
    /// Whether there can be connections.
    pub gate: Gate,
}

impl Rules {
    /// The same for both directions.
    pub fn both(flow: Flow) -> Rules {
        Rules { forward: flow, backward: flow, gate: Gate::Open }
    }

    /// Nothing gets through, and no one is told.
    pub fn silent() -> Rules {
        Rules::both(Flow::Hold)
    }

    /// Nothing gets through, and everyone is told.
    pub fn shut() -> Rules {
        Rules { gate: Gate::Shut, ..Rules::default() }
    }

    /// Requests arrive; the connection breaks before all of the answers have come back.
    pub fn answers_lost(bytes_max: u32) -> Rules {
        Rules { backward: Flow::ResetAfter { bytes_max }, ..Rules::default() }
    }
}

/// The rules, since when, and how often all connections were reset by hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting {
    pub(super) rules: Rules,
    pub(super) since: Instant,
    pub(super) resets: u64,
}

impl Setting {
    /// Whether the gate is shut now, and when that changes by itself.
    pub(super) fn gate(&self, now: Instant) -> (bool, Option<Instant>) {
        match self.rules.gate {
            Gate::Open => (false, None),
            Gate::Shut => (true, None),
            Gate::Flapping { period } => {
                let period = period.max(Duration::from_millis(1));
                let periods = (now - self.since).as_nanos() / period.as_nanos();
                let turn = self.since + period.saturating_mul(u32::try_from(periods + 1).unwrap_or(u32::MAX));
                // Shut first: the flapping is felt at once.
                (periods.is_multiple_of(2), Some(turn))
            }
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.rules.forward == Flow::Hold || self.rules.backward == Flow::Hold
    }
}
