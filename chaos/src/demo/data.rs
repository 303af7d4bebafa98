//! Backups, and a group that has lost its majority for good.

use std::fs;
use std::process::{Command, Stdio};

use madkv_testkit::cluster::{Group, Node, Shape};
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
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "", "meanwhile")?;
    let file = stage.directory().join("backup").display().to_string();
    let made = stage.operator(&["backup", &file])?;
    claim(made.status.success(), || String::from_utf8_lossy(&made.stderr).into_owned())?;
    show_line("", String::from_utf8_lossy(&made.stdout).trim());
    shown("", "a backup was made while the clients wrote; each partition as of one moment");
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
    let again = other.operator(&["restore", &file])?;
    let why = String::from_utf8_lossy(&again.stderr).into_owned();
    show_line("", why.trim());
    claim(again.status.code() == Some(1) && why.contains("has keys"), || format!("not refused: {why}"))?;
    shown("", "a cluster that has keys is not written to unasked");
    Ok(())
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
