//! From the history of a run to one history per key: a register that is set, removed and seen.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::history::{Action, Answer, History, Outcome};

/// A value of one key, by its place in [`KeyHistory::values`].
pub(crate) type ValueId = u32;

/// What a step does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Gives it a value.
    Set(ValueId),
    /// Takes its value away.
    Remove,
}

/// What a step says of its key just before it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saw {
    /// Nothing: any state will do.
    Anything,
    /// It was absent.
    Absent,
    /// It had some value.
    Present,
    /// It had this value.
    Value(ValueId),
}

/// One operation as far as it concerns one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The operation's place in [`History::operations`].
    pub(crate) source: usize,
    /// It took effect after this.
    pub(crate) call: u64,
    /// It took effect before this; `None`: at any later time, or never.
    pub(crate) returned: Option<u64>,
    /// What it did.
    pub(crate) effect: Effect,
    /// What it saw.
    pub(crate) saw: Saw,
}

/// All that concerns one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyHistory {
    /// The key.
    pub(crate) key: Bytes,
    /// Its value before the first step; `None`: it was absent.
    pub(crate) start: Option<ValueId>,
    /// What happened to it. Operations without effect and without an answer are not among them.
    pub(crate) steps: Vec<Step>,
    /// The values that stand in the steps.
    pub(crate) values: Vec<Bytes>,
}

/// Gives values their numbers while a history is split.
#[derive(Default)]
struct Splitter {
    keys: BTreeMap<Bytes, (KeyHistory, BTreeMap<Bytes, ValueId>)>,
}

impl Splitter {
    fn meet(&mut self, key: &Bytes) -> &mut (KeyHistory, BTreeMap<Bytes, ValueId>) {
        self.keys
            .entry(key.clone())
            .or_insert_with(|| (KeyHistory { key: key.clone(), ..KeyHistory::default() }, BTreeMap::new()))
    }

    fn value(&mut self, key: &Bytes, value: &Bytes) -> ValueId {
        let (history, ids) = self.meet(key);
        *ids.entry(value.clone()).or_insert_with(|| {
            history.values.push(value.clone());
            (history.values.len() - 1) as ValueId // a run has fewer than 2^32 operations
        })
    }

    fn saw(&mut self, key: &Bytes, answer: Option<&Answer>) -> Saw {
        match answer {
            Some(Answer::Found(true)) => Saw::Present,
            Some(Answer::Found(false) | Answer::Value(None)) => Saw::Absent,
            Some(Answer::Value(Some(value))) => Saw::Value(self.value(key, value)),
            Some(Answer::Records(_)) | None => Saw::Anything,
        }
    }
}

/// The history of each key, in the order of the keys. A SCAN becomes a read of each key of its range that stands
/// anywhere in the history, present or absent; that its parts agree with *one* moment is not in them.
pub(crate) fn split(history: &History) -> Vec<KeyHistory> {
    let mut splitter = Splitter::default();
    for (key, value) in &history.initially {
        let id = splitter.value(key, value);
        splitter.meet(key).0.start = Some(id);
    }
    // The universe first, because an absence in a SCAN is a read too.
    for operation in &history.operations {
        match &operation.action {
            Action::Put { key, .. } | Action::Swap { key, .. } | Action::Get { key } | Action::Delete { key } => {
                splitter.meet(key);
            }
            Action::Scan { .. } => {
                if let Some(Answer::Records(records)) = operation.answer() {
                    for (key, _) in records {
                        splitter.meet(key);
                    }
                }
            }
        }
    }
    for (source, operation) in history.operations.iter().enumerate() {
        if matches!(operation.outcome, Outcome::NotDone { .. }) {
            continue;
        }
        let (call, returned) = (operation.call, operation.returned());
        let step = |effect, saw| Step { source, call, returned, effect, saw };
        match &operation.action {
            Action::Put { key, value } | Action::Swap { key, value } => {
                let saw = splitter.saw(key, operation.answer());
                let effect = Effect::Set(splitter.value(key, value));
                splitter.meet(key).0.steps.push(step(effect, saw));
            }
            Action::Delete { key } => {
                let saw = splitter.saw(key, operation.answer());
                let effect = if saw == Saw::Absent { Effect::None } else { Effect::Remove };
                splitter.meet(key).0.steps.push(step(effect, saw));
            }
            Action::Get { key } => {
                if let Some(answer) = operation.answer() {
                    let saw = splitter.saw(key, Some(answer));
                    splitter.meet(key).0.steps.push(step(Effect::None, saw));
                }
            }
            Action::Scan { from, to } => {
                if let Some(Answer::Records(records)) = operation.answer()
                    && from <= to
                {
                    let inside: Vec<Bytes> =
                        splitter.keys.range(from.clone()..=to.clone()).map(|(key, _)| key.clone()).collect();
                    for key in inside {
                        let place = records.binary_search_by(|(other, _)| other.cmp(&key));
                        let saw = place.map_or(Saw::Absent, |at| Saw::Value(splitter.value(&key, &records[at].1)));
                        splitter.meet(&key).0.steps.push(step(Effect::None, saw));
                    }
                }
            }
        }
    }
    splitter.keys.into_values().map(|(history, _)| history).collect()
}
