//! What a replica and the agent of its host say to each other, in the frames of [`smr::codec`].
//!
//! The replica dials its agent and sends [`AgentHello`], with the versions that it speaks and with all that the agent
//! needs to watch its process and to launch it again. The agent answers [`AgentWelcome`] with the highest version that
//! both speak, or [`AgentRefusal`] and closes. From then on the agent sends [`Heartbeat`]s, and the replica answers
//! each, in order. A replica that ends because it was asked to says [`Farewell`] before it does.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smr::id::Incarnation;
use smr::version::VersionRange;

use crate::control::Service;

/// The versions of what replicas and agents say to each other.
pub const AGENT_VERSIONS: VersionRange = VersionRange::new(1, 1);
/// The first bytes of an [`AgentHello`].
pub const AGENT_MAGIC: u64 = u64::from_le_bytes(*b"madkv/a\n");

/// Kind of the frame that carries an [`AgentHello`].
pub const KIND_AGENT_HELLO: u16 = 0x4d20;
/// Kind of the frame that carries an [`AgentWelcome`].
pub const KIND_AGENT_WELCOME: u16 = 0x4d21;
/// Kind of the frame that carries an [`AgentRefusal`].
pub const KIND_AGENT_REFUSAL: u16 = 0x4d22;
/// Kind of the frame that carries a [`Heartbeat`].
pub const KIND_HEARTBEAT: u16 = 0x4d23;
/// Kind of the frame that carries a [`HeartbeatAnswer`].
pub const KIND_HEARTBEAT_ANSWER: u16 = 0x4d24;
/// Kind of the frame that carries a [`Farewell`].
pub const KIND_FAREWELL: u16 = 0x4d25;

/// The longest frame between a replica and its agent, in bytes: a hello with the longest command line.
pub const AGENT_FRAME_MAX_BYTES: usize = 256 << 10;
/// The longest command line of a replica, in bytes, with a byte for the end of each argument.
pub const COMMAND_LINE_MAX_BYTES: usize = 128 << 10;
/// The longest path in a [`LaunchCommand`], in bytes: what Linux takes.
pub const PATH_MAX_BYTES: usize = 4096;

/// A replica's first words. The shape stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// [`AGENT_MAGIC`].
    pub magic: u64,
    /// The newest version that the replica speaks.
    pub newest: u16,
    /// The oldest version that it speaks.
    pub oldest: u16,
    /// Which replica it is, as which process, and how it was launched.
    pub registration: ReplicaRegistration,
    /// What versions to come add to this frame; others pass over it.
    pub later: Bytes,
}

impl AgentHello {
    /// The hello of this build.
    pub fn new(registration: ReplicaRegistration) -> AgentHello {
        let (newest, oldest) = (AGENT_VERSIONS.newest(), AGENT_VERSIONS.oldest());
        AgentHello { magic: AGENT_MAGIC, newest, oldest, registration, later: Bytes::new() }
    }

    /// The version for a connection with the one who says this.
    ///
    /// # Errors
    /// The reason to refuse it, if there is none, or if what it says makes no sense.
    pub fn agree(&self) -> Result<u16, String> {
        if self.magic != AGENT_MAGIC {
            return Err("another protocol".to_owned());
        }
        let theirs = VersionRange::checked(self.oldest, self.newest)
            .ok_or_else(|| "a range of versions ends before it begins".to_owned())?;
        let version = theirs
            .common(AGENT_VERSIONS)
            .ok_or_else(|| format!("a replica that speaks {theirs} meets an agent that speaks {AGENT_VERSIONS}"))?;
        self.registration.command.check()?;
        Ok(version)
    }
}

/// A replica, to the agent of its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRegistration {
    /// The partition that it serves.
    pub partition: u16,
    /// Its number in the partition.
    pub replica: u16,
    /// Its number on consoles: S*k*.
    pub console: u32,
    /// The incarnation of its directory.
    pub incarnation: Incarnation,
    /// The process that says so.
    pub process: ProcessId,
    /// How it was launched.
    pub command: LaunchCommand,
}

/// A process of this boot of the host. The number alone may be another process's by now: it is given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number that the kernel gave it.
    pub pid: u32,
    /// When it started, in clock ticks since the host did: field 22 of `/proc/<pid>/stat`.
    pub started_ticks: u64,
}

impl std::fmt::Display for ProcessId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

/// How a replica is launched. Paths and arguments are the operating system's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchCommand {
    /// The path of the executable.
    pub executable: Bytes,
    /// The arguments, without the program's name.
    pub arguments: Vec<Bytes>,
    /// The working directory, from which relative paths among the arguments start.
    pub working_directory: Bytes,
    /// The replica's own directory, absolute.
    pub directory: Bytes,
    /// Where its stderr goes, if that has a path: a file, or a terminal.
    pub stderr: Option<Bytes>,
}

impl LaunchCommand {
    /// Checks what a stranger might have made too large, or senseless.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        let stderr = self.stderr.as_deref().unwrap_or(b"/");
        for (what, path) in [
            ("executable", &self.executable[..]),
            ("working directory", &self.working_directory),
            ("directory", &self.directory),
            ("stderr", stderr),
        ] {
            if path.first() != Some(&b'/') || path.len() > PATH_MAX_BYTES || path.contains(&0) {
                return Err(format!("the {what} is no absolute path of at most {PATH_MAX_BYTES} bytes"));
            }
        }
        let length: usize = self.arguments.iter().map(|argument| argument.len() + 1).sum();
        if length > COMMAND_LINE_MAX_BYTES || self.arguments.iter().any(|argument| argument.contains(&0)) {
            return Err(format!("the arguments are no command line of at most {COMMAND_LINE_MAX_BYTES} bytes"));
        }
        Ok(())
    }
}

/// The agent's answer to a replica that it watches from now on. The shape stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentWelcome {
    /// The version of everything that follows, in both directions.
    pub version: u16,
    /// The agent's number: LFD*n* on consoles.
    pub agent: u16,
    /// As in [`AgentHello`].
    pub later: Bytes,
}

/// Why the agent does not watch a replica. The connection is closed after this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRefusal {
    /// For a person to read.
    pub reason: String,
}

/// Is the replica well?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The agent's count of the heartbeats that it has sent, this one included; to whichever replica.
    pub count: u64,
}

/// It is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// The heartbeat's count.
    pub count: u64,
    /// The incarnation that it runs as.
    pub incarnation: Incarnation,
    /// How it is; `None` while it starts.
    pub service: Option<Service>,
}

/// The replica ends because it was asked to: by a signal, or because its stdin ended. It is not to be launched again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell;

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> ReplicaRegistration {
        ReplicaRegistration {
            partition: 0,
            replica: 1,
            console: 2,
            incarnation: Incarnation(7),
            process: ProcessId { pid: 8, started_ticks: 9 },
            command: LaunchCommand {
                executable: "/bin/x".into(),
                arguments: vec!["--a".into(), "b".into()],
                working_directory: "/".into(),
                directory: "/data".into(),
                stderr: None,
            },
        }
    }

    #[test]
    fn hello_agrees_upon_the_highest_common_version_or_says_both_ranges() {
        let hello = AgentHello::new(registration());
        assert_eq!(hello.agree(), Ok(1));
        assert_eq!(AgentHello { newest: 9, ..hello.clone() }.agree(), Ok(1));
        let newer = AgentHello { newest: 9, oldest: 2, ..hello.clone() }.agree().unwrap_err();
        assert_eq!(newer, "a replica that speaks versions 2 to 9 meets an agent that speaks version 1");
        assert!(AgentHello { magic: 7, ..hello.clone() }.agree().is_err());
        assert!(AgentHello { oldest: 2, ..hello }.agree().is_err());
    }

    // covers B2
    #[test]
    fn command_that_cannot_be_launched_is_refused() {
        let good = registration().command;
        assert_eq!(good.check(), Ok(()));
        let bad = [
            LaunchCommand { executable: "x".into(), ..good.clone() },
            LaunchCommand { directory: "".into(), ..good.clone() },
            LaunchCommand { working_directory: "/a\0b".into(), ..good.clone() },
            LaunchCommand { stderr: Some("pipe:[7]".into()), ..good.clone() },
            LaunchCommand { directory: format!("/{}", "x".repeat(PATH_MAX_BYTES)).into(), ..good.clone() },
            LaunchCommand { arguments: vec!["a\0".into()], ..good.clone() },
            LaunchCommand { arguments: vec!["".into(); COMMAND_LINE_MAX_BYTES + 1], ..good },
        ];
        assert!(bad.iter().all(|command| command.check().is_err()));
    }
}
