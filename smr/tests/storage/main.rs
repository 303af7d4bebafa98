//! The storage layer, as its users see it: written, crashed, damaged, quarantined and opened again.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

mod crash;
mod damage;
mod records;
mod store;
mod support;
mod virtual_disk;
