//! The session table against a naive model of it, over random histories: duplicates, gaps, reuse, eviction, restarts.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use smr::entry::Index;
use smr::id::{ClientId, REQUESTS_IN_FLIGHT_MAX};
use smr::internals::session::{ANSWER_OVERHEAD_BYTES, SessionCommand, SessionImage, SessionLimits, SessionTable};
use smr::replica::Outcome;

/// Small, so that eviction is common: room for three sessions and about five answers.
const LIMITS: SessionLimits = SessionLimits { sessions_max: 3, answers_max_bytes: 5 * (ANSWER_OVERHEAD_BYTES + 24) };

/// The table as one would write it without a thought of speed: what the module's head says, line by line.
#[derive(Clone, Default)]
struct Model {
    sessions: BTreeMap<u64, ModelSession>,
}

#[derive(Clone)]
struct ModelSession {
    last_used: u64,
    lowest: u64,
    executed: BTreeMap<u64, ModelAnswer>,
}

#[derive(Clone)]
struct ModelAnswer {
    index: u64,
    command: Bytes,
    answer: Option<Bytes>,
}

/// An outcome without the wording of a refusal.
#[derive(Debug, PartialEq, Clone)]
enum Seen {
    Opened(u64),
    Answer(Bytes),
    Expired,
    Gone,
    Refused,
    Done,
}

fn seen(outcome: Outcome) -> Seen {
    match outcome {
        Outcome::SessionOpened(client) => Seen::Opened(client.index),
        Outcome::Answer(answer) => Seen::Answer(answer),
        Outcome::SessionExpired => Seen::Expired,
        Outcome::AnswerGone => Seen::Gone,
        Outcome::Refused(_) => Seen::Refused,
        Outcome::Done => Seen::Done,
        other => panic!("{other:?} from a session table"),
    }
}

/// The session that the entry at this index opens: every second one as in a log of an earlier build.
fn named(index: u64) -> ClientId {
    ClientId { index, nonce: index % 2 }
}

impl Model {
    fn apply(&mut self, index: u64, command: &SessionCommand, run: impl FnOnce(&[u8]) -> Vec<u8>) -> Seen {
        match command {
            SessionCommand::Open { nonce } => {
                let session = ModelSession { last_used: index, lowest: 1, executed: BTreeMap::new() };
                self.sessions.insert(index, session);
                if self.sessions.len() > LIMITS.sessions_max {
                    let unused = |client: u64, session: &ModelSession| session.last_used == client;
                    let count = self.sessions.iter().filter(|(client, session)| unused(**client, session)).count();
                    // Of three, one may be unused; earlier builds made no difference.
                    let any = count <= 1 || *nonce == 0;
                    let candidates = self.sessions.iter().filter(|(client, session)| any || unused(**client, session));
                    let oldest = *candidates.min_by_key(|(_, session)| session.last_used).unwrap().0;
                    self.sessions.remove(&oldest);
                }
                Seen::Opened(index)
            }
            SessionCommand::Idempotent { command } => Seen::Answer(run(command).into()),
            // Sessions are none of its business.
            SessionCommand::Addresses { .. } => Seen::Done,
            SessionCommand::Write { client, number, lowest_unanswered, command } => {
                let Some(session) = self.sessions.get_mut(&client.index) else { return Seen::Expired };
                session.last_used = index;
                if *number == 0 || *lowest_unanswered == 0 || lowest_unanswered > number {
                    return Seen::Refused;
                }
                if *number < session.lowest {
                    return Seen::Gone;
                }
                let lowest = session.lowest.max(*lowest_unanswered);
                if *number - lowest >= REQUESTS_IN_FLIGHT_MAX {
                    return Seen::Refused;
                }
                if let Some(done) = session.executed.get(number) {
                    let seen = match &done.answer {
                        None => Seen::Gone,
                        Some(_) if done.command != *command => return Seen::Refused,
                        Some(answer) => Seen::Answer(answer.clone()),
                    };
                    session.raise(lowest);
                    return seen;
                }
                session.raise(lowest);
                let answer = Bytes::from(run(command));
                let done = ModelAnswer { index, command: command.clone(), answer: Some(answer.clone()) };
                session.executed.insert(*number, done);
                self.evict_answers();
                Seen::Answer(answer)
            }
        }
    }

    fn answers_bytes(&self) -> usize {
        let done = self.sessions.values().flat_map(|session| session.executed.values());
        done.filter_map(|done| done.answer.as_ref()).map(|answer| ANSWER_OVERHEAD_BYTES + answer.len()).sum()
    }

    fn evict_answers(&mut self) {
        while self.answers_bytes() > LIMITS.answers_max_bytes {
            let done = self.sessions.values_mut().flat_map(|session| session.executed.values_mut());
            done.filter(|done| done.answer.is_some()).min_by_key(|done| done.index).unwrap().answer = None;
        }
    }
}

impl ModelSession {
    fn raise(&mut self, lowest: u64) {
        self.lowest = lowest;
        self.executed.retain(|number, _| *number >= lowest);
    }
}

/// A step of a history, in terms of what there is by then.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Idempotent(u8),
    /// To the `client`-th session ever opened, `ahead` of its lowest number; says that the lowest number rose.
    Write {
        client: usize,
        ahead: u64,
        rise: u64,
        command: u8,
    },
    /// Any numbers, to any session.
    Wild {
        client: u64,
        number: u64,
        lowest: u64,
    },
    /// The same as some steps before, again.
    Repeat {
        back: usize,
    },
    /// The replica restarts from a snapshot, or another one is restored from it.
    Restore,
    /// An image is taken, and looked at in the end.
    Image,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ahead = prop_oneof![8 => 0..4u64, 1 => REQUESTS_IN_FLIGHT_MAX - 2..REQUESTS_IN_FLIGHT_MAX + 2];
    let rise = prop_oneof![6 => Just(0), 4 => 1..3u64, 1 => REQUESTS_IN_FLIGHT_MAX - 1..2 * REQUESTS_IN_FLIGHT_MAX];
    let edge = prop_oneof![0..4u64, Just(u64::MAX - 1), Just(u64::MAX), any::<u64>()];
    let step = prop_oneof![
        3 => Just(Step::Open),
        1 => any::<u8>().prop_map(Step::Idempotent),
        20 => (0..6usize, ahead, rise, 0..3u8).prop_map(|(client, ahead, rise, command)| Step::Write {
            client,
            ahead,
            rise,
            command
        }),
        1 => (edge.clone(), edge.clone(), edge).prop_map(|(client, number, lowest)| Step::Wild {
            client,
            number,
            lowest
        }),
        8 => (0..12usize).prop_map(|back| Step::Repeat { back }),
        1 => Just(Step::Restore),
        1 => Just(Step::Image),
    ];
    prop::collection::vec(step, 1..120)
}

/// A table and its model, in lockstep.
struct Pair {
    table: SessionTable,
    model: Model,
    index: u64,
    opened: Vec<u64>,
    history: Vec<SessionCommand>,
    /// Images with the bytes that they had when they were taken.
    images: Vec<(SessionImage, Vec<u8>)>,
    /// For each executed request its entry (I13).
    effects: BTreeMap<(u64, u64), u64>,
}

fn written(image: &SessionImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    bytes
}

impl Pair {
    fn new() -> Pair {
        Pair {
            table: SessionTable::with_limits(LIMITS),
            model: Model::default(),
            index: 0,
            opened: Vec::new(),
            history: Vec::new(),
            images: Vec::new(),
            effects: BTreeMap::new(),
        }
    }

    fn open(&mut self) -> TestCaseResult {
        self.apply(SessionCommand::Open { nonce: named(self.index + 1).nonce })
    }

    fn step(&mut self, step: &Step) -> TestCaseResult {
        match *step {
            Step::Open => self.open(),
            Step::Idempotent(command) => {
                self.apply(SessionCommand::Idempotent { command: Bytes::copy_from_slice(&[command]) })
            }
            Step::Write { client, ahead, rise, command } => {
                let client = self.opened.iter().rev().nth(client).copied().unwrap_or(self.index + 3);
                let lowest = self.model.sessions.get(&client).map_or(1, |session| session.lowest);
                let lowest_unanswered = lowest.saturating_add(rise);
                self.apply(SessionCommand::Write {
                    client: named(client),
                    number: lowest_unanswered.saturating_add(ahead),
                    lowest_unanswered,
                    command: Bytes::copy_from_slice(&[command]),
                })
            }
            Step::Wild { client, number, lowest } => self.apply(SessionCommand::Write {
                client: named(client),
                number,
                lowest_unanswered: lowest,
                command: Bytes::new(),
            }),
            Step::Repeat { back } => match self.history.iter().rev().nth(back).cloned() {
                // A session of its own, and named by its own entry.
                Some(SessionCommand::Open { .. }) => self.open(),
                Some(command) => self.apply(command),
                None => Ok(()),
            },
            Step::Restore => {
                let bytes = written(&self.table.image());
                let mut input = bytes.as_slice();
                let restored = SessionTable::restore_with_limits(&mut input, LIMITS).unwrap();
                prop_assert!(input.is_empty());
                prop_assert_eq!(restored.digest(), self.table.digest());
                prop_assert_eq!(restored.answers_bytes(), self.table.answers_bytes());
                prop_assert_eq!(written(&restored.image()), bytes);
                self.table = restored;
                Ok(())
            }
            Step::Image => {
                let image = self.table.image();
                let bytes = written(&image);
                self.images.push((image, bytes));
                Ok(())
            }
        }
    }

    fn apply(&mut self, command: SessionCommand) -> TestCaseResult {
        self.index += 1;
        let index = self.index;
        let command = SessionCommand::decode(&command.encode()).unwrap();
        // The answer tells which execution it came from, and is of varying length.
        let answer = |command: &[u8]| {
            let mut answer = format!("{index}:{command:?}").into_bytes();
            answer.resize(answer.len() + (index % 40) as usize, b'.');
            answer
        };

        let at_once = match &command {
            SessionCommand::Write { client, number, lowest_unanswered, command } => {
                self.table.check(*client, *number, *lowest_unanswered, command).map(seen)
            }
            _ => None,
        };
        let mut runs = 0;
        let outcome = seen(self.table.apply(Index(index), &command, |bytes| {
            runs += 1;
            answer(bytes)
        }));
        let mut expected_runs = 0;
        let expected = self.model.apply(index, &command, |bytes| {
            expected_runs += 1;
            answer(bytes)
        });
        prop_assert_eq!(&outcome, &expected, "entry {}: {:?}", index, &command);
        prop_assert_eq!(runs, expected_runs);
        if let Some(at_once) = at_once {
            prop_assert_eq!(&at_once, &outcome, "the answer on arrival is not that of the log");
            prop_assert_eq!(runs, 0, "what was not done yet was answered on arrival");
        }
        if let (SessionCommand::Write { client, number, .. }, true) = (&command, runs > 0) {
            let before = self.effects.insert((client.index, *number), index);
            prop_assert_eq!(before, None, "request {} of {} took effect twice", number, client.index);
        }
        prop_assert_eq!(self.table.len(), self.model.sessions.len());
        prop_assert_eq!(self.table.answers_bytes(), self.model.answers_bytes());
        prop_assert!(self.table.len() <= LIMITS.sessions_max);
        prop_assert!(self.table.answers_bytes() <= LIMITS.answers_max_bytes);
        if let Seen::Opened(client) = outcome {
            self.opened.push(client);
        }
        self.history.push(command);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    // covers C2, C3, C4, C5, C6, C7, I13
    #[test]
    fn table_over_any_history_does_what_the_model_does(steps in steps()) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step)?;
        }
        for (image, bytes) in &pair.images {
            prop_assert!(written(image) == *bytes, "an image changed after it was taken");
        }
    }

    // covers C3, C5, S10
    #[test]
    fn replica_restored_at_any_point_ends_in_the_same_state(steps in steps(), at in 0..120usize) {
        let run = |restore_at: Option<usize>| {
            let mut pair = Pair::new();
            for (number, step) in steps.iter().enumerate() {
                if restore_at == Some(number) {
                    pair.step(&Step::Restore)?;
                }
                pair.step(step)?;
            }
            Ok::<_, TestCaseError>(written(&pair.table.image()))
        };
        prop_assert_eq!(run(None)?, run(Some(at))?);
    }

    // covers B1
    #[test]
    fn restore_of_damaged_bytes_is_an_error_or_a_sound_table(
        steps in steps(),
        position in any::<prop::sample::Index>(),
        flip in 1..=255u8,
    ) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.step(step)?;
        }
        let bytes = written(&pair.table.image());
        let at = position.index(bytes.len());
        let mut cut = &bytes[..at];
        prop_assert!(SessionTable::restore_with_limits(&mut cut, LIMITS).is_err());

        let mut damaged = bytes.clone();
        damaged[at] ^= flip;
        if let Ok(mut table) = SessionTable::restore_with_limits(&mut damaged.as_slice(), LIMITS) {
            // Where the damage makes another sound table, its bookkeeping holds: it can be used, filled and emptied.
            let start = table.applied().0.min(u64::MAX - 100);
            prop_assert!(table.len() <= LIMITS.sessions_max && table.answers_bytes() <= LIMITS.answers_max_bytes);
            for index in (start + 1..start + 50).step_by(2) {
                let outcome = table.apply(Index(index), &SessionCommand::Open { nonce: 0 }, |_| Vec::new());
                let client = ClientId::at(index);
                prop_assert_eq!(outcome, Outcome::SessionOpened(client));
                // A senseless request is a sign of life, too: it counts among those that are used.
                let (number, lowest_unanswered) = (0, 0);
                let senseless = SessionCommand::Write { client, number, lowest_unanswered, command: Bytes::new() };
                prop_assert!(matches!(table.apply(Index(index + 1), &senseless, |_| Vec::new()), Outcome::Refused(_)));
            }
            prop_assert_eq!(table.answers_bytes(), 0);
        }
    }

    // covers B1, L20
    #[test]
    fn command_of_arbitrary_bytes_decodes_to_itself_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let bytes = Bytes::from(bytes);
        if let Ok(command) = SessionCommand::decode(&bytes) {
            let encoded = command.encode();
            // What older builds wrote is written in today's form.
            if !matches!(bytes.first(), Some(1 | 2)) {
                prop_assert_eq!(&encoded, &bytes);
            }
            prop_assert_eq!(SessionCommand::decode(&encoded), Ok(command));
        }
    }
}
