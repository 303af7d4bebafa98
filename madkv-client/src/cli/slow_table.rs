//! Which replica is a slow one, and how fast the parts of each are, for people and as JSON.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};
use smr_service::pace::{Finding, Level, Measure, Metric, PaceReport};
use smr_service::status_json;

use crate::{ClusterPace, NodePace};

/// The columns of the table after the first one; the ways to others are one, that with the slowest of them.
const COLUMNS: [(&str, Metric); 9] = [
    ("cpu late", Metric::Cpu),
    ("sync", Metric::Sync),
    ("apply", Metric::Apply),
    ("network", Metric::Network),
    ("queue", Metric::Queue),
    ("cpu used", Metric::CpuUsed),
    ("memory", Metric::Memory),
    ("disk read", Metric::DiskRead),
    ("disk written", Metric::DiskWritten),
];
/// Between two columns.
const GAP: u16 = 2;

/// A line for each slow replica, or one that says that there is none, and a table of what they were judged by.
pub fn table(pace: &ClusterPace) -> String {
    let mut text: String = pace.findings().iter().map(|(group, found)| format!("{}\n", told(group, found))).collect();
    if text.is_empty() {
        text.push_str(if pace.has_answers() { "no replica is slow\n" } else { "no replica says how fast it is\n" });
    }
    text.push_str(&stands_back(pace));
    let mut table = Table::new();
    let headings = ["node"].into_iter().chain(COLUMNS.map(|(heading, _)| heading));
    table.load_style(NOTHING).set_header(headings);
    for node in &pace.nodes {
        let name = format!("{}.{}", node.group, node.replica);
        match &node.pace {
            Ok(report) => table.add_row([name].into_iter().chain(COLUMNS.map(|(_, metric)| cell(report, metric)))),
            Err(why) => table.add_row([name, why.clone()]),
        };
    }
    table.column_iter_mut().for_each(|column| _ = column.set_padding((0, GAP)));
    format!("{text}\nnow, and normally:\n{}\n", table.trim_fmt())
}

/// A line for each replica that leaves leading to others.
pub fn stands_back(pace: &ClusterPace) -> String {
    let those = pace.nodes.iter().filter(|node| node.pace.as_ref().is_ok_and(|report| report.stands_back));
    let line = |NodePace { group, replica, .. }: &NodePace| {
        format!("{group}.{replica} leaves leading to others as long as they can: its disk was found slow\n")
    };
    those.map(line).collect()
}

fn told(group: &str, found: &Finding) -> String {
    let Finding { replica, metric, peers, present, normal, others, besides } = found;
    let show = |value| shown(*metric, value);
    let what = match metric {
        Metric::Cpu => "cpu: it wakes up late by".to_owned(),
        Metric::Sync => "sync: a batch of writes takes its disk".to_owned(),
        Metric::Apply => "apply: an entry takes".to_owned(),
        Metric::Network => {
            let peers: Vec<String> = peers.iter().map(|peer| format!("{group}.{peer}")).collect();
            format!("network to {}: a round trip takes", peers.join(", "))
        }
        _ => format!("{metric}: a question waits"),
    };
    let normal = normal.map_or("not known".to_owned(), show);
    let besides = match &besides[..] {
        [] => String::new(),
        besides => format!("; with it: {}", besides.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ")),
    };
    let (present, others) = (show(*present), show(*others));
    format!("{group}.{replica} is slow, {what} {present}; normally {normal}, others {others}{besides}")
}

fn cell(report: &PaceReport, metric: Metric) -> String {
    let average = |level: Option<Level>| level.map(|level| level.average);
    let measures = report.measures.iter().filter(|measure| measure.metric == metric);
    let Some(Measure { normal, present, peer, .. }) = measures.max_by_key(|measure| average(measure.present)) else {
        return "-".to_owned();
    };
    let show = |level| average(level).map_or("-".to_owned(), |value| shown(metric, value));
    let to = peer.map_or(String::new(), |peer| format!(" to {peer}"));
    format!("{} ({}){to}", show(*present), show(*normal))
}

fn shown(metric: Metric, value: u64) -> String {
    match metric {
        Metric::CpuUsed => format!("{}.{} %", value / 10, value % 10),
        Metric::Memory => format!("{} MiB", value >> 20),
        Metric::DiskRead | Metric::DiskWritten => format!("{} KiB/s", value >> 10),
        _ if value >= 10_000 => format!("{} ms", value / 1_000),
        _ => format!("{}.{:02} ms", value / 1_000, value % 1_000 / 10),
    }
}

/// One JSON object, on one line.
pub fn json(pace: &ClusterPace) -> String {
    let slow: Vec<Value> = pace.findings().iter().map(|(group, found)| finding_json(group, found)).collect();
    let nodes: Vec<Value> = pace.nodes.iter().map(node_json).collect();
    format!("{}\n", json!({ "slow": slow, "nodes": nodes }))
}

fn finding_json(group: &str, found: &Finding) -> Value {
    let Finding { replica, metric, peers, present, normal, others, besides } = found;
    let besides: Vec<&str> = besides.iter().map(|metric| metric.name()).collect();
    json!({
        "node": format!("{group}.{replica}"), "group": group, "replica": replica, "phase": metric.name(),
        "peers": peers, "unit": metric.unit(), "present": present, "normal": normal, "others": others,
        "besides": besides,
    })
}

fn node_json(node: &NodePace) -> Value {
    let NodePace { group, replica, address, pace } = node;
    let mut object = json!({
        "node": format!("{group}.{replica}"), "group": group, "replica": replica, "address": address,
        "reason": pace.as_ref().err(),
    });
    if let Ok(report) = pace {
        object["leads"] = report.leads.into();
        object["stands_back"] = report.stands_back.into();
        object["pace"] = status_json::paced(report);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(average: u64) -> Option<Level> {
        Some(Level { average, min: average, max: average })
    }

    fn node(replica: u16, sync: u64) -> NodePace {
        let measure = |metric, peer, normal, present| Measure { metric, peer, normal, present };
        let measures = vec![
            measure(Metric::Sync, None, level(2_000), level(sync)),
            measure(Metric::Memory, None, level(50 << 20), level(60 << 20)),
            measure(Metric::Network, Some(7), level(300), level(450)),
        ];
        let pace = PaceReport { leads: replica == 0, stands_back: replica == 1, watched_s: 90, measures };
        NodePace { group: "s0".into(), replica, address: format!("h:{replica}"), pace: Ok(pace) }
    }

    fn cluster(sync: u64) -> ClusterPace {
        let silent = NodePace { pace: Err("silent".into()), ..node(3, 0) };
        let manager = NodePace { group: "m".into(), ..node(0, 2_000) };
        ClusterPace { nodes: vec![manager, node(0, 2_000), node(1, sync), node(2, 2_100), silent] }
    }

    #[test]
    fn table_names_the_slow_replica_or_says_that_there_is_none() {
        let text = table(&cluster(103_200));
        let first = "s0.1 is slow, sync: a batch of writes takes its disk 103 ms; normally 2.00 ms, others 2.10 ms";
        assert_eq!(text.lines().next(), Some(first), "{text}");
        assert_eq!(text.matches("is slow").count(), 1);
        assert!(text.contains("s0.1 leaves leading to others"), "{text}");
        let row = text.lines().find(|line| line.starts_with("s0.1  ")).unwrap();
        let cells = ["103 ms (2.00 ms)", "0.45 ms (0.30 ms) to 7", "60 MiB (50 MiB)"];
        assert!(cells.iter().all(|cell| row.contains(cell)), "{row}");
        assert!(text.lines().any(|line| line.starts_with("s0.3") && line.contains("silent")), "{text}");
        assert!(table(&cluster(2_000)).starts_with("no replica is slow\n"));
        assert!(table(&ClusterPace::default()).starts_with("no replica says how fast it is\n"));
    }

    #[test]
    fn json_has_the_findings_and_every_measure() {
        let value: Value = serde_json::from_str(&json(&cluster(103_200))).unwrap();
        let slow = json!({
            "node": "s0.1", "group": "s0", "replica": 1, "phase": "sync", "peers": [], "unit": "us",
            "present": 103_200, "normal": 2_000, "others": 2_100, "besides": [],
        });
        assert_eq!(value["slow"], json!([slow]));
        assert_eq!(value["nodes"][2]["stands_back"], true);
        assert_eq!(value["nodes"][2]["pace"]["measures"][2]["peer"], 7);
        assert_eq!(value["nodes"][2]["pace"]["measures"][0]["present"]["average"], 103_200);
        assert_eq!(value["nodes"][4]["reason"], "silent");
    }
}
