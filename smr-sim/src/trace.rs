//! What has happened, as a running hash, and as text for those who want to read it.
//!
//! The hash covers everything that happens, in order: two runs with equal hashes were the same run. Text costs more
//! than the simulation itself, so it is made only when asked for; a failing seed is simply run once more with it.

use std::collections::VecDeque;
use std::io::Write;

use smr::internals::protocol::Time;

/// Lines kept for a failure.
pub const TAIL_LINES: usize = 400;

/// What becomes of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Text {
    /// None is made.
    #[default]
    None,
    /// The last [`TAIL_LINES`] are kept.
    Tail,
    /// All goes to stderr.
    Print,
}

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    lines: u64,
    text: Text,
    tail: VecDeque<String>,
}

impl Trace {
    /// An empty one.
    pub fn new(text: Text) -> Trace {
        Trace { hash: 0x9e37_79b9_7f4a_7c15, lines: 0, text, tail: VecDeque::new() }
    }

    /// Of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things happened.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The last lines, the latest at the end.
    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    /// Something happened: `words` say what, as numbers; `text` says it to a person.
    pub fn note(&mut self, now: Time, words: &[u64], text: impl FnOnce() -> String) {
        self.lines += 1;
        for word in std::iter::once(&now.0).chain(words) {
            self.hash = (self.hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
        }
        if self.text == Text::None {
            return;
        }
        let line = format!("{:>10.3} ms  {}", now.0 as f64 / 1000.0, text());
        if self.text == Text::Print {
            // Whole, however slowly it is read. No one reads what cannot be written.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}
