//! [`super::turn_executor`] with real threads. In a file of its own, because the model takes that one as it is.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::fatal::Lifeline;
use crate::replica::turn_executor::*;

/// Answers each letter; it need not be woken within the test's life.
struct Clerk {
    letters: Receiver<Option<Sender<u64>>>,
    answered: u64,
    closing: bool,
}

fn spin(us: u64) {
    let until = Instant::now() + Duration::from_micros(us);
    while Instant::now() < until {}
}

impl TakeTurns for Clerk {
    fn turn(&mut self) -> Result<(), String> {
        for letter in self.letters.try_iter().take(2) {
            match letter {
                Some(answer) => {
                    self.answered += 1;
                    answer.send(self.answered).map_err(|error| error.to_string())?;
                }
                None => self.closing = true,
            }
        }
        // Letters that come now find the turns taken, and the clerk no longer looking.
        spin(2 * QUIET_US);
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.closing
    }

    fn is_busy(&self) -> bool {
        self.answered.is_multiple_of(2)
    }

    fn shutdown(&mut self) -> Result<(), String> {
        Err(format!("{} answered", self.answered))
    }

    fn abandon(&mut self) {}

    fn set_next_wakeup(&mut self) -> Duration {
        Duration::from_secs(3600)
    }

    fn brings_wakeup_forward(&mut self) -> bool {
        false
    }
}

// In each round everyone waits for its own answer before anyone writes again: no one else's letter gets a
// forgotten one read.
#[test]
fn inline_while_another_runs_turns_nothing_is_left_lying() {
    const THREADS: u64 = 3;
    const ROUNDS: u64 = 2_000;
    let (post, letters) = unbounded();
    let executor = {
        let letters = letters.clone();
        Arc::new(TurnExecutor::<Clerk>::new("clerk".to_owned(), Lifeline::new(), move || !letters.is_empty()))
    };
    let keeper = {
        let executor = executor.clone();
        thread::spawn(move || executor.run(Clerk { letters, answered: 0, closing: false }))
    };
    let round_begins = Arc::new(Barrier::new(THREADS as usize));
    let senders: Vec<_> = (0..THREADS)
        .map(|number| {
            let (executor, post, round_begins) = (executor.clone(), post.clone(), round_begins.clone());
            thread::spawn(move || {
                for round in 0..ROUNDS {
                    round_begins.wait();
                    spin(number * (round * 7 % (3 * QUIET_US)));
                    let (answer, answers) = unbounded();
                    post.send(Some(answer)).unwrap();
                    // As the disk's thread does when more waits for it.
                    if number == 0 {
                        executor.wake()
                    } else {
                        executor.try_run_inline()
                    }
                    if answers.recv_timeout(Duration::from_secs(60)).is_err() {
                        // The others wait for this one.
                        eprintln!("letter {round} of {number} lies there unread");
                        std::process::exit(1);
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    post.send(None).unwrap();
    executor.try_run_inline();
    assert_eq!(keeper.join().unwrap(), Err(format!("{} answered", THREADS * ROUNDS)));
}

/// Tells who ran each turn that had news; never busy.
struct Watch {
    news: Receiver<()>,
    turns_by: Sender<thread::ThreadId>,
    closing: bool,
}

impl TakeTurns for Watch {
    fn turn(&mut self) -> Result<(), String> {
        match self.news.try_recv() {
            Ok(()) => self.turns_by.send(thread::current().id()).map_err(|error| error.to_string()),
            Err(error) => {
                self.closing = error.is_disconnected();
                Ok(())
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.closing
    }

    fn is_busy(&self) -> bool {
        false
    }

    fn shutdown(&mut self) -> Result<(), String> {
        Ok(())
    }

    fn abandon(&mut self) {}

    fn set_next_wakeup(&mut self) -> Duration {
        Duration::from_secs(3600)
    }

    fn brings_wakeup_forward(&mut self) -> bool {
        false
    }
}

// A lone client's next request comes right after the answer to its last one: waking a thread for it would be for
// nothing.
#[test]
fn inline_right_behind_a_turn_that_was_not_one_of_many_runs_the_next_at_once() {
    const ROUNDS: usize = 200;
    let (post, news) = unbounded();
    let (turns_by, turns) = unbounded();
    let executor = {
        let news = news.clone();
        Arc::new(TurnExecutor::<Watch>::new("watch".to_owned(), Lifeline::new(), move || !news.is_empty()))
    };
    let keeper = {
        let executor = executor.clone();
        thread::spawn(move || executor.run(Watch { news, turns_by, closing: false }))
    };
    let mine = (0..ROUNDS).filter(|_| {
        post.send(()).unwrap();
        executor.try_run_inline();
        turns.recv_timeout(Duration::from_secs(60)).expect("a turn") == thread::current().id()
    });
    let mine = mine.count();
    // Not all: the keeper begins with a turn of its own.
    assert!(mine > ROUNDS * 3 / 4, "{mine} of {ROUNDS}");
    drop(post);
    executor.wake();
    assert_eq!(keeper.join().unwrap(), Ok(()));
}
