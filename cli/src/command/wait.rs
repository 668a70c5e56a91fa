//! `dwell wait`: until something is in a state, whoever brings that about.

use clap::Args;
use dwell_core::quantity::Millis;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names::{self, Subject};
use crate::wait::{Awaited, Goal, State, until};

/// Wait until workloads, instances or nodes are in a state
///
/// Returns when all of them are, however they come to be so. What cannot come about any more is not waited for:
/// an update that failed, a workload that is stopped, a main process that ended badly.
///
/// Ends with 0 when all are in the state, with 1 if that cannot be any more, with 3 if a name does not exist (but for
/// `gone`), and with 6 when --timeout has passed.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell wait web
  dwell wait web db --timeout 2m
  dwell wait job --for completed --timeout 1h
  dwell rm web && dwell wait web --for gone
  dwell wait h4 --for ready")]
pub(crate) struct Wait {
    /// Workloads or instances; nodes for `ready` and `drained`
    #[arg(value_name = "NAME", required = true, value_parser = name_parser(), add = complete::subject())]
    names: Vec<String>,
    /// Which state
    #[arg(long = "for", value_name = "STATE", default_value = "healthy")]
    state: State,
    /// Give up waiting after this time
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    timeout: Millis,
}

impl Wait {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let mut goals = Vec::new();
        match self.state {
            State::Ready | State::Drained => {
                for node in names::all(&mut fleet.client, &self.names, names::node).await? {
                    goals.push(match self.state {
                        State::Ready => Goal::Ready { node },
                        _ => Goal::Drained { node },
                    });
                }
            }
            state => {
                for name in &self.names {
                    let found = match names::subject(&mut fleet.client, name).await {
                        // That is what is waited for.
                        Err(Failure::NotFound(_)) if state == State::Gone => continue,
                        found => found?,
                    };
                    if let Some(awaited) = awaited(&mut fleet, found, state).await? {
                        goals.push(Goal::In(awaited));
                    }
                }
            }
        }
        until(self.timeout, &fleet.client, &fleet.target, &goals).await
    }
}

/// What is waited for, as it is now; `None` if it has just gone and that is what is waited for.
async fn awaited(
    fleet: &mut Fleet,
    subject: Subject,
    state: State,
) -> Result<Option<Awaited>, Failure> {
    let name = subject.name().to_owned();
    let found = match &subject {
        Subject::Workload(_) => {
            let request = v1::ListWorkloadsRequest { name: name.clone(), ..Default::default() };
            let found = fleet.client.list_workloads(request).await;
            let found = names::found_or_none(found)?.and_then(|mut found| found.workloads.pop());
            found.map(|one| (one.generation, one.created_at_ms))
        }
        Subject::Instance(_) => {
            let request = v1::ListInstancesRequest { name: name.clone(), ..Default::default() };
            let found = fleet.client.list_instances(request).await;
            let found = names::found_or_none(found)?.and_then(|mut found| found.instances.pop());
            found.map(|one| (one.generation, one.created_at_ms))
        }
    };
    match found {
        Some((generation, created_at_ms)) => {
            Ok(Some(Awaited { subject, state, generation, created_at_ms }))
        }
        None if state == State::Gone => Ok(None),
        None => Err(Failure::NotFound(format!("{name} has just been removed"))),
    }
}
