//! The two ends of a connection, and how a client comes by one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use madkv_client::{Dial, Network};
use smr::wire::SharedOutput;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::SimNet;
use super::timeline::Parcel;
use crate::client_sim::endpoint::{Host, Way};

pub(super) struct HostNetwork {
    pub(super) net: Arc<SimNet>,
    pub(super) host: Host,
}

impl Network for HostNetwork {
    fn dial(&self, address: &str) -> Dial {
        let (dialled, heard) = oneshot::channel();
        let connection = self.net.lock().dial(self.host, address, dialled);
        self.net.posted.notify_one();
        let Some(connection) = connection else {
            return Box::pin(async { Err(io::Error::new(io::ErrorKind::NotFound, "no such address")) });
        };
        let input = Reader { net: Arc::clone(&self.net), connection, way: Way::Down };
        let output = Writer { net: Arc::clone(&self.net), connection, way: Way::Up };
        Box::pin(async move {
            match heard.await {
                Ok(true) => Ok((Box::new(input) as _, Box::new(output) as _)),
                Ok(false) | Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

/// Where bytes come out.
pub struct Reader {
    pub(super) net: Arc<SimNet>,
    pub(super) connection: u64,
    pub(super) way: Way,
}

/// Where they go in.
pub struct Writer {
    pub(super) net: Arc<SimNet>,
    pub(super) connection: u64,
    pub(super) way: Way,
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.lock();
        let Some(connection) = state.connections.get_mut(&self.connection) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let lane = &mut connection.lanes[self.way as usize];
        // What has arrived can be read behind a reset, too, unless the process itself is gone: then no one asks.
        if lane.arrived.is_empty() {
            if lane.reader_reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if lane.ended {
                return Poll::Ready(Ok(()));
            }
            lane.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (piece, _) = lane.arrived.as_slices();
        let count = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece[..count]);
        lane.arrived.drain(..count);
        let waiting = lane.writer.take();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.net.lock().half_dropped(self.connection);
    }
}

impl Writer {
    fn write(&self, bytes: &[u8], context: Option<&mut Context<'_>>) -> Poll<io::Result<usize>> {
        let mut state = self.net.lock();
        match state.connections.get(&self.connection) {
            Some(connection) if !connection.lanes[self.way as usize].writer_reset => {}
            _ => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        let taken = state.send(self.connection, self.way, bytes);
        if taken == 0 && !bytes.is_empty() {
            if let (Some(context), Some(connection)) = (context, state.connections.get_mut(&self.connection)) {
                connection.lanes[self.way as usize].writer = Some(context.waker().clone());
            }
            return Poll::Pending;
        }
        drop(state);
        self.net.posted.notify_one();
        Poll::Ready(Ok(taken))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes, Some(context))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl SharedOutput for Writer {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.write(bytes, None) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.lock();
        let room_bytes = state.weather.room_bytes;
        let Some(connection) = state.connections.get_mut(&self.connection) else { return Poll::Ready(Ok(())) };
        let lane = &mut connection.lanes[self.way as usize];
        if lane.writer_reset || lane.under_way + lane.arrived.len() < room_bytes {
            return Poll::Ready(Ok(()));
        }
        lane.writer = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        let open = state
            .connections
            .get(&self.connection)
            .is_some_and(|connection| !connection.lanes[self.way as usize].writer_reset);
        if open {
            state.send_parcel(self.connection, self.way, Parcel::End);
        }
        state.half_dropped(self.connection);
        drop(state);
        self.net.posted.notify_one();
    }
}
