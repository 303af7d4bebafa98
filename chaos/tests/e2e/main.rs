//! End-to-end tests: the real executables on free loopback ports, killed, frozen and fed with malformed input.
//!
//! - [`kills`]: processes die or hang under load.
//! - [`managers`]: the manager group is hurt.
//! - [`directories`]: data directories that are emptied, swapped, opened twice; a replica that is far behind.
//! - [`emptied`]: all directories of a group are emptied.
//! - [`epochs`]: groups whose members the manager names, under load, while members and managers are killed.
//! - [`active`]: groups whose clients send to all members: consoles, deaths, lost messages.
//! - [`recovered`]: a group that has lost its majority for good goes on from one directory.
//! - [`inputs`]: garbage on ports, lines and command lines.
//! - [`fuzz`]: the fuzzer, against a cluster and against clients that lie.
//! - [`ycsb`]: the benchmarker, and a client that lies to it.
//! - [`agents`]: hosts with agents, which launch again what has ended or hangs.
//! - [`repairs`]: managers that repair groups by themselves, or wait for an operator.
//! - [`slots`]: slots move between partitions, and a partition is added.
//! - [`slow`]: which replica is a slow one, as the client tells it.
//! - [`network`]: links between real processes that are cut, stall, break and replay.
//! - [`backup`]: all keys into a file, and back, into another cluster.
//! - [`demo`]: demonstrations that check themselves.
//! - [`console`]: what `--trace_messages` prints on both sides.
//! - [`chaos`]: a seeded schedule of faults.
//! - [`why`]: one write's way, as the client tells it.
//! - [`launched`]: the launcher, as README shows it.
//! - [`watch`]: keys are watched, across kills and moves.
//! - [`watched`]: what processes show over HTTP.
//!
//! Nothing here waits for a fixed time; each condition has a deadline that is generous, because the machine may be
//! busy. How fast things are is measured by the scenarios (`madkv-scenario`), not here. A test that fails prints the
//! end of each node's log and keeps the directory.

#![cfg(test)]

mod active;
mod agents;
mod backup;
mod chaos;
mod console;
mod demo;
mod directories;
mod emptied;
mod epochs;
mod fuzz;
mod inputs;
mod kills;
mod launched;
mod managers;
mod members;
mod network;
mod prompt;
mod recovered;
mod repairs;
mod scene;
mod slots;
mod slow;
mod watch;
mod watched;
mod why;
