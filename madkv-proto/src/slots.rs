//! From keys to slots: CRC16 of the key, as in Redis Cluster, hash tags included.

use crc::{CRC_16_XMODEM, Crc};

/// How many slots there are. Every key lives in exactly one.
pub const SLOTS: u16 = 16384;

const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The slot of a key. If the key has a `{`, a `}` after it and something between the first such pair, only that part
/// counts: keys with equal tags live together.
pub fn slot_of(key: &[u8]) -> u16 {
    CRC16.checksum(hash_tag(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let inner = &key[open + 1..];
    match inner.iter().position(|&byte| byte == b'}') {
        None | Some(0) => key,
        Some(close) => &inner[..close],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The vectors are those of the Redis Cluster specification.
    #[test]
    fn slot_of_known_keys_matches_specification() {
        assert_eq!(CRC16.checksum(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
    }

    #[test]
    fn slot_of_tagged_key_uses_first_nonempty_tag_only() {
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"user1000"));
        assert_eq!(slot_of(b"foo{}{bar}"), CRC16.checksum(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
    }

    #[test]
    fn slot_of_empty_key_exists() {
        assert!(slot_of(b"") < SLOTS);
    }
}
