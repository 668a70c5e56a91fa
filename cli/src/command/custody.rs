//! Instances that dwell lets go, and takes back: `dissociate` and `adopt`.

use clap::Args;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::print;
use crate::wait::{Goal, WaitArgs, wait};

/// Let go of instances: their containers go on, and dwell leaves them alone
///
/// The process notices nothing. Its workload has one instance fewer from then on.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell dissociate web-1
  dwell dissociate web-1 web-3 --wait

From then on the container is not stopped, restarted, replaced, moved or removed by dwell, whatever is declared, and nobody
starts it again when it ends. It keeps its address, network policies, volumes, SSH and the name web-1, none of which is given
to another instance; the name of the workload does not lead to it any more. It counts once its node has that on its disk:
`--wait` waits for it. After a reboot of its host it does not run before it is taken back.

`dwell status` shows what was let go, and `dwell adopt` takes it back. To end it for good, remove its container with Docker,
then its name and address with `dwell rm web-1`. Several are let go together or, if one is refused, none.")]
pub(crate) struct Dissociate {
    /// Instances
    #[arg(value_name = "INSTANCE", required = true, value_parser = name_parser(), add = complete::subject())]
    names: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Take instances back that were let go, without a restart
///
/// Their workload has one instance more from then on.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell adopt web-1
  dwell adopt web-1 --wait

The container goes on as it is, and is looked after again: one that has ended is started, as its restart policy says. If its
workload has had a newer version since, the instance takes part in that rollout like every other, which replaces its container;
`dwell pause` beforehand holds that up. Containers that dwell did not make cannot be taken.")]
pub(crate) struct Adopt {
    /// Instances
    #[arg(value_name = "INSTANCE", required = true, value_parser = name_parser(), add = complete::subject())]
    names: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Dissociate {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let names = names::all(&mut fleet.client, &self.names, names::instance).await?;
        let request = v1::DissociateInstancesRequest { names: names.clone() };
        fleet.client.dissociate_instances(request).await?;
        let mut goals = Vec::new();
        for instance in names {
            print(&format!("{instance} is being let go\n"))?;
            goals.push(Goal::LetGo { instance });
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}

impl Adopt {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let names = names::all(&mut fleet.client, &self.names, names::instance).await?;
        let request = v1::AdoptInstancesRequest { names: names.clone() };
        fleet.client.adopt_instances(request).await?;
        let mut goals = Vec::new();
        for instance in names {
            print(&format!("{instance} is being taken back\n"))?;
            goals.push(Goal::Settled { instance });
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}
