//! Clients, and the judgement on what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::Bytes;
use smr::protocol::Time;
use smr::replica::{ClientId, Outcome, ReplySink, Request};

use crate::cluster::Cluster;
use crate::registers::swap;

/// How many registers there are.
const REGISTERS: u64 = 2;
/// Tags from here on are not the clients'.
pub(crate) const OPERATOR: u64 = 1 << 62;

/// Outcomes, by the request's tag.
#[derive(Default)]
pub(crate) struct Mailbox(pub(crate) Mutex<Vec<(u64, Outcome)>>);

impl ReplySink for Mailbox {
    fn deliver(&self, tag: u64, outcome: Outcome) {
        self.0.lock().unwrap().push((tag, outcome));
    }

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        panic!("no scans in this test");
    }
}

/// Somebody who swaps one unique value after the other and repeats each until it has the answer, or reads all the time.
#[derive(Default)]
struct Client {
    reads: bool,
    session: Option<ClientId>,
    number: u64,
    register: u8,
    value: u64,
    /// When the operation was begun, whatever came of the first tries.
    began_at: Option<Time>,
    /// When the present try was begun; `None` between two.
    asked_at: Option<Time>,
    next_at: Time,
    /// Answers to older tries are told apart by the tag.
    tries: u64,
}

/// An operation as a client saw it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    register: u8,
    /// What was read, or what was there before the swap.
    found: u64,
    /// What the swap put there.
    put: Option<u64>,
    began_at: Time,
    ended_at: Time,
}

#[derive(Default)]
pub(crate) struct Workload {
    clients: Vec<Client>,
    seen: Vec<Vec<Seen>>,
    stopping: bool,
    /// Outcomes that are not for clients.
    pub(crate) operator: Vec<Outcome>,
}

impl Workload {
    pub(crate) fn new(writers: u64, readers: u64) -> Workload {
        let client = |number: u64| Client {
            reads: number >= writers,
            number: 1,
            value: (number + 1) * 1_000_000,
            ..Client::default()
        };
        let clients: Vec<Client> = (0..writers + readers).map(client).collect();
        Workload { seen: vec![Vec::new(); clients.len()], clients, ..Workload::default() }
    }

    /// How many operations each client has done.
    pub(crate) fn done(&self) -> Vec<usize> {
        self.seen.iter().map(Vec::len).collect()
    }

    /// When the last write was acknowledged.
    pub(crate) fn last_write_at(&self) -> Time {
        let writes = self.seen.iter().flatten().filter(|seen| seen.put.is_some());
        writes.map(|seen| seen.ended_at).max().unwrap_or_default()
    }

    /// Operations under way are ended, no new ones are begun.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.clients.iter().all(|client| client.began_at.is_none())
    }

    /// Takes in what has arrived, and asks for more.
    pub(crate) fn serve(&mut self, cluster: &mut Cluster) {
        for (tag, outcome) in cluster.take_outcomes() {
            if tag >= OPERATOR {
                self.operator.push(outcome);
            } else {
                let pause_us = cluster.draw(12_000);
                self.take(tag, outcome, cluster.now, pause_us);
            }
        }
        for number in 0..self.clients.len() {
            let target = cluster.draw(cluster.machines.len() as u64) as usize;
            let patience_us = 300_000 + cluster.draw(300_000);
            let client = &mut self.clients[number];
            let waits = client.asked_at.is_some_and(|at| cluster.now.since_us(at) < patience_us);
            if waits || cluster.now < client.next_at || (self.stopping && client.began_at.is_none()) {
                continue;
            }
            client.tries += 1;
            let tag = (number as u64) << 32 | client.tries;
            let request = match client.session {
                _ if client.reads => Request::Read { query: vec![client.register].into() },
                None => Request::OpenSession,
                Some(session) => Request::Write {
                    client: session,
                    number: client.number,
                    lowest_unanswered: client.number,
                    command: swap(client.register, client.value).into(),
                },
            };
            // A read that was not answered is over; another one begins.
            if client.began_at.is_none() || client.reads {
                client.began_at = Some(cluster.now);
            }
            client.asked_at = Some(cluster.now);
            if !cluster.ask(target, request, tag) {
                let client = &mut self.clients[number];
                client.asked_at = None;
                client.next_at = cluster.now.plus_us(5_000);
            }
        }
    }

    fn take(&mut self, tag: u64, outcome: Outcome, now: Time, pause_us: u64) {
        let number = (tag >> 32) as usize;
        let client = &mut self.clients[number];
        if tag & 0xffff_ffff != client.tries || client.asked_at.is_none() {
            return;
        }
        client.asked_at = None;
        client.next_at = now.plus_us(pause_us);
        match outcome {
            Outcome::SessionOpened(session) => {
                client.session = Some(session);
                client.began_at = None;
            }
            Outcome::Answer(answer) => {
                let found = u64::from_le_bytes(answer[..].try_into().unwrap());
                let put = (!client.reads).then_some(client.value);
                let Some(began_at) = client.began_at.take() else { panic!("client {number} asked for nothing") };
                self.seen[number].push(Seen { register: client.register, found, put, began_at, ended_at: now });
                client.number += 1;
                client.value += 1;
                client.register = (client.value % REGISTERS) as u8;
            }
            Outcome::NotLeader(_) | Outcome::Unknown | Outcome::Busy { .. } => {}
            other => panic!("client {number} got {other:?}"),
        }
    }

    /// Once nothing is under way: the swaps of a register form one chain, and every operation has its place in it between
    /// its beginning and its end (I12, I13, I14).
    pub(crate) fn check(&self, seed: u64) {
        let all: Vec<Seen> = self.seen.iter().flatten().copied().collect();
        for register in 0..REGISTERS as u8 {
            let operations: Vec<Seen> = all.iter().copied().filter(|seen| seen.register == register).collect();
            if let Err(why) = judge(&operations) {
                panic!("seed {seed}, register {register}: {why}");
            }
        }
    }
}

fn judge(operations: &[Seen]) -> Result<(), String> {
    let mut after: BTreeMap<u64, u64> = BTreeMap::new();
    for (found, put) in operations.iter().filter_map(|seen| seen.put.map(|put| (seen.found, put))) {
        if let Some(other) = after.insert(found, put) {
            return Err(format!("{found} was replaced by {put} and by {other}"));
        }
    }
    let mut places: BTreeMap<u64, u64> = BTreeMap::from([(0, 0)]);
    let mut last = 0;
    while let Some(next) = after.get(&last) {
        last = *next;
        if places.insert(last, places.len() as u64).is_some() {
            return Err(format!("{last} comes twice"));
        }
    }
    let lost: BTreeSet<u64> = after.values().copied().filter(|put| !places.contains_key(put)).collect();
    if !lost.is_empty() {
        return Err(format!("the chain ends with {last}; acknowledged and not in it: {lost:?}"));
    }
    // In real time places never fall: what begins after something has ended is behind it.
    let mut placed = Vec::new();
    for seen in operations {
        let place = places.get(&seen.put.unwrap_or(seen.found)).copied();
        placed.push((place.ok_or_else(|| format!("nobody wrote what {seen:?} read"))?, *seen));
    }
    let mut by_end = placed.clone();
    by_end.sort_by_key(|(_, seen)| seen.ended_at);
    placed.sort_by_key(|(_, seen)| seen.began_at);
    let mut ended = by_end.iter().peekable();
    let mut furthest: Option<(u64, Seen)> = None;
    for (place, seen) in placed {
        while let Some((place, before)) = ended.next_if(|(_, before)| before.ended_at < seen.began_at) {
            if furthest.is_none_or(|(most, _)| most < *place) {
                furthest = Some((*place, *before));
            }
        }
        if let Some((most, before)) = furthest {
            let in_order = if seen.put.is_some() { place > most } else { place >= most };
            if !in_order {
                return Err(format!("{seen:?} began after {before:?} had ended, and yet comes before it"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swapped(found: u64, put: u64, began: u64, ended: u64) -> Seen {
        Seen { register: 0, found, put: Some(put), began_at: Time(began), ended_at: Time(ended) }
    }

    fn read(found: u64, began: u64, ended: u64) -> Seen {
        Seen { put: None, ..swapped(found, 0, began, ended) }
    }

    #[test]
    fn judge_knows_good_histories_from_bad_ones() {
        let swaps = [swapped(0, 1, 0, 10), swapped(1, 2, 5, 20)];
        let with = |read: Seen| judge(&[swaps[0], swaps[1], read]);
        assert_eq!(with(read(1, 12, 15)), Ok(()));
        assert_eq!(with(read(2, 12, 15)), Ok(()), "concurrent with the swap");
        assert_eq!(with(read(0, 0, 3)), Ok(()));
        assert!(with(read(0, 12, 15)).is_err(), "stale");
        assert!(with(read(1, 21, 25)).is_err(), "stale");
        assert!(with(read(7, 1, 2)).is_err(), "never written");
        assert!(judge(&[swapped(0, 1, 0, 1), swapped(0, 2, 2, 3)]).is_err(), "lost");
        assert!(judge(&[swapped(0, 1, 0, 1), swapped(5, 2, 2, 3)]).is_err(), "a gap");
        assert!(judge(&[swapped(0, 1, 5, 6), swapped(1, 2, 0, 3)]).is_err(), "out of order");
        assert!(judge(&[swaps[0], swaps[1], read(2, 12, 13), read(1, 14, 15)]).is_err(), "reads go back");
    }
}
