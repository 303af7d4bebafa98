//! Customer records of robot factories: a map from a customer to its last order, replicated by a primary and its
//! backups.
//!
//! One factory produces, the *primary*; the others are idle, and keep the same log of map operations. Whoever is sent
//! an order becomes the primary. An order is acknowledged once every factory of the *live set* has it on its disk, so
//! all but one may fail. `docs/FACTORY.md` describes the protocol, with pictures.
//!
//! Who failed is judged by broken connections alone, as the document behind this service assumes (fail-stop). Where
//! links can break while both ends live, two factories may lead at once: then acknowledged orders can be lost, see
//! [`core`].
//!
//! | module | what it knows |
//! |---|---|
//! | [`words`] | servers, epochs, views, map operations |
//! | [`log`] | the log in memory, and where two logs part |
//! | [`message`] | what travels, and how long it may be |
//! | [`core`] | the protocol: pure, no clock, socket, file or thread |
//! | [`store`] | promise, view and log on disk |
//! | [`wire`] | greetings, and frames with a deadline |
//! | [`admin`] | the thread that drives the core; outgoing connections |
//! | [`listener`] | incoming connections: customers and other factories, at one port |
//! | [`engineers`] | what is answered there |
//! | [`managed`] | the same service on a group whose primary the managers name |
//! | [`server`], [`client`] | the two programs |

pub mod admin;
pub mod client;
pub mod core;
pub mod engineers;
pub mod listener;
pub mod log;
pub mod managed;
pub mod message;
pub mod server;
pub mod store;
pub mod wire;
pub mod words;
