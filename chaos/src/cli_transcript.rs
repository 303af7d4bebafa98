//! What a command-line client prints while leaders die under it: for each line one line, in order, none lost and none
//! doubled, and STOP after everything before it (fault catalogue C11).
//!
//! One client, alone on its keys: so each line's answer is known beforehand, and a lost, doubled or overtaken one shows
//! at the next line. Lines go in far ahead of their answers, as from a file.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use madkv_testkit::cluster::{Cluster, Group};
use madkv_testkit::line_client::{LineClient, NoAnswer};
use madkv_testkit::measure::Trouble;

/// Lines in the client's pipe or under way.
const AHEAD: usize = 64;
/// Answers between two kills, and between a kill and the return of whoever was killed.
const ANSWERS_BETWEEN: u64 = 100;
/// Keys of the client.
const KEYS: u64 = 7;

/// What has to come for a line.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    /// This.
    Line(String),
    /// A complaint: the line made no sense.
    Error,
}

impl Expected {
    fn is(&self, answer: &str) -> bool {
        match self {
            Expected::Line(line) => line == answer,
            Expected::Error => answer.starts_with("ERROR "),
        }
    }
}

/// Lines to say, and what the keys hold after each.
#[derive(Debug, Default)]
struct Script {
    keys: BTreeMap<String, String>,
    number: u64,
}

impl Script {
    fn next(&mut self) -> (String, Expected) {
        self.number += 1;
        let number = self.number;
        let (key, value) = (format!("key{}", number * 5 % KEYS), format!("value{number}"));
        let or_null = |value: Option<String>| value.unwrap_or_else(|| "null".to_owned());
        let found = |value: Option<String>| if value.is_some() { "found" } else { "not_found" };
        match number % 6 {
            0 | 3 => {
                let old = or_null(self.keys.insert(key.clone(), value.clone()));
                (format!("SWAP {key} {value}"), Expected::Line(format!("SWAP {key} {old}")))
            }
            1 => {
                let old = found(self.keys.insert(key.clone(), value.clone()));
                (format!("PUT {key} {value}"), Expected::Line(format!("PUT {key} {old}")))
            }
            2 => {
                let old = found(self.keys.remove(&key));
                (format!("DELETE {key}"), Expected::Line(format!("DELETE {key} {old}")))
            }
            4 => {
                let held = or_null(self.keys.get(&key).cloned());
                (format!("GET {key}"), Expected::Line(format!("GET {key} {held}")))
            }
            _ => (format!("SWAP {key}"), Expected::Error),
        }
    }
}

/// A client, and what it still has to print.
struct CliTranscript {
    client: LineClient,
    script: Script,
    expected: VecDeque<(String, Expected)>,
}

impl CliTranscript {
    fn of(client: LineClient) -> CliTranscript {
        CliTranscript { client, script: Script::default(), expected: VecDeque::new() }
    }

    fn fill(&mut self) -> Result<(), NoAnswer> {
        while self.expected.len() < AHEAD {
            let (line, expected) = self.script.next();
            self.client.send(&line)?;
            self.expected.push_back((line, expected));
        }
        Ok(())
    }

    fn take(&mut self, timeout: Duration) -> Result<(), Trouble> {
        let Some((line, expected)) = self.expected.pop_front() else { return Ok(()) };
        let answer = self.client.line(timeout).map_err(|error| format!("{line}: {error}"))?;
        if expected.is(&answer) {
            return Ok(());
        }
        Err(format!("{line} was answered with {answer}, and should have been with {expected:?}").into())
    }

    /// This many further answers, with as many lines ahead as fit.
    fn go_on(&mut self, answers: u64, timeout: Duration) -> Result<(), Trouble> {
        for _ in 0..answers {
            self.fill()?;
            self.take(timeout)?;
        }
        Ok(())
    }

    /// STOP after all that is under way: everything is answered, then it is confirmed, and nothing comes after it.
    /// How many lines were answered.
    fn stop(mut self, timeout: Duration) -> Result<u64, Trouble> {
        self.fill()?;
        self.client.send("STOP")?;
        while !self.expected.is_empty() {
            self.take(timeout)?;
        }
        let last = self.client.line(timeout)?;
        if last != "STOP" {
            return Err(format!("STOP was answered with {last}").into());
        }
        match self.client.line(timeout) {
            Err(NoAnswer::Ended) => {}
            other => return Err(format!("behind STOP came {other:?}").into()),
        }
        let status = self.client.finish(timeout)?;
        if status.success() { Ok(self.script.number) } else { Err(format!("the client ended with {status}").into()) }
    }
}

/// Kills the leaders of all partitions in turn, this often in all, under one client; whoever was killed comes back each
/// time. After the last kill comes STOP. How many lines were answered.
///
/// # Errors
/// A line that was lost, doubled, overtaken or wrong; or a cluster that does not come back.
pub fn under_failovers(cluster: &mut Cluster, kills: usize, timeout: Duration) -> Result<u64, Trouble> {
    let mut transcript = CliTranscript::of(cluster.client()?);
    transcript.go_on(ANSWERS_BETWEEN, timeout)?;
    let groups: Vec<Group> = cluster.groups().filter(|group| matches!(group, Group::Partition(_))).collect();
    for &group in groups.iter().cycle().take(kills.saturating_sub(1)) {
        let leader = cluster.wait_leader(group, timeout)?;
        cluster.process(leader).kill();
        transcript.go_on(ANSWERS_BETWEEN, timeout)?;
        cluster.process(leader).start()?;
        transcript.go_on(ANSWERS_BETWEEN, timeout)?;
        cluster.wait_caught_up(group, timeout)?;
    }
    for group in groups {
        let leader = cluster.wait_leader(group, timeout)?;
        cluster.process(leader).kill();
    }
    transcript.stop(timeout)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// A client that does this for each line but STOP, and in the end that.
    fn stopped(each: &str, end: &str) -> Result<u64, Trouble> {
        let script =
            format!("while read verb key; do case $verb in STOP) echo STOP; {end} exit;; *) {each} esac; done");
        let client = LineClient::start(Path::new("/bin/sh"), &["-c".to_owned(), script])?;
        let mut transcript = CliTranscript::of(client);
        // Only reads, of keys that hold nothing.
        while transcript.expected.len() < AHEAD {
            let number = transcript.expected.len();
            transcript.client.send(&format!("GET k{number}"))?;
            transcript.expected.push_back((format!("GET k{number}"), Expected::Line(format!("GET k{number} null"))));
        }
        transcript.stop(TIMEOUT)
    }

    // The judge of C11: a client that loses, doubles or overtakes is found out.
    #[test]
    fn stop_of_clients_that_lose_double_or_add_lines_is_an_error() {
        let right = "echo GET $key null;;";
        stopped(right, "").unwrap();
        for (what, each, end) in [
            ("loses", "[ $key = k40 ] || echo GET $key null;;", ""),
            ("doubles", "echo GET $key null; [ $key != k40 ] || echo GET $key null;;", ""),
            (
                "overtakes",
                "case $key in k40) ;; k41) echo GET k41 null; echo GET k40 null;; *) echo GET $key null; esac;;",
                "",
            ),
            ("loses the last", "[ $key = k63 ] || echo GET $key null;;", ""),
            ("adds after STOP", right, "echo GET k1 null;"),
            ("fails", right, "exit 1;"),
            ("is wrong", "[ $key = k63 ] && echo GET $key 1 || echo GET $key null;;", ""),
        ] {
            stopped(each, end).expect_err(what);
        }
    }
}
