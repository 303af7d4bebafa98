//! Rare situations, by name, counted: a harness that never meets them proves little.

use std::collections::BTreeMap;

/// What can be counted: situations that a harness should have met. [`situations!`](crate::situations) makes them.
pub trait Situation: Copy + Ord + 'static {
    /// All of them.
    const ALL: &'static [Self];
}

/// An enum `Rare` of situations, each with a doc comment that says what it is: those words are also its
/// [`Display`](std::fmt::Display).
#[macro_export]
macro_rules! situations {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A situation that a harness should have met.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rare {
            $($(#[doc = $doc])+ $name,)+
        }

        impl $crate::rare::Situation for Rare {
            const ALL: &'static [Rare] = &[$(Rare::$name,)+];
        }

        impl Rare {
            /// All of them.
            pub const ALL: &'static [Rare] = <Rare as $crate::rare::Situation>::ALL;

            /// What it is, in words.
            pub fn about(self) -> &'static str {
                match self {
                    $(Rare::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }

        impl std::fmt::Display for Rare {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.about())
            }
        }
    };
}

situations! {
    /// a leader stepped down by itself: no quorum was heard
    CheckQuorum,
    /// two nodes took themselves for leaders at the same time
    TwoLeaders,
    /// a candidate found no one to elect it and tried again
    ElectionFailed,
    /// a pre-vote was refused by a node that hears its leader (E12)
    PreVoteRefused,
    /// a term began while a joint configuration was in force
    TermInJointPhase,
    /// a node was told that its term is over
    StaleTerm,
    /// a vote was refused
    VoteRefused,
    /// a log was truncated: its entries contradicted the leader's
    Truncation,
    /// an entry with a configuration was truncated
    ConfigurationTruncated,
    /// an append was rejected
    AppendRejected,
    /// an entry of an older term was committed only under one of a newer term (§5.4.2)
    OldTermCommitted,
    /// a leader had to get an uncommitted configuration change of its predecessor through
    InheritedChange,
    /// a leadership transfer succeeded
    TransferDone,
    /// a leadership transfer failed, and the leader went on
    TransferFailed,
    /// a read failed because the leader lost its role
    ReadFailed,
    /// a write's outcome was left unknown because the leader lost its role
    WriteUnknown,
    /// a duplicate was answered from the session table
    DuplicateAnswered,
    /// both copies of a request were in the log (C2)
    DuplicateInLog,
    /// a retry heard that it was applied and the answer is gone
    AnswerGone,
    /// a session was evicted, and its client heard so
    SessionExpired,
    /// a request was refused because too much was waiting
    Busy,
    /// a client took a refusal at its word: no effect, now and ever (C9)
    RefusalBelieved,
    /// replicas hashed their whole states
    DigestTaken,
    /// a snapshot was taken
    SnapshotTaken,
    /// a snapshot was installed
    SnapshotInstalled,
    /// a snapshot was installed over a log that contradicts it or ends before it
    SnapshotOverLog,
    /// a snapshot was installed and entries behind it stayed (S2)
    SnapshotKeptSuffix,
    /// a received snapshot was not newer than what was there, and discarded (S3)
    SnapshotDiscarded,
    /// the transfer of a snapshot broke off
    TransferBroken,
    /// a node crashed with a received snapshot that was not yet adopted
    CrashDuringInstall,
    /// a node crashed while it wrote a snapshot
    CrashDuringSnapshot,
    /// a node crashed with an own vote or a grant that was not yet sent
    CrashBeforeVoteSent,
    /// a node crashed with an append that was not yet acknowledged
    CrashBeforeAck,
    /// a leader crashed with proposals in its log that were not committed
    LeaderCrashedWithProposals,
    /// all nodes crashed at once
    AllCrashed,
    /// a node crashed in the middle of its start (D14)
    CrashDuringStart,
    /// an interrupted write at the end of a log was cut (D2)
    TornTailCut,
    /// damage was found in a log, and the node heals, or is quarantined (D3)
    DamagedLog,
    /// damage was found elsewhere in a directory, and the node heals, or is quarantined
    DamagedFile,
    /// a damaged replica healed by itself (D18)
    Healed,
    /// a damaged replica ended before it had healed, and began again (D19)
    HealingInterrupted,
    /// a damaged replica that heals was asked for its vote, and gave none (D18)
    HealingVoteRefused,
    /// another leader than the first took over a damaged replica that heals (D18)
    HealingLeaderChanged,
    /// one of two slots of a small file was damaged, and repaired from the other (D5)
    SlotRepaired,
    /// a node could hear or speak for good, but not both, and the others went on (E10, E11)
    HalfDeadForGood,
    /// a node whose directory was set back was found out (M8)
    SetBackFound,
    /// a directory was emptied (M6)
    DirectoryEmptied,
    /// a node heard that its group exists without it, and was excluded (M14)
    Excluded,
    /// a genesis was refused: another one is recorded
    GenesisRefused,
    /// all directories of a group were emptied, one after the other
    AllEmptied,
    /// a group began again by the operator's word
    FoundedAnew,
    /// a change of members was begun that no operator looks after
    MembersChanged,
    /// a change of members was refused: another one was under way, a learner lagged, or it made no sense (M2, M5)
    ChangeRefused,
    /// a leader gave up its role: the group had gone on without it (M4)
    LeaderLeft,
    /// a node learned by its own log that its group goes on without it
    Retired,
    /// a node was readmitted to its replica
    Readmitted,
    /// a readmission was cut short and asked for again
    ReadmissionRepeated,
    /// the device failed in a sync or a write, and the process stopped (D6, D7)
    DiskErrorStop,
    /// the device was full, and the process stopped (D7)
    DiskFullStop,
    /// a snapshot turned out to be damaged, and was made again (S8)
    DamagedSnapshot,
    /// messages were dropped because the device did not keep up (D12)
    DiskTooSlow,
    /// a snapshot was put off because the disk was almost full (D7)
    SnapshotLackedRoom,
    /// a client heard that the leader's disk was full (D7)
    DiskFullAnswered,
    /// a process could not start because its device failed (D8)
    StartFailed,
    /// a leader whose device hung gave up its role (E19)
    StalledLeader,
    /// a leader whose device was slow for seconds handed over (E21)
    DiskLags,
    /// a process went on after a long pause and found full sockets (E18)
    LongPause,
    /// a leader was deposed while it was stopped, and went on
    DeposedInPause,
    /// an old message was delivered much later
    Replayed,
    /// a message reached an incarnation that is not the one it was meant for, and was dropped
    WrongIncarnation,
    /// the queue into a replica was full, and a message dropped
    QueueFull,
    /// a one-way cut
    OneWayCut,
    /// a client heard of a leader of an older term than it knew
    OldLeaderNamed,
    /// a read was answered under a lease
    LeasedRead,
    /// a leader that had no lease at the moment asked for a read
    LeaseMissed,
    /// a voter gave no one its vote because a lease bound it
    LeaseKept,
    /// a leader was hit as soon as it led, again and again (Figure 8)
    LeaderHitAtOnce,
    /// a vote or an acknowledgement of an older term reached a candidate or a leader (E6, L5)
    AnswerOfOlderTerm,
    /// a read was confirmed before its index was applied, and waited for it
    ReadConfirmedFirst,
    /// a node took a snapshot while more was committed than it had applied
    SnapshotBehindCommit,
}

/// How often each of this harness's was seen.
pub type RareCounts = Counts<Rare>;

/// How often each was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts<R>(BTreeMap<R, u64>);

impl<R> Default for Counts<R> {
    fn default() -> Counts<R> {
        Counts(BTreeMap::new())
    }
}

impl<R: Situation> Counts<R> {
    /// It was seen once more.
    pub fn saw(&mut self, what: R) {
        *self.0.entry(what).or_insert(0) += 1;
    }

    /// How often it was seen.
    pub fn of(&self, what: R) -> u64 {
        self.0.get(&what).copied().unwrap_or(0)
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Counts<R>) {
        for (what, count) in &other.0 {
            *self.0.entry(*what).or_insert(0) += count;
        }
    }

    /// Those that were never seen.
    pub fn never(&self) -> Vec<R> {
        R::ALL.iter().copied().filter(|what| self.of(*what) == 0).collect()
    }

    /// How many different ones were seen.
    pub fn different(&self) -> usize {
        self.0.len()
    }
}
