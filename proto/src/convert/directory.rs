//! The directory of all instances.

use dwell_core::directory::{DirectoryChange, DirectoryInstance, DirectoryWorkload};
use dwell_core::id::{Incarnation, Revision};
use dwell_core::workload::ServicePort;

use super::{FromWireError, parse};
use crate::v1;

impl From<&DirectoryChange> for v1::DirectoryChange {
    fn from(change: &DirectoryChange) -> Self {
        let workloads = change.workloads.iter().map(|(name, workload)| v1::DirectoryWorkload {
            workload: name.to_string(),
            ports: workload.ports.iter().map(|&port| port.into()).collect(),
            labels: workload.labels.clone().into_iter().collect(),
        });
        let instances = change.instances.iter().map(|(name, instance)| v1::DirectoryInstance {
            instance: name.to_string(),
            address: instance.address.to_string(),
            ready: instance.ready,
        });
        Self {
            incarnation: change.incarnation.0,
            revision: change.revision.0,
            base_revision: change.base.unwrap_or_default().0,
            workloads: workloads.collect(),
            instances: instances.collect(),
            removed_workloads: change.removed_workloads.iter().map(ToString::to_string).collect(),
            removed_instances: change.removed_instances.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::DirectoryChange> for DirectoryChange {
    type Error = FromWireError;

    fn try_from(wire: v1::DirectoryChange) -> Result<Self, FromWireError> {
        let workloads = wire.workloads.into_iter().map(|wire| {
            let ports = wire.ports.into_iter().map(ServicePort::try_from);
            let workload = DirectoryWorkload {
                ports: ports.collect::<Result<_, _>>()?,
                labels: wire.labels.into_iter().collect(),
            };
            Ok((parse("directory.workload", &wire.workload)?, workload))
        });
        let instances = wire.instances.into_iter().map(|wire| {
            let instance = DirectoryInstance {
                address: parse("directory.address", &wire.address)?,
                ready: wire.ready,
            };
            Ok((parse("directory.instance", &wire.instance)?, instance))
        });
        let removed_workloads =
            wire.removed_workloads.iter().map(|name| parse("directory.removed_workloads", name));
        let removed_instances =
            wire.removed_instances.iter().map(|name| parse("directory.removed_instances", name));
        Ok(Self {
            incarnation: Incarnation(wire.incarnation),
            revision: Revision(wire.revision),
            base: (wire.base_revision != 0).then_some(Revision(wire.base_revision)),
            workloads: workloads.collect::<Result<_, FromWireError>>()?,
            instances: instances.collect::<Result<_, FromWireError>>()?,
            removed_workloads: removed_workloads.collect::<Result<_, _>>()?,
            removed_instances: removed_instances.collect::<Result<_, _>>()?,
        })
    }
}
