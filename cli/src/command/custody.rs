//! Instances that dwell lets go, and takes back, and containers that it takes: `dissociate` and `adopt`.

mod container;

use clap::Args;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::{OutputArgs, print};
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

/// Take instances back that were let go, or a container that dwell did not make
///
/// What was let go goes on without a restart, and its workload has one instance more from then on. A container that dwell did not make
/// becomes the one instance of a new workload, and is stopped once for that.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell adopt web-1
  dwell adopt web-1 --wait
  dwell adopt --node h1 --container shop --plan
  dwell adopt --node h1 --container shop --wait
  dwell adopt --node h1 --container shop_web_1 --as shop --wait

What was let go: the container goes on as it is, and is looked after again: one that has ended is started, as its restart policy
says. If its workload has had a newer version since, the instance takes part in that rollout like every other, which replaces its
container; `dwell pause` beforehand holds that up.

A container that dwell did not make: --plan shows what would be declared for it, what is kept and copied, what is different
afterwards, and why it cannot be, if so. Else it is stopped, its own files are kept as an image and its volumes are copied, and an
instance with an address of its own starts in its place. Once that has held, the container stays stopped, for you to remove. If it
does not hold, or `dwell rm` takes its workload away before, the container is started again as it was.")]
pub(crate) struct Adopt {
    /// Instances that were let go
    #[arg(value_name = "INSTANCE", required_unless_present = "container", conflicts_with_all = ["container", "node", "workload", "plan"],
          value_parser = name_parser(), add = complete::subject())]
    names: Vec<String>,
    /// A running container that dwell did not make, by name or id
    #[arg(long, value_name = "CONTAINER", value_parser = name_parser(), requires = "node")]
    container: Option<String>,
    /// The node that the container is on
    #[arg(long, value_name = "NODE", value_parser = name_parser(), requires = "container", add = complete::node())]
    node: Option<String>,
    /// What its workload is to be called, if not as the container
    #[arg(long = "as", value_name = "WORKLOAD", value_parser = name_parser(), requires = "container")]
    workload: Option<String>,
    /// Only say what would be done with the container
    #[arg(long, requires = "container", conflicts_with = "wait")]
    plan: bool,
    #[command(flatten)]
    output: OutputArgs,
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
        if let Some((container, node)) = self.container.zip(self.node) {
            let order = container::Order {
                node,
                container,
                workload: self.workload.unwrap_or_default(),
                is_plan: self.plan,
                output: self.output,
                wait: self.wait,
            };
            return container::adopt(fleet, order).await;
        }
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
