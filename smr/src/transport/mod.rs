//! Connections between the replicas of a group.
