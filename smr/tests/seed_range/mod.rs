//! Which seeds a test tries that tries many.

/// From 0 to `count`, or what the environment asks for (`SEEDS=17..18`).
pub(crate) fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|error| panic!("{text} is no seed: {error}"));
    match std::env::var("SEEDS").ok().as_deref().map(|range| range.split_once("..")) {
        None => 0..count,
        Some(Some((from, to))) => number(from)..number(to),
        Some(None) => panic!("SEEDS=from..to"),
    }
}
