//! A history in words: each event, what is sent because of it, and what has become of the node.

use smr::entry::HardState;
use smr::internals::raft::Canonical;
use smr::internals::raft::Message;
use smr::internals::raft::message::Body;

use super::group::{Group, Move};
use super::local::LocalEvent;
use super::log_text::told_log;
use super::tables::Tables;
use super::{letter, node};

/// One event; `after` is what it led to, unless something broke.
pub(super) fn describe(before: &Group, by: Move, after: Option<&Group>, tables: &Tables) -> Vec<String> {
    let again = if by.doubled { ", and a copy stays on the wire" } else { "" };
    let mut lines = vec![format!("{} {}{again}", letter(node(by.replica)), told_event(&tables.event(by.key)))];
    let Some(after) = after else {
        // The rest of the picture, to see what it broke.
        lines.extend(
            (0..before.locals.len()).map(|replica| format!("    before that: {}", told_node(before, replica, tables))),
        );
        return lines;
    };
    for replica in 0..before.locals.len() {
        if before.locals[replica] != after.locals[replica] {
            lines.push(format!("    {}", told_node(after, replica, tables)));
        }
    }
    let (old, new) = (tables.wire(before.wire), tables.wire(after.wire));
    // The same to several is one line.
    let mut sent: Vec<(String, String)> = Vec::new();
    for message in new.iter().filter(|message| !old.contains(message)) {
        let wired = tables.message(*message);
        let what = told_message(&wired.message);
        match sent.iter_mut().find(|(_, known)| *known == what) {
            Some((receivers, _)) => *receivers = format!("{receivers}, {}", letter(wired.to)),
            None => sent.push((letter(wired.to).to_string(), what)),
        }
    }
    lines.extend(sent.into_iter().map(|(receivers, what)| format!("      -> {receivers}: {what}")));
    lines
}

fn told_event(event: &LocalEvent) -> String {
    match event {
        LocalEvent::Deliver { from, message } => format!("<- {}: {}", letter(*from), told_message(message)),
        LocalEvent::Sync => "completes its oldest write".to_owned(),
        LocalEvent::Crash { kept } => format!("CRASHES and comes back; of its unsynced writes it has {kept} parts"),
        LocalEvent::TimeOut => "times out and campaigns".to_owned(),
        LocalEvent::Refused { term } => format!("times out, asks around, and hears of {term:?}"),
        LocalEvent::Heartbeat => "sends heartbeats".to_owned(),
        LocalEvent::Silence => "leads, hears no one for long, and steps down".to_owned(),
        LocalEvent::Propose { number } => format!("is given command {number}"),
    }
}

fn told_message(message: &Message) -> String {
    let term = message.term;
    match &message.body {
        Body::Vote { last, .. } => format!("{term:?} Vote? my log ends with {last}"),
        Body::Append { previous, entries, commit } if entries.is_empty() => {
            format!("{term:?} Append nothing after {previous}, commit {commit}")
        }
        Body::Append { previous, entries, commit } => {
            format!("{term:?} Append {} after {previous}, commit {commit}", told_log(entries))
        }
        Body::AppendAccepted { last } => format!("{term:?} AppendAccepted up to {last}"),
        Body::AppendRejected { previous, hint } => format!("{term:?} AppendRejected at {previous}, try {hint}"),
        Body::Heartbeat { commit, .. } => format!("{term:?} Heartbeat, commit {commit}"),
        Body::Commit { last } => format!("{term:?} Commit {last}"),
        body => format!("{term:?} {body:?}"),
    }
}

fn told_hard_state(hard_state: HardState) -> String {
    let vote = hard_state.vote.map_or(String::new(), |vote| format!(" vote {}", letter(vote)));
    format!("{:?}{vote}", hard_state.term)
}

/// What a node is, in one line.
fn told_node(group: &Group, replica: usize, tables: &Tables) -> String {
    let local = tables.local(group.locals[replica]);
    let role = tables.info(group.locals[replica]).role;
    let (name, log) = (letter(node(replica as u8)), told_log(local.raft.entries()));
    let hard_state = told_hard_state(local.raft.hard_state());
    let mut line = format!("{name} {role:?} {hard_state} | log {log} | commit {}", local.raft.committed().index);
    let (disk, disk_hard_state) = (told_log(&local.disk.entries), told_hard_state(local.disk.hard_state));
    if (&disk, &disk_hard_state) != (&log, &hard_state) {
        line += &format!(" | on disk only {disk_hard_state}, log {disk}");
    }
    line
}
