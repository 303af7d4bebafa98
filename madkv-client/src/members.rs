//! Calls for operators: how many replicas a partition has, and where they are; further partitions, and which slots each
//! has.

use madkv_proto::control::{Announcement, ChangeReport, ControlReply, ControlRequest};
use madkv_proto::slot_set::SlotSet;
use tokio::time::Instant;

use crate::limits::CHANGE_LOOK;
use crate::{Client, Error};

impl Client {
    /// Lets partition `partition` have this many replicas, while it serves, and waits until it has. Newcomers have to
    /// be started before (`--join`).
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason; nothing has changed then. See [`Error`].
    pub async fn scale(&self, partition: u16, replicas: u16) -> Result<(), Error> {
        let question = ControlRequest::Change { partition };
        self.change(&question, |epoch| ControlRequest::Scale { partition, replicas, epoch }).await
    }

    /// Makes known where a replica is, for clients and for its peers, and waits until its group and the map know it.
    ///
    /// # Errors
    /// As [`Client::scale`].
    pub async fn relocate(&self, place: (u16, u16), api_address: &str, p2p_address: &str) -> Result<(), Error> {
        let (api_address, p2p_address) = (api_address.to_owned(), p2p_address.to_owned());
        let (partition, replica) = place;
        let request = |epoch| {
            let (api_address, p2p_address) = (api_address.clone(), p2p_address.clone());
            ControlRequest::Relocate(Announcement { partition, replica, api_address, p2p_address, epoch })
        };
        self.change(&ControlRequest::Change { partition }, request).await
    }

    /// Adds a partition with these servers, which has no slots at first. They are started afterwards, as those of the
    /// first partitions are.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason; nothing has changed then. See [`Error`].
    pub async fn add_partition(&self, servers: &[String]) -> Result<(), Error> {
        let request = ControlRequest::AddPartition { servers: servers.to_vec() };
        match self.control(&request, self.deadline()).await? {
            ControlReply::Done => Ok(()),
            other => Err(Error::BadAnswer { what: format!("{other:?}") }),
        }
    }

    /// Moves slots, all of one partition, to another one, while both serve, and waits until it is done.
    ///
    /// # Errors
    /// As [`Client::scale`].
    pub async fn move_slots(&self, slots: SlotSet, to: u16) -> Result<(), Error> {
        let request = |_| ControlRequest::MoveSlots { slots: slots.clone(), to };
        self.change(&ControlRequest::SlotMoves, request).await
    }

    /// Gives the move of slots up that is under way, as long as its source owns the slots, and waits until nothing is
    /// left of it. Whoever waits for the move hears that it came to nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] if no move is under way, or it is too late; the move goes on then. See [`Error`].
    pub async fn abandon_move(&self) -> Result<(), Error> {
        let refused = |reason: &str| Error::Refused { reason: reason.to_owned(), may_have_happened: false };
        let (question, deadline) = (ControlRequest::SlotMoves, self.deadline());
        let present = self.reported(&question, deadline).await?;
        let Some(id) = present.open else { return Err(refused("no move of slots is under way")) };
        let mut report = self.reported(&ControlRequest::GiveUpMove { id }, deadline).await?;
        while report.open == Some(id) {
            tokio::time::sleep(CHANGE_LOOK).await;
            report = self.reported(&question, deadline).await?;
        }
        match report.ended {
            Some((ended, None)) if ended == id => Err(refused("the move was done before it could be given up")),
            _ => Ok(()),
        }
    }

    /// Asks for what `request` makes of the epoch of the present map, and waits for its end, which `question` asks for.
    async fn change(&self, question: &ControlRequest, request: impl Fn(u64) -> ControlRequest) -> Result<(), Error> {
        let deadline = self.deadline();
        let present = self.reported(question, deadline).await?;
        let mut report = self.reported(&request(present.epoch), deadline).await?;
        let Some(id) = report.open else { return Ok(()) };
        while report.open == Some(id) {
            tokio::time::sleep(CHANGE_LOOK).await;
            report = self.reported(question, deadline).await?;
        }
        match report.ended {
            Some((ended, Some(reason))) if ended == id => Err(Error::Refused { reason, may_have_happened: false }),
            _ => Ok(()),
        }
    }

    async fn reported(&self, request: &ControlRequest, deadline: Option<Instant>) -> Result<ChangeReport, Error> {
        match self.control(request, deadline).await? {
            ControlReply::Change(report) => Ok(report),
            other => Err(Error::BadAnswer { what: format!("{other:?}") }),
        }
    }
}
