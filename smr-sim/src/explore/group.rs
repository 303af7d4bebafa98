//! A state of the whole group, what may happen in it, and what must be true of it.

use smr::entry::Term;
use smr::status::Role;

use super::local::Local;
use super::tables::{Book, EventKey, Info, Outcome, Tables, genesis, has};
use super::{Bounds, NODES, PERMUTATIONS, node};

/// The group: three nodes, what is on the wire, and the book. All by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) locals: [u32; NODES],
    pub(super) wire: u32,
    pub(super) book: u32,
}

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// The replica that it happens to.
    pub(super) replica: u8,
    /// What, see [`EventKey`].
    pub(super) key: u32,
    /// Whether a message that was delivered is still on the wire, to be delivered again.
    pub(super) doubled: bool,
}

impl Move {
    fn is_delivery(self) -> bool {
        self.key & !EventKey::ARGUMENT == 0
    }
}

/// A move that broke an invariant.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) by: Move,
    pub(super) what: String,
}

/// Counts of what happened on the way, to see that an exploration is not empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Situations {
    /// Transitions in which a node won an election.
    pub elections: u64,
    /// ... in which an entry was committed that never was before.
    pub commits: u64,
    /// ... that led to two leaders of different terms at once.
    pub rival_leaders: u64,
    /// ... in which a log in memory lost entries while the node kept running.
    pub truncations: u64,
    /// ... in which a crash lost parts of writes.
    pub lossy_crashes: u64,
    /// ... in which more was sent than the wire takes, and something was lost.
    pub overflows: u64,
}

impl Group {
    /// Where everything begins: three founding members that have not spoken yet.
    pub(super) fn first(tables: &mut Tables) -> Group {
        let genesis = genesis();
        let locals = std::array::from_fn(|replica| tables.local_number(Local::founding(node(replica as u8), &genesis)));
        let book = tables.book_number(Book::new());
        Group { locals, wire: tables.wire_number(&mut []), book }
    }

    /// The smallest of the states that differ from this one in nothing but the nodes' names: one stands for all.
    pub(super) fn canonical(&self, tables: &mut Tables) -> Group {
        let mut best: Option<Group> = None;
        for (position, permutation) in PERMUTATIONS.iter().enumerate() {
            let mut locals = [0; NODES];
            for (replica, local) in self.locals.iter().enumerate() {
                locals[usize::from(permutation[replica])] = tables.renamed_local(*local, position);
            }
            if best.as_ref().is_some_and(|best| locals > best.locals) {
                continue;
            }
            let (wire, book) = (tables.renamed_wire(self.wire, position), tables.renamed_book(self.book, position));
            let group = Group { locals, wire, book };
            if best.is_none_or(|best| group < best) {
                best = Some(group);
            }
        }
        best.unwrap_or(*self)
    }

    /// All that may happen next, and what it leads to.
    ///
    /// # Errors
    /// The first move that breaks an invariant.
    pub(super) fn successors(
        &self,
        bounds: &Bounds,
        tables: &mut Tables,
        situations: &mut Situations,
        found: &mut Vec<(Move, Group)>,
    ) -> Result<(), Broken> {
        found.clear();
        for replica in 0..NODES {
            self.successors_at(replica, bounds, tables, situations, found)?;
        }
        Ok(())
    }

    fn successors_at(
        &self,
        replica: usize,
        bounds: &Bounds,
        tables: &mut Tables,
        situations: &mut Situations,
        found: &mut Vec<(Move, Group)>,
    ) -> Result<(), Broken> {
        let local = self.locals[replica];
        let Info { role, term, parts, writes, .. } = *tables.info(local);
        let Book { crashes, proposals, duplicates, .. } = *tables.book(self.book);
        let mut go = |key: u32, doubled: bool, tables: &mut Tables| {
            let by = Move { replica: replica as u8, key, doubled };
            self.go(by, bounds, tables, situations, found).map_err(|what| Broken { by, what })
        };
        for position in 0..tables.wire(self.wire).len() {
            let message = tables.wire(self.wire)[position];
            if tables.receiver(message) == replica {
                go(message, false, tables)?;
                if bounds.messages.is_some() && duplicates < bounds.duplicates {
                    go(message, true, tables)?;
                }
            }
        }
        if writes {
            go(EventKey::SYNC, false, tables)?;
        }
        if crashes < bounds.crashes {
            for kept in 0..=parts {
                go(EventKey::CRASH | kept as u32, false, tables)?;
            }
        }
        if role == Role::Leader {
            if bounds.messages.is_some() || bounds.reminders {
                go(EventKey::HEARTBEAT, false, tables)?;
            }
            go(EventKey::SILENCE, false, tables)?;
            if proposals < bounds.entries {
                go(EventKey::PROPOSE | u32::from(proposals + 1), false, tables)?;
            }
            return Ok(());
        }
        // Term 1 is that of the founding.
        if term <= u64::from(bounds.terms) {
            go(EventKey::TIME_OUT, false, tables)?;
        }
        if bounds.abstract_pre_vote {
            let latest = self.locals.iter().map(|local| tables.info(*local).durable_term).max().unwrap_or(term);
            for later in term + 1..=latest {
                go(EventKey::REFUSED | later as u32, false, tables)?;
            }
        }
        Ok(())
    }

    fn go(
        &self,
        by: Move,
        bounds: &Bounds,
        tables: &mut Tables,
        situations: &mut Situations,
        found: &mut Vec<(Move, Group)>,
    ) -> Result<(), String> {
        // Equal messages on the wire are one.
        let consumed = by.is_delivery() && bounds.messages.is_some() && !by.doubled;
        let old = tables.wire(self.wire).iter().copied();
        let mut wire: Vec<_> = old.filter(|message| !(consumed && *message == by.key)).collect();
        let mut next = *self;
        next.advance(by, bounds, tables, situations, &mut wire)?;
        while let Some(by) = next.sync_at_once(bounds, tables) {
            next.advance(by, bounds, tables, situations, &mut wire)?;
        }
        wire.retain(|message| !tables.is_dead(*message, next.locals[tables.receiver(*message)]));
        let room = bounds.messages.map_or(usize::MAX, usize::from);
        if wire.len() <= room {
            next.wire = tables.wire_number(&mut wire);
            if next != *self {
                found.push((by, next));
            }
            return Ok(());
        }
        situations.overflows += 1;
        // More than the wire takes: every choice of what gets lost.
        for choice in 0u32..1 << wire.len() {
            if choice.count_ones() as usize == room {
                let kept = (0..wire.len()).filter(|position| choice & (1 << position) != 0);
                let mut kept: Vec<_> = kept.map(|position| wire[position]).collect();
                next.wire = tables.wire_number(&mut kept);
                found.push((by, next));
            }
        }
        Ok(())
    }

    /// One move: the node changes, what it sends is on the wire, and everything is checked.
    fn advance(
        &mut self,
        by: Move,
        bounds: &Bounds,
        tables: &mut Tables,
        situations: &mut Situations,
        wire: &mut Vec<u32>,
    ) -> Result<(), String> {
        let replica = usize::from(by.replica);
        let before = self.locals[replica];
        let outcome = tables.outcome(before, by.key);
        if let Some(broken) = &tables.known_outcome(outcome).broken {
            return Err(broken.clone());
        }
        self.locals[replica] = tables.known_outcome(outcome).next;
        self.check_logs(replica, before, tables)?;
        self.keep_book(by, outcome, tables, situations)?;
        self.count(by, before, outcome, tables, situations);
        // What a leader would send when its timer fires, it may have sent already.
        let leads = bounds.messages.is_none() && tables.info(self.locals[replica]).role == Role::Leader;
        let timer = leads.then(|| tables.outcome(self.locals[replica], EventKey::HEARTBEAT));
        for (outcome, is_timer) in [(Some(outcome), false), (timer, true)] {
            let Some(outcome) = outcome else { continue };
            let Outcome { sent, broken, .. } = tables.known_outcome(outcome);
            if let Some(broken) = broken {
                return Err(broken.clone());
            }
            for message in sent {
                let wanted = !is_timer || bounds.reminders || !tables.is_append(*message);
                if wanted && !wire.contains(message) {
                    wire.push(*message);
                }
            }
        }
        Ok(())
    }

    /// A write that may as well be complete: no one can crash any more, so it matters only to what its node says, which
    /// may take as long as it likes on the way. Only a leader also counts its own writes.
    fn sync_at_once(&self, bounds: &Bounds, tables: &Tables) -> Option<Move> {
        if !bounds.sync_early || bounds.messages.is_some() || tables.book(self.book).crashes < bounds.crashes {
            return None;
        }
        let ready = |local: &u32| tables.info(*local).writes && tables.info(*local).role != Role::Leader;
        let replica = self.locals.iter().position(ready)?;
        Some(Move { replica: replica as u8, key: EventKey::SYNC, doubled: false })
    }

    /// I5 for the logs of a node that has moved, in memory and on disk, and I8 for what was ever committed.
    fn check_logs(&self, replica: usize, before: u32, tables: &mut Tables) -> Result<(), String> {
        let (old, new) = (*tables.info(before), *tables.info(self.locals[replica]));
        if (old.log, old.disk) == (new.log, new.disk) {
            return Ok(());
        }
        for other in (0..NODES).filter(|other| *other != replica) {
            let theirs = *tables.info(self.locals[other]);
            for own in [new.log, new.disk] {
                tables.check_matching(own, theirs.log)?;
                tables.check_matching(own, theirs.disk)?;
            }
        }
        if old.disk != new.disk {
            self.check_durable(0, tables)?;
        }
        Ok(())
    }

    /// I8: what was committed is on the disks of a majority, and stays there. From this position of the history on.
    fn check_durable(&self, from: usize, tables: &Tables) -> Result<(), String> {
        for (entry, term) in &tables.book(self.book).history[from..] {
            let disks = self.locals.iter().filter(|local| has(tables.log(tables.info(**local).disk), entry)).count();
            if 2 * disks <= NODES {
                return Err(format!("{} was committed in {term:?}, and is on {disks} disks (I8)", entry.id));
            }
        }
        Ok(())
    }

    /// Notes who was elected, what was committed, and what is used up (I1, I6, I7, I8).
    fn keep_book(
        &mut self,
        by: Move,
        outcome: u32,
        tables: &mut Tables,
        situations: &mut Situations,
    ) -> Result<(), String> {
        let kind = by.key & !EventKey::ARGUMENT;
        let Outcome { elected, ref committed, .. } = *tables.known_outcome(outcome);
        let commits = !committed.is_empty();
        let used = kind == EventKey::CRASH || kind == EventKey::PROPOSE || by.doubled;
        if !used && elected.is_none() && !commits {
            return Ok(());
        }
        let (own, local) = (node(by.replica), self.locals[usize::from(by.replica)]);
        let info = *tables.info(local);
        let mut book = tables.book(self.book).clone();
        let known = book.history.len();
        book.crashes += u8::from(kind == EventKey::CRASH);
        book.proposals += u8::from(kind == EventKey::PROPOSE);
        book.duplicates += u8::from(by.doubled);
        if let Some(term) = elected {
            situations.elections += 1;
            book.elect(own, term, tables.log(info.log))?;
        }
        for entry in &tables.known_outcome(outcome).committed {
            if book.commit(entry, Term(info.term))? {
                situations.commits += 1;
            }
        }
        let news = book.history.len() > known;
        if !(used || elected.is_some() || news) {
            return Ok(());
        }
        if news {
            for (replica, local) in self.locals.iter().enumerate() {
                let info = tables.info(*local);
                if info.role == Role::Leader {
                    book.check_complete(node(replica as u8), Term(info.term), tables.log(info.log))?;
                }
            }
        }
        self.book = tables.book_number(book);
        self.check_durable(known, tables)
    }

    fn count(&self, by: Move, before: u32, outcome: u32, tables: &Tables, situations: &mut Situations) {
        let (old, new) = (tables.info(before), tables.info(tables.known_outcome(outcome).next));
        if by.key & !EventKey::ARGUMENT == EventKey::CRASH {
            situations.lossy_crashes += u64::from((by.key & EventKey::ARGUMENT) < old.parts as u32);
        } else if old.log != new.log {
            let (old, new) = (tables.log(old.log), tables.log(new.log));
            situations.truncations += u64::from(!new.starts_with(old));
        }
        if tables.known_outcome(outcome).elected.is_some() {
            let leaders = self.locals.iter().filter(|local| tables.info(**local).role == Role::Leader).count();
            situations.rival_leaders += u64::from(leaders > 1);
        }
    }
}
