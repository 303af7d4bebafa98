//! The client library in simulation: real client, listeners, sessions, maps and replicas, on virtual time, from seeds.
//!
//! A failure prints the command that replays it. Its seed joins [`KEPT`], which runs on every change.

#![cfg(test)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use madkv_chaos::client_sim::rare::{Counts, Rare};
use madkv_chaos::client_sim::swarm_config::{Fault, SwarmConfig};
use madkv_chaos::client_sim::{Report, run, run_config};

/// How many seeds each change goes through.
const SEEDS: u64 = 120;
/// Seeds that once failed.
const KEPT: [u64; 1] = [16];

/// Runs all of them on two threads; fails with all that is wrong.
fn run_all(seeds: impl Iterator<Item = u64>, run: impl Fn(u64) -> Report + Sync) -> (Counts, u64, u64) {
    let seeds: Vec<u64> = seeds.collect();
    let next = AtomicU64::new(0);
    let total = Mutex::new((Counts::default(), 0, 0));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let report = run(*seed);
                    if report.violation.is_some() {
                        wrong.lock().unwrap().push(report.to_string());
                    }
                    let (counts, answered, failed) = &mut *total.lock().unwrap();
                    counts.add(&report.counts);
                    *answered += report.answered;
                    *failed += report.failed;
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    total.into_inner().unwrap()
}

fn assert_seen(counts: &Counts, wanted: &[Rare]) {
    for what in wanted {
        assert!(counts.of(*what) > 0, "never happened: {what}");
    }
}

// covers C1 C4 C6 C8 C9 C10 G7 N9 R1 R12
#[test]
fn library_under_mixed_faults_history_linearizable_and_calm_brings_service() {
    let (counts, answered, failed) = run_all((0..SEEDS).chain(KEPT), run);
    assert!(answered > 4 * failed, "{answered} calls were answered, {failed} failed");
    assert_seen(
        &counts,
        &[
            Rare::Redirected,
            Rare::OlderTermNamed,
            Rare::NoLeaderKnown,
            Rare::PingPong,
            Rare::WriteRepeated,
            Rare::RepeatedElsewhere,
            Rare::AnsweredFromStore,
            Rare::SessionExpired,
            Rare::AnswerGone,
            Rare::EvictedCall,
            Rare::UnknownHeard,
            Rare::Busy,
            Rare::WrongPartition,
            Rare::ConnectionBroken,
            Rare::HalfFrame,
            Rare::TimeoutNotDone,
            Rare::TimeoutTookEffect,
            Rare::TimeoutNoEffect,
            Rare::Abandoned,
            Rare::ClientKilled,
            Rare::LeaderKilled,
            Rare::OneWaySilence,
            Rare::LeaderUnreachable,
            Rare::WideScan,
        ],
    );
}

#[test]
fn library_same_seed_twice_same_hash() {
    for seed in 0..6 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.history, second.history, "seed {seed}");
    }
}

/// A quiet configuration with one kind of trouble, often.
fn only(seed: u64, faults: &[Fault]) -> SwarmConfig {
    let mut config = SwarmConfig::of(seed);
    config.replicas = 3;
    config.faults = faults.to_vec();
    config.fault_gap_us = 300_000;
    config.chaos_us = 3_000_000;
    config.habits.pause_max_us = 20_000;
    config.with_properties = false;
    config
}

// covers C1 C9
#[test]
fn library_leader_killed_again_and_again_retries_have_one_effect() {
    let (counts, ..) = run_all(1000..1010, |seed| run_config(seed, only(seed, &[Fault::KillLeader, Fault::Transfer])));
    assert_seen(&counts, &[Rare::AnsweredFromStore, Rare::RepeatedElsewhere, Rare::LeaderKilled]);
}

// covers C4 C6
#[test]
fn library_sessions_and_answers_evicted_typed_and_never_twice() {
    let (counts, ..) = run_all(2000..2010, |seed| {
        let mut config = only(seed, &[Fault::ResetClient, Fault::KillClient, Fault::KillLeader]);
        config.sessions.sessions_max = 2;
        config.sessions.answers_max_bytes = 200;
        config.weather.broken_down = 20;
        run_config(seed, config)
    });
    assert_seen(&counts, &[Rare::SessionExpired, Rare::AnswerGone, Rare::EvictedCall]);
}

// covers C8
#[test]
fn library_client_processes_killed_no_identity_used_again() {
    let (counts, ..) = run_all(3000..3006, |seed| {
        let mut config = only(seed, &[Fault::KillClient]);
        config.fault_gap_us = 100_000;
        run_config(seed, config)
    });
    assert!(counts.of(Rare::ClientKilled) > 50, "{} clients were killed", counts.of(Rare::ClientKilled));
}

// covers N9 I17
#[test]
fn library_servers_that_name_each_other_followed_at_a_bounded_rate() {
    let (counts, ..) =
        run_all(4000..4006, |seed| run_config(seed, only(seed, &[Fault::Mislead, Fault::SilenceLeader])));
    assert_seen(&counts, &[Rare::PingPong, Rare::LeaderUnreachable]);
}

// covers C10 G2 G7
#[test]
fn library_servers_and_managers_behind_the_map_keys_served_by_their_owner_only() {
    let (counts, ..) = run_all(5000..5008, |seed| {
        let mut config = only(seed, &[Fault::KillServer, Fault::ManagersDown, Fault::KillClient]);
        config.partitions = 3;
        config.managers = (3, 2);
        config.behind = 500;
        run_config(seed, config)
    });
    assert_seen(&counts, &[Rare::WrongPartition, Rare::NoMap, Rare::ServerBehind, Rare::WideScan]);
}

// covers C10 G10
#[test]
fn library_moves_of_slots_given_up_on_the_way_leave_every_key_with_its_owner() {
    let (counts, ..) = run_all(6000..6010, |seed| {
        let faults = [Fault::MoveSlots, Fault::MoveSlots, Fault::AbandonMove, Fault::KillLeader, Fault::StopLeader];
        let mut config = only(seed, &faults);
        config.partitions = 2 + (seed % 2) as u16;
        config.fault_gap_us = 200_000;
        run_config(seed, config)
    });
    assert_seen(&counts, &[Rare::SlotsMoved, Rare::MoveGivenUp]);
}
