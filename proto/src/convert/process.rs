//! How the processes of an instance are held.

use dwell_core::quantity::Bytes;
use dwell_core::workload::{Device, Init, Most, Process, Tmpfs, Ulimit};

use super::{FromWireError, parse};
use crate::v1;

impl From<&Process> for v1::Process {
    fn from(process: &Process) -> Self {
        let tmpfs = |one: &Tmpfs| v1::Tmpfs {
            target: one.target.clone(),
            size_bytes: one.size.map(|size| size.0),
            mode: one.mode,
        };
        let ulimit = |(name, limit): (&String, &Ulimit)| {
            (name.clone(), v1::Ulimit { soft: limit.soft.into(), hard: limit.hard.into() })
        };
        let hosts = process.extra_hosts.iter();
        let device = |device: &Device| v1::Device {
            source: device.source.clone(),
            target: device.target.clone(),
            permissions: device.permissions.clone(),
        };
        Self {
            init: init_to_wire(process.init).into(),
            read_only: process.read_only,
            tmpfs: process.tmpfs.iter().map(tmpfs).collect(),
            ulimits: process.ulimits.iter().map(ulimit).collect(),
            cap_drop: process.cap_drop.iter().cloned().collect(),
            group_add: process.group_add.clone(),
            extra_hosts: hosts.map(|(name, at)| (name.clone(), at.to_string())).collect(),
            sysctls: process.sysctls.clone().into_iter().collect(),
            cap_add: process.cap_add.iter().cloned().collect(),
            devices: process.devices.iter().map(device).collect(),
            dns_search: process.dns_search.clone(),
            dns_options: process.dns_options.clone(),
        }
    }
}

fn init_to_wire(init: Option<Init>) -> v1::Init {
    match init {
        None => v1::Init::Unspecified,
        Some(Init::Engine) => v1::Init::Engine,
        Some(Init::None) => v1::Init::None,
        Some(Init::Systemd) => v1::Init::Systemd,
    }
}

fn init_from_wire(wire: v1::Init) -> Option<Init> {
    match wire {
        v1::Init::Unspecified => None,
        v1::Init::Engine => Some(Init::Engine),
        v1::Init::None => Some(Init::None),
        v1::Init::Systemd => Some(Init::Systemd),
    }
}

impl TryFrom<v1::Process> for Process {
    type Error = FromWireError;

    fn try_from(wire: v1::Process) -> Result<Self, FromWireError> {
        let tmpfs = |one: v1::Tmpfs| Tmpfs {
            target: one.target,
            size: one.size_bytes.map(Bytes),
            mode: one.mode,
        };
        let most = |number: i64| {
            Most::try_from(number)
                .map_err(|error| FromWireError::new("template.process.ulimits", error.to_string()))
        };
        let ulimit = |(name, limit): (String, v1::Ulimit)| {
            Ok((name, Ulimit { soft: most(limit.soft)?, hard: most(limit.hard)? }))
        };
        let host =
            |(name, at): (String, String)| Ok((name, parse("template.process.extra_hosts", &at)?));
        Ok(Self {
            init: init_from_wire(wire.init()),
            read_only: wire.read_only,
            tmpfs: wire.tmpfs.into_iter().map(tmpfs).collect(),
            ulimits: wire.ulimits.into_iter().map(ulimit).collect::<Result<_, FromWireError>>()?,
            cap_drop: wire.cap_drop.into_iter().collect(),
            group_add: wire.group_add,
            extra_hosts: wire
                .extra_hosts
                .into_iter()
                .map(host)
                .collect::<Result<_, FromWireError>>()?,
            sysctls: wire.sysctls.into_iter().collect(),
            cap_add: wire.cap_add.into_iter().collect(),
            devices: wire
                .devices
                .into_iter()
                .map(|device| Device {
                    source: device.source,
                    target: device.target,
                    permissions: device.permissions,
                })
                .collect(),
            dns_search: wire.dns_search,
            dns_options: wire.dns_options,
        })
    }
}
