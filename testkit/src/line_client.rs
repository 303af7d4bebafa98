//! The command-line client, driven through its pipes: the line protocol that users rely on, as they would use it.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::wait::wait_for;

/// Lines that may wait to be taken.
const LINES_WAITING_MAX: usize = 1024;
/// Lines of stderr that are kept.
const COMPLAINTS_MAX: usize = 1024;

/// A client process. Killed when dropped.
#[derive(Debug)]
pub struct LineClient {
    process: ClientProcess,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    complaints: Receiver<String>,
}

/// The process of a [`LineClient`], for someone who has to end it while another thread waits for its answer.
#[derive(Clone, Debug)]
pub struct ClientProcess(Arc<Mutex<Child>>);

impl ClientProcess {
    /// Its process id, also after its end.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Kills it and waits until it is gone. Whoever waits for its answer hears [`NoAnswer::Ended`].
    pub fn end(&self) {
        // It may have ended already; either way it is gone afterwards.
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.0.lock()
    }
}

/// The client gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Not in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The process of the client has ended.
    #[error("the client ended")]
    Ended,
    /// Its pipe is broken.
    #[error("the client takes no input: {0}")]
    Pipe(#[from] io::Error),
}

impl LineClient {
    /// Starts `program`.
    ///
    /// # Errors
    /// If the process cannot be created.
    pub fn start(program: &Path, arguments: &[String]) -> io::Result<LineClient> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (line, lines) = sync_channel(LINES_WAITING_MAX);
        let (complaint, complaints) = sync_channel(COMPLAINTS_MAX);
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || forward(output, &line));
        }
        if let Some(errors) = child.stderr.take() {
            thread::spawn(move || {
                for text in BufReader::new(errors).lines().map_while(Result::ok) {
                    // Beyond the bound what it says is lost, but it must not block.
                    let _ = complaint.try_send(text);
                }
            });
        }
        let input = child.stdin.take();
        Ok(LineClient { process: ClientProcess(Arc::new(Mutex::new(child))), input, lines, complaints })
    }

    /// Sends a line.
    ///
    /// # Errors
    /// If the client's input is closed.
    pub fn send(&mut self, line: &str) -> Result<(), NoAnswer> {
        let Some(input) = &mut self.input else { return Err(NoAnswer::Ended) };
        input.write_all(format!("{line}\n").as_bytes())?;
        Ok(input.flush()?)
    }

    /// The next line that the client prints.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn line(&mut self, timeout: Duration) -> Result<String, NoAnswer> {
        self.lines.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => NoAnswer::Late(timeout),
            RecvTimeoutError::Disconnected => NoAnswer::Ended,
        })
    }

    /// Sends a line and waits for the answer to it.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn ask(&mut self, line: &str, timeout: Duration) -> Result<String, NoAnswer> {
        self.send(line)?;
        self.line(timeout)
    }

    /// Swaps a value in, and gives the one that was there.
    ///
    /// # Errors
    /// If there is no answer in time, or it is another than the protocol knows.
    pub fn swap(&mut self, key: &str, value: &str, timeout: Duration) -> Result<Option<String>, NoAnswer> {
        let answer = self.ask(&format!("SWAP {key} {value}"), timeout)?;
        old_value(&answer, "SWAP", key)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If there is no answer in time, or it is another than the protocol knows.
    pub fn get(&mut self, key: &str, timeout: Duration) -> Result<Option<String>, NoAnswer> {
        let answer = self.ask(&format!("GET {key}"), timeout)?;
        old_value(&answer, "GET", key)
    }

    /// Closes its input and waits until it ends.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn finish(mut self, timeout: Duration) -> Result<ExitStatus, NoAnswer> {
        self.close(timeout)
    }

    /// As [`LineClient::finish`]; what it has written to stderr since the last look, to the end. While it runs, an
    /// answer says nothing about how far its lines on stderr have come.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn finish_with_complaints(mut self, timeout: Duration) -> Result<(ExitStatus, Vec<String>), NoAnswer> {
        let status = self.close(timeout)?;
        let mut said = Vec::new();
        loop {
            match self.complaints.recv_timeout(timeout) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => return Ok((status, said)),
                Err(RecvTimeoutError::Timeout) => return Err(NoAnswer::Late(timeout)),
            }
        }
    }

    fn close(&mut self, timeout: Duration) -> Result<ExitStatus, NoAnswer> {
        self.input = None;
        wait_for(timeout, "the client's end", || self.process.child().try_wait().transpose())
            .map_err(|_| NoAnswer::Late(timeout))?
            .map_err(NoAnswer::Pipe)
    }

    /// The process whose pipes these are.
    pub fn process(&self) -> &ClientProcess {
        &self.process
    }

    /// What it has written to stderr since the last call.
    pub fn complaints(&mut self) -> Vec<String> {
        self.complaints.try_iter().collect()
    }
}

impl Drop for LineClient {
    fn drop(&mut self) {
        self.process.end();
    }
}

fn forward(output: impl io::Read, to: &SyncSender<String>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if to.send(line).is_err() {
            return;
        }
    }
}

fn old_value(answer: &str, verb: &str, key: &str) -> Result<Option<String>, NoAnswer> {
    match answer.split(' ').collect::<Vec<_>>().as_slice() {
        [v, k, "null"] if *v == verb && *k == key => Ok(None),
        [v, k, value] if *v == verb && *k == key => Ok(Some((*value).to_owned())),
        _ => {
            Err(NoAnswer::Pipe(io::Error::new(io::ErrorKind::InvalidData, format!("{verb} {key} answered: {answer}"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ask_echoing_program_returns_its_line() {
        let mut client = LineClient::start(Path::new("/bin/cat"), &[]).unwrap();
        let timeout = Duration::from_secs(60);
        assert_eq!(client.ask("GET a 1", timeout).unwrap(), "GET a 1");
        assert_eq!(
            client.get("a", timeout).unwrap_err().to_string(),
            "the client takes no input: GET a answered: GET a"
        );
        assert!(client.finish(timeout).unwrap().success());
    }

    #[test]
    fn old_value_null_and_value_are_told_apart() {
        assert_eq!(old_value("SWAP k null", "SWAP", "k").unwrap(), None);
        assert_eq!(old_value("SWAP k v", "SWAP", "k").unwrap().as_deref(), Some("v"));
        assert!(old_value("SWAP other v", "SWAP", "k").is_err());
        assert!(old_value("ERROR timeout", "SWAP", "k").is_err());
    }
}
