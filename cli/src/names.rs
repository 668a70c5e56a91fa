//! What a name on the command line means: an exact name, or the beginning of only one.

use dwell_core::instance::sanitize;
use dwell_proto::v1;
use tonic::Code;

use crate::client::Client;
use crate::failure::Failure;

/// The most candidates that are listed for an ambiguous name.
const CANDIDATES_MAX: usize = 8;

/// A name that can mean a workload or one of its instances.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A workload's name.
    Workload(String),
    /// An instance's name.
    Instance(String),
}

impl Subject {
    /// The name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Workload(name) | Self::Instance(name) => name,
        }
    }
}

/// The workload that is meant.
///
/// # Errors
/// [`Failure::NotFound`] if there is none, [`Failure::Usage`] if there are several.
pub(crate) async fn workload(client: &mut Client, name: &str) -> Result<String, Failure> {
    if !workloads(client, name).await?.is_empty() {
        return Ok(name.to_owned());
    }
    choose("workload", name, workloads(client, "").await?)
}

/// The instance that is meant, with or without the cluster's zone.
///
/// # Errors
/// As [`workload`].
pub(crate) async fn instance(client: &mut Client, name: &str) -> Result<String, Failure> {
    let name = without_zone(name);
    if !instances(client, name).await?.is_empty() {
        return Ok(name.to_owned());
    }
    choose("instance", name, instances(client, "").await?)
}

/// The workload or else the instance that is meant. Every instance's name begins with its workload's,
/// so a beginning that fits a workload means the workload.
///
/// # Errors
/// As [`workload`].
pub(crate) async fn subject(client: &mut Client, name: &str) -> Result<Subject, Failure> {
    if !workloads(client, name).await?.is_empty() {
        return Ok(Subject::Workload(name.to_owned()));
    }
    if !instances(client, name).await?.is_empty() {
        return Ok(Subject::Instance(name.to_owned()));
    }
    let all = workloads(client, "").await?;
    if all.iter().any(|workload| workload.starts_with(name)) {
        return choose("workload", name, all).map(Subject::Workload);
    }
    let all = instances(client, "").await?;
    choose("workload or instance", name, all).map(Subject::Instance)
}

/// An instance's name without the cluster's zone, `web-0` of `web-0.dwell`: no name has a dot in it.
pub(crate) fn without_zone(name: &str) -> &str {
    name.split_once('.').map_or(name, |(name, _)| name)
}

/// The node that is meant.
///
/// # Errors
/// As [`workload`].
pub(crate) async fn node(client: &mut Client, name: &str) -> Result<String, Failure> {
    let list = async |client: &mut Client, name: &str| -> Result<Vec<String>, Failure> {
        let found = client.list_nodes(v1::ListNodesRequest { name: name.into() }).await;
        let nodes = found_or_none(found)?.map_or_else(Vec::new, |found| found.nodes);
        Ok(nodes.into_iter().map(|node| node.name).collect())
    };
    if !list(client, name).await?.is_empty() {
        return Ok(name.to_owned());
    }
    choose("node", name, list(client, "").await?)
}

async fn workloads(client: &mut Client, name: &str) -> Result<Vec<String>, Failure> {
    let found = client.list_workloads(v1::ListWorkloadsRequest { name: name.into() }).await;
    let found = found_or_none(found)?.map_or_else(Vec::new, |found| found.workloads);
    Ok(found.into_iter().filter_map(|workload| workload.spec).map(|spec| spec.name).collect())
}

async fn instances(client: &mut Client, name: &str) -> Result<Vec<String>, Failure> {
    let request = v1::ListInstancesRequest { name: name.into(), ..Default::default() };
    let found = found_or_none(client.list_instances(request).await)?;
    let found = found.map_or_else(Vec::new, |found| found.instances);
    Ok(found.into_iter().map(|instance| instance.name).collect())
}

/// What cannot be a name, or names nothing, is not found; it may still be a beginning.
pub(crate) fn found_or_none<T>(
    answer: Result<tonic::Response<T>, tonic::Status>,
) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// The only candidate that begins with `name`.
fn choose(kind: &str, name: &str, candidates: Vec<String>) -> Result<String, Failure> {
    let shown = sanitize(name, 80);
    if name.is_empty() {
        return Err(Failure::Usage(format!("the name of the {kind} is empty")));
    }
    let mut fitting: Vec<String> =
        candidates.into_iter().filter(|candidate| candidate.starts_with(name)).collect();
    match fitting.len() {
        0 => Err(Failure::NotFound(format!("there is no {kind} {shown:?}; see {}", listing(kind)))),
        1 => Ok(fitting.remove(0)),
        count => {
            fitting.sort();
            fitting.truncate(CANDIDATES_MAX);
            let more = if count > CANDIDATES_MAX { ", …" } else { "" };
            Err(Failure::Usage(format!(
                "{shown:?} fits {count} names: {}{more}; write more of it",
                fitting.join(", ")
            )))
        }
    }
}

fn listing(kind: &str) -> &'static str {
    if kind == "node" { "`dwell node ls`" } else { "`dwell ps`" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(name: &str, candidates: &[&str]) -> Result<String, String> {
        let candidates = candidates.iter().map(ToString::to_string).collect();
        choose("workload", name, candidates).map_err(|failure| failure.to_string())
    }

    #[test]
    fn only_a_unique_beginning_will_do() {
        assert_eq!(chosen("w", &["web", "db"]), Ok("web".into()));
        assert_eq!(
            chosen("w", &["web", "wiki"]),
            Err("\"w\" fits 2 names: web, wiki; write more of it".into())
        );
        assert_eq!(chosen("x", &["web"]), Err("there is no workload \"x\"; see `dwell ps`".into()));
        assert!(chosen("", &["web"]).is_err());
        let many: Vec<String> = (0..20).map(|i| format!("w{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(chosen("w", &many).unwrap_err().contains("w15, …"));
    }
}
