//! The report's page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::report::comments::Comments;
use crate::report::plot::{Bars, CAN_DRAW, number};
use crate::report::runs::{ALL_CLIENTS, ALL_FACTORS, Bench, Logs, Run, SCALED_CLIENTS, SCALED_FACTORS};
use crate::ycsb::Workload;
use crate::ycsb::outcome::Outcome;
use madkv_testkit::measure::spread;

/// Lines of a log's header that say on what was measured.
const CIRCUMSTANCES: [&str; 10] = [
    "commit",
    "machine",
    "sync mode",
    "log engine",
    "reads",
    "partitions",
    "client kind",
    "records",
    "operations",
    "loop",
];

/// The line of the header that says what else the machine did.
const LOAD_AVERAGE: &str = "load average at the start";

/// A page and its pictures.
pub(super) struct Page {
    pub(super) text: String,
    /// Their files' names, without the end that says in which form.
    pub(super) pictures: Vec<(String, Bars)>,
}

/// A figure of a run, its title and its unit.
type Figure = (&'static str, &'static str, &'static str, fn(&Outcome) -> f64);

const FIGURES: [Figure; 3] = [
    ("throughput", "Throughput", "operations per second", |outcome| outcome.rate),
    ("mean", "Mean latency", "ms", |outcome| outcome.all().mean_ms),
    ("p99", "99th percentile of latency", "ms", |outcome| outcome.all().p99_ms),
];

/// A heading, what there is to say or to show under it, and the name of its place for comments.
type Section = (&'static str, &'static str, &'static str);

const DESIGN: [Section; 3] = [
    (
        "Code structure and abstractions",
        "`docs/ARCHITECTURE.md` is the map: the consensus core (`smr/src/raft`), the replica around it \
         (`smr/src/replica`), logs and snapshots \
         (`smr/src/storage`, `smr/src/snapshot`), and the state machines on it (`madkv-server`, `madkv-manager`).",
        "code structure",
    ),
    ("What was easy, hard and interesting in the replication protocol", "", "replication protocol"),
    (
        "How node failures are mitigated",
        "What can happen, and what must: `docs/fault-catalogue.md`; which test covers it: `docs/TESTING.md`.",
        "node failures",
    ),
];

const TESTCASES: [Section; 4] = [
    (
        "Followers of two partitions fail",
        "Start a cluster of two partitions or more (`just local`), PUT keys of both; `status` says who leads. End \
         one follower of each with `kill -9` and \
         go on with the same keys. Automatic: `follower_killed_under_load_writes_go_on_and_it_catches_up` in \
         `chaos/tests/e2e/kills.rs`.",
        "followers fail",
    ),
    (
        "A leader fails, and another is elected",
        "The same with a leader; `just failover` measures the pause. Automatic: \
         `leader_killed_under_load_another_takes_over_and_nothing_is_lost`.",
        "leader fails",
    ),
    (
        "More replicas fail than may",
        "The same with two of three replicas of a partition: its requests wait, and are answered once one is back. \
         Automatic: \
         `more_than_f_killed_nothing_is_answered_until_one_is_back`.",
        "too many fail",
    ),
    (
        "A manager replica fails",
        "The same with a manager: new clients come in and are served. Automatic: \
         `managers_killed_one_by_one_clients_old_and_new_are_served` in `chaos/tests/e2e/managers.rs`.",
        "manager fails",
    ),
];

const BONUS: [Section; 4] = [
    (
        "Recovery and re-joining of failed replicas",
        "A replica that comes back catches up from the log or by a snapshot, and one whose directory is lost is \
         readmitted: `just rolling`.",
        "re-joining",
    ),
    (
        "Replicated manager",
        "The manager is a group on the same library, of `--manager_rf` replicas.",
        "replicated manager",
    ),
    (
        "Further features",
        "Snapshots, leases for reads, transfer of leadership, readmission: `docs/USAGE.md`.",
        "further features",
    ),
    (
        "Further tests and measurements",
        "Simulator, explorer, mutants, power cuts, failing disks: `docs/TESTING.md`; figures: `docs/PERFORMANCE.md`.",
        "further tests",
    ),
];

const COMMENT_FUZZ: &str = "fuzz testing";
const COMMENT_WORKLOADS: &str = "workloads";
const COMMENT_CLIENTS: &str = "number of clients";
const COMMENT_AUTHORS: &str = "authors";

pub(super) fn page(logs: &Logs, comments: &Comments) -> Page {
    let mut page = Page { text: String::new(), pictures: Vec::new() };
    // Writing to a string cannot fail.
    let _ = page.write(logs, comments);
    page
}

impl Page {
    fn write(&mut self, logs: &Logs, comments: &Comments) -> std::fmt::Result {
        writeln!(self.text, "# MadKV: report\n")?;
        writeln!(
            self.text,
            "From the logs that `just p3::bench` and `just p3::fuzz` keep; written by `just p3::report`, which takes \
             over what is written between \
             the markers for comments.\n"
        )?;
        writeln!(self.text, "{}", comments.place(COMMENT_AUTHORS))?;
        self.write_missing(logs)?;
        self.write_sections("Design walkthrough", &DESIGN, comments)?;
        self.write_sections("Own testcases", &TESTCASES, comments)?;
        self.write_fuzz(logs)?;
        writeln!(self.text, "{}", comments.place(COMMENT_FUZZ))?;

        writeln!(self.text, "## YCSB benchmarking\n")?;
        self.write_circumstances(logs)?;
        writeln!(self.text, "### YCSB A to F, {ALL_CLIENTS} clients\n")?;
        for figure in &FIGURES {
            let groups = Workload::ALL.map(|workload| workload.to_string().to_uppercase()).into();
            let series = ALL_FACTORS.map(|server_rf| {
                let benches = Workload::ALL.map(|workload| Bench { clients: ALL_CLIENTS, workload, server_rf });
                (format!("RF {server_rf}"), values(logs, &benches, figure))
            });
            self.draw("workloads", &format!("{ALL_CLIENTS} clients"), figure, groups, series.into())?;
        }
        writeln!(self.text, "{}", comments.place(COMMENT_WORKLOADS))?;
        writeln!(self.text, "### YCSB A, by number of clients\n")?;
        for figure in &FIGURES {
            let groups = SCALED_CLIENTS.map(|clients| format!("{clients} clients")).into();
            let series = SCALED_FACTORS.map(|server_rf| {
                let benches = SCALED_CLIENTS.map(|clients| Bench { clients, workload: Workload::A, server_rf });
                (format!("RF {server_rf}"), values(logs, &benches, figure))
            });
            self.draw("clients", "workload A", figure, groups, series.into())?;
        }
        writeln!(self.text, "{}", comments.place(COMMENT_CLIENTS))?;
        self.write_table(logs)?;
        writeln!(self.text)?;
        self.write_sections("Bonus", &BONUS, comments)?;

        // Of a report of another version: no one's words are thrown away.
        let mut names = vec![COMMENT_AUTHORS, COMMENT_FUZZ, COMMENT_WORKLOADS, COMMENT_CLIENTS];
        names.extend(DESIGN.iter().chain(&TESTCASES).chain(&BONUS).map(|(_, _, name)| *name));
        comments
            .beyond(&names)
            .try_for_each(|name| writeln!(self.text, "## Comment: {name}\n\n{}", comments.place(name)))
    }

    fn write_sections(&mut self, title: &str, sections: &[Section], comments: &Comments) -> std::fmt::Result {
        writeln!(self.text, "## {title}\n")?;
        for (heading, said, name) in sections {
            writeln!(self.text, "### {heading}\n")?;
            if !said.is_empty() {
                writeln!(self.text, "{said}\n")?;
            }
            writeln!(self.text, "{}", comments.place(name))?;
        }
        Ok(())
    }

    fn draw(
        &mut self,
        kind: &str,
        what: &str,
        figure: &Figure,
        groups: Vec<String>,
        series: Vec<(String, Vec<Option<f64>>)>,
    ) -> std::fmt::Result {
        let (name, title, unit, _) = figure;
        let bars = Bars { title: format!("{title}, {what}"), scale: (*unit).to_owned(), groups, series };
        if bars.is_empty() {
            return writeln!(self.text, "{}: no run yet.\n", bars.title);
        }
        if !CAN_DRAW {
            return writeln!(self.text, "{}: not drawn, this was built without the feature `plots`.\n", bars.title);
        }
        let file = format!("{kind}-{name}");
        writeln!(self.text, "![{}]({file}.svg)\n", bars.title)?;
        self.pictures.push((file, bars));
        Ok(())
    }

    fn write_missing(&mut self, logs: &Logs) -> std::fmt::Result {
        if !logs.unfit.is_empty() {
            writeln!(self.text, "## Runs that do not count\n")?;
            for (bench, why) in &logs.unfit {
                writeln!(self.text, "- `{}`: {}", Run::Bench(*bench).command(), why.replace(['`', '<', '>'], "'"))?;
            }
            writeln!(self.text)?;
        }
        let missing = logs.missing();
        if missing.is_empty() {
            return Ok(());
        }
        writeln!(self.text, "## Missing runs\n")?;
        writeln!(
            self.text,
            "`just bench-matrix` makes all of them on clusters of its own. By hand, against a running service with \
             that \
             replication factor (with `yes`, crash two servers meanwhile):\n\n```"
        )?;
        missing.iter().try_for_each(|run| writeln!(self.text, "{}", run.command()))?;
        writeln!(self.text, "```\n")
    }

    /// What all runs share is said once, and where they differ, how many.
    fn write_circumstances(&mut self, logs: &Logs) -> std::fmt::Result {
        if logs.bench.is_empty() {
            return Ok(());
        }
        writeln!(
            self.text,
            "### On what\n\nMany replicas and their clients share the cores: this compares workloads and shapes, it \
             is no limit of the software.\n"
        )?;
        for name in CIRCUMSTANCES {
            let mut found: BTreeMap<&str, u32> = BTreeMap::new();
            for outcome in logs.bench.values() {
                *found.entry(outcome.header(name).unwrap_or("not said")).or_default() += 1;
            }
            let several = found.len() > 1;
            let found = found
                .iter()
                .map(|(value, runs)| if several { format!("{value} ({runs} runs)") } else { (*value).to_owned() });
            writeln!(self.text, "- {name}: {}", found.collect::<Vec<_>>().join("; "))?;
        }
        let loads = logs.bench.values().filter_map(|outcome| outcome.header(LOAD_AVERAGE)?.parse().ok());
        let (least, most) = spread(&loads.collect::<Vec<f64>>());
        if least.is_finite() {
            writeln!(self.text, "- {LOAD_AVERAGE} of a run: {least:.1} to {most:.1}; it counts the run before too")?;
        }
        writeln!(self.text)
    }

    fn write_fuzz(&mut self, logs: &Logs) -> std::fmt::Result {
        writeln!(self.text, "## Fuzz testing\n")?;
        if logs.fuzz.is_empty() {
            return writeln!(self.text, "No run yet.\n");
        }
        writeln!(self.text, "| replicas | servers crashed meanwhile | outcome | |\n|---|---|---|---|")?;
        for (fuzz, fuzzed) in &logs.fuzz {
            let outcome = if fuzzed.passed { "passed" } else { "**FAILED**" };
            let crashing = if fuzz.crashing { "yes" } else { "no" };
            writeln!(self.text, "| {} | {crashing} | {outcome} | {} |", fuzz.server_rf, fuzzed.lines.join("<br>"))?;
        }
        writeln!(self.text)
    }

    fn write_table(&mut self, logs: &Logs) -> std::fmt::Result {
        writeln!(self.text, "### All runs\n")?;
        writeln!(
            self.text,
            "| clients | workload | RF | operations | per second | mean ms | p50 ms | p99 ms | data afterwards \
             |\n|---|---|---|---|---|---|---|---|---|"
        )?;
        for (bench, outcome) in &logs.bench {
            let all = outcome.all();
            let Bench { clients, workload, server_rf } = bench;
            writeln!(
                self.text,
                "| {clients} | {workload} | {server_rf} | {} | {} | {} | {} | {} | {} |",
                all.count,
                number(outcome.rate),
                number(all.mean_ms),
                number(all.p50_ms),
                number(all.p99_ms),
                if outcome.passed { "as written" } else { "**WRONG**" }
            )?;
        }
        Ok(())
    }
}

/// The figure of each of these runs, where there is one. A run whose data was wrong has no figures.
fn values(logs: &Logs, benches: &[Bench], figure: &Figure) -> Vec<Option<f64>> {
    let (_, _, _, value) = figure;
    benches.iter().map(|bench| logs.bench.get(bench).filter(|outcome| outcome.passed).map(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::runs::Fuzz;
    use crate::ycsb::outcome::ALL;
    use madkv_testkit::measure::Figures;
    use std::fs;

    fn outcome(rate: f64, passed: bool) -> Outcome {
        let figures = Figures { count: 10, mean_ms: 1.0, p50_ms: 0.5, p99_ms: 7.5, ..Figures::default() };
        Outcome {
            header: vec![("commit".into(), "abc".into()), ("load average at the start".into(), rate_load(rate))],
            rate,
            figures: [(ALL.to_owned(), figures)].into(),
            passed,
            ..Outcome::default()
        }
    }

    fn rate_load(rate: f64) -> String {
        (rate / 100.0).to_string()
    }

    #[test]
    fn page_from_sample_logs_shows_them_and_lists_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path();
        let (good, bad) = (
            Bench { clients: 10, workload: Workload::A, server_rf: 1 },
            Bench { clients: 10, workload: Workload::B, server_rf: 5 },
        );
        fs::create_dir_all(logs.join("bench")).unwrap();
        fs::create_dir_all(logs.join("fuzz")).unwrap();
        fs::write(Run::Bench(good).log(logs), outcome(1_234.0, true).text()).unwrap();
        fs::write(Run::Bench(bad).log(logs), outcome(77.0, false).text()).unwrap();
        fs::write(logs.join("bench/bench-10-c-1.log"), "torn").unwrap();
        let dead = Outcome { failure: Some("load phase: no answer".into()), ..outcome(0.0, false) };
        let dead_run = Run::Bench(Bench { clients: 20, ..good });
        fs::write(dead_run.log(logs), dead.text()).unwrap();
        let mut other = outcome(99.0, true);
        other.header.push(("replication factor".into(), "3 (5 was said)".into()));
        fs::write(Run::Bench(Bench { server_rf: 5, ..good }).log(logs), other.text()).unwrap();
        let crashed = Run::Fuzz(Fuzz { server_rf: 5, crashing: true });
        fs::write(crashed.log(logs), "9 operations in 1.0 s\nPASSED\n").unwrap();

        let logs = Logs::read(logs);
        assert_eq!((logs.bench.len(), logs.fuzz.len(), logs.missing().len()), (2, 1, 23));
        let page = page(&logs, &Comments::default());
        for part in [
            "just p3::bench 10 c 1\n",
            "just p3::bench 20 a 1\n",
            "- `just p3::bench 20 a 1`: load phase: no answer\n",
            "- `just p3::bench 10 a 5`: the service had 3 replicas of each partition\n",
            "just p3::fuzz 5 no\n",
            "- commit: abc\n",
            "of a run: 0.8 to 12.3;",
            "**WRONG**",
            "| 5 | yes | passed |",
        ] {
            assert!(page.text.contains(part), "{part} in {}", page.text);
        }
        assert!(!page.text.contains("just p3::bench 10 a 1\n") && !page.text.contains("p3::fuzz 5 yes"));
        if CAN_DRAW {
            assert!(page.text.contains("(workloads-p99.svg)"), "{}", page.text);
            assert_eq!(page.pictures.len(), 6);
            let (_, throughput) = &page.pictures[0];
            // Numbers of a run whose data was wrong are not drawn.
            let drawn = throughput.series.iter().flat_map(|(_, values)| values).flatten().copied();
            assert_eq!(drawn.collect::<Vec<f64>>(), [1_234.0]);
        }
    }

    #[test]
    fn page_without_logs_lists_all_runs_as_missing() {
        let page = page(&Logs::default(), &Comments::default());
        assert!(page.pictures.is_empty());
        assert_eq!(page.text.matches("just p3::bench ").count(), 24);
    }

    #[test]
    fn page_has_the_sections_that_the_course_asks_for_each_with_a_place_that_keeps_its_comment() {
        let fresh = page(&Logs::default(), &Comments::default()).text;
        let headings: Vec<&str> = fresh.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let asked = ["Design walkthrough", "Own testcases", "Fuzz testing", "YCSB benchmarking", "Bonus"];
        assert_eq!(headings, [&["Missing runs"], &asked[..]].concat());
        let places = DESIGN.len() + TESTCASES.len() + BONUS.len() + 4;
        assert_eq!(fresh.matches("*Your comment here.*").count(), places);
        // Words for each place, and for one that this version does not have.
        let mut number = 0;
        let mut filled = fresh.clone();
        while filled.contains("*Your comment here.*") {
            number += 1;
            filled = filled.replacen("*Your comment here.*", &format!("Words {number}."), 1);
        }
        filled = filled.replacen("comment: re-joining", "comment: gone", 1);
        let again = page(&Logs::default(), &Comments::read(&filled)).text;
        assert!((1..=places).all(|number| again.contains(&format!("\nWords {number}.\n"))), "{again}");
        assert!(again.contains("## Comment: gone\n"), "{again}");
    }
}
