//! The command line: parsed and checked before anything is contacted.

use std::ffi::OsString;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use smr_service::args::{self, Parsed};

use crate::ReadFrom;
use crate::cli::command::CliCommand;
use crate::cli::stop::Stop;

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
    /// The client's number in those messages, and in those of servers.
    pub client_id: Option<u32>,
    /// Where reads may go.
    pub read_from: ReadFrom,
    /// An operator's command to execute instead of reading stdin.
    pub command: Option<CliCommand>,
}

/// MadKV's client. Without a command it reads requests: line by line from a pipe, or at a prompt on a terminal.
///
/// Limits: key 4 KiB, value 1 MiB. Flags may be written with _ or with -.
#[derive(Parser)]
#[command(name = "madkv-client", version, disable_help_subcommand = true)]
struct Raw {
    /// Managers to ask for the cluster map, as host:port, separated by commas
    #[arg(long = "manager_addrs", default_value = "127.0.0.1:3666,127.0.0.1:3667,127.0.0.1:3668", global = true)]
    manager_addrs: String,
    /// Give up on a request after this many milliseconds; by default it is retried until it succeeds
    #[arg(long = "timeout_ms", value_parser = clap::value_parser!(u64).range(1..), global = true)]
    timeout_ms: Option<u64>,
    /// Write each message that is sent or received to stderr
    #[arg(long = "trace_messages", global = true)]
    trace_messages: bool,
    /// Write a line to stderr each time a request must be tried again
    #[arg(long = "trace_retries", global = true)]
    trace_retries: bool,
    /// This client's number in those messages, and in those of servers; 1 if it is not given
    #[arg(long = "client_id", global = true)]
    client_id: Option<u32>,
    /// Where reads may go: leader, or any for all replicas in turn, where the kind of the group allows it
    #[arg(long = "read_from", value_name = "WHERE", value_parser = read_from, default_value = "leader", global = true)]
    read_from: ReadFrom,
    /// Accepted in front of a command that has it.
    #[arg(long = "json", hide = true)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    #[command(flatten)]
    Execute(CliCommand),
    /// Print the script that teaches a shell to complete this program's command lines
    ///
    /// For example: madkv-client completions bash > ~/.local/share/bash-completion/completions/madkv-client
    Completions {
        /// The shell
        shell: Shell,
    },
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
    let mut command = match raw.action {
        Some(Action::Execute(command)) => Some(command),
        Some(Action::Completions { shell }) if !raw.json => return Err(Stop::Print(completion_script(shell))),
        Some(Action::Completions { .. }) | None => None,
    };
    if raw.json {
        match &mut command {
            Some(
                CliCommand::Status { json, .. }
                | CliCommand::Where { json, .. }
                | CliCommand::Get { json, .. }
                | CliCommand::Set { json, .. }
                | CliCommand::Events { json, .. }
                | CliCommand::Watch { json, .. },
            ) => *json = true,
            Some(CliCommand::Why { line }) => line.push("--json".to_owned()),
            _ => {
                return Err(Stop::Wrong(
                    "--json goes with the commands status, where, get, set, events and watch".into(),
                ));
            }
        }
    }
    Ok(Args {
        manager_addrs,
        timeout: raw.timeout_ms.map(Duration::from_millis),
        trace_messages: raw.trace_messages,
        trace_retries: raw.trace_retries,
        client_id: raw.client_id,
        read_from: raw.read_from,
        command,
    })
}

fn read_from(word: &str) -> Result<ReadFrom, String> {
    match word {
        "leader" => Ok(ReadFrom::Leader),
        "any" => Ok(ReadFrom::Any),
        _ => Err("any and leader are possible".to_owned()),
    }
}

fn completion_script(shell: Shell) -> String {
    let mut grammar = Raw::command();
    let name = grammar.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut grammar, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
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
        assert_eq!(underscore.read_from, ReadFrom::Leader);
        assert_eq!(parse_words("--read_from any").unwrap().read_from, ReadFrom::Any);
        assert!(parse_words("--read-from follower").is_err());
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
            ("dance", "dance"),
            ("statsu", "did you mean 'status'?"),
            ("--trace_message", "did you mean '--trace_messages'?"),
            ("--json", "status"),
            ("--json transfer s0 1", "status"),
            ("transfer s0 one", "one"),
            ("transfer s0", "<REPLICA>"),
        ] {
            let Err(Stop::Wrong(message)) = parse_words(line) else { panic!("{line:?} was accepted") };
            assert!(message.contains(part) && !message.contains('\n'), "{line:?}: {message:?}");
        }
    }

    #[test]
    fn parse_commands_with_flags_before_and_after_them() {
        let command = |line: &str| parse_words(line).unwrap().command;
        assert_eq!(command("status"), Some(CliCommand::Status { json: false, slow: false }));
        assert_eq!(command("status --json"), Some(CliCommand::Status { json: true, slow: false }));
        assert_eq!(command("--json status"), Some(CliCommand::Status { json: true, slow: false }));
        assert_eq!(command("where --json k"), Some(CliCommand::Where { key: "k".into(), json: true }));
        assert_eq!(command("where -- --a-b"), Some(CliCommand::Where { key: "--a-b".into(), json: false }));
        assert_eq!(command("transfer s0 2"), Some(CliCommand::Transfer { group: "s0".into(), to: 2 }));
        assert_eq!(command("readmit m 1"), Some(CliCommand::Readmit { group: "m".into(), replica: 1 }));
        assert_eq!(command("get"), Some(CliCommand::Get { setting: None, json: false }));
        let set = CliCommand::Set { setting: "election_timeout".into(), value: "-5".into(), json: true };
        assert_eq!(command("--json set election_timeout -5"), Some(set));
        assert_eq!(command("events --follow"), Some(CliCommand::Events { follow: true, json: false }));
        assert_eq!(command("help"), Some(CliCommand::Help { word: None }));
        assert_eq!(command(""), None);
        let before = parse_words("--manager-addrs a:1 --timeout_ms 5 status").unwrap();
        assert_eq!(parse_words("status --timeout-ms 5 --manager_addrs a:1"), Ok(before.clone()));
        assert_eq!((before.manager_addrs, before.timeout), (vec!["a:1".to_owned()], Some(Duration::from_millis(5))));
    }

    #[test]
    fn parse_completions_prints_a_script_that_knows_commands_and_flags() {
        for shell in ["bash", "zsh", "fish"] {
            let Err(Stop::Print(script)) = parse_words(&format!("completions {shell}")) else { panic!("no script") };
            assert!(["readmit", "manager_addrs", "json"].iter().all(|word| script.contains(word)), "{shell}: {script}");
        }
    }

    #[test]
    fn parse_help_is_printed_not_an_error() {
        let Err(Stop::Print(help)) = parse_words("--help") else { panic!("no help") };
        assert!(help.contains("--manager_addrs") && help.contains("1 MiB"));
    }
}
