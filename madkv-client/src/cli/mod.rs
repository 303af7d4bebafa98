//! The command-line client: the line protocol on pipes, a prompt on a terminal, and one-shot commands for operators.

pub mod args;
pub mod command;
mod completion;
pub mod pipe;
pub mod prompt;
pub mod status_table;
pub mod stop;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use args::Args;
use madkv_proto::line::{Answer, Line};
use smr_service::log_sink;

use crate::{Client, Error, Options, Trace};

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

/// The word in each line about a retry.
pub const RETRYING: &str = "Retrying";

/// Writes messages and retries to stderr. What no one takes there is dropped.
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
