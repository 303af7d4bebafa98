//! I1, election safety: over the whole history a term has at most one leader.

use std::collections::BTreeMap;

use super::{Happening, Property};
use crate::entry::Term;
use crate::id::NodeId;
use crate::protocol::Role;

#[derive(Default)]
pub(super) struct OneLeaderPerTerm {
    leaders: BTreeMap<Term, NodeId>,
}

impl Property for OneLeaderPerTerm {
    fn name(&self) -> &'static str {
        "I1 one leader per term"
    }

    fn on(&mut self, happening: &Happening<'_>) -> Result<(), String> {
        if let Happening::RoleChanged { node, role: Role::Leader, term, .. } = happening {
            let first = *self.leaders.entry(*term).or_insert(*node);
            if first != *node {
                return Err(format!("{first} and {node} both lead {term:?}"));
            }
        }
        Ok(())
    }
}
