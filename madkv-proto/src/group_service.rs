//! Which service a group of the layout belongs to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name of a service, in bytes.
pub const SERVICE_NAME_MAX_BYTES: usize = 32;
/// The name of the key-value store.
pub const KEY_VALUE: &str = "kv";

/// The service that a group belongs to: the key-value store, or one whose groups own no slots. Its name is sound,
/// wherever it comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupService(String);

/// What names no service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no service: {KEY_VALUE}, or 1 to {SERVICE_NAME_MAX_BYTES} of a-z, 0-9 and -")]
pub struct BadServiceName(String);

impl Default for GroupService {
    fn default() -> GroupService {
        GroupService(KEY_VALUE.to_owned())
    }
}

impl GroupService {
    /// Whether it is the key-value store.
    pub fn is_key_value(&self) -> bool {
        self.is(KEY_VALUE)
    }

    /// Whether it is the service of this name.
    pub fn is(&self, name: &str) -> bool {
        self.0 == name
    }

    /// That a partition's group, which is of this service, is one of service `wanted`.
    ///
    /// # Errors
    /// If it is not, with what a server that was started for it says.
    pub fn expect(&self, wanted: &str, partition: u16) -> Result<(), String> {
        if self.is(wanted) {
            return Ok(());
        }
        Err(format!("the managers say that s{partition} is of service {self}, not {wanted} (madkv-manager --service)"))
    }
}

impl TryFrom<String> for GroupService {
    type Error = BadServiceName;

    fn try_from(name: String) -> Result<GroupService, BadServiceName> {
        let is_letter = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
        match (1..=SERVICE_NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(is_letter) {
            true => Ok(GroupService(name)),
            false => Err(BadServiceName(name)),
        }
    }
}

impl From<GroupService> for String {
    fn from(service: GroupService) -> String {
        service.0
    }
}

impl fmt::Display for GroupService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GroupService {
    type Err = BadServiceName;

    fn from_str(name: &str) -> Result<GroupService, BadServiceName> {
        name.to_owned().try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers B9
    #[test]
    fn name_is_one_short_word_wherever_it_comes_from() {
        for name in ["kv", "voting", "a-1", &"x".repeat(SERVICE_NAME_MAX_BYTES)] {
            let service: GroupService = name.parse().unwrap();
            assert!(service.to_string() == name && service.is(name) && service.is_key_value() == (name == "kv"));
            let bytes = smr::codec::encode(&service);
            assert_eq!(smr::codec::decode::<GroupService>(&bytes), Ok(service));
        }
        for name in ["", "KV", "a b", "a_b", "é", "a,b", "a\n", &"x".repeat(SERVICE_NAME_MAX_BYTES + 1)] {
            assert!(name.parse::<GroupService>().is_err(), "{name}");
            let bytes = smr::codec::encode(&name.to_owned());
            assert!(smr::codec::decode::<GroupService>(&bytes).is_err(), "{name}");
        }
    }

    #[test]
    fn group_of_another_service_is_told_by_name() {
        let voting: GroupService = "voting".parse().unwrap();
        assert_eq!(voting.expect("voting", 1), Ok(()));
        let said = voting.expect("factory", 1).unwrap_err();
        assert_eq!(said, "the managers say that s1 is of service voting, not factory (madkv-manager --service)");
    }
}
