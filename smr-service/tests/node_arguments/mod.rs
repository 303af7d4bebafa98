//! Bad command lines, ports and directories of a node, with its real binary: a server and a manager have to refuse them
//! alike. Shared by the tests of both programs.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Time in which a process that cannot start must have said so, even on a busy machine: one that runs goes on for ever.
const LIMIT: Duration = Duration::from_secs(60);

/// A program, and a command line of it that could work.
pub(crate) struct Program {
    /// What it calls itself.
    pub(crate) name: &'static str,
    /// Its binary.
    pub(crate) path: &'static str,
    /// Flags and values, all that there must be.
    pub(crate) good: &'static [(&'static str, &'static str)],
}

impl Program {
    /// The good line, with another value for one flag.
    pub(crate) fn with(&self, flag: &str, value: &str) -> Vec<String> {
        assert!(self.good.iter().any(|(name, _)| *name == flag), "{flag}");
        let pairs = self.good.iter().map(|&(name, good)| [name, if name == flag { value } else { good }]);
        pairs.flatten().map(str::to_owned).collect()
    }

    fn spawn(&self, line: &[String]) -> Child {
        Command::new(self.path).args(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What it says and how it ends, which it has to in time.
    pub(crate) fn run(&self, line: &[String]) -> Output {
        let mut child = self.spawn(line);
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > LIMIT {
                child.kill().unwrap();
                child.wait().unwrap();
                let mut text = String::new();
                child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                panic!("{line:?} is still running; it said {text:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait_with_output().unwrap()
    }

    /// Checks that it ends with `code` and one line that contains `word`.
    pub(crate) fn expect_line(&self, line: &[String], code: i32, word: &str) {
        let output = self.run(line);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{line:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{line:?}: {text:?}");
        let begins = text.starts_with(&format!("{}: ", self.name));
        assert!(begins && text.contains(word), "{line:?}: {text:?} does not mention {word:?}");
        assert!(output.stdout.is_empty());
    }

    /// One flag after the other with a value that cannot work, and what the line about it has to mention.
    pub(crate) fn refuses_values(&self, cases: &[(&str, &str, &str)]) {
        for (flag, value, word) in cases {
            self.expect_line(&self.with(flag, value), 2, word);
        }
    }

    /// One port for two purposes, a flag left out, one too many, none at all.
    pub(crate) fn refuses_lines(&self, listens: &str) {
        let mut twice = self.with("--p2p_listen", "127.0.0.1:45671");
        let place = twice.iter().position(|word| word == listens).unwrap();
        twice[place + 1] = "0.0.0.0:45671".into();
        self.expect_line(&twice, 2, "both");
        let (first, good) = (self.good[0].0, self.with("--replica_id", "1"));
        self.expect_line(&good[2..], 2, first);
        let mut unknown = good;
        unknown.push("--what".into());
        self.expect_line(&unknown, 2, "--what");
        self.expect_line(&[], 2, "required");
    }

    /// A port that someone else has.
    pub(crate) fn refuses_port_in_use(&self, listens: &str) {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        for flag in [listens, "--p2p_listen"] {
            self.expect_line(&self.with(flag, &address), 1, &address);
        }
    }

    /// An address for HTTP that is none, that another listener has, or that someone else has.
    pub(crate) fn refuses_http_listen(&self, listens: &str) {
        let with = |value: &str| {
            let mut line = self.with(listens, "127.0.0.1:45671");
            line.extend(["--http_listen".to_owned(), value.to_owned()]);
            line
        };
        for wrong in ["", "9100", "localhost:9100", "127.0.0.1:99999", "[::1]"] {
            self.expect_line(&with(wrong), 2, "--http_listen");
        }
        self.expect_line(&with("0.0.0.0:45671"), 2, "both");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let mut line = self.with(listens, "127.0.0.1:0");
        line.extend(["--http_listen".to_owned(), address.clone()]);
        self.expect_line(&line, 1, &address);
    }

    /// A directory that is a file, or below one.
    pub(crate) fn refuses_file_as_directory(&self) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        self.expect_line(&self.with("--backer_path", path), 1, path);
        let below = format!("{path}/below");
        self.expect_line(&self.with("--backer_path", &below), 1, path);
    }

    /// Help with its flags and the limits; flags with hyphens instead of underscores.
    pub(crate) fn explains_itself(&self) {
        let output = self.run(&["--help".into()]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(self.good.iter().all(|(flag, _)| text.contains(flag)), "{text}");
        assert!(text.contains("value 1048576 bytes"), "{text}");
        let hyphens: Vec<String> = self.with("--replica_id", "9").iter().map(|word| word.replace('_', "-")).collect();
        self.expect_line(&hyphens, 2, "9 is not among the 3 replicas");
    }
}
