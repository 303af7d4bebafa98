//! The listener over real sockets, with a backend that does what the test says.

#![cfg(test)]

mod limits;
mod requests;
mod support;
