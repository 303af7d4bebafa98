//! Loopback ports that no one else takes.
//!
//! A port that the system hands out for `:0` may be handed out again, to an outgoing connection too, while a killed
//! node does not hold it; so ports are taken from below the system's range. A *claim* is a UDP socket bound to the same
//! number: it keeps other launchers and tests away as long as this process lives, and does not disturb TCP.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

/// The lowest port to take.
const PORT_MIN: u16 = 10_000;
/// Where the ports that the system hands out begin, unless it says otherwise.
const SYSTEM_PORT_MIN_DEFAULT: u16 = 32_768;
/// How many blocks of ports to try.
const TRIES_MAX: u16 = 500;

/// A claimed block of ports, free at the moment of claiming.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    _claims: Vec<UdpSocket>,
}

impl Ports {
    /// Claims `count` neighbouring ports.
    ///
    /// # Errors
    /// If no block is free.
    pub fn claim(count: u16) -> io::Result<Ports> {
        let end = system_port_min().max(PORT_MIN + 2 * count);
        let room = end - PORT_MIN - count;
        let mut first = PORT_MIN + start_offset() % room;
        for _ in 0..TRIES_MAX {
            if let Some(claims) = claim_block(first, count) {
                return Ok(Ports { first, _claims: claims });
            }
            first = PORT_MIN + (first - PORT_MIN + count) % room;
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no {count} neighbouring free ports from {PORT_MIN} on")))
    }

    /// The first port of the block.
    pub fn first(&self) -> u16 {
        self.first
    }
}

fn claim_block(first: u16, count: u16) -> Option<Vec<UdpSocket>> {
    (first..first + count)
        .map(|port| {
            let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
            // On all addresses: a listener on 0.0.0.0 is in the way too.
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
            Some(claim)
        })
        .collect()
}

fn system_port_min() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(SYSTEM_PORT_MIN_DEFAULT)
}

/// Different for processes that start together, so that they do not queue for the same block.
fn start_offset() -> u16 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    (nanos ^ std::process::id().wrapping_mul(40_503)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_second_block_does_not_overlap_first() {
        let one = Ports::claim(20).unwrap();
        let other = Ports::claim(20).unwrap();
        assert!(one.first().abs_diff(other.first()) >= 20);
    }

    #[test]
    fn claim_dropped_block_can_be_claimed_again() {
        let first = Ports::claim(4).unwrap().first();
        assert!(claim_block(first, 4).is_some());
    }

    #[test]
    fn claim_block_with_listener_inside_is_refused() {
        let ports = Ports::claim(4).unwrap();
        let first = ports.first();
        drop(ports);
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, first + 2)).unwrap();
        assert!(claim_block(first, 4).is_none());
    }
}
