//! Incoming connections: customers and other factories come to the same port, and say first who they are.
//!
//! A customer's connection is the engineer's: it reads records by itself, and hands orders to the admin. A customer has
//! one request under way; one that sends another meanwhile is shown out. Another factory's requests go to the admin,
//! and its answers back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use smr::internals::lobby::{Guest, Lobby};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::admin::{Event, Group, OUTGOING_MAX, SharedRecords};
use crate::core::Outcome;
use crate::message::{
    CUSTOMER_FRAME_MAX_BYTES, CustomerAnswer, CustomerRequest, Dialler, KIND_CUSTOMER_ANSWER, KIND_CUSTOMER_REQUEST,
    KIND_PEER_ANSWER, KIND_PEER_REQUEST, ORDER, PEER_FRAME_MAX_BYTES, PeerAnswer, PeerRequest, READ,
};
use crate::wire::{self, Connection};
use crate::words::{MapOp, ServerId};

/// Customers at one time.
pub const CUSTOMERS_MAX: usize = 4096;
/// Connections of other factories at one time: each has one, and while it dials again perhaps an old one.
const FACTORIES_MAX: usize = 256;
/// Connections of which no one knows yet who is there.
const STRANGERS_MAX: usize = 256;
/// How long accepting pauses when it failed, in milliseconds: without file descriptors the next call would fail too.
const ACCEPT_PAUSE_MS: u64 = 100;

/// What the connections share.
pub struct Listener {
    group: Arc<Group>,
    shared: SharedRecords,
    events: mpsc::Sender<Event>,
    lobby: Arc<Lobby>,
    customers: Semaphore,
    factories: Semaphore,
    next_link: AtomicU64,
    next_engineer: AtomicI32,
}

impl Listener {
    /// A listener before this factory.
    pub fn new(group: Arc<Group>, shared: SharedRecords, events: mpsc::Sender<Event>) -> Arc<Listener> {
        Arc::new(Listener {
            group,
            shared,
            events,
            lobby: Lobby::new(STRANGERS_MAX),
            customers: Semaphore::new(CUSTOMERS_MAX),
            factories: Semaphore::new(FACTORIES_MAX),
            next_link: AtomicU64::new(1),
            next_engineer: AtomicI32::new(0),
        })
    }

    /// Takes connections for ever.
    pub async fn open(self: Arc<Listener>, listener: TcpListener) {
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
                Dialler::Factory { id, to, group } => {
                    self.check(*id, *to, group)?;
                    (&self.factories, PEER_FRAME_MAX_BYTES)
                }
            };
            permit = Some(places.try_acquire().map_err(|_| "too many connections; try again later".to_owned())?);
            Ok(max_bytes)
        };
        let welcomed = tokio::select! {
            biased;
            welcomed = connection.welcome(self.group.id, judge) => welcomed?,
            () = guest.shown_out() => return Ok(()),
        };
        drop(guest);
        // Held until the connection ends.
        let _permit = permit;
        match welcomed {
            None => Ok(()),
            Some(Dialler::Customer) => self.serve_customer(connection).await,
            Some(Dialler::Factory { id, .. }) => self.serve_factory(connection, id).await,
        }
    }

    /// Whether one who says that it is factory `id` of this group may come in.
    fn check(&self, id: ServerId, to: ServerId, group: &[ServerId]) -> Result<(), String> {
        let own = self.group.id;
        if to != own {
            return Err(format!("this is server {own}, not {to}"));
        }
        if group != self.group.ids() || !self.group.others.contains_key(&id) {
            let ids = self.group.ids();
            let list = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(format!("the servers of this group are {list}; the command lines differ"));
        }
        Ok(())
    }

    async fn serve_factory(&self, connection: Connection, from: ServerId) -> io::Result<()> {
        let Connection { mut reader, mut writer } = connection;
        let link = crate::core::LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        let (sender, mut answers) = mpsc::channel::<PeerAnswer>(OUTGOING_MAX);
        self.tell(Event::Opened(link, sender)).await?;
        let read = async {
            while let Some(request) = wire::receive::<PeerRequest>(&mut reader, KIND_PEER_REQUEST).await? {
                if !request.is_bounded() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a request beyond its bounds"));
                }
                self.tell(Event::Asked(link, from, request)).await?;
            }
            Ok(())
        };
        let write = async {
            while let Some(answer) = answers.recv().await {
                wire::send(&mut writer, KIND_PEER_ANSWER, &answer).await?;
            }
            Ok(())
        };
        let ended: io::Result<()> = tokio::select! {
            ended = read => ended,
            ended = write => ended,
        };
        self.tell(Event::Closed(link)).await?;
        ended
    }

    async fn serve_customer(&self, mut connection: Connection) -> io::Result<()> {
        let engineer = self.next_engineer.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        while let Some(request) = connection.receive::<CustomerRequest>(KIND_CUSTOMER_REQUEST).await? {
            let Some(answer) = self.answer(engineer, request, &mut connection).await? else { return Ok(()) };
            connection.send(KIND_CUSTOMER_ANSWER, &answer).await?;
        }
        Ok(())
    }

    /// `None` if the customer is gone, or out of turn.
    async fn answer(
        &self,
        engineer_id: i32,
        request: CustomerRequest,
        connection: &mut Connection,
    ) -> io::Result<Option<CustomerAnswer>> {
        let (customer_id, order_number, request_type, linearizable) = match request {
            CustomerRequest::Indexes => return Ok(Some(CustomerAnswer::Indexes(self.read(|public| public.indexes)))),
            CustomerRequest::Request { customer_id, order_number, request_type, linearizable } => {
                (customer_id, order_number, request_type, linearizable)
            }
        };
        let (sender, outcome) = oneshot::channel();
        match request_type {
            ORDER if customer_id >= 0 && order_number >= 0 => {
                self.tell(Event::Order(MapOp::update(customer_id, order_number), sender)).await?;
            }
            READ if linearizable => self.tell(Event::Read(customer_id, sender)).await?,
            READ => {
                let last_order = self.read(|public| public.records.get(&customer_id).copied());
                return Ok(Some(record(customer_id, last_order)));
            }
            _ => {
                let reason = format!(
                    "no request: type {request_type}, customer {customer_id}, order {order_number}; types are {ORDER} \
                     and {READ}, numbers are not negative"
                );
                return Ok(Some(CustomerAnswer::NotDone { reason, ask: None }));
            }
        }
        // Whoever closes, or speaks out of turn, is not waited with.
        let outcome = tokio::select! {
            biased;
            outcome = outcome => outcome.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?,
            heard = connection.receive::<CustomerRequest>(KIND_CUSTOMER_REQUEST) => return heard.map(|_| None),
        };
        Ok(Some(match outcome {
            Outcome::Recorded(index) => CustomerAnswer::Robot {
                customer_id,
                order_number,
                request_type,
                engineer_id,
                admin_id: i32::try_from(self.group.id.0).unwrap_or(i32::MAX),
                index,
            },
            Outcome::Record(last_order) => record(customer_id, last_order),
            Outcome::NotDone(primary) => CustomerAnswer::NotDone {
                reason: match primary {
                    Some(primary) => format!("server {primary} is the production factory"),
                    None => "no factory produces".to_owned(),
                },
                ask: primary.and_then(|primary| self.group.others.get(&primary).cloned()),
            },
            Outcome::Busy => CustomerAnswer::NotDone { reason: "too many requests wait".to_owned(), ask: None },
            Outcome::Unknown => {
                let reason = "another server took over; the order may have been recorded".to_owned();
                CustomerAnswer::Unknown { reason }
            }
        }))
    }

    fn read<T>(&self, look: impl FnOnce(&crate::admin::Public) -> T) -> T {
        look(&self.shared.read())
    }

    async fn tell(&self, event: Event) -> io::Result<()> {
        self.events.send(event).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn record(customer_id: i32, last_order: Option<i32>) -> CustomerAnswer {
    match last_order {
        Some(last_order) => CustomerAnswer::Record { customer_id, last_order },
        None => CustomerAnswer::Record { customer_id: -1, last_order: -1 },
    }
}
