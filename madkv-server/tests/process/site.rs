//! Where a server under test listens, and the manager that it registers with.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use madkv_proto::command::{Command, Query, decode_found, decode_value};
use madkv_proto::control::{ControlReply, ControlRequest};
use madkv_proto::frames::{ClientRequest, ClientResponse, Registration, Service};
use madkv_proto::group_service::GroupService;
use madkv_proto::map::ClusterMap;
use smr::id::{ClientId, ClusterId};
use smr::replica::ReplyTo;
use smr::status::ReplicaStatus;
use smr_service::listener::{Backend, Listener, ListenerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::support::{Process, TIMEOUT, ask, dial, eventually, free_address};

pub(crate) const SERVICE: Service = Service::Server { partition: 0 };
pub(crate) const CLUSTER: ClusterId = ClusterId(31);
/// The contract: an orderly end takes at most this long.
pub(crate) const ORDERLY_END: Duration = TIMEOUT;

/// Gives every registration the same answer, and remembers it.
pub(crate) struct FakeManager {
    pub(crate) answer: ClientResponse,
    /// Of which services its groups are; `None` if it does not know the question.
    pub(crate) services: Option<Vec<GroupService>>,
    pub(crate) heard: Mutex<Vec<Registration>>,
}

impl Backend for FakeManager {
    type Map = ClusterMap;

    fn service(&self) -> Service {
        Service::Manager
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(CLUSTER)
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn ask(&self, ask: ClientRequest, _epoch: u64, _reply: ReplyTo) -> Option<ClientResponse> {
        match ask {
            ClientRequest::Register(registration) => {
                self.heard.lock().unwrap().push(registration);
                Some(self.answer.clone())
            }
            // A replica that has just heard that its replica is taken asks for nothing of the kind.
            ClientRequest::RecordGenesis(_) => {
                assert!(
                    !matches!(self.answer, ClientResponse::Occupied { .. }),
                    "an excluded replica would found a group"
                );
                Some(ClientResponse::GenesisRecorded)
            }
            ClientRequest::Control(request) if request == ControlRequest::Services.encode() => {
                Some(match self.services.clone() {
                    Some(services) => ClientResponse::Answer(ControlReply::Services(services).encode()),
                    None => ClientResponse::Refused("not known".to_owned()),
                })
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) struct Manager {
    pub(crate) backend: Arc<FakeManager>,
    pub(crate) _listener: Listener<FakeManager>,
}

impl Manager {
    pub(crate) fn start(address: &str, answer: ClientResponse) -> Manager {
        Manager::start_with(address, answer, None)
    }

    /// One whose groups are of these services.
    pub(crate) fn start_with(address: &str, answer: ClientResponse, services: Option<Vec<GroupService>>) -> Manager {
        let backend = Arc::new(FakeManager { answer, services, heard: Mutex::default() });
        let listener = std::net::TcpListener::bind(address).unwrap();
        let listener =
            Listener::open(&Handle::current(), listener, Arc::clone(&backend), ListenerLimits::default()).unwrap();
        Manager { backend, _listener: listener }
    }

    pub(crate) fn heard(&self) -> Vec<Registration> {
        self.backend.heard.lock().unwrap().clone()
    }
}

pub(crate) fn map() -> ClusterMap {
    // The address says nothing about where a server listens; it is for clients only.
    ClusterMap::deal(CLUSTER, 1, &["127.0.0.1:3777".into()]).unwrap()
}

pub(crate) fn registered() -> ClientResponse {
    ClientResponse::Registered(Box::new(map()))
}

/// Where a server under test listens, and for whom.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) api: String,
    pub(crate) p2p: String,
    pub(crate) manager: String,
}

impl Site {
    pub(crate) fn new() -> Site {
        Site {
            directory: tempfile::tempdir().unwrap(),
            api: free_address(),
            p2p: free_address(),
            manager: free_address(),
        }
    }

    pub(crate) fn backer(&self) -> std::path::PathBuf {
        self.directory.path().join("backer.s0.0")
    }

    pub(crate) fn line(&self) -> Vec<String> {
        self.line_in_group("0", "none")
    }

    pub(crate) fn line_in_group(&self, replica: &str, peers: &str) -> Vec<String> {
        let backer = self.backer().to_str().unwrap().to_owned();
        let mut line = vec![env!("CARGO_BIN_EXE_madkv-server").to_owned(), "--allow_unsynced".to_owned()];
        let flags = [
            ("--partition_id", "0"),
            ("--replica_id", replica),
            ("--manager_addrs", &self.manager),
            ("--api_listen", &self.api),
            ("--p2p_listen", &self.p2p),
            ("--peer_addrs", peers),
            ("--backer_path", &backer),
        ];
        line.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]));
        line
    }

    pub(crate) fn start(&self) -> Process {
        Process::start(&self.line())
    }

    /// The answer, also if it is none that helps.
    pub(crate) async fn ask_once(&self, question: ClientRequest) -> ClientResponse {
        dial(&self.api, SERVICE).await.ask(question).await.unwrap()
    }

    pub(crate) async fn status(&self) -> Box<ReplicaStatus> {
        match ask(&self.api, SERVICE, ClientRequest::Status).await {
            ClientResponse::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn open_session(&self) -> ClientId {
        match ask(&self.api, SERVICE, ClientRequest::OpenSession).await {
            ClientResponse::SessionOpened(client) => client,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn put(&self, client: ClientId, number: u64, key: &[u8], value: &[u8]) -> bool {
        let command = Command::Put { key, value }.encode();
        match ask(&self.api, SERVICE, ClientRequest::Write { client, number, lowest_unanswered: number, command }).await
        {
            ClientResponse::Answer(answer) => decode_found(&answer).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn get(&self, key: &[u8]) -> Option<Bytes> {
        match ask(&self.api, SERVICE, ClientRequest::Read { query: Query::Get { key }.encode() }).await {
            ClientResponse::Answer(answer) => decode_value(answer).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// A page of a process, once it has the code.
pub(crate) async fn page(address: &str, path: &str, code: u16) -> String {
    eventually("a page", || async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        text.starts_with(&format!("HTTP/1.1 {code} ")).then_some(text)
    })
    .await
}
