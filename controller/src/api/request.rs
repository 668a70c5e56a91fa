//! From requests to commands: names, bounds and durations. What is wrong is INVALID_ARGUMENT, before the
//! model is asked.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use dwell_core::clock::{Timestamp, millis};
use dwell_core::id::{InstanceName, VersionNumber};
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{Ssh, WorkloadSpec};
use dwell_proto::v1;
use tonic::Status;

use super::{Api, keys};
use crate::model::{
    BlockChange, Command, MoveHow, NAMED_MAX, NodeChange, OwnSize, OwnSizeChange, REBOOT_MAX,
    RebootHow, RebootPlan, Size, Target, WORKLOADS_MAX,
};
use crate::status::into_status;

/// How long a node may take to be drained for its reboot, unless that is said.
const DRAIN_DEFAULT: Duration = Duration::from_secs(3600);
/// How long a node may take to come back after its reboot, unless that is said.
const BACK_DEFAULT: Duration = Duration::from_secs(15 * 60);
/// The longest time that it may be given.
const BACK_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest time that a drain is for.
const DRAIN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most labels that one request may change.
const LABELS_MAX: usize = 200;

/// A name that has to be given.
pub(super) fn name<T>(text: &str) -> Result<T, Status>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error: T::Err| Status::invalid_argument(error.to_string()))
}

/// A name, or nothing.
pub(super) fn optional<T>(text: &str) -> Result<Option<T>, Status>
where
    T: FromStr,
    T::Err: Display,
{
    if text.is_empty() { Ok(None) } else { name(text).map(Some) }
}

/// A duration in milliseconds, 0 for the default.
pub(super) fn duration(
    field: &str,
    value_ms: u64,
    default: Duration,
    max: Duration,
) -> Result<Duration, Status> {
    let value = if value_ms == 0 { default } else { Duration::from_millis(value_ms) };
    if value > max {
        let days = max.as_secs() / (24 * 3600);
        return Err(Status::invalid_argument(format!(
            "{field}: {value_ms} ms is more than {days} days"
        )));
    }
    Ok(value)
}

/// A declaration.
pub(super) fn apply(request: v1::ApplyRequest, by: String) -> Result<Command, Status> {
    let count = request.workloads.len();
    if count > WORKLOADS_MAX {
        return Err(into_status(crate::model::Refusal::TooManyWorkloads(count)));
    }
    let read = |wire: v1::WorkloadSpec| {
        let name = wire.name.clone();
        let spec = WorkloadSpec::try_from(wire).map_err(|error| error.to_string());
        spec.and_then(with_real_keys).map_err(|problem| {
            let name: String = name.chars().take(80).collect();
            Status::invalid_argument(format!("workload {name:?}: {problem}"))
        })
    };
    let specs = request.workloads.into_iter().map(read).collect::<Result<_, _>>()?;
    let keep_replicas = request.keep_replicas.iter().map(|text| name(text));
    let keep_replicas = keep_replicas.collect::<Result<_, _>>()?;
    let planned = request.planned;
    if !planned.is_empty() && planned.len() != count {
        return Err(Status::invalid_argument(format!(
            "planned: {} plans were given for {count} workloads; give the digest of each one's plan, or none",
            planned.len()
        )));
    }
    if planned.iter().any(String::is_empty) {
        return Err(Status::invalid_argument("planned: an empty digest is no plan's"));
    }
    let (dry_run, force) = (request.dry_run, request.force);
    Ok(Command::ApplyWorkloads { specs, keep_replicas, dry_run, force, planned, by })
}

/// New numbers of instances.
pub(super) fn scale_all(request: v1::ScaleWorkloadsRequest) -> Result<Command, Status> {
    if request.workloads.len() > WORKLOADS_MAX {
        let count = request.workloads.len();
        return Err(into_status(crate::model::Refusal::TooManyWorkloads(count)));
    }
    let read = |wire: v1::ScaleWorkloadRequest| Ok((name(&wire.name)?, wire.replicas));
    let workloads = request.workloads.into_iter().map(read).collect::<Result<_, Status>>()?;
    Ok(Command::ScaleAll(workloads))
}

/// Other limits.
pub(super) fn resize(request: &v1::ResizeRequest, by: String) -> Result<Command, Status> {
    let size = Size {
        cpu: request.cpu_millicores.map(Millicores),
        memory: request.memory_bytes.map(Bytes),
        pids: request.pids,
    };
    let workload = name(&request.workload)?;
    let (dry_run, force) = (request.dry_run, request.force);
    Ok(Command::Resize { workload, size, dry_run, force, by })
}

/// Limits of one instance's own.
pub(super) fn resize_instance(request: &v1::ResizeInstanceRequest) -> Result<Command, Status> {
    let own = OwnSize {
        cpu: request.cpu_millicores.map(Millicores),
        memory: request.memory_bytes.map(Bytes),
    };
    let size = match (request.reset, own.is_none()) {
        (true, true) => OwnSizeChange::Reset,
        (false, false) => OwnSizeChange::Set(own),
        _ => return Err(Status::invalid_argument("give limits, or reset them, and not both")),
    };
    let instance = name(&request.instance)?;
    let (dry_run, force) = (request.dry_run, request.force);
    Ok(Command::ResizeInstance { instance, size, dry_run, force })
}

/// An order to change the blocks of a node.
pub(super) fn change_blocks(request: &v1::ChangeNodeBlocksRequest) -> Result<Command, Status> {
    use v1::change_node_blocks_request::Change;
    let block = |text: &str| {
        text.parse().map_err(|_| {
            Status::invalid_argument(format!(
                "{text:?} is no block; write one such as 10.80.9.0/24"
            ))
        })
    };
    let change = match &request.change {
        Some(Change::Add(text)) if text.is_empty() => BlockChange::Add(None),
        Some(Change::Add(text)) => BlockChange::Add(Some(block(text)?)),
        Some(Change::Retire(text)) => BlockChange::Retire(block(text)?),
        None => return Err(Status::invalid_argument("say which block to add, or to retire")),
    };
    Ok(Command::ChangeBlocks { node: name(&request.node)?, change })
}

/// An order to move instances.
pub(super) fn move_instances(request: &v1::MoveInstancesRequest) -> Result<Command, Status> {
    let instances = instances(&request.names)?;
    let to = optional(&request.to)?;
    let how = match (request.volumes, request.abort) {
        (false, false) => MoveHow::WithoutVolumes,
        (true, false) if !request.new_address => MoveHow::WithVolumes,
        (false, true) if to.is_none() => MoveHow::Abort,
        _ => {
            let problem = "volumes move with the address of their instance, and a move is called off without saying where to";
            return Err(Status::invalid_argument(problem));
        }
    };
    let (new_address, dry_run) = (request.new_address, request.dry_run);
    Ok(Command::MoveInstances { instances, to, new_address, how, dry_run })
}

/// Names of instances, no more than a command takes.
pub(super) fn instances<T: FromIterator<InstanceName>>(names: &[String]) -> Result<T, Status> {
    if names.len() > NAMED_MAX {
        return Err(into_status(crate::model::Refusal::TooManyNamed(names.len())));
    }
    names.iter().map(|text| name(text)).collect()
}

/// A declaration whose keys are public keys: others would do nothing, and a private one would be spread.
fn with_real_keys(spec: WorkloadSpec) -> Result<WorkloadSpec, String> {
    if let Ssh::Dwell { authorized_keys, .. } = &spec.template.ssh {
        for (index, line) in authorized_keys.iter().enumerate() {
            keys::authorized_key(line)
                .map_err(|error| format!("ssh.authorized_keys[{index}]: {error}"))?;
        }
    }
    Ok(spec)
}

/// A change of a node.
pub(super) fn update_node(
    request: v1::UpdateNodeRequest,
    now: Timestamp,
) -> Result<Command, Status> {
    if request.set_labels.len() > LABELS_MAX || request.remove_labels.len() > LABELS_MAX {
        return Err(Status::invalid_argument(format!("more than {LABELS_MAX} labels at once")));
    }
    let until = match (request.drain_for_ms, request.draining) {
        (None, _) => None,
        (Some(_), None | Some(false)) => {
            return Err(Status::invalid_argument("drain_for_ms: only a drain has a time"));
        }
        (Some(0), _) => return Err(Status::invalid_argument("drain_for_ms: 0 is no time")),
        (Some(for_ms), Some(true)) => {
            Some(now.after(duration("drain_for_ms", for_ms, DRAIN_MAX, DRAIN_MAX)?))
        }
    };
    let deadline = match (request.drain_deadline_ms, request.draining) {
        (None, _) => None,
        (Some(_), None | Some(false)) => {
            return Err(Status::invalid_argument("drain_deadline_ms: only a drain has a deadline"));
        }
        (Some(0), _) => return Err(Status::invalid_argument("drain_deadline_ms: 0 is no time")),
        (Some(ms), Some(true)) => {
            Some(now.after(duration("drain_deadline_ms", ms, DRAIN_MAX, DRAIN_MAX)?))
        }
    };
    if until.zip(deadline).is_some_and(|(until, deadline)| until <= deadline) {
        return Err(Status::invalid_argument(
            "the drain would end before its deadline: drain_deadline_ms has to be shorter than drain_for_ms",
        ));
    }
    let change = NodeChange {
        until,
        deadline,
        cordoned: request.cordoned,
        draining: request.draining,
        set_labels: request.set_labels.into_iter().collect(),
        remove_labels: request.remove_labels,
        pool: request.pool.as_deref().map(optional).transpose()?,
        admit: request.admit,
        address: request.address.as_deref().map(address).transpose()?,
    };
    Ok(Command::UpdateNode { node: name(&request.name)?, change })
}

/// A reboot of nodes.
pub(super) fn reboot_nodes(request: &v1::RebootNodesRequest) -> Result<Command, Status> {
    if request.nodes.len() > REBOOT_MAX {
        return Err(Status::invalid_argument(format!("more than {REBOOT_MAX} nodes at once")));
    }
    let nodes = request.nodes.iter().map(|text| name(text)).collect::<Result<_, _>>()?;
    let drained =
        duration("drain_deadline_ms", request.drain_deadline_ms, DRAIN_DEFAULT, DRAIN_MAX)?;
    let back = duration("back_deadline_ms", request.back_deadline_ms, BACK_DEFAULT, BACK_MAX)?;
    let (drained, back_within) = (Millis(millis(drained)), Millis(millis(back)));
    let parallelism = usize::try_from(request.parallelism.max(1)).unwrap_or(usize::MAX);
    let drained_within = (!request.no_drain).then_some(drained);
    let how = RebootHow { parallelism, drained_within, back_within };
    Ok(Command::RebootNodes(RebootPlan { nodes, how }))
}

fn address(text: &str) -> Result<Ipv4Addr, Status> {
    text.parse().map_err(|_| {
        Status::invalid_argument(format!("{text:?} is no IPv4 address, such as 192.0.2.7"))
    })
}

impl Api {
    /// What a name means: `web-0` may be an instance of `web`, or a workload of that name, which then
    /// takes precedence.
    pub(super) async fn target(&self, text: &str) -> Result<Target, Status> {
        let Ok(instance) = text.parse::<InstanceName>() else {
            return Ok(Target::Workload(name(text)?));
        };
        let Ok(workload) = text.parse() else { return Ok(Target::Instance(instance)) };
        let asked = workload;
        let (workload, _) = self.read(move |model| model.workload(&asked).map(|_| asked)).await?;
        Ok(workload.map_or(Target::Instance(instance), Target::Workload))
    }
}

/// An earlier version to go back to.
pub(super) fn roll_back(request: &v1::RollBackRequest, by: String) -> Result<Command, Status> {
    let to = Some(VersionNumber(request.to)).filter(|number| *number != VersionNumber(0));
    Ok(Command::RollBack { workload: name(&request.workload)?, to, dry_run: request.dry_run, by })
}
