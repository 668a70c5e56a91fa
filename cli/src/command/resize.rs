//! Other limits for what runs: `resize`.

use clap::Args;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_proto::v1;

use super::apply::told;
use super::{Fleet, name_parser};
use crate::client::Client;
use crate::complete;
use crate::failure::Failure;
use crate::names::{self, Meant};
use crate::output::OutputArgs;
use crate::wait::WaitArgs;

/// Change the limits of a workload, or of one instance, while it runs
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell resize web --memory 1Gi
  dwell resize web --cpu 1500m --pids 8192 --wait
  dwell resize web --memory 128Mi --dry-run
  dwell resize db-0 --memory 4Gi      # this instance alone
  dwell resize db-0 --reset           # as its workload declares again

What is not given stays; 0 is no limit. The limits change in the running containers, without downtime: larger ones everywhere at
once, smaller ones a few instances at a time, as an update. An instance that outgrows its node moves. It is a version like any other,
so `dwell history` shows it, and the file that declares the workload should say the same. What uses more than it would be left with
keeps what it has, and says so, unless you --force it.

Of an instance they are its own: it keeps them through restarts, updates and moves, whatever is declared, until --reset. It stays on
its node: what that has no room for is refused.")]
#[group(id = "size", required = true, multiple = true, args = ["cpu", "memory", "pids", "reset"])]
pub(crate) struct Resize {
    /// A workload or an instance
    #[arg(value_parser = name_parser(), add = complete::subject())]
    name: String,
    /// Share and limit of processors, such as 500m or 2
    #[arg(long, value_name = "AMOUNT")]
    cpu: Option<Millicores>,
    /// Share and limit of memory, such as 256Mi
    #[arg(long, value_name = "AMOUNT")]
    memory: Option<Bytes>,
    /// Of a workload: the most processes and threads
    #[arg(long, value_name = "N")]
    pids: Option<u32>,
    /// Of an instance: take back all limits of its own
    #[arg(long, conflicts_with_all = ["cpu", "memory", "pids"])]
    reset: bool,
    /// Also if it uses more memory or has more processes than that, which can end it
    #[arg(long)]
    force: bool,
    /// Only show what it would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Resize {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let response = match names::meant(&mut fleet.client, &self.name).await? {
            Meant::Instance(instance) => self.resize_instance(&mut fleet.client, instance).await?,
            Meant::Workload(_) => self.resize_workload(&mut fleet.client).await?,
        };
        let v1::ResizeResponse { plan, revision } = response;
        told(plan, revision, self.dry_run, (self.output, self.wait), &fleet).await
    }

    async fn resize_instance(
        &self,
        client: &mut Client,
        instance: String,
    ) -> Result<v1::ResizeResponse, Failure> {
        if self.pids.is_some() {
            return Err(Failure::Usage(format!(
                "--pids is of a workload, and {instance} is an instance; leave it out"
            )));
        }
        let request = v1::ResizeInstanceRequest {
            instance,
            cpu_millicores: self.cpu.map(|cpu| cpu.0),
            memory_bytes: self.memory.map(|memory| memory.0),
            reset: self.reset,
            dry_run: self.dry_run,
            force: self.force,
        };
        Ok(client.resize_instance(request).await?.into_inner())
    }

    async fn resize_workload(&self, client: &mut Client) -> Result<v1::ResizeResponse, Failure> {
        if self.reset {
            return Err(Failure::Usage(format!(
                "--reset is of an instance, and {} is a workload; name the instance",
                self.name
            )));
        }
        let workload = names::workload(client, &self.name).await?;
        let request = v1::ResizeRequest {
            workload,
            cpu_millicores: self.cpu.map(|cpu| cpu.0),
            memory_bytes: self.memory.map(|memory| memory.0),
            pids: self.pids,
            dry_run: self.dry_run,
            force: self.force,
        };
        Ok(client.resize(request).await?.into_inner())
    }
}
