//! The agents of a cluster's hosts. All hosts are this machine; what makes them different is their agents.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, PipeWriter};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::ports::Ports;
use crate::process::Process;
use crate::programs::{AGENT, MANAGER, Programs, SERVER};
use crate::wait::wait_for;

/// How long processes that were signalled may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// What kind of agents.
#[derive(Clone, Debug)]
pub struct AgentPlan {
    /// How many hosts: replica *r* of each partition lives on host *r* modulo this many.
    pub hosts: u16,
    /// Milliseconds from one heartbeat to the next.
    pub heartbeat_freq_ms: u64,
    /// Whether they launch again what has ended.
    pub relaunch: bool,
    /// Further flags for them.
    pub flags: Vec<OsString>,
    /// Hosts beside these, with an agent each, that have room for a replica and none yet.
    pub spare_hosts: u16,
    /// For how many replicas each of them has room.
    pub rooms: u16,
}

impl AgentPlan {
    /// Agents that relaunch, with the heartbeat frequency of an agent that no one tells one.
    pub fn for_hosts(hosts: u16) -> AgentPlan {
        AgentPlan { hosts, heartbeat_freq_ms: 500, relaunch: true, flags: Vec::new(), spare_hosts: 0, rooms: 1 }
    }
}

/// The agents of all hosts.
#[derive(Debug)]
pub struct Agents {
    processes: Vec<Process>,
    hosts: u16,
    first_port: u16,
    /// With it ends what they launched, if this process is killed and can end no one.
    _stdin: PipeWriter,
    _ports: Ports,
}

impl Agents {
    pub(crate) fn new(
        plan: &AgentPlan,
        programs: &Programs,
        directory: &Path,
        managers: impl Fn(u16) -> String,
    ) -> io::Result<Agents> {
        let all = plan.hosts + plan.spare_hosts;
        // After the agents' own: two for each room.
        let ports = Ports::claim(all + 2 * plan.rooms * plan.spare_hosts)?;
        let (stdin, end) = io::pipe()?;
        let stdin = Arc::new(stdin);
        let processes = (0..all).map(|host| {
            let number = (host + 1).to_string();
            let list = [
                ("--id", number.clone()),
                ("--host", format!("h{number}")),
                ("--manager_addrs", managers(host)),
                ("--listen", address(ports.first(), host).to_string()),
                ("--heartbeat_freq", plan.heartbeat_freq_ms.to_string()),
                ("--relaunch", if plan.relaunch { "yes" } else { "no" }.to_owned()),
            ];
            let mut arguments: Vec<OsString> =
                list.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]).collect();
            arguments.push("--end_with_stdin".into());
            arguments.extend(["--directory".into(), directory.join(format!("agent.{number}")).into_os_string()]);
            arguments.extend(plan.flags.iter().cloned());
            if let Some(spare) = host.checked_sub(plan.hosts) {
                for room in plan.rooms * spare..plan.rooms * (spare + 1) {
                    let [api, p2p] = [0, 1].map(|port| address(ports.first(), all + 2 * room + port));
                    arguments.extend(["--spare".into(), format!("{api},{p2p}").into()]);
                }
            }
            let log = directory.join(format!("agent.{number}.log"));
            Process::new(programs.path(AGENT), arguments, log).with_shared_stdin(Arc::clone(&stdin))
        });
        let processes = processes.collect();
        Ok(Agents { processes, hosts: plan.hosts, first_port: ports.first(), _stdin: end, _ports: ports })
    }

    /// The host of the replicas with this number.
    pub fn host_of(&self, replica: u16) -> u16 {
        replica % self.count()
    }

    /// How many hosts there are, without the spare ones; those have the next numbers.
    pub fn count(&self) -> u16 {
        self.hosts
    }

    /// Where a replica serves clients that has taken this room on the spare hosts; from 0.
    pub fn room_address(&self, room: u16) -> SocketAddr {
        address(self.first_port, self.processes.len() as u16 + 2 * room)
    }

    /// Where the agent of a host listens.
    pub fn address(&self, host: u16) -> SocketAddr {
        address(self.first_port, host)
    }

    /// The agent of a host.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn process(&mut self, host: u16) -> &mut Process {
        &mut self.processes[usize::from(host)]
    }

    /// Starts those that do not run.
    ///
    /// # Errors
    /// If a process cannot be created.
    pub fn start_all(&mut self) -> io::Result<()> {
        self.processes.iter_mut().try_for_each(Process::start)
    }

    /// Kills them, and waits until they are gone. What they launched goes on.
    pub fn kill_all(&mut self) {
        self.processes.iter_mut().for_each(Process::kill);
    }
}

fn address(first_port: u16, host: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, first_port + host).into()
}

/// The numbers of the processes with one of these programs and this argument, zombies not among them.
pub(crate) fn running_with(argument: &OsStr, programs: &[&str]) -> Vec<u32> {
    running(programs, |arguments| arguments.contains(&argument.as_bytes()))
}

fn running(programs: &[&str], is_meant: impl Fn(&[&[u8]]) -> bool) -> Vec<u32> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_one = |pid: &u32| {
        // Of a zombie there is no command line.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        let Some((program, arguments)) = words.split_first() else { return false };
        let name = Path::new(OsStr::from_bytes(program)).file_name();
        programs.iter().any(|program| name == Some(OsStr::new(program))) && is_meant(arguments)
    };
    numbers.filter(is_one).collect()
}

/// Sends a signal to all servers, managers and agents that have something below `directory` in their command line, and
/// kills those that do not end by it in time.
pub(crate) fn end_all_of(directory: &Path, signal: Signal) {
    let mut prefix = directory.as_os_str().as_bytes().to_vec();
    prefix.push(b'/');
    let left = || running(&[AGENT, SERVER, MANAGER], |arguments| arguments.iter().any(|one| one.starts_with(&prefix)));
    for signal in [signal, Signal::KILL] {
        for pid in left() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may just have ended.
                let _ = kill_process(pid, signal);
            }
        }
        if wait_for(END_TIMEOUT, "the end of all processes", || left().is_empty().then_some(())).is_ok() {
            return;
        }
    }
}
