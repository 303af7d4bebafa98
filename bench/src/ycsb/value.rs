//! Values that say whose they are and who wrote them, so that each that is read can be checked:
//! `<key>=<stamp>=<padding>`.

use rand::{Rng, RngExt};

/// The stamp of what the load phase or an insert wrote: the first value of its key.
pub(super) const FIRST: &str = "first";
/// What paddings are cut from, in bytes.
const PAD_BYTES: usize = 64 << 10;

/// Makes values of one size.
#[derive(Debug)]
pub(super) struct Values {
    bytes: usize,
    pad: String,
}

impl Values {
    pub(super) fn new(bytes: usize, rng: &mut impl Rng) -> Values {
        let letters = (0..PAD_BYTES.max(2 * bytes)).map(|_| char::from(rng.random_range(b'a'..=b'z')));
        Values { bytes, pad: letters.collect() }
    }

    /// A value; longer than told if key and stamp do not fit.
    pub(super) fn make(&self, key: &str, stamp: &str, rng: &mut impl Rng) -> String {
        let mut value = format!("{key}={stamp}=");
        let rest = self.bytes.saturating_sub(value.len());
        let start = rng.random_range(0..=self.pad.len() - rest);
        value.push_str(&self.pad[start..start + rest]);
        value
    }
}

/// The stamp of a value, if it is one of this key.
pub(super) fn stamp<'a>(key: &str, value: &'a [u8]) -> Option<&'a str> {
    let rest = value.strip_prefix(key.as_bytes())?.strip_prefix(b"=")?;
    let end = rest.iter().position(|&byte| byte == b'=')?;
    std::str::from_utf8(&rest[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn make_value_has_its_size_and_gives_back_its_stamp() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for bytes in [0, 10, 1_000, 100_000] {
            let values = Values::new(bytes, &mut rng);
            let value = values.make("user1", "c3-7", &mut rng);
            assert_eq!(value.len(), bytes.max("user1=c3-7=".len()));
            assert_eq!(stamp("user1", value.as_bytes()), Some("c3-7"));
            assert_eq!(stamp("user12", value.as_bytes()), None);
            assert_eq!(stamp("user", value.as_bytes()), None);
        }
        assert_eq!(stamp("user1", b"user1=x"), None);
    }
}
