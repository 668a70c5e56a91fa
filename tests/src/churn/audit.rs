//! A look at every host from outside: nothing more and nothing less than declared.
//!
//! It uses the engines' API, `ip`, `/proc`, `/sys` and the file system. What dwell itself says is compared with that in
//! one place only, the names and addresses of instances.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::declared::Declared;
use crate::lab::{Host, InstanceRow, Lab, Ps};

/// The file in a volume that tells whether it is the instance's own.
const MARK: &str = "/data/mark";

/// Compares all hosts with what is declared.
///
/// # Errors
/// The first difference.
pub(super) async fn audit(lab: &Lab, declared: &Declared, said: &Ps) -> Result<()> {
    let mut addresses = BTreeMap::new();
    for instance in &said.instances {
        let other = addresses.insert(instance.address.clone(), instance.name.clone());
        ensure!(other.is_none(), "{} and {other:?} share {}", instance.name, instance.address);
    }
    for host in lab.hosts() {
        let here: Vec<&InstanceRow> =
            said.instances.iter().filter(|instance| instance.node == host.name()).collect();
        look_at(host, declared, &here).await.with_context(|| format!("on {}", host.name()))?;
    }
    for from in lab.hosts() {
        for instance in said.instances.iter().filter(|instance| instance.node != from.name()) {
            let to = lab.hosts().iter().find(|host| host.name() == instance.node);
            let to = to.with_context(|| format!("{} is on no host", instance.name))?;
            let route = from.exec(&["ip", "route", "get", &instance.address]).await?.ok()?;
            let via = format!("via {} ", to.address());
            ensure!(route.contains(&via), "{} leads to {} by {route}", from.name(), instance.name);
        }
    }
    Ok(())
}

async fn look_at(host: &Host, declared: &Declared, here: &[&InstanceRow]) -> Result<()> {
    let names: BTreeSet<&str> = here.iter().map(|instance| instance.name.as_str()).collect();
    let containers = host.containers().await?;
    let running: Vec<_> = containers.iter().filter(|container| container.pid.is_some()).collect();
    let in_engine: BTreeSet<&str> = running.iter().map(|one| one.instance.as_str()).collect();
    ensure!(running.len() == in_engine.len(), "an instance runs twice: {running:#?}");
    ensure!(in_engine == names, "the engine runs {in_engine:?}, not {names:?}");
    for container in &containers {
        ensure!(names.contains(container.instance.as_str()), "{container:?} is left");
    }
    for container in &running {
        let instance = here.iter().find(|instance| instance.name == container.instance);
        let instance = instance.with_context(|| format!("{container:?}"))?;
        let pid = container.main_process()?;
        let namespace = |path: &Path| fs::read_link(path).map(|link| link.display().to_string());
        let its = namespace(Path::new(&format!("/proc/{pid}/ns/net")))?;
        let hosts = namespace(Path::new("/proc/self/ns/net"))?;
        ensure!(its != hosts, "{} is in the machine's network namespace", instance.name);
        let addresses = crate::lab::run(
            "nsenter",
            &[
                &format!("--net=/proc/{pid}/ns/net"),
                "ip",
                "-json",
                "-4",
                "address",
                "show",
                "dev",
                "eth0",
            ],
        )
        .await?;
        let addresses: Value = addresses.json()?;
        let address = &addresses[0]["addr_info"][0]["local"];
        ensure!(
            *address == instance.address,
            "{} has {address}, not {}",
            instance.name,
            instance.address
        );
        let environment = fs::read(format!("/proc/{pid}/environ"))?;
        let workload = declared.get(&instance.workload).context("it is not declared")?;
        let version = format!("VERSION={}\0", workload.version);
        let environment = String::from_utf8_lossy(&environment);
        ensure!(
            environment.contains(&version),
            "{} is not of version {}",
            instance.name,
            workload.version
        );
    }
    look_at_leftovers(host, &names, here).await?;
    check_marks(host, declared, here).await
}

/// Namespaces, links, routes and control groups: as many as instances.
async fn look_at_leftovers(
    host: &Host,
    names: &BTreeSet<&str>,
    here: &[&InstanceRow],
) -> Result<()> {
    let sandboxes = names_in(&host.dir().join("run/netns"));
    let wanted: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    ensure!(sandboxes == wanted, "there are sandboxes {sandboxes:?} for {wanted:?}");
    let links: Value = host.exec(&["ip", "-json", "link", "show", "type", "veth"]).await?.json()?;
    let links = links.as_array().map(Vec::as_slice).unwrap_or_default();
    let name_of = |link: &Value| link["ifname"].as_str().unwrap_or_default().to_owned();
    let links: Vec<String> =
        links.iter().map(name_of).filter(|name| name.starts_with("dw-")).collect();
    ensure!(links.len() == here.len(), "{} instances have the links {links:?}", here.len());
    for instance in here {
        let route = host.exec(&["ip", "route", "get", &instance.address]).await?.ok()?;
        ensure!(route.contains(" dev dw-"), "{} is reached by {route}", instance.name);
    }
    let journals = names_in(&host.dir().join("agent/journals"));
    let left: Vec<&String> = journals
        .iter()
        .filter(|file| !file.strip_suffix(".json").is_some_and(|name| names.contains(name)))
        .collect();
    ensure!(left.is_empty(), "journals are left: {left:?}");
    Ok(())
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A volume that was marked is the one that its instance has.
async fn check_marks(host: &Host, declared: &Declared, here: &[&InstanceRow]) -> Result<()> {
    for container in host.containers().await? {
        let Some(instance) = here.iter().find(|one| one.name == container.instance) else {
            continue;
        };
        let workload = declared.get(&instance.workload).context("it is not declared")?;
        if !workload.has_volume || !declared.is_marked(&instance.name) {
            continue;
        }
        let root = format!("/proc/{}/root{MARK}", container.main_process()?);
        let mark = fs::read_to_string(&root)
            .with_context(|| format!("the volume of {} is another", instance.name))?;
        ensure!(mark.trim() == instance.name, "{} has the volume of {mark}", instance.name);
    }
    Ok(())
}

/// Writes the name of each instance of a workload into its volume.
///
/// # Errors
/// If an engine does not answer, or the file cannot be written.
pub(super) async fn mark_volumes(lab: &Lab, declared: &mut Declared, name: &str) -> Result<()> {
    if !declared.get(name).is_some_and(|workload| workload.has_volume) {
        return Ok(());
    }
    for container in lab.containers().await? {
        let is_its =
            container.instance.rsplit_once('-').is_some_and(|(workload, _)| workload == name);
        if let (true, Ok(pid)) = (is_its, container.main_process()) {
            let mark = format!("/proc/{pid}/root{MARK}");
            fs::write(&mark, &container.instance)
                .with_context(|| format!("cannot write {mark}"))?;
            declared.mark(container.instance);
        }
    }
    Ok(())
}
