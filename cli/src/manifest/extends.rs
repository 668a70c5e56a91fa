//! `extends`: a service that begins as another one, of the same file or of one beside it, by Compose's rules for merging.
//!
//! A mapping is merged key by key, a list is added to, what is mounted or given at the same place is replaced, and so is all
//! else. Paths in another file are beside that file. What is not extended of another file is not looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files::{self, Files};
use super::problem::Problem;
use super::tree::{Item, Key, Scalar, Tree};

/// How long a chain of services that extend each other may be.
const CHAIN_MAX: usize = 32;
/// How many other files may be read.
const FILES_MAX: usize = 32;

/// Keys that are replaced, although they may be lists or mappings.
const REPLACED: &[&str] = &["command", "entrypoint", "test", "exec", "http", "ulimit"];
/// Keys whose lists are mappings, `KEY=VALUE`.
const PAIRS: &[&str] = &["environment", "labels", "annotations", "sysctls", "extra_hosts"];
/// Keys whose items have a place inside, by which one replaces another.
const PLACED: &[&str] = &["volumes", "devices", "configs", "secrets"];

/// Whether any service of a file extends another.
pub(super) fn is_used(file: &Item) -> bool {
    services(file).is_some_and(|(_, services)| {
        services.iter().any(|(_, service)| service.get("extends").is_some())
    })
}

/// The file with each service written out.
///
/// # Errors
/// What cannot be extended, and why.
pub(super) fn resolve(file: Item, files: &dyn Files) -> Result<Item, Vec<Problem>> {
    let mut resolver = Resolver { files, read: BTreeMap::new(), own: &file };
    let Some((key, all)) = services(&file) else { return Ok(file) };
    let (mut resolved, mut problems) = (Vec::new(), Vec::new());
    for (name, _) in all {
        match resolver.service(None, &name.name, &mut Vec::new()) {
            Ok(service) => resolved.push((name.clone(), service)),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let key = key.to_owned();
    let mut whole = file;
    if let Tree::Map(entries) = &mut whole.value {
        for (name, value) in entries.iter_mut().filter(|(name, _)| name.name == key) {
            *value = Item { value: Tree::Map(std::mem::take(&mut resolved)), ..value.clone() };
            name.origin = name.origin.clone();
        }
    }
    Ok(whole)
}

fn services(file: &Item) -> Option<(&'static str, &[(Key, Item)])> {
    ["services", "workloads"].into_iter().find_map(|key| Some((key, file.get(key)?.entries()?)))
}

struct Resolver<'a> {
    files: &'a dyn Files,
    /// Other files, by their paths beside the first.
    read: BTreeMap<PathBuf, Item>,
    own: &'a Item,
}

impl Resolver<'_> {
    /// A service with all that it extends; `trail` are those that lead to it.
    fn service(
        &mut self,
        file: Option<&Path>,
        name: &str,
        trail: &mut Vec<(Option<PathBuf>, String)>,
    ) -> Result<Item, Problem> {
        let whole = file.and_then(|file| self.read.get(file)).unwrap_or(self.own);
        let found =
            services(whole).and_then(|(_, all)| all.iter().find(|(key, _)| key.name == name));
        let Some((_, service)) = found.cloned() else {
            return Err(Problem {
                position: None,
                message: format!("there is no service {name:?}"),
            });
        };
        let Some(extends) = service.get("extends").cloned() else { return Ok(service) };
        let wrong = |message: String| extends.origin.problem(format!("extends: {message}"));
        let step = (file.map(Path::to_owned), name.to_owned());
        if trail.contains(&step) {
            let names: Vec<&str> = trail.iter().map(|(_, name)| name.as_str()).collect();
            return Err(wrong(format!(
                "{} and {name} extend each other in a circle; break it",
                names.join(", ")
            )));
        }
        if trail.len() >= CHAIN_MAX {
            return Err(wrong(format!("the chain has more than {CHAIN_MAX} services")));
        }
        let of = |key| extends.get(key).and_then(Item::scalar);
        let (base, other) = match extends.scalar() {
            Some(name) => (Some(name), None),
            None => (of("service"), of("file")),
        };
        let Some(base) = base else {
            return Err(wrong(
                "write the name of a service, or {file: FILE, service: NAME}".into(),
            ));
        };
        let beside = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let other = other.map(|other| files::beside(beside, other));
        if let Some(other) = &other {
            self.open(other).map_err(&wrong)?;
        }
        let of_file = other.as_deref().or(file);
        trail.push(step);
        let extended = self.service(of_file, base, trail);
        trail.pop();
        let extended = extended.map_err(|problem| match problem.position {
            Some(_) => problem,
            None => {
                let place =
                    of_file.map(|file| format!(" in {}", file.display())).unwrap_or_default();
                wrong(format!("{}{place}", problem.message))
            }
        })?;
        let extended = match &other {
            None => extended,
            Some(other) => {
                let from = other.parent().unwrap_or(Path::new(""));
                let extended = rebased(extended, beside, from);
                extended.moved(&other.display().to_string(), &extends.origin)
            }
        };
        let mut merged = merge("", extended, service);
        if let Tree::Map(entries) = &mut merged.value {
            entries.retain(|(key, _)| key.name != "extends");
        }
        Ok(merged)
    }

    fn open(&mut self, path: &Path) -> Result<(), String> {
        if self.read.contains_key(path) {
            return Ok(());
        }
        if self.read.len() >= FILES_MAX {
            return Err(format!("more than {FILES_MAX} files are extended"));
        }
        let text = files::text(self.files, path)?;
        let tree =
            super::tree_of(&text).map_err(|problem| format!("{}{problem}", path.display()))?;
        self.read.insert(path.to_owned(), tree);
        Ok(())
    }
}

/// The one, with what the other says beside and instead.
fn merge(key: &str, base: Item, over: Item) -> Item {
    if matches!(over.value, Tree::Null) {
        // What is left open is as it was.
        return base;
    }
    if REPLACED.contains(&key) {
        return over;
    }
    let is_pairs = PAIRS.contains(&key);
    let (base, over) = if is_pairs { (pairs(base), pairs(over)) } else { (base, over) };
    let origin = over.origin.clone();
    let value = match (base.value, over.value) {
        (Tree::Map(mut entries), Tree::Map(over)) => {
            for (key, value) in over {
                match entries.iter_mut().find(|(there, _)| there.name == key.name) {
                    // A variable without a value is one of whoever applies the file.
                    Some(entry) if is_pairs => *entry = (key, value),
                    Some(entry) => {
                        let before = std::mem::replace(&mut entry.1, Item::new(Tree::Null));
                        *entry = (key.clone(), merge(&key.name, before, value));
                    }
                    None => entries.push((key, value)),
                }
            }
            Tree::Map(entries)
        }
        (base @ Tree::List(_), over) | (base, over @ Tree::List(_)) => {
            let (base, over) = (Item::new(base), Item { value: over, origin: origin.clone() });
            Tree::List(joined(key, &base, &over))
        }
        (_, over) => over,
    };
    Item { value, origin }
}

/// The items of both, without those whose place others take.
fn joined(key: &str, base: &Item, over: &Item) -> Vec<Item> {
    let place = |item: &Item| match PLACED.contains(&key) {
        true => place(item),
        false => item.scalar().map(str::to_owned),
    };
    let mut items: Vec<Item> = Vec::new();
    for item in base.items().iter().chain(over.items()) {
        let at = place(item);
        match items.iter_mut().find(|before| at.is_some() && place(before) == at) {
            Some(before) => *before = item.clone(),
            None => items.push(item.clone()),
        }
    }
    items
}

/// Where something is inside: `target`, or the second part of its short spelling.
fn place(item: &Item) -> Option<String> {
    let long = ["target", "source"].into_iter().find_map(|key| item.get(key)?.scalar());
    let text = item.scalar().map(|text| text.split(':').nth(1).unwrap_or(text));
    long.or(text).map(|place| place.trim_end_matches('/').to_owned())
}

/// `KEY=VALUE` in a list as a mapping.
fn pairs(item: Item) -> Item {
    let Tree::List(items) = &item.value else { return item };
    let pair = |item: &Item| {
        let text = item.scalar()?;
        let (key, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
            Some((key, value)) => (key, Tree::Scalar(Scalar::text(value))),
            None => (text, Tree::Null),
        };
        let origin = item.origin.clone();
        Some((Key { name: key.to_owned(), origin: origin.clone() }, Item { value, origin }))
    };
    Item { value: Tree::Map(items.iter().filter_map(pair).collect()), origin: item.origin.clone() }
}

/// A service of a file in another directory: the paths that are beside that file, as paths beside this one.
fn rebased(mut service: Item, beside: &Path, from: &Path) -> Item {
    let from = from.strip_prefix(beside).unwrap_or(from);
    let moved = |text: &str| match from.as_os_str().is_empty() || Path::new(text).is_absolute() {
        true => text.to_owned(),
        false => files::beside(from, text).display().to_string(),
    };
    let rename = |item: &mut Item, rename: &dyn Fn(&str) -> String| {
        if let Tree::Scalar(scalar) = &mut item.value {
            *scalar = Scalar::text(rename(&scalar.text));
        }
    };
    let short = |text: &str| match text.starts_with('.') {
        true => format!("./{}", moved(text)),
        false => text.to_owned(),
    };
    let Tree::Map(entries) = &mut service.value else { return service };
    for (key, value) in entries {
        let (inside, change): (&str, &dyn Fn(&str) -> String) = match key.name.as_str() {
            "env_file" => ("path", &moved),
            "volumes" => ("source", &short),
            _ => continue,
        };
        let one = |item: &mut Item| match &mut item.value {
            Tree::Map(entries) => {
                let those = entries.iter_mut().filter(|(key, _)| key.name == inside);
                those.for_each(|(_, value)| rename(value, change));
            }
            _ => rename(item, change),
        };
        match &mut value.value {
            Tree::List(items) => items.iter_mut().for_each(one),
            _ => one(value),
        }
    }
    service
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::files::Given;
    use crate::manifest::tree::Written;

    const COMMON: &str = "\
services:
  base:
    image: base:1
    environment: [A=1, B=2]
    env_file: one.env
    volumes: [./site:/site, 'data:/data']
    command: [a, b]
    healthcheck: {test: [CMD, a], interval: 5s}
    deploy: {resources: {limits: {memory: 1g}}}
    cap_drop: [KILL]
    build: .
  odd: {extends: nobody}
";

    fn resolved(text: &str) -> Result<String, String> {
        let files = Given::from([("lib/common.yaml", COMMON)]);
        let tree = crate::manifest::tree_of(text).map_err(|problem| problem.to_string())?;
        assert!(is_used(&tree));
        let said = |problems: Vec<Problem>| {
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        resolve(tree, &files).map(|tree| Written::of(&tree).text).map_err(said)
    }

    #[test]
    fn services_are_merged_by_composes_rules() {
        let text = "\
services:
  web:
    extends: {file: lib/common.yaml, service: base}
    environment: {B: '3', C: }
    env_file: [two.env]
    volumes: ['mine:/site/']
    command: c
    healthcheck: {interval: 1s}
    deploy: {replicas: 2, resources: {limits: {cpus: 1}}}
    cap_drop: [KILL, CHOWN]
  more:
    extends: web
    image: more:1
";
        insta::assert_snapshot!(resolved(text).unwrap());
    }

    #[test]
    fn what_cannot_be_extended_is_said_where_it_is() {
        for (text, says) in [
            ("services: {a: {extends: b}}", "1:25: extends: there is no service \"b\""),
            (
                "services: {a: {extends: b}, b: {extends: {service: a}}}",
                "extend each other in a circle",
            ),
            ("services: {a: {extends: a}}", "extend each other in a circle"),
            (
                "services: {a: {extends: {file: no.yaml, service: b}}}",
                "extends: cannot read no.yaml: ",
            ),
            ("services: {a: {extends: {file: lib/common.yaml}}}", "write the name of a service"),
            (
                "services: {a: {extends: {file: lib/common.yaml, service: b}}}",
                "there is no service \"b\" in lib/common.yaml",
            ),
            (
                "services: {a: {extends: {file: lib/common.yaml, service: odd}}}",
                "no service \"nobody\"",
            ),
        ] {
            let refused = resolved(text).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
        let chain: String = (0..40).map(|n| format!("  s{n}: {{extends: s{}}}\n", n + 1)).collect();
        let refused = resolved(&format!("services:\n{chain}  s40: {{image: a}}\n")).unwrap_err();
        assert!(refused.contains("more than 32 services"), "{refused}");
    }
}
