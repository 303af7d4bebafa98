//! How a replica is launched that this host has never run: with the server's program beside the agent's, its directory
//! in the agent's own, and the addresses that the managers say.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use bytes::Bytes;
use madkv_proto::agent::LaunchCommand;
use madkv_proto::control::Launch;

use super::replica::Name;

/// The server's program.
const SERVER: &str = "madkv-server";

/// What of it is the host's own.
#[derive(Clone, Debug, Default)]
pub(super) struct Placement {
    /// The directory with the programs.
    pub(super) programs: PathBuf,
    /// The agent's directory, absolute.
    pub(super) directory: PathBuf,
    /// The managers.
    pub(super) managers: Vec<String>,
    /// Further flags for servers.
    pub(super) flags: Vec<OsString>,
}

impl Placement {
    /// How `name` is launched as `launch` says, on a host whose agent listens at `agent`.
    ///
    /// # Errors
    /// Why that cannot be.
    pub(super) fn command(&self, name: Name, launch: &Launch, agent: &str) -> Result<LaunchCommand, String> {
        let backer = self.directory.join(format!("backer.{name}"));
        let bytes = |path: PathBuf| Bytes::from(path.into_os_string().into_vec());
        let peers = if launch.peers.is_empty() { "none".to_owned() } else { launch.peers.join(",") };
        let mut arguments: Vec<Bytes> = [
            ("--partition_id", name.partition.to_string()),
            ("--replica_id", name.replica.to_string()),
            ("--manager_addrs", self.managers.join(",")),
            ("--api_listen", listen_at(&launch.api_address)?),
            ("--p2p_listen", listen_at(&launch.p2p_address)?),
            ("--peer_addrs", peers),
            ("--agent", agent.to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [Bytes::from(flag), Bytes::from(value)])
        .collect();
        arguments.push("--backer_path".into());
        arguments.push(bytes(backer.clone()));
        arguments.extend(self.flags.iter().map(|flag| Bytes::from(flag.clone().into_vec())));
        let stderr = self.directory.join(format!("{name}.log"));
        let command = LaunchCommand {
            executable: bytes(self.programs.join(SERVER)),
            arguments,
            working_directory: bytes(self.directory.clone()),
            directory: bytes(backer),
            stderr: Some(bytes(stderr)),
        };
        command.check()?;
        Ok(command)
    }
}

/// Where a replica that was launched so reaches its peers, in replica order.
pub(super) fn peers_of(command: &LaunchCommand) -> Vec<String> {
    let mut words = command.arguments.iter().map(|word| String::from_utf8_lossy(word));
    while let Some(word) = words.next() {
        let (flag, value) = word.split_once('=').map_or((&*word, None), |(flag, value)| (flag, Some(value)));
        if flag.replace('-', "_") == "__peer_addrs" {
            let list = value.map(str::to_owned).or_else(|| words.next().map(String::from)).unwrap_or_default();
            let addresses = list.split(',').map(str::to_owned).filter(|address| !address.is_empty());
            return if list == "none" { Vec::new() } else { addresses.collect() };
        }
    }
    Vec::new()
}

/// Where to listen so that others reach `address`: at it if it is an IP address, else at its port on all addresses.
fn listen_at(address: &str) -> Result<String, String> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Ok(address.to_string());
    }
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let port = port.ok_or_else(|| format!("{address:?} is no host:port"))?;
    Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_has_the_addresses_of_the_managers_word_and_the_rest_of_the_host() {
        let placement = Placement {
            programs: "/bin".into(),
            directory: "/data/agent".into(),
            managers: vec!["a:1".into(), "b:2".into()],
            flags: vec!["--allow_unsynced".into()],
        };
        let launch = Launch {
            api_address: "127.0.0.9:3".into(),
            p2p_address: "host:4".into(),
            peers: vec!["c:5".into(), "d:6".into()],
        };
        let name = Name { partition: 1, replica: 2 };
        let command = placement.command(name, &launch, "127.0.0.1:7").unwrap();
        let words: Vec<_> = command.arguments.iter().map(|word| String::from_utf8_lossy(word)).collect();
        assert_eq!(
            words.join(" "),
            "--partition_id 1 --replica_id 2 --manager_addrs a:1,b:2 --api_listen 127.0.0.9:3 --p2p_listen 0.0.0.0:4 \
             --peer_addrs c:5,d:6 --agent 127.0.0.1:7 --backer_path /data/agent/backer.s1.2 --allow_unsynced"
        );
        assert_eq!(&command.executable[..], b"/bin/madkv-server");
        assert_eq!(peers_of(&command), ["c:5", "d:6"]);
        let launched = |words: &[&'static str]| {
            let arguments = words.iter().map(|word| Bytes::from_static(word.as_bytes())).collect();
            peers_of(&LaunchCommand { arguments, ..command.clone() })
        };
        assert_eq!(launched(&["--x", "--peer-addrs=e:7"]), ["e:7"]);
        assert_eq!(launched(&["--peer_addrs", "none"]), [""; 0]);
        assert_eq!(launched(&["--peer_addrs"]), [""; 0]);
        let bad = Launch { p2p_address: "host".into(), ..launch };
        assert!(placement.command(name, &bad, "127.0.0.1:7").is_err());
    }
}
