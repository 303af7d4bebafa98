//! The check after a run: every key is read back and compared with what the clients wrote.
//!
//! Updates are SWAPs of values that are unique in the run, and each answer names the value that was replaced; so for
//! each key they must link up into one chain from the first value to the one read now ([`madkv_testkit::swaps`]). A
//! write that was lost, or applied twice, or a wrong value, breaks it. Keys that no one updated hold their first value.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::ycsb::caller::Caller;
use crate::ycsb::value::{FIRST, stamp};
use madkv_testkit::history::{Action, Answer};
use madkv_testkit::measure::Trouble;
use madkv_testkit::swaps::{Swap, check};

/// How many keys a SCAN of the check asks for, and about how many bytes.
const SCAN_KEYS_MAX: usize = 500;
const SCAN_MAX_BYTES: usize = 1 << 20;

/// What each of these keys, which are sorted, holds now: the stamp of its value, of about `value_bytes`.
pub(super) fn read_all(
    caller: &mut Caller,
    keys: &[String],
    value_bytes: usize,
) -> Result<BTreeMap<String, Option<String>>, Trouble> {
    let mut all = BTreeMap::new();
    for part in keys.chunks((SCAN_MAX_BYTES / value_bytes.max(1)).clamp(1, SCAN_KEYS_MAX)) {
        let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
        let action = Action::Scan { from: Bytes::from(first.clone()), to: Bytes::from(last.clone()) };
        let Answer::Records(records) = caller.call(&action)? else { return Err("no answer to a SCAN".into()) };
        let found: BTreeMap<&[u8], &[u8]> = records.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        for key in part {
            let held = match found.get(key.as_bytes()) {
                None => None,
                Some(value) => {
                    Some(stamp(key, value).ok_or_else(|| format!("{key} holds what is no value of it"))?.to_owned())
                }
            };
            all.insert(key.clone(), held);
        }
    }
    Ok(all)
}

/// Whether what the keys hold is what the clients wrote.
pub(super) fn judge(held: &BTreeMap<String, Option<String>>, swaps: &[Swap], origin: Instant) -> Result<(), Trouble> {
    let mut history: Vec<Swap> = swaps.to_vec();
    let mut updated = BTreeMap::new();
    for swap in swaps {
        updated.entry(swap.key.as_str()).or_insert(origin.min(swap.started));
    }
    for (key, value) in held {
        if let Some(&began) = updated.get(key.as_str()) {
            // The first value, as a link of the chain: it was there before any of the swaps.
            let answer = Some((began, None));
            history.push(Swap { key: key.clone(), new: FIRST.to_owned(), started: began, answer });
        } else if value.as_deref() != Some(FIRST) {
            return Err(format!("{key} holds {value:?}, and no one has updated it").into());
        }
    }
    Ok(check(&history, held)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn history() -> (BTreeMap<String, Option<String>>, Vec<Swap>, Instant) {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let swap = |new: &str, old: &str, from, to| Swap {
            key: "user1".into(),
            new: new.into(),
            started: at(from),
            answer: Some((at(to), Some(old.into()))),
        };
        // c1-0 and c2-0 overlap: whichever came last may be there, the answers tell which one.
        let swaps = vec![swap("c1-0", "c2-0", 10, 30), swap("c2-0", FIRST, 15, 25)];
        let held = [("user1", "c1-0"), ("user2", FIRST)];
        let held = held.map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
        (held.into(), swaps, origin)
    }

    #[test]
    fn judge_chain_of_swaps_that_ends_in_the_value_held_passes() {
        let (held, swaps, origin) = history();
        judge(&held, &swaps, origin).unwrap();
    }

    #[test]
    fn judge_wrong_values_put_in_are_found() {
        for (key, wrong) in
            [("user1", Some("c2-0")), ("user1", Some(FIRST)), ("user1", None), ("user2", None), ("user2", Some("c1-0"))]
        {
            let (mut held, swaps, origin) = history();
            held.insert(key.to_owned(), wrong.map(str::to_owned));
            assert!(judge(&held, &swaps, origin).is_err(), "{key} {wrong:?}");
        }
    }

    #[test]
    fn judge_value_replaced_twice_is_found() {
        let (held, mut swaps, origin) = history();
        swaps[0].answer = swaps[1].answer.clone();
        assert!(judge(&held, &swaps, origin).unwrap_err().to_string().contains("replaced twice"));
    }
}
