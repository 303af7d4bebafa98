//! A voting service: ballots that the server opens, votes of many clients, and results that each client logs without a
//! gap and without a repeat, whichever of two replicas fails, and however the link between them does.
//!
//! Two replicas are a group of kind `passive` (or `active`) whose members the managers name; so there is one primary at
//! most. `docs/VOTING.md` describes the protocol, with pictures.
//!
//! | module | what it knows |
//! |---|---|
//! | [`words`] | what clients and servers say to each other |
//! | [`state`] | voters, the open ballot, results: the replicated state |
//! | [`pulse`] | heartbeats between the two replicas |
//! | [`lookout`] | primary or backup? and how it is with the other one |
//! | [`ballots`] | the primary opens and closes ballots, and sends on the votes that it kept as a backup |
//! | [`restart`] | the primary starts a dead backup again |
//! | [`backend`] | what clients ask |
//! | [`place`] | which replica this is: registration with the managers |
//! | [`options`] | the command line of a server |
//! | [`server`], [`client`] | the two programs |

// Lines for a person go through the log sink: these panic if no one takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

pub mod backend;
pub mod ballots;
pub mod client;
pub mod lookout;
pub mod options;
pub mod place;
pub mod pulse;
pub mod restart;
pub mod server;
pub mod state;
pub mod words;
