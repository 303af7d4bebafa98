//! A run of the command line. Parses, builds, runs, and gives the exit code: 0 well, 1 failed, 2 wrong arguments,
//! 128 and its number after a signal.

use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};

use rustix::process::Signal;
use smr_service::log_sink::{self, LineWriter};
use smr_service::process;
use tokio::runtime::Builder;
use tokio::signal::unix::{self, SignalKind};

use crate::cli::command::CliCommand;
use crate::cli::host::Host;
use crate::cli::pipe::Waiting;
use crate::cli::stop::Stop;
use crate::cli::watch::{self, Form, Watched};
use crate::cli::{args, command, connect, pipe, prompt};

/// The program's name, in front of what it says on stderr.
const PROGRAM: &str = "madkv-client";
/// How much is read from a pipe at once, in bytes.
const INPUT_CHUNK_BYTES: usize = 64 << 10;
/// Exit code for a command line that makes no sense.
const EXIT_USAGE: u8 = 2;
/// Exit code for everything else that went wrong.
const EXIT_FAILED: u8 = 1;
/// Exit code for an end by a signal, whose number is added: what a shell says of programs that it ends.
const EXIT_SIGNAL: u8 = 128;

/// Runs a command line, the program's name included, and returns the exit code.
///
/// It takes no iterator: whatever is generic here, all of the command line behind it included, is compiled again in
/// each crate that calls it.
pub fn run(line: Vec<OsString>, host: Option<&dyn Host>) -> u8 {
    if let Err(fatal) = process::outlive_signals(&[Signal::XFSZ]) {
        process::say(PROGRAM, &fatal.to_string());
        return EXIT_FAILED;
    }
    let args = match args::parse(line) {
        Ok(args) => args,
        Err(Stop::Print(text)) => return code(print(&text)),
        Err(Stop::Wrong(line)) => {
            process::say(PROGRAM, &line);
            return EXIT_USAGE;
        }
    };
    // A host may have set one already.
    let _ = tracing_subscriber::fmt()
        .with_writer(LineWriter::default)
        .with_max_level(tracing::Level::WARN)
        .with_target(false)
        .try_init();
    // One thread: a lone request then crosses none. Where messages are shown, those that come while no one asks for
    // anything are to be shown when they come: then there is one more.
    let mut builder = if args.trace_messages { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = match builder.worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            process::say(PROGRAM, &format!("no runtime: {error}"));
            return EXIT_FAILED;
        }
    };
    let client = connect(&args);
    if let Some(CliCommand::Events { follow: true, json }) = &args.command {
        return match runtime.block_on(command::follow_events(&client, *json, print)) {
            Ok(error) => code(Err(error)),
            Err(error) => {
                log_sink::line(format!("ERROR {error}"));
                EXIT_FAILED
            }
        };
    }
    if let Some(CliCommand::Watch { key, to, from, json }) = &args.command {
        let last = to.as_ref().unwrap_or(key).clone();
        let watched = Watched { first: key.clone(), last, start: from.clone().unwrap_or_default() };
        let mut out = BufWriter::new(Waiting(io::stdout().lock()));
        let form = if *json { Form::Json } else { Form::Lines };
        return match runtime.block_on(watch::tell_on(&client, &watched, form, &mut out)) {
            Ok(error) => code(Err(error)),
            Err(error) => {
                log_sink::line(format!("ERROR {error}"));
                EXIT_FAILED
            }
        };
    }
    if let Some(command) = &args.command {
        let ended = runtime.block_on(async {
            // Before it begins: what was begun is undone then, or told.
            let mut signals = Signals::listen()?;
            tokio::select! {
                ended = command::execute(&client, command, prompt::terminal_columns()) => Ok(Ok(ended)),
                signal = signals.next() => Ok(Err(signal)),
            }
        });
        return match ended {
            Err(error) => code(Err(error)),
            Ok(Err(signal)) => {
                process::say(PROGRAM, "interrupted");
                EXIT_SIGNAL + signal
            }
            Ok(Ok(Ok(report))) if report.is_whole => code(print(&report.text)),
            Ok(Ok(Ok(report))) => {
                code(print(&report.text));
                EXIT_FAILED
            }
            Ok(Ok(Err(error))) => {
                log_sink::line(format!("ERROR {error}"));
                EXIT_FAILED
            }
        };
    }
    if io::stdin().is_terminal() {
        return code(prompt::run(&runtime, &client, host));
    }
    // Not locked: the thread that reads may change. Nothing else reads it.
    let input = BufReader::with_capacity(INPUT_CHUNK_BYTES, Waiting(io::stdin()));
    let mut out = BufWriter::new(Waiting(io::stdout().lock()));
    code(pipe::run(&runtime, &client, host, input, &mut out).map(|_| ()))
}

/// The signals by which a person or a supervisor ends a command.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(unix::signal);
        Ok(Signals { interrupt: interrupt?, terminate: terminate? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT.as_raw() as u8, // 2
            _ = self.terminate.recv() => Signal::TERM.as_raw() as u8, // 15
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = Waiting(io::stdout().lock());
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn code(result: io::Result<()>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            // Whoever reads our answers may leave at any time; that needs no words.
            if error.kind() != io::ErrorKind::BrokenPipe {
                process::say(PROGRAM, &error.to_string());
            }
            EXIT_FAILED
        }
    }
}
