//! The numbers of a comparison.

use serde::Serialize;

use crate::peers::measure::{Found, Measure};

/// All numbers of a run.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) header: Vec<String>,
    pub(super) stores: Vec<Side>,
    pub(super) measures: Vec<Measure>,
    pub(super) clients: usize,
    pub(super) value_bytes: usize,
}

/// The numbers of one store.
#[derive(Debug, Serialize)]
pub(super) struct Side {
    pub(super) name: String,
    pub(super) is_ours: bool,
    pub(super) description: String,
    /// By measure, then by round.
    pub(super) found: Vec<Vec<Found>>,
    /// The most memory that each process ever had, in bytes, summed.
    pub(super) peak_bytes: u64,
    pub(super) processes: usize,
}
