//! The client on a terminal: editing, history, completion, `help` and the operators' commands.

use std::future::pending;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use madkv_proto::line::{self, Answer, BadLine, Line};
use rustix::process::Signal;
use rustix::termios::tcgetwinsize;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{CompletionType, Config, Editor};
use smr_service::{log_sink, process};
use tokio::runtime::Runtime;

use crate::Client;
use crate::cli::command::{self, COMMAND_WORDS, execute};
use crate::cli::completion::{Completion, similar};
use crate::cli::host::{self, Host, word_of};
use crate::cli::run_line;
use crate::cli::stop::Stop;
use crate::cli::watch::{self, Watched};

/// Lines of history that are kept.
const HISTORY_MAX: usize = 1000;
/// How long the Tab key waits for a first cluster map.
const GROUPS_WAIT: Duration = Duration::from_millis(300);

/// Answers lines until STOP or the end of input.
///
/// # Errors
/// Those of the terminal.
pub fn run(runtime: &Runtime, client: &Client, host: Option<&dyn Host>) -> io::Result<()> {
    let config = Config::builder().completion_type(CompletionType::List).build();
    let mut editor = Editor::with_history(config, MemHistory::new()).map_err(io::Error::other)?;
    editor.set_helper(Some(Completion::new(|| runtime.block_on(client.groups(GROUPS_WAIT)), host)));
    let mut history = load_history();
    for line in &history {
        let _ = editor.add_history_entry(line); // a line that history refuses is just not there
    }
    let mut out = io::stdout();
    writeln!(out, "help lists what can be said, STOP or Ctrl-D leaves")?;
    // From the start, so that none ends the program between the end of a line's editing and the wait for its answer.
    process::outlive_signals(&[Signal::INT]).map_err(io::Error::other)?;
    loop {
        let text = match editor.readline("madkv> ") {
            Ok(text) => text,
            // It takes the line back and no more: it may have been meant for a call that just ended, and with the
            // prompt a whole cluster may end.
            Err(ReadlineError::Interrupted) => {
                writeln!(out, "Ctrl-D or STOP leaves")?;
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(io::Error::other(error)),
        };
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(text);
        history.push(text.to_owned());
        if answer(runtime, client, host, text, &mut out)? {
            break;
        }
    }
    save_history(&history);
    Ok(())
}

/// Answers a line; returns whether it was STOP.
fn answer(
    runtime: &Runtime,
    client: &Client,
    host: Option<&dyn Host>,
    text: &str,
    out: &mut impl Write,
) -> io::Result<bool> {
    let stopped = match line::parse(text.as_bytes()) {
        Ok(Line::Watch(first, last, index)) => {
            let watched = Watched::new(first, last, index);
            runtime.block_on(async {
                tokio::select! {
                    ended = watch::tell_until(client, &watched, pending::<()>(), out) => ended.map(|_| ()),
                    Ok(()) = tokio::signal::ctrl_c() => Ok(()),
                }
            })?;
            false
        }
        Ok(line) => match interruptible(runtime, run_line(client, line)) {
            Ok(answer) => {
                // What is traced about a request comes before its answer.
                log_sink::flush();
                line::write_answer(out, line, &answer)?;
                answer == Answer::Stopped
            }
            Err(error) => {
                line::write_error(out, &error)?;
                false
            }
        },
        Err(bad) => {
            answer_command(runtime, client, host, text, bad, out)?;
            false
        }
    };
    out.flush()?;
    Ok(stopped)
}

/// Answers a line that is no request, for the reason `bad`, but perhaps an operator's command.
fn answer_command(
    runtime: &Runtime,
    client: &Client,
    host: Option<&dyn Host>,
    text: &str,
    bad: BadLine,
    out: &mut impl Write,
) -> io::Result<()> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let first = words.first().copied().unwrap_or_default();
    if let Some((host, _)) = word_of(host, first) {
        return match host.execute(&words) {
            Ok(text) => out.write_all(text.as_bytes()),
            Err(why) => line::write_error(out, &why),
        };
    }
    if let ["help", about] = words[..]
        && let Some((_, word)) = word_of(host, about)
    {
        return writeln!(out, "{}\n{}", word.usage, word.about);
    }
    if !COMMAND_WORDS.contains(&first) {
        return match (bad, similar(first, host)) {
            (BadLine::UnknownWord, Some(meant)) => {
                line::write_error(out, &format!("unknown word; did you mean {meant}?"))
            }
            (BadLine::UnknownWord, None) => line::write_error(out, &format!("{bad}, or try help")),
            _ => line::write_error(out, &bad),
        };
    }
    match command::parse(&words) {
        Ok(command) => match interruptible(runtime, execute(client, &command, terminal_columns())) {
            Ok(report) => {
                out.write_all(report.text.as_bytes())?;
                let more = if words == ["help"] { host::help(host) } else { String::new() };
                out.write_all(more.as_bytes())
            }
            Err(error) => line::write_error(out, &error),
        },
        Err(Stop::Print(help)) => out.write_all(help.as_bytes()),
        Err(Stop::Wrong(why)) => line::write_error(out, &why),
    }
}

/// How many columns the terminal has that is stdout; `None` if it is none.
pub fn terminal_columns() -> Option<u16> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    tcgetwinsize(out).ok().map(|size| size.ws_col).filter(|columns| *columns > 0)
}

/// Runs a call until it is done, or Ctrl-C: a cluster without a majority must not take the prompt away.
fn interruptible<T, E>(runtime: &Runtime, call: impl Future<Output = Result<T, E>>) -> Result<T, Failure<E>> {
    runtime.block_on(async {
        tokio::select! {
            done = call => done.map_err(Failure::Call),
            Ok(()) = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        }
    })
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
enum Failure<E> {
    #[error(transparent)]
    Call(E),
    #[error("interrupted: a write may have happened")]
    Interrupted,
}

/// The history's file is a convenience: without a home, or if it cannot be read or written, history lasts for the run.
fn history_path() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("HOME").filter(|home| !home.is_empty())?).join(".madkv_history"))
}

fn load_history() -> Vec<String> {
    let text = history_path().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(HISTORY_MAX)..].to_vec()
}

fn save_history(history: &[String]) {
    let Some(path) = history_path() else { return };
    let kept = &history[history.len().saturating_sub(HISTORY_MAX)..];
    if let Err(error) = std::fs::write(&path, kept.join("\n") + "\n") {
        tracing::debug!("history is not kept: {}: {error}", path.display());
    }
}
