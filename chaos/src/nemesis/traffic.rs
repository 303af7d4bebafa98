//! What a nemesis knows of the clients that are at work meanwhile.

/// Clients that are at work meanwhile.
pub trait Traffic {
    /// How many operations were acknowledged so far.
    fn acknowledged(&self) -> u64;

    /// Why it came to an end, if it did.
    fn failure(&mut self) -> Option<String>;
}
