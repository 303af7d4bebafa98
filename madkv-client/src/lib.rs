//! MadKV's client.
//!
//! # Guarantees
//! - Every write takes effect exactly once, however often it is sent: it carries the session of its partition's group
//!   and a number in it. A request that never left may move to another session; one whose outcome is unknown never
//!   does ([`Error::Evicted`]).
//! - Every read is linearizable; reads are repeated freely. A SCAN is whole or fails, never partial.
//! - Without a timeout a call returns when it succeeded. With one, [`Error::Timeout`] says whether the write may have
//!   happened. "Has not happened" rests on one of two facts only: no copy left this process, or each copy that left was
//!   refused before it was proposed (fault catalogue C9).
//! - Everything is bounded: requests and bytes under way, redirects in a row, the rate of retries ([`limits`]).
//!
//! # The journey of a call
//! [`Client`] checks limits, takes the map from the router, reserves a number in the group's session and starts an
//! exchange, which finds the leader and ends with the first real answer. Groups, sessions, exchanges and connections
//! are those of [`smr_service::client`], which knows no keys.
//!
//! # Features
//! `cli`, off by default, adds the command-line client and its program `madkv-client`. A build of the whole workspace
//! turns it on.
//!
//! # Left out
//! Reads from followers, streaming of SCAN results (they are collected before the call returns), authentication.

// Lines for a person go through the log sink: these panic if no one takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod admin;
#[cfg(feature = "cli")]
pub mod cli;
mod client;
mod control;
mod error;
pub mod limits;
mod members;
mod pace;
mod router;
mod scan;
mod watch;
mod why;

pub use admin::{ClusterStatus, KeyPlace, NodeReport};
pub use client::{Client, Options, ReadFrom};
pub use error::Error;
pub use pace::{ClusterPace, NodePace};
pub use smr_service::client::{Dial, Input, Network, Output, Trace, World};
pub use watch::{KeyChange, Watch, WatchError, WatchEvent, WatchStart};
pub use why::{Holder, Stretch, Waterfall};

use madkv_proto::map::ClusterMap;

type Group = smr_service::client::Group<ClusterMap>;
type Link = smr_service::client::Link<ClusterMap>;
type Posted = smr_service::client::Posted<ClusterMap>;
