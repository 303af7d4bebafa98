//! What every demonstration stands on.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use madkv_testkit::agents::AgentPlan;
use madkv_testkit::cluster::{Cluster, Group, Layout, Node, Shape};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::line_client::LineClient;
use madkv_testkit::load::{Load, Plan};
use madkv_testkit::ports::Ports;
use madkv_testkit::programs::{CLIENT, Programs};
use madkv_testkit::wait::wait_for;
use madkv_testkit::wiring::Network;
use smr::epoch::{EpochKind, GroupKind};
use smr::status::{Role, ServiceState};
use tempfile::TempDir;

/// How a demonstration ends, or why it failed.
pub(super) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What a demonstration needs is not here: nothing was shown, and nothing failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotHere(pub(super) String);

/// How long anything may take that must happen in the end.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take until a group has the members that it is to have: on a machine whose disk stands still now and
/// then some are removed again and again, and each time the pause before they are taken back is twice as long.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(180);
/// For how long something that must not happen is watched.
pub(super) const WATCH: Duration = Duration::from_millis(1500);
/// Three servers, and three managers.
pub(super) const THREE: Shape = Shape { server_rf: 3, manager_rf: 3, partitions: 1 };
/// What a bad network draws its chances from.
const NETWORK_SEED: u64 = 1;
/// Requests of all clients together between two faults.
const BETWEEN: u64 = 300;
/// The number of the first client in a loop; those with lower ones are sent lines by hand.
pub(super) const LOOPS_FIRST: u32 = 11;
/// What a console says of the replica that it belongs to, before the number of the term.
const LEADS: &str = "is leader in term ";
/// How much of a line of a console is shown, in characters.
const SHOWN_MAX: usize = 150;

/// Says what is done.
pub(super) fn tell(text: &str) {
    println!("   {text}");
}

/// Says that something was just shown, and where the guide asks for it: `2 (11)` is step 11 of milestone 2.
pub(super) fn shown(guide: &str, text: &str) {
    if guide.is_empty() {
        println!("ok {text}");
    } else {
        println!("ok {text}   [guide {guide}]");
    }
}

/// Shows a line of someone's console.
pub(super) fn show_line(whose: &str, line: &str) {
    let end = line.char_indices().nth(SHOWN_MAX).map_or(line.len(), |(at, _)| at);
    println!("     {whose:>4} | {}", &line[..end]);
}

/// A claim that must hold.
pub(super) fn claim(holds: bool, what: impl FnOnce() -> String) -> Outcome<()> {
    if holds { Ok(()) } else { Err(what().into()) }
}

fn fresh_directory(programs: &Programs) -> Outcome<TempDir> {
    Ok(tempfile::Builder::new().prefix("madkv-demo-").tempdir_in(programs.directory())?)
}

/// What each server and manager is started with besides.
fn flags_of(directory: &Path) -> Vec<OsString> {
    let mut flags = sync_flags(directory);
    flags.push("--trace_messages".into());
    flags
}

/// A cluster whose consoles are read.
pub(super) struct Stage {
    cluster: Cluster,
    directory: TempDir,
    /// Up to where consoles were read.
    marks: BTreeMap<PathBuf, usize>,
}

impl Stage {
    /// A cluster of which nothing runs yet.
    pub(super) fn empty(programs: &Programs, shape: Shape) -> Outcome<Stage> {
        let directory = fresh_directory(programs)?;
        let flags = flags_of(directory.path());
        let cluster = Cluster::on_free_ports(programs, shape, directory.path(), &flags)?;
        Ok(Stage { cluster, directory, marks: BTreeMap::new() })
    }

    /// A cluster whose hosts have agents; nothing runs yet.
    pub(super) fn with_agents(programs: &Programs, shape: Shape, plan: &AgentPlan) -> Outcome<Stage> {
        let mut stage = Stage::empty(programs, shape)?;
        stage.watch_by_agents(plan)?;
        Ok(stage)
    }

    /// The same, with partitions of another kind than Raft's.
    pub(super) fn of_kind(programs: &Programs, kind: EpochKind, plan: &AgentPlan) -> Outcome<Stage> {
        let mut stage = Stage::with_agents(programs, THREE, plan)?;
        stage.set_kinds(&[GroupKind::Epochs(kind)]);
        Ok(stage)
    }

    /// A cluster of such a kind, and the network that all its connections go over; nothing runs yet.
    pub(super) fn wired(programs: &Programs, kind: EpochKind) -> Outcome<(Stage, Network)> {
        let directory = fresh_directory(programs)?;
        let ports = Ports::claim(2 * THREE.nodes_count())?;
        let layout = Layout { shape: THREE, first_port: ports.first() };
        let network = Network::new(layout, NETWORK_SEED)?;
        let (flags, overrides) = (flags_of(directory.path()), network.overrides());
        let mut cluster = Cluster::with_overrides(programs, layout, directory.path(), &flags, overrides)?;
        cluster.keep_ports(ports);
        cluster.set_kinds(&[GroupKind::Epochs(kind)]);
        Ok((Stage { cluster, directory, marks: BTreeMap::new() }, network))
    }

    /// Waits until a group whose members the managers name has this many of them that have everything.
    pub(super) fn wait_members(&self, group: Group, count: usize) -> Outcome<()> {
        let have = || {
            let status = self.status(self.leader(group)?).ok()?;
            (status.voters.len() == count).then_some(())
        };
        Ok(wait_for(MEMBERS_TIMEOUT, &format!("{count} members of {group}"), have)?)
    }

    /// Starts the agent of a host.
    pub(super) fn start_agent(&mut self, host: u16) -> Outcome<()> {
        tell(&format!("LFD{} starts", host + 1));
        Ok(self.agents().ok_or("there are no agents")?.process(host).start()?)
    }

    /// What an agent's console has.
    pub(super) fn agent_log(&mut self, host: u16) -> String {
        self.agents().map_or_else(String::new, |agents| agents.process(host).log_text())
    }

    /// Waits for the next line of this kind on an agent's console, and shows it.
    pub(super) fn agent_says(&mut self, host: u16, wanted: impl Fn(&str) -> bool) -> Outcome<String> {
        let path = self.agents().ok_or("there are no agents")?.process(host).log_path().to_path_buf();
        self.next_line(&[(format!("LFD{}", host + 1), path)], wanted)
    }

    /// Waits for the next line of this kind on the console of any manager, and shows it.
    pub(super) fn a_manager_says(&mut self, wanted: impl Fn(&str) -> bool) -> Outcome<String> {
        let nodes: Vec<Node> = self.nodes_of(Group::Manager).collect();
        let consoles: Vec<(String, PathBuf)> =
            nodes.into_iter().map(|node| (node.to_string(), self.process(node).log_path().to_path_buf())).collect();
        self.next_line(&consoles, wanted)
    }

    /// Waits for a line on one of these consoles, after those that were found there before.
    fn next_line(&mut self, consoles: &[(String, PathBuf)], wanted: impl Fn(&str) -> bool) -> Outcome<String> {
        let names: Vec<&str> = consoles.iter().map(|(name, _)| name.as_str()).collect();
        let marks = &mut self.marks;
        let found = wait_for(TIMEOUT, &format!("a line on the console of {}", names.join(" or ")), || {
            consoles.iter().find_map(|(name, path)| {
                let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).ok()?;
                let mark = marks.entry(path.clone()).or_default();
                let mut at = *mark;
                for line in text.get(at..)?.split_inclusive('\n') {
                    at += line.len();
                    if line.ends_with('\n') && wanted(line.trim_end()) {
                        *mark = at;
                        return Some((name.clone(), line.trim_end().to_owned()));
                    }
                }
                None
            })
        });
        let (name, line) = found?;
        show_line(&name, &line);
        Ok(line)
    }

    /// A cluster that is ready.
    pub(super) fn ready(programs: &Programs, shape: Shape) -> Outcome<Stage> {
        let mut stage = Stage::empty(programs, shape)?;
        let Shape { server_rf, manager_rf, partitions } = shape;
        tell(&format!("Starting managers, {manager_rf} in number, and {partitions} x {server_rf} servers."));
        stage.start_all()?;
        for (group, leader) in stage.wait_ready(TIMEOUT)? {
            tell(&format!("{leader} leads {group}."));
        }
        Ok(stage)
    }

    /// Clients C11, C12, ... that write in a loop. A name is one client's: each counts its requests from 1.
    pub(super) fn loops(&self, clients: u32) -> Outcome<Load> {
        let numbers = LOOPS_FIRST..LOOPS_FIRST + clients;
        let started: Outcome<Vec<LineClient>> = numbers.map(|number| self.traced_client(number)).collect();
        let load = Load::with(started?, &Plan { clients: clients as usize, keys: 40, prefix: "key".to_owned() });
        tell(&format!("C{LOOPS_FIRST} to C{} write in a loop.", LOOPS_FIRST + clients - 1));
        Ok(load)
    }

    /// A client whose console is a file.
    pub(super) fn traced_client(&self, number: u32) -> Outcome<LineClient> {
        let program = self.programs().path(CLIENT);
        let managers = self.manager_addresses();
        let number = number.to_string();
        // The shell becomes the client: only its stderr is another one.
        let words = ["-c", "exec \"$@\" 2>>\"$0\"", &self.console_of(&number).display().to_string()];
        let client = [&program.display().to_string(), "--manager_addrs", &managers, "--trace_messages", "--client_id"];
        let line: Vec<String> = [&words[..], &client, &[&number]].concat().into_iter().map(str::to_owned).collect();
        Ok(LineClient::start(Path::new("/bin/sh"), &line)?)
    }

    fn console_of(&self, client: &str) -> PathBuf {
        self.directory.path().join(format!("C{client}.log"))
    }

    /// Waits for a line on a client's console, and shows it.
    pub(super) fn client_says(&self, client: u32, wanted: impl Fn(&str) -> bool) -> Outcome<String> {
        let path = self.console_of(&client.to_string());
        let what = format!("a line on the console of C{client}");
        let line = wait_for(TIMEOUT, &what, || {
            let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            text.lines().find(|line| wanted(line)).map(str::to_owned)
        })?;
        show_line(&format!("C{client}"), &line);
        Ok(line)
    }

    /// Waits for a line on a node's console, and shows it.
    pub(super) fn says(&mut self, node: Node, wanted: impl Fn(&str) -> bool) -> Outcome<String> {
        let what = format!("a line on the console of {node}");
        let process = self.process(node);
        let line =
            wait_for(TIMEOUT, &what, || process.log_text().lines().find(|line| wanted(line)).map(str::to_owned))?;
        show_line(&self.console_name(node), &line);
        Ok(line)
    }

    /// The term in which a node leads by its own account.
    pub(super) fn term_of(&self, leader: Node) -> Outcome<u64> {
        Ok(wait_for(TIMEOUT, &format!("the status of {leader}"), || self.status(leader).ok())?.term.0)
    }

    /// Waits until a node's console says that it leads in a later term than `term`, and shows the line.
    pub(super) fn says_that_it_leads_after(&mut self, node: Node, term: u64) -> Outcome<()> {
        self.says(node, |line| led_term(line).is_some_and(|led| led > term)).map(|_| ())
    }

    /// Claims that a node that runs follows, and whom.
    pub(super) fn follows(&self, node: Node) -> Outcome<Node> {
        let leader = wait_for(TIMEOUT, &format!("{node} to follow"), || {
            let status = self.status(node).ok()?;
            let follows = status.role == Role::Follower && status.service_state == ServiceState::InService;
            status.leader.filter(|_| follows)
        })?;
        let found = self.nodes_of(node.group()).find(|other| other.replica() == leader.name.0);
        let leader = found.ok_or_else(|| format!("{node} follows {leader}, which is not in its group"))?;
        claim(leader != node, || format!("{node} follows itself"))?;
        Ok(leader)
    }

    /// What consoles call a node: S1, S2, ... for servers.
    pub(super) fn console_name(&self, node: Node) -> String {
        match node {
            Node::Manager(_) => node.to_string(),
            Node::Server { partition, replica } => {
                format!("S{}", partition * self.layout().shape.server_rf + replica + 1)
            }
        }
    }

    /// How a node is called here: `s0.1 (S2)`.
    pub(super) fn named(&self, node: Node) -> String {
        match node {
            Node::Manager(_) => node.to_string(),
            Node::Server { .. } => format!("{node} ({})", self.console_name(node)),
        }
    }

    /// The leader of a group.
    pub(super) fn leader_of(&self, group: Group) -> Outcome<Node> {
        Ok(self.wait_leader(group, TIMEOUT)?)
    }

    /// A follower of a group that runs.
    pub(super) fn follower_of(&mut self, group: Group) -> Outcome<Node> {
        let leader = self.leader_of(group)?;
        let nodes: Vec<Node> = self.nodes_of(group).filter(|&node| node != leader).collect();
        let running = nodes.into_iter().find(|&node| self.process(node).is_running());
        running.ok_or_else(|| format!("{group} has no follower that runs").into())
    }

    /// Kills a node, and says so.
    pub(super) fn kill(&mut self, node: Node) -> Outcome<()> {
        tell(&format!("kill -9 {}", self.named(node)));
        self.process(node).kill();
        Ok(())
    }

    /// Starts a node again with its directory, and waits until it has all that its leader had.
    pub(super) fn bring_back(&mut self, node: Node) -> Outcome<()> {
        tell(&format!("starting {} again, with its directory", self.named(node)));
        self.process(node).start()?;
        // Others may be dead: it alone is waited for.
        let leader = self.leader_of(node.group())?;
        let target = wait_for(TIMEOUT, "the leader's status", || self.status(leader).ok())?.commit;
        let is_whole = |node| {
            let status = self.status(node).ok()?;
            (status.service_state == ServiceState::InService && status.applied >= target).then_some(())
        };
        Ok(wait_for(TIMEOUT, &format!("{node} to serve, with entry {target:?}"), || is_whole(node))?)
    }

    /// The command-line client, with one command.
    pub(super) fn operator(&self, words: &[&str]) -> Outcome<Output> {
        tell(&format!("madkv-client {}", words.join(" ")));
        self.quietly(words)
    }

    /// The same, for a command that is tried until it succeeds.
    pub(super) fn quietly(&self, words: &[&str]) -> Outcome<Output> {
        let managers = self.manager_addresses();
        let line = [&["--manager_addrs", &managers], words].concat();
        Ok(Command::new(self.programs().path(CLIENT)).args(line).stdin(Stdio::null()).output()?)
    }

    /// Gives each start of a node a further flag.
    pub(super) fn add_flag(&mut self, node: Node, flag: &str) {
        self.process(node).add_arguments(&[OsString::from(flag)]);
    }
}

impl Deref for Stage {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

/// The term in which the replica leads that wrote this line of a console.
fn led_term(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(LEADS)?;
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Waits until the clients have been answered some hundred times more.
pub(super) fn goes_on(load: &mut Load, guide: &str, what: &str) -> Outcome<()> {
    load.wait_answers(BETWEEN, TIMEOUT)?;
    shown(guide, &format!("{what}: {BETWEEN} more requests were answered"));
    Ok(())
}

/// Ends the clients, and judges from their answers alone whether each write took effect exactly once.
pub(super) fn judge(stage: &Stage, load: Load) -> Outcome<()> {
    let history = load.finish()?;
    history.check(stage)?;
    let longest = history.swaps.iter().filter_map(|swap| Some(swap.answer.as_ref()?.0 - swap.started)).max();
    let longest = longest.unwrap_or_default().as_millis();
    let count = history.swaps.len();
    shown("", &format!("all {count} writes took effect exactly once; the longest wait was {longest} ms"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::led_term;

    #[test]
    fn led_term_is_the_number_behind_the_words() {
        assert_eq!(led_term("s0: replica 2 is leader in term 17, for whom 3 voted"), Some(17));
        assert_eq!(led_term("replica 2 is leader in term 4"), Some(4));
        assert_eq!(led_term("replica 2 is follower in term 17"), None);
    }
}
