//! What is seen of a long run: a bar on a terminal, a line every few seconds elsewhere. On stderr.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the bar moves, in milliseconds.
const BAR_EVERY_MS: u64 = 100;
/// How often there is a line if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How many steps the bar has.
const STEPS: u64 = 1000;
/// The bar, and what is said of the run; what finds no room on the line is cut off.
const TEMPLATE: &str = "[{bar:30}] {elapsed} {wide_msg}";

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
            // Hidden if stderr is no terminal.
            let bar = ProgressBar::new(STEPS).with_style(style());
            let mut said = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                if !bar.is_hidden() {
                    let (done, text) = look();
                    bar.set_message(text);
                    bar.set_position((done.clamp(0.0, 1.0) * STEPS as f64) as u64);
                } else if said.elapsed() >= LINE_EVERY {
                    said = Instant::now();
                    eprintln!("{}", look().1);
                }
                thread::sleep(Duration::from_millis(BAR_EVERY_MS));
            }
            bar.finish_and_clear();
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

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::*;

    #[test]
    fn bar_shows_how_far_and_how_things_are_on_one_line() {
        let terminal = InMemoryTerm::new(3, 60);
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        bar.set_style(style());
        bar.set_message("1234 calls, of which 2 were tried again, and some more words than fit");
        bar.set_position(STEPS / 2);
        let screen = terminal.contents();
        assert!(screen.starts_with("[===============>              ] 0s 1234 calls"), "{screen}");
        assert_eq!(screen.lines().count(), 1, "{screen}");
    }
}
