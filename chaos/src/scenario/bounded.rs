//! A thousand keys, overwritten a million times: does anything grow that should not (fault catalogue D17)?
//!
//! A directory may take five times the live data, and a constant for the log after the last snapshot. Memory must be
//! flat: what a server takes at most in the last third of a long run is what it took at most in the second, but for a
//! little.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smr::internals::engine::LOG_MAX_BYTES;

use crate::scenario::{Place, Stage, TIMEOUT, verdict};
use madkv_testkit::cluster::{Cluster, Node};
use madkv_testkit::place::{Outcome, library_client};

/// Keys that are overwritten.
const KEYS: u64 = 1_000;
/// Overwrites under way at a time.
const AT_A_TIME: u64 = 256;
/// How often to look at memory and directories meanwhile, in milliseconds.
const LOOK_MS: u64 = 500;
/// A directory stays below this, in bytes, with values of 100 B.
const DIRECTORY_TARGET_BYTES: u64 = 200 << 20;
/// A directory takes at most this many times the live data, and what a log may hold before writes are refused
/// ([`LOG_MAX_BYTES`]).
const DIRECTORY_TIMES_LIVE: u64 = 5;
/// A shorter run says nothing of memory: it is still warming up, with copies of the state and the log of many sizes.
const MEMORY_JUDGED_OVERWRITES_MIN: u64 = 500_000;
/// Memory may grow by a tenth and this, in bytes, from the second third of a run to the last: allocators are not exact.
const MEMORY_SLACK_BYTES: u64 = 16 << 20;
/// A server's memory stays below this, in bytes, with values of 100 B.
const MEMORY_TARGET_BYTES: u64 = 150 << 20;
/// From the start of the processes to the first answer.
const RESTART_TARGET: Duration = Duration::from_secs(3);

/// The most that a server took, over all and of memory in each third of the run.
#[derive(Clone, Copy, Default)]
struct Peak {
    directory_bytes: u64,
    memory_bytes: [u64; 3],
}

impl Peak {
    fn memory_bytes(&self) -> u64 {
        self.memory_bytes.into_iter().max().unwrap_or_default()
    }

    /// What has grown that must not, in words.
    fn grown(&self, live_bytes: u64, overwrites: u64) -> Option<String> {
        let limit = DIRECTORY_TIMES_LIVE * live_bytes + LOG_MAX_BYTES as u64;
        if self.directory_bytes > limit {
            return Some(format!("its directory to {} bytes, limit {limit}", self.directory_bytes));
        }
        let [_, before, last] = self.memory_bytes;
        let limit = before + before / 10 + MEMORY_SLACK_BYTES;
        let is_leak = overwrites >= MEMORY_JUDGED_OVERWRITES_MIN && last > limit;
        is_leak.then(|| format!("its memory to {last} bytes, limit {limit} by what it had before"))
    }
}

pub(super) fn run(overwrites: u64, value_bytes: usize, place: &Place) -> Outcome {
    let mut stage = Stage::set(place)?;
    let cluster = &mut stage.cluster;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let servers: Vec<Node> =
        cluster.layout().shape.nodes().filter(|node| matches!(node, Node::Server { .. })).collect();

    let client = library_client(cluster);
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..AT_A_TIME)
        .map(|_| {
            let (client, next) = (client.clone(), Arc::clone(&next));
            runtime.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= overwrites {
                        return Ok::<_, madkv_client::Error>(());
                    }
                    let key = format!("key{}", number % KEYS);
                    client.put(key.as_bytes(), format!("{number:0>value_bytes$}").as_bytes()).await?;
                }
            })
        })
        .collect();
    let mut peaks = vec![Peak::default(); servers.len()];
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        let third = 3 * next.load(Ordering::Relaxed).min(overwrites - 1) / overwrites;
        look(cluster, &servers, &mut peaks, third as usize)?;
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
    for task in tasks {
        runtime.block_on(task)??;
    }
    look(cluster, &servers, &mut peaks, 2)?;
    let length = start.elapsed();
    println!("{overwrites} overwrites of {KEYS} keys with {value_bytes} B each in {:.1} s", length.as_secs_f64());
    let live_bytes = KEYS * value_bytes as u64;
    for (&node, peak) in servers.iter().zip(&peaks) {
        println!(
            "{node}: directory {} MiB at most, {} MiB now (target 200: {}), memory {} MiB at most (target 150: {}), \
             in thirds {:?}",
            peak.directory_bytes >> 20,
            directory_bytes(&cluster.backer_path(node))? >> 20,
            verdict(peak.directory_bytes < DIRECTORY_TARGET_BYTES),
            peak.memory_bytes() >> 20,
            verdict(peak.memory_bytes() < MEMORY_TARGET_BYTES),
            peak.memory_bytes.map(|bytes| bytes >> 20),
        );
        if let Some(what) = peak.grown(live_bytes, overwrites) {
            return Err(format!("{node} has grown, {what}").into());
        }
    }

    for &node in &servers {
        cluster.process(node).send_kill();
    }
    servers.iter().for_each(|&node| cluster.process(node).kill());
    let start = Instant::now();
    for &node in &servers {
        cluster.process(node).start()?;
    }
    let mut line_client = cluster.client()?;
    line_client.get("key0", TIMEOUT)?;
    let restart = start.elapsed();
    println!("restart of all servers to the first answer: {} ms (target 3000: {})", restart.as_millis(), {
        verdict(restart < RESTART_TARGET)
    });

    // Overwrites of one key overtake each other only as far as they were under way at the same time.
    for key in 0..KEYS.min(overwrites) {
        let found = line_client.get(&format!("key{key}"), TIMEOUT)?.unwrap_or_default();
        let number: u64 = found.trim_start_matches('0').parse().unwrap_or_default();
        if number % KEYS != key || number + AT_A_TIME + KEYS < overwrites || found.len() != value_bytes {
            return Err(format!("key{key} holds {found:?} after {overwrites} overwrites").into());
        }
    }
    println!("all {KEYS} keys hold one of their last overwrites");
    stage.done()
}

fn look(cluster: &mut Cluster, servers: &[Node], peaks: &mut [Peak], third: usize) -> io::Result<()> {
    for (&node, peak) in servers.iter().zip(peaks) {
        let directory = directory_bytes(&cluster.backer_path(node))?;
        peak.directory_bytes = peak.directory_bytes.max(directory);
        let memory = cluster.process(node).resident_bytes().unwrap_or_default();
        peak.memory_bytes[third] = peak.memory_bytes[third].max(memory);
    }
    Ok(())
}

/// What a directory and all below it occupy on the disk.
fn directory_bytes(path: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(path)? {
        // Files come and go meanwhile.
        let Ok(entry) = entry else { continue };
        let Ok(metadata) = entry.metadata() else { continue };
        total += metadata.blocks() * 512;
        if metadata.is_dir() {
            total += directory_bytes(&entry.path()).unwrap_or_default();
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE_BYTES: u64 = 100_000_000;

    #[test]
    fn grown_beyond_five_times_the_live_data_or_in_the_last_third_is_found_out() {
        let sound = Peak { directory_bytes: 768_000_000, memory_bytes: [10 << 20, 100 << 20, 126 << 20] };
        assert_eq!(sound.grown(LIVE_BYTES, 1_000_000), None);
        let directory = Peak { directory_bytes: 769_000_000, ..sound };
        assert!(directory.grown(LIVE_BYTES, 1).unwrap().contains("directory"));
        let memory = Peak { memory_bytes: [200 << 20, 100 << 20, 127 << 20], ..sound };
        assert!(memory.grown(LIVE_BYTES, 1_000_000).unwrap().contains("memory"));
        assert_eq!(memory.grown(LIVE_BYTES, 100_000), None, "too short to tell");
    }
}
