//! `madkv-demo`: demonstrations with real processes. Each says in plain English what it does, shows what the consoles
//! say, and checks what it claims: the exit code is 1 if something did not happen, 77 if something was skipped. Where
//! the project guide for student projects has a step for what was just shown, the step's number stands beside it.
//!
//! | module | what it has |
//! |---|---|
//! | [`stage`] | what every demonstration stands on: a cluster, clients in a loop, narration and checks |
//! | [`faults`] | processes that die, hang and are slow |
//! | [`agents`] | hosts with agents: LFD, GFD and RM |
//! | [`active`], [`passive`] | the guide's milestones for groups of these kinds, and lost messages |
//! | [`consoles`] | what consoles say from some moment on |
//! | [`members`] | more replicas, and fewer |
//! | [`data`] | backups, and a group that has lost its majority for good |

mod active;
mod agents;
mod consoles;
mod data;
mod faults;
mod members;
mod passive;
mod stage;

use clap::Parser;
use madkv_testkit::launcher::choose_log_engine;
use madkv_testkit::programs::Programs;
use smr::LogEngine;

use stage::{NotHere, Outcome};

/// A demonstration.
struct Demo {
    name: &'static str,
    about: &'static str,
    run: fn(&Programs) -> Outcome<()>,
}

const DEMOS: [Demo; 20] = [
    Demo {
        name: "bootstrapping",
        about: "managers and servers come up one at a time, in an odd order, and form a cluster",
        run: faults::bootstrapping,
    },
    Demo {
        name: "milestone-1",
        about: "one server and its LFD, with two heartbeat frequencies; three clients; the server dies",
        run: agents::milestone_1,
    },
    Demo {
        name: "milestones-2-and-4",
        about: "RM, GFD, three LFDs, three servers one at a time; one dies, and is launched again by hand",
        run: agents::milestones_2_and_4,
    },
    Demo {
        name: "relaunch",
        about: "servers die, again and again, and their agents launch them again",
        run: agents::relaunch,
    },
    Demo {
        name: "emptied-disk",
        about: "a server dies and its directory is lost; it is taken back as a new incarnation by itself",
        run: agents::emptied_disk,
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
        name: "grow-and-shrink",
        about: "a partition goes from three replicas to five and back under load; two of five die meanwhile",
        run: members::grow_and_shrink,
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
    Demo {
        name: "active-milestones-2-and-4",
        about: "clients send to all and discard duplicates; two die in turn; who comes back is ready when it has all",
        run: active::milestones_2_and_4,
    },
    Demo {
        name: "active-milestone-5",
        about: "a replica dies, is launched by its agent, dies again; then another one, and the last one goes on",
        run: active::milestone_5,
    },
    Demo {
        name: "active-lost-messages",
        about: "one message in twenty between clients and servers is lost; other servers have it, and answer",
        run: active::lost_messages,
    },
    Demo {
        name: "passive-milestone-3",
        about: "clients send to the primary, and its checkpoints go to two backups; a backup dies",
        run: passive::milestone_3,
    },
    Demo {
        name: "passive-milestone-4",
        about: "another checkpoint frequency; a backup dies, then the primary; no acknowledged write is lost",
        run: passive::milestone_4,
    },
    Demo {
        name: "passive-milestone-5",
        about: "any replica is made the primary; it dies, comes back as a backup, dies again; then the other backup",
        run: passive::milestone_5,
    },
];

/// Columns of the longest name, and a space.
const NAME_COLUMNS: usize = 26;

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

/// How all that was chosen ended: the worst of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// All that was claimed happened.
    Well,
    /// Some demonstration was skipped, for what it needs is not here; none failed.
    Skipped,
    /// Something did not happen.
    Failed,
}

/// Runs what the options say.
///
/// # Errors
/// If the options make no sense.
pub fn run(options: &Options) -> Result<Ended, String> {
    if options.list {
        for Demo { name, about, .. } in &DEMOS {
            println!("{name:<NAME_COLUMNS$}{about}");
        }
        return Ok(Ended::Well);
    }
    let chosen = choose(options)?;
    choose_log_engine(options.log_engine)?;
    let programs = Programs::beside_this_one().map_err(|error| error.to_string())?;
    let runs: Vec<(&str, Ended)> = chosen
        .into_iter()
        .map(|demo| {
            println!("\n== {}: {}", demo.name, demo.about);
            let (ended, line) = judged((demo.run)(&programs));
            println!("== {}: {line}", demo.name);
            (demo.name, ended)
        })
        .collect();
    let (ended, summary) = summed_up(&runs);
    print!("{summary}");
    Ok(ended)
}

/// What a demonstration's outcome is, and the line that says so.
fn judged(outcome: Outcome<()>) -> (Ended, String) {
    match outcome {
        Ok(()) => (Ended::Well, "everything happened as claimed".to_owned()),
        Err(error) if error.is::<NotHere>() => (Ended::Skipped, format!("SKIPPED: {error}")),
        Err(error) => (Ended::Failed, format!("FAILED: {error}")),
    }
}

/// The worst of some demonstrations, and the lines that name those that did not end well.
fn summed_up(runs: &[(&str, Ended)]) -> (Ended, String) {
    let mut summary = String::new();
    for (bad, word) in [(Ended::Skipped, "skipped"), (Ended::Failed, "failed")] {
        let names: Vec<&str> = runs.iter().filter(|(_, ended)| *ended == bad).map(|(name, _)| *name).collect();
        if !names.is_empty() {
            summary += &format!("\n{word}: {}\n", names.join(", "));
        }
    }
    (runs.iter().map(|(_, ended)| *ended).max().unwrap_or(Ended::Well), summary)
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
    use std::collections::BTreeSet;

    use super::*;

    fn names(line: &[&str]) -> Result<Vec<&'static str>, String> {
        let options = Options::try_parse_from([&["madkv-demo"], line].concat()).map_err(|error| error.to_string())?;
        Ok(choose(&options)?.into_iter().map(|demo| demo.name).collect())
    }

    #[test]
    fn documented_milestones_are_those_that_there_are() {
        let usage = include_str!("../../../docs/USAGE.md");
        let (_, section) = usage.split_once("### Milestones of the project guide\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
        let documented: BTreeSet<&str> = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect();
        let known: BTreeSet<&str> = DEMOS.iter().map(|demo| demo.name).collect();
        assert!(documented.is_subset(&known), "{:?}", documented.difference(&known));
        let of_the_guide = |name: &&str| ["milestone", "active", "passive"].iter().any(|start| name.starts_with(start));
        let wanted: BTreeSet<&str> = known.iter().copied().filter(of_the_guide).collect();
        assert!(wanted.is_subset(&documented), "{:?}", wanted.difference(&documented));
        assert!(known.iter().all(|name| name.len() < NAME_COLUMNS));
    }

    #[test]
    fn skipped_demonstration_is_named_and_is_no_success() {
        let (ended, line) = judged(Err(NotHere("no strace".to_owned()).into()));
        assert_eq!((ended, line.as_str()), (Ended::Skipped, "SKIPPED: no strace"));
        assert_eq!(judged(Err("no".into())).0, Ended::Failed);
        let runs = [("one", Ended::Well), ("two", Ended::Skipped), ("three", Ended::Failed)];
        assert_eq!(summed_up(&runs[..1]), (Ended::Well, String::new()));
        assert_eq!(summed_up(&runs[..2]), (Ended::Skipped, "\nskipped: two\n".to_owned()));
        assert_eq!(summed_up(&runs), (Ended::Failed, "\nskipped: two\n\nfailed: three\n".to_owned()));
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
