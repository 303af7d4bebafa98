//! What tests, scenarios and benchmarks of MadKV stand on: real processes on one machine, and the judges of what their
//! clients heard. From the executable to the verdict:
//!
//! - [`programs`]: where the executables are, and how to build them. [`ports`]: loopback ports that no one else takes.
//! - [`process`]: one child process: start, kill -9, freeze, thaw, restart. [`proc`]: what the kernel says of it.
//!   [`mount`]: a file system in a file.
//! - [`cluster`]: all processes of a cluster, and who leads where. [`newcomer`]: replicas that join later. [`agents`]:
//!   those of its hosts. [`place`]: where it lives. [`ask`]: one question to one replica. [`launcher`]: what
//!   `madkv-local` does.
//! - [`proxy`]: links that hold, delay, cut, flap and replay. [`wiring`]: a cluster whose connections go over such
//!   links.
//! - [`line_client`]: the command-line client, driven through its pipes. [`caller`]: that one, or the library.
//! - [`load`]: clients that swap and keep a history for [`swaps`]. [`failover`]: how long one waits for a new leader.
//! - [`history`]: what clients asked and heard, of all five operations; as a file that can be checked again.
//! - [`swaps`]: was each write applied exactly once, judged from the clients' answers alone.
//! - [`linearize`]: could a correct store have given a history; and if not, the smallest part of it that shows it.
//! - [`scrape`]: what a process shows over HTTP, and a strict reader of its metrics.
//! - [`measure`]: latencies, and what processes cost. [`progress`]: what is seen of a run that lasts.
//! - [`wait`]: waiting for a condition, with a deadline. Nothing here sleeps for luck.

pub mod agents;
pub mod ask;
pub mod caller;
pub mod cluster;
pub mod failover;
pub mod history;
pub mod launcher;
pub mod line_client;
pub mod linearize;
pub mod load;
pub mod measure;
pub mod mount;
pub mod newcomer;
pub mod place;
pub mod ports;
pub mod proc;
pub mod process;
pub mod programs;
pub mod progress;
pub mod proxy;
pub mod scrape;
pub mod swaps;
pub mod wait;
pub mod wiring;
