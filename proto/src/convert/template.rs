//! Templates: what an instance is.

use dwell_core::health::{HealthCheck, Probe};
use dwell_core::hook::{Hook, HookAction, Hooks};
use dwell_core::id::KeySetName;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{
    AllowRule, AllowSource, ImagePolicy, Machine, Mount, MountSource, OnImageChange, PortRange,
    Process, Protocol, Resources, RestartPolicy, ServicePort, Ssh, Template,
};

use super::{FromWireError, duration, parse, port, required};
use crate::v1;

impl From<&Template> for v1::Template {
    fn from(template: &Template) -> Self {
        Self {
            image: template.image.clone(),
            image_policy: v1::ImagePolicy::from(template.image_policy).into(),
            entrypoint: template.entrypoint.clone(),
            command: template.command.clone(),
            environment: template.environment.clone().into_iter().collect(),
            user: template.user.clone(),
            working_dir: template.working_dir.clone(),
            hostname: template.hostname.clone(),
            labels: template.labels.clone().into_iter().collect(),
            mounts: template.mounts.iter().map(Into::into).collect(),
            machine: template.machine.as_ref().map(Into::into),
            carry: template.carry.clone(),
            stdin: template.stdin,
            tty: template.tty,
            process: (!template.process.is_usual()).then(|| (&template.process).into()),
            stop_signal: template.stop_signal.clone(),
            stop_grace_ms: Some(template.stop_grace.0),
            shm_size_bytes: template.shm_size.map(|size| size.0),
            resources: Some((&template.resources).into()),
            pids: template.pids,
            restart: Some(template.restart.into()),
            healthcheck: template.healthcheck.as_ref().map(Into::into),
            readiness: template.readiness.as_ref().map(Into::into),
            hooks: (!template.hooks.is_none()).then(|| (&template.hooks).into()),
            expose: template.expose.iter().map(|&port| port.into()).collect(),
            ssh: Some((&template.ssh).into()),
            allow_from: template.allow_from.as_deref().map(allow_list),
            allow_to: template.allow_to.as_deref().map(allow_list),
        }
    }
}

impl TryFrom<v1::Template> for Template {
    type Error = FromWireError;

    fn try_from(wire: v1::Template) -> Result<Self, FromWireError> {
        let image_policy = wire.image_policy().into();
        let plain = Self::of_image(wire.image);
        Ok(Self {
            image_policy,
            entrypoint: wire.entrypoint,
            command: wire.command,
            environment: wire.environment.into_iter().collect(),
            user: wire.user,
            working_dir: wire.working_dir,
            hostname: wire.hostname,
            labels: wire.labels.into_iter().collect(),
            mounts: wire.mounts.into_iter().map(Mount::try_from).collect::<Result<_, _>>()?,
            machine: wire.machine.map(Machine::try_from).transpose()?,
            carry: wire.carry,
            stdin: wire.stdin,
            tty: wire.tty,
            process: wire.process.map(Process::try_from).transpose()?.unwrap_or_default(),
            stop_signal: wire.stop_signal,
            shm_size: wire.shm_size_bytes.map(Bytes),
            stop_grace: match wire.stop_grace_ms {
                Some(value) => duration("template.stop_grace_ms", value)?,
                None => plain.stop_grace,
            },
            resources: wire.resources.map(Into::into).unwrap_or_default(),
            pids: wire.pids,
            restart: wire.restart.map(Into::into).unwrap_or_default(),
            healthcheck: wire.healthcheck.map(HealthCheck::try_from).transpose()?,
            readiness: wire.readiness.map(HealthCheck::try_from).transpose()?,
            hooks: wire.hooks.map(Hooks::try_from).transpose()?.unwrap_or_default(),
            expose: wire.expose.into_iter().map(ServicePort::try_from).collect::<Result<_, _>>()?,
            ssh: wire.ssh.map(Ssh::try_from).transpose()?.unwrap_or_default(),
            allow_from: wire.allow_from.map(allow_rules).transpose()?,
            allow_to: wire.allow_to.map(allow_rules).transpose()?,
            ..plain
        })
    }
}

impl From<&Machine> for v1::Machine {
    fn from(machine: &Machine) -> Self {
        Self {
            volume: machine.volume.to_string(),
            rebuild_on_image_change: machine.on_image_change == OnImageChange::Rebuild,
        }
    }
}

impl TryFrom<v1::Machine> for Machine {
    type Error = FromWireError;

    fn try_from(wire: v1::Machine) -> Result<Self, FromWireError> {
        let on_image_change = match wire.rebuild_on_image_change {
            true => OnImageChange::Rebuild,
            false => OnImageChange::Keep,
        };
        Ok(Self { volume: parse("template.machine.volume", &wire.volume)?, on_image_change })
    }
}

impl From<ImagePolicy> for v1::ImagePolicy {
    fn from(policy: ImagePolicy) -> Self {
        match policy {
            ImagePolicy::Missing => Self::Missing,
            ImagePolicy::Newest => Self::Newest,
            ImagePolicy::Pinned => Self::Pinned,
        }
    }
}

impl From<v1::ImagePolicy> for ImagePolicy {
    fn from(wire: v1::ImagePolicy) -> Self {
        match wire {
            v1::ImagePolicy::Unspecified | v1::ImagePolicy::Missing => Self::Missing,
            v1::ImagePolicy::Newest => Self::Newest,
            v1::ImagePolicy::Pinned => Self::Pinned,
        }
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
            restart_ms: check.restart.map(|after| after.0),
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
            restart: wire
                .restart_ms
                .map(|after| duration("template.healthcheck.restart_ms", after))
                .transpose()?,
            ..plain
        })
    }
}

impl From<&Hooks> for v1::Hooks {
    fn from(hooks: &Hooks) -> Self {
        let hook = |hook: &Hook| v1::Hook {
            action: Some(match &hook.action {
                HookAction::Exec { command } => {
                    v1::hook::Action::Exec(v1::ExecProbe { command: command.clone() })
                }
                HookAction::Http { port, path } => {
                    let (port, path) = (u32::from(*port), path.clone());
                    v1::hook::Action::Http(v1::HttpProbe { port, path })
                }
            }),
            timeout_ms: hook.timeout.0,
        };
        Self {
            after_start: hooks.after_start.as_ref().map(hook),
            before_stop: hooks.before_stop.as_ref().map(hook),
        }
    }
}

impl TryFrom<v1::Hooks> for Hooks {
    type Error = FromWireError;

    fn try_from(wire: v1::Hooks) -> Result<Self, FromWireError> {
        let hook = |hook: v1::Hook| {
            let action = match required("template.hooks.action", hook.action)? {
                v1::hook::Action::Exec(exec) => HookAction::Exec { command: exec.command },
                v1::hook::Action::Http(http) => HookAction::Http {
                    port: port("template.hooks.http.port", http.port)?,
                    path: http.path,
                },
            };
            let timeout = match hook.timeout_ms {
                0 => Hook::default_timeout(),
                timeout_ms => duration("template.hooks.timeout_ms", timeout_ms)?,
            };
            Ok(Hook { action, timeout })
        };
        Ok(Self {
            after_start: wire.after_start.map(hook).transpose()?,
            before_stop: wire.before_stop.map(hook).transpose()?,
        })
    }
}

impl From<ServicePort> for v1::ServicePort {
    fn from(expose: ServicePort) -> Self {
        let protocol = v1::service_port::Protocol::from(expose.protocol);
        Self { port: u32::from(expose.port), protocol: protocol.into() }
    }
}

impl TryFrom<v1::ServicePort> for ServicePort {
    type Error = FromWireError;

    fn try_from(wire: v1::ServicePort) -> Result<Self, FromWireError> {
        let protocol = wire.protocol().into();
        Ok(Self { port: port("template.expose.port", wire.port)?, protocol })
    }
}

impl From<Protocol> for v1::service_port::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl From<v1::service_port::Protocol> for Protocol {
    fn from(wire: v1::service_port::Protocol) -> Self {
        match wire {
            v1::service_port::Protocol::Udp => Self::Udp,
            v1::service_port::Protocol::Unspecified | v1::service_port::Protocol::Tcp => Self::Tcp,
        }
    }
}

fn allow_list(rules: &[AllowRule]) -> v1::AllowList {
    v1::AllowList { rules: rules.iter().map(Into::into).collect() }
}

fn allow_rules(list: v1::AllowList) -> Result<Vec<AllowRule>, FromWireError> {
    list.rules.into_iter().map(AllowRule::try_from).collect()
}

impl From<&AllowRule> for v1::AllowRule {
    fn from(rule: &AllowRule) -> Self {
        use v1::allow_rule::Source;
        let source = match &rule.from {
            AllowSource::Any => Source::Any(true),
            AllowSource::SameWorkload => Source::SameWorkload(true),
            AllowSource::Workload(name) => Source::Workload(name.to_string()),
            AllowSource::Labels(labels) => {
                Source::Selector(v1::LabelSelector { labels: labels.clone().into_iter().collect() })
            }
            AllowSource::Cidr(range) => Source::Cidr(range.to_string()),
        };
        let ports = rule.ports.iter().map(|ports| v1::PortRange {
            first: u32::from(ports.first),
            last: u32::from(ports.last),
            protocol: v1::service_port::Protocol::from(ports.protocol).into(),
        });
        Self { source: Some(source), ports: ports.collect() }
    }
}

impl TryFrom<v1::AllowRule> for AllowRule {
    type Error = FromWireError;

    fn try_from(wire: v1::AllowRule) -> Result<Self, FromWireError> {
        use v1::allow_rule::Source;
        let from = match required("template.allow.source", wire.source)? {
            Source::Any(_) => AllowSource::Any,
            Source::SameWorkload(_) => AllowSource::SameWorkload,
            Source::Workload(name) => {
                AllowSource::Workload(parse("template.allow.workload", &name)?)
            }
            Source::Selector(selector) => {
                AllowSource::Labels(selector.labels.into_iter().collect())
            }
            Source::Cidr(range) => AllowSource::Cidr(parse("template.allow.cidr", &range)?),
        };
        let ports = wire.ports.into_iter().map(|ports| {
            Ok(PortRange {
                protocol: ports.protocol().into(),
                first: port("template.allow.ports.first", ports.first)?,
                last: port("template.allow.ports.last", ports.last)?,
            })
        });
        Ok(Self { from, ports: ports.collect::<Result<_, FromWireError>>()? })
    }
}

impl From<&Ssh> for v1::Ssh {
    fn from(ssh: &Ssh) -> Self {
        use v1::ssh::Mode;
        let names = |sets: &Vec<KeySetName>| v1::KeySetNames {
            names: sets.iter().map(ToString::to_string).collect(),
        };
        match ssh {
            Ssh::Dwell { authorized_keys, key_sets, users, login_as, account_keys } => Self {
                mode: Mode::Dwell.into(),
                authorized_keys: authorized_keys.clone(),
                key_sets: key_sets.as_ref().map(names),
                users: users.clone().map(|names| v1::LoginNames { names }),
                login_as: login_as.clone().unwrap_or_default(),
                account_keys: *account_keys,
            },
            Ssh::Image => Self { mode: Mode::Image.into(), ..Self::default() },
            Ssh::Off => Self { mode: Mode::Off.into(), ..Self::default() },
        }
    }
}

impl TryFrom<v1::Ssh> for Ssh {
    type Error = FromWireError;

    fn try_from(wire: v1::Ssh) -> Result<Self, FromWireError> {
        let names = |sets: v1::KeySetNames| {
            sets.names.iter().map(|name| parse("template.ssh.key_sets", name)).collect()
        };
        Ok(match wire.mode() {
            v1::ssh::Mode::Image => Self::Image,
            v1::ssh::Mode::Off => Self::Off,
            v1::ssh::Mode::Unspecified | v1::ssh::Mode::Dwell => Self::Dwell {
                authorized_keys: wire.authorized_keys,
                key_sets: wire.key_sets.map(names).transpose()?,
                users: wire.users.map(|users| users.names),
                login_as: Some(wire.login_as).filter(|name| !name.is_empty()),
                account_keys: wire.account_keys,
            },
        })
    }
}
