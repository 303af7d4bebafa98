//! The words of the key-value store that MadKV's client, servers and manager share.
//!
//! - [`limits`]: which keys and values are too large.
//! - [`slots`], [`slot_set`]: from a key to one of 16384 hash slots; sets of them.
//! - [`map`]: from a slot to a partition, and from a partition to the addresses of its replicas.
//! - [`command`]: the commands, queries and answers of the ordered map, as bytes.
//! - [`slot_move`]: what a partition is told, and asked, while slots move from it or to it.
//! - [`control`]: what agents, servers and operators say to a manager beside the map.
//! - [`settings`]: the settings that change while everything runs.
//! - [`agent`]: what a replica and the agent of its host say to each other.
//! - [`frames`]: those of [`smr_service::frames`], with this map in them.
//! - [`mod@line`]: the line protocol.
//! - [`group_service`]: which service a group of the layout belongs to.
//! - [`watch`]: what a client hears of keys that change.
//! - [`why`]: what a client asks that wants to know where the time of a write went.
//!
//! A command is encoded once, by the client, and travels unparsed through log and network until it is applied.

// Lines for a person go through the log sink: these panic if no one takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

pub mod agent;
pub mod command;
pub mod control;
pub mod frames;
pub mod group_service;
pub mod limits;
pub mod line;
pub mod map;
pub mod settings;
pub mod slot_move;
pub mod slot_set;
pub mod slots;
pub mod watch;
pub mod why;
