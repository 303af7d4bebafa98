//! The command line: parsed and checked before anything is contacted.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// `host:port` of each manager replica.
    pub manager_addrs: Vec<String>,
    /// How long an operation may take; `None` retries until it succeeds.
    pub timeout: Option<Duration>,
    /// Write each message to stderr.
    pub trace_messages: bool,
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
    /// This client's number in those messages.
    #[arg(long = "client_id", default_value_t = 1)]
    client_id: u32,
    /// With status: JSON instead of a table.
    #[arg(long = "json")]
    json: bool,
    /// status | transfer <group> <replica> | readmit <group> <replica> | help
    words: Vec<String>,
}

/// Parses the command line, the program's name included.
///
/// # Errors
/// How to stop.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, Stop> {
    let raw = Raw::try_parse_from(args.into_iter().map(with_underscores)).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Print(error.to_string()),
        _ => Stop::Wrong(one_line(&error.to_string())),
    })?;
    let manager_addrs = addresses(&raw.manager_addrs).map_err(Stop::Wrong)?;
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
        ["transfer", group, to] => Ok(Word::Transfer { group: (*group).to_owned(), to: number(to)? }),
        ["readmit", group, replica] => Ok(Word::Readmit { group: (*group).to_owned(), replica: number(replica)? }),
        _ => Err("the words are: status [--json], transfer <group> <replica>, readmit <group> <replica>, help".into()),
    }
}

/// Splits and checks a list of `host:port`.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn addresses(list: &str) -> Result<Vec<String>, String> {
    let mut addresses: Vec<String> = Vec::new();
    for address in list.split(',') {
        check_address(address).map_err(|why| format!("malformed address {address:?}: {why}"))?;
        if addresses.iter().any(|other| other == address) {
            return Err(format!("address {address:?} is given twice"));
        }
        addresses.push(address.to_owned());
    }
    Ok(addresses)
}

fn check_address(address: &str) -> Result<(), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("host:port expected")?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(port.parse::<u16>(), Ok(1..)) {
        return Err("the port is no number from 1 to 65535");
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().map(|_| ()).map_err(|_| "no IPv6 address between the brackets");
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || !host.bytes().all(is_name) {
        return Err("no host name or IP address");
    }
    // Looks like an IPv4 address: then it must be one, or the resolver would be asked for it for ever.
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && host.parse::<Ipv4Addr>().is_err() {
        return Err("no IPv4 address");
    }
    Ok(())
}

/// `--some-flag=a-b` becomes `--some_flag=a-b`; anything else stays.
fn with_underscores(arg: OsString) -> OsString {
    let Some((name, value)) = arg
        .to_str()
        .and_then(|text| text.strip_prefix("--"))
        .map(|text| text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value))))
    else {
        return arg;
    };
    let name = name.replace('-', "_");
    match value {
        Some(value) => format!("--{name}={value}").into(),
        None => format!("--{name}").into(),
    }
}

/// The first paragraph of a message, as one line.
fn one_line(message: &str) -> String {
    let paragraph = message.lines().take_while(|line| !line.trim().is_empty());
    let words: Vec<&str> = paragraph.flat_map(str::split_whitespace).collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").map_or(line.clone(), str::to_owned)
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
            ("--manager_addrs 127.0.0.1:+80", "port"),
            ("--manager_addrs 1.2.3.4.5:80", "IPv4"),
            ("--manager_addrs 300.0.0.1:80", "IPv4"),
            ("--manager_addrs a:1,,b:1", "malformed"),
            ("--manager_addrs a:1,a:1", "twice"),
            ("--manager_addrs [::zz]:80", "IPv6"),
            ("--manager_addrs ::1:80", "host"),
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
    fn parse_good_addresses_accepted() {
        for line in ["--manager_addrs [::1]:80", "--manager_addrs host-1.example_x:65535", ""] {
            assert!(parse_words(line).is_ok(), "{line:?}");
        }
    }

    #[test]
    fn parse_operator_words_recognized() {
        let word = |line: &str| parse_words(line).unwrap().word;
        assert_eq!(word("status"), Some(Word::Status { json: false }));
        assert_eq!(word("status --json"), Some(Word::Status { json: true }));
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
