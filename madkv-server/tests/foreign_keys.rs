//! What a server does with keys of other partitions, whatever a request says of the map by which it came: the listener,
//! with the state behind it.

#![cfg(test)]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use madkv_proto::command::{Command, Query, decode_found, decode_value};
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_move::{Attempt, Piece, SlotCommand, SlotReply, decode_elsewhere, decode_settled};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::{SLOTS, slot_of};
use madkv_proto::why::WhyRequest;
use madkv_server::backend::ServerBackend;
use madkv_server::map::Map;
use smr::entry::Index;
use smr::id::{ClientId, ClusterId};
use smr::replica::{Outcome, ReplySink, ReplyTo, Request, Submit};
use smr::state_machine::{Answer, Image, StateMachine};
use smr_service::listener::Backend;

const EPOCH: u64 = 3;
const MOVED_EPOCH: u64 = 4;
const HALF: u16 = SLOTS / 2;
const BY: Attempt = Attempt { id: 1, number: 1 };

/// A group of one that needs no log: what it is asked has happened at once.
#[derive(Clone, Default)]
struct Replica(Arc<Mutex<(Map, u64)>>);

impl Replica {
    fn image(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.lock().unwrap().0.image().write(&mut bytes).unwrap();
        bytes
    }

    /// Goes on from an image, as a replica does that was sent one.
    fn restore(&self, image: &[u8]) {
        let mut restored = Map::restore(&mut &image[..]).unwrap();
        let mut present = self.0.lock().unwrap();
        restored.inherit(&present.0);
        present.0 = restored;
    }
}

impl Submit for Replica {
    fn queue(&self, request: Request, reply: ReplyTo) {
        let mut replica = self.0.lock().unwrap();
        let (map, applied) = &mut *replica;
        let answer = match request {
            Request::Write { command, .. } | Request::Idempotent { command } => {
                *applied += 1;
                map.apply(Index(*applied), &command)
            }
            Request::Read { query } => match map.query(&query) {
                Answer::Now(answer) => answer,
                Answer::Parts(parts) => parts.flatten().collect(),
            },
            other => panic!("{other:?}"),
        };
        reply.send(Outcome::Answer(answer.into()));
    }
}

/// Keeps one outcome.
#[derive(Default)]
struct Waiter(Mutex<Option<Outcome>>);

impl ReplySink for Waiter {
    fn deliver(&self, _tag: u64, outcome: Outcome) {
        *self.0.lock().unwrap() = Some(outcome);
    }

    fn deliver_now(&self, tag: u64, outcome: Outcome) {
        self.deliver(tag, outcome);
    }

    fn has_room(&self) -> bool {
        true
    }

    fn reserve(&self, _tag: u64, _bytes: usize) -> bool {
        true
    }

    fn begin_parts(&self, _tag: u64) -> bool {
        false
    }

    fn poll_room(&self, _tag: u64, _context: &mut std::task::Context<'_>) -> std::task::Poll<bool> {
        std::task::Poll::Ready(false)
    }

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        false
    }
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Fate {
    Served(Bytes),
    Redirected,
    Later,
}

/// The first of two partitions.
struct Server {
    replica: Replica,
    backend: ServerBackend<Replica>,
}

impl Server {
    fn new() -> Server {
        let servers = ["127.0.0.1:3777", "127.0.0.1:3778"].map(str::to_owned);
        let mut map = ClusterMap::deal(ClusterId(1), 1, &servers).unwrap();
        map.epoch = EPOCH;
        let replica = Replica::default();
        let judges_keys = replica.0.lock().unwrap().0.judges_keys();
        Server { backend: ServerBackend::new(replica.clone(), 0, &map, judges_keys), replica }
    }

    fn ask(&self, ask: ClientRequest, epoch: u64) -> Fate {
        let waiter = Arc::new(Waiter::default());
        let response = self.backend.ask(ask, epoch, ReplyTo { tag: 0, sink: waiter.clone() }).unwrap_or_else(|| {
            match waiter.0.lock().unwrap().take() {
                Some(Outcome::Answer(answer)) => self.backend.answer(answer),
                other => panic!("{other:?}"),
            }
        });
        match response {
            ClientResponse::Answer(answer) => match decode_settled(&answer) {
                Some(answer) if decode_elsewhere(&answer).is_some() => Fate::Redirected,
                Some(answer) => Fate::Served(answer),
                None => Fate::Served(answer),
            },
            ClientResponse::WrongPartition { .. } => Fate::Redirected,
            ClientResponse::OutOfService(_) => Fate::Later,
            other => panic!("{other:?}"),
        }
    }

    fn tell(&self, command: &SlotCommand) {
        let told = self.ask(ClientRequest::Control(WhyRequest::MoveSlots(command.encode()).encode()), 0);
        let Fate::Served(reply) = told else { panic!("{told:?}") };
        assert_eq!(SlotReply::decode(&reply), Ok(SlotReply::Done), "{command:?}");
    }

    fn len(&self) -> usize {
        self.replica.0.lock().unwrap().0.len()
    }
}

/// All kinds of requests about a key.
fn requests(key: &[u8]) -> [(&'static str, ClientRequest); 5] {
    let (client, command) = (ClientId::at(1), Command::Put { key, value: b"v" }.encode());
    let write = ClientRequest::Write { client, number: 1, lowest_unanswered: 1, command: command.clone() };
    let settle = WhyRequest::Settle { client, number: 1, lowest_unanswered: 1, command: command.clone() };
    let timed = WhyRequest::TimedWrite { client, number: 1, lowest_unanswered: 1, command };
    let slot = slot_of(key);
    let slots = SlotSet::range(slot, slot + 1).to_bytes();
    let scan = Query::ScanOf { slots: &slots, from: key, to: key }.encode();
    [
        ("write", write),
        ("read", ClientRequest::Read { query: Query::Get { key }.encode() }),
        ("scan", ClientRequest::Read { query: scan }),
        ("timed write", ClientRequest::Control(timed.encode())),
        ("settle", ClientRequest::Control(settle.encode())),
    ]
}

/// A key of the first partition, or of the second.
fn key_in(first: bool) -> Vec<u8> {
    let keys = (0u32..).map(|number| format!("key{number}").into_bytes());
    keys.into_iter().find(|key| (slot_of(key) < HALF) == first).unwrap()
}

// covers G7
#[test]
fn key_of_another_partition_is_not_taken_whatever_a_request_says_of_its_map() {
    let server = Server::new();
    for (what, request) in requests(&key_in(false)) {
        for epoch in [0, EPOCH, EPOCH + 1, u64::MAX] {
            // A write is settled here only because it may have been here before: no map says anything of that.
            let later = epoch > EPOCH || what == "settle";
            let fate = if later { Fate::Later } else { Fate::Redirected };
            assert_eq!(server.ask(request.clone(), epoch), fate, "{what} by epoch {epoch}");
        }
    }
    assert_eq!(server.len(), 0);
    for (what, request) in requests(&key_in(true)).into_iter().filter(|(what, _)| *what != "scan") {
        for epoch in [0, EPOCH, EPOCH + 1, u64::MAX] {
            assert!(matches!(server.ask(request.clone(), epoch), Fate::Served(_)), "{what} by epoch {epoch}");
        }
    }
    assert_eq!(server.len(), 1);
}

// covers G7
#[test]
fn once_slots_move_the_state_judges_whatever_the_servers_map_is() {
    let (server, foreign) = (Server::new(), key_in(false));
    let (slots, owned) = (SlotSet::range(HALF, SLOTS), SlotSet::range(0, HALF));
    server.tell(&SlotCommand::Accept { by: BY, slots, owned, epoch: EPOCH });
    let redirected = |server: &Server, epoch| {
        for (what, request) in requests(&foreign) {
            assert_eq!(server.ask(request, epoch), Fate::Redirected, "{what} by epoch {epoch}");
        }
    };
    redirected(&server, MOVED_EPOCH);
    redirected(&server, u64::MAX);
    let image = server.replica.image();
    let record = (Bytes::from(foreign.clone()), Some(Bytes::from_static(b"old")));
    let piece = Piece { whole: Some((None, None)), records: vec![record] };
    server.tell(&SlotCommand::Install { by: BY, number: 0, piece });
    server.tell(&SlotCommand::Own { by: BY, pieces: 1, epoch: MOVED_EPOCH });
    let [write, read, ..] = requests(&foreign).map(|(_, request)| request);
    let get = |server: &Server| match server.ask(read.clone(), MOVED_EPOCH) {
        Fate::Served(answer) => decode_value(answer).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(get(&server), Some(Bytes::from_static(b"old")));
    let Fate::Served(found) = server.ask(write, MOVED_EPOCH) else { panic!("not taken") };
    assert_eq!((decode_found(&found), get(&server)), (Ok(true), Some(Bytes::from_static(b"v"))));

    // A replica that goes on from an image does so, too, and one that begins again from nothing does not.
    let nothing = Replica::default().image();
    server.replica.restore(&nothing);
    assert_eq!(server.ask(read.clone(), MOVED_EPOCH), Fate::Later);
    server.replica.restore(&image);
    redirected(&server, MOVED_EPOCH);
    // So does one that only the log tells of it.
    server.replica.restore(&nothing);
    let (slots, owned) = (SlotSet::range(HALF, SLOTS), SlotSet::range(0, HALF));
    server.tell(&SlotCommand::Accept { by: BY, slots, owned, epoch: EPOCH });
    redirected(&server, MOVED_EPOCH);
}
