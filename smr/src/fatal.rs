//! Ends the process when a part of it cannot go on: nothing is half alive.
//!
//! A failing disk stops the replica, and so does a bug. Both end the process with [`EXIT_FATAL`], so that whoever
//! watches it sees a death and not a silence; a restart recovers from what is durable.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::thread;

/// The exit code of a process that a failed disk or a bug has ended.
pub const EXIT_FATAL: i32 = 70;

thread_local! {
    /// Whether a panic on this thread is expected and will be caught.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic on any thread, asynchronous tasks included, ends the process with [`EXIT_FATAL`].
pub fn exit_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                report(info);
                std::process::exit(EXIT_FATAL);
            }
        }));
    });
}

/// Runs foreign code that is known to panic on bad input; the panic's message comes back as an error.
///
/// # Errors
/// The panic's message.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(before);
    result.map_err(|payload| {
        payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "panic without a message".to_owned())
    })
}

/// Ends the process with [`EXIT_FATAL`] and one line: `who` cannot go on, and `why`.
pub(crate) fn end_process(who: &str, why: &str) -> ! {
    eprintln!("[{}] {who}: {why}; this process ends", crate::report::timestamp());
    std::process::exit(EXIT_FATAL)
}

/// Starts a thread whose failure ends the process.
///
/// # Errors
/// If the operating system gives no thread.
pub(crate) fn spawn_vital(
    name: String,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> std::io::Result<thread::JoinHandle<()>> {
    exit_on_panic();
    thread::Builder::new().name(name.clone()).spawn(move || {
        if let Err(why) = run() {
            end_process(&name, &why);
        }
    })
}
