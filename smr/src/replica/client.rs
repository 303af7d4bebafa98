//! Proposals and reads by the program that hosts a replica: an async handle that finds the leader, tries again, and
//! numbers its requests, so that each command takes effect exactly once.
//!
//! Underneath is [`Submit`]: one request, one outcome. [`Client`] adds what every host would have to write on top of
//! it: a session ([`crate::session`]), whose numbers make a repeated command harmless; redirects; pauses between tries;
//! an end to the waiting, and an error that says whether the command may have taken effect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::id::{ClientId, REQUESTS_IN_FLIGHT_MAX, ReplicaId};
use crate::replica::{Outcome, ReplySink, ReplyTo, Request, Submit};

/// How long a request is tried unless [`Client::with_timeout`] says otherwise: 10 s.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause after a try that came to nothing, in milliseconds. Each further one is twice as long.
const PAUSE_MIN_MS: u64 = 5;
/// The longest pause between two tries, in milliseconds.
const PAUSE_MAX_MS: u64 = 200;
/// This many redirects in a row are followed without a pause: two that name each other must not make a busy loop.
const REDIRECTS_AT_ONCE_MAX: u32 = 3;
/// How long one replica may take to answer before another one is asked: 1 s. In this process it always answers; a
/// connection of the host's own to another one may not.
pub const TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of an answer in parts at most; a longer one ends the request.
pub const PARTS_MAX_BYTES: usize = 64 << 20;

/// Why a request came to no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The time is over. Nothing happened, nor will it.
    #[error("no answer in time; not done ({why})")]
    TimedOut {
        /// What stood in the way at last.
        why: String,
    },
    /// The command was given to the group, and what became of it is not known: it may have taken effect, once, or may
    /// yet.
    #[error("outcome unknown, it may have taken effect ({why})")]
    Unknown {
        /// Why no one can say.
        why: String,
    },
    /// It took effect, once, but its answer is no longer stored.
    #[error("done, but the answer is gone")]
    AnswerGone,
    /// Not done: larger than what the group takes; or, of a query, the answer is larger than [`PARTS_MAX_BYTES`].
    #[error("too large: at most {limit_bytes} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// Not done: the leader's disk is full, and the command does not make the state smaller.
    #[error("not done: the leader's disk is full")]
    DiskFull,
    /// Not done: the request makes no sense to the group.
    #[error("refused: {0}")]
    Refused(String),
}

/// A handle on a group, for many requests at once; those beyond a session's window wait, each with its command. Clones
/// share a session.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    replicas: BTreeMap<ReplicaId, Arc<dyn Submit>>,
    /// Commands that are under way at once: as many as a session's window has numbers.
    places: Semaphore,
    /// One at a time opens the session.
    opening: tokio::sync::Mutex<()>,
    /// A number was given back: the window may reach further.
    freed: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who is believed to lead.
    leader: Option<ReplicaId>,
    session: Option<ClientId>,
    /// The number of the latest command in the session.
    number: u64,
    /// The numbers whose answers someone waits for.
    waiting: BTreeSet<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this, so a poisoned lock is whole.
        self.state.lock()
    }
}

/// A number of the session. Given back when its command is answered, or no one waits for that any more.
struct Numbered {
    shared: Arc<Shared>,
    session: ClientId,
    number: u64,
}

impl Numbered {
    fn request(&self, command: &Bytes) -> Request {
        let lowest_unanswered = self.shared.state().waiting.first().copied().unwrap_or(self.number);
        Request::Write {
            client: self.session,
            number: self.number,
            lowest_unanswered: lowest_unanswered.min(self.number),
            command: command.clone(),
        }
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.session == Some(self.session) {
            state.waiting.remove(&self.number);
        }
        drop(state);
        self.shared.freed.notify_waiters();
    }
}

impl Client {
    /// A handle on the group whose replicas can be reached so: by a [`crate::replica::ReplicaHandle`] in this process,
    /// or by a [`Submit`] of the host's own that carries requests to another one. Those that are left out are never
    /// asked; the more, the sooner the leader is found.
    ///
    /// # Panics
    /// If there is no replica at all.
    pub fn new(replicas: impl IntoIterator<Item = (ReplicaId, Arc<dyn Submit>)>) -> Client {
        let replicas: BTreeMap<_, _> = replicas.into_iter().collect();
        assert!(!replicas.is_empty(), "a client of a group without replicas");
        Client {
            shared: Arc::new(Shared {
                replicas,
                places: Semaphore::new(REQUESTS_IN_FLIGHT_MAX as usize),
                opening: tokio::sync::Mutex::default(),
                freed: Notify::new(),
                state: Mutex::default(),
            }),
            timeout: CLIENT_TIMEOUT,
        }
    }

    /// The same handle, whose requests are tried for this long.
    pub fn with_timeout(self, timeout: Duration) -> Client {
        Client { timeout, ..self }
    }

    /// Who led when a request was last answered.
    pub fn leader(&self) -> Option<ReplicaId> {
        self.shared.state().leader
    }

    /// Has a command applied, exactly once, and gives the state machine's answer. If this future is dropped, the
    /// command may still take effect, once.
    ///
    /// # Errors
    /// [`ClientError`]; each says whether the command may have taken effect.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Bytes, ClientError> {
        let command = command.into();
        let until = self.until();
        let Ok(Ok(_place)) = timeout_at(until, self.shared.places.acquire()).await else {
            return Err(ClientError::TimedOut { why: "too many commands are under way".to_owned() });
        };
        let mut tries = Tries::new(self, until);
        let mut numbered = self.number(&mut tries).await?;
        loop {
            match tries.ask(numbered.request(&command)).await? {
                Outcome::SessionExpired if tries.may_have_happened => {
                    self.forget(numbered.session);
                    return Err(ClientError::Unknown { why: "the session has expired meanwhile".to_owned() });
                }
                Outcome::SessionExpired => {
                    self.forget(numbered.session);
                    tries.pause("the session has expired", None).await?;
                    numbered = self.number(&mut tries).await?;
                }
                // It is about this copy; an earlier one may be in someone's log yet.
                Outcome::DiskFull | Outcome::Refused(_) | Outcome::TooLarge { .. } if tries.may_have_happened => {
                    tries.pause("this copy was refused, an earlier one may have been taken", None).await?;
                }
                outcome => return answer(outcome),
            }
        }
    }

    fn until(&self) -> Instant {
        // Beyond what a clock can count is for ever, near enough.
        const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
        let now = Instant::now();
        now.checked_add(self.timeout).unwrap_or(now + FOR_EVER)
    }

    /// Answers a query, linearizably: it sees every command that was answered before it was asked.
    ///
    /// # Errors
    /// [`ClientError`], never `Unknown`.
    pub async fn read(&self, query: impl Into<Bytes>) -> Result<Bytes, ClientError> {
        answer(Tries::new(self, self.until()).ask(Request::Read { query: query.into() }).await?)
    }

    /// The next number of the session, which is opened first if need be. Waits while the session's window, which begins
    /// at the lowest number that someone waits for, does not reach that far.
    async fn number(&self, tries: &mut Tries<'_>) -> Result<Numbered, ClientError> {
        loop {
            // Before the look, so that nothing is given back unnoticed in between.
            let freed = self.shared.freed.notified();
            let is_open = {
                let mut state = self.shared.state();
                let next = state.number + 1;
                let lowest = state.waiting.first().copied().unwrap_or(next);
                match state.session {
                    Some(session) if next - lowest < REQUESTS_IN_FLIGHT_MAX => {
                        state.number = next;
                        state.waiting.insert(next);
                        return Ok(Numbered { shared: Arc::clone(&self.shared), session, number: next });
                    }
                    session => session.is_some(),
                }
            };
            if !is_open {
                self.open(tries).await?;
            } else if timeout_at(tries.until, freed).await.is_err() {
                return Err(ClientError::TimedOut { why: "an earlier command has no answer yet".to_owned() });
            }
        }
    }

    /// Opens the session, if no one has done so meanwhile.
    async fn open(&self, tries: &mut Tries<'_>) -> Result<(), ClientError> {
        let Ok(_one) = timeout_at(tries.until, self.shared.opening.lock()).await else {
            return Err(ClientError::TimedOut { why: "no session could be opened".to_owned() });
        };
        if self.shared.state().session.is_some() {
            return Ok(());
        }
        match tries.ask(Request::OpenSession).await? {
            Outcome::SessionOpened(session) => {
                let mut state = self.shared.state();
                (state.session, state.number) = (Some(session), 0);
                state.waiting.clear();
                Ok(())
            }
            outcome => answer(outcome).and(Err(ClientError::Refused("no session was opened".to_owned()))),
        }
    }

    fn forget(&self, session: ClientId) {
        let mut state = self.shared.state();
        if state.session == Some(session) {
            state.session = None;
        }
    }
}

fn answer(outcome: Outcome) -> Result<Bytes, ClientError> {
    match outcome {
        Outcome::Answer(answer) => Ok(answer),
        Outcome::AnswerGone => Err(ClientError::AnswerGone),
        Outcome::DiskFull => Err(ClientError::DiskFull),
        Outcome::TooLarge { limit_bytes } => Err(ClientError::TooLarge { limit_bytes: u64::from(limit_bytes) }),
        Outcome::Refused(why) => Err(ClientError::Refused(why)),
        outcome => Err(ClientError::Refused(format!("an answer to something else: {outcome:?}"))),
    }
}

/// One request's way: whom to ask next, and until when.
struct Tries<'a> {
    client: &'a Client,
    until: Instant,
    pause_ms: u64,
    redirects: u32,
    /// A copy of the command may be in someone's log.
    may_have_happened: bool,
    /// Whom to ask if no one is known to lead.
    next: ReplicaId,
}

impl<'a> Tries<'a> {
    fn new(client: &'a Client, until: Instant) -> Tries<'a> {
        let first = client.shared.replicas.keys().next().copied().unwrap_or(ReplicaId(0));
        Tries {
            client,
            until,
            pause_ms: PAUSE_MIN_MS,
            redirects: 0,
            may_have_happened: false,
            next: client.shared.state().leader.unwrap_or(first),
        }
    }

    /// Asks until there is an outcome that another try would not change.
    async fn ask(&mut self, request: Request) -> Result<Outcome, ClientError> {
        loop {
            let asked = self.next;
            let (sink, parts, outcome) = Waiting::new();
            match self.client.shared.replicas.get(&asked) {
                Some(replica) => replica.submit(request.clone(), ReplyTo { tag: 0, sink }),
                None => drop(sink),
            }
            let is_write = matches!(request, Request::Write { .. });
            let at_most = self.until.min(Instant::now() + TRY_TIMEOUT);
            match timeout_at(at_most, outcome).await.unwrap_or(Ok(Outcome::Unknown)) {
                // A host that dropped the request says nothing about it.
                Err(_) => {
                    self.may_have_happened |= is_write;
                    self.turn_away(asked);
                    self.pause("a replica dropped the request", None).await?;
                }
                Ok(Outcome::NotLeader(not)) => {
                    self.turn_away(asked);
                    let hint =
                        not.leader.filter(|name| *name != asked && self.client.shared.replicas.contains_key(name));
                    if let Some(leader) = hint {
                        self.next = leader;
                        self.redirects += 1;
                    }
                    if hint.is_none() || self.redirects > REDIRECTS_AT_ONCE_MAX {
                        self.pause("no one is known to lead", None).await?;
                    }
                }
                Ok(Outcome::Busy { retry_after_ms }) => {
                    self.pause("the leader is busy", Some(u64::from(retry_after_ms))).await?;
                }
                Ok(Outcome::OutOfService(why)) => {
                    self.turn_away(asked);
                    self.pause(&why, None).await?;
                }
                Ok(Outcome::Unknown) => {
                    self.may_have_happened |= is_write;
                    self.turn_away(asked);
                    self.pause("a replica has not answered, or lost its role meanwhile", None).await?;
                }
                Ok(Outcome::Answer(last)) => {
                    self.client.shared.state().leader = Some(asked);
                    return whole(&parts, last).map(Outcome::Answer);
                }
                Ok(outcome) => return Ok(outcome),
            }
        }
    }

    /// This one does not lead: the one after it is next.
    fn turn_away(&mut self, asked: ReplicaId) {
        let mut state = self.client.shared.state();
        if state.leader == Some(asked) {
            state.leader = None;
        }
        let replicas = &self.client.shared.replicas;
        let after = replicas.range(ReplicaId(asked.0.saturating_add(1))..).next();
        self.next = after.or_else(|| replicas.iter().next()).map_or(asked, |(name, _)| *name);
    }

    async fn pause(&mut self, why: &str, hint_ms: Option<u64>) -> Result<(), ClientError> {
        self.redirects = 0;
        let pause = Duration::from_millis(hint_ms.unwrap_or(self.pause_ms).clamp(1, PAUSE_MAX_MS));
        self.pause_ms = (2 * self.pause_ms).min(PAUSE_MAX_MS);
        if Instant::now() + pause >= self.until {
            return Err(self.time_is_over(why));
        }
        sleep(pause).await;
        Ok(())
    }

    fn time_is_over(&self, why: &str) -> ClientError {
        let why = why.to_owned();
        if self.may_have_happened { ClientError::Unknown { why } } else { ClientError::TimedOut { why } }
    }
}

/// Takes one outcome, and the parts before it. If it is dropped, whoever waits hears that there will be none.
struct Waiting {
    outcome: Mutex<Option<oneshot::Sender<Outcome>>>,
    parts: Arc<Mutex<Parts>>,
}

#[derive(Default)]
struct Parts {
    bytes: BytesMut,
    is_too_large: bool,
}

impl Waiting {
    fn new() -> (Arc<Waiting>, Arc<Mutex<Parts>>, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        let parts = Arc::<Mutex<Parts>>::default();
        let waiting = Waiting { outcome: Mutex::new(Some(sender)), parts: Arc::clone(&parts) };
        (Arc::new(waiting), parts, receiver)
    }
}

/// The answer that ends with `last`.
fn whole(parts: &Mutex<Parts>, last: Bytes) -> Result<Bytes, ClientError> {
    let mut parts = std::mem::take(&mut *parts.lock());
    if parts.is_too_large || parts.bytes.len() + last.len() > PARTS_MAX_BYTES {
        return Err(ClientError::TooLarge { limit_bytes: PARTS_MAX_BYTES as u64 });
    }
    if parts.bytes.is_empty() {
        return Ok(last);
    }
    parts.bytes.extend_from_slice(&last);
    Ok(parts.bytes.freeze())
}

impl ReplySink for Waiting {
    fn deliver(&self, _tag: u64, outcome: Outcome) {
        if let Some(sender) = self.outcome.lock().take() {
            // Whoever waited may have gone.
            let _ = sender.send(outcome);
        }
    }

    fn deliver_part(&self, _tag: u64, part: Bytes) -> bool {
        let mut parts = self.parts.lock();
        parts.is_too_large |= parts.bytes.len() + part.len() > PARTS_MAX_BYTES;
        if !parts.is_too_large {
            parts.bytes.extend_from_slice(&part);
        }
        !parts.is_too_large
    }
}
