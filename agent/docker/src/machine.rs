//! The roots of machines: directories in a volume of the instance's, each with what differs from the image that it was born from.
//!
//! ```text
//!   volume `root`
//!     0-5f70bf18a086b3f2/             asked for at, and the layers of its image
//!       image                         the image's reference, for people
//!       upper/ work/                  what `dwell-oci` lays over the image
//!     1790000000000-9c1185a5c5e9fc54/ made anew later: of the container that is on trial, or serves
//! ```
//!
//! A container has the name of its directory in a label, so each starts with the root that it was made for, whatever becomes of the
//! others. A directory goes when the last container that has it is removed and another one is there. One is made whole or not at all.
//!
//! Invariant: **nothing begins anew unless somebody asked for it.** A machine that is told of an older request, or of none, as from a
//! controller that was restored, or under a workload that was declared again, goes on with the newest root that is there; and one whose
//! image has other layers than its root was born from is not made.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bollard::query_parameters::ListContainersOptions;
use dwell_core::clock::Timestamp;
use dwell_core::id::InstanceName;
use dwell_core::instance::Assigned;
use dwell_core::workload::{Machine, OnImageChange};
use dwell_engine::{ContainerId, EngineError};
use dwell_oci::mapping::{UPPER, WORK};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::DockerEngine;
use super::client::{NAME, QUICK, limited, meaning};
use super::image::Found;
use super::spec::{LABEL_INSTANCE, LABEL_ROOT, volume_labels, volume_name};

const OPERATION: &str = "make the root of a machine";
/// The file that tells people which image a root was born from.
const IMAGE: &str = "image";
/// What begins so is not whole yet, or not any more.
const UNUSED: char = '.';

/// The directory of a root in its volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Directory {
    /// When somebody asked for it; zero for a machine's first.
    rebuilt: Timestamp,
    /// A digest of the layers of its image: of all layers, since an engine's name for an image depends on its store.
    layers: String,
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.rebuilt.0, self.layers)
    }
}

impl FromStr for Directory {
    type Err = ();
    fn from_str(name: &str) -> Result<Self, ()> {
        let (rebuilt, layers) = name.split_once('-').ok_or(())?;
        let rebuilt = Timestamp(rebuilt.parse().map_err(|_| ())?);
        Ok(Self { rebuilt, layers: layers.to_owned() })
    }
}

/// What a container begins with.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// With a root that is there.
    There(Directory),
    /// With a new one.
    New(Directory),
    /// It cannot: this root is of another image, and is to be kept.
    Another(Directory),
}

/// Which root a container has, of those that are there.
fn choose(
    there: &BTreeSet<Directory>,
    asked: Timestamp,
    layers: &str,
    on_image_change: OnImageChange,
) -> Choice {
    let at = |rebuilt| Directory { rebuilt, layers: layers.to_owned() };
    let is_asked = |one: &&Directory| one.rebuilt == asked;
    let Some(newest) = there.iter().rev().find(is_asked).or(there.last()) else {
        return Choice::New(at(asked));
    };
    if newest.rebuilt < asked {
        return Choice::New(at(asked));
    }
    let of_this_image = at(newest.rebuilt);
    match on_image_change {
        _ if there.contains(&of_this_image) => Choice::There(of_this_image),
        OnImageChange::Rebuild => Choice::New(of_this_image),
        OnImageChange::Keep => Choice::Another(newest.clone()),
    }
}

fn digest_of(layers: &[String]) -> String {
    let digest = Sha256::digest(layers.join("\n").as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

impl DockerEngine {
    /// Sees to it that there is a root for the container of a machine; the name of its directory.
    pub(super) async fn prepare_root(
        &self,
        assigned: &Assigned,
        machine: &Machine,
        image: &Found,
    ) -> Result<String, EngineError> {
        let volume = self.root_volume(&assigned.instance, machine).await?;
        let (asked, layers) = (assigned.rebuilt, digest_of(&image.layers));
        let (policy, reference) = (machine.on_image_change, image.reference.clone());
        let made =
            self.lane.run(move || match choose(&directories(&volume)?, asked, &layers, policy) {
                Choice::There(directory) => Ok(Ok(directory.to_string())),
                Choice::New(directory) => {
                    make(&volume, &directory, &reference)?;
                    Ok(Ok(directory.to_string()))
                }
                Choice::Another(directory) => {
                    Ok(Err(fs::read_to_string(volume.join(directory.to_string()).join(IMAGE))?))
                }
            });
        let late = |_| other(&"the disk of the engine's volumes does not answer");
        let made = tokio::time::timeout(QUICK, made).await.map_err(late)?;
        let made = made.map_err(|error| other(&error))?;
        made.map_err(|born| refused(&assigned.instance, born.trim(), &image.reference))
    }

    /// The directory of the volume that has a machine's roots, which is made if it is not there.
    async fn root_volume(
        &self,
        instance: &InstanceName,
        machine: &Machine,
    ) -> Result<PathBuf, EngineError> {
        match self.data_of(instance, &machine.volume).await {
            Err(EngineError::NotFound { .. }) => {
                let labels = volume_labels(&self.config.cluster, instance, &machine.volume);
                let made = self.make_volume(volume_name(instance, &machine.volume), labels).await?;
                Ok(PathBuf::from(made.mountpoint))
            }
            found => found,
        }
    }

    /// Deletes the roots that no container has any more once one is removed, if another one is there.
    pub(super) async fn forget_root(&self, id: &ContainerId) -> Result<(), EngineError> {
        let docker = self.client.docker().await?;
        let mut filters = self.filters();
        let seen = limited(QUICK, docker.inspect_container(id.as_str(), None)).await;
        let seen = match seen.map_err(|error| meaning(error, OPERATION, id)) {
            // Somebody else has removed it.
            Err(EngineError::NotFound { .. }) => return Ok(()),
            seen => seen?,
        };
        let labels = seen.config.and_then(|config| config.labels).unwrap_or_default();
        let (Some(instance), Some(_)) = (labels.get(LABEL_INSTANCE), labels.get(LABEL_ROOT)) else {
            return Ok(());
        };
        let volume =
            seen.mounts.into_iter().flatten().find(|one| {
                one.destination.as_deref().is_some_and(|at| at == super::spec::ROOT_MOUNT)
            });
        let Some(volume) = volume.and_then(|one| one.source).map(PathBuf::from) else {
            return Ok(());
        };
        filters.entry("label".to_owned()).or_default().push(format!("{LABEL_INSTANCE}={instance}"));
        let options = ListContainersOptions {
            all: true,
            filters: Some(filters),
            ..ListContainersOptions::default()
        };
        let listed = limited(QUICK, docker.list_containers(Some(options))).await;
        let listed = listed.map_err(|error| meaning(error, OPERATION, id))?;
        let others = listed.into_iter().filter(|one| one.id.as_deref() != Some(id.as_str()));
        let kept: HashMap<String, String> =
            others.filter_map(|one| Some((one.labels?.remove(LABEL_ROOT)?, one.id?))).collect();
        if kept.is_empty() {
            return Ok(());
        }
        let gone = self.lane.run(move || set_aside(&volume, |name| kept.contains_key(name)));
        let gone = gone.await.map_err(|error| other(&error))?;
        // As long as it takes; what is left of it after a crash goes the next time.
        let lane = self.deletions.clone();
        tokio::spawn(async move {
            let delete = move || gone.iter().try_for_each(fs::remove_dir_all);
            if let Err(error) = lane.run(delete).await {
                warn!(%error, "cannot delete the root that a machine had before");
            }
        });
        Ok(())
    }
}

/// The roots in a volume that are whole.
fn directories(volume: &Path) -> io::Result<BTreeSet<Directory>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(volume)? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
    }
    Ok(found)
}

/// Makes a root, whole or not at all.
fn make(volume: &Path, directory: &Directory, image: &str) -> io::Result<()> {
    let name = directory.to_string();
    let unfinished = volume.join(format!("{UNUSED}{name}"));
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o711).create(&unfinished)?;
    // The root of what is mounted has the owner and the mode of this one.
    DirBuilder::new().mode(0o755).create(unfinished.join(UPPER))?;
    DirBuilder::new().mode(0o700).create(unfinished.join(WORK))?;
    let mut told = File::create_new(unfinished.join(IMAGE))?;
    writeln!(told, "{image}")?;
    told.sync_all()?;
    File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, volume.join(name))?;
    File::open(volume)?.sync_all()
}

/// Takes the names of the roots that are not kept, and of what was never finished, so that they are found no more; the paths that they
/// have then.
fn set_aside(volume: &Path, is_kept: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut gone = Vec::new();
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(UNUSED) {
            gone.push(volume.join(name));
        } else if name.parse::<Directory>().is_ok() && !is_kept(name) {
            // What a crash has left under such a name may not be deleted yet.
            let mut names = (0_u32..).map(|number| volume.join(format!("{UNUSED}{name}.{number}")));
            let free = names.find(|path| fs::symlink_metadata(path).is_err());
            let aside = free.unwrap_or_else(|| volume.join(format!("{UNUSED}{name}")));
            fs::rename(volume.join(name), &aside)?;
            gone.push(aside);
        }
    }
    Ok(gone)
}

fn refused(instance: &InstanceName, born: &str, reference: &str) -> EngineError {
    EngineError::Refused {
        engine: NAME,
        operation: OPERATION,
        reason: format!(
            "its root was born from image {born}, and {reference} has other layers on this node; `dwell rebuild {instance}` begins \
             with a new root, or declare the image that it was born from"
        ),
    }
}

fn other(error: &dyn fmt::Display) -> EngineError {
    EngineError::Other { engine: NAME, operation: OPERATION, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rebuilt: u64, layers: &str) -> Directory {
        Directory { rebuilt: Timestamp(rebuilt), layers: layers.to_owned() }
    }

    #[test]
    fn nothing_begins_anew_unless_somebody_asked() {
        use Choice::{Another, New, There};
        use OnImageChange::{Keep, Rebuild};
        for (there, asked, layers, policy, chosen) in [
            (vec![], 0, "a", Keep, New(at(0, "a"))),
            (vec![at(0, "a")], 0, "a", Keep, There(at(0, "a"))),
            (vec![at(0, "a")], 5, "b", Keep, New(at(5, "b"))),
            // The container of before is made again while the new one is on trial.
            (vec![at(0, "a"), at(5, "b")], 0, "a", Keep, There(at(0, "a"))),
            // A restored controller knows of no request, or of an older one; a workload was declared again.
            (vec![at(5, "a")], 0, "a", Keep, There(at(5, "a"))),
            (vec![at(5, "a")], 3, "a", Keep, There(at(5, "a"))),
            (vec![at(5, "a")], 0, "b", Keep, Another(at(5, "a"))),
            (vec![at(5, "a")], 5, "b", Rebuild, New(at(5, "b"))),
            (vec![at(5, "a"), at(5, "b")], 5, "a", Rebuild, There(at(5, "a"))),
        ] {
            let there: BTreeSet<Directory> = there.into_iter().collect();
            let found = choose(&there, Timestamp(asked), layers, policy);
            assert_eq!(found, chosen, "{there:?}, {asked}, {layers}");
        }
    }

    #[test]
    fn a_root_is_whole_and_goes_as_a_whole() {
        let volume = tempfile::tempdir().unwrap();
        let (one, other) = (at(0, "a"), at(7, "b"));
        fs::create_dir(volume.path().join(".0-a")).unwrap();
        make(volume.path(), &one, "debian:13").unwrap();
        make(volume.path(), &other, "debian:14").unwrap();
        fs::write(volume.path().join("0-a/upper/kept"), "").unwrap();
        fs::create_dir(volume.path().join("lost+found")).unwrap();
        let both: BTreeSet<Directory> = [one.clone(), other.clone()].into();
        assert_eq!(directories(volume.path()).unwrap(), both);
        assert_eq!(fs::read_to_string(volume.path().join("7-b/image")).unwrap(), "debian:14\n");

        // A crash has left one of the same name.
        fs::create_dir_all(volume.path().join(".7-b.0/upper")).unwrap();
        let mut gone = set_aside(volume.path(), |name| name == "0-a").unwrap();
        gone.sort();
        assert_eq!(gone, [".7-b.0", ".7-b.1"].map(|name| volume.path().join(name)));
        assert_eq!(directories(volume.path()).unwrap(), [one].into());
        let mut again = set_aside(volume.path(), |name| name == "0-a").unwrap();
        again.sort();
        assert_eq!(again, gone, "after a crash");
        assert!(volume.path().join("0-a/upper/kept").exists());
        assert!(volume.path().join("lost+found").exists());
    }
}
