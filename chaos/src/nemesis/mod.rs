//! The nemesis: a cluster of real processes on a bad network ([`madkv_testkit::wiring`]), and a seeded schedule of
//! faults.
//!
//! - [`plan`]: the schedule of a seed. [`faults`]: what each fault does. [`injector`]: carries the schedule out.
//! - [`world`]: what the faults hit, and the book of who is hurt.
//! - [`monitor`]: what the nodes say of themselves, watched and judged all the time.
//! - [`recovery_check`]: what must be well once the faults are over.

pub mod faults;
pub mod injector;
pub mod monitor;
pub mod plan;
pub mod recovery_check;
pub mod traffic;
pub mod world;
