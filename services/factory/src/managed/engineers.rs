//! The engineers of a factory under managers: what customers are answered, and another factory that takes over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smr::codec;
use smr::id::{ClientId, ClusterId};
use smr::replica::{NotLeader, Outcome, ReplicaHandle, Request};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::admin::Group;
use crate::listener::{Backend, no_request, record};
use crate::managed::gate::Gate;
use crate::managed::lookout::{LOOK_MS, Situation};
use crate::managed::promotion::{Promotion, serve_successor};
use crate::managed::records::{Found, Query, Reply};
use crate::message::{CustomerAnswer, CustomerRequest, Dialler, Indexes, ORDER, READ};
use crate::wire::Connection;
use crate::words::{MapOp, ServerId};

/// How long a request may take, in milliseconds: as long as it takes until a primary that died is replaced, and until
/// this factory is then made the primary.
const REQUEST_MAX_MS: u64 = 10_000;

/// What they share.
pub struct Engineers {
    /// This factory and the others.
    pub group: Arc<Group>,
    /// The managers' cluster.
    pub cluster: ClusterId,
    /// The group's number in their layout.
    pub partition: u16,
    /// The replica with the records.
    pub replica: ReplicaHandle,
    /// Who the primary is.
    pub situation: watch::Receiver<Situation>,
    /// The orders under way.
    pub gate: Arc<Gate>,
    /// How this factory becomes the primary.
    pub promotion: Arc<Promotion>,
    /// Up to where operations have counted as applied here while this was the primary. What was applied stays so.
    pub applied_to: AtomicU64,
}

/// What an engineer remembers of a customer that numbers nothing itself.
#[derive(Debug, Default)]
pub struct Customer {
    /// The session in which its orders are numbered, and the number of the last one.
    session: Option<(ClientId, u64)>,
}

/// An order, under its name in the group.
struct Order {
    session: ClientId,
    number: u64,
    op: MapOp,
}

/// What became of an attempt to have something done by this factory as the primary.
enum Done {
    /// The replica has answered.
    By(Outcome),
    /// It was not, by no copy.
    Not(String),
    /// It may have been, or may yet be.
    Unknown(String),
}

impl Engineers {
    fn is_primary(&self) -> bool {
        self.situation.borrow().is_primary
    }

    fn not_done(&self, reason: String) -> CustomerAnswer {
        let primary = self.situation.borrow().primary;
        let ask = primary.and_then(|primary| self.group.others.get(&primary).cloned());
        CustomerAnswer::NotDone { reason, ask }
    }

    /// Becomes the primary if this is none, and has it done.
    async fn as_primary(&self, request: Request, until: Instant) -> Done {
        let mut in_doubt = None;
        let not = |in_doubt: Option<String>, why: String| match in_doubt {
            Some(before) => Done::Unknown(format!("{before}; then {why}")),
            None => Done::Not(why),
        };
        loop {
            if let Err(why) = self.promotion.come_true(until).await {
                return not(in_doubt, why);
            }
            let Ok(under_way) = timeout_at(until, self.gate.enter()).await else {
                return not(in_doubt, "the production moves to another factory".to_owned());
            };
            if !self.is_primary() {
                continue;
            }
            let outcome = timeout_at(until, self.replica.ask(request.clone())).await;
            drop(under_way);
            let pause_ms = match outcome {
                Err(_) => return Done::Unknown("not all factories of the epoch have it yet".to_owned()),
                Ok(None) => return Done::Unknown("this factory ends".to_owned()),
                // This factory's idea of who is primary is a moment old.
                Ok(Some(Outcome::NotLeader(_))) => LOOK_MS,
                Ok(Some(Outcome::Busy { retry_after_ms })) => u64::from(retry_after_ms),
                // It has a name: again, wherever it is by now, it is done once.
                Ok(Some(Outcome::Unknown)) => {
                    in_doubt = Some("the primary changed".to_owned());
                    LOOK_MS
                }
                Ok(Some(Outcome::SessionExpired)) if in_doubt.is_some() => {
                    return Done::Unknown("the session has expired meanwhile".to_owned());
                }
                Ok(Some(Outcome::OutOfService(why) | Outcome::Refused(why))) => return not(in_doubt, why),
                Ok(Some(Outcome::DiskFull)) => return not(in_doubt, "the primary's disk is full".to_owned()),
                Ok(Some(outcome)) => return Done::By(outcome),
            };
            if timeout_at(until, sleep(Duration::from_millis(pause_ms))).await.is_err() {
                return not(in_doubt, "too many requests wait".to_owned());
            }
        }
    }

    async fn open_session(&self, until: Instant) -> Result<ClientId, CustomerAnswer> {
        match self.as_primary(Request::OpenSession, until).await {
            Done::By(Outcome::SessionOpened(session)) => Ok(session),
            Done::By(other) => Err(self.not_done(format!("no session was opened: {other:?}"))),
            // A session that no one knows of does no harm.
            Done::Not(why) | Done::Unknown(why) => Err(self.not_done(why)),
        }
    }

    async fn order(&self, engineer_id: i32, order: Order, until: Instant) -> CustomerAnswer {
        let Order { session: client, number, op } = order;
        let command = codec::encode(&op).into();
        let request = Request::Write { client, number, lowest_unanswered: number, command };
        match self.as_primary(request, until).await {
            Done::By(Outcome::Answer(answer)) => match Reply::decode(&answer) {
                Reply::Recorded(index) => {
                    self.applied_to.fetch_max(index, Ordering::Relaxed);
                    CustomerAnswer::Robot {
                        customer_id: op.arg1,
                        order_number: op.arg2,
                        request_type: ORDER,
                        engineer_id,
                        admin_id: i32::try_from(self.group.id.0).unwrap_or(i32::MAX),
                        index,
                    }
                }
                Reply::Malformed => no_request(op.arg1, op.arg2, ORDER),
            },
            Done::By(Outcome::SessionExpired) => CustomerAnswer::SessionGone,
            Done::By(Outcome::AnswerGone) => CustomerAnswer::Unknown {
                reason: "it may have been recorded, at an index that is not known".to_owned(),
            },
            Done::By(other) => CustomerAnswer::Unknown { reason: format!("{other:?}") },
            Done::Not(reason) => self.not_done(reason),
            Done::Unknown(reason) => CustomerAnswer::Unknown { reason },
        }
    }

    /// An order of a customer that numbers nothing itself, in a session of its connection.
    async fn order_of(&self, engineer_id: i32, customer: &mut Customer, op: MapOp, until: Instant) -> CustomerAnswer {
        loop {
            let (session, last, is_new) = match customer.session {
                Some((session, last)) => (session, last, false),
                None => match self.open_session(until).await {
                    Ok(session) => (session, 0, true),
                    Err(answer) => return answer,
                },
            };
            let number = last + 1;
            customer.session = Some((session, number));
            match self.order(engineer_id, Order { session, number, op }, until).await {
                // It was idle for so long that others needed the room.
                CustomerAnswer::SessionGone if !is_new => customer.session = None,
                CustomerAnswer::SessionGone => return self.not_done("too many customers".to_owned()),
                answer => return answer,
            }
        }
    }

    /// What is applied here, however old.
    async fn look(&self, customer: i32) -> io::Result<Found> {
        let is_primary = self.is_primary();
        let applied_to = if is_primary { u64::MAX } else { self.applied_to.load(Ordering::Relaxed) };
        let query = Query { customer, applied_to }.encode().into();
        match self.replica.ask(Request::LocalRead { query }).await {
            Some(Outcome::Answer(answer)) => {
                let found: Found = codec::decode(&answer).map_err(io::Error::other)?;
                if is_primary {
                    self.applied_to.fetch_max(found.last_index, Ordering::Relaxed);
                }
                Ok(found)
            }
            other => Err(io::Error::other(format!("no answer from the replica: {other:?}"))),
        }
    }

    /// A read that sees every order that was acknowledged before.
    async fn read(&self, customer: i32) -> CustomerAnswer {
        let until = Instant::now() + Duration::from_millis(REQUEST_MAX_MS);
        loop {
            let query = Query { customer, applied_to: u64::MAX }.encode().into();
            let why = match timeout_at(until, self.replica.ask(Request::Read { query })).await {
                Err(_) => return self.not_done("no answer in time".to_owned()),
                Ok(Some(Outcome::Answer(answer))) => match codec::decode::<Found>(&answer) {
                    Ok(found) => return record(customer, found.last_order),
                    Err(error) => return self.not_done(format!("no answer: {error}")),
                },
                Ok(Some(Outcome::NotLeader(NotLeader { leader: Some(leader), .. })))
                    if u32::from(leader.0) != self.group.id.0 =>
                {
                    let primary = ServerId(u32::from(leader.0));
                    let ask = self.group.others.get(&primary).cloned();
                    return CustomerAnswer::NotDone {
                        reason: format!("server {primary} is the production factory"),
                        ask,
                    };
                }
                Ok(Some(Outcome::NotLeader(_))) => "no factory produces".to_owned(),
                Ok(Some(Outcome::Busy { .. })) => "too many requests wait".to_owned(),
                Ok(other) => return self.not_done(format!("{other:?}")),
            };
            if timeout_at(until, sleep(Duration::from_millis(LOOK_MS))).await.is_err() {
                return self.not_done(why);
            }
        }
    }
}

impl Backend for Engineers {
    type Customer = Customer;

    fn id(&self) -> ServerId {
        self.group.id
    }

    fn check(&self, dialler: &Dialler) -> Result<(), String> {
        let Dialler::Successor { id, to, group, cluster, partition } = dialler else {
            return Err("this factory goes by managers (--managers); the command lines differ".to_owned());
        };
        if (*cluster, *partition) != (self.cluster, self.partition) {
            return Err("this factory is of another group under managers; the command lines differ".to_owned());
        }
        self.group.check(*id, *to, group)
    }

    async fn answer(
        &self,
        engineer_id: i32,
        customer: &mut Customer,
        request: CustomerRequest,
    ) -> io::Result<CustomerAnswer> {
        let until = Instant::now() + Duration::from_millis(REQUEST_MAX_MS);
        Ok(match request {
            CustomerRequest::Indexes => {
                // Any customer does: it is about the indexes.
                let found = self.look(0).await?;
                let primary = self.situation.borrow().primary;
                CustomerAnswer::Indexes(Indexes {
                    last_index: found.last_index,
                    committed_index: found.committed_index,
                    primary_id: primary.map_or(-1, |primary| i64::from(primary.0)),
                })
            }
            CustomerRequest::OpenSession => match self.open_session(until).await {
                Ok(session) => CustomerAnswer::Session(session),
                Err(answer) => answer,
            },
            CustomerRequest::Numbered { session, number, customer_id, order_number }
                if customer_id >= 0 && order_number >= 0 =>
            {
                let op = MapOp::update(customer_id, order_number);
                self.order(engineer_id, Order { session, number, op }, until).await
            }
            CustomerRequest::Numbered { customer_id, order_number, .. } => no_request(customer_id, order_number, ORDER),
            CustomerRequest::Request { customer_id, order_number, request_type, linearizable } => match request_type {
                ORDER if customer_id >= 0 && order_number >= 0 => {
                    self.order_of(engineer_id, customer, MapOp::update(customer_id, order_number), until).await
                }
                READ if linearizable => self.read(customer_id).await,
                READ => record(customer_id, self.look(customer_id).await?.last_order),
                _ => no_request(customer_id, order_number, request_type),
            },
        })
    }

    async fn serve_factory(&self, connection: Connection, _dialler: Dialler) -> io::Result<()> {
        serve_successor(&self.gate, self.situation.clone(), connection).await
    }
}
