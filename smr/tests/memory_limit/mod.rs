//! A limit to the memory of a test process, for tests that feed decoders with hostile lengths. Shared by several
//! crates.

use std::fs;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Puts the limit in force, once: this many bytes beyond what the process has now.
pub(crate) fn limit_memory(more_bytes: u64) {
    static LIMITED: OnceLock<()> = OnceLock::new();
    LIMITED.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let size_kib: u64 = size.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        let most = size_kib * 1024 + more_bytes;
        let Rlimit { maximum, .. } = getrlimit(Resource::As);
        let current = Some(maximum.map_or(most, |maximum| maximum.min(most)));
        setrlimit(Resource::As, Rlimit { current, maximum }).unwrap();
    });
}
