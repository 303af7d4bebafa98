//! The processes of a cluster, and the check of each of its replicas.
//!
//! Replicas compare hashes of their states by themselves, but only now and then, so seldom within a run. Only a leader
//! answers reads, and out of its own state; so each replica in turn is made the leader of its group, and everything is
//! read again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use madkv_client::{Client, ClusterStatus, Options};
use smr::epoch::{EpochKind, GroupKind};
use smr::status::Role;
use tokio::runtime::Runtime;

use madkv_testkit::measure::{Trouble, Usage};
use madkv_testkit::proc;
use madkv_testkit::programs::{MANAGER, SERVER};
use madkv_testkit::wait::wait_for;

/// How long a leadership may take to be handed over.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a manager or server may take to answer the operator.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a service that was just started may take until a manager answers.
pub(super) const SERVICE_TIMEOUT: Duration = Duration::from_secs(20);

/// An operator's view of a running service.
pub(super) struct Operator {
    runtime: Runtime,
    client: Client,
}

impl Operator {
    pub(super) fn new(managers: &[String]) -> Result<Operator, Trouble> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let inside = runtime.enter();
        let timeout = Some(ANSWER_TIMEOUT);
        let client = Client::connect(Options { managers: managers.to_vec(), timeout, ..Options::default() });
        drop(inside);
        Ok(Operator { runtime, client })
    }

    /// Waits until a manager has said what there is.
    pub(super) fn wait_service(
        &self,
        managers: &[String],
        timeout: Duration,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<ClusterStatus, Trouble> {
        let is_there = || {
            let status = self.status();
            (status.cluster.is_some() || interrupted()).then_some(status)
        };
        if let Some(status) = is_there() {
            return Ok(status);
        }
        let managers = managers.join(",");
        eprintln!("waiting for a manager at {managers}");
        let nobody =
            format!("no manager answers at {managers}: is the service running, each node of it by `just p3::service`?");
        wait_for(timeout, "a manager", is_there).map_err(|_| nobody.into())
    }

    /// What each replica says of itself.
    pub(super) fn status(&self) -> ClusterStatus {
        self.runtime.block_on(self.client.status())
    }

    /// The highest replica number, and one more, of any partition.
    pub(super) fn replicas(&self) -> u16 {
        let status = self.status();
        let servers = status.nodes.iter().filter(|node| node.group != "m");
        servers.map(|node| node.replica + 1).max().unwrap_or_default()
    }

    /// Whether all partitions let another replica lead when they are asked to: chains keep their order.
    pub(super) fn all_hand_over(&self) -> bool {
        self.status().kinds.iter().all(|kind| *kind != GroupKind::Epochs(EpochKind::Chain))
    }

    /// Makes replica number `replica` the leader of each partition.
    pub(super) fn let_lead(&self, replica: u16, over: &AtomicBool) -> Result<(), Trouble> {
        let groups: Vec<String> = {
            let status = self.status();
            let servers = status.nodes.iter().filter(|node| node.group != "m" && node.replica == replica);
            servers.map(|node| node.group.clone()).collect()
        };
        for group in groups {
            let mut why = String::new();
            wait_for(TRANSFER_TIMEOUT, &format!("replica {replica} to lead {group}"), || {
                // Whoever is told that it is over asks no more, so it does not matter who leads.
                if over.load(Ordering::Relaxed) || self.leads(&group, replica) {
                    return Some(());
                }
                // Refused while the group is busy with another change; tried again then.
                if let Err(error) = self.runtime.block_on(self.client.transfer(&group, replica)) {
                    why = error.to_string();
                }
                None
            })
            .map_err(|error| format!("{error}; {why}"))?;
        }
        Ok(())
    }

    fn leads(&self, group: &str, replica: u16) -> bool {
        self.status().nodes.iter().any(|node| {
            let says_so = node.status.as_ref().is_ok_and(|status| status.role == Role::Leader);
            node.group == group && node.replica == replica && says_so
        })
    }
}

/// Our processes on this machine, by the port that they serve clients at.
pub(super) fn local_processes() -> BTreeMap<String, (u32, Vec<String>)> {
    let lines = proc::command_lines().into_iter();
    lines.filter_map(|(pid, words)| Some((port_of(&words)?, (pid, words)))).collect()
}

/// The port for clients of a server or manager with this command line.
fn port_of(words: &[String]) -> Option<String> {
    // Not of a `timeout` or `strace` that has started one.
    let program = Path::new(words.first()?).file_name()?.to_str()?;
    if ![MANAGER, SERVER].contains(&program) {
        return None;
    }
    let address = value_of(words, "__api_listen").or_else(|| value_of(words, "__man_listen"))?;
    let (_, port) = address.rsplit_once(':')?;
    Some(port.to_owned())
}

/// The value of a flag, which is spelt with `_`, on a command line, where it may be spelt with `-`.
pub(super) fn value_of(words: &[String], flag: &str) -> Option<String> {
    let is_it = |word: &str| word.replace('-', "_") == flag;
    words.iter().enumerate().find_map(|(place, word)| match word.split_once('=') {
        Some((word, value)) if is_it(word) => Some(value.to_owned()),
        None if is_it(word) => words.get(place + 1).cloned(),
        _ => None,
    })
}

/// The processes of a service that are on this machine: node, process number, command line.
pub(super) fn processes(status: &ClusterStatus) -> Vec<(String, u32, Vec<String>)> {
    let local = local_processes();
    let nodes = status.nodes.iter().filter_map(|node| {
        let (host, port) = node.address.rsplit_once(':')?;
        let is_here = host.starts_with("127.") || host == "localhost";
        let (pid, words) = local.get(port).filter(|_| is_here)?;
        Some((format!("{}.{}", node.group, node.replica), *pid, words.clone()))
    });
    nodes.collect()
}

/// What each process has cost so far, if it lives.
pub(super) fn usages(processes: &[(String, u32, Vec<String>)]) -> Vec<Option<Usage>> {
    processes.iter().map(|(_, pid, _)| Usage::of(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_of_servers_and_managers_is_found_with_either_spelling() {
        let port = |line: &str| port_of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(port("madkv-server --api_listen 127.0.0.1:3777 --p2p_listen h:1").as_deref(), Some("3777"));
        assert_eq!(port("/b/madkv-manager --man-listen 0.0.0.0:3666").as_deref(), Some("3666"));
        assert_eq!(port("./madkv-server --api-listen=localhost:3777").as_deref(), Some("3777"));
        assert_eq!(port("timeout 9 madkv-server --api_listen 127.0.0.1:3777"), None);
        assert_eq!(port("vi --api_listen"), None);
        assert_eq!(port("sleep 5"), None);
    }

    #[test]
    fn wait_service_that_is_not_there_names_the_managers() {
        let managers = ["127.0.0.1:1".to_owned()];
        let operator = Operator::new(&managers).unwrap();
        let error = operator.wait_service(&managers, Duration::ZERO, &|| false).unwrap_err().to_string();
        assert!(error.starts_with("no manager answers at 127.0.0.1:1:"), "{error}");
        assert!(operator.wait_service(&managers, SERVICE_TIMEOUT, &|| true).is_ok());
    }
}
