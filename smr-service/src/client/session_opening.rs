//! Opens a group's session, once however many writes want one.

use std::sync::Arc;

use tokio::time::Instant;

use crate::client::exchange::{Exchange, Failure, Final};
use crate::client::group::Group;
use crate::client::session::Session;
use crate::client::{Context, before};
use crate::frames::{ClientRequest, ClientResponse, Map};

impl<M: Map> Group<M> {
    /// The open session; opens one if there is none.
    pub async fn session(
        self: &Arc<Group<M>>,
        context: &Arc<Context>,
        epoch: u64,
        deadline: Option<Instant>,
    ) -> Result<Arc<Session>, Failure> {
        if let Some(session) = self.open_session() {
            return Ok(session);
        }
        let _opening = before(deadline, self.session_opening.lock()).await?;
        if let Some(session) = self.open_session() {
            return Ok(session);
        }
        // Opened twice is harmless: the one whose answer got lost is never used, and evicted some day. But it takes the
        // place of another, so a slow answer must not cost one session after the other.
        let mut exchange = Exchange::new(context, self, deadline).repeats_count();
        match exchange.run(epoch, &|| ClientRequest::OpenSession).await? {
            Final::Response(ClientResponse::SessionOpened(client)) => {
                let session = Arc::new(Session::new(client));
                self.keep_session(&session);
                Ok(session)
            }
            Final::Response(ClientResponse::Refused(reason)) => Err(Failure::Refused(reason)),
            other => Err(Failure::Senseless(format!("{other:?} to OpenSession"))),
        }
    }
}
