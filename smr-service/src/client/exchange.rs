//! One request's way to its answer.
//!
//! A copy goes to the believed leader. Then the first of these happens: an answer (from this or an earlier copy), a
//! refusal, the connection's end, silence, the deadline, or another leader becomes known. Nothing but an answer or the
//! deadline ends the exchange. All copies of a write carry the same session and number, so they have one effect.
//!
//! What is *certain not to have happened*: copies that never left, and copies that were refused ([`ClientResponse`]:
//! "unless it says otherwise the request had no effect and never will"). Everything else is unknown (fault catalogue
//! C9).
//!
//! A write in a group whose members all take writes goes to all of them ([`to_all`]).

mod to_all;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::to_all::AtAll;
use crate::client::connection::{Connection, CopyEvent, Event, Posted};
use crate::client::group::Group;
use crate::client::inbox::LentInbox;
use crate::client::limits::{BUSY_PAUSE_MAX, REDIRECT_HOPS_MAX, RESEND_AFTER, RETRY_PAUSE, SILENCE};
use crate::client::{Context, TimedOut, Trace, earlier, sleep_until};
use crate::frames::{ClientRequest, ClientResponse, Map};

/// A request on its way, across as many copies as it takes.
pub struct Exchange<'c, M: Map> {
    context: &'c Arc<Context>,
    group: &'c Arc<Group<M>>,
    deadline: Option<Instant>,
    /// The copies that are out, at most one at each replica.
    copies: Vec<CopyOut<M>>,
    /// Where their events arrive. Dropped after the copies, which send none any more then.
    inbox: LentInbox<'c, M>,
    /// Whether a copy that is no longer out may have been applied, or may yet be.
    unknown: bool,
    /// Failures in a row since the last pause.
    hops: u32,
    /// No copy leaves before this time.
    not_before: Option<Instant>,
    /// Whether a copy may follow another to the same replica.
    resends: bool,
    /// Whether each copy has an effect of its own.
    repeats_count: bool,
    /// A replica that is to answer in the leader's place; `None` once it did not.
    aside: Option<u16>,
    /// What consoles call the request; 0 for one that they do not show.
    number: u32,
    /// What members have said of a request whose copies may go to all of them; `None` for others.
    at_all: Option<AtAll<M>>,
}

/// A copy that is out.
struct CopyOut<M: Map> {
    number: u32,
    replica: u16,
    posted: Posted<M>,
    posted_at: Instant,
    /// When its replica becomes a suspect.
    silent_at: Instant,
    /// The parts of the answer that have come.
    parts: Vec<Bytes>,
}

/// How an exchange ends.
#[derive(Debug)]
pub enum Final<M> {
    /// The answer, in parts (one, except for a SCAN).
    Answer(Vec<Bytes>),
    /// Anything else that the caller must deal with.
    Response(ClientResponse<M>),
}

/// How an exchange, or what surrounds it, fails.
#[derive(Debug)]
pub enum Failure {
    /// The deadline has passed.
    TimedOut,
    /// The service refused, for this reason.
    Refused(String),
    /// The service gave an answer that makes no sense: this one.
    Senseless(String),
}

impl From<TimedOut> for Failure {
    fn from(_: TimedOut) -> Failure {
        Failure::TimedOut
    }
}

impl<'c, M: Map> Exchange<'c, M> {
    /// An exchange with `group`, which sends nothing yet.
    pub fn new(context: &'c Arc<Context>, group: &'c Arc<Group<M>>, deadline: Option<Instant>) -> Exchange<'c, M> {
        Exchange {
            context,
            group,
            deadline,
            copies: Vec::new(),
            inbox: group.inboxes.lend(),
            unknown: false,
            hops: 0,
            not_before: None,
            resends: true,
            repeats_count: false,
            aside: None,
            number: 0,
            at_all: None,
        }
    }

    /// Sends copies to all members, in a group where that is how writes are made. For requests with an identity: each
    /// copy may be applied.
    pub fn to_all(mut self) -> Exchange<'c, M> {
        self.at_all = Some(AtAll::default());
        self
    }

    /// Consoles call the request `number`.
    pub fn numbered(mut self, number: u32) -> Exchange<'c, M> {
        self.number = number;
        self
    }

    /// Asks this replica first, whoever leads. For reads: where it answers none, the leader does.
    pub fn aside(mut self, replica: Option<u16>) -> Exchange<'c, M> {
        self.aside = replica;
        self
    }

    /// Sends no second copy to a replica that has one: for requests whose repetition would be refused as "under way".
    pub fn without_resends(mut self) -> Exchange<'c, M> {
        self.resends = false;
        self
    }

    /// Each copy has an effect of its own: a second one to the same replica waits as long as in any group.
    pub fn repeats_count(mut self) -> Exchange<'c, M> {
        self.repeats_count = true;
        self
    }

    /// Whether some copy may have been applied, or may yet be. Copies that have not left are taken back.
    pub fn may_have_happened(&mut self) -> bool {
        self.copies.retain(|copy| !copy.posted.withdraw());
        self.unknown || !self.copies.is_empty()
    }

    /// Lets a pause pass before the next copy.
    pub fn pause(&mut self) {
        self.pause_for(self.context.jitter.between(RETRY_PAUSE.0, RETRY_PAUSE.1));
    }

    /// Runs to an answer or the deadline. May be called again after an answer that the caller wants to ask again about.
    pub async fn run(&mut self, epoch: u64, ask: &(dyn Fn() -> ClientRequest + Sync)) -> Result<Final<M>, TimedOut> {
        loop {
            if self.goes_to_all() {
                return self.run_at_all(epoch, ask).await;
            }
            let now = Instant::now();
            self.not_before = self.not_before.filter(|at| *at > now);
            let leader = self.aside.or_else(|| self.group.leader());
            let mut silent_at = None;
            if let Some(leader) = leader {
                silent_at = self.copies.iter().find(|copy| copy.replica == leader).map(|copy| copy.silent_at);
                if silent_at.is_none() && self.not_before.is_none() {
                    if !self.post(leader, epoch, ask()) {
                        self.aside = None;
                        self.group.learn(|cache| cache.suspect(leader));
                        self.step_back("unreachable");
                        continue;
                    }
                    silent_at = Some(now + SILENCE);
                }
            }
            let wake_at = earlier(earlier(silent_at, self.not_before), self.deadline);
            tokio::select! {
                biased;
                Some(event) = self.inbox.events.recv(), if !self.copies.is_empty() => {
                    if let Some(end) = self.take(event) {
                        return Ok(end);
                    }
                }
                () = self.group.leader_known(self.context), if leader.is_none() => {}
                () = sleep_until(wake_at) => {
                    let now = Instant::now();
                    if self.deadline.is_some_and(|at| at <= now) {
                        return Err(TimedOut);
                    }
                    if let (Some(leader), Some(at)) = (leader, silent_at) && at <= now {
                        self.silence(leader, now);
                    }
                }
            }
        }
    }

    fn post(&mut self, replica: u16, epoch: u64, ask: ClientRequest) -> bool {
        let Some(link) = self.group.link(replica) else { return false };
        let number = self.inbox.next_copy;
        let post = |connection: Arc<Connection<M>>| {
            connection.post_numbered(ask, epoch, &self.inbox.sender, number, self.number)
        };
        let Some(posted) = link.connection().and_then(post) else { return false };
        self.trace(replica, |trace, server, number| trace.sent(server, number));
        let posted_at = Instant::now();
        let silent_at = posted_at + SILENCE;
        self.inbox.next_copy = number.wrapping_add(1);
        self.copies.push(CopyOut { number, replica, posted, posted_at, silent_at, parts: Vec::new() });
        true
    }

    /// Takes news of a copy. Returns how the exchange ends, if it does.
    fn take(&mut self, CopyEvent { copy, event }: CopyEvent<M>) -> Option<Final<M>> {
        let place = self.copies.iter().position(|out| out.number == copy)?; // an abandoned copy has no say
        let (replica, event) = (self.copies[place].replica, *event);
        if let Event::Reply(ClientResponse::Part(part)) = event {
            let copy = &mut self.copies[place];
            copy.parts.push(part);
            copy.silent_at = Instant::now() + SILENCE;
            return None;
        }
        let mut copy = self.copies.swap_remove(place);
        let was_aside = self.aside.take_if(|aside| *aside == replica).is_some();
        let body = match event {
            Event::Reply(body) => body,
            Event::Broken { sent } => {
                self.unknown |= sent;
                self.group.learn(|cache| cache.suspect(replica));
                self.step_back("connection broken");
                return None;
            }
        };
        self.trace(replica, |trace, server, number| match body.refusal() {
            None => trace.received(server, number),
            Some(why) => trace.refused(server, number, why),
        });
        match body {
            ClientResponse::Answer(last) => {
                // Who answers aside need not lead.
                self.group.learn(|cache| if was_aside { cache.heard(replica) } else { cache.served(replica) });
                copy.parts.push(last);
                return Some(Final::Answer(copy.parts));
            }
            ClientResponse::NotLeader { leader, term } => {
                if was_aside {
                    self.group.refused_aside();
                }
                let leader = leader.filter(|leader| usize::from(*leader) < self.group.links().len());
                self.group.learn(|cache| cache.redirected(replica, leader, term));
                self.step_back("not the leader");
            }
            ClientResponse::Busy { retry_after_ms } => {
                self.group.learn(|cache| cache.heard(replica));
                let hint = Duration::from_millis(u64::from(retry_after_ms.max(1))).min(BUSY_PAUSE_MAX);
                self.pause_for(self.context.jitter.between(hint, hint * 2));
            }
            ClientResponse::Unknown => {
                self.unknown = true;
                self.group.learn(|cache| cache.deposed(replica));
                self.step_back("outcome unknown");
            }
            ClientResponse::OutOfService(reason) => {
                tracing::debug!(group = self.group.name, replica, reason, "out of service");
                self.group.learn(|cache| cache.suspect(replica));
                self.step_back("out of service");
            }
            other => {
                self.group.learn(|cache| cache.heard(replica));
                return Some(Final::Response(other));
            }
        }
        None
    }

    /// The copy at `leader` got no answer for too long: the others are asked who leads. If `leader` still does (it may
    /// just be slow), the copy that is out goes on waiting there.
    fn silence(&mut self, leader: u16, now: Instant) {
        self.note_retry("silent");
        self.aside = None;
        self.group.learn(|cache| cache.suspect(leader));
        let resends = self.resends;
        // Where messages between clients and servers are said to be lost, one is not waited for.
        let is_soon = self.group.sends_to_all() && !self.repeats_count;
        let resend_after = if is_soon { SILENCE } else { RESEND_AFTER };
        self.copies.retain_mut(|copy| {
            if copy.replica != leader {
                return true;
            }
            copy.silent_at = now + SILENCE;
            let kept = !resends || now.duration_since(copy.posted_at) < resend_after;
            self.unknown |= !kept;
            kept
        });
    }

    /// Counts a failure. A few in a row are followed at once, for a quick failover; then a pause is due, so that two
    /// replicas that name each other cost a bounded rate.
    fn step_back(&mut self, why: &'static str) {
        self.note_retry(why);
        self.hops += 1;
        if self.hops > REDIRECT_HOPS_MAX {
            self.hops = 0;
            self.pause();
        }
    }

    /// Tells whoever watches, if the request has a number.
    fn trace(&self, replica: u16, tell: impl FnOnce(&dyn Trace, usize, u32)) {
        if self.number == 0 {
            return;
        }
        if let (Some(trace), Some(link)) = (&self.context.trace, self.group.link(replica)) {
            tell(&**trace, link.number(), self.number);
        }
    }

    fn note_retry(&self, why: &'static str) {
        if let Some(trace) = &self.context.trace {
            trace.retried(why);
        }
    }

    fn pause_for(&mut self, pause: Duration) {
        self.not_before = self.not_before.max(Some(Instant::now() + pause));
    }
}
