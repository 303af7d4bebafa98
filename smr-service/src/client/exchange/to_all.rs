//! Writes in a group whose members all take them (`active`): a copy goes to each, and the first answer counts.
//!
//! One of the members gives the order; the others keep their copies until they have applied them, and answer then. So
//! it does not matter who is the first, whether that one is alive, or whether a copy is lost on its way. What answers
//! come later is discarded ([`Posted`](crate::client::Posted)); one whose bytes differ is reported.
//!
//! A refusal speaks for one copy. That the write had no effect is certain only when each copy that may have left was
//! refused, and none has been lost sight of: whoever refuses a copy has not kept it, and has sent it on to no one. If
//! others are open for [`REFUSAL_WAIT`] after a refusal, the outcome is unknown. A member that was busy counts as open:
//! its next copy is on the way, and may well be taken.

use std::time::Duration;

use tokio::time::Instant;

use super::{Exchange, Final};
use crate::client::connection::{CopyEvent, Event, answer_hash, discard};
use crate::client::limits::{BUSY_PAUSE_MAX, LOST_AFTER, REFUSAL_WAIT, TO_ALL_PAUSE};
use crate::client::{TimedOut, earlier, sleep_until};
use crate::frames::{ClientRequest, ClientResponse, Map};

/// What the members of a group have said of the copies of one write.
pub(super) struct AtAll<M> {
    places: Vec<Place<M>>,
    /// When the first of them refused.
    refused_at: Option<Instant>,
    /// [`answer_hash`] of the answer that has ended the exchange.
    answered: Option<u64>,
}

/// What one of them has said.
struct Place<M> {
    /// No copy goes there before this time.
    not_before: Option<Instant>,
    /// Copies in a row that came to nothing there.
    failures: u32,
    /// Whether it was too busy for the last copy, and the next one waits.
    is_busy: bool,
    refusal: Option<ClientResponse<M>>,
}

impl<M> Default for AtAll<M> {
    fn default() -> AtAll<M> {
        AtAll { places: Vec::new(), refused_at: None, answered: None }
    }
}

impl<M> Default for Place<M> {
    fn default() -> Place<M> {
        Place { not_before: None, failures: 0, is_busy: false, refusal: None }
    }
}

/// Answers that have come since the one that counts.
impl<M: Map> Drop for Exchange<'_, M> {
    fn drop(&mut self) {
        let Some(first) = self.at_all.as_ref().and_then(|all| all.answered) else { return };
        let out: Vec<(u32, u16)> = self.copies.iter().map(|copy| (copy.number, copy.replica)).collect();
        // What comes from now on is their connections' to discard.
        self.copies.clear();
        while let Ok(CopyEvent { copy, event }) = self.inbox.events.try_recv() {
            let from =
                out.iter().find(|(number, _)| *number == copy).and_then(|(_, replica)| self.group.link(*replica));
            if let (Some(link), Event::Reply(ClientResponse::Answer(answer))) = (from, *event) {
                discard(self.context, (link.address(), link.number()), self.number, Some(first), &answer);
            }
        }
    }
}

impl<M: Map> Exchange<'_, M> {
    /// Whether copies go to all members.
    pub(super) fn goes_to_all(&self) -> bool {
        self.at_all.is_some() && self.group.sends_to_all()
    }

    /// As [`Exchange::run`], with copies to all members.
    pub(super) async fn run_at_all(
        &mut self,
        epoch: u64,
        ask: &(dyn Fn() -> ClientRequest + Sync),
    ) -> Result<Final<M>, TimedOut> {
        // Whoever asks again has dealt with what was refused.
        self.at_all = Some(AtAll::default());
        loop {
            let now = Instant::now();
            let again_at = self.post_to_all(epoch, ask, now);
            if let Some(refusal) = self.refusal(now) {
                return Ok(Final::Response(refusal));
            }
            let refused_at = self.at_all.as_ref().and_then(|all| all.refused_at);
            let wake_at = earlier(again_at, refused_at.map(|at| at + REFUSAL_WAIT));
            let leader = self.group.leader();
            tokio::select! {
                biased;
                Some(event) = self.inbox.events.recv(), if !self.copies.is_empty() => {
                    if let Some(end) = self.take_of_one(event) {
                        return Ok(end);
                    }
                }
                // Reads want to know it; and whoever waits for a group that does not answer hears so.
                () = self.group.leader_known(self.context), if leader.is_none() => {}
                () = sleep_until(earlier(wake_at, self.deadline)) => {
                    if self.deadline.is_some_and(|at| at <= Instant::now()) {
                        return Err(TimedOut);
                    }
                }
            }
        }
    }

    /// Sends a copy to each member that has none, and has not refused one. Returns when to look again.
    fn post_to_all(&mut self, epoch: u64, ask: &(dyn Fn() -> ClientRequest + Sync), now: Instant) -> Option<Instant> {
        self.not_before = self.not_before.filter(|at| *at > now);
        if self.not_before.is_some() {
            return self.not_before;
        }
        let count = self.group.links().len();
        if let Some(all) = &mut self.at_all {
            all.places.resize_with(count, Place::default);
        }
        let mut again_at = None;
        for replica in 0..count {
            let replica = replica as u16; // below REPLICAS_MAX
            if let Some(at) = self.copies.iter().position(|copy| copy.replica == replica) {
                let lost_at = self.copies[at].posted_at + LOST_AFTER;
                if lost_at > now {
                    again_at = earlier(again_at, Some(lost_at));
                    continue;
                }
                // It, or its answer, may be lost; or that member does not know yet what becomes of it.
                drop(self.copies.swap_remove(at));
                self.unknown = true;
                self.note_retry("silent");
                self.group.learn(|cache| cache.suspect(replica));
            }
            let Some(place) = self.place(replica) else { continue };
            if place.refusal.is_some() {
                continue;
            }
            if let Some(at) = place.not_before.filter(|at| *at > now) {
                again_at = earlier(again_at, Some(at));
                continue;
            }
            place.is_busy = false;
            if self.post(replica, epoch, ask()) {
                again_at = earlier(again_at, Some(now + LOST_AFTER));
            } else {
                self.group.learn(|cache| cache.suspect(replica));
                again_at = earlier(again_at, Some(self.rest(replica, "unreachable")));
            }
        }
        again_at
    }

    /// Takes news of a copy. Returns how the exchange ends, if it does.
    fn take_of_one(&mut self, CopyEvent { copy, event }: CopyEvent<M>) -> Option<Final<M>> {
        let at = self.copies.iter().position(|out| out.number == copy)?; // an abandoned copy has no say
        let replica = self.copies.swap_remove(at).replica;
        let body = match *event {
            Event::Reply(body) => body,
            Event::Broken { sent } => {
                self.unknown |= sent;
                self.group.learn(|cache| cache.suspect(replica));
                self.rest(replica, "connection broken");
                return None;
            }
        };
        self.trace(replica, |trace, server, number| match body.refusal() {
            None => trace.received(server, number),
            Some(why) => trace.refused(server, number, why),
        });
        match body {
            ClientResponse::Answer(answer) => {
                self.group.learn(|cache| cache.heard(replica));
                let hash = answer_hash(&answer);
                self.copies.iter_mut().for_each(|copy| copy.posted.answered_elsewhere(hash));
                if let Some(all) = &mut self.at_all {
                    all.answered = Some(hash);
                }
                return Some(Final::Answer(vec![answer]));
            }
            ClientResponse::NotLeader { leader, term } => {
                // It is no member at present, or of a build whose clients send to one.
                let leader = leader.filter(|leader| usize::from(*leader) < self.group.links().len());
                self.group.learn(|cache| cache.redirected(replica, leader, term));
                self.rest(replica, "not the leader");
            }
            ClientResponse::OutOfService(reason) => {
                tracing::debug!(group = self.group.name, replica, reason, "out of service");
                self.group.learn(|cache| cache.suspect(replica));
                self.rest(replica, "out of service");
            }
            ClientResponse::Busy { retry_after_ms } => {
                self.group.learn(|cache| cache.heard(replica));
                let hint = Duration::from_millis(u64::from(retry_after_ms.max(1))).min(BUSY_PAUSE_MAX);
                let pause = self.context.jitter.between(hint, hint * 2);
                if let Some(place) = self.place(replica) {
                    place.is_busy = true;
                    place.not_before = Some(Instant::now() + pause);
                }
            }
            ClientResponse::Unknown => {
                self.unknown = true;
                self.group.learn(|cache| cache.deposed(replica));
                self.rest(replica, "outcome unknown");
            }
            // It was applied, whatever others say.
            ClientResponse::AnswerGone => return Some(Final::Response(ClientResponse::AnswerGone)),
            refusal => {
                self.group.learn(|cache| cache.heard(replica));
                if let Some(place) = self.place(replica) {
                    place.refusal = Some(refusal);
                }
                if let Some(all) = &mut self.at_all {
                    all.refused_at.get_or_insert_with(Instant::now);
                }
            }
        }
        None
    }

    /// What ends the exchange without an answer: a refusal, once no copy is open, or has been for long enough after it.
    fn refusal(&mut self, now: Instant) -> Option<ClientResponse<M>> {
        let all = self.at_all.as_mut()?;
        let refused_at = all.refused_at?;
        let is_busy = all.places.iter().any(|place| place.is_busy);
        let is_open = is_busy || !self.copies.is_empty();
        if is_open && now < refused_at + REFUSAL_WAIT {
            return None;
        }
        self.unknown |= is_busy;
        all.places.iter_mut().find_map(|place| place.refusal.take())
    }

    fn place(&mut self, replica: u16) -> Option<&mut Place<M>> {
        self.at_all.as_mut()?.places.get_mut(usize::from(replica))
    }

    /// A copy there came to nothing: the next one waits a little. Returns until when.
    fn rest(&mut self, replica: u16, why: &'static str) -> Instant {
        self.note_retry(why);
        let now = Instant::now();
        let Some(place) = self.place(replica) else { return now };
        place.failures = place.failures.saturating_add(1);
        let failures = place.failures - 1;
        let until = now + self.context.jitter.growing(failures, TO_ALL_PAUSE);
        if let Some(place) = self.place(replica) {
            place.not_before = Some(until);
        }
        until
    }
}
