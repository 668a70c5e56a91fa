//! Other limits for what runs: `resize`.

use clap::Args;
use dwell_core::quantity::{Bytes, Millicores};
use dwell_proto::v1;

use super::apply::told;
use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::OutputArgs;
use crate::wait::WaitArgs;

/// Change the limits of a workload while it runs
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell resize web --memory 1Gi
  dwell resize web --cpu 1500m --pids 8192 --wait
  dwell resize web --memory 128Mi --dry-run

What is not given stays; 0 is no limit. The limits change in the running containers, without downtime: larger ones everywhere at
once, smaller ones a few instances at a time, as an update. An instance that outgrows its node moves. It is a version like any other,
so `dwell history` shows it, and the file that declares the workload should say the same.")]
#[group(id = "size", required = true, multiple = true, args = ["cpu", "memory", "pids"])]
pub(crate) struct Resize {
    /// A workload
    #[arg(value_parser = name_parser(), add = complete::workload())]
    name: String,
    /// Share and limit of processors, such as 500m or 2
    #[arg(long, value_name = "AMOUNT")]
    cpu: Option<Millicores>,
    /// Share and limit of memory, such as 256Mi
    #[arg(long, value_name = "AMOUNT")]
    memory: Option<Bytes>,
    /// The most processes and threads
    #[arg(long, value_name = "N")]
    pids: Option<u32>,
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
        let workload = names::workload(&mut fleet.client, &self.name).await?;
        let request = v1::ResizeRequest {
            workload,
            cpu_millicores: self.cpu.map(|cpu| cpu.0),
            memory_bytes: self.memory.map(|memory| memory.0),
            pids: self.pids,
            dry_run: self.dry_run,
        };
        let v1::ResizeResponse { plan, revision } =
            fleet.client.resize(request).await?.into_inner();
        told(plan, revision, self.dry_run, (self.output, self.wait), &fleet).await
    }
}
