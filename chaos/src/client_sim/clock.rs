//! One clock for everything: tokio's, paused.
//!
//! tokio's timers are as fine as a millisecond, so what the world does within one happens at its end, in order.

use smr::internals::protocol::Time;
use tokio::time::Instant;

/// Virtual time since the start of the run.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at 0. Must run inside of a runtime with a paused clock.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The time.
    pub fn now(self) -> Time {
        Time(self.0.elapsed().as_micros() as u64)
    }

    /// Waits.
    pub async fn sleep_until(self, at: Time) {
        tokio::time::sleep_until(self.0 + std::time::Duration::from_micros(at.0)).await;
    }
}
