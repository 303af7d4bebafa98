//! Tasks of this repository that cargo does not do.
//!
//! - [`mutants`]: puts known bugs into a copy of the tree, and counts the seeds until the harness finds each.
//! - [`coverage`]: which cases of the fault catalogue have a test.
//! - [`diagrams`]: the diagrams of documents, from the traces of golden scripts.

pub mod coverage;
pub mod diagrams;
pub mod mutants;
