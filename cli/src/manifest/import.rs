//! A Compose file, written anew in the format of dwell: what has another form here is given it, and each change is explained.
//!
//! What a program could miss is left as it is, so that the reader refuses what is written: nothing is lost without a word.

#[cfg(test)]
mod corpus;
mod deploy;
mod mounts;
mod networks;
mod ports;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::files::{Files, beside};
use super::problem::{self, ManifestError, Problem};
use super::tree::{Item, Origin, Tree, Written};
use super::{Surroundings, extends, lower, parse_text, text, tree_of, variables};

/// What a file was made into.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The new file.
    pub(crate) text: String,
    /// What was changed in it, and what is to be done, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// Keys of a service that say nothing here, and why that is so.
const DROPPED: &[(&str, &str)] = &[
    ("attach", "nothing is attached to an instance"),
    (
        "container_name",
        "an instance is called WORKLOAD-NUMBER, and is reached by that name and by the workload's",
    ),
    ("cpu_shares", "processors are shared by \"cpus\""),
    ("cpuset", "instances are not bound to single processors; \"cpus\" says how much they get"),
    (
        "depends_on",
        "all start independently; a program that cannot go on without another is started again until it can",
    ),
    ("develop", "dwell runs images and does not watch sources"),
    ("domainname", "an instance is called NAME in the cluster's zone"),
    (
        "links",
        "instances reach each other by the names of their workloads; another name after ':' is not known any more",
    ),
    (
        "logging",
        "the node keeps the newest 30 MiB of what an instance prints, and \"dwell logs\" shows them",
    ),
    ("mac_address", "every instance has a MAC address of its own for life"),
    ("mem_reservation", "what is promised is what \"mem_limit\" says"),
    ("mem_swappiness", "memory has one limit, \"mem_limit\""),
    ("memswap_limit", "memory has one limit, \"mem_limit\""),
    ("oom_kill_disable", "memory has one limit, \"mem_limit\""),
    ("oom_score_adj", "memory has one limit, \"mem_limit\""),
];

/// Makes a Compose file into one of dwell's.
///
/// # Errors
/// All of it that has no form here, and what to do instead; `name` is what the file is called there.
pub(crate) fn import(
    name: &str,
    bytes: &[u8],
    surroundings: &Surroundings<'_>,
) -> Result<Imported, ManifestError> {
    let (written, notes, more) =
        rewritten(bytes, surroundings).map_err(|problems| ManifestError::new(name, problems))?;
    let notes = problem::together(name, notes).chain(problem::together(name, more)).collect();
    Ok(Imported { text: written, notes })
}

type Rewritten = (String, Vec<Problem>, Vec<Problem>);

fn rewritten(bytes: &[u8], surroundings: &Surroundings<'_>) -> Result<Rewritten, Vec<Problem>> {
    let text = text(bytes).map_err(|problem| vec![problem])?;
    let mut file = tree_of(text).map_err(|problem| vec![problem])?;
    let mut import = Import { files: surroundings.files, notes: Vec::new() };
    if extends::is_used(&file) {
        file = extends::resolve(file, surroundings.files)?;
        import.notes.push(whole("what extends another workload is written out".to_owned()));
    }
    import.file(&mut file);
    let written = Written::of(&file);
    let mut variables = surroundings.variables.clone();
    for name in variables::unset_names(&written.text, surroundings.variables) {
        import
            .notes
            .push(whole(format!("variable {name:?} is to be set when the file is applied")));
        // Any value: what it will be is not known.
        variables.insert(name.to_owned(), "1".to_owned());
    }
    let all = ["*".to_owned()];
    let lenient = Lenient(surroundings.files);
    let surroundings = Surroundings { variables: &variables, files: &lenient, profiles: &all };
    let here = |problems: Vec<Problem>| -> Vec<Problem> {
        problems.into_iter().map(|problem| written.origin_of(problem)).collect()
    };
    match parse_text(&written.text, &surroundings) {
        Ok((_, warnings)) => {
            let warnings = here(warnings);
            Ok((written.text, import.notes, warnings))
        }
        Err(problems) => Err(here(problems)),
    }
}

fn whole(message: String) -> Problem {
    Problem { position: None, message }
}

/// Files that are not there yet are empty.
struct Lenient<'a>(&'a dyn Files);

impl Files for Lenient<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.0.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }
}

struct Import<'a> {
    files: &'a dyn Files,
    notes: Vec<Problem>,
}

impl Import<'_> {
    fn note(&mut self, origin: &Origin, message: impl Into<String>) {
        self.notes.push(origin.problem(message.into()));
    }

    /// Says that a key is gone.
    fn dropped(&mut self, item: &mut Item, key: &str, why: &str) {
        if let Some((key, _)) = item.remove(key) {
            self.note(&key.origin, format!("{:?} is left out: {why}", key.name));
        }
    }

    fn file(&mut self, file: &mut Item) {
        for key in ["version", "name"] {
            file.remove(key);
        }
        if let Tree::Map(entries) = &mut file.value {
            entries.retain(|(key, _)| !key.name.starts_with("x-"));
            for (key, _) in entries.iter_mut().filter(|(key, _)| key.name == "services") {
                "workloads".clone_into(&mut key.name);
            }
        }
        self.networks(file);
        self.volumes(file);
        let Some(services) = file.get_mut("workloads").and_then(Item::entries_mut) else { return };
        for (key, service) in services {
            self.service(service);
            if let Ok(name) = lower::name_of(&key.name)
                && name.as_str() != key.name
            {
                let message = format!(
                    "{:?} is called {name}, since names are names in DNS; whoever reaches it by its name has to say {name}",
                    key.name
                );
                self.note(&key.origin, message);
                key.name = name.to_string();
            }
        }
    }

    fn service(&mut self, service: &mut Item) {
        for (key, why) in DROPPED {
            self.dropped(service, key, why);
        }
        if service.get("image").is_some() {
            self.dropped(
                service,
                "build",
                "dwell runs images; build this one, and push it by the name under \"image\" to a registry that the nodes reach",
            );
        }
        for (key, usual) in [
            ("ipc", &["private", "shareable"][..]),
            ("network_mode", &["bridge", "default"]),
            ("cgroup", &["private"]),
        ] {
            if service.get(key).and_then(Item::scalar).is_some_and(|mode| usual.contains(&mode)) {
                self.dropped(service, key, "that is so for every instance");
            }
        }
        self.platform(service);
        self.ports(service);
        self.mounts(service);
        self.deploy(service);
        self.env_files(service);
    }

    /// A platform is a condition on nodes.
    fn platform(&mut self, service: &mut Item) {
        let platform = service.get("platform").and_then(Item::scalar);
        let arch = match platform.and_then(|platform| platform.strip_prefix("linux/")) {
            Some("amd64") => "x86_64",
            Some("arm64" | "arm64/v8") => "aarch64",
            _ => return,
        };
        let Some((key, _)) = service.remove("platform") else { return };
        service.push_text("constraints", &format!("node.arch=={arch}"));
        self.note(&key.origin, format!("\"platform\" is a constraint: only nodes with {arch}"));
    }

    fn env_files(&mut self, service: &Item) {
        let named = service.get("env_file").map(Item::items).unwrap_or_default();
        let mut lacking = BTreeSet::new();
        for item in named {
            let path = item.scalar().or_else(|| item.get("path")?.scalar());
            let is_optional = item.get("required").and_then(Item::scalar) == Some("false");
            let Some(path) = path.filter(|path| !is_optional && !path.contains('$')) else {
                continue;
            };
            let read = self.files.read(&beside(Path::new(""), path));
            if read.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                && lacking.insert(path)
            {
                self.note(&item.origin, format!("{path} has to be there when the file is applied"));
            }
        }
    }
}
