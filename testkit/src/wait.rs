//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// How long to pause between two looks, in milliseconds.
const LOOK_AGAIN_MS: u64 = 10;

/// The condition did not come true in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not within {waited:?}: {what}")]
pub struct WaitTimeout {
    /// What was waited for.
    pub what: String,
    /// How long it was waited for.
    pub waited: Duration,
}

/// Looks until `look` gives something, at most for `timeout`; at least once.
///
/// # Errors
/// If it never did.
pub fn wait_for<T>(timeout: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, WaitTimeout> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed() >= timeout {
            return Err(WaitTimeout { what: what.to_owned(), waited: start.elapsed() });
        }
        thread::sleep(Duration::from_millis(LOOK_AGAIN_MS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_for_condition_that_comes_true_returns_it() {
        let mut looks = 0;
        let found = wait_for(Duration::from_secs(60), "the third look", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found, Ok(3));
    }

    #[test]
    fn wait_for_condition_that_never_comes_names_it() {
        let error = wait_for(Duration::ZERO, "rain", || None::<()>).unwrap_err();
        assert!(error.to_string().contains("rain"));
    }
}
