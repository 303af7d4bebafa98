//! What a connection said at its beginning.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

/// How much of the beginning of each connection is recorded for `Proxy::replay`, in bytes.
pub const RECORDED_MAX_BYTES: usize = 256 << 10;
/// How many connections of a link are kept on record.
const RECORDS_MAX: usize = 4;

/// What a connection said at its beginning.
pub(super) type Record = Arc<Mutex<Vec<u8>>>;

/// What the latest connections of a link said.
#[derive(Debug, Default)]
pub(super) struct Records(Mutex<VecDeque<Record>>);

impl Records {
    /// The record of a new connection; the oldest one goes.
    pub(super) fn begin(&self) -> Record {
        let record = Record::default();
        let mut records = self.0.lock();
        if records.len() >= RECORDS_MAX {
            records.pop_front();
        }
        records.push_back(Arc::clone(&record));
        record
    }

    /// What the oldest connection said that said anything.
    pub(super) fn oldest(&self) -> Option<Vec<u8>> {
        self.0.lock().iter().map(|record| record.lock().clone()).find(|bytes| !bytes.is_empty())
    }
}
