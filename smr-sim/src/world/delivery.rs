//! Messages between processes: encoded, handed to the network, and taken in where they arrive.

use smr::codec;
use smr::entry::Term;
use smr::id::{Disqualified, NodeId, StartId};
use smr::internals::message::PeerMessage;
use smr::internals::raft::Message;
use smr::internals::raft::message::Body;

use super::{Event, World};
use crate::network::Frame;
use crate::observation::Observation;
use crate::rare::Rare;
use crate::sim_node::Input;
use crate::workload::Workload;

impl<W: Workload> World<W> {
    pub(super) fn arrive(&mut self, frame: Frame) {
        let replica = usize::from(frame.to.name.0);
        let machine = &self.nodes[replica];
        if machine.is_down() || self.network.is_cut(frame.from.name.0, frame.to.name.0) {
            return;
        }
        if machine.id != frame.to {
            return self.watch.rare.saw(Rare::WrongIncarnation);
        }
        if self.shakes_hands(replica, &frame) {
            self.put(replica, Input::Peer { from: frame.from, bytes: frame.bytes });
        }
    }

    /// What the transport does with the first message of each process: whether this one may be taken in. What comes
    /// late from an earlier process is, if that was sound: no connection would deliver it, and the core must bear it
    /// all the same.
    fn shakes_hands(&mut self, replica: usize, frame: &Frame) -> bool {
        let sender = &self.nodes[usize::from(frame.from.name.0)];
        let is_present = !sender.is_down() && sender.id == frame.from && sender.start.id == frame.start;
        let trail = sender.start;
        let whom = (frame.from, frame.start);
        let machine = &mut self.nodes[replica];
        let known = machine.met.get(&whom).copied();
        let judged = match (known, machine.seen_starts.clone()) {
            (Some(judged), _) => judged,
            (None, Some(seen)) if is_present => match seen.admit(frame.from, trail) {
                Ok(judged) => judged,
                Err(error) => {
                    self.disk_failed(replica, error.to_string());
                    return false;
                }
            },
            (None, Some(seen)) => match (self.copies.get(&whom), seen.newest(frame.from)) {
                (Some(trail), Some(newest)) => trail.judge(newest).map(|_| ()),
                _ => Ok(()),
            },
            _ => Ok(()),
        };
        let machine = &mut self.nodes[replica];
        if is_present {
            machine.met.insert(whom, judged);
        }
        let Err(why) = judged else { return true };
        // The transport tells it again whenever it dials.
        if let Some(at) = self.network.arrivals(self.now, frame.to.name.0, frame.from.name.0).next() {
            self.schedule(at, Event::Disqualified { node: frame.from, start: frame.start, why });
        }
        false
    }

    /// The news that a process must not take part any longer has reached it.
    pub(super) fn disqualified(&mut self, node: NodeId, start: StartId, why: Disqualified) {
        let replica = usize::from(node.name.0);
        let machine = &self.nodes[replica];
        if machine.serving().is_some() && machine.id == node && machine.start.id == start {
            self.put(replica, Input::Disqualified(why));
        }
    }

    pub(super) fn send_message(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.watch.observe(&Observation::Sent { from, to, message: &message });
        let is_answer = matches!(message.body, Body::VoteGranted | Body::AppendAccepted { .. });
        let term = message.term;
        let message = PeerMessage::Protocol(message);
        if is_answer && self.network.weather.held > 0 {
            let frame = Frame { from, start: self.start_of(from), to, bytes: codec::encode(&message).into() };
            if self.network.hold_back(term, &frame) {
                return;
            }
        }
        self.send(from, to, &message);
    }

    fn start_of(&self, node: NodeId) -> StartId {
        self.nodes[usize::from(node.name.0)].start.id
    }

    /// A node campaigns or leads: what was held back for it is of an older term now.
    pub(super) fn release(&mut self, to: NodeId, term: Term) {
        for (late_us, frame) in self.network.release(to, term) {
            self.watch.rare.saw(Rare::AnswerOfOlderTerm);
            self.schedule(self.now.plus_us(late_us), Event::Arrive(frame));
        }
    }

    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: &PeerMessage<Message>) {
        let frame = Frame { from, start: self.start_of(from), to, bytes: codec::encode(message).into() };
        if let Some(old) = self.network.remember(&frame) {
            let at = self.now.plus_us(self.disks.below(5_000));
            self.watch.rare.saw(Rare::Replayed);
            self.schedule(at, Event::Arrive(old));
        }
        for at in self.network.arrivals(self.now, from.name.0, to.name.0) {
            self.schedule(at, Event::Arrive(frame.clone()));
        }
    }
}
