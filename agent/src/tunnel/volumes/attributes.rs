//! Extended attributes of files and directories: capabilities, access lists, what users set.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use dwell_proto::v1;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// How long the names and each value may be, in bytes: Linux allows no more.
const MOST: usize = 64 * 1024;
/// Labels belong to the policy of the host, not to the file.
const LABELS: &[u8] = b"security.selinux";

/// All that there are, in order of their names.
pub(super) fn read(file: impl AsFd) -> io::Result<Vec<v1::VolumeAttribute>> {
    let mut attributes = Vec::new();
    for name in names(&file)? {
        let mut value = vec![0; MOST];
        match fgetxattr(&file, name.as_slice(), value.as_mut_slice()) {
            Ok(length) => value.truncate(length),
            // It went meanwhile.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        attributes.push(v1::VolumeAttribute { name: name.into(), value: value.into() });
    }
    attributes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(attributes)
}

/// Has a file have these and no others.
pub(super) fn write(file: impl AsFd, attributes: &[v1::VolumeAttribute]) -> io::Result<()> {
    for name in names(&file)? {
        if !attributes.iter().any(|wanted| wanted.name == name) {
            fremovexattr(&file, name.as_slice())?;
        }
    }
    for v1::VolumeAttribute { name, value } in attributes {
        fsetxattr(&file, name.as_ref(), value, XattrFlags::empty())?;
    }
    Ok(())
}

fn names(file: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut list = vec![0; MOST];
    let length = match flistxattr(&file, list.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let list = list.get(..length).unwrap_or_default();
    let names = list.split_inclusive(|&byte| byte == 0).filter_map(|name| {
        let name = CStr::from_bytes_with_nul(name).ok()?.to_bytes();
        (!name.is_empty() && name != LABELS).then(|| name.to_vec())
    });
    Ok(names.collect())
}
