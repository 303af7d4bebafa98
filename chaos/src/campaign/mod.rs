//! What `madkv-fuzz` does: the fuzzer on a service that runs already, or on a cluster of its own under faults.
//!
//! - [`command`]: its options. [`run`]: cluster, clients, faults, recovery check, verdict. [`minority`]: as many die as
//!   may, and nothing else happens.

pub mod command;
pub mod minority;
pub mod run;
