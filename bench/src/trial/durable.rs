//! Is a lone PUT on the device of a majority before its answer leaves? Seen from outside, through the system calls.
//!
//! `strace` follows every server while one client writes one value, which begins and ends with a text that occurs nowhere
//! else. In the trace the answer is what the leader sends on its port for clients. A server *had* the record if, before
//! the answer began to leave, writes that carry both texts had returned from a file whose inode has the synchronous
//! attribute (such a write returns only when data and size are on the device), or from any file of the log on which an
//! `fdatasync` or `fsync` had begun after that and returned. A majority must have had it.
//!
//! What this does not show: that the device keeps what it was told to keep.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{IFlags, ioctl_getflags};
use rustix::process::{Pid, Signal, kill_process};
use smr::storage::Engine;

use crate::cluster::{Cluster, Node};
use crate::launcher::choose_log_engine;
use crate::trial::{FIRST, Outcome, PATIENCE, Place, Stage};
use crate::wait::wait_for;

/// Sizes of the values: one in a record with others, one in a record of its own, one in many parts.
const SIZES_BYTES: [usize; 3] = [10, 20 << 10, 1 << 20];
/// How much of each buffer the trace keeps: at least the largest write.
const TRACE_BYTES: &str = "4194304";
/// The calls that are traced.
const CALLS: &str = "trace=pwrite64,pwritev,write,writev,sendto,sendmsg,fsync,fdatasync";
/// How long `strace` may take to attach.
const ATTACH_PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn run(place: &Place) -> Outcome {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: strace is not installed");
        return Ok(());
    }
    let mut stage = Stage::set(place)?;
    let cluster = &mut stage.cluster;
    let leader = cluster.wait_leader(FIRST, PATIENCE)?;
    if !cluster.status(leader)?.sync_mode.starts_with("synced") {
        println!("SKIPPED: this file system's writes are not durable");
        return stage.done();
    }
    let with_attribute = choose_log_engine(None)? == Engine::Sled;
    for node in cluster.nodes_of(FIRST).filter(|_| with_attribute).collect::<Vec<_>>() {
        let files = files_below(&cluster.backer_path(node).join("log"))?;
        if let Some(bare) = files.iter().find(|path| !carries_attribute(path)) {
            return Err(format!("{} lacks the synchronous attribute", bare.display()).into());
        }
        println!("{node}: {} files of the log, each with the synchronous attribute", files.len());
    }
    for size in SIZES_BYTES {
        put_traced(cluster, leader, size)?;
    }
    stage.done()
}

fn put_traced(cluster: &mut Cluster, leader: Node, size: usize) -> Outcome {
    let nodes: Vec<Node> = cluster.nodes_of(FIRST).collect();
    let mut client = cluster.client()?;
    // Opens the session and the connection, so that the next answer is that of the traced PUT.
    client.ask("PUT before 1", PATIENCE)?;
    cluster.wait_caught_up(FIRST, PATIENCE)?;
    let (begin, end) = (format!("Bqx{size:x}"), format!("Eqx{size:x}"));
    let value = format!("{begin}{}{end}", "v".repeat(size - begin.len() - end.len()));

    let mut tracers = Vec::new();
    for &node in &nodes {
        let pid = cluster.process(node).pid().ok_or("a server has ended")?;
        tracers.push(Tracer::attach(pid, &cluster.directory().join(format!("{node}.trace")))?);
    }
    client.ask(&format!("PUT traced {value}"), PATIENCE)?;
    let mut calls = HashMap::new();
    for (&node, tracer) in nodes.iter().zip(tracers) {
        calls.insert(node, tracer.finish()?);
    }

    let port = format!("TCP:[127.0.0.1:{}->", cluster.client_address(leader).port());
    let answered = calls[&leader]
        .iter()
        .filter(|call| call.file.starts_with(&port))
        .map(|call| call.begun)
        .max_by(f64::total_cmp)
        .ok_or("no answer in the leader's trace")?;
    let had: Vec<String> = nodes
        .iter()
        .filter(|&node| {
            let log = cluster.backer_path(*node).join("log");
            let is_synced = |write: &Call| {
                let is_sync = |call: &&Call| call.name.ends_with("sync") && call.file == write.file;
                calls[node].iter().filter(is_sync).any(|sync| sync.begun >= write.ended && sync.ended <= answered)
            };
            let durable = |call: &&Call| {
                let path = Path::new(&call.file);
                call.ended <= answered && path.starts_with(&log) && (carries_attribute(path) || is_synced(call))
            };
            let written = |text: &str| calls[node].iter().filter(durable).any(|call| call.data.contains(text));
            written(&begin) && written(&end)
        })
        .map(Node::to_string)
        .collect();
    println!("PUT of {size} B: on the device of {} before {leader} answered", had.join(", "));
    if had.len() <= nodes.len() / 2 {
        return Err(format!("only {} of {} servers had it", had.len(), nodes.len()).into());
    }
    Ok(())
}

/// A finished system call.
#[derive(Debug)]
struct Call {
    name: String,
    /// What its descriptor stands for: a path, or `TCP:[from->to]`.
    file: String,
    data: String,
    begun: f64,
    ended: f64,
}

struct Tracer {
    child: Child,
    trace: PathBuf,
}

impl Tracer {
    fn attach(pid: u32, trace: &Path) -> Result<Tracer, Box<dyn std::error::Error + Send + Sync>> {
        let child = Command::new("strace")
            .args(["-f", "-q", "-ttt", "-T", "-yy", "-s", TRACE_BYTES, "-e", CALLS, "-o"])
            .arg(trace)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let tracer = Tracer { child, trace: trace.to_path_buf() };
        wait_for(ATTACH_PATIENCE, "strace to attach (it needs the right to)", || is_traced(pid).then_some(()))?;
        Ok(tracer)
    }

    fn finish(mut self) -> Result<Vec<Call>, Box<dyn std::error::Error + Send + Sync>> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        self.child.wait()?;
        Ok(parse(&String::from_utf8_lossy(&fs::read(&self.trace)?)))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether each thread of a process has a tracer.
fn is_traced(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    })
}

/// Lines look like `<thread> <time> <call>(<fd><<file>>, "<data>", ...) = <result> <<duration>>`. A call during which another thread
/// is traced comes in two lines, `... <unfinished ...>` and `<thread> <time> <... <call> resumed>...`.
fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished: HashMap<&str, (f64, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.trim_start().split_once(' ') else { continue };
        let Some((time, text)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(time) = time.parse::<f64>() else { continue };
        if let Some(head) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (time, head));
            continue;
        }
        let resumed = text.starts_with("<... ").then(|| unfinished.remove(thread)).flatten();
        let (begun, head) = resumed.unwrap_or((time, text));
        let Some(ended) = duration(text).map(|taken| begun + taken) else { continue };
        let Some((name, file)) = head.split_once('<') else { continue };
        let name = name.split('(').next().unwrap_or_default();
        // A path may hold '>', and so does `TCP:[from->to]`: the name ends where the arguments go on.
        let Some((file, data)) = file.split_once(">, ").or_else(|| file.split_once('>')) else { continue };
        calls.push(Call { name: name.to_owned(), file: file.to_owned(), data: data.to_owned(), begun, ended });
    }
    calls
}

/// The duration at the end of a line, in seconds; none for a call that failed or never returned.
fn duration(line: &str) -> Option<f64> {
    let (rest, duration) = line.strip_suffix('>')?.rsplit_once(" <")?;
    let (_, result) = rest.rsplit_once("= ")?;
    result.trim().parse::<u64>().ok()?;
    duration.parse().ok()
}

fn carries_attribute(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| ioctl_getflags(&file).is_ok_and(|flags| flags.contains(IFlags::SYNC)))
}

/// The directory itself, and all in it.
fn files_below(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = vec![directory.to_path_buf()];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_whole_and_interrupted_calls_gives_when_they_began_and_ended() {
        let trace = "\
10 100.000000 pwrite64(7</d/log/db>, \"abc\", 3, 0) = 3 <0.500000>
11 100.100000 pwrite64(7</d/log/db>, \"x\", 1, 3 <unfinished ...>
10 100.700000 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"yes\", 3, MSG_NOSIGNAL, NULL, 0) = 3 <0.000100>
11 100.800000 <... pwrite64 resumed>) = 1 <0.700000>
11 100.900000 write(3<pipe:[1]>, \"z\", 1) = -1 EAGAIN (Resource temporarily unavailable) <0.000010>
";
        let calls = parse(trace);
        assert_eq!(calls.len(), 3);
        assert_eq!(calls[0].name, "pwrite64");
        assert_eq!((calls[0].file.as_str(), calls[0].begun, calls[0].ended), ("/d/log/db", 100.0, 100.5));
        assert!(calls[0].data.contains("abc"));
        assert_eq!(calls[1].file, "TCP:[127.0.0.1:1->127.0.0.1:2]");
        assert_eq!((calls[2].file.as_str(), calls[2].begun), ("/d/log/db", 100.1));
        assert!((calls[2].ended - 100.8).abs() < 1e-6 && calls[2].data.starts_with("\"x\""));
    }
}
