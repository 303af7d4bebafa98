//! Who records which group was founded, in the simulation: a majority of managers that is there or not, takes its time,
//! and may lose its answers.

use smr::entry::{Genesis, GenesisRequest, Incumbent};
use smr::replica::GenesisAnswer;

use super::{Event, World};
use crate::rare::Rare;
use crate::sim_rng::{Purpose, SimRng};
use crate::workload::Workload;

/// After this long a node asks again that got no answer of use, as in service, in microseconds.
const ASK_AGAIN_US: u64 = 200_000;

/// The managers, as those who record a genesis.
pub struct Recorder {
    /// What they have recorded.
    pub recorded: Option<Genesis>,
    /// Whether a majority of them is there.
    pub is_up: bool,
    /// How long a request or an answer is on its way at most, in microseconds. 0: no time at all.
    pub delay_us: u64,
    /// Answers that are lost, per mille: the request was carried out all the same.
    pub lost_permille: u64,
    rng: SimRng,
}

impl Recorder {
    pub(super) fn new(seed: u64) -> Recorder {
        let rng = SimRng::new(seed, Purpose::Recorder);
        Recorder { recorded: None, is_up: true, delay_us: 0, lost_permille: 0, rng }
    }

    fn answer(&mut self, request: GenesisRequest) -> GenesisAnswer {
        if !self.is_up {
            return GenesisAnswer::NotYet("no majority".to_owned());
        }
        let answer = self.carry_out(request);
        if self.rng.chance(self.lost_permille) { GenesisAnswer::NotYet("lost".to_owned()) } else { answer }
    }

    fn carry_out(&mut self, GenesisRequest { genesis, instead_of }: GenesisRequest) -> GenesisAnswer {
        if let Some(recorded) = &self.recorded {
            let incumbent = Incumbent::Recorded(recorded.hash());
            if *recorded != genesis && instead_of != Some(incumbent) {
                return GenesisAnswer::Refused { incumbent, genesis: Some(recorded.clone()) };
            }
        }
        self.recorded = Some(genesis);
        GenesisAnswer::Recorded
    }
}

impl<W: Workload> World<W> {
    /// A group whose genesis no one records, as that of the managers themselves. To be said before the first step.
    pub fn without_recorder(&mut self) {
        self.common.is_recorded = false;
    }

    /// Whether someone records the genesis of this group.
    pub fn has_recorder(&self) -> bool {
        self.common.is_recorded
    }

    /// A node asks that a genesis be recorded.
    pub(super) fn ask_recorder(&mut self, replica: usize, request: GenesisRequest) {
        let run = self.nodes[replica].run();
        if self.recorder.delay_us == 0 {
            return match self.recorder.answer(request) {
                answer @ GenesisAnswer::NotYet(_) => {
                    self.schedule(self.now.plus_us(ASK_AGAIN_US), Event::GenesisAnswered { replica, run, answer });
                }
                answer => self.recorder_answered(replica, answer),
            };
        }
        let at = self.now.plus_us(self.recorder.rng.below(self.recorder.delay_us));
        self.schedule(at, Event::GenesisAsked { replica, run, request });
    }

    pub(super) fn genesis_asked(&mut self, replica: usize, run: u64, request: GenesisRequest) {
        let answer = self.recorder.answer(request);
        let pause_us = if matches!(answer, GenesisAnswer::NotYet(_)) { ASK_AGAIN_US } else { 0 };
        let at = self.now.plus_us(pause_us + self.recorder.rng.below(self.recorder.delay_us));
        self.schedule(at, Event::GenesisAnswered { replica, run, answer });
    }

    pub(super) fn genesis_answered(&mut self, replica: usize, run: u64, answer: GenesisAnswer) {
        let machine = &self.nodes[replica];
        if machine.run() == run && machine.is_waiting() {
            self.recorder_answered(replica, answer);
            self.settle(replica);
        }
    }

    fn recorder_answered(&mut self, replica: usize, answer: GenesisAnswer) {
        if let GenesisAnswer::Refused { .. } = answer {
            self.watch.rare.saw(Rare::GenesisRefused);
        }
        if let Some(verdict) = self.nodes[replica].genesis_answered(answer) {
            self.conclude(replica, verdict);
        }
    }
}
