//! What a replica's logic asks of the disk when a snapshot of its leader is put in place, in which order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod snapshot_support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smr::entry::{EntryId, HardState, Index, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::internals::admin::RaftAdmin;
use smr::internals::disk::{Disk, RealDisk};
use smr::internals::engine::{
    Action, Engine, EngineStart, Install, LOG_LIMITS, LogLimits, Portion, UNCOMMITTED_ENTRIES_MAX,
};
use smr::internals::protocol::{LogChange, Protocol as _, Recovered, Time};
use smr::internals::raft::{Raft, Settings};
use smr::internals::session::SessionTable;
use smr::internals::snapshot::ReceivedSnapshot;
use smr::state_machine::{Answer, Image, StateMachine};
use smr::status::ServiceState;
use snapshot_support::*;

/// A state without content, which counts how many of it are gone.
#[derive(Clone, Default)]
struct Nothing {
    gone: Arc<AtomicUsize>,
    /// Whom it has inherited from.
    inherited: Arc<Mutex<Option<Arc<AtomicUsize>>>>,
}

impl Drop for Nothing {
    fn drop(&mut self) {
        self.gone.fetch_add(1, Ordering::SeqCst);
    }
}

impl Image for Nothing {
    fn write(&self, _: &mut dyn std::io::Write) -> std::io::Result<()> {
        Ok(())
    }
}

impl StateMachine for Nothing {
    type Image = Nothing;

    fn apply(&mut self, _: Index, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    fn query(&self, _: &[u8]) -> Answer {
        Answer::Now(Vec::new())
    }

    fn image(&self) -> Nothing {
        self.clone()
    }

    fn restore(_: &mut dyn std::io::Read) -> std::io::Result<Nothing> {
        Ok(Nothing::default())
    }

    fn inherit(&mut self, from: &Nothing) {
        *self.inherited.lock().unwrap() = Some(from.gone.clone());
    }
}

/// A snapshot as it is when the last byte of it has come.
fn received(meta: &SnapshotMeta) -> (tempfile::TempDir, ReceivedSnapshot) {
    let temp = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (sender, _) = open(&disk, &temp.path().join("sender"));
    let (receiver, _) = open(&disk, &temp.path().join("receiver"));
    let info = write(&sender, meta, &state(1, 100)).unwrap();
    let mut incoming = receiver.receive(info.offer()).unwrap();
    send(&mut sender.open_for_sending(&info).unwrap(), &mut incoming, u64::MAX).unwrap();
    (temp, incoming.finish().unwrap())
}

/// An empty replica of term 3.
fn engine(state: Nothing) -> Engine<Raft, Nothing> {
    let hard_state = HardState { term: Term(3), vote: None, lease_us: 0 };
    let recovered = Recovered { stored: hard_state.into(), ..Recovered::default() };
    let core = Raft::new(Settings::default(), NodeId::new(0, 10), recovered, ChaCha8Rng::seed_from_u64(1), Time(0));
    Engine::new(EngineStart {
        group: group(),
        service_state: ServiceState::InService,
        healing: None,
        sync_mode: String::new(),
        core,
        admin: Box::new(RaftAdmin::default()),
        state,
        sessions: SessionTable::new(),
        snapshot: EntryId::ZERO,
        snapshot_len_bytes: 0,
        log_limits: LogLimits { snapshot_bytes: usize::MAX / 16..=usize::MAX / 16, ..LOG_LIMITS },
        digest_every_entries: smr::internals::engine::DIGEST_EVERY_ENTRIES,
        nonce_seed: 1,
        uncommitted_entries_max: UNCOMMITTED_ENTRIES_MAX,
        portion: Portion::default(),
    })
}

fn install(meta: &SnapshotMeta, file: ReceivedSnapshot, state: Nothing) -> Install<Nothing> {
    Install { meta: meta.clone(), sessions: SessionTable::new(), state, file }
}

// covers S5: the disk does what it is asked in order, so after a crash in the middle the log may still reach back too
// far, but never begins after the newest snapshot, which would be quarantine for a sound directory.
#[test]
fn install_puts_the_snapshot_in_its_place_before_the_log_is_changed_for_it() {
    let meta = meta(50, 3);
    let mut engine = engine(Nothing::default());
    let (_temp, file) = received(&meta);
    let len_bytes = file.info().len_bytes;
    assert!(engine.install(Time(1), install(&meta, file, Nothing::default()), len_bytes));
    let actions = engine.take_actions();
    let adopts = actions.iter().position(|action| matches!(action, Action::PublishSnapshot(_)));
    let changes = actions.iter().position(|action| match action {
        Action::Write(write) => write.log().iter().any(|change| matches!(change, LogChange::Install(_))),
        _ => false,
    });
    assert!(adopts.is_some() && changes.is_some(), "the snapshot is adopted {adopts:?}, the log changed {changes:?}");
    assert!(adopts < changes, "the snapshot is adopted {adopts:?}, after the log was changed {changes:?}");
}

#[test]
fn installed_state_inherits_from_the_one_whose_place_it_takes() {
    let meta = meta(50, 3);
    let (old, new) = (Nothing::default(), Nothing::default());
    let (before, inherited) = (old.gone.clone(), new.inherited.clone());
    let mut engine = engine(old);
    let (_temp, file) = received(&meta);
    let len_bytes = file.info().len_bytes;
    assert!(engine.install(Time(1), install(&meta, file, new), len_bytes));
    assert!(inherited.lock().unwrap().as_ref().is_some_and(|from| Arc::ptr_eq(from, &before)));
}

// Heartbeats and votes wait for the turn, and a million records take their time to go.
#[test]
fn state_that_is_not_needed_any_more_is_not_dropped_in_the_turn() {
    let meta = meta(50, 3);
    let (old, new, late) = (Nothing::default(), Nothing::default(), Nothing::default());
    let gone = [&old, &new, &late].map(|state| Arc::clone(&state.gone));
    let gone = || gone.each_ref().map(|gone| gone.load(Ordering::SeqCst));
    let mut engine = engine(old);
    for (state, accepted, gone_after) in [(new, true, [1, 0, 0]), (late, false, [1, 0, 1])] {
        let before = gone();
        let (_temp, file) = received(&meta);
        let len_bytes = file.info().len_bytes;
        assert_eq!(engine.install(Time(1), install(&meta, file, state), len_bytes), accepted);
        let actions = engine.take_actions();
        assert_eq!(gone(), before);
        drop(actions);
        assert_eq!(gone(), gone_after);
    }
}

// covers L22: entries that were cut before they were applied are gone, and whoever misses them must not go on.
#[test]
#[should_panic(expected = "entries from 50 on are needed")]
fn committed_entries_under_the_start_of_the_log_stop_the_core() {
    let mut engine = engine(Nothing::default());
    let meta = meta(50, 3);
    let (_temp, file) = received(&meta);
    let len_bytes = file.info().len_bytes;
    assert!(engine.install(Time(1), install(&meta, file, Nothing::default()), len_bytes));
    engine.core().committed_from(Index(50), 1, 1);
}
