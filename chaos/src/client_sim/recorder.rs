//! Reads along what clients and listeners say to each other, judges it, and counts what is rare.
//!
//! What must hold on the wire, whoever sends: a number in a session stands for one command (C7), a session belongs to
//! one client process (C8), no number comes back that its client said to have done with, and all answers to one write
//! are equal (I13).

use std::collections::BTreeMap;

use bytes::Bytes;
use madkv_proto::frames::{
    ClientRequest, ClientResponse, KIND_REFUSAL, KIND_REQUEST, KIND_RESPONSE, RequestFrame, ResponseFrame,
};
use smr::codec::{self, FRAME_PAYLOAD_MAX_BYTES, FrameHeader, HEADER_LEN_BYTES};
use smr::internals::protocol::Time;
use smr::status::Role;

use super::endpoint::{Endpoint, Host, MANAGERS, Way};
use super::rare::{Counts, Rare};

/// Over how long the copies of a write are counted, in microseconds.
const RATE_WINDOW_US: u64 = 1_000_000;
/// How many copies of one write may leave in that time: four failures are followed at once, which take a millisecond
/// each at least, and then a pause of 5 ms or more is due.
const COPIES_IN_WINDOW_MAX: u64 = 450;

/// See the module.
#[derive(Default)]
pub struct Recorder {
    /// What was seen.
    pub counts: Counts,
    /// The first thing that must not be.
    pub violation: Option<String>,
    hash: u64,
    events: u64,
    streams: BTreeMap<u64, Stream>,
    /// By group, session and number.
    writes: BTreeMap<(u16, u64, u64), WriteSeen>,
    /// By group and session: who uses it, and up to where it has done.
    sessions: BTreeMap<(u16, u64), SessionSeen>,
    /// By client and group: what it heard of leaders (for the managers: of maps).
    known: BTreeMap<(Host, u16), Known>,
    /// By client and group: the last two that were named in redirects, and how often they took turns.
    redirects: BTreeMap<(Host, u16), Redirects>,
}

struct Stream {
    host: Host,
    place: Endpoint,
    buffers: [Vec<u8>; 2],
    asked: BTreeMap<u64, Asked>,
}

/// What a client heard of a group's leader.
#[derive(Default)]
struct Known {
    /// The highest term of which a leader was named.
    term: u64,
}

/// A request that waits for its answer on a connection.
enum Asked {
    Write {
        session: u64,
        number: u64,
    },
    /// An operator's: it may be refused.
    Order,
    Other,
}

struct WriteSeen {
    command: Bytes,
    copies: u64,
    answer: Option<Bytes>,
    /// Where the first copy went, and whether one went elsewhere.
    replica: u16,
    elsewhere: bool,
    /// Copies since then, for the rate.
    since: Time,
    lately: u64,
}

struct SessionSeen {
    host: Host,
    lowest: u64,
}

struct Redirects {
    /// Who named whom.
    between: (u16, u16),
    /// How often these two have named each other in turn.
    in_row: u64,
}

impl Recorder {
    /// Of everything that went by, in order.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things went by.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Something happened.
    pub fn note(&mut self, now: Time, words: &[u64]) {
        self.events += 1;
        for word in std::iter::once(&now.0).chain(words) {
            self.hash = (self.hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
        }
    }

    pub(super) fn dialled(&mut self, now: Time, connection: u64, host: Host, place: Endpoint) {
        self.note(now, &[1, connection, u64::from(host), u64::from(place.group), u64::from(place.replica)]);
        self.streams.insert(connection, Stream { host, place, buffers: Default::default(), asked: BTreeMap::new() });
    }

    pub(super) fn closed(&mut self, connection: u64) {
        self.streams.remove(&connection);
    }

    pub(super) fn broken(&mut self) {
        self.counts.saw(Rare::ConnectionBroken);
    }

    /// A client has sent something.
    pub(super) fn sent(&mut self, now: Time, connection: u64, bytes: &[u8]) {
        self.note(now, &[2, connection, codec::checksum(&[bytes])]);
        for (kind, payload) in self.frames(connection, Way::Up, bytes) {
            if kind == KIND_REQUEST {
                match codec::decode::<RequestFrame>(&payload) {
                    Ok(request) => self.asked(now, connection, request),
                    Err(error) => self.violate(format!("a client sends what is no request: {error}")),
                }
            }
        }
    }

    /// Something has arrived.
    pub(super) fn arrived(&mut self, now: Time, connection: u64, way: Way, bytes: &[u8]) {
        self.note(now, &[3, connection, way as u64, codec::checksum(&[bytes])]);
        if way == Way::Up {
            return;
        }
        for (kind, payload) in self.frames(connection, Way::Down, bytes) {
            match kind {
                KIND_RESPONSE => match codec::decode::<ResponseFrame>(&payload) {
                    Ok(response) => self.answered(connection, response),
                    Err(error) => self.violate(format!("a listener sends what is no response: {error}")),
                },
                KIND_REFUSAL => self.counts.saw(Rare::TurnedAway),
                _ => {}
            }
        }
    }

    fn frames(&mut self, connection: u64, way: Way, bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let Some(stream) = self.streams.get_mut(&connection) else { return Vec::new() };
        let buffer = &mut stream.buffers[way as usize];
        buffer.extend_from_slice(bytes);
        let (mut frames, mut taken) = (Vec::new(), 0);
        let mut wrong = None;
        while let Some((header, rest)) = buffer[taken..].split_first_chunk::<HEADER_LEN_BYTES>() {
            let header = match FrameHeader::parse(header, FRAME_PAYLOAD_MAX_BYTES) {
                Ok(header) => header,
                Err(error) => {
                    wrong = Some(error.to_string());
                    break;
                }
            };
            let Some(payload) = rest.get(..header.payload_len_bytes) else { break };
            frames.push((header.kind, payload.to_vec()));
            taken += HEADER_LEN_BYTES + header.payload_len_bytes;
        }
        buffer.drain(..taken);
        if !buffer.is_empty() && way == Way::Down {
            self.counts.saw(Rare::HalfFrame);
        }
        if let Some(why) = wrong {
            self.violate(format!("a frame that is none: {why}"));
        }
        frames
    }

    fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn asked(&mut self, now: Time, connection: u64, request: RequestFrame) {
        let Some(stream) = self.streams.get_mut(&connection) else { return };
        let (host, Endpoint { group, replica }) = (stream.host, stream.place);
        let ClientRequest::Write { client, number, lowest_unanswered, command } = request.ask else {
            let is_order = matches!(request.ask, ClientRequest::Transfer { .. } | ClientRequest::Readmit { .. });
            stream.asked.insert(request.id, if is_order { Asked::Order } else { Asked::Other });
            return;
        };
        let session = client.index;
        stream.asked.insert(request.id, Asked::Write { session, number });
        let user = self.sessions.entry((group, session)).or_insert(SessionSeen { host, lowest: 1 });
        if user.host != host {
            let why = format!("clients {} and {host} both use session {session} of s{group} (C8)", user.host);
            return self.violate(why);
        }
        user.lowest = user.lowest.max(lowest_unanswered);
        let first = WriteSeen {
            command: command.clone(),
            copies: 0,
            answer: None,
            replica,
            elsewhere: false,
            since: now,
            lately: 0,
        };
        let seen = self.writes.entry((group, session, number)).or_insert(first);
        seen.copies += 1;
        seen.elsewhere |= seen.replica != replica;
        if now.since_us(seen.since) > RATE_WINDOW_US {
            (seen.since, seen.lately) = (now, 0);
        }
        seen.lately += 1;
        if seen.lately > COPIES_IN_WINDOW_MAX {
            let what = format!("write {number} of session {session} of s{group} was sent {COPIES_IN_WINDOW_MAX} times");
            return self.violate(format!("{what} within a second (N9)"));
        }
        if seen.command != command {
            return self.violate(format!("number {number} of session {session} of s{group} means two commands (C7)"));
        }
        if seen.copies == 2 {
            self.counts.saw(Rare::WriteRepeated);
        }
    }

    fn answered(&mut self, connection: u64, response: ResponseFrame) {
        let Some(stream) = self.streams.get_mut(&connection) else { return };
        let (host, place) = (stream.host, stream.place);
        let asked = match &response.body {
            ClientResponse::Part(_) => None,
            _ => match stream.asked.remove(&response.id) {
                Some(asked) => Some(asked),
                None => return self.violate(format!("an answer to request {}, which no one asked", response.id)),
            },
        };
        let key = (host, place.group);
        match &response.body {
            ClientResponse::NotLeader { leader, term } => self.redirected(key, place.replica, *leader, *term),
            ClientResponse::Answer(answer) => {
                self.redirects.remove(&key);
                if let Some(Asked::Write { session, number }) = asked {
                    let seen = self.writes.get_mut(&(place.group, session, number));
                    match seen.map(|seen| (seen.elsewhere, seen.answer.replace(answer.clone()))) {
                        Some((_, Some(earlier))) if earlier != *answer => {
                            let which = format!("number {number} of session {session} of s{}", place.group);
                            self.violate(format!("{which} is answered {earlier:?} and {answer:?} (I13)"));
                        }
                        Some((_, Some(_))) => self.counts.saw(Rare::AnsweredTwice),
                        Some((true, None)) => self.counts.saw(Rare::RepeatedElsewhere),
                        Some((false, None)) | None => {}
                    }
                }
            }
            ClientResponse::WrongPartition { .. } => self.counts.saw(Rare::WrongPartition),
            ClientResponse::Busy { .. } => self.counts.saw(Rare::Busy),
            ClientResponse::SessionExpired => self.counts.saw(Rare::SessionExpired),
            ClientResponse::AnswerGone => self.counts.saw(Rare::AnswerGone),
            ClientResponse::Unknown => self.counts.saw(Rare::UnknownHeard),
            ClientResponse::OutOfService(_) => self.counts.saw(Rare::OutOfService),
            ClientResponse::NoMap => self.counts.saw(Rare::NoMap),
            ClientResponse::Map(map) => self.mapped(host, map.epoch),
            ClientResponse::Status(status) if status.role == Role::Leader => {
                let known = self.known.entry(key).or_default();
                known.term = status.term.0.max(known.term);
            }
            ClientResponse::Refused(why) if !matches!(asked, Some(Asked::Order)) => {
                self.violate(format!("client {host} is refused: {why}"));
            }
            _ => {}
        }
    }

    fn mapped(&mut self, host: Host, epoch: u64) {
        let known = self.known.entry((host, MANAGERS)).or_default();
        let before = known.term;
        known.term = before.max(epoch);
        if epoch < before {
            self.counts.saw(Rare::StaleMap);
        }
    }

    fn redirected(&mut self, key: (Host, u16), from: u16, leader: Option<u16>, term: u64) {
        let Some(leader) = leader else { return self.counts.saw(Rare::NoLeaderKnown) };
        let known = self.known.entry(key).or_default();
        if term < known.term {
            self.counts.saw(Rare::OlderTermNamed);
        } else {
            known.term = term;
            self.counts.saw(Rare::Redirected);
        }
        let row = self.redirects.entry(key).or_insert(Redirects { between: (from, leader), in_row: 0 });
        if row.between == (leader, from) {
            row.between = (from, leader);
            row.in_row += 1;
            if row.in_row == 3 {
                self.counts.saw(Rare::PingPong);
            }
        } else {
            *row = Redirects { between: (from, leader), in_row: 0 };
        }
    }
}
