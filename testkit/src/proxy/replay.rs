//! What old connections of a link said, and saying it again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{CHUNK_MAX_BYTES, CONNECT_MAX_MS, LinkId, Proxy};

/// How long a replay listens for answers before it hangs up, in milliseconds.
const REPLAY_LISTEN_MS: u64 = 300;
/// How long a replay may take to send, in milliseconds: a target may be frozen.
const REPLAY_SEND_MS: u64 = 1_000;

/// What became of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Recorded bytes that were sent again.
    pub sent_bytes: usize,
    /// Bytes that the target answered.
    pub answered_bytes: usize,
}

impl Proxy {
    /// Sends what the oldest connection on record sent at its beginning, on a new connection, around the rules.
    ///
    /// # Errors
    /// If nothing is on record, or the target cannot be reached.
    pub fn replay(&self, link: LinkId) -> io::Result<Replayed> {
        let link = Arc::clone(&self.links[link.0]);
        let record =
            link.records.oldest().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "nothing is on record"))?;
        self.runtime().block_on(async move {
            let connecting = timeout(Duration::from_millis(CONNECT_MAX_MS), TcpStream::connect(link.target));
            let mut stream = connecting.await??;
            // The target may hang up in the middle, or take nothing; what it has taken is what counts.
            let mut sent_bytes = 0;
            let sending = async {
                for chunk in record.chunks(CHUNK_MAX_BYTES) {
                    if stream.write_all(chunk).await.is_err() {
                        break;
                    }
                    sent_bytes += chunk.len();
                }
            };
            let _late = timeout(Duration::from_millis(REPLAY_SEND_MS), sending).await;
            let mut answered_bytes = 0;
            let mut buffer = vec![0; CHUNK_MAX_BYTES];
            let listening = async {
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    answered_bytes += count;
                }
            };
            let _late = timeout(Duration::from_millis(REPLAY_LISTEN_MS), listening).await;
            Ok(Replayed { sent_bytes, answered_bytes })
        })
    }
}
