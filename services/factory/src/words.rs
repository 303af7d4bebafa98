//! Servers, epochs, views, map operations.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The unique id of a factory, from its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServerId(pub u32);

impl fmt::Display for ServerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One use of a directory: random, made with it. A factory whose directory was emptied is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// The time in office of one primary: the counter decides, the server's id and its incarnation make it unique. Without
/// the last one a server whose directory was emptied would give names to entries that other ones have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch {
    /// Higher than that of every epoch that its primary had heard of.
    pub counter: u64,
    /// Its primary.
    pub server: ServerId,
    /// That of its primary's directory.
    pub incarnation: Incarnation,
}

impl Epoch {
    /// Before every other.
    pub const NONE: Epoch = Epoch { counter: 0, server: ServerId(0), incarnation: Incarnation(0) };
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.counter, self.server)
    }
}

/// Which live set it is: those of one epoch are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ViewId {
    /// Whose live set.
    pub epoch: Epoch,
    /// How often it has changed in this epoch.
    pub change: u64,
}

impl fmt::Display for ViewId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}+{}", self.epoch, self.change)
    }
}

/// A live set: whoever has recorded it has every order that was acknowledged before it was formed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The takeover that it came from, and its number since then.
    pub id: ViewId,
    /// Those whose disks an order must reach before it is acknowledged, the primary included.
    pub live: BTreeMap<ServerId, Incarnation>,
}

impl View {
    /// Before the first: no one has ever led.
    pub fn none() -> View {
        View { id: ViewId { epoch: Epoch::NONE, change: 0 }, live: BTreeMap::new() }
    }

    /// Whether it is the one before the first.
    pub fn is_none(&self) -> bool {
        self.id.epoch == Epoch::NONE
    }
}

/// A takeover that was promised to, and of which nothing more was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its epoch; of several by one server the highest.
    pub epoch: Epoch,
    /// Whether a live server promised: one such promise is enough to lead.
    pub live: bool,
}

/// Takeovers of which nothing more was heard, by who made them, with which directory.
pub type Attempts = BTreeMap<(ServerId, Incarnation), Attempt>;

/// The operation that sets a customer's last order.
pub const OPCODE_UPDATE: i32 = 1;

/// An operation on the customer records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapOp {
    /// What to do: [`OPCODE_UPDATE`].
    pub opcode: i32,
    /// The customer.
    pub arg1: i32,
    /// Its last order.
    pub arg2: i32,
}

impl MapOp {
    /// Sets the last order of a customer.
    pub fn update(customer: i32, order: i32) -> MapOp {
        MapOp { opcode: OPCODE_UPDATE, arg1: customer, arg2: order }
    }
}

/// An operation in the log, and the epoch in which it was appended: two entries with the same index and epoch are the
/// same, and so is all before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose primary appended it.
    pub epoch: Epoch,
    /// The operation.
    pub op: MapOp,
}
