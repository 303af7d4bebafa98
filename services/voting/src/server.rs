//! `voting-server`: one of the two replicas, from start to end.

use std::sync::Arc;

use smr::ReplicaId;
use smr::replica::{Opened, ReplicaOptions};
use smr_service::fatal::{StderrReports, end_with};
use smr_service::listener::{Listener, ListenerLimits};
use smr_service::process::{self, Fatal, Signals};
use smr_service::serve::serve_until_signal;
use tokio::sync::watch;

use crate::backend::{Counter, VotingBackend};
use crate::ballots::KeptVotes;
use crate::lookout::Lookout;
pub use crate::options::{Options, PROGRAM};
use crate::place;
use crate::pulse::Pulse;
use crate::restart::Starter;
use crate::state::Votes;

fn say(line: &str) {
    process::say(PROGRAM, line);
}

/// Runs a server until a signal ends it.
///
/// # Errors
/// Why it cannot run.
pub fn run(options: &Options) -> Result<(), Fatal> {
    let plan = options.check()?;
    // Whoever is started while this one still runs finds out at once.
    let listener = process::bind("--servers", plan.listen)?;
    let p2p = process::bind("--p2p", plan.p2p_listen)?;
    process::check_directory(&plan.directory)?;
    let runtime = process::runtime()?;
    let mut signals = runtime.block_on(async { Signals::listen(options.end_with_stdin) })?;
    let (replica_id, delay) = (plan.replica, plan.start_delay);
    say(&format!("replica {replica_id} starts, in {} ms", delay.as_millis()));
    let is_over = runtime.block_on(async {
        tokio::select! {
            () = tokio::time::sleep(delay) => false,
            () = signals.next() => true,
        }
    });
    if is_over {
        return Ok(());
    }

    let opened = {
        let _inside = runtime.enter();
        Opened::open(ReplicaOptions {
            peers: [(ReplicaId(1 - plan.replica), plan.peer.clone())].into(),
            log_engine: options.log_engine,
            allow_unsynced: options.allow_unsynced,
            kind: options.protocol,
            reports: Arc::new(StderrReports),
            ..ReplicaOptions::new(
                format!("s{}", plan.partition).parse().map_err(unnamed)?,
                ReplicaId(plan.replica),
                p2p,
                &plan.directory,
            )
        })?
    };
    let taken = runtime.block_on(async {
        tokio::select! {
            taken = place::take(opened, &plan, options.protocol) => Some(taken),
            () = signals.next() => None,
        }
    });
    let Some(taken) = taken else { return Ok(()) };
    let (opened, place) = taken?;
    let votes = Votes::default();
    let progress = votes.progress();
    let replica = place.run(opened, votes, runtime.handle())?;
    end_with(runtime.handle(), replica.clone());

    let pulse = Pulse {
        partition: plan.partition,
        from: plan.replica,
        other: plan.heartbeats.clone(),
        cluster: place.map.cluster,
        interval: plan.heartbeat_interval,
        missed_max: options.heartbeats_missed,
    };
    let health = pulse.start(say)?;
    let (situation_of, situation) = watch::channel(None);
    let (starting_of, is_starting) = watch::channel(false);
    let kept = Arc::new(KeptVotes::default());
    let lookout = Lookout { servers: plan.servers.clone(), progress: progress.clone(), is_starting };
    runtime.spawn(lookout.run(replica.clone(), situation_of, say));
    let starter = Starter {
        by: options.restart_backup.clone(),
        arguments: plan.other_arguments.clone(),
        start_delay: plan.start_delay,
    };
    runtime.spawn(starter.run(health.clone(), situation.clone(), starting_of, say));
    runtime.spawn(plan.timetable.run(replica.clone(), progress.clone(), situation.clone(), Arc::clone(&kept)));
    runtime.spawn(place.settings().run(replica.clone()));

    let (cluster, counter_replica) = (place.map.cluster, replica.clone());
    let partition = plan.partition;
    let counter =
        Counter { partition, replica_id, cluster, replica: counter_replica, progress, situation, health, kept };
    let backend = Arc::new(VotingBackend::new(counter, runtime.handle().clone()));
    let listener = Listener::open(runtime.handle(), listener, backend, ListenerLimits::default())
        .map_err(|error| Fatal::Failed(format!("--servers: {error}")))?;
    say(&format!("replica {replica_id} listens on {}", listener.address()));
    runtime.spawn(place.keep(replica.clone()));
    runtime.block_on(serve_until_signal(signals, listener, replica));
    runtime.shutdown_background();
    Ok(())
}

fn unnamed(error: smr::id::BadGroupName) -> Fatal {
    Fatal::Failed(error.to_string())
}
