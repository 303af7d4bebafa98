//! A write on its way: one number of the group's session, however many copies it takes.

use std::sync::Arc;

use bytes::Bytes;
use smr::id::ClientId;
use tokio::time::Instant;

use crate::client::exchange::{Exchange, Failure, Final};
use crate::client::group::{Admission, Group};
use crate::client::limits::RETRY_PAUSE;
use crate::client::session::{Session, Ticket};
use crate::client::{Context, TimedOut, before};
use crate::frames::{ClientRequest, ClientResponse, Map};

/// A write under the group's present session. Dropped, it is abandoned: it may then have happened.
pub struct Write<'c, M: Map> {
    context: &'c Arc<Context>,
    group: &'c Arc<Group<M>>,
    deadline: Option<Instant>,
    session: Arc<Session>,
    ticket: Ticket,
    exchange: Exchange<'c, M>,
    command: Bytes,
    _admission: Admission<'c>,
}

/// How a write ends, or what the caller has to deal with before it goes on.
#[derive(Debug)]
pub enum WriteEnd<M> {
    /// It was applied; the state machine's answer.
    Answer(Bytes),
    /// It certainly did not happen: the session had expired before. To be tried again, under another one.
    NotDone,
    /// What would tell its outcome was evicted: it may have happened, once at most.
    Evicted {
        /// What was evicted.
        what: &'static str,
    },
    /// It was answered with what makes no sense: this. It may have happened.
    Senseless(String),
    /// Anything else.
    Response(ClientResponse<M>),
}

impl<'c, M: Map> Write<'c, M> {
    /// Waits for room and for a session, and takes a number in it. Nothing is sent yet, apart from the request to open
    /// a session.
    ///
    /// # Errors
    /// Why there is none. The write did not happen.
    pub async fn begin(
        context: &'c Arc<Context>,
        group: &'c Arc<Group<M>>,
        epoch: u64,
        command: Bytes,
        deadline: Option<Instant>,
    ) -> Result<Write<'c, M>, Failure> {
        let admission = group.admit(command.len(), deadline).await?;
        let session = group.session(context, epoch, deadline).await?;
        let ticket = before(deadline, session.reserve()).await?;
        let exchange = Exchange::new(context, group, deadline).to_all();
        Ok(Write { context, group, deadline, session, ticket, exchange, command, _admission: admission })
    }

    /// Consoles call it `number`.
    pub fn numbered(mut self, number: u32) -> Write<'c, M> {
        self.exchange = self.exchange.numbered(number);
        self
    }

    /// Runs to an end or the deadline. May be called again after a [`WriteEnd::Response`], with the same number.
    ///
    /// # Errors
    /// If the deadline has passed; [`Write::may_have_happened`] says what that means.
    pub async fn run(&mut self, epoch: u64) -> Result<WriteEnd<M>, TimedOut> {
        let as_write = |client, number, lowest_unanswered, command| ClientRequest::Write {
            client,
            number,
            lowest_unanswered,
            command,
        };
        self.run_as(epoch, &as_write).await
    }

    /// As [`Write::run`], with another frame around session, number, lowest unanswered number and command.
    ///
    /// # Errors
    /// If the deadline has passed.
    pub async fn run_as(
        &mut self,
        epoch: u64,
        frame: &(dyn Fn(ClientId, u64, u64, Bytes) -> ClientRequest + Sync),
    ) -> Result<WriteEnd<M>, TimedOut> {
        let (session, ticket, command) = (&self.session, &self.ticket, &self.command);
        let ask = || frame(session.client, ticket.number(), session.lowest_unanswered(), command.clone());
        match self.exchange.run(epoch, &ask).await? {
            Final::Answer(parts) => Ok(match <[Bytes; 1]>::try_from(parts) {
                Ok([answer]) => WriteEnd::Answer(answer),
                Err(parts) => WriteEnd::Senseless(format!("answer in {} parts", parts.len())),
            }),
            Final::Response(ClientResponse::SessionExpired) => {
                self.group.forget_session(&self.session);
                if self.exchange.may_have_happened() {
                    return Ok(WriteEnd::Evicted { what: "session evicted" });
                }
                // A server that evicts each session at once must not make us spin.
                let pause = self.context.jitter.between(RETRY_PAUSE.0, RETRY_PAUSE.1);
                before(self.deadline, tokio::time::sleep(pause)).await?;
                Ok(WriteEnd::NotDone)
            }
            Final::Response(ClientResponse::AnswerGone) => Ok(WriteEnd::Evicted { what: "answer evicted" }),
            Final::Response(other) => Ok(WriteEnd::Response(other)),
        }
    }

    /// Its session, and its number there.
    pub fn name(&self) -> (ClientId, u64) {
        (self.session.client, self.ticket.number())
    }

    /// Whether some copy may have been applied, or may yet be.
    pub fn may_have_happened(&mut self) -> bool {
        self.exchange.may_have_happened()
    }

    /// Lets a pause pass before the next copy.
    pub fn pause(&mut self) {
        self.exchange.pause();
    }
}
