//! `dwell ps`: workloads and their instances.

use clap::Args;
use dwell_core::instance::Phase;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::failure::Failure;
use crate::names;
use crate::output::view::PsView;
use crate::output::{Now, OutputArgs, Table, or_dash};

/// List workloads and their instances
///
/// SEEN says how long ago an instance's node reported what is shown; an instance whose node is not heard
/// of is unknown, whatever it was before.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell ps
  dwell ps hello
  dwell ps -o json | jq -r '.instances[] | select(.health != \"healthy\") | .name'")]
pub(crate) struct Ps {
    /// Only this workload
    #[arg(value_parser = name_parser())]
    workload: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Ps {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let workload = match &self.workload {
            Some(name) => names::workload(&mut fleet.client, name).await?,
            None => String::new(),
        };
        let view = list(&mut fleet, workload).await?;
        self.output.print(&view, |view| tables(view, Now::read()))
    }
}

/// A workload, or all if the name is empty, with its instances.
pub(super) async fn list(fleet: &mut Fleet, workload: String) -> Result<PsView, Failure> {
    let (workloads, instances) = fetch(fleet, workload).await?;
    Ok(PsView::new(workloads, instances))
}

/// The same, as it came.
pub(super) async fn fetch(
    fleet: &mut Fleet,
    workload: String,
) -> Result<(Vec<v1::Workload>, Vec<v1::Instance>), Failure> {
    let mut second = fleet.client.clone();
    let (workloads, instances) = tokio::try_join!(
        fleet.client.list_workloads(v1::ListWorkloadsRequest { name: workload.clone() }),
        second.list_instances(v1::ListInstancesRequest { workload, ..Default::default() }),
    )?;
    Ok((workloads.into_inner().workloads, instances.into_inner().instances))
}

pub(super) fn tables(view: &PsView, now: Now) -> String {
    if view.workloads.is_empty() && view.instances.is_empty() {
        return "Nothing runs here yet. Declare something with `dwell apply -f FILE` or `dwell run IMAGE --name NAME`.\n"
            .into();
    }
    let mut workloads =
        Table::new(["WORKLOAD", "READY", "UPDATED", "RUN", "IMAGE", "AGE", "MESSAGE"]);
    for workload in &view.workloads {
        workloads.row([
            workload.name.clone(),
            format!("{}/{}", workload.ready, workload.replicas),
            format!("{}/{}", workload.updated, workload.replicas),
            if workload.removing { "removing".into() } else { workload.run.to_string() },
            workload.image.clone(),
            now.age(Some(workload.created_at)),
            workload.message.clone(),
        ]);
    }
    let mut instances = Table::new([
        "INSTANCE", "NODE", "ADDRESS", "PHASE", "HEALTH", "UP", "RESTARTS", "SEEN", "MESSAGE",
    ]);
    for instance in &view.instances {
        let running = instance.phase == Phase::Running;
        instances.row([
            instance.name.clone(),
            match instance.moving_to.as_str() {
                "" => or_dash(&instance.node),
                to => format!("{} → {to}", or_dash(&instance.node)),
            },
            or_dash(&instance.address),
            if instance.removing {
                format!("{}, removing", instance.phase)
            } else {
                instance.phase.to_string()
            },
            // What was seen last is no longer known to be so.
            if running { instance.health.to_string() } else { "-".into() },
            if running { now.age(instance.started_at) } else { "-".into() },
            instance.restarts.to_string(),
            now.age(instance.observed_at),
            instance.message.clone(),
        ]);
    }
    format!("{workloads}\n{instances}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(ordinal: u32, phase: v1::Phase, health: v1::Health, message: &str) -> v1::Instance {
        v1::Instance {
            name: format!("hello-{ordinal}"),
            workload: "hello".into(),
            ordinal,
            node: "h1".into(),
            address: format!("10.80.1.{ordinal}"),
            status: Some(v1::InstanceStatus {
                phase: phase.into(),
                health: health.into(),
                started_at_ms: Some(1_000_000_000),
                observed_at_ms: 1_000_000_500,
                message: message.into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn tables_for_people() {
        let workload = v1::Workload {
            spec: Some(v1::WorkloadSpec {
                name: "hello".into(),
                replicas: 4,
                template: Some(v1::Template { image: "hello".into(), ..Default::default() }),
                ..Default::default()
            }),
            ready: 1,
            updated: 4,
            created_at_ms: 990_000_000,
            message: "h2 is not heard of".into(),
            ..Default::default()
        };
        let instances = vec![
            instance(10, v1::Phase::Unknown, v1::Health::Healthy, "h2 was heard of last 2m ago"),
            instance(2, v1::Phase::Running, v1::Health::Healthy, ""),
            instance(3, v1::Phase::Backoff, v1::Health::Unhealthy, "exit 1\u{1b}[2J\r\nagain"),
            v1::Instance { name: "hello-0".into(), workload: "hello".into(), ..Default::default() },
        ];
        let view = PsView::new(vec![workload], instances);
        insta::assert_snapshot!(tables(&view, Now(1_000_061_000)), @r"
        WORKLOAD  READY  UPDATED  RUN      IMAGE  AGE    MESSAGE
        hello     1/4    4/4      running  hello  2h47m  h2 is not heard of

        INSTANCE  NODE  ADDRESS     PHASE    HEALTH   UP    RESTARTS  SEEN  MESSAGE
        hello-0   -     -           pending  -        -     0         -
        hello-2   h1    10.80.1.2   running  healthy  1m1s  0         1m0s
        hello-3   h1    10.80.1.3   backoff  -        -     0         1m0s  exit 1 [2J  again
        hello-10  h1    10.80.1.10  unknown  -        -     0         1m0s  h2 was heard of last 2m ago
        ");
        let empty = PsView { workloads: vec![], instances: vec![] };
        assert!(tables(&empty, Now(0)).starts_with("Nothing runs here yet"));
    }
}
