//! The rules of an agent, one by one, without a process and without a clock.

use std::time::Duration;

use madkv_proto::agent::{HeartbeatAnswer, LaunchCommand, ProcessId, ReplicaRegistration};
use madkv_proto::control::{AgentOrders, Condition, Launch, Order, OrderKind, ReplicaReport, Service};
use smr::id::Incarnation;
use tokio::time::Instant;

use super::backoff::{PAUSE_MIN_MS, PAUSE_SERVED_MAX_MS, PAUSES_SERVED_MAX, QUIET_MS};
use super::placement::Placement;
use super::process::Ended;
use super::replica::Name;
use super::supervisor::{
    ANSWER_AGE_MAX_MS, END_MAX_MS, Effect, HUNG_AFTER_INTERVALS, RETURN_MIN_MS, START_MAX_MS, Setup, Supervisor,
};

const FREQ: Duration = Duration::from_millis(100);
const NAME: Name = Name { partition: 0, replica: 0 };
const OTHER: Name = Name { partition: 0, replica: 1 };

/// An agent whose time is told to it.
struct Rig {
    supervisor: Supervisor,
    now: Instant,
}

impl Rig {
    fn new(relaunch: bool) -> Rig {
        let now = Instant::now();
        let placement = Placement { programs: "/bin".into(), directory: "/agent".into(), ..Placement::default() };
        let setup = Setup { agent: 1, relaunch, freq: FREQ, listen: "127.0.0.1:7".to_owned(), placement };
        Rig { supervisor: Supervisor::new(setup, now), now }
    }

    fn effects(&mut self) -> Vec<Effect> {
        self.supervisor.effects()
    }

    /// What its console shows.
    fn traces(&mut self) -> Vec<String> {
        let trace = |effect| if let Effect::Trace(text) = effect { Some(text) } else { None };
        self.effects().into_iter().filter_map(trace).collect()
    }

    fn register(&mut self, connection: u64, name: Name, pid: u32) -> Result<(), String> {
        self.supervisor.registered(connection, registration(name, pid), true, self.now)
    }

    fn answer(&mut self, connection: u64) {
        self.answer_as(connection, Service::InService);
    }

    fn answer_as(&mut self, connection: u64, service: Service) {
        let answer = HeartbeatAnswer { count: 1, incarnation: Incarnation(5), service: Some(service) };
        self.supervisor.answered(connection, answer, self.now);
    }

    /// The process that is launched comes up, answers once like this, and crashes; it is launched again after this
    /// pause, and not before.
    fn crashes(&mut self, pid: u32, service: Service, pause_ms: u64) {
        self.supervisor.launched(NAME, process(pid), self.now);
        self.register(u64::from(pid), NAME, pid).unwrap();
        self.answer_as(u64::from(pid), service);
        self.effects();
        self.gone(pid);
        assert_eq!(launches(&self.effects()), [] as [bool; 0]);
        assert_eq!(self.condition(), Condition::BackingOff { reason: "it exited with 70".to_owned() });
        assert_eq!(launches(&self.pass(Duration::from_millis(pause_ms - 1))), [] as [bool; 0], "{pid}: {pause_ms}");
        assert_eq!(launches(&self.pass(Duration::from_millis(1))), [false], "{pid}: {pause_ms}");
    }

    /// Lets time pass, with all ticks that are due, and collects what they do.
    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut effects = Vec::new();
        while self.supervisor.next_wakeup() <= end {
            self.now = self.supervisor.next_wakeup().max(self.now);
            self.supervisor.tick(self.now);
            effects.extend(self.effects());
        }
        self.now = end;
        effects
    }

    /// The same, with an answer to each heartbeat.
    fn pass_well(&mut self, time: Duration) {
        let end = self.now + time;
        while self.supervisor.next_wakeup() <= end {
            self.now = self.supervisor.next_wakeup().max(self.now);
            self.supervisor.tick(self.now);
            for effect in self.effects() {
                if let Effect::Heartbeat { to, .. } = effect {
                    self.answer(to);
                }
            }
        }
        self.now = end;
    }

    fn gone(&mut self, pid: u32) {
        self.supervisor.gone(process(pid), &ended("it exited with 70", false), self.now);
    }

    fn order(&mut self, id: u64, what: OrderKind) {
        self.order_after(id, what, self.now);
    }

    /// An order in the answer to a report of that time.
    fn order_after(&mut self, id: u64, what: OrderKind, asked: Instant) {
        let orders = vec![Order { id, partition: 0, replica: 0, what }];
        self.supervisor.ordered(AgentOrders { orders, ..calm() }, asked, self.now);
    }

    fn report(&self) -> ReplicaReport {
        self.supervisor.report().remove(0)
    }

    fn condition(&self) -> Condition {
        self.report().condition
    }
}

fn calm() -> AgentOrders {
    AgentOrders { lfd_heartbeat_freq_ms: 100, gfd_heartbeat_freq_ms: 100, relaunch: true, orders: Vec::new() }
}

fn ended(how: &str, in_order: bool) -> Ended {
    Ended { in_order, ..Ended::somehow(how) }
}

fn process(pid: u32) -> ProcessId {
    ProcessId { pid, started_ticks: 9 }
}

fn registration(name: Name, pid: u32) -> ReplicaRegistration {
    let command = LaunchCommand {
        executable: "/bin/x".into(),
        arguments: vec![format!("{name}").into()],
        working_directory: "/".into(),
        directory: "/data".into(),
        stderr: None,
    };
    ReplicaRegistration {
        partition: name.partition,
        replica: name.replica,
        console: u32::from(name.replica) + 1,
        incarnation: Incarnation(5),
        process: process(pid),
        command,
    }
}

fn launches(effects: &[Effect]) -> Vec<bool> {
    let launch = |effect: &Effect| if let Effect::Launch { fresh, .. } = effect { Some(*fresh) } else { None };
    effects.iter().filter_map(launch).collect()
}

fn kills(effects: &[Effect]) -> Vec<u32> {
    let kill = |effect: &Effect| if let Effect::Kill(process) = effect { Some(process.pid) } else { None };
    effects.iter().filter_map(kill).collect()
}

#[test]
fn console_shows_what_the_guide_wants_with_counts_from_1() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    assert_eq!(rig.traces(), ["[1] LFD1 sending heartbeat to S1"], "at once");
    rig.answer(1);
    assert_eq!(rig.traces(), ["[1] LFD1 receives heartbeat from S1", "LFD1: add replica S1"]);
    rig.answer(1);
    assert_eq!(rig.traces(), ["[1] LFD1 receives heartbeat from S1"], "added once");
    rig.pass(FREQ / 2);
    rig.register(2, OTHER, 11).unwrap();
    assert!(rig.traces().contains(&"[3] LFD1 sending heartbeat to S2".to_owned()), "one count for all of them");
    rig.gone(10);
    assert_eq!(rig.traces(), ["[3] LFD1: heartbeat to S1 failed: it exited with 70", "LFD1: delete replica S1"]);
}

// covers B42
#[test]
fn dead_replica_is_launched_at_once_and_in_a_crash_loop_later_and_later() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.answer(1);
    rig.effects();
    rig.gone(10);
    assert_eq!(launches(&rig.effects()), [false]);
    assert_eq!(rig.condition(), Condition::Starting);
    for (pid, pause_ms) in [(11, PAUSE_MIN_MS), (12, 2 * PAUSE_MIN_MS), (13, 4 * PAUSE_MIN_MS)] {
        rig.crashes(pid, Service::Uninitialized, pause_ms);
    }
    rig.supervisor.launched(NAME, process(14), rig.now);
    rig.register(14, NAME, 14).unwrap();
    rig.answer(14);
    rig.pass_well(Duration::from_millis(QUIET_MS));
    rig.gone(14);
    assert_eq!(launches(&rig.effects()), [false], "after quiet service it is no crash loop");
    assert_eq!(rig.report().launches, 5);
}

#[test]
fn replica_that_served_is_launched_soon_and_in_a_crash_loop_later_and_later_all_the_same() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.answer(1);
    rig.gone(10);
    let held = std::iter::repeat_n(PAUSE_SERVED_MAX_MS, PAUSES_SERVED_MAX as usize);
    let first = [PAUSE_MIN_MS, 2 * PAUSE_MIN_MS].into_iter();
    let pauses = first.chain(held).chain([2, 4].map(|times| times * PAUSE_SERVED_MAX_MS));
    for (pid, pause_ms) in (11..).zip(pauses) {
        rig.crashes(pid, Service::InService, pause_ms);
    }
}

#[test]
fn launch_that_fails_is_tried_again_later() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.gone(10);
    assert_eq!(launches(&rig.effects()), [false]);
    rig.supervisor.launch_failed(NAME, "no such program", rig.now);
    assert_eq!(rig.condition(), Condition::BackingOff { reason: "no such program".to_owned() });
    assert_eq!(launches(&rig.pass(Duration::from_millis(PAUSE_MIN_MS))), [false]);
}

// covers B41
#[test]
fn silent_replica_hangs_after_the_stated_intervals_is_killed_and_launched_only_when_it_is_gone() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.pass_well(FREQ * 10);
    let limit = FREQ * HUNG_AFTER_INTERVALS;
    assert_eq!(kills(&rig.pass(limit)), [] as [u32; 0]);
    let effects = rig.pass(FREQ);
    assert_eq!(kills(&effects), [10], "under intervals + 1");
    assert_eq!(launches(&effects), [] as [bool; 0], "it may still be there");
    assert!(effects.contains(&Effect::Trace("LFD1: delete replica S1".to_owned())), "{effects:?}");
    assert_eq!(rig.condition(), Condition::Hung);
    // A process that cannot be killed (it waits for a disk) keeps its place.
    assert_eq!(launches(&rig.pass(Duration::from_secs(60))), [] as [bool; 0]);
    assert!(rig.register(2, NAME, 11).is_err());
    rig.gone(10);
    assert_eq!(launches(&rig.effects()), [false]);
}

// covers B40
#[test]
fn silence_while_the_agent_itself_was_held_up_hangs_no_one() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.pass_well(FREQ * 10);
    // The agent was stopped; answers are in its sockets, and the clock is the first to be looked at.
    rig.now += FREQ * 100;
    rig.supervisor.tick(rig.now);
    assert_eq!(kills(&rig.effects()), [] as [u32; 0]);
    rig.answer(1);
    assert_eq!(kills(&rig.pass(FREQ * HUNG_AFTER_INTERVALS)), [] as [u32; 0]);
    assert_eq!(kills(&rig.pass(FREQ)), [10]);
}

#[test]
fn broken_connection_is_no_death_and_the_same_process_dials_again() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.answer(1);
    rig.traces();
    rig.supervisor.disconnected(1);
    assert!(matches!(rig.condition(), Condition::Alive { .. }));
    rig.register(2, NAME, 10).unwrap();
    rig.answer(2);
    let traces = rig.traces();
    assert!(!traces.iter().any(|line| line.contains("add") || line.contains("delete")), "{traces:?}");
}

// covers B43
#[test]
fn replica_that_ends_in_order_is_launched_by_no_one_until_it_is_started() {
    for says_farewell in [true, false] {
        let mut rig = Rig::new(true);
        rig.register(1, NAME, 10).unwrap();
        rig.answer(1);
        if says_farewell {
            rig.supervisor.farewell(1);
        }
        rig.supervisor.gone(process(10), &ended("its process is gone", !says_farewell), rig.now);
        assert_eq!(rig.condition(), Condition::Stopped);
        rig.order(1, OrderKind::Relaunch);
        rig.order(2, OrderKind::FreshDirectory);
        let effects = rig.pass(Duration::from_secs(60));
        assert_eq!(launches(&effects), [] as [bool; 0]);
        assert_eq!((rig.report().order, rig.condition()), (2, Condition::Stopped), "tried, and said why not");
        assert!(rig.report().detail.contains("in order"));
        assert!(rig.supervisor.known().replicas[0].is_stopped);
        rig.register(2, NAME, 11).unwrap();
        rig.answer(2);
        rig.gone(11);
        assert_eq!(launches(&rig.effects()), [false], "it was started again, and is watched again");
    }
}

#[test]
fn agent_that_relaunches_nothing_only_tells() {
    let mut rig = Rig::new(false);
    rig.register(1, NAME, 10).unwrap();
    rig.answer(1);
    let effects = rig.pass(FREQ * (HUNG_AFTER_INTERVALS + 1));
    assert_eq!((kills(&effects).len(), rig.condition()), (0, Condition::Hung));
    rig.answer(1);
    assert!(matches!(rig.condition(), Condition::Alive { .. }), "it was only slow");
    rig.gone(10);
    assert_eq!(rig.condition(), Condition::Dead { reason: "it exited with 70".to_owned() });
    for (id, what) in [(1, OrderKind::Relaunch), (2, OrderKind::FreshDirectory)] {
        rig.order(id, what);
        assert_eq!(launches(&rig.effects()), [] as [bool; 0]);
        assert_eq!(rig.report().order, id);
        assert!(rig.report().detail.contains("--relaunch no"));
    }
}

#[test]
fn managers_can_switch_relaunching_off_and_on() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.answer(1);
    rig.supervisor.ordered(AgentOrders { relaunch: false, ..calm() }, rig.now, rig.now);
    rig.gone(10);
    assert_eq!(launches(&rig.effects()), [] as [bool; 0]);
    rig.order(1, OrderKind::Relaunch);
    assert_eq!(launches(&rig.effects()), [false], "an order is an order");
}

#[test]
fn order_is_carried_out_once_and_after_the_old_process_is_gone() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.answer(1);
    rig.effects();
    rig.order(7, OrderKind::Relaunch);
    rig.order(7, OrderKind::Relaunch);
    let effects = rig.effects();
    let ends = effects.iter().filter(|effect| **effect == Effect::Terminate(process(10))).count();
    assert_eq!((ends, launches(&effects).len()), (1, 0));
    assert_eq!(rig.report().order, 0, "not carried out yet");
    let effects = rig.pass(Duration::from_millis(END_MAX_MS));
    assert_eq!(kills(&effects), [10], "it did not end");
    // Its farewell and its code are its answer to the order, and no order of anyone that it stays away.
    rig.supervisor.gone(process(10), &ended("it exited with 0", true), rig.now);
    assert_eq!(launches(&rig.effects()), [false]);
    rig.supervisor.launched(NAME, process(11), rig.now);
    assert_eq!(rig.report().order, 7);
    rig.register(2, NAME, 11).unwrap();
    rig.order(7, OrderKind::Relaunch);
    rig.order(6, OrderKind::Retire);
    let effects = rig.effects();
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::Terminate(_) | Effect::Launch { .. })),
        "{effects:?}"
    );
}

#[test]
fn retired_replica_ends_and_stays_so() {
    let mut rig = Rig::new(false);
    rig.register(1, NAME, 10).unwrap();
    rig.answer(1);
    rig.order(1, OrderKind::Retire);
    assert!(rig.effects().contains(&Effect::Terminate(process(10))));
    rig.supervisor.gone(process(10), &ended("it exited with 0", true), rig.now);
    assert_eq!((rig.condition(), rig.report().order), (Condition::Stopped, 1));
    rig.order(2, OrderKind::Retire);
    assert_eq!((rig.condition(), rig.report().order), (Condition::Stopped, 2), "it has ended already");
}

#[test]
fn order_for_a_replica_that_never_ran_here_is_refused_unless_it_says_how() {
    let mut rig = Rig::new(true);
    rig.order(1, OrderKind::Relaunch);
    assert_eq!(launches(&rig.effects()), [] as [bool; 0]);
    assert_eq!(rig.report().order, 1);
    assert!(!rig.report().detail.is_empty());
    let launch = Launch {
        api_address: "127.0.0.1:1".to_owned(),
        p2p_address: "127.0.0.1:2".to_owned(),
        peers: vec!["127.0.0.1:3".to_owned(), "127.0.0.1:4".to_owned()],
    };
    rig.order(2, OrderKind::Place(Launch { api_address: "nonsense".to_owned(), ..launch.clone() }));
    assert_eq!(rig.report().order, 2);
    assert!(rig.report().detail.contains("nonsense"), "{}", rig.report().detail);
    rig.order(3, OrderKind::Place(launch));
    assert_eq!(launches(&rig.effects()), [true]);
}

#[test]
fn heartbeat_freq_of_the_managers_counts_from_the_next_heartbeat_on_and_hangs_no_one() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.pass_well(FREQ);
    let beats = |effects: &[Effect]| effects.iter().filter(|one| matches!(one, Effect::Heartbeat { .. })).count();
    rig.supervisor.ordered(AgentOrders { lfd_heartbeat_freq_ms: 1_000, ..calm() }, rig.now, rig.now);
    rig.pass_well(Duration::from_millis(2_900));
    // Faster than the last answer is old.
    rig.supervisor.ordered(AgentOrders { lfd_heartbeat_freq_ms: 20, ..calm() }, rig.now, rig.now);
    rig.effects();
    let effects = rig.pass(Duration::from_millis(60));
    assert_eq!((beats(&effects), kills(&effects).len()), (3, 0));
    rig.answer(1);
    rig.supervisor.ordered(AgentOrders { lfd_heartbeat_freq_ms: 0, ..calm() }, rig.now, rig.now);
    rig.pass_well(Duration::from_millis(100));
    assert!(matches!(rig.condition(), Condition::Alive { .. }), "bounded");
}

// covers B40
#[test]
fn agent_that_returns_adopts_what_runs_and_launches_what_ended_meanwhile() {
    let mut first = Rig::new(true);
    for (connection, replica) in [(1, 0), (2, 1), (3, 2)] {
        let name = Name { partition: 0, replica };
        first.register(connection, name, 10 + u32::from(replica)).unwrap();
        first.answer(connection);
    }
    first.supervisor.farewell(3);
    let known = first.supervisor.known();
    let mut rig = Rig::new(true);
    rig.supervisor.adopt(known, |process| process.pid == 10, rig.now);
    let effects = rig.effects();
    assert!(effects.contains(&Effect::Watch(process(10))));
    assert_eq!(launches(&effects), [false], "the second has ended, the third was ended in order");
    assert_eq!(rig.condition(), Condition::Starting, "it is still to be seen whether it returns, and that is said");
    assert!(rig.register(8, NAME, 99).is_err(), "another process");
    rig.register(9, NAME, 10).unwrap();
    rig.answer(9);
    let report = rig.supervisor.report();
    assert!(matches!(report[0].condition, Condition::Alive { .. }));
    assert_eq!((&report[1].condition, &report[2].condition), (&Condition::Starting, &Condition::Stopped));
}

#[test]
fn replica_that_does_not_return_is_replaced_only_if_it_knows_where_to() {
    for same_address in [true, false] {
        let mut first = Rig::new(true);
        first.register(1, NAME, 10).unwrap();
        let mut known = first.supervisor.known();
        if !same_address {
            known.listen = "127.0.0.1:8".to_owned();
        }
        let mut rig = Rig::new(true);
        rig.supervisor.adopt(known, |_| true, rig.now);
        assert_eq!(kills(&rig.pass(Duration::from_millis(RETURN_MIN_MS - 1))), [] as [u32; 0]);
        let expected: &[u32] = if same_address { &[10] } else { &[] };
        assert_eq!(kills(&rig.pass(Duration::from_millis(1))), expected);
        assert_eq!(rig.condition(), Condition::Hung);
    }
}

#[test]
fn process_that_cannot_be_seen_is_heartbeaten_and_never_touched() {
    let mut rig = Rig::new(true);
    rig.supervisor.registered(1, registration(NAME, 10), false, rig.now).unwrap();
    rig.answer(1);
    assert!(!rig.effects().contains(&Effect::Watch(process(10))));
    let effects = rig.pass(FREQ * (HUNG_AFTER_INTERVALS + 1));
    assert_eq!((kills(&effects).len(), launches(&effects).len()), (0, 0));
    assert_eq!(rig.condition(), Condition::Hung);
}

#[test]
fn registered_process_wins_over_one_that_was_launched_and_is_not_there_yet() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.gone(10);
    rig.effects();
    // A person was faster.
    rig.register(2, NAME, 77).unwrap();
    rig.supervisor.launched(NAME, process(11), rig.now);
    rig.answer(2);
    rig.gone(11);
    assert_eq!(launches(&rig.effects()), [] as [bool; 0]);
    assert!(matches!(rig.condition(), Condition::Alive { .. }));
}

#[test]
fn directory_in_use_or_served_from_since_the_report_is_not_taken() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.gone(10);
    rig.effects();
    let asked = rig.now;
    rig.order(5, OrderKind::FreshDirectory);
    assert_eq!((launches(&rig.effects()).len(), rig.report().order), (0, 0), "it is being launched");
    rig.supervisor.launched(NAME, process(11), rig.now);
    rig.order(5, OrderKind::FreshDirectory);
    rig.register(2, NAME, 11).unwrap();
    rig.order(5, OrderKind::FreshDirectory);
    rig.now += FREQ;
    rig.answer(2);
    rig.order(5, OrderKind::FreshDirectory);
    let ends = |effect: &Effect| matches!(effect, Effect::Terminate(_) | Effect::Kill(_) | Effect::Launch { .. });
    assert!(!rig.effects().iter().any(ends), "it runs");
    rig.gone(11);
    rig.order_after(5, OrderKind::FreshDirectory, asked);
    assert_eq!(launches(&rig.effects()), [] as [bool; 0], "the managers did not know that it was in service");
    assert!(matches!(rig.condition(), Condition::BackingOff { .. }));
    rig.now += Duration::from_millis(1);
    let asked = rig.now;
    rig.now += Duration::from_millis(ANSWER_AGE_MAX_MS + 1);
    rig.order_after(5, OrderKind::FreshDirectory, asked);
    assert_eq!(launches(&rig.effects()), [] as [bool; 0], "an old answer");
    assert_eq!(rig.report().order, 0);
    rig.order(5, OrderKind::FreshDirectory);
    assert_eq!(launches(&rig.effects()), [true]);
    rig.supervisor.launched(NAME, process(12), rig.now);
    assert_eq!(rig.report().order, 5);
}

#[test]
fn order_while_a_replica_is_launched_launches_no_second_one() {
    let launching = || {
        let mut rig = Rig::new(true);
        rig.register(1, NAME, 10).unwrap();
        rig.gone(10);
        assert_eq!(launches(&rig.effects()), [false]);
        rig
    };
    let mut rig = launching();
    rig.order(1, OrderKind::Relaunch);
    assert_eq!((launches(&rig.effects()).len(), rig.report().order), (0, 0));
    rig.supervisor.launched(NAME, process(11), rig.now);
    assert_eq!((launches(&rig.effects()).len(), rig.report().order), (0, 1));

    let mut rig = launching();
    rig.order(1, OrderKind::Retire);
    assert_eq!((rig.report().order, rig.condition()), (0, Condition::Starting), "its process is not known yet");
    rig.supervisor.launched(NAME, process(11), rig.now);
    assert!(rig.effects().contains(&Effect::Terminate(process(11))));
    rig.supervisor.gone(process(11), &ended("it exited with 0", true), rig.now);
    assert_eq!((rig.report().order, rig.condition()), (1, Condition::Stopped));

    let mut rig = launching();
    rig.order(1, OrderKind::Retire);
    rig.supervisor.launch_failed(NAME, "no such file", rig.now);
    assert_eq!((launches(&rig.effects()).len(), rig.report().order, rig.condition()), (0, 1, Condition::Stopped));

    let mut rig = launching();
    rig.order(1, OrderKind::Retire);
    rig.register(2, NAME, 77).unwrap();
    assert!(rig.effects().contains(&Effect::Terminate(process(77))), "a person was faster");
}

#[test]
fn farewell_to_the_agent_that_relaunches_it_is_no_orderly_end() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.order(1, OrderKind::Relaunch);
    rig.supervisor.farewell(1);
    // The agent is killed here.
    let known = rig.supervisor.known();
    let mut next = Rig::new(true);
    next.supervisor.adopt(known, |_| false, next.now);
    assert_eq!(launches(&next.effects()), [false]);
}

#[test]
fn launched_replica_that_never_registers_is_killed_awaited_and_launched_again() {
    let mut rig = Rig::new(true);
    rig.register(1, NAME, 10).unwrap();
    rig.gone(10);
    rig.supervisor.launched(NAME, process(11), rig.now);
    rig.effects();
    assert_eq!(kills(&rig.pass(Duration::from_millis(START_MAX_MS - 1))), [] as [u32; 0]);
    let effects = rig.pass(Duration::from_millis(1));
    assert_eq!((kills(&effects), launches(&effects).len()), (vec![11], 0));
    assert_eq!(rig.condition(), Condition::Hung);
    rig.gone(11);
    assert!(matches!(rig.condition(), Condition::BackingOff { .. }));
    assert_eq!(launches(&rig.pass(Duration::from_millis(PAUSE_MIN_MS))), [false]);
    rig.supervisor.launched(NAME, process(12), rig.now);
    // It may be reading a large directory: killed after the same time again and again, it would never be through.
    assert_eq!(kills(&rig.pass(Duration::from_millis(2 * START_MAX_MS - 1))), [] as [u32; 0]);
    rig.register(2, NAME, 12).unwrap();
    rig.pass_well(Duration::from_millis(START_MAX_MS));
    assert!(matches!(rig.condition(), Condition::Alive { .. }), "who is registered is not starting");
}
