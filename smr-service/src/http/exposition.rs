//! Metrics as values, and as text.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use smr::durations::{BOUNDS_US, DurationCounts};

/// Names and values that tell the samples of a family apart.
pub type Labels = Vec<(&'static str, String)>;

/// The metrics of one scrape. Each name is used once; those of counters end with `_total` in the text, which is not
/// part of the name here. Names end with their unit where there is one: `_bytes`, `_seconds`.
#[derive(Clone, Debug, Default)]
pub struct Families {
    /// Stand at each sample.
    labels: Labels,
    families: Vec<Family>,
}

#[derive(Clone, Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Labels, Sample)>,
}

#[derive(Clone, Debug)]
enum Sample {
    Count(u64),
    Number(f64),
    Durations(Box<DurationCounts>),
}

impl Families {
    /// None yet; `labels` will stand at each sample.
    pub fn new(labels: Labels) -> Families {
        Families { labels, families: Vec::new() }
    }

    /// Adds those of `others`, whose own labels are left out.
    pub fn append(&mut self, others: &Families) {
        others.families.iter().cloned().for_each(|family| self.families.push(family));
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.gauges(name, help, [(Labels::new(), value)]);
    }

    /// The same, in fractions.
    pub fn gauge_f64(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.push(name, help, MetricType::Gauge, vec![(Labels::new(), Sample::Number(value))]);
    }

    /// Several in fractions, told apart by labels.
    pub fn gauges_f64(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let samples = values.into_iter().map(|(labels, value)| (labels, Sample::Number(value))).collect();
        self.push(name, help, MetricType::Gauge, samples);
    }

    /// Several, told apart by labels.
    pub fn gauges(&mut self, name: &'static str, help: &'static str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let samples = values.into_iter().map(|(labels, value)| (labels, Sample::Count(value)));
        self.push(name, help, MetricType::Gauge, samples.collect());
    }

    /// 1 at the label value that is `present`, 0 at the others.
    pub fn state(&mut self, name: &'static str, help: &'static str, label: &'static str, all: &[&str], present: &str) {
        let values = all.iter().map(|one| (vec![(label, (*one).to_owned())], u64::from(*one == present)));
        self.gauges(name, help, values);
    }

    /// A number that only grows while the process lives.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.counters(name, help, [(Labels::new(), value)]);
    }

    /// The same, in fractions.
    pub fn counter_f64(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.push(name, help, MetricType::Counter, vec![(Labels::new(), Sample::Number(value))]);
    }

    /// Several, told apart by labels.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let samples = values.into_iter().map(|(labels, value)| (labels, Sample::Count(value)));
        self.push(name, help, MetricType::Counter, samples.collect());
    }

    /// How long something takes, in seconds; several, told apart by labels.
    pub fn durations(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, DurationCounts)>,
    ) {
        let samples = values.into_iter().map(|(labels, counts)| (labels, Sample::Durations(Box::new(counts))));
        self.push(name, help, MetricType::Histogram, samples.collect());
    }

    fn push(&mut self, name: &'static str, help: &'static str, kind: MetricType, samples: Vec<(Labels, Sample)>) {
        debug_assert!(self.families.iter().all(|family| family.name != name), "{name} is there twice");
        self.families.push(Family { name, help, kind, samples });
    }

    /// In the OpenMetrics text format.
    ///
    /// # Panics
    /// If text cannot be appended to text, which is a bug.
    pub fn text(mut self) -> String {
        let labels = std::mem::take(&mut self.labels);
        let labels = labels.into_iter().map(|(name, value)| (Cow::Borrowed(name), Cow::Owned(value)));
        let mut registry = Registry::with_labels(labels);
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap_or_else(|error| panic!("metrics cannot be written: {error}"));
        page
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, kind, samples } in &self.families {
            let mut family = encoder.encode_descriptor(name, help, None, *kind)?;
            for (labels, sample) in samples {
                if labels.is_empty() {
                    sample.encode(*kind, &mut family)?;
                } else {
                    sample.encode(*kind, &mut family.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Sample {
    fn encode(&self, kind: MetricType, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        match (self, kind) {
            (Sample::Count(value), MetricType::Counter) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
            (Sample::Number(value), MetricType::Counter) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
            (Sample::Count(value), _) => encoder.encode_gauge(value),
            (Sample::Number(value), _) => encoder.encode_gauge(value),
            (Sample::Durations(counts), _) => {
                let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = bounds.zip(counts.counts).collect();
                let count = counts.counts.iter().sum();
                encoder.encode_histogram::<NoLabelSet>(counts.sum_us as f64 / 1e6, count, &buckets, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use smr::durations::Durations;

    use super::*;

    #[test]
    fn text_has_types_labels_and_cumulated_buckets() {
        let durations = Durations::default();
        durations.record(Duration::from_micros(80));
        durations.record(Duration::from_millis(3));
        let mut families = Families::new(vec![("group", "s0".into())]);
        families.gauge("a_term", "Its term", 3);
        families.counters("a_drops", "Drops", [(vec![("reason", "full \"\\".into())], 7)]);
        families.durations("a_sync_seconds", "Syncs", [(Labels::new(), durations.read())]);
        families.state("a_role", "Its part", "role", &["leader", "follower"], "follower");
        let text = families.text();
        for line in [
            "# TYPE a_term gauge",
            "a_term{group=\"s0\"} 3",
            "# TYPE a_drops counter",
            "a_drops_total{group=\"s0\",reason=\"full \\\"\\\\\"} 7",
            "a_sync_seconds_count{group=\"s0\"} 2",
            "a_sync_seconds_bucket{group=\"s0\",le=\"0.00005\"} 0",
            "a_sync_seconds_bucket{group=\"s0\",le=\"0.0001\"} 1",
            "a_sync_seconds_bucket{group=\"s0\",le=\"0.005\"} 2",
            "a_sync_seconds_bucket{group=\"s0\",le=\"+Inf\"} 2",
            "a_role{group=\"s0\",role=\"leader\"} 0",
            "a_role{group=\"s0\",role=\"follower\"} 1",
        ] {
            assert!(text.lines().any(|one| one == line), "no {line:?} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
