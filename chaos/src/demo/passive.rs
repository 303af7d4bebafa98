//! Groups of kind `passive`: the guide's milestones 3, 4 and 5 for passive replication.
//!
//! The primary alone executes requests. Its backups store them, durably, and are brought up to date by checkpoints. The
//! guide's own design loses what was acknowledged since the last checkpoint when the primary dies; this one does not,
//! and milestone 4 shows it.

use madkv_testkit::cluster::{Group, Node};
use madkv_testkit::load::Load;
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;
use smr::epoch::EpochKind;

use super::agents::{
    FREQS_MS, Steps, added, deleted, found_beforehand, host_dies, members, one_at_a_time, plan, server,
};
use super::consoles::{Console, Moment, average_ms};
use super::faults::by_hand;
use super::stage::{Outcome, Stage, TIMEOUT, claim, goes_on, judge, shown, tell};

const FIRST: Group = Group::Partition(0);
/// The setting that says how often there is a checkpoint, in milliseconds, and the one that says after how many
/// requests.
const FREQ: &str = "checkpoint_freq";
const REQUESTS: &str = "checkpoint_requests";
/// Their defaults.
const DEFAULTS: [(&str, u64); 2] = [(FREQ, 1000), (REQUESTS, 20_000)];
/// Values of which a checkpoint comes in the time that a demonstration takes neither by the one nor by the other.
const NEVER: [(&str, u64); 2] = [(FREQ, 60_000), (REQUESTS, 1_000_000)];
/// A shorter time, in milliseconds.
const OFTEN_MS: u64 = 100;
/// A number of requests that the clients soon send.
const FEW_REQUESTS: u64 = 100;
/// Clients in the loop.
const LOOP_CLIENTS: u32 = 3;
/// Requests that are under way at one time at most: one of each client in the loop.
const UNDER_WAY: u64 = LOOP_CLIENTS as u64;
/// A checkpoint may come after this many times as many requests, for the machine is busy.
const INTERVALS_MAX: u64 = 3;
/// Checkpoints whose times are compared.
const COMPARED: usize = 4;
/// This many entries are stored and not applied when the primary dies.
const LAG: u64 = 200;
/// Acknowledged writes of one client that no checkpoint has, at least.
const KEYS_MIN: usize = 100;

/// RM, GFD, LFDs, and three servers, the first of which is the primary.
fn begin(programs: &Programs, steps: &Steps) -> Outcome<Stage> {
    let mut stage = Stage::of_kind(programs, EpochKind::Passive, &plan(3, FREQS_MS[0], false))?;
    found_beforehand(&mut stage)?;
    one_at_a_time(&mut stage, steps, |stage, node| {
        stage.wait_members(FIRST, usize::from(node.replica()) + 1)?;
        if node == server(0) {
            tell("S1 is alone: the managers have removed the others, and it has all that they had.");
        }
        Ok(())
    })?;
    // On a busy machine a member may have been removed meanwhile, the first one too.
    promote(&stage, server(0))?;
    tell("S1 is the primary, S2 and S3 are backups.");
    Ok(stage)
}

/// Makes a replica the primary by an operator's word, if it is not.
fn promote(stage: &Stage, node: Node) -> Outcome<()> {
    if stage.leader_of(FIRST)? == node {
        return Ok(());
    }
    let replica = node.replica().to_string();
    tell(&format!("madkv-client transfer s0 {replica}"));
    // Refused while the members change, or within a second of the last change.
    let done = || {
        let said = stage.quietly(&["transfer", "s0", &replica]).ok()?;
        (said.status.success() && stage.leader(FIRST) == Some(node)).then_some(())
    };
    Ok(wait_for(TIMEOUT, &format!("{node} to be the primary"), done)?)
}

/// Changes settings while everything runs.
fn set(stage: &Stage, settings: &[(&str, u64)]) -> Outcome<()> {
    for (name, value) in settings {
        let done = stage.operator(&["set", name, &value.to_string()])?;
        claim(done.status.success(), || String::from_utf8_lossy(&done.stderr).into_owned())?;
    }
    Ok(())
}

/// A checkpoint that a console shows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Checkpoint {
    /// From whom to whom: `S1, S2`.
    way: String,
    state: String,
    count: u64,
}

/// `[time] Sending <S1, S2, checkpoint>: my_state_S1 = 3 keys (digest ...), checkpoint_count = 7`, with this verb.
fn checkpoint(line: &str, verb: &str) -> Option<Checkpoint> {
    let (way, rest) = line.split_once(&format!("] {verb} <"))?.1.split_once(", checkpoint>: my_state_S")?;
    let (state, count) = rest.split_once(" = ")?.1.split_once(", checkpoint_count = ")?;
    Some(Checkpoint { way: way.to_owned(), state: state.to_owned(), count: count.parse().ok()? })
}

/// The checkpoints that a primary has sent to a backup since: the lines of its console.
fn sent(stage: &Stage, since: &Moment, primary: Node, backup: Node) -> Vec<String> {
    let way = format!("{}, {}", stage.console_name(primary), stage.console_name(backup));
    let lines = stage.lines_since(since, Console::Node(primary)).into_iter();
    lines.filter(|line| checkpoint(line, "Sending").is_some_and(|sent| sent.way == way)).collect()
}

/// Waits until both consoles have shown the same checkpoint since, and the primary the next one; shows it.
fn both_show(stage: &Stage, since: &Moment, primary: Node, backup: Node) -> Outcome<()> {
    let what = format!("a checkpoint on the consoles of {primary} and {backup}");
    let (sending, received) = wait_for(TIMEOUT, &what, || {
        let sent = sent(stage, since, primary, backup);
        let counts: Vec<u64> = sent.iter().filter_map(|line| Some(checkpoint(line, "Sending")?.count)).collect();
        let lines = stage.lines_since(since, Console::Node(backup));
        lines.into_iter().find_map(|line| {
            let received = checkpoint(&line, "Received")?;
            let sending = sent.iter().find(|line| checkpoint(line, "Sending").as_ref() == Some(&received))?;
            counts.contains(&(received.count + 1)).then(|| (sending.clone(), line.clone()))
        })
    })?;
    stage.show(Console::Node(primary), &sending);
    stage.show(Console::Node(backup), &received);
    Ok(())
}

/// The backups of a primary: those that run.
fn backups(stage: &Stage, primary: Node) -> Vec<Node> {
    let nodes: Vec<Node> = stage.nodes_of(FIRST).filter(|node| *node != primary).collect();
    nodes.into_iter().filter(|node| stage.status(*node).is_ok()).collect()
}

/// The clients go on, and checkpoints go to all these backups.
fn checkpoints_go_on(stage: &Stage, load: &mut Load, primary: Node, backups: &[Node], guide: &str) -> Outcome<()> {
    let since = stage.moment()?;
    goes_on(load, "", &format!("{} is the primary", stage.named(primary)))?;
    for &backup in backups {
        both_show(stage, &since, primary, backup)?;
    }
    shown(
        guide,
        "the same state and the same checkpoint_count at the primary and at each backup, and the next one came",
    );
    Ok(())
}

pub(super) fn milestone_3(programs: &Programs) -> Outcome<()> {
    let steps = Steps { managers: "3 (1)", agents: "3 (2)", servers: ["3 (3)", "3 (4)", "3 (5)"] };
    let mut stage = begin(programs, &steps)?;
    let [s1, s2, s3] = [server(0), server(1), server(2)];
    let since = stage.moment()?;
    by_hand(&mut stage, s1, 1..=3)?;
    for backup in [s2, s3] {
        stage.has_not_said(&since, Console::Node(backup), |line| line.contains("] Received <C"))?;
    }
    shown("3 (7)-(9)", "requests are on the consoles of their client and of S1; S2 and S3 hear no client");
    shown("3 (10)", "so are the replies");
    let mut load = stage.loops(LOOP_CLIENTS)?;
    checkpoints_go_on(&stage, &mut load, s1, &[s2, s3], "3 (6) (11) (12) (13)")?;

    stage.kill(s2)?;
    deleted(&mut stage, 1, "3 (14)")?;
    members(&mut stage, "2 members: S1, S3", "3 (15)")?;
    goes_on(&mut load, "", "without S2")?;
    stage.wait_members(FIRST, 2)?;
    claim(stage.leader_of(FIRST)? == s1, || "S1 is not the primary any more".to_owned())?;
    by_hand(&mut stage, s1, 4..=6)?;
    shown("3 (16) (17)", "requests to S1 and replies from it, as before");
    let since = stage.moment()?;
    checkpoints_go_on(&stage, &mut load, s1, &[s3], "3 (18)")?;
    claim(sent(&stage, &since, s1, s2).is_empty(), || "S1 sends checkpoints to S2, which is dead".to_owned())?;
    judge(&stage, load)
}

/// The guide's second configuration: it asks for the steps of the first one, with a backup and then the primary.
pub(super) fn milestone_4(programs: &Programs) -> Outcome<()> {
    let steps = Steps { managers: "4 (1)-(3)", agents: "4 (4) (5)", servers: ["4 (6)", "4 (7)", "4 (8)"] };
    let mut stage = begin(programs, &steps)?;
    let [s1, s2, s3] = [server(0), server(1), server(2)];
    let mut load = stage.loops(LOOP_CLIENTS)?;
    checkpoints_go_on(&stage, &mut load, s1, &[s2, s3], "4 (9)-(13)")?;
    another_frequency(&stage, &mut load, s1, s3)?;

    tell("A backup.");
    stage.kill(s2)?;
    deleted(&mut stage, 1, "4 (14), a backup")?;
    members(&mut stage, "2 members: S1, S3", "4 (15), a backup")?;
    goes_on(&mut load, "", "without S2")?;
    stage.wait_members(FIRST, 2)?;
    checkpoints_go_on(&stage, &mut load, s1, &[s3], "4 (16)-(18), a backup")?;
    tell("S2 is launched again, by hand.");
    let since = stage.moment()?;
    stage.process(s2).start()?;
    added(&mut stage, 1)?;
    members(&mut stage, "3 members: S1, S2, S3", "4 (19) (20), a backup")?;
    stage.wait_members(FIRST, 3)?;
    both_show(&stage, &since, s1, s2)?;
    shown("4 (21), a backup", "S2 has what it lacked, and is brought up to date again; its count is the primary's");

    tell("The primary; and since the last checkpoint much has been acknowledged.");
    let second = primary_dies(&mut stage, &mut load, s1)?;
    tell("S1 is launched again, by hand.");
    set(&stage, &DEFAULTS)?;
    let since = stage.moment()?;
    stage.process(s1).start()?;
    added(&mut stage, 0)?;
    members(&mut stage, "3 members: S1, S2, S3", "4 (19) (20), the primary")?;
    stage.wait_members(FIRST, 3)?;
    let followed = stage.follows(s1)?;
    goes_on(&mut load, "", &format!("S1 is a backup now, of {}", stage.named(followed)))?;
    claim(followed == second, || format!("{second} was the primary, and {followed} is"))?;
    both_show(&stage, &since, second, s1)?;
    shown("4 (21), the primary", "the former primary takes the checkpoints of the new one");
    judge(&stage, load)
}

/// Checkpoints come more often, and then by the number of requests; both while the clients go on.
fn another_frequency(stage: &Stage, load: &mut Load, primary: Node, backup: Node) -> Outcome<()> {
    let guide = "the checkpointing frequency is changed while all runs";
    let average_since = |since: &Moment| {
        let lines = sent(stage, since, primary, backup);
        // The latest ones.
        let compared = lines.get(lines.len().checked_sub(COMPARED + 1)?..)?;
        average_ms(compared).ok()
    };
    let since = stage.moment()?;
    let before = wait_for(TIMEOUT, "some checkpoints", || average_since(&since))?;
    tell(&format!("a checkpoint each {before} ms"));
    set(stage, &[(FREQ, OFTEN_MS)])?;
    let since = stage.moment()?;
    let after = wait_for(TIMEOUT, "checkpoints that come twice as often", || {
        average_since(&since).filter(|average| 2 * average < before)
    })?;
    shown(guide, &format!("a checkpoint each {after} ms now, where it was {before} ms"));
    both_show(stage, &since, primary, backup)?;

    set(stage, &NEVER)?;
    none_comes(stage, load, primary, backup)?;
    tell("No checkpoint comes any more.");
    let since = stage.moment()?;
    set(stage, &[(REQUESTS, FEW_REQUESTS)])?;
    // Then the primary has heard of it.
    wait_for(TIMEOUT, "a checkpoint again", || (!sent(stage, &since, primary, backup).is_empty()).then_some(()))?;
    let began = load.answered();
    let since = stage.moment()?;
    let (least, checkpoints) = wait_for(TIMEOUT, "checkpoints after this many requests", || {
        let requests = load.answered() - began;
        let checkpoints = sent(stage, &since, primary, backup).len();
        (checkpoints > COMPARED + 1).then_some((requests, checkpoints as u64))
    })?;
    // Some were answered while the console was read, and some are executed and not answered. The first checkpoint may
    // have been due before.
    let most = load.answered() - began + UNDER_WAY;
    claim(most >= FEW_REQUESTS * (checkpoints - 2), || {
        format!("at most {most} requests for {checkpoints} checkpoints, not {FEW_REQUESTS} for each")
    })?;
    claim(least <= INTERVALS_MAX * FEW_REQUESTS * (checkpoints + 1) + UNDER_WAY, || {
        format!("{least} requests for {checkpoints} checkpoints only, not {FEW_REQUESTS} for each")
    })?;
    both_show(stage, &since, primary, backup)?;
    shown(guide, &format!("one comes after {FEW_REQUESTS} requests, however long they take"));
    set(stage, &DEFAULTS)
}

/// Waits until some hundred requests are answered without a checkpoint.
fn none_comes(stage: &Stage, load: &mut Load, primary: Node, backup: Node) -> Outcome<()> {
    wait_for(TIMEOUT, "no checkpoint", || {
        let since = stage.moment().ok()?;
        load.wait_answers(LAG, TIMEOUT).ok()?;
        sent(stage, &since, primary, backup).is_empty().then_some(())
    })?;
    Ok(())
}

/// The primary dies when much was acknowledged since its last checkpoint. Returns who is the primary then.
fn primary_dies(stage: &mut Stage, load: &mut Load, primary: Node) -> Outcome<Node> {
    set(stage, &NEVER)?;
    let others = backups(stage, primary);
    none_comes(stage, load, primary, others[0])?;
    let mut client = stage.traced_client(9)?;
    let before = stage.moment()?;
    let mut keys = 0;
    wait_for(TIMEOUT, "backups that have stored writes and not applied them", || {
        for _ in 0..20 {
            client.ask(&format!("PUT kept{keys} {keys}"), TIMEOUT).ok()?;
            keys += 1;
        }
        let lags = |node: &Node| stage.status(*node).is_ok_and(|status| status.last.index.0 >= status.applied.0 + LAG);
        (keys >= KEYS_MIN && others.iter().all(lags)).then_some(())
    })?;
    for &backup in &others {
        claim(sent(stage, &before, primary, backup).is_empty(), || {
            format!("{primary} has sent a checkpoint to {backup}, with writes that no checkpoint was to have")
        })?;
    }
    tell(&format!("{keys} writes of C9 are acknowledged, beside those in the loop, and are in no checkpoint."));
    for &backup in &others {
        let status = stage.status(backup)?;
        tell(&format!("{} has applied entry {}, and stored up to {}.", backup, status.applied.0, status.last.index.0));
    }
    let since = stage.moment()?;
    stage.kill(primary)?;
    let host = primary.replica();
    deleted(stage, host, "4 (14), the primary")?;
    let left: Vec<String> = others.iter().map(|node| stage.console_name(*node)).collect();
    members(stage, &format!("2 members: {}", left.join(", ")), "4 (15), the primary")?;
    let second = stage.leader_of(FIRST)?;
    claim(second != primary, || format!("{primary} is dead and leads"))?;
    stage.says_since(&since, Console::Node(second), |line| line.contains(" is leader in term "))?;
    goes_on(load, "4 (16) (17), the primary", &format!("{} was promoted", stage.named(second)))?;
    let replayed: Vec<String> = stage
        .lines_since(&since, Console::Node(second))
        .into_iter()
        .filter(|line| line.contains(&format!(" after processing <?, {}, entry ", stage.console_name(second))))
        .collect();
    claim(replayed.len() as u64 >= LAG, || format!("{second} has executed only {} stored requests", replayed.len()))?;
    for line in [replayed.first(), replayed.last()].into_iter().flatten() {
        stage.show(Console::Node(second), line);
    }
    shown("4, a new primary", &format!("before it served it executed {} requests that it had stored", replayed.len()));
    for key in 0..keys {
        let value = client.get(&format!("kept{key}"), TIMEOUT)?;
        claim(value == Some(key.to_string()), || format!("kept{key} has {value:?}: an acknowledged write is lost"))?;
    }
    shown("4, a new primary", &format!("all {keys} acknowledged writes are there"));
    tell("In the guide's own design a backup that is promoted goes on from the last checkpoint: all of these would be");
    tell("lost. Here each request is on the disk of every member before it is acknowledged.");
    Ok(second)
}

pub(super) fn milestone_5(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::of_kind(programs, EpochKind::Passive, &plan(3, FREQS_MS[1], true))?;
    tell("RM, GFD and the LFDs; then the servers, which their LFDs launch again whenever they die.");
    stage.start_all()?;
    stage.wait_ready(TIMEOUT)?;
    stage.wait_members(FIRST, 3)?;
    members(&mut stage, "3 members: S1, S2, S3", "5 bootstrapping")?;
    tell("Whichever replica is wanted is the primary.");
    for replica in [1, 2, 0] {
        promote(&stage, server(replica))?;
        tell(&format!("{} is the primary.", stage.named(server(replica))));
    }
    shown("5 steady state v1", "any replica can be designated");
    let mut load = stage.loops(LOOP_CLIENTS)?;
    let first = stage.leader_of(FIRST)?;
    let others = backups(&stage, first);
    checkpoints_go_on(&stage, &mut load, first, &others, "5 steady state v2")?;

    tell("The primary is killed, and its LFD with it: launched again at once it would be named the primary again.");
    host_dies(&mut stage, first.replica())?;
    stage.wait_members(FIRST, 2)?;
    let second = stage.leader_of(FIRST)?;
    claim(second != first, || format!("{first} is dead and leads"))?;
    let third = others.into_iter().find(|node| *node != second).ok_or("no other backup")?;
    checkpoints_go_on(&stage, &mut load, second, &[third], "5 fault injected")?;
    let mut left = [stage.console_name(second), stage.console_name(third)];
    left.sort();
    members(&mut stage, &format!("2 members: {}", left.join(", ")), "5 fault injected")?;
    tell("Its LFD is back, and launches it again.");
    stage.start_agent(first.replica())?;
    stage.wait_members(FIRST, 3)?;
    members(&mut stage, "3 members: S1, S2, S3", "5 fault recovered")?;
    let followed = stage.follows(first)?;
    claim(followed == second, || format!("{second} was the primary, and {followed} is"))?;
    tell(&format!("{} is a backup now, of {}.", stage.named(first), stage.named(second)));
    checkpoints_go_on(&stage, &mut load, second, &[first, third], "5 fault recovered")?;

    tell("The same one again, and its LFD.");
    host_dies(&mut stage, first.replica())?;
    stage.wait_members(FIRST, 2)?;
    checkpoints_go_on(&stage, &mut load, second, &[third], "5 fault reinjected")?;
    tell("The other backup's host is gone, too.");
    host_dies(&mut stage, third.replica())?;
    stage.wait_members(FIRST, 1)?;
    goes_on(&mut load, "5 second fault injected", "the primary is alone, and goes on")?;
    let alone = format!("1 member: {}", stage.console_name(second));
    members(&mut stage, &alone, "5 second fault injected")?;

    tell("Both hosts are back, and their LFDs find out what is to be launched.");
    for host in [first.replica(), third.replica()] {
        stage.start_agent(host)?;
    }
    stage.wait_members(FIRST, 3)?;
    checkpoints_go_on(&stage, &mut load, second, &[first, third], "")?;
    judge(&stage, load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_is_read_from_either_console() {
        let line =
            |verb| format!("[t] {verb} <S1, S2, checkpoint>: my_state_S1 = 3 keys (digest a1), checkpoint_count = 7");
        let expected = Checkpoint { way: "S1, S2".to_owned(), state: "3 keys (digest a1)".to_owned(), count: 7 };
        for verb in ["Sending", "Received"] {
            assert_eq!(checkpoint(&line(verb), verb).as_ref(), Some(&expected));
        }
        assert_eq!(checkpoint(&line("Sending"), "Received"), None);
        assert_eq!(checkpoint("[t] Sending <C1, S1, 7, reply>", "Sending"), None);
    }
}
