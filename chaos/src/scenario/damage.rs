//! Damaged data directories (fault catalogue D3, D4, D5, M6): each kind of file of a replica that has acknowledged
//! writes is deleted, emptied, cut and gets flipped bits. All places are tried by opening a copy in this process, some
//! under real processes too, where a replica that forgets would cost writes.

use std::path::PathBuf;

use crate::disk_faults::arranged::{Arranged, Past};
use crate::disk_faults::damage::Damage;
use crate::disk_faults::judge::Panics;
use crate::disk_faults::matrix::{Matrix, damages, open_copies};
use crate::scenario::Place;
use madkv_testkit::place::{Outcome, fresh_directory};
use madkv_testkit::programs::Programs;

pub(super) fn run(flips: u64, processes: usize, place: &Place) -> Outcome {
    let programs = Programs::beside_this_one()?;
    let panics = Panics::watch();
    let mut wrong = Vec::new();
    let mut tried = 0;
    for past in Past::ALL {
        let directory = fresh_directory(&programs, place.directory.as_deref())?;
        let mut arranged = Arranged::set(&programs, directory.path(), past)?;
        let all = damages(&arranged.sample(), flips)?;
        let mut matrix = Matrix::default();
        open_copies(&arranged.sample(), &all, &mut matrix, &panics)?;
        println!("{past:?}, {} damages, opened:\n{matrix}", all.len());
        wrong.append(&mut matrix.wrong);
        tried += all.len();

        let some = spread(&all, processes);
        let mut matrix = Matrix::default();
        for (file, damage) in &some {
            matrix.note(file, *damage, arranged.try_damage(file, *damage)?);
        }
        println!("{past:?}, {} damages, under processes:\n{matrix}", some.len());
        wrong.append(&mut matrix.wrong);
        tried += some.len();
    }
    for line in &wrong {
        println!("WRONG: {line}");
    }
    println!("{tried} damages, {} of them wrong", wrong.len());
    if wrong.is_empty() {
        Ok(())
    } else {
        Err("a damaged directory was believed, or refused without a useful word".into())
    }
}

/// About `count` of the damages: each kind to each file, then flips.
fn spread(all: &[(PathBuf, Damage)], count: usize) -> Vec<(PathBuf, Damage)> {
    let (flips, rest): (Vec<_>, Vec<_>) =
        all.iter().cloned().partition(|(_, damage)| matches!(damage, Damage::Flipped { .. }));
    let mut chosen: Vec<_> = rest.into_iter().filter(|(_, damage)| !matches!(damage, Damage::CutBy(1 | 100))).collect();
    let places = (count.saturating_sub(chosen.len())).min(flips.len());
    chosen.extend((0..places).map(|number| flips[number * flips.len() / places].clone()));
    chosen
}
