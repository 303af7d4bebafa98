//! A group over three sites: how long one client waits, by kind and by where it is.

use smr::epoch::GroupKind;
use smr::status::ReadMode;
use smr_sim::geography::Spread;

/// Sites, and replicas.
const SITES: u16 = 3;
/// Operations that each figure is the median of.
const OPERATIONS: usize = 400;

/// One row for each kind and way to read.
pub(super) fn print(apart_ms: u64) {
    println!(
        "{SITES} sites, {apart_ms} ms apart (there and back), one replica at each; half of {OPERATIONS} operations"
    );
    println!(
        "took at most this many milliseconds. Site 0 has the one who orders writes, site {} the last.\n",
        SITES - 1
    );
    println!("| kind, reads | write from site 0, 1, 2 | read from site 0, 1, 2 |\n|---|---|---|");
    for kind in GroupKind::ALL {
        let ways: &[(ReadMode, bool, &str)] = match kind {
            GroupKind::Raft => &[
                (ReadMode::Index, false, "at the leader, a round for each"),
                (ReadMode::Lease, false, "at the leader, by its lease"),
            ],
            GroupKind::Epochs(_) => {
                &[(ReadMode::Lease, false, "at the first member"), (ReadMode::Lease, true, "at the site's own member")]
            }
        };
        for &(reads, reads_nearby, how) in ways {
            // Where only one replica applies, no other one answers.
            if reads_nearby && !kind.epochs().is_some_and(|kind| kind.all_apply()) {
                continue;
            }
            let waits = (0..SITES).map(|client_at| {
                Spread { kind, reads, sites: SITES, apart_us: apart_ms * 1000, client_at, reads_nearby }
                    .measure(OPERATIONS)
            });
            let waits: Vec<_> = waits.collect();
            let list = |of: &dyn Fn(usize) -> u64| {
                let all = (0..waits.len()).map(|site| format!("{:.1}", of(site) as f64 / 1000.0));
                all.collect::<Vec<_>>().join(", ")
            };
            let (writes, reads) = (list(&|site| waits[site].write_us), list(&|site| waits[site].read_us));
            println!("| `{kind}`, {how} | {writes} | {reads} |");
        }
    }
}
