//! What an operator asks of a group, beside reads and writes: other members, another leader.
//!
//! None of it is in the seam ([`crate::protocol`]), because protocols differ in it: a Raft group changes its members by
//! its own log ([`RaftAdmin`]), others are configured from outside ([`ServiceDecides`]). The engine has one [`Admin`]
//! and knows no more of it. Requests of this kind take more than one step: one is begun when it arrives, looked after
//! at [`Admin::next_tick`], and answered once.

pub mod readmission;
pub mod scaling;

mod raft;
mod service_decides;

use crate::id::{NodeId, ReplicaId};
use crate::protocol::{Effects, Protocol, Routing, Time};
use crate::replica::{ReplyTo, Tuning};
use crate::session::Addresses;

pub use self::raft::RaftAdmin;
pub use self::service_decides::ServiceDecides;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminRequest {
    /// That this replica lead.
    Transfer {
        /// The new leader.
        to: ReplicaId,
    },
    /// That the present incarnation of a replica take the place of the one in the configuration.
    Readmit {
        /// The replica.
        name: ReplicaId,
    },
    /// That these replicas be the group, and be reached at these addresses.
    Scale {
        /// By replica; an empty address says nothing.
        replicas: Addresses,
    },
}

/// What an [`Admin`] works with, in one call.
pub struct AdminContext<'a, P: Protocol> {
    /// The time of the turn, by the clock of the replica.
    pub now: Time,
    /// The core of the group, which is asked for changes of members.
    pub core: &'a mut P,
    /// What the core asks for.
    pub effects: &'a mut Effects<P::Message>,
    /// Where replicas are reached, by what is applied.
    pub addresses: &'a Addresses,
    /// Why no command may say anything of addresses, if a member's build does not apply that.
    pub addresses_are_fixed: Option<String>,
    /// What is to be proposed of addresses. Whether it is applied shows in `addresses`.
    pub moves: &'a mut Option<Addresses>,
    /// For a person, one line each.
    pub lines: &'a mut Vec<String>,
}

/// Carries out what an operator asks of a group of one kind. Answers each request once.
pub trait Admin<P: Protocol>: Send {
    /// A request arrived.
    fn begin(&mut self, context: AdminContext<'_, P>, request: AdminRequest, reply: ReplyTo);

    /// Whether such a request is begun only once it is confirmed that this replica leads.
    fn needs_confirmation(&self, request: &AdminRequest) -> bool {
        let _ = request;
        false
    }

    /// Looks after what is under way. Called when [`Admin::next_tick`] has come.
    fn tick(&mut self, context: AdminContext<'_, P>);

    /// When [`Admin::tick`] is due.
    fn next_tick(&self) -> Option<Time>;

    /// The host tunes the replica. Kinds of groups without elections have nothing to do.
    fn tune(&mut self, context: AdminContext<'_, P>, tuning: &Tuning) {
        let _ = (context, tuning);
    }

    /// How many requests wait for their answer.
    fn waiting(&self) -> usize;

    /// This incarnation of a replica is there; it may be no member.
    fn met(&mut self, now: Time, node: NodeId);

    /// Clients turn elsewhere from now on, or come here.
    fn routing_changed(&mut self, routing: &Routing);

    /// A transfer that was begun came to nothing.
    fn transfer_failed(&mut self);

    /// The process is about to end in an orderly way. If others should take over before that, it is begun, and this
    /// is true.
    fn hand_over(&mut self, context: AdminContext<'_, P>) -> bool;

    /// Answers everything that waits: the replica stops.
    fn stop(&mut self, lines: &mut Vec<String>);
}
