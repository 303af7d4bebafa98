//! Real processes under test: started on free ports, listened to, and ended whatever happens.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use rustix::process::{Pid, Signal, kill_process};
use smr_service::dial::Dialled;

/// Longer than anything here takes; a test that reaches it has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A process, ended when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Starts a command line.
    pub(crate) fn start(line: &[String]) -> Process {
        Process::start_on(line, Stdio::null())
    }

    /// Starts a command line, which reads from `stdin`.
    pub(crate) fn start_on(line: &[String], stdin: Stdio) -> Process {
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Process { child, lines, seen: Vec::new() }
    }

    /// Starts a command line under a service manager that listens at `socket`.
    #[allow(dead_code, reason = "not every test has one")]
    pub(crate) fn start_under(line: &[String], socket: &std::path::Path) -> Process {
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).env("NOTIFY_SOCKET", socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Process { child: command.spawn().unwrap(), lines: channel().1, seen: Vec::new() }
    }

    /// Starts a command line, whose stderr belongs to the caller.
    pub(crate) fn start_into(line: &[String], stderr: Stdio) -> Process {
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        Process { child: command.spawn().unwrap(), lines: channel().1, seen: Vec::new() }
    }

    /// Waits for a line on stderr that contains `word`, and returns it.
    pub(crate) fn expect_line(&mut self, word: &str) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { panic!("no {word:?} among {:#?}", self.seen) };
            self.seen.push(line.clone());
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end, at most for `limit`. Returns the exit code, or `None` after a signal.
    pub(crate) fn expect_end(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < limit, "still running after {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All lines on stderr, after the end.
    pub(crate) fn all_lines(&mut self) -> Vec<String> {
        while let Ok(line) = self.lines.recv_timeout(TIMEOUT) {
            self.seen.push(line);
        }
        self.seen.clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address where no one listened a moment ago, and which is given out once. The ports lie below those that the
/// kernel takes for outgoing connections: it could take one of them in the meantime.
pub(crate) fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = std::process::id() as u16 % 200 * 100 + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        let address = format!("127.0.0.1:{}", 11_000 + offset);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// Dials until someone answers.
pub(crate) async fn dial(address: &str, service: Service) -> Dialled {
    eventually("a welcome", || async { Dialled::to(address, service, None, TIMEOUT).await.ok() }).await
}

/// Asks until the replica serves.
pub(crate) async fn ask(address: &str, service: Service, ask: ClientRequest) -> ClientResponse {
    eventually("an answer", || async {
        let mut connection = Dialled::to(address, service, None, TIMEOUT).await.ok()?;
        match connection.ask(ask.clone()).await.ok()? {
            ClientResponse::NotLeader { .. }
            | ClientResponse::OutOfService(_)
            | ClientResponse::Busy { .. }
            | ClientResponse::NoMap => None,
            body => Some(body),
        }
    })
    .await
}

/// Tries again until there is a result.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = attempt().await {
            return result;
        }
        assert!(start.elapsed() < TIMEOUT, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
