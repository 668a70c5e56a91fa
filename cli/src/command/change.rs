//! Changes to workloads and instances that exist: `scale`, `start`, `stop`, `restart`, `rm`.

use clap::Args;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names::{self, Subject};
use crate::output::print;
use crate::wait::{Goal, WaitArgs, wait};

/// Change how many instances workloads have
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell scale web=5
  dwell scale web=0 worker=20 --wait

Instances are added and removed at the end: web=2 keeps web-0 and web-1. Of several workloads all are scaled
or, if one is refused, none.")]
pub(crate) struct Scale {
    /// A workload and its new number of instances
    #[arg(value_name = "NAME=N", required = true, value_parser = scale_parser, add = complete::scale())]
    workloads: Vec<(String, u32)>,
    #[command(flatten)]
    wait: WaitArgs,
}

fn scale_parser(text: &str) -> Result<(String, u32), String> {
    let (name, count) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=N")?;
    let count = count.parse().map_err(|_| format!("{count:?} is not a number of instances"))?;
    Ok((name.to_owned(), count))
}

impl Scale {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let (asked, counts): (Vec<_>, Vec<_>) = self.workloads.into_iter().unzip();
        let workloads = names::all(&mut fleet.client, &asked, names::workload).await?;
        let scales = workloads.into_iter().zip(counts);
        let scales = scales.map(|(name, replicas)| v1::ScaleWorkloadRequest { name, replicas });
        let request = v1::ScaleWorkloadsRequest { workloads: scales.collect() };
        fleet.client.scale_workloads(request.clone()).await?;
        let mut goals = Vec::new();
        for v1::ScaleWorkloadRequest { name, replicas } in request.workloads {
            print(&format!("{name} scaled to {replicas}\n"))?;
            goals.push(Goal::Declared { workload: name, generation: 0 });
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}

/// Start workloads or instances that were stopped
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell start web
  dwell start web-2 --wait

They run with what is declared by now, on the same nodes. A file with `stopped: true` stops them again when it is applied.")]
pub(crate) struct Start {
    #[command(flatten)]
    subjects: SubjectArgs,
}

/// Stop workloads or instances; they keep address, name and volumes
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell stop web
  dwell stop web-2 --wait

They keep container, place and promised room, too, and stay stopped until `dwell start`, whatever is restarted
meanwhile. A file says the same with `stopped: true`; one that does not say leaves it as it is.")]
pub(crate) struct Stop {
    #[command(flatten)]
    subjects: SubjectArgs,
}

/// Restart the main process of workloads or instances
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:\n  dwell restart web\n  dwell restart web-2 --wait")]
pub(crate) struct Restart {
    #[command(flatten)]
    subjects: SubjectArgs,
}

#[derive(Args, Debug)]
struct SubjectArgs {
    /// Workloads or instances
    #[arg(value_name = "NAME", required = true, value_parser = name_parser(), add = complete::subject())]
    names: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Start {
    pub(super) async fn run(self, fleet: Fleet) -> Result<(), Failure> {
        self.subjects.set_run_state(fleet, v1::RunState::Running, "started").await
    }
}

impl Stop {
    pub(super) async fn run(self, fleet: Fleet) -> Result<(), Failure> {
        self.subjects.set_run_state(fleet, v1::RunState::Stopped, "stopped").await
    }
}

impl SubjectArgs {
    async fn set_run_state(
        self,
        mut fleet: Fleet,
        run: v1::RunState,
        word: &str,
    ) -> Result<(), Failure> {
        let subjects = names::all(&mut fleet.client, &self.names, names::subject).await?;
        let mut goals = Vec::new();
        for subject in subjects {
            let request = v1::SetRunStateRequest { name: subject.name().into(), run: run.into() };
            fleet.client.set_run_state(request).await?;
            print(&format!("{} is being {word}\n", subject.name()))?;
            goals.push(match subject {
                Subject::Workload(workload) => Goal::Declared { workload, generation: 0 },
                Subject::Instance(instance) => Goal::Settled { instance },
            });
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}

impl Restart {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let subjects = names::all(&mut fleet.client, &self.subjects.names, names::subject).await?;
        let mut goals = Vec::new();
        for subject in subjects {
            if self.subjects.wait.wait {
                // What a restart changes can only be told from what was before.
                goals.extend(restarts(&mut fleet, &subject).await?);
            }
            let request = v1::RestartRequest { name: subject.name().into() };
            fleet.client.restart(request).await?;
            print(&format!("{} is being restarted\n", subject.name()))?;
        }
        wait(self.subjects.wait, &fleet.client, &fleet.target, &goals).await
    }
}

async fn restarts(fleet: &mut Fleet, subject: &Subject) -> Result<Vec<Goal>, Failure> {
    let mut request = v1::ListInstancesRequest::default();
    match subject {
        Subject::Workload(name) => name.clone_into(&mut request.workload),
        Subject::Instance(name) => name.clone_into(&mut request.name),
    }
    let instances = fleet.client.list_instances(request).await?.into_inner().instances;
    let goal = |instance: v1::Instance| Goal::Restarted {
        instance: instance.name,
        before: instance.status.map_or(0, |status| status.restarts_done),
    };
    Ok(instances.into_iter().map(goal).collect())
}

/// Remove workloads or chosen instances, with their addresses and names
///
/// Named volumes stay on their nodes.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell rm web
  dwell rm web db --wait
  dwell rm web-1

A workload whose instance is removed has one fewer from then on, and the others keep their names: of three, web-0 and web-2
are left. The next one that is made, by `dwell scale` or `dwell apply`, is web-1.")]
pub(crate) struct Rm {
    /// Workloads or instances
    #[arg(value_name = "NAME", required = true, value_parser = name_parser(), add = complete::subject())]
    names: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Rm {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let subjects = names::all(&mut fleet.client, &self.names, names::subject).await?;
        let (mut workloads, mut instances, mut goals) = (Vec::new(), Vec::new(), Vec::new());
        for subject in subjects {
            match subject {
                Subject::Workload(name) => workloads.push(name),
                Subject::Instance(name) => instances.push(name),
            }
        }
        if !instances.is_empty() {
            let request = v1::RemoveInstancesRequest { names: instances.clone() };
            fleet.client.remove_instances(request).await?;
        }
        for instance in instances {
            print(&format!("{instance} is being removed\n"))?;
            goals.push(Goal::InstanceGone { instance });
        }
        for name in workloads {
            let request = v1::RemoveWorkloadRequest { name: name.clone() };
            fleet.client.remove_workload(request).await?;
            print(&format!("{name} is being removed\n"))?;
            goals.push(Goal::Gone { workload: name });
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}
