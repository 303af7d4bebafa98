//! A state machine all of whose commands are of a newer kind is served like any other.

use std::io::{self, Read};

use smr::entry::Index;
use smr::state_machine::{Answer, StateMachine};
use smr_sim::run::{Options, run_with};
use smr_sim::sim_rng::SimRng;
use smr_sim::workload::{Operation, Register, Registers, Seen, Workload};

#[derive(Clone)]
struct NewKinds(Registers);

struct Newer(Register);

impl StateMachine for Newer {
    type Image = Register;

    const COMMANDS_VERSION: u16 = 2;

    fn command_version(_: &[u8]) -> Option<u16> {
        Some(2)
    }

    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        self.0.apply(index, command)
    }

    fn query(&self, query: &[u8]) -> Answer {
        self.0.query(query)
    }

    fn image(&self) -> Register {
        self.0.image()
    }

    fn restore(input: &mut dyn Read) -> io::Result<Newer> {
        Register::restore(input).map(Newer)
    }
}

impl Workload for NewKinds {
    type Machine = Newer;

    fn machine(&self) -> Newer {
        Newer(self.0.machine())
    }

    fn next(&mut self, client: usize, rng: &mut SimRng) -> Operation {
        self.0.next(client, rng)
    }

    fn judge(&self, history: &[Seen]) -> Result<(), String> {
        if !history.iter().any(|seen| seen.answer.is_some()) {
            return Err("no write was answered".to_owned());
        }
        self.0.judge(history)
    }
}

// covers L20
#[test]
fn commands_of_a_newer_kind_are_served_through_crashes() {
    for seed in 0..8 {
        let options = Options { nodes: Some(3), ..Options::default() };
        let report = run_with(seed, &options, |config| NewKinds(Registers::new(config.registers, 0)));
        if let Some(failure) = report.failure {
            panic!("seed {seed}: {:?}", failure.violation);
        }
    }
}
