//! Settings, events and members of a manager that runs: what agents and operators meet.

#![cfg(test)]

#[allow(dead_code, reason = "each test file uses its part")]
#[path = "../../madkv-server/tests/support/mod.rs"]
mod support;

use madkv_proto::control::{
    AgentOrders, AgentReport, Condition, ControlReply, ControlRequest, Events, Membership, ReplicaReport,
    Service as Serves,
};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::map::ClusterMap;
use rustix::process::Signal;
use smr::id::Incarnation;
use support::{Process, TIMEOUT, ask, dial, eventually, free_address};

struct Site {
    directory: tempfile::TempDir,
    address: String,
    p2p: String,
}

impl Site {
    fn start(&self) -> Process {
        let backer = self.directory.path().join("m").to_str().unwrap().to_owned();
        let flags = [
            ("--replica_id", "0"),
            ("--man_listen", &self.address),
            ("--p2p_listen", &self.p2p),
            ("--peer_addrs", "none"),
            ("--server_rf", "3"),
            ("--server_addrs", "127.0.0.1:11,127.0.0.1:12,127.0.0.1:13"),
            ("--backer_path", &backer),
        ];
        let mut line = vec![env!("CARGO_BIN_EXE_madkv-manager").to_owned()];
        line.extend(["--allow_unsynced", "--trace_messages"].map(str::to_owned));
        line.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]));
        Process::start(&line)
    }

    async fn control(&self, request: &ControlRequest) -> ControlReply {
        let body = ask(&self.address, Service::Manager, ClientRequest::Control(request.encode())).await;
        match body {
            ClientResponse::Answer(answer) => ControlReply::decode(&answer).unwrap(),
            ClientResponse::Refused(why) => ControlReply::Refused(why),
            other => panic!("{other:?}"),
        }
    }

    async fn set(&self, name: &str, value: &str, version: u64) -> ControlReply {
        self.control(&ControlRequest::Set { name: name.into(), value: value.into(), version }).await
    }

    async fn membership(&self) -> Membership {
        match self.control(&ControlRequest::Membership).await {
            ControlReply::Membership(membership) => membership,
            other => panic!("{other:?}"),
        }
    }

    async fn events(&self) -> Vec<String> {
        match self.control(&ControlRequest::Events { after: 0, limit: 100 }).await {
            ControlReply::Events(Events { events, .. }) => {
                events.into_iter().map(|event| format!("{}: {}", event.subject, event.text)).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn report(number: u64, service: Serves) -> AgentReport {
    let replica = ReplicaReport {
        partition: 0,
        replica: 2,
        incarnation: Some(Incarnation(5)),
        condition: Condition::Alive { service },
        launches: 1,
        order: 0,
        directory_suspect: false,
        peers: Vec::new(),
        detail: String::new(),
    };
    AgentReport {
        agent: 4,
        host: "here".into(),
        address: "127.0.0.1:9".into(),
        start: 3,
        number,
        relaunches: true,
        spares: Vec::new(),
        replicas: vec![replica],
    }
}

/// Reports until it has an answer with orders.
async fn orders(site: &Site, report: AgentReport) -> AgentOrders {
    eventually("orders", || async {
        let mut manager = dial(&site.address, Service::Manager).await;
        let request = ControlRequest::AgentReport(report.clone());
        match manager.ask::<ClusterMap>(ClientRequest::Control(request.encode())).await.ok()? {
            ClientResponse::Answer(answer) => match ControlReply::decode(&answer).unwrap() {
                ControlReply::Orders(orders) => Some(orders),
                ControlReply::Refused(why) if why.contains("no cluster map yet") => None,
                other => panic!("{other:?}"),
            },
            ClientResponse::NotLeader { .. } | ClientResponse::OutOfService(_) => None,
            other => panic!("{other:?}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manager_counts_members_by_their_agents_and_remembers_across_a_restart() {
    let site = Site { directory: tempfile::tempdir().unwrap(), address: free_address(), p2p: free_address() };
    let mut manager = site.start();
    manager.expect_line("GFD: 0 members");
    let answer = orders(&site, report(1, Serves::InService)).await;
    assert_eq!((answer.lfd_heartbeat_freq_ms, answer.gfd_heartbeat_freq_ms), (250, 500));
    manager.expect_line("GFD: 1 member: S3");
    manager.expect_line("RM: 1 member: S3");
    let seen = site.membership().await;
    assert_eq!((seen.groups[0].members.clone(), seen.hosts[0].has_failed), (vec![2], false));

    // Settings: what makes no sense is refused with the reason, and nothing is changed.
    let before = site.control(&ControlRequest::Settings).await;
    for (name, value, part) in [
        ("election_timeout", "soon", "no whole number"),
        ("election_timeout", "1", "300 to 30000"),
        ("no_such", "1", "there are checkpoint_freq"),
        ("detection", "100", "300 to 30000"),
        ("replicas.s0", "5", "3 replicas"),
        (&"x".repeat(99), "1", "too long"),
    ] {
        let ControlReply::Refused(why) = site.set(name, value, 0).await else { panic!("{name} {value}") };
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(site.control(&ControlRequest::Settings).await, before);
    assert_eq!(site.set("gfd_heartbeat_freq", "100", 0).await, ControlReply::Done);
    assert_eq!(orders(&site, report(2, Serves::InService)).await.gfd_heartbeat_freq_ms, 100);

    // Whoever falls silent has failed, and is heard again.
    manager.expect_line("GFD: 0 members");
    assert!(site.membership().await.hosts[0].has_failed);
    orders(&site, report(3, Serves::InService)).await;
    manager.expect_line("GFD: 1 member: S3");
    let events = site.events().await;
    for part in
        ["host here: has an agent: LFD4", "S3 leaves the members", "is heard again", "gfd_heartbeat_freq is 100"]
    {
        assert!(events.iter().any(|event| event.contains(part)), "{part}: {events:#?}");
    }

    // Nothing of it is lost with the process, and no one is accused because it was away.
    manager.signal(Signal::KILL);
    manager.expect_end(TIMEOUT);
    let mut manager = site.start();
    manager.expect_line("GFD: 1 member: S3");
    let again = site.events().await;
    assert_eq!(again[..events.len()], events);
    let garbage = ask(&site.address, Service::Manager, ClientRequest::Control(vec![0xff; 9].into())).await;
    assert!(matches!(&garbage, ClientResponse::Refused(why) if why.contains("knows no such")), "{garbage:?}");
}

// covers M6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quarantine_that_proves_a_loss_waits_for_an_operator_and_the_events_say_so() {
    let site = Site { directory: tempfile::tempdir().unwrap(), address: free_address(), p2p: free_address() };
    let _manager = site.start();
    let proof = || Serves::Quarantined { proof_of_loss: true, reason: "proof of a loss: two entries".into() };
    let waits = eventually("an event", || async {
        orders(&site, report(1, proof())).await;
        site.events().await.into_iter().find(|event| event.contains("waits for an operator"))
    })
    .await;
    assert!(waits.starts_with("s0.2: S3") && waits.contains("only copy"), "{waits}");
    assert_eq!(orders(&site, report(1, proof())).await.orders, []);
}
