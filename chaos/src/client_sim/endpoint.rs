//! Who talks to whom on the simulated network: client processes, listeners, and which way bytes go between them.

/// A client process, by a number that is never used again.
pub type Host = u32;

/// The group number of the managers.
pub const MANAGERS: u16 = u16::MAX;

/// A process with a listener: group (partition, or [`MANAGERS`]) and replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The group.
    pub group: u16,
    /// The replica.
    pub replica: u16,
}

impl Endpoint {
    /// The address under which clients know it.
    pub fn address(self) -> String {
        format!("g{}.r{}:1", self.group, self.replica)
    }

    /// The process that clients know under `address`.
    pub(super) fn of(address: &str) -> Option<Endpoint> {
        let (group, replica) = address.strip_prefix('g')?.strip_suffix(":1")?.split_once(".r")?;
        Some(Endpoint { group: group.parse().ok()?, replica: replica.parse().ok()? })
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the client to the listener.
    Up = 0,
    /// From the listener to the client.
    Down = 1,
}
