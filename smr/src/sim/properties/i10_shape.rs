//! I10 and what else can be said of one node alone: the core's own checker, now and then; and applied within its bounds.

use super::{Happening, Property, View};
use crate::raft::invariants;

/// The checker walks the whole log, so it runs after one in so many steps.
const EVERY_STEPS: u64 = 256;

pub(super) struct Shape;

impl Property for Shape {
    fn name(&self) -> &'static str {
        "I10 shape of a node"
    }

    fn on(&mut self, _happening: &Happening<'_>) -> Result<(), String> {
        Ok(())
    }

    fn after_step(&mut self, view: &View<'_>) -> Result<(), String> {
        for node in view.touched_nodes() {
            if node.snapshot.index > node.applied.index {
                return Err(format!("{}: snapshot {} beyond applied {}", node.node, node.snapshot, node.applied));
            }
            if view.step.is_multiple_of(EVERY_STEPS) {
                // Panics with the values, which ends the run as well.
                invariants::check(node.raft);
            }
        }
        Ok(())
    }
}
