//! The first two frames of a connection: who dials and whom it wants, and the answer.
//!
//! A stranger gets a [`Refusal`] and is shown out: we close our side, and read and forget what it still sends for a
//! moment. Closing at once with its bytes unread would reset the connection, and the reason could be lost on the way.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use smr::codec;
use smr::wire::{SharedOutput, WireError, write_all_shared};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::framing::next_frame;
use super::{Backend, ConnectionPermit, Shared, TOO_MANY_CONNECTIONS};
use crate::frames::{
    Hello, HelloFields, KIND_HELLO, KIND_RANGED_HELLO, KIND_RANGED_WELCOME, KIND_REFUSAL, KIND_WELCOME, MAGIC,
    RangedHello, RangedWelcome, Refusal, Welcome, WelcomeFields,
};

/// The longest [`Hello`], in bytes.
const HELLO_MAX_BYTES: usize = 1024;
/// How many bytes are read at once before we know who is there.
const HELLO_READ_BYTES: usize = 4096;
/// How long a refused stranger is listened to, in milliseconds.
const SHOW_OUT_MS: u64 = 300;
/// How many bytes a refused stranger may still send.
const SHOW_OUT_MAX_BYTES: usize = 256 << 10;

/// Someone who was welcomed.
pub(super) struct Welcomed<'d, R> {
    pub(super) input: R,
    pub(super) output: Arc<dyn SharedOutput>,
    /// What was read after the hello.
    pub(super) buffer: BytesMut,
    pub(super) permit: ConnectionPermit<'d>,
    /// What it calls itself on consoles.
    pub(super) client: Option<u32>,
}

/// Does our part of the handshake; `None` if the stranger was refused.
///
/// # Errors
/// If the connection broke, or the time is over.
pub(super) async fn welcome<B: Backend, R: AsyncRead + Unpin>(
    shared: &Shared<B>,
    mut input: R,
    output: Arc<dyn SharedOutput>,
) -> io::Result<Option<Welcomed<'_, R>>> {
    let Shared { backend, limits, .. } = shared;
    let mut buffer = BytesMut::with_capacity(HELLO_READ_BYTES);
    let verdict = tokio::time::timeout(limits.handshake_timeout, read_hello(&mut input, &mut buffer)).await??;
    let admitted = verdict.and_then(|(hello, range)| {
        check(&hello, &**backend)?;
        let permit = shared.permit().ok_or_else(|| TOO_MANY_CONNECTIONS.to_owned())?;
        Ok((permit, range))
    });
    let (permit, range) = match admitted {
        Ok(admitted) => admitted,
        Err(reason) => {
            tracing::debug!(%reason, "refused a connection");
            tokio::time::timeout(limits.handshake_timeout, show_out(input, output, reason)).await??;
            return Ok(None);
        }
    };
    let (cluster, epoch) = (backend.cluster(), backend.epoch());
    let welcome = match range {
        None => frame(KIND_WELCOME, &Welcome { cluster, epoch }),
        Some((version, _)) => {
            let later = WelcomeFields { all_take_writes: backend.all_take_writes() }.encode();
            frame(KIND_RANGED_WELCOME, &RangedWelcome { version, cluster, epoch, later })
        }
    };
    write_bytes(&*output, &welcome, limits.handshake_timeout).await?;
    let client = range.and_then(|(_, fields)| fields.client);
    Ok(Some(Welcomed { input, output, buffer, permit, client }))
}

/// A hello, the version that was agreed upon, and what else it says; neither if it has no range, and is of the oldest
/// version.
type Heard = Result<(Hello, Option<(u16, HelloFields)>), String>;

/// Reads the hello; the inner error is a reason to refuse.
async fn read_hello(input: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<Heard> {
    loop {
        match next_frame(buffer, HELLO_MAX_BYTES) {
            Err(error) => return Ok(Err(format!("this is no greeting: {error}"))),
            Ok(Some(frame)) => {
                let hello = match frame.kind {
                    KIND_HELLO => decode(frame.payload).and_then(without_range),
                    KIND_RANGED_HELLO => decode(frame.payload).and_then(with_range),
                    other => return Ok(Err(format!("this is no greeting: frame of kind {other:#06x}"))),
                };
                let len = frame.len_bytes;
                buffer.advance(len);
                return Ok(hello);
            }
            Ok(None) => {}
        }
        buffer.reserve(HELLO_READ_BYTES);
        if input.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    codec::decode(payload).map_err(|error| format!("this is no greeting: {error}"))
}

fn without_range(hello: Hello) -> Heard {
    Ok((hello, None))
}

fn with_range(hello: RangedHello) -> Heard {
    let RangedHello { magic, cluster, service, .. } = hello;
    if magic != MAGIC {
        return Err("another protocol".into());
    }
    let version = hello.agree()?;
    let fields = HelloFields::decode(&hello.later);
    Ok((Hello { magic, cluster, service }, Some((version, fields))))
}

fn check<B: Backend>(hello: &Hello, backend: &B) -> Result<(), String> {
    if hello.magic != MAGIC {
        return Err("another protocol".into());
    }
    if hello.service != backend.service() {
        return Err(format!("this is {:?}, not {:?}", backend.service(), hello.service));
    }
    match (hello.cluster, backend.cluster()) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(format!("this is cluster {ours}, not {theirs}")),
        _ => Ok(()),
    }
}

async fn show_out(mut input: impl AsyncRead + Unpin, output: Arc<dyn SharedOutput>, reason: String) -> io::Result<()> {
    write_bytes(&*output, &frame(KIND_REFUSAL, &Refusal { reason }), Duration::from_millis(SHOW_OUT_MS)).await?;
    drop(output); // shut down for writing, and still listened to
    let mut left = SHOW_OUT_MAX_BYTES;
    let mut scrap = [0; HELLO_READ_BYTES];
    let listen = async {
        while left > 0 {
            match input.read(&mut scrap).await {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    // A time limit that ran out is as good as the end of the bytes.
    let _ = tokio::time::timeout(Duration::from_millis(SHOW_OUT_MS), listen).await;
    Ok(())
}

async fn write_bytes(output: &dyn SharedOutput, bytes: &[u8], timeout: Duration) -> io::Result<()> {
    match write_all_shared(output, bytes, timeout).await {
        Ok(_) => Ok(()),
        Err(WireError::Io(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    }
}

fn frame<T: serde::Serialize>(kind: u16, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).unwrap_or_else(|error| panic!("a greeting does not fit: {error}"));
    bytes
}
