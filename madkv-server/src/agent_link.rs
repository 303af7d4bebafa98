//! The connection to the agent of this host: who this replica is, how it is launched, and an answer to each heartbeat.
//!
//! The replica runs as well without its agent: it dials until one is there, for as long as it runs, and says so once.
//! An answer to a heartbeat passes through the replica: one whose turns stand still is silent, and hung.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::agent::{
    AGENT_FRAME_MAX_BYTES, AGENT_VERSIONS, AgentHello, AgentRefusal, AgentWelcome, Farewell, Heartbeat,
    HeartbeatAnswer, KIND_AGENT_HELLO, KIND_AGENT_REFUSAL, KIND_AGENT_WELCOME, KIND_FAREWELL, KIND_HEARTBEAT,
    KIND_HEARTBEAT_ANSWER, LaunchCommand, ProcessId, ReplicaRegistration,
};
use madkv_proto::control::{DETAIL_MAX_BYTES, Service, bounded};
use smr::codec;
use smr::id::Incarnation;
use smr::internals::reach;
use smr::replica::{Outcome, ReplicaHandle, Request};
use smr::status::{LOSS_PROVEN, ServiceState};
use smr::wire::{FrameReader, WireError, write_all};
use smr_service::proc_stat;
use smr_service::process::{Signals, jittered, say};
use tokio::sync::watch;

use crate::options::{PROGRAM, Plan};
use crate::trace;

/// How long a step of the handshake, or a write, may take, in milliseconds.
const STEP_TIMEOUT_MS: u64 = 2_000;
/// The pause between two attempts to reach the agent, in milliseconds.
const REDIAL_MS: u64 = 200;
/// How long the end of the process may take for the word that it is wanted, in milliseconds.
const FAREWELL_MAX_MS: u64 = 200;

/// The replica, once it runs.
type Subject = Arc<OnceLock<ReplicaHandle>>;

/// Tells the agent of the host how this replica is, from a task of its own.
pub(crate) struct AgentLink {
    subject: Subject,
    farewell_said: watch::Receiver<bool>,
}

impl AgentLink {
    /// Begins, if the command line names an agent. Called inside a runtime.
    pub(crate) fn start(plan: &Plan, incarnation: Incarnation) -> Option<AgentLink> {
        let agent = plan.agent.clone()?;
        let registration = match registration(plan, incarnation) {
            Ok(registration) => registration,
            Err(error) => {
                say(PROGRAM, &format!("cannot tell the agent at {agent} how this process runs: {error}"));
                return None;
            }
        };
        let subject = Subject::default();
        let (said, farewell_said) = watch::channel(false);
        let teller = Teller { agent, registration, subject: Arc::clone(&subject) };
        tokio::spawn(async move {
            teller.run(said).await;
        });
        Some(AgentLink { subject, farewell_said })
    }

    /// From now on the replica itself says how it is.
    pub(crate) fn answers_for(&self, replica: ReplicaHandle) {
        // Set once: a process has one replica.
        let _ = self.subject.set(replica);
    }

    /// Waits a moment until the agent has heard that this end was asked for. Only after a signal.
    pub(crate) async fn farewell(mut self) {
        let limit = Duration::from_millis(FAREWELL_MAX_MS);
        // If no agent is there, none hears it.
        let _ = tokio::time::timeout(limit, self.farewell_said.wait_for(|said| *said)).await;
    }
}

/// How this process was launched, and who it is.
fn registration(plan: &Plan, incarnation: Incarnation) -> io::Result<ReplicaRegistration> {
    let pid = std::process::id();
    let started_ticks = proc_stat::of(pid)?.started_ticks;
    let bytes = |path: PathBuf| Bytes::from(path.into_os_string().into_vec());
    let command = LaunchCommand {
        executable: bytes(std::env::current_exe()?),
        arguments: std::env::args_os().skip(1).map(|argument: OsString| argument.into_vec().into()).collect(),
        working_directory: bytes(std::env::current_dir()?),
        directory: bytes(std::path::absolute(&plan.directory)?),
        stderr: path_of_stderr(),
    };
    command.check().map_err(io::Error::other)?;
    Ok(ReplicaRegistration {
        partition: plan.partition,
        replica: plan.replica,
        console: plan.console_number(),
        incarnation,
        process: ProcessId { pid, started_ticks },
        command,
    })
}

/// The file or terminal to which stderr goes; `None` for a pipe and the like.
fn path_of_stderr() -> Option<Bytes> {
    let path = std::fs::read_link("/proc/self/fd/2").ok()?;
    let is_there = path.is_absolute() && Path::new(&path).exists();
    is_there.then(|| Bytes::copy_from_slice(path.as_os_str().as_bytes()))
}

struct Teller {
    agent: String,
    registration: ReplicaRegistration,
    subject: Subject,
}

/// Why a connection to the agent is over.
enum Over {
    /// This process is to end, and the agent knows.
    Farewell,
    /// Anything else.
    Broken(String),
}

impl Teller {
    async fn run(&self, said: watch::Sender<bool>) {
        let Ok(mut signals) = Signals::listen(false) else { return };
        let mut complained = false;
        loop {
            match self.converse(&mut signals).await {
                Over::Farewell => {
                    // No one may be waiting.
                    let _ = said.send(true);
                    return;
                }
                Over::Broken(why) if !complained => {
                    complained = true;
                    say(PROGRAM, &format!("runs without its agent at {}, and goes on dialling it ({why})", self.agent));
                }
                Over::Broken(_) => {}
            }
            tokio::select! {
                // Without an agent, no one has to know.
                () = signals.next() => return,
                () = tokio::time::sleep(jittered(Duration::from_millis(REDIAL_MS))) => {}
            }
        }
    }

    /// One connection, until it is over.
    async fn converse(&self, signals: &mut Signals) -> Over {
        match self.try_converse(signals).await {
            Ok(()) => Over::Farewell,
            Err(why) => Over::Broken(why),
        }
    }

    async fn try_converse(&self, signals: &mut Signals) -> Result<(), String> {
        let step = Duration::from_millis(STEP_TIMEOUT_MS);
        let mut stream = reach::connect(&self.agent, step).await.map_err(|error| error.to_string())?;
        let mut last = Last { incarnation: self.registration.incarnation, service: None };
        let registration = ReplicaRegistration { incarnation: self.incarnation(), ..self.registration.clone() };
        send(&mut stream, KIND_AGENT_HELLO, &AgentHello::new(registration)).await?;
        let (input, mut output) = stream.split();
        let mut frames = FrameReader::new(input, AGENT_FRAME_MAX_BYTES);
        let welcome = tokio::time::timeout(step, frames.next()).await.map_err(|_| "no answer in time".to_owned())?;
        let agent = welcomed(welcome)?;
        loop {
            tokio::select! {
                frame = frames.next() => {
                    let heartbeat = heartbeat_of(frame)?;
                    trace::heartbeat(heartbeat.count, self.registration.console, agent);
                    let answer = self.answer(heartbeat, &mut last).await;
                    send(&mut output, KIND_HEARTBEAT_ANSWER, &answer).await?;
                }
                () = signals.next() => {
                    send(&mut output, KIND_FAREWELL, &Farewell).await?;
                    return Ok(());
                }
            }
        }
    }

    fn incarnation(&self) -> Incarnation {
        self.subject.get().map_or(self.registration.incarnation, |replica| replica.start().0)
    }

    /// Asks the replica how it is. One that answers that it has too much to do is alive, and as it was.
    async fn answer(&self, heartbeat: Heartbeat, last: &mut Last) -> HeartbeatAnswer {
        if let Some(replica) = self.subject.get() {
            if let Some(Outcome::Status(status)) = replica.ask(Request::Status).await {
                last.service = Some(service_of(status.service_state));
            }
            last.incarnation = replica.start().0;
        }
        HeartbeatAnswer { count: heartbeat.count, incarnation: last.incarnation, service: last.service.clone() }
    }
}

/// How the replica was when it was last asked.
struct Last {
    incarnation: Incarnation,
    service: Option<Service>,
}

fn service_of(state: ServiceState) -> Service {
    match state {
        ServiceState::InService => Service::InService,
        ServiceState::Uninitialized => Service::Uninitialized,
        ServiceState::Quarantined { reason } => Service::Quarantined {
            proof_of_loss: reason.contains(LOSS_PROVEN),
            reason: bounded(&reason, DETAIL_MAX_BYTES).to_owned(),
        },
    }
}

/// The number of the agent that welcomes this replica.
fn welcomed(frame: Result<Option<smr::wire::Frame<'_>>, WireError>) -> Result<u16, String> {
    let frame = frame.map_err(|error| error.to_string())?.ok_or("the connection was closed")?;
    match frame.kind {
        KIND_AGENT_WELCOME => {
            let welcome: AgentWelcome = codec::decode(frame.payload).map_err(|error| error.to_string())?;
            if !AGENT_VERSIONS.contains(welcome.version) {
                return Err(format!("version {} answers one who speaks {AGENT_VERSIONS}", welcome.version));
            }
            Ok(welcome.agent)
        }
        KIND_AGENT_REFUSAL => {
            let refusal: AgentRefusal = codec::decode(frame.payload).map_err(|error| error.to_string())?;
            Err(format!("it refuses: {}", refusal.reason))
        }
        kind => Err(format!("a frame of kind {kind:#06x} is no welcome")),
    }
}

fn heartbeat_of(frame: Result<Option<smr::wire::Frame<'_>>, WireError>) -> Result<Heartbeat, String> {
    let frame = frame.map_err(|error| error.to_string())?.ok_or("the agent has gone")?;
    if frame.kind != KIND_HEARTBEAT {
        return Err(format!("a frame of kind {:#06x} is no heartbeat", frame.kind));
    }
    codec::decode(frame.payload).map_err(|error| error.to_string())
}

async fn send<T: serde::Serialize>(
    output: &mut (impl tokio::io::AsyncWrite + Unpin),
    kind: u16,
    value: &T,
) -> Result<(), String> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).map_err(|error| error.to_string())?;
    let sent = write_all(output, &bytes, Duration::from_millis(STEP_TIMEOUT_MS)).await;
    sent.map(drop).map_err(|error| error.to_string())
}
