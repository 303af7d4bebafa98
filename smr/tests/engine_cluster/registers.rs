//! The state machine of these tests.

use std::collections::BTreeMap;
use std::io;

use smr::codec;
use smr::entry::Index;
use smr::state_machine::{Answer, Image, StateMachine};

/// A few registers; a command is (register, value), its answer the value before. Remembers its whole history as a digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) values: BTreeMap<u8, u64>,
    /// The last entry with a command.
    pub(crate) last: Index,
    /// Of all commands up to there and their places.
    pub(crate) digest: u64,
}

/// The command that sets `register`.
pub(crate) fn swap(register: u8, value: u64) -> Vec<u8> {
    let mut command = vec![register];
    command.extend_from_slice(&value.to_le_bytes());
    command
}

impl Image for Registers {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        let values: Vec<(u8, u64)> = self.values.iter().map(|(register, value)| (*register, *value)).collect();
        output.write_all(&codec::encode(&(values, self.last, self.digest)))
    }
}

impl StateMachine for Registers {
    type Image = Registers;

    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        self.last = index;
        self.digest = codec::checksum(&[&self.digest.to_le_bytes(), &index.0.to_le_bytes(), command]);
        let value = u64::from_le_bytes(command[1..9].try_into().unwrap());
        self.values.insert(command[0], value).unwrap_or(0).to_le_bytes().to_vec()
    }

    fn query(&self, query: &[u8]) -> Answer {
        Answer::Now(self.values.get(&query[0]).copied().unwrap_or(0).to_le_bytes().to_vec())
    }

    fn image(&self) -> Registers {
        self.clone()
    }

    fn restore(input: &mut dyn io::Read) -> io::Result<Registers> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let (values, last, digest): (Vec<(u8, u64)>, Index, u64) = codec::decode(&bytes).map_err(io::Error::other)?;
        Ok(Registers { values: values.into_iter().collect(), last, digest })
    }
}
