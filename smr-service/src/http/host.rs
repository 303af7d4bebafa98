//! What the kernel tells of the process and its disk. It may take its time for that, with a network's file system for
//! ever: it is asked on a thread of its own, one question at a time, and who watches sees what it said last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::statvfs;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Families, process};

/// How long a page waits for new numbers before it shows the last ones.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// Asks the kernel.
pub(super) struct Host(Arc<Shared>);

type Read = dyn Fn() -> Families + Send + Sync;

struct Shared {
    read: Box<Read>,
    state: Mutex<State>,
    answered: Notify,
}

#[derive(Default)]
struct State {
    /// Someone asks.
    is_asking: bool,
    last: Families,
}

impl Host {
    /// Of a process with this directory that `started` then.
    pub(super) fn new(directory: PathBuf, started: SystemTime) -> Host {
        Host::of(move || {
            let mut families = Families::default();
            if let Ok(room) = statvfs(&directory) {
                let what = "Room that is left on the disk of its directory";
                families.gauge("smr_disk_free_bytes", what, room.f_bavail.saturating_mul(room.f_frsize));
                families.gauge("smr_disk_size_bytes", "Size of that disk", room.f_blocks.saturating_mul(room.f_frsize));
            }
            process::add(&mut families, started);
            families
        })
    }

    fn of(read: impl Fn() -> Families + Send + Sync + 'static) -> Host {
        Host(Arc::new(Shared { read: Box::new(read), state: Mutex::default(), answered: Notify::new() }))
    }

    /// The numbers: those of now, or the last ones if the kernel does not answer in time; none before it ever has.
    pub(super) async fn present(&self) -> Families {
        let answered = self.0.answered.notified();
        tokio::pin!(answered);
        // Hears also of an answer that comes before it is waited for.
        answered.as_mut().enable();
        if !std::mem::replace(&mut self.0.lock().is_asking, true) {
            let shared = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || {
                let last = (shared.read)();
                *shared.lock() = State { is_asking: false, last };
                shared.answered.notify_waiters();
            });
        }
        // In vain, if it takes longer.
        let _ = timeout(ANSWER_WITHIN, answered).await;
        self.0.lock().last.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn present_of_a_kernel_that_hangs_is_what_it_said_last_and_only_one_thread_waits() {
        let (go_on, may_go_on) = channel::<()>();
        let may_go_on = Mutex::new(may_go_on);
        let asked = Arc::new(AtomicUsize::new(0));
        let asks = Arc::clone(&asked);
        let host = Host::of(move || {
            let count = asks.fetch_add(1, Ordering::SeqCst);
            if count == 1 {
                // Hangs; for ever would outlive the test.
                let _ = may_go_on.lock().recv();
            }
            let mut families = Families::default();
            families.gauge("number", "Of the question", count as u64);
            families
        });
        // The first answer may be late on a busy machine, and is never lost.
        while !host.present().await.text().contains("number 0") {}
        while asked.load(Ordering::SeqCst) < 2 {
            assert!(host.present().await.text().contains("number 0"));
        }
        for _ in 0..3 {
            assert!(host.present().await.text().contains("number 0"));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2, "one hangs, and no other one was sent after it");
        drop(go_on);
        while host.present().await.text().contains("number 0") {}
    }
}
