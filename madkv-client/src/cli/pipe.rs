//! The client on pipes: one line in, its answer out and flushed, then the next line.
//!
//! Reading blocks the thread that also runs the client's tasks. That is on purpose: between lines nothing is under way,
//! and a lone request crosses no other thread. Only after a WATCH, whose events come until the next line does, is that
//! line read by another one.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

use madkv_proto::limits::LINE_MAX_BYTES;
use madkv_proto::line::{self, Answer, BadLine, Line};
use smr_service::log_sink;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::Client;
use crate::cli::host::{Host, word_of};
use crate::cli::run_line;
use crate::cli::watch::{self, Watched};

/// Answers lines until STOP or the end of input. Returns whether it was STOP.
///
/// # Errors
/// Those of `input` and `out`.
pub fn run(
    runtime: &Runtime,
    client: &Client,
    host: Option<&dyn Host>,
    mut input: impl BufRead + Send + 'static,
    out: &mut impl Write,
) -> io::Result<bool> {
    let mut buffer = Vec::new();
    let mut next = next_line(&mut input, &mut buffer)?;
    loop {
        let line = match next {
            Next::End => return Ok(false),
            Next::TooLong => Err(BadLine::TooLong),
            Next::Line => line::parse(&buffer),
        };
        if let Ok(Line::Watch(first, last, index)) = line {
            let watched = Watched::new(first, last, index);
            let mut reads = read_aside(input, buffer)?;
            let read = match runtime.block_on(watch::tell_until(client, &watched, &mut reads, out))? {
                Some(read) => read,
                None => runtime.block_on(reads),
            };
            let Ok((read, its_input, its_buffer)) = read else {
                return Err(io::Error::other("no one reads the input"));
            };
            (input, buffer, next) = (its_input, its_buffer, read?);
            continue;
        }
        match line {
            Err(bad) => match host_answer(host, &buffer) {
                Some(Ok(text)) => out.write_all(text.as_bytes())?,
                Some(Err(why)) => line::write_error(out, &why)?,
                None => line::write_error(out, &bad)?,
            },
            Ok(line) => match runtime.block_on(run_line(client, line)) {
                Ok(answer) => {
                    // What is traced about a request comes before its answer, if someone reads it.
                    log_sink::flush();
                    line::write_answer(out, line, &answer)?;
                    if answer == Answer::Stopped {
                        out.flush()?;
                        return Ok(true);
                    }
                }
                Err(error) => line::write_error(out, &error)?,
            },
        }
        out.flush()?;
        next = next_line(&mut input, &mut buffer)?;
    }
}

/// What was read, the input, and the buffer with the line.
type ReadAside<I> = (io::Result<Next>, I, Vec<u8>);

/// Reads the next line on a thread of its own, while the client's tasks go on.
fn read_aside<I: BufRead + Send + 'static>(
    mut input: I,
    mut buffer: Vec<u8>,
) -> io::Result<oneshot::Receiver<ReadAside<I>>> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().name("input".to_owned()).spawn(move || {
        let next = next_line(&mut input, &mut buffer);
        let _ = sender.send((next, input, buffer)); // no one is there if the output has failed: the process ends
    })?;
    Ok(receiver)
}

/// What the host says to a line that begins with a word of its own.
fn host_answer(host: Option<&dyn Host>, line: &[u8]) -> Option<Result<String, String>> {
    let words: Vec<&str> = std::str::from_utf8(line).ok()?.split_ascii_whitespace().collect();
    let (host, _) = word_of(host, words.first()?)?;
    Some(host.execute(&words))
}

/// How long to wait before a stream is tried again that has nothing, or takes nothing, yet.
const NOT_YET_PAUSE: Duration = Duration::from_millis(5);

/// A stream that waits, also if someone who shares its descriptor made it non-blocking.
#[derive(Debug)]
pub struct Waiting<S>(pub S);

fn waiting<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(NOT_YET_PAUSE),
            other => return other,
        }
    }
}

impl<S: Read> Read for Waiting<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        waiting(|| self.0.read(buffer))
    }
}

impl<S: Write> Write for Waiting<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        waiting(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        waiting(|| self.0.flush())
    }
}

/// What [`next_line`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A line; it is in the buffer, without its end.
    Line,
    /// A line beyond [`LINE_MAX_BYTES`]; it was skipped.
    TooLong,
    /// The end of input.
    End,
}

/// Reads a line that ends with LF, CRLF or the input. Keeps at most [`LINE_MAX_BYTES`] of it.
fn next_line(input: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Next> {
    buffer.clear();
    let mut too_long = false;
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let at_end = chunk.is_empty();
        let line_end = chunk.iter().position(|byte| *byte == b'\n');
        let piece = &chunk[..line_end.unwrap_or(chunk.len())];
        too_long |= buffer.len() + piece.len() > LINE_MAX_BYTES;
        if !too_long {
            buffer.extend_from_slice(piece);
        }
        let used = piece.len() + usize::from(line_end.is_some());
        input.consume(used);
        if line_end.is_none() && !at_end {
            continue;
        }
        if at_end && buffer.is_empty() && !too_long {
            return Ok(Next::End);
        }
        if buffer.last() == Some(&b'\r') {
            buffer.pop();
        }
        return Ok(if too_long { Next::TooLong } else { Next::Line });
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(input: &[u8], chunk: usize) -> Vec<(Next, Vec<u8>)> {
        let mut input = BufReader::with_capacity(chunk, input);
        let mut buffer = Vec::new();
        let mut lines = Vec::new();
        loop {
            match next_line(&mut input, &mut buffer).unwrap() {
                Next::End => return lines,
                next => lines.push((next, buffer.clone())),
            }
        }
    }

    #[test]
    fn next_line_any_end_and_any_chunking_same_lines() {
        for chunk in [1, 2, 3, 100] {
            let found = lines(b"one\r\n\ntwo\nthree\r\r\nfour", chunk);
            let texts: Vec<&[u8]> = found.iter().map(|(_, text)| &text[..]).collect();
            assert_eq!(texts, [&b"one"[..], b"", b"two", b"three\r", b"four"], "chunks of {chunk}");
            assert!(found.iter().all(|(next, _)| *next == Next::Line));
        }
        assert_eq!(lines(b"", 10), []);
    }

    /// Does not wait: every other time there is nothing, or no room.
    struct NonBlocking<S>(S, bool);

    impl<S> NonBlocking<S> {
        fn turn(&mut self) -> io::Result<()> {
            self.1 = !self.1;
            if self.1 { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
        }
    }

    impl<S: Read> Read for NonBlocking<S> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.turn()?;
            self.0.read(buffer)
        }
    }

    impl<S: Write> Write for NonBlocking<S> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.turn()?;
            self.0.write(&bytes[..bytes.len().min(3)])
        }

        fn flush(&mut self) -> io::Result<()> {
            self.turn()
        }
    }

    // covers B20
    #[test]
    fn waiting_on_streams_that_do_not_wait_all_of_it_passes_once() {
        let mut input = BufReader::new(Waiting(NonBlocking(&b"one\ntwo\n"[..], false)));
        let mut buffer = Vec::new();
        let mut out = Waiting(NonBlocking(Vec::new(), false));
        while next_line(&mut input, &mut buffer).unwrap() == Next::Line {
            out.write_all(&buffer).unwrap();
            out.flush().unwrap();
        }
        assert_eq!(out.0.0, b"onetwo");
    }

    // covers B1
    #[test]
    fn next_line_too_long_skipped_to_its_end_in_bounded_memory() {
        let mut input = vec![b'x'; 5_000_000];
        input.extend_from_slice(b"\nGET a\n");
        let found = lines(&input, 1 << 16);
        assert_eq!(found[0].0, Next::TooLong);
        assert!(found[0].1.len() <= LINE_MAX_BYTES);
        assert_eq!(found[1], (Next::Line, b"GET a".to_vec()));
        let at_limit = lines(&vec![b'x'; LINE_MAX_BYTES], 1 << 16);
        assert_eq!((at_limit[0].0, at_limit[0].1.len()), (Next::Line, LINE_MAX_BYTES));
        assert_eq!(lines(&vec![b'x'; LINE_MAX_BYTES + 1], 1 << 16)[0].0, Next::TooLong);
    }
}
