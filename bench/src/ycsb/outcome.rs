//! A run's numbers: as text for people and for the report, and as JSON.
//!
//! The text begins with lines `name: value` (the header), goes on with lines in YCSB's own format, `[READ], Operations,
//! 4711`, then lines for people, then the same once more in the words that a course's scripts look for (`Benchmarking
//! results:`), and ends
//! with `PASSED` or `FAILED`. [`Outcome::parse`] reads the first two kinds and the end back; what it does not know it
//! skips.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use madkv_testkit::measure::Figures;

/// The figures of all operations together go under this name.
pub const ALL: &str = "OVERALL";

/// How the line begins that says why a run could not be carried out.
const FAILURE: &str = "failure: ";

/// What a process of the cluster has cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Which node, `m.0` or `s0.1`.
    pub node: String,
    /// Its process.
    pub pid: u32,
    /// Processor time in the measured phase, in seconds; `None` if it did not live through all of it.
    pub cpu_seconds: Option<f64>,
    /// The most memory that it ever had, in MiB; `None` if it is gone.
    pub peak_mib: Option<f64>,
    /// What it had written to a device in the measured phase, in bytes; `None` if it did not live through all of it.
    pub written_bytes: Option<u64>,
}

/// All numbers of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// On what and how it ran, in order.
    pub header: Vec<(String, String)>,
    /// Length of the measured phase, in seconds.
    pub seconds: f64,
    /// Operations answered per second.
    pub rate: f64,
    /// Latencies by kind of operation, and of all under [`ALL`].
    pub figures: BTreeMap<String, Figures>,
    /// Of the load phase: records written per second, and their latencies.
    pub load: Option<(f64, Figures)>,
    /// How many operations were answered in each second.
    pub per_second: Vec<u64>,
    /// Records that scans asked for, and that they returned.
    pub scanned: (u64, u64),
    /// In an open loop: operations that were due before the end, and that were not begun because those before them took
    /// too long.
    pub never_begun: u64,
    /// What each process cost, if the cluster is on this machine.
    pub costs: Vec<Cost>,
    /// Why the run could not be carried out; then it has no numbers.
    pub failure: Option<String>,
    /// What was checked afterwards, or what is wrong.
    pub verification: Vec<String>,
    /// Whether everything was as it must be.
    pub passed: bool,
}

/// The name of a figure in YCSB's format, and how to get it in milliseconds, and to set it.
type Line = (&'static str, fn(&mut Figures) -> &mut f64);

const LINES: [Line; 7] = [
    ("AverageLatency(us)", |figures| &mut figures.mean_ms),
    ("MinLatency(us)", |figures| &mut figures.min_ms),
    ("50thPercentileLatency(us)", |figures| &mut figures.p50_ms),
    ("95thPercentileLatency(us)", |figures| &mut figures.p95_ms),
    ("99thPercentileLatency(us)", |figures| &mut figures.p99_ms),
    ("99.9thPercentileLatency(us)", |figures| &mut figures.p999_ms),
    ("MaxLatency(us)", |figures| &mut figures.max_ms),
];

impl Outcome {
    /// A line of the header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header.iter().find_map(|(found, value)| (found == name).then_some(value.as_str()))
    }

    /// The figures of all operations.
    pub fn all(&self) -> Figures {
        self.figures.get(ALL).copied().unwrap_or_default()
    }

    /// The whole text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        self.header.iter().try_for_each(|(name, value)| writeln!(text, "{name}: {value}"))?;
        if let Some(failure) = &self.failure {
            return writeln!(text, "\n{FAILURE}{}\nFAILED", failure.replace('\n', " "));
        }
        writeln!(text, "\n[{ALL}], RunTime(ms), {:.0}", self.seconds * 1e3)?;
        writeln!(text, "[{ALL}], Throughput(ops/sec), {:.1}", self.rate)?;
        for (kind, figures) in &self.figures {
            writeln!(text, "[{kind}], Operations, {}", figures.count)?;
            let mut figures = *figures;
            LINES
                .iter()
                .try_for_each(|(name, field)| writeln!(text, "[{kind}], {name}, {:.1}", *field(&mut figures) * 1e3))?;
        }
        if self.scanned.0 > 0 {
            writeln!(text, "[SCAN], RecordsAskedFor, {}\n[SCAN], RecordsReturned, {}", self.scanned.0, self.scanned.1)?;
        }
        self.write_table(text)?;
        let rates: Vec<String> = self.per_second.iter().map(u64::to_string).collect();
        writeln!(text, "\noperations answered in each second: {}", rates.join(" "))?;
        if self.never_begun > 0 {
            writeln!(
                text,
                "{} operations were due and never begun: this rate is too high for these clients, and latencies \
                 would go on growing",
                self.never_begun
            )?;
        }
        for Cost { node, pid, cpu_seconds, peak_mib, .. } in &self.costs {
            match (cpu_seconds, peak_mib) {
                (Some(cpu), Some(peak)) => {
                    writeln!(text, "{node} (process {pid}): {cpu:.2} s of processor time, at most {peak:.1} MiB")?;
                }
                _ => writeln!(text, "{node} (process {pid}): ended meanwhile, what it cost is not known")?,
            }
        }
        // The sum of all, or none.
        let cpu: Option<f64> = self.costs.iter().map(|cost| cost.cpu_seconds).sum();
        if let Some(cpu) = cpu.filter(|_| !self.costs.is_empty()) {
            let operations = self.all().count.max(1) as f64;
            writeln!(text, "all processes: {:.3} s of processor time for 1,000 operations", cpu / operations * 1e3)?;
        }
        self.verification.iter().try_for_each(|line| writeln!(text, "check: {line}"))?;
        self.write_for_course(text)?;
        writeln!(text, "{}", if self.passed { "PASSED" } else { "FAILED" })
    }

    /// After everything else: such a script takes each later line with "Throughput" in it, or with " us" at its end,
    /// for one of these.
    fn write_for_course(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\nBenchmarking results:")?;
        if let Some((rate, figures)) = &self.load {
            writeln!(text, "  [Load]\n    Throughput:  {rate:.2} ops/sec")?;
            writeln!(text, "{}", course_line("INSERT", figures))?;
        }
        writeln!(text, "  [Run]\n    Throughput:  {:.2} ops/sec", self.rate)?;
        let kinds = self.figures.iter().filter(|(kind, _)| *kind != ALL);
        kinds.into_iter().try_for_each(|(kind, figures)| writeln!(text, "{}", course_line(kind, figures)))
    }

    fn write_table(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "\n{:<18} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}   (ms)",
            "operation", "count", "mean", "p50", "p95", "p99", "p99.9", "max"
        )?;
        self.figures.iter().try_for_each(|(kind, figures)| {
            let Figures { count, mean_ms, p50_ms, p95_ms, p99_ms, p999_ms, max_ms, .. } = figures;
            writeln!(
                text,
                "{kind:<18} {count:>10} {mean_ms:>9.3} {p50_ms:>9.3} {p95_ms:>9.3} {p99_ms:>9.3} {p999_ms:>9.3} \
                 {max_ms:>9.3}"
            )
        })
    }

    /// Reads a log back; `None` if it holds no whole run, nor why there is none.
    pub fn parse(text: &str) -> Option<Outcome> {
        let mut outcome = Outcome::default();
        let mut lines = text.lines();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ")?;
            outcome.header.push((name.to_owned(), value.to_owned()));
        }
        let mut end = None;
        for line in lines {
            if let [kind, name, value] = line.split(", ").collect::<Vec<_>>()[..]
                && let Some(kind) = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']'))
            {
                outcome.take(kind, name, value.parse().ok()?);
            } else if let Some(said) = line.strip_prefix("check: ") {
                outcome.verification.push(said.to_owned());
            } else if let Some(failure) = line.strip_prefix(FAILURE) {
                outcome.failure = Some(failure.to_owned());
            } else if !line.is_empty() {
                end = Some(line);
            }
        }
        let end = end?;
        outcome.passed = end == "PASSED";
        let is_whole = matches!(end, "PASSED" | "FAILED");
        (outcome.failure.is_some() || is_whole && outcome.rate > 0.0).then_some(outcome)
    }

    fn take(&mut self, kind: &str, name: &str, value: f64) {
        match name {
            "RunTime(ms)" => self.seconds = value / 1e3,
            "Throughput(ops/sec)" => self.rate = value,
            "RecordsAskedFor" => self.scanned.0 = value as u64,
            "RecordsReturned" => self.scanned.1 = value as u64,
            "Operations" => self.figures.entry(kind.to_owned()).or_default().count = value as u64,
            _ => {
                if let Some((_, field)) = LINES.iter().find(|(known, _)| *known == name) {
                    *field(self.figures.entry(kind.to_owned()).or_default()) = value / 1e3;
                }
            }
        }
    }
}

/// One kind of operation: twelve words, of which the first, and those before each number, are what such a script goes
/// by.
fn course_line(kind: &str, figures: &Figures) -> String {
    let Figures { count, mean_ms, min_ms, max_ms, p99_ms, .. } = figures;
    let [avg, min, max, p99] = [mean_ms, min_ms, max_ms, p99_ms].map(|ms| ms * 1e3);
    format!("    {kind}  ops {count}  avg {avg:.2}  min {min:.0}  max {max:.0}  p99 {p99:.0}  us")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let figures = Figures {
            count: 500,
            mean_ms: 1.25,
            min_ms: 0.5,
            p50_ms: 1.0,
            p95_ms: 2.0,
            p99_ms: 3.5,
            p999_ms: 4.0,
            max_ms: 4.5,
        };
        Outcome {
            header: vec![("workload".into(), "e".into()), ("clients".into(), "10".into())],
            seconds: 2.5,
            rate: 400.0,
            figures: [(ALL.to_owned(), Figures { count: 1_000, ..figures }), ("SCAN".to_owned(), figures)].into(),
            load: Some((250.0, Figures { count: 900, ..figures })),
            per_second: vec![300, 500, 200],
            scanned: (5_000, 4_900),
            costs: vec![Cost {
                node: "s0.0".into(),
                pid: 7,
                cpu_seconds: Some(1.5),
                peak_mib: Some(30.0),
                written_bytes: None,
            }],
            verification: vec!["1,050 keys: as written".into()],
            passed: true,
            ..Outcome::default()
        }
    }

    #[test]
    fn parse_written_log_gives_the_same_numbers() {
        let written = outcome();
        // What is for people only is not read back.
        let expected = Outcome { load: None, per_second: Vec::new(), costs: Vec::new(), ..written.clone() };
        assert_eq!(Outcome::parse(&written.text()), Some(expected));
    }

    #[test]
    fn text_ends_with_the_results_in_the_words_of_the_course() {
        let text = outcome().text();
        let (_, results) = text.split_once("\nBenchmarking results:\n").unwrap();
        assert_eq!(
            results,
            "  [Load]\n    Throughput:  250.00 ops/sec\n    INSERT  ops 900  avg 1250.00  min 500  max 4500  p99 \
             3500  us\n\
             \u{20} [Run]\n    Throughput:  400.00 ops/sec\n    SCAN  ops 500  avg 1250.00  min 500  max 4500  p99 \
             3500  us\nPASSED\n"
        );
        // As such a script takes them apart.
        let line = results.lines().rfind(|line| line.ends_with(" us")).unwrap();
        let words: Vec<&str> = line.split_whitespace().rev().collect();
        assert_eq!([words[11], words[9], words[7], words[1]], ["SCAN", "500", "1250.00", "3500"]);
        assert!(!Outcome { failure: Some("no answer".into()), ..outcome() }.text().contains("Benchmarking results"));
    }

    #[test]
    fn parse_failed_run_says_so_and_torn_log_is_none() {
        let failed = Outcome { passed: false, ..outcome() };
        assert!(!Outcome::parse(&failed.text()).unwrap().passed);
        assert_eq!(Outcome::parse(""), None);
        assert_eq!(Outcome::parse("workload: a\nclients: 1\n"), None);
        let text = outcome().text();
        // Wherever it is torn: not a run that passed, nor one whose data was wrong.
        assert!((0..text.len() - 1).all(|end| Outcome::parse(&text[..end]).is_none()));
    }

    #[test]
    fn text_of_a_process_that_ended_meanwhile_claims_no_cost() {
        let gone = Cost { node: "s0.1".into(), pid: 8, cpu_seconds: None, peak_mib: None, written_bytes: None };
        let mut outcome = outcome();
        assert!(outcome.text().contains("all processes: 1.500 s of"), "{}", outcome.text());
        outcome.costs.push(gone);
        let text = outcome.text();
        assert!(text.contains("s0.1 (process 8): ended meanwhile") && !text.contains("all processes"), "{text}");
    }

    #[test]
    fn parse_log_of_a_run_that_was_not_carried_out_says_why() {
        let failure = Some("load phase: client 3: hangs\nand more".to_owned());
        let failed = Outcome { header: outcome().header, failure, ..Outcome::default() };
        let read = Outcome::parse(&failed.text()).unwrap();
        assert_eq!(read.failure.as_deref(), Some("load phase: client 3: hangs and more"));
        assert!(!read.passed);
    }
}
