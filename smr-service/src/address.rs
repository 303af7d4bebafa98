//! Addresses, `host:port`: when two spellings mean the same one.
//!
//! Addresses are kept and passed on as they were written, and compared by meaning. Names are not looked up for that:
//! what they stand for may change, and two hosts may see it differently.

use std::net::{IpAddr, Ipv6Addr};

/// Whether two addresses are the same but for their spelling: IP addresses by their value, names without regard to
/// case, ports by their number. What is no address is compared byte by byte.
pub fn is_same(one: &str, other: &str) -> bool {
    one == other || matches!((meaning(one), meaning(other)), (Some(one), Some(other)) if one == other)
}

/// Whether two lists name the same addresses, in the same order.
pub fn are_same(some: &[String], others: &[String]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| is_same(one, other))
}

#[derive(PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

fn meaning(address: &str) -> Option<(Host, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => Host::Ip(inner.parse::<Ipv6Addr>().ok()?.to_canonical()),
        None => match host.parse::<IpAddr>() {
            Ok(ip) => Host::Ip(ip.to_canonical()),
            // The dot at the end says that the name is whole.
            Err(_) => Host::Name(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()),
        },
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers B28
    #[test]
    fn is_same_any_spelling_of_one_address_and_nothing_else() {
        let alike: [&[&str]; 5] = [
            &["[::1]:3777", "[0:0:0:0:0:0:0:1]:3777", "[0000::0001]:3777", "[::1]:03777"],
            &["127.0.0.1:3777", "[::ffff:127.0.0.1]:3777", "[::ffff:7f00:1]:3777"],
            &["[fe80::AB]:1", "[FE80:0::ab]:1"],
            &["node-1.example.org:80", "Node-1.Example.ORG:80", "node-1.example.org.:80", "node-1.example.org:0080"],
            &["localhost:80", "LOCALHOST:80"],
        ];
        for (place, some) in alike.iter().enumerate() {
            for one in *some {
                for (other_place, others) in alike.iter().enumerate() {
                    for other in *others {
                        assert_eq!(is_same(one, other), place == other_place, "{one} and {other}");
                    }
                }
            }
        }
        for (one, other) in
            [("127.0.0.1:1", "127.0.0.1:2"), ("a:1", "b:1"), ("", "a:1"), ("a", "A"), ("[x]:1", "[X]:1")]
        {
            assert!(!is_same(one, other), "{one:?} and {other:?}");
        }
    }

    #[test]
    fn are_same_lists_by_place() {
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert!(are_same(&list("[::1]:1,A:2"), &list("[0::1]:1,a:2")));
        assert!(!are_same(&list("[::1]:1,A:2"), &list("a:2,[0::1]:1")));
        assert!(!are_same(&list("a:1"), &list("a:1,b:2")));
    }
}
