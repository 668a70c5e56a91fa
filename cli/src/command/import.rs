//! `dwell import`: a Compose file, written anew in the format of dwell.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use clap::Args;

use super::apply::{beside, bytes_of, variables};
use crate::failure::Failure;
use crate::manifest::{self, Surroundings};
use crate::output::{print, say};

/// Write a Compose file anew as a file for `dwell apply`
///
/// What has another form here is given it: published ports become "expose", networks become "network.allow_from", directories
/// beside the file become volumes. Each change is explained on standard error. What cannot be had is told, all of it at once, with
/// what to do instead, and nothing is written. docs/compose.md says of every key what becomes of it.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell import compose.yaml
  dwell import compose.yaml -o dwell.yaml && dwell plan -f dwell.yaml

Nothing is asked of a controller.")]
pub(crate) struct Import {
    /// The Compose file; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write it into a new file, and not to standard output
    #[arg(short = 'o', long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Import {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (name, bytes) = bytes_of(&self.file)?;
        let surroundings =
            Surroundings { variables: &variables(), files: &beside(&self.file), profiles: &[] };
        let imported = manifest::import(&name, &bytes, &surroundings)?;
        for note in imported.notes {
            say(&note);
        }
        let Some(out) = self.out else { return print(&imported.text) };
        let shown = out.display();
        let file = File::create_new(&out).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Failure::Refused(format!(
                "{shown} exists already; remove it first, or choose another file"
            )),
            _ => Failure::Other(format!("cannot make {shown}: {error}")),
        });
        file?
            .write_all(imported.text.as_bytes())
            .map_err(|error| Failure::Other(format!("cannot write {shown}: {error}")))
    }
}
