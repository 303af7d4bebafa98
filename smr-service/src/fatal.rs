//! Ends the process when a part of it cannot go on: nothing is half alive.
//!
//! The library under a service ends its replica, and says why; what follows from that is decided here. A process that
//! serves dies with [`EXIT_FATAL`], so that whoever watches it sees a death and not a silence; a restart recovers from
//! what is durable.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::sync::Once;
use std::thread;

use smr::panics::{is_expected, text_of};

use crate::log_sink::{self, timestamp};

/// The exit code of a process that a failed disk or a bug has ended.
pub const EXIT_FATAL: i32 = 70;

/// What to do about a failure of the world around.
#[cfg(feature = "serve")]
pub const AFTER_A_FAILURE: &str = "see that its disk works and has room, then start it again with the same arguments";
/// What to do about what a newer build has left.
#[cfg(feature = "serve")]
const AFTER_A_NEWER_BUILD: &str = "start the newer build with the same arguments; nothing is lost";
/// What to do about a bug.
const AFTER_A_BUG: &str = "start it again, it goes on from what is durable; and report the lines above";

/// From now on a panic on any thread, asynchronous tasks and the log engine's threads included, ends the process with
/// [`EXIT_FATAL`].
pub fn exit_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
            if !is_expected() {
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
    log_sink::line(format!("thread '{name}' panicked at {place}:\n{}", text_of(info.payload())));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        log_sink::line(backtrace.to_string());
    }
    log_sink::line(format!("[{}] this is a bug, and this process ends; {AFTER_A_BUG}", timestamp()));
}

/// From now on the process ends with the replica, if that cannot go on: with one line, and [`EXIT_FATAL`].
#[cfg(feature = "serve")]
pub fn end_with(runtime: &tokio::runtime::Handle, replica: smr::replica::ReplicaHandle) {
    use smr::fatal::ReplicaFailure;
    runtime.spawn(async move {
        match replica.ended().await {
            // In order: someone asked for that, and goes on.
            Ok(()) => return,
            Err(ReplicaFailure::World { who, why }) => {
                log_sink::line(format!("[{}] {who}: {why}; this process ends; {AFTER_A_FAILURE}", timestamp()));
            }
            Err(outdated @ ReplicaFailure::NewerBuildNeeded { .. }) => {
                log_sink::line(format!("[{}] {outdated}; this process ends; {AFTER_A_NEWER_BUILD}", timestamp()));
            }
            // The hook has told of it, and ends the process; here for a process without one.
            Err(bug @ ReplicaFailure::Bug { .. }) => {
                log_sink::line(format!("[{}] {bug}; this is a bug, and this process ends; {AFTER_A_BUG}", timestamp()));
            }
        }
        log_sink::exit(EXIT_FATAL);
    });
}

/// Lines of replicas, on stderr, each with its time. Never waits for whoever reads it.
#[cfg(feature = "serve")]
#[derive(Clone, Copy, Debug, Default)]
pub struct StderrReports;

#[cfg(feature = "serve")]
impl smr::report::ReportSink for StderrReports {
    fn line(&self, who: &str, text: &str) {
        log_sink::line(format!("[{}] {who}: {text}", timestamp()));
    }
}
