//! Blocks: what images of the map, and differences between two of them, are made of.
//!
//! ```text
//! block: length u32 | records as in `madkv_proto::command`, or an ownership; an empty one ends a list of them
//! ```

use std::io;

use bytes::Bytes;
use madkv_proto::command::{decode_records, push_record};
use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};
use smr::codec;

use crate::ownership::Ownership;

/// A block of an image ends with the record that reaches this length.
pub(crate) const BLOCK_AIM_BYTES: usize = 64 << 10;
/// The longest block: the last record may pass the aim. An ownership is far shorter.
const BLOCK_MAX_BYTES: usize = BLOCK_AIM_BYTES + 8 + KEY_MAX_BYTES + VALUE_MAX_BYTES;

pub(crate) fn write_ownership(output: &mut dyn io::Write, ownership: &Ownership) -> io::Result<()> {
    write_block(output, &codec::encode(ownership))?;
    write_records(output, ownership.changed().map(|(key, index)| (key, index.to_le_bytes())))
}

/// Writes records in blocks, and an empty one behind the last.
pub(crate) fn write_records<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    output: &mut dyn io::Write,
    records: impl Iterator<Item = (K, V)>,
) -> io::Result<()> {
    let mut block = Vec::with_capacity(2 * BLOCK_AIM_BYTES);
    for (key, value) in records {
        push_record(&mut block, key.as_ref(), value.as_ref());
        if block.len() >= BLOCK_AIM_BYTES {
            write_block(output, &block)?;
            block.clear();
        }
    }
    if !block.is_empty() {
        write_block(output, &block)?;
    }
    write_block(output, &[])
}

pub(crate) fn read_ownership(input: &mut dyn io::Read) -> io::Result<Ownership> {
    let block = read_block(input)?.ok_or_else(|| invalid("an image without the ownership that it names"))?;
    let mut ownership: Ownership = codec::decode(&block).map_err(|error| invalid(error.to_string()))?;
    while let Some(block) = read_block(input)? {
        for (key, index) in decode_records(&block).map_err(invalid)? {
            let index = index.first_chunk().copied().filter(|_| index.len() == 8).map(u64::from_le_bytes);
            if !index.is_some_and(|index| ownership.restore_change(&key, index)) {
                return Err(invalid("a changed key that cannot be one"));
            }
        }
    }
    Ok(ownership)
}

pub(crate) fn write_block(output: &mut dyn io::Write, block: &[u8]) -> io::Result<()> {
    let len = u32::try_from(block.len()).map_err(invalid)?;
    output.write_all(&len.to_le_bytes())?;
    output.write_all(block)
}

/// The next block; `None` at the end.
pub(crate) fn read_block(input: &mut dyn io::Read) -> io::Result<Option<Bytes>> {
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > BLOCK_MAX_BYTES {
        return Err(invalid("a block beyond the limit"));
    }
    let mut block = vec![0; len];
    input.read_exact(&mut block)?;
    Ok((len > 0).then(|| block.into()))
}

pub(crate) fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
