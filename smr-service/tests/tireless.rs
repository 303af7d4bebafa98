//! A client that has always said more already, and takes nothing: no load is needed to meet what a busy machine meets.

#![cfg(test)]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smr::codec;
use smr::id::ClusterId;
use smr::replica::ReplyTo;
use smr::wire::SharedOutput;
use smr_service::frames::{ClientRequest, Hello, KIND_HELLO, KIND_REQUEST, MAGIC, RequestFrame, Service};
use smr_service::listener::{Acceptor, Backend, ListenerLimits};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::coop;

type ClientResponse = smr_service::frames::ClientResponse<()>;

const SERVICE: Service = Service::Server { partition: 0 };
/// Longer than anything here takes; a test that reaches it has failed.
const TIMEOUT: Duration = Duration::from_secs(60);

struct Prompt;

impl Backend for Prompt {
    type Map = ();

    fn service(&self) -> Service {
        SERVICE
    }

    fn cluster(&self) -> Option<ClusterId> {
        None
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn ask(&self, _: ClientRequest, _: u64, _: ReplyTo) -> Option<ClientResponse> {
        Some(ClientResponse::Done)
    }
}

/// Says what is in `first`, and then the same request for ever; as a socket does, it lets others have their turn.
struct Tireless {
    first: Vec<u8>,
    request: Vec<u8>,
}

impl AsyncRead for Tireless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let turn = ready!(coop::poll_proceed(context));
        if self.first.is_empty() {
            self.first = self.request.clone();
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..count]);
        self.first.drain(..count);
        turn.made_progress();
        Poll::Ready(Ok(()))
    }
}

/// Takes the welcome, and nothing more.
#[derive(Default)]
struct Deaf(AtomicBool);

impl SharedOutput for Deaf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.swap(true, Ordering::Relaxed) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(bytes.len()) }
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

fn frame<T: serde::Serialize>(kind: u16, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).unwrap();
    bytes
}

// covers N7: the end of the writer must be seen though the reader always has more to read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_never_pauses_and_never_reads_closed() {
    let input = Tireless {
        first: frame(KIND_HELLO, &Hello { magic: MAGIC, cluster: None, service: SERVICE }),
        request: frame(KIND_REQUEST, &RequestFrame { id: 1, epoch: 0, ask: ClientRequest::Status }),
    };
    let limits = ListenerLimits { write_timeout: Duration::from_millis(100), ..ListenerLimits::default() };
    let acceptor = Acceptor::new(Arc::new(Prompt), limits);
    let served = tokio::spawn(acceptor.serve(input, Arc::new(Deaf::default())));
    tokio::time::timeout(TIMEOUT, served).await.expect("the connection ends").unwrap();
}
