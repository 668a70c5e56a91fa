//! How full the disk is that the engine has its images on.

use std::path::Path;
use std::time::Duration;

use dwell_daemon::paths::PathLooks;
use nix::sys::statvfs::statvfs;

use super::decide::Disk;

/// How long the disk may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Looks; `None` if the disk does not say.
pub(super) async fn of(path: &Path, looks: &PathLooks) -> Option<Disk> {
    let asked = path.to_owned();
    let seen = looks.look(path, LIMIT, move || statvfs(&asked)).await.ok()?.ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(seen.fragment_size());
    let used = bytes(seen.blocks().saturating_sub(seen.blocks_free()));
    Some(Disk { used, size: used.saturating_add(bytes(seen.blocks_available())) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_has_a_size_and_a_path_that_is_not_there_has_none() {
        let looks = PathLooks::default();
        let disk = of(Path::new("/"), &looks).await.unwrap();
        assert!(disk.size > 0 && disk.used <= disk.size && disk.percent() <= 100);
        assert_eq!(of(Path::new("/nonexistent"), &looks).await, None);
    }
}
