//! The client on a terminal: editing, history, `help` and the operators' words.

use std::io::{self, Write};
use std::path::PathBuf;

use madkv_proto::line::{self, Answer, BadLine};
use rustix::process::Signal;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use smr_service::process;
use tokio::runtime::Runtime;

use crate::cli::{args, obey, run_line};
use crate::{Client, Error};

/// Lines of history that are kept.
const HISTORY_MAX: usize = 1000;

/// Answers lines until STOP or the end of input.
///
/// # Errors
/// Those of the terminal.
pub fn run(runtime: &Runtime, client: &Client) -> io::Result<()> {
    let mut editor = DefaultEditor::new().map_err(io::Error::other)?;
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
        if answer(runtime, client, text, &mut out)? {
            break;
        }
    }
    save_history(&history);
    Ok(())
}

/// Answers a line; returns whether it was STOP.
fn answer(runtime: &Runtime, client: &Client, text: &str, out: &mut impl Write) -> io::Result<bool> {
    let stopped = match line::parse(text.as_bytes()) {
        Ok(line) => match interruptible(runtime, run_line(client, line)) {
            Ok(answer) => {
                line::write_answer(out, line, &answer)?;
                answer == Answer::Stopped
            }
            Err(error) => {
                line::write_error(out, &error)?;
                false
            }
        },
        Err(bad) => {
            let words: Vec<&str> = text.split_whitespace().collect();
            let is_operators = matches!(words.first(), Some(&("help" | "status" | "where" | "transfer" | "readmit")));
            match args::word(&words) {
                Ok(word) => match interruptible(runtime, obey(client, &word)) {
                    Ok(report) => out.write_all(report.text.as_bytes())?,
                    Err(error) => line::write_error(out, &error)?,
                },
                Err(why) if is_operators => line::write_error(out, &why)?,
                Err(_) if bad == BadLine::UnknownWord => line::write_error(out, &format!("{bad}, or try help"))?,
                Err(_) => line::write_error(out, &bad)?,
            }
            false
        }
    };
    out.flush()?;
    Ok(stopped)
}

/// Runs a call until it is done, or Ctrl-C: a cluster without a majority must not take the prompt away.
fn interruptible<T>(runtime: &Runtime, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    runtime.block_on(async {
        tokio::select! {
            done = call => done.map_err(Failure::Call),
            Ok(()) = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        }
    })
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Call(Error),
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
