//! A customer of factories under managers: goes on at another factory when its own dies.
//!
//! Its orders are numbered in a session, and each is sent again, under the same number, until it is answered: so it is
//! recorded once. It begins at the factory that the command line names, and follows what it is told: a factory that
//! cannot become the primary says where that is.

use std::sync::Arc;
use std::time::Duration;

use smr::id::ClientId;
use smr_service::address::is_same;
use smr_service::process::jittered;
use tokio::time::{Instant, sleep, timeout};

use crate::message::{CustomerAnswer, CustomerRequest, KIND_CUSTOMER_ANSWER, KIND_CUSTOMER_REQUEST};
use crate::wire::{self, Connection};

/// How long a request is tried for, in milliseconds: as long as a group may need whose setting `detection` is the
/// longest that there is.
const GIVE_UP_MS: u64 = 60_000;
/// How long one factory may take to answer, in milliseconds; it gives up before that itself.
const ANSWER_TIMEOUT_MS: u64 = 15_000;
/// Pauses between tries grow from this, in milliseconds …
const PAUSE_MIN_MS: u64 = 10;
/// … to this.
const PAUSE_MAX_MS: u64 = 500;

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// Nothing was done.
    NotDone(String),
    /// The order may have been recorded, once.
    Unknown(String),
}

/// See the module.
pub struct Customer {
    /// `host:port` of each factory.
    factories: Arc<[String]>,
    target: usize,
    connection: Option<Connection>,
    session: Option<ClientId>,
    number: u64,
}

impl Customer {
    /// A customer who begins at this factory of these, with the connection if there is one already.
    pub fn new(factories: Arc<[String]>, target: usize) -> Customer {
        Customer { factories, target, connection: None, session: None, number: 0 }
    }

    /// Orders, and returns the index at which the order was recorded.
    ///
    /// # Errors
    /// Whether it may have been.
    pub async fn order(&mut self, customer_id: i32, order_number: i32) -> Result<u64, GaveUp> {
        let until = Instant::now() + Duration::from_millis(GIVE_UP_MS);
        let mut pause = Pause::new(until);
        let (mut session, mut number) = self.next_name(&mut pause).await?;
        // A copy is somewhere that may be recorded yet.
        let mut in_doubt = false;
        let gave_up = |in_doubt: bool, why: String| if in_doubt { GaveUp::Unknown(why) } else { GaveUp::NotDone(why) };
        loop {
            let request = CustomerRequest::Numbered { session, number, customer_id, order_number };
            let why = match self.try_once(request).await {
                Ok(CustomerAnswer::Robot { customer_id: whose, order_number: which, index, .. })
                    if (whose, which) == (customer_id, order_number) =>
                {
                    return Ok(index);
                }
                Ok(CustomerAnswer::SessionGone) => {
                    self.session = None;
                    if in_doubt {
                        return Err(GaveUp::Unknown("the session has expired meanwhile".to_owned()));
                    }
                    (session, number) = self.next_name(&mut pause).await?;
                    "the session has expired".to_owned()
                }
                Ok(CustomerAnswer::NotDone { reason, ask }) => {
                    self.follow_or_next(ask.as_deref());
                    reason
                }
                Ok(CustomerAnswer::Unknown { reason }) => {
                    in_doubt = true;
                    reason
                }
                Ok(other) => return Err(gave_up(in_doubt, format!("an answer to something else: {other:?}"))),
                Err(Failed { why, was_sent }) => {
                    in_doubt |= was_sent;
                    self.next_factory();
                    why
                }
            };
            if !pause.pass().await {
                return Err(gave_up(in_doubt, why));
            }
        }
    }

    /// Asks what can be asked again anywhere.
    ///
    /// # Errors
    /// Why no one answered.
    pub async fn ask(&mut self, request: CustomerRequest) -> Result<CustomerAnswer, GaveUp> {
        let mut pause = Pause::new(Instant::now() + Duration::from_millis(GIVE_UP_MS));
        self.ask_within(request, &mut pause).await
    }

    async fn ask_within(&mut self, request: CustomerRequest, pause: &mut Pause) -> Result<CustomerAnswer, GaveUp> {
        loop {
            let why = match self.try_once(request).await {
                Ok(CustomerAnswer::NotDone { reason, ask }) => {
                    self.follow_or_next(ask.as_deref());
                    reason
                }
                Ok(answer) => return Ok(answer),
                Err(Failed { why, .. }) => {
                    self.next_factory();
                    why
                }
            };
            if !pause.pass().await {
                return Err(GaveUp::NotDone(why));
            }
        }
    }

    /// The name of the next order: its session and its number there.
    async fn next_name(&mut self, pause: &mut Pause) -> Result<(ClientId, u64), GaveUp> {
        let session = match self.session {
            Some(session) => session,
            None => match self.ask_within(CustomerRequest::OpenSession, pause).await? {
                CustomerAnswer::Session(session) => {
                    (self.session, self.number) = (Some(session), 0);
                    session
                }
                CustomerAnswer::NoManagers => {
                    let address = &self.factories[self.target];
                    return Err(GaveUp::NotDone(format!("the factory at {address} goes by no managers")));
                }
                other => return Err(GaveUp::NotDone(format!("an answer to something else: {other:?}"))),
            },
        };
        self.number += 1;
        Ok((session, self.number))
    }

    /// A connection is kept only if no answer may still come on it.
    async fn try_once(&mut self, request: CustomerRequest) -> Result<CustomerAnswer, Failed> {
        let address = &self.factories[self.target];
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => wire::connect_as_customer(address).await.map_err(|error| Failed {
                why: format!("cannot reach the factory at {address}: {error}"),
                was_sent: false,
            })?,
        };
        let talk = async {
            connection.send(KIND_CUSTOMER_REQUEST, &request).await?;
            connection.receive::<CustomerAnswer>(KIND_CUSTOMER_ANSWER).await
        };
        let failed = |why: String| Failed { why: format!("the factory at {address}: {why}"), was_sent: true };
        match timeout(Duration::from_millis(ANSWER_TIMEOUT_MS), talk).await {
            Ok(Ok(Some(answer))) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Ok(Ok(None)) => Err(failed("the connection was closed".to_owned())),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("no answer in time".to_owned())),
        }
    }

    /// Goes on at this factory if it is another one of the group, else at the next one: the present one cannot do it,
    /// and may never be able to.
    fn follow_or_next(&mut self, address: Option<&str>) {
        let known = address.and_then(|address| self.factories.iter().position(|factory| is_same(factory, address)));
        match known.filter(|target| *target != self.target) {
            Some(target) => (self.target, self.connection) = (target, None),
            None => self.next_factory(),
        }
    }

    fn next_factory(&mut self) {
        (self.target, self.connection) = ((self.target + 1) % self.factories.len(), None);
    }
}

/// A try that came to no answer.
struct Failed {
    why: String,
    /// Whether the request may have arrived.
    was_sent: bool,
}

/// Pauses between tries, until the time is over.
struct Pause {
    until: Instant,
    next_ms: u64,
}

impl Pause {
    fn new(until: Instant) -> Pause {
        Pause { until, next_ms: PAUSE_MIN_MS }
    }

    /// False if the time is over.
    async fn pass(&mut self) -> bool {
        let pause = jittered(Duration::from_millis(self.next_ms));
        self.next_ms = (self.next_ms * 2).min(PAUSE_MAX_MS);
        let is_left = Instant::now() + pause < self.until;
        if is_left {
            sleep(pause).await;
        }
        is_left
    }
}
