//! Audits of the whole fleet: every node compares its own layers, and the model is compared with what they hold.
//!
//! ```text
//!   ask all nodes ─▶ model.audit ─┬─ nothing ──────────────────────────────▶ answers
//!                                 └─ something ─ pause ─ ask again ─ audit ─▶ what was found both times ─▶ answers
//! ```
//!
//! Nodes are asked so many at a time, each for a bounded time; one that does not answer is a finding itself.

use std::time::Duration;

use dwell_core::access::Role;
use dwell_core::audit::{Finding, Kind, Layer, NodeAudit, Remedy, Statement};
use dwell_core::id::NodeName;
use dwell_core::instance::{MESSAGE_MAX, sanitize};
use dwell_proto::v1;
use dwell_proto::v1::open_tunnel::Purpose;
use dwell_proto::v1::tunnel_up::Message;
use futures_util::{StreamExt, stream};
use tokio::time::sleep;
use tonic::Status;

use super::diagnose::{ASKED_MAX, Answer, ask};
use super::{Api, ServerStream};
use crate::access;
use crate::model::{Answers, Model, NodeView};
use crate::tunnel::Tunnels;

/// How long a node may take to audit itself.
const AUDIT_TIME: Duration = Duration::from_secs(25);
/// The same, with repairs.
const REPAIR_TIME: Duration = Duration::from_secs(75);
/// How long what is found is given to go away by itself.
const SETTLE: Duration = Duration::from_secs(2);

impl Api {
    pub(super) async fn open_audit(
        &self,
        request: &v1::AuditRequest,
    ) -> Result<ServerStream<v1::AuditAnswer>, Status> {
        if request.repair {
            access::require(Role::Admin, "a repair")?;
        }
        let (nodes, _) = self.read(Model::nodes).await?;
        let (answers, silent) = self.ask_nodes(nodes.clone(), request.repair).await;
        let mut own = self.audit_model(&answers).await?;
        if !own.is_empty() {
            sleep(SETTLE).await;
            let heard = nodes.into_iter().filter(|view| answers.contains_key(&view.node.name));
            let (again, _) = self.ask_nodes(heard.collect(), false).await;
            let again = self.audit_model(&again).await?;
            own.retain(|finding| again.iter().any(|other| finding.is_about_the_same(other)));
        }
        let silent = silent.iter().map(|one| answer(one.node.as_ref(), std::slice::from_ref(one)));
        let heard = answers.iter().map(|(node, audit)| answer(Some(node), &audit.findings));
        let all: Vec<_> = silent.chain(heard).chain([answer(None, &own)]).collect();
        Ok(Box::pin(stream::iter(all.into_iter().map(Ok))))
    }

    async fn audit_model(&self, answers: &Answers) -> Result<Vec<Finding>, Status> {
        let answers = answers.clone();
        Ok(self.read(move |model: &Model| model.audit(&answers)).await?.0)
    }

    /// What each node answers, and the findings of those that do not.
    async fn ask_nodes(&self, nodes: Vec<NodeView>, repair: bool) -> (Answers, Vec<Finding>) {
        let tunnels = self.tunnels.clone();
        let asking = stream::iter(nodes).map(move |view| audit(tunnels.clone(), view, repair));
        let mut asked = asking.buffer_unordered(ASKED_MAX);
        let (mut answers, mut silent) = (Answers::new(), Vec::new());
        while let Some((node, answer)) = asked.next().await {
            match answer {
                Ok(mut audit) => {
                    // A node speaks for itself.
                    audit.findings.iter_mut().for_each(|finding| finding.node = Some(node.clone()));
                    answers.insert(node, audit);
                }
                Err(problem) => silent.push(silence(node, &problem)),
            }
        }
        silent.sort_by(|a, b| a.node.cmp(&b.node));
        (answers, silent)
    }
}

async fn audit(
    tunnels: Tunnels,
    view: NodeView,
    repair: bool,
) -> (NodeName, Result<NodeAudit, String>) {
    let limit = if repair { REPAIR_TIME } else { AUDIT_TIME };
    let purpose = Purpose::Audit(v1::AuditRequest { repair });
    let answer = match ask(&tunnels, &view, purpose, limit).await {
        Ok(Answer { message: Message::Audit(audit), .. }) => NodeAudit::try_from(audit)
            .map_err(|error| format!("its answer makes no sense: {error}")),
        Ok(_) => Err("it answered something else; is its agent of another version?".to_owned()),
        Err(problem) => Err(problem),
    };
    (view.node.name.clone(), answer)
}

fn silence(node: NodeName, problem: &str) -> Finding {
    let claims = [
        Statement { by: Layer::Controller, says: "it is a node of this fleet".to_owned() },
        Statement { by: Layer::Agent, says: sanitize(problem, MESSAGE_MAX) },
    ];
    let next = "`dwell node ls` says what is known of it; nothing on it was compared".to_owned();
    Finding {
        kind: Kind::NodeSilent,
        subject: format!("node {node}"),
        node: Some(node),
        claims,
        remedy: Remedy::Person(next),
    }
}

fn answer(node: Option<&NodeName>, findings: &[Finding]) -> v1::AuditAnswer {
    v1::AuditAnswer {
        node: node.map(ToString::to_string).unwrap_or_default(),
        findings: findings.iter().map(Into::into).collect(),
    }
}
