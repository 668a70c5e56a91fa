//! The files that a file names: they are beside it.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Where files are that a file names.
pub(crate) trait Files {
    /// The content of a file beside the one that is read; one byte more than [`SIZE_MAX`](super::SIZE_MAX) if it has more.
    ///
    /// # Errors
    /// If it cannot be read.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// The files beside one.
#[derive(Debug)]
pub(crate) struct Beside(pub(crate) PathBuf);

impl Files for Beside {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        crate::command::bounded(std::fs::File::open(self.0.join(path))?, super::SIZE_MAX)
    }
}

/// A path that is beside what is in a directory.
pub(super) fn beside(directory: &Path, path: &str) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in directory.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if whole.file_name().is_some_and(|name| name != "..") => {
                whole.pop();
            }
            part => whole.push(part),
        }
    }
    whole
}

/// The text of a file.
///
/// # Errors
/// Which one cannot be read, and why.
pub(super) fn text(files: &dyn Files, path: &Path) -> Result<String, String> {
    let shown = path.display();
    let bytes = files.read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if bytes.len() > super::SIZE_MAX {
        return Err(format!("{shown} is larger than the {} bytes that are read", super::SIZE_MAX));
    }
    String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8 text"))
}

/// Files that are made up.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Given(std::collections::BTreeMap<PathBuf, String>);

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Given {
    fn from(files: [(&str, &str); N]) -> Self {
        Self(files.into_iter().map(|(path, text)| (path.into(), text.to_owned())).collect())
    }
}

/// No files at all.
#[cfg(any(test, fuzzing))]
#[derive(Debug)]
pub(crate) struct Nowhere;

#[cfg(any(test, fuzzing))]
impl Files for Nowhere {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
impl Files for Given {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let text = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.clone().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_beside_what_names_them() {
        for (directory, path, is) in [
            ("", "a", "a"),
            ("", "./a/./b", "a/b"),
            ("lib", "../a", "a"),
            ("lib", "../../a", "../a"),
            ("lib", "/a", "/a"),
        ] {
            assert_eq!(beside(Path::new(directory), path), Path::new(is));
        }
    }
}
