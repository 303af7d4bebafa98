//! Where an exchange hears what became of its copies.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use crate::client::lock;
use crate::frames::Body;

/// What became of a copy.
#[derive(Debug)]
pub enum Event<M> {
    /// An answer came.
    Reply(Body<M>),
    /// The connection ended before an answer came.
    Broken {
        /// Whether the copy may have reached the other side.
        sent: bool,
    },
}

/// An event and the copy that it concerns.
#[derive(Debug)]
pub struct Mail<M> {
    /// The copy, by the number that its exchange gave it.
    pub copy: u32,
    /// The event.
    pub event: Event<M>,
}

/// A queue with one reader. Each copy posts once, except for the parts of a SCAN, which its reader collects anyway; so
/// the queue needs no bound of its own.
pub struct Mailbox<M> {
    queue: Mutex<VecDeque<Mail<M>>>,
    wake: Notify,
}

impl<M> Default for Mailbox<M> {
    fn default() -> Mailbox<M> {
        Mailbox { queue: Mutex::default(), wake: Notify::new() }
    }
}

impl<M> Mailbox<M> {
    pub(crate) fn post(&self, copy: u32, event: Event<M>) {
        lock(&self.queue).push_back(Mail { copy, event });
        self.wake.notify_one();
    }

    /// The next mail. Cancelling loses none.
    pub async fn receive(&self) -> Mail<M> {
        loop {
            if let Some(mail) = lock(&self.queue).pop_front() {
                return mail;
            }
            self.wake.notified().await;
        }
    }
}
