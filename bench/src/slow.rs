//! Pictures of slow replicas: what was measured normally against what was measured with an injected fault, from the
//! file that `madkv-scenario slow` writes.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use madkv_testkit::measure::Trouble;

use crate::report::plot::Bars;

/// The metrics of a signature from within (white box): what is judged.
const WITHIN: [&str; 5] = ["cpu", "sync", "apply", "network", "queue"];
/// Those of one from outside (black box): what the kernel says of the process.
const OUTSIDE: [&str; 4] = ["cpu_used", "memory", "disk_read", "disk_written"];

/// From what, and where to.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// What `madkv-scenario slow` has written
    #[arg(long, default_value = "report/slow.tsv", value_name = "FILE")]
    pub data: PathBuf,
    /// Where the pictures go
    #[arg(long, default_value = "report", value_name = "DIRECTORY")]
    pub out: PathBuf,
}

/// What one replica took for something, normally or with a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    fault: String,
    with_fault: bool,
    node: String,
    faulty: bool,
    metric: String,
    average: u64,
}

/// Draws the pictures.
///
/// # Errors
/// If the file is none of this kind, or they cannot be written.
pub fn run(options: &Options) -> Result<(), Trouble> {
    let text = fs::read_to_string(&options.data).map_err(|error| format!("{}: {error}", options.data.display()))?;
    let rows = parse(&text).map_err(|what| format!("{}: {what}", options.data.display()))?;
    fs::create_dir_all(&options.out)?;
    for (name, bars) in pictures(&rows) {
        for (form, picture) in bars.files()? {
            let path = options.out.join(format!("{name}.{form}"));
            fs::write(&path, picture)?;
            println!("{}", path.display());
        }
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<Row>, String> {
    let row = |(number, line): (usize, &str)| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [fault, when, node, faulty, metric, average, _unit] = fields[..] else {
            return Err(format!("line {}: {} columns instead of 7", number + 1, fields.len()));
        };
        let average = average.parse().map_err(|_| format!("line {}: {average:?} is no number", number + 1))?;
        let (fault, node, metric) = (fault.to_owned(), node.to_owned(), metric.to_owned());
        Ok(Row { fault, with_fault: when == "fault", node, faulty: faulty == "true", metric, average })
    };
    text.lines().enumerate().skip(1).map(row).collect()
}

/// Three for each fault: the signatures of the faulty replica and of the others, from within and from outside, in
/// multiples of what is normal for each; and the metric of the fault for each replica in milliseconds.
fn pictures(rows: &[Row]) -> Vec<(String, Bars)> {
    let faults: BTreeSet<&str> = rows.iter().map(|row| row.fault.as_str()).collect();
    let mut pictures = Vec::new();
    for fault in faults {
        let of = |node: &str, metric: &str, with_fault: bool| {
            let row = rows.iter().find(|row| {
                (row.fault.as_str(), row.node.as_str(), row.metric.as_str()) == (fault, node, metric)
                    && row.with_fault == with_fault
            });
            row.map(|row| row.average as f64)
        };
        let Some(faulty) = rows.iter().find(|row| row.fault == fault && row.faulty).map(|row| row.node.as_str()) else {
            continue;
        };
        let nodes: BTreeSet<&str> = rows.iter().filter(|row| row.fault == fault).map(|row| row.node.as_str()).collect();
        let times_normal = |node: &str, metric: &str| {
            let (normal, present) = (of(node, metric, false)?, of(node, metric, true)?);
            Some(present / normal.max(1.0))
        };
        let signature = |node: &str, metrics: &[&str]| {
            let name = if node == faulty { format!("{node}, the faulty one") } else { node.to_owned() };
            (name, metrics.iter().map(|metric| times_normal(node, metric)).collect())
        };
        let title = match fault {
            "disk" => "A slow disk",
            "network" => "Slow ways to both others",
            "cpu" => "A process that gets a tenth of a processor",
            other => other,
        };
        for (name, metrics, what) in [
            ("white-box", &WITHIN[..], "what each part takes"),
            ("black-box", &OUTSIDE[..], "what the kernel says of the process"),
        ] {
            let bars = Bars {
                title: format!("{title}: {what}"),
                scale: "times its normal".to_owned(),
                groups: metrics.iter().map(|metric| (*metric).to_owned()).collect(),
                series: nodes.iter().map(|node| signature(node, metrics)).collect(),
            };
            pictures.push((format!("slow-{fault}-{name}"), bars));
        }
        let metric = if fault == "disk" { "sync" } else { fault };
        let series = [("normally", false), ("with the fault", true)].map(|(name, with_fault)| {
            let values = nodes.iter().map(|node| Some(of(node, metric, with_fault)? / 1_000.0)).collect();
            (name.to_owned(), values)
        });
        let bars = Bars {
            title: format!("{title} of {faulty}: {metric}"),
            scale: "ms".to_owned(),
            groups: nodes.iter().map(|node| (*node).to_owned()).collect(),
            series: series.to_vec(),
        };
        pictures.push((format!("slow-{fault}"), bars));
    }
    pictures
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "fault\twhen\tnode\tfaulty\tmetric\taverage\tunit\n\
        disk\tnormal\ts0.0\tfalse\tsync\t2000\tus\ndisk\tnormal\ts0.1\tfalse\tsync\t2000\tus\n\
        disk\tfault\ts0.0\tfalse\tsync\t2200\tus\ndisk\tfault\ts0.1\ttrue\tsync\t90000\tus\n";

    #[test]
    fn pictures_show_the_signature_and_the_metric_of_each_fault() {
        let pictures = pictures(&parse(TEXT).unwrap());
        let names: Vec<&str> = pictures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["slow-disk-white-box", "slow-disk-black-box", "slow-disk"]);
        let signature = &pictures[0].1;
        let (name, values) = &signature.series[1];
        assert_eq!((name.as_str(), values[1], values[0]), ("s0.1, the faulty one", Some(45.0), None));
        let bars = &pictures[2].1;
        assert_eq!(bars.series[1].1, [Some(2.2), Some(90.0)]);
        assert!(!bars.is_empty() && bars.title.contains("s0.1"));
    }

    #[test]
    fn file_of_another_kind_is_refused_with_the_line() {
        assert_eq!(parse("x\na\tb\n").unwrap_err(), "line 2: 2 columns instead of 7");
        let words = "x\nd\tfault\tn\ttrue\tsync\tmany\tus\n";
        assert_eq!(parse(words).unwrap_err(), "line 2: \"many\" is no number");
    }
}
