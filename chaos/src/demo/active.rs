//! Groups of kind `active`: the guide's milestones 2, 4 and 5 for active replication, and lost messages.
//!
//! Clients send each write to all members, take the first answer and discard the others. One of the members gives the
//! order; which one it is no client knows or needs to know.

use std::collections::BTreeSet;
use std::time::Duration;

use madkv_testkit::cluster::{Group, Node};
use madkv_testkit::load::Load;
use madkv_testkit::programs::Programs;
use madkv_testkit::proxy::{Flow, Rules};
use madkv_testkit::wait::wait_for;
use madkv_testkit::wiring::{Network, Way};
use smr::epoch::EpochKind;

use super::agents::{
    FREQS_MS, Steps, added, deleted, found_beforehand, host_dies, kill_whoever, members, one_at_a_time, plan, server,
    serves_again,
};
use super::consoles::{Console, Moment};
use super::stage::{LOOPS_FIRST, Outcome, Stage, TIMEOUT, claim, goes_on, judge, shown, tell};

const FIRST: Group = Group::Partition(0);
/// Requests of a client after which one has to have been shown by all with its state before and after. A copy that
/// comes to a member after the entry is answered from the session table, and was processed under no one's name.
const REQUESTS_MAX: u32 = 50;
/// How long all consoles may take to show a request before the next one is tried.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// This many messages in a thousand are lost.
const LOST_PERMILLE: u16 = 50;
/// Requests that are answered meanwhile.
const LOSSY_REQUESTS: u64 = 1000;
/// Messages that are lost at least until then.
const LOST_MIN: u64 = 100;
/// Requests at the end whose answers may still be under way when their client ends.
const UNDER_WAY: u32 = 20;

/// Milestones 2 and 4 have the same steps up to the fault. Here S1 dies in the first part, and S2 in the second.
pub(super) fn milestones_2_and_4(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::of_kind(programs, EpochKind::Active, &plan(3, FREQS_MS[0], false))?;
    found_beforehand(&mut stage)?;
    let steps = Steps {
        managers: "2 (1), 4 (1)-(3)",
        agents: "2 (2), 4 (4) (5)",
        servers: ["2 (3), 4 (6)", "2 (4), 4 (7)", "2 (5), 4 (8)"],
    };
    let start = stage.moment()?;
    one_at_a_time(&mut stage, &steps, |stage, node| {
        let name = stage.console_name(node);
        stage.says_since(&start, Console::Node(node), |line| line.ends_with(&format!("] i_am_ready_{name} = 1")))?;
        stage.wait_members(FIRST, usize::from(node.replica()) + 1)?;
        match node.replica() {
            0 => tell("S1 is alone, and ready: the managers have removed the others, and it has all that they had."),
            _ => tell(&format!("{name} is ready, for it was brought up to date by those before it.")),
        }
        Ok(())
    })?;
    shown("2 (10), 4 (9) (13)", "three active replicas: all but one may fail");
    let all = [server(0), server(1), server(2)];
    each_to_all(&stage, 1, &all)?;
    shown("2 (6)-(8), 4 (10) (11)", "each request is on the console of its client, and on that of each server");
    shown("2 (9), 4 (12)", "so is each reply");
    shown("2 (15), 4 (18)", "the first reply counts; the others are discarded, by the name of their request");
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "2 (7)", "the clients in the loop")?;

    stage.kill(server(0))?;
    deleted(&mut stage, 0, "2 (11)")?;
    members(&mut stage, "2 members: S2, S3", "2 (12)")?;
    goes_on_without(&mut stage, &mut load, server(0), 4, "2 (13) (14) (15)")?;
    tell("S1 is launched again, by hand.");
    stage.process(server(0)).start()?;
    stage.wait_members(FIRST, 3)?;
    added(&mut stage, 0)?;
    members(&mut stage, "3 members: S1, S2, S3", "")?;

    stage.kill(server(1))?;
    deleted(&mut stage, 1, "4 (14)")?;
    members(&mut stage, "2 members: S1, S3", "4 (15)")?;
    goes_on_without(&mut stage, &mut load, server(1), 7, "4 (16) (17) (18)")?;
    newborn(&mut stage, &mut load, server(1))?;
    judge(&stage, load)
}

/// Each of three clients sends a write to these servers, and all consoles show it.
fn each_to_all(stage: &Stage, first: u32, servers: &[Node]) -> Outcome<()> {
    tell("Three clients, by hand.");
    (first..first + 3).try_for_each(|number| to_all(stage, number, servers))
}

/// A client sends writes to these servers, until all have shown one with the state before and after it; and they have
/// shown the same.
fn to_all(stage: &Stage, number: u32, servers: &[Node]) -> Outcome<()> {
    let mut client = stage.traced_client(number)?;
    let since = stage.moment()?;
    for request in 1..=REQUESTS_MAX {
        let asked = format!("PUT by{number} {request}");
        let answer = client.ask(&asked, TIMEOUT)?;
        let shown_by_all = wait_for(REQUEST_TIMEOUT, "a request on all consoles", || {
            shown_by_all(stage, &since, number, request, servers)
        });
        if let Ok(lines) = shown_by_all {
            tell(&format!("C{number}: {asked}  ->  {answer}"));
            lines.iter().for_each(|(console, line)| stage.show(*console, line));
            return Ok(());
        }
    }
    Err(format!("none of {REQUESTS_MAX} requests of C{number} was shown by {servers:?}, all in the same state").into())
}

/// All that consoles say of a request, if they do.
fn shown_by_all(
    stage: &Stage,
    since: &Moment,
    client: u32,
    request: u32,
    servers: &[Node],
) -> Option<Vec<(Console, String)>> {
    let of_client = stage.lines_since(since, Console::Client(client));
    let mut shown = Vec::new();
    let mut find = |console, lines: &[String], end: &str| {
        let line = lines.iter().find(|line| line.ends_with(end))?;
        shown.push((console, line.clone()));
        Some(line.clone())
    };
    let mut states = BTreeSet::new();
    let tuple = |server: &str, kind: &str| format!("<C{client}, {server}, {request}, {kind}>");
    let names: Vec<String> = servers.iter().map(|node| stage.console_name(*node)).collect();
    for name in &names {
        find(Console::Client(client), &of_client, &format!("] Sent {}", tuple(name, "request")))?;
    }
    for (node, name) in servers.iter().zip(&names) {
        let lines = stage.lines_since(since, Console::Node(*node));
        let asked = tuple(name, "request");
        let mut find = |end: &str| find(Console::Node(*node), &lines, end);
        find(&format!("] Received {asked}"))?;
        let before = find(&format!(" before processing {asked}"))?;
        let after = find(&format!(" after processing {asked}"))?;
        find(&format!("] Sending {}", tuple(name, "reply")))?;
        states.insert((state_of(&before, " before ")?, state_of(&after, " after ")?));
    }
    for name in &names {
        find(Console::Client(client), &of_client, &format!("] Received {}", tuple(name, "reply")))?;
    }
    let discarded = format!("] request_num {request}: Discarded duplicate reply from S");
    let duplicates: Vec<&String> = of_client.iter().filter(|line| line.contains(&discarded)).collect();
    let from: BTreeSet<&str> = duplicates.iter().filter_map(|line| line.rsplit(' ').next()).collect();
    // More, if one was so late that it was asked for again.
    if states.len() != 1 || from.len() + 1 < names.len() || from.iter().any(|name| !names.iter().any(|of| of == name)) {
        return None;
    }
    shown.extend(duplicates.into_iter().map(|line| (Console::Client(client), line.clone())));
    Some(shown)
}

/// `7 keys (digest ...)` in `[time] my_state_S1 = 7 keys (digest ...) before processing <...>`.
fn state_of(line: &str, when: &str) -> Option<String> {
    Some(line.split_once(" = ")?.1.split_once(when)?.0.to_owned())
}

/// Clients go on without a server that is dead, and notice nothing but that its replies come no more.
fn goes_on_without(stage: &mut Stage, load: &mut Load, dead: Node, clients: u32, guide: &str) -> Outcome<()> {
    goes_on(load, "", &format!("without {}", stage.named(dead)))?;
    stage.wait_members(FIRST, 2)?;
    let since = stage.moment()?;
    goes_on(load, "", "two are left, and no client was told a thing")?;
    let left: Vec<Node> = stage.nodes_of(FIRST).filter(|node| *node != dead).collect();
    each_to_all(stage, clients, &left)?;
    let name = stage.console_name(dead);
    for client in (LOOPS_FIRST..).take(3) {
        let console = Console::Client(client);
        stage.has_not_said(&since, console, |line| {
            line.contains(&format!("] Received <C{client}, {name}, "))
                || line.ends_with(&format!("Discarded duplicate reply from {name}"))
        })?;
        stage.says_since(&since, console, |line| line.contains(": Discarded duplicate reply from S"))?;
    }
    shown(
        guide,
        &format!("the others take, answer and discard as before; all that is missing are {name}'s duplicates"),
    );
    Ok(())
}

/// A server that died is launched again by hand: it stores what it hears until it has all that the others have.
fn newborn(stage: &mut Stage, load: &mut Load, node: Node) -> Outcome<()> {
    let (name, host) = (stage.console_name(node), node.replica());
    let console = Console::Node(node);
    tell("The managers are stopped for a moment: without them no one takes a newborn replica in, and there is time");
    tell(&format!("to look at it. {name} is launched again, by hand."));
    let managers: Vec<Node> = stage.nodes_of(Group::Manager).collect();
    managers.iter().for_each(|manager| stage.process(*manager).send_freeze());
    managers.iter().for_each(|manager| stage.process(*manager).wait_frozen());
    let since = stage.moment()?;
    stage.process(node).start()?;
    added(stage, host)?;
    stage.says_since(&since, console, |line| line.ends_with(&format!("] i_am_ready_{name} = 0")))?;
    let is_stored = format!("] i_am_ready_{name} = 0: stored <C");
    stage.says_since(&since, console, |line| {
        line.contains(&is_stored) && line.contains(&format!("high_watermark_request_num[C{LOOPS_FIRST}] = "))
    })?;
    goes_on(load, "", "meanwhile")?;
    stage.has_not_said(&since, console, |line| line.ends_with(&format!("] i_am_ready_{name} = 1")))?;
    stage.has_not_said(&since, console, |line| line.contains("] Sending <C") && line.ends_with(", reply>"))?;
    shown("4 (21)", &format!("{name} stores requests and notes their numbers, and answers none; the others go on"));
    tell("The managers go on.");
    managers.iter().for_each(|manager| stage.process(*manager).thaw());
    stage.says_since(&since, console, |line| line.ends_with(&format!("] i_am_ready_{name} = 1")))?;
    let lacked = format!(" after processing <?, {name}, entry ");
    let before_ready = stage.lines_since(&since, console);
    let count = before_ready.iter().filter(|line| line.contains(&lacked)).count();
    tell(&format!("It was given what it lacked, {count} writes from the others' log among it, and then the rest."));
    let others: Vec<Node> = stage.nodes_of(FIRST).filter(|other| *other != node).collect();
    let processed = wait_for(TIMEOUT, "a request that was stored, and then processed", || {
        let lines = stage.lines_since(&since, console);
        let theirs: Vec<(Node, Vec<String>)> =
            others.iter().map(|other| (*other, stage.lines_since(&since, Console::Node(*other)))).collect();
        let stored = lines.iter().filter_map(|line| line.split_once(&is_stored)?.1.split_once(", request>"));
        // `11, S2, 105`
        let mut tuples = stored.filter_map(|(tuple, _)| tuple.split_once(&format!(", {name}, ")));
        tuples.find_map(|(client, number)| {
            let after = |server: &str| format!(" after processing <C{client}, {server}, {number}, request>");
            let own = lines.iter().find(|line| line.ends_with(&after(&name)))?;
            theirs.iter().find_map(|(other, lines)| {
                let end = after(&stage.console_name(*other));
                let same = lines.iter().find(|line| line.ends_with(&end))?;
                Some((own.clone(), *other, same.clone()))
            })
        })
    })?;
    let (own, other, same) = processed;
    stage.show(console, &own);
    stage.show(Console::Node(other), &same);
    let states = [&own, &same].map(|line| state_of(line, " after "));
    claim(states[0].is_some() && states[0] == states[1], || format!("not the same state: {own} / {same}"))?;
    shown("4 (21)", "what it had stored was processed on top of that, and the state is that of the others");
    stage.wait_members(FIRST, 3)?;
    members(stage, "3 members: S1, S2, S3", "4 (19) (20)")?;
    let since = stage.moment()?;
    goes_on(load, "", "all three again")?;
    stage.says_since(&since, console, |line| line.contains("] Sending <C") && line.ends_with(", reply>"))?;
    let its = format!("Discarded duplicate reply from {name}");
    stage.says_since(&since, Console::Client(LOOPS_FIRST), |line| line.ends_with(&its))?;
    shown("4 (21)", &format!("{name} answers again, and its replies are duplicates again"));
    Ok(())
}

/// The number that follows this text.
fn number_in(line: &str, text: &str) -> Option<u32> {
    line.split_once(text)?.1.split(',').next()?.parse().ok()
}

pub(super) fn milestone_5(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::of_kind(programs, EpochKind::Active, &plan(3, FREQS_MS[1], true))?;
    tell("RM, GFD and the LFDs; then the servers, which their LFDs launch again whenever they die.");
    stage.start_all()?;
    stage.wait_ready(TIMEOUT)?;
    stage.wait_members(FIRST, 3)?;
    members(&mut stage, "3 members: S1, S2, S3", "5 bootstrapping, steady state v1")?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "5 steady state v2", "all run")?;

    let victim = rand::random_range(0..3);
    tell(&format!("One is killed, chosen at random: S{}.", victim + 1));
    let since = stage.moment()?;
    let killed = kill_whoever(&stage, server(victim))?;
    goes_on(&mut load, "5 fault injected", "no one had to do anything")?;
    let (node, name) = (server(victim), stage.console_name(server(victim)));
    serves_again(&stage, node, killed)?;
    stage.wait_members(FIRST, 3)?;
    stage.says_since(&since, Console::Node(node), |line| line.ends_with(&format!("] i_am_ready_{name} = 0")))?;
    stage.says_since(&since, Console::Node(node), |line| line.ends_with(&format!("] i_am_ready_{name} = 1")))?;
    members(&mut stage, "3 members: S1, S2, S3", "5 fault recovered")?;
    goes_on(&mut load, "5 fault recovered", &format!("{name} was launched by its LFD, and has everything again"))?;

    tell("The same one again, and its LFD with it, so that no one launches it: its host is gone.");
    host_dies(&mut stage, victim)?;
    stage.wait_members(FIRST, 2)?;
    goes_on(&mut load, "5 fault reinjected", "two are left")?;
    let left: Vec<u16> = (0..3).filter(|replica| *replica != victim).collect();
    members(&mut stage, &format!("2 members: S{}, S{}", left[0] + 1, left[1] + 1), "5 fault reinjected")?;
    // The one who gives the order, if it is to be seen that this changes nothing.
    let first = stage.leader_of(FIRST)?.replica();
    tell(&format!("Another host dies: that of S{}, which gives the order.", first + 1));
    host_dies(&mut stage, first)?;
    stage.wait_members(FIRST, 1)?;
    goes_on(&mut load, "5 second fault injected", "one is left")?;
    let last = (0..3).find(|replica| ![victim, first].contains(replica)).ok_or("no one is left")?;
    members(&mut stage, &format!("1 member: S{}", last + 1), "5 second fault injected")?;
    shown("5 second fault injected", "a Raft group of three would stand still; here one replica is enough");

    tell("Both hosts are back, and their LFDs find out what is to be launched.");
    for host in [victim, first] {
        stage.start_agent(host)?;
    }
    stage.wait_members(FIRST, 3)?;
    members(&mut stage, "3 members: S1, S2, S3", "")?;
    goes_on(&mut load, "", "all three again")?;
    judge(&stage, load)
}

/// The guide's other kind of fault.
pub(super) fn lost_messages(programs: &Programs) -> Outcome<()> {
    let (mut stage, network) = Stage::wired(programs, EpochKind::Active)?;
    stage.start_all()?;
    stage.wait_ready(TIMEOUT)?;
    stage.wait_members(FIRST, 3)?;
    tell(&format!("From now on {LOST_PERMILLE} of 1000 messages between clients and servers are lost, each way."));
    let servers: Vec<Node> = stage.nodes_of(FIRST).collect();
    for &node in &servers {
        network.set(Way::clients(node), Rules::both(Flow::LoseFrames { permille: LOST_PERMILLE }));
    }
    let since = stage.moment()?;
    let mut load = stage.loops(3)?;
    load.wait_answers(LOSSY_REQUESTS, TIMEOUT)?;
    let lost = lost(&network, &servers);
    claim(lost > LOST_MIN, || format!("only {lost} messages were lost"))?;
    shown(
        "the fault model: loss of a message",
        &format!("{LOSSY_REQUESTS} requests were answered, {lost} messages lost"),
    );
    network.heal();
    tell("No more are lost.");
    goes_on(&mut load, "", "as before")?;
    let mut seen = [false; 2];
    for client in (LOOPS_FIRST..).take(3) {
        let kinds = ["request", "reply"];
        for (seen, kind) in seen.iter_mut().zip(kinds) {
            *seen |= shows_a_lost(&stage, &since, client, &servers, kind);
        }
    }
    claim(seen == [true, true], || {
        format!("no lost request or no lost reply is to be seen on the consoles: {seen:?}")
    })?;
    shown("the fault model: loss of a message", "another server had the request, and its answer was as good");
    judge(&stage, load)
}

fn lost(network: &Network, servers: &[Node]) -> u64 {
    let counts = servers.iter().map(|node| network.link(Way::clients(*node)));
    counts.map(|(proxy, link)| proxy.counts(link).lost).sum()
}

/// Shows a request, or a reply, that left a console and came to no other one, and the answer of another server.
fn shows_a_lost(stage: &Stage, since: &Moment, client: u32, servers: &[Node], kind: &str) -> bool {
    let of_client = stage.lines_since(since, Console::Client(client));
    let has = |lines: &[String], end: &str| lines.iter().any(|line| line.ends_with(end));
    let last = of_client.iter().rev().find_map(|line| number_in(line, &format!("] Sent <C{client}, S1, ")));
    let end = last.unwrap_or_default().saturating_sub(UNDER_WAY);
    for (node, name) in servers.iter().map(|node| (*node, stage.console_name(*node))) {
        let of_server = stage.lines_since(since, Console::Node(node));
        // What a client sent before it had a connection, or when it had one no longer, it took back: that was not lost.
        let taken = format!("] Received <C{client}, {name}, ");
        let numbers = of_server.iter().filter(|line| line.ends_with(", request>"));
        let came: BTreeSet<u32> = numbers.filter_map(|line| number_in(line, &taken)).collect();
        let (Some(lowest), Some(highest)) = (came.first(), came.last()) else { continue };
        for request in (lowest + 1)..end.min(*highest) {
            let left = format!("<C{client}, {name}, {request}, {kind}>");
            let (from, to) = match kind {
                "request" => {
                    (has(&of_client, &format!("] Sent {left}")), has(&of_server, &format!("] Received {left}")))
                }
                _ => (has(&of_server, &format!("] Sending {left}")), has(&of_client, &format!("] Received {left}"))),
            };
            let answered = format!(", {request}, reply>");
            let answer = of_client.iter().find(|line| line.contains("] Received <C") && line.ends_with(&answered));
            if let (true, false, Some(answer)) = (from, to, answer) {
                tell(&format!("{left} left, and never came:"));
                stage.show(Console::Client(client), answer);
                return true;
            }
        }
    }
    false
}
