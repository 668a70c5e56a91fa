//! `dwell context`: use a controller from another machine.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use dwell_core::access::Role;
use dwell_core::quantity::Millis;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::client;
use crate::failure::Failure;
use crate::output::view::ContextsView;
use crate::output::{OutputArgs, Table, moment, print, say};

/// Certificates for people and programs on other machines
#[derive(Args, Debug)]
pub(crate) struct Context {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Issue(Issue),
    Ls(Ls),
    Revoke(Revoke),
}

/// Make a context: a file with which this controller can be used from anywhere
///
/// The file holds a private key: whoever has it can do all that its role may. Only on the controller's machine, over its
/// socket. One that is lost is made worthless with `dwell context revoke`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell context issue alice --role developer --file alice.yaml
  dwell context issue ci --role developer --valid 24h --file ci.yaml
  dwell --context ./alice.yaml ps    # or put it into ~/.config/dwell/contexts, and leave out .yaml")]
struct Issue {
    /// Who it is for; shown in events
    #[arg(value_parser = name_parser())]
    name: String,
    /// What it may do: viewer looks at everything, environments included; developer changes workloads and gets into their
    /// instances; admin does everything
    #[arg(long, value_name = "ROLE", default_value = "admin", hide_possible_values = true)]
    role: Role,
    /// How long it is valid, at most 8784h; 720h if not given
    #[arg(long, value_name = "DURATION")]
    valid: Option<Millis>,
    /// Write it to a new file that only you can read; else it is printed
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// List the contexts that were made and have not expired
///
/// One that was made by a version without this list is in it from its first use on. The last use is told to the hour.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell context ls
  dwell context ls -o json | jq -r '.contexts[] | select(.used_at == null) | .name'")]
struct Ls {
    #[command(flatten)]
    output: OutputArgs,
}

/// Make contexts worthless
///
/// No further call is taken from them, and what they have open ends at once. What was done with them stays done; look
/// for it in `dwell events`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell context revoke alice               # all of that name
  dwell context revoke 17ab9c00d3f2e411    # one, by its serial")]
struct Revoke {
    /// A name, or the serial of one
    #[arg(value_name = "NAME|SERIAL", value_parser = name_parser())]
    context: String,
}

impl Context {
    pub(super) async fn run(self, fleet: Fleet) -> Result<(), Failure> {
        match self.command {
            Command::Issue(issue) => issue.run(fleet).await,
            Command::Ls(ls) => ls.run(fleet).await,
            Command::Revoke(revoke) => revoke.run(fleet).await,
        }
    }
}

impl Ls {
    async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let found = fleet.client.list_contexts(v1::ListContextsRequest {}).await?.into_inner();
        self.output.print(&ContextsView::new(found.contexts), table)
    }
}

impl Revoke {
    async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let request = v1::RevokeContextRequest { context: self.context };
        let done = fleet.client.revoke_context(request).await?.into_inner();
        for context in done.contexts {
            print(&format!("context {} of {} is revoked\n", context.serial, context.name))?;
        }
        Ok(())
    }
}

fn table(view: &ContextsView) -> String {
    if view.contexts.is_empty() {
        return "No context was made, or used, yet. `dwell context issue NAME --file FILE` makes one.\n"
            .into();
    }
    let mut table = Table::new(["SERIAL", "NAME", "ROLE", "ISSUED", "EXPIRES", "USED", "STATE"]);
    let known = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), moment);
    for context in &view.contexts {
        let state = match context.revoked_at {
            None => "good".to_owned(),
            Some(at) if context.revoked_by.is_empty() => format!("revoked {}", moment(at)),
            Some(at) => format!("revoked {} by {}", moment(at), context.revoked_by),
        };
        table.row([
            context.serial.clone(),
            context.name.clone(),
            context.role.clone(),
            known(context.issued_at),
            moment(context.expires_at),
            known(context.used_at),
            state,
        ]);
    }
    table.to_string()
}

impl Issue {
    async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let issue = self;
        let request = v1::IssueClientRequest {
            name: issue.name,
            valid_ms: issue.valid.map_or(0, |valid| valid.0),
            role: issue.role.to_string(),
        };
        let issued = fleet.client.issue_client(request).await?.into_inner();
        // A controller that knows no roles knows no serials either, and has made one that may do everything.
        if issued.serial.is_empty() && issue.role != Role::Admin {
            return Err(Failure::Refused(
                "this controller is of a version without roles, and would give every right; upgrade it, and restart it"
                    .to_owned(),
            ));
        }
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
                say(&format!(
                    "{} is valid until {until}; its serial is {}",
                    path.display(),
                    issued.serial
                ));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_for_people() {
        let context = |serial: u64, revoked_at_ms| v1::Context {
            serial: dwell_core::access::ContextId(serial).to_string(),
            name: "alice".into(),
            role: "developer".into(),
            issued_at_ms: Some(1_769_860_800_000).filter(|_| serial > 1),
            issued_by: "local".into(),
            expires_at_ms: 1_772_452_800_000,
            used_at_ms: Some(1_769_864_400_000).filter(|_| serial == 1),
            revoked_at_ms,
            revoked_by: "bob".into(),
        };
        let view = ContextsView::new(vec![context(1, None), context(2, Some(1_769_868_000_000))]);
        insta::assert_snapshot!(table(&view), @r"
        SERIAL            NAME   ROLE       ISSUED                    EXPIRES                   USED                      STATE
        0000000000000001  alice  developer  -                         2026-03-02T12:00:00.000Z  2026-01-31T13:00:00.000Z  good
        0000000000000002  alice  developer  2026-01-31T12:00:00.000Z  2026-03-02T12:00:00.000Z  -                         revoked 2026-01-31T14:00:00.000Z by bob
        ");
        assert!(table(&ContextsView::new(vec![])).contains("dwell context issue"));
    }
}
