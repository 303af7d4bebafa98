//! `madkv-demo`: demonstrations with real processes. Each says in plain English what it does, shows what the consoles
//! say, and checks what it claims: the exit code is non-zero if something did not happen. Where the project guide for
//! student projects has a step for what was just shown, the step's number stands beside it.
//!
//! | module | what it has |
//! |---|---|
//! | [`stage`] | what every demonstration stands on: a cluster, clients in a loop, narration and checks |
//! | [`faults`] | processes that die, hang and are slow |
//! | [`data`] | backups, and a group that has lost its majority for good |

mod data;
mod faults;
mod stage;

use clap::Parser;
use madkv_testkit::launcher::choose_log_engine;
use madkv_testkit::programs::Programs;
use smr::storage::LogEngine;

use stage::Outcome;

/// A demonstration.
struct Demo {
    name: &'static str,
    about: &'static str,
    run: fn(&Programs) -> Outcome<()>,
}

const DEMOS: [Demo; 9] = [
    Demo {
        name: "bootstrapping",
        about: "managers and servers come up one at a time, in an odd order, and form a cluster",
        run: faults::bootstrapping,
    },
    Demo {
        name: "steady-state",
        about: "three clients in a loop; both consoles name the same messages",
        run: faults::steady_state,
    },
    Demo {
        name: "follower-kill",
        about: "a follower dies in each of two partitions at once, comes back, and dies again",
        run: faults::follower_kill,
    },
    Demo {
        name: "leader-kill",
        about: "the leader dies; its follower takes over; the old one comes back, and the new one dies",
        run: faults::leader_kill,
    },
    Demo {
        name: "manager-kill",
        about: "managers die while new clients join; without a quorum of them all goes on",
        run: faults::manager_kill,
    },
    Demo {
        name: "majority-kill",
        about: "of five replicas two die and nothing happens; the third stops writes until one is back",
        run: faults::majority_kill,
    },
    Demo {
        name: "slow-leader",
        about: "the leader's disk becomes slow, and another replica takes over",
        run: faults::slow_leader,
    },
    Demo {
        name: "backup",
        about: "a backup under load, restored into a cluster of another shape; a damaged one is refused",
        run: data::backup,
    },
    Demo {
        name: "recover",
        about: "two of three directories are lost for good; the group goes on from the third, by an operator's word",
        run: data::recover,
    },
];

/// Demonstrations of MadKV with real processes on this machine; each checks itself.
#[derive(Debug, Parser)]
#[command(name = "madkv-demo", version)]
pub struct Options {
    /// Which; `--list` names them
    pub names: Vec<String>,
    /// All of them, one after the other
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Name them
    #[arg(long, conflicts_with_all = ["names", "all"])]
    pub list: bool,
    /// What keeps the logs: sled or segments
    #[arg(long = "log_engine", alias = "log-engine", value_name = "ENGINE")]
    pub log_engine: Option<LogEngine>,
}

/// Runs what the options say. Returns whether all that was claimed happened.
///
/// # Errors
/// If the options make no sense.
pub fn run(options: &Options) -> Result<bool, String> {
    if options.list {
        for Demo { name, about, .. } in &DEMOS {
            println!("{name:<15}{about}");
        }
        return Ok(true);
    }
    let chosen = choose(options)?;
    choose_log_engine(options.log_engine)?;
    let programs = Programs::beside_this_one().map_err(|error| error.to_string())?;
    let mut failed = Vec::new();
    for demo in chosen {
        println!("\n== {}: {}", demo.name, demo.about);
        match (demo.run)(&programs) {
            Ok(()) => println!("== {}: everything happened as claimed", demo.name),
            Err(error) => {
                println!("== {}: FAILED: {error}", demo.name);
                failed.push(demo.name);
            }
        }
    }
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

fn choose(options: &Options) -> Result<Vec<&'static Demo>, String> {
    if options.all {
        return Ok(DEMOS.iter().collect());
    }
    if options.names.is_empty() {
        return Err("which demonstration? --list names them, --all runs all".to_owned());
    }
    let named = |name: &String| {
        let found = DEMOS.iter().find(|demo| demo.name == name);
        found.ok_or_else(|| format!("no demonstration {name}; --list names them"))
    };
    options.names.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &[&str]) -> Result<Vec<&'static str>, String> {
        let options = Options::try_parse_from([&["madkv-demo"], line].concat()).map_err(|error| error.to_string())?;
        Ok(choose(&options)?.into_iter().map(|demo| demo.name).collect())
    }

    #[test]
    fn demonstrations_are_chosen_by_name_or_all_and_an_unknown_one_is_refused() {
        assert_eq!(names(&["backup", "recover"]).unwrap(), ["backup", "recover"]);
        assert_eq!(names(&["--all"]).unwrap().len(), DEMOS.len());
        for (line, part) in
            [(&["dance"][..], "no demonstration dance"), (&[], "--list"), (&["--all", "backup"], "--all")]
        {
            let error = names(line).unwrap_err();
            assert!(error.contains(part), "{line:?}: {error}");
        }
    }
}
