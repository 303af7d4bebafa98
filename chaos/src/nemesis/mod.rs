//! The nemesis: a cluster of real processes behind a bad network, tormented by a seeded schedule of faults.
//!
//! - [`proxy`]: links that hold, delay, cut, flap and replay.
//! - [`wiring`]: a cluster whose every connection goes over such a link.
//! - [`plan`]: the schedule of a seed. [`faults`]: what each fault does. [`injector`]: carries the schedule out.
//! - [`world`]: what the faults strike, and the book of who is hurt.
//! - [`board`]: what the nodes say of themselves, watched and judged all the time.
//! - [`calm`]: what must be well once the faults are over.

pub mod board;
pub mod calm;
pub mod faults;
pub mod injector;
pub mod plan;
pub mod proxy;
pub mod wiring;
pub mod world;
