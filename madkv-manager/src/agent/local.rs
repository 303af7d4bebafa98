//! The replicas of this host at the agent's port: their first words, the heartbeats to them, their answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::agent::{
    AGENT_FRAME_MAX_BYTES, AgentHello, AgentRefusal, AgentWelcome, Heartbeat, HeartbeatAnswer, KIND_AGENT_HELLO,
    KIND_AGENT_REFUSAL, KIND_AGENT_WELCOME, KIND_FAREWELL, KIND_HEARTBEAT, KIND_HEARTBEAT_ANSWER, ReplicaRegistration,
};
use madkv_proto::control::HOST_REPLICAS_MAX;
use smr::codec;
use smr::wire::{FrameReader, WireError, write_all};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::replica::ConnectionId;

/// How long a step of the handshake, or a write, may take, in milliseconds.
const STEP_TIMEOUT_MS: u64 = 2_000;
/// Connections at one time: each replica that a host can have, and as many that come back or mean someone else.
const CONNECTIONS_MAX: usize = 2 * HOST_REPLICAS_MAX;
/// Heartbeats that wait to be sent to one replica. More are not sent: it takes none.
const HEARTBEATS_WAITING_MAX: usize = 16;
/// The pause after a connection could not be accepted, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 100;

/// What comes from a replica.
pub(super) enum FromReplica {
    /// It has dialled.
    Registered {
        /// Who it is.
        registration: Box<ReplicaRegistration>,
        /// The way to it.
        to: ToReplica,
        /// What is to be answered.
        verdict: oneshot::Sender<Result<(), String>>,
    },
    /// It has answered a heartbeat.
    Answered(HeartbeatAnswer),
    /// It ends because it was asked to.
    Farewell,
    /// Its connection is over.
    Disconnected,
}

/// The way to a replica. The connection is closed with it.
pub(super) struct ToReplica(mpsc::Sender<Heartbeat>);

impl ToReplica {
    /// Sends a heartbeat, unless the replica takes none.
    pub(super) fn heartbeat(&self, count: u64) {
        // One that takes none does not answer either, which is noticed.
        let _ = self.0.try_send(Heartbeat { count });
    }
}

/// Accepts connections for as long as the process lives.
pub(super) async fn accept(listener: TcpListener, agent: u16, inputs: mpsc::Sender<(ConnectionId, FromReplica)>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut next: ConnectionId = 0;
    loop {
        // It is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                continue;
            }
        };
        next += 1;
        let connection = Connection { id: next, agent, inputs: inputs.clone() };
        tokio::spawn(async move {
            if let Err(why) = connection.serve(stream).await {
                tracing::debug!("connection {}: {why}", connection.id);
            }
            drop(permit);
        });
    }
}

struct Connection {
    id: ConnectionId,
    agent: u16,
    inputs: mpsc::Sender<(ConnectionId, FromReplica)>,
}

impl Connection {
    async fn serve(&self, stream: TcpStream) -> Result<(), String> {
        let step = Duration::from_millis(STEP_TIMEOUT_MS);
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (input, mut output) = stream.into_split();
        let mut frames = FrameReader::new(input, AGENT_FRAME_MAX_BYTES);
        let hello = timeout(step, frames.next()).await.map_err(|_| "no hello in time".to_owned())?;
        let (version, registration) = match hello_of(hello) {
            Ok(agreed) => agreed,
            Err(reason) => return refuse(&mut output, reason).await,
        };
        let (to, heartbeats) = mpsc::channel(HEARTBEATS_WAITING_MAX);
        let (verdict, answer) = oneshot::channel();
        let registered = FromReplica::Registered { registration: Box::new(registration), to: ToReplica(to), verdict };
        self.tell(registered).await?;
        if let Err(reason) = answer.await.map_err(|_| "the agent ends".to_owned())? {
            return refuse(&mut output, reason).await;
        }
        let welcome = AgentWelcome { version, agent: self.agent, later: Bytes::new() };
        let served = match send(&mut output, KIND_AGENT_WELCOME, &welcome).await {
            Ok(()) => self.heartbeats(&mut frames, &mut output, heartbeats).await,
            Err(error) => Err(error),
        };
        self.tell(FromReplica::Disconnected).await?;
        served
    }

    /// Until the connection is over, or the agent has dropped the way to it.
    async fn heartbeats(
        &self,
        frames: &mut FrameReader<OwnedReadHalf>,
        output: &mut OwnedWriteHalf,
        mut heartbeats: mpsc::Receiver<Heartbeat>,
    ) -> Result<(), String> {
        loop {
            tokio::select! {
                frame = frames.next() => self.tell(word_of(frame)?).await?,
                heartbeat = heartbeats.recv() => match heartbeat {
                    Some(heartbeat) => send(output, KIND_HEARTBEAT, &heartbeat).await?,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn tell(&self, word: FromReplica) -> Result<(), String> {
        self.inputs.send((self.id, word)).await.map_err(|_| "the agent ends".to_owned())
    }
}

type Received<'a> = Result<Option<smr::wire::Frame<'a>>, WireError>;

fn hello_of(frame: Received<'_>) -> Result<(u16, ReplicaRegistration), String> {
    let frame = frame.map_err(|error| error.to_string())?.ok_or("the connection was closed")?;
    if frame.kind != KIND_AGENT_HELLO {
        return Err(format!("this is an agent, and a frame of kind {:#06x} is no greeting of a replica", frame.kind));
    }
    let hello: AgentHello = codec::decode(frame.payload).map_err(|error| error.to_string())?;
    Ok((hello.agree()?, hello.registration))
}

fn word_of(frame: Received<'_>) -> Result<FromReplica, String> {
    let frame = frame.map_err(|error| error.to_string())?.ok_or("the connection was closed")?;
    match frame.kind {
        KIND_HEARTBEAT_ANSWER => {
            codec::decode(frame.payload).map(FromReplica::Answered).map_err(|error| error.to_string())
        }
        KIND_FAREWELL => Ok(FromReplica::Farewell),
        kind => Err(format!("a frame of kind {kind:#06x} is no answer to a heartbeat")),
    }
}

async fn refuse(output: &mut OwnedWriteHalf, reason: String) -> Result<(), String> {
    send(output, KIND_AGENT_REFUSAL, &AgentRefusal { reason: reason.clone() }).await?;
    Err(reason)
}

async fn send<T: serde::Serialize>(output: &mut OwnedWriteHalf, kind: u16, value: &T) -> Result<(), String> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).map_err(|error| error.to_string())?;
    let sent = write_all(output, &bytes, Duration::from_millis(STEP_TIMEOUT_MS)).await;
    sent.map(drop).map_err(|error| error.to_string())
}
