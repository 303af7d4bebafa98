//! Who is at the other end: the first frame each way on every connection between replicas.
//!
//! ```text
//! dialler  -> Hello   { magic, version, its facts, whom it wants, what for }
//! answerer -> Welcome { magic, version, its facts }    or    Refusal { reason, whether it is disqualified }
//! ```
//! Both sides compare the other's facts with their own, so neither talks to a stranger: another protocol, another
//! cluster or group, a group with another birth (M10), a replica that the address list has mixed up, or oneself (B4).
//! A fact that one side does not know yet (cluster and genesis, before birth) is not compared; so connections that were
//! made before birth are closed with it, and made again. Whether the start that the other side shows is one of today is
//! for [`super::Admission`] to say.
//!
//! Magic and version stand at the same place in every version, and are looked at before the rest is decoded.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::codec::{self, CodecError};
use crate::entry::GenesisHash;
use crate::id::{ClusterId, Disqualified, GroupName, NodeId, NodeName, StartTrail};
use crate::wire::{self, FrameReader, WireError};

/// "MadKVsmr", the first eight bytes of each Hello and Welcome.
const MAGIC: u64 = u64::from_le_bytes(*b"MadKVsmr");
/// The version of what replicas say to each other, messages of the protocol core included.
/// Raise it also when the bytes of a state's or a session table's image change: replicas compare hashes of them, and a
/// sound one of another build would be taken for the odd one out. The tests `digest` of `madkv-server` and
/// `madkv-manager` pin both together.
pub const PEER_PROTOCOL_VERSION: u16 = 5;
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
}

/// Who was met, and in which start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) node: NodeId,
    pub(super) start: StartTrail,
}

impl Met {
    fn of(facts: &Facts) -> Met {
        Met { node: facts.node, start: facts.start }
    }
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
    version: u16,
    facts: Facts,
    to: NodeName,
    purpose: Purpose,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Welcome {
    magic: u64,
    version: u16,
    facts: Facts,
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
    /// Nobody is there, or nobody who speaks like a replica.
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
    mine: &Facts,
    to: NodeName,
    purpose: Purpose,
    limit: Duration,
) -> Result<Met, HandshakeError> {
    let hello = Hello { magic: MAGIC, version: PEER_PROTOCOL_VERSION, facts: mine.clone(), to, purpose };
    send(writer, kind::HELLO, &hello, limit).await?;
    let answer = timeout(limit, reader.next())
        .await
        .map_err(|_| HandshakeError::Failed("no answer to the handshake".to_owned()))??
        .ok_or_else(|| HandshakeError::Failed("the connection was closed instead of an answer".to_owned()))?;
    match answer.kind {
        kind::WELCOME => judge_welcome(answer.payload, mine, to).map_err(HandshakeError::Refused),
        kind::REFUSAL => Err(match codec::decode(answer.payload) {
            Ok(Refusal { disqualified: Some(why), .. }) => HandshakeError::Disqualified(why),
            _ => HandshakeError::Refused(read_refusal(answer.payload)),
        }),
        other => Err(HandshakeError::Refused(format!("no replica answers there (frame of kind {other:#x})"))),
    }
}

/// The answerer's half, each step within `limit`. Returns who dialled, and what for; the caller welcomes it. Somebody
/// who is known for a replica and refused has been told why.
pub(super) async fn listen<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: &mut FrameReader<R>,
    writer: &mut W,
    mine: &Facts,
    is_peer: impl Fn(NodeName) -> bool,
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

/// Accepts the dialler.
pub(super) async fn welcome<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mine: &Facts,
    limit: Duration,
) -> Result<(), WireError> {
    let welcome = Welcome { magic: MAGIC, version: PEER_PROTOCOL_VERSION, facts: mine.clone() };
    send(writer, kind::WELCOME, &welcome, limit).await
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
    is_peer: impl Fn(NodeName) -> bool,
) -> Result<(Met, Purpose), HandshakeError> {
    judge_protocol(payload)?;
    let hello: Hello = codec::decode(payload).map_err(|error| HandshakeError::Failed(error.to_string()))?;
    let judged = judge_facts(&hello.facts, mine).and_then(|()| {
        let sender = hello.facts.node.name;
        if hello.to != mine.node.name {
            Err(format!("this is replica {}, not {}", mine.node.name, hello.to))
        } else if sender == mine.node.name {
            Err(format!("a replica {sender} dials replica {sender}"))
        } else if !is_peer(sender) {
            Err(format!("replica {sender} is not among the peers"))
        } else {
            Ok((Met::of(&hello.facts), hello.purpose))
        }
    });
    judged.map_err(HandshakeError::Refused)
}

fn judge_welcome(payload: &[u8], mine: &Facts, to: NodeName) -> Result<Met, String> {
    judge_protocol(payload).map_err(|error| match error {
        HandshakeError::Refused(reason) | HandshakeError::Failed(reason) => reason,
        HandshakeError::Disqualified(why) => why.to_string(),
    })?;
    let welcome: Welcome = codec::decode(payload).map_err(|error| error.to_string())?;
    judge_facts(&welcome.facts, mine)?;
    let node = welcome.facts.node;
    if node.name == to {
        Ok(Met::of(&welcome.facts))
    } else {
        Err(format!("replica {} answers at the address of replica {to}", node.name))
    }
}

fn judge_protocol(payload: &[u8]) -> Result<(), HandshakeError> {
    let Some((magic, rest)) = payload.split_first_chunk::<8>() else {
        return Err(HandshakeError::Failed("the handshake is too short".to_owned()));
    };
    if u64::from_le_bytes(*magic) != MAGIC {
        return Err(HandshakeError::Failed("the handshake is no replica's".to_owned()));
    }
    match rest.first_chunk::<2>().map(|version| u16::from_le_bytes(*version)) {
        Some(PEER_PROTOCOL_VERSION) => Ok(()),
        Some(other) => {
            Err(HandshakeError::Refused(format!("peer protocol version {other} meets version {PEER_PROTOCOL_VERSION}")))
        }
        None => Err(HandshakeError::Failed("the handshake is too short".to_owned())),
    }
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start() -> StartTrail {
        StartTrail::default().next(44)
    }

    fn met(name: u16, incarnation: u64) -> Met {
        Met { node: NodeId::new(name, incarnation), start: start() }
    }

    fn facts() -> Facts {
        Facts {
            cluster: Some(ClusterId(7)),
            group: "s0".parse().unwrap(),
            node: NodeId::new(1, 11),
            genesis: Some(GenesisHash(70)),
            start: start(),
        }
    }

    fn hello() -> Hello {
        let theirs = Facts { node: NodeId::new(2, 22), ..facts() };
        Hello {
            magic: MAGIC,
            version: PEER_PROTOCOL_VERSION,
            facts: theirs,
            to: NodeName(1),
            purpose: Purpose::Messages,
        }
    }

    fn judged(hello: &Hello) -> Result<(Met, Purpose), String> {
        judge_hello(&codec::encode(hello), &facts(), |name| name.0 < 3).map_err(|error| match error {
            HandshakeError::Refused(reason) => reason,
            HandshakeError::Failed(reason) => format!("failed: {reason}"),
            HandshakeError::Disqualified(why) => format!("disqualified: {why}"),
        })
    }

    #[test]
    fn hello_of_a_peer_accepted_with_its_incarnation() {
        assert_eq!(judged(&hello()), Ok((met(2, 22), Purpose::Messages)));
    }

    // covers M10, B4
    #[test]
    fn facts_unknown_to_one_side_are_not_compared() {
        let mut unborn = hello();
        unborn.facts.cluster = None;
        unborn.facts.genesis = None;
        assert!(judged(&unborn).is_ok());
    }

    // covers M10, B4
    #[test]
    fn hello_of_each_kind_of_stranger_refused_with_its_reason() {
        type Spoil = fn(&mut Hello);
        let cases: [(Spoil, &str); 10] = [
            (|h| h.version = 9, "peer protocol version 9 meets version 5"),
            (|h| h.facts.group = "s1".parse().unwrap(), "a replica of group s1 meets one of group s0"),
            (|h| h.facts.cluster = Some(ClusterId(8)), "meets one of cluster"),
            (|h| h.facts.genesis = Some(GenesisHash(71)), "meets one with genesis"),
            (|h| h.facts.node = NodeId::new(2, 0), "an incarnation is never zero"),
            (|h| h.facts.start.id.number = 0, "a start has a number"),
            (|h| h.to = NodeName(0), "this is replica 1, not 0"),
            (|h| h.facts.node = NodeId::new(1, 99), "a replica 1 dials replica 1"),
            (|h| h.facts.node = NodeId::new(3, 33), "replica 3 is not among the peers"),
            (|h| h.magic = 0, "failed: the handshake is no replica's"),
        ];
        for (spoil, reason) in cases {
            let mut hello = hello();
            spoil(&mut hello);
            let said = judged(&hello).unwrap_err();
            assert!(said.contains(reason), "{said:?} lacks {reason:?}");
        }
    }

    #[test]
    fn welcome_from_the_wrong_replica_refused() {
        let welcome = Welcome {
            magic: MAGIC,
            version: PEER_PROTOCOL_VERSION,
            facts: Facts { node: NodeId::new(2, 22), ..facts() },
        };
        let bytes = codec::encode(&welcome);
        assert_eq!(judge_welcome(&bytes, &facts(), NodeName(2)), Ok(met(2, 22)));
        let said = judge_welcome(&bytes, &facts(), NodeName(0)).unwrap_err();
        assert_eq!(said, "replica 2 answers at the address of replica 0");
    }

    #[test]
    fn refusal_reason_is_cut_and_printable() {
        let reason = "\u{1b}[31mé\n".repeat(1000);
        let plain = printable(&reason);
        assert!(plain.len() <= REASON_MAX_BYTES && !plain.chars().any(char::is_control));
    }

    fn any_facts() -> impl Strategy<Value = Facts> {
        let id = (any::<u16>(), any::<u64>()).prop_map(|(name, incarnation)| NodeId::new(name, incarnation));
        let cluster = proptest::option::of(any::<u128>().prop_map(ClusterId));
        let genesis = proptest::option::of(any::<u128>().prop_map(GenesisHash));
        let start = any::<u64>().prop_map(|nonce| StartTrail::default().next(nonce));
        (cluster, "[a-z0-9_-]{1,32}", id, genesis, start).prop_map(|(cluster, group, node, genesis, start)| Facts {
            cluster,
            group: group.parse().unwrap(),
            node,
            genesis,
            start,
        })
    }

    proptest! {
        // covers B1
        #[test]
        fn arbitrary_bytes_never_panic_and_are_never_welcome(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(judge_hello(&bytes, &facts(), |_| true).is_err());
            prop_assert!(judge_welcome(&bytes, &facts(), NodeName(2)).is_err());
            read_refusal(&bytes);
        }

        // covers B1
        #[test]
        fn every_prefix_of_a_hello_is_an_error(facts in any_facts(), to in any::<u16>(), cut in 0.0..1.0f64) {
            let hello = Hello { magic: MAGIC, version: PEER_PROTOCOL_VERSION, facts: facts.clone(), to: NodeName(to),
                purpose: Purpose::Snapshot };
            let bytes = codec::encode(&hello);
            prop_assert!(bytes.len() <= HANDSHAKE_PAYLOAD_MAX_BYTES);
            let decoded: Result<Hello, _> = codec::decode(&bytes);
            prop_assert_eq!(decoded, Ok(hello));
            let length = (bytes.len() as f64 * cut) as usize;
            let judged = judge_hello(&bytes[..length], &facts, |_| true);
            prop_assert!(matches!(judged, Err(HandshakeError::Failed(_))));
        }

        // covers B1
        #[test]
        fn single_bit_change_of_a_hello_never_panics(bit in 0usize..8 * 70) {
            let mut bytes = codec::encode(&hello());
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let whole = judge_hello(&codec::encode(&hello()), &facts(), |name| name.0 < 3);
            prop_assert!(whole.is_ok());
            // An incarnation, a start or a purpose may change into another valid one (the frame's checksum is what
            // notices); whatever else changes must be refused.
            if let Ok((Met { node, start }, _)) = judge_hello(&bytes, &facts(), |name| name.0 < 3) {
                prop_assert!(node.name.0 < 3 && node.name.0 != 1 && node.incarnation.0 != 0 && start.id.number != 0);
            }
        }
    }
}
