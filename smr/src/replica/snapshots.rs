//! Snapshots between the files, the engine and the network.
//!
//! The payload of a snapshot is the session table, then the state machine. A snapshot that arrives is verified and its
//! state built on a thread of its own of lower priority than the others; the replica thread only swaps the finished
//! state in, and hands the old one to another such thread, because letting go of a million records takes time, too.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::codec;
use crate::entry::GenesisHash;
use crate::fatal::Lifeline;
use crate::id::NodeId;
use crate::protocol::Protocol;
use crate::replica::engine::{Install, SnapshotImage};
use crate::replica::inbox::{InputSender, NodeInput};
use crate::replica::metrics::Meters;

use crate::report::Reporter;
use crate::session::SessionTable;
use crate::snapshot::{Incoming, SendingFile, SnapshotDir, SnapshotError, SnapshotInfo, SnapshotOffer, SnapshotReader};
use crate::state_machine::StateMachine;
use crate::transport::{NotBegun, Offer, SnapshotSink, SnapshotSource};

/// How far a thread that writes, verifies, builds or drops a state is lowered in priority. Not further: a
/// snapshot must be done before the log is full, also while requests take all processors.
const SNAPSHOT_NICE: i32 = 10;
/// After this many bytes of a snapshot whoever writes or reads it pauses.
const PACE_BYTES: usize = 512 << 10;
/// It pauses no longer than this at a time.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// It pauses this many times as long as it worked ...
const PAUSE_LONG: u32 = 3;
/// ... until it has paused for this long, and from then on as long as it worked: a large state must be written before
/// the log fills up.
const PAUSE_LONG_TOTAL: Duration = Duration::from_secs(2);
/// Having paused for this long it pauses no more: whoever waits for it waits for `CALL_MAX_MS` only.
const PAUSE_TOTAL_MAX: Duration = Duration::from_secs(20);

/// How full the log is, in thousandths, for whoever works at what will make room in it: the fuller, the less it pauses.
#[derive(Clone, Debug, Default)]
pub(super) struct Fullness(Arc<AtomicU32>);

/// From here on, in thousandths, a snapshot is in a hurry ...
const HURRY_PERMILLE: u32 = 375;
/// ... and from here on, where the writers are slowed down, it does not pause at all.
const URGENT_PERMILLE: u32 = 500;

impl Fullness {
    pub(super) fn set(&self, permille: u32) {
        self.0.store(permille, Ordering::Relaxed);
    }

    /// How long to pause for each time that was worked, at most.
    fn rest_times_max(&self) -> u32 {
        match self.0.load(Ordering::Relaxed) {
            ..HURRY_PERMILLE => PAUSE_LONG,
            HURRY_PERMILLE..URGENT_PERMILLE => 1,
            URGENT_PERMILLE.. => 0,
        }
    }
}

/// The replica's snapshot directory, as its threads use it.
#[derive(Clone)]
pub(super) struct SnapshotFiles {
    pub(super) dir: SnapshotDir,
    pub(super) fullness: Fullness,
}

impl SnapshotFiles {
    /// Writes a snapshot; its file's length in bytes. A snapshot that a received one has overtaken is no error.
    pub(super) fn take<S: StateMachine>(
        &self,
        image: SnapshotImage<S>,
        genesis: GenesisHash,
    ) -> Result<u64, SnapshotError> {
        let fullness = self.fullness.clone();
        let written = self.dir.write(&image.meta, genesis, |output| image.write(&mut Pacer::new(output, fullness)));
        match written {
            Ok(info) => Ok(info.len_bytes),
            Err(SnapshotError::Obsolete { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The newest snapshot, open for sending. `lost` is called if it is, or turns out to be, damaged: then it does not
    /// count any more (S8). If the disk fails, now or while it is read, the replica ends (D8).
    pub(super) fn open_newest(
        &self,
        watched: Watched,
        lost: impl Fn(String) + Send + 'static,
        advances: Arc<AtomicU64>,
    ) -> Result<Option<FileSource>, SnapshotError> {
        let Some(info) = self.dir.latest() else { return Ok(None) };
        let (files, doubtful) = (self.dir.clone(), info.clone());
        let lost = move |error: &SnapshotError| {
            watched.end_if_disk_failed("reading a snapshot", error);
            if let SnapshotError::Corrupt { .. } = error {
                files.doubt(&doubtful);
                lost(error.to_string());
            }
        };
        match self.dir.open_for_sending(&info) {
            Ok(file) => Ok(Some(FileSource::new(file, Box::new(lost), self.fullness.clone(), advances))),
            Err(error) => {
                lost(&error);
                Err(error)
            }
        }
    }

    /// The state that a snapshot holds.
    pub(super) fn restore<S: StateMachine>(
        &self,
        lifeline: &Lifeline,
        info: &SnapshotInfo,
    ) -> Result<(SessionTable, S), SnapshotError> {
        let reader = self.dir.read(info)?;
        // No one is served before it is here.
        aside(lifeline, move || build(Pacer { inner: reader, pauses: None }))
    }
}

/// Whom work at snapshots belongs to.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) reporter: Reporter,
    pub(super) lifeline: Lifeline,
}

impl Watched {
    /// Ends the replica if the disk is to blame: one that can neither read nor store snapshots, but goes on, is silent
    /// about it for ever (D7, D8). A file that is not there is none of that: a newer snapshot took its place.
    fn end_if_disk_failed(&self, doing: &str, error: &SnapshotError) {
        match error {
            SnapshotError::Disk { source, .. } if source.kind() != io::ErrorKind::NotFound => {
                self.lifeline.fail(self.reporter.who(), &format!("{doing} failed: {error}"));
            }
            // A state that is read from a file says so in its own words.
            SnapshotError::State(source) => {
                if let Some(inner) = source.get_ref().and_then(|inner| inner.downcast_ref()) {
                    self.end_if_disk_failed(doing, inner);
                }
            }
            _ => {}
        }
    }
}

/// On a thread of its own, because that one has a lower priority: the group serves meanwhile, perhaps on the same
/// processors.
pub(super) fn aside<T: Send + 'static>(
    lifeline: &Lifeline,
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    let run = move || {
        lower_priority();
        work()
    };
    let thread = std::thread::Builder::new().name("snapshot".to_owned()).spawn(run).map_err(SnapshotError::State)?;
    thread.join().unwrap_or_else(|payload| {
        lifeline.panicked("snapshot", payload.as_ref());
        Err(SnapshotError::State(io::Error::other("work at a snapshot panicked")))
    })
}

fn build<S: StateMachine>(mut reader: Pacer<SnapshotReader>) -> Result<(SessionTable, S), SnapshotError> {
    let sessions = SessionTable::restore(&mut reader).map_err(SnapshotError::State)?;
    let state = S::restore(&mut reader).map_err(SnapshotError::State)?;
    reader.inner.finish()?;
    Ok((sessions, state))
}

/// Lets go of a state: a large one takes its time, so elsewhere.
pub(super) fn drop_in_background<T: Send + 'static>(state: T) {
    let run = move || {
        lower_priority();
        drop(state);
    };
    // Without a thread for it, it goes here and now.
    let _ = std::thread::Builder::new().name("snapshot".to_owned()).spawn(run);
}

/// This thread, for the rest of its life, works only when others leave it time (Linux gives each thread its own
/// niceness).
pub(super) fn lower_priority() {
    // Where the system does not allow it, the snapshot is merely felt more.
    let _ = rustix::process::setpriority_process(None, SNAPSHOT_NICE);
}

/// Writes or reads on, but pauses longer than it works: a snapshot has time, and requests must not feel it. Its syncs
/// happen inside the writes, so a slow disk is left alone for longer.
pub(super) struct Pacer<T> {
    inner: T,
    /// `None`: it never pauses.
    pauses: Option<Pauses>,
}

impl<T> Pacer<T> {
    pub(super) fn new(inner: T, fullness: Fullness) -> Pacer<T> {
        Pacer { inner, pauses: Some(Pauses::new(fullness, PAUSE_TOTAL_MAX)) }
    }

    /// For a snapshot that was received: its group has one member less until it is in place.
    fn awaited(inner: T) -> Pacer<T> {
        Pacer { inner, pauses: Some(Pauses::new(Fullness::default(), PAUSE_LONG_TOTAL)) }
    }

    fn carried(&mut self, count: usize) {
        if let Some(pauses) = &mut self.pauses {
            pauses.carried(count);
        }
    }
}

/// When to pause, and for how long.
struct Pauses {
    /// Bytes that were carried since the last pause.
    bytes: usize,
    /// When that ended.
    began: Instant,
    /// For how long it has paused so far.
    total: Duration,
    /// After how much of that it pauses no more.
    total_max: Duration,
    fullness: Fullness,
}

impl Pauses {
    fn new(fullness: Fullness, total_max: Duration) -> Pauses {
        Pauses { bytes: 0, began: Instant::now(), total: Duration::ZERO, total_max, fullness }
    }

    fn carried(&mut self, count: usize) {
        self.bytes += count;
        if self.bytes >= PACE_BYTES {
            let pause = self.due(self.began.elapsed());
            std::thread::sleep(pause);
            (self.bytes, self.began, self.total) = (0, Instant::now(), self.total + pause);
        }
    }

    /// How long to pause after having worked for this long.
    fn due(&self, worked: Duration) -> Duration {
        let times = match self.total {
            total if total >= self.total_max => 0,
            total if total < PAUSE_LONG_TOTAL => PAUSE_LONG,
            _ => 1,
        };
        (worked * times.min(self.fullness.rest_times_max())).min(PAUSE_MAX)
    }
}

impl io::Write for Pacer<&mut dyn io::Write> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.carried(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl io::Read for Pacer<SnapshotReader> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.carried(count);
        Ok(count)
    }
}

/// A snapshot file on its way out.
pub(super) struct FileSource {
    file: Mutex<(SendingFile, OnError)>,
    offer: Offer,
    fullness: Fullness,
    /// Counts up whenever the receiver gets further.
    advances: Arc<AtomicU64>,
}

type OnError = Box<dyn Fn(&SnapshotError) + Send>;

impl FileSource {
    fn new(file: SendingFile, on_error: OnError, fullness: Fullness, advances: Arc<AtomicU64>) -> FileSource {
        let info = file.info();
        let offer = Offer {
            header: codec::encode(&info.offer()),
            last: info.meta.last,
            len_bytes: info.len_bytes,
            fingerprint: info.fingerprint,
        };
        FileSource { file: Mutex::new((file, on_error)), offer, fullness, advances }
    }
}

impl SnapshotSource for FileSource {
    fn offer(&self) -> Offer {
        self.offer.clone()
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut guard = self.file.lock();
        let (file, on_error) = &mut *guard;
        file.read_at(offset, len).map(Vec::from).map_err(|error| {
            on_error(&error);
            io::Error::other(error)
        })
    }

    fn rest(&self, worked: Duration) -> Duration {
        (worked * self.fullness.rest_times_max().min(1)).min(crate::transport::REST_MAX)
    }

    fn advanced(&self) {
        self.advances.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes in what the leader sends, and hands the finished state to the replica thread.
pub(super) struct Intake<P: Protocol, S: StateMachine> {
    files: SnapshotFiles,
    /// Empty until the replica is initialized.
    genesis: Arc<OnceLock<GenesisHash>>,
    inputs: InputSender<P, S>,
    watched: Watched,
    meters: Arc<Meters>,
    incoming: Mutex<Option<Incoming>>,
}

impl<P: Protocol, S: StateMachine> Intake<P, S> {
    pub(super) fn new(
        files: SnapshotFiles,
        genesis: Arc<OnceLock<GenesisHash>>,
        inputs: InputSender<P, S>,
        watched: Watched,
        meters: Arc<Meters>,
    ) -> Intake<P, S> {
        Intake { files, genesis, inputs, watched, meters, incoming: Mutex::new(None) }
    }

    /// What the sender hears of an error. If the disk failed the replica ends.
    fn refusal(&self, error: SnapshotError) -> SnapshotError {
        self.watched.end_if_disk_failed("receiving a snapshot", &error);
        error
    }
}

impl<P: Protocol, S: StateMachine> SnapshotSink for Intake<P, S> {
    fn begin(&self, from: NodeId, offer: &Offer) -> Result<u64, NotBegun> {
        let offer: SnapshotOffer =
            codec::decode(&offer.header).map_err(|error| NotBegun::Refused(error.to_string()))?;
        let Some(genesis) = self.genesis.get() else {
            return Err(NotBegun::Early(format!("{from} offers a snapshot before this replica is in a group")));
        };
        if *genesis != offer.genesis {
            return Err(NotBegun::Refused(format!(
                "the snapshot of {from} is of another group's genesis, {}",
                offer.genesis
            )));
        }
        let mut current = self.incoming.lock();
        // What was under way is given up first; an equal offer resumes from its file.
        *current = None;
        let incoming = self.files.dir.receive(offer);
        let incoming = incoming.map_err(|error| NotBegun::Refused(self.refusal(error).to_string()))?;
        let offset = incoming.offset();
        *current = Some(incoming);
        self.meters.intake.was(Duration::ZERO);
        Ok(offset)
    }

    fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut current = self.incoming.lock();
        let incoming = current.as_mut().ok_or_else(|| io::Error::other("no snapshot is under way"))?;
        self.meters.intake.was(Duration::ZERO);
        incoming.append(offset, bytes).map_err(|error| io::Error::other(self.refusal(error)))
    }

    fn finish(&self) -> io::Result<()> {
        let current = self.incoming.lock().take();
        let incoming = current.ok_or_else(|| io::Error::other("no snapshot is under way"))?;
        let built = aside(&self.watched.lifeline, move || {
            let file = incoming.finish()?;
            Ok((build(Pacer::awaited(file.read()?))?, file))
        });
        let ((sessions, state), file) = built.map_err(|error| io::Error::other(self.refusal(error)))?;
        let len_bytes = file.info().len_bytes;
        let install = Install { meta: file.info().meta.clone(), sessions, state, file };
        let told = self.inputs.tell(NodeInput::SnapshotBuilt(Box::new(install), len_bytes));
        if told { Ok(()) } else { Err(io::Error::other("the replica has stopped")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_are_long_at_first_then_as_long_as_the_work_and_end_when_they_have_taken_their_time() {
        let worked = Duration::from_millis(5);
        let fullness = Fullness::default();
        let mut pauses = Pauses::new(fullness.clone(), PAUSE_TOTAL_MAX);
        assert_eq!(pauses.due(worked), worked * PAUSE_LONG);
        assert_eq!(pauses.due(Duration::from_secs(1)), PAUSE_MAX);
        pauses.total = PAUSE_LONG_TOTAL;
        assert_eq!(pauses.due(worked), worked);
        pauses.total = PAUSE_TOTAL_MAX;
        assert_eq!(pauses.due(worked), Duration::ZERO);
        pauses.total = Duration::ZERO;
        fullness.set(HURRY_PERMILLE);
        assert_eq!(pauses.due(worked), worked);
        fullness.set(URGENT_PERMILLE);
        assert_eq!(pauses.due(worked), Duration::ZERO);
    }

    // covers D16
    #[test]
    fn table_of_a_newer_version_calls_for_a_newer_build_and_a_damaged_file_does_not() {
        let newer = SessionTable::restore(&mut &b"SES9"[..]).expect_err("a table of a version to come");
        assert!(SnapshotError::State(newer).is_of_another_format());
        let damaged = SnapshotError::Corrupt { path: "s".into(), what: "a flipped bit".to_owned() };
        assert!(!SnapshotError::State(damaged.into()).is_of_another_format(), "the file says so, not the state");
        let ends_early = SessionTable::restore(&mut &b"SES2"[..]).expect_err("half a table");
        assert!(!SnapshotError::State(ends_early).is_of_another_format());
    }
}
