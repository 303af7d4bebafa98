//! The command-line client: the line protocol on pipes, a prompt on a terminal, and one-shot commands for operators.

pub mod args;
pub mod backup;
pub mod command;
mod completion;
pub mod control_table;
pub mod host;
pub mod pipe;
pub mod prompt;
pub mod session;
pub mod slow_table;
pub mod status_table;
pub mod stop;
mod watch;
mod why_text;

use std::sync::Arc;

use args::Args;
use madkv_proto::line::{Answer, Line};
use smr_service::log_sink;

use crate::{Client, Error, Options, Trace};

/// A client as the arguments want it.
pub fn connect(args: &Args) -> Client {
    let client = args.client_id.unwrap_or(1);
    let console = Console { client, messages: args.trace_messages, retries: args.trace_retries };
    // Servers are to call it by the name that its own console has.
    let client_id = args.client_id.or(console.messages.then_some(client));
    let trace = (console.messages || console.retries).then(|| Arc::new(console) as Arc<dyn Trace>);
    Client::connect(Options {
        managers: args.manager_addrs.clone(),
        timeout: args.timeout,
        trace,
        client_id,
        read_from: args.read_from,
        world: None,
    })
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
        Line::Watch(..) => {
            let reason = "a watch has no end, and so no answer".to_owned();
            Err(Error::Refused { reason, may_have_happened: false })
        }
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
    fn sent(&self, server: usize, number: u32) {
        if self.messages {
            log_sink::message(format_args!("Sent <C{}, S{server}, {number}, request>", self.client));
        }
    }

    fn received(&self, server: usize, number: u32) {
        if self.messages {
            log_sink::message(format_args!("Received <C{}, S{server}, {number}, reply>", self.client));
        }
    }

    fn refused(&self, server: usize, number: u32, why: &'static str) {
        if self.messages {
            log_sink::message(format_args!("Received <C{}, S{server}, {number}, reply>: {why}", self.client));
        }
    }

    fn duplicate(&self, server: usize, number: u32) {
        if self.messages {
            log_sink::message(format_args!("request_num {number}: Discarded duplicate reply from S{server}"));
        }
    }

    fn retried(&self, why: &'static str) {
        if self.retries {
            log_sink::message(format_args!("{RETRYING} C{}: {why}", self.client));
        }
    }
}
