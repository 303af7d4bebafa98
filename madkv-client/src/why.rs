//! Where the time of one write went, over all replicas.
//!
//! The client measures the whole, the server that answers how long the request was there, and each replica says when
//! the entry got how far by its own clock. Clocks of different machines are never compared: the way between two
//! replicas is what is left of the time between two moments of the one, once the time between two moments of the other
//! is taken from it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::command::Command;
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};
use madkv_proto::why::{TimedAnswer, WhyRequest, decode_timings};
use smr::status::{EntryTimings, TimedEntry};
use smr_service::client::{Exchange, Final, Write, WriteEnd};
use tokio::time::Instant;

use crate::admin::ask;
use crate::client::{check, refusal};
use crate::{Client, Error, Group, Link};

/// How long followers may take to say what they know.
const FOLLOWERS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the last followers get to have the entry before they are asked.
const SETTLE: Duration = Duration::from_millis(50);

/// The way of one write. All times in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waterfall {
    /// The group that the write went to: `s0`.
    pub group: String,
    /// The entry, and the leader's moments.
    pub leader: EntryTimings,
    /// From the client's sending to its hearing the answer.
    pub total_us: u64,
    /// From the arrival at the leader's process to the answer leaving there.
    pub at_server_us: u64,
    /// The other replicas, by number, as far as they answered.
    pub followers: Vec<(u16, Result<EntryTimings, String>)>,
}

/// A stretch of a write's way. The stretches of a write follow each other and make up the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// What the time went into.
    pub what: &'static str,
    /// How much, in microseconds.
    pub us: u64,
}

/// One replica's part in making an entry durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number in the group.
    pub replica: u16,
    /// From the leader's sending to its knowing that the entry is on this device; for the leader, its own sync.
    pub held_after_us: Option<u64>,
    /// The replica's own part of that: from its taking the entry to its device having it.
    pub sync_us: Option<u64>,
    /// The rest: both ways through the network, with what waits there.
    pub hop_us: Option<u64>,
    /// Whether with this replica a majority had the entry.
    pub completes_quorum: bool,
    /// Why nothing more is known.
    pub trouble: Option<String>,
}

impl Waterfall {
    /// The stretches, in order. Their sum is [`Waterfall::total_us`].
    pub fn stretches(&self) -> Vec<Stretch> {
        let stretch = |what, us| Stretch { what, us };
        let EntryTimings { appended_us, committed_us, applied_us, .. } = self.leader;
        let between = |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?));
        let known = between(appended_us, committed_us).zip(between(committed_us, applied_us));
        // The copy that was answered may have come when an earlier one was on its way already.
        let fits = |(quorum, apply): &(u64, u64)| quorum + apply <= self.at_server_us;
        let (Some((quorum, apply)), true) = (known.filter(fits), self.at_server_us <= self.total_us) else {
            return vec![stretch("unknown: it was sent again, or this is too long ago", self.total_us)];
        };
        let waits = self.at_server_us - quorum - apply;
        vec![
            stretch("client and network, both ways", self.total_us - self.at_server_us),
            stretch("waits at the leader, before and after", waits),
            stretch("until a majority has it on its devices", quorum),
            stretch("apply", apply),
        ]
    }

    /// Who made the entry durable, the leader first, then the others by number.
    pub fn holders(&self) -> Vec<Holder> {
        let EntryTimings { node, appended_us, durable_us, ref held_by, .. } = self.leader;
        let since_append = |at: Option<u64>| Some(at?.saturating_sub(appended_us?));
        let own = since_append(durable_us);
        let leader = Holder {
            replica: node.name.0,
            held_after_us: own,
            sync_us: own,
            hop_us: None,
            completes_quorum: false,
            trouble: None,
        };
        let others = self.followers.iter().map(|(replica, timings)| {
            let held = held_by.iter().find(|(member, _)| member.name.0 == *replica).map(|(_, at)| *at);
            let held_after_us = since_append(held);
            let known = timings.as_ref().ok();
            let sync_us = known.and_then(|known| Some(known.durable_us?.saturating_sub(known.appended_us?)));
            let hop_us = held_after_us.zip(sync_us).map(|(held, sync)| held.saturating_sub(sync));
            let trouble = timings.as_ref().err().cloned();
            Holder { replica: *replica, held_after_us, sync_us, hop_us, completes_quorum: false, trouble }
        });
        let mut holders: Vec<Holder> = [leader].into_iter().chain(others).collect();
        let voters = &self.leader.voters;
        let votes = |holder: &&Holder| voters.iter().any(|voter| voter.name.0 == holder.replica);
        let mut held: Vec<(u64, u16)> =
            holders.iter().filter(votes).filter_map(|holder| Some((holder.held_after_us?, holder.replica))).collect();
        held.sort_unstable();
        if let Some((_, last)) = held.get(voters.len() / 2) {
            holders.iter_mut().for_each(|holder| holder.completes_quorum = holder.replica == *last);
        }
        holders
    }
}

impl Client {
    /// Carries out a write, and finds out where its time went. The first part of the result is the answer, as
    /// [`madkv_proto::command`] decodes it.
    ///
    /// # Errors
    /// See [`Error`]. [`Error::Refused`] also if the leader changed in the middle, so that no one knows; the write may
    /// have happened then.
    pub async fn why(&self, command: Command<'_>) -> Result<(Bytes, Waterfall), Error> {
        let key = command.key();
        check("key", key.len(), KEY_MAX_BYTES)?;
        check("value", command.value().len(), VALUE_MAX_BYTES)?;
        let deadline = self.deadline();
        let (shared, encoded) = (&self.shared, command.encode());
        let routes = self.store_routes(deadline).await?;
        let (group, epoch) = (routes.group_of(key), routes.map.epoch);
        // Opens the session, and with that the connection to the leader: neither is a part of this write's way.
        let begun = Write::begin(&shared.context, group, epoch, encoded, deadline).await;
        let mut write = begun.map_err(|failure| self.failure(failure, false))?;
        let began = Instant::now();
        let timed_write = |client, number, lowest_unanswered, command| {
            let why = WhyRequest::TimedWrite { client, number, lowest_unanswered, command };
            ClientRequest::Control(why.encode())
        };
        let end = write.run_as(epoch, &timed_write).await;
        let total_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let answer = match end.map_err(|late| self.failure(late.into(), write.may_have_happened()))? {
            WriteEnd::Answer(answer) => TimedAnswer::decode(&answer).map_err(|what| Error::BadAnswer { what })?,
            WriteEnd::NotDone => return Err(self.unexplained("its session had expired; try again", false)),
            WriteEnd::Evicted { what } => return Err(Error::Evicted { what }),
            WriteEnd::Senseless(what) => return Err(Error::BadAnswer { what }),
            WriteEnd::Response(ClientResponse::WrongPartition { .. }) => {
                return Err(self.unexplained("the key has moved; try again", write.may_have_happened()));
            }
            WriteEnd::Response(other) => return Err(refusal(other, write.may_have_happened())),
        };
        let (client, number) = write.name();
        let mut exchange = Exchange::new(&shared.context, group, deadline);
        let ask = WhyRequest::Timings(TimedEntry::Write { client, number }).encode();
        let known = exchange.run(epoch, &|| ClientRequest::Control(ask.clone())).await;
        let leader = match known.map_err(|late| self.failure(late.into(), true))? {
            Final::Answer(parts) => decode_timings(&parts.concat()).map_err(|what| Error::BadAnswer { what })?,
            Final::Response(other) => return Err(refusal(other, true)),
        };
        let Some(leader) = leader else {
            return Err(self.unexplained("it was done, but who leads now knows nothing of its way", true));
        };
        tokio::time::sleep(SETTLE).await;
        let followers = ask_followers(group, &leader).await;
        let TimedAnswer { answer, at_server_us } = answer;
        Ok((answer, Waterfall { group: group.name.clone(), leader, total_us, at_server_us, followers }))
    }

    fn unexplained(&self, why: &str, may_have_happened: bool) -> Error {
        Error::Refused { reason: why.to_owned(), may_have_happened }
    }
}

async fn ask_followers(group: &Arc<Group>, leader: &EntryTimings) -> Vec<(u16, Result<EntryTimings, String>)> {
    let deadline = Instant::now() + FOLLOWERS_TIMEOUT;
    let mut answers = Vec::new();
    let links = group.links();
    for (replica, link) in (0u16..).zip(links.iter()) {
        if replica != leader.node.name.0 {
            answers.push((replica, ask_timings(link, TimedEntry::Entry(leader.entry), deadline).await));
        }
    }
    answers
}

async fn ask_timings(link: &Link, which: TimedEntry, deadline: Instant) -> Result<EntryTimings, String> {
    let question = ClientRequest::Control(WhyRequest::Timings(which).encode());
    match ask(link, question, deadline).await? {
        ClientResponse::Answer(answer) => decode_timings(&answer)?.ok_or_else(|| "does not have the entry".to_owned()),
        other => Err(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use smr::entry::EntryId;
    use smr::id::NodeId;

    use super::*;

    fn timings(name: u16, moments: [Option<u64>; 4], held_by: &[(u16, u64)]) -> EntryTimings {
        let [appended_us, durable_us, committed_us, applied_us] = moments;
        let held_by = held_by.iter().map(|(name, at)| (NodeId::new(*name, 1), *at)).collect();
        let node = NodeId::new(name, 1);
        let voters = (0..3).map(|name| NodeId::new(name, 1)).collect();
        let entry = EntryId::new(9, 2);
        EntryTimings { node, entry, voters, appended_us, durable_us, committed_us, applied_us, held_by }
    }

    fn waterfall() -> Waterfall {
        let moments = [Some(1_000), Some(1_900), Some(1_900), Some(1_910)];
        Waterfall {
            group: "s0".into(),
            leader: timings(1, moments, &[(0, 1_600), (2, 4_000)]),
            total_us: 1_300,
            at_server_us: 1_000,
            followers: vec![
                (0, Ok(timings(0, [Some(50_000), Some(50_450), None, None], &[]))),
                (2, Err("silent".into())),
            ],
        }
    }

    #[test]
    fn stretches_make_up_the_whole() {
        let stretches = waterfall().stretches();
        let us: Vec<u64> = stretches.iter().map(|stretch| stretch.us).collect();
        assert_eq!(us, [300, 90, 900, 10]);
        assert_eq!(us.iter().sum::<u64>(), waterfall().total_us);
    }

    #[test]
    fn stretches_of_a_repeat_are_unknown_and_still_make_up_the_whole() {
        for at_server_us in [100, 5_000] {
            let stretches = Waterfall { at_server_us, ..waterfall() }.stretches();
            assert_eq!(stretches.len(), 1);
            assert_eq!((stretches[0].us, &stretches[0].what[..7]), (1_300, "unknown"));
        }
    }

    #[test]
    fn holders_tell_hop_from_sync_and_who_completed_the_quorum() {
        let holders = waterfall().holders();
        let told: Vec<_> = holders.iter().map(|h| (h.replica, h.held_after_us, h.sync_us, h.hop_us)).collect();
        assert_eq!(told[0], (1, Some(900), Some(900), None));
        assert_eq!(told[1], (0, Some(600), Some(450), Some(150)));
        assert_eq!(told[2], (2, Some(3_000), None, None));
        // Replica 0 had it after 600, the leader itself after 900: two of three.
        let completes: Vec<u16> = holders.iter().filter(|h| h.completes_quorum).map(|h| h.replica).collect();
        assert_eq!(completes, [1]);
        assert_eq!(holders[2].trouble.as_deref(), Some("silent"));
    }
}
