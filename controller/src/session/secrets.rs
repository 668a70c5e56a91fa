//! The secrets of an assignment, which are not the model's: the host keys of its instances and the authorities of SSH.

use std::collections::BTreeMap;

use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::instance::Assigned;
use dwell_core::session::AssignmentChange;
use dwell_core::ssh::SshTrust;
use dwell_core::workload::Ssh;

use crate::model::Model;
use crate::pki::{PkiError, SshAuthority};

/// When the instances of a change were made, which their host keys are made from.
pub(super) struct MadeAt(BTreeMap<InstanceName, Timestamp>);

impl MadeAt {
    /// Of the instances that get a host key. To be read together with the change.
    pub(super) fn of(model: &Model, change: &AssignmentChange) -> Self {
        let all: Vec<&Assigned> = match change {
            AssignmentChange::Snapshot(all) => all.instances.values().collect(),
            AssignmentChange::Delta(delta) => delta.changed.iter().collect(),
        };
        let with_key = all.into_iter().filter(|one| has_host_key(one));
        let made_at =
            with_key.filter_map(|one| Some((one.instance.clone(), model.made_at(&one.instance)?)));
        Self(made_at.collect())
    }
}

/// Puts the secrets in. Host keys are made from scratch, more than a hundred microseconds each: not to be done on
/// the thread that the model lives on.
///
/// # Errors
/// [`PkiError`] if a host key cannot be made.
pub(super) fn add(
    change: &mut AssignmentChange,
    made_at: &MadeAt,
    ssh: &SshAuthority,
) -> Result<(), PkiError> {
    let key = |one: &mut Assigned| {
        if let Some(&made_at) = made_at.0.get(&one.instance) {
            one.host_key = Some(ssh.host_key(&one.instance, one.address, made_at)?);
        }
        Ok::<_, PkiError>(())
    };
    match change {
        AssignmentChange::Snapshot(all) => {
            all.instances.values_mut().try_for_each(key)?;
            authorities(&mut all.ssh_trust, ssh);
        }
        AssignmentChange::Delta(delta) => {
            delta.changed.iter_mut().try_for_each(key)?;
            delta.ssh_trust.iter_mut().for_each(|trust| authorities(trust, ssh));
        }
    }
    Ok(())
}

fn authorities(trust: &mut SshTrust, ssh: &SshAuthority) {
    let mut users = ssh.user_authorities().into_iter();
    trust.user_authority = users.next().unwrap_or_default();
    trust.more_user_authorities = users.collect();
    trust.host_authority = ssh.host_authorities().into_iter().next().unwrap_or_default();
}

/// Whether dwell serves SSH for an instance.
fn has_host_key(assigned: &Assigned) -> bool {
    matches!(assigned.template.ssh, Ssh::Dwell { .. })
}
