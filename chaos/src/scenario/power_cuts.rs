//! Power cuts, as far as software can make them: everything lives on an ext4 in a file (`commit=600`, so that the file
//! system itself writes nothing in time). Under load all nodes are stopped at once; the image is copied *without
//! unmounting*, so the copy holds only what had reached the device; then the nodes are killed, the copy takes the
//! image's place, and the cluster restarts on it. Every write acknowledged before must be there, none twice.
//!
//! This does not test the device's own cache; that the calls which flush it are made is shown by tracing them.

use std::collections::BTreeMap;
use std::fs;

use crate::scenario::{Place, TIMEOUT, describe};
use madkv_testkit::cluster::Cluster;
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::load::{ANSWER_TIMEOUT, Load, Plan};
use madkv_testkit::mount::{Mount, command, text};
use madkv_testkit::place::{Outcome, fresh_directory};
use madkv_testkit::programs::Programs;

/// Size of the image, in bytes; the file is sparse.
const IMAGE_BYTES: u64 = 1 << 30;
/// Answers before each cut: between this and twice as many, so that cuts hit different moments.
const ANSWERS_MIN: u64 = 100;
/// Answers after each restart.
const ANSWERS_AFTER: u64 = 50;

pub(super) fn run(cuts: usize, place: &Place) -> Outcome {
    let programs = Programs::beside_this_one()?;
    let directory = fresh_directory(&programs, place.directory.as_deref())?;
    let image = directory.path().join("image");
    Mount::make_image(&image, IMAGE_BYTES)?;
    let mut mount = Mount::new(&image, directory.path().join("mounted"))?;

    let flags = sync_flags(mount.path());
    let mut cluster = Cluster::on_free_ports(&programs, place.shape, &mount.path().join("data"), &flags)?;
    cluster.start_all()?;
    cluster.wait_ready(TIMEOUT)?;
    describe(&cluster)?;
    let mut last = BTreeMap::new();
    let mut writes = 0;
    for cut in 0..cuts as u64 {
        let mut load = Load::start(&cluster, &Plan { clients: 8, keys: 8, prefix: format!("cut{cut}-") })?;
        load.wait_answers(ANSWERS_MIN + (cut * 37) % ANSWERS_MIN, TIMEOUT)?;

        // All stop signals first, so that no one goes on alone for long.
        cluster.processes().for_each(|(_, process)| process.send_freeze());
        cluster.processes().for_each(|(_, process)| process.wait_frozen());
        let acknowledged = load.answered();
        let copy = directory.path().join("copy");
        command("cp", &["--sparse=always", &text(&image), &text(&copy)])?;
        cluster.kill_all();
        mount.end()?;
        fs::rename(&copy, &image)?;
        mount = Mount::new(&image, mount.path().to_path_buf())?;

        cluster.start_all()?;
        cluster.wait_ready(TIMEOUT)?;
        load.wait_answers(ANSWERS_AFTER, TIMEOUT).map_err(|error| format!("cut {cut}: {error}"))?;
        let history = load.finish()?;
        history.check(&cluster).map_err(|error| format!("cut {cut}: {error}"))?;
        writes += history.swaps.len();
        remember(&cluster, &mut last, cut)?;
        println!("cut {}: {acknowledged} writes were acknowledged before it; all are there, once", cut + 1);
    }
    println!("{cuts} power cuts, {writes} writes acknowledged: none lost, none applied twice");
    drop(cluster);
    Ok(mount.end()?)
}

/// What earlier rounds left behind must still be there; then this round's values join it.
fn remember(cluster: &Cluster, last: &mut BTreeMap<String, Option<String>>, cut: u64) -> Outcome {
    let mut client = cluster.client()?;
    for (key, value) in last.iter() {
        let found = client.get(key, ANSWER_TIMEOUT)?;
        if found != *value {
            return Err(format!("cut {cut}: {key} holds {found:?}, but {value:?} was there before").into());
        }
    }
    for number in 0..8 {
        let key = format!("cut{cut}-{number}");
        let value = client.get(&key, ANSWER_TIMEOUT)?;
        last.insert(key, value);
    }
    Ok(())
}
