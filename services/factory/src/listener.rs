//! Incoming connections: customers and other factories come to the same port, and say first who they are.
//!
//! A customer's connection is an engineer's. A customer has one request under way; one that sends another meanwhile is
//! shown out. What is answered, and what is said to another factory, is the business of the [`Backend`].

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use smr::internals::lobby::{Guest, Lobby};
use smr_service::process::Fatal;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::message::{
    CUSTOMER_FRAME_MAX_BYTES, CustomerAnswer, CustomerRequest, Dialler, KIND_CUSTOMER_ANSWER, KIND_CUSTOMER_REQUEST,
    ORDER, PEER_FRAME_MAX_BYTES, READ,
};
use crate::wire::{self, Connection};
use crate::words::ServerId;

/// Customers at one time.
pub const CUSTOMERS_MAX: usize = 4096;
/// Connections of other factories at one time: each has one, and while it dials again perhaps an old one.
const FACTORIES_MAX: usize = 256;
/// Connections of which no one knows yet who is there.
const STRANGERS_MAX: usize = 256;
/// How long accepting pauses when it failed, in milliseconds: without file descriptors the next call would fail too.
const ACCEPT_PAUSE_MS: u64 = 100;

/// What a factory does for those who connect.
pub trait Backend: Send + Sync + 'static {
    /// What an engineer remembers of a customer for as long as that is connected.
    type Customer: Default + Send;

    /// The id of this factory.
    fn id(&self) -> ServerId;

    /// Whether a factory that introduces itself like this may come in.
    ///
    /// # Errors
    /// Why not, for a person.
    fn check(&self, dialler: &Dialler) -> Result<(), String>;

    /// Answers a customer. Dropped if the customer is gone meanwhile, or speaks out of turn.
    fn answer(
        &self,
        engineer_id: i32,
        customer: &mut Self::Customer,
        request: CustomerRequest,
    ) -> impl Future<Output = io::Result<CustomerAnswer>> + Send;

    /// Talks with another factory until one of both ends that.
    fn serve_factory(&self, connection: Connection, dialler: Dialler) -> impl Future<Output = io::Result<()>> + Send;
}

/// What the connections share.
pub struct Listener<B> {
    backend: B,
    lobby: Arc<Lobby>,
    customers: Semaphore,
    factories: Semaphore,
    next_engineer: AtomicI32,
}

/// Takes over a bound listener. To be called inside of a runtime.
///
/// # Errors
/// Those of the operating system.
pub fn adopt(listener: std::net::TcpListener, listen: SocketAddr) -> Result<TcpListener, Fatal> {
    let failed = |error: io::Error| Fatal::Failed(format!("cannot listen on {listen}: {error}"));
    listener.set_nonblocking(true).map_err(failed)?;
    TcpListener::from_std(listener).map_err(failed)
}

impl<B: Backend> Listener<B> {
    /// A listener before this factory.
    pub fn new(backend: B) -> Arc<Listener<B>> {
        Arc::new(Listener {
            backend,
            lobby: Lobby::new(STRANGERS_MAX),
            customers: Semaphore::new(CUSTOMERS_MAX),
            factories: Semaphore::new(FACTORIES_MAX),
            next_engineer: AtomicI32::new(0),
        })
    }

    /// Takes connections for ever.
    pub async fn open(self: Arc<Listener<B>>, listener: TcpListener) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
            };
            let guest = self.lobby.enter(Some(from.ip()));
            let own = Arc::clone(&self);
            tokio::spawn(async move {
                if let Err(error) = own.serve(stream, guest).await {
                    tracing::debug!(%error, "a connection ends");
                }
            });
            // Whoever has said already who it is leaves the lobby before others come in.
            tokio::task::yield_now().await;
        }
    }

    async fn serve(&self, stream: TcpStream, guest: Guest) -> io::Result<()> {
        let mut connection = wire::prepare(stream)?;
        let mut permit = None;
        let judge = |dialler: &Dialler| {
            let (places, max_bytes) = match dialler {
                Dialler::Customer => (&self.customers, CUSTOMER_FRAME_MAX_BYTES),
                Dialler::Factory { .. } => {
                    self.backend.check(dialler)?;
                    (&self.factories, PEER_FRAME_MAX_BYTES)
                }
                Dialler::Successor { .. } => {
                    self.backend.check(dialler)?;
                    (&self.factories, CUSTOMER_FRAME_MAX_BYTES)
                }
            };
            permit = Some(places.try_acquire().map_err(|_| "too many connections; try again later".to_owned())?);
            Ok(max_bytes)
        };
        let welcomed = tokio::select! {
            biased;
            welcomed = connection.welcome(self.backend.id(), judge) => welcomed?,
            () = guest.shown_out() => return Ok(()),
        };
        drop(guest);
        // Held until the connection ends.
        let _permit = permit;
        match welcomed {
            None => Ok(()),
            Some(Dialler::Customer) => self.serve_customer(connection).await,
            Some(factory) => self.backend.serve_factory(connection, factory).await,
        }
    }

    async fn serve_customer(&self, mut connection: Connection) -> io::Result<()> {
        let engineer = self.next_engineer.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        let mut customer = B::Customer::default();
        while let Some(request) = connection.receive::<CustomerRequest>(KIND_CUSTOMER_REQUEST).await? {
            // Whoever closes, or speaks out of turn, is not waited with.
            let answer = tokio::select! {
                biased;
                answer = self.backend.answer(engineer, &mut customer, request) => answer?,
                heard = connection.receive::<CustomerRequest>(KIND_CUSTOMER_REQUEST) => return heard.map(|_| ()),
            };
            connection.send(KIND_CUSTOMER_ANSWER, &answer).await?;
        }
        Ok(())
    }
}

/// The record of a customer, as the document has it.
pub fn record(customer_id: i32, last_order: Option<i32>) -> CustomerAnswer {
    match last_order {
        Some(last_order) => CustomerAnswer::Record { customer_id, last_order },
        None => CustomerAnswer::Record { customer_id: -1, last_order: -1 },
    }
}

/// The answer to a request that makes no sense.
pub fn no_request(customer: i32, order: i32, request_type: i32) -> CustomerAnswer {
    let reason = format!(
        "no request: type {request_type}, customer {customer}, order {order}; types are {ORDER} and {READ}, numbers \
         are not negative"
    );
    CustomerAnswer::NotDone { reason, ask: None }
}
