//! A voting service with real processes: managers, two servers with links between them that can be cut, and clients.
//!
//! The servers start each other again, so they are known by what they say of themselves, and not as children.

#![allow(dead_code, reason = "tests, demonstration and campaign use a part each")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, PipeWriter};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use madkv_proto::map::ClusterMap;
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::ports::Ports;
use madkv_testkit::process::Process;
use madkv_testkit::proxy::{LinkId, Proxy, Rules};
use madkv_testkit::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use smr::codec;
use smr_service::dial::Dialled;
use smr_service::frames::{ClientRequest, ClientResponse};
use tempfile::TempDir;
use voting::words::{Ask, Backup, Description, Mode, SERVICE_NAME, Said, service};

/// How long anything may take that must happen in the end.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a server may take to say how it is.
const DESCRIBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The executables.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) manager: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) client: PathBuf,
}

/// What a service consists of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) managers: u16,
    pub(crate) clients: usize,
    /// More flags for servers.
    pub(crate) flags: Vec<String>,
    /// More flags for managers.
    pub(crate) manager_flags: Vec<String>,
    /// The executable of the key-value store, if a partition of that comes before the group in a common layout.
    pub(crate) store: Option<PathBuf>,
}

/// The service.
pub(crate) struct Service {
    pub(crate) managers: Vec<Process>,
    pub(crate) servers: Vec<Process>,
    pub(crate) clients: Vec<Process>,
    /// The replicas of the store's partition, if there is one.
    pub(crate) store: Vec<Process>,
    /// Where managers listen.
    pub(crate) manager_addrs: String,
    partition: u16,
    addresses: [String; 2],
    proxy: Proxy,
    links: Vec<LinkId>,
    runtime: tokio::runtime::Runtime,
    /// Servers that are started by servers end with it.
    _stdin: PipeWriter,
    _ports: Ports,
    pub(crate) directory: TempDir,
}

/// Whether this is a primary without a backup.
pub(crate) fn is_alone(description: &Description) -> bool {
    let backup = description.situation.as_ref().map(|situation| &situation.backup);
    matches!(backup, Some(Backup::Alone | Backup::Starting))
}

/// Whether a process has ended, with all its threads. A child that no one has waited for yet is still there by name.
fn has_ended(pid: u32) -> bool {
    let root = PathBuf::from(format!("/proc/{pid}"));
    let Ok(threads) = fs::read_dir(root.join("task")) else { return true };
    let state = fs::read_to_string(root.join("stat")).unwrap_or_default();
    threads.count() <= 1 && state.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn pair(addresses: &[String; 2]) -> String {
    addresses.join(",")
}

fn line(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

impl Service {
    /// A service of which nothing runs yet, in a directory of its own in `place`.
    pub(crate) fn new(programs: &Programs, setup: &Setup, place: &Path) -> io::Result<Service> {
        let directory = tempfile::Builder::new().prefix("voting-").tempdir_in(place)?;
        let root = directory.path();
        let (stdin, writer) = io::pipe()?;
        let stdin = Arc::new(stdin);
        let ports = Ports::claim(2 * setup.managers + 8)?;
        let pair_at = |first: u16| [loopback(first), loopback(first + 1)];
        let (addresses, p2p) = (pair_at(ports.first()), pair_at(ports.first() + 2));
        let managers: Vec<[String; 2]> = (0..setup.managers).map(|id| pair_at(ports.first() + 4 + 2 * id)).collect();
        let first = ports.first() + 4 + 2 * setup.managers;
        let (store_addresses, store_p2p) = (pair_at(first), pair_at(first + 2));
        let (partition, services, layout) = match setup.store {
            Some(_) => (1, format!("kv,{SERVICE_NAME}"), format!("{},{}", pair(&store_addresses), pair(&addresses))),
            None => (0, SERVICE_NAME.to_owned(), pair(&addresses)),
        };
        let mut proxy = Proxy::start(1)?;
        let mut links = Vec::new();
        let mut through = |address: &String| -> io::Result<String> {
            let target: SocketAddr = address.parse().map_err(io::Error::other)?;
            let link = proxy.link(target)?;
            links.push(link);
            Ok(proxy.address(link).to_string())
        };
        let p2p_via = [through(&p2p[0])?, through(&p2p[1])?];
        let heartbeat_via = [through(&addresses[0])?, through(&addresses[1])?];
        let sync = sync_flags(root);
        let process = |program: &Path, name: &str, arguments: Vec<OsString>, sync: &[OsString]| {
            let arguments = arguments.into_iter().chain(sync.iter().cloned()).chain(line(&["--end_with_stdin"]));
            let log = root.join(format!("{name}.log"));
            Process::new(program.to_path_buf(), arguments.collect(), log).with_shared_stdin(Arc::clone(&stdin))
        };
        let manager_addrs = managers.iter().map(|[client, _]| client.as_str()).collect::<Vec<_>>().join(",");
        let managers = managers.iter().enumerate().map(|(id, [listen, p2p])| {
            let others = managers.iter().filter(|other| other[1] != *p2p).map(|other| other[1].as_str());
            let others = Some(others.collect::<Vec<_>>().join(",")).filter(|text| !text.is_empty());
            let backer = root.join(format!("m.{id}")).display().to_string();
            let words = [
                "--replica_id",
                &id.to_string(),
                "--man_listen",
                listen,
                "--p2p_listen",
                p2p,
                "--peer_addrs",
                others.as_deref().unwrap_or("none"),
                "--server_rf",
                "2",
                "--protocol",
                "passive",
                "--service",
                &services,
                "--server_addrs",
                &layout,
                "--backer_path",
                &backer,
            ];
            let more = setup.manager_flags.iter().map(OsString::from);
            process(&programs.manager, &format!("m.{id}"), line(&words).into_iter().chain(more).collect(), &sync)
        });
        let managers = managers.collect();
        let servers = (0..2).map(|id| {
            let backer = root.join("voting").display().to_string();
            let words = [
                "--partition_id",
                &partition.to_string(),
                "--replica_id",
                &id.to_string(),
                "--manager_addrs",
                &manager_addrs,
                "--servers",
                &pair(&addresses),
                "--p2p",
                &pair(&p2p),
                "--p2p_via",
                &pair(&p2p_via),
                "--heartbeat_via",
                &pair(&heartbeat_via),
                "--backer_path",
                &backer,
            ];
            let more = setup.flags.iter().map(OsString::from);
            let arguments = line(&words).into_iter().chain(more).collect();
            process(&programs.server, &format!("server.{id}"), arguments, &sync)
        });
        let servers = servers.collect();
        let clients = (0..setup.clients).map(|number| {
            let log = root.join(format!("client.{number}.votes")).display().to_string();
            let name = format!("client{number}");
            let partition = partition.to_string();
            let words = ["--servers", &pair(&addresses), "--partition_id", &partition, "--name", &name, "--log", &log];
            process(&programs.client, &format!("client.{number}"), line(&words), &[])
        });
        let clients = clients.collect();
        let store = setup.store.iter().flat_map(|program| [0, 1].map(|id| (program, id))).map(|(program, id)| {
            let backer = root.join(format!("store.{id}")).display().to_string();
            let words = [
                "--partition_id",
                "0",
                "--replica_id",
                &id.to_string(),
                "--manager_addrs",
                &manager_addrs,
                "--api_listen",
                &store_addresses[id],
                "--p2p_listen",
                &store_p2p[id],
                "--peer_addrs",
                &store_p2p[1 - id],
                "--protocol",
                "passive",
                "--backer_path",
                &backer,
            ];
            process(program, &format!("store.{id}"), line(&words), &sync)
        });
        let store = store.collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _ports = ports;
        Ok(Service {
            managers,
            servers,
            clients,
            store,
            manager_addrs,
            partition,
            addresses,
            proxy,
            links,
            runtime,
            _stdin: writer,
            _ports,
            directory,
        })
    }

    /// Starts everything, and waits until there are a primary and a backup.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        for process in self.managers.iter_mut().chain(&mut self.store).chain(&mut self.servers).chain(&mut self.clients)
        {
            process.start()?;
        }
        self.wait_both().map(drop)
    }

    /// Where a replica serves clients.
    pub(crate) fn address(&self, replica: u16) -> &str {
        &self.addresses[usize::from(replica)]
    }

    /// What a server says of itself, if it says something.
    pub(crate) fn describe(&self, replica: u16) -> Option<Description> {
        let address = self.address(replica);
        let asked = async {
            let mut server = Dialled::to(address, service(self.partition), None, DESCRIBE_TIMEOUT).await.ok()?;
            let ask = ClientRequest::Control(codec::encode(&Ask::Describe).into());
            match server.ask::<ClusterMap>(ask).await.ok()? {
                ClientResponse::Answer(answer) => match codec::decode(&answer).ok()? {
                    Said::Description(description) => Some(description),
                    _ => None,
                },
                _ => None,
            }
        };
        self.runtime.block_on(asked)
    }

    /// The servers that say that they are the primary, by epoch.
    pub(crate) fn primaries(&self) -> BTreeMap<u64, Vec<Description>> {
        let mut primaries: BTreeMap<u64, Vec<Description>> = BTreeMap::new();
        for description in (0..2).filter_map(|replica| self.describe(replica)) {
            if let Some(situation) = &description.situation {
                primaries.entry(situation.epoch).or_default().push(description);
            }
        }
        primaries
    }

    /// The primary, by the latest epoch.
    pub(crate) fn primary(&self) -> Option<Description> {
        self.primaries().pop_last()?.1.pop()
    }

    /// Cuts the link between the two servers, and waits until one of them is alone by the managers' word: that one.
    ///
    /// # Errors
    /// If two servers are primaries of one epoch at any moment, or neither is alone.
    pub(crate) fn cut_and_wait_alone(&self) -> io::Result<Description> {
        self.cut();
        let until = Instant::now() + TIMEOUT;
        loop {
            let primaries = self.primaries();
            if primaries.values().any(|of_an_epoch| of_an_epoch.len() > 1) {
                return Err(io::Error::other(format!("two primaries in one epoch: {primaries:#?}")));
            }
            let newest = primaries.into_values().next_back().and_then(|mut of_an_epoch| of_an_epoch.pop());
            if let Some(alone) = newest.filter(is_alone) {
                return Ok(alone);
            }
            if Instant::now() > until {
                return Err(io::Error::other(format!("no one is alone; {}", self.picture())));
            }
        }
    }

    /// Waits until this server, and no other one, says that it is the primary. One that is none any more may need a
    /// moment to hear of it.
    pub(crate) fn wait_only_primary(&self, alone: &Description) -> io::Result<()> {
        let only = || self.primaries().values().flatten().map(|primary| primary.pid).eq([alone.pid]).then_some(());
        wait_for(TIMEOUT, "one primary", only).map_err(|error| io::Error::other(format!("{error}; {}", self.picture())))
    }

    /// Waits until there is a primary of which `is_so` is true.
    pub(crate) fn wait_primary(&self, what: &str, is_so: impl Fn(&Description) -> bool) -> io::Result<Description> {
        wait_for(TIMEOUT, what, || self.primary().filter(|primary| is_so(primary)))
            .map_err(|error| io::Error::other(format!("{error}; {}", self.picture())))
    }

    /// A primary and a backup that it is in step with, if there are.
    pub(crate) fn both(&self) -> Option<(Description, Description)> {
        let primary = self.primary()?;
        let backup = self.describe(1 - primary.replica).filter(|backup| backup.mode == Mode::Backup)?;
        let is_ready = matches!(primary.situation.as_ref()?.backup, Backup::Ready { .. });
        (is_ready && primary.hears_other).then_some((primary, backup))
    }

    /// Waits until there are a primary and a backup that it is in step with: these.
    pub(crate) fn wait_both(&self) -> io::Result<(Description, Description)> {
        wait_for(TIMEOUT, "a primary and a backup", || self.both())
            .map_err(|error| io::Error::other(format!("{error}; {}", self.picture())))
    }

    /// What both servers say, and the ends of all logs.
    pub(crate) fn picture(&self) -> String {
        let said: Vec<_> = (0..2).map(|replica| self.describe(replica)).collect();
        let processes = self.managers.iter().chain(&self.servers).chain(&self.clients);
        let logs = processes.map(|process| format!("---- {}\n{}", process.log_path().display(), process.log_tail()));
        format!("{said:#?}\n{}", logs.collect::<Vec<_>>().join("\n"))
    }

    /// Kills (SIGKILL) the server that described itself like this, and waits until nothing of it is left.
    pub(crate) fn kill(&mut self, victim: &Description) -> io::Result<()> {
        let pid = i32::try_from(victim.pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no pid"))?;
        kill_process(pid, Signal::KILL)?;
        // Its connections are closed before its ports and its directory are free.
        wait_for(TIMEOUT, "the end of a server", || has_ended(victim.pid).then_some(())).map_err(io::Error::other)?;
        // If it is a child of this process it can be started again now.
        self.servers[usize::from(victim.replica)].ended();
        Ok(())
    }

    /// Starts a server as the operator, or an agent, would.
    pub(crate) fn relaunch(&mut self, replica: u16) -> io::Result<()> {
        self.servers[usize::from(replica)].start()
    }

    /// Cuts the link between the two servers, silently: what keeps them in step, and heartbeats.
    pub(crate) fn cut(&self) {
        self.links.iter().for_each(|link| self.proxy.set(*link, Rules::silent()));
    }

    /// Mends it.
    pub(crate) fn mend(&self) {
        self.links.iter().for_each(|link| self.proxy.set(*link, Rules::default()));
    }

    /// What a client has logged.
    pub(crate) fn log_of(&self, client: usize) -> String {
        fs::read_to_string(self.directory.path().join(format!("client.{client}.votes"))).unwrap_or_default()
    }

    /// How many results a client has logged.
    pub(crate) fn logged(&self, client: usize) -> usize {
        self.log_of(client).lines().count()
    }

    /// Waits until each client has logged this many results more than the one that has most of them has now.
    pub(crate) fn wait_results(&self, more: usize) -> io::Result<()> {
        let clients = 0..self.clients.len();
        let goal = clients.clone().map(|client| self.logged(client)).max().unwrap_or(0) + more;
        let all = || clients.clone().all(|client| self.logged(client) >= goal).then_some(());
        wait_for(TIMEOUT, &format!("{goal} results in each log"), all)
            .map_err(|error| io::Error::other(format!("{error}; {}", self.picture())))
    }

    /// Ends all clients in order, lets each go on until all have the same results, and compares their logs. Returns
    /// how many results each has.
    pub(crate) fn finish(&mut self) -> io::Result<usize> {
        let most = (0..self.clients.len()).map(|client| self.logged(client)).max().unwrap_or(0) + 1;
        for client in &mut self.clients {
            client.send_terminate();
        }
        for client in &mut self.clients {
            let ended = client.wait_end(TIMEOUT).and_then(|status| status.code());
            if ended != Some(0) {
                return Err(io::Error::other(format!("a client ended with {ended:?}: {}", client.log_tail())));
            }
            client.add_arguments(&line(&["--until", &most.to_string()]));
            client.start()?;
        }
        for client in &mut self.clients {
            let ended = client.wait_end(TIMEOUT).and_then(|status| status.code());
            if ended != Some(0) {
                return Err(io::Error::other(format!("a client ended with {ended:?}: {}", client.log_tail())));
            }
        }
        self.compare(most)
    }

    /// The logs of all clients are the same as far as the first `results` go, without a gap and without a repeat, and
    /// no one was counted twice.
    pub(crate) fn compare(&self, results: usize) -> io::Result<usize> {
        let logs: Vec<String> = (0..self.clients.len()).map(|client| self.log_of(client)).collect();
        let first: Vec<&str> = logs[0].lines().take(results).collect();
        for (client, log) in logs.iter().enumerate() {
            let lines: Vec<&str> = log.lines().take(results).collect();
            if lines != first || lines.len() < results {
                let (has, differs) = (lines.len(), lines.iter().zip(&first).position(|(own, other)| own != other));
                let what = format!("client {client} has {has} results of {results}, and differs at {differs:?}");
                return Err(io::Error::other(what));
            }
            for (line, vote) in log.lines().zip(1_u64..) {
                let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
                match numbers[..] {
                    [id, yes, no] if id == vote && yes + no <= self.clients.len() as u64 => {}
                    _ => return Err(io::Error::other(format!("client {client}, line {vote}: {line:?}"))),
                }
            }
        }
        Ok(results)
    }
}

impl Drop for Service {
    /// Servers that were started by servers are no children of this process.
    fn drop(&mut self) {
        for description in (0..2).filter_map(|replica| self.describe(replica)) {
            if let Some(pid) = i32::try_from(description.pid).ok().and_then(Pid::from_raw) {
                // One that has just ended is as good.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
