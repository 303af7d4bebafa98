//! The manager's state as bytes: images of this build and of older ones.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use madkv_proto::control::{
    ADDRESS_MAX_BYTES, DETAIL_MAX_BYTES, EVENT_SUBJECT_MAX_BYTES, EVENT_TEXT_MAX_BYTES, HOST_NAME_MAX_BYTES,
    HOST_REPLICAS_MAX, HOSTS_MAX, SPARES_MAX,
};
use madkv_proto::map::{ClusterMap, PARTITIONS_MAX, REPLICAS_MAX};
use serde::{Deserialize, Serialize};
use smr::codec::{self, CodecError};
use smr::id::{Incarnation, StartId};
use smr::state_machine::Image;

use super::epochs::Epochs;
use super::events::EVENTS_KEPT_MAX;
use super::registrations::{Founded, ReplicaRecord};
use super::slots::Slots;
use super::{Contents, Control, ManagerState, Place};

/// The longest image of version 1, in bytes: far more than the most partitions and replicas need.
const IMAGE_MAX_BYTES: u32 = 1 << 20;
/// An image of version 1 begins with its length, which is at most [`IMAGE_MAX_BYTES`]. Those of later versions begin
/// with these bits and their version in the lower 16, and then with their length.
const IMAGE_VERSION_MARK: u32 = 0xffff_0000;
/// The versions of images that hold more than version 1 can: each is written only where the ones before cannot hold
/// it. 2: hosts, repairs, settings, events. 3: epochs. 4: moves of slots. 5: one that is given up. 6: other services.
const IMAGE_VERSION_2: u32 = 2;
const IMAGE_VERSION_3: u32 = 3;
const IMAGE_VERSION_4: u32 = 4;
const IMAGE_VERSION_5: u32 = 5;
const IMAGE_VERSION: u32 = 6;
/// The longest image of a version above 1, in bytes.
const IMAGE_2_MAX_BYTES: u32 = 8 << 20;

/// About the most that the parts of an image take, in bytes: texts, and 256 bytes for all else.
const REPLICA_MAX_BYTES: usize = 2 * DETAIL_MAX_BYTES + REPLICAS_MAX * ADDRESS_MAX_BYTES + 256;
const HOST_MAX_BYTES: usize = HOST_NAME_MAX_BYTES + ADDRESS_MAX_BYTES + SPARES_MAX * (2 * ADDRESS_MAX_BYTES + 16) + 256;
const EVENT_MAX_BYTES: usize = EVENT_SUBJECT_MAX_BYTES + EVENT_TEXT_MAX_BYTES + 256;
const WAITING_MAX_BYTES: usize = EVENT_TEXT_MAX_BYTES + 256;
const EPOCHS_MAX_BYTES: usize = 1024;
const _: () = assert!(
    IMAGE_MAX_BYTES as usize
        + HOST_REPLICAS_MAX * (REPLICA_MAX_BYTES + WAITING_MAX_BYTES)
        + HOSTS_MAX * HOST_MAX_BYTES
        + EVENTS_KEPT_MAX * EVENT_MAX_BYTES
        // The epochs of each group.
        + PARTITIONS_MAX * EPOCHS_MAX_BYTES
        // What was announced and what is wanted, for clients and for peers.
        + HOST_REPLICAS_MAX * (4 * ADDRESS_MAX_BYTES + 256)
        // How replicas are launched that are being placed, and those that were.
        + PARTITIONS_MAX * (REPLICAS_MAX + 1) * ADDRESS_MAX_BYTES
        + HOST_REPLICAS_MAX * 32
        < IMAGE_2_MAX_BYTES as usize
);

/// An image of version 1, to be written.
#[derive(Serialize)]
struct Version1<'a> {
    map: &'a Option<ClusterMap>,
    records: &'a BTreeMap<Place, ReplicaRecord>,
    founded: &'a BTreeMap<u16, Founded>,
}

/// An image of version 1, read.
#[derive(Deserialize)]
struct Version1Contents {
    map: Option<ClusterMap>,
    records: BTreeMap<Place, ReplicaRecord>,
    founded: BTreeMap<u16, Founded>,
}

impl From<Version1Contents> for Contents {
    fn from(Version1Contents { map, records, founded }: Version1Contents) -> Contents {
        Contents { map, records, founded, ..Contents::default() }
    }
}

/// What images of builds hold that recorded no genesis and counted no starts.
#[derive(Deserialize)]
struct OlderContents {
    map: Option<ClusterMap>,
    records: BTreeMap<(u16, u16), (Incarnation, bool)>,
}

impl From<OlderContents> for Contents {
    fn from(old: OlderContents) -> Contents {
        let record = |(incarnation, member)| ReplicaRecord { incarnation, member, start: StartId::default() };
        let records = old.records.into_iter().map(|(place, old)| (place, record(old))).collect();
        Contents { map: old.map, records, ..Contents::default() }
    }
}

impl Contents {
    /// An image of version 1. One of a build before that is shorter, and no beginning of a newer one.
    fn decode(bytes: &[u8]) -> Result<Contents, CodecError> {
        codec::decode::<Version1Contents>(bytes)
            .map(Contents::from)
            .or_else(|error| codec::decode::<OlderContents>(bytes).map(Contents::from).map_err(|_| error))
    }

    fn decode_2(bytes: &[u8]) -> Result<Contents, CodecError> {
        let (first, control): (Version1Contents, Control) = codec::decode(bytes)?;
        Ok(Contents { control, ..first.into() })
    }

    fn decode_3(bytes: &[u8]) -> Result<Contents, CodecError> {
        let (first, control, epochs): (Version1Contents, Control, Epochs) = codec::decode(bytes)?;
        Ok(Contents { control, epochs, ..first.into() })
    }

    fn decode_4(bytes: &[u8]) -> Result<Contents, CodecError> {
        let (first, control, epochs, slots): (Version1Contents, Control, Epochs, Slots) = codec::decode(bytes)?;
        Ok(Contents { control, epochs, slots, ..first.into() })
    }

    fn decode_6(bytes: &[u8]) -> Result<Contents, CodecError> {
        let (first, control, epochs, slots, services): (Version1Contents, Control, Epochs, Slots, _) =
            codec::decode(bytes)?;
        Ok(Contents { control, epochs, slots, services, ..first.into() })
    }
}

impl ManagerState {
    pub(super) fn read_image(input: &mut dyn io::Read) -> io::Result<ManagerState> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut number = || {
            let mut bytes = [0; 4];
            input.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes))
        };
        let first = number()?;
        let (version, len) = match first & IMAGE_VERSION_MARK {
            IMAGE_VERSION_MARK => (first & !IMAGE_VERSION_MARK, None),
            _ => (1, Some(first)),
        };
        if version > IMAGE_VERSION {
            return Err(invalid(format!(
                "an image of version {version}, this build reads versions 1 to {IMAGE_VERSION}"
            )));
        }
        let (len, limit) = match len {
            Some(len) => (len, IMAGE_MAX_BYTES),
            None => (number()?, IMAGE_2_MAX_BYTES),
        };
        if len > limit {
            return Err(invalid(format!("an image of {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        input.read_exact(&mut bytes)?;
        let contents = match version {
            IMAGE_VERSION => Contents::decode_6(&bytes),
            IMAGE_VERSION_5 | IMAGE_VERSION_4 => Contents::decode_4(&bytes),
            IMAGE_VERSION_3 => Contents::decode_3(&bytes),
            IMAGE_VERSION_2 => Contents::decode_2(&bytes),
            _ => Contents::decode(&bytes),
        };
        let contents = contents.map_err(|error| invalid(error.to_string()))?;
        Ok(ManagerState { contents: Arc::new(contents) })
    }
}

impl Image for ManagerState {
    fn write(&self, output: &mut dyn io::Write) -> io::Result<()> {
        let Contents { map, records, founded, control, epochs, slots, services } = &*self.contents;
        let first = Version1 { map, records, founded };
        let (version, bytes) = if !services.is_empty() {
            (IMAGE_VERSION, codec::encode(&(first, control, epochs, slots, services)))
        } else if *slots != Slots::default() {
            let version = if slots.is_of_version_5() { IMAGE_VERSION_5 } else { IMAGE_VERSION_4 };
            (version, codec::encode(&(first, control, epochs, slots)))
        } else if *epochs != Epochs::default() {
            (IMAGE_VERSION_3, codec::encode(&(first, control, epochs)))
        } else if *control != Control::default() {
            (IMAGE_VERSION_2, codec::encode(&(first, control)))
        } else {
            (1, codec::encode(&first))
        };
        if version > 1 {
            output.write_all(&(IMAGE_VERSION_MARK | version).to_le_bytes())?;
        }
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        output.write_all(&len.to_le_bytes())?;
        output.write_all(&bytes)
    }
}
