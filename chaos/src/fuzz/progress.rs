//! How far a run is.

use std::sync::atomic::Ordering;

use crate::fuzz::Shared;

/// How much is done, from 0 to 1, and a line about it.
pub(super) fn look(shared: &Shared) -> (f64, String) {
    let options = &shared.options;
    let time = shared.origin.elapsed().as_secs_f64() / options.length.as_secs_f64().max(1e-3);
    let count = options.operations.map_or(0.0, |most| shared.begun.load(Ordering::Relaxed) as f64 / most.max(1) as f64);
    (time.max(count), state(shared))
}

fn state(shared: &Shared) -> String {
    let (passed, length) = (shared.origin.elapsed(), shared.options.length);
    let (operations, retried) = {
        let book = shared.book();
        (book.statistics.operations(), book.statistics.retried)
    };
    let answered = shared.answered.load(Ordering::Relaxed);
    let rate = answered as f64 / passed.as_secs_f64().max(1e-3);
    format!(
        "{:.0} of {:.0} s, {operations} operations, {answered} answered ({rate:.0} per second), {retried} tried again",
        passed.as_secs_f64(),
        length.as_secs_f64(),
    )
}
