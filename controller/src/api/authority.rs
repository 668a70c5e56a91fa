//! The authority that signs certificates: who lives by which, and its rotation.
//!
//! The [files](crate::pki::rotation) decide what counts, the model knows who has what: each node's and each context's issuer.

use std::sync::Arc;

use dwell_core::access::Issuer;
use dwell_core::clock::Timestamp;
use dwell_daemon::Lane;
use dwell_proto::v1;
use tonic::Status;

use super::Api;
use super::keys::USER_VALID_MAX;
use crate::access;
use crate::model::{Command, Context, Model, OldHolders, Subject};
use crate::pki::rotation::{self, RotationError};
use crate::pki::{Authority, SshAuthority};
use crate::status::into_status;

/// How many nodes and contexts an error names of each.
const NAMED_MAX: usize = 20;

impl Api {
    pub(super) async fn authority_now(&self) -> Result<v1::GetAuthorityResponse, Status> {
        let (old, trusted) = (self.old_holders().await?, self.authority.trusted());
        let authorities: Vec<v1::Authority> = trusted.views().collect();
        // The last that an earlier one may have certified is of the moment at which the newest was made.
        let until = authorities.last().filter(|newest| newest.number > Issuer::default().0);
        let ssh_until = until.map(|newest| Timestamp(newest.made_at_ms).after(USER_VALID_MAX));
        let ssh_until = ssh_until.filter(|until| *until > self.clock.wall());
        Ok(v1::GetAuthorityResponse {
            authorities,
            nodes: nodes(&old),
            contexts: contexts(&old),
            ssh_until_ms: ssh_until.map_or(0, |until| until.0),
        })
    }

    pub(super) async fn rotate(&self) -> Result<v1::RotateAuthorityResponse, Status> {
        let (by, now) = (access::acting(), self.clock.wall());
        let number =
            self.turn(move |authority, ssh| rotation::rotate(authority, ssh, &by, now)).await?;
        let message = format!(
            "the cluster has a new authority, number {number}, which signs from now on; both are trusted until `dwell ca \
             finish`"
        );
        self.note("authority-rotated", message).await;
        Ok(v1::RotateAuthorityResponse { number: number.0 })
    }

    pub(super) async fn finish(&self, force: bool) -> Result<v1::FinishRotationResponse, Status> {
        if !self.authority.trusted().is_rotating() {
            return Err(into_status(RotationError::None));
        }
        let old = self.old_holders().await?;
        if !force && !old.is_empty() {
            return Err(Status::failed_precondition(format!(
                "this would cut off {}. Wait until they have renewed, or see to it as `dwell ca status` says; --force cuts \
                 them off: each of these nodes has to join again, each of these people needs another context",
                named(&old)
            )));
        }
        let number = self.turn(rotation::finish).await?;
        let cut_off =
            if old.is_empty() { String::new() } else { format!("; cut off: {}", named(&old)) };
        let message = format!("authority {number} is the only one that is trusted{cut_off}");
        self.note("authority-retired", message).await;
        Ok(v1::FinishRotationResponse { nodes: nodes(&old), contexts: contexts(&old) })
    }

    /// Who lives by an earlier authority than the newest.
    async fn old_holders(&self) -> Result<OldHolders, Status> {
        let (newest, now) = (self.authority.trusted().newest_number(), self.clock.wall());
        Ok(self.read(move |model: &Model| model.old_holders(newest, now)).await?.0)
    }

    /// Changes the files, on a thread of its own: it waits for the disk.
    async fn turn(
        &self,
        change: impl FnOnce(&Authority, &SshAuthority) -> Result<Issuer, RotationError> + Send + 'static,
    ) -> Result<Issuer, Status> {
        let (authority, ssh) = (Arc::clone(&self.authority), Arc::clone(&self.ssh));
        let done = Lane::new("authority").run(move || Ok(change(&authority, &ssh))).await;
        done.map_err(|error| Status::internal(error.to_string()))?.map_err(into_status)
    }

    /// It is done, whether that can be written down or not.
    async fn note(&self, reason: &'static str, message: String) {
        tracing::warn!(
            reason,
            by = access::acting(),
            said = message,
            "the cluster's authority is another"
        );
        let note = Command::Note { subject: Subject::Cluster, reason, message };
        if let Err(status) = self.command(note).await {
            tracing::error!(%status, reason, "this is not among the events");
        }
    }
}

/// The first of them, for people.
fn named(old: &OldHolders) -> String {
    let list = |what: &str, names: Vec<String>| match names.len() {
        0 => None,
        count if count > NAMED_MAX => Some(format!(
            "{count} {what}s, {} among them",
            names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ")
        )),
        1 => Some(format!("{what} {}", names.join(", "))),
        _ => Some(format!("{what}s {}", names.join(", "))),
    };
    let nodes = old.nodes.iter().map(|node| node.name.to_string()).collect();
    let context = |one: &Arc<Context>| format!("{} ({})", one.name, one.id);
    let contexts = old.contexts.iter().map(context).collect();
    let all = [list("node", nodes), list("context", contexts)];
    all.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

fn nodes(old: &OldHolders) -> Vec<v1::OldNode> {
    let view = |node: &crate::model::OldNode| v1::OldNode {
        name: node.name.to_string(),
        attached: node.attached,
        issuer: node.issuer.0,
    };
    old.nodes.iter().map(view).collect()
}

fn contexts(old: &OldHolders) -> Vec<v1::OldContext> {
    let view = |context: &Arc<Context>| v1::OldContext {
        serial: context.id.to_string(),
        name: context.name.to_string(),
        expires_at_ms: context.expires_at.0,
        issuer: context.issuer.0,
    };
    old.contexts.iter().map(view).collect()
}
