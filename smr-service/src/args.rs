//! Command lines: what they have in common, checked before anything is touched (fault catalogue B9).
//!
//! Flags are accepted with `_` and with `-`. Whatever is wrong becomes one line.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::error::ContextValue;

use crate::address::is_same;
use crate::limits::REPLICAS_MAX;

/// A command line that cannot work, in one line for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadArgument(pub String);

/// What a command line came to.
#[derive(Debug)]
pub enum Parsed<O> {
    /// Go on with these.
    Options(O),
    /// Help or version was asked for: print this on stdout and exit 0.
    Print(String),
}

/// Parses a command line; the first item is the program's name.
///
/// # Errors
/// What is wrong with it.
pub fn parse<O: clap::Parser>(line: impl IntoIterator<Item = OsString>) -> Result<Parsed<O>, BadArgument> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    match O::try_parse_from(underscored(line)) {
        Ok(options) => Ok(Parsed::Options(options)),
        Err(error) if matches!(error.kind(), DisplayHelp | DisplayVersion) => Ok(Parsed::Print(error.to_string())),
        Err(error) => Err(BadArgument(explain(&error))),
    }
}

/// The arguments, each `--some-flag=value` as `--some_flag=value`: flags are declared with `_` once, and accepted with
/// both. What comes after `--` is no flag.
fn underscored(line: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut flags_end = false;
    line.into_iter().map(move |argument| {
        flags_end |= argument == "--";
        if flags_end { argument } else { with_underscores(argument) }
    })
}

fn with_underscores(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    let Some(flag) = text.strip_prefix("--") else { return argument };
    let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
    format!("--{}{value}", name.replace('-', "_")).into()
}

/// What is wrong with a command line, in one line, with what was probably meant. clap explains itself in paragraphs, of
/// which the first says what is wrong.
pub fn explain(error: &clap::Error) -> String {
    let text = error.to_string();
    let first: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let line = first.join(" ");
    let wrong = line.strip_prefix("error: ").unwrap_or(&line);
    match suggestion(error) {
        Some(meant) => format!("{wrong}; did you mean '{meant}'?"),
        None if error.kind() == clap::error::ErrorKind::InvalidSubcommand => format!("{wrong}; --help lists them"),
        None => wrong.to_owned(),
    }
}

/// The word, flag or value that is most like the unknown one, if any is.
fn suggestion(error: &clap::Error) -> Option<&str> {
    use clap::error::ContextKind::{SuggestedArg, SuggestedSubcommand, SuggestedValue};
    [SuggestedSubcommand, SuggestedArg, SuggestedValue].into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(word) => Some(word.as_str()),
        // The likeliest comes last.
        ContextValue::Strings(words) => words.last().map(String::as_str),
        _ => None,
    })
}

/// Reads a list of `host:port`, separated by commas, or the word `none` for an empty one.
///
/// # Errors
/// If an address is malformed, or given twice.
pub fn addresses(flag: &str, text: &str) -> Result<Vec<String>, BadArgument> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let mut list: Vec<String> = Vec::new();
    for address in text.split(',').map(str::trim) {
        check_address(flag, address)?;
        if list.iter().any(|other| is_same(other, address)) {
            return Err(BadArgument(format!("{flag}: {address} is given twice")));
        }
        list.push(address.to_owned());
    }
    Ok(list)
}

/// Checks that `address` is `host:port`, with a host that can be a name or an IP address, and a port that can be
/// dialled.
///
/// # Errors
/// If it is not.
pub fn check_address(flag: &str, address: &str) -> Result<(), BadArgument> {
    let bad = |why: &str| Err(BadArgument(format!("{flag}: {address:?} is no host:port: {why}")));
    let Some((host, port)) = address.rsplit_once(':') else { return bad("the port is missing") };
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|byte| byte.is_ascii_digit()) => {}
        _ => return bad("a port is a number from 1 to 65535"),
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return if inner.parse::<Ipv6Addr>().is_ok() { Ok(()) } else { bad("that is no IPv6 address") };
    }
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
        return bad("that is no host name");
    }
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return bad("that is no IPv4 address");
    }
    Ok(())
}

/// Reads the address to listen on: an IP address and a port; port 0 takes a free one.
///
/// # Errors
/// If it is none.
pub fn listen_address(flag: &str, text: &str) -> Result<SocketAddr, BadArgument> {
    text.parse().map_err(|_| BadArgument(format!("{flag}: {text:?} is no IP address with a port")))
}

/// Checks a replica's number and the addresses of the others of its group, and returns the others' addresses by
/// replica number.
///
/// # Errors
/// If the group's size is none that is supported, the replica is not in it, or the replica is among its own peers.
pub fn peers_by_id(replica: u16, own_listen: SocketAddr, peers: &[String]) -> Result<Vec<(u16, String)>, BadArgument> {
    let size = peers.len() + 1;
    if size > REPLICAS_MAX || size.is_multiple_of(2) {
        let what =
            format!("--peer_addrs: {} others make a group of {size}; 1, 3, 5, 7 and 9 are possible", peers.len());
        return Err(BadArgument(what));
    }
    peers_of_any_number(replica, own_listen, peers)
}

/// As [`peers_by_id`], for a group that may have an even size.
///
/// # Errors
/// If the group is too large, the replica is not in it, or the replica is among its own peers.
pub fn peers_of_any_number(
    replica: u16,
    own_listen: SocketAddr,
    peers: &[String],
) -> Result<Vec<(u16, String)>, BadArgument> {
    let size = peers.len() + 1;
    if size > REPLICAS_MAX {
        let what = format!("--peer_addrs: {} others make a group of {size}; 1 to 9 are possible", peers.len());
        return Err(BadArgument(what));
    }
    if usize::from(replica) >= size {
        let last = size - 1;
        let what = format!("--replica_id: {replica} is not among the {size} replicas of the group, 0 to {last}");
        return Err(BadArgument(what));
    }
    if let Some(own) = peers.iter().find(|peer| is_own(own_listen, peer)) {
        return Err(BadArgument(format!("--peer_addrs: {own} is this replica's own address")));
    }
    let others = (0..=u16::MAX).filter(|&other| other != replica);
    Ok(others.zip(peers.iter().cloned()).collect())
}

/// As [`peers_by_id`], for a replica that joins a group of a size that the command line need not know: those that it
/// can ask, in replica order.
///
/// # Errors
/// If there are none, or too many.
pub fn peers_of_joiner(replica: u16, peers: &[String]) -> Result<Vec<(u16, String)>, BadArgument> {
    if peers.is_empty() || peers.len() >= REPLICAS_MAX || usize::from(replica) >= REPLICAS_MAX {
        return Err(BadArgument(format!(
            "--peer_addrs: {} others; 1 to {} are possible",
            peers.len(),
            REPLICAS_MAX - 1
        )));
    }
    let others = (0..=u16::MAX).filter(|&other| other != replica);
    Ok(others.zip(peers.iter().cloned()).collect())
}

/// Whether dialling `peer` certainly reaches the listener itself.
fn is_own(listen: SocketAddr, peer: &str) -> bool {
    let Ok(peer) = peer.replace("localhost", "127.0.0.1").parse::<SocketAddr>() else { return false };
    let reached = peer.ip() == listen.ip() || (listen.ip().is_unspecified() && peer.ip().is_loopback());
    reached && peer.port() == listen.port()
}

/// Checks that two listeners of one process do not want the same port.
///
/// # Errors
/// If they do.
pub fn distinct(first: (&str, SocketAddr), second: (&str, SocketAddr)) -> Result<(), BadArgument> {
    let overlap = first.1.ip() == second.1.ip() || first.1.ip().is_unspecified() || second.1.ip().is_unspecified();
    if overlap && first.1.port() == second.1.port() && first.1.port() != 0 {
        return Err(BadArgument(format!("{} and {} are both {}", first.0, second.0, second.1)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser, Debug)]
    struct Options {
        #[arg(long = "replica_id")]
        replica_id: u16,
    }

    fn line(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn parse_flag_with_hyphen_or_underscore_is_the_same() {
        for words in [&["x", "--replica-id", "3"][..], &["x", "--replica_id=3"], &["x", "--replica-id=3"]] {
            match parse::<Options>(line(words)) {
                Ok(Parsed::Options(options)) => assert_eq!(options.replica_id, 3),
                other => panic!("{words:?}: {other:?}"),
            }
        }
    }

    // covers B9
    #[test]
    fn parse_any_mistake_gives_one_line() {
        for words in [&["x"][..], &["x", "--replica_id", "-1"], &["x", "--replica_id", "x"], &["x", "--what"]] {
            let BadArgument(text) = parse::<Options>(line(words)).unwrap_err();
            assert!(!text.contains('\n') && text.len() > 10, "{words:?}: {text:?}");
        }
    }

    #[test]
    fn parse_unknown_flag_names_the_one_that_was_meant() {
        let BadArgument(text) = parse::<Options>(line(&["x", "--replica-ide", "1"])).unwrap_err();
        assert_eq!(text, "unexpected argument '--replica_ide' found; did you mean '--replica_id'?");
    }

    // covers B9
    #[test]
    fn addresses_malformed_or_doubled_are_refused() {
        assert_eq!(addresses("--x", "none"), Ok(vec![]));
        let good = "127.0.0.1:1,[::1]:65535,node-1.example.org:80";
        assert_eq!(addresses("--x", good).unwrap().len(), 3);
        let bad = [
            "",
            "localhost",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "a:",
            "1.2.3.4.5:1",
            "256.1.1.1:1",
            "a b:1",
            "a:1,",
            "a:1,a:1",
            "a:1,A:01",
            "[::1]:1,[0:0::1]:1",
            "::1:1",
            "[::1:1",
            "[x]:1",
            "a:1;b:2",
        ];
        for text in bad {
            assert!(addresses("--x", text).is_err(), "{text:?}");
        }
    }

    // covers B9
    #[test]
    fn peers_by_id_group_that_does_not_fit_is_refused() {
        let listen = "0.0.0.0:3".parse().unwrap();
        let others = |ports: &[u16]| -> Vec<String> { ports.iter().map(|port| format!("127.0.0.1:{port}")).collect() };
        let peers = peers_by_id(1, listen, &others(&[1, 2])).unwrap();
        assert_eq!(peers, vec![(0, "127.0.0.1:1".into()), (2, "127.0.0.1:2".into())]);
        assert!(peers_by_id(0, listen, &others(&[1])).is_err(), "two replicas");
        assert!(peers_by_id(3, listen, &others(&[1, 2])).is_err(), "a replica beyond the group");
        assert!(peers_by_id(0, listen, &others(&[1, 3])).is_err(), "itself");
        assert!(peers_by_id(0, listen, &others(&[1, 2, 4, 5, 6, 7, 8, 9, 10, 11])).is_err(), "eleven replicas");
        assert_eq!(peers_by_id(0, listen, &[]), Ok(vec![]));
        assert_eq!(peers_of_any_number(0, listen, &others(&[1])).unwrap().len(), 1, "two replicas");
        assert!(peers_of_any_number(0, listen, &others(&[1, 3])).is_err(), "itself");
        assert!(peers_of_any_number(0, listen, &others(&[1, 2, 4, 5, 6, 7, 8, 9, 10])).is_err(), "ten replicas");
    }

    #[test]
    fn distinct_same_port_is_refused() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(distinct(("a", at("0.0.0.0:1")), ("b", at("127.0.0.1:1"))).is_err());
        assert!(distinct(("a", at("0.0.0.0:1")), ("b", at("127.0.0.1:2"))).is_ok());
        assert!(distinct(("a", at("127.0.0.1:0")), ("b", at("127.0.0.1:0"))).is_ok());
    }
}
