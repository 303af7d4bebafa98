//! Rolls a cluster under load from an older build to this one, replica by replica: what operators do.
//!
//! Two kinds of clients go on all the while: command-line clients of the older build, whose swaps are judged from their
//! answers, and clients of this build's library, whose whole history must be linearizable. So each build's clients,
//! servers and managers meet those of the other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use smr::status::ServiceState;

use crate::fuzz::{Fuzz, FuzzOptions};
use crate::scenario::{Place, Stage, TIMEOUT, verdict};
use madkv_testkit::cluster::{Cluster, Node};
use madkv_testkit::load::{Load, Plan};
use madkv_testkit::measure::Trouble;
use madkv_testkit::place::Outcome;
use madkv_testkit::programs::{CLIENT, MANAGER, Programs, SERVER};
use madkv_testkit::wait::wait_for;

/// Command-line clients of the older build.
const CLIENTS: usize = 6;
/// Keys that they share.
const KEYS: usize = 10;
/// Clients of this build's library.
const FUZZERS: u32 = 6;
/// Answers of each kind of client before each restart, so that each hits them at full speed.
const ANSWERS_BETWEEN: u64 = 100;
/// How long a process that is asked to end may take.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than any run: the scenario says when it is over.
const FUZZ_LENGTH: Duration = Duration::from_secs(24 * 3600);
/// No write waits longer: three election timeouts.
const WAIT_TARGET: Duration = Duration::from_millis(3 * 600);

pub(super) fn run(older: &Path, seed: u64, place: &Place) -> Outcome {
    let older = Programs::at(older);
    for name in [MANAGER, SERVER, CLIENT] {
        let path = older.path(name);
        if !path.is_file() {
            return Err(
                format!("{} is missing: build the older build first (just upgrade does)", path.display()).into()
            );
        }
    }
    let newer = Programs::beside_this_one()?;
    if fs::read(older.path(SERVER))? == fs::read(newer.path(SERVER))? {
        return Err("the older build is this one: nothing would be tested".into());
    }
    let mut stage = Stage::set_with(&older, &newer, place)?;
    let history = stage.cluster.directory().join("history");
    let begun = Instant::now();
    let plan = Plan { clients: CLIENTS, keys: KEYS, prefix: "older-".to_owned() };
    let mut load = Load::start(&stage.cluster, &plan)?;
    let managers = stage.cluster.manager_addresses().split(',').map(str::to_owned).collect();
    let mut options = FuzzOptions::new(managers, &history);
    (options.clients, options.length, options.prefix) = (FUZZERS, FUZZ_LENGTH, Some("newer-".to_owned()));
    let fuzz = Fuzz::start(options)?;
    let rolled = roll(&mut stage.cluster, &newer, seed, &mut load, &fuzz);
    fuzz.stop();
    let judged = fuzz.finish()?;
    print!("{judged}");
    rolled?;
    let history = load.finish()?;
    // Read by this build's client: nothing that the older build acknowledged is lost.
    stage.cluster.set_client_programs(&newer);
    history.check(&stage.cluster)?;
    if !judged.passed {
        return Err("the history of the newer clients is not linearizable, or one of them failed".into());
    }
    let longest = history.longest_wait(begun, None);
    println!(
        "{} nodes rolled (order {seed}), {} swaps of older clients, nothing lost; longest wait {} ms (target {}: {})",
        stage.cluster.layout().shape.nodes_count(),
        history.swaps.len(),
        longest.as_millis(),
        WAIT_TARGET.as_millis(),
        verdict(longest <= WAIT_TARGET)
    );
    stage.done()
}

/// Restarts every node once, in the newer build, in an order that the seed draws, each after its group has caught up.
fn roll(cluster: &mut Cluster, newer: &Programs, seed: u64, load: &mut Load, fuzz: &Fuzz) -> Result<(), Trouble> {
    let mut nodes: Vec<Node> = cluster.layout().shape.nodes().collect();
    nodes.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    for (done, &node) in nodes.iter().enumerate() {
        both_answer(load, fuzz)?;
        cluster.process(node).send_terminate();
        let status = cluster.process(node).wait_end(END_TIMEOUT).ok_or_else(|| format!("{node} does not end"))?;
        if !status.success() {
            return Err(format!("{node} ended with {status}").into());
        }
        cluster.set_programs_of(node, newer);
        cluster.process(node).start()?;
        cluster.wait_caught_up(node.group(), TIMEOUT)?;
        println!("{node} upgraded, {} of {}", done + 1, nodes.len());
    }
    both_answer(load, fuzz)?;
    let mut standings = BTreeMap::new();
    for &node in &nodes {
        standings.insert(node, wait_for(TIMEOUT, "a status", || cluster.status(node).ok())?.service_state);
    }
    match standings.iter().find(|(_, service_state)| **service_state != ServiceState::InService) {
        Some((node, service_state)) => Err(format!("{node} is {service_state:?} after the upgrade").into()),
        None => Ok(()),
    }
}

/// Waits until clients of both builds were answered.
fn both_answer(load: &mut Load, fuzz: &Fuzz) -> Result<(), Trouble> {
    load.wait_answers(ANSWERS_BETWEEN, TIMEOUT)?;
    let target = fuzz.answered() + ANSWERS_BETWEEN;
    let what = format!("answer number {target} of the library's clients");
    wait_for(TIMEOUT, &what, || (fuzz.answered() >= target || fuzz.failure().is_some()).then_some(()))?;
    match fuzz.failure() {
        Some(failure) => Err(failure.into()),
        None => Ok(()),
    }
}
