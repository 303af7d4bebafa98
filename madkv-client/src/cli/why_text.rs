//! `why`: one write's way, for people and for programs.

use std::fmt::Write as _;

use madkv_proto::command::{Command, Malformed, decode_found, decode_value};
use madkv_proto::line::{self, Answer, Line, write_answer};
use serde_json::{Value, json};

use crate::why::{Holder, Waterfall};
use crate::{Client, Error};

/// Columns of the widest bar.
const BAR_COLUMNS: u64 = 40;

/// The write on a line.
///
/// # Errors
/// Why there is none.
pub(super) fn write_of(text: &str) -> Result<(Line<'_>, Command<'_>), String> {
    let line = line::parse(text.as_bytes()).map_err(|error| error.to_string())?;
    let command = match line {
        Line::Put(key, value) => Command::Put { key: key.as_bytes(), value: value.as_bytes() },
        Line::Swap(key, value) => Command::Swap { key: key.as_bytes(), value: value.as_bytes() },
        Line::Delete(key) => Command::Delete { key: key.as_bytes() },
        Line::Get(_) | Line::Scan(..) | Line::Watch(..) | Line::Stop => {
            return Err("only PUT, SWAP and DELETE have a way through the log".to_owned());
        }
    };
    Ok((line, command))
}

/// Carries out the write on a line, and tells its way.
///
/// # Errors
/// See [`Client::why`].
pub(super) async fn why(client: &Client, text: &str, as_json: bool) -> Result<String, Error> {
    let refused = |reason| Error::Refused { reason, may_have_happened: false };
    let (line, command) = write_of(text).map_err(refused)?;
    let (answer, way) = client.why(command).await?;
    let malformed = |what: Malformed| Error::BadAnswer { what: what.to_string() };
    let answer = match line {
        Line::Swap(..) => Answer::Value(decode_value(answer).map_err(malformed)?),
        _ => Answer::Found(decode_found(&answer).map_err(malformed)?),
    };
    let mut told = Vec::new();
    write_answer(&mut told, line, &answer).map_err(|error| Error::BadAnswer { what: error.to_string() })?;
    let told = String::from_utf8_lossy(&told);
    Ok(if as_json { json_of(told.trim_end(), &way) } else { text_of(&told, &way) })
}

/// For people: each stretch as a bar at its place.
fn text_of(answer: &str, way: &Waterfall) -> String {
    let mut text = answer.to_owned();
    let leader = format!("{}.{}", way.group, way.leader.node.name);
    // A string takes everything.
    let _ = writeln!(text, "{} ms in all; entry {}, led by {leader}", ms(way.total_us), way.leader.entry);
    let columns = |us: u64| us * BAR_COLUMNS / way.total_us.max(1);
    let mut at = 0;
    for stretch in way.stretches() {
        let bar = "#".repeat(usize::try_from(columns(stretch.us).max(1)).unwrap_or(1));
        let indent = " ".repeat(usize::try_from(columns(at)).unwrap_or(0));
        let _ = writeln!(text, "{:>9} ms  {:<40} {indent}{bar}", ms(stretch.us), stretch.what);
        at += stretch.us;
    }
    text.push_str("on the devices, counted from the leader's sending:\n");
    for holder in way.holders() {
        let _ = writeln!(text, "  {}.{}: {}", way.group, holder.replica, told(&holder));
    }
    text
}

fn told(holder: &Holder) -> String {
    let mut text = match (holder.held_after_us, holder.sync_us, holder.hop_us) {
        (Some(held), Some(sync), Some(hop)) => {
            format!("{} ms: both ways {} ms, its sync {} ms", ms(held), ms(hop), ms(sync))
        }
        (Some(held), Some(_), None) => format!("{} ms: its sync (it leads)", ms(held)),
        (Some(held), ..) => format!("{} ms", ms(held)),
        (None, ..) => "not yet".to_owned(),
    };
    if holder.completes_quorum {
        text.push_str("; completes the quorum");
    }
    if let Some(trouble) = &holder.trouble {
        let _ = write!(text, " ({trouble})");
    }
    text
}

/// For programs. Times in microseconds.
fn json_of(answer: &str, way: &Waterfall) -> String {
    let holder = |holder: &Holder| -> Value {
        json!({
            "replica": holder.replica, "held_after_us": holder.held_after_us, "sync_us": holder.sync_us,
            "hop_us": holder.hop_us, "completes_quorum": holder.completes_quorum, "trouble": holder.trouble,
        })
    };
    let stretches: Vec<Value> =
        way.stretches().iter().map(|stretch| json!({ "what": stretch.what, "us": stretch.us })).collect();
    let holders: Vec<Value> = way.holders().iter().map(holder).collect();
    let whole = json!({
        "answer": answer, "group": way.group, "leader": way.leader.node.name.0,
        "entry": { "index": way.leader.entry.index.0, "term": way.leader.entry.term.0 },
        "total_us": way.total_us, "stretches": stretches, "replicas": holders,
    });
    format!("{whole}\n")
}

fn ms(us: u64) -> String {
    format!("{}.{:03}", us / 1000, us % 1000)
}

#[cfg(test)]
mod tests {
    use smr::entry::EntryId;
    use smr::id::NodeId;
    use smr::status::EntryTimings;

    use super::*;

    fn way() -> Waterfall {
        let timings = |name, durable| EntryTimings {
            node: NodeId::new(name, 1),
            entry: EntryId::new(9, 2),
            voters: (0..3).map(|name| NodeId::new(name, 1)).collect(),
            appended_us: Some(1_000),
            durable_us: Some(durable),
            committed_us: Some(1_900),
            applied_us: Some(1_910),
            held_by: vec![(NodeId::new(0, 1), 1_600)],
        };
        let followers = vec![(0, Ok(timings(0, 1_450))), (2, Err("silent".into()))];
        Waterfall { group: "s0".into(), leader: timings(1, 1_900), total_us: 1_300, at_server_us: 1_000, followers }
    }

    #[test]
    fn text_of_tells_stretches_and_replicas() {
        let text = text_of("PUT k found\n", &way());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["PUT k found", "1.300 ms in all; entry 9.t2, led by s0.1"]);
        assert!(lines[2].starts_with("    0.300 ms  client and network"), "{text}");
        assert!(text.contains("  s0.1: 0.900 ms: its sync (it leads); completes the quorum\n"), "{text}");
        assert!(text.contains("  s0.0: 0.600 ms: both ways 0.150 ms, its sync 0.450 ms\n"), "{text}");
        assert!(text.ends_with("  s0.2: not yet (silent)\n"), "{text}");
    }

    #[test]
    fn json_of_sums_up_to_the_total() {
        let whole: Value = serde_json::from_str(&json_of("PUT k found", &way())).unwrap();
        let sum: u64 = whole["stretches"].as_array().unwrap().iter().map(|one| one["us"].as_u64().unwrap()).sum();
        assert_eq!(Some(sum), whole["total_us"].as_u64());
        assert_eq!(whole["replicas"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn write_of_reads_is_refused_with_the_reason() {
        assert!(write_of("PUT k v").is_ok() && write_of("DELETE k").is_ok());
        assert!(write_of("GET k").unwrap_err().contains("only PUT, SWAP and DELETE"));
        assert!(write_of("PUT k").unwrap_err().contains("PUT <key> <value>"));
    }
}
