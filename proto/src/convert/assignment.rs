//! Assignments and changes to them. What is not right in one refuses all of it: half an assignment would stop the
//! other half of the instances.

use std::collections::BTreeMap;

use dwell_core::id::{Incarnation, InstanceName, Revision, Term, VolumeName};
use dwell_core::instance::Assigned;
use dwell_core::registry::RegistryLogins;
use dwell_core::session::{
    Assignment, AssignmentChange, AssignmentDelta, NetworkDelta, NodeNetwork,
};
use dwell_core::ssh::SshTrust;
use dwell_core::workload::Template;
use prost::bytes::Bytes;

use super::{FromWireError, parse, required};
use crate::v1;

impl From<&AssignmentChange> for v1::Assignment {
    fn from(change: &AssignmentChange) -> Self {
        match change {
            AssignmentChange::Snapshot(all) => all.into(),
            AssignmentChange::Delta(delta) => delta.into(),
        }
    }
}

impl v1::Assignment {
    /// The same as `from`, but each template once, however many instances have it.
    #[must_use]
    pub fn digested(change: &AssignmentChange) -> Self {
        let (wire, all): (Self, Vec<&Assigned>) = match change {
            AssignmentChange::Snapshot(all) => {
                let bare = Assignment { instances: BTreeMap::new(), ..all.clone() };
                ((&bare).into(), all.instances.values().collect())
            }
            AssignmentChange::Delta(delta) => {
                let bare = AssignmentDelta { changed: Vec::new(), ..delta.clone() };
                ((&bare).into(), delta.changed.iter().collect())
            }
        };
        let mut templates: BTreeMap<[u8; 32], &Template> = BTreeMap::new();
        let mut digest = Digester::default();
        let mut digest_fallback = Digester::default();
        let mut instances = Vec::with_capacity(all.len());
        for one in all {
            let template = digest.of(&one.template);
            templates.entry(template).or_insert(&one.template);
            let fallback = one.fallback.as_ref().map(|fallback| {
                let digest = digest_fallback.of(fallback);
                templates.entry(digest).or_insert(fallback);
                Bytes::copy_from_slice(&digest)
            });
            instances.push(v1::AssignedInstance {
                template_digest: Bytes::copy_from_slice(&template),
                fallback_digest: fallback.unwrap_or_default(),
                ..v1::AssignedInstance::without_templates(one)
            });
        }
        let templates = templates.into_iter().map(|(digest, template)| v1::DigestedTemplate {
            digest: Bytes::copy_from_slice(&digest),
            template: Some(template.into()),
        });
        Self { instances, templates: templates.collect(), ..wire }
    }

    /// Puts templates where their digests are. An instance whose template is missing is refused later; without its
    /// fallback it would be what nobody decided, so it is refused for that as well.
    fn put_templates_in(&mut self) {
        let templates: BTreeMap<Bytes, v1::Template> = std::mem::take(&mut self.templates)
            .into_iter()
            .filter_map(|one| Some((one.digest, one.template?)))
            .collect();
        for one in self.instances.iter_mut().filter(|one| one.template.is_none()) {
            one.template = templates.get(&one.template_digest).cloned();
            if !one.fallback_digest.is_empty() {
                one.fallback = templates.get(&one.fallback_digest).cloned();
                one.template.take_if(|_| one.fallback.is_none());
            }
        }
    }
}

/// Works out digests of templates; of several equal ones in a row, as those of one workload are, only once.
#[derive(Default)]
struct Digester<'a>(Option<(&'a Template, [u8; 32])>);

impl<'a> Digester<'a> {
    fn of(&mut self, template: &'a Template) -> [u8; 32] {
        match self.0 {
            Some((last, digest)) if last == template => digest,
            _ => {
                let digest = template.digest();
                self.0 = Some((template, digest));
                digest
            }
        }
    }
}

impl From<&Assignment> for v1::Assignment {
    fn from(all: &Assignment) -> Self {
        Self {
            incarnation: all.incarnation.0,
            term: all.term.0,
            revision: all.revision.0,
            base_revision: 0,
            instances: all.instances.values().map(Into::into).collect(),
            removed: Vec::new(),
            network: Some((&all.network).into()),
            network_delta: None,
            ssh_trust: Some((&all.ssh_trust).into()),
            volumes_to_delete: all.volumes_to_delete.iter().map(to_volume).collect(),
            volumes_to_delete_changed: false,
            templates: Vec::new(),
            durable_revision: all.durable.0,
            unconfirmed: all.unconfirmed,
            registries: Some((&all.registries).into()),
        }
    }
}

impl From<&AssignmentDelta> for v1::Assignment {
    fn from(delta: &AssignmentDelta) -> Self {
        let network_delta = Some(&delta.network_delta).filter(|changed| !changed.is_empty());
        Self {
            incarnation: delta.incarnation.0,
            term: delta.term.0,
            revision: delta.revision.0,
            base_revision: delta.base.0,
            instances: delta.changed.iter().map(Into::into).collect(),
            removed: delta.removed.iter().map(ToString::to_string).collect(),
            network: delta.network.as_ref().map(Into::into),
            network_delta: network_delta.map(Into::into),
            ssh_trust: delta.ssh_trust.as_ref().map(Into::into),
            volumes_to_delete: delta.volumes_to_delete.iter().flatten().map(to_volume).collect(),
            volumes_to_delete_changed: delta.volumes_to_delete.is_some(),
            templates: Vec::new(),
            durable_revision: delta.durable.0,
            unconfirmed: false,
            registries: delta.registries.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Assignment> for AssignmentChange {
    type Error = FromWireError;

    fn try_from(mut wire: v1::Assignment) -> Result<Self, FromWireError> {
        wire.put_templates_in();
        let (incarnation, term) = (Incarnation(wire.incarnation), Term(wire.term));
        let (revision, durable) = (Revision(wire.revision), Revision(wire.durable_revision));
        let network = wire.network.map(NodeNetwork::try_from).transpose()?;
        let ssh_trust = wire.ssh_trust.map(SshTrust::try_from).transpose()?;
        let registries = wire.registries.map(RegistryLogins::try_from).transpose()?;
        let instances = wire.instances.into_iter().map(Assigned::try_from);
        let volumes = wire.volumes_to_delete.iter().map(volume).collect::<Result<_, _>>()?;
        if wire.base_revision == 0 {
            let instances = instances
                .map(|one| one.map(|one| (one.instance.clone(), one)))
                .collect::<Result<BTreeMap<_, _>, _>>()?;
            return Ok(Self::Snapshot(Assignment {
                incarnation,
                term,
                revision,
                durable,
                unconfirmed: wire.unconfirmed,
                network: required("assignment.network", network)?,
                instances,
                ssh_trust: ssh_trust.unwrap_or_default(),
                volumes_to_delete: volumes,
                registries: registries.unwrap_or_default(),
            }));
        }
        let removed = wire.removed.iter().map(|name| parse("assignment.removed", name));
        Ok(Self::Delta(AssignmentDelta {
            incarnation,
            term,
            revision,
            base: Revision(wire.base_revision),
            durable,
            changed: instances.collect::<Result<_, _>>()?,
            removed: removed.collect::<Result<_, _>>()?,
            network,
            network_delta: wire
                .network_delta
                .map(NetworkDelta::try_from)
                .transpose()?
                .unwrap_or_default(),
            ssh_trust,
            volumes_to_delete: wire.volumes_to_delete_changed.then_some(volumes),
            registries,
        }))
    }
}

fn to_volume((instance, volume): &(InstanceName, VolumeName)) -> v1::VolumeToDelete {
    v1::VolumeToDelete { instance: instance.to_string(), volume: volume.to_string() }
}

fn volume(wire: &v1::VolumeToDelete) -> Result<(InstanceName, VolumeName), FromWireError> {
    let instance = parse("assignment.volumes_to_delete.instance", &wire.instance)?;
    Ok((instance, parse("assignment.volumes_to_delete.volume", &wire.volume)?))
}
