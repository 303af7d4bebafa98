//! Three factories with real processes: what happens when the production is moved, when factories die, and when they
//! are repaired. It says what it does, and checks what it claims: the exit code is 1 if something did not happen.

#[path = "../tests/group/mod.rs"]
mod group;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use group::{Group, Indexes, TIMEOUT, acknowledged};
use madkv_testkit::wait::wait_for;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// The permutations of three.
const ORDERS: [[u16; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
const CUSTOMERS: u32 = 8;

fn tell(text: &str) {
    println!("   {text}");
}

fn shown(section: &str, text: &str) {
    println!("ok {text}   [document {section}]");
}

fn claim(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(what().into()) }
}

/// Claims that a factory shows these indexes.
fn shows(group: &Group, id: u16, last: u64, committed: u64, primary: i64) -> Outcome {
    group.wait_indexes(id, Indexes { last, committed, primary })?;
    tell(&format!("factory {id}: last_index {last}, committed_index {committed}, primary_id {primary}"));
    Ok(())
}

fn demo(group: &mut Group) -> Outcome {
    println!("\n== three factories, 8 customers");
    for id in 0..3 {
        group.start_server(id)?;
    }
    tell("8 customers order 5 times each at factory 0, which becomes the production factory.");
    group.order(0, CUSTOMERS, 5, &[])?;
    shows(group, 0, 40, 40, 0)?;
    shows(group, 1, 40, 39, 0)?;
    shows(group, 2, 40, 39, 0)?;
    shown("2.6", "the production factory is one commit ahead of the idle ones");

    tell("Now one of them orders at factory 1.");
    group.order(1, 1, 1, &["--first_order", "5"])?;
    shows(group, 1, 41, 41, 1)?;
    shows(group, 0, 41, 40, 1)?;
    shows(group, 2, 41, 40, 1)?;
    shown("2.6", "the new production factory appended at x + 1, committed x, and went on");

    println!("\n== the production factory dies under load");
    let file = group.directory.path().join("acknowledged");
    let path = file.display().to_string();
    let mut client = group.client_process(1, &["8", "1000000", "1", "--first_order", "6", "--acknowledged", &path])?;
    wait_for(TIMEOUT, "500 orders", || group.indexes(1).ok().filter(|found| found.last > 541))?;
    tell("kill -9 of factory 1");
    group.kill(1);
    let ended = client.wait_end(TIMEOUT).and_then(|status| status.code());
    claim(ended == Some(0), || format!("the client ended with {ended:?}: {}", client.log_text()))?;
    client.log_text().lines().for_each(|line| tell(&format!("client | {line}")));
    shown("3.1.1", "the client ended normally");
    group.order(2, 1, 1, &["--first_customer", "9"])?;
    let records = group.records(2, 9, &[])?;
    let orders = acknowledged(&file);
    for (customer, order, _) in &orders {
        let found = records.get(customer).copied().unwrap_or(-1);
        claim(found >= *order, || format!("customer {customer} has {found}, and {order} was acknowledged"))?;
    }
    shown("3.1", &format!("factory 2 took over; none of {} acknowledged orders is missing", orders.len()));

    println!("\n== it is repaired");
    group.start_server(1)?;
    let last = group.indexes(2)?.last;
    shows(group, 1, last, last - 1, 2)?;
    shown("3.2", "the production factory sent it what it lacked");

    println!("\n== every order of kills and repairs");
    let mut next = records.values().copied().max().unwrap_or(0) as u32 + 1;
    let mut more = |group: &Group, at: u16| {
        let first = next.to_string();
        next += 2;
        group.order(at, CUSTOMERS, 2, &["--first_order", &first]).map(|()| next as i32 - 1)
    };
    for kills in ORDERS {
        for repairs in ORDERS {
            for victim in kills {
                more(group, victim)?;
                group.kill(victim);
            }
            let mut newest = -1;
            for server in repairs {
                group.start_server(server)?;
                if server == kills[2] {
                    newest = more(group, repairs[0])?;
                }
            }
            let records = group.records(repairs[0], CUSTOMERS - 1, &[])?;
            let whole = records.len() == CUSTOMERS as usize && records.values().all(|&order| order == newest);
            claim(whole, || format!("killed {kills:?}, repaired {repairs:?}: {records:?}, not {newest}"))?;
            more(group, repairs[2])?;
            let last = group.indexes(repairs[2])?.last;
            for id in (0..3).filter(|&id| id != repairs[2]) {
                let idle = Indexes { last, committed: last - 1, primary: i64::from(repairs[2]) };
                group.wait_indexes(id, idle)?;
            }
        }
    }
    let last = group.indexes(0)?.last;
    shown("3, 4", &format!("36 orders of kills and repairs; each of {last} orders is where it must be"));

    println!("\n== one that lacks something does not lead");
    group.kill(2);
    group.kill(1);
    group.order(0, 1, 1, &["--first_customer", "20"])?;
    tell("Factories 2 and 1 died; factory 0 took one more order alone, and dies too. Factory 1 is repaired.");
    group.kill(0);
    group.start_server(1)?;
    let mut waiting = group.client_process(1, &["1", "1", "1", "--first_customer", "21"])?;
    let says = "an order waits until these servers are back, which may have what this one lacks: 0";
    let server = group.server(1);
    wait_for(TIMEOUT, "factory 1 to say that it waits", || server.log_text().contains(says).then_some(()))?;
    tell(&format!("factory 1 | {says}"));
    claim(waiting.is_running(), || "the order was taken".to_owned())?;
    tell("Factory 0 is repaired.");
    group.start_server(0)?;
    let ended = waiting.wait_end(TIMEOUT).and_then(|status| status.code());
    claim(ended == Some(0), || format!("the client ended with {ended:?}: {}", waiting.log_text()))?;
    group.order(1, 1, 1, &["--first_customer", "22"])?;
    let records = group.records(1, 22, &[])?;
    claim(records.contains_key(&20) && records.contains_key(&21), || format!("{records:?}"))?;
    shown("3", "the order waited for factory 0, and then both were there");
    Ok(())
}

fn run() -> Outcome {
    // <target>/<profile>/examples/factory-demo
    let this = std::env::current_exe()?;
    let programs = this.parent().and_then(|examples| examples.parent()).ok_or("no directory of executables")?;
    let program = |name: &str| -> Result<PathBuf, String> {
        let path = programs.join(name);
        if fs::exists(&path).unwrap_or(false) {
            Ok(path)
        } else {
            Err(format!("{} is missing; run: just factory-demo", path.display()))
        }
    };
    let mut group = Group::new(3, &program("factory-server")?, &program("factory-client")?)?;
    demo(&mut group)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => {
            println!("\neverything happened as claimed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("\nFAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
