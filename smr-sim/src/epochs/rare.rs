//! What runs of these groups should have met.

use crate::situations;

situations! {
    /// an epoch was decided on
    EpochDecided,
    /// a member was removed
    MemberRemoved,
    /// a first was removed, and another one became it
    FirstRemoved,
    /// a newcomer became a member
    MemberAppended,
    /// every member of an epoch with a newcomer had everything
    NewcomerComplete,
    /// a newcomer was removed before it was complete (K17)
    IncompleteRemoved,
    /// a first that had restarted got a new epoch (K9, K18)
    FirstRestarted,
    /// a group went on with a single member
    LastOne,
    /// a member entered an epoch and left some out (K1)
    EpochSkipped,
    /// a process spoke in an epoch that was over (K3)
    OldEpochSpoken,
    /// a log was cut because the first has another one (K12)
    LogCut,
    /// a lease was granted
    LeaseGranted,
    /// a lease was refused (K2, K17)
    LeaseRefused,
    /// a process was stopped for longer than its lease (K11)
    SleptPastLease,
    /// a removed process took itself for a member (K2)
    RemovedUnaware,
    /// a decision was lost with the leader of the service
    DecisionLost,
    /// another leader presided over the service (K8)
    ServiceFailedOver,
    /// an answer of the service came from one who did not lead any more
    FormerLeaderAnswered,
    /// a read was taken by one who was not first
    ReadElsewhere,
    /// a member kept a write that the first had not ordered, and sent it on
    WriteForwarded,
    /// a checkpoint was made that says what has changed (K14)
    CheckpointMade,
    /// a checkpoint was a mark
    CheckpointMark,
    /// a backup took a checkpoint over
    CheckpointTaken,
    /// a checkpoint did not fit any more once it was built, or could not be built
    CheckpointDropped,
    /// a snapshot replaced a log
    SnapshotInstalled,
    /// a directory was emptied, and its replica came back as another incarnation
    DirectoryEmptied,
    /// one who waited was taken into the group
    TakenIn,
    /// all processes lost their power at once
    AllCrashed,
    /// no member was left that is known to have everything, by what the experiment did
    LostForGood,
}

/// How often what was seen.
pub type RareCounts = crate::rare::Counts<Rare>;
