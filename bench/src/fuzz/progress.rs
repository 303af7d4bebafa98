//! What is seen of a run: a bar on a terminal, a line every few seconds elsewhere. On stderr.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::fuzz::Shared;

/// How often the bar moves, in milliseconds.
const BAR_EVERY_MS: u64 = 100;
/// How often there is a line if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// The bar's width, in characters.
const BAR_WIDTH: usize = 30;

/// Shows progress until its end.
pub(crate) struct Progress {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Progress {
    pub(crate) fn show(shared: Arc<Shared>) -> Progress {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let is_terminal = io::stderr().is_terminal();
            let mut said = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                if is_terminal {
                    eprint!("\r\x1b[K{}", bar(&shared));
                    // A terminal that is gone needs no bar.
                    let _ = io::stderr().flush();
                } else if said.elapsed() >= LINE_EVERY {
                    said = Instant::now();
                    eprintln!("{}", state(&shared));
                }
                thread::sleep(Duration::from_millis(BAR_EVERY_MS));
            }
            if is_terminal {
                eprint!("\r\x1b[K");
            }
        });
        Progress { over, thread }
    }

    pub(crate) fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        // A thread that panicked shows nothing any more.
        let _ = self.thread.join();
    }
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

fn bar(shared: &Shared) -> String {
    let options = &shared.options;
    let time = shared.origin.elapsed().as_secs_f64() / options.length.as_secs_f64().max(1e-3);
    let count = options.operations.map_or(0.0, |most| shared.begun.load(Ordering::Relaxed) as f64 / most.max(1) as f64);
    let full = (time.max(count).clamp(0.0, 1.0) * BAR_WIDTH as f64) as usize;
    format!("[{}{}] {}", "=".repeat(full), " ".repeat(BAR_WIDTH - full), state(shared))
}
