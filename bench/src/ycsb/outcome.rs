//! A run's numbers: as text for people and for the report, and as JSON.
//!
//! The text begins with lines `name: value` (the header), goes on with lines in YCSB's own format, `[READ], Operations,
//! 4711`, then lines for people, and ends with `PASSED` or `FAILED`. [`Outcome::parse`] reads the first two kinds and the
//! end back; what it does not know it skips.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::measure::Figures;

/// The figures of all operations together go under this name.
pub const ALL: &str = "OVERALL";

/// What a process of the cluster has cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Which node, `m.0` or `s0.1`.
    pub node: String,
    /// Its process.
    pub pid: u32,
    /// Processor time in the measured phase, in seconds.
    pub cpu_seconds: f64,
    /// The most memory that it ever had, in MiB.
    pub peak_mib: f64,
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
    /// How many operations were answered in each second.
    pub per_second: Vec<u64>,
    /// Records that scans asked for, and that they returned.
    pub scanned: (u64, u64),
    /// What each process cost, if the cluster is on this machine.
    pub costs: Vec<Cost>,
    /// What was checked afterwards, or what is wrong.
    pub verification: Vec<String>,
    /// Whether everything was as it must be.
    pub passed: bool,
}

/// The name of a figure in YCSB's format, and how to get it in milliseconds, and to set it.
type Line = (&'static str, fn(&mut Figures) -> &mut f64);

const LINES: [Line; 6] = [
    ("AverageLatency(us)", |figures| &mut figures.mean_ms),
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
        for Cost { node, pid, cpu_seconds, peak_mib } in &self.costs {
            writeln!(text, "{node} (process {pid}): {cpu_seconds:.2} s of processor time, at most {peak_mib:.1} MiB")?;
        }
        if !self.costs.is_empty() {
            let cpu: f64 = self.costs.iter().map(|cost| cost.cpu_seconds).sum();
            let operations = self.all().count.max(1) as f64;
            writeln!(text, "all processes: {:.3} s of processor time for 1,000 operations", cpu / operations * 1e3)?;
        }
        self.verification.iter().try_for_each(|line| writeln!(text, "check: {line}"))?;
        writeln!(text, "{}", if self.passed { "PASSED" } else { "FAILED" })
    }

    fn write_table(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "\n{:<18} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}   (ms)",
            "operation", "count", "mean", "p50", "p95", "p99", "p99.9", "max"
        )?;
        self.figures.iter().try_for_each(|(kind, figures)| {
            let Figures { count, mean_ms, p50_ms, p95_ms, p99_ms, p999_ms, max_ms } = figures;
            writeln!(
                text,
                "{kind:<18} {count:>10} {mean_ms:>9.3} {p50_ms:>9.3} {p95_ms:>9.3} {p99_ms:>9.3} {p999_ms:>9.3} {max_ms:>9.3}"
            )
        })
    }

    /// Reads a log back; `None` if it holds no whole run.
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
            } else if !line.is_empty() {
                end = Some(line);
            }
        }
        outcome.passed = end? == "PASSED";
        (outcome.rate > 0.0).then_some(outcome)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let figures =
            Figures { count: 500, mean_ms: 1.25, p50_ms: 1.0, p95_ms: 2.0, p99_ms: 3.5, p999_ms: 4.0, max_ms: 4.5 };
        Outcome {
            header: vec![("workload".into(), "e".into()), ("clients".into(), "10".into())],
            seconds: 2.5,
            rate: 400.0,
            figures: [(ALL.to_owned(), Figures { count: 1_000, ..figures }), ("SCAN".to_owned(), figures)].into(),
            per_second: vec![300, 500, 200],
            scanned: (5_000, 4_900),
            costs: vec![Cost { node: "s0.0".into(), pid: 7, cpu_seconds: 1.5, peak_mib: 30.0 }],
            verification: vec!["1,050 keys: as written".into()],
            passed: true,
        }
    }

    #[test]
    fn parse_written_log_gives_the_same_numbers() {
        let written = outcome();
        // What is for people only is not read back.
        let expected = Outcome { per_second: Vec::new(), costs: Vec::new(), ..written.clone() };
        assert_eq!(Outcome::parse(&written.text()), Some(expected));
    }

    #[test]
    fn parse_failed_run_says_so_and_torn_log_is_none() {
        let failed = Outcome { passed: false, ..outcome() };
        assert!(!Outcome::parse(&failed.text()).unwrap().passed);
        assert_eq!(Outcome::parse(""), None);
        assert_eq!(Outcome::parse("workload: a\nclients: 1\n"), None);
        let text = outcome().text();
        let torn = Outcome::parse(&text[..text.len() / 2]);
        assert!(torn.is_none_or(|torn| !torn.passed));
    }
}
