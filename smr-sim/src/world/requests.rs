//! Requests on their way from clients, operators and listeners to a process, and outcomes on their way back.

use smr::id::{ClientId, NodeId};
use smr::internals::engine::BUSY_RETRY_MS;
use smr::internals::raft::Change;
use smr::internals::turn::{REQUESTS_MAX, REQUESTS_PER_TURN};
use smr::replica::{Outcome, ReplyTo, Request};

use super::{Event, World};
use crate::clients::{FLOOD, LISTENER, OPERATOR};
use crate::network::CLIENTS;
use crate::observation::Observation;
use crate::rare::Rare;
use crate::sim_node::{ProcessState, Serving};
use crate::workload::Workload;

impl<W: Workload> World<W> {
    /// Asks a node something on behalf of an operator, at once; the outcome comes into `clients.operator` under the tag
    /// that is returned.
    pub fn ask(&mut self, replica: usize, request: Request) -> u64 {
        self.next_operator_tag += 1;
        let tag = self.next_operator_tag;
        match request {
            Request::Transfer { .. } => {
                self.transfers_asked.insert(tag);
            }
            Request::Readmit { name }
                if !self.readmissions_asked.insert((name, self.nodes[usize::from(name.0)].id)) =>
            {
                self.watch.rare.saw(Rare::ReadmissionRepeated);
            }
            _ => {}
        }
        self.schedule(self.now, Event::Request { replica, tag, request });
        tag
    }

    /// A process is asked for other members, at once.
    pub(crate) fn ask_for_members(&mut self, replica: usize, changes: Vec<Change>) {
        if self.nodes[replica].serving().is_some() {
            self.nodes[replica].requested_changes.ask(changes);
            self.turn_soon(replica);
        }
    }

    /// This many requests reach a process at once, which no one waits for: writes in a session that does not exist.
    pub fn flood(&mut self, replica: usize, count: u64) {
        if self.nodes[replica].is_down() {
            return;
        }
        for _ in 0..count {
            self.next_flood_tag += 1;
            let client = ClientId::at(u64::MAX / 2);
            let request = Request::Write {
                client,
                number: 1,
                lowest_unanswered: 1,
                command: bytes::Bytes::from_static(b"flood"),
            };
            self.put_request(replica, self.next_flood_tag, request);
        }
        self.turn_soon(replica);
    }

    /// A request of the process's own listener, at once: for clients that live outside of the world. The tag that is
    /// returned comes with the outcome out of [`World::take_answers`], unless the process ends before.
    pub fn submit(&mut self, replica: usize, request: Request) -> u64 {
        self.next_listener_tag += 1;
        let tag = self.next_listener_tag;
        self.schedule(self.now, Event::Request { replica, tag, request });
        tag
    }

    /// What became of requests that were submitted, with their tags.
    pub fn take_answers(&mut self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut self.listener_outcomes)
    }

    /// Clients begin nothing new but the workload's last reads.
    pub fn begin_last_reads(&mut self) {
        self.clients.stop();
        self.clients.begin_last_reads(self.now);
        self.wake_client(0);
    }

    pub(super) fn serve_client(&mut self, tag: u64) {
        if tag < OPERATOR {
            self.wake_client((tag >> 48) as usize);
        }
    }

    pub(super) fn wake_clients(&mut self) {
        for number in 0..self.clients.count() {
            self.wake_client(number);
        }
    }

    /// Sends what a client wants to be sent, and looks when it has something to do next.
    pub(super) fn wake_client(&mut self, number: usize) {
        for ask in self.clients.take_asks() {
            // Copies are the clients' own business: a connection does not double requests.
            if let Some(at) = self.network.arrivals(self.now, CLIENTS, ask.replica as u16).next() {
                self.schedule(at, Event::Request { replica: ask.replica, tag: ask.tag, request: ask.request });
            }
        }
        if let Some(at) = self.clients.wakes_at(number, self.now) {
            self.schedule(at, Event::Client(number));
        }
    }

    /// A request reaches a process: it waits for the next turn, or is refused.
    pub(super) fn put_request(&mut self, replica: usize, tag: u64, request: Request) {
        let machine = &mut self.nodes[replica];
        if machine.requests.len() >= REQUESTS_MAX {
            let node = machine.id;
            self.watch.observe(&Observation::Asked { node, tag, request: &request });
            return self.answer(replica, tag, Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        machine.requests.push_back((tag, request));
    }

    /// Takes the requests of a turn.
    pub(super) fn take_requests(&mut self, replica: usize) {
        let machine = &mut self.nodes[replica];
        let now = machine.clock.at(self.now);
        let count = machine.requests.len().min(REQUESTS_PER_TURN);
        let idle = |serving: &Serving<W::Machine>| serving.turns.held() == 0 && !serving.engine().looks_after_members();
        if count == 0 && machine.serving().is_none_or(idle) {
            return;
        }
        let node = machine.id;
        let taken: Vec<(u64, Request)> = machine.requests.drain(..count).collect();
        for (tag, request) in &taken {
            self.watch.observe(&Observation::Asked { node, tag: *tag, request });
        }
        let asks = |request: &Request| matches!(request, Request::Readmit { .. } | Request::Scale { .. });
        let looks = self.nodes[replica].serving().is_some_and(|serving| serving.engine().looks_after_members());
        let present: Vec<NodeId> = match looks || taken.iter().any(|(_, request)| asks(request)) {
            true => self.nodes.iter().filter(|machine| !machine.is_down()).map(|machine| machine.id).collect(),
            false => Vec::new(),
        };
        let machine = &mut self.nodes[replica];
        let sink = machine.mailbox.clone();
        let requests = taken.into_iter().map(|(tag, request)| {
            let reply = ReplyTo { tag, sink: sink.clone() };
            (request, reply)
        });
        match &mut machine.process {
            ProcessState::Serving(serving) => serving.turns.requests(now, requests, || present.clone()),
            ProcessState::Waiting(_) => {
                requests.for_each(|(_, reply)| reply.send(Outcome::OutOfService("waits".to_owned())))
            }
            ProcessState::Down => {}
        }
    }

    pub(super) fn deliver_outcomes(&mut self, replica: usize) {
        for (tag, outcome) in self.nodes[replica].mailbox.take() {
            self.answer(replica, tag, outcome);
        }
    }

    fn answer(&mut self, replica: usize, tag: u64, outcome: Outcome) {
        let node = self.nodes[replica].id;
        self.watch.observe(&Observation::Answered { node, tag, outcome: &outcome });
        if (LISTENER..OPERATOR).contains(&tag) {
            return self.listener_outcomes.push((tag, outcome));
        }
        if (FLOOD..LISTENER).contains(&tag) {
            return;
        }
        if outcome == Outcome::Done && self.transfers_asked.remove(&tag) {
            self.watch.rare.saw(Rare::TransferDone);
        }
        if let Some(at) = self.network.arrivals(self.now, replica as u16, CLIENTS).next() {
            self.schedule(at, Event::Answer { tag, outcome });
        }
    }
}
