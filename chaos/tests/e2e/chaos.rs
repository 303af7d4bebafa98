//! A seeded schedule of faults, short. Longer runs, with all kinds of faults, are recipes.

use std::time::Duration;

use madkv_chaos::campaign::run::{ChaosOptions, Stage};
use madkv_chaos::fuzz::{Fuzz, FuzzOptions};
use madkv_chaos::nemesis::plan::Kind;
use madkv_chaos::nemesis::recovery_check::compare;
use madkv_testkit::cluster::Shape;

use crate::scene::{fresh_directory, programs};

/// A seed whose first two rounds hold faults of all three kinds, and are over in time.
const SEED: u64 = 154;
const LENGTH: Duration = Duration::from_secs(20);
/// How often as long as that at most.
const ATTEMPTS_MAX: usize = 10;

// covers N1, N3, E1, E18, L18, I1, I3, I7, I12, I13, I14, I17, I18
#[test]
fn kills_stops_and_bad_network_by_a_seed_linearizable_and_all_well_afterwards() {
    let directory = fresh_directory();
    let options = ChaosOptions {
        shape: Shape { server_rf: 3, manager_rf: 3, partitions: 1 },
        protocol: Vec::new(),
        faults: vec![Kind::Kill, Kind::Stop, Kind::Net],
        directory: Some(directory.path().to_path_buf()),
        node_flags: Vec::new(),
        verbose: true,
    };
    let mut stage = Stage::set(&options, programs(), SEED).unwrap_or_else(|error| panic!("{error}"));
    let managers = stage.world.cluster.manager_addresses().split(',').map(str::to_owned).collect();
    let fuzz = FuzzOptions {
        length: LENGTH,
        grace: 100 * LENGTH,
        timeout: Some(Duration::from_secs(20)),
        answered_percent_min: 60.0,
        ..FuzzOptions::new(managers, &directory.path().join("history"))
    };
    let mut fuzz = Fuzz::start(fuzz).unwrap();
    let mut report = stage.run_nemesis(LENGTH, &mut fuzz, None).unwrap_or_else(|error| panic!("{error}"));
    // A busy machine may need longer for the first two rounds.
    for _ in 0..ATTEMPTS_MAX {
        if stage.world.diary.kinds().len() == 3 {
            break;
        }
        report = stage.run_nemesis(LENGTH, &mut fuzz, None).unwrap_or_else(|error| panic!("{error}"));
    }
    fuzz.stop();
    let judged = fuzz.finish().unwrap();
    assert!(judged.passed, "{judged}");
    let kinds = stage.world.diary.kinds();
    assert_eq!(kinds.len(), 3, "{kinds:?}, {report:?}");
    compare(&stage.world).unwrap_or_else(|error| panic!("{error}"));
    stage.done().unwrap_or_else(|error| panic!("{error}"));
}
