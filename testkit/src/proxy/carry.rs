//! One connection over a link: from the dialler to the target, until either ends it or the link cuts it.

use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::direction::Direction;
use super::end::{Cut, End};
use super::link::Link;
use super::rules::Setting;
use super::{CHUNK_MAX_BYTES, CONNECT_MAX_MS};

/// Bytes that a dialler may send before its connection reaches the target.
const EARLY_MAX_BYTES: usize = 64 << 10;

/// Carries both directions until they have ended.
pub(super) async fn carry(
    link: &Link,
    mut dialler: End,
    number: u64,
    mut rules: watch::Receiver<Setting>,
) -> Result<(), Cut> {
    let Some(early) = until_open(&mut dialler.stream, &mut rules).await else { return Ok(()) };
    let connecting = timeout(Duration::from_millis(CONNECT_MAX_MS), TcpStream::connect(link.target));
    let Ok(Ok(target)) = connecting.await else { return Err(Cut) };
    let mut target = End::new(target);

    let record = link.records.begin();
    let random = |direction: u64| ChaCha8Rng::seed_from_u64(link.seed ^ (number << 20) ^ (direction << 19));
    let carried = {
        let (from_dialler, to_dialler) = dialler.stream.split();
        let (from_target, to_target) = target.stream.split();
        let (delivered, lost) = (&link.forward_bytes, &link.lost);
        let forward = Direction { flow: |rules| rules.forward, record: Some(record), delivered, lost };
        let delivered = &link.backward_bytes;
        let backward = Direction { flow: |rules| rules.backward, record: None, delivered, lost };
        tokio::try_join!(
            forward.pump(rules.clone(), random(0), early, from_dialler, to_target),
            backward.pump(rules, random(1), Vec::new(), from_target, to_dialler),
        )
    };
    carried?;
    dialler.orderly = true;
    target.orderly = true;
    Ok(())
}

/// Waits until bytes may pass; `None` if the dialler has gone by then: an attempt to connect that never got through
/// must not reach the target later. Gives what the dialler sent meanwhile.
async fn until_open(dialler: &mut TcpStream, rules: &mut watch::Receiver<Setting>) -> Option<Vec<u8>> {
    let mut early = Vec::new();
    let mut buffer = vec![0; CHUNK_MAX_BYTES];
    loop {
        if !rules.borrow_and_update().holds() {
            return Some(early);
        }
        tokio::select! {
            biased;
            changed = rules.changed() => changed.ok()?,
            read = dialler.read(&mut buffer), if early.len() < EARLY_MAX_BYTES => match read {
                Ok(count @ 1..) => early.extend_from_slice(&buffer[..count]),
                Ok(0) | Err(_) => return None,
            },
        }
    }
}
