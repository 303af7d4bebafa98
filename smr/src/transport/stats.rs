//! What the transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the start of the transport.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct TransportStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn read(&self) -> TransportStats {
                TransportStats { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Messages written to a socket.
    messages_sent,
    /// Bytes of frames written on message connections.
    bytes_sent,
    /// Batches written: `messages_sent` divided by this is how many messages share a system call.
    batches_sent,
    /// Messages that the sink took.
    messages_received,
    /// Bytes of payloads that came on message connections.
    bytes_received,
    /// Messages for a node that was not connected, or lost it while they waited.
    dropped_unconnected,
    /// Messages for a node whose queue was full.
    dropped_full,
    /// Messages too large for a frame. A bug of the sender.
    dropped_too_long,
    /// Messages that the sink did not take.
    dropped_by_sink,
    /// Handshakes finished on dialled connections.
    dialled,
    /// Handshakes finished on accepted connections.
    accepted,
    /// Accepted connections that were closed without a finished handshake: strangers, garbage, and those over the
    /// limit.
    turned_away,
    /// Connections closed because the other side sent what no sound peer sends.
    closed_for_violations,
    /// Connections closed because the other side was silent, or took nothing, for too long.
    closed_for_silence,
    /// Snapshots sent to the end.
    snapshots_sent,
    /// Snapshots received to the end.
    snapshots_received,
}
