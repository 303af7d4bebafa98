//! The clock that a replica lives by.

use crate::protocol::Time;

/// The replica's clock: monotonic, from 0. It goes on while the machine is suspended, or a lease would outlive its
/// length there.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    started_us: u64,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { started_us: since_boot_us() }
    }

    pub(super) fn now(self) -> Time {
        Time(since_boot_us().saturating_sub(self.started_us))
    }
}

fn since_boot_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}
