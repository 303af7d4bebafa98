//! Carries out moves of slots, while this manager leads ([`madkv_proto::slot_move`] has the steps).
//!
//! All that must not be forgotten is recorded: before a step that cannot be taken back, and after it. Whoever takes
//! over goes on from the record. While records are copied that means another attempt, from the beginning; the groups
//! refuse what is late from the one before.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::control::ControlReply;
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_move::{Attempt, Exported, SlotCommand, SlotQuery, SlotReply};
use madkv_proto::slot_set::SlotSet;
use madkv_proto::why::WhyRequest;
use smr::replica::{Outcome, ReplicaHandle, Request};
use smr_service::client::{Context, Exchange, Final, Group, Jitter, RequestNames};
use smr_service::process::jittered;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::lead::now_unix_ms;
use crate::state::{Command, MovePhase, MoveStep, Query, Reply, SlotMove, encode};

/// How often the leader looks, in milliseconds.
const LOOK_MS: u64 = 100;
/// How long a group may take for one step, in milliseconds. After that the attempt is given up, so that slots which it
/// has frozen take writes again.
const ANSWER_MS: u64 = 3_000;
/// The pause after an attempt that was given up, in milliseconds.
const PAUSE_MS: u64 = 300;
/// How often a source is told again that a move is over which cannot be told so yet, in milliseconds: before it notes
/// as many changed keys as let it freeze their slots.
const TELL_AGAIN_MS: u64 = 1_000;
/// How many attempts are tried until one is later than all that a source knows, each twice as far on as the one before.
const LATER_ATTEMPTS_MAX: u32 = 40;
/// What has changed is copied again until this few keys were changed meanwhile …
const CHANGES_LEFT: usize = 256;
/// … or this often. The rest is copied while the slots take no writes.
const ROUNDS_MAX: u32 = 8;

/// After each piece nothing is copied for as long as the piece took, so that requests find both groups free half of the
/// time, but for this long at most, in milliseconds.
const PACE_MAX_MS: u64 = 100;

/// Does this whenever this replica leads. Never returns.
pub async fn run(replica: ReplicaHandle) {
    let mut driving: Option<((u64, bool), Driving)> = None;
    loop {
        tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        // Most of the time there is none, and whoever does not lead need not know.
        let open = match ask(&replica, Request::LocalRead { query: encode(&Query::SlotMove) }).await {
            Some(Reply::SlotMove(Some(open))) => open,
            _ => {
                driving = None;
                continue;
            }
        };
        if !leads(&replica).await {
            driving = None;
            continue;
        }
        // Copying takes its time: a move that is given up does not wait for it.
        let present = (open.id, matches!(open.phase, MovePhase::GivenUp { .. }));
        if driving.as_ref().is_some_and(|(of, driving)| *of == present && !driving.0.is_finished()) {
            continue;
        }
        driving = Some((present, Driving(tokio::spawn(drive(replica.clone())))));
    }
}

/// The work on a move; it ends with this.
struct Driving(JoinHandle<()>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask(replica: &ReplicaHandle, request: Request) -> Option<Reply> {
    match replica.ask(request).await? {
        Outcome::Answer(answer) => Some(Reply::decode(&answer)),
        _ => None,
    }
}

async fn leads(replica: &ReplicaHandle) -> bool {
    ask(replica, Request::Read { query: encode(&Query::SlotMove) }).await.is_some()
}

async fn drive(replica: ReplicaHandle) {
    if let Err(why) = to_the_end(replica).await {
        tracing::debug!(why, "a move of slots is taken up again");
        tokio::time::sleep(jittered(Duration::from_millis(PAUSE_MS))).await;
    }
}

async fn to_the_end(replica: ReplicaHandle) -> Result<(), Stopped> {
    let mut open = present(&replica).await?;
    let map = map(&replica).await?;
    let mut driver = Driver { replica, groups: BTreeMap::new(), context: context(&map), map };
    while let Some(present) = open {
        open = driver.next(present).await?;
    }
    Ok(())
}

/// The move that is open, as of now: whoever led before may have gone further than what is applied here.
async fn present(replica: &ReplicaHandle) -> Result<Option<SlotMove>, Stopped> {
    match ask(replica, Request::Read { query: encode(&Query::SlotMove) }).await {
        Some(Reply::SlotMove(open)) => Ok(open),
        _ => Err("this manager does not lead".to_owned()),
    }
}

async fn map(replica: &ReplicaHandle) -> Result<ClusterMap, Stopped> {
    match ask(replica, Request::Read { query: encode(&Query::Map) }).await {
        Some(Reply::Map(map)) => Ok(map),
        _ => Err("this manager does not lead".to_owned()),
    }
}

fn context(map: &ClusterMap) -> Arc<Context> {
    let cluster = OnceLock::from(map.cluster);
    let names = RequestNames::default();
    Arc::new(Context { cluster, jitter: Jitter::new(None), trace: None, names, network: None })
}

/// Why no step follows now; another driver, or this one again, looks where the move is.
type Stopped = String;

struct Driver {
    replica: ReplicaHandle,
    context: Arc<Context>,
    map: ClusterMap,
    groups: BTreeMap<u16, Arc<Group<ClusterMap>>>,
}

impl Driver {
    /// Takes the move one phase further.
    async fn next(
        &mut self,
        SlotMove { id, from, to, slots, attempt, phase }: SlotMove,
    ) -> Result<Option<SlotMove>, Stopped> {
        let by = Attempt { id, number: attempt };
        match phase {
            MovePhase::Copying => {
                let by = Attempt { number: attempt + 1, ..by };
                self.record(id, MoveStep::Attempt(by.number)).await?;
                let owned = |partition: u16| self.map.partitions[usize::from(partition)].slots.clone();
                let epoch = self.map.epoch;
                let accept = SlotCommand::Accept { by, slots: slots.clone(), owned: owned(to), epoch };
                let begin = SlotCommand::Begin { by, slots, owned: owned(from), epoch };
                for (partition, command) in in_order(by, (from, begin), (to, accept)) {
                    match self.told(partition, &command).await {
                        Ok(()) => {}
                        // Nothing was copied yet. Later on it may be a leader that has not applied all and knows less:
                        // then the source may have frozen the slots, and only going on ends that.
                        Err(Trouble::Unable(why)) if by.number == 1 => {
                            if partition == from && self.has_begun(from, by).await? {
                                return Err(format!("another leader of s{from} has taken it: {why}"));
                            }
                            return self.fail(id, partition, &why).await;
                        }
                        Err(trouble) => return Err(trouble.into()),
                    }
                }
                let pieces = self.copy(by, from, to).await?;
                self.record(id, MoveStep::Copied { attempt: by.number, pieces }).await
            }
            MovePhase::Handover { pieces, epoch } => {
                // In this order: never two owners.
                self.told_for_good(from, by, &slots, &SlotCommand::Release { by, epoch }).await?;
                self.told_for_good(to, by, &slots, &SlotCommand::Own { by, pieces, epoch }).await?;
                self.record(id, MoveStep::Owned).await
            }
            MovePhase::Dropping => {
                self.told_for_good(from, by, &slots, &SlotCommand::Drop { by }).await?;
                self.record(id, MoveStep::Dropped).await
            }
            MovePhase::GivenUp { unable, .. } => {
                // The source first: if it has frozen the slots they take writes again, even if the destination does not
                // answer.
                self.end_at_source(from, by, &slots, unable.is_some()).await?;
                match self.end(to, by, &slots).await {
                    Err(Trouble::Unable(_)) if unable == Some(to) => {}
                    Err(Trouble::Unable(why)) => {
                        self.say_waits(id, to, &why).await;
                        return Err(why);
                    }
                    ended => ended?,
                }
                self.apply(&Command::MoveGivenUp { id, at_unix_ms: now_unix_ms() }).await
            }
        }
    }

    /// Whether the source has begun this attempt: asked of one leader it may be taken, and be refused by the next,
    /// which knows less. Then whatever is taken at all was taken before this is answered.
    async fn has_begun(&mut self, from: u16, by: Attempt) -> Result<bool, Trouble> {
        let source = self.group(from);
        let query = SlotQuery::Export { by, changed_since: Some(u64::MAX), after: None };
        match self.ask_group(&source, WhyRequest::AskSlots(query.encode())).await {
            Ok(SlotReply::Piece(_)) => Ok(true),
            Ok(SlotReply::Refused(_)) | Err(Trouble::Unable(_)) => Ok(false),
            Ok(other) => Err(Trouble::Passing(format!("{other:?}"))),
            Err(trouble) => Err(trouble),
        }
    }

    /// Tells the source that a move is over which was given up. Its end is a newer command than its beginning, and may
    /// have to wait for a member that is gone: until then the source is told again and again that another attempt
    /// begins, so that slots which it has frozen take writes. No other attempt follows, so nothing else is told by its
    /// number.
    async fn end_at_source(
        &mut self,
        from: u16,
        by: Attempt,
        slots: &SlotSet,
        knows_nothing: bool,
    ) -> Result<(), Stopped> {
        let mut beyond = 1;
        loop {
            let why = match self.end(from, by, slots).await {
                Err(Trouble::Unable(_)) if knows_nothing => return Ok(()),
                Err(Trouble::Unable(why)) => why,
                ended => return Ok(ended?),
            };
            match self.begin_later(from, by, slots, beyond).await {
                Ok(taken) => beyond = taken + 1,
                // Not even that: then it has never begun, or its leader has yet to apply that it has.
                Err(Trouble::Unable(_)) => {}
                Err(trouble) => return Err(trouble.into()),
            }
            self.say_waits(by.id, from, &why).await;
            tokio::time::sleep(jittered(Duration::from_millis(TELL_AGAIN_MS))).await;
            // Another member may have taken the place of the one that is gone.
            self.map = map(&self.replica).await?;
            self.groups.clear();
        }
    }

    /// Begins an attempt at the source that is later than all that it knows, whoever was here before. Returns how far
    /// it is beyond `by`; at least `beyond`.
    async fn begin_later(&mut self, from: u16, by: Attempt, slots: &SlotSet, mut beyond: u64) -> Result<u64, Trouble> {
        for _ in 0..LATER_ATTEMPTS_MAX {
            let later = Attempt { number: by.number + beyond, ..by };
            let owned = self.map.partitions[usize::from(from)].slots.clone();
            let begin = SlotCommand::Begin { by: later, slots: slots.clone(), owned, epoch: self.map.epoch };
            match self.tell(from, &begin).await? {
                SlotReply::Refused(_) => beyond = beyond.saturating_mul(2),
                reply => return done(reply).map(|()| beyond),
            }
        }
        Err(Trouble::Passing(format!("s{from} takes no later attempt")))
    }

    /// Says once why a move that was given up is still open.
    async fn say_waits(&self, id: u64, partition: u16, why: &str) {
        let command = Command::MoveWaits { id, partition, why: why.to_owned(), at_unix_ms: now_unix_ms() };
        if let Err(why) = self.apply(&command).await {
            tracing::debug!(why, "not said in the events");
        }
    }

    /// Nothing has happened yet, and nothing will: the move is given up.
    async fn fail(&self, id: u64, partition: u16, why: &str) -> Result<Option<SlotMove>, Stopped> {
        let (why, at_unix_ms) = (format!("s{partition}: {why}"), now_unix_ms());
        let command = Command::GiveUpMove { id, why: why.clone(), unable: Some(partition), at_unix_ms };
        match ask(&self.replica, Request::Idempotent { command: encode(&command) }).await {
            Some(Reply::Control(ControlReply::Change(_))) => present(&self.replica).await,
            // Not every manager is of this release.
            _ => self.record(id, MoveStep::Failed { attempt: 1, why }).await,
        }
    }

    /// Tells a group a step after which there is no way back, until all of it is done. It has taken all steps before,
    /// so one that refuses is another group than then: it was founded anew, or recovered from an earlier state.
    async fn told_for_good(
        &mut self,
        partition: u16,
        by: Attempt,
        slots: &SlotSet,
        command: &SlotCommand,
    ) -> Result<(), Stopped> {
        loop {
            match self.tell(partition, command).await? {
                SlotReply::Again => {}
                SlotReply::Refused(_) => {
                    let (id, at_unix_ms) = (by.id, now_unix_ms());
                    self.apply(&Command::SlotsForgotten { id, partition, at_unix_ms }).await?;
                    return Ok(self.end(partition, by, slots).await?);
                }
                reply => return Ok(done(reply)?),
            }
        }
    }

    /// Tells a group that the move is over, and what it owns by the map, until nothing is left of the move there.
    async fn end(&mut self, partition: u16, by: Attempt, slots: &SlotSet) -> Result<(), Trouble> {
        // It may have changed since this began, by this very move.
        let map = map(&self.replica).await.map_err(Trouble::Passing)?;
        let Some(owned) = map.partitions.get(usize::from(partition)).map(|part| part.slots.clone()) else {
            return Err(Trouble::Passing(format!("the map has no s{partition}")));
        };
        let end = SlotCommand::End { by, slots: slots.clone(), owned, epoch: map.epoch };
        loop {
            match self.tell(partition, &end).await? {
                SlotReply::Again => {}
                reply => return done(reply),
            }
        }
    }

    /// Copies everything, and freezes the slots before the last of it. Returns in how many pieces.
    async fn copy(&mut self, by: Attempt, from: u16, to: u16) -> Result<u64, Stopped> {
        let mut pieces = 0;
        self.copy_once(by, from, to, None, Pace::Gentle, &mut pieces).await?;
        let mut since = 0;
        for _ in 0..ROUNDS_MAX {
            let copied = self.copy_once(by, from, to, Some(since), Pace::Gentle, &mut pieces).await?;
            since = copied.last_change;
            if copied.records <= CHANGES_LEFT {
                break;
            }
        }
        self.told(from, &SlotCommand::Freeze { by }).await?;
        // Writes wait for this.
        self.copy_once(by, from, to, Some(since), Pace::Full, &mut pieces).await?;
        Ok(pieces)
    }

    /// Copies what was changed after an entry, or everything. While one piece is installed the next one is read.
    async fn copy_once(
        &mut self,
        by: Attempt,
        from: u16,
        to: u16,
        changed_since: Option<u64>,
        pace: Pace,
        pieces: &mut u64,
    ) -> Result<Copied, Stopped> {
        let (source, destination) = (self.group(from), self.group(to));
        let query = |after| {
            let query = SlotQuery::Export { by, changed_since, after };
            let ask = WhyRequest::AskSlots(query.encode());
            self.ask_group(&source, ask)
        };
        let mut next = Some(exported(query(None).await?)?);
        let mut copied = Copied { records: 0, last_change: next.as_ref().map_or(0, |first| first.last_change) };
        while let Some(Exported { piece, more_after, .. }) = next {
            let began = Instant::now();
            copied.records += piece.records.len();
            let install = SlotCommand::Install { by, number: *pieces, piece };
            let install = self.ask_group(&destination, WhyRequest::MoveSlots(install.encode()));
            let following = async {
                match more_after {
                    Some(after) => exported(query(Some(after)).await?).map(Some),
                    None => Ok::<_, Trouble>(None),
                }
            };
            let (installed, following) = tokio::join!(install, following);
            done(installed?)?;
            *pieces += 1;
            next = following?;
            if pace == Pace::Gentle && next.is_some() {
                tokio::time::sleep(began.elapsed().min(Duration::from_millis(PACE_MAX_MS))).await;
            }
        }
        Ok(copied)
    }

    /// Tells a group to take a step, which it has taken then.
    async fn told(&mut self, partition: u16, command: &SlotCommand) -> Result<(), Trouble> {
        done(self.tell(partition, command).await?)
    }

    async fn tell(&mut self, partition: u16, command: &SlotCommand) -> Result<SlotReply, Trouble> {
        let group = self.group(partition);
        self.ask_group(&group, WhyRequest::MoveSlots(command.encode())).await
    }

    fn group(&mut self, partition: u16) -> Arc<Group<ClusterMap>> {
        let group = || {
            let servers = self.map.partitions.get(usize::from(partition)).map(|part| part.servers.clone());
            let service = Service::Server { partition };
            Arc::new(Group::new(&self.context, format!("s{partition}"), service, 1, &servers.unwrap_or_default()))
        };
        Arc::clone(self.groups.entry(partition).or_insert_with(group))
    }

    async fn ask_group(&self, group: &Arc<Group<ClusterMap>>, ask: WhyRequest) -> Result<SlotReply, Trouble> {
        let ask = ask.encode();
        let deadline = Instant::now() + Duration::from_millis(ANSWER_MS);
        let mut exchange = Exchange::new(&self.context, group, Some(deadline));
        match exchange.run(self.map.epoch, &|| ClientRequest::Control(ask.clone())).await {
            Ok(Final::Answer(parts)) => {
                let whole: Bytes = parts.concat().into();
                SlotReply::decode(&whole).map_err(Trouble::Passing)
            }
            // Not every replica of the group knows moves of slots, or is known to.
            Ok(Final::Response(ClientResponse::Refused(why))) => Err(Trouble::Unable(why)),
            Ok(Final::Response(other)) => Err(Trouble::Passing(format!("{}: {other:?}", group.name))),
            Err(_) => Err(Trouble::Passing(format!("{} does not answer in time", group.name))),
        }
    }

    /// Records a step. Returns the move as it is then.
    async fn record(&self, id: u64, step: MoveStep) -> Result<Option<SlotMove>, Stopped> {
        self.apply(&Command::SlotStep { id, step, at_unix_ms: now_unix_ms() }).await
    }

    async fn apply(&self, command: &Command) -> Result<Option<SlotMove>, Stopped> {
        match ask(&self.replica, Request::Idempotent { command: encode(command) }).await {
            Some(Reply::SlotMove(open)) => Ok(open),
            Some(other) => Err(format!("{other:?}")),
            None => Err("this manager does not lead".to_owned()),
        }
    }
}

/// Whom to tell first. At the first attempt the destination: nothing has to be noted for one that cannot take part.
/// Later on the source, which an earlier attempt may have left frozen: it takes writes again even if the destination
/// does not answer.
fn in_order<T>(by: Attempt, source: T, destination: T) -> [T; 2] {
    if by.number > 1 { [source, destination] } else { [destination, source] }
}

/// How fast records are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// With pauses.
    Gentle,
    /// Without.
    Full,
}

/// What was copied.
struct Copied {
    records: usize,
    /// What changes after this entry is not in it, for sure.
    last_change: u64,
}

/// A group does not take a step.
enum Trouble {
    /// Not every replica knows of moves.
    Unable(String),
    /// It may, if it is asked again, or by another attempt.
    Passing(String),
}

impl From<Trouble> for Stopped {
    fn from((Trouble::Unable(why) | Trouble::Passing(why)): Trouble) -> Stopped {
        why
    }
}

fn done(reply: SlotReply) -> Result<(), Trouble> {
    match reply {
        SlotReply::Done => Ok(()),
        SlotReply::Refused(why) => Err(Trouble::Passing(why)),
        other => Err(Trouble::Passing(format!("{other:?}"))),
    }
}

fn exported(reply: SlotReply) -> Result<Exported, Trouble> {
    match reply {
        SlotReply::Piece(exported) => Ok(exported),
        SlotReply::Refused(why) => Err(Trouble::Passing(why)),
        other => Err(Trouble::Passing(format!("{other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // covers G10
    #[test]
    fn source_that_may_be_frozen_is_told_before_a_destination_that_may_be_silent() {
        let told_first = |number| in_order(Attempt { id: 1, number }, "source", "destination")[0];
        assert_eq!([1, 2, 3].map(told_first), ["destination", "source", "source"]);
    }
}
