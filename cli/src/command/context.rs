//! `dwell context`: use a controller from another machine.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use dwell_core::quantity::Millis;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::client;
use crate::failure::Failure;
use crate::output::{moment, print, say};

/// Certificates for people and programs on other machines
#[derive(Args, Debug)]
pub(crate) struct Context {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Issue(Issue),
}

/// Make a context: a file with which this controller can be used from anywhere
///
/// The file holds a private key: whoever has it can do all that this command line can. Only on the
/// controller's machine, over its socket.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell context issue alice --file alice.yaml
  ssh root@controller dwell context issue alice > ~/.config/dwell/contexts/prod.yaml
  chmod 600 ~/.config/dwell/contexts/prod.yaml && dwell --context prod ps")]
struct Issue {
    /// Who it is for; shown in the controller's logs
    #[arg(value_parser = name_parser())]
    name: String,
    /// How long it is valid, at most 8784h; 720h if not given
    #[arg(long, value_name = "DURATION")]
    valid: Option<Millis>,
    /// Write it to a new file that only you can read; else it is printed
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Context {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let Command::Issue(issue) = self.command;
        let request = v1::IssueClientRequest {
            name: issue.name,
            valid_ms: issue.valid.map_or(0, |valid| valid.0),
        };
        let issued = fleet.client.issue_client(request).await?.into_inner();
        let context = client::Context {
            controller: issued.controller,
            ca: issued.ca_pem,
            certificate: issued.certificate_pem,
            key: issued.private_key_pem,
        };
        match &issue.file {
            Some(path) => {
                context.save(path)?;
                let until = moment(issued.expires_at_ms);
                say(&format!("{} is valid until {until}", path.display()));
                Ok(())
            }
            None => {
                make_private()?;
                print(&context.to_text()?)
            }
        }
    }
}

/// Sees to it that what is printed cannot be read by others, if it goes to a file: `> alice.yaml` makes one that
/// everybody can read.
fn make_private() -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::Other(format!(
            "standard output is a file that others can read, and that cannot be changed: {error}; use --file"
        ))
    };
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    let stdout = std::fs::File::from(stdout);
    let about = stdout.metadata().map_err(failed)?;
    if about.is_file() && about.permissions().mode() & 0o077 != 0 {
        stdout.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        say("the file can be read by you only, since it holds a private key");
    }
    Ok(())
}
