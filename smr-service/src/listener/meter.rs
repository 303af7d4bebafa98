//! What became of requests, and how long they took: counted without a lock, for whoever watches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smr::durations::{DurationCounts, Durations};

use crate::frames::{ClientResponse, RequestKind};

/// The kinds of answers, as they are called in metrics.
const OUTCOMES: [&str; 15] = [
    "ok",
    "not_leader",
    "wrong_partition",
    "busy",
    "too_large",
    "session_expired",
    "answer_gone",
    "unknown",
    "refused",
    "out_of_service",
    "disk_full",
    "no_map",
    "occupied",
    "disqualified",
    // There was an answer, and no connection any more to say it to.
    "dropped",
];

/// What each kind of request is called, in the order of [`RequestKind`]; a read whose answer comes in parts is a long
/// one.
const KINDS: [&str; 6] = ["open_session", "write", "read", "status", "map", "other"];
const LONG_READ: usize = KINDS.len();

/// The requests of a listener, counted.
#[derive(Debug, Default)]
pub struct RequestMeter {
    kinds: [OfKind; KINDS.len() + 1],
}

#[derive(Debug, Default)]
struct OfKind {
    outcomes: [AtomicU64; OUTCOMES.len()],
    durations: Durations,
}

/// What was counted of one kind of request.
#[derive(Clone, Debug)]
pub struct RequestCounts {
    /// Which kind, as its label in metrics.
    pub kind: &'static str,
    /// How many ended how; all outcomes are there.
    pub outcomes: Vec<(&'static str, u64)>,
    /// How long those took that were admitted, from when they were read to when their answer waited to be written.
    pub durations: DurationCounts,
}

impl RequestMeter {
    /// A request has ended, after this long.
    pub(super) fn ended(&self, kind: RequestKind, is_long: bool, outcome: OutcomeName, took: Duration) {
        let of_kind = &self.kinds[if is_long { LONG_READ } else { kind as usize }];
        of_kind.outcomes[outcome.0].fetch_add(1, Ordering::Relaxed);
        of_kind.durations.record(took);
    }

    /// A request was not admitted.
    pub(super) fn denied(&self, kind: RequestKind) {
        self.kinds[kind as usize].outcomes[OutcomeName::BUSY.0].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far, by kind.
    pub fn read(&self) -> Vec<RequestCounts> {
        let names = KINDS.iter().chain(&["long_read"]);
        let counts = names.zip(&self.kinds).map(|(kind, counted)| RequestCounts {
            kind,
            outcomes: OUTCOMES
                .iter()
                .zip(&counted.outcomes)
                .map(|(outcome, count)| (*outcome, count.load(Ordering::Relaxed)))
                .collect(),
            durations: counted.durations.read(),
        });
        counts.collect()
    }
}

/// What an outcome is called: its place in [`OUTCOMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutcomeName(usize);

impl OutcomeName {
    pub(super) const BUSY: OutcomeName = OutcomeName(3);
    pub(super) const DROPPED: OutcomeName = OutcomeName(14);

    /// The one that a client hears.
    pub(super) fn of<M>(response: &ClientResponse<M>) -> OutcomeName {
        OutcomeName(outcome_of(response))
    }
}

fn outcome_of<M>(response: &ClientResponse<M>) -> usize {
    match response {
        ClientResponse::NotLeader { .. } => 1,
        ClientResponse::WrongPartition { .. } => 2,
        ClientResponse::Busy { .. } => 3,
        ClientResponse::TooLarge { .. } => 4,
        ClientResponse::SessionExpired => 5,
        ClientResponse::AnswerGone => 6,
        ClientResponse::Unknown => 7,
        ClientResponse::Refused(_) | ClientResponse::GenesisRefused { .. } => 8,
        ClientResponse::OutOfService(_) => 9,
        ClientResponse::DiskFull => 10,
        ClientResponse::NoMap => 11,
        ClientResponse::Occupied { .. } => 12,
        ClientResponse::Disqualified { .. } => 13,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn ended_and_denied_are_counted_by_kind_and_outcome() {
        let meter = RequestMeter::default();
        let took = Duration::from_millis(1);
        let ok = OutcomeName::of(&ClientResponse::<()>::Answer(Bytes::new()));
        meter.ended(RequestKind::Write, false, ok, took);
        meter.ended(RequestKind::Read, true, ok, took);
        meter.ended(RequestKind::Read, false, OutcomeName::of(&ClientResponse::<()>::DiskFull), took);
        meter.denied(RequestKind::Read);
        let read = meter.read();
        let count = |kind: &str, outcome: &str| {
            let of_kind = read.iter().find(|counts| counts.kind == kind).unwrap();
            of_kind.outcomes.iter().find(|(name, _)| *name == outcome).unwrap().1
        };
        assert_eq!((count("write", "ok"), count("long_read", "ok"), count("read", "ok")), (1, 1, 0));
        assert_eq!((count("read", "disk_full"), count("read", "busy")), (1, 1));
        let durations = |kind: &str| read.iter().find(|counts| counts.kind == kind).unwrap().durations;
        assert_eq!(durations("read").counts.iter().sum::<u64>(), 1, "what was denied took no time");
        assert_eq!(durations("long_read").sum_us, 1_000);
    }

    #[test]
    fn kinds_have_the_places_of_their_names() {
        for (kind, name) in [
            (RequestKind::OpenSession, "open_session"),
            (RequestKind::Write, "write"),
            (RequestKind::Read, "read"),
            (RequestKind::Status, "status"),
            (RequestKind::Map, "map"),
            (RequestKind::Other, "other"),
        ] {
            assert_eq!(KINDS[kind as usize], name);
        }
        assert_eq!(OUTCOMES[outcome_of(&ClientResponse::<()>::Busy { retry_after_ms: 1 })], "busy");
        assert_eq!((OUTCOMES[OutcomeName::BUSY.0], OUTCOMES[OutcomeName::DROPPED.0]), ("busy", "dropped"));
        assert_eq!(OUTCOMES[outcome_of(&ClientResponse::<()>::OutOfService(String::new()))], "out_of_service");
        assert_eq!(OUTCOMES[outcome_of(&ClientResponse::<()>::NoMap)], "no_map");
        assert_eq!(OUTCOMES[outcome_of(&ClientResponse::<()>::DiskFull)], "disk_full");
    }
}
