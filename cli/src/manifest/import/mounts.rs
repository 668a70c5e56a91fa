//! What is mounted: directories beside the file are volumes, since nodes do not have them.

use std::path::Path;

use super::Import;
use crate::manifest::files::beside;
use crate::manifest::tree::{Item, Origin, Tree};

/// How long the name of a volume is at most, that is made from a path.
const NAME_MAX: usize = 40;

impl Import<'_> {
    /// The volumes at the top of the file.
    pub(super) fn volumes(&mut self, file: &mut Item) {
        let Some(volumes) = file.get_mut("volumes").and_then(Item::entries_mut) else { return };
        for (_, volume) in volumes {
            if volume.get("driver").and_then(Item::scalar) == Some("local") {
                volume.remove("driver");
            }
            self.dropped(
                volume,
                "external",
                "every instance has a volume of its own, which is empty at first; bring the data there with \"dwell cp\"",
            );
            self.dropped(volume, "name", "a volume is called as the file calls it");
            self.dropped(volume, "labels", "volumes have no labels");
            if volume.entries().is_some_and(<[_]>::is_empty) {
                volume.value = Tree::Null;
            }
        }
    }

    pub(super) fn mounts(&mut self, service: &mut Item) {
        let Some((key, mounts)) = service.remove("volumes") else { return };
        let origin = mounts.origin.clone();
        let mut kept = Vec::new();
        for mut item in mounts.into_items() {
            if let Some(tmpfs) = tmpfs(&item) {
                self.note(&item.origin, format!("the mount of {tmpfs} is under \"tmpfs\""));
                service.push_text("tmpfs", &tmpfs);
                continue;
            }
            match item.scalar().map(str::to_owned) {
                Some(text) => self.short(&mut item, &text),
                None => self.long(&mut item),
            }
            kept.push(item);
        }
        if !kept.is_empty() {
            service.insert(key, Item { value: Tree::List(kept), origin });
        }
    }

    fn short(&mut self, item: &mut Item, text: &str) {
        let origin = item.origin.clone();
        let (source, rest) = match text.split_once(':') {
            Some((source, rest)) if is_relative(source) => match self.volume_of(source, &origin) {
                Some(name) => (name, rest.to_owned()),
                None => return,
            },
            None if text.starts_with('/') => {
                let name = name_of(text);
                self.note(
                    &origin,
                    format!("{text} had a volume without a name, which is called {name}"),
                );
                (name, text.to_owned())
            }
            _ => return,
        };
        *item = Item { origin, ..Item::text(format!("{source}:{rest}")) };
    }

    fn long(&mut self, item: &mut Item) {
        let origin = item.origin.clone();
        let source = item.get("source").and_then(Item::scalar).map(str::to_owned);
        let target = item.get("target").and_then(Item::scalar).unwrap_or_default().to_owned();
        let name = match source {
            Some(source) if is_relative(&source) => self.volume_of(&source, &origin),
            Some(_) => None,
            None if target.starts_with('/') => Some(name_of(&target)),
            None => None,
        };
        if let Some(name) = name {
            item.remove("type");
            item.set_text("source", &name);
        }
        self.dropped(item, "bind", "files are mounted as they are on the node");
        self.dropped(item, "volume", "a volume has what the image has there");
        self.dropped(item, "consistency", "files are mounted as they are on the node");
    }

    /// The volume in place of a directory beside the file; none in place of a file.
    fn volume_of(&mut self, source: &str, origin: &Origin) -> Option<String> {
        if source.starts_with('~') || self.files.read(&beside(Path::new(""), source)).is_ok() {
            return None;
        }
        let name = name_of(source);
        let message = format!(
            "{source} is a directory beside the file, which nodes do not have; it is the volume {name}, which is empty at first: bring \
             what is in there with \"dwell cp\""
        );
        self.note(origin, message);
        Some(name)
    }
}

fn is_relative(source: &str) -> bool {
    source.starts_with(['.', '~'])
}

/// A volume's name, from a path.
fn name_of(path: &str) -> String {
    let words: Vec<&str> = path
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let mut name = words.join("-").to_ascii_lowercase();
    name.truncate(NAME_MAX);
    match name.trim_matches('-') {
        "" => "data".to_owned(),
        name => name.to_owned(),
    }
}

/// What the long spelling of a directory in memory is in the short one.
fn tmpfs(item: &Item) -> Option<String> {
    item.get("type").and_then(Item::scalar).filter(|kind| *kind == "tmpfs")?;
    let target = item.get("target")?.scalar()?;
    let options = item.get("tmpfs").and_then(Item::entries).unwrap_or_default();
    let options: Vec<String> = options
        .iter()
        .map(|(key, value)| Some(format!("{}={}", key.name, value.scalar()?)))
        .collect::<Option<_>>()?;
    Some(match options.is_empty() {
        true => target.to_owned(),
        false => format!("{target}:{}", options.join(",")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_called_by_their_paths() {
        for (path, name) in [
            ("./data", "data"),
            ("../My_Data/db", "my-data-db"),
            (".", "data"),
            ("/var/lib/x", "var-lib-x"),
        ] {
            assert_eq!(name_of(path), name);
        }
    }
}
