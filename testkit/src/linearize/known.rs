//! Known good and bad histories, one for each anomaly.

use crate::history::History;
use crate::linearize::{Options, Verdict, check};

/// Reads operations, one per line; `initially` and `partitions` may stand among them.
pub(crate) fn history(lines: &str) -> History {
    let lines: Vec<&str> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let operations = lines.iter().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).count();
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let text = format!("madkv-history 1\n{lines}end {operations}\n");
    History::read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn judge(lines: &str) -> Verdict {
    check(&history(lines), &Options::default())
}

/// Says which checks found something.
fn finders(lines: &str) -> Vec<&'static str> {
    let mut finders: Vec<&str> = judge(lines).violations.iter().map(|violation| violation.check).collect();
    finders.dedup();
    finders
}

#[test]
fn check_good_histories_pass() {
    for (what, lines) in [
        ("nothing at all", ""),
        ("one after the other", "0 1 2 PUT k a -> not_found\n0 3 4 SWAP k b -> value a\n0 5 6 DELETE k -> found"),
        (
            "two at once, seen in the other order",
            "0 1 9 PUT k a -> found\n1 2 8 PUT k b -> not_found\n2 10 11 GET k -> value a",
        ),
        (
            "a value that is written once more",
            "initially k a\n0 1 2 PUT k b -> found\n0 3 4 GET k -> value b\n0 5 6 PUT k a -> found",
        ),
        ("a key that was there before", "initially k a\n0 1 2 GET k -> value a\n0 3 4 PUT k b -> found"),
        (
            "an unknown write that took effect late",
            "0 1 - PUT k a -> unknown\n1 5 6 GET k -> absent\n1 7 8 GET k -> value a",
        ),
        (
            "an unknown write that never did",
            "0 1 - PUT k a -> unknown\n1 5 6 GET k -> absent\n1 7 8 DELETE k -> not_found",
        ),
        ("an unknown write that only a flag tells of", "0 1 - PUT k a -> unknown\n1 5 6 PUT k b -> found"),
        (
            "an unknown removal",
            "0 1 2 PUT k a -> not_found\n1 3 - DELETE k -> unknown\n0 5 6 GET k -> value a\n0 7 8 GET k -> absent",
        ),
        ("a failed write", "0 1 2 PUT k a -> not_done\n1 3 4 GET k -> absent"),
        (
            "a SCAN whose keys changed meanwhile, two partitions",
            "partitions 2\n0 1 2 PUT a 1 -> not_found\n0 3 4 PUT b 1 -> not_found\n9 1 9 SCAN a z -> records b 1",
        ),
        ("touching ends are no order", "0 1 5 PUT k a -> not_found\n1 5 6 GET k -> absent"),
        ("a SCAN from high to low", "0 1 2 PUT k a -> not_found\n0 3 4 SCAN z a -> records"),
    ] {
        let verdict = judge(lines);
        assert!(verdict.passed(), "{what}: {verdict:?}");
    }
}

#[test]
fn check_each_anomaly_is_found_by_both_checks() {
    let both = ["search", "chains"];
    for (what, lines) in [
        ("stale read", "0 1 2 PUT k a -> not_found\n0 3 4 PUT k b -> found\n1 5 6 GET k -> value a"),
        ("stale absence", "0 1 2 PUT k a -> not_found\n1 3 4 GET k -> absent"),
        ("lost write", "0 1 2 PUT k a -> not_found\n0 3 4 DELETE k -> not_found"),
        ("lost update", "0 1 2 PUT k a -> not_found\n0 3 9 SWAP k b -> value a\n1 4 8 SWAP k c -> value a"),
        ("SWAP applied twice, the second seen", "0 1 2 PUT k a -> not_found\n0 3 4 SWAP k b -> value b"),
        ("SWAP applied again later", "0 1 2 SWAP k a -> absent\n1 3 4 SWAP k b -> value a\n2 5 6 GET k -> value a"),
        ("a value that no one wrote", "0 1 2 PUT k a -> not_found\n1 3 4 GET k -> value x"),
        ("read of the future", "1 1 2 GET k -> value a\n0 3 4 PUT k a -> not_found"),
        ("real time turned round", "0 1 2 SWAP k b -> value a\n1 3 4 SWAP k a -> absent"),
        (
            "two values take turns",
            "0 1 2 PUT k a -> not_found\n1 3 4 PUT k b -> found\n2 7 8 GET k -> value a\n2 9 10 GET k -> value b",
        ),
        (
            "two readers see two orders",
            "0 1 9 PUT k a -> found\n1 1 9 PUT k b -> not_found\n2 10 11 GET k -> value a\n2 12 13 GET k -> value \
             b\n2 14 15 GET k -> value a",
        ),
        ("PUT says found, nothing was there", "0 1 2 PUT k a -> found"),
        ("PUT says not found, something was there", "0 1 2 PUT k a -> not_found\n0 3 4 PUT k b -> not_found"),
        ("DELETE applied twice", "0 1 2 PUT k a -> not_found\n1 3 9 DELETE k -> found\n2 4 8 DELETE k -> found"),
        (
            "removed value comes back",
            "0 1 2 PUT k a -> not_found\n0 3 4 DELETE k -> found\n1 5 6 GET k -> absent\n1 7 8 GET k -> value a",
        ),
        ("dirty read of a write that failed", "0 1 2 PUT k a -> not_done\n1 3 4 GET k -> value a"),
        (
            "unknown write, seen and then unseen",
            "0 1 2 PUT k a -> not_found\n1 3 - PUT k u -> unknown\n2 5 6 GET k -> value u\n2 7 8 GET k -> value a",
        ),
        ("unknown write applied twice", "0 1 - SWAP k u -> unknown\n1 3 4 SWAP k b -> value u\n1 5 6 GET k -> value u"),
        ("unknown write seen before its call", "1 1 2 GET k -> value u\n0 3 - PUT k u -> unknown"),
        ("SCAN misses an old key", "0 1 2 PUT b a -> not_found\n1 3 4 SCAN a z -> records"),
        (
            "SCAN shows an old value",
            "0 1 2 PUT b a -> not_found\n0 3 4 PUT b c -> found\n1 5 6 SCAN a z -> records b a",
        ),
        (
            "SCAN that cannot be repeated",
            "0 1 9 PUT b a -> not_found\n1 2 3 SCAN a z -> records b a\n1 4 5 SCAN a z -> records",
        ),
    ] {
        assert_eq!(finders(lines), both, "{what}");
    }
}

#[test]
fn check_circle_of_swaps_is_found_by_both_checks() {
    assert_eq!(finders("0 1 9 SWAP k a -> value b\n1 1 9 SWAP k b -> value a"), ["search", "chains"]);
}

#[test]
fn check_scan_that_is_not_sorted_or_not_inside_is_found() {
    for records in ["b 1 a 1", "a 1 a 1", "a 1 x 1"] {
        let lines =
            format!("0 1 2 PUT a 1 -> not_found\n0 1 2 PUT b 1 -> not_found\n0 3 4 SCAN a c -> records {records}");
        assert!(finders(&lines).contains(&"shape"), "{records}");
    }
}

#[test]
fn check_scan_of_one_partition_at_two_moments_is_found() {
    // Both keys are written one after the other while the SCAN runs; it sees the second write without the first.
    let lines = "0 1 2 PUT a 1 -> not_found\n0 3 4 PUT b 1 -> not_found\n9 0 9 SCAN a z -> records b 1";
    assert_eq!(finders(&format!("partitions 1\n{lines}")), ["moments"]);
    assert!(judge(lines).passed(), "with an unknown number of partitions nothing can be said");
    let later = "0 1 2 PUT a 1 -> not_found\n0 3 4 PUT a 2 -> found\n0 5 6 PUT b 1 -> not_found\n\
        9 0 9 SCAN a z -> records a 1 b 1";
    assert_eq!(finders(&format!("partitions 1\n{later}")), ["moments"]);
}

#[test]
fn check_budget_used_up_is_no_pass() {
    let lines = "0 1 9 PUT k a -> not_found\n1 1 9 DELETE k -> found\n2 10 11 PUT k b -> not_found";
    let verdict = check(&history(lines), &Options { budget: 1 });
    assert!(!verdict.passed() && verdict.violations.is_empty(), "{verdict:?}");
    assert_eq!(verdict.undecided, ["k"]);
}

#[test]
fn check_more_open_operations_than_a_search_can_hold_is_no_pass() {
    let mut lines = String::new();
    for number in 0..5_000 {
        lines += &format!("{number} 1 9 PUT k v{number} -> found\n");
    }
    let verdict = judge(&lines);
    assert_eq!(verdict.undecided, ["k"]);
}
