//! What is seen of a long run: a bar on a terminal, a line every few seconds elsewhere. On stderr.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often the bar moves, in milliseconds.
const BAR_EVERY_MS: u64 = 100;
/// How often there is a line if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// The bar's width, in characters.
const BAR_WIDTH: usize = 30;

/// Shows progress until its end.
pub struct Progress {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Progress {
    /// `look` says how much is done, from 0 to 1, and how things are, in a line.
    pub fn show(look: impl Fn() -> (f64, String) + Send + 'static) -> Progress {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let is_terminal = io::stderr().is_terminal();
            let mut said = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                if is_terminal {
                    let (done, text) = look();
                    eprint!("\r\x1b[K{} {text}", bar(done));
                    // A terminal that is gone needs no bar.
                    let _ = io::stderr().flush();
                } else if said.elapsed() >= LINE_EVERY {
                    said = Instant::now();
                    eprintln!("{}", look().1);
                }
                thread::sleep(Duration::from_millis(BAR_EVERY_MS));
            }
            if is_terminal {
                eprint!("\r\x1b[K");
            }
        });
        Progress { over, thread }
    }

    /// Stops showing.
    pub fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        // A thread that panicked shows nothing any more.
        let _ = self.thread.join();
    }
}

fn bar(done: f64) -> String {
    let full = (done.clamp(0.0, 1.0) * BAR_WIDTH as f64) as usize;
    format!("[{}{}]", "=".repeat(full), " ".repeat(BAR_WIDTH - full))
}
