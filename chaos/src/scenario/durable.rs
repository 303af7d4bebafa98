//! Is a write on the device of a majority before its answer leaves? Seen from outside, through the system calls (fault
//! catalogue D9).
//!
//! `strace` follows every server while clients swap values, each of which begins and ends with a text that occurs
//! nowhere else. The answer to a SWAP is what the leader sends on its port for clients with the text of the value
//! *before*. A server *had* the record if, before the answer began to leave, writes that carry both texts had returned
//! from a file whose inode has the synchronous attribute (such a write returns only when data and size are on the
//! device), or from any file of the log on which an `fdatasync` or `fsync` had begun after that and returned; and if
//! that file was made or renamed while it was traced, its directory was synced likewise in between. A majority must
//! have had it, for each answer.
//!
//! First one client is alone, then many write at once. What this does not show: that the device keeps what it was told
//! to keep.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{IFlags, ioctl_getflags};
use rustix::process::{Pid, Signal, kill_process};
use smr::LogEngine;

use crate::scenario::{FIRST, Place, Stage, TIMEOUT};
use madkv_testkit::cluster::{Cluster, Node};
use madkv_testkit::launcher::choose_log_engine;
use madkv_testkit::line_client::LineClient;
use madkv_testkit::place::Outcome;
use madkv_testkit::proc::is_traced;
use madkv_testkit::wait::wait_for;

/// What is written: how large each value is, in bytes, by how many clients at once, how often by each. Alone in a
/// record with others, in a record of its own, in many parts; then many at once, small ones, and large ones that fill
/// more than a segment.
const LOADS: [Swaps; 5] = [
    Swaps { value_bytes: 32, clients: 1, each: 1 },
    Swaps { value_bytes: 20 << 10, clients: 1, each: 1 },
    Swaps { value_bytes: 1 << 20, clients: 1, each: 1 },
    Swaps { value_bytes: 64, clients: 8, each: 50 },
    Swaps { value_bytes: 300 << 10, clients: 4, each: 15 },
];
/// How much of each buffer the trace keeps: at least the largest write.
const TRACE_BYTES: &str = "4194304";
/// The calls that are traced.
const CALLS: &str =
    "trace=pwrite64,pwritev,write,writev,sendto,sendmsg,fsync,fdatasync,openat,rename,renameat,renameat2";
/// How long `strace` may take to attach.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);

/// A load.
#[derive(Clone, Copy, Debug)]
struct Swaps {
    value_bytes: usize,
    clients: u32,
    each: u32,
}

/// Tells values apart: of which load, of which client, which of its values.
type Mark = u32;

impl Swaps {
    fn mark(load: usize, client: u32, number: u32) -> Mark {
        (load as u32) << 24 | client << 16 | number
    }

    fn value(self, mark: Mark) -> String {
        let (begin, end) = (format!("Bqx{mark:08x}z"), format!("Eqx{mark:08x}z"));
        format!("{begin}{}{end}", "v".repeat(self.value_bytes - begin.len() - end.len()))
    }
}

/// The marks in what was written, with `B` where a value begins and `E` where it ends.
fn marks(data: &str) -> impl Iterator<Item = (char, Mark)> {
    data.match_indices("qx").filter_map(|(at, _)| {
        let kind = data[..at].chars().next_back().filter(|kind| matches!(kind, 'B' | 'E'))?;
        let digits = data.get(at + 2..at + 10)?;
        (data.get(at + 10..at + 11)? == "z").then_some(())?;
        Some((kind, Mark::from_str_radix(digits, 16).ok()?))
    })
}

pub(super) fn run(place: &Place) -> Outcome {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: strace is not installed");
        return Ok(());
    }
    let mut stage = Stage::set(place)?;
    let cluster = &mut stage.cluster;
    let leader = cluster.wait_leader(FIRST, TIMEOUT)?;
    if !cluster.status(leader)?.sync_mode.starts_with("synced") {
        println!("SKIPPED: this file system's writes are not durable");
        return stage.done();
    }
    let with_attribute = choose_log_engine(None)? == LogEngine::Sled;
    for node in cluster.nodes_of(FIRST).filter(|_| with_attribute).collect::<Vec<_>>() {
        let files = files_below(&cluster.backer_path(node).join("log"))?;
        if let Some(bare) = files.iter().find(|path| !carries_attribute(path)) {
            return Err(format!("{} lacks the synchronous attribute", bare.display()).into());
        }
        println!("{node}: {} files of the log, each with the synchronous attribute", files.len());
    }
    for (load, swaps) in LOADS.into_iter().enumerate() {
        swap_traced(cluster, leader, load, swaps)?;
    }
    stage.done()
}

fn swap_traced(cluster: &mut Cluster, leader: Node, load: usize, swaps: Swaps) -> Outcome {
    let nodes: Vec<Node> = cluster.nodes_of(FIRST).collect();
    let mut clients = Vec::new();
    for client in 0..swaps.clients {
        let mut line_client = cluster.client()?;
        // Opens the session and the connection; and then there is a value before.
        line_client.swap(&key(load, client), &swaps.value(Swaps::mark(load, client, 0)), TIMEOUT)?;
        clients.push(line_client);
    }
    cluster.wait_caught_up(FIRST, TIMEOUT)?;

    let mut tracers = Vec::new();
    for &node in &nodes {
        let pid = cluster.process(node).pid().ok_or("a server has ended")?;
        tracers.push(Tracer::attach(pid, &cluster.directory().join(format!("{node}.trace")))?);
    }
    let threads: Vec<_> = (0..)
        .zip(clients)
        .map(|(number, client)| thread::spawn(move || swap_all(client, load, number, swaps)))
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a client panicked")??;
    }
    let mut traces = HashMap::new();
    for (&node, tracer) in nodes.iter().zip(tracers) {
        traces.insert(node, tracer.finish()?);
    }

    let port = format!("TCP:[127.0.0.1:{}->", cluster.client_address(leader).port());
    let mut answers: HashMap<Mark, f64> = HashMap::new();
    for call in traces[&leader].iter().filter(|call| call.file.starts_with(&port)) {
        for (_, mark) in marks(&call.data) {
            answers.entry(mark).or_insert(call.begun);
        }
    }
    let had: HashMap<Node, HashMap<Mark, f64>> = nodes
        .iter()
        .map(|&node| (node, durable(&traces[&node], &cluster.backer_path(node).join("log"), &carries_attribute)))
        .collect();
    let mut fewest = nodes.len();
    for (client, number) in (0..swaps.clients).flat_map(|client| (1..=swaps.each).map(move |number| (client, number))) {
        let mark = Swaps::mark(load, client, number);
        let answered = answers.get(&Swaps::mark(load, client, number - 1)).ok_or_else(|| {
            format!("no answer of {mark:08x} in the trace of {leader}: it leads no more, or this is not how it answers")
        })?;
        let who: Vec<String> = nodes
            .iter()
            .filter(|node| had[node].get(&mark).is_some_and(|at| at <= answered))
            .map(Node::to_string)
            .collect();
        if who.len() <= nodes.len() / 2 {
            let who = who.join(", ");
            return Err(
                format!("only [{who}] of {} servers had {mark:08x} before {leader} answered", nodes.len()).into()
            );
        }
        fewest = fewest.min(who.len());
    }
    println!(
        "{} SWAPs of {} B by {} clients at once: each on the device of {fewest} of {} before {leader} answered",
        swaps.clients * swaps.each,
        swaps.value_bytes,
        swaps.clients,
        nodes.len()
    );
    Ok(())
}

fn key(load: usize, client: u32) -> String {
    format!("traced{load}-{client}")
}

fn swap_all(
    mut client: LineClient,
    load: usize,
    number: u32,
    swaps: Swaps,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for value in 1..=swaps.each {
        let new = swaps.value(Swaps::mark(load, number, value));
        let old = client.swap(&key(load, number), &new, TIMEOUT)?;
        if old != Some(swaps.value(Swaps::mark(load, number, value - 1))) {
            return Err(format!("client {number} got another value than its last one").into());
        }
    }
    Ok(())
}

/// From when on each value was durable in files below `log`, as far as it was.
fn durable(calls: &[Call], log: &Path, has_attribute: &dyn Fn(&Path) -> bool) -> HashMap<Mark, f64> {
    let mut attributes: HashMap<PathBuf, bool> = HashMap::new();
    // When what was done to a file or directory by then was on the device.
    let mut synced = |path: &Path, done: f64| {
        if *attributes.entry(path.to_path_buf()).or_insert_with(|| has_attribute(path)) {
            return Some(done);
        }
        let syncs = calls.iter().filter(|call| call.name.ends_with("sync") && Path::new(&call.file) == path);
        syncs.filter(|sync| sync.begun >= done).map(|sync| sync.ended).min_by(f64::total_cmp)
    };
    let mut ends: HashMap<(char, Mark), f64> = HashMap::new();
    for call in calls.iter().filter(|call| call.name.contains("write") && Path::new(&call.file).starts_with(log)) {
        let path = Path::new(&call.file);
        let mut found = marks(&call.data).peekable();
        if found.peek().is_none() {
            continue;
        }
        let named = calls.iter().filter(|other| other.names_a_file() && other.file == call.file);
        let named = named.filter(|other| other.ended <= call.begun).map(|other| other.ended).max_by(f64::total_cmp);
        let name_at = match (named, path.parent()) {
            (Some(named), Some(directory)) => synced(directory, named),
            _ => Some(call.ended),
        };
        let (Some(name_at), Some(data_at)) = (name_at, synced(path, call.ended)) else { continue };
        for end in found {
            let at = ends.entry(end).or_insert(f64::INFINITY);
            *at = at.min(name_at.max(data_at));
        }
    }
    let begins = ends.iter().filter(|((kind, _), _)| *kind == 'B');
    begins.filter_map(|(&(_, mark), &begin)| Some((mark, ends.get(&('E', mark))?.max(begin)))).collect()
}

/// A finished system call that writes, syncs, sends, or gives a file its name.
#[derive(Debug)]
struct Call {
    name: String,
    /// What its descriptor stands for: a path, or `TCP:[from->to]`. The new name, for calls that give one.
    file: String,
    data: String,
    begun: f64,
    ended: f64,
}

impl Call {
    /// Whether it gave a file its name: makes it, or renames it.
    fn names_a_file(&self) -> bool {
        self.name == "openat" || self.name.starts_with("rename")
    }
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
        wait_for(ATTACH_TIMEOUT, "strace to attach (it needs the right to)", || is_traced(pid).then_some(()))?;
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

/// Lines look like `<thread> <time> <call>(<fd><<file>>, "<data>", ...) = <result> <<duration>>`. A call during which
/// another thread is traced comes in two lines, `... <unfinished ...>` and `<thread> <time> <... <call> resumed>...`.
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
        let Some((name, arguments)) = head.split_once('(') else { continue };
        let (file, data) = if name == "openat" || name.starts_with("rename") {
            let opened = name == "openat" && !arguments.contains("O_CREAT");
            // `..., "<old name>", ..., "<new name>"...`
            let Some(new) = arguments.rsplit('"').nth(1).filter(|_| !opened) else { continue };
            (new, "")
        } else {
            let Some((_, file)) = arguments.split_once('<') else { continue };
            // A path may hold '>', and so does `TCP:[from->to]`: the name ends where the arguments go on.
            let Some(parts) = file.split_once(">, ").or_else(|| file.split_once('>')) else { continue };
            parts
        };
        calls.push(Call { name: name.to_owned(), file: file.to_owned(), data: data.to_owned(), begun, ended });
    }
    calls
}

/// The duration at the end of a line, in seconds; none for a call that failed or never returned.
fn duration(line: &str) -> Option<f64> {
    let (rest, duration) = line.strip_suffix('>')?.rsplit_once(" <")?;
    let (_, result) = rest.rsplit_once("= ")?;
    // `12`, or `12</path>` for a descriptor.
    result.trim().split('<').next()?.parse::<u64>().ok()?;
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
    fn marks_begin_and_end_are_told_apart_and_pieces_are_none() {
        let swaps = LOADS[0];
        let mark = Swaps::mark(3, 2, 41);
        let value = swaps.value(mark);
        assert_eq!(value.len(), swaps.value_bytes);
        let data = format!("\\0{value}\\1x{}", &value[..8]);
        assert_eq!(marks(&data).collect::<Vec<_>>(), [('B', mark), ('E', mark)]);
        assert_eq!(marks("Bqx0000zzzzz qx Aqx00000001z").count(), 0);
    }

    /// A value that is written to `/d/log/a` from 1 to 2, and what else happens.
    fn durable_at(others: &[(&str, &str, f64, f64)], has_attribute: bool) -> Option<f64> {
        let call = |name: &str, file: &str, data: &str, begun, ended| Call {
            name: name.to_owned(),
            file: file.to_owned(),
            data: data.to_owned(),
            begun,
            ended,
        };
        let mut calls = vec![call("pwrite64", "/d/log/a", &LOADS[0].value(7), 1.0, 2.0)];
        calls.extend(others.iter().map(|&(name, file, begun, ended)| call(name, file, "", begun, ended)));
        durable(&calls, Path::new("/d/log"), &|_| has_attribute).get(&7).copied()
    }

    // The judge only: the scenario itself needs strace (`just durable`).
    #[test]
    fn durable_only_behind_a_sync_of_the_file_that_began_after_the_write_and_one_of_the_directory_of_a_new_name() {
        assert_eq!(durable_at(&[], false), None);
        assert_eq!(durable_at(&[], true), Some(2.0), "the write itself is synchronous");
        assert_eq!(durable_at(&[("fdatasync", "/d/log/a", 1.5, 4.0)], false), None, "it began too early");
        assert_eq!(durable_at(&[("fdatasync", "/d/log/b", 2.5, 4.0)], false), None, "another file");
        let synced = ("fdatasync", "/d/log/a", 2.5, 4.0);
        assert_eq!(durable_at(&[synced, ("fsync", "/d/log/a", 3.0, 3.5)], false), Some(3.5));
        for named in [("openat", "/d/log/a", 0.1, 0.2), ("rename", "/d/log/a", 0.1, 0.2)] {
            assert_eq!(durable_at(&[named, synced], false), None, "a name that may be lost");
            assert_eq!(durable_at(&[named, synced, ("fsync", "/d/log", 0.1, 5.0)], false), None);
            assert_eq!(durable_at(&[named, synced, ("fsync", "/d/log", 0.3, 0.9)], false), Some(4.0));
            assert_eq!(durable_at(&[named, synced, ("fsync", "/d/log", 0.3, 5.0)], false), Some(5.0));
        }
        assert_eq!(durable_at(&[synced, ("rename", "/d/log/a", 6.0, 7.0)], false), Some(4.0), "later");
    }

    #[test]
    fn parse_whole_and_interrupted_calls_gives_when_they_began_and_ended() {
        let trace = "\
10 100.000000 pwrite64(7</d/log/db>, \"abc\", 3, 0) = 3 <0.500000>
11 100.100000 pwrite64(7</d/log/db>, \"x\", 1, 3 <unfinished ...>
10 100.700000 sendto(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"yes\", 3, MSG_NOSIGNAL, NULL, 0) = 3 <0.000100>
11 100.800000 <... pwrite64 resumed>) = 1 <0.700000>
11 100.900000 write(3<pipe:[1]>, \"z\", 1) = -1 EAGAIN (Resource temporarily unavailable) <0.000010>
10 101.000000 openat(AT_FDCWD</home>, \"/d/log/old\", O_RDONLY|O_CLOEXEC) = 8</d/log/old> <0.000010>
10 101.100000 openat(AT_FDCWD</home>, \"/d/log/new\", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 8</d/log/new> <0.000010>
10 101.200000 rename(\"/d/log/new\", \"/d/log/newer\") = 0 <0.000010>
";
        let calls = parse(trace);
        assert_eq!(calls.len(), 5);
        assert!(!calls[2].names_a_file() && calls[3].names_a_file() && calls[4].names_a_file());
        assert_eq!((calls[3].file.as_str(), calls[4].file.as_str()), ("/d/log/new", "/d/log/newer"));
        assert_eq!(calls[0].name, "pwrite64");
        assert_eq!((calls[0].file.as_str(), calls[0].begun, calls[0].ended), ("/d/log/db", 100.0, 100.5));
        assert!(calls[0].data.contains("abc"));
        assert_eq!(calls[1].file, "TCP:[127.0.0.1:1->127.0.0.1:2]");
        assert_eq!((calls[2].file.as_str(), calls[2].begun), ("/d/log/db", 100.1));
        assert!((calls[2].ended - 100.8).abs() < 1e-6 && calls[2].data.starts_with("\"x\""));
    }
}
