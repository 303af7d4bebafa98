//! Clusters of many shapes, each with README's script.

use std::path::Path;
use std::time::Instant;

use crate::scenario::{Place, Stage, TIMEOUT};
use madkv_testkit::cluster::Shape;
use madkv_testkit::place::Outcome;

const SCRIPT: [(&str, &[&str]); 6] = [
    ("PUT a 1", &["PUT a not_found"]),
    ("SWAP a 2", &["SWAP a 1"]),
    ("GET a", &["GET a 2"]),
    ("SCAN a z", &["SCAN a z BEGIN", "  a 2", "SCAN END"]),
    ("DELETE a", &["DELETE a found"]),
    ("GET a", &["GET a null"]),
];

/// Server replicas, manager replicas, partitions.
const SHAPES: [(u16, u16, u16); 8] =
    [(1, 1, 1), (3, 3, 1), (3, 3, 2), (3, 3, 5), (5, 5, 1), (7, 7, 1), (9, 9, 1), (1, 1, 50)];

pub(super) fn run(directory: Option<&Path>) -> Outcome {
    for (server_rf, manager_rf, partitions) in SHAPES {
        let shape = Shape { server_rf, manager_rf, partitions };
        let place = Place { directory: directory.map(Path::to_path_buf), shape };
        let start = Instant::now();
        let stage = Stage::set(&place)?;
        let ready = start.elapsed();
        let mut client = stage.cluster.client()?;
        for (line, answers) in SCRIPT {
            client.send(line)?;
            for &expected in answers {
                let answer = client.line(TIMEOUT)?;
                if answer != expected {
                    let shape: Shape = stage.cluster.layout().shape;
                    return Err(format!("{shape:?}: {line} was answered {answer:?}, not {expected:?}").into());
                }
            }
        }
        println!("  ready after {} ms, script answered as README says", ready.as_millis());
        stage.done()?;
    }
    Ok(())
}
