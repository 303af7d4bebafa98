//! A partition grows, moves and shrinks under load: no request fails, and each swap takes effect exactly once.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};

use madkv_proto::control::{Announcement, ControlRequest};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_proto::why::WhyRequest;
use madkv_testkit::ask::ask;
use madkv_testkit::cluster::{Group, Node};
use madkv_testkit::newcomer;
use madkv_testkit::ports::Ports;
use madkv_testkit::process::Process;
use madkv_testkit::programs::CLIENT;
use madkv_testkit::wait::wait_for;
use smr::status::ServiceState;

use crate::scene::{ONLY, SMALL, Scene, TIMEOUT};

pub(crate) fn operator(scene: &Scene, words: &[&str]) -> Output {
    let mut client = Command::new(scene.programs().path(CLIENT));
    client.args(["--manager_addrs", &scene.manager_addresses(), "--timeout_ms", "60000"]).args(words);
    client.output().unwrap()
}

fn done(scene: &Scene, words: &[&str]) {
    let output = operator(scene, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
}

pub(crate) fn refused(scene: &Scene, words: &[&str], why: &str) {
    let output = operator(scene, words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains(why), "{words:?}: {output:?}");
}

/// A replica that no map has yet, or one on other ports than at first.
fn newcomer(scene: &Scene, replica: u16, api: SocketAddr, p2p: SocketAddr, directory: &str) -> Process {
    newcomer::start(scene, (0, replica), (api, p2p), directory).unwrap()
}

fn voters(scene: &Scene) -> usize {
    scene.leader(ONLY).and_then(|leader| scene.status(leader).ok()).map_or(0, |status| status.voters.len())
}

// A joiner is killed after its group has taken it in, and before the map has it.
#[test]
fn joiner_that_its_group_has_and_the_map_has_not_goes_on_after_a_restart() {
    let scene = Scene::new(SMALL);
    let ports = Ports::claim(4).unwrap();
    let port = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.first() + offset));
    let mut fourth = newcomer(&scene, 3, port(0), port(1), "fourth");
    let _fifth = newcomer(&scene, 4, port(2), port(3), "fifth");
    let manager = Node::Manager(0);
    for (replica, api, p2p) in [(3, port(0), port(1)), (4, port(2), port(3))] {
        let (api_address, p2p_address) = (api.to_string(), p2p.to_string());
        let place = Announcement { partition: 0, replica, api_address, p2p_address, epoch: 1 };
        let request = ClientRequest::Control(ControlRequest::Announce(place).encode());
        // They do so themselves, but who knows when.
        assert!(ask(scene.client_address(manager), Service::Manager, request, TIMEOUT).is_ok());
    }
    // Past the managers, which learn of it later.
    let mut replicas: Vec<(u16, String)> = (0..3).map(|replica| (replica, String::new())).collect();
    replicas.extend([(3, port(1).to_string()), (4, port(3).to_string())]);
    let request = ClientRequest::Control(WhyRequest::Scale { replicas }.encode());
    let service = Service::Server { partition: 0 };
    wait_for(TIMEOUT, "the group to take them in", || {
        let leader = scene.leader(ONLY)?;
        let answer = ask(scene.client_address(leader), service, request.clone(), TIMEOUT);
        matches!(answer, Ok(ClientResponse::Done)).then_some(())
    })
    .unwrap();
    fourth.kill();
    fourth.start().unwrap();
    wait_for(TIMEOUT, "the fourth to serve", || {
        assert!(fourth.is_running(), "{}", fourth.log_text());
        match ask(port(0), service, ClientRequest::Status, TIMEOUT) {
            Ok(ClientResponse::Status(status)) => (status.service_state == ServiceState::InService).then_some(()),
            _ => None,
        }
    })
    .unwrap();
    wait_for(TIMEOUT, "both to be known", || operator(&scene, &["scale", "s0", "5"]).status.success().then_some(()))
        .unwrap();
    assert!(fourth.is_running() && voters(&scene) == 5, "{}", fourth.log_text());
}

// covers M2 M4 M5 G2
#[test]
fn partition_goes_from_three_to_five_and_back_under_load_and_no_request_fails() {
    let scene = Scene::new(SMALL);
    let ports = Ports::claim(4).unwrap();
    let port = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.first() + offset));
    let mut load = scene.load();
    load.wait_answers(50, TIMEOUT).unwrap();

    refused(&scene, &["scale", "s0", "0"], "last replica");
    refused(&scene, &["scale", "s0", "4"], "1, 3, 5, 7 and 9");
    refused(&scene, &["scale", "s1", "3"], "no s1");
    refused(&scene, &["scale", "s0", "5"], "start it with --join");
    assert_eq!(scene.leader_of(ONLY).group(), Group::Partition(0));

    let mut fourth = newcomer(&scene, 3, port(0), port(1), "fourth");
    let mut fifth = newcomer(&scene, 4, port(2), port(3), "fifth");
    wait_for(TIMEOUT, "both to be known", || operator(&scene, &["scale", "s0", "5"]).status.success().then_some(()))
        .unwrap();
    done(&scene, &["scale", "s0", "5"]);
    load.wait_answers(200, TIMEOUT).unwrap();
    let table = operator(&scene, &["status", "--json"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains(&port(0).to_string()) && table.contains(&port(2).to_string()), "{table}");

    refused(&scene, &["set", "replicas.s0", "4"], "1, 3, 5, 7 and 9");
    done(&scene, &["set", "replicas.s0", "3"]);
    load.wait_answers(200, TIMEOUT).unwrap();
    wait_for(TIMEOUT, "three voters", || (voters(&scene) == 3).then_some(())).unwrap();
    for leaver in [&mut fourth, &mut fifth] {
        let status = leaver.wait_end(TIMEOUT).unwrap();
        assert!(status.success() && leaver.log_text().contains("is retired"), "{status}: {}", leaver.log_text());
    }
    // One that is started again hears it from the managers: its peers have forgotten it.
    fourth.start().unwrap();
    let status = fourth.wait_end(TIMEOUT).unwrap();
    assert!(
        status.success() && fourth.log_text().matches("is retired").count() >= 2,
        "{status}: {}",
        fourth.log_text()
    );
    let history = load.finish().unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    history.check(&scene).unwrap();
}
