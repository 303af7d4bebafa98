//! The prompt on a terminal: what Ctrl-C does there, and how the terminal is left.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use madkv_testkit::programs::LAUNCHER;
use madkv_testkit::wait::wait_for;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, Winsize, tcgetattr, tcsetwinsize};

use crate::launched::process_ids_naming;
use crate::scene::{TIMEOUT, fresh_directory, programs};

const TERMINAL: &str = "MADKV_TEST_TERMINAL";
const LINE: &str = "MADKV_TEST_LINE";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// Not a test by itself: becomes the program of a test below, whose terminal it takes as its own.
#[test]
fn child_on_a_terminal() {
    let (Ok(terminal), Ok(line)) = (std::env::var(TERMINAL), std::env::var(LINE)) else { return };
    rustix::process::setsid().unwrap();
    // The first terminal that the leader of a session opens becomes that of the session.
    let open = || OpenOptions::new().read(true).write(true).open(&terminal).unwrap();
    let mut words = line.split('\n');
    let mut command = Command::new(words.next().unwrap());
    panic!("{}", command.args(words).env_remove("CARGO").stdin(open()).stdout(open()).stderr(open()).exec());
}

/// A program on a terminal, and whoever sits at it.
struct TerminalSession {
    child: Child,
    keyboard: File,
    /// The other side, held open so that what was written can be read after the program's end.
    terminal: OwnedFd,
    screen: Arc<Mutex<String>>,
    read: usize,
}

impl TerminalSession {
    fn at(line: &[String]) -> TerminalSession {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let terminal = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        tcsetwinsize(&terminal, Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "prompt::child_on_a_terminal", "--nocapture"])
            .env(TERMINAL, &name)
            .env(LINE, line.join("\n"))
            .env("TERM", "xterm")
            .env_remove("HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let keyboard = File::from(keyboard);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        // It ends with the terminal, after the test.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        TerminalSession { child, keyboard, terminal, screen, read: 0 }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this comes after what was expected last.
    fn expect(&mut self, word: &str) {
        let found = wait_for(TIMEOUT, word, || {
            let screen = self.screen.lock().unwrap();
            screen[self.read..].find(word).map(|at| self.read + at + word.len())
        });
        self.read = found.unwrap_or_else(|error| panic!("{error}: {}", self.screen.lock().unwrap()));
    }

    fn expect_end(&mut self) -> Option<i32> {
        wait_for(TIMEOUT, "the end", || self.child.try_wait().unwrap()).unwrap().code()
    }

    /// Whether keys are echoed and make signals, and lines end as usual.
    fn is_cooked(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap();
        modes.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
            && modes.output_modes.contains(OutputModes::OPOST)
    }
}

impl Drop for TerminalSession {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The smallest cluster in `place`, and its prompt.
fn launch(place: &str) -> TerminalSession {
    let program = programs().path(LAUNCHER).display().to_string();
    let shape = ["--partitions", "1", "--server_rf", "1", "--manager_rf", "1"];
    let line = [&[&program, "--directory", place][..], &shape].concat();
    let mut session = TerminalSession::at(&line.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
    session.expect("madkv> ");
    session
}

// covers B25
#[test]
fn ctrl_c_stops_the_wait_for_an_answer_and_nothing_else() {
    let directory = fresh_directory();
    let place = directory.path().join("kept").display().to_string();
    let mut session = launch(&place);
    let server = process_ids_naming(&format!("{place}/backer.s0.0"));
    assert_eq!(server.len(), 1);
    kill_process(Pid::from_raw(server[0]).unwrap(), Signal::KILL).unwrap();
    session.press("GET a\r");
    session.expect("no leader answers yet");
    session.press(CTRL_C);
    session.expect("interrupted");
    session.expect("madkv> ");
    // Once more, where no one waits for anything.
    session.press(CTRL_C);
    session.expect("Ctrl-D or STOP leaves");
    session.expect("madkv> ");
    session.press("exit\r");
    session.expect("STOP, in capitals, leaves");
    assert!(session.child.try_wait().unwrap().is_none());
    assert_eq!(process_ids_naming(&format!("{place}/backer.m.0")).len(), 1, "the manager runs on");
    session.press(CTRL_D);
    assert_eq!(session.expect_end(), Some(0));
    assert!(session.is_cooked());
}

#[test]
fn tab_completes_words_and_groups_and_a_slip_is_named() {
    let directory = fresh_directory();
    let place = directory.path().join("kept").display().to_string();
    let mut session = launch(&place);
    session.press("pu\tk v\r");
    session.expect("PUT k not_found");
    session.press("tran\ts\t\t\r");
    session.expect("transfer s0 0");
    session.expect("0 leads already");
    session.press("statsu\r");
    session.expect("did you mean status?");
    session.press("help trans\t\r");
    session.expect("Usage: transfer <GROUP> <REPLICA>");
    session.press("stat\t\r");
    session.expect("in service");
    // The launcher's own words, too.
    session.press("pau\ts0\t\r");
    session.expect("s0.0 paused");
    session.press("resu\t\t\r");
    session.expect("s0.0 goes on");
    session.press("kil s0.0\r");
    session.expect("did you mean kill?");
    session.press("help\r");
    session.expect("wipe <node>...");
    session.press("help wipe\r");
    session.expect("newcomer");
    session.press("ST\t\r");
    assert_eq!(session.expect_end(), Some(0));
}

// covers B25
#[test]
fn launcher_that_is_ended_at_the_prompt_leaves_the_terminal_as_it_was() {
    let directory = fresh_directory();
    let place = directory.path().join("kept").display().to_string();
    let mut session = launch(&place);
    wait_for(TIMEOUT, "the editing of a line", || (!session.is_cooked()).then_some(())).unwrap();
    kill_process(Pid::from_child(&session.child), Signal::TERM).unwrap();
    assert_eq!(session.expect_end(), Some(128 + Signal::TERM.as_raw()));
    assert!(session.is_cooked());
    assert!(process_ids_naming(&place).is_empty());
}
