//! The storage layer, as its users see it: written, crashed, damaged, quarantined and opened again.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

mod damage;
mod damaged_map;
mod records;
mod segments;
mod slots;
mod starts;
mod store;
mod support;

#[allow(clippy::duplicate_mod, reason = "the same tests for each engine")]
#[path = "."]
mod over_journal {
    #[path = "crash/mod.rs"]
    mod crash;
    const ENGINE: smr::LogEngine = smr_sim::journal::JOURNAL;
    /// Where its bytes are, and what its errors name.
    const LOG: &str = "/data/node/log/journal";
}

#[allow(clippy::duplicate_mod, reason = "the same tests for each engine")]
#[path = "."]
mod over_map {
    #[path = "crash/mod.rs"]
    mod crash;
    const ENGINE: smr::LogEngine = smr_sim::virtual_map::SIMULATED;
    const LOG: &str = "/data/node/log";
}

#[allow(clippy::duplicate_mod, reason = "the same tests for each engine")]
#[path = "."]
mod over_segments {
    #[path = "crash/mod.rs"]
    mod crash;
    const ENGINE: smr::LogEngine = smr::LogEngine::Segments;
    const LOG: &str = "/data/node/log/00000001.segment";
}
