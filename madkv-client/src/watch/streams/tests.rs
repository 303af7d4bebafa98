//! Watches of a model of partitions, whose slots move, whose answers come late and in parts, in any order.

use madkv_proto::command::Command;
use madkv_proto::map::Partition;
use madkv_proto::slots::SLOTS;
use proptest::prelude::*;
use smr::id::ClusterId;

use super::*;

const KEYS: [&str; 4] = ["k0", "k1", "k2", "k3"];
const PARTITIONS: u16 = 3;

fn slot(key: &str) -> SlotSet {
    let slot = slot_of(key.as_bytes());
    SlotSet::range(slot, slot + 1)
}

/// A move that is under way.
struct Move {
    key: usize,
    to: usize,
    epoch: u64,
    is_released: bool,
}

/// What the partitions of the store have.
struct World {
    map: ClusterMap,
    /// The notifications of each partition, by index.
    logs: Vec<Vec<(u64, Bytes)>>,
    positions: Vec<u64>,
    /// Who owns each key by the state of the partitions; `None` between release and own.
    owners: Vec<Option<usize>>,
    epochs: Vec<u64>,
    moves: Option<Move>,
    /// The values of each key, in order.
    written: Vec<Vec<u64>>,
    values: u64,
}

impl World {
    fn new() -> World {
        let second = KEYS[1..].iter().fold(SlotSet::default(), |all, key| all.with(&slot(key)));
        let slots = [SlotSet::range(0, SLOTS).without(&second), second, SlotSet::default()];
        let partition = |slots: SlotSet| Partition { slots, servers: vec!["127.0.0.1:1".to_owned()], is_store: true };
        let mut partitions: Vec<Partition> = slots.map(partition).into();
        // The last one is of another service. It knows no answer: asking it panics.
        partitions.push(Partition { is_store: false, ..partition(SlotSet::default()) });
        World {
            map: ClusterMap { cluster: ClusterId(7), epoch: 1, partitions },
            logs: vec![Vec::new(); PARTITIONS.into()],
            positions: vec![0; PARTITIONS.into()],
            owners: vec![Some(0), Some(1), Some(1), Some(1)],
            epochs: vec![0; PARTITIONS.into()],
            moves: None,
            written: vec![Vec::new(); KEYS.len()],
            values: 0,
        }
    }

    fn emit(&mut self, partition: usize, notification: Bytes) {
        self.positions[partition] += 1;
        self.logs[partition].push((self.positions[partition], notification));
    }

    /// Writes to a key, if someone takes it: one that is to move is frozen.
    fn write(&mut self, key: usize) {
        let is_frozen = self.moves.as_ref().is_some_and(|moves| moves.key == key);
        let Some(owner) = self.owners[key].filter(|_| !is_frozen) else { return };
        self.values += 1;
        self.written[key].push(self.values);
        self.emit(owner, Command::Put { key: KEYS[key].as_bytes(), value: &self.values.to_le_bytes() }.encode());
    }

    /// The next step of the move that is under way, or of a new one.
    fn step_move(&mut self, key: usize, to: usize) {
        let moved = |epoch, left, came| SlotsMoved { epoch, left, came }.encode();
        match self.moves.take() {
            None => {
                let Some(from) = self.owners[key].filter(|from| *from != to) else { return };
                self.map.epoch += 1;
                let slots = slot(KEYS[key]);
                self.map.partitions[from].slots = self.map.partitions[from].slots.without(&slots);
                self.map.partitions[to].slots = self.map.partitions[to].slots.with(&slots);
                self.moves = Some(Move { key, to, epoch: self.map.epoch, is_released: false });
            }
            Some(Move { key, to, epoch, is_released: false }) => {
                let Some(from) = self.owners[key].take() else { panic!("no one to release") };
                self.emit(from, moved(epoch, slot(KEYS[key]), SlotSet::default()));
                self.epochs[from] = epoch;
                self.moves = Some(Move { key, to, epoch, is_released: true });
            }
            Some(Move { key, to, epoch, is_released: true }) => {
                self.emit(to, moved(epoch, SlotSet::default(), slot(KEYS[key])));
                (self.owners[key], self.epochs[to]) = (Some(to), epoch);
            }
        }
    }

    /// An answer of at most this many notifications.
    fn answer(&self, question: &Question, key: Option<&str>, count_max: usize) -> Heard {
        let partition = usize::from(question.partition);
        let position = self.positions[partition];
        if let Some(key) = key.filter(|_| question.begins)
            && self.owners[KEYS.iter().position(|known| *known == key).unwrap()] != Some(partition)
        {
            return Heard::Elsewhere { epoch: self.epochs[partition] };
        }
        let came = |since: u64, notification: &Bytes| {
            matches!(Notice::decode(notification),
                Ok(Notice::Slots(SlotsMoved { epoch, came, .. })) if epoch >= since && !came.is_empty())
        };
        let log = &self.logs[partition];
        let from = match question.from {
            WatchFrom::Now => position + 1,
            WatchFrom::Index(index) => index,
            WatchFrom::Slots { epoch } => {
                log.iter().find(|(_, item)| came(epoch, item)).map_or(position + 1, |(index, _)| *index)
            }
        };
        let concerns = |item: &Bytes| match Notice::decode(item).unwrap() {
            Notice::Changed { key: changed, .. } => key.is_none_or(|key| changed == key.as_bytes()),
            Notice::Slots(_) => true,
        };
        let later: Vec<_> = log.iter().filter(|(index, _)| *index >= from).cloned().collect();
        let is_end = later.len() <= count_max;
        let position = if is_end { position } else { later[count_max - 1].0 };
        let items = later.into_iter().take(count_max).filter(|(_, item)| concerns(item)).collect();
        let answer = WatchAnswer::Changes { items, position, is_end, epoch: self.epochs[partition] };
        Heard::Answer { answer, genesis: 1 + u128::from(question.partition) }
    }
}

/// What is done next.
#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Move(usize, usize),
    /// A partition answers a question; the answer travels.
    Answer(usize, usize),
    /// An answer arrives.
    Arrive(usize),
    /// A map arrives.
    Map,
    /// Whatever is wanted is wanted soon.
    Mark,
    /// Another watch goes on where this one is, if that can be said.
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..KEYS.len()).prop_map(Step::Write),
        3 => (0..KEYS.len(), 0..usize::from(PARTITIONS)).prop_map(|(key, to)| Step::Move(key, to)),
        4 => (0..8usize, 1..4usize).prop_map(|(which, count)| Step::Answer(which, count)),
        4 => (0..8usize).prop_map(Step::Arrive),
        1 => Just(Step::Map),
        1 => Just(Step::Mark),
        1 => Just(Step::Resume),
    ]
}

/// A watch of the world, and what is on its way to it.
struct Watching {
    world: World,
    key: Option<&'static str>,
    streams: Streams,
    questions: Vec<Question>,
    answers: Vec<(Question, Heard)>,
    told: Vec<Vec<u64>>,
    /// How many values of each key had been written when the watch had begun.
    begun_at: Option<Vec<usize>>,
    /// It was told that it cannot go on where another one was.
    is_over: bool,
}

impl Watching {
    fn new(key: Option<&'static str>, start: WatchStart) -> Watching {
        let world = World::new();
        let streams = Streams::new(key.map(|key| Bytes::from_static(key.as_bytes())), start, &world.map).unwrap();
        let told = vec![Vec::new(); KEYS.len()];
        let (questions, answers, begun_at) = (Vec::new(), Vec::new(), None);
        Watching { world, key, streams, questions, answers, told, begun_at, is_over: false }
    }

    /// Only where a watch goes on for another one it may be refused, and it is told so.
    fn goes_on(&mut self, taken: Result<(), WatchError>) {
        match taken {
            Ok(()) => {}
            Err(WatchError::NotNamed { .. }) if matches!(self.streams.start, WatchStart::Indexes(_)) => {
                self.is_over = true;
            }
            Err(error) => panic!("{error}: {:?}", self.streams),
        }
    }

    fn go(&mut self, step: &Step) {
        if self.is_over {
            return;
        }
        match *step {
            Step::Write(key) => self.world.write(key),
            Step::Move(key, to) => self.world.step_move(key, to),
            Step::Answer(which, count) => {
                self.questions.extend(self.streams.questions());
                if !self.questions.is_empty() {
                    let question = self.questions.remove(which % self.questions.len());
                    self.answers.push((question, self.world.answer(&question, self.key, count)));
                }
            }
            Step::Arrive(which) if !self.answers.is_empty() => {
                let (question, heard) = self.answers.remove(which % self.answers.len());
                let taken = self.streams.take(&question, heard);
                self.goes_on(taken);
                for event in self.streams.events() {
                    let WatchEvent::Changed(KeyChange { key, value, .. }) = event else { continue };
                    let number = KEYS.iter().position(|known| known.as_bytes() == key).unwrap();
                    self.told[number].push(u64::from_le_bytes(value.unwrap()[..].try_into().unwrap()));
                }
            }
            Step::Arrive(_) => {}
            Step::Map => {
                let followed = self.streams.follow(&self.world.map);
                self.goes_on(followed);
            }
            Step::Mark => drop(self.streams.mark()),
            Step::Resume => self.resume(),
        }
        if self.begun_at.is_none() && self.streams.has_begun() {
            self.begun_at = Some(self.world.written.iter().map(Vec::len).collect());
        }
    }

    fn resume(&mut self) {
        let Some(position) = self.streams.position() else { return };
        let key = self.key.map(|key| Bytes::from_static(key.as_bytes()));
        match Streams::new(key, WatchStart::Indexes(position), &self.world.map) {
            Ok(streams) => (self.streams, self.questions, self.answers) = (streams, Vec::new(), Vec::new()),
            // Slots have moved since, and it is told.
            Err(error) => assert!(matches!(error, WatchError::NotNamed { .. }), "{error}"),
        }
    }

    /// Hears everything that there is.
    fn finish(&mut self) {
        while self.world.moves.is_some() && !self.is_over {
            self.go(&Step::Move(0, 0));
        }
        let mark = self.streams.mark();
        for round in 0.. {
            if self.is_over || self.streams.has_reached(mark) {
                return;
            }
            assert!(round < 1_000, "it never ends: {:?}", self.streams);
            if self.streams.wants_map().is_some() {
                self.go(&Step::Map);
            }
            self.go(&Step::Answer(0, 3));
            self.go(&Step::Arrive(0));
        }
    }

    /// Each key was told from somewhere on, each value once and in order.
    fn check(&self, is_all: bool) {
        for (number, key) in KEYS.iter().enumerate() {
            let (written, told) = (&self.world.written[number], &self.told[number]);
            if self.key.is_some_and(|watched| watched != *key) {
                assert!(told.is_empty(), "{key} is not watched: {told:?}");
                continue;
            }
            if self.is_over {
                let is_part = told.is_empty() || written.windows(told.len()).any(|part| part == told);
                assert!(is_part, "{key}: told {told:?} of {written:?}");
                continue;
            }
            assert!(written.ends_with(told), "{key}: told {told:?} of {written:?}");
            let since = if is_all { 0 } else { self.begun_at.as_ref().map_or(usize::MAX, |begun| begun[number]) };
            assert!(told.len() >= written.len().saturating_sub(since), "{key}: told {told:?} of {written:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    // covers C17 C18 G12
    #[test]
    fn each_change_is_told_once_in_order_wherever_its_key_moves(
        steps in proptest::collection::vec(step(), 0..150),
        is_single in any::<bool>(),
        is_all in any::<bool>(),
    ) {
        // A single key is where it is: what it was elsewhere, before the watch began, is not asked for.
        let start = if is_all { WatchStart::Index(1) } else { WatchStart::Now };
        let mut watching = Watching::new(is_single.then_some(KEYS[1]), start);
        // Both partitions that have slots are asked before anything moves.
        for _ in 0..2 {
            watching.go(&Step::Answer(0, 3));
            watching.go(&Step::Arrive(0));
        }
        steps.iter().for_each(|step| watching.go(step));
        watching.finish();
        watching.check(is_all);
    }

    // covers C18
    #[test]
    fn watch_that_begins_while_slots_move_misses_nothing_after_it_has_begun(
        before in proptest::collection::vec(step(), 0..40),
        steps in proptest::collection::vec(step(), 0..80),
        is_single in any::<bool>(),
    ) {
        let mut watching = Watching::new(is_single.then_some(KEYS[1]), WatchStart::Now);
        // Time passes before the first question is answered, so the watch goes by an old map.
        for step in before {
            if let Step::Write(_) | Step::Move(..) = step {
                watching.go(&step);
            }
        }
        steps.iter().for_each(|step| watching.go(step));
        watching.finish();
        watching.check(false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    // covers C18
    #[test]
    fn watch_that_begins_long_before_now_tells_what_moved_since_in_order(
        before in proptest::collection::vec(step(), 0..80),
        steps in proptest::collection::vec(step(), 0..80),
        is_single in any::<bool>(),
    ) {
        let mut watching = Watching::new(is_single.then_some(KEYS[1]), WatchStart::Index(1));
        for step in before {
            if let Step::Write(_) | Step::Move(..) = step {
                watching.go(&step);
            }
        }
        let key = watching.streams.key.clone();
        watching.streams = Streams::new(key, WatchStart::Index(1), &watching.world.map).unwrap();
        steps.iter().for_each(|step| watching.go(step));
        watching.finish();
        watching.check(false);
    }
}

fn answered(streams: &mut Streams, answer: WatchAnswer, genesis: u128) -> Result<Vec<WatchEvent>, WatchError> {
    let question = streams.questions()[0];
    streams.take(&question, Heard::Answer { answer, genesis })?;
    Ok(streams.events().collect())
}

fn changes(items: &[u64], position: u64) -> WatchAnswer {
    let item = |index: &u64| (*index, Command::Put { key: b"k0", value: b"v" }.encode());
    WatchAnswer::Changes { items: items.iter().map(item).collect(), position, is_end: true, epoch: 0 }
}

fn single() -> Streams {
    Streams::new(Some(Bytes::from_static(b"k0")), WatchStart::Index(5), &World::new().map).unwrap()
}

// covers C19
#[test]
fn watch_ends_where_something_would_be_missed() {
    let mut streams = single();
    assert_eq!(answered(&mut streams, changes(&[5, 9], 20), 1).unwrap().len(), 2);
    assert_eq!(streams.position(), Some([(0, 21)].into()));
    let compacted = answered(&mut streams, WatchAnswer::Compacted { oldest: 30 }, 1);
    assert_eq!(compacted, Err(WatchError::Compacted { partition: 0, wanted: 21, oldest: 30 }));
    // The group has fewer entries, or as many but is another one.
    let ahead = answered(&mut streams, WatchAnswer::Ahead { position: 3 }, 1);
    assert_eq!(ahead, Err(WatchError::AnotherGroup { partition: 0, wanted: 21 }));
    assert_eq!(answered(&mut streams, changes(&[21], 30), 2), ahead);
}

#[test]
fn watch_refuses_what_is_out_of_order() {
    for (items, position) in [(&[4][..], 9), (&[6, 6], 9), (&[7, 6], 9), (&[6, 10], 9), (&[], 3)] {
        let taken = answered(&mut single(), changes(items, position), 1);
        assert!(matches!(taken, Err(WatchError::Call(Error::BadAnswer { .. }))), "{items:?} {position}: {taken:?}");
    }
}

// covers C17
#[test]
fn answer_to_a_question_that_was_asked_again_is_passed_over() {
    let mut streams = single();
    let first = streams.questions()[0];
    let mark = streams.mark();
    let again = streams.questions()[0];
    assert!(again.is_urgent && again.from == first.from && streams.questions().is_empty());
    let heard = || Heard::Answer { answer: changes(&[6], 9), genesis: 1 };
    streams.take(&first, heard()).unwrap();
    assert!(streams.events().next().is_none() && !streams.has_reached(mark));
    streams.take(&again, heard()).unwrap();
    assert!(streams.events().count() == 1 && streams.has_reached(mark));
    assert!(!streams.questions()[0].is_urgent);
}

// covers C19
#[test]
fn number_of_one_log_is_refused_where_keys_are_in_several() {
    let map = World::new().map;
    let begin = |key: Option<&'static str>, start: WatchStart| {
        Streams::new(key.map(|key| Bytes::from_static(key.as_bytes())), start, &map).map(drop)
    };
    let indexes = |indexes: &[(u16, u64)]| WatchStart::Indexes(indexes.iter().copied().collect());
    let both = WatchError::Ambiguous { index: 2, partitions: vec![0, 1] };
    assert_eq!(begin(None, WatchStart::Index(2)), Err(both.clone()));
    let said = both.to_string();
    assert!(said.contains("the keys are in s0, s1: name an index of each") && !said.contains('\n'), "{said}");
    for all in [WatchStart::Now, WatchStart::Index(0), WatchStart::Index(1), indexes(&[(0, 5), (1, 9), (2, 3)])] {
        assert_eq!(begin(None, all), Ok(()));
    }
    assert_eq!(begin(None, indexes(&[(0, 5)])), Err(WatchError::NotNamed { partition: 1 }));
    assert_eq!(begin(None, indexes(&[(0, 5), (1, 1), (3, 1)])), Err(WatchError::NoPartition { partition: 3 }));
    // A single key is in one log.
    assert_eq!(begin(Some("k0"), WatchStart::Index(5)), Ok(()));
    assert_eq!(begin(Some("k0"), indexes(&[(1, 5)])), Err(WatchError::NotNamed { partition: 0 }));
}

// covers C18 C19
#[test]
fn number_that_was_clear_is_refused_once_slots_have_moved_before_the_watch_began() {
    let mut world = World::new();
    let all = world.map.partitions[0].slots.with(&world.map.partitions[1].slots);
    world.map.partitions[0].slots = all;
    world.map.partitions[1].slots = SlotSet::default();
    let mut streams = Streams::new(None, WatchStart::Index(7), &world.map).unwrap();
    let newer = ClusterMap { epoch: 2, ..World::new().map };
    assert_eq!(streams.follow(&newer), Err(WatchError::Ambiguous { index: 7, partitions: vec![0, 1] }));
}

/// An answer of the partition of this question, by which slots have moved so, or nothing has changed.
fn moved(question: &Question, moved: Option<SlotsMoved>, position: u64) -> Heard {
    let epoch = moved.as_ref().map_or(0, |moved| moved.epoch);
    let items = moved.map(|moved| (position, moved.encode())).into_iter().collect();
    let answer = WatchAnswer::Changes { items, position, is_end: true, epoch };
    Heard::Answer { answer, genesis: 1 + u128::from(question.partition) }
}

/// A partition that had slots before all that is watched, and has forgotten that, is asked only for what it has had
/// since: it has all of that.
// covers C18 C19
#[test]
fn partition_that_gets_slots_again_is_asked_from_the_move_on_by_which_it_does() {
    let mut world = World::new();
    world.map.epoch = 3;
    let mut streams = Streams::new(None, WatchStart::Index(1), &world.map).unwrap();
    let left = SlotsMoved { epoch: 4, left: slot(KEYS[1]), came: SlotSet::default() };
    streams.questions().iter().for_each(|question| streams.take(question, moved(question, None, 6)).unwrap());
    for question in streams.questions() {
        let moved = moved(&question, Some(left.clone()).filter(|_| question.partition == 1), 7);
        streams.take(&question, moved).unwrap();
    }
    world.map.epoch = 4;
    world.map.partitions[1].slots = world.map.partitions[1].slots.without(&slot(KEYS[1]));
    world.map.partitions[2].slots = slot(KEYS[1]);
    streams.follow(&world.map).unwrap();
    // One that is watched may yet tell that slots have left it by an earlier map.
    let questions = streams.questions();
    assert_eq!(questions.iter().map(|question| question.partition).collect::<Vec<_>>(), [0, 1]);
    assert!(questions.iter().all(|question| question.is_urgent));
    questions.iter().for_each(|question| streams.take(question, moved(question, None, 9)).unwrap());
    let question = streams.questions().into_iter().find(|question| question.partition == 2).unwrap();
    assert_eq!(question.from, WatchFrom::Slots { epoch: 4 });
}

/// The two halves of a move may be of different maps: one whose destination was founded anew ends by a later one.
// covers C18
#[test]
fn slots_that_come_by_a_later_map_than_they_left_by_are_found() {
    let mut world = World::new();
    let mut streams = Streams::new(None, WatchStart::Now, &world.map).unwrap();
    let all = |streams: &mut Streams, moves: [Option<SlotsMoved>; 2], position: u64| {
        for question in streams.questions().iter().filter(|question| question.partition < 2) {
            let moved = moved(question, moves[usize::from(question.partition)].clone(), position);
            streams.take(question, moved).unwrap();
        }
    };
    all(&mut streams, [None, None], 3);
    world.map.epoch = 3;
    let slots = slot(KEYS[1]);
    world.map.partitions[0].slots = world.map.partitions[0].slots.with(&slots);
    world.map.partitions[1].slots = world.map.partitions[1].slots.without(&slots);
    let left = SlotsMoved { epoch: 2, left: slots.clone(), came: SlotSet::default() };
    let came = SlotsMoved { epoch: 3, left: SlotSet::default(), came: slots };
    all(&mut streams, [Some(came), Some(left)], 4);
    streams.follow(&world.map).unwrap();
    for position in 5..8 {
        all(&mut streams, [None, None], position);
    }
    // The last partition has no slots. They may have been there in between: that is heard first, and once.
    assert!(streams.streams[&0].stop.is_some());
    streams.mark();
    streams.questions().iter().for_each(|question| streams.take(question, moved(question, None, 8)).unwrap());
    assert!(streams.streams[&0].stop.is_none());
    assert_eq!(streams.events().count(), 1, "they have left");
    assert_eq!(streams.position(), Some([(0, 5), (1, 9), (2, 9)].into()), "nothing is looked for any more");
}

// covers C18 C19
#[test]
fn number_of_one_log_is_refused_once_keys_come_from_another_one() {
    let begin =
        |index| Streams::new(Some(Bytes::from_static(b"k0")), WatchStart::Index(index), &World::new().map).unwrap();
    let came = SlotsMoved { epoch: 2, left: SlotSet::default(), came: slot("k0") };
    for (index, expected) in [(1, Ok(())), (5, Err(WatchError::CameFromElsewhere { partition: 0, index: 7 }))] {
        let mut streams = begin(index);
        let question = streams.questions()[0];
        assert_eq!(streams.take(&question, moved(&question, Some(came.clone()), 7)), expected, "from {index}");
    }
}

/// Another watch has heard it, so what it did since, and to whom its slots went, is wanted before the others go on.
// covers C18
#[test]
fn partition_that_was_named_is_waited_for_though_it_has_no_slots_by_now() {
    let start = WatchStart::Indexes([(0, 1), (1, 1), (2, 1)].into());
    let mut streams = Streams::new(None, start, &World::new().map).unwrap();
    let questions = streams.questions();
    for (question, has_begun) in questions.iter().zip([false, false, true]) {
        streams.take(question, moved(question, None, 0)).unwrap();
        assert_eq!(streams.has_begun(), has_begun, "once s{} has answered", question.partition);
    }
}
