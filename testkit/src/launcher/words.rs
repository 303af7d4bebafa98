//! The launcher's own words at the prompt: what is done to the processes that it started.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use madkv_client::cli::host::{Host, HostWord};
use madkv_client::{Client, Options};

use crate::cluster::{Cluster, Node, Origin, Port, Shape};
use crate::proxy::Rules;
use crate::wiring::{Network, Way};

/// The words, in the order of `help`.
const WORDS: [HostWord; 8] = [
    HostWord {
        word: "kill",
        usage: "kill <node>...            kill -9 a process of this cluster; a node is m.0, s0.1, ...",
        about: "It keeps its directory; restart starts it again.",
    },
    HostWord {
        word: "pause",
        usage: "pause <node>...           let a process hang (SIGSTOP), until resume",
        about: "Its connections stay open, and nothing comes from it.",
    },
    HostWord {
        word: "resume",
        usage: "resume <node>...          let a paused process go on (SIGCONT)",
        about: "It finds out itself what it has missed.",
    },
    HostWord {
        word: "restart",
        usage: "restart <node>...         start a process again, with its directory; one that runs is killed first",
        about: "With the arguments that it was first started with.",
    },
    HostWord {
        word: "cut",
        usage: "cut <node> [<node>]       cut a node off from all others, or from one; nothing passes until heal",
        about: "Between nodes only, in both directions, without a word to either: clients still reach both.",
    },
    HostWord {
        word: "heal",
        usage: "heal [<node> [<node>]]    let everything pass again, or what concerns these nodes",
        about: "What was held back arrives now, as after an outage of a network.",
    },
    HostWord {
        word: "wipe",
        usage: "wipe <node>...            remove the directory of a process that does not run",
        about: "After restart it is a newcomer, which its group takes back with readmit.",
    },
    HostWord {
        word: "grow",
        usage: "grow                      add a partition to this cluster, and start its servers",
        about: "It has no slots; move-slots gives it some. Nothing of it can be cut \
            before the next start of the cluster.",
    },
];

/// How long the managers may take to add a partition.
const GROW_TIMEOUT: Duration = Duration::from_secs(20);

/// What a launcher's words work on.
pub(super) struct Words {
    shape: Mutex<Shape>,
    cluster: Arc<Mutex<Option<Cluster>>>,
    /// Without one nothing can be cut.
    network: Option<Network>,
    paused: Mutex<BTreeSet<Node>>,
}

impl Words {
    pub(super) fn new(cluster: &Arc<Mutex<Option<Cluster>>>, shape: Shape, network: Option<Network>) -> Words {
        Words { shape: Mutex::new(shape), cluster: Arc::clone(cluster), network, paused: Mutex::default() }
    }

    fn shape(&self) -> Shape {
        *self.shape.lock()
    }

    fn node(&self, name: &str) -> Result<Node, String> {
        let named = self.shape().nodes().find(|node| node.to_string() == name);
        named.ok_or_else(|| {
            let Shape { server_rf, manager_rf, partitions } = self.shape();
            let (manager, partition, replica) = (manager_rf - 1, partitions - 1, server_rf - 1);
            format!("no node {name}; there are m.0 to m.{manager}, and s0.0 to s{partition}.{replica}")
        })
    }

    /// All or none: what is wrong with one name is said before anything is done.
    fn nodes(&self, names: &[&str]) -> Result<Vec<Node>, String> {
        if names.is_empty() {
            return Err("which node? for example s0.1".to_owned());
        }
        names.iter().map(|name| self.node(name)).collect()
    }

    fn with_cluster<T>(&self, act: impl FnOnce(&mut Cluster) -> Result<T, String>) -> Result<T, String> {
        let mut cluster = self.cluster.lock();
        act(cluster.as_mut().ok_or("the cluster has ended")?)
    }

    fn paused(&self) -> MutexGuard<'_, BTreeSet<Node>> {
        self.paused.lock()
    }

    /// Does something to each of some nodes, if `refusal` has no objection to any of them: all or none. What fails
    /// nevertheless says what was done before it.
    fn each(
        &self,
        names: &[&str],
        refusal: impl Fn(&Words, Node) -> Option<String>,
        act: impl Fn(&Words, Node) -> Result<String, String>,
    ) -> Result<String, String> {
        let mut nodes = self.nodes(names)?;
        let mut seen = BTreeSet::new();
        nodes.retain(|&node| seen.insert(node));
        if let Some(why) = nodes.iter().find_map(|&node| refusal(self, node)) {
            return Err(if nodes.len() == 1 { why } else { format!("{why}; nothing was done") });
        }
        let mut done = Vec::new();
        for node in nodes {
            match act(self, node) {
                Ok(text) => done.push(text),
                Err(why) if done.is_empty() => return Err(why),
                Err(why) => return Err(format!("{why}; before that: {}", done.join(", "))),
            }
        }
        Ok(done.into_iter().map(|text| text + "\n").collect())
    }

    fn runs(&self, node: Node) -> bool {
        self.with_cluster(|cluster| Ok(cluster.process(node).is_running())).unwrap_or(false)
    }

    fn not_running(&self, node: Node) -> Option<String> {
        (!self.runs(node)).then(|| format!("{node} does not run"))
    }

    fn not_to_pause(&self, node: Node) -> Option<String> {
        if self.paused().contains(&node) { Some(format!("{node} is paused already")) } else { self.not_running(node) }
    }

    fn not_paused(&self, node: Node) -> Option<String> {
        (!self.paused().contains(&node)).then(|| format!("{node} is not paused"))
    }

    fn not_to_wipe(&self, node: Node) -> Option<String> {
        if self.runs(node) {
            return Some(format!("{node} runs; kill it first"));
        }
        let directory = self.with_cluster(|cluster| Ok(cluster.backer_path(node)));
        directory.is_ok_and(|directory| !directory.exists()).then(|| format!("{node} has no data"))
    }

    fn kill(&self, node: Node) -> Result<String, String> {
        self.with_cluster(|cluster| {
            cluster.process(node).kill();
            Ok(())
        })?;
        self.paused().remove(&node);
        Ok(format!("{node} killed"))
    }

    fn pause(&self, node: Node) -> Result<String, String> {
        self.with_cluster(|cluster| {
            cluster.process(node).freeze();
            Ok(())
        })?;
        self.paused().insert(node);
        Ok(format!("{node} paused"))
    }

    fn resume(&self, node: Node) -> Result<String, String> {
        self.paused().remove(&node);
        self.with_cluster(|cluster| {
            cluster.process(node).thaw();
            Ok(format!("{node} goes on"))
        })
    }

    fn restart(&self, node: Node) -> Result<String, String> {
        self.paused().remove(&node);
        self.with_cluster(|cluster| {
            let process = cluster.process(node);
            process.kill();
            process.start().map_err(|error| format!("{node} cannot be started: {error}"))?;
            Ok(format!("{node} started"))
        })
    }

    fn wipe(&self, node: Node) -> Result<String, String> {
        self.with_cluster(|cluster| {
            let directory = cluster.backer_path(node);
            match fs::remove_dir_all(&directory) {
                Ok(()) => Ok(format!("{node} has no data any more")),
                Err(error) => Err(format!("{}: {error}", directory.display())),
            }
        })
    }

    /// The managers are asked first: before they know of the partition its servers could not start.
    fn grow(&self, names: &[&str]) -> Result<String, String> {
        if !names.is_empty() {
            return Err("grow takes no words".to_owned());
        }
        self.with_cluster(|cluster| {
            let servers = cluster.next_partition().ok_or("there are no ports for another partition")?;
            add_partition(&cluster.manager_addresses(), servers)?;
            let group = cluster.add_partition();
            let layout = cluster.layout();
            *self.shape.lock() = layout.shape;
            super::remember(&layout, cluster.directory()).map_err(|error| error.to_string())?;
            for node in cluster.nodes_of(group) {
                cluster.process(node).start().map_err(|error| format!("{node} cannot be started: {error}"))?;
            }
            Ok(format!("s{} starts; it has no slots yet\n", layout.shape.partitions - 1))
        })
    }

    fn cut(&self, names: &[&str]) -> Result<String, String> {
        let nodes = self.nodes(names)?;
        let count = self.set(&nodes, Rules::silent())?;
        match nodes[..] {
            [one, other] if count == 0 => Err(format!("{one} and {other} do not talk to each other")),
            [one, other] => Ok(format!("{one} and {other} are cut off from each other\n")),
            _ => Ok(format!("{} is cut off from all other nodes\n", nodes[0])),
        }
    }

    fn heal(&self, names: &[&str]) -> Result<String, String> {
        if names.is_empty() {
            self.network()?.heal();
            return Ok("everything passes\n".to_owned());
        }
        self.set(&self.nodes(names)?, Rules::default())?;
        Ok(format!("everything passes for {}\n", names.join(" and ")))
    }

    /// How this many ways behave that are between a node and all others, or between two nodes.
    fn set(&self, nodes: &[Node], rules: Rules) -> Result<usize, String> {
        let network = self.network()?;
        let concerns = |way: Way| {
            let (Origin::Node(from), Port::Api(to) | Port::Peers(to)) = (way.from, way.to) else { return false };
            match nodes {
                [one] => from == *one || to == *one,
                [one, other] => (from, to) == (*one, *other) || (from, to) == (*other, *one),
                _ => false,
            }
        };
        if !(1..=2).contains(&nodes.len()) {
            return Err("one node, or two".to_owned());
        }
        let ways: Vec<Way> = network.ways().filter(|&way| concerns(way)).collect();
        ways.iter().for_each(|&way| network.set(way, rules));
        Ok(ways.len())
    }

    fn network(&self) -> Result<&Network, String> {
        self.network.as_ref().ok_or_else(|| {
            "these processes dial each other directly, so nothing can be cut (--direct, or too many processes)"
                .to_owned()
        })
    }

    /// Nodes that a word can be said about now.
    fn likely(&self, word: &str) -> Vec<Node> {
        let nodes = self.shape().nodes();
        let running = |node: Node| self.runs(node);
        match word {
            "kill" => nodes.filter(|&node| running(node)).collect(),
            "pause" => nodes.filter(|&node| running(node) && !self.paused().contains(&node)).collect(),
            "resume" => self.paused().iter().copied().collect(),
            "wipe" => nodes.filter(|&node| !running(node)).collect(),
            _ => nodes.collect(),
        }
    }
}

/// Asks the managers, on a thread of its own: this one belongs to the client's runtime.
fn add_partition(managers: &str, servers: Vec<String>) -> Result<(), String> {
    let managers = managers.split(',').map(str::to_owned).collect();
    let asked = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let timeout = Some(GROW_TIMEOUT);
        // A client wants to be made where it runs.
        let added = async {
            let client = Client::connect(Options { managers, timeout, ..Options::default() });
            client.add_partition(&servers).await
        };
        runtime.block_on(added).map_err(|error| error.to_string())
    });
    asked.join().unwrap_or_else(|_| Err("the thread that asks the managers has panicked".to_owned()))
}

impl Host for Words {
    fn words(&self) -> &[HostWord] {
        &WORDS
    }

    fn candidates(&self, before: &[&str]) -> Vec<String> {
        let Some((word, said)) = before.split_first() else { return Vec::new() };
        if matches!(*word, "cut" | "heal") && said.len() == 2 {
            return Vec::new();
        }
        if *word == "grow" {
            return Vec::new();
        }
        let names = self.likely(word).into_iter().map(|node| node.to_string());
        names.filter(|name| !said.contains(&name.as_str())).collect()
    }

    fn execute(&self, words: &[&str]) -> Result<String, String> {
        let Some((word, names)) = words.split_first() else { return Err("no word".to_owned()) };
        match *word {
            "kill" => self.each(names, Words::not_running, Words::kill),
            "pause" => self.each(names, Words::not_to_pause, Words::pause),
            "resume" => self.each(names, Words::not_paused, Words::resume),
            "restart" => self.each(names, |_, _| None, Words::restart),
            "wipe" => self.each(names, Words::not_to_wipe, Words::wipe),
            "cut" => self.cut(names),
            "heal" => self.heal(names),
            "grow" => self.grow(names),
            other => Err(format!("{other} is no word of the launcher")),
        }
    }
}
