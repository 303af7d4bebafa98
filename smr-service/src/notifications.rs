//! Notifications: what a state machine tells those who listen, numbered from 1, each once and in order.
//!
//! A [`NotificationLog`] is a part of the replicated state: `apply` of a state machine emits into it. So every replica
//! gives a notification the same number, and none is lost or told twice when another one leads. A subscriber names the
//! number that it wants next, at whatever replica applies what is committed: one that lags has less, never something
//! else. Its [`Subscription`] passes over what it has seen, and so it may ask several replicas, or one again, as it
//! likes.
//!
//! A bounded number is kept. Whoever asks for an older one hears [`Batch::Compacted`], and knows that it has missed
//! something: nothing is left out without a word.
//!
//! Where the state itself must not grow by its notifications, they are kept beside it: [`recent`].

pub mod recent;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Notifications that are kept, shared and dropped together.
const BLOCK_NOTIFICATIONS: u64 = 256;
/// The longest notification, in bytes.
pub const NOTIFICATION_MAX_BYTES: usize = 64 << 10;

/// The notifications of a state machine.
///
/// How many are kept is a part of what the state machine *is*: replicas of builds that differ in it differ in their
/// states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationLog {
    /// All but the last one are full. Shared with images.
    blocks: VecDeque<Arc<Vec<Bytes>>>,
    /// The number of the first one that is kept. A block begins with it.
    oldest: u64,
    blocks_max: usize,
}

/// What a subscriber hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Batch {
    /// Notifications in a row; none if there are no newer ones yet.
    Notifications {
        /// The number of the first one.
        first: u64,
        /// The notifications.
        items: Vec<Bytes>,
    },
    /// The one that was asked for is not kept any more.
    Compacted {
        /// The number of the oldest one that is.
        oldest: u64,
    },
}

impl NotificationLog {
    /// An empty log that keeps the last `kept` notifications at least, and up to one block more.
    pub fn new(kept: u64) -> NotificationLog {
        let blocks_max = usize::try_from(kept.div_ceil(BLOCK_NOTIFICATIONS) + 1).unwrap_or(usize::MAX);
        NotificationLog { blocks: VecDeque::new(), oldest: 1, blocks_max }
    }

    /// The number of the oldest one that is kept, or will be.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The number that the next one gets.
    pub fn next(&self) -> u64 {
        let full = self.blocks.len().saturating_sub(1) as u64 * BLOCK_NOTIFICATIONS;
        self.oldest + full + self.blocks.back().map_or(0, |last| last.len() as u64)
    }

    /// Appends a notification, and returns its number. Drops the oldest ones if too many are kept.
    ///
    /// # Panics
    /// If it is longer than [`NOTIFICATION_MAX_BYTES`].
    pub fn emit(&mut self, notification: impl Into<Bytes>) -> u64 {
        let notification = notification.into();
        let len = notification.len();
        assert!(len <= NOTIFICATION_MAX_BYTES, "a notification of {len} bytes");
        let number = self.next();
        match self.blocks.back_mut() {
            Some(last) if (last.len() as u64) < BLOCK_NOTIFICATIONS => Arc::make_mut(last).push(notification),
            _ => self.blocks.push_back(Arc::new(vec![notification])),
        }
        while self.blocks.len() > self.blocks_max {
            self.blocks.pop_front();
            self.oldest += BLOCK_NOTIFICATIONS;
        }
        number
    }

    /// What follows from number `from` on: at most `count_max` notifications, and no more after `bytes_max` bytes.
    pub fn batch(&self, from: u64, count_max: usize, bytes_max: usize) -> Batch {
        if from < self.oldest {
            return Batch::Compacted { oldest: self.oldest };
        }
        let skipped = from - self.oldest;
        let block = usize::try_from(skipped / BLOCK_NOTIFICATIONS).unwrap_or(usize::MAX);
        let within = (skipped % BLOCK_NOTIFICATIONS) as usize; // below BLOCK_NOTIFICATIONS
        let mut bytes = 0;
        let items = self.blocks.iter().skip(block).flat_map(|block| block.iter()).skip(within).take(count_max);
        let items = items.take_while(|item| {
            let fits = bytes < bytes_max;
            bytes += item.len();
            fits
        });
        Batch::Notifications { first: from, items: items.cloned().collect() }
    }

    /// Writes what is kept, for an image of the state.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn write(&self, output: &mut dyn Write) -> io::Result<()> {
        output.write_all(&self.oldest.to_le_bytes())?;
        output.write_all(&(self.next() - self.oldest).to_le_bytes())?;
        for item in self.blocks.iter().flat_map(|block| block.iter()) {
            output.write_all(&(item.len() as u64).to_le_bytes())?;
            output.write_all(item)?;
        }
        Ok(())
    }

    /// Reads what [`NotificationLog::write`] wrote, into a log that keeps as many.
    ///
    /// # Errors
    /// Those of `input`, or if it holds something else.
    pub fn read(kept: u64, input: &mut dyn Read) -> io::Result<NotificationLog> {
        let malformed = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("notifications: {what}"));
        let mut log = NotificationLog::new(kept);
        let (oldest, count) = (read_u64(input)?, read_u64(input)?);
        if oldest % BLOCK_NOTIFICATIONS != 1 || oldest > u64::MAX / 2 {
            return Err(malformed("a block begins elsewhere"));
        }
        log.oldest = oldest;
        for _ in 0..count {
            let len = usize::try_from(read_u64(input)?).unwrap_or(usize::MAX);
            if len > NOTIFICATION_MAX_BYTES {
                return Err(malformed("one is too long"));
            }
            let mut item = vec![0; len];
            input.read_exact(&mut item)?;
            log.emit(item);
        }
        if log.oldest != oldest {
            return Err(malformed("there are more of them than are kept"));
        }
        Ok(log)
    }
}

fn read_u64(input: &mut dyn Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// What a subscriber has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    next: u64,
}

/// Why a subscriber cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missed {
    /// It came back too late.
    #[error("notification {wanted} was compacted; the oldest one that is kept is {oldest}")]
    Compacted {
        /// What it has to hear next.
        wanted: u64,
        /// The oldest one that there is.
        oldest: u64,
    },
    /// What came is not what was asked for: a bug of whoever sent it.
    #[error("notification {wanted} is left out: number {got} came instead")]
    LeftOut {
        /// What it has to hear next.
        wanted: u64,
        /// What came.
        got: u64,
    },
}

impl Subscription {
    /// One that has to hear number `next` next.
    pub fn from(next: u64) -> Subscription {
        Subscription { next }
    }

    /// The number to ask for.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes in an answer, from whichever replica and however late: the notifications that are new, with their
    /// numbers.
    ///
    /// # Errors
    /// If one would be left out. Nothing was taken in then.
    pub fn take(&mut self, batch: Batch) -> Result<Vec<(u64, Bytes)>, Missed> {
        let wanted = self.next;
        match batch {
            // An answer to a question of long ago.
            Batch::Compacted { oldest } if oldest <= wanted => Ok(Vec::new()),
            Batch::Compacted { oldest } => Err(Missed::Compacted { wanted, oldest }),
            Batch::Notifications { first, items } if first > wanted && !items.is_empty() => {
                Err(Missed::LeftOut { wanted, got: first })
            }
            Batch::Notifications { first, items } => {
                let new: Vec<_> = (first..).zip(items).filter(|(number, _)| *number >= wanted).collect();
                self.next += new.len() as u64;
                Ok(new)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: u64 = 2 * BLOCK_NOTIFICATIONS;

    fn log(count: u64) -> NotificationLog {
        let mut log = NotificationLog::new(KEPT);
        for number in 1..=count {
            assert_eq!(log.emit(number.to_string()), number);
        }
        log
    }

    fn texts(batch: Batch) -> (u64, Vec<String>) {
        let Batch::Notifications { first, items } = batch else { panic!("{batch:?}") };
        (first, items.iter().map(|item| String::from_utf8_lossy(item).into_owned()).collect())
    }

    #[test]
    fn batch_begins_where_it_is_asked_for_and_is_bounded() {
        let log = log(300);
        assert_eq!(texts(log.batch(255, 4, 1000)), (255, ["255", "256", "257", "258"].map(str::to_owned).to_vec()));
        assert_eq!(texts(log.batch(299, 100, 1000)).1.len(), 2);
        assert_eq!(texts(log.batch(301, 100, 1000)), (301, vec![]), "nothing new");
        assert_eq!(texts(log.batch(9_999, 100, 1000)).1.len(), 0, "this replica lags");
        // One that is larger than the limit still comes, alone.
        assert_eq!(texts(log.batch(100, 100, 1)).1, ["100"]);
        assert_eq!(texts(log.batch(100, 100, 4)).1, ["100", "101"]);
    }

    #[test]
    fn old_ones_are_compacted_by_blocks_and_that_is_said() {
        for count in [KEPT, KEPT + BLOCK_NOTIFICATIONS, KEPT + BLOCK_NOTIFICATIONS + 1, 10_000] {
            let log = log(count);
            assert!(log.next() - log.oldest() >= KEPT.min(count), "{count}");
            assert!(log.next() - log.oldest() <= KEPT + BLOCK_NOTIFICATIONS, "{count}");
            assert_eq!(texts(log.batch(log.oldest(), 1, 1000)).1, [log.oldest().to_string()]);
            let before = log.oldest() - 1;
            assert_eq!(log.batch(before, 1, 1000), Batch::Compacted { oldest: log.oldest() });
        }
    }

    #[test]
    fn read_after_write_is_the_same_log_and_goes_on_alike() {
        for count in [0, 1, 255, 256, 257, 1_000, 1_025] {
            let mut log = log(count);
            let mut bytes = Vec::new();
            log.write(&mut bytes).unwrap();
            let mut read = NotificationLog::read(KEPT, &mut &bytes[..]).unwrap();
            assert_eq!(read, log, "{count}");
            for _ in 0..600 {
                log.emit("x");
                read.emit("x");
            }
            assert_eq!((read.oldest(), read), (log.oldest(), log), "{count}");
            for cut in 0..bytes.len().min(200) {
                assert!(NotificationLog::read(KEPT, &mut &bytes[..cut]).is_err(), "{count} cut at {cut}");
            }
        }
    }

    #[test]
    fn read_senseless_bytes_are_refused_without_room_for_what_they_claim() {
        let bytes = |oldest: u64, count: u64, len: u64| [oldest, count, len].map(u64::to_le_bytes).concat();
        for senseless in [bytes(0, 0, 0), bytes(2, 0, 0), bytes(1, 1, u64::MAX), bytes(1, u64::MAX, 1 << 40)] {
            assert!(NotificationLog::read(KEPT, &mut &senseless[..]).is_err());
        }
        let mut many = bytes(1, 5 * BLOCK_NOTIFICATIONS, 0);
        many.resize(16 + 8 * 5 * BLOCK_NOTIFICATIONS as usize, 0);
        assert!(NotificationLog::read(KEPT, &mut &many[..]).is_err(), "more than are kept");
    }

    #[test]
    fn subscription_hears_each_once_in_order_whatever_comes_twice_or_late() {
        let log = log(20);
        let mut subscription = Subscription::from(1);
        let mut heard = Vec::new();
        for (from, count) in [(1, 5), (1, 5), (3, 6), (1, 2), (9, 3), (12, 100), (21, 1)] {
            heard.extend(subscription.take(log.batch(from, count, 1000)).unwrap());
        }
        let expected: Vec<_> = (1..=20).map(|number: u64| (number, Bytes::from(number.to_string()))).collect();
        assert_eq!((heard, subscription.next()), (expected, 21));
    }

    #[test]
    fn subscription_says_what_it_would_miss_and_takes_nothing_in() {
        let mut subscription = Subscription::from(5);
        let left_out = subscription.take(log(20).batch(6, 3, 1000));
        assert_eq!(left_out, Err(Missed::LeftOut { wanted: 5, got: 6 }));
        let compacted = subscription.take(log(5_000).batch(5, 3, 1000));
        assert!(matches!(compacted, Err(Missed::Compacted { wanted: 5, oldest: 4_000.. })), "{compacted:?}");
        assert_eq!(subscription.take(Batch::Compacted { oldest: 3 }), Ok(Vec::new()), "said long ago");
        assert_eq!(subscription.take(Batch::Notifications { first: 9, items: Vec::new() }), Ok(Vec::new()));
        assert_eq!(subscription.next(), 5);
    }
}
