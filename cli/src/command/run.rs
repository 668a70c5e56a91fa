//! `dwell run`: declare one workload without a file.

use std::net::Ipv4Addr;

use clap::Args;
use dwell_core::id::{PoolName, WorkloadName};
use dwell_core::job::Job;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{
    AllowRule, Constraint, Mount, OnLost, Placement, Resources, RestartPolicy, ServicePort, Ssh,
    Template, UpdatePolicy, WorkloadSpec,
};
use dwell_proto::v1;

use super::Fleet;
use super::apply::{self, Planned};
use crate::failure::Failure;
use crate::manifest::{self, Declared};
use crate::names::found_or_none;
use crate::output::OutputArgs;
use crate::output::view::PlanView;
use crate::wait::{WaitArgs, wait};

/// Run an image as a new workload
///
/// The same as applying a file with one workload in it, except that a workload of that name must not exist.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell run nginx:1.27 --name web
  dwell run nginx:1.27 --name web --replicas 3 --cpu 500m --memory 256Mi --expose 80 --wait
  dwell run postgres:16 --name db -v data:/var/lib/postgresql/data -e POSTGRES_PASSWORD
  dwell run debian:12 --name box -- sleep infinity
  dwell run app:2 --name migrate --job --attempts 1 --ttl 1d --wait -- ./migrate")]
pub(crate) struct Run {
    /// Image reference, such as debian:12
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Replaces the image's command
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
    /// Name of the workload
    #[arg(long)]
    name: WorkloadName,
    /// How many instances
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u32,
    /// Environment variable; without a value, it is taken from here
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// Share and limit of processors, such as 500m or 2
    #[arg(long, value_name = "AMOUNT")]
    cpu: Option<Millicores>,
    /// Share and limit of memory, such as 256Mi
    #[arg(long, value_name = "AMOUNT")]
    memory: Option<Bytes>,
    /// Port it listens on, such as 80 or 53/udp; nothing is mapped
    #[arg(long, value_name = "PORT", value_parser = manifest::port)]
    expose: Vec<ServicePort>,
    /// Volume or path of the node to mount
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]", value_parser = manifest::mount)]
    volume: Vec<Mount>,
    /// Address of instance 0, then of instance 1 and so on
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<Ipv4Addr>,
    /// Hostname inside; an instance's own name if not given
    #[arg(long)]
    hostname: Option<String>,
    /// User, or user:group
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// always, on-failure, on-failure:TIMES or no [default: always]
    #[arg(long, value_name = "POLICY", value_parser = manifest::restart)]
    restart: Option<RestartPolicy>,
    /// Run it to completion: each instance until it ends with 0, and then never again
    #[arg(long)]
    job: bool,
    /// Of a job: how many may be at work at the same time [default: all]
    #[arg(long, value_name = "N", requires = "job")]
    parallelism: Option<u32>,
    /// Of a job: how often an instance is tried before it has failed [default: 6]
    #[arg(long, value_name = "N", requires = "job", conflicts_with = "restart")]
    attempts: Option<u32>,
    /// Of a job: how long all of it may take
    #[arg(long, value_name = "DURATION", requires = "job")]
    deadline: Option<Millis>,
    /// Of a job: how long after its end it is removed
    #[arg(long, value_name = "DURATION", requires = "job")]
    ttl: Option<Millis>,
    /// What becomes of it when its node is lost: keep, or "replace after 2m"
    #[arg(long, value_name = "POLICY", default_value = "keep")]
    on_lost: OnLost,
    /// Only on nodes of this pool
    #[arg(long)]
    pool: Option<PoolName>,
    /// Only on nodes of which it holds, such as disk==ssd
    #[arg(long, value_name = "CONSTRAINT", value_parser = manifest::constraint)]
    constraint: Vec<Constraint>,
    /// image, if it brings its own SSH server, or off
    #[arg(long, value_name = "WHO", value_parser = manifest::ssh)]
    ssh: Option<Ssh>,
    /// Who may reach it: any, same-workload, a workload or a range of addresses; all others are refused
    #[arg(long, value_name = "WHO", value_parser = manifest::allow_rule)]
    allow_from: Vec<AllowRule>,
    /// Whom it may reach: any, same-workload, a workload or a range of addresses; all others are refused
    #[arg(long, value_name = "WHO", value_parser = manifest::allow_rule)]
    allow_to: Vec<AllowRule>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Run {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let (waiting, output) = (self.wait, self.output);
        let spec = self.into_spec()?;
        spec.check().map_err(|error| Failure::Usage(error.to_string()))?;
        let request =
            v1::ListWorkloadsRequest { name: spec.name.to_string(), ..Default::default() };
        let found = found_or_none(fleet.client.list_workloads(request).await)?;
        if found.is_some_and(|found| !found.workloads.is_empty()) {
            let name = &spec.name;
            return Err(Failure::Refused(format!(
                "workload {name} exists already; change it with `dwell apply`, or remove it first with \
                 `dwell rm {name} --wait`"
            )));
        }
        let plans = apply::apply(
            &mut fleet,
            Planned::of(vec![Declared { spec, says_replicas: true }]),
            false,
        )
        .await?;
        let goals: Vec<_> = plans.workloads.iter().map(PlanView::goal).collect();
        output.print(&plans, apply::done)?;
        wait(waiting, &fleet.client, &fleet.target, &goals).await
    }

    fn into_spec(self) -> Result<WorkloadSpec, Failure> {
        let restart = manifest::restart_of(self.job, self.attempts, self.restart);
        let restart = restart.map_err(Failure::Usage)?;
        let job = Job {
            parallelism: self.parallelism,
            deadline: self.deadline,
            ttl: self.ttl,
            schedule: None,
        };
        let template = Template {
            command: self.command,
            environment: manifest::environment(&self.env, &apply::variables()),
            user: self.user.unwrap_or_default(),
            working_dir: self.workdir.unwrap_or_default(),
            hostname: self.hostname.unwrap_or_default(),
            mounts: self.volume,
            resources: Resources {
                cpu: self.cpu.unwrap_or_default(),
                memory: self.memory.unwrap_or_default(),
            },
            restart,
            expose: self.expose,
            ssh: self.ssh.unwrap_or_default(),
            allow_from: Some(self.allow_from).filter(|rules| !rules.is_empty()),
            allow_to: Some(self.allow_to).filter(|rules| !rules.is_empty()),
            ..Template::of_image(self.image)
        };
        Ok(WorkloadSpec {
            name: self.name,
            replicas: self.replicas,
            run: None,
            template,
            addresses: self.ip,
            placement: Placement { pool: self.pool, constraints: self.constraint },
            update: UpdatePolicy::default(),
            on_lost: self.on_lost,
            labels: std::collections::BTreeMap::new(),
            job: self.job.then_some(job),
        })
    }
}
