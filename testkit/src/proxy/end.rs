//! One end of a connection, and how it is cut.

use tokio::net::TcpStream;

/// Why a connection ends other than by its two ends.
pub(super) struct Cut;

/// One end of a connection. Reset when dropped, unless it was closed in order.
pub(super) struct End {
    pub(super) stream: TcpStream,
    pub(super) orderly: bool,
}

impl End {
    pub(super) fn new(stream: TcpStream) -> End {
        // Some platforms refuse on a connection that is gone already; then there is nothing to hurry.
        let _ = stream.set_nodelay(true);
        End { stream, orderly: false }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.orderly {
            // A connection that is gone already needs no reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}
