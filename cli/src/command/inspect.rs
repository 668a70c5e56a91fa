//! `dwell inspect`: everything about a workload or an instance.

use clap::Args;
use dwell_core::workload::WorkloadSpec;
use dwell_proto::v1;

use super::{Fleet, name_parser, ps};
use crate::complete;
use crate::failure::Failure;
use crate::manifest;
use crate::names::{self, Subject};
use crate::output::view::{InspectView, InstanceView, PsView};
use crate::output::{Format, print, serialized};

/// Show everything about a workload or an instance
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell inspect hello
  dwell inspect hello-0 -o json | jq -r .address
  dwell inspect hello --manifest > hello.yaml    # a file for `dwell apply`")]
pub(crate) struct Inspect {
    /// A workload or an instance
    #[arg(value_parser = name_parser(), add = complete::subject())]
    name: String,
    /// How to print it
    #[arg(
        short,
        long,
        value_name = "json|yaml",
        default_value = "yaml",
        hide_possible_values = true
    )]
    output: Format,
    /// Print a workload as a file that declares it as it is
    #[arg(long, conflicts_with = "output")]
    manifest: bool,
}

impl Inspect {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let gone = |name: &str| Failure::NotFound(format!("{name} has just been removed"));
        let text = match names::subject(&mut fleet.client, &self.name).await? {
            Subject::Workload(name) => {
                let (workloads, instances) = ps::fetch(&mut fleet, name.clone()).await?;
                let spec = workloads.first().and_then(|workload| workload.spec.clone());
                let spec = spec.and_then(|spec| WorkloadSpec::try_from(spec).ok());
                if self.manifest {
                    let spec = spec.ok_or_else(|| {
                        Failure::Other(format!(
                            "{name} has what this command line does not know; update it"
                        ))
                    })?;
                    return print(&manifest::export(&spec).map_err(|error| {
                        Failure::Other(format!("cannot write {name} as a file: {error}"))
                    })?);
                }
                let mut ps = PsView::new(workloads, instances);
                let workload = ps.workloads.pop().ok_or_else(|| gone(&name))?;
                serialized(&InspectView { workload, spec, instances: ps.instances }, self.format())
            }
            Subject::Instance(name) if self.manifest => {
                return Err(Failure::Usage(format!(
                    "{name} is an instance; a file declares workloads, so name its workload"
                )));
            }
            Subject::Instance(name) => {
                let request = v1::ListInstancesRequest { name: name.clone(), ..Default::default() };
                let found =
                    fleet.client.list_instances(request).await?.into_inner().instances.pop();
                serialized(&InstanceView::from(found.ok_or_else(|| gone(&name))?), self.format())
            }
        };
        print(&text?)
    }

    /// There is no table of one thing.
    fn format(&self) -> Format {
        if self.output == Format::Json { Format::Json } else { Format::Yaml }
    }
}
