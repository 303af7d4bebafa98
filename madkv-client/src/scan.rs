//! Merges the partitions' parts of a SCAN.

use bytes::Bytes;
use madkv_proto::command::{Malformed, decode_records};

/// A key and its value.
pub(crate) type Record = (Bytes, Bytes);

/// The records of one partition's answer.
pub(crate) fn records(parts: &[Bytes]) -> Result<Vec<Record>, Malformed> {
    let mut records = Vec::new();
    for part in parts {
        records.append(&mut decode_records(part)?);
    }
    if records.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(Malformed("scan answer: keys out of order"));
    }
    Ok(records)
}

/// Merges sorted lists without common keys into one.
pub(crate) fn merge(mut lists: Vec<Vec<Record>>) -> Vec<Record> {
    // Pairs of neighbours, again and again: each record is moved log2(50) < 6 times, and no heap is needed.
    while lists.len() > 1 {
        let mut merged = Vec::with_capacity(lists.len().div_ceil(2));
        let mut rest = lists.into_iter();
        while let Some(left) = rest.next() {
            merged.push(match rest.next() {
                Some(right) => merge_two(left, right),
                None => left,
            });
        }
        lists = merged;
    }
    lists.pop().unwrap_or_default()
}

fn merge_two(left: Vec<Record>, right: Vec<Record>) -> Vec<Record> {
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let mut right = right.into_iter().peekable();
    for record in left {
        while let Some(smaller) = right.next_if(|other| other.0 < record.0) {
            merged.push(smaller);
        }
        merged.push(record);
    }
    merged.extend(right);
    merged
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use madkv_proto::command::push_record;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn merge_dealt_map_restored_in_order(
            map in proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 0..4), any::<u8>(), 0..60),
            hands in 1usize..9,
        ) {
            let mut lists = vec![Vec::new(); hands];
            for (key, value) in &map {
                lists[usize::from(*value) % hands].push((Bytes::from(key.clone()), Bytes::from(vec![*value])));
            }
            let merged: Vec<_> = merge(lists).into_iter().map(|(key, value)| (key.to_vec(), value[0])).collect();
            prop_assert_eq!(merged, map.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn records_keys_out_of_order_refused() {
        let part = |keys: &[&str]| {
            let mut part = Vec::new();
            keys.iter().for_each(|key| push_record(&mut part, key.as_bytes(), b"v"));
            Bytes::from(part)
        };
        assert_eq!(records(&[part(&["a"]), part(&["b", "c"])]).unwrap().len(), 3);
        assert!(records(&[part(&["a", "b"]), part(&["b"])]).is_err());
        assert!(records(&[part(&["b", "a"])]).is_err());
        let keys: BTreeMap<_, _> = records(&[part(&["x"])]).unwrap().into_iter().collect();
        assert!(keys.contains_key(&b"x"[..]));
    }
}
