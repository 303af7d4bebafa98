//! The settings that change while everything runs: their names, units, defaults and bounds.
//!
//! Each is a whole number. What a build does not carry out it does not offer.

use crate::map::PARTITIONS_MAX;

/// What a setting is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A time, in thousandths of a second.
    Milliseconds,
    /// A size, in bytes.
    Bytes,
    /// Requests.
    Requests,
}

impl Unit {
    /// As it stands after a value.
    pub fn symbol(self) -> &'static str {
        match self {
            Unit::Milliseconds => "ms",
            Unit::Bytes => "bytes",
            Unit::Requests => "requests",
        }
    }
}

/// A setting that one can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// As operators write it.
    pub name: &'static str,
    /// What its value is counted in.
    pub unit: Unit,
    /// Its value until an operator sets another one.
    pub default: u64,
    /// The lowest value.
    pub min: u64,
    /// The highest value.
    pub max: u64,
    /// Whether 0 is possible too, below the lowest value.
    pub zero: bool,
    /// The version of the managers' commands in which it came: before all of them know it, none takes it.
    pub since: u16,
    /// What it does, in one line.
    pub what: &'static str,
}

/// How often an agent heartbeats the replicas of its host.
pub const LFD_HEARTBEAT_FREQ: &str = "lfd_heartbeat_freq";
/// How long a host has to be gone until its replicas are placed on another one.
pub const HOST_GRACE: &str = "host_grace";
/// How often an agent reports to the managers, and half of how fast settings arrive.
pub const GFD_HEARTBEAT_FREQ: &str = "gfd_heartbeat_freq";
/// `T` of the partitions' groups.
pub const ELECTION_TIMEOUT: &str = "election_timeout";
/// After how many bytes of log a partition's replica takes a snapshot at the latest.
pub const SNAPSHOT_FREQ: &str = "snapshot_freq";
/// How often the primary of a `passive` group brings its backups up to date.
pub const CHECKPOINT_FREQ: &str = "checkpoint_freq";
/// After how many requests it does so before that time has passed.
pub const CHECKPOINT_REQUESTS: &str = "checkpoint_requests";
/// How long a member of a group whose members the managers decide on may be silent.
pub const DETECTION: &str = "detection";
/// Before the name of a partition: its number of replicas.
pub const REPLICAS_PREFIX: &str = "replicas.";

/// All settings, by name. The numbers of replicas are not among them: they follow from the map.
pub const DEFINITIONS: [Definition; 8] = [
    Definition {
        name: CHECKPOINT_FREQ,
        unit: Unit::Milliseconds,
        default: 1_000,
        min: 20,
        max: 60_000,
        zero: false,
        since: 5,
        what: "how often the primary of a passive group brings its backups up to date",
    },
    Definition {
        name: CHECKPOINT_REQUESTS,
        unit: Unit::Requests,
        default: 20_000,
        min: 1,
        max: 1_000_000,
        zero: false,
        since: 5,
        what: "after this many requests it does so before that time has passed",
    },
    Definition {
        name: DETECTION,
        unit: Unit::Milliseconds,
        default: 600,
        min: 300,
        max: 30_000,
        zero: false,
        since: 5,
        what: "after this much silence a member of a chain, active or passive group is in the way of the others",
    },
    Definition {
        name: ELECTION_TIMEOUT,
        unit: Unit::Milliseconds,
        default: 600,
        min: 300,
        max: 30_000,
        zero: false,
        since: 2,
        what: "after this much silence of a partition's leader its replicas elect another one",
    },
    Definition {
        name: GFD_HEARTBEAT_FREQ,
        unit: Unit::Milliseconds,
        default: 500,
        min: 50,
        max: 60_000,
        zero: false,
        since: 2,
        what: "how often agents report to the managers",
    },
    Definition {
        name: HOST_GRACE,
        unit: Unit::Milliseconds,
        default: 60_000,
        min: 1_000,
        max: 86_400_000,
        zero: false,
        since: 2,
        what: "how long a host has to be gone until its replicas are placed on another one",
    },
    Definition {
        name: LFD_HEARTBEAT_FREQ,
        unit: Unit::Milliseconds,
        default: 250,
        min: 20,
        max: 60_000,
        zero: false,
        since: 2,
        what: "how often agents heartbeat the replicas of their hosts",
    },
    Definition {
        name: SNAPSHOT_FREQ,
        unit: Unit::Bytes,
        default: 0,
        min: 64 << 10,
        max: 256 << 20,
        zero: true,
        since: 2,
        what: "a snapshot is taken after this much log at the latest; 0: by the size of the state",
    },
];

impl Definition {
    /// Whether the setting may have this value.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, value: u64) -> Result<(), String> {
        let Definition { name, unit, min, max, zero, .. } = self;
        if (*min..=*max).contains(&value) || (*zero && value == 0) {
            return Ok(());
        }
        let or_zero = if *zero { "0, or " } else { "" };
        Err(format!("{name}: {value} {0}; {or_zero}{min} to {max} {0} are possible", unit.symbol()))
    }
}

/// The definition of a setting.
pub fn definition(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.name == name)
}

/// The partition whose number of replicas a setting's name means.
pub fn partition_of_replicas(name: &str) -> Option<u16> {
    let number = name.strip_prefix(REPLICAS_PREFIX)?.strip_prefix('s')?;
    let plain = number == "0" || !number.starts_with('0');
    number.parse().ok().filter(|_| plain && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// A value as an operator wrote it.
///
/// # Errors
/// If it is no whole number.
pub fn parse_value(name: &str, text: &str) -> Result<u64, String> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_number);
    number.ok_or_else(|| format!("{name}: {text:?} is no whole number"))
}

/// Why there is no setting of this name.
pub fn unknown(name: &str) -> String {
    let names: Vec<&str> = DEFINITIONS.iter().map(|definition| definition.name).collect();
    format!("no setting {name:?}; there are {}, and {REPLICAS_PREFIX}s0 for each partition", names.join(", "))
}

/// The most settings that an answer names: all, and the replicas of the most partitions.
pub const SETTINGS_MAX: usize = DEFINITIONS.len() + PARTITIONS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_in_order_and_their_defaults_possible() {
        assert!(DEFINITIONS.is_sorted_by(|one, next| one.name < next.name));
        for definition in DEFINITIONS {
            assert_eq!(definition.check(definition.default), Ok(()), "{}", definition.name);
            assert!(definition.check(definition.max + 1).is_err() && definition.check(definition.min - 1).is_err());
        }
    }

    // covers B9
    #[test]
    fn values_and_names_that_make_no_sense_are_refused_with_the_reason() {
        let snapshot = definition(SNAPSHOT_FREQ).unwrap();
        assert_eq!(snapshot.check(0), Ok(()));
        let why = snapshot.check(5).unwrap_err();
        assert_eq!(why, "snapshot_freq: 5 bytes; 0, or 65536 to 268435456 bytes are possible");
        for text in ["", "-1", "+5", "5ms", "1.5", "99999999999999999999999", " 5"] {
            assert!(parse_value("x", text).is_err(), "{text:?}");
        }
        assert_eq!(parse_value("x", "0500"), Ok(500));
        assert_eq!(partition_of_replicas("replicas.s0"), Some(0));
        assert_eq!(partition_of_replicas("replicas.s12"), Some(12));
        for name in ["replicas.s", "replicas.0", "replicas.s01", "replicas.s-1", "replicas.s0 ", "s0"] {
            assert_eq!(partition_of_replicas(name), None, "{name}");
        }
        assert!(unknown("elction").contains("election_timeout"));
    }
}
