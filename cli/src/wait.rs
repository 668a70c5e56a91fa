//! Waiting until the fleet is as it was asked to be: by watching, never by asking again and again.
//!
//! [`goal`] decides, from what is known; this module lists once, follows the changes, shows how far it is, and
//! says on standard error what was reached.

mod goal;
mod last_words;

use std::time::Instant;

use clap::Args;
use dwell_core::quantity::Millis;
use dwell_proto::v1;

pub(crate) use goal::{Awaited, Goal, State};
use goal::{Progress, Seen};

use crate::client::{Client, Target};
use crate::failure::Failure;
use crate::lists;
use crate::output::{ProgressLine, duration, say};
use crate::watch::{Next, Watcher};

/// Whether and how long to wait.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WaitArgs {
    /// Return when it is done, not when it is accepted
    #[arg(long)]
    pub(crate) wait: bool,
    /// With --wait: give up waiting after this time; what was asked for goes on
    #[arg(long, value_name = "DURATION", default_value = "5m", requires = "wait")]
    pub(crate) timeout: Millis,
}

/// Returns when all goals are reached, if that was asked for.
///
/// # Errors
/// If a goal cannot be reached any more, or not within the time-out.
pub(crate) async fn wait(
    args: WaitArgs,
    client: &Client,
    target: &Target,
    goals: &[Goal],
) -> Result<(), Failure> {
    if args.wait { until(args.timeout, client, target, goals).await } else { Ok(()) }
}

/// Returns when all goals are reached.
///
/// # Errors
/// If a goal cannot be reached any more, or not within the time-out.
pub(crate) async fn until(
    timeout: Millis,
    client: &Client,
    target: &Target,
    goals: &[Goal],
) -> Result<(), Failure> {
    if goals.is_empty() {
        return Ok(());
    }
    let mut last = String::from("the controller has not said yet how far it is");
    let following = follow(client.clone(), target, goals, &mut last);
    let followed = tokio::time::timeout(timeout.as_duration(), following).await;
    followed.unwrap_or_else(|_| {
        Err(Failure::TimedOut(format!(
            "not done after {timeout}: {last}; it goes on, see `dwell ps`"
        )))
    })
}

async fn follow(
    mut client: Client,
    target: &Target,
    goals: &[Goal],
    last: &mut String,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut line = ProgressLine::new();
    let (mut seen, revision) = list(&mut client, goals).await?;
    let kinds = vec![v1::Kind::Workload, v1::Kind::Instance, v1::Kind::Node];
    let mut watcher = Watcher::new(client.clone(), target, kinds, revision);
    loop {
        match goal::progress(goals, &seen) {
            Progress::Done => {
                drop(line);
                let took = duration(began.elapsed());
                for sentence in goal::reached(goals, &seen) {
                    say(&format!("{sentence}, after {took}"));
                }
                return Ok(());
            }
            Progress::Failed(why) => {
                drop(line);
                let words = match goal::failed(goals, &seen) {
                    Some(instance) => last_words::of(&mut client, instance).await,
                    None => String::new(),
                };
                return Err(Failure::Other(why + &words));
            }
            Progress::Waiting(what) => {
                line.show(&what);
                *last = what;
            }
        }
        match watcher.next().await? {
            Next::Change(change) => seen.take(*change),
            Next::Missed(mut client) => {
                let (again, revision) = list(&mut client, goals).await?;
                seen = again;
                watcher.resume(revision);
            }
        }
    }
}

/// What the goals are about, and a revision from which a watch shows everything that this does not.
async fn list(client: &mut Client, goals: &[Goal]) -> Result<(Seen, u64), Failure> {
    // One goal is the common case; then only its workload or node is of interest.
    let (workload, node) = match goals {
        [only] => (only.workload().unwrap_or_default(), only.node().unwrap_or_default()),
        _ => ("", ""),
    };
    let (mut first, mut second, mut third) = (client.clone(), client.clone(), client.clone());
    let (workloads, instances, nodes) = tokio::try_join!(
        lists::workloads(&mut first, workload),
        lists::instances(
            &mut second,
            v1::ListInstancesRequest { workload: workload.to_owned(), ..Default::default() }
        ),
        async {
            if goals.iter().any(|goal| goal.node().is_some()) {
                lists::nodes(&mut third, node).await.map(Some)
            } else {
                Ok(None)
            }
        },
    )?;
    let revision = workloads.1.min(instances.1);
    let revision = nodes.as_ref().map_or(revision, |nodes| revision.min(nodes.1));
    let nodes = nodes.map(|nodes| nodes.0).unwrap_or_default();
    Ok((Seen::new(workloads.0, instances.0, nodes), revision))
}
