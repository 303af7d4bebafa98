//! Messages between processes: encoded, handed to the network, and taken in where they arrive.

use super::{Event, World};
use crate::codec;
use crate::entry::Term;
use crate::id::NodeId;
use crate::raft::Message;
use crate::raft::message::Body;
use crate::replica::message::PeerMessage;
use crate::sim::machine::Input;
use crate::sim::network::Frame;
use crate::sim::properties::Happening;
use crate::sim::rare::Rare;
use crate::sim::workload::Workload;

impl<W: Workload> World<W> {
    pub(super) fn arrive(&mut self, frame: Frame) {
        let seat = usize::from(frame.to.name.0);
        let machine = &self.machines[seat];
        if machine.is_down() || self.network.is_cut(frame.from.name.0, frame.to.name.0) {
            return;
        }
        if machine.id != frame.to {
            return self.watch.rare.saw(Rare::WrongIncarnation);
        }
        self.put(seat, Input::Peer { from: frame.from, bytes: frame.bytes });
    }

    pub(super) fn send_message(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.watch.happen(&Happening::Sent { from, to, message: &message });
        let is_answer = matches!(message.body, Body::VoteGranted | Body::AppendAccepted { .. });
        let term = message.term;
        let message = PeerMessage::Protocol(message);
        if is_answer && self.network.weather.held > 0 {
            let frame = Frame { from, to, bytes: codec::encode(&message).into() };
            if self.network.hold_back(term, &frame) {
                return;
            }
        }
        self.send(from, to, &message);
    }

    /// A node campaigns or leads: what was held back for it is of an older term now.
    pub(super) fn release(&mut self, to: NodeId, term: Term) {
        for (late_us, frame) in self.network.release(to, term) {
            self.watch.rare.saw(Rare::AnswerOfOlderTerm);
            self.schedule(self.now.plus_us(late_us), Event::Arrive(frame));
        }
    }

    pub(super) fn send(&mut self, from: NodeId, to: NodeId, message: &PeerMessage<Message>) {
        let frame = Frame { from, to, bytes: codec::encode(message).into() };
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
