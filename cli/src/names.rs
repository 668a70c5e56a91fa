//! What a name on the command line means: exactly that name, never another one that looks like it.
//!
//! A name that is not there may have been removed a moment ago, by the same script. If the beginning of a
//! name stood for the whole one, the next command of that script would take the neighbour that is left.
//! So no command guesses; what could have been meant is only suggested. Commands that take several names
//! look all of them up before they change the first thing.

use dwell_core::instance::sanitize;
use dwell_proto::v1;
use tonic::Code;

use crate::client::Client;
use crate::failure::Failure;
use crate::lists;

/// The most names that are suggested in place of one that does not exist.
const SUGGESTIONS_MAX: usize = 4;

/// A name that can mean a workload or one of its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// The workload of this name.
///
/// # Errors
/// [`Failure::NotFound`] if there is none.
pub(crate) async fn workload(client: &mut Client, name: &str) -> Result<String, Failure> {
    if !workloads(client, name).await?.is_empty() {
        return Ok(name.to_owned());
    }
    Err(missing("workload", name, &workloads(client, "").await?))
}

/// The instance of this name, with or without the cluster's zone, or else the only instance of the workload of
/// this name.
///
/// # Errors
/// [`Failure::NotFound`] if there is none, [`Failure::Usage`] if the workload has several.
pub(crate) async fn instance(client: &mut Client, name: &str) -> Result<String, Failure> {
    match meant(client, name).await? {
        Meant::Instance(name) => Ok(name),
        Meant::Workload(instances) => only(without_zone(name), instances),
    }
}

/// What a name means where instances are meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// This instance.
    Instance(String),
    /// A workload, with these instances in their order; there may be none.
    Workload(Vec<String>),
}

/// The instance of this name, with or without the cluster's zone, or else the workload of this name.
///
/// # Errors
/// As [`workload`].
pub(crate) async fn meant(client: &mut Client, name: &str) -> Result<Meant, Failure> {
    let name = without_zone(name);
    if !instances(client, name).await?.is_empty() {
        return Ok(Meant::Instance(name.to_owned()));
    }
    if workloads(client, name).await?.is_empty() {
        return Err(missing("instance or workload", name, &candidates(client, name).await?));
    }
    let request = v1::ListInstancesRequest { workload: name.into(), ..Default::default() };
    let mut found = client.list_instances(request).await?.into_inner().instances;
    found.sort_by_key(|instance| instance.ordinal);
    Ok(Meant::Workload(found.into_iter().map(|instance| instance.name).collect()))
}

/// The instance that a workload's name stands for, if it has only one.
fn only(workload: &str, mut instances: Vec<String>) -> Result<String, Failure> {
    match instances.len() {
        0 => Err(Failure::NotFound(format!(
            "workload {workload} has no instances; `dwell scale {workload}=1` makes one"
        ))),
        1 => Ok(instances.remove(0)),
        count => {
            instances.truncate(SUGGESTIONS_MAX);
            let more = if count > SUGGESTIONS_MAX { ", …" } else { "" };
            Err(Failure::Usage(format!(
                "workload {workload} has {count} instances; say which: {}{more}",
                instances.join(", ")
            )))
        }
    }
}

/// The workload, or else the instance, of this name.
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
    if !nodes(client, name).await?.is_empty() {
        return Err(Failure::NotFound(format!(
            "{name} is a node, neither a workload nor an instance; `dwell node inspect {name}` shows it"
        )));
    }
    Err(missing("workload or instance", name, &candidates(client, name).await?))
}

/// An instance's name without the cluster's zone, `web-0` of `web-0.dwell`: no name has a dot in it.
pub(crate) fn without_zone(name: &str) -> &str {
    name.split_once('.').map_or(name, |(name, _)| name)
}

/// The node of this name.
///
/// # Errors
/// As [`workload`].
pub(crate) async fn node(client: &mut Client, name: &str) -> Result<String, Failure> {
    if !nodes(client, name).await?.is_empty() {
        return Ok(name.to_owned());
    }
    Err(missing("node", name, &nodes(client, "").await?))
}

/// Looks up all names before any of them is used: a later one that is wrong must not leave the earlier
/// ones changed.
///
/// # Errors
/// Of the first name that does not exist.
pub(crate) async fn all<T>(
    client: &mut Client,
    names: &[String],
    look_up: impl AsyncFn(&mut Client, &str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        found.push(look_up(client, name).await?);
    }
    Ok(found)
}

async fn workloads(client: &mut Client, name: &str) -> Result<Vec<String>, Failure> {
    let found = lists::workloads(client, name).await.map(tonic::Response::new);
    let found = found_or_none(found)?;
    let found = found.map_or_else(Vec::new, |(found, _)| found);
    Ok(found.into_iter().filter_map(|workload| workload.spec).map(|spec| spec.name).collect())
}

async fn instances(client: &mut Client, name: &str) -> Result<Vec<String>, Failure> {
    let request = v1::ListInstancesRequest { name: name.into(), ..Default::default() };
    let found = found_or_none(client.list_instances(request).await)?;
    let found = found.map_or_else(Vec::new, |found| found.instances);
    Ok(found.into_iter().map(|instance| instance.name).collect())
}

async fn nodes(client: &mut Client, name: &str) -> Result<Vec<String>, Failure> {
    let found = lists::nodes(client, name).await.map(tonic::Response::new);
    let nodes = found_or_none(found)?.map_or_else(Vec::new, |(nodes, _)| nodes);
    Ok(nodes.into_iter().map(|node| node.name).collect())
}

/// What could be meant by a name that is neither a workload nor an instance: all workloads, and the
/// instances of the one that the name would belong to. All instances could be a hundred thousand.
async fn candidates(client: &mut Client, name: &str) -> Result<Vec<String>, Failure> {
    let mut candidates = workloads(client, "").await?;
    let owner = name.rsplit_once('-').map_or(name, |(owner, _)| owner);
    for workload in [owner, name] {
        if candidates.iter().any(|candidate| candidate == workload) {
            let request =
                v1::ListInstancesRequest { workload: workload.into(), ..Default::default() };
            let (found, _) = lists::instances(client, request).await?;
            candidates.extend(found.into_iter().map(|instance| instance.name));
            break;
        }
    }
    Ok(candidates)
}

/// What cannot be a name, or names nothing, is not found.
pub(crate) fn found_or_none<T>(
    answer: Result<tonic::Response<T>, tonic::Status>,
) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// That a name does not exist, and which ones could have been meant.
fn missing(kind: &str, name: &str, candidates: &[String]) -> Failure {
    if name.is_empty() {
        return Failure::Usage(format!("the name of the {kind} is empty"));
    }
    let shown = sanitize(name, 80);
    let near = |candidate: &&String| {
        candidate.starts_with(name)
            || strsim::damerau_levenshtein(candidate, name) <= name.chars().count().div_ceil(4)
    };
    let mut suggested: Vec<&str> = candidates.iter().filter(near).map(String::as_str).collect();
    suggested.sort_unstable_by_key(|candidate| {
        (strsim::damerau_levenshtein(candidate, name), *candidate)
    });
    suggested.truncate(SUGGESTIONS_MAX);
    Failure::NotFound(match suggested.split_last() {
        None => format!("there is no {kind} {shown:?}; see {}", listing(kind)),
        Some((only, [])) => {
            format!("there is no {kind} {shown:?}; did you mean {only}? Names are not cut short")
        }
        Some((last, others)) => format!(
            "there is no {kind} {shown:?}; did you mean {} or {last}? Names are not cut short",
            others.join(", ")
        ),
    })
}

fn listing(kind: &str) -> &'static str {
    if kind == "node" { "`dwell node ls`" } else { "`dwell ps`" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_stands_for_its_only_instance() {
        let of = |count: u32| only("web", (0..count).map(|i| format!("web-{i}")).collect());
        assert_eq!(of(1), Ok("web-0".into()));
        insta::assert_snapshot!(
            [of(0), of(2), of(9)].map(|failed| failed.unwrap_err().to_string()).join("\n"),
            @r"
        workload web has no instances; `dwell scale web=1` makes one
        workload web has 2 instances; say which: web-0, web-1
        workload web has 9 instances; say which: web-0, web-1, web-2, web-3, …
        "
        );
    }

    #[test]
    fn what_could_be_meant_is_suggested() {
        let said = |name: &str, candidates: &[&str]| {
            let candidates: Vec<String> = candidates.iter().map(ToString::to_string).collect();
            missing("workload", name, &candidates).to_string()
        };
        insta::assert_snapshot!(
            [
                said("x", &["web", "db"]),
                said("we", &["web", "db"]),
                said("web", &["web-staging", "db"]),
                said("wbe", &["web", "wiki"]),
                said("w", &["w3", "w10", "w2", "w1", "w4"]),
            ]
            .join("\n"),
            @r#"
        there is no workload "x"; see `dwell ps`
        there is no workload "we"; did you mean web? Names are not cut short
        there is no workload "web"; did you mean web-staging? Names are not cut short
        there is no workload "wbe"; did you mean web? Names are not cut short
        there is no workload "w"; did you mean w1, w2, w3 or w4? Names are not cut short
        "#
        );
        assert!(matches!(missing("node", "", &[]), Failure::Usage(_)));
    }
}
