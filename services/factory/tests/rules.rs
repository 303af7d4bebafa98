//! One script for each rule of the protocol, with all that is said and the state in the end.
//!
//! A script is a list of commands; what follows from each stands below it, indented. `UPDATE_GOLDEN=1 cargo test -p
//! factory --test rules` writes them again: read each changed one before you keep it.
//!
//! | command | what it does |
//! |---|---|
//! | `servers N` | a group of N, of which none runs |
//! | `start N …`, `kill N`, `wipe N` | starts; kill -9; kill -9 and an emptied directory |
//! | `found_anew N` | starts with the operator's word that what others had is lost |
//! | `cut N N`, `heal` | a link fails; all links work again |
//! | `order N C=O …` | customers order at N, all at once |
//! | `read N C` | a linearizable read at N |
//! | `deliver N` | the next N messages, dials and broken connections |
//! | `happen N` | of what can happen next only the Nth, from 0: by age of the connection, then dials |
//! | `settle`, `pass`, `tick` | all of them; some time passes; both, that first |
//! | `state`, `log N` | what each is and has; the log of one that runs |

#![cfg(test)]

mod world;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use world::World;

fn run(script: &str) -> String {
    let mut output = String::new();
    let mut world = World::new(0);
    for line in script.lines().filter(|line| !line.starts_with(' ')) {
        let _ = writeln!(output, "{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Vec<u32> = words.iter().skip(1).filter_map(|word| word.parse().ok()).collect();
        match words.first().copied() {
            None | Some("#") => {}
            Some("servers") => world = World::new(numbers[0]),
            Some("start") => numbers.iter().for_each(|&id| world.start(id)),
            Some("found_anew") => world.start_with(numbers[0], true),
            Some("kill") => world.kill(numbers[0]),
            Some("wipe") => world.wipe(numbers[0]),
            Some("cut") => world.cut(numbers[0], numbers[1]),
            Some("heal") => world.heal(),
            Some("order") => {
                let pair = |word: &&str| {
                    let (customer, order) = word.split_once('=').expect("customer=order");
                    (customer.parse().expect("a customer"), order.parse().expect("an order"))
                };
                let orders: Vec<(i32, i32)> = words[2..].iter().map(pair).collect();
                world.orders(numbers[0], &orders);
            }
            Some("read") => {
                world.read(numbers[0], numbers[1] as i32);
            }
            Some("deliver") => (0..numbers[0]).for_each(|_| world.happen(0)),
            Some("happen") => world.happen(numbers[0] as usize),
            Some("settle") => world.settle(),
            Some("tick") => {
                world.tick_all();
                world.settle();
            }
            Some("pass") => world.tick_all(),
            Some("state") => output.push_str(&world.state()),
            Some("log") => {
                let log = world.core(numbers[0]).log();
                let entries = log.slice(1, usize::MAX).iter();
                let texts: Vec<String> =
                    entries.map(|entry| format!("{}:{}={}", entry.epoch, entry.op.arg1, entry.op.arg2)).collect();
                let _ = writeln!(output, "  {}", texts.join(" "));
            }
            Some(other) => panic!("no command {other}"),
        }
        output.push_str(&std::mem::take(&mut world.trace));
    }
    output
}

#[test]
fn scripts_of_all_rules_happen_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(names.len() >= 15, "{names:?}");
    for path in names {
        let script = fs::read_to_string(&path).unwrap();
        let found = run(&script);
        if update {
            fs::write(&path, &found).unwrap();
        } else {
            assert_eq!(found, script, "{}", path.display());
        }
    }
}
