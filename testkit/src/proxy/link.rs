//! One listener in front of one target, as the rules have it now, and what went over it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use tokio::sync::watch;
use tokio::time::Instant;

use super::record::Records;
use super::rules::{Rules, Setting};

#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) seed: u64,
    pub(super) setting: watch::Sender<Setting>,
    pub(super) records: Records,
    pub(super) live: AtomicUsize,
    pub(super) accepted: AtomicU64,
    pub(super) reset: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) forward_bytes: AtomicU64,
    pub(super) backward_bytes: AtomicU64,
}

impl Link {
    /// A link that passes everything; no one has dialled it yet.
    pub(super) fn new(address: SocketAddr, target: SocketAddr, seed: u64) -> Link {
        let setting = Setting { rules: Rules::default(), since: Instant::now(), resets: 0 };
        Link {
            address,
            target,
            seed,
            setting: watch::Sender::new(setting),
            records: Records::default(),
            live: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            reset: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            forward_bytes: AtomicU64::new(0),
            backward_bytes: AtomicU64::new(0),
        }
    }
}
