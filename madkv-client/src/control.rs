//! Calls for operators about what the managers keep beside the map: settings, events, members.

use std::time::Duration;

use bytes::Bytes;
use madkv_proto::control::{ControlReply, ControlRequest, Events, Membership, Settings};
use madkv_proto::frames::ClientRequest;
use madkv_proto::group_service::GroupService;
use madkv_proto::settings::{parse_value, partition_of_replicas};
use smr::epoch::GroupKind;
use smr_service::client::{Exchange, Final};
use tokio::time::Instant;

use crate::client::refusal;
use crate::{Client, Error};

/// How often a change of a setting is tried against newer and newer settings, which others change meanwhile.
const SET_TRIES_MAX: u32 = 5;
/// The pause between these, in milliseconds: the manager that was asked may lag behind.
const SET_PAUSE_MS: u64 = 100;

impl Client {
    /// The settings in force.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn settings(&self) -> Result<Settings, Error> {
        match self.control(&ControlRequest::Settings, self.deadline()).await? {
            ControlReply::Settings(settings) => Ok(settings),
            other => Err(senseless(&other)),
        }
    }

    /// Changes a setting. `value` is as an operator writes it: a whole number in the setting's unit. How many replicas
    /// a partition has (`replicas.s0`) is changed as [`Client::scale`] does it, and waited for.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason if there is no such setting or it cannot have that value, and if others
    /// change settings all the time; see [`Error`].
    pub async fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        // What is no number at all the manager refuses in its own words, below.
        if let (Some(partition), Ok(replicas)) = (partition_of_replicas(name), parse_value(name, value)) {
            return self.scale(partition, u16::try_from(replicas).unwrap_or(u16::MAX)).await;
        }
        let deadline = self.deadline();
        let mut tries = 0;
        loop {
            let seen = match self.control(&ControlRequest::Settings, deadline).await? {
                ControlReply::Settings(settings) => settings.version,
                other => return Err(senseless(&other)),
            };
            let order = ControlRequest::Set { name: name.to_owned(), value: value.to_owned(), version: seen };
            match self.control(&order, deadline).await {
                Ok(ControlReply::Done) => return Ok(()),
                Ok(other) => return Err(senseless(&other)),
                Err(error) => {
                    tries += 1;
                    let now = self.control(&ControlRequest::Settings, deadline).await?;
                    let has_changed = matches!(&now, ControlReply::Settings(now) if now.version != seen);
                    if tries >= SET_TRIES_MAX || !has_changed {
                        return Err(error);
                    }
                    tokio::time::sleep(Duration::from_millis(SET_PAUSE_MS)).await;
                }
            }
        }
    }

    /// At most `limit` of the events after number `after`, oldest first; as many as fit into an answer.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn events(&self, after: u64, limit: u32) -> Result<Events, Error> {
        match self.control(&ControlRequest::Events { after, limit }, self.deadline()).await? {
            ControlReply::Events(events) => Ok(events),
            other => Err(senseless(&other)),
        }
    }

    /// Hosts with agents, and the members of each group, as the managers count them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn membership(&self) -> Result<Membership, Error> {
        self.membership_until(self.deadline()).await
    }

    pub(crate) async fn membership_until(&self, deadline: Option<Instant>) -> Result<Membership, Error> {
        match self.control(&ControlRequest::Membership, deadline).await? {
            ControlReply::Membership(membership) => Ok(membership),
            other => Err(senseless(&other)),
        }
    }

    pub(crate) async fn kinds_until(&self, deadline: Option<Instant>) -> Result<Vec<GroupKind>, Error> {
        match self.control(&ControlRequest::Kinds, deadline).await? {
            ControlReply::Kinds(kinds) => Ok(kinds),
            other => Err(senseless(&other)),
        }
    }

    pub(crate) async fn services_until(&self, deadline: Option<Instant>) -> Result<Vec<GroupService>, Error> {
        match self.control(&ControlRequest::Services, deadline).await? {
            ControlReply::Services(services) => Ok(services),
            other => Err(senseless(&other)),
        }
    }

    pub(crate) async fn control(
        &self,
        request: &ControlRequest,
        deadline: Option<Instant>,
    ) -> Result<ControlReply, Error> {
        let bytes = request.encode();
        let managers = &self.shared.router.managers;
        let mut exchange = Exchange::new(&self.shared.context, managers, deadline);
        let answer = match exchange.run(0, &|| ClientRequest::Control(bytes.clone())).await {
            Ok(Final::Answer(parts)) => parts.last().cloned().unwrap_or_else(Bytes::new),
            Ok(Final::Response(other)) => return Err(refusal(other, exchange.may_have_happened())),
            Err(late) => return Err(self.failure(late.into(), exchange.may_have_happened())),
        };
        match ControlReply::decode(&answer).map_err(|what| Error::BadAnswer { what })? {
            ControlReply::Refused(reason) => Err(Error::Refused { reason, may_have_happened: false }),
            reply => Ok(reply),
        }
    }
}

fn senseless(reply: &ControlReply) -> Error {
    Error::BadAnswer { what: format!("{reply:?}") }
}
