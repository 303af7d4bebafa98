//! Watches on the command line, on pipes and at the prompt: one line for each change.

use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;

use madkv_proto::line::{self, WatchIndex};
use serde_json::json;
use smr_service::log_sink;
use tokio::time::timeout;

use crate::{Client, KeyChange, WatchError, WatchEvent, WatchStart};

/// How long the line after a WATCH waits before it is said what it waits for.
const SAID_AFTER: Duration = Duration::from_secs(1);
/// What it waits for.
const WAITS: &str = "WATCH: a partition does not answer; the next line, or the end of input, waits for it \
                     (--timeout_ms bounds that)";

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// The first key.
    pub(crate) first: String,
    /// The last one, included.
    pub(crate) last: String,
    /// Where to begin.
    pub(crate) start: WatchStart,
}

impl Watched {
    /// The keys from `first` to `last`, from where a line says.
    pub(crate) fn new(first: &str, last: &str, index: Option<WatchIndex<'_>>) -> Watched {
        let start = index.map_or(WatchStart::Now, start_at);
        Watched { first: first.to_owned(), last: last.to_owned(), start }
    }
}

/// How changes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As the line protocol says.
    Lines,
    /// A JSON object on each line.
    Json,
}

/// Writes changes as they come, until `ends` is there, and then those that there are up to that moment. Returns what
/// came; `None` if the watch has ended before, and that was written.
///
/// What comes before the watch has begun waits for that, as each line waits for the one before: it may be told changes
/// up to that moment.
///
/// # Errors
/// Those of `out`.
pub(crate) async fn tell_until<T>(
    client: &Client,
    watched: &Watched,
    mut ends: impl Future<Output = T> + Unpin,
    out: &mut impl Write,
) -> io::Result<Option<T>> {
    let begins = client.watch(watched.first.as_bytes(), watched.last.as_bytes(), watched.start.clone());
    let mut begins = pin!(begins);
    let (begun, mut ended) = tokio::select! {
        biased;
        begun = &mut begins => (begun, None),
        end = &mut ends => (said_if_late(begins).await, Some(end)),
    };
    let failed = match begun {
        Err(error) => error,
        Ok(mut watch) => loop {
            if let Some(end) = ended.take() {
                let (events, all) = said_if_late(watch.up_to_now()).await;
                log_sink::flush();
                events.iter().try_for_each(|event| write(out, event, Form::Lines))?;
                if let Err(error) = all {
                    line::write_error(out, &error)?;
                }
                out.flush()?;
                return Ok(Some(end));
            }
            tokio::select! {
                biased;
                end = &mut ends => ended = Some(end),
                event = watch.next() => match event {
                    Err(error) => break error,
                    Ok(event) => {
                        log_sink::flush();
                        write(out, &event, Form::Lines)?;
                        while let Some(event) = watch.try_next() {
                            write(out, &event, Form::Lines)?;
                        }
                        out.flush()?;
                    }
                },
            }
        },
    };
    line::write_error(out, &failed)?;
    out.flush()?;
    Ok(ended)
}

/// Waits for what the next line has to wait for. If that takes long, stderr says so once: that line is not forgotten.
async fn said_if_late<R>(awaited: impl Future<Output = R>) -> R {
    let mut awaited = pin!(awaited);
    match timeout(SAID_AFTER, &mut awaited).await {
        Ok(done) => done,
        Err(_) => {
            log_sink::line(WAITS.to_owned());
            awaited.await
        }
    }
}

/// Writes changes as they come, for ever. On stderr it says from where on, if there is nothing to tell at once.
///
/// # Errors
/// Why no more come; the inner error is that of `out`.
pub(crate) async fn tell_on(
    client: &Client,
    watched: &Watched,
    form: Form,
    out: &mut impl Write,
) -> Result<io::Error, WatchError> {
    let mut watch = client.watch(watched.first.as_bytes(), watched.last.as_bytes(), watched.start.clone()).await?;
    if let Some(position) = watch.position() {
        let from: Vec<String> = position.iter().map(|(number, index)| format!("s{number}:{index}")).collect();
        log_sink::line(format!("watching from {}", from.join(",")));
    }
    loop {
        let mut event = Some(watch.next().await?);
        log_sink::flush();
        while let Some(told) = event {
            if let WatchEvent::Moved { partition, epoch } = &told {
                log_sink::line(format!("slots have left s{partition} by the map of epoch {epoch}: following them"));
            }
            if let Err(error) = write(out, &told, form) {
                return Ok(error);
            }
            event = watch.try_next();
        }
        if let Err(error) = out.flush() {
            return Ok(error);
        }
    }
}

fn write(out: &mut impl Write, event: &WatchEvent, form: Form) -> io::Result<()> {
    let WatchEvent::Changed(KeyChange { partition, index, key, value }) = event else { return Ok(()) };
    if form == Form::Lines {
        return line::write_event(out, *index, key, value.as_deref());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let object = json!({
        "partition": format!("s{partition}"), "index": index, "change": if value.is_some() { "PUT" } else { "DELETE" },
        "key": text(key), "value": value.as_deref().map(text),
    });
    writeln!(out, "{object}")
}

/// Where to begin, in an operator's words: an index, or one for each partition.
pub(crate) fn start(text: &str) -> Result<WatchStart, String> {
    let index = WatchIndex::parse(text);
    index.map(start_at).ok_or_else(|| "it is an index, or one for each partition as s0:7,s1:9".to_owned())
}

fn start_at(index: WatchIndex<'_>) -> WatchStart {
    match index {
        WatchIndex::One(index) => WatchStart::Index(index),
        WatchIndex::Each(indexes) => WatchStart::Indexes(indexes.iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn start_is_an_index_or_one_for_each_partition() {
        assert_eq!(start("7"), Ok(WatchStart::Index(7)));
        assert_eq!(start("s0:7,s12:9"), Ok(WatchStart::Indexes([(0, 7), (12, 9)].into())));
        for wrong in ["", "-1", "s0", "s0:7,", "7,8"] {
            assert!(start(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn write_each_form() {
        let change = |value: Option<&'static str>| {
            let value = value.map(|value| Bytes::from_static(value.as_bytes()));
            WatchEvent::Changed(KeyChange { partition: 1, index: 7, key: Bytes::from_static(b"k"), value })
        };
        let written = |event: &WatchEvent, form: Form| {
            let mut out = Vec::new();
            write(&mut out, event, form).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(&change(Some("v")), Form::Lines), "EVENT 7 PUT k v\n");
        assert_eq!(written(&change(None), Form::Lines), "EVENT 7 DELETE k\n");
        let json: serde_json::Value = serde_json::from_str(&written(&change(Some("v")), Form::Json)).unwrap();
        assert_eq!(json, json!({"partition": "s1", "index": 7, "change": "PUT", "key": "k", "value": "v"}));
        assert!(written(&change(None), Form::Json).contains("\"value\":null"));
        assert_eq!(written(&WatchEvent::Moved { partition: 0, epoch: 2 }, Form::Lines), "");
    }
}
