//! Damaged directories: each either starts with every record, or is refused or quarantined with a line that names a file.

use std::fs;

use smr::protocol::LogChange;

use crate::support::*;

// covers D5
#[test]
fn promise_missing_or_broken_beside_a_log_is_quarantined() {
    for broken in [None, Some(vec![]), Some(vec![7; 1024])] {
        let bench = Bench::new();
        let mut store = bench.founded();
        store.apply(&LogChange::Append(batch(2, 5, 1, 10))).unwrap();
        store.sync().unwrap();
        drop(store);
        let promise = bench.path.join("promise");
        match broken {
            None => fs::remove_file(&promise).unwrap(),
            Some(bytes) => fs::write(&promise, bytes).unwrap(),
        }
        let log = contents(&bench.path.join("log"));
        let quarantined = bench.reopen().quarantined();
        assert!(quarantined.reason.contains("node/promise: "), "{}", quarantined.reason);
        assert_eq!(quarantined.since_unix_s, Some(bench.options.now_unix_s));
        drop(quarantined);
        // It sticks, and the log is not even opened.
        assert!(bench.reopen().quarantined().reason.contains("node/promise: "));
        assert_eq!(contents(&bench.path.join("log")), log);
    }
}
