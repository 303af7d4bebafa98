//! A replica whose state machine is not the same as the others' is found out, though no answer ever shows it: by
//! whoever watches the simulation, and by the replicas themselves, who compare hashes at other entries.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smr::entry::Index;
use smr::state_machine::{Answer, Image, StateMachine};
use smr_sim::run::{Options, run_with};
use smr_sim::sim_rng::SimRng;
use smr_sim::workload::{Operation, Register, Registers, Seen, Workload};

/// From this entry on the state differs.
const DIFFERS_FROM: Index = Index(40);

/// Registers, one replica of which flips a bit that no query shows.
#[derive(Clone)]
struct OneBitOff {
    registers: Registers,
    made: Arc<AtomicU64>,
}

#[derive(Clone, Debug)]
struct Odd {
    inner: Register,
    is_odd: bool,
    bit: bool,
}

impl Image for Odd {
    fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        output.write_all(&[u8::from(self.bit)])?;
        self.inner.write(output)
    }
}

impl StateMachine for Odd {
    type Image = Odd;

    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        self.bit |= self.is_odd && index >= DIFFERS_FROM;
        self.inner.apply(index, command)
    }

    fn query(&self, query: &[u8]) -> Answer {
        self.inner.query(query)
    }

    fn image(&self) -> Odd {
        self.clone()
    }

    fn restore(input: &mut dyn Read) -> io::Result<Odd> {
        let mut bit = [0];
        input.read_exact(&mut bit)?;
        Ok(Odd { inner: Register::restore(input)?, is_odd: false, bit: bit[0] == 1 })
    }
}

impl Workload for OneBitOff {
    type Machine = Odd;

    fn machine(&self) -> Odd {
        // The second process that starts without a snapshot.
        let is_odd = self.made.fetch_add(1, Ordering::SeqCst) == 1;
        Odd { inner: self.registers.machine(), is_odd, bit: false }
    }

    fn next(&mut self, client: usize, rng: &mut SimRng) -> Operation {
        self.registers.next(client, rng)
    }

    fn judge(&self, history: &[Seen]) -> Result<(), String> {
        self.registers.judge(history)
    }
}

// covers L17, I7
#[test]
fn state_that_differs_by_one_bit_is_found_within_a_digest_interval() {
    let (mut found, mut found_by_replicas) = (0, 0);
    for seed in 0..32 {
        let options = Options { nodes: Some(3), ..Options::default() };
        let report = run_with(seed, &options, |config| OneBitOff {
            registers: Registers::new(config.registers, config.reads_percent),
            made: Arc::default(),
        });
        if let Some(failure) = report.failure {
            let by_replicas = failure.violation.why.contains("the state differs from that of a majority");
            let is_expected = failure.violation.property.starts_with("I7") || by_replicas;
            assert!(is_expected, "seed {seed}: {:?}", failure.violation);
            found += 1;
            found_by_replicas += usize::from(by_replicas);
        }
    }
    // In the others it crashed before it had applied so much, or took its state from another one.
    assert!(found >= 4, "{found} of 32");
    assert!(found_by_replicas >= 1, "of {found} that were found, none by the replicas");
}
