//! What happened, in words that can be read without the code.

use smr::entry::{Configuration, Entry, EntryId, Index, Payload, SnapshotMeta};
use smr::id::NodeId;
use smr::internals::protocol::{Event, Input, LogChange, NotHere, Protocol, ReadOutcome, StandDown, Write};
use smr::internals::raft::message::{Body, Lease};
use smr::internals::raft::{Change, ChangeRefused, Message, Raft, TransferRefused, invariants};

use super::{Answer, Call, Disk, Outputs};
use crate::core_cluster::name;

fn names<'a>(ids: impl IntoIterator<Item = &'a NodeId>) -> String {
    ids.into_iter().map(|id| name(*id)).collect::<Vec<_>>().join(" ")
}

pub fn configuration(configuration: &Configuration) -> String {
    let mut text = format!("{{{}}}", names(&configuration.voters));
    if configuration.is_joint() {
        text += &format!(" and {{{}}}", names(&configuration.outgoing));
    }
    if !configuration.learners.is_empty() {
        text += &format!(" learning {{{}}}", names(&configuration.learners));
    }
    text
}

pub fn entry(entry: &Entry) -> String {
    let payload = match &entry.payload {
        Payload::Noop => "noop".to_owned(),
        Payload::Command(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Payload::Configuration(members) => configuration(members),
    };
    format!("{} {payload}", entry.id)
}

fn entries(list: &[Entry]) -> String {
    match list {
        [] => "nothing".to_owned(),
        [first, .., last] if list.len() > 6 => format!("{} ... {}", entry(first), entry(last)),
        _ => list.iter().map(entry).collect::<Vec<_>>().join(", "),
    }
}

pub fn message(message: &Message) -> String {
    let body = match &message.body {
        Body::PreVote { last, .. } => format!("PreVote for {:?}, log ends {last}", message.term),
        Body::PreVoteGranted { .. } => format!("PreVoteGranted for {:?}", message.term),
        Body::PreVoteRefused { .. } => "PreVoteRefused".to_owned(),
        Body::Vote { last, transfer } => {
            format!("Vote, log ends {last}{}", if *transfer { ", for a transfer" } else { "" })
        }
        Body::VoteGranted => "VoteGranted".to_owned(),
        Body::VoteRefused => "VoteRefused".to_owned(),
        Body::Append { previous, entries: list, commit } => {
            format!("Append after {previous}: {}; commit {commit}", entries(list))
        }
        Body::AppendAccepted { last } => format!("AppendAccepted up to {last}"),
        Body::AppendRejected { previous, hint } => format!("AppendRejected at {previous}, perhaps {hint}"),
        Body::Heartbeat { round, commit, lease: None, .. } => format!("Heartbeat, round {round}, commit {commit}"),
        Body::Heartbeat { round, commit, lease: Some(lease), .. } => {
            format!("Heartbeat, round {round}, commit {commit}, asks for {}", leased(lease))
        }
        Body::HeartbeatAck { round, lease: None } => format!("HeartbeatAck, round {round}"),
        Body::HeartbeatAck { round, lease: Some(lease) } => {
            format!("HeartbeatAck, round {round}, grants {}", leased(lease))
        }
        Body::Commit { last } => format!("Commit {last}"),
        Body::StaleTerm => "StaleTerm".to_owned(),
        Body::TimeoutNow => "TimeoutNow".to_owned(),
        Body::SnapshotInstalled { last } => format!("SnapshotInstalled up to {last}"),
        Body::Healing { .. } => "Healing".to_owned(),
        Body::HealingHeard { last, .. } => format!("HealingHeard, log ends {last}"),
        Body::AppendStored { last, .. } => format!("AppendStored up to {last}"),
    };
    match message.body {
        Body::PreVote { .. } | Body::PreVoteGranted { .. } => body,
        _ => format!("[{:?}] {body}", message.term),
    }
}

fn leased(lease: &Lease) -> String {
    format!("a lease of {}ms, asked at {}us", lease.length_us / 1000, lease.asked_at_us)
}

/// The first word of a message, for commands that pick messages by kind.
pub fn kind(message: &Message) -> String {
    let text = format!("{:?}", message.body);
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

fn snapshot(meta: &SnapshotMeta) -> String {
    format!("snapshot {} with {} of {}", meta.last, configuration(&meta.configuration), meta.configuration_index)
}

/// What happens to a node or is asked of it; nothing for a completed write, of which the disk has spoken already.
pub fn call(id: NodeId, call: &Call) -> Option<String> {
    let id = name(id);
    Some(match call {
        Call::Happens(happens) => return input(&id, happens),
        Call::Propose(commands) => format!("{id} is given {} commands", commands.len()),
        Call::Read(token) => format!("{id} is asked to read (#{})", token.0),
        Call::Change(wanted) => format!("{id} is asked to {}", change(wanted)),
        Call::Transfer(to) => format!("{id} is asked to hand over to {}", name(NodeId::new(to.0, 1))),
        Call::Install(meta) => format!("{id} has received {}", snapshot(meta)),
    })
}

fn input(id: &str, input: &Input<Message>) -> Option<String> {
    Some(match input {
        Input::Tick => format!("{id} looks at the clock"),
        Input::Receive { from, message: said } => format!("{id} hears from {}: {}", name(*from), message(said)),
        Input::Durable(_) => return None,
        Input::Disconnected(from) => format!("{id} sees the connection from {} close", name(*from)),
        Input::SnapshotTaken(last) => format!("{id} has taken snapshot {last}"),
        Input::SnapshotSent { to, last: Some(last) } => format!("{id} has sent snapshot {last} to {}", name(*to)),
        Input::SnapshotProgress(to) => format!("{id} hears that the snapshot for {} gets further", name(*to)),
        Input::Connected(_) | Input::Configured(_) | Input::LeaseGranted { .. } | Input::Join { .. } => return None,
        Input::SnapshotSent { to, last: None } => format!("{id} could not send a snapshot to {}", name(*to)),
    })
}

fn change(wanted: &Change) -> String {
    match wanted {
        Change::AddLearner(node) => format!("add learner {}", name(*node)),
        Change::RemoveLearner(node) => format!("remove learner {}", name(*node)),
        Change::Replace { incoming, outgoing } => {
            format!("put {} in the place of {}", name(*incoming), name(*outgoing))
        }
        Change::Voters(voters) => format!("have voters {{{}}}", names(voters)),
    }
}

fn write(write: &Write<Message>) -> String {
    let mut parts = Vec::new();
    if let Some(hard_state) = write.hard_state() {
        let vote = hard_state.vote.map_or(String::new(), |vote| format!(" voting {}", name(vote)));
        let lease = match hard_state.lease_us {
            0 => String::new(),
            us => format!(", leases up to {}ms", us / 1000),
        };
        parts.push(format!("hard state {:?}{vote}{lease}", hard_state.term));
    }
    for change in write.log() {
        parts.push(match change {
            LogChange::RemoveFrom(index) => format!("remove from {index}"),
            LogChange::Append(list) => format!("append {}", entries(list)),
            LogChange::RemoveThrough(index) => format!("remove through {index}"),
            LogChange::Install(meta) => format!("install {}", snapshot(meta)),
        });
    }
    if parts.is_empty() {
        parts.push("nothing, waiting its turn".to_owned());
    }
    for envelope in write.peek() {
        parts.push(format!("then to {}: {}", name(envelope.to), message(&envelope.message)));
    }
    format!("write #{}: {}", write.id().0, parts.join("; "))
}

fn not_leader(answer: &NotHere) -> String {
    match answer.at {
        Some(leader) => format!("not the leader, try {} ({:?})", name(NodeId::new(leader.0, 1)), answer.term),
        None => format!("not the leader, no idea who is ({:?})", answer.term),
    }
}

/// What a step asked for, one line each.
pub fn outputs(outputs: &Outputs, newly_committed: &[Entry]) -> Vec<String> {
    let Outputs { answer, effects } = outputs;
    let mut lines = Vec::new();
    for event in &effects.events {
        lines.push(match event {
            Event::RoleChanged { role, term, leader } => {
                let leader = leader.map_or("no one".to_owned(), name);
                format!("is {role} in {term:?}, led by {leader}")
            }
            Event::DiskLags { successor } => format!("hands over to {}: its disk lags", successor.name),
            Event::StandsDown { cause: StandDown::QuorumSilent { .. } } => "stands down: no quorum answers".to_owned(),
            Event::StandsDown { cause: StandDown::DiskStalled { successor, .. } } => {
                format!("stands down for {}: its disk hangs", name(*successor))
            }
            Event::TransferFailed => "gives up the transfer and serves again".to_owned(),
            Event::Forgot { entry } => format!("has forgotten {entry}, which it acknowledged"),
            Event::Healed { through } => format!("has healed, up to {through}"),
            Event::CheckpointDue { end, .. } => format!("has a checkpoint due, up to {end}"),
            Event::LossProven { what } => format!("has proof of a loss: {what}"),
            Event::ProtocolViolation { from, what } => format!("drops a violation of {}: {what}", name(*from)),
        });
    }
    lines.extend(match answer {
        Answer::None => None,
        Answer::Proposed(Ok(first)) => Some(format!("proposed from {first}")),
        Answer::Proposed(Err(elsewhere))
        | Answer::Changed(Err(ChangeRefused::NotLeader(elsewhere)))
        | Answer::Transferred(Err(TransferRefused::NotLeader(elsewhere))) => Some(not_leader(elsewhere)),
        Answer::Changed(Ok(id)) => Some(format!("change begun with {id}")),
        Answer::Changed(Err(refused)) => Some(format!("refused: {refused}")),
        Answer::Transferred(Ok(())) => Some("transfer begun".to_owned()),
        Answer::Transferred(Err(refused)) => Some(format!("refused: {refused}")),
        Answer::Installed(Ok(())) => Some("takes over the snapshot's state".to_owned()),
        Answer::Installed(Err(_)) => Some("ignores the snapshot".to_owned()),
    });
    for issued in &effects.writes {
        lines.push(write(issued));
    }
    for envelope in &effects.messages {
        lines.push(format!("to {}: {}", name(envelope.to), message(&envelope.message)));
    }
    for node in &effects.snapshots_wanted {
        lines.push(format!("wants a snapshot for {}", name(*node)));
    }
    for committed in newly_committed {
        lines.push(format!("commits {}", entry(committed)));
    }
    for outcome in &effects.reads {
        lines.push(match outcome {
            ReadOutcome::Ready { token, index } => format!("answers read #{} from state {index}", token.0),
            ReadOutcome::Failed { token } => format!("fails read #{}", token.0),
        });
    }
    lines
}

/// One line about a node.
pub fn state(id: NodeId, raft: Option<&Raft>, disk: &Disk) -> String {
    let vote = disk.hard_state.vote.map_or(String::new(), |vote| format!(" voting {}", name(vote)));
    let disk_log = disk.entries.last().map_or(disk.snapshot.last, |entry| entry.id);
    let on_disk = format!("disk {:?}{vote}, log to {disk_log}", disk.hard_state.term);
    let Some(raft) = raft else { return format!("{} = down; {on_disk}", name(id)) };
    let status = raft.status();
    let log = if status.log_start == EntryId::ZERO {
        format!("log to {}", status.last)
    } else {
        format!("log after {} to {}", status.log_start, status.last)
    };
    let mut text = format!(
        "{} = {} {:?}, {log}, commit {}, durable {}; {on_disk}",
        name(id),
        status.role,
        status.term,
        status.commit,
        status.durable
    );
    if status.configuration_index > Index(1) {
        text += &format!("; {} of {}", configuration(&status.configuration), status.configuration_index);
    }
    if invariants::is_healing(raft) {
        text += "; heals";
    }
    for peer in &status.peers {
        let snapshot = if peer.needs_snapshot { " and needs a snapshot" } else { "" };
        text += &format!("; {} has {}{snapshot}", name(peer.node), peer.match_index);
    }
    text
}
