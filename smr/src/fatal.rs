//! Ends the process when a part of it cannot go on: nothing is half alive.
//!
//! A failing disk stops the replica, and so does a bug. Both end the process with [`EXIT_FATAL`], so that whoever
//! watches it sees a death and not a silence; a restart recovers from what is durable.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;
use std::thread;

use crate::log_sink;

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
        panic::set_hook(Box::new(|info| {
            if !GUARDED.get() {
                report(info);
                log_sink::exit(EXIT_FATAL);
            }
        }));
    });
}

/// As the standard library does it, but without waiting for whoever reads stderr.
fn report(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = text_of(info.payload());
    log_sink::line(format!("thread '{name}' panicked at {place}:\n{message}"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        log_sink::line(backtrace.to_string());
    }
    log_sink::line(format!("[{}] this is a bug, and this process ends; {AFTER_A_BUG}", crate::report::timestamp()));
}

/// What to do about a failure of the world around.
const AFTER_A_FAILURE: &str = "see that its disk works and has room, then start it again with the same arguments";
/// What to do about a bug.
const AFTER_A_BUG: &str = "start it again, it goes on from what is durable; and report the lines above";

fn text_of(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}

/// Runs foreign code that is known to panic on bad input; the panic's message comes back as an error.
///
/// # Errors
/// The panic's message.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(before);
    result.map_err(|payload| text_of(payload.as_ref()))
}

/// Ends the process with [`EXIT_FATAL`] and one line: `who` cannot go on, `why`, and what to do next.
pub(crate) fn end_process(who: &str, why: &str) -> ! {
    log_sink::line(format!("[{}] {who}: {why}; this process ends; {AFTER_A_FAILURE}", crate::report::timestamp()));
    log_sink::exit(EXIT_FATAL)
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
