//! A TCP proxy of our own, for bad networks: links whose behaviour can be changed while connections run over them.
//!
//! A [`LinkId`] is one listener in front of one target. Whoever dials the listener talks to the target, as the link's
//! [`Rules`] allow. The *forward* direction is from the dialler to the target.
//!
//! # What it can and cannot do
//! Inside a TCP stream nothing is lost, doubled or reordered: the kernels see to that in any network. So *loss* here
//! means what loss means to a program over TCP: silence ([`Flow::Hold`]; what was sent meanwhile arrives later, as by a
//! kernel's retransmission) or the end of the connection, with the bytes under way lost ([`Flow::ResetAfter`],
//! [`Gate::Shut`]). A bus without such streams loses single messages: [`Flow::LoseFrames`] leaves whole frames of
//! [`smr::codec`] out. Old bytes come again on a connection of their own ([`Proxy::replay`]).
//! The listener always accepts; a dialler behind a cut link therefore sees a connection that is reset or silent, where
//! a real network would leave its connection attempt unanswered.
//!
//! Everything is bounded: bytes on their way in each direction, connections of a link, recorded bytes. Random choices
//! (jitter, where to cut) come from the seed, the link and the number of the connection.

mod accept;
mod carry;
mod direction;
mod end;
mod frames;
mod link;
mod record;
mod replay;
mod rules;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::Instant;

pub use accept::LINK_CONNECTIONS_MAX;
use accept::accept_forever;
pub use direction::CHUNKS_UNDER_WAY_MAX;
use link::Link;
pub use record::RECORDED_MAX_BYTES;
pub use replay::Replayed;
use rules::Setting;
pub use rules::{Flow, Gate, Rules};

/// Threads that carry all links.
const THREADS: usize = 2;
/// Bytes taken with one read.
const CHUNK_MAX_BYTES: usize = 16 << 10;
/// How long the target may take to accept, in milliseconds.
const CONNECT_MAX_MS: u64 = 2_000;

/// A link of a [`Proxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(usize);

/// What went over a link so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that are there now.
    pub live: usize,
    /// Connections that the proxy reset.
    pub reset: u64,
    /// Frames left out, in both directions.
    pub lost: u64,
    /// Bytes given to the target.
    pub forward_bytes: u64,
    /// Bytes given to the diallers.
    pub backward_bytes: u64,
}

/// The proxy: all links of a cluster. Ends, with all connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    runtime: Option<Runtime>,
    seed: u64,
    links: Vec<Arc<Link>>,
}

impl Proxy {
    /// A proxy without links.
    ///
    /// # Errors
    /// If the system gives it no threads.
    pub fn start(seed: u64) -> io::Result<Proxy> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("proxy")
            .enable_io()
            .enable_time()
            .build()?;
        Ok(Proxy { runtime: Some(runtime), seed, links: Vec::new() })
    }

    /// A new link to `target`, which need not listen yet.
    ///
    /// # Errors
    /// If there is no port.
    pub fn link(&mut self, target: SocketAddr) -> io::Result<LinkId> {
        let runtime = self.runtime();
        // A port from the system's range is safe here: the listener never lets go of it.
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.links.len() as u64);
        let link = Arc::new(Link::new(listener.local_addr()?, target, seed));
        runtime.spawn(accept_forever(Arc::clone(&link), listener));
        self.links.push(link);
        Ok(LinkId(self.links.len() - 1))
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap_or_else(|| unreachable!("taken only when dropped"))
    }

    /// Where to dial instead of the target.
    pub fn address(&self, link: LinkId) -> SocketAddr {
        self.links[link.0].address
    }

    /// Changes how a link behaves, for the connections that are there and for new ones.
    pub fn set(&self, link: LinkId, rules: Rules) {
        let change = |setting: &mut Setting| *setting = Setting { rules, since: Instant::now(), ..*setting };
        self.links[link.0].setting.send_modify(change);
    }

    /// How a link behaves.
    pub fn rules(&self, link: LinkId) -> Rules {
        self.links[link.0].setting.borrow().rules
    }

    /// Resets the connections that are there. New ones come about.
    pub fn reset(&self, link: LinkId) {
        self.links[link.0].setting.send_modify(|setting| setting.resets += 1);
    }

    /// What went over a link.
    pub fn counts(&self, link: LinkId) -> Counts {
        let link = &self.links[link.0];
        Counts {
            accepted: link.accepted.load(Ordering::Relaxed),
            live: link.live.load(Ordering::Relaxed),
            reset: link.reset.load(Ordering::Relaxed),
            lost: link.lost.load(Ordering::Relaxed),
            forward_bytes: link.forward_bytes.load(Ordering::Relaxed),
            backward_bytes: link.backward_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
