//! A comparison as text.

use std::fmt::Write as _;

use crate::peers::comparison::{Comparison, Side};
use crate::peers::measure::{Found, Measure};
use madkv_testkit::measure::{median, spread};

/// A number of a measurement.
type Figure = (&'static str, fn(&Found) -> f64);

/// What is compared as a ratio.
const FIGURES: [Figure; 4] = [
    ("ops/s", |found| found.rate),
    ("p50", |found| found.latencies.p50_ms),
    ("p99", |found| found.latencies.p99_ms),
    ("CPU/op", |found| found.cpu_seconds_per_1000),
];

/// One measurement.
pub(super) fn line(store: &str, measure: Measure, found: &Found) -> String {
    format!(
        "{store} {}: {:.0} ops/s, p50 {:.3} ms, p99 {:.3} ms, {:.4} CPU s per 1,000",
        measure.name(),
        found.rate,
        found.latencies.p50_ms,
        found.latencies.p99_ms,
        found.cpu_seconds_per_1000
    )
}

/// All numbers, and the ratios between ours and the others.
pub(super) fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = absolute(comparison, &mut text).and_then(|()| ratios(comparison, &mut text));
    text
}

fn of(side: &Side, place: usize, figure: fn(&Found) -> f64) -> Vec<f64> {
    side.found[place].iter().map(figure).collect()
}

fn absolute(comparison: &Comparison, text: &mut String) -> std::fmt::Result {
    writeln!(text, "\nmedians of the rounds; [smallest, greatest] of ops/s")?;
    let width = comparison.stores.iter().map(|side| side.name.len()).max().unwrap_or(0).max(5);
    writeln!(
        text,
        "{:<14} {:<width$} {:>9} {:>19} {:>9} {:>9} {:>9} {:>13}",
        "measure", "store", "ops/s", "", "p50 ms", "p99 ms", "p99.9 ms", "CPU s/1k ops"
    )?;
    for (place, measure) in comparison.measures.iter().enumerate() {
        for side in &comparison.stores {
            let middle = |figure| median(&of(side, place, figure));
            let (least, most) = spread(&of(side, place, |found| found.rate));
            writeln!(
                text,
                "{:<14} {:<width$} {:>9.0} {:>19} {:>9.3} {:>9.3} {:>9.3} {:>13.4}",
                measure.name(),
                side.name,
                middle(|found| found.rate),
                format!("[{least:.0}, {most:.0}]"),
                middle(|found| found.latencies.p50_ms),
                middle(|found| found.latencies.p99_ms),
                middle(|found| found.latencies.p999_ms),
                middle(|found| found.cpu_seconds_per_1000),
            )?;
        }
    }
    writeln!(text, "\npeak memory of all processes of a store, summed")?;
    for side in &comparison.stores {
        let mebibytes = side.peak_bytes as f64 / f64::from(1 << 20);
        writeln!(text, "{:<width$} {mebibytes:>7.1} MiB in {} processes", side.name, side.processes)?;
    }
    Ok(())
}

fn ratios(comparison: &Comparison, text: &mut String) -> std::fmt::Result {
    let sides = &comparison.stores;
    let pairs = sides.iter().enumerate().filter(|(_, side)| side.is_ours).flat_map(|(number, ours)| {
        // Each of ours against each peer, and against those of ours that came before it.
        let others = sides.iter().enumerate();
        others.filter(move |(other, side)| !side.is_ours || *other < number).map(move |(_, other)| (ours, other))
    });
    for (ours, other) in pairs {
        writeln!(text, "\n{} / {}: median of the rounds' ratios [smallest, greatest]", ours.name, other.name)?;
        write!(text, "{:<14}", "measure")?;
        FIGURES.iter().try_for_each(|(name, _)| write!(text, " {name:>22}"))?;
        writeln!(text)?;
        for (place, measure) in comparison.measures.iter().enumerate() {
            write!(text, "{:<14}", measure.name())?;
            for (_, figure) in FIGURES {
                let (left, right) = (of(ours, place, figure), of(other, place, figure));
                let ratios: Vec<f64> = left.iter().zip(right).map(|(left, right)| left / right).collect();
                let (least, most) = spread(&ratios);
                write!(text, " {:>22}", format!("{:.2} [{least:.2}, {most:.2}]", median(&ratios)))?;
            }
            writeln!(text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use madkv_testkit::measure::Figures;

    fn side(name: &str, is_ours: bool, rates: &[f64]) -> Side {
        let found = rates.iter().map(|&rate| Found {
            rate,
            latencies: Figures { p50_ms: 1.0, p99_ms: 2.0, ..Figures::default() },
            cpu_seconds_per_1000: 0.5,
        });
        let found = vec![found.collect()];
        Side { name: name.into(), is_ours, description: String::new(), found, peak_bytes: 3 << 20, processes: 2 }
    }

    #[test]
    fn text_ratios_are_medians_within_rounds() {
        let comparison = Comparison {
            header: Vec::new(),
            stores: vec![side("madkv", true, &[10.0, 30.0, 80.0]), side("etcd", false, &[10.0, 10.0, 20.0])],
            measures: vec![Measure::Put],
            clients: 64,
            value_bytes: 100,
        };
        let text = text(&comparison);
        assert!(text.contains("madkv / etcd"), "{text}");
        // 1, 3 and 4; the ratio of the medians would be 3 too, that of the last round is the greatest.
        assert!(text.contains("3.00 [1.00, 4.00]"), "{text}");
        assert!(text.contains("1.00 [1.00, 1.00]"), "{text}");
        assert!(text.contains("3.0 MiB in 2 processes"), "{text}");
    }
}
