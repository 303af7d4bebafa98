//! Many kills and cut links, in an order that a seed decides, while five clients vote: in the end their logs must be
//! the same, without a gap and without a repeat. `voting-campaign BALLOTS KILLS CUTS SEED`; a fifth of the kills comes
//! while there is no backup, and then the primary is started again as an agent would do it.

#[path = "../tests/group/mod.rs"]
mod group;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use group::{Programs, Service, Setup, is_alone};
use madkv_testkit::wait::wait_for;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use voting::words::Description;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const CLIENTS: usize = 5;
/// How long the backup may take to be back.
const BACK_TIMEOUT: Duration = Duration::from_secs(180);
/// How long the managers let a server wait at most that was removed again and again, in milliseconds.
const REJOIN_PAUSE_MAX_MS: &str = "2000";

/// What happens to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Primary,
    Backup,
    /// One of the two, and then the other one before that is back.
    Both,
    Cut,
}

/// How often each comes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    ballots: usize,
    kills: usize,
    cuts: usize,
    seed: u64,
}

impl Plan {
    fn parse(arguments: &[String]) -> Result<Plan, String> {
        let numbers: Option<Vec<u64>> = arguments.iter().map(|text| text.parse().ok()).collect();
        match numbers.as_deref() {
            Some([ballots, kills, cuts, seed]) => {
                let count = |number: &u64| usize::try_from(*number).unwrap_or(usize::MAX);
                Ok(Plan { ballots: count(ballots), kills: count(kills), cuts: count(cuts), seed: *seed })
            }
            _ => Err("voting-campaign BALLOTS KILLS CUTS SEED".to_owned()),
        }
    }

    /// All blows, shuffled.
    fn blows(self, random: &mut ChaCha8Rng) -> Vec<Blow> {
        let both = self.kills / 5;
        let single = self.kills - 2 * both;
        let mut blows = vec![Blow::Both; both];
        blows.extend((0..single).map(|number| if number % 2 == 0 { Blow::Primary } else { Blow::Backup }));
        blows.extend(vec![Blow::Cut; self.cuts]);
        for last in (1..blows.len()).rev() {
            blows.swap(last, (random.next_u64() % (last as u64 + 1)) as usize);
        }
        blows
    }
}

/// Waits until both are there.
fn both(service: &Service) -> Outcome<(Description, Description)> {
    let looked = wait_for(BACK_TIMEOUT, "a primary and a backup", || service.both());
    looked.map_err(|error| format!("{error}; {}", service.picture()).into())
}

fn strike(service: &mut Service, blow: Blow, (primary, backup): (Description, Description)) -> Outcome {
    match blow {
        Blow::Primary => service.kill(&primary)?,
        Blow::Backup => service.kill(&backup)?,
        Blow::Both => {
            service.kill(&primary)?;
            let alone = service.wait_primary("the backup to be alone", |now| now.pid == backup.pid && is_alone(now))?;
            service.wait_results(1)?;
            service.kill(&alone)?;
            service.relaunch(alone.replica)?;
        }
        Blow::Cut => {
            let alone = service.cut_and_wait_alone()?;
            service.wait_results(2)?;
            service.wait_only_primary(&alone)?;
            service.mend();
        }
    }
    Ok(())
}

fn campaign(service: &mut Service, plan: Plan) -> Outcome {
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let blows = plan.blows(&mut random);
    let (count, each) = (blows.len(), plan.ballots / (blows.len() + 1));
    let began = Instant::now();
    service.start()?;
    for (number, blow) in blows.into_iter().enumerate() {
        let goal = (number + 1) * each;
        service.wait_results(goal.saturating_sub(service.logged(0)).max(1))?;
        let both = both(service)?;
        let at = Instant::now();
        strike(service, blow, both)?;
        service.wait_results(1)?;
        let (pause, logged) = (at.elapsed().as_millis(), service.logged(0));
        println!("{:>3} of {count}: {blow:?}, the next result after {pause} ms, {logged} results", number + 1);
    }
    both(service)?;
    service.wait_results(plan.ballots.saturating_sub(service.logged(0)).max(1))?;
    let results = service.finish()?;
    let took = began.elapsed().as_secs();
    let Plan { kills, cuts, seed, .. } = plan;
    let what = format!("{results} ballots, {kills} kills, {cuts} cut links, seed {seed}, {took} s");
    println!("{what}: {CLIENTS} logs are the same, no gap, no repeat");
    Ok(())
}

/// <target>/<profile>/examples/voting-campaign
fn programs() -> Outcome<Programs> {
    let this = std::env::current_exe()?;
    let directory = this.parent().and_then(|examples| examples.parent()).ok_or("no directory of executables")?;
    let program = |name: &str| -> PathBuf { directory.join(name) };
    Ok(Programs {
        manager: program("madkv-manager"),
        server: program("voting-server"),
        client: program("voting-client"),
    })
}

fn run() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let plan = Plan::parse(&arguments)?;
    let programs = programs()?;
    let flags = [
        ("--voters", "5"),
        ("--ballot_interval", "20"),
        ("--heartbeat_interval", "100"),
        ("--heartbeats_missed", "3"),
        ("--start_delay", "500"),
    ];
    let flags = flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]).collect();
    // Otherwise the backup waits for a minute after each of the later blows.
    let manager_flags = vec!["--rejoin_pause_max".to_owned(), REJOIN_PAUSE_MAX_MS.to_owned()];
    let setup = Setup { managers: 3, clients: CLIENTS, flags, manager_flags, store: None };
    let place = programs.server.parent().ok_or("no directory of executables")?.to_path_buf();
    campaign(&mut Service::new(&programs, &setup, &place)?, plan)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
