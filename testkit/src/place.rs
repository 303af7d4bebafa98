//! Where a cluster of a scenario or a measurement lives, and a client of it.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use madkv_client::{Client, Options as ClientOptions};
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::programs::Programs;

/// How long a request may take that must be answered in the end.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What a scenario or a measurement ends with: nothing, or why it failed.
pub type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// A fresh directory below the one given, or beside the executables.
///
/// # Errors
/// Those of the file system.
pub fn fresh_directory(programs: &Programs, below: Option<&Path>) -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix("madkv-scenario-").tempdir_in(below.unwrap_or(programs.directory()))
}

/// A client library's handle of this cluster; its calls must run on a runtime.
pub fn library_client(cluster: &Cluster) -> Client {
    let managers = cluster.manager_addresses().split(',').map(str::to_owned).collect();
    Client::connect(ClientOptions { managers, timeout: Some(TIMEOUT), ..ClientOptions::default() })
}
