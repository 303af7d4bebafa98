//! Panics that are expected, and caught: those of foreign code that knows no other way to speak of bad input.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    /// Whether a panic on this thread is expected and will be caught.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread is expected, and will be caught as an error. For panic hooks, which leave it alone.
pub fn is_expected() -> bool {
    GUARDED.get()
}

/// Runs foreign code that is known to panic on bad input; the panic's message comes back as an error.
///
/// # Errors
/// The panic's message.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(before);
    result.map_err(|payload| text_of(payload.as_ref()).to_owned())
}

/// What a panic says.
pub fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic without a message")
}
