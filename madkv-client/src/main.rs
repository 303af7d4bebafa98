//! The command-line client. Parses, builds, runs, and gives the exit code: 0 well, 1 failed, 2 wrong arguments.

use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::process::ExitCode;

use madkv_client::cli::pipe::Waiting;
use madkv_client::cli::stop::Stop;
use madkv_client::cli::{self, args, command, pipe, prompt};
use rustix::process::Signal;
use smr_service::log_sink::{self, LineWriter};
use smr_service::process;
use tokio::runtime::Builder;

/// The program's name, in front of what it says on stderr.
const PROGRAM: &str = "madkv-client";
/// How much is read from a pipe at once, in bytes.
const INPUT_CHUNK_BYTES: usize = 64 << 10;

fn main() -> ExitCode {
    let code = run();
    log_sink::flush();
    code
}

fn run() -> ExitCode {
    if let Err(fatal) = process::outlive_signals(&[Signal::XFSZ]) {
        process::say(PROGRAM, &fatal.to_string());
        return ExitCode::FAILURE;
    }
    let args = match args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(Stop::Print(text)) => return code(print(&text)),
        Err(Stop::Wrong(line)) => {
            process::say(PROGRAM, &line);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_writer(LineWriter::default)
        .with_max_level(tracing::Level::WARN)
        .with_target(false)
        .init();
    // One thread: a lone request then crosses none.
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            process::say(PROGRAM, &format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let client = cli::connect(&args);
    if let Some(command) = &args.command {
        return match runtime.block_on(command::execute(&client, command, prompt::terminal_columns())) {
            Ok(report) if report.is_whole => code(print(&report.text)),
            Ok(report) => {
                code(print(&report.text));
                ExitCode::FAILURE
            }
            Err(error) => {
                log_sink::line(format!("ERROR {error}"));
                ExitCode::FAILURE
            }
        };
    }
    if io::stdin().is_terminal() {
        return code(prompt::run(&runtime, &client));
    }
    let mut input = BufReader::with_capacity(INPUT_CHUNK_BYTES, Waiting(io::stdin().lock()));
    let mut out = BufWriter::new(Waiting(io::stdout().lock()));
    code(pipe::run(&runtime, &client, &mut input, &mut out).map(|_| ()))
}

fn print(text: &str) -> io::Result<()> {
    let mut out = Waiting(io::stdout().lock());
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn code(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever reads our answers may leave at any time; that needs no words.
            if error.kind() != io::ErrorKind::BrokenPipe {
                process::say(PROGRAM, &error.to_string());
            }
            ExitCode::FAILURE
        }
    }
}
