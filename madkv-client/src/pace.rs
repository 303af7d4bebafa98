//! How fast the parts of each replica are, and which replica is a slow one.

use std::sync::Arc;

use madkv_proto::control::ControlRequest;
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::why::WhyRequest;
use smr_service::pace::{Finding, PaceReport, judge};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Client;
use crate::admin::ask;
use crate::limits::STATUS_TIMEOUT;

/// What one replica says of its pace.
#[derive(Clone, Debug)]
pub struct NodePace {
    /// Its group: `m`, `s0`, ...
    pub group: String,
    /// Its number in the group, by the order of the addresses.
    pub replica: u16,
    /// `host:port`.
    pub address: String,
    /// What it says, or why it says nothing: builds of earlier releases do not measure.
    pub pace: Result<PaceReport, String>,
}

/// The pace of a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterPace {
    /// All replicas: managers first, then by partition and replica.
    pub nodes: Vec<NodePace>,
}

impl ClusterPace {
    /// The slow replicas, each with its group.
    pub fn findings(&self) -> Vec<(&str, Finding)> {
        let nodes = &self.nodes[..];
        let groups = nodes.chunk_by(|one, next| one.group == next.group);
        let judged = groups.flat_map(|nodes| {
            let reports = nodes.iter().filter_map(|node| Some((node.replica, node.pace.as_ref().ok()?)));
            let findings = judge(&reports.collect::<Vec<_>>());
            findings.into_iter().map(|found| (nodes[0].group.as_str(), found))
        });
        judged.collect()
    }

    /// Whether any replica has said something.
    pub fn has_answers(&self) -> bool {
        self.nodes.iter().any(|node| node.pace.is_ok())
    }
}

impl Client {
    /// Asks every replica of the managers and of the store how fast its parts are; each has a second to answer. Without
    /// a map only the managers are known. Groups of other services do not know the question.
    pub async fn pace(&self) -> ClusterPace {
        let router = &self.shared.router;
        let routes = router.routes(Some(Instant::now() + STATUS_TIMEOUT)).await.ok();
        let mut groups = vec![Arc::clone(&router.managers)];
        if let Some(routes) = &routes {
            let partitions = routes.groups.iter().zip(&routes.map.partitions);
            groups.extend(partitions.filter(|(_, part)| part.is_store).map(|(group, _)| Arc::clone(group)));
        }
        let deadline = Instant::now() + STATUS_TIMEOUT;
        let mut tasks = JoinSet::new();
        for (place, group) in groups.iter().enumerate() {
            let is_manager = place == 0;
            let links = group.links();
            for (replica, link) in (0u16..).zip(links.iter()) {
                let (link, group) = (Arc::clone(link), group.name.clone());
                let question = if is_manager { ControlRequest::Pace.encode() } else { WhyRequest::Pace.encode() };
                tasks.spawn(async move {
                    let pace = match ask(&link, ClientRequest::Control(question), deadline).await {
                        Ok(ClientResponse::Answer(bytes)) => PaceReport::decode(&bytes),
                        Ok(ClientResponse::Refused(why)) => Err(why),
                        Ok(other) => Err(format!("{other:?}")),
                        Err(why) => Err(why),
                    };
                    let address = link.address().to_owned();
                    (place, NodePace { group, replica, address, pace })
                });
            }
        }
        let mut answers = tasks.join_all().await;
        answers.sort_by_key(|(place, node)| (*place, node.replica));
        ClusterPace { nodes: answers.into_iter().map(|(_, node)| node).collect() }
    }
}
