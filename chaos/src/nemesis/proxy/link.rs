//! One listener in front of one target, and the connections that it takes.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::carry::{Cut, End, carry};
use super::replay::Record;
use super::rules::{Rules, Setting};

/// Connections of one link at a time; beyond them new ones are reset.
pub const LINK_CONNECTIONS_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) seed: u64,
    pub(super) setting: watch::Sender<Setting>,
    pub(super) records: Mutex<VecDeque<Record>>,
    pub(super) live: AtomicUsize,
    pub(super) accepted: AtomicU64,
    pub(super) reset: AtomicU64,
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
            records: Mutex::default(),
            live: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            reset: AtomicU64::new(0),
            forward_bytes: AtomicU64::new(0),
            backward_bytes: AtomicU64::new(0),
        }
    }
}

/// Takes connections as long as the proxy is there.
pub(super) async fn accept_forever(link: Arc<Link>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: others have to let go first.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let number = link.accepted.fetch_add(1, Ordering::Relaxed);
        if link.live.fetch_add(1, Ordering::Relaxed) >= LINK_CONNECTIONS_MAX {
            link.live.fetch_sub(1, Ordering::Relaxed);
            link.reset.fetch_add(1, Ordering::Relaxed);
            drop(End::new(stream));
            continue;
        }
        let link = Arc::clone(&link);
        tokio::spawn(async move {
            serve(&link, stream, number).await;
            link.live.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn serve(link: &Link, dialler: TcpStream, number: u64) {
    let rules = link.setting.subscribe();
    let mut gate = rules.clone();
    let carried = tokio::select! {
        biased;
        () = until_shut(&mut gate) => Err(Cut),
        carried = carry(link, End::new(dialler), number, rules) => carried,
    };
    if carried.is_err() {
        link.reset.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends when the gate is shut, or all connections are reset by hand.
async fn until_shut(rules: &mut watch::Receiver<Setting>) {
    let resets = rules.borrow().resets;
    loop {
        let setting = *rules.borrow_and_update();
        let (shut, turn) = setting.gate(Instant::now());
        if shut || setting.resets != resets {
            return;
        }
        let turned = async {
            match turn {
                Some(turn) => sleep_until(turn).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = turned => {}
            changed = rules.changed() => if changed.is_err() { return },
        }
    }
}
