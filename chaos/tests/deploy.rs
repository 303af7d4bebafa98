//! The files in `deploy/`, against the programs: each metric that a dashboard or an alert names is one that a real
//! process has; each program, flag, port and probe in a unit, a container or a manifest is one that there is.

#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use madkv_testkit::cluster::{Cluster, Shape};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::programs::{MANAGER, Programs, SERVER};
use madkv_testkit::scrape::{Scrape, get};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

const TIMEOUT: Duration = Duration::from_secs(60);
/// Labels that Prometheus itself adds.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];
/// Paths that a process answers.
const PATHS: [&str; 4] = ["/metrics", "/livez", "/readyz", "/status"];

fn deploy(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| Programs::beside_this_one().unwrap())
}

/// The flags of a program by its own `--help`, and those among them that must be given.
fn flags_of(program: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let output = Command::new(programs().path(program)).arg("--help").stdin(Stdio::null()).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let flag = |line: &str| {
        let line = line.trim_start();
        let rest = line.strip_prefix("-h, ").or_else(|| line.strip_prefix("-V, ")).unwrap_or(line);
        rest.starts_with("--").then(|| rest.split([' ', '=']).next().unwrap().to_owned())
    };
    let all: BTreeSet<String> = help.lines().filter_map(flag).collect();
    let usage = help.lines().find(|line| line.starts_with("Usage:")).unwrap();
    let needed = usage.split(' ').filter(|word| word.starts_with("--")).map(str::to_owned).collect();
    assert!(all.len() > 5, "{program}: {help}");
    (all, needed)
}

/// A program's command line in one of the files.
struct Line {
    file: String,
    program: String,
    flags: BTreeMap<String, String>,
}

impl Line {
    /// Of words, the first of which is the program: `--flag value` or `--flag=value`.
    fn of(file: &str, words: &[String]) -> Line {
        let program = Path::new(&words[0]).file_name().unwrap().to_str().unwrap().to_owned();
        let mut flags = BTreeMap::new();
        let mut rest = words[1..].iter();
        while let Some(word) = rest.next() {
            // Further flags, which whoever installs it chooses.
            if word.starts_with('$') {
                continue;
            }
            assert!(word.starts_with("--"), "{file}: {word:?} is no flag");
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), value.to_owned()),
                None => (word.clone(), rest.next().unwrap_or_else(|| panic!("{file}: {word} has no value")).clone()),
            };
            assert!(flags.insert(flag, value).is_none(), "{file}: {word} is there twice");
        }
        Line { file: file.to_owned(), program, flags }
    }

    /// Every flag is one of the program's, and all that it needs are there.
    fn check(&self) {
        let (all, needed) = flags_of(&self.program);
        let given: BTreeSet<String> = self.flags.keys().cloned().collect();
        let unknown: Vec<_> = given.difference(&all).collect();
        assert!(unknown.is_empty(), "{}: {} has no {unknown:?}", self.file, self.program);
        let missing: Vec<_> = needed.difference(&given).collect();
        assert!(missing.is_empty(), "{}: {} needs {missing:?}", self.file, self.program);
    }

    fn port(&self, flag: &str) -> i64 {
        let value = self.flags.get(flag).unwrap_or_else(|| panic!("{}: no {flag}", self.file));
        value.rsplit(':').next().unwrap().parse().unwrap_or_else(|_| panic!("{}: {flag} {value}", self.file))
    }

    /// The ports for clients, peers and HTTP.
    fn ports(&self) -> BTreeMap<&'static str, i64> {
        let clients = if self.program == MANAGER { "--man_listen" } else { "--api_listen" };
        [("clients", clients), ("peers", "--p2p_listen"), ("http", "--http_listen")]
            .map(|(name, flag)| (name, self.port(flag)))
            .into()
    }
}

/// The names in an expression that look like those of our metrics.
fn metrics_in(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("smr_") || word.starts_with("process_"))
}

/// The conditions on labels in an expression: the metric, the label, and the values of which one is wanted.
fn conditions(expression: &str) -> Vec<(String, String, Vec<String>)> {
    let mut found = Vec::new();
    for (position, _) in expression.match_indices('{') {
        let metric = metrics_in(&expression[..position]).last().unwrap_or("").to_owned();
        let metric = if expression[..position].ends_with(&metric) { metric } else { String::new() };
        let inside = &expression[position + 1..position + expression[position..].find('}').unwrap()];
        for condition in inside.split(',') {
            let end = condition.find(['=', '!']).unwrap_or_else(|| panic!("{expression}: {condition:?}"));
            let (label, value) = condition.split_at(end);
            let value = value.trim_start_matches(['=', '!', '~']).trim_matches('"');
            let values = value.split('|').filter(|value| !value.starts_with('$')).map(str::to_owned).collect();
            found.push((metric.clone(), label.trim().to_owned(), values));
        }
    }
    found
}

/// The labels that an expression groups by.
fn grouped_by(expression: &str) -> impl Iterator<Item = &str> {
    let lists = ["by (", "without (", "on ("].into_iter().flat_map(|word| expression.split(word).skip(1));
    lists.flat_map(|rest| rest.split(')').next().unwrap_or("").split(',')).map(str::trim)
}

#[test]
fn conditions_and_groups_of_an_expression_are_found() {
    let expression = r#"sum by (group, le) (rate(smr_a_bucket{kind="write",outcome!="ok"}[5m])) / smr_b{c=~"d|e"}"#;
    let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let condition = |metric: &str, label: &str, values| (metric.to_owned(), label.to_owned(), owned(values));
    assert_eq!(
        conditions(expression),
        [
            condition("smr_a_bucket", "kind", &["write"]),
            condition("smr_a_bucket", "outcome", &["ok"]),
            condition("smr_b", "c", &["d", "e"])
        ]
    );
    assert_eq!(grouped_by(expression).collect::<Vec<_>>(), ["group", "le"]);
}

fn strings<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                match value {
                    Value::String(text) if field == name => found.push(text),
                    value => strings(value, name, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, name, found)),
        _ => {}
    }
}

#[test]
fn metrics_in_dashboard_and_alerts_are_those_of_real_processes() {
    let directory = tempfile::tempdir().unwrap();
    let shape = Shape { server_rf: 3, manager_rf: 1, partitions: 1 };
    let flags = sync_flags(directory.path());
    let mut cluster = Cluster::on_free_ports(programs(), shape, directory.path(), &flags).unwrap();
    cluster.listen_for_http().unwrap();
    cluster.start_all().unwrap();
    cluster.wait_ready(TIMEOUT).unwrap();
    let mut there = BTreeSet::new();
    let mut samples = Vec::new();
    for node in shape.nodes() {
        let address = cluster.http_address(node).unwrap();
        let scrape = Scrape::of(address).unwrap();
        there.extend(scrape.names());
        samples.extend(scrape.samples);
        for path in PATHS {
            assert_ne!(get(address, path).unwrap().code, 404, "{path}");
        }
    }

    let dashboard: Value = serde_json::from_str(&read("grafana/madkv.json")).unwrap();
    let mut expressions = Vec::new();
    strings(&dashboard, "expr", &mut expressions);
    strings(&dashboard, "definition", &mut expressions);
    for slow in ["smr_pace_seconds", "smr_stands_back"] {
        assert!(expressions.iter().any(|expression| expression.contains(slow)), "the dashboard shows no {slow}");
    }
    assert!(expressions.len() > 20, "{expressions:?}");
    let alerts = yaml("prometheus/alerts.yml");
    let rules = alerts[0]["groups"][0]["rules"].as_vec().unwrap();
    assert!(rules.len() > 10);
    let operations = fs::read_to_string(deploy("../docs/OPERATIONS.md")).unwrap();
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert!(operations.contains(&format!("`{name}`")), "docs/OPERATIONS.md says nothing of {name}");
        expressions.push(rule["expr"].as_str().unwrap());
    }
    for name in &there {
        let family = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(operations.contains(&format!("`{family}`")), "docs/OPERATIONS.md says nothing of {family}");
    }
    for expression in expressions {
        // Prometheus itself has `up`.
        let named: Vec<&str> = metrics_in(expression).collect();
        assert!(!named.is_empty() || expression.contains("up{"), "{expression}");
        for name in named {
            assert!(there.contains(name), "{expression}: no process has {name}, but {there:#?}");
        }
        for (metric, label, values) in
            conditions(expression).iter().filter(|(_, label, _)| !OF_PROMETHEUS.contains(&label.as_str()))
        {
            let has = |value: &str| {
                let fits = |name: &str| metric.is_empty() || name == metric;
                samples
                    .iter()
                    .any(|sample| fits(&sample.name) && sample.labels.get(label).is_some_and(|has| has == value))
            };
            let missing: Vec<_> = values.iter().filter(|value| !has(value)).collect();
            assert!(missing.is_empty(), "{expression}: nothing has {label} {missing:?}");
        }
        for label in grouped_by(expression).filter(|label| !OF_PROMETHEUS.contains(label)) {
            assert!(samples.iter().any(|sample| sample.labels.contains_key(label)), "{expression}: no one has {label}");
        }
    }
}

#[test]
fn systemd_units_name_programs_flags_and_settings_that_there_are() {
    for (unit, settings, program) in [
        ("systemd/madkv-manager@.service", "systemd/manager.env.example", MANAGER),
        ("systemd/madkv-server@.service", "systemd/server.env.example", SERVER),
    ] {
        let text = read(unit).replace("\\\n", " ");
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            let only = lines.next().unwrap_or_else(|| panic!("{unit}: no {name}"));
            assert_eq!(lines.next(), None, "{unit}: {name} is there twice");
            only.to_owned()
        };
        let words: Vec<String> = value("ExecStart").split_whitespace().map(str::to_owned).collect();
        let line = Line::of(unit, &words);
        assert_eq!(line.program, program);
        line.check();
        // What the processes do at their start and end, and with which code.
        for (name, expected) in
            [("Type", "notify"), ("Restart", "on-failure"), ("RestartPreventExitStatus", "2"), ("KillMode", "mixed")]
        {
            assert_eq!(value(name), expected, "{unit}: {name}");
        }
        assert_eq!(value("TimeoutStartSec"), "infinity", "a large directory takes a while to open");
        let user = value("User");
        assert!(read("systemd/madkv.sysusers").lines().any(|line| line.starts_with(&format!("u {user} "))), "{user}");
        // As the containers: a directory keeps the engine that it was made with.
        assert!(read(settings).contains("MORE_FLAGS=--log_engine segments\n"), "{settings}");
        assert!(read("container/compose.yaml").contains("--log_engine=segments"));

        let name_of = |line: &str| line.split_once('=').map(|(name, _)| name.to_owned());
        let example = read(settings);
        let given: BTreeSet<String> =
            example.lines().filter(|line| !line.starts_with('#')).filter_map(name_of).collect();
        let wanted: BTreeSet<String> = words
            .iter()
            .filter_map(|word| word.strip_prefix('$'))
            .map(|name| name.trim_matches(['{', '}']).to_owned())
            .filter(|name| name != "STATE_DIRECTORY")
            .collect();
        assert_eq!(given, wanted, "{unit} and {settings}");
    }
}

/// The programs that the image has.
fn image() -> (BTreeSet<String>, BTreeSet<i64>) {
    let text = read("container/Containerfile").replace("\\\n", " ");
    let built: BTreeSet<String> = {
        let line = text.lines().find(|line| line.contains("cargo build")).unwrap();
        line.split("--bin ").skip(1).map(|rest| rest.split_whitespace().next().unwrap().to_owned()).collect()
    };
    let copied = text.lines().find(|line| line.starts_with("COPY --from=build")).unwrap();
    let copied: BTreeSet<String> = copied
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("/src/target/release/"))
        .map(str::to_owned)
        .collect();
    assert_eq!(built, copied);
    for program in &built {
        assert!(programs().path(program).is_file(), "there is no {program}");
    }
    let exposed = text.lines().find_map(|line| line.strip_prefix("EXPOSE ")).unwrap();
    (built, exposed.split_whitespace().map(|port| port.parse().unwrap()).collect())
}

#[test]
fn containers_run_programs_of_the_image_at_ports_that_are_published() {
    let (built, exposed) = image();
    let file = "container/compose.yaml";
    let compose = &yaml(file)[0];
    let services = compose["services"].as_hash().unwrap();
    let names: BTreeSet<&str> = services.keys().map(|name| name.as_str().unwrap()).collect();
    let lines: BTreeMap<&str, Line> = services
        .iter()
        .map(|(name, service)| {
            let words = service["command"].as_vec().unwrap().iter().map(|word| word.as_str().unwrap().to_owned());
            let name = name.as_str().unwrap();
            (name, Line::of(&format!("{file}, {name}"), &words.collect::<Vec<_>>()))
        })
        .collect();
    let mut ports = BTreeSet::new();
    let (mut managers, mut servers) = (0, 0);
    for (name, service) in services {
        let name = name.as_str().unwrap();
        let words: Vec<String> =
            service["command"].as_vec().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect();
        let line = Line::of(&format!("{file}, {name}"), &words);
        assert!(built.contains(&line.program), "{name}");
        line.check();
        // Whom it dials are services of this file.
        for (flag, value) in line.flags.iter().filter(|(flag, _)| flag.ends_with("_addrs")) {
            for address in value.split(',') {
                let (host, port) = address.rsplit_once(':').unwrap();
                assert!(names.contains(host), "{name}: {flag} {address}");
                // Whoever is dialled listens there, for this.
                let dialled = match flag.as_str() {
                    "--peer_addrs" => "peers",
                    "--manager_addrs" | "--server_addrs" => "clients",
                    flag => panic!("{name}: what is dialled by {flag}?"),
                };
                let listens = lines[host].ports()[dialled];
                assert_eq!(port, listens.to_string(), "{name}: {flag} {address}, {host} listens at {listens}");
                let is_manager = lines[host].program == MANAGER;
                let expected = flag == "--manager_addrs" || (flag == "--peer_addrs" && line.program == MANAGER);
                assert_eq!(is_manager, expected, "{name}: {flag} {address}");
            }
        }
        if line.program != MANAGER && line.program != SERVER {
            continue;
        }
        *(if line.program == MANAGER { &mut managers } else { &mut servers }) += 1;
        ports.extend(line.ports().into_values());
        let published = service["ports"][0].as_str().unwrap();
        assert!(published.ends_with(&format!(":{}", line.port("--http_listen"))), "{name}: {published}");
        let volume = service["volumes"][0].as_str().unwrap();
        let mounted = volume.split_once(':').unwrap().1;
        assert!(line.flags["--backer_path"].starts_with(mounted), "{name}: {volume}");
    }
    assert_eq!((managers, servers), (3, 3));
    assert_eq!(ports, exposed, "what the image exposes");
}

#[test]
fn kubernetes_manifests_fit_the_programs_and_each_other() {
    let (built, _) = image();
    for (file, program) in [("kubernetes/manager.yaml", MANAGER), ("kubernetes/partition-0.yaml", SERVER)] {
        let documents = yaml(file);
        let of_kind = |kind: &str| {
            let mut found = documents.iter().filter(|document| document["kind"].as_str() == Some(kind));
            let only = found.next().unwrap_or_else(|| panic!("{file}: no {kind}"));
            assert!(found.next().is_none(), "{file}: two of {kind}");
            only
        };
        let (service, budget, set) = (of_kind("Service"), of_kind("PodDisruptionBudget"), of_kind("StatefulSet"));
        let name = set["metadata"]["name"].as_str().unwrap();

        // They mean the same pods.
        let labels = &set["spec"]["template"]["metadata"]["labels"];
        for (what, selector) in [
            ("the set", &set["spec"]["selector"]["matchLabels"]),
            ("the service", &service["spec"]["selector"]),
            ("the budget", &budget["spec"]["selector"]["matchLabels"]),
        ] {
            assert_eq!(selector, labels, "{file}: {what}");
        }
        assert_eq!(set["spec"]["serviceName"], service["metadata"]["name"], "{file}");
        assert_eq!(service["spec"]["clusterIP"].as_str(), Some("None"), "{file}: pods have names of their own");
        assert_eq!(service["spec"]["publishNotReadyAddresses"].as_bool(), Some(true), "{file}");
        assert_eq!(set["spec"]["podManagementPolicy"].as_str(), Some("Parallel"), "{file}: all found the group");
        assert_eq!(budget["spec"]["maxUnavailable"].as_i64(), Some(1), "{file}");

        let container = &set["spec"]["template"]["spec"]["containers"][0];
        let script = container["command"][2].as_str().unwrap().replace("\\\n", " ");
        let exec = script.lines().find_map(|line| line.trim().strip_prefix("exec ")).unwrap();
        let words: Vec<String> = exec.split_whitespace().map(str::to_owned).collect();
        let line = Line::of(file, &words);
        assert_eq!(line.program, program);
        assert!(built.contains(program));
        line.check();

        // As many replicas as the script and the addresses say.
        let replicas = set["spec"]["replicas"].as_i64().unwrap();
        let variables = container["env"].as_vec().unwrap();
        let count = variables.iter().find(|variable| variable["name"].as_str() == Some("REPLICAS")).unwrap();
        assert_eq!(count["value"].as_str(), Some(replicas.to_string().as_str()), "{file}");
        assert!(variables.iter().any(|variable| variable["name"].as_str() == Some("REPLICA")), "{file}");
        assert!(script.contains(&format!("{name}-$other.{name}:{}", line.port("--p2p_listen"))), "{file}: peers");

        // Ports of the container and the service are those that the program listens on.
        let ports = line.ports();
        for (what, list, field) in
            [("container", &container["ports"], "containerPort"), ("service", &service["spec"]["ports"], "port")]
        {
            let named = list.as_vec().unwrap().iter();
            let named: BTreeMap<&str, i64> =
                named.map(|port| (port["name"].as_str().unwrap(), port[field].as_i64().unwrap())).collect();
            assert_eq!(named, ports, "{file}: {what}");
        }
        for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            let get = &container[probe]["httpGet"];
            assert_eq!((get["path"].as_str(), get["port"].as_str()), (Some(path), Some("http")), "{file}: {probe}");
            assert!(PATHS.contains(&path));
            // A replica that must first be asked may take a second for it, twice.
            assert!(container[probe]["timeoutSeconds"].as_i64().unwrap() >= 3, "{file}: {probe}");
        }
        let annotations = &set["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/port"].as_str(), Some(ports["http"].to_string().as_str()), "{file}");
        let mounted = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
        assert!(line.flags["--backer_path"].starts_with(&format!("{mounted}/")), "{file}: lost+found is in the way");
    }
    // The manager and the servers know each other by the same names.
    let (manager, partition) = (read("kubernetes/manager.yaml"), read("kubernetes/partition-0.yaml"));
    for replica in 0..3 {
        assert!(manager.contains(&format!("madkv-s0-{replica}.madkv-s0:3777")));
        assert!(partition.contains(&format!("madkv-m-{replica}.madkv-m:3666")));
    }
}
