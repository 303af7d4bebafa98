//! Exactly-once: the replicated table of clients, requests and answers.
//!
//! A client whose answer got lost cannot know whether its write happened, so it sends the write again; the table
//! makes the second copy harmless. It is part of the replicated state: every replica runs it over the same log, it
//! goes into each snapshot, and so a retry is recognised by whoever leads by then, also by a replica that never led
//! and by one restored from a snapshot (fault catalogue C1 - C3).
//!
//! # Vocabulary
//! - A **session** is opened by a log entry and named by that entry's index and a random part ([`ClientId`]), so no
//!   name comes twice, in no other group and in no restored one either.
//! - A request has a **number** in its session, from 1. A client may have many under way, and they may enter the log
//!   in any order and with gaps.
//! - Each request says the **lowest unanswered** number: the client no longer waits for anything below it, so the
//!   table forgets those, and takes a late copy of one for what it is. What was once said is never taken back.
//! - The **window** is the [`REQUESTS_IN_FLIGHT_MAX`] numbers from the lowest unanswered one. In it the table knows
//!   of every number whether it was executed. Beyond it a request is refused.
//! - The **stored answer** of an executed request is given to every further copy, as long as there is room.
//!
//! # What a request gets
//! | the request | outcome | effect |
//! |---|---|---|
//! | in the window, new | `Answer` | once |
//! | in the window, executed, answer stored, same command | `Answer`, the stored one | none |
//! | in the window, executed, answer stored, *another* command | `Refused` | none |
//! | in the window, executed, answer evicted | `AnswerGone` | none |
//! | below the window | `AnswerGone` | none |
//! | beyond the window, or number 0, or lowest unanswered 0 or above the number | `Refused` | none |
//! | in a session that is not in the table | `SessionExpired` | none |
//!
//! # Bounds, and why they need no clock
//! The answers together stay under [`ANSWERS_MAX_BYTES`]; the oldest by log index goes first, and only its bytes go:
//! that the number was executed stays known. At most [`SESSIONS_MAX`] sessions live; one more pushes out the one whose
//! last entry lies furthest back in the log. Among them at most one in [`UNUSED_SHARE`] may be one that was only opened
//! and never used; beyond, one more pushes out the oldest of these, so that a flood of opened sessions drives out no
//! client that writes. Age by the clock plays no part: clocks differ between replicas, and an idle client of a quiet
//! group has done nothing wrong (C5). Both limits shape the replicated state, so all replicas of a group must have the
//! same ones; a table written under others is refused.
//!
//! Left out: a hash of the command outlives its answer nowhere. A number that is reused for another command *after*
//! its answer was evicted is therefore told `AnswerGone` instead of `Refused`; it has no effect either way.
//!
//! [`ClientId`]: crate::id::ClientId

mod command;
mod difference;
mod image;
mod table;

use crate::id::REQUESTS_IN_FLIGHT_MAX;
pub use command::{ADDRESS_MAX_BYTES, ADDRESSES_MAX, SessionCommand, SessionCommandError, are_sensible};
pub(crate) use command::{WRITE_HEADER_LEN_BYTES, write_name};
pub use image::SessionImage;
pub use table::{Addresses, SessionLimits, SessionTable};

/// How much all stored answers together may take, in bytes, each counted with [`ANSWER_OVERHEAD_BYTES`]. Room for the
/// answers of some hundred thousand small writes, or of 64 of the largest: many times what is under way at once.
pub const ANSWERS_MAX_BYTES: usize = 64 << 20;

/// What a stored answer costs beyond its own bytes: an upper estimate of its record, its place in the order of
/// eviction and its allocation.
pub const ANSWER_OVERHEAD_BYTES: usize = 128;

/// The sessions that were never used may take this part of a full table: one in this many.
pub const UNUSED_SHARE: usize = 4;

/// How many sessions live in one group. An idle one costs some 300 bytes.
pub const SESSIONS_MAX: usize = 10_000;
