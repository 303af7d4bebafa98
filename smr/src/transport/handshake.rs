//! Who is at the other end: the first frame each way on every connection between replicas.
//!
//! ```text
//! dialler  -> Hello   { magic, newest version, oldest version, its facts, its commands, whom it wants, what for }
//! answerer -> Welcome { magic, chosen version, its facts, its commands }
//!             or Refusal { reason, whether it is disqualified }
//! ```
//! Both sides compare the other's facts with their own, so neither talks to a stranger: another protocol, another
//! cluster or group, a group with another genesis (M10), a replica that the address list has mixed up, or oneself (B4).
//! A fact that one side does not know yet (cluster and genesis, before bootstrap) is not compared; so connections that
//! were made before bootstrap are closed with it, and made again. Whether the start that the other side shows is one of
//! today is for [`super::Admission`] to say.
//!
//! Magic and the first version stand at the same place in every version, and are looked at before the rest is decoded.
//! The dialler says which versions it speaks, and the answerer takes the highest that both have in common
//! ([`PEER_VERSIONS`]). From version 6 on the shape of these frames stays as it is: what later versions add comes in
//! their last field, which others pass over. Builds of version 5 spoke that one alone, and their frames have neither
//! ranges nor a last field. A dialler cannot know whom it will meet; so it begins with ranges, and begins again with
//! version 5 where it is refused in the words that those builds have for it ([`is_before_ranges`]).
//!
//! Replicas of groups whose members a service decides on speak versions 7 and 8, which no Raft group speaks; there the
//! last field of the frames begins with the kind of the group.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::codec::{self, CodecError};
use crate::entry::GenesisHash;
use crate::epoch::GroupKind;
use crate::id::{ClusterId, Disqualified, GroupName, NodeId, ReplicaId, StartTrail};
use crate::version::{CommandVersions, VersionRange};
use crate::wire::{self, FrameReader, WireError};

/// "MadKVsmr", the first eight bytes of each Hello and Welcome.
const MAGIC: u64 = u64::from_le_bytes(*b"MadKVsmr");
/// The versions of what replicas say to each other, messages of the protocol core included. 5: one version, nothing
/// else. 6: ranges of versions; digests name the version of what they hash.
pub const PEER_VERSIONS: VersionRange = VersionRange::new(VERSION_WITHOUT_RANGES, 6);
/// The same of groups with epochs. 7: the messages of their core; the handshake names the kind of the group. 8: writes
/// that are sent on to the one who orders.
const EPOCH_PEER_VERSIONS: VersionRange = VersionRange::new(VERSION_WITH_KIND, 8);
/// The first version whose handshake names the kind of the group.
const VERSION_WITH_KIND: u16 = 7;
/// The last version whose handshake has no ranges.
const VERSION_WITHOUT_RANGES: u16 = 5;
/// The largest handshake payload, in bytes.
pub(super) const HANDSHAKE_PAYLOAD_MAX_BYTES: usize = 1024;
/// The longest reason of a refusal, in bytes; the rest is cut off. Fits the payload, with its length.
const REASON_MAX_BYTES: usize = 512;
const _: () = assert!(REASON_MAX_BYTES + 8 <= HANDSHAKE_PAYLOAD_MAX_BYTES);

/// The kinds of frames between replicas. Client protocols number theirs elsewhere, so a client that knocks at the
/// wrong port is recognized by its first frame (B3).
pub(super) mod kind {
    pub(in crate::transport) const HELLO: u16 = 0x5001;
    pub(in crate::transport) const WELCOME: u16 = 0x5002;
    pub(in crate::transport) const REFUSAL: u16 = 0x5003;
    pub(in crate::transport) const PING: u16 = 0x5004;
    pub(in crate::transport) const PONG: u16 = 0x5005;
    pub(in crate::transport) const MESSAGE: u16 = 0x5006;
}

/// What a replica says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) cluster: Option<ClusterId>,
    pub(super) group: GroupName,
    pub(super) node: NodeId,
    pub(super) genesis: Option<GenesisHash>,
    pub(super) start: StartTrail,
    /// In the last field of the frame.
    #[serde(skip)]
    pub(super) kind: GroupKind,
}

/// The versions that replicas of such a group speak.
fn versions_of(kind: GroupKind) -> VersionRange {
    match kind {
        GroupKind::Raft => PEER_VERSIONS,
        GroupKind::Epochs(_) => EPOCH_PEER_VERSIONS,
    }
}

/// The last field of a frame of this version.
fn later(kind: GroupKind, version: u16) -> Vec<u8> {
    if version < VERSION_WITH_KIND { Vec::new() } else { codec::encode(&kind) }
}

/// The kind of group that the last field of a frame names. Frames of lower versions are those of Raft groups, and so
/// are others that name none.
fn kind_in(later: &[u8], version: u16) -> GroupKind {
    if version < VERSION_WITH_KIND { GroupKind::Raft } else { codec::decode(later).unwrap_or_default() }
}

/// Who was met, in which start, and what both speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) node: NodeId,
    pub(super) start: StartTrail,
    /// The version of everything that follows on this connection.
    pub(super) version: u16,
    /// The commands that it applies.
    pub(super) commands: CommandVersions,
}

impl Met {
    fn new(facts: &Facts, version: u16, commands: CommandVersions) -> Met {
        Met { node: facts.node, start: facts.start, version, commands }
    }
}

/// What a replica says of itself, and of its build.
#[derive(Clone, Debug)]
pub(super) struct Myself {
    pub(super) facts: Facts,
    pub(super) commands: CommandVersions,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// Messages of the protocol core, from the dialler to the answerer.
    Messages,
    /// One snapshot, from the dialler to the answerer.
    Snapshot,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    magic: u64,
    newest: u16,
    oldest: u16,
    facts: Facts,
    commands: CommandVersions,
    to: ReplicaId,
    purpose: Purpose,
    /// What versions to come add to this frame.
    later: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Welcome {
    magic: u64,
    /// The one that was chosen.
    version: u16,
    facts: Facts,
    commands: CommandVersions,
    /// As in [`Hello::later`].
    later: Vec<u8>,
}

/// The first frame of a dialler of version 5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HelloWithoutRange {
    magic: u64,
    version: u16,
    facts: Facts,
    to: ReplicaId,
    purpose: Purpose,
}

/// What a dialler of version 5 is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WelcomeWithoutRange {
    magic: u64,
    version: u16,
    facts: Facts,
}

/// How a dialler begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// With all versions that this build speaks.
    Range,
    /// As builds of version 5 do, for one of them.
    WithoutRange,
}

/// The payload of [`kind::REFUSAL`], in a handshake and afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Refusal {
    reason: String,
    /// Whoever is refused must not take part any longer, in any place.
    disqualified: Option<Disqualified>,
}

/// Why a handshake led to nothing.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// Someone is there, and one of us does not want to talk to the other.
    Refused(String),
    /// The other side knows that this node must not take part any longer.
    Disqualified(Disqualified),
    /// No one is there, or no one who speaks like a replica.
    Failed(String),
}

impl From<WireError> for HandshakeError {
    fn from(error: WireError) -> HandshakeError {
        match error {
            // Both sides speak in frames, but of different versions: trying again will not help, so say it clearly.
            WireError::Codec(CodecError::Version { .. }) => HandshakeError::Refused(error.to_string()),
            other => HandshakeError::Failed(other.to_string()),
        }
    }
}

/// The dialler's half, each step within `limit`. Returns who is at the other end.
pub(super) async fn introduce<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut FrameReader<R>,
    writer: &mut W,
    mine: &Myself,
    to: ReplicaId,
    (purpose, greeting): (Purpose, Greeting),
    limit: Duration,
) -> Result<Met, HandshakeError> {
    let hello = match greeting {
        Greeting::Range => handshake_frame(kind::HELLO, &hello(mine, to, purpose)),
        Greeting::WithoutRange => handshake_frame(kind::HELLO, &hello_without_range(mine, to, purpose)),
    };
    wire::write_all(writer, &hello, limit).await?;
    let answer = timeout(limit, reader.next())
        .await
        .map_err(|_| HandshakeError::Failed("no answer to the handshake".to_owned()))??
        .ok_or_else(|| HandshakeError::Failed("the connection was closed instead of an answer".to_owned()))?;
    match answer.kind {
        kind::WELCOME => judge_welcome(answer.payload, &mine.facts, to, greeting).map_err(HandshakeError::Refused),
        kind::REFUSAL => Err(match codec::decode(answer.payload) {
            Ok(Refusal { disqualified: Some(why), .. }) => HandshakeError::Disqualified(why),
            _ => HandshakeError::Refused(read_refusal(answer.payload)),
        }),
        other => Err(HandshakeError::Refused(format!("no replica answers there (frame of kind {other:#x})"))),
    }
}

/// Whether this is why a build that knows no ranges refuses a dialler of this one. It can be dialled once more, with
/// [`Greeting::WithoutRange`].
pub(super) fn is_before_ranges(reason: &str) -> bool {
    reason == format!("peer protocol version {} meets version {VERSION_WITHOUT_RANGES}", PEER_VERSIONS.newest())
}

fn hello(mine: &Myself, to: ReplicaId, purpose: Purpose) -> Hello {
    let versions = versions_of(mine.facts.kind);
    Hello {
        magic: MAGIC,
        newest: versions.newest(),
        oldest: versions.oldest(),
        facts: mine.facts.clone(),
        commands: mine.commands,
        to,
        purpose,
        later: later(mine.facts.kind, versions.oldest()),
    }
}

fn hello_without_range(mine: &Myself, to: ReplicaId, purpose: Purpose) -> HelloWithoutRange {
    HelloWithoutRange { magic: MAGIC, version: VERSION_WITHOUT_RANGES, facts: mine.facts.clone(), to, purpose }
}

fn handshake_frame<T: Serialize>(kind: u16, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, kind, value).unwrap_or_else(|error| panic!("a handshake fits no frame: {error}"));
    bytes
}

/// The answerer's half, each step within `limit`. Returns who dialled, and what for; the caller welcomes it. Someone
/// who is known for a replica and refused has been told why.
pub(super) async fn listen<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut FrameReader<R>,
    writer: &mut W,
    mine: &Facts,
    is_peer: impl Fn(ReplicaId) -> bool,
    limit: Duration,
) -> Result<(Met, Purpose), HandshakeError> {
    let judged = match timeout(limit, reader.next()).await {
        Err(_) => return Err(HandshakeError::Failed("no handshake in time".to_owned())),
        Ok(Ok(None)) => return Err(HandshakeError::Failed("closed before a handshake".to_owned())),
        Ok(Ok(Some(frame))) if frame.kind == kind::HELLO => judge_hello(frame.payload, mine, is_peer),
        Ok(Ok(Some(frame))) => {
            return Err(HandshakeError::Failed(format!("a frame of kind {:#x} instead of a handshake", frame.kind)));
        }
        Ok(Err(error)) => Err(HandshakeError::from(error)),
    };
    if let Err(HandshakeError::Refused(reason)) = &judged {
        refuse(writer, reason, limit).await;
    }
    judged
}

/// Accepts the dialler, in the version that was agreed upon with it.
pub(super) async fn welcome<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mine: &Myself,
    version: u16,
    limit: Duration,
) -> Result<(), WireError> {
    wire::write_all(writer, &welcome_frame(mine, version), limit).await?;
    Ok(())
}

fn welcome_frame(mine: &Myself, version: u16) -> Vec<u8> {
    let (magic, facts, commands) = (MAGIC, mine.facts.clone(), mine.commands);
    let later = later(facts.kind, version);
    if version == VERSION_WITHOUT_RANGES {
        return handshake_frame(kind::WELCOME, &WelcomeWithoutRange { magic, version, facts });
    }
    handshake_frame(kind::WELCOME, &Welcome { magic, version, facts, commands, later })
}

/// Tells the other side why the connection is about to be closed. Best effort.
pub(super) async fn refuse<W: AsyncWrite + Unpin>(writer: &mut W, reason: &str, limit: Duration) {
    send_refusal(writer, Refusal { reason: printable(reason), disqualified: None }, limit).await;
}

/// Tells the other side that it must not take part any longer. Best effort: it asks again.
pub(super) async fn disqualify<W: AsyncWrite + Unpin>(writer: &mut W, why: Disqualified, limit: Duration) {
    let refusal = Refusal { reason: printable(&why.to_string()), disqualified: Some(why) };
    send_refusal(writer, refusal, limit).await;
}

async fn send_refusal<W: AsyncWrite + Unpin>(writer: &mut W, refusal: Refusal, limit: Duration) {
    if let Err(error) = send(writer, kind::REFUSAL, &refusal, limit).await {
        tracing::debug!(%error, "a refusal could not be sent");
    }
}

/// The reason in a [`kind::REFUSAL`] frame, fit for a log.
pub(super) fn read_refusal(payload: &[u8]) -> String {
    match codec::decode::<Refusal>(payload) {
        Ok(refusal) => printable(&refusal.reason),
        Err(error) => format!("refused, for a reason that is {error}"),
    }
}

/// Sends one small frame; the other side must take something of it within `limit`.
pub(super) async fn send<W: AsyncWrite + Unpin, T: Serialize>(
    writer: &mut W,
    kind: u16,
    value: &T,
    limit: Duration,
) -> Result<(), WireError> {
    let mut buffer = Vec::new();
    codec::frame(&mut buffer, kind, value)?;
    wire::write_all(writer, &buffer, limit).await?;
    Ok(())
}

fn printable(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }) {
        if plain.len() + letter.len_utf8() > REASON_MAX_BYTES {
            break;
        }
        plain.push(letter);
    }
    plain
}

fn judge_hello(
    payload: &[u8],
    mine: &Facts,
    is_peer: impl Fn(ReplicaId) -> bool,
) -> Result<(Met, Purpose), HandshakeError> {
    let failed = |error: CodecError| HandshakeError::Failed(error.to_string());
    let (facts, to, purpose, met) = if read_version(payload)? <= VERSION_WITHOUT_RANGES {
        let version = read_version(payload)?;
        same_kind(GroupKind::Raft, mine.kind).map_err(HandshakeError::Refused)?;
        agree(VersionRange::new(version, version), mine.kind)?;
        let hello: HelloWithoutRange = codec::decode(payload).map_err(failed)?;
        let met = Met::new(&hello.facts, version, CommandVersions::FIRST);
        (hello.facts, hello.to, hello.purpose, met)
    } else {
        let mut hello: Hello = codec::decode(payload).map_err(failed)?;
        hello.facts.kind = kind_in(&hello.later, hello.oldest);
        same_kind(hello.facts.kind, mine.kind).map_err(HandshakeError::Refused)?;
        let range = VersionRange::checked(hello.oldest, hello.newest)
            .ok_or_else(|| HandshakeError::Failed("a range of versions ends before it begins".to_owned()))?;
        let met = Met::new(&hello.facts, agree(range, mine.kind)?, hello.commands);
        (hello.facts, hello.to, hello.purpose, met)
    };
    let judged = judge_facts(&facts, mine).and_then(|()| {
        let sender = facts.node.name;
        if to != mine.node.name {
            Err(format!("this is replica {}, not {to}", mine.node.name))
        } else if sender == mine.node.name {
            Err(format!("a replica {sender} dials replica {sender}"))
        } else if !is_peer(sender) {
            Err(format!("replica {sender} is not among the peers"))
        } else {
            Ok((met, purpose))
        }
    });
    judged.map_err(HandshakeError::Refused)
}

/// The version for a connection with one who speaks these.
fn agree(theirs: VersionRange, kind: GroupKind) -> Result<u16, HandshakeError> {
    let mine = versions_of(kind);
    theirs
        .common(mine)
        .ok_or_else(|| HandshakeError::Refused(format!("a replica with peer protocol {theirs} meets one with {mine}")))
}

fn same_kind(theirs: GroupKind, mine: GroupKind) -> Result<(), String> {
    if theirs == mine {
        Ok(())
    } else {
        Err(format!("a replica of a group of kind {theirs} meets one of a group of kind {mine}"))
    }
}

fn judge_welcome(payload: &[u8], mine: &Facts, to: ReplicaId, greeting: Greeting) -> Result<Met, String> {
    let version = read_version(payload).map_err(|error| match error {
        HandshakeError::Refused(reason) | HandshakeError::Failed(reason) => reason,
        HandshakeError::Disqualified(why) => why.to_string(),
    })?;
    let versions = versions_of(mine.kind);
    let offered = match greeting {
        Greeting::Range => VersionRange::new(versions.oldest().max(VERSION_WITHOUT_RANGES + 1), versions.newest()),
        Greeting::WithoutRange => VersionRange::new(VERSION_WITHOUT_RANGES, VERSION_WITHOUT_RANGES),
    };
    if !offered.contains(version) {
        return Err(format!("peer protocol version {version} answers a dialler with {offered}"));
    }
    let (facts, commands) = if version == VERSION_WITHOUT_RANGES {
        let welcome: WelcomeWithoutRange = codec::decode(payload).map_err(|error| error.to_string())?;
        (welcome.facts, CommandVersions::FIRST)
    } else {
        let mut welcome: Welcome = codec::decode(payload).map_err(|error| error.to_string())?;
        welcome.facts.kind = kind_in(&welcome.later, version);
        (welcome.facts, welcome.commands)
    };
    same_kind(facts.kind, mine.kind)?;
    judge_facts(&facts, mine)?;
    if facts.node.name == to {
        Ok(Met::new(&facts, version, commands))
    } else {
        Err(format!("replica {} answers at the address of replica {to}", facts.node.name))
    }
}

/// The version that stands after the magic in all versions.
fn read_version(payload: &[u8]) -> Result<u16, HandshakeError> {
    let Some((magic, rest)) = payload.split_first_chunk::<8>() else {
        return Err(HandshakeError::Failed("the handshake is too short".to_owned()));
    };
    if u64::from_le_bytes(*magic) != MAGIC {
        return Err(HandshakeError::Failed("the handshake is no replica's".to_owned()));
    }
    rest.first_chunk::<2>()
        .map(|version| u16::from_le_bytes(*version))
        .ok_or_else(|| HandshakeError::Failed("the handshake is too short".to_owned()))
}

fn judge_facts(theirs: &Facts, mine: &Facts) -> Result<(), String> {
    if theirs.group != mine.group {
        return Err(format!("a replica of group {} meets one of group {}", theirs.group, mine.group));
    }
    if let (Some(theirs), Some(mine)) = (theirs.cluster, mine.cluster)
        && theirs != mine
    {
        return Err(format!("a replica of cluster {theirs} meets one of cluster {mine}"));
    }
    if let (Some(theirs), Some(mine)) = (theirs.genesis, mine.genesis)
        && theirs != mine
    {
        return Err(format!("a replica with genesis {theirs} meets one with genesis {mine}"));
    }
    if theirs.node.incarnation.0 == 0 {
        return Err("an incarnation is never zero".to_owned());
    }
    if theirs.start.id.number == 0 {
        return Err("a start has a number".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
