//! Rare situations around clients, by name, counted: a harness that never meets them proves little.

use smr_sim::rare;

/// How often each was seen.
pub type Counts = rare::Counts<Rare>;

smr_sim::situations! {
    /// a client was told who leads, in a term not below those it had heard of
    Redirected,
    /// a client was told of a leader of an older term than it had heard of
    OlderTermNamed,
    /// a replica knew of no leader
    NoLeaderKnown,
    /// two replicas named each other to a client several times in a row (N9)
    PingPong,
    /// a write was sent a second time
    WriteRepeated,
    /// a write was sent to a second replica, and answered
    RepeatedElsewhere,
    /// two answers to one write reached its client (equal ones)
    AnsweredTwice,
    /// a replica answered a write that had been answered before (C1)
    AnsweredFromStore,
    /// a client heard that its session was evicted (C4)
    SessionExpired,
    /// a client heard that its write was applied and the answer is gone (C6)
    AnswerGone,
    /// a call failed because the session or the answer was evicted, with an unknown outcome
    EvictedCall,
    /// a replica lost its role with a client's write under way, and said so
    UnknownHeard,
    /// a client was told to come back later
    Busy,
    /// a client met a replica that was not in service
    OutOfService,
    /// a manager had no map yet
    NoMap,
    /// a client got an older map than it had
    StaleMap,
    /// a key was asked for at a partition that does not own it, by the map that counts there (G7)
    WrongPartition,
    /// a connection was turned away because there were too many
    TurnedAway,
    /// a connection broke with bytes under way
    ConnectionBroken,
    /// an answer arrived in pieces
    HalfFrame,
    /// a call timed out, and said that nothing was changed
    TimeoutNotDone,
    /// a write timed out with an unknown outcome, and took effect
    TimeoutTookEffect,
    /// a write timed out with an unknown outcome, and no one ever saw it
    TimeoutNoEffect,
    /// a call was abandoned by its caller
    Abandoned,
    /// a client process was killed with calls under way (C8)
    ClientKilled,
    /// a partition's leader was killed
    LeaderKilled,
    /// a server lost its power: its connections fell silent
    PowerCut,
    /// a server was stopped and went on
    ServerStopped,
    /// the link between a client and a server fell silent in one direction
    OneWaySilence,
    /// a client could not reach a partition's leader, but the others (N9)
    LeaderUnreachable,
    /// all managers were down at once
    AllManagersDown,
    /// a server took no connections because its queue was full
    FullAccept,
    /// a server lost its directory and came back as a stranger (M6)
    DirectoryEmptied,
    /// an operator's readmission through the library succeeded
    Readmitted,
    /// an operator's readmission through the library was refused or cut short
    ReadmissionRefused,
    /// a SCAN over several partitions was answered
    WideScan,
    /// a server had an older map than its clients
    ServerBehind,
    /// the map gave slots to another partition (G10)
    SlotsMoved,
    /// a move of slots was given up after a group had heard of it (G10)
    MoveGivenUp,
}
