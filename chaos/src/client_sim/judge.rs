//! The verdict on the history of a run.

use madkv_testkit::history::History;
use madkv_testkit::linearize::{self, Options};

/// Judges what callers saw: linearizable key by key, `found` flags, old values and unknown outcomes included; SCAN key
/// by key, and within one partition at one moment (I14, R12).
///
/// # Errors
/// What is wrong. A checker that ran out of its budget has failed, too.
pub fn judge(history: &History) -> Result<(), String> {
    let verdict = linearize::check(history, &Options::default());
    if verdict.passed() {
        return Ok(());
    }
    let mut lines: Vec<String> =
        verdict.violations.iter().map(|found| format!("{} says: {}", found.check, found.what)).collect();
    lines.extend(verdict.undecided.iter().map(|key| format!("undecided on key {key:?}")));
    Err(format!("not linearizable: {}", lines.join("; ")))
}
