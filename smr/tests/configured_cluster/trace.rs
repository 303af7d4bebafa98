//! What happened, in words that can be read without the code.

use smr::entry::{Entry, EntryId, Payload};
use smr::epoch::EpochConfiguration;
use smr::id::NodeId;
use smr::internals::configured::message::Body;
use smr::internals::configured::{Configured, Message, invariants};
use smr::internals::protocol::{Event, Input, LogChange, NotHere, Protocol, ReadOutcome, Report, StoredState, Write};

use super::{Answer, Call, Disk, Outputs};
use crate::core_cluster::name;

pub fn configuration(known: &EpochConfiguration) -> String {
    let member = |id: &NodeId| {
        let newcomer = if known.incomplete == Some(*id) { " (incomplete)" } else { "" };
        format!("{}{newcomer}", name(*id))
    };
    format!("e{} {{{}}}", known.epoch, known.members.iter().map(member).collect::<Vec<_>>().join(" "))
}

fn id(id: EntryId) -> String {
    format!("{}.e{}", id.index, id.term)
}

pub fn entry(entry: &Entry) -> String {
    let payload = match &entry.payload {
        Payload::Noop => "noop".to_owned(),
        Payload::Command(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Payload::Configuration(members) => format!("{members:?}"),
    };
    format!("{} {payload}", id(entry.id))
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
        Body::Append { previous, entries: list, commit } => {
            format!("Append after {}: {}; commit {commit}", id(*previous), entries(list))
        }
        Body::Accepted { last } => format!("Accepted up to {}", id(*last)),
        Body::Rejected { previous, hint } => format!("Rejected at {previous}, perhaps {}", id(*hint)),
        Body::Contradicted { commit } => format!("Contradicted, {} is committed", id(*commit)),
        Body::Durable { through } => format!("Durable up to {}", id(*through)),
        Body::Heartbeat { commit, through } if *through == EntryId::ZERO => {
            format!("Heartbeat, commit {}", id(*commit))
        }
        Body::Heartbeat { commit, through } => {
            format!("Heartbeat, commit {}, durable up to {}", id(*commit), id(*through))
        }
        Body::HeartbeatAck { commit } if *commit == EntryId::ZERO => "HeartbeatAck".to_owned(),
        Body::HeartbeatAck { commit } => format!("HeartbeatAck, commit {}", id(*commit)),
        Body::Commit { last } => format!("Commit {}", id(*last)),
        Body::Confirm { round, .. } => format!("Confirm, round {round}"),
        Body::Confirmed { round, .. } => format!("Confirmed, round {round}"),
        Body::Announce => "Announce".to_owned(),
        Body::ConfigurationWanted => "ConfigurationWanted".to_owned(),
    };
    let known = message.configuration.as_ref().map_or(String::new(), |known| format!(" with {}", configuration(known)));
    format!("[e{}{known}] {body}", message.epoch)
}

/// The first word of a message, for commands that pick messages by kind.
pub fn kind(message: &Message) -> String {
    let text = format!("{:?}", message.body);
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

/// What happens to a node or is asked of it; nothing for a completed write, of which the disk has spoken already.
pub fn call(to: NodeId, call: &Call) -> Option<String> {
    let to = name(to);
    Some(match call {
        Call::Propose(commands) => format!("{to} is given {} commands", commands.len()),
        Call::Read(token) => format!("{to} is asked to read (#{})", token.0),
        Call::Install(meta) => format!("{to} has received snapshot {}", id(meta.last)),
        Call::Happens(input) => match input {
            Input::Tick => format!("{to} looks at the clock"),
            Input::Receive { from, message: said } => format!("{to} hears from {}: {}", name(*from), message(said)),
            Input::Durable(_) => return None,
            Input::Disconnected(from) => format!("{to} sees the connection from {} close", name(*from)),
            Input::Connected(from) => format!("{to} sees a connection from {}", name(*from)),
            Input::SnapshotTaken(last) => format!("{to} has taken snapshot {}", id(*last)),
            Input::SnapshotSent { to: whom, last: Some(last) } => {
                format!("{to} has sent snapshot {} to {}", id(*last), name(*whom))
            }
            Input::SnapshotSent { to: whom, last: None } => {
                format!("{to} could not send a snapshot to {}", name(*whom))
            }
            Input::SnapshotProgress(whom) => format!("{to} hears that the snapshot for {} gets further", name(*whom)),
            Input::Configured(known) => format!("{to} hears from the service: {}", configuration(known)),
            Input::LeaseGranted { epoch, asked_at, length_us } => format!(
                "{to} is granted a lease of {}ms for epoch {epoch}, asked at {}us",
                length_us / 1000,
                asked_at.0
            ),
            Input::Join { epoch, newcomer } => {
                let whom = newcomer.map_or("no one".to_owned(), name);
                format!("{to} is told in epoch {epoch} to bring {whom} up to date")
            }
        },
    })
}

fn write(write: &Write<Message>) -> String {
    let mut parts = Vec::new();
    if let Some(StoredState::Configured(Some(known))) = write.stored_state() {
        parts.push(format!("configuration {}", configuration(known)));
    }
    for change in write.log() {
        parts.push(match change {
            LogChange::RemoveFrom(index) => format!("remove from {index}"),
            LogChange::Append(list) => format!("append {}", entries(list)),
            LogChange::RemoveThrough(index) => format!("remove through {index}"),
            LogChange::Install(meta) => format!("install snapshot {}", id(meta.last)),
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

fn elsewhere(answer: &NotHere) -> String {
    match answer.at {
        Some(first) => format!("not here, try {} (epoch {})", name(NodeId::new(first.0, 1)), answer.term),
        None => format!("not here, no idea where (epoch {})", answer.term),
    }
}

fn report(report: &Report) -> String {
    match report {
        Report::Activated { epoch } => format!("reports: epoch {epoch} is activated"),
        Report::Blocked { epoch, by, last } => {
            format!("reports: blocked by {} in epoch {epoch}, log ends {}", name(*by), id(*last))
        }
        Report::CaughtUp { newcomer, .. } => format!("reports: {} is caught up", name(*newcomer)),
        Report::LeaseWanted { epoch, .. } => format!("reports: wants a lease in epoch {epoch}"),
        Report::FirstRestarted { epoch, last } => {
            format!("reports: first of epoch {epoch} has restarted, log ends {}", id(*last))
        }
    }
}

/// What a step asked for, one line each.
pub fn outputs(outputs: &Outputs, newly_committed: &[Entry]) -> Vec<String> {
    let Outputs { answer, effects } = outputs;
    let mut lines = Vec::new();
    for event in &effects.events {
        lines.push(match event {
            Event::RoleChanged { role, term, leader } => {
                format!("is {role} in epoch {term}, ordered by {}", leader.map_or("no one".to_owned(), name))
            }
            Event::Forgot { entry } => format!("has forgotten {}, which it acknowledged", id(*entry)),
            Event::LossProven { what } => format!("has proof of a loss: {what}"),
            Event::ProtocolViolation { from, what } => format!("drops a violation of {}: {what}", name(*from)),
            Event::CheckpointDue { end, .. } => format!("has a checkpoint due, up to {}", id(*end)),
            other => format!("{other:?}"),
        });
    }
    lines.extend(match answer {
        Answer::None | Answer::Read(Ok(())) => None,
        Answer::Proposed(Ok(first)) => Some(format!("proposed from {}", id(*first))),
        Answer::Proposed(Err(at)) | Answer::Read(Err(at)) => Some(elsewhere(at)),
        Answer::Installed(Ok(())) => Some("takes over the snapshot's state".to_owned()),
        Answer::Installed(Err(_)) => Some("ignores the snapshot".to_owned()),
    });
    lines.extend(effects.writes.iter().map(write));
    for envelope in &effects.messages {
        lines.push(format!("to {}: {}", name(envelope.to), message(&envelope.message)));
    }
    lines.extend(effects.snapshots_wanted.iter().map(|node| format!("wants a snapshot for {}", name(*node))));
    lines.extend(newly_committed.iter().map(|committed| format!("commits {}", entry(committed))));
    lines.extend(effects.reports.iter().map(report));
    for outcome in &effects.reads {
        lines.push(match outcome {
            ReadOutcome::Ready { token, index } => format!("answers read #{} from state {index}", token.0),
            ReadOutcome::Failed { token } => format!("fails read #{}", token.0),
        });
    }
    lines
}

/// One line about a node.
pub fn state(node: NodeId, core: Option<&Configured>, disk: &Disk) -> String {
    let disk_log = disk.entries.last().map_or(disk.snapshot.last, |entry| entry.id);
    let on_disk = format!("disk e{}, log to {}", disk.epoch(), id(disk_log));
    let Some(core) = core else { return format!("{} = down; {on_disk}", name(node)) };
    let status = core.status();
    let known = core.configuration().map_or("no epoch".to_owned(), configuration);
    let log = if status.log_start == EntryId::ZERO {
        format!("log to {}", id(status.last))
    } else {
        format!("log after {} to {}", id(status.log_start), id(status.last))
    };
    let complete = if invariants::is_complete(core) { ", complete" } else { "" };
    let mut text = format!(
        "{} = {} {known}{complete}, {log}, commit {}, durable {}; {on_disk}",
        name(node),
        status.role,
        status.commit,
        status.durable
    );
    for peer in &status.peers {
        let snapshot = if peer.needs_snapshot { " and needs a snapshot" } else { "" };
        text += &format!("; {} has {}{snapshot}", name(peer.node), peer.match_index);
    }
    text
}
