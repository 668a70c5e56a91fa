//! `dwell registry`: with what nodes pull images from registries that let nobody in without.

use std::io::{self, Read};

use clap::{Args, Subcommand};
use dwell_core::instance::sanitize;
use dwell_core::registry::{PASSWORD_MAX, RegistryHost, RegistryLogin};
use dwell_proto::v1;

use super::Fleet;
use crate::complete;
use crate::failure::Failure;
use crate::output::view::RegistriesView;
use crate::output::{OutputArgs, Table, moment, or_dash, print};
use crate::terminal;

/// The longest name that is shown in a table, in bytes.
const NAME_MAX: usize = 100;

/// Logins at registries, with which nodes pull images
///
/// The controller keeps them and tells each node those that its instances' images need. What a node's
/// agent.yaml says under `registries` counts more on that node.
#[derive(Args, Debug)]
pub(crate) struct Registry {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Login(Login),
    Ls(Ls),
    Logout(Logout),
}

/// Have nodes log in to a registry
///
/// Takes the place of an earlier login there. Pulls that the registry refused are tried again at once. Nothing asks
/// the registry before a node pulls: a wrong password shows in `dwell ps` and `dwell events`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell registry login ghcr.io -u ci                              # asks for the password
  dwell registry login registry.lan:5000 -u ci --password-stdin < token
  dwell registry login docker.io -u team --password-stdin < token

An access token with the right to read is better than a password: it can be taken back.")]
struct Login {
    /// The registry, as image references begin with: HOST or HOST:PORT, docker.io for Docker's own
    host: RegistryHost,
    /// As whom
    #[arg(short, long, value_name = "NAME")]
    username: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

/// List the registries that nodes log in to
///
/// Passwords are never shown.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell registry ls
  dwell registry ls -o json | jq -r '.registries[].host'")]
struct Ls {
    #[command(flatten)]
    output: OutputArgs,
}

/// Have nodes forget the login at a registry
///
/// Images that are on nodes stay there, and instances run on. New pulls are made without a login.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:\n  dwell registry logout ghcr.io")]
struct Logout {
    /// The registry
    #[arg(add = complete::registry())]
    host: RegistryHost,
}

impl Registry {
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<(), Failure> {
        match self.command {
            // The password is read before anything is connected.
            Command::Login(login) => login.run(fleet).await,
            Command::Ls(ls) => ls.run(fleet.await?).await,
            Command::Logout(logout) => logout.run(fleet.await?).await,
        }
    }
}

impl Login {
    async fn run(self, fleet: impl Future<Output = Result<Fleet, Failure>>) -> Result<(), Failure> {
        let Self { host, username, password_stdin } = self;
        let password = if password_stdin {
            password_of(io::stdin())?
        } else if terminal::is_interactive() {
            terminal::ask_secret(&format!("Password of {username} at {host}: "))
                .map_err(|error| Failure::Usage(format!("cannot read the password: {error}")))?
        } else {
            return Err(Failure::Usage(
                "there is no terminal to ask for the password; give it with --password-stdin"
                    .into(),
            ));
        };
        let login = RegistryLogin::new(username, password)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let request = v1::SetRegistryLoginRequest {
            host: host.to_string(),
            username: login.username.clone(),
            password: login.password.expose().to_owned(),
        };
        fleet.await?.client.set_registry_login(request).await?;
        let username = sanitize(&login.username, NAME_MAX);
        print(&format!("nodes log in to {host} as {username} from now on\n"))
    }
}

impl Ls {
    async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let found = fleet.client.list_registries(v1::ListRegistriesRequest {}).await?.into_inner();
        self.output.print(&RegistriesView::new(found.registries), table)
    }
}

impl Logout {
    async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let request = v1::RemoveRegistryLoginRequest { host: self.host.to_string() };
        fleet.client.remove_registry_login(request).await?;
        print(&format!("nodes no longer log in to {}\n", self.host))
    }
}

/// A password, without the line break that `echo` and editors put at its end.
fn password_of(input: impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    // Room for the line break; what is too long is refused and not cut.
    let read = input.take(PASSWORD_MAX as u64 + 3).read_to_string(&mut text);
    read.map_err(|error| Failure::Usage(format!("cannot read the password: {error}")))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

fn table(view: &RegistriesView) -> String {
    if view.registries.is_empty() {
        return "Nodes log in to no registry. `dwell registry login HOST -u NAME` has them do so.\n"
            .into();
    }
    let mut table = Table::new(["REGISTRY", "USER", "SINCE", "BY"]);
    for registry in &view.registries {
        table.row([
            registry.host.clone(),
            sanitize(&registry.username, NAME_MAX),
            moment(registry.changed_at_ms),
            or_dash(&registry.by),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_for_people() {
        let registry = |host: &str, by: &str| v1::Registry {
            host: host.into(),
            username: "ci".into(),
            changed_at_ms: 1_769_860_800_000,
            by: by.into(),
        };
        let view =
            RegistriesView::new(vec![registry("ghcr.io", "alice"), registry("r.lan:5000", "")]);
        insta::assert_snapshot!(table(&view), @r"
        REGISTRY    USER  SINCE                     BY
        ghcr.io     ci    2026-01-31T12:00:00.000Z  alice
        r.lan:5000  ci    2026-01-31T12:00:00.000Z  -
        ");
        assert!(table(&RegistriesView::new(vec![])).contains("dwell registry login"));
    }

    #[test]
    fn a_password_loses_only_the_line_break_at_its_end() {
        for (input, password) in
            [("a\n", "a"), ("a\r\n", "a"), (" a b ", " a b "), ("{\n}\n", "{\n}")]
        {
            assert_eq!(password_of(input.as_bytes()).unwrap(), password);
        }
        let long = "a".repeat(PASSWORD_MAX + 100);
        assert!(RegistryLogin::new("ci".into(), password_of(long.as_bytes()).unwrap()).is_err());
    }
}
