//! `madkv-explore`: every order of events in a group of three real Raft cores, up to the bounds given. See
//! `smr_sim::explore`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use smr_sim::explore::{Bounds, Progress, explore, named};

/// How often it says how far it is, in seconds.
const REPORT_EVERY: u64 = 10;

/// Explore every order of events in a group of three Raft cores, up to the bounds given.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Terms with elections
    #[arg(long, default_value_t = 2)]
    terms: u8,
    /// Commands that clients propose, in all
    #[arg(long, default_value_t = 1)]
    entries: u8,
    /// Crashes, in all, each with any part of the unsynced writes lost
    #[arg(long, default_value_t = 1)]
    crashes: u8,
    /// Messages on the wire at once, each of which arrives once; without it any number of messages, any number of times
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
    messages: Option<u8>,
    /// With --messages: messages that arrive twice, in all
    #[arg(long, default_value_t = 0)]
    duplicates: u8,
    /// Without --messages: leaders also probe for what was not answered in time
    #[arg(long)]
    reminders: bool,
    /// Send pre-votes as messages instead of letting every pre-vote succeed
    #[arg(long)]
    real_pre_vote: bool,
    /// Leave messages on the wire that can never have an effect again
    #[arg(long)]
    keep_dead: bool,
    /// Begin with this history (figure8, or a file, see smr_sim::explore::script), and explore only what can come
    /// after it
    #[arg(long)]
    from: Option<String>,
    /// Time at most, in minutes
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Memory at most, in GB
    #[arg(long, default_value_t = 4)]
    memory_gb: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let from = match arguments.from.as_deref().map(|from| (from, named(from))) {
        None => String::new(),
        Some((_, Some(history))) => history.to_owned(),
        Some((file, None)) => match std::fs::read_to_string(file) {
            Ok(history) => history,
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::FAILURE;
            }
        },
    };
    let bounds = Bounds {
        terms: arguments.terms,
        entries: arguments.entries,
        crashes: arguments.crashes,
        messages: arguments.messages,
        duplicates: arguments.duplicates,
        reminders: arguments.reminders,
        abstract_pre_vote: !arguments.real_pre_vote,
        keep_dead: arguments.keep_dead,
        from,
        memory_bytes: arguments.memory_gb << 30,
        time: Duration::from_secs(60 * arguments.minutes),
        ..Bounds::default()
    };
    let mut next_report = REPORT_EVERY;
    let report = explore(&bounds, |progress| {
        if progress.elapsed.as_secs() >= next_report {
            next_report = progress.elapsed.as_secs() + REPORT_EVERY;
            eprintln!("{}", told(progress));
        }
    });
    println!("{}", told(&report.progress));
    let (nodes, messages, computed) = report.sizes;
    println!("{nodes} different nodes, {messages} messages, {computed} steps of the core");
    println!("{:?}", report.situations);
    println!("memory: {} MB", report.memory_bytes >> 20);
    if let Some(violation) = report.violation {
        println!("\nVIOLATION after {} events: {}\n", violation.events, violation.what);
        violation.steps.iter().for_each(|step| println!("{step}"));
        return ExitCode::FAILURE;
    }
    match report.stopped {
        None => println!("COMPLETED"),
        Some(reason) => println!("NOT COMPLETED: {reason}; nothing wrong so far"),
    }
    ExitCode::SUCCESS
}

fn told(progress: &Progress) -> String {
    format!(
        "{} states ({} expanded), {} transitions, depth {}, {:.1} s",
        progress.states,
        progress.expanded,
        progress.transitions,
        progress.depth,
        progress.elapsed.as_secs_f64()
    )
}
