//! Whether clients find this server where the cluster map says that it is.
//!
//! A typo in `--server_addrs`, or a server that was started on another port, goes unnoticed by its peers: they use
//! other addresses. As a leader such a server would block its partition (fault catalogue B29). So a server dials its
//! own address in the map, now and then, and looks whether itself answers.
//!
//! - It says so in one line when it does not, and in its status.
//! - While it leads it hands over to a replica that answers at *its* address and says of itself that it was reached.
//!   Where no one can dial himself (some networks do not lead packets back) no one hands over.
//! - Silence proves little: a busy machine is silent, too. It counts only until the server has been reached for the
//!   first time.
//!
//! The map is never changed by what a server listens on.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use smr::id::{ClusterId, NodeId, ReplicaId};
use smr::replica::{Outcome, ReplicaHandle, Request};
use smr::status::{Advertised, ReplicaStatus, Role, ServiceState};
use smr_service::dial::Dialled;
use smr_service::listener::TOO_MANY_CONNECTIONS;
use smr_service::process::{jittered, say};

use crate::backend::ServerBackend;
use crate::options::PROGRAM;

/// How often a server that was reached looks again, in milliseconds.
const LOOK_MS: u64 = 5_000;
/// How often one looks that was not, in milliseconds.
const LOOK_AGAIN_MS: u64 = 500;
/// How long each step of a look may take, in milliseconds.
const TIMEOUT_MS: u64 = 2_000;
/// Looks in a row that must come to the same before it is believed that no one reaches this server.
const MISSES_MAX: u32 = 3;

/// What a look at the own address came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// This server itself.
    Us,
    /// Certainly not this server: no one listens, or someone else does.
    NotUs(String),
    /// Nothing at all.
    Silence(String),
    /// Nothing that proves anything.
    Unclear,
}

/// What the looks so far came to.
#[derive(Debug, Default)]
struct Findings {
    advertised: Advertised,
    ever_reached: bool,
    misses: u32,
}

impl Findings {
    /// Notes what was found at `address`. Returns whether that is news.
    fn note(&mut self, address: &str, found: Found) -> bool {
        let why = match found {
            Found::Unclear => return false,
            Found::Silence(_) if self.ever_reached => return false,
            Found::Us => {
                let news = matches!(self.advertised, Advertised::Unreached { .. });
                *self = Findings { advertised: Advertised::Reached, ever_reached: true, misses: 0 };
                return news;
            }
            Found::NotUs(why) | Found::Silence(why) => why,
        };
        self.misses = self.misses.saturating_add(1);
        if self.misses < MISSES_MAX {
            return false;
        }
        let known = matches!(&self.advertised, Advertised::Unreached { address: known, .. } if known == address);
        self.advertised = Advertised::Unreached { address: address.to_owned(), why };
        !known
    }
}

/// The server that looks after itself.
pub(crate) struct Watch {
    pub(crate) partition: u16,
    pub(crate) replica: u16,
    pub(crate) cluster: ClusterId,
    /// Where it listens.
    pub(crate) api_listen: SocketAddr,
    pub(crate) handle: ReplicaHandle,
    pub(crate) backend: Arc<ServerBackend>,
}

impl Watch {
    /// Looks as long as the process lives.
    pub(crate) async fn run(self) {
        let mut findings = Findings::default();
        loop {
            if let Some(status) = self.own_status().await {
                self.look(&status, &mut findings).await;
            }
            let pause_ms = if findings.advertised == Advertised::Reached { LOOK_MS } else { LOOK_AGAIN_MS };
            tokio::time::sleep(jittered(Duration::from_millis(pause_ms))).await;
        }
    }

    async fn look(&self, status: &ReplicaStatus, findings: &mut Findings) {
        let servers = self.backend.servers();
        let Some(address) = servers.get(usize::from(self.replica)) else { return };
        if findings.note(address, self.find(address, status.node).await) {
            say(PROGRAM, &self.describe(address, &findings.advertised));
        }
        self.backend.set_advertised(findings.advertised.clone());
        let unreached = matches!(findings.advertised, Advertised::Unreached { .. });
        if unreached && status.role == Role::Leader && status.service_state == ServiceState::InService {
            self.give_way(status, &servers).await;
        }
    }

    async fn own_status(&self) -> Option<Box<ReplicaStatus>> {
        match self.handle.ask(Request::Status).await? {
            Outcome::Status(status) => Some(status),
            _ => None,
        }
    }

    async fn find(&self, address: &str, own: NodeId) -> Found {
        match self.status_at(address).await {
            Ok(Some(status)) if status.node == own => Found::Us,
            Ok(Some(status)) => Found::NotUs(format!("replica {} answers", status.node)),
            Ok(None) => Found::Unclear,
            Err(error) => judge(&error),
        }
    }

    /// What the server at `address` says of itself; `None` if it says nothing useful.
    async fn status_at(&self, address: &str) -> std::io::Result<Option<Box<ReplicaStatus>>> {
        let service = Service::Server { partition: self.partition };
        let timeout = Duration::from_millis(TIMEOUT_MS);
        let mut server = Dialled::to(address, service, Some(self.cluster), timeout).await?;
        match server.ask(ClientRequest::Status).await? {
            ClientResponse::Status(status) => Ok(Some(status)),
            _ => Ok(None),
        }
    }

    fn describe(&self, address: &str, advertised: &Advertised) -> String {
        let node = format!("s{}.{}", self.partition, self.replica);
        match advertised {
            Advertised::Unreached { why, .. } => format!(
                "{node} does not answer at {address}, where the cluster map sends clients ({why}); it listens on {}: \
                 nobody finds \
                 it, and it leaves leading to others",
                self.api_listen
            ),
            Advertised::Reached | Advertised::Unknown => format!("{node} answers at {address} again"),
        }
    }

    /// Hands leadership over to a replica that clients find.
    async fn give_way(&self, own: &ReplicaStatus, servers: &[String]) {
        let mut best: Option<Box<ReplicaStatus>> = None;
        for address in servers {
            let Ok(Some(status)) = self.status_at(address).await else { continue };
            if may_take_over(own, &status) && best.as_ref().is_none_or(|best| best.last < status.last) {
                best = Some(status);
            }
        }
        let Some(best) = best else { return };
        let ReplicaId(successor) = best.node.name;
        if let Some(Outcome::Done) = self.handle.ask(Request::Transfer { to: best.node.name }).await {
            let partition = self.partition;
            say(
                PROGRAM,
                &format!("s{partition}.{} has handed leadership over to s{partition}.{successor}", self.replica),
            );
        }
    }
}

/// What a failed look says. What may have failed on this side (no descriptor is left, say) proves nothing.
fn judge(error: &std::io::Error) -> Found {
    let why = error.to_string();
    match error.kind() {
        // A full listener may be ours.
        ErrorKind::PermissionDenied if why == TOO_MANY_CONNECTIONS => Found::Unclear,
        // Refused by a listener, or greeted by something else.
        ErrorKind::PermissionDenied | ErrorKind::InvalidData => Found::NotUs(why),
        ErrorKind::ConnectionRefused
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::AddrNotAvailable => Found::NotUs(why),
        ErrorKind::TimedOut | ErrorKind::NotFound => Found::Silence(why),
        _ => Found::Unclear,
    }
}

/// Whether a replica that says this of itself serves clients better than the leader whom no one finds.
fn may_take_over(leader: &ReplicaStatus, other: &ReplicaStatus) -> bool {
    other.node != leader.node
        && other.service_state == ServiceState::InService
        && other.advertised == Advertised::Reached
        && leader.voters.contains(&other.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "127.0.0.1:1";

    fn not_us() -> Found {
        Found::NotUs("connection refused".into())
    }

    fn silence() -> Found {
        Found::Silence("timed out".into())
    }

    // covers B29
    #[test]
    fn note_several_misses_are_one_line_and_one_look_at_itself_ends_it() {
        let mut findings = Findings::default();
        let news: Vec<bool> = (0..10).map(|_| findings.note(HERE, not_us())).collect();
        assert_eq!(news.iter().filter(|news| **news).count(), 1);
        assert!(news[MISSES_MAX as usize - 1], "{news:?}");
        assert!(matches!(&findings.advertised, Advertised::Unreached { address, .. } if address == HERE));
        assert!(findings.note("127.0.0.1:2", not_us()), "another address is another line");
        assert!(findings.note(HERE, Found::Us));
        assert_eq!(findings.advertised, Advertised::Reached);
        assert!(!findings.note(HERE, Found::Us));
        assert!(!findings.note(HERE, not_us()), "the count begins again");
    }

    // covers B29
    #[test]
    fn judge_failure_of_this_side_or_of_a_full_listener_proves_nothing() {
        let of = |kind: ErrorKind| judge(&std::io::Error::new(kind, "what it says"));
        for kind in [ErrorKind::ConnectionRefused, ErrorKind::InvalidData, ErrorKind::PermissionDenied] {
            assert_eq!(of(kind), Found::NotUs("what it says".into()));
        }
        for kind in [ErrorKind::TimedOut, ErrorKind::NotFound] {
            assert_eq!(of(kind), Found::Silence("what it says".into()));
        }
        for kind in [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof, ErrorKind::Other, ErrorKind::OutOfMemory] {
            assert_eq!(of(kind), Found::Unclear);
        }
        let no_descriptor = std::io::Error::from_raw_os_error(24);
        assert_eq!(judge(&no_descriptor), Found::Unclear, "{no_descriptor}");
        let full = std::io::Error::new(ErrorKind::PermissionDenied, TOO_MANY_CONNECTIONS);
        assert_eq!(judge(&full), Found::Unclear);
    }

    // covers B29
    #[test]
    fn note_silence_counts_only_before_the_server_was_reached() {
        let mut findings = Findings::default();
        assert!((0..MISSES_MAX).any(|_| findings.note(HERE, silence())), "a wrong address may be silent");
        let mut findings = Findings::default();
        findings.note(HERE, Found::Us);
        assert!(!(0..100).any(|_| findings.note(HERE, silence()) || findings.note(HERE, Found::Unclear)));
        assert_eq!(findings.advertised, Advertised::Reached, "a busy machine is no wrong address");
        assert!((0..MISSES_MAX).any(|_| findings.note(HERE, not_us())));
    }
}
