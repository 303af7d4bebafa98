//! Settings that operators have changed.

use std::collections::BTreeMap;

use madkv_proto::control::{ControlReply, SETTING_NAME_MAX_BYTES, Setting, Settings, bounded};
use madkv_proto::map::ClusterMap;
use madkv_proto::settings::{DEFINITIONS, REPLICAS_PREFIX, definition, partition_of_replicas, unknown};
use serde::{Deserialize, Serialize};

use super::ManagerState;

/// The settings that are not at their defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SettingsRecord {
    /// How often a setting was changed.
    version: u64,
    set: BTreeMap<String, u64>,
}

impl SettingsRecord {
    /// The value in force.
    pub(super) fn get(&self, name: &str) -> u64 {
        let default = || definition(name).map_or(0, |definition| definition.default);
        self.set.get(name).copied().unwrap_or_else(default)
    }

    /// All of them, and how many replicas the partitions of `map` have.
    pub(super) fn all(&self, map: Option<&ClusterMap>) -> Settings {
        let value = |name: &str| (self.get(name), self.set.contains_key(name));
        let mut values: Vec<Setting> = DEFINITIONS
            .iter()
            .map(|definition| {
                let (value, is_set) = value(definition.name);
                Setting { name: definition.name.to_owned(), value, is_set }
            })
            .collect();
        for (number, partition) in map.iter().flat_map(|map| map.partitions.iter().enumerate()) {
            let name = format!("{REPLICAS_PREFIX}s{number}");
            values.push(Setting { name, value: partition.servers.len() as u64, is_set: false });
        }
        Settings { version: self.version, values }
    }
}

impl ManagerState {
    /// Changes a setting. The same change again has no effect.
    pub(super) fn set(&mut self, name: &str, value: u64, expected: u64, at_unix_ms: u64) -> ControlReply {
        let settings = &self.contents.control.settings;
        if let Some(partition) = partition_of_replicas(name) {
            return self.set_replicas(partition, value);
        }
        let Some(definition) = definition(name) else {
            return ControlReply::Refused(unknown(bounded(name, SETTING_NAME_MAX_BYTES)));
        };
        if let Err(why) = definition.check(value) {
            return ControlReply::Refused(why);
        }
        let before = settings.get(name);
        if before == value {
            return ControlReply::Done;
        }
        if settings.version != expected {
            let why = format!("the settings have changed meanwhile (version {}, not {expected})", settings.version);
            return ControlReply::Refused(why);
        }
        let unit = definition.unit.symbol();
        let control = self.control_mut();
        control.settings.version += 1;
        control.settings.set.insert(name.to_owned(), value);
        let text = format!("{name} is {value} {unit}, was {before} {unit}: an operator has set it");
        control.events.append(at_unix_ms, "settings", &text);
        ControlReply::Done
    }

    fn set_replicas(&self, partition: u16, value: u64) -> ControlReply {
        let map = self.contents.map.as_ref();
        let Some(part) = map.and_then(|map| map.partitions.get(usize::from(partition))) else {
            return ControlReply::Refused(format!("the cluster has no partition s{partition}"));
        };
        let count = part.servers.len() as u64;
        if count == value {
            return ControlReply::Done;
        }
        ControlReply::Refused(format!(
            "s{partition} has {count} replicas: how many is changed with `scale s{partition} {value}`"
        ))
    }
}
