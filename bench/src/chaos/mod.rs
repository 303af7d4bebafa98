//! Chaos: a cluster of real processes behind a bad network, tormented by a seeded schedule of faults.
//!
//! - [`proxy`]: links that hold, delay, cut, flap and replay.
//! - [`wiring`]: a cluster whose every connection goes over such a link.

pub mod proxy;
pub mod wiring;
