//! Backups, and a group that has lost its majority for good.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use madkv_testkit::cluster::{Group, Node, Shape};
use madkv_testkit::line_client::LineClient;
use madkv_testkit::programs::{Programs, SERVER};
use madkv_testkit::wait::wait_for;
use smr::status::ServiceState;

use super::stage::{Outcome, Stage, TIMEOUT, claim, goes_on, judge, show_line, shown, tell};

const FIRST: Group = Group::Partition(0);
/// Keys that a backup is to have, beside those of the clients in the loop.
const KEYS: usize = 500;

pub(super) fn backup(programs: &Programs) -> Outcome<()> {
    let stage = Stage::ready(programs, Shape { server_rf: 3, manager_rf: 1, partitions: 2 })?;
    let mut client = stage.traced_client(9)?;
    for number in 0..KEYS {
        client.ask(&format!("PUT kept{number:04} value{number}"), TIMEOUT)?;
    }
    tell(&format!("{KEYS} keys are there."));
    // For each partition a pair of keys that a client writes in turns, the first one first. As of one moment the first
    // one has the number of the second or the next, never less, and never two more.
    let pairs = pairs(&stage)?;
    let mut steps = stage.traced_client(8)?;
    for key in pairs.iter().flatten() {
        steps.ask(&format!("PUT {key} 0"), TIMEOUT)?;
    }
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "", "meanwhile")?;
    let file = stage.directory().join("backup").display().to_string();
    let is_over = AtomicBool::new(false);
    let (made, rounds) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| step(&mut steps, &pairs, &is_over));
        let made = stage.operator(&["backup", &file]);
        is_over.store(true, Ordering::SeqCst);
        let rounds = writer.join().map_err(|_| "the client that writes pairs has failed")?;
        Outcome::Ok((made?, rounds?))
    })?;
    claim(made.status.success(), || String::from_utf8_lossy(&made.stderr).into_owned())?;
    show_line("", String::from_utf8_lossy(&made.stdout).trim());
    shown("", "a backup was made while the clients wrote");
    judge(&stage, load)?;

    let other = Stage::ready(programs, Shape { server_rf: 1, manager_rf: 1, partitions: 3 })?;
    tell("Another cluster, of another shape. First the backup with one byte changed:");
    let damaged = stage.directory().join("damaged").display().to_string();
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, &bytes)?;
    let refused = other.operator(&["restore", &damaged])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    show_line("", why.trim());
    claim(refused.status.code() == Some(1) && why.contains("does not verify"), || format!("not refused: {why}"))?;
    let mut there = other.traced_client(1)?;
    let nothing = there.ask("SCAN a z", TIMEOUT).and_then(|_| there.line(TIMEOUT))?;
    claim(nothing == "SCAN END", || format!("something was written: {nothing}"))?;
    shown("", "a damaged backup is refused, and nothing was written");
    let restored = other.operator(&["restore", &file])?;
    claim(restored.status.success(), || String::from_utf8_lossy(&restored.stderr).into_owned())?;
    show_line("", String::from_utf8_lossy(&restored.stdout).trim());
    for number in 0..KEYS {
        let value = there.get(&format!("kept{number:04}"), TIMEOUT)?;
        claim(value == Some(format!("value{number}")), || format!("kept{number:04} has {value:?}"))?;
    }
    shown("", &format!("all {KEYS} keys are in the other cluster"));
    for [ahead, behind] in &pairs {
        let mut number = |key: &str| -> Outcome<u64> {
            Ok(there.get(key, TIMEOUT)?.ok_or_else(|| format!("{key} is not there"))?.parse()?)
        };
        let (a, b) = (number(ahead)?, number(behind)?);
        claim(a == b || a == b + 1, || format!("no one moment: {ahead} has {a}, {behind} has {b}"))?;
        tell(&format!("{ahead} has {a}, {behind} has {b}, of {rounds} rounds"));
    }
    shown("", "each partition is as of one moment: of two keys written in turns, neither is out of step");
    let again = other.operator(&["restore", &file])?;
    let why = String::from_utf8_lossy(&again.stderr).into_owned();
    show_line("", why.trim());
    claim(again.status.code() == Some(1) && why.contains("has keys"), || format!("not refused: {why}"))?;
    shown("", "a cluster that has keys is not written to unasked");
    Ok(())
}

/// For each partition two of its keys, in the order in which a scan meets them. The one that is written first is met
/// first, so that a scan that is of no one moment can find the other one ahead of it.
fn pairs(stage: &Stage) -> Outcome<Vec<[String; 2]>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for number in 0..32 {
        // Far apart in the order of keys, and with the others between them.
        let key = if number % 2 == 0 { format!("a-pair{number}") } else { format!("z-pair{number}") };
        let place = stage.quietly(&["where", &key])?;
        let place = String::from_utf8_lossy(&place.stdout).into_owned();
        let partition = place.split(", ").nth(1).ok_or_else(|| format!("where {key}: {place}"))?;
        found.entry(partition.to_owned()).or_default().push(key);
    }
    let pair = |keys: &Vec<String>| {
        let of = |letter| keys.iter().find(|key| key.starts_with(letter)).cloned();
        Some([of('a')?, of('z')?])
    };
    let pairs: Option<Vec<[String; 2]>> = found.values().map(pair).collect();
    Ok(pairs.filter(|pairs| pairs.len() == 2).ok_or_else(|| format!("no pairs in {found:?}"))?)
}

/// Writes 1, 2, ... to all pairs; returns how far it came.
fn step(client: &mut LineClient, pairs: &[[String; 2]], is_over: &AtomicBool) -> Outcome<u64> {
    let mut round = 0;
    while !is_over.load(Ordering::SeqCst) {
        round += 1;
        for key in pairs.iter().flatten() {
            client.ask(&format!("PUT {key} {round}"), TIMEOUT)?;
        }
    }
    Ok(round)
}

pub(super) fn recover(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::ready(programs, Shape { server_rf: 3, manager_rf: 1, partitions: 1 })?;
    let mut client = stage.traced_client(1)?;
    for number in 0..50 {
        client.swap(&format!("key{number}"), "old", TIMEOUT)?;
    }
    stage.wait_caught_up(FIRST, TIMEOUT)?;
    tell("50 keys are there. Now all three servers die, and two directories are lost for good.");
    let nodes: Vec<Node> = stage.nodes_of(FIRST).collect();
    for &node in &nodes {
        stage.kill(node)?;
    }
    for &node in &nodes[..2] {
        fs::remove_dir_all(stage.backer_path(node))?;
    }
    let left = nodes[2];
    let (to, old) = (stage.backer_path(left), stage.directory().join("old"));
    fs::rename(&to, &old)?;
    tell(&format!("madkv-server recover --from old --to {}", to.display()));
    let recovered = Command::new(stage.programs().path(SERVER))
        .args(["recover".as_ref(), "--from".as_ref(), old.as_os_str(), "--to".as_ref(), to.as_os_str()])
        .args(recover_flags(&stage))
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&recovered.stdout).into_owned() + &String::from_utf8_lossy(&recovered.stderr);
    text.lines().for_each(|line| show_line("", line));
    claim(recovered.status.success(), || format!("recover failed: {}", recovered.status))?;
    shown(
        "",
        "recover says what it read, and what may be missing: only the operator can know that no one else has more",
    );
    tell("Started as before, it refuses to found a group again:");
    stage.process(left).start()?;
    let ended = stage.process(left).wait_end(TIMEOUT);
    claim(ended.is_some_and(|status| !status.success()), || "it runs without the operator's word".to_owned())?;
    stage.says(left, |line| line.contains("--found_anew"))?;
    stage.add_flag(left, "--found_anew");
    stage.process(left).start()?;
    let leader = stage.leader_of(FIRST)?;
    claim(leader == left, || format!("{leader} leads, not {left}"))?;
    let mut client = stage.traced_client(2)?;
    for number in 0..50 {
        let value = client.get(&format!("key{number}"), TIMEOUT)?;
        claim(value.as_deref() == Some("old"), || format!("key{number} has {value:?}"))?;
    }
    shown("", &format!("with --found_anew {} serves again, with all 50 keys", stage.named(left)));
    for &node in &nodes[..2] {
        let replica = node.replica().to_string();
        tell(&format!("{} comes back empty: madkv-client readmit s0 {replica}", stage.named(node)));
        stage.process(node).start()?;
        wait_for(TIMEOUT, "a readmission", || {
            stage.quietly(&["readmit", "s0", &replica]).ok().filter(|output| output.status.success())
        })?;
        wait_for(TIMEOUT, "the readmitted replica to serve", || {
            (stage.status(node).ok()?.service_state == ServiceState::InService).then_some(())
        })?;
    }
    stage.kill(left)?;
    let answer = client.swap("key0", "new", TIMEOUT)?;
    claim(answer.as_deref() == Some("old"), || format!("key0 had {answer:?}"))?;
    shown("", "the group survives a failure again");
    Ok(())
}

/// What `recover` needs to know of this file system; the engine is that of the old directory.
fn recover_flags(stage: &Stage) -> Vec<std::ffi::OsString> {
    let flags = madkv_testkit::launcher::sync_flags(stage.directory());
    flags.into_iter().filter(|flag| !flag.to_string_lossy().starts_with("--log_engine")).collect()
}
