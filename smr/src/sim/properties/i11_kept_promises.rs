//! I11, persist before send, judged by what a node still knows when it is back: no vote, no acknowledgement and no own
//! candidacy left it before the state that it rests on was synced.

use std::collections::BTreeMap;

use super::{Happening, Property};
use crate::entry::{EntryId, Term};
use crate::id::NodeId;
use crate::raft::message::Body;

/// What a node has told others, and must know again after a crash.
#[derive(Default)]
struct Told {
    /// The highest term that it spoke in.
    term: Term,
    /// Whom it gave its vote in that term.
    vote: Option<(Term, NodeId)>,
    /// The furthest entry that it acknowledged, and in which term.
    acknowledged: (Term, EntryId),
}

#[derive(Default)]
pub(super) struct KeptPromises {
    told: BTreeMap<NodeId, Told>,
}

impl Property for KeptPromises {
    fn name(&self) -> &'static str {
        "I11 persist before send"
    }

    fn on(&mut self, happening: &Happening<'_>) -> Result<(), String> {
        match happening {
            Happening::Sent { from, to, message } => {
                let (term, told) = (message.term, self.told.entry(*from).or_default());
                match message.body {
                    // Of a term that nobody has entered.
                    Body::PreVote { .. } | Body::PreVoteGranted { .. } => return Ok(()),
                    Body::VoteGranted => told.vote = told.vote.max(Some((term, *to))),
                    Body::Vote { .. } => told.vote = told.vote.max(Some((term, *from))),
                    Body::AppendAccepted { last } | Body::SnapshotInstalled { last } => {
                        told.acknowledged = told.acknowledged.max((term, last));
                    }
                    _ => {}
                }
                told.term = told.term.max(term);
            }
            Happening::Started { node, forgot: true, .. } => {
                self.told.remove(node);
            }
            Happening::Started { node, recovered, forgot: false } => {
                let Some(told) = self.told.get(node) else { return Ok(()) };
                let last =
                    recovered.entries.last().map_or(EntryId::ZERO, |entry| entry.id).max(recovered.snapshot.last);
                // A snapshot or an entry of a later term is as good as a promise of it.
                let term_known = recovered.promise.term.max(last.term);
                if term_known < told.term {
                    return Err(format!("{node} spoke in {:?} and is back in {term_known:?}", told.term));
                }
                if let Some((term, candidate)) = told.vote
                    && term == term_known
                    && recovered.promise.term == term
                    && recovered.promise.vote != Some(candidate)
                {
                    return Err(format!("{node} voted for {candidate} in {term:?}, and knows {:?}", recovered.promise));
                }
                // In that term nothing contradicts what it acknowledged; in a later one its log may have been cut.
                let (term, acknowledged) = told.acknowledged;
                if term_known == term && last.index < acknowledged.index {
                    return Err(format!("{node} acknowledged {acknowledged} in {term:?} and is back with {last}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
