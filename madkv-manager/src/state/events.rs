//! The event log: what was decided, and why. Bounded; numbers have no holes.

use std::collections::VecDeque;

use madkv_proto::control::{
    EVENT_SUBJECT_MAX_BYTES, EVENT_TEXT_MAX_BYTES, EVENTS_PER_ANSWER_MAX, Event, Events, bounded,
};
use serde::{Deserialize, Serialize};

/// Events that are kept. Older ones are gone.
pub const EVENTS_KEPT_MAX: usize = 1000;

/// The events that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EventLog {
    /// The number of the newest event, also if it is no longer kept; 0 if there was none.
    newest: u64,
    kept: VecDeque<Event>,
}

impl EventLog {
    /// Appends an event and returns its number.
    pub(super) fn append(&mut self, at_unix_ms: u64, subject: &str, text: &str) -> u64 {
        self.newest += 1;
        while self.kept.len() >= EVENTS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(Event {
            number: self.newest,
            at_unix_ms,
            subject: bounded(subject, EVENT_SUBJECT_MAX_BYTES).to_owned(),
            text: bounded(text, EVENT_TEXT_MAX_BYTES).to_owned(),
        });
        self.newest
    }

    /// Whether an event that is kept says this.
    pub(super) fn has(&self, subject: &str, text: &str) -> bool {
        let text = bounded(text, EVENT_TEXT_MAX_BYTES);
        self.kept.iter().any(|event| event.subject == subject && event.text == text)
    }

    /// The number of the newest event; 0 if there was none.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// The events after number `after`, oldest first.
    pub(super) fn after(&self, after: u64, limit: u32) -> Events {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(EVENTS_PER_ANSWER_MAX);
        let events = self.kept.iter().filter(|event| event.number > after).take(limit).cloned().collect();
        let oldest = self.kept.front().map_or(0, |event| event.number);
        Events { oldest, newest: self.newest, events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_keeps_the_newest_events_and_their_numbers() {
        let mut log = EventLog::default();
        for number in 1..=EVENTS_KEPT_MAX as u64 + 5 {
            assert_eq!(log.append(number, "s0.1", &"long ".repeat(200)), number);
        }
        let all = log.after(0, u32::MAX);
        assert_eq!((all.oldest, all.newest), (6, EVENTS_KEPT_MAX as u64 + 5));
        assert_eq!((all.events.len(), all.events[0].number), (EVENTS_PER_ANSWER_MAX, 6));
        assert!(all.events[0].text.len() <= EVENT_TEXT_MAX_BYTES);
        let numbers: Vec<u64> = log.after(1002, 2).events.iter().map(|event| event.number).collect();
        assert_eq!(numbers, [1003, 1004]);
        assert!(log.after(2000, 9).events.is_empty());
    }
}
