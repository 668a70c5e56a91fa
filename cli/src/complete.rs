//! Completion of names at the shell's prompt: asked of the controller, briefly. Who cannot be asked completes
//! nothing, and says nothing: there is no place for a message while somebody types.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use dwell_proto::v1;

use crate::client::{Client, TargetArgs, connect};
use crate::failure::Failure;
use crate::lists;

/// Set by the shell's script while it completes.
pub(crate) const VARIABLE: &str = "DWELL_COMPLETE";

/// How long a completion may take: nobody waits longer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The most names that are offered.
const OFFERED_MAX: usize = 200;

/// Completes and ends the process, if a shell asks for that.
pub(crate) fn answer_shell() {
    CompleteEnv::with_factory(crate::Dwell::command).var(VARIABLE).complete();
}

/// Which names an argument takes.
#[derive(Clone, Copy)]
enum Kind {
    Workload,
    /// A workload or an instance.
    Subject,
    Node,
    KeySet,
    Registry,
    Pool,
}

/// Completes a workload.
pub(crate) fn workload() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| complete(Kind::Workload, typed, ""))
}

/// Completes a workload, and the `=` that follows it.
pub(crate) fn scale() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| complete(Kind::Workload, typed, "="))
}

/// Completes a workload or an instance.
pub(crate) fn subject() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| complete(Kind::Subject, typed, ""))
}

/// Completes a node.
pub(crate) fn node() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| complete(Kind::Node, typed, ""))
}

/// Completes a key set.
pub(crate) fn key_set() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| complete(Kind::KeySet, typed, ""))
}

/// Completes a registry that nodes log in to.
pub(crate) fn registry() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| complete(Kind::Registry, typed, ""))
}

/// Completes a pool that nodes are in.
pub(crate) fn pool() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| complete(Kind::Pool, typed, ""))
}

fn complete(kind: Kind, typed: &OsStr, after: &str) -> Vec<CompletionCandidate> {
    let Some(typed) = typed.to_str() else { return Vec::new() };
    // As in `ssh root@web-0`.
    let (user, name) =
        typed.rsplit_once('@').map_or(("", typed), |(user, name)| (&typed[..=user.len()], name));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let names = runtime.ok().and_then(|runtime| {
        let asked = async { tokio::time::timeout(PATIENCE, names(kind, name)).await };
        runtime.block_on(asked).ok()?.ok()
    });
    let fitting = names.unwrap_or_default().into_iter().filter(|found| found.starts_with(name));
    let fitting = fitting.take(OFFERED_MAX);
    fitting.map(|found| CompletionCandidate::new(format!("{user}{found}{after}"))).collect()
}

async fn names(kind: Kind, typed: &str) -> Result<Vec<String>, Failure> {
    let mut client = connect(&target().target()?).await?;
    match kind {
        Kind::Workload => workloads(&mut client).await,
        Kind::Subject => {
            let mut names = workloads(&mut client).await?;
            // All instances may be too many; those of what has been typed are what comes next.
            let begun: Vec<String> = names
                .iter()
                .filter(|name| typed.strip_prefix(name.as_str()).is_some_and(is_ordinal))
                .cloned()
                .collect();
            for workload in begun {
                let request = v1::ListInstancesRequest { workload, ..Default::default() };
                let found = client.list_instances(request).await?.into_inner().instances;
                names.extend(found.into_iter().map(|instance| instance.name));
            }
            Ok(names)
        }
        Kind::Node => {
            let (found, _) = lists::nodes(&mut client, "").await?;
            Ok(found.into_iter().map(|node| node.name).collect())
        }
        Kind::Pool => {
            let (found, _) = lists::nodes(&mut client, "").await?;
            let pools: BTreeSet<String> = found.into_iter().map(|node| node.pool).collect();
            Ok(pools.into_iter().filter(|pool| !pool.is_empty()).collect())
        }
        Kind::KeySet => {
            let found = client.list_key_sets(v1::ListKeySetsRequest::default()).await?.into_inner();
            Ok(found.key_sets.into_iter().map(|set| set.name).collect())
        }
        Kind::Registry => {
            let found = client.list_registries(v1::ListRegistriesRequest {}).await?.into_inner();
            Ok(found.registries.into_iter().map(|registry| registry.host).collect())
        }
    }
}

/// Whether what follows a workload's name can be the rest of an instance's.
fn is_ordinal(rest: &str) -> bool {
    let digits = rest.strip_prefix('-').unwrap_or(rest);
    rest.is_empty() || (rest.starts_with('-') && digits.chars().all(|c| c.is_ascii_digit()))
}

async fn workloads(client: &mut Client) -> Result<Vec<String>, Failure> {
    let found = client.list_workloads(v1::ListWorkloadsRequest::default()).await?.into_inner();
    Ok(found.workloads.into_iter().filter_map(|workload| Some(workload.spec?.name)).collect())
}

/// The controller that the line being typed names, or else the environment's.
fn target() -> TargetArgs {
    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        target: TargetArgs,
    }
    let mut words = std::env::args_os().skip_while(|word| word != "--").skip(2).peekable();
    let mut given = vec![OsString::from("dwell")];
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--socket" || text == "--context" {
            given.push(word);
            given.extend(words.next());
        } else if text.starts_with("--socket=") || text.starts_with("--context=") {
            given.push(word);
        }
    }
    let parsed = Only::try_parse_from(given).or_else(|_| Only::try_parse_from(["dwell"]));
    parsed.map_or_else(|_| TargetArgs::default(), |only| only.target)
}

#[cfg(test)]
mod tests {
    use super::is_ordinal;

    #[test]
    fn what_can_follow_a_workload() {
        assert!(["", "-", "-1", "-12"].into_iter().all(is_ordinal));
        assert!(!["x", "1", "-x", "-1x", "--1"].into_iter().any(is_ordinal));
    }
}
