//! The manager as the configuration service of groups that are not of kind raft: hears their members, grants leases,
//! and decides who the members are ([`smr::epoch_service`]).
//!
//! What was decided is part of the managers' state. What members say, and what they were granted, is known to the
//! manager that leads alone, in memory, for as long as it leads. A report is taken in after a linearizable read that
//! began when it had arrived: so this replica led then.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use madkv_proto::control::ControlReply;
use smr::codec;
use smr::entry::Term;
use smr::epoch_service::{
    Arbiter, ArbiterSettings, EpochDecision, EpochRecord, MemberReport, PresiderId, ServiceTime, ServiceWord,
};
use smr::id::ReplicaId;
use smr::replica::{Outcome, ReplicaHandle, Request};

use crate::lead::{ask, now_unix_ms, propose};
use crate::state::{Command, Query, Reply, encode};

/// How often the leader looks what is to be decided, in milliseconds.
const LOOK_MS: u64 = 25;
/// How often it looks whether there is such a group, in milliseconds.
const LOOK_FOR_GROUPS_MS: u64 = 200;

/// How long it may take until another member is first.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How often whoever waits for that looks, in milliseconds.
const PROMOTION_LOOK_MS: u64 = 50;

/// The arbiters of all groups, while this replica leads.
#[derive(Debug)]
pub struct EpochService {
    began: Instant,
    settings: ArbiterSettings,
    /// By partition. Empty while this replica does not lead.
    arbiters: Mutex<BTreeMap<u16, Arbiter>>,
}

impl EpochService {
    /// A service that lets leases pass with this bound for how much clocks may drift, per thousand, and lets no one who
    /// was removed wait for longer than this before it may join again.
    pub fn new(clock_drift_permille: u64, pause_max: Duration) -> EpochService {
        let pause_max_us = u64::try_from(pause_max.as_micros()).unwrap_or(u64::MAX);
        let settings = ArbiterSettings { clock_drift_permille, pause_max_us, ..ArbiterSettings::default() };
        EpochService { began: Instant::now(), settings, arbiters: Mutex::default() }
    }

    fn arbiters(&self) -> MutexGuard<'_, BTreeMap<u16, Arbiter>> {
        self.arbiters.lock()
    }

    fn now(&self) -> ServiceTime {
        ServiceTime(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Takes in a member's report, and says what was decided; `None` if this replica cannot say.
    ///
    /// # Errors
    /// What the replica answered instead, for the member: it does not lead.
    pub async fn exchange(
        &self,
        replica: &ReplicaHandle,
        partition: u16,
        report: &MemberReport,
    ) -> Result<Option<ServiceWord>, Outcome> {
        let Some(record) = record_for(replica, partition, report.node.name).await? else { return Ok(None) };
        let mut arbiters = self.arbiters();
        // Looked at now, when no other task can be ahead: for an arbiter time never goes backwards.
        let now = self.now();
        // An arbiter that does not preside, or not any more, grants nothing.
        Ok(arbiters.get_mut(&partition).map(|arbiter| arbiter.hear(now, &record, report)))
    }

    /// An operator wants this replica to be the first of its group: answers once it is, or why it does not become that.
    ///
    /// # Errors
    /// What the replica answered instead, for the operator: it does not lead.
    pub async fn promote(
        &self,
        replica: &ReplicaHandle,
        partition: u16,
        name: ReplicaId,
    ) -> Result<ControlReply, Outcome> {
        let began = Instant::now();
        // In this epoch it was asked for.
        let mut asked_in = None;
        loop {
            let Some(record) = record_for(replica, partition, name).await? else {
                let why = format!("s{partition} has no replica {name}, or its members are not named by the managers");
                return Ok(ControlReply::Refused(why));
            };
            let present = record.present();
            if present.first().name == name {
                return Ok(ControlReply::Done);
            }
            if asked_in.is_some_and(|epoch| epoch != present.epoch) {
                return Ok(ControlReply::Refused("the members have changed meanwhile".to_owned()));
            }
            let is_late = began.elapsed() > PROMOTION_TIMEOUT;
            // Said again and again: a manager that leads anew has a new arbiter, which knows of no wish.
            if let Some(ended) = self.wish(partition, &record, name, is_late, &mut asked_in) {
                return ended.map(ControlReply::Refused);
            }
            tokio::time::sleep(Duration::from_millis(PROMOTION_LOOK_MS)).await;
        }
    }

    /// Tells the arbiter what an operator wants, or that no one waits for it any longer; how that ends, if it does.
    fn wish(
        &self,
        partition: u16,
        record: &EpochRecord,
        name: ReplicaId,
        is_late: bool,
        asked_in: &mut Option<Term>,
    ) -> Option<Result<String, Outcome>> {
        let mut arbiters = self.arbiters();
        let Some(arbiter) = arbiters.get_mut(&partition) else {
            // It may have been asked for at one that is gone.
            return is_late.then_some(Err(Outcome::Unknown));
        };
        if is_late && asked_in.is_some() {
            let is_over = arbiter.forget_promotion(name);
            let why = format!("replica {name} did not become the first within {} s", PROMOTION_TIMEOUT.as_secs());
            return Some(if is_over { Ok(why) } else { Err(Outcome::Unknown) });
        }
        match arbiter.promote(self.now(), record, name) {
            Ok(()) => *asked_in = Some(record.present().epoch),
            Err(why) if why.will_pass() && !is_late => {}
            Err(why) => return Some(Ok(why.to_string())),
        }
        None
    }

    /// This replica leads, and these are the groups: what is to be decided now.
    fn decide(&self, records: &[(u16, EpochRecord)]) -> Vec<(u16, EpochDecision)> {
        let mut arbiters = self.arbiters();
        let now = self.now();
        arbiters.retain(|partition, arbiter| {
            records.iter().any(|(of, record)| of == partition && !arbiter.is_over(record))
        });
        let decide = |(partition, record): &(u16, EpochRecord)| {
            let fresh = || Arbiter::new(self.settings.clone(), PresiderId(rand::random()), now);
            let arbiter = arbiters.entry(*partition).or_insert_with(fresh);
            Some((*partition, arbiter.decide(now, record)?))
        };
        records.iter().filter_map(decide).collect()
    }

    /// Decides, whenever this replica leads. Never returns.
    pub async fn run(&self, replica: ReplicaHandle) {
        let mut term = None;
        let mut look_ms = LOOK_FOR_GROUPS_MS;
        loop {
            tokio::time::sleep(Duration::from_millis(look_ms)).await;
            let local = ask(&replica, Request::LocalRead { query: encode(&Query::AllEpochs) }).await;
            let Some(Reply::AllEpochs(records)) = local.filter(|reply| *reply != Reply::AllEpochs(Vec::new())) else {
                continue;
            };
            look_ms = LOOK_MS;
            let leads_in = crate::lead::term_of_lead(&replica).await;
            if leads_in != term {
                // What a former one remembers of leases is not all that was granted since.
                self.arbiters().clear();
                term = leads_in;
            }
            if term.is_none() {
                continue;
            }
            for (partition, decision) in self.decide(&records) {
                propose(&replica, &Command::DecideEpoch { partition, decision, at_unix_ms: now_unix_ms() }).await;
            }
        }
    }
}

/// What was decided about the group of a replica, if the layout has that one: read at a leader, after this was called.
async fn record_for(replica: &ReplicaHandle, partition: u16, name: ReplicaId) -> Result<Option<EpochRecord>, Outcome> {
    let query = encode(&Query::EpochsFor { partition, replica: name.0 });
    let stopping = || Outcome::OutOfService("stopping".to_owned());
    match replica.ask(Request::Read { query }).await.unwrap_or_else(stopping) {
        Outcome::Answer(answer) => match Reply::decode(&answer) {
            Reply::Epochs(record) => Ok(record.map(|record| *record)),
            _ => Ok(None),
        },
        other => Err(other),
    }
}

/// A member's report.
///
/// # Errors
/// If these bytes are none.
pub fn report_of(bytes: &[u8]) -> Result<MemberReport, String> {
    codec::decode(bytes).map_err(|error| format!("this build knows no such report: {error}"))
}
