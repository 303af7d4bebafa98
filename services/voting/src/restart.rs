//! The primary has a dead backup started again: by its own process, or by whoever watches the host.
//!
//! Dead is who has missed its heartbeats. If it only cannot be reached, another process of it does no harm: it finds
//! its ports taken, and ends. It is tried again, after a pause that grows.
//!
//! A process that was started and is never heard is killed by the primary in the end. Once it was heard it is left
//! alone until it ends by itself: missed heartbeats do not tell a hung server from a cut link, and by then it may be
//! the primary.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::pulse::Health;
use crate::words::Situation;

/// How often it looks, in milliseconds.
const LOOK_MS: u64 = 50;
/// The pause after a start that came to nothing, in milliseconds; twice as long after each more ...
const PAUSE_MIN_MS: u64 = 500;
/// ... but never longer than this, in milliseconds.
const PAUSE_MAX_MS: u64 = 30_000;
/// How much longer than its start takes by itself a backup may take until it is heard, in milliseconds.
const STARTED_WITHIN_MS: u64 = 30_000;

/// How a backup is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartBy {
    /// By someone else.
    No,
    /// By this program, with the arguments of the other replica.
    Itself,
    /// By this command of the shell.
    Shell(String),
}

impl std::str::FromStr for RestartBy {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<RestartBy, Self::Err> {
        Ok(match text {
            "no" => RestartBy::No,
            "self" => RestartBy::Itself,
            command => RestartBy::Shell(command.to_owned()),
        })
    }
}

/// Starts the backup.
#[derive(Clone, Debug)]
pub struct Starter {
    /// How.
    pub by: RestartBy,
    /// The arguments of the other replica.
    pub arguments: Vec<OsString>,
    /// How long its start takes by itself.
    pub start_delay: Duration,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Wait,
    Start,
    Kill,
}

/// A start, and what came of it.
#[derive(Debug)]
struct Attempts {
    pause: Duration,
    /// When the last one began, or ended.
    at: Option<Instant>,
    /// Whether the backup was heard since the last one began.
    was_heard: bool,
}

impl Default for Attempts {
    fn default() -> Attempts {
        Attempts { pause: Duration::from_millis(PAUSE_MIN_MS), at: None, was_heard: false }
    }
}

impl Attempts {
    fn next(&self, is_primary: bool, health: Health, is_running: bool, start_max: Duration, now: Instant) -> Next {
        if health != Health::Dead {
            return Next::Wait;
        }
        let since = self.at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        match is_running {
            // It hangs before it serves anyone. One that was heard may be the primary by now, or is only cut off.
            true if is_primary && !self.was_heard && since > start_max => Next::Kill,
            true => Next::Wait,
            false if is_primary && since >= self.pause => Next::Start,
            false => Next::Wait,
        }
    }

    fn began(&mut self, now: Instant) {
        self.at = Some(now);
        self.was_heard = false;
    }

    fn heard(&mut self) {
        self.was_heard = true;
        self.pause = Attempts::default().pause;
    }

    fn failed(&mut self, now: Instant) {
        self.at = Some(now);
        self.pause = (self.pause * 2).min(Duration::from_millis(PAUSE_MAX_MS));
    }
}

impl Starter {
    /// Looks after the backup as long as the process lives. `is_starting` is whether one was started and is not heard
    /// yet. `say` hears what happens.
    pub async fn run(
        self,
        health: watch::Receiver<Health>,
        situation: watch::Receiver<Option<Situation>>,
        is_starting: watch::Sender<bool>,
        say: fn(&str),
    ) {
        if self.by == RestartBy::No {
            // The receivers live on: no one is starting.
            std::future::pending::<()>().await;
        }
        let start_max = self.start_delay + Duration::from_millis(STARTED_WITHIN_MS);
        let mut child: Option<Child> = None;
        let mut attempts = Attempts::default();
        loop {
            sleep(Duration::from_millis(LOOK_MS)).await;
            let now = Instant::now();
            if let Some(status) = ended(&mut child) {
                say(&format!("the other replica's process, which this one had started, has ended: {status}"));
                attempts.failed(now);
            }
            let health = *health.borrow();
            if health == Health::Alive {
                attempts.heard();
            }
            let is_primary = situation.borrow().is_some();
            match attempts.next(is_primary, health, child.is_some(), start_max, now) {
                Next::Wait => {}
                Next::Start => {
                    attempts.began(now);
                    match self.start() {
                        Ok(started) => {
                            say(&format!("starts the backup again: process {}", started.id()));
                            child = Some(started);
                        }
                        Err(error) => {
                            say(&format!("cannot start the backup again: {error}"));
                            attempts.failed(now);
                        }
                    }
                }
                Next::Kill => {
                    say("the backup that was started is not heard: its process is killed");
                    if let Some(child) = &child {
                        // With all that a shell has started; it leads a group of its own. Once it has ended it is
                        // started again.
                        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
                    }
                    attempts.began(now);
                }
            }
            let starts = child.is_some() && !attempts.was_heard && health == Health::Dead;
            is_starting.send_if_modified(|known| std::mem::replace(known, starts) != starts);
        }
    }

    /// A process that outlives this one. It ends with whoever holds the other end of stdin, if it has that flag, as
    /// this one does.
    fn start(&self) -> io::Result<Child> {
        let mut command = match &self.by {
            RestartBy::Shell(text) => {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(text);
                command
            }
            RestartBy::Itself | RestartBy::No => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(&self.arguments);
                command
            }
        };
        command.stdin(Stdio::inherit()).process_group(0).spawn()
    }
}

/// How the child has ended, if it has just done so.
fn ended(child: &mut Option<Child>) -> Option<ExitStatus> {
    let status = child.as_mut()?.try_wait().ok().flatten()?;
    *child = None;
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MAX: Duration = Duration::from_secs(60);

    #[test]
    fn primary_starts_a_dead_backup_and_a_backup_or_a_living_one_nothing() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let next = |is_primary, health| attempts.next(is_primary, health, false, START_MAX, now);
        assert_eq!(next(true, Health::Dead), Next::Start);
        for other in [next(false, Health::Dead), next(true, Health::Alive), next(true, Health::Unknown)] {
            assert_eq!(other, Next::Wait);
        }
    }

    #[test]
    fn start_that_comes_to_nothing_is_tried_again_after_a_pause_that_grows() {
        let mut attempts = Attempts::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            attempts.began(now);
            attempts.failed(now);
            let ms = (0..).find(|ms| {
                let at = now + Duration::from_millis(*ms);
                attempts.next(true, Health::Dead, false, START_MAX, at) == Next::Start
            });
            pauses.push(ms.unwrap());
            now += Duration::from_secs(100);
        }
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn process_that_was_started_and_is_never_heard_is_given_time_and_then_killed() {
        let mut attempts = Attempts::default();
        let now = Instant::now();
        attempts.began(now);
        let next = |after: Duration| attempts.next(true, Health::Dead, true, START_MAX, now + after);
        assert_eq!(next(Duration::from_secs(60)), Next::Wait);
        assert_eq!(next(Duration::from_secs(61)), Next::Kill);
        assert_eq!(attempts.next(true, Health::Alive, true, START_MAX, now + Duration::from_secs(99)), Next::Wait);
    }

    #[test]
    fn process_that_was_heard_or_was_started_by_a_primary_of_before_is_never_killed() {
        let late = Duration::from_secs(10_000);
        let mut attempts = Attempts::default();
        let now = Instant::now();
        attempts.began(now);
        assert_eq!(
            attempts.next(false, Health::Dead, true, START_MAX, now + late),
            Next::Wait,
            "a backup kills no one"
        );
        attempts.heard();
        for is_primary in [true, false] {
            let next = attempts.next(is_primary, Health::Dead, true, START_MAX, now + late);
            assert_eq!(next, Next::Wait, "heard, then silent");
        }
        // It has ended by itself: another one is started, and is given time of its own.
        assert_eq!(attempts.next(true, Health::Dead, false, START_MAX, now + late), Next::Start);
        attempts.began(now + late);
        assert_eq!(attempts.next(true, Health::Dead, true, START_MAX, now + 2 * late), Next::Kill);
    }

    #[test]
    fn flag_names_no_one_this_program_or_a_command() {
        let parse = |text: &str| text.parse::<RestartBy>().unwrap();
        assert_eq!(parse("no"), RestartBy::No);
        assert_eq!(parse("self"), RestartBy::Itself);
        assert_eq!(parse("ssh b ./start"), RestartBy::Shell("ssh b ./start".to_owned()));
    }
}
