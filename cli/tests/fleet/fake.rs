//! A controller of a few lines, in this process, on a unix socket: it answers what a test gave it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use dwell_proto::v1::fleet_server::{Fleet, FleetServer};
use dwell_proto::v1::{self, connect_input, exec_input::Input, exec_output::Output};
use dwell_proto::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

#[path = "push.rs"]
mod push;
#[path = "service.rs"]
mod service;
#[path = "tunnel.rs"]
mod tunnel;

/// A public key.
pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG9i7+TH8H/fFYUlYAqtxvVZKEwOEfg6ylCIzdSk3wJm";

/// What a stream of changes does: changes, and how it ends; it stays open if it is not told to.
pub(crate) type Script = Vec<Result<v1::WatchResponse, Status>>;

/// What the fake knows and what it was asked.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) workloads: Vec<v1::Workload>,
    pub(crate) instances: Vec<v1::Instance>,
    pub(crate) nodes: Vec<v1::Node>,
    pub(crate) events: Vec<v1::Event>,
    pub(crate) revision: u64,
    /// Given instead of an answer.
    pub(crate) refusal: Option<Status>,
    /// One for each watch, in their order.
    pub(crate) watches: VecDeque<Script>,
    /// Everything asked for that changes something, and from where on watches were.
    pub(crate) asked: Vec<String>,
    /// What nodes say of their routes and of themselves.
    pub(crate) checks: Vec<v1::RouteCheck>,
    pub(crate) diagnoses: Vec<v1::NodeDiagnosis>,
    pub(crate) audits: Vec<v1::AuditAnswer>,
    pub(crate) status: v1::GetStatusResponse,
    pub(crate) key_sets: BTreeMap<String, Vec<String>>,
    /// By registry, who logs in and with what.
    pub(crate) logins: BTreeMap<String, (String, String)>,
    pub(crate) volumes: Vec<v1::Volume>,
    /// What nodes want of what is pushed to them.
    pub(crate) pushes: BTreeMap<String, v1::ImagesWanted>,
    /// What nodes say of their images.
    pub(crate) images: Vec<v1::NodeImages>,
    /// What there is from the first watch on.
    pub(crate) later: Option<(Vec<v1::Workload>, Vec<v1::Instance>)>,
}

/// The fake, running until it is dropped.
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    directory: tempfile::TempDir,
}

impl Fake {
    pub(crate) fn start(state: State) -> Self {
        // A path that has to be quoted wherever it is passed on.
        let directory = tempfile::Builder::new().prefix("it's %h ").tempdir().unwrap();
        let state = Arc::new(Mutex::new(state));
        let fake = Self { state: Arc::clone(&state), directory };
        let listener = UnixListener::bind(fake.socket()).unwrap();
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(FleetServer::new(Service(state)));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        fake
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("controller.sock")
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }
}

struct Service(Arc<Mutex<State>>);

impl Service {
    fn state(&self) -> Result<MutexGuard<'_, State>, Status> {
        let state = self.0.lock().unwrap();
        state.refusal.clone().map_or(Ok(state), Err)
    }

    fn asked(&self, what: String) -> Result<u64, Status> {
        let mut state = self.state()?;
        state.asked.push(what);
        Ok(state.revision)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

fn named(name: &str, wanted: &str) -> bool {
    wanted.is_empty() || name == wanted
}
