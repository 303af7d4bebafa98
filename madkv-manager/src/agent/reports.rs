//! Reports to the managers, and the orders that they answer with.
//!
//! A report leaves when something has changed, and otherwise as often as the managers want to hear from this host. Any
//! manager may be asked; one that does not lead names the leader, and the connection to that one is kept.

use std::future::Future;
use std::time::Duration;

use madkv_proto::control::{AgentOrders, AgentReport, ControlReply, ControlRequest, ReplicaReport, Spare};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use smr_service::dial::Dialled;
use smr_service::process::{jittered, say};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::options::PROGRAM;

/// How long one manager is waited for, in milliseconds: one that hangs must not make this host look dead.
const ANSWER_TIMEOUT_MS: u64 = 500;
/// The pause after no manager took a report, in milliseconds.
const AGAIN_MS: u64 = 100;
/// The shortest time between two reports that the managers may want, in milliseconds.
const FREQ_MIN_MS: u64 = 10;
/// The longest one, in milliseconds.
const FREQ_MAX_MS: u64 = 60_000;
/// Agents that heartbeat more often than this do not report as often, in milliseconds.
const HEARTBEATS_MIN_MS: u64 = 100;
/// How often the word of a manager about the leader is followed in a row.
const HOPS_MAX: u32 = 3;

/// Who takes reports.
pub(super) trait Managers: Send {
    /// Reports, and returns what the host is to do.
    ///
    /// # Errors
    /// Why no manager took it.
    fn report(&mut self, report: AgentReport) -> impl Future<Output = Result<AgentOrders, String>> + Send;
}

/// Who this agent is.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    pub(super) agent: u16,
    pub(super) host: String,
    pub(super) address: String,
    /// Random for each start, and not 0.
    pub(super) start: u64,
    /// Whether it launches again what has ended.
    pub(super) relaunches: bool,
    /// Room for replicas of other hosts.
    pub(super) spares: Vec<Spare>,
}

/// Reports whatever `replicas` holds, for as long as the process lives. Each answer goes on with the time of its
/// report.
pub(super) async fn report<M: Managers>(
    reporter: Reporter,
    mut managers: M,
    mut replicas: watch::Receiver<Vec<ReplicaReport>>,
    orders: mpsc::Sender<(Instant, AgentOrders)>,
) {
    let mut number = 0;
    let mut last: Option<Vec<ReplicaReport>> = None;
    let mut due = Instant::now();
    let mut complained = false;
    loop {
        tokio::select! {
            changed = replicas.changed() => if changed.is_err() { return },
            () = sleep_until(due) => {}
        }
        // Before it is looked: whatever happens from here on is in no report before the next.
        let asked = Instant::now();
        let present = replicas.borrow_and_update().clone();
        if Instant::now() < due && last.as_ref() == Some(&present) {
            continue;
        }
        number += 1;
        let Reporter { agent, host, address, start, relaunches, spares } = reporter.clone();
        let replicas = present.clone();
        let report = AgentReport { agent, host, address, start, number, relaunches, spares, replicas };
        match managers.report(report).await {
            Ok(answer) => {
                complained = false;
                last = Some(present);
                due = Instant::now() + pause_after(&answer);
                if orders.send((asked, answer)).await.is_err() {
                    return;
                }
            }
            Err(why) => {
                if !std::mem::replace(&mut complained, true) {
                    say(PROGRAM, &format!("no manager takes reports ({why}); goes on, and tries again"));
                }
                last = None;
                due = Instant::now() + jittered(Duration::from_millis(AGAIN_MS));
            }
        }
    }
}

/// How long after this answer the next report leaves, if nothing happens: as soon as the managers want to hear of this
/// host, and soon enough for it to heartbeat as they want within two heartbeats.
fn pause_after(answer: &AgentOrders) -> Duration {
    let heartbeat = answer.lfd_heartbeat_freq_ms.max(HEARTBEATS_MIN_MS);
    Duration::from_millis(answer.gfd_heartbeat_freq_ms.min(heartbeat).clamp(FREQ_MIN_MS, FREQ_MAX_MS))
}

/// The managers of the cluster, over the network.
pub(super) struct Dialler {
    addresses: Vec<String>,
    /// Whom to ask first.
    target: usize,
    /// The connection to that one.
    connection: Option<Dialled>,
}

impl Dialler {
    /// To these managers, of which there is one at least.
    pub(super) fn new(addresses: Vec<String>) -> Dialler {
        Dialler { addresses, target: 0, connection: None }
    }

    async fn ask(&mut self, request: ClientRequest) -> Result<ClientResponse, String> {
        let limit = Duration::from_millis(ANSWER_TIMEOUT_MS);
        let address = &self.addresses[self.target];
        let connection = self.connection.take();
        let converse = async {
            let mut connection = match connection {
                Some(connection) => connection,
                None => Dialled::to(address, Service::Manager, None, limit).await?,
            };
            let answer = connection.ask(request).await?;
            Ok::<_, std::io::Error>((connection, answer))
        };
        match timeout(limit, converse).await {
            Ok(Ok((connection, answer))) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Ok(Err(error)) => Err(format!("{address}: {error}")),
            Err(_) => Err(format!("{address}: no answer in time")),
        }
    }

    fn turn_to(&mut self, target: usize) {
        if target != self.target {
            (self.target, self.connection) = (target, None);
        }
    }
}

impl Managers for Dialler {
    async fn report(&mut self, report: AgentReport) -> Result<AgentOrders, String> {
        let request = ClientRequest::Control(ControlRequest::AgentReport(report).encode());
        let mut reason = String::new();
        let (mut tried, mut hops) = (0, 0);
        while tried < self.addresses.len() {
            // A connection that was kept may have been closed long ago; that says nothing about the manager.
            let was_kept = self.connection.is_some();
            match self.ask(request.clone()).await {
                Ok(ClientResponse::Answer(answer)) => match ControlReply::decode(&answer)? {
                    ControlReply::Orders(orders) => return Ok(orders),
                    ControlReply::Refused(why) => return Err(format!("{}: {why}", self.addresses[self.target])),
                    other => reason = format!("unexpected answer {other:?}"),
                },
                Ok(ClientResponse::NotLeader { leader: Some(leader), .. })
                    if usize::from(leader) < self.addresses.len()
                        && usize::from(leader) != self.target
                        && hops < HOPS_MAX =>
                {
                    hops += 1;
                    self.turn_to(usize::from(leader));
                    continue;
                }
                Ok(ClientResponse::NotLeader { .. }) => reason = "the managers are electing a leader".to_owned(),
                Ok(other) => reason = format!("{}: {other:?}", self.addresses[self.target]),
                Err(_) if was_kept => continue,
                Err(why) => reason = why,
            }
            tried += 1;
            self.turn_to((self.target + 1) % self.addresses.len());
        }
        Err(reason)
    }
}
