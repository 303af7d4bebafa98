//! The command line: parsed and checked before anything is contacted.

use std::ffi::OsString;
use std::time::Duration;

use clap::Parser;
use smr_service::args::{self, Parsed};

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// `host:port` of each manager replica.
    pub manager_addrs: Vec<String>,
    /// How long an operation may take; `None` retries until it succeeds.
    pub timeout: Option<Duration>,
    /// Write each message to stderr.
    pub trace_messages: bool,
    /// Write a line to stderr each time a request must be tried again.
    pub trace_retries: bool,
    /// The client's number in those messages.
    pub client_id: u32,
    /// An operator's word to obey instead of reading stdin.
    pub word: Option<Word>,
}

/// An operator's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// What can be said.
    Help,
    /// How the cluster is.
    Status {
        /// As JSON instead of a table.
        json: bool,
    },
    /// Who has a key.
    Where {
        /// The key.
        key: String,
        /// As JSON instead of a line.
        json: bool,
    },
    /// Hand leadership over.
    Transfer {
        /// `m`, `s0`, ...
        group: String,
        /// The replica that is to lead.
        to: u16,
    },
    /// Take a replica back.
    Readmit {
        /// `m`, `s0`, ...
        group: String,
        /// The replica.
        replica: u16,
    },
}

/// Why the process ends before it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help or version was asked for: print this, exit code 0.
    Print(String),
    /// The arguments are wrong: one line for stderr, exit code 2.
    Wrong(String),
}

/// MadKV's client. Without a word it reads requests: line by line from a pipe, or at a prompt on a terminal.
///
/// Limits: key 4 KiB, value 1 MiB. Flags may be written with _ or with -.
#[derive(Parser)]
#[command(name = "madkv-client", version)]
struct Raw {
    /// Managers to ask for the cluster map, as host:port, separated by commas.
    #[arg(long = "manager_addrs", default_value = "127.0.0.1:3666,127.0.0.1:3667,127.0.0.1:3668")]
    manager_addrs: String,
    /// Give up on a request after this many milliseconds. By default it is retried until it succeeds.
    #[arg(long = "timeout_ms", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: Option<u64>,
    /// Write each message that is sent or received to stderr.
    #[arg(long = "trace_messages")]
    trace_messages: bool,
    /// Write a line to stderr each time a request must be tried again.
    #[arg(long = "trace_retries")]
    trace_retries: bool,
    /// This client's number in those messages.
    #[arg(long = "client_id", default_value_t = 1)]
    client_id: u32,
    /// With status and where: JSON instead of text for people.
    #[arg(long = "json")]
    json: bool,
    // Not as a documentation comment: rustdoc takes the brackets for HTML.
    #[arg(help = "status | where <key> | transfer <group> <replica> | readmit <group> <replica> | help")]
    words: Vec<String>,
}

/// Parses the command line, the program's name included.
///
/// # Errors
/// How to stop.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Args, Stop> {
    let wrong = |bad: args::BadArgument| Stop::Wrong(bad.0);
    let raw = match args::parse::<Raw>(line).map_err(wrong)? {
        Parsed::Options(raw) => raw,
        Parsed::Print(text) => return Err(Stop::Print(text)),
    };
    let manager_addrs = args::addresses("--manager_addrs", &raw.manager_addrs).map_err(wrong)?;
    if manager_addrs.is_empty() {
        return Err(Stop::Wrong("--manager_addrs: at least one is needed".into()));
    }
    let mut words: Vec<&str> = raw.words.iter().map(String::as_str).collect();
    if raw.json {
        words.push("--json");
    }
    let word = match &words[..] {
        [] => None,
        words => Some(word(words).map_err(Stop::Wrong)?),
    };
    Ok(Args {
        manager_addrs,
        timeout: raw.timeout_ms.map(Duration::from_millis),
        trace_messages: raw.trace_messages,
        trace_retries: raw.trace_retries,
        client_id: raw.client_id,
        word,
    })
}

/// An operator's word, at the prompt or on the command line.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn word(words: &[&str]) -> Result<Word, String> {
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("a replica is a number, not {text:?}"));
    match words {
        ["help"] => Ok(Word::Help),
        ["status"] => Ok(Word::Status { json: false }),
        ["status", "--json"] => Ok(Word::Status { json: true }),
        ["where", key] => Ok(Word::Where { key: (*key).to_owned(), json: false }),
        ["where", key, "--json"] => Ok(Word::Where { key: (*key).to_owned(), json: true }),
        ["transfer", group, to] => Ok(Word::Transfer { group: (*group).to_owned(), to: number(to)? }),
        ["readmit", group, replica] => Ok(Word::Readmit { group: (*group).to_owned(), replica: number(replica)? }),
        _ => Err("the words are: status [--json], where <key> [--json], transfer <group> <replica>, readmit <group> <replica>, \
                  help"
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Result<Args, Stop> {
        parse(std::iter::once("madkv-client").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn parse_flags_with_underscore_or_dash_mean_the_same() {
        let underscore = parse_words("--manager_addrs a:1,b-c:2 --timeout_ms 5 --trace_messages").unwrap();
        assert_eq!(parse_words("--manager-addrs=a:1,b-c:2 --timeout-ms=5 --trace-messages"), Ok(underscore.clone()));
        assert_eq!(underscore.manager_addrs, ["a:1", "b-c:2"]);
        assert_eq!(underscore.timeout, Some(Duration::from_millis(5)));
    }

    // covers B9
    #[test]
    fn parse_bad_arguments_one_line_that_names_them() {
        for (line, part) in [
            ("--manager_addrs 127.0.0.1", "127.0.0.1"),
            ("--manager_addrs 127.0.0.1:0", "port"),
            ("--manager_addrs 127.0.0.1:99999", "port"),
            ("--manager_addrs none", "at least one"),
            ("--manager_addrs a:1,a:1", "twice"),
            ("--timeout_ms 0", "0"),
            ("--timeout_ms soon", "soon"),
            ("--no_such_flag", "--no_such_flag"),
            ("--manager_addrs", "--manager_addrs"),
            ("dance", "status"),
            ("--json", "status"),
            ("transfer s0 one", "one"),
        ] {
            let Err(Stop::Wrong(message)) = parse_words(line) else { panic!("{line:?} was accepted") };
            assert!(message.contains(part) && !message.contains('\n'), "{line:?}: {message:?}");
        }
    }

    #[test]
    fn parse_operator_words_recognized() {
        let word = |line: &str| parse_words(line).unwrap().word;
        assert_eq!(word("status"), Some(Word::Status { json: false }));
        assert_eq!(word("status --json"), Some(Word::Status { json: true }));
        assert_eq!(word("where k"), Some(Word::Where { key: "k".into(), json: false }));
        assert_eq!(word("where --json k"), Some(Word::Where { key: "k".into(), json: true }));
        assert_eq!(word("transfer s0 2"), Some(Word::Transfer { group: "s0".into(), to: 2 }));
        assert_eq!(word("readmit m 1"), Some(Word::Readmit { group: "m".into(), replica: 1 }));
        assert_eq!(word(""), None);
    }

    #[test]
    fn parse_help_is_printed_not_an_error() {
        let Err(Stop::Print(help)) = parse_words("--help") else { panic!("no help") };
        assert!(help.contains("--manager_addrs") && help.contains("1 MiB"));
    }
}
