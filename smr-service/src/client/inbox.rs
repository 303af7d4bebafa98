//! Where a request hears what becomes of its copies. A queue takes some room, and lasts: requests of a group use it one
//! after the other.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use tokio::sync::mpsc;

use crate::client::connection::{CopyEvent, EventSender};
use crate::client::limits::IDLE_INBOXES_MAX;
use crate::client::lock;

/// A queue of events, and the numbers of the copies that they are about.
pub(crate) struct Inbox<M> {
    pub(super) sender: EventSender<M>,
    pub(super) events: mpsc::UnboundedReceiver<CopyEvent<M>>,
    /// The number of the next copy. It goes on from request to request, so that no one takes what comes late, about
    /// another's copy, for its own.
    pub(super) next_copy: u32,
}

/// Those that no request uses.
pub(crate) struct Inboxes<M>(Mutex<Vec<Inbox<M>>>);

/// One in use; goes back when dropped.
pub(crate) struct LentInbox<'g, M> {
    inboxes: &'g Inboxes<M>,
    /// `None` only while it is dropped.
    inbox: Option<Inbox<M>>,
}

impl<M> Inboxes<M> {
    /// None yet.
    pub(crate) fn new() -> Inboxes<M> {
        Inboxes(Mutex::new(Vec::new()))
    }

    /// One for a request.
    pub(crate) fn lend(&self) -> LentInbox<'_, M> {
        let idle = lock(&self.0).pop();
        let new = || {
            let (sender, events) = mpsc::unbounded_channel();
            Inbox { sender, events, next_copy: 0 }
        };
        LentInbox { inboxes: self, inbox: Some(idle.unwrap_or_else(new)) }
    }
}

impl<M> Deref for LentInbox<'_, M> {
    type Target = Inbox<M>;

    fn deref(&self) -> &Inbox<M> {
        self.inbox.as_ref().unwrap_or_else(|| unreachable!("taken back while in use"))
    }
}

impl<M> DerefMut for LentInbox<'_, M> {
    fn deref_mut(&mut self) -> &mut Inbox<M> {
        self.inbox.as_mut().unwrap_or_else(|| unreachable!("taken back while in use"))
    }
}

impl<M> Drop for LentInbox<'_, M> {
    fn drop(&mut self) {
        let Some(mut inbox) = self.inbox.take() else { return };
        // Parts of an answer that no one waits for any more may be large.
        while inbox.events.try_recv().is_ok() {}
        let mut idle = lock(&self.inboxes.0);
        if idle.len() < IDLE_INBOXES_MAX {
            idle.push(inbox);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::connection::Event;

    #[test]
    fn copies_are_numbered_on_from_request_to_request_so_that_late_events_are_no_ones() {
        let inboxes: Inboxes<()> = Inboxes::new();
        let mut first = inboxes.lend();
        first.next_copy = 3;
        let late = first.sender.clone();
        drop(first);
        let _ = late.send(CopyEvent { copy: 2, event: Box::new(Event::Broken { sent: true }) });
        let mut second = inboxes.lend();
        assert_eq!(second.next_copy, 3, "the second request uses the first one's queue");
        assert!(second.events.try_recv().is_ok_and(|event| event.copy < second.next_copy));
    }

    #[test]
    fn what_was_not_heard_does_not_stay_in_a_queue_that_no_one_uses() {
        let inboxes: Inboxes<()> = Inboxes::new();
        let first = inboxes.lend();
        let _ = first.sender.send(CopyEvent { copy: 0, event: Box::new(Event::Broken { sent: true }) });
        drop(first);
        assert!(inboxes.lend().events.try_recv().is_err());
    }

    #[test]
    fn queues_beyond_the_bound_are_not_kept() {
        let inboxes: Inboxes<()> = Inboxes::new();
        let lent: Vec<_> = (0..IDLE_INBOXES_MAX + 1).map(|_| inboxes.lend()).collect();
        drop(lent);
        assert_eq!(lock(&inboxes.0).len(), IDLE_INBOXES_MAX);
    }
}
