//! Where lines for a person go: to stderr, by a thread of its own, so that no one else ever waits for whoever reads
//! them.
//!
//! stderr belongs to others: a pipe whose reader is dead, stopped or slow, a file on a full disk, a terminal that
//! someone made non-blocking. A replica that waits for it is hung, and one that dies of it takes its group along, for
//! all of them log to the same place. So a line is put into a bounded queue, and lost if there is no room or the write
//! fails. Lost lines are counted, and told about as soon as a write succeeds again.
//!
//! Nothing else in a process may write to stderr: the standard library's macros panic if they cannot.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex, MutexGuard};

/// Lines that wait to be written.
pub const LINES_MAX: usize = 16 << 10;
/// How long they may be together, in bytes.
pub const BYTES_MAX: usize = 4 << 20;
/// How much is written at once, in bytes, unless a single line is longer: no more than a pipe takes as a whole, for
/// others may write to the same one.
const WRITE_MAX_BYTES: usize = 4 << 10;
/// How long to wait before a write is tried again that would have had to wait.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long to wait before telling about lost lines is tried again, if no new line comes.
const TELL_PAUSE: Duration = Duration::from_secs(2);
/// How long the end of a process may take for lines that are not written yet.
const FLUSH_MAX: Duration = Duration::from_millis(500);

/// The time now, in UTC, as `2026-01-31T12:34:56.789012Z` (RFC 3339): as structured logs have it.
pub fn timestamp() -> String {
    time_text(SystemTime::now())
}

/// One line of a message console, with its time in front: RFC 3339, UTC. As [`line()`].
pub fn message(text: std::fmt::Arguments<'_>) {
    line(format!("[{}] {text}", timestamp()));
}

/// Another time, as [`timestamp`] writes the present one. A time that no calendar has is the nearest that one has.
pub fn time_text(time: SystemTime) -> String {
    let farthest = if time < UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::try_from(time).unwrap_or(farthest).strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Puts one line into the queue for stderr. Never waits for whoever reads it.
pub fn line(text: impl Into<String>) {
    stderr().push(text.into());
}

/// Waits until all lines so far are written or lost, for at most half a second, and not again as long as the sink
/// stands still. Returns whether they are.
pub fn flush() -> bool {
    stderr().flush(FLUSH_MAX)
}

/// Ends the process as [`std::process::exit`], after a [`flush`].
pub fn exit(code: i32) -> ! {
    flush();
    std::process::exit(code)
}

/// Starts the thread that writes, which otherwise starts with the first line.
///
/// # Errors
/// If the operating system gives none.
pub fn start() -> io::Result<()> {
    let sink = stderr();
    sink.start(&mut sink.state())
}

/// For logging libraries: each write is one line (or several) of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineWriter;

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        line(String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stderr() -> &'static LogSink {
    static SINK: OnceLock<LogSink> = OnceLock::new();
    SINK.get_or_init(|| LogSink::new(Box::new(Stderr)))
}

/// The process's stderr, without the standard library's lock: whoever waits in a write must not keep others from one.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stderr().as_fd(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A queue of lines and the thread that writes them.
struct LogSink(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    work: Condvar,
    /// Something was written, or lost.
    progress: Condvar,
    output: Mutex<Box<dyn Write + Send>>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Entry>,
    bytes: usize,
    /// Lines lost since the last one that was queued.
    lost: u64,
    /// Whether the thread runs.
    started: bool,
    /// Whether a batch is being written.
    writing: bool,
    /// Batches done with.
    done: u64,
    /// `done` when someone last waited in vain.
    vain: Option<u64>,
}

enum Entry {
    Line(String),
    /// This many are missing here.
    Gap(u64),
}

impl LogSink {
    fn new(output: Box<dyn Write + Send>) -> LogSink {
        LogSink(Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            output: Mutex::new(output),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }

    fn push(&self, mut text: String) {
        text.truncate(text.trim_end_matches('\n').len());
        text.push('\n');
        let mut state = self.state();
        // Once some are lost it goes on with the queue half empty: a note about each single line would fill it, too.
        let share = if state.lost == 0 { 1 } else { 2 };
        if state.queue.len() >= LINES_MAX / share || state.bytes + text.len() > BYTES_MAX / share {
            state.lost += 1;
            return;
        }
        if state.lost > 0 {
            let gap = Entry::Gap(std::mem::take(&mut state.lost));
            state.queue.push_back(gap);
        }
        state.bytes += text.len();
        state.queue.push_back(Entry::Line(text));
        // Without a thread the lines wait for the next try, or for the end.
        let _ = self.start(&mut state);
        self.0.work.notify_one();
    }

    fn start(&self, state: &mut State) -> io::Result<()> {
        if !state.started {
            let shared = Arc::clone(&self.0);
            thread::Builder::new().name("log sink".to_owned()).spawn(move || shared.run())?;
            state.started = true;
        }
        Ok(())
    }

    fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        if !state.started && !state.queue.is_empty() && self.start(&mut state).is_err() {
            // No thread to be had, and the process cannot run: what it says about that is written here.
            drop(state);
            return self.0.write_all_here();
        }
        while state.writing || !state.queue.is_empty() {
            if state.vain == Some(state.done) {
                return false; // it stands still since someone waited
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.vain = Some(state.done);
                return false;
            }
            self.0.progress.wait_for(&mut state, left);
        }
        true
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each critical section leaves the state sound.
        self.state.lock()
    }

    fn output(&self) -> MutexGuard<'_, Box<dyn Write + Send>> {
        self.output.lock()
    }

    /// The thread.
    fn run(&self) {
        let mut trouble = Trouble::default();
        loop {
            let batch = self.next(&trouble);
            let result = write_whole(self.output().as_mut(), &batch.bytes);
            trouble = trouble.after(&batch, result);
            let mut state = self.state();
            state.writing = false;
            state.done += 1;
            self.progress.notify_all();
        }
    }

    /// Waits for something to write.
    fn next(&self, trouble: &Trouble) -> Batch {
        let mut state = self.state();
        loop {
            let mut batch = Batch::after(trouble);
            batch.fill(&mut state);
            if batch.has_new {
                state.writing = true;
                return batch;
            }
            if trouble.lost == 0 {
                self.work.wait(&mut state);
            } else if self.work.wait_for(&mut state, TELL_PAUSE).timed_out() {
                return batch;
            }
        }
    }

    /// Writes what is there, by the caller.
    fn write_all_here(&self) -> bool {
        let mut batch = Batch::default();
        let mut state = self.state();
        while !state.queue.is_empty() {
            batch.has_new = false;
            batch.fill(&mut state);
        }
        drop(state);
        write_whole(self.output().as_mut(), &batch.bytes).is_ok()
    }
}

/// What went wrong so far, and is not told yet.
#[derive(Default)]
struct Trouble {
    lost: u64,
    /// Whether the last line was written in part.
    torn: bool,
}

impl Trouble {
    fn after(self, batch: &Batch, result: Result<(), usize>) -> Trouble {
        let Err(written) = result else { return Trouble::default() };
        let lost = batch.ends.iter().filter(|(end, _)| *end > written).map(|(_, lines)| lines).sum();
        let torn = if written == 0 { self.torn } else { batch.bytes[written - 1] != b'\n' };
        Trouble { lost, torn }
    }
}

/// Whole lines that are written together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each line ends, and for how many lines it stands: one that tells of lost ones for those.
    ends: Vec<(usize, u64)>,
    has_new: bool,
}

impl Batch {
    fn after(trouble: &Trouble) -> Batch {
        let mut batch = Batch::default();
        if trouble.torn {
            batch.bytes.push(b'\n');
        }
        if trouble.lost > 0 {
            batch.tell(trouble.lost);
        }
        batch
    }

    /// Takes lines as long as they fit.
    fn fill(&mut self, state: &mut State) {
        while let Some(entry) = state.queue.front() {
            let is_line = matches!(entry, Entry::Line(text) if self.bytes.len() + text.len() <= WRITE_MAX_BYTES);
            if self.has_new && !is_line {
                return;
            }
            self.has_new = true;
            match state.queue.pop_front() {
                Some(Entry::Line(text)) => {
                    state.bytes -= text.len();
                    self.bytes.extend_from_slice(text.as_bytes());
                    self.ends.push((self.bytes.len(), 1));
                }
                Some(Entry::Gap(lost)) => self.tell(lost),
                None => {}
            }
        }
        // Nothing was queued after these, so nothing else will tell of them.
        if state.lost > 0 {
            self.has_new = true;
            self.tell(std::mem::take(&mut state.lost));
        }
    }

    fn tell(&mut self, lost: u64) {
        let lines = if lost == 1 { "log line was" } else { "log lines were" };
        let text = format!("[{}] {lost} {lines} lost\n", timestamp());
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push((self.bytes.len(), lost));
    }
}

/// Writes all of it, however long that takes; or tells how much was written before it failed.
fn write_whole(output: &mut dyn Write, bytes: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => return Err(written),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::fmt::format::Writer;
    use tracing_subscriber::fmt::time::FormatTime;

    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Someone who takes as much as each message allows, and fails as it says.
    struct Reader {
        allowed: Receiver<io::Result<usize>>,
        text: Arc<Mutex<String>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let allowed = self.allowed.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.text.lock().push_str(std::str::from_utf8(&bytes[..allowed]).unwrap());
            Ok(allowed)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Read = (LogSink, Sender<io::Result<usize>>, Arc<Mutex<String>>);

    fn sink() -> Read {
        let (sender, allowed) = channel();
        let text = Arc::new(Mutex::default());
        (LogSink::new(Box::new(Reader { allowed, text: Arc::clone(&text) })), sender, text)
    }

    /// What was written, with notes about lost lines without their time.
    fn written(text: &Mutex<String>) -> Vec<String> {
        let text = text.lock();
        text.lines().map(|line| line.split_once("] ").map_or(line, |(_, rest)| rest).to_owned()).collect()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn timestamp_is_a_date_and_a_time_of_fixed_width_that_sorts() {
        let (first, second) = (timestamp(), timestamp());
        let shape: String = first.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
        assert!(first <= second, "{first} {second}");
    }

    #[test]
    fn time_text_is_as_structured_logs_have_it_and_whole_for_any_time() {
        let mut logged = String::new();
        let (before, after);
        before = timestamp();
        tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(&mut logged)).unwrap();
        after = timestamp();
        assert!(before <= logged && logged <= after, "{before} {logged} {after}");

        let at = |seconds| time_text(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(47_541 * 86_400 - 1), "2100-02-28T23:59:59.000000Z");
        assert_eq!(at(47_541 * 86_400), "2100-03-01T00:00:00.000000Z", "no leap year");
        assert!(at(i64::MAX as u64).starts_with("9999-12-30T"), "{}", at(i64::MAX as u64));
        assert_eq!(time_text(UNIX_EPOCH - Duration::from_millis(1)), "1969-12-31T23:59:59.999000Z");
    }

    // covers B20
    #[test]
    fn push_to_one_who_does_not_read_never_waits_and_counts_what_is_lost() {
        let (sink, sender, text) = sink();
        // The thread may take a batch out of it before it is full, but not until it is half empty again.
        let pushed = LINES_MAX + WRITE_MAX_BYTES;
        for number in 0..pushed {
            sink.push(format!("{number}"));
        }
        assert!(!sink.flush(Duration::from_millis(1)));
        // Waiting again for someone who stands still would hold up each answer, or the end, again.
        assert!(!sink.flush(LONG));
        assert!(sink.state().queue.len() <= LINES_MAX);
        drop(sender);
        // As long as it stood still; it may have just begun to read.
        while !sink.flush(LONG) {}
        let lines = written(&text);
        let (note, whole) = lines.split_last().unwrap();
        assert_eq!(whole, (0..whole.len()).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(*note, format!("{} log lines were lost", pushed - whole.len()));
        assert!(whole.len() >= LINES_MAX);
    }

    #[test]
    fn push_long_lines_bounded_in_bytes() {
        let (sink, sender, text) = sink();
        for _ in 0..20 {
            sink.push("x".repeat(BYTES_MAX / 8));
            assert!(sink.state().bytes <= BYTES_MAX);
        }
        sink.push("y".repeat(BYTES_MAX + 1));
        drop(sender);
        while !sink.flush(LONG) {}
        let lines = written(&text);
        assert!(lines.len() <= 10, "{} lines", lines.len());
        assert_eq!(lines.last().unwrap(), &format!("{} log lines were lost", 21 - (lines.len() - 1)));
    }

    // covers B20
    #[test]
    fn push_write_that_fails_lines_lost_and_told_of_once_it_works_again() {
        let (sink, sender, text) = sink();
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        // It takes two bytes of the first line, and then fails.
        sender.send(Ok(2)).unwrap();
        sender.send(full()).unwrap();
        sink.push("first".into());
        assert!(sink.flush(LONG), "a line that is lost is not waited for");
        sender.send(full()).unwrap();
        sink.push("second".into());
        assert!(sink.flush(LONG));
        assert_eq!(written(&text), ["fi"]);
        drop(sender);
        sink.push("third".into());
        assert!(sink.flush(LONG));
        assert_eq!(written(&text), ["fi", "2 log lines were lost", "third"]);
    }

    // covers B20
    #[test]
    fn push_write_that_would_wait_or_is_short_goes_on_where_it_was() {
        let (sink, sender, text) = sink();
        let not_now = || Err(io::Error::from(io::ErrorKind::WouldBlock));
        for allowed in [not_now(), Ok(3), not_now(), Err(io::Error::from(io::ErrorKind::Interrupted)), Ok(1)] {
            sender.send(allowed).unwrap();
        }
        drop(sender);
        sink.push("first\n".into());
        sink.push("second".into());
        assert!(sink.flush(LONG));
        assert_eq!(written(&text), ["first", "second"]);
    }
}
