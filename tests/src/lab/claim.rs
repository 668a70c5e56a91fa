//! Who a lab belongs to, and which slot it has.
//!
//! A [`Claim`] is a lock on the lab's directory that the kernel drops when its holder ends, however
//! that happens. A claim that can be taken on a lab that exists therefore means: its maker is gone,
//! or left it up on purpose, and what remains may be removed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::{
    config::Description,
    down,
    layout::{Layout, ROOT, SLOTS},
    names, network,
};

/// The right to a lab; see the module.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: Flock<File>,
}

impl Claim {
    /// Claims lab `name`, removes what remains of it, and describes it anew in a free slot.
    pub(crate) async fn take(
        name: &str,
        hosts: usize,
        programs: PathBuf,
    ) -> Result<(Self, Description)> {
        let layout = Layout::new(name, 0)?;
        // Ends with the directory it is on; a new one is taken on the new directory.
        let remains = layout.dir().exists().then(|| Self::lock(&layout)).transpose()?;
        down(name).await?;
        drop(remains);

        #[expect(clippy::disallowed_methods, reason = "a lab waits for nothing else meanwhile")]
        let locking = tokio::task::spawn_blocking(lock_root);
        let _one_at_a_time = locking.await??;
        let layout = free_slot(name).await?;
        fs::create_dir(layout.dir())
            .with_context(|| format!("cannot make {}", layout.dir().display()))?;
        let claim = Self::lock(&layout)?;
        let description = Description { layout, hosts, programs };
        description.write()?;
        Ok((claim, description))
    }

    /// Claims lab `name` as its maker has left it up.
    pub(crate) fn take_kept(name: &str) -> Result<(Self, Description)> {
        let description = Description::read(name)?;
        Ok((Self::lock(&description.layout)?, description))
    }

    fn lock(layout: &Layout) -> Result<Self> {
        let dir = layout.dir();
        let file = File::open(&dir).with_context(|| format!("cannot open {}", dir.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err(_) => bail!(
                "the lab {} is in use by another process; wait for it, or choose another name",
                layout.name()
            ),
        }
    }
}

/// The first slot that no other lab has and whose addresses this machine does not use.
async fn free_slot(name: &str) -> Result<Layout> {
    let others = names().into_iter().filter_map(|name| Description::read(&name).ok());
    let taken: BTreeSet<u8> = others.map(|other| other.layout.slot()).collect();
    let mut conflicts = Vec::new();
    for slot in (0..SLOTS).filter(|slot| !taken.contains(slot)) {
        let layout = Layout::new(name, slot)?;
        match network::conflict(&layout).await? {
            None => return Ok(layout),
            Some(conflict) => conflicts.push(conflict),
        }
    }
    bail!(
        "no addresses are left for a lab: {} labs are up (`dwell-lab status`); {}",
        taken.len(),
        conflicts.join("; ")
    )
}

/// Makes slots be chosen one at a time.
fn lock_root() -> Result<Flock<File>> {
    loop {
        fs::create_dir_all(ROOT).with_context(|| format!("cannot make {ROOT}"))?;
        // The last lab to go removes the directory at any moment.
        let Ok(dir) = File::open(ROOT) else { continue };
        let lock = Flock::lock(dir, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("cannot lock {ROOT}"))?;
        let locked = lock.metadata().context("cannot read a locked directory")?;
        if fs::metadata(ROOT).is_ok_and(|there| there.ino() == locked.ino()) {
            return Ok(lock);
        }
    }
}
