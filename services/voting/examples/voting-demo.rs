//! A voting service with real processes: the primary is killed, the backup is killed, the link between the two is cut,
//! and five clients log the same results all the while. It says what it does, and checks what it claims: the exit code
//! is 1 if something did not happen.

#[path = "../tests/group/mod.rs"]
mod group;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use group::{Programs, Service, Setup, is_alone};
use voting::words::Description;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

const CLIENTS: usize = 5;
/// How long a server takes to start here, in milliseconds; 30 s by default.
const START_DELAY_MS: &str = "3000";

fn tell(text: &str) {
    println!("   {text}");
}

fn shown(section: &str, text: &str) {
    println!("ok {text}   [document: {section}]");
}

fn claim(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(what().into()) }
}

fn situation(description: &Description) -> String {
    description.situation.as_ref().map_or_else(|| "backup".to_owned(), ToString::to_string)
}

/// What the first client was told of how things are since this many lines.
fn told(service: &Service, since: usize) -> Vec<String> {
    let text = service.clients[0].log_text();
    text.lines().skip(since).filter(|line| line.contains("primary")).map(str::to_owned).collect()
}

fn lines(service: &Service) -> usize {
    service.clients[0].log_text().lines().count()
}

/// Waits for more results, and says how far the logs are.
fn go_on(service: &Service, more: usize) -> Outcome {
    let began = Instant::now();
    service.wait_results(more)?;
    let took = began.elapsed().as_millis();
    tell(&format!(
        "each of the {CLIENTS} clients has logged {} results ({more} more took {took} ms)",
        service.logged(0)
    ));
    Ok(())
}

/// Waits until the backup is back, and shows what the clients were told meanwhile.
fn back(service: &Service, since: usize) -> Result<(Description, Description), Box<dyn Error + Send + Sync>> {
    let both = service.wait_both()?;
    tell(&format!("the backup is back: {}", situation(&both.0)));
    go_on(service, 1)?;
    told(service, since).iter().for_each(|line| tell(&format!("client 0 | {line}")));
    Ok(both)
}

fn demo(service: &mut Service) -> Outcome {
    println!("\n== three managers, two servers, five clients");
    service.start()?;
    let (primary, backup) = service.wait_both()?;
    tell(&situation(&primary));
    go_on(service, 5)?;
    let last = service.log_of(0).lines().last().unwrap_or_default().to_owned();
    tell(&format!("the last line of a log, <Vote ID> <Yes> <No>: {last}"));
    shown("Introduction, Client", "the server opens ballots, each client votes at both replicas and logs each result");

    println!("\n== the primary is killed");
    let since = lines(service);
    let began = Instant::now();
    tell(&format!("kill -9 of process {}, the primary", primary.pid));
    service.kill(&primary)?;
    let now = service.wait_primary("the backup to take over", |now| now.pid == backup.pid)?;
    tell(&format!("after {} ms: {}", began.elapsed().as_millis(), situation(&now)));
    go_on(service, 3)?;
    shown("Servers", "the backup became the primary, and told the results that were due");
    let (primary, backup) = back(service, since)?;
    let said = told(service, since).join("\n");
    claim(said.contains("alone; the backup starts"), || format!("no one was told that the backup starts: {said}"))?;
    shown(
        "Servers",
        "it started the other one again; meanwhile the clients knew that it was alone, and then where the \
                      new backup is",
    );

    println!("\n== the backup is killed");
    let since = lines(service);
    tell(&format!("kill -9 of process {}, the backup", backup.pid));
    service.kill(&backup)?;
    service.wait_primary("the primary to be alone", is_alone)?;
    go_on(service, 3)?;
    let (now_primary, now_backup) = back(service, since)?;
    claim(now_primary.pid == primary.pid, || format!("{now_primary:?}"))?;
    claim(now_backup.pid != backup.pid, || format!("{now_backup:?}"))?;
    shown("Servers", "the primary went on alone, and started the backup again, which joined");

    println!("\n== the link between the two is cut");
    let since = lines(service);
    tell("nothing gets through between the two servers, in silence; both are well, and clients reach both");
    let alone = service.cut_and_wait_alone()?;
    tell(&format!("the managers have decided: {}", situation(&alone)));
    go_on(service, 5)?;
    service.wait_only_primary(&alone)?;
    let until = Instant::now() + Duration::from_secs(3);
    let mut looks = 0;
    while Instant::now() < until {
        let primaries = service.primaries();
        let who: Vec<u32> = primaries.values().flatten().map(|primary| primary.pid).collect();
        claim(who == [alone.pid], || format!("primaries: {primaries:#?}"))?;
        looks += 1;
    }
    shown("Servers", &format!("a cut link gave one primary, not two: both servers were asked {looks} times"));
    service.mend();
    tell("the link is mended");
    back(service, since)?;
    shown("Protocol", "the one that was cut off joined again");

    println!("\n== a client is killed and started again");
    service.clients[4].kill();
    service.clients[4].start()?;
    go_on(service, 5)?;
    shown("beyond it", "it went on where its log ends");

    println!("\n== the logs");
    let results = service.finish()?;
    shown("Client", &format!("{results} results in each of {CLIENTS} logs: the same, no gap, no repeat"));
    Ok(())
}

/// <target>/<profile>/examples/voting-demo
fn programs() -> Result<Programs, Box<dyn Error + Send + Sync>> {
    let this = std::env::current_exe()?;
    let directory = this.parent().and_then(|examples| examples.parent()).ok_or("no directory of executables")?;
    let program = |name: &str| -> Result<PathBuf, String> {
        let path = directory.join(name);
        let is_there = path.is_file();
        if is_there { Ok(path) } else { Err(format!("{} is missing; run: just voting-demo", path.display())) }
    };
    Ok(Programs {
        manager: program("madkv-manager")?,
        server: program("voting-server")?,
        client: program("voting-client")?,
    })
}

fn run() -> Outcome {
    let programs = programs()?;
    let flags = [
        ("--voters", "5"),
        ("--ballot_interval", "200"),
        ("--heartbeat_interval", "200"),
        ("--heartbeats_missed", "5"),
        ("--start_delay", START_DELAY_MS),
    ];
    let flags = flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]).collect();
    let setup = Setup { managers: 3, clients: CLIENTS, flags, manager_flags: Vec::new(), store: None };
    let place = programs.server.parent().ok_or("no directory of executables")?.to_path_buf();
    demo(&mut Service::new(&programs, &setup, &place)?)
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
