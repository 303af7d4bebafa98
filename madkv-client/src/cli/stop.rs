//! How words end that are no command to carry out: with a text that was asked for, or with what is wrong.

/// Why the process ends before it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help or version was asked for: print this, exit code 0.
    Print(String),
    /// The arguments are wrong: one line for stderr, exit code 2.
    Wrong(String),
}
