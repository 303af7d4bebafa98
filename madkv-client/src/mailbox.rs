//! Where an exchange hears what became of its copies.

use std::collections::VecDeque;
use std::sync::Mutex;

use madkv_api::frames::Body;
use tokio::sync::Notify;

use crate::lock;

/// What became of a copy.
#[derive(Debug)]
pub(crate) enum Event {
    /// An answer came.
    Reply(Body),
    /// The connection ended before an answer came.
    Broken {
        /// Whether the copy may have reached the other side.
        sent: bool,
    },
}

/// An event and the copy that it concerns.
#[derive(Debug)]
pub(crate) struct Mail {
    /// The copy, by the number that its exchange gave it.
    pub(crate) copy: u32,
    pub(crate) event: Event,
}

/// A queue with one reader. Each copy posts once, except for the parts of a SCAN, which its reader collects anyway; so
/// the queue needs no bound of its own.
#[derive(Default)]
pub(crate) struct Mailbox {
    queue: Mutex<VecDeque<Mail>>,
    wake: Notify,
}

impl Mailbox {
    pub(crate) fn post(&self, copy: u32, event: Event) {
        lock(&self.queue).push_back(Mail { copy, event });
        self.wake.notify_one();
    }

    /// The next mail. Cancelling loses none.
    pub(crate) async fn receive(&self) -> Mail {
        loop {
            if let Some(mail) = lock(&self.queue).pop_front() {
                return mail;
            }
            self.wake.notified().await;
        }
    }
}
