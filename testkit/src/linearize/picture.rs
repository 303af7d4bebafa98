//! A page that shows what is wrong with a history: self-contained HTML, a timeline for each violation.
//!
//! A lane per client, a bar per operation from call to return. The time axis keeps the order of calls and returns and
//! nothing else: each is one column, so that a pause of a second does not hide what happened within a microsecond. What
//! never returned fades out to the right.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::history::{Action, Answer, History, Operation, Outcome, readable};
use crate::linearize::shrink::{Evidence, Role};
use crate::linearize::{Verdict, Violation};

/// How many violations are drawn.
const DRAWN_MAX: usize = 8;
/// How many operations one timeline may have; the rest is left out, and that is said.
const BARS_MAX: usize = 60;
/// The longest value that is written out; the whole one is in the table.
const VALUE_SHOWN_MAX_CHARS: usize = 18;
/// Width of a column: from one call or return to the next.
const COLUMN: usize = 96;
/// Height of a row of bars.
const ROW: usize = 46;
/// Height of a bar.
const BAR: usize = 14;
/// Room for the clients' names.
const LEFT: usize = 96;
/// Room for the times.
const TOP: usize = 34;

/// The page; `None` if nothing is wrong that could be drawn.
pub fn picture(history: &History, verdict: &Verdict) -> Option<String> {
    // Where the search has evidence, what the chains say of the same key is the same once more.
    let explained: Vec<_> = verdict.violations.iter().filter(|violation| violation.evidence.is_some()).collect();
    let is_repeated = |violation: &Violation| {
        violation.evidence.is_none() && explained.iter().any(|other| other.key == violation.key && other.key.is_some())
    };
    let drawn: Vec<&Violation> = verdict.violations.iter().filter(|violation| !is_repeated(violation)).collect();
    if drawn.is_empty() {
        return None;
    }
    let mut page = String::from(HEAD);
    for violation in drawn.iter().take(DRAWN_MAX) {
        section(&mut page, history, violation);
    }
    if drawn.len() > DRAWN_MAX {
        page += &format!("<p>… and {} more violations.</p>\n", drawn.len() - DRAWN_MAX);
    }
    page += "</body></html>\n";
    Some(page)
}

const HEAD: &str = r##"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>MadKV: not linearizable</title><style>
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1d2530; background: #f6f7f9;
margin: 2.5rem auto; max-width: 1280px; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 0 0 .4rem; }
code, svg text, td.mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
section { background: #fff; border: 1px solid #dde1e7; border-radius: 10px; padding: 1.2rem 1.4rem;
margin: 1.4rem 0; box-shadow: 0 1px 3px #0000000d; }
.why { font-size: 1.02rem; border-left: 4px solid #d64545; padding-left: .8rem; margin: .6rem 0 1rem; }
.scroll { overflow-x: auto; } .muted { color: #6a7482; } .legend span { margin-right: 1.2em; white-space: nowrap; }
.legend i { display: inline-block; width: 1.1em; height: .8em; border-radius: 3px; margin-right: .4em; }
table { border-collapse: collapse; margin-top: .8rem; font-size: 13px; } td, th { text-align: left;
padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #eceff3; vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; color: #6a7482; }
</style></head><body>
<h1>This history is not linearizable</h1>
<p class="muted">Each timeline shows the smallest part that was found to have no valid order. A bar reaches from an
operation's call to its
return; it took effect at one moment in between. Columns keep the order of calls and returns, not their distances.</p>
<p class="legend muted"><span><i style="background:#3b76d6"></i>PUT</span>
<span><i style="background:#8a55c8"></i>SWAP</span><span><i style="background:#2e9b63"></i>GET</span><span><i
style="background:#d9822b"></i>DELETE</span><span><i style="background:#15899a"></i>SCAN</span><span><i
style="background:#fff;border:2px solid #d64545"></i>cannot be placed</span><span><i
style="background:linear-gradient(90deg,#8a94a2,#fff)"></i>no answer: at any time after its call, or
never</span><span><i style="background:#dfe4ea;border:1px dashed #8a94a2"></i>context</span></p>
"##;

fn colour(action: &Action) -> &'static str {
    match action {
        Action::Put { .. } => "#3b76d6",
        Action::Swap { .. } => "#8a55c8",
        Action::Get { .. } => "#2e9b63",
        Action::Delete { .. } => "#d9822b",
        Action::Scan { .. } => "#15899a",
    }
}

/// Text that may stand in HTML and SVG.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn short(bytes: &[u8]) -> String {
    let text = readable(bytes);
    if text.chars().count() <= VALUE_SHOWN_MAX_CHARS {
        return text;
    }
    text.chars().take(VALUE_SHOWN_MAX_CHARS - 1).chain(['…']).collect()
}

/// What the operation asked, and what it heard; as short as it can be said.
fn label(operation: &Operation, with_key: bool) -> (String, String) {
    let key = |key: &[u8]| if with_key { format!(" {}", short(key)) } else { String::new() };
    let verb = operation.action.verb();
    let asked = match &operation.action {
        Action::Put { key: own, value } | Action::Swap { key: own, value } => {
            format!("{verb}{} {}", key(own), short(value))
        }
        Action::Get { key: own } | Action::Delete { key: own } => format!("{verb}{}", key(own)),
        Action::Scan { from, to } => format!("{verb} {}..{}", short(from), short(to)),
    };
    let heard = match &operation.outcome {
        Outcome::Unknown => "no answer".to_owned(),
        Outcome::NotDone { .. } => "not done".to_owned(),
        Outcome::Answered { answer: Answer::Found(true), .. } => "found".to_owned(),
        Outcome::Answered { answer: Answer::Found(false), .. } => "not found".to_owned(),
        Outcome::Answered { answer: Answer::Value(None), .. } => "absent".to_owned(),
        Outcome::Answered { answer: Answer::Value(Some(value)), .. } => short(value),
        Outcome::Answered { answer: Answer::Records(records), .. } => match &records[..] {
            [] => "nothing".to_owned(),
            [(key, value)] => format!("{} {}", short(key), short(value)),
            more => format!("{} records", more.len()),
        },
    };
    (asked, heard)
}

fn section(page: &mut String, history: &History, violation: &Violation) {
    let evidence = violation.evidence.clone().unwrap_or_else(|| Evidence {
        operations: violation.operations.iter().map(|&at| (at, Role::Needed)).collect(),
        stuck: None,
        // What it says of several keys begins with a word; of one key perhaps with a value, which stays as it is.
        why: match violation.key {
            None => format!("{}{}.", violation.what[..1].to_uppercase(), &violation.what[1..]),
            Some(_) => format!("{}.", violation.what),
        },
        others: 0,
    });
    let title = violation.key.as_ref().map_or("Several keys".to_owned(), |key| format!("Key {}", readable(key)));
    let mut operations = evidence.operations.clone();
    operations.sort_by_key(|&(at, _)| (history.operations[at].call, at));
    let left_out = operations.len().saturating_sub(BARS_MAX);
    operations.truncate(BARS_MAX);
    // The numbers that the sentence speaks of: those of the needed ones, in order.
    let mut number = 0;
    let numbered: Vec<(Option<usize>, &Operation, Role, bool)> = operations
        .iter()
        .map(|&(at, role)| {
            number += usize::from(role != Role::Context);
            let shown = (role != Role::Context).then_some(number);
            (shown, &history.operations[at], role, evidence.stuck == Some(at))
        })
        .collect();
    // Writing to a string cannot fail.
    let _ = writeln!(page, "<section><h2>{}</h2><p class=\"why\">{}</p>", escaped(&title), escaped(&evidence.why));
    timeline(page, &numbered, violation.key.is_none());
    let _ = writeln!(
        page,
        "<table><tr><th>#</th><th>client</th><th>operation</th><th>called</th><th>returned</th><th></th></tr>"
    );
    let origin = numbered.first().map_or(0, |(_, operation, ..)| operation.call);
    for (number, operation, role, _) in &numbered {
        let line = operation.to_string();
        let said = line.splitn(4, ' ').nth(3).unwrap_or_default();
        let returned = operation.returned().map_or("never".to_owned(), |at| milliseconds(at, origin));
        let role = match role {
            Role::Needed => "",
            Role::AnswerIgnored => "what it saw does not matter",
            Role::Context => "wrote a value that was seen",
        };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"mono\">{}</td><td>{}</td><td>{returned}</td><td \
             class=\"muted\">{role}</td></tr>",
            number.map_or(String::new(), |number| number.to_string()),
            operation.client,
            escaped(said),
            milliseconds(operation.call, origin),
        );
    }
    page.push_str("</table>");
    if evidence.others > 0 {
        let others = match evidence.others {
            1 => "One other operation on this key does not matter: whatever it".to_owned(),
            count => format!("{count} other operations on this key do not matter: whatever they"),
        };
        let _ = write!(page, "<p class=\"muted\">{others} did, there is no order.</p>");
    }
    if left_out > 0 {
        let _ = write!(page, "<p class=\"muted\">{left_out} operations more are not drawn.</p>");
    }
    page.push_str("</section>\n");
}

fn milliseconds(at: u64, origin: u64) -> String {
    let delta = i128::from(at) - i128::from(origin);
    format!("{:+.3} ms", delta as f64 / 1e6)
}

fn timeline(page: &mut String, bars: &[(Option<usize>, &Operation, Role, bool)], with_key: bool) {
    // Columns: equal times share one.
    let mut times: Vec<u64> = bars.iter().map(|(_, operation, ..)| operation.call).collect();
    times.extend(bars.iter().filter_map(|(_, operation, ..)| operation.returned()));
    times.sort_unstable();
    times.dedup();
    let place = |time: u64| LEFT + COLUMN / 4 + COLUMN * times.partition_point(|&other| other < time);
    let right = LEFT + COLUMN / 4 + COLUMN * times.len();
    // Rows: a client has more than one if it went on while an operation of it had no answer, or labels would collide.
    let mut rows: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let mut row_of = Vec::new();
    for (_, operation, ..) in bars {
        let rows = rows.entry(operation.client).or_default();
        let from = place(operation.call);
        let (asked, heard) = label(operation, with_key);
        let text_end = from + 8 * (asked.chars().count() + heard.chars().count() + 6);
        let until = operation.returned().map_or(right, place).max(text_end);
        let row = rows.iter().position(|&free| free <= from).unwrap_or_else(|| {
            rows.push(0);
            rows.len() - 1
        });
        rows[row] = until + 6;
        row_of.push(row);
    }
    let mut first_row: BTreeMap<u32, usize> = BTreeMap::new();
    let mut count = 0;
    for (&client, rows) in &rows {
        first_row.insert(client, count);
        count += rows.len();
    }
    let widest = rows.values().flatten().copied().max().unwrap_or_default();
    let (width, height) = (right.max(widest) + 24, TOP + ROW * count + 10);
    let _ = writeln!(
        page,
        "<div class=\"scroll\"><svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-size=\"12.5\">"
    );
    page.push_str("<defs>");
    for action in ["#3b76d6", "#8a55c8", "#2e9b63", "#d9822b", "#15899a", "#aab3bf"] {
        let _ = write!(
            page,
            "<linearGradient id=\"fade{}\"><stop offset=\"0.2\" stop-color=\"{action}\"/><stop offset=\"1\" \
             stop-color=\"{action}\" stop-opacity=\"0\"/></linearGradient>",
            &action[1..]
        );
    }
    page.push_str("</defs>\n");
    for (number, (client, rows)) in rows.iter().enumerate() {
        let y = TOP + ROW * first_row[client];
        if number % 2 == 0 {
            let _ = writeln!(
                page,
                "<rect x=\"0\" y=\"{y}\" width=\"{width}\" height=\"{}\" fill=\"#f4f6f8\" rx=\"6\"/>",
                ROW * rows.len()
            );
        }
        let _ = writeln!(page, "<text x=\"12\" y=\"{}\" fill=\"#48515e\">client {client}</text>", y + ROW / 2 + 8);
    }
    let origin = times.first().copied().unwrap_or_default();
    for &time in &times {
        let x = place(time);
        let _ = writeln!(
            page,
            "<line x1=\"{x}\" y1=\"{TOP}\" x2=\"{x}\" y2=\"{}\" stroke=\"#d5dae1\" stroke-dasharray=\"2 4\"/><text \
             x=\"{x}\" y=\"{}\" fill=\"#8a94a2\" font-size=\"10.5\" text-anchor=\"middle\">{}</text>",
            height - 10,
            TOP - 12,
            milliseconds(time, origin)
        );
    }
    for ((number, operation, role, is_stuck), row) in bars.iter().zip(row_of) {
        let x = place(operation.call);
        let y = TOP + ROW * (first_row[&operation.client] + row) + 24;
        let colour = if *role == Role::Context { "#aab3bf" } else { colour(&operation.action) };
        let end = operation.returned().map_or(right + 12, place);
        let fill =
            if operation.returned().is_some() { colour.to_owned() } else { format!("url(#fade{})", &colour[1..]) };
        let border = match (is_stuck, role) {
            (true, _) => " stroke=\"#d64545\" stroke-width=\"2.5\"",
            (false, Role::Context) => " stroke=\"#8a94a2\" stroke-dasharray=\"4 3\" fill-opacity=\"0.45\"",
            (false, _) => "",
        };
        let (asked, heard) = label(operation, with_key);
        let number = number.map_or(String::new(), |number| format!("{number}. "));
        let heard_style = match role {
            Role::Needed if *is_stuck => "fill=\"#c22f2f\" font-weight=\"bold\"",
            Role::Needed => "font-weight=\"bold\"",
            Role::AnswerIgnored | Role::Context => "fill=\"#8a94a2\"",
        };
        let _ = writeln!(
            page,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{BAR}\" rx=\"4\" \
             fill=\"{fill}\"{border}/>\
             <text x=\"{x}\" y=\"{}\" fill=\"#1d2530\">{number}{} <tspan fill=\"#8a94a2\">→</tspan> <tspan \
             {heard_style}>{}</tspan></text></g>",
            escaped(&operation.to_string()),
            end.saturating_sub(x).max(6),
            y - 6,
            escaped(&asked),
            escaped(&heard),
        );
    }
    page.push_str("</svg></div>\n");
}

#[cfg(test)]
mod tests {
    use crate::linearize::known::history;
    use crate::linearize::{Options, check, picture};

    fn page(lines: &str) -> Option<String> {
        let history = history(lines);
        picture(&history, &check(&history, &Options::default()))
    }

    #[test]
    fn picture_of_bad_history_names_what_is_wrong_and_of_good_one_is_none() {
        assert_eq!(page("0 1 2 PUT k a -> not_found"), None);
        let page = page(
            "0 1 2 PUT k a -> not_found\n1 3 - SWAP k <u>&%22 -> unknown\n2 4 5 GET k -> value <u>&%22\n2 6 7 GET k \
             -> value a",
        );
        let page = page.expect("a picture");
        assert!(page.contains("<svg") && page.contains("client 2") && page.contains("cannot"), "{page}");
        assert!(page.contains("&lt;u&gt;&amp;") && !page.contains("<u>"), "what clients wrote is escaped: {page}");
        assert_eq!(page.matches("<section>").count(), 1, "the second check repeats the first");
        assert_eq!(page.matches("<g>").count(), page.matches("</g>").count());
    }

    #[test]
    fn picture_of_scan_at_two_moments_is_drawn_too() {
        let page =
            page("partitions 1\n0 1 2 PUT a 1 -> not_found\n0 3 4 PUT b 1 -> not_found\n9 0 9 SCAN a z -> records b 1");
        let page = page.expect("a picture");
        assert!(page.contains("never there at one moment") && page.contains("PUT"), "{page}");
    }
}
