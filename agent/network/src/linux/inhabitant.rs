//! Finds a namespace that has lost its name by a process that is in it.
//!
//! As long as the veth of a sandbox lives, the kernel has a number for the namespace at its other end, and tells
//! for any namespace which number it has. So no process is asked what it is, and none can pretend.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use dwell_core::sandbox::SandboxId;

use super::observe::{self, Link};
use super::owner::Owner;
use super::{refused, request, veth};
use crate::NetworkError;

impl Owner {
    /// The namespace at the other end of a living veth of `sandbox`, if a process is in it.
    pub(super) fn find_inhabited(
        &mut self,
        sandbox: &SandboxId,
    ) -> Result<Option<File>, NetworkError> {
        let links = self.links()?;
        let ours = links.iter().filter(|link| veth::belongs_to(link, sandbox));
        let wanted: BTreeSet<u32> = ours.filter_map(|link: &Link| link.peer_namespace).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let find = || refused(|| format!("look for the network namespace of {}", sandbox.instance));
        let mut seen = BTreeSet::new();
        for process in fs::read_dir("/proc").map_err(find())? {
            let process = process.map_err(find())?;
            let is_process = process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
            if !is_process {
                continue;
            }
            // One that has ended by now is in no namespace.
            let Ok(file) = File::open(process.path().join("ns/net")) else { continue };
            let Ok(number) = self.number_if_new(&file, &mut seen) else { continue };
            if number.is_some_and(|number| wanted.contains(&number)) {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The number of the namespace that `file` refers to, unless that was `seen`.
    fn number_if_new(
        &mut self,
        file: &File,
        seen: &mut BTreeSet<(u64, u64)>,
    ) -> io::Result<Option<u32>> {
        let metadata = file.metadata()?;
        if !seen.insert((metadata.dev(), metadata.ino())) {
            return Ok(None);
        }
        let request = request::namespace_number(file.as_fd());
        Ok(self.route.get(request, observe::namespace_number)?.ok().flatten())
    }
}
