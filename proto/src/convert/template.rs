//! Templates: what an instance is.

use dwell_core::health::{HealthCheck, Probe};
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{
    Mount, MountSource, Protocol, Resources, RestartPolicy, ServicePort, Ssh, Template,
};

use super::{FromWireError, duration, parse, port, required};
use crate::v1;

impl From<&Template> for v1::Template {
    fn from(template: &Template) -> Self {
        Self {
            image: template.image.clone(),
            entrypoint: template.entrypoint.clone(),
            command: template.command.clone(),
            environment: template.environment.clone().into_iter().collect(),
            user: template.user.clone(),
            working_dir: template.working_dir.clone(),
            hostname: template.hostname.clone(),
            labels: template.labels.clone().into_iter().collect(),
            mounts: template.mounts.iter().map(Into::into).collect(),
            stop_signal: template.stop_signal.clone(),
            stop_grace_ms: Some(template.stop_grace.0),
            resources: Some((&template.resources).into()),
            restart: Some(template.restart.into()),
            healthcheck: template.healthcheck.as_ref().map(Into::into),
            expose: template.expose.iter().map(|&port| port.into()).collect(),
            ssh: Some((&template.ssh).into()),
        }
    }
}

impl TryFrom<v1::Template> for Template {
    type Error = FromWireError;

    fn try_from(wire: v1::Template) -> Result<Self, FromWireError> {
        let plain = Self::of_image(wire.image);
        Ok(Self {
            entrypoint: wire.entrypoint,
            command: wire.command,
            environment: wire.environment.into_iter().collect(),
            user: wire.user,
            working_dir: wire.working_dir,
            hostname: wire.hostname,
            labels: wire.labels.into_iter().collect(),
            mounts: wire.mounts.into_iter().map(Mount::try_from).collect::<Result<_, _>>()?,
            stop_signal: wire.stop_signal,
            stop_grace: match wire.stop_grace_ms {
                Some(value) => duration("template.stop_grace_ms", value)?,
                None => plain.stop_grace,
            },
            resources: wire.resources.map(Into::into).unwrap_or_default(),
            restart: wire.restart.map(Into::into).unwrap_or_default(),
            healthcheck: wire.healthcheck.map(HealthCheck::try_from).transpose()?,
            expose: wire.expose.into_iter().map(ServicePort::try_from).collect::<Result<_, _>>()?,
            ssh: wire.ssh.map(Into::into).unwrap_or_default(),
            ..plain
        })
    }
}

impl From<&Resources> for v1::Resources {
    fn from(resources: &Resources) -> Self {
        Self { cpu_millicores: resources.cpu.0, memory_bytes: resources.memory.0 }
    }
}

impl From<v1::Resources> for Resources {
    fn from(wire: v1::Resources) -> Self {
        Self { cpu: Millicores(wire.cpu_millicores), memory: Bytes(wire.memory_bytes) }
    }
}

impl From<RestartPolicy> for v1::RestartPolicy {
    fn from(policy: RestartPolicy) -> Self {
        use v1::restart_policy::Mode;
        let (mode, max_retries) = match policy {
            RestartPolicy::Always => (Mode::Always, None),
            RestartPolicy::OnFailure { max_retries } => (Mode::OnFailure, max_retries),
            RestartPolicy::Never => (Mode::Never, None),
        };
        Self { mode: mode.into(), max_retries }
    }
}

impl From<v1::RestartPolicy> for RestartPolicy {
    fn from(wire: v1::RestartPolicy) -> Self {
        use v1::restart_policy::Mode;
        match wire.mode() {
            Mode::Unspecified | Mode::Always => Self::Always,
            Mode::OnFailure => Self::OnFailure { max_retries: wire.max_retries },
            Mode::Never => Self::Never,
        }
    }
}

impl From<&Mount> for v1::Mount {
    fn from(mount: &Mount) -> Self {
        let source = match &mount.source {
            MountSource::Volume(name) => v1::mount::Source::Volume(name.to_string()),
            MountSource::Bind(path) => v1::mount::Source::Bind(path.clone()),
        };
        Self { source: Some(source), target: mount.target.clone(), read_only: mount.read_only }
    }
}

impl TryFrom<v1::Mount> for Mount {
    type Error = FromWireError;

    fn try_from(wire: v1::Mount) -> Result<Self, FromWireError> {
        let source = match required("template.mounts.source", wire.source)? {
            v1::mount::Source::Volume(name) => {
                MountSource::Volume(parse("template.mounts.volume", &name)?)
            }
            v1::mount::Source::Bind(path) => MountSource::Bind(path),
        };
        Ok(Self { source, target: wire.target, read_only: wire.read_only })
    }
}

impl From<&HealthCheck> for v1::HealthCheck {
    fn from(check: &HealthCheck) -> Self {
        use v1::health_check::Probe as Wire;
        let probe = match &check.probe {
            Probe::Tcp { port } => Wire::Tcp(v1::TcpProbe { port: u32::from(*port) }),
            Probe::Http { port, path } => {
                Wire::Http(v1::HttpProbe { port: u32::from(*port), path: path.clone() })
            }
            Probe::Exec { command } => Wire::Exec(v1::ExecProbe { command: command.clone() }),
        };
        Self {
            probe: Some(probe),
            interval_ms: check.interval.0,
            timeout_ms: check.timeout.0,
            retries: check.retries,
            start_period_ms: check.start_period.0,
        }
    }
}

impl TryFrom<v1::HealthCheck> for HealthCheck {
    type Error = FromWireError;

    /// Zero times and retries mean the defaults.
    fn try_from(wire: v1::HealthCheck) -> Result<Self, FromWireError> {
        use v1::health_check::Probe as Wire;
        let probe = match required("template.healthcheck.probe", wire.probe)? {
            Wire::Tcp(tcp) => Probe::Tcp { port: port("template.healthcheck.tcp.port", tcp.port)? },
            Wire::Http(http) => Probe::Http {
                port: port("template.healthcheck.http.port", http.port)?,
                path: http.path,
            },
            Wire::Exec(exec) => Probe::Exec { command: exec.command },
        };
        let plain = Self::new(probe);
        let or = |field, value, default: Millis| {
            if value == 0 { Ok(default) } else { duration(field, value) }
        };
        Ok(Self {
            interval: or("template.healthcheck.interval_ms", wire.interval_ms, plain.interval)?,
            timeout: or("template.healthcheck.timeout_ms", wire.timeout_ms, plain.timeout)?,
            retries: if wire.retries == 0 { plain.retries } else { wire.retries },
            start_period: duration("template.healthcheck.start_period_ms", wire.start_period_ms)?,
            ..plain
        })
    }
}

impl From<ServicePort> for v1::ServicePort {
    fn from(expose: ServicePort) -> Self {
        let protocol = match expose.protocol {
            Protocol::Tcp => v1::service_port::Protocol::Tcp,
            Protocol::Udp => v1::service_port::Protocol::Udp,
        };
        Self { port: u32::from(expose.port), protocol: protocol.into() }
    }
}

impl TryFrom<v1::ServicePort> for ServicePort {
    type Error = FromWireError;

    fn try_from(wire: v1::ServicePort) -> Result<Self, FromWireError> {
        let protocol = match wire.protocol() {
            v1::service_port::Protocol::Udp => Protocol::Udp,
            v1::service_port::Protocol::Unspecified | v1::service_port::Protocol::Tcp => {
                Protocol::Tcp
            }
        };
        Ok(Self { port: port("template.expose.port", wire.port)?, protocol })
    }
}

impl From<&Ssh> for v1::Ssh {
    fn from(ssh: &Ssh) -> Self {
        use v1::ssh::Mode;
        let (mode, authorized_keys) = match ssh {
            Ssh::Dwell { authorized_keys } => (Mode::Dwell, authorized_keys.clone()),
            Ssh::Image => (Mode::Image, Vec::new()),
            Ssh::Off => (Mode::Off, Vec::new()),
        };
        Self { mode: mode.into(), authorized_keys }
    }
}

impl From<v1::Ssh> for Ssh {
    fn from(wire: v1::Ssh) -> Self {
        match wire.mode() {
            v1::ssh::Mode::Image => Self::Image,
            v1::ssh::Mode::Off => Self::Off,
            v1::ssh::Mode::Unspecified | v1::ssh::Mode::Dwell => {
                Self::Dwell { authorized_keys: wire.authorized_keys }
            }
        }
    }
}
