//! The engineers of a factory without managers: each reads records by itself, and hands orders to the admin. Another
//! factory's requests go to the admin, and its answers back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use crate::admin::{Event, Group, OUTGOING_MAX, Public, SharedRecords};
use crate::core::{LinkId, Outcome};
use crate::listener::{Backend, no_request, record};
use crate::message::{
    CustomerAnswer, CustomerRequest, Dialler, KIND_PEER_ANSWER, KIND_PEER_REQUEST, ORDER, PeerAnswer, PeerRequest, READ,
};
use crate::wire::{self, Connection};
use crate::words::{MapOp, ServerId};

/// What they share.
pub struct Engineers {
    group: Arc<Group>,
    shared: SharedRecords,
    events: mpsc::Sender<Event>,
    next_link: AtomicU64,
}

impl Engineers {
    /// The engineers beside an admin.
    pub fn new(group: Arc<Group>, shared: SharedRecords, events: mpsc::Sender<Event>) -> Engineers {
        Engineers { group, shared, events, next_link: AtomicU64::new(1) }
    }

    fn read<T>(&self, look: impl FnOnce(&Public) -> T) -> T {
        look(&self.shared.read())
    }

    async fn tell(&self, event: Event) -> io::Result<()> {
        self.events.send(event).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Backend for Engineers {
    type Customer = ();

    fn id(&self) -> ServerId {
        self.group.id
    }

    fn check(&self, dialler: &Dialler) -> Result<(), String> {
        match dialler {
            Dialler::Factory { id, to, group } => self.group.check(*id, *to, group),
            _ => Err("this factory goes by no managers; the command lines differ".to_owned()),
        }
    }

    async fn answer(
        &self,
        engineer_id: i32,
        _customer: &mut (),
        request: CustomerRequest,
    ) -> io::Result<CustomerAnswer> {
        let (customer_id, order_number, request_type, linearizable) = match request {
            CustomerRequest::Indexes => return Ok(CustomerAnswer::Indexes(self.read(|public| public.indexes))),
            CustomerRequest::Request { customer_id, order_number, request_type, linearizable } => {
                (customer_id, order_number, request_type, linearizable)
            }
            CustomerRequest::OpenSession | CustomerRequest::Numbered { .. } => return Ok(CustomerAnswer::NoManagers),
        };
        let (sender, outcome) = oneshot::channel();
        match request_type {
            ORDER if customer_id >= 0 && order_number >= 0 => {
                self.tell(Event::Order(MapOp::update(customer_id, order_number), sender)).await?;
            }
            READ if linearizable => self.tell(Event::Read(customer_id, sender)).await?,
            READ => {
                let last_order = self.read(|public| public.records.get(&customer_id).copied());
                return Ok(record(customer_id, last_order));
            }
            _ => return Ok(no_request(customer_id, order_number, request_type)),
        }
        Ok(match outcome.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))? {
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
        })
    }

    async fn serve_factory(&self, connection: Connection, dialler: Dialler) -> io::Result<()> {
        let Dialler::Factory { id: from, .. } = dialler else { return Ok(()) };
        let Connection { mut reader, mut writer } = connection;
        let link = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
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
}
