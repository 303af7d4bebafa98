//! Connections of which no one knows yet who is at the other end.
//!
//! They share a small number of places, apart from those of everyone who is known. When all are taken a newcomer takes
//! the place of the one that has been there longest, among those from the host that has most of them here. So a crowd
//! that connects and says nothing keeps out only its own (fault catalogue B31, B32): whoever says at once who he is has
//! left the lobby long before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The places for connections of strangers, and who has them.
#[derive(Debug)]
pub struct Lobby {
    places_max: usize,
    guests: Mutex<Guests>,
}

#[derive(Debug, Default)]
struct Guests {
    /// In the order of coming.
    present: BTreeMap<u64, (Option<IpAddr>, Arc<Notify>)>,
    next: u64,
}

/// A place in the lobby, until dropped.
#[derive(Debug)]
pub struct Guest {
    lobby: Arc<Lobby>,
    number: u64,
    shown_out: Arc<Notify>,
}

impl Lobby {
    /// A lobby with this many places, at least one.
    pub fn new(places_max: usize) -> Arc<Lobby> {
        Arc::new(Lobby { places_max: places_max.max(1), guests: Mutex::default() })
    }

    /// Someone comes in, `from` that host; perhaps another one has to leave for it.
    pub fn enter(self: &Arc<Lobby>, from: Option<IpAddr>) -> Guest {
        let mut guests = self.lock();
        if guests.present.len() >= self.places_max {
            guests.show_one_out();
        }
        let number = guests.next;
        guests.next += 1;
        let shown_out = Arc::new(Notify::new());
        guests.present.insert(number, (from, Arc::clone(&shown_out)));
        drop(guests);
        Guest { lobby: Arc::clone(self), number, shown_out }
    }

    /// How many are there.
    pub fn len(&self) -> usize {
        self.lock().present.len()
    }

    /// Whether no one is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn show_one_out(&mut self) {
        let mut counts: BTreeMap<Option<IpAddr>, usize> = BTreeMap::new();
        for (from, _) in self.present.values() {
            *counts.entry(*from).or_default() += 1;
        }
        let most = counts.values().copied().max();
        let longest = self.present.iter().find(|(_, (from, _))| counts.get(from).copied() == most);
        if let Some(number) = longest.map(|(number, _)| *number)
            && let Some((_, shown_out)) = self.present.remove(&number)
        {
            shown_out.notify_one();
        }
    }
}

impl Guest {
    /// Waits until the place is another one's.
    pub async fn shown_out(&self) {
        self.shown_out.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.lobby.lock().present.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_shown_out(guest: &Guest) -> bool {
        !guest.lobby.lock().present.contains_key(&guest.number)
    }

    fn host(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    // covers B31, B32
    #[test]
    fn enter_full_lobby_shows_out_the_longest_of_the_host_with_most() {
        let lobby = Lobby::new(4);
        let peer = lobby.enter(host(1));
        let crowd: Vec<Guest> = (0..3).map(|_| lobby.enter(host(2))).collect();
        let more: Vec<Guest> = (0..100).map(|_| lobby.enter(host(2))).collect();
        assert_eq!(lobby.len(), 4);
        assert!(!is_shown_out(&peer), "the crowd drives out its own");
        assert!(crowd.iter().all(is_shown_out));
        assert_eq!(more.iter().filter(|guest| !is_shown_out(guest)).count(), 3);
        drop(more);
        assert_eq!(lobby.len(), 1);
        drop((peer, crowd));
        assert!(lobby.is_empty());
    }

    // covers B31
    #[tokio::test]
    async fn shown_out_hears_of_it_and_a_place_that_was_left_is_free() {
        let lobby = Lobby::new(1);
        let first = lobby.enter(None);
        let second = lobby.enter(None);
        first.shown_out().await;
        drop(first);
        assert_eq!(lobby.len(), 1, "its place was the second one's");
        drop(second);
        let third = lobby.enter(None);
        assert!(!is_shown_out(&third));
    }
}
