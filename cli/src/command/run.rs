//! `dwell run`: declare one workload without a file.

mod once;

use std::net::Ipv4Addr;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use dwell_core::id::{PoolName, WorkloadName};
use dwell_core::job::Job;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{
    AllowRule, Constraint, Mount, OnLost, OnMove, Placement, Resources, RestartPolicy, ServicePort,
    Ssh, Template, UpdatePolicy, WorkloadSpec,
};
use dwell_proto::v1;

use self::once::Attached;
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
#[command(group = ArgGroup::new("to_completion").args(["job", "rm"]).multiple(true), after_long_help = "\
Examples:
  dwell run nginx:1.27 --name web
  dwell run nginx:1.27 --name web --replicas 3 --cpu 500m --memory 256Mi --expose 80 --wait
  dwell run postgres:16 --name db -v data:/var/lib/postgresql/data -e POSTGRES_PASSWORD
  dwell run debian:12 --name box -- sleep infinity
  dwell run debian:13 --name dev --machine --wait -- sleep infinity
  dwell run app:2 --name migrate --job --attempts 1 --ttl 1d --wait -- ./migrate
  dwell run --rm debian:12 -- sh -c 'date; exit 3'
  dwell run --rm -it debian:12 -- bash
  pg_dump shop | dwell run --rm -i postgres:16 -- psql -h db-0 shop

With --rm it is a job of one instance and one attempt: what it prints is printed here, and `dwell run` ends with its exit code and
removes it, also when it is told to end (Ctrl-C) or has not begun within 5 minutes. If this computer goes away, work that has begun ends
after --deadline and goes after --ttl; what has not is for `dwell rm`.

With -i or -t you are attached to it, as by `docker run`: with -it every key goes to it, Ctrl-C included. If the connection is lost it is
hung up, and killed 5 seconds later.")]
pub(crate) struct Run {
    /// Image reference, such as debian:12
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Replaces the image's command
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<String>,
    /// Name of the workload; with --rm, one is made up if not given
    #[arg(long, required_unless_present = "rm")]
    name: Option<WorkloadName>,
    /// Print what it prints, end with its exit code, and remove it
    #[arg(long, conflicts_with_all = ["job", "restart", "parallelism", "attempts", "wait", "replicas", "output"])]
    rm: bool,
    /// With --rm: connect standard input
    #[arg(short = 'i', long, requires = "rm")]
    interactive: bool,
    /// With --rm: give it a terminal
    #[arg(short, long, requires = "rm")]
    tty: bool,
    /// How many instances
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u32,
    /// One instance on every node that --pool and --constraint allow
    #[arg(long, conflicts_with_all = ["replicas", "job", "rm", "ip"])]
    one_per_node: bool,
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
    /// Make it a machine: its root file system is its own, and outlives every container
    #[arg(long, conflicts_with_all = ["job", "rm"])]
    machine: bool,
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
    /// Of a job: how long all of it may take [default with --rm: 1d]
    #[arg(long, value_name = "DURATION", requires = "to_completion")]
    deadline: Option<Millis>,
    /// Of a job: how long after its end it is removed [default with --rm: 10m]
    #[arg(long, value_name = "DURATION", requires = "to_completion")]
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
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<ExitCode, Failure> {
        let (waiting, output, rm) = (self.wait, self.output, self.rm);
        let attached = Attached { interactive: self.interactive, tty: self.tty };
        attached.check()?;
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
        let name = spec.name.to_string();
        let plans = apply::apply(
            &mut fleet,
            Planned::of(vec![Declared { spec, says_replicas: true }]),
            false,
        )
        .await?;
        if rm {
            return once::follow(fleet.client, &name, attached).await;
        }
        let goals: Vec<_> = plans.workloads.iter().map(PlanView::goal).collect();
        output.print(&plans, apply::done)?;
        wait(waiting, &fleet.client, &fleet.target, &goals).await?;
        Ok(ExitCode::SUCCESS)
    }

    fn into_spec(self) -> Result<WorkloadSpec, Failure> {
        let name = match self.name {
            Some(name) => name,
            None => once::name()?,
        };
        let is_job = self.job || self.rm;
        let attempts = if self.rm { Some(1) } else { self.attempts };
        let restart = manifest::restart_of(is_job, attempts, self.restart);
        let restart = restart.map_err(Failure::Usage)?;
        let job = Job {
            parallelism: self.parallelism,
            deadline: self.deadline.or(self.rm.then_some(once::DEADLINE)),
            ttl: self.ttl.or(self.rm.then_some(once::TTL)),
            schedule: None,
        };
        let template = Template {
            command: self.command,
            environment: manifest::environment(&self.env, &apply::variables()),
            user: self.user.unwrap_or_default(),
            working_dir: self.workdir.unwrap_or_default(),
            hostname: self.hostname.unwrap_or_default(),
            mounts: self.volume,
            machine: self.machine.then(manifest::machine).flatten(),
            resources: Resources {
                cpu: self.cpu.unwrap_or_default(),
                memory: self.memory.unwrap_or_default(),
            },
            // Without -i nothing is typed on a terminal, and it does not end either.
            stdin: self.interactive || self.tty,
            tty: self.tty,
            restart,
            expose: self.expose,
            ssh: self.ssh.unwrap_or_default(),
            allow_from: Some(self.allow_from).filter(|rules| !rules.is_empty()),
            allow_to: Some(self.allow_to).filter(|rules| !rules.is_empty()),
            ..Template::of_image(self.image)
        };
        Ok(WorkloadSpec {
            name,
            replicas: self.replicas,
            run: None,
            template,
            addresses: self.ip,
            placement: Placement {
                pool: self.pool,
                constraints: self.constraint,
                one_per_node: self.one_per_node,
            },
            update: UpdatePolicy::default(),
            on_lost: self.on_lost,
            on_move: OnMove::default(),
            labels: std::collections::BTreeMap::new(),
            job: is_job.then_some(job),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn read(words: &[&str]) -> Result<WorkloadSpec, clap::Error> {
        let line = Line::try_parse_from([&["run"], words].concat())?;
        Ok(line.run.into_spec().unwrap())
    }

    #[test]
    fn a_one_off_is_a_job_that_leaves_nothing_behind() {
        let spec = read(&["--rm", "debian:12", "--", "false"]).unwrap();
        let other = read(&["--rm", "debian:12"]).unwrap();
        assert!(spec.name.to_string().starts_with("run-") && spec.name != other.name);
        let bounds = Job { deadline: Some(once::DEADLINE), ttl: Some(once::TTL), ..Job::default() };
        assert_eq!((spec.job.as_ref(), spec.replicas), (Some(&bounds), 1));
        assert_eq!(spec.template.restart, RestartPolicy::Never);
        assert_eq!(spec.check(), Ok(()));
        assert!(!spec.template.stdin && !spec.template.tty);
        for (words, stdin, tty) in [("-i", true, false), ("-t", true, true), ("-it", true, true)] {
            let template = read(&["--rm", words, "debian:12"]).unwrap().template;
            assert_eq!((template.stdin, template.tty), (stdin, tty), "{words}");
        }
        let given = read(&["--rm", "--name", "box", "--deadline", "1h", "debian:12"]).unwrap();
        assert_eq!(given.name.to_string(), "box");
        assert_eq!(given.job.unwrap().deadline, Some(Millis::seconds(3600)));
    }

    #[test]
    fn a_one_off_is_no_other_kind_of_workload() {
        for words in [
            &["debian:12"][..],
            &["--rm", "--replicas", "2", "debian:12"],
            &["--rm", "--restart", "always", "debian:12"],
            &["--rm", "--wait", "debian:12"],
            &["--name", "box", "-it", "debian:12"],
            &["--name", "box", "--ttl", "1h", "debian:12"],
        ] {
            assert!(read(words).is_err(), "{words:?}");
        }
    }
}
