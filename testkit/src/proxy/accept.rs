//! Takes the connections of a link, and cuts them when the link is to.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::carry::carry;
use super::end::{Cut, End};
use super::link::Link;
use super::rules::Setting;

/// Connections of one link at a time; beyond them new ones are reset.
pub const LINK_CONNECTIONS_MAX: usize = 256;

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
