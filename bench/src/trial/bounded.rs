//! A thousand keys, overwritten a million times: does anything grow that should not?

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Node};
use crate::trial::{Outcome, PATIENCE, Place, Stage, library_client, verdict};

/// Keys that are overwritten.
const KEYS: u64 = 1_000;
/// Size of a value, in bytes.
const VALUE_BYTES: usize = 100;
/// Overwrites under way at a time.
const AT_A_TIME: u64 = 256;
/// How often to look at memory and directories meanwhile, in milliseconds.
const LOOK_MS: u64 = 500;
/// A directory stays below this, in bytes.
const DIRECTORY_TARGET_BYTES: u64 = 200 << 20;
/// A server's memory stays below this, in bytes.
const MEMORY_TARGET_BYTES: u64 = 150 << 20;
/// From the start of the processes to the first answer.
const RESTART_TARGET: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Default)]
struct Peak {
    directory_bytes: u64,
    memory_bytes: u64,
}

pub(super) fn run(overwrites: u64, place: &Place) -> Outcome {
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
                    client.put(key.as_bytes(), value(number).as_bytes()).await?;
                }
            })
        })
        .collect();
    let mut peaks = vec![Peak::default(); servers.len()];
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        look(cluster, &servers, &mut peaks)?;
        std::thread::sleep(Duration::from_millis(LOOK_MS));
    }
    for task in tasks {
        runtime.block_on(task)??;
    }
    look(cluster, &servers, &mut peaks)?;
    let length = start.elapsed();
    println!("{overwrites} overwrites of {KEYS} keys in {:.1} s", length.as_secs_f64());
    for (&node, peak) in servers.iter().zip(&peaks) {
        println!(
            "{node}: directory {} MiB at most, {} MiB now (target 200: {}), memory {} MiB at most (target 150: {})",
            peak.directory_bytes >> 20,
            directory_bytes(&cluster.backer_path(node))? >> 20,
            verdict(peak.directory_bytes < DIRECTORY_TARGET_BYTES),
            peak.memory_bytes >> 20,
            verdict(peak.memory_bytes < MEMORY_TARGET_BYTES),
        );
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
    line_client.get("key0", PATIENCE)?;
    let restart = start.elapsed();
    println!("restart of all servers to the first answer: {} ms (target 3000: {})", restart.as_millis(), {
        verdict(restart < RESTART_TARGET)
    });

    // Overwrites of one key overtake each other only as far as they were under way at the same time.
    for key in 0..KEYS.min(overwrites) {
        let found = line_client.get(&format!("key{key}"), PATIENCE)?.unwrap_or_default();
        let number: u64 = found.trim_start_matches('0').parse().unwrap_or_default();
        if number % KEYS != key || number + AT_A_TIME + KEYS < overwrites || found.len() != VALUE_BYTES {
            return Err(format!("key{key} holds {found:?} after {overwrites} overwrites").into());
        }
    }
    println!("all {KEYS} keys hold one of their last overwrites");
    stage.done()
}

fn value(number: u64) -> String {
    format!("{number:0>VALUE_BYTES$}")
}

fn look(cluster: &mut Cluster, servers: &[Node], peaks: &mut [Peak]) -> io::Result<()> {
    for (&node, peak) in servers.iter().zip(peaks) {
        let directory = directory_bytes(&cluster.backer_path(node))?;
        peak.directory_bytes = peak.directory_bytes.max(directory);
        let memory = cluster.process(node).resident_bytes().unwrap_or_default();
        peak.memory_bytes = peak.memory_bytes.max(memory);
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
