//! The four protocols side by side: the same YCSB runs and the same kills on each, with 2, 3 and 5 replicas. A table
//! and pictures.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use madkv_testkit::failover::{Way, inject};
use madkv_testkit::launcher::Interrupted;
use madkv_testkit::measure::{Trouble, commit, percentile};
use madkv_testkit::programs::Programs;

use crate::peers::madkv::cores;
use crate::report::plot::{Bars, CAN_DRAW, number};
use crate::ycsb::INTERRUPTED;
use crate::ycsb::command;

const KINDS: [&str; 4] = ["raft", "chain", "active", "passive"];
/// The table, below the directory that was told.
const PAGE: &str = "protocols.md";
const SIZES: [u16; 3] = [2, 3, 5];
/// Kills of the first of a group: with its process alone, or so that it hangs.
const WAYS: [Way; 2] = [Way::Kill, Way::Freeze];

/// Operations that write, by YCSB's names.
const WRITING: [&str; 3] = ["UPDATE", "INSERT", "READ-MODIFY-WRITE"];

/// How long, and where to.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// For how long each workload is measured, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// How often the first of each group is killed, and how often it hangs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub kills: u32,
    /// Workloads of YCSB
    #[arg(long, value_delimiter = ',', default_values_t = ["a".to_owned(), "b".to_owned()])]
    pub workloads: Vec<String>,
    /// Only these kinds
    #[arg(long, value_delimiter = ',', value_parser = KINDS, default_values_t = KINDS.map(str::to_owned))]
    pub kinds: Vec<String>,
    /// Only these numbers of replicas
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=9), default_values_t = SIZES)]
    pub sizes: Vec<u16>,
    /// A further option for each run; see `ycsb --help`
    #[arg(long = "run_option", alias = "run-option", value_name = "OPTION", allow_hyphen_values = true)]
    pub run_options: Vec<OsString>,
    /// Where table and pictures go
    #[arg(long, default_value = "report", value_name = "DIRECTORY")]
    pub out: PathBuf,
}

/// The options of one run, parsed as from a command line.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: command::Options,
}

/// What one workload took on one group.
struct Measured {
    rate: f64,
    mean_ms: f64,
    p99_ms: f64,
    /// Processor time of all servers and managers, in microseconds per operation.
    cpu_us: Option<f64>,
    /// What all servers had written to their disks, in bytes per operation that writes.
    written_bytes: Option<f64>,
}

/// One group: its kind, its size, the workloads in the order that was asked for, and the pauses for each way.
struct Row {
    kind: String,
    size: u16,
    measured: Vec<Measured>,
    pauses: Vec<Vec<Duration>>,
}

/// Measures all of them, and writes table and pictures.
///
/// # Errors
/// If something did not run, lost a write, or cannot be written.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let interrupted = Interrupted::watch()?;
    let programs = Programs::beside_this_one()?;
    let mut rows = Vec::new();
    for &size in &options.sizes {
        // Raft with an even number of replicas survives no more than with one less, and managers refuse it.
        for kind in options.kinds.iter().filter(|kind| *kind != "raft" || size % 2 == 1) {
            let mut row = Row { kind: kind.clone(), size, measured: Vec::new(), pauses: Vec::new() };
            for workload in &options.workloads {
                let measured = measure(options, &programs, &interrupted, (kind, size), workload)?;
                println!(
                    "{kind}, {size} replicas, workload {workload}: {:.0} operations/s, mean {:.2} ms, p99 {:.2} ms",
                    measured.rate, measured.mean_ms, measured.p99_ms
                );
                row.measured.push(measured);
            }
            for way in WAYS {
                // Without another complete member there is no one who goes on.
                let pauses = if size > 1 { kill(options, &programs, &interrupted, (kind, size), way)? } else { vec![] };
                println!("{kind}, {size} replicas, {}: {}", way.name(), in_ms(&pauses));
                row.pauses.push(pauses);
            }
            rows.push(row);
            // What was measured is not lost with what was not.
            write(options, &rows)?;
        }
    }
    if rows.is_empty() {
        return Err("Raft groups have 1, 3, 5, 7 or 9 replicas: there is nothing to measure".into());
    }
    println!("{}", options.out.join(PAGE).display());
    Ok(())
}

fn line(options: &Options, (kind, size): (&str, u16), workload: &str) -> Result<command::Options, Trouble> {
    let fixed = [
        "ycsb".to_owned(),
        format!("--workload={workload}"),
        format!("--server_rf={size}"),
        "--partitions=1".to_owned(),
        "--clients=library".to_owned(),
        "--nclis=64".to_owned(),
        format!("--seconds={}", options.seconds),
        "--operations=1000000000".to_owned(),
        format!("--protocol={kind}"),
    ];
    let words = fixed.into_iter().map(OsString::from).chain(options.run_options.iter().cloned());
    Ok(Line::try_parse_from(words)?.options)
}

fn measure(
    options: &Options,
    programs: &Programs,
    interrupted: &Interrupted,
    group: (&str, u16),
    workload: &str,
) -> Result<Measured, Trouble> {
    let outcome = command::measure(&line(options, group, workload)?, programs, &|| interrupted.signal().is_some())?;
    if let Some(failure) = outcome.failure {
        return Err(failure.into());
    }
    if !outcome.passed {
        return Err(outcome.verification.join("; ").into());
    }
    let all = outcome.all();
    let operations = all.count.max(1) as f64;
    let cpu: Option<f64> = outcome.costs.iter().map(|cost| cost.cpu_seconds).sum();
    let writes: u64 =
        outcome.figures.iter().filter(|(kind, _)| WRITING.contains(&kind.as_str())).map(|(_, f)| f.count).sum();
    let servers = outcome.costs.iter().filter(|cost| cost.node.starts_with('s'));
    let written: Option<u64> = servers.map(|cost| cost.written_bytes).sum();
    Ok(Measured {
        rate: outcome.rate,
        mean_ms: all.mean_ms,
        p99_ms: all.p99_ms,
        cpu_us: cpu.map(|seconds| seconds * 1e6 / operations),
        written_bytes: written.filter(|_| writes > 0).map(|bytes| bytes as f64 / writes as f64),
    })
}

fn kill(
    options: &Options,
    programs: &Programs,
    interrupted: &Interrupted,
    group: (&str, u16),
    way: Way,
) -> Result<Vec<Duration>, Trouble> {
    if options.kills == 0 {
        return Ok(Vec::new());
    }
    let (mut store, directory) = command::start_own(&line(options, group, "a")?, programs)?;
    let go_on = || if interrupted.signal().is_some() { Err(INTERRUPTED.into()) } else { Ok(()) };
    let done = inject(store.cluster(), way, options.kills as usize, "protocols", &go_on);
    drop(store);
    match done {
        Ok(pauses) => {
            directory.close()?;
            Ok(pauses)
        }
        Err(error) => Err(format!("{error}\nlogs and data are kept in {}", directory.keep().display()).into()),
    }
}

fn in_ms(pauses: &[Duration]) -> String {
    let mut sorted = pauses.to_vec();
    sorted.sort_unstable();
    let Some(longest) = sorted.last() else { return "-".to_owned() };
    format!("{} ms, longest {} ms", percentile(&sorted, 0.5).as_millis(), longest.as_millis())
}

/// A number of a row, if it has it.
type Value<'a> = &'a dyn Fn(&Row) -> Option<f64>;

fn write(options: &Options, rows: &[Row]) -> Result<(), Trouble> {
    fs::create_dir_all(&options.out)?;
    let picture = |title: String, scale: &str, value: Value<'_>| {
        let of = |kind: &str, size: u16| rows.iter().find(|row| row.kind == kind && row.size == size).and_then(value);
        let series = options
            .kinds
            .iter()
            .map(|kind| (kind.clone(), options.sizes.iter().map(|&size| of(kind, size)).collect()))
            .collect();
        let groups = options.sizes.iter().map(|size| format!("{size} replicas")).collect();
        Bars { title, scale: scale.to_owned(), groups, series }
    };
    let mut pictures = Vec::new();
    for (place, workload) in options.workloads.iter().enumerate() {
        let at = |value: fn(&Measured) -> f64| move |row: &Row| row.measured.get(place).map(value);
        let title = format!("YCSB {}, 64 clients", workload.to_uppercase());
        pictures.push((
            format!("protocols-{workload}-rate"),
            picture(title.clone(), "operations per second", &at(|measured| measured.rate)),
        ));
        pictures
            .push((format!("protocols-{workload}-p99"), picture(title, "p99, ms", &at(|measured| measured.p99_ms))));
    }
    for (place, way) in WAYS.iter().enumerate() {
        let longest = |row: &Row| row.pauses.get(place)?.iter().max().map(|pause| pause.as_secs_f64() * 1e3);
        let title = format!("The first of the group: {}", way.name());
        pictures.push((format!("protocols-pause-{place}"), picture(title, "longest pause, ms", &longest)));
    }
    let mut page = page(options, rows);
    for (name, picture) in pictures.iter().filter(|(_, picture)| !picture.is_empty()) {
        for (form, file) in picture.files()? {
            fs::write(options.out.join(format!("{name}.{form}")), file)?;
        }
        if CAN_DRAW {
            page.push_str(&format!("\n![]({name}.svg)\n"));
        }
    }
    Ok(fs::write(options.out.join(PAGE), page)?)
}

fn page(options: &Options, rows: &[Row]) -> String {
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "release" };
    let mut page = format!(
        "# Four protocols\n\n`just protocols {} {}`: commit {}, {build} build, {} cores; all processes and clients are \
         on one machine. What each protocol does for a write stands in `docs/PROTOCOLS.md`. Pauses: median and longest \
         of one client's, when the first of its group is killed or hangs.\n\n",
        options.seconds,
        options.kills,
        commit(),
        cores()
    );
    page.push_str(
        "| replicas | protocol | workload | operations/s | mean, ms | p99, ms | processor, us/op | disk, B/write |\n",
    );
    page.push_str("|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        for (workload, measured) in options.workloads.iter().zip(&row.measured) {
            let Measured { rate, mean_ms, p99_ms, cpu_us, written_bytes } = measured;
            let written = written_bytes.map_or("-".to_owned(), number);
            page.push_str(&format!(
                "| {} | {} | {workload} | {} | {mean_ms:.2} | {p99_ms:.2} | {} | {written} |\n",
                row.size,
                row.kind,
                number(*rate),
                cpu_us.map_or("-".to_owned(), number)
            ));
        }
    }
    page.push_str("\n| replicas | protocol |");
    WAYS.iter().for_each(|way| page.push_str(&format!(" {} |", way.name())));
    page.push_str("\n|---|---|---|---|\n");
    for row in rows {
        page.push_str(&format!("| {} | {} |", row.size, row.kind));
        row.pauses.iter().for_each(|pauses| page.push_str(&format!(" {} |", in_ms(pauses))));
        page.push('\n');
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser)]
    struct Protocols {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Result<Options, clap::Error> {
        Protocols::try_parse_from([&["x"], words].concat()).map(|line| line.options)
    }

    #[test]
    fn line_of_each_group_is_one_that_the_benchmarker_takes() {
        let options = options(&["--seconds", "3", "--run_option=--records=7"]).unwrap();
        for kind in KINDS {
            for size in SIZES {
                let line = line(&options, (kind, size), "b").unwrap();
                assert_eq!((line.server_rf, line.records, line.seconds), (size, 7, Some(3.0)));
                assert_eq!(line.protocol.iter().map(ToString::to_string).collect::<Vec<_>>(), [kind]);
            }
        }
        assert!(super::tests::options(&["--kinds", "paxos"]).is_err());
    }

    #[test]
    fn page_has_a_line_for_each_group_and_workload_and_says_what_is_not_known() {
        let options = options(&["--workloads", "a"]).unwrap();
        let measured = Measured { rate: 1234.0, mean_ms: 1.5, p99_ms: 9.0, cpu_us: Some(70.0), written_bytes: None };
        let pauses = vec![[600, 700, 900].map(Duration::from_millis).to_vec(), Vec::new()];
        let row = Row { kind: "chain".to_owned(), size: 2, measured: vec![measured], pauses };
        let page = page(&options, &[row]);
        assert!(page.contains("| 2 | chain | a | 1234 | 1.50 | 9.00 | 70.0 | - |"), "{page}");
        assert!(page.contains("| 2 | chain | 700 ms, longest 900 ms | - |"), "{page}");
    }
}
