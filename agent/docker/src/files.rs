//! What a container finds of its node: its `/etc/hosts` and `/etc/resolv.conf`.
//!
//! Docker would put the host's own two files into a container of its host network. Ours belong to one
//! container and lie in `<data>/instances/<instance>/g<generation>`, where they outlive a reboot. They are written
//! before each start, so that whatever a loss of power or somebody did to them is mended by then. A container has copies of
//! them, which `dwell-oci` makes in memory at each start: it can write those, and nothing of the agent's disk.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dwell_core::id::{Generation, InstanceName};
use dwell_core::instance::Assigned;
use dwell_core::workload::Process;

use super::client::NAME;
use dwell_daemon::durable;
use dwell_engine::EngineError;
use dwell_network::{GATEWAY, RESOLV_CONF};

/// How many domains to search in every C library takes, and how long they may be together, in bytes.
const SEARCH_MAX: (usize, usize) = (6, 255);
/// How many of the host's options are taken over.
const OPTIONS_MAX: usize = 8;

/// Whose files are being written or removed just now, so that nobody removes what another one writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<BTreeSet<Owner>>>);

/// The files of a container are one's own until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    owner: Owner,
}

/// Whose files: those of the container of an instance at a generation.
pub(super) type Owner = (InstanceName, Generation);

impl Claims {
    /// `None` while somebody else has them.
    pub(super) fn take(&self, owner: Owner) -> Option<Claim> {
        let is_free = self.owners().insert(owner.clone());
        is_free.then(|| Claim { claims: self.clone(), owner })
    }

    fn owners(&self) -> MutexGuard<'_, BTreeSet<Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.owners().remove(&self.owner);
    }
}

/// Where the files of all containers are.
pub(super) fn root(data: &Path) -> PathBuf {
    data.join("instances")
}

/// Where the files of a container are.
pub(super) fn directory(data: &Path, instance: &InstanceName, generation: Generation) -> PathBuf {
    root(data).join(instance.to_string()).join(format!("g{generation}"))
}

/// Writes the files of the container of a generation and returns where they are. With a zone, this node answers DNS
/// for it. What a container of an older generation than `assigned` has is left as it is, if it is there: it was made
/// from another template.
pub(super) fn write(
    data: &Path,
    assigned: &Assigned,
    generation: Generation,
    zone: Option<&str>,
) -> Result<PathBuf, EngineError> {
    let directory = directory(data, &assigned.instance, generation);
    let [host, uplink] = RESOLV_CONF.map(|path| fs::read_to_string(path).unwrap_or_default());
    let resolvers = match zone {
        Some(zone) => own_resolv_conf(zone, &host, &assigned.template.process),
        None => declared(&hosts_resolv_conf(&host, &uplink), &assigned.template.process),
    };
    // Whatever the agent's umask: users inside have to be able to read them.
    let write = |name, text: String| {
        let path = directory.join(name);
        let is_there = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() > 0);
        if is_there && generation != assigned.generation {
            return Ok(());
        }
        durable::replace_volatile(&path, text.as_bytes(), 0o644)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))
    };
    fs::create_dir_all(&directory)
        .and_then(|()| write("hosts", hosts(assigned, zone)))
        .and_then(|()| write("resolv.conf", resolvers))
        .map_err(|error| EngineError::Other {
            engine: NAME,
            operation: "write the files of a container",
            reason: format!("{}: {error}", directory.display()),
        })?;
    Ok(directory)
}

/// Removes the files of a container; what is gone is fine.
pub(super) fn remove(
    data: &Path,
    instance: &InstanceName,
    generation: Generation,
) -> io::Result<()> {
    let directory = directory(data, instance, generation);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Fails while another generation has its files there, which is as it should be.
    directory.parent().map_or(Ok(()), |parent| fs::remove_dir(parent).or(Ok(())))
}

/// All containers of which there are files.
pub(super) fn owners(data: &Path) -> io::Result<BTreeSet<Owner>> {
    let mut owners = BTreeSet::new();
    for entry in list(&root(data))? {
        let Some(instance) = entry.to_str().and_then(|name| name.parse::<InstanceName>().ok())
        else {
            continue;
        };
        for entry in list(&root(data).join(entry))? {
            let generation = entry.to_str().and_then(|name| name.strip_prefix('g')?.parse().ok());
            owners.extend(generation.map(|number| (instance.clone(), Generation(number))));
        }
    }
    Ok(owners)
}

/// The names in a directory; none if it is not there.
fn list(directory: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.file_name())).collect(),
    }
}

/// The first name of an address is its canonical one: `hostname -f` prints the name with the zone, if there is one.
fn hosts(assigned: &Assigned, zone: Option<&str>) -> String {
    let (address, name) = (assigned.address, assigned.hostname());
    let instance = assigned.instance.to_string();
    let full = zone.map(|zone| format!("{instance}.{zone} ")).unwrap_or_default();
    let alias = if name == instance { String::new() } else { format!(" {instance}") };
    let extra = assigned.template.process.extra_hosts.iter();
    let extra: String = extra.map(|(name, at)| format!("{at}\t{name}\n")).collect();
    format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{full}{name}{alias}\n{extra}"
    )
}

/// The node's own server, and where and how the host looks for names.
///
/// There is no second server, as that would not know the zone, and some C libraries take the first answer of
/// any. Where the instance declares where and how to look, that counts in place of the host's.
fn own_resolv_conf(zone: &str, host: &str, process: &Process) -> String {
    let host = &declared(host, process);
    let (mut search, mut options) = (Vec::new(), Vec::new());
    for line in host.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            // The last one counts.
            Some("search" | "domain") => search = words.filter(|domain| *domain != ".").collect(),
            Some("options") => options.extend(words),
            _ => {}
        }
    }
    let mut domains = zone.to_owned();
    for domain in search.into_iter().take(SEARCH_MAX.0 - 1) {
        if domains.len() + 1 + domain.len() > SEARCH_MAX.1 {
            break;
        }
        domains = domains + " " + domain;
    }
    let options: String =
        options.into_iter().take(OPTIONS_MAX).map(|option| format!("options {option}\n")).collect();
    format!("nameserver {GATEWAY}\nsearch {domains}\n{options}")
}

/// With what an instance declares in place of the same of its host.
fn declared(host: &str, process: &Process) -> String {
    let Process { dns_search, dns_options, .. } = process;
    let is_kept = |line: &&str| match line.split_whitespace().next() {
        Some("search" | "domain") => dns_search.is_empty(),
        Some("options") => dns_options.is_empty(),
        _ => true,
    };
    let mut lines: String = host.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
    for (word, declared) in [("search", dns_search), ("options", dns_options)] {
        if !declared.is_empty() {
            lines += &format!("{word} {}\n", declared.join(" "));
        }
    }
    lines
}

/// The host's resolvers without those that only the host itself can reach: a loopback address means
/// the sandbox's own inside it. If nothing is left, those behind systemd's local resolver.
fn hosts_resolv_conf(host: &str, uplink: &str) -> String {
    let reachable = |line: &str| {
        let server = line.split_whitespace().nth(1).unwrap_or_default();
        server.split('%').next().is_some_and(|address| {
            address.parse::<IpAddr>().is_ok_and(|address| {
                !address.is_loopback() && address != IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            })
        })
    };
    let is_server = |line: &str| line.split_whitespace().next() == Some("nameserver");
    let usable = |text: &str| text.lines().any(|line| is_server(line) && reachable(line));
    let chosen = if usable(host) || !usable(uplink) { host } else { uplink };
    let meant = |line: &&str| match line.split_whitespace().next() {
        Some("nameserver") => reachable(line),
        Some("search" | "domain" | "options") => true,
        _ => false,
    };
    chosen.lines().filter(meant).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use dwell_core::workload::Template;

    use super::*;
    use dwell_engine::fake;

    #[test]
    fn resolvers_that_work_in_a_sandbox() {
        let uplink = "# systemd\nnameserver 192.0.2.1\nsearch example.com\n";
        for (host, expected) in [
            ("nameserver 192.0.2.9\noptions edns0\n", "nameserver 192.0.2.9\noptions edns0\n"),
            ("nameserver 127.0.0.53\nsearch a\n", "nameserver 192.0.2.1\nsearch example.com\n"),
            ("nameserver ::1\nnameserver 192.0.2.9\n", "nameserver 192.0.2.9\n"),
            ("nameserver fe80::1%eth0\n", "nameserver fe80::1%eth0\n"),
            ("", "nameserver 192.0.2.1\nsearch example.com\n"),
            ("nameserver nonsense\n", "nameserver 192.0.2.1\nsearch example.com\n"),
        ] {
            assert_eq!(hosts_resolv_conf(host, uplink), expected, "{host:?}");
        }
        assert_eq!(hosts_resolv_conf("nameserver 127.0.0.1\nsearch a\n", ""), "search a\n");
    }

    #[test]
    fn where_and_how_the_host_looks_is_kept() {
        let many = "search a b c d e f g\n";
        let long = format!("search {} b\n", "a".repeat(250));
        for (host, expected) in [
            ("", "search dwell\n"),
            ("nameserver 192.0.2.1\nsearch a b\n", "search dwell a b\n"),
            ("search a\ndomain b\n", "search dwell b\n"),
            ("search .\n", "search dwell\n"),
            (many, "search dwell a b c d e\n"),
            (&long, "search dwell\n"),
            (
                "options ndots:2 edns0\noptions rotate\n",
                "search dwell\noptions ndots:2\noptions edns0\noptions rotate\n",
            ),
        ] {
            let expected = format!("nameserver 169.254.1.1\n{expected}");
            assert_eq!(own_resolv_conf("dwell", host, &Process::default()), expected, "{host:?}");
        }
    }

    #[test]
    fn where_and_how_is_what_is_declared() {
        let host = "nameserver 192.0.2.1\nsearch a b\noptions edns0\n";
        let process = Process {
            dns_search: vec!["corp.example".into(), "example".into()],
            dns_options: vec!["ndots:2".into()],
            ..Process::default()
        };
        let own = own_resolv_conf("dwell", host, &process);
        assert_eq!(
            own,
            "nameserver 169.254.1.1\nsearch dwell corp.example example\noptions ndots:2\n"
        );
        let plain = declared(host, &process);
        assert_eq!(plain, "nameserver 192.0.2.1\nsearch corp.example example\noptions ndots:2\n");
        assert_eq!(declared(host, &Process::default()), host);
    }

    #[test]
    fn hosts_names_the_instance_once() {
        let mut template = Template::of_image("a");
        let text = hosts(&fake::assigned("web-0", 1, template.clone()), None);
        assert!(text.ends_with("10.80.0.1\tweb-0\n"), "{text}");
        // `hostname -f` takes the first.
        let text = hosts(&fake::assigned("web-0", 1, template.clone()), Some("dwell"));
        assert!(text.ends_with("10.80.0.1\tweb-0.dwell web-0\n"), "{text}");
        template.hostname = "db".to_owned();
        let text = hosts(&fake::assigned("web-0", 1, template), Some("dwell"));
        assert!(text.ends_with("10.80.0.1\tweb-0.dwell db web-0\n"), "{text}");
    }

    #[test]
    fn files_come_and_go_by_generation() {
        let data = tempfile::tempdir().unwrap();
        let (old, new) = (
            fake::assigned("web-0", 1, Template::of_image("a")),
            fake::assigned("web-0", 2, Template::of_image("a")),
        );
        let first = write(data.path(), &old, old.generation, None).unwrap();
        let second = write(data.path(), &new, new.generation, Some("dwell")).unwrap();
        remove(data.path(), &old.instance, old.generation).unwrap();
        assert!(!first.exists() && second.join("hosts").exists());
        assert_eq!(owners(data.path()).unwrap(), [(new.instance.clone(), new.generation)].into());
        remove(data.path(), &new.instance, new.generation).unwrap();
        remove(data.path(), &new.instance, new.generation).unwrap();
        assert!(!second.parent().unwrap().exists());
        assert_eq!(owners(data.path()).unwrap(), BTreeSet::new());
    }

    #[test]
    fn files_have_one_who_works_on_them() {
        let (claims, web) = (Claims::default(), ("web-0".parse().unwrap(), Generation(1)));
        let other: Owner = ("web-0".parse().unwrap(), Generation(2));
        let claim = claims.take(Owner::clone(&web)).unwrap();
        assert!(claims.take(web.clone()).is_none());
        assert!(claims.take(other).is_some());
        drop(claim);
        assert!(claims.take(web).is_some());
    }

    #[test]
    fn files_that_were_lost_are_written_before_the_next_start() {
        let data = tempfile::tempdir().unwrap();
        let assigned = |generation| fake::assigned("web-0", generation, Template::of_image("a"));
        let (old, new) = (assigned(1), assigned(2));
        let directory = write(data.path(), &old, old.generation, Some("dwell")).unwrap();
        let hosts = fs::read_to_string(directory.join("hosts")).unwrap();
        let resolvers = directory.join("resolv.conf");
        fs::write(&resolvers, "nameserver 192.0.2.7\n").unwrap();
        fs::write(directory.join("hosts"), "").unwrap();
        // An update may have to go back to it: what it has is kept, what it lacks is made.
        write(data.path(), &new, old.generation, Some("dwell")).unwrap();
        assert_eq!(fs::read_to_string(directory.join("hosts")).unwrap(), hosts);
        assert_eq!(fs::read_to_string(&resolvers).unwrap(), "nameserver 192.0.2.7\n");
        fs::remove_dir_all(data.path().join("instances")).unwrap();
        write(data.path(), &old, old.generation, Some("dwell")).unwrap();
        assert!(fs::read_to_string(&resolvers).unwrap().contains("search dwell"));
    }
}
