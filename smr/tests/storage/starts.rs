//! The file that remembers the starts of other nodes.

use std::path::Path;
use std::sync::Arc;

use smr::id::{Disqualified, NodeId, StartTrail};
use smr::internals::disk::Disk;
use smr::internals::storage::SeenStarts;
use smr::internals::storage::{STARTS_MAX, open_seen_starts};
use smr_sim::virtual_disk::{Loss, VirtualDisk};

const A: NodeId = NodeId::new(1, 11);

fn open(disk: &VirtualDisk) -> SeenStarts {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    disk.create_dir_all(Path::new("/node")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    open_seen_starts(&disk, Path::new("/node")).unwrap()
}

// covers M18 M19
#[test]
fn admit_older_start_and_same_number_with_another_nonce_refused_also_after_a_power_cut() {
    let disk = VirtualDisk::new();
    let seen = open(&disk);
    let first = StartTrail::default().next(5);
    let second = first.next(6);
    for next in [first, first, second] {
        assert_eq!(seen.admit(A, next), Ok(Ok(())));
    }
    let disk = disk.after_crash(Loss::Everything);
    let seen = open(&disk);
    for shown in [first, first.next(7), first.next(7).next(8)] {
        let why = Disqualified::SetBack { shown: shown.id, newest: second.id };
        assert_eq!(seen.admit(A, shown), Ok(Err(why)));
    }
    assert_eq!(seen.admit(A, second), Ok(Ok(())));
    assert_eq!(seen.admit(NodeId::new(1, 12), first), Ok(Ok(())), "another incarnation is another node");
    assert_eq!(seen.newest(A), Some(second.id));
}

// covers I17 M18
#[test]
fn admit_full_the_oldest_of_a_replica_with_a_newer_one_is_forgotten() {
    let disk = VirtualDisk::new();
    let seen = open(&disk);
    let start = StartTrail::default().next(1);
    let others: Vec<NodeId> = (0..8).map(|name| NodeId::new(name, 7)).collect();
    let incarnations: Vec<NodeId> = (100..200).map(|incarnation| NodeId::new(3, incarnation)).collect();
    for node in others.iter().chain(&incarnations) {
        assert_eq!(seen.admit(*node, start), Ok(Ok(())));
    }
    let seen = open(&disk);
    for node in others.iter().filter(|node| node.name.0 != 3) {
        assert_eq!(seen.newest(*node), Some(start.id));
    }
    assert_eq!(seen.newest(others[3]), None);
    assert_eq!(seen.newest(incarnations[99]), Some(start.id));
    let remembered = others.iter().chain(&incarnations).filter(|node| seen.newest(**node).is_some()).count();
    assert_eq!(remembered, STARTS_MAX);
}
