//! What keeps the pace of a process: it looks, second by second, for as long as the process lives.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use smr::durations::RecentCounts;
use smr::replica::{Outcome, ReplicaHandle, Request};
use smr::status::Role;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until};

use super::window::Window;
use super::{Level, Measure, Metric, PaceReport};
use crate::proc_stat::field_of;

/// How often it wakes up to see whether it does so in time.
const WAKE: Duration = Duration::from_millis(100);
/// Wakings in a second.
const WAKES_PER_SECOND: u32 = 10;
/// What is under way for as long counts before it is over.
const SECOND: Duration = Duration::from_secs(1);
/// Other replicas whose ways are kept at most: more than a group has, with those that were replaced.
const PEERS_MAX: usize = 32;

/// The pace of the replica of this process.
#[derive(Clone)]
pub struct Pace(Arc<Shared>);

struct Shared {
    replica: ReplicaHandle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    windows: BTreeMap<(Metric, Option<u16>), Window>,
    watched_s: u32,
    leads: bool,
    /// Questions to the replica that were answered in this second.
    answered: RecentCounts,
    /// When the one was asked that waits.
    asked_at: Option<Instant>,
    kernel: Option<KernelCounts>,
}

/// What the kernel had counted of this process by some moment.
#[derive(Clone, Copy)]
struct KernelCounts {
    at: Instant,
    cpu: Duration,
    disk_read: u64,
    disk_written: u64,
}

impl Pace {
    /// Begins to look, on tasks of this runtime. Once for a replica: what it counts is taken.
    pub fn keep(runtime: &Handle, replica: ReplicaHandle) -> Pace {
        let pace = Pace(Arc::new(Shared { replica, state: Mutex::default() }));
        runtime.spawn(Pace::look_for_ever(Arc::clone(&pace.0)));
        runtime.spawn(Pace::ask_for_ever(Arc::clone(&pace.0)));
        pace
    }

    /// How it is now. Waits for no one, and answers also while the replica hangs.
    pub fn report(&self) -> PaceReport {
        let stands_back = self.0.replica.metrics().disk_is_slow;
        let state = self.0.state.lock();
        let of = |(&(metric, peer), window): (&(Metric, Option<u16>), &Window)| {
            let (normal, present) = (window.normal(), window.present());
            (normal.is_some() || present.is_some()).then_some(Measure { metric, peer, normal, present })
        };
        let measures = state.windows.iter().filter_map(of).collect();
        PaceReport { leads: state.leads, stands_back, watched_s: state.watched_s, measures }
    }

    async fn look_for_ever(shared: Arc<Shared>) {
        let mut late = RecentCounts::default();
        loop {
            for _ in 0..WAKES_PER_SECOND {
                let wanted = Instant::now() + WAKE;
                sleep_until(wanted).await;
                late = late.with(wanted.elapsed());
            }
            shared.second_is_over(std::mem::take(&mut late));
        }
    }

    /// Asks the replica how it is, by its own queue, and waits for as long as that takes.
    async fn ask_for_ever(shared: Arc<Shared>) {
        loop {
            sleep(SECOND).await;
            let asked_at = Instant::now();
            shared.state.lock().asked_at = Some(asked_at);
            let answer = shared.replica.ask(Request::Status).await;
            let mut state = shared.state.lock();
            state.asked_at = None;
            if let Some(Outcome::Status(status)) = answer {
                state.answered = state.answered.with(asked_at.elapsed());
                state.leads = status.role == Role::Leader;
            }
        }
    }
}

impl Shared {
    fn second_is_over(&self, late: RecentCounts) {
        let taken = self.replica.take_pace(SECOND);
        let counts = kernel_counts();
        let memory = memory_bytes();
        let mut state = self.state.lock();
        state.watched_s = state.watched_s.saturating_add(1);
        let mut queue = std::mem::take(&mut state.answered);
        if let Some(waits) = state.asked_at.map(|at| at.elapsed()).filter(|waits| *waits >= SECOND) {
            queue = queue.with(waits);
        }
        let parts =
            [(Metric::Cpu, late), (Metric::Sync, taken.syncs), (Metric::Apply, taken.applies), (Metric::Queue, queue)];
        let parts = parts.map(|(metric, counts)| ((metric, None), level_of(counts)));
        let ways = taken.round_trips.into_iter().map(|(peer, counts)| {
            let level = level_of(counts);
            ((Metric::Network, Some(peer.0)), level)
        });
        let before = std::mem::replace(&mut state.kernel, counts);
        let seen: BTreeMap<_, _> = parts.into_iter().chain(ways).chain(costs(before, counts, memory)).collect();
        for (key, level) in &seen {
            let ways = state.windows.keys().filter(|(metric, _)| *metric == Metric::Network).count();
            if key.0 != Metric::Network || ways < PEERS_MAX || state.windows.contains_key(key) {
                state.windows.entry(*key).or_default().push(*level);
            }
        }
        // Those of whom nothing is said any more are forgotten in the end.
        state.windows.iter_mut().filter(|(key, _)| !seen.contains_key(*key)).for_each(|(_, window)| window.push(None));
        state.windows.retain(|(metric, _), window| *metric != Metric::Network || !window.is_empty());
    }
}

fn level_of(counts: RecentCounts) -> Option<Level> {
    Some(Level { average: counts.average_us()?, min: counts.min_us, max: counts.max_us })
}

type Cost = ((Metric, Option<u16>), Option<Level>);

/// What the process cost between two looks.
fn costs(before: Option<KernelCounts>, now: Option<KernelCounts>, memory: Option<u64>) -> Vec<Cost> {
    let level = |value: u64| Level { average: value, min: value, max: value };
    let mut costs = vec![((Metric::Memory, None), memory.map(level))];
    if let (Some(before), Some(now)) = (before, now) {
        let took_us = (now.at - before.at).as_micros().max(1);
        let per = |count: u128| u64::try_from(count / took_us).unwrap_or(u64::MAX);
        let cpu_us = now.cpu.saturating_sub(before.cpu).as_micros();
        let bytes = |now: u64, before: u64| per(u128::from(now.saturating_sub(before)) * 1_000_000);
        costs.push(((Metric::CpuUsed, None), Some(level(per(cpu_us * 1_000)))));
        costs.push(((Metric::DiskRead, None), Some(level(bytes(now.disk_read, before.disk_read)))));
        costs.push(((Metric::DiskWritten, None), Some(level(bytes(now.disk_written, before.disk_written)))));
    }
    costs
}

/// Containers may hide it.
fn kernel_counts() -> Option<KernelCounts> {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = Duration::new(u64::try_from(cpu.tv_sec).unwrap_or(0), u32::try_from(cpu.tv_nsec).unwrap_or(0));
    let io = fs::read_to_string("/proc/self/io").ok()?;
    let (disk_read, disk_written) = (field_of(&io, "read_bytes:")?, field_of(&io, "write_bytes:")?);
    Some(KernelCounts { at: Instant::now(), cpu, disk_read, disk_written })
}

fn memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(field_of(&status, "VmRSS:")? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_rates_between_two_looks() {
        let at = Instant::now();
        let before = KernelCounts { at, cpu: Duration::from_millis(100), disk_read: 0, disk_written: 1_000 };
        let now = KernelCounts {
            at: at + Duration::from_secs(2),
            cpu: Duration::from_millis(1_100),
            disk_read: 0,
            disk_written: 9_000,
        };
        let costs = costs(Some(before), Some(now), Some(7));
        let of = |metric| costs.iter().find(|(key, _)| *key == (metric, None)).unwrap().1.unwrap().average;
        let all = [Metric::Memory, Metric::CpuUsed, Metric::DiskRead, Metric::DiskWritten].map(of);
        assert_eq!(all, [7, 500, 0, 4_000]);
    }

    #[test]
    fn own_process_has_memory_and_counts() {
        assert!(memory_bytes().unwrap() > 100_000);
        assert!(kernel_counts().is_none_or(|counts| counts.cpu > Duration::ZERO));
    }
}
