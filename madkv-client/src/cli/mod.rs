//! The command-line client: the line protocol on pipes, a prompt on a terminal, and one-shot words for operators.

pub mod args;
pub mod pipe;
pub mod prompt;
pub mod status_table;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use args::{Args, Word};
use madkv_proto::line::{Answer, Line};
use smr::log_sink;

use crate::{Client, Error, KeyPlace, Options, Trace};

/// A client as the arguments want it.
pub fn connect(args: &Args) -> Client {
    let console = Console { client: args.client_id, messages: args.trace_messages, retries: args.trace_retries };
    let trace = (console.messages || console.retries).then(|| Arc::new(console) as Arc<dyn Trace>);
    Client::connect(Options { managers: args.manager_addrs.clone(), timeout: args.timeout, trace, world: None })
}

/// Runs a request of the line protocol.
///
/// # Errors
/// See [`Error`].
pub async fn run_line(client: &Client, line: Line<'_>) -> Result<Answer, Error> {
    match line {
        Line::Put(key, value) => client.put(key.as_bytes(), value.as_bytes()).await.map(Answer::Found),
        Line::Swap(key, value) => client.swap(key.as_bytes(), value.as_bytes()).await.map(Answer::Value),
        Line::Get(key) => client.get(key.as_bytes()).await.map(Answer::Value),
        Line::Delete(key) => client.delete(key.as_bytes()).await.map(Answer::Found),
        Line::Scan(from, to) => client.scan(from.as_bytes(), to.as_bytes()).await.map(Answer::Records),
        Line::Stop => Ok(Answer::Stopped),
    }
}

/// What came of an operator's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What to print.
    pub text: String,
    /// Whether it is what was asked for. A status that no manager has a part in is not, nor is a place without a
    /// leader.
    pub is_whole: bool,
}

/// Obeys an operator's word.
///
/// # Errors
/// See [`Error`].
pub async fn obey(client: &Client, word: &Word) -> Result<Report, Error> {
    let whole = |text: String| Report { text, is_whole: true };
    match word {
        Word::Help => Ok(whole(HELP.to_owned())),
        Word::Status { json } => {
            let status = client.status().await;
            let text = if *json { status_table::json(&status) } else { status_table::table(&status) };
            Ok(Report { text, is_whole: status.has_manager() })
        }
        Word::Where { key, json } => {
            let place = client.place_of(key.as_bytes()).await?;
            let text = if *json { place_json(key, &place) } else { place_line(key, &place) };
            Ok(Report { text, is_whole: place.leader.is_some() })
        }
        Word::Transfer { group, to } => {
            client.transfer(group, *to).await.map(|()| whole(format!("{group}: leadership handed to replica {to}\n")))
        }
        Word::Readmit { group, replica } => {
            client.readmit(group, *replica).await.map(|()| whole(format!("{group}: replica {replica} readmitted\n")))
        }
    }
}

fn place_line(key: &str, place: &KeyPlace) -> String {
    let KeyPlace { slot, partition, leader, .. } = place;
    let leader = match leader {
        Some((replica, address)) => format!("leader s{partition}.{replica} at {address}"),
        None => "no leader answers".to_owned(),
    };
    format!("{key}: slot {slot}, partition s{partition}, {leader}\n")
}

fn place_json(key: &str, place: &KeyPlace) -> String {
    let KeyPlace { slot, partition, epoch, leader } = place;
    let (replica, address) = leader.clone().unzip();
    let group = format!("s{partition}");
    format!(
        "{}\n",
        serde_json::json!({
            "key": key, "slot": slot, "partition": partition, "group": group, "epoch": epoch, "leader": replica,
            "address": address,
        })
    )
}

/// The word in each line about a retry.
pub const RETRYING: &str = "Retrying";

/// What `help` says.
pub const HELP: &str = "\
PUT <key> <value>         set; says whether the key was there
SWAP <key> <value>        set; gives the old value
GET <key>                 the value, or null
DELETE <key>              remove; says whether the key was there
SCAN <from> <to>          all keys from..to, both included, sorted by bytes
STOP                      leave
status [--json]           partitions, replicas, roles, terms, indexes, lag
where <key> [--json]      its slot, its partition, and who leads that
transfer <group> <n>      let replica n lead; a group is m, s0, s1, ...
readmit <group> <n>       take replica n back after its directory was lost or damaged
help                      this
Keys and values are words without spaces; keys up to 4 KiB, values up to 1 MiB.
";

/// Writes messages and retries to stderr. What nobody takes there is dropped.
struct Console {
    /// The client's number in the messages.
    client: u32,
    /// Whether to write messages.
    messages: bool,
    /// Whether to write retries.
    retries: bool,
}

impl Trace for Console {
    fn sent(&self, server: usize, number: u64) {
        if self.messages {
            log_sink::line(format!("[{}] Sent <C{}, S{server}, {number}, request>", timestamp(), self.client));
        }
    }

    fn received(&self, server: usize, number: u64) {
        if self.messages {
            log_sink::line(format!("[{}] Received <C{}, S{server}, {number}, reply>", timestamp(), self.client));
        }
    }

    fn duplicate(&self, server: usize, number: u64) {
        if self.messages {
            log_sink::line(format!("[{}] request_num {number}: Discarded duplicate reply from S{server}", timestamp()));
        }
    }

    fn retried(&self, why: &'static str) {
        if self.retries {
            log_sink::line(format!("[{}] {RETRYING} C{}: {why}", timestamp(), self.client));
        }
    }
}

/// The time now, in UTC, as `2026-01-31T12:34:56.789012Z`.
fn timestamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = date(now.as_secs() / 86_400);
    let second = now.as_secs() % 86_400;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(text, "{year:04}-{month:02}-{day:02}T{:02}:", second / 3600);
    let _ = write!(text, "{:02}:{:02}.{:06}Z", second / 60 % 60, second % 60, now.subsec_micros());
    text
}

/// The date `days` after 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(is_leap(year)) {
        rest -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn date_known_days_match_calendar() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(59), (1970, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_453), (2025, 12, 31));
    }
}
