//! `dwell support-bundle`: all that somebody needs who is asked what is wrong, in one file, without secrets.

mod fleet;
mod host;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::Fleet;
use crate::failure::Failure;
use crate::output::{Now, print, say};

/// How long one part may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that is kept of one part, in bytes; of longer ones the end.
const PART_MAX: usize = 8 << 20;

/// What the file says of itself.
const READ_ME: &str = "\
This is a support bundle of dwell: what the controller says of the fleet (fleet/), and what the host says
on which it was made (host/). A part that could not be had says why.

Passwords, keys, environments, the contents of volumes and the output of instances are not collected. Names, addresses, images,
commands that an audit or the engine shows, and messages are, and a message can have the last lines in it that a failed
program printed: look through it before you give it to somebody else.
";

/// Collect what somebody needs who is asked what is wrong, in one file
///
/// What the controller says of the fleet, and what this host says if it is one of it: the journal of dwell's units and
/// of its engine, firewall, routes, room. It changes nothing. Passwords, keys, environments and the output of instances are
/// not in it.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell support-bundle
  dwell support-bundle --file trouble.tar && tar -tf trouble.tar

Run it as root on the host that has the trouble. A controller that does not answer is no obstacle.")]
pub(crate) struct SupportBundle {
    /// Where to write it, not over something; dwell-support-TIME.tar if not given
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// One file of the bundle.
struct Part {
    name: String,
    content: Vec<u8>,
}

impl Part {
    /// What was found out, or why it was not.
    fn new(name: impl Into<String>, found: Result<Vec<u8>, String>) -> Self {
        let content = found.unwrap_or_else(|reason| format!("not known: {reason}\n").into_bytes());
        let name = name.into();
        if content.len() <= PART_MAX {
            return Self { name, content };
        }
        let mut kept =
            format!("the first {} bytes are left out\n", content.len() - PART_MAX).into_bytes();
        kept.extend_from_slice(&content[content.len() - PART_MAX..]);
        Self { name, content: kept }
    }
}

impl SupportBundle {
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<(), Failure> {
        let now = Now::read();
        let path = self.file.unwrap_or_else(|| {
            let time = crate::output::moment(now.0).replace(':', "").replace('.', "-");
            format!("dwell-support-{time}.tar").into()
        });
        // Before anything is collected. It goes away with this value, unless it is kept.
        let file = create(&path)?;
        let mut parts = vec![Part::new("README", Ok(READ_ME.as_bytes().to_vec()))];
        say("asking the controller and its nodes …");
        parts.extend(fleet::parts(fleet).await);
        say("asking this host …");
        parts.extend(host::parts().await);
        write(file.as_file(), &parts, now)
            .and_then(|()| file.as_file().sync_all())
            .map_err(|error| Failure::Other(format!("cannot write {}: {error}", path.display())))?;
        file.persist_noclobber(&path).map_err(|error| {
            Failure::Other(format!("cannot write {}: {}", path.display(), error.error))
        })?;
        print(&format!(
            "{} has {} parts; look through it before you give it away\n",
            path.display(),
            parts.len()
        ))
    }
}

/// For its owner only.
fn create(path: &Path) -> Result<tempfile::NamedTempFile, Failure> {
    let shown = path.display();
    if path.try_exists().unwrap_or(false) {
        return Err(Failure::Usage(format!("{shown} is there already; choose another --file")));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    tempfile::Builder::new().prefix(".dwell-support").tempfile_in(parent).map_err(|error| {
        Failure::Other(format!("cannot write {shown} ({error}); choose another --file"))
    })
}

fn write(output: impl Write, parts: &[Part], now: Now) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(output);
    for part in parts {
        let mut header = tar::Header::new_ustar();
        header.set_size(part.content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.0 / 1000);
        archive.append_data(
            &mut header,
            format!("dwell-support/{}", part.name),
            part.content.as_slice(),
        )?;
    }
    archive.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_part_that_is_too_long_the_end_is_kept() {
        let part = Part::new("long", Ok([vec![b'a'; PART_MAX], b"the end".to_vec()].concat()));
        assert!(part.content.starts_with(b"the first 7 bytes are left out\n"));
        assert!(part.content.ends_with(b"aathe end"));
        assert_eq!(Part::new("none", Err("gone".to_owned())).content, b"not known: gone\n");
    }

    #[test]
    fn nothing_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.tar");
        std::fs::write(&path, "mine").unwrap();
        let refused = create(&path).unwrap_err().to_string();
        assert!(refused.contains("is there already"), "{refused}");
        assert!(create(&directory.path().join("none/bundle.tar")).is_err());
    }
}
