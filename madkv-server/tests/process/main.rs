//! A server as a process: a partition of one replica, with a manager that says what the test wants.

#![cfg(test)]

mod hostile;
mod lifecycle;
mod site;
#[path = "../support/mod.rs"]
mod support;
