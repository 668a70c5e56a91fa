//! A model with one node on one stream, for the tests of what goes to it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::clock::{Clock, Timestamp};
use dwell_core::id::NodeName;
use dwell_core::net::ClusterRange;
use dwell_core::session::Hello;
use dwell_core::workload::{OnLost, OnMove, Placement, Template, UpdatePolicy, WorkloadSpec};
use tokio_util::sync::CancellationToken;

use crate::model::{Command, Join, Model, SessionId, Settings, TokenId};
use crate::owner::{Handle, Owner};
use crate::store::memory::MemoryStore;

/// The node's stream.
pub(super) const SESSION: SessionId = SessionId(1);

pub(super) fn node() -> NodeName {
    "h1".parse().unwrap()
}

struct Midnight;

impl Clock for Midnight {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// An owner that knows the node as attached.
pub(super) async fn start() -> Handle {
    let range = ClusterRange::new("10.80.0.0/16".parse().unwrap(), 24).unwrap();
    let model = Model::new(Settings::new(range));
    let (owner, handle) = Owner::new(model, MemoryStore::default(), Arc::new(Midnight));
    tokio::spawn(owner.run(CancellationToken::new()));
    join(&handle, node().as_str(), [192, 0, 2, 1].into()).await;
    let hello = Hello::of([192, 0, 2, 1].into());
    let attach = Command::AttachNode {
        node: node(),
        enrolment: String::new(),
        session: SESSION,
        hello: Box::new(hello),
    };
    handle.command(attach).await.unwrap();
    handle
}

/// A host becomes a node.
pub(super) async fn join(handle: &Handle, name: &str, address: Ipv4Addr) {
    let (id, digest) = (TokenId(name.to_owned()), [7; 32]);
    let mint = Command::MintToken { id: id.clone(), digest, expires_at: Timestamp(u64::MAX) };
    handle.command(mint).await.unwrap();
    let join = Join {
        token: id,
        digest,
        name: name.parse().unwrap(),
        address,
        enrolment: String::new(),
        routes_only: false,
        host_mark: None,
    };
    handle.command(Command::RedeemToken(join)).await.unwrap();
}

/// Has a workload without instances declared.
pub(super) async fn declare(handle: &Handle, name: &str) {
    let spec = WorkloadSpec {
        name: name.parse().unwrap(),
        replicas: 0,
        run: None,
        template: Template::of_image("debian"),
        addresses: Vec::new(),
        placement: Placement::default(),
        update: UpdatePolicy::default(),
        on_lost: OnLost::Keep,
        on_move: OnMove::default(),
        labels: [].into(),
        job: None,
    };
    handle
        .command(Command::ApplyWorkloads {
            specs: vec![spec],
            keep_replicas: BTreeSet::new(),
            dry_run: false,
            force: false,
            planned: Vec::new(),
            by: String::new(),
        })
        .await
        .unwrap();
}
