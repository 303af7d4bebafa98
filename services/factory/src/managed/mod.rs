//! Factories under managers (`--managers`): who produces is decided by them, so that broken links cannot make two.
//!
//! The factories are a group of kind `passive` or `active` in the managers' layout; customer records and the log of
//! map operations are its replicated state. Who comes first in the present epoch is the primary. A factory that is
//! sent orders and is not the primary becomes it: the present one stops, commits what it has, and confirms; then the
//! managers are asked for the next epoch, which they issue at most once a second. If it cannot become the primary (it
//! is being caught up, or is no member) the customer is told where the primary is. Every order has a name, a session
//! and a number in it, under which it is recorded once, however often it is sent and wherever: so nothing that goes
//! wrong on the way leaves a customer in doubt.
//!
//! | module | what it knows |
//! |---|---|
//! | [`records`] | customer records and the last operation: the replicated state |
//! | [`managers`] | how managers are asked |
//! | [`lookout`] | who the primary is |
//! | [`gate`] | the orders under way, and how they stop |
//! | [`promotion`], [`words`] | how a factory becomes the primary; what it says to the present one |
//! | [`engineers`] | what is answered to customers |
//! | [`customer`] | a customer who goes on at another factory when one dies |
//! | [`server`] | the program |

pub mod customer;
pub mod engineers;
pub mod gate;
pub mod lookout;
pub mod managers;
pub mod promotion;
pub mod records;
pub mod server;
pub mod words;
