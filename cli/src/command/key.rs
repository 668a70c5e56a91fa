//! `dwell key`: who may log in to instances over SSH.

mod sign;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use dwell_core::id::KeySetName;
use dwell_core::instance::sanitize;
use dwell_proto::v1;

use super::Fleet;
use crate::complete;
use crate::failure::Failure;
use crate::openssh;
use crate::output::view::KeySetsView;
use crate::output::{OutputArgs, Table, or_dash, print};
use crate::public_key::PublicKey;

/// The largest file of keys that is read, in bytes.
const SIZE_MAX: u64 = 1 << 20;

/// Public keys and certificates to log in to instances with
///
/// A key set is a named list of public keys. A workload takes the keys of all sets, or of those that its
/// `ssh: {key_sets: […]}` names. Changes reach running instances within a second.
#[derive(Args, Debug)]
pub(crate) struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Add),
    Rm(Rm),
    Ls(Ls),
    Sign(sign::Sign),
    Ca(Ca),
}

/// Add public keys to a set, which is made if need be
///
/// The files are as OpenSSH's authorized_keys. A line with the option cert-authority lets in everybody
/// whom that authority has certified.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell key add team ~/.ssh/id_ed25519.pub
  dwell key add team alice.pub bob.pub
  curl -fsS https://github.com/alice.keys | dwell key add team -")]
struct Add {
    /// Name of the set
    #[arg(add = complete::key_set())]
    set: KeySetName,
    /// Files of public keys; - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Remove public keys from a set, or a whole set
///
/// Nobody can log in with them any more; sessions that are open stay open.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell key rm team alice@laptop
  dwell key rm team SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU
  dwell key rm team --yes    # all of it")]
struct Rm {
    /// Name of the set
    #[arg(add = complete::key_set())]
    set: KeySetName,
    /// Fingerprints, comments or whole lines of the keys; all that fit are removed
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// Remove the whole set
    #[arg(long, conflicts_with = "keys")]
    yes: bool,
}

/// List key sets and their keys
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell key ls
  dwell key ls team -o json | jq -r '.key_sets[].keys[].line' > authorized_keys")]
struct Ls {
    /// Only this set
    #[arg(add = complete::key_set())]
    set: Option<KeySetName>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Print the authority that signs the host keys of all instances
///
/// As a line for known_hosts: with it, ssh knows every instance and asks nobody. It also answers ssh's
/// KnownHostsCommand, see `dwell ssh-config`. While the cluster's authority is rotated there are two lines; see `dwell ca`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell key ca >> ~/.ssh/known_hosts
  dwell key ca --user > user_ca.pub    # TrustedUserCAKeys of an image's own sshd")]
struct Ca {
    /// The authority that signs people's keys, as a public key
    #[arg(long)]
    user: bool,
}

impl Key {
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<(), Failure> {
        match self.command {
            // Files are read before anything is connected.
            Command::Add(add) => add.run(fleet).await,
            Command::Sign(sign) => sign.run(fleet).await,
            Command::Rm(rm) => rm.run(fleet).await,
            Command::Ls(ls) => ls.run(fleet.await?).await,
            Command::Ca(ca) => ca.run(fleet.await?).await,
        }
    }
}

impl Add {
    async fn run(self, fleet: impl Future<Output = Result<Fleet, Failure>>) -> Result<(), Failure> {
        let mut keys = Vec::new();
        for file in &self.files {
            let (name, text) = read(file)?;
            let found = PublicKey::read_all(&text)
                .map_err(|problem| Failure::Usage(format!("{name}:{problem}")))?;
            if found.is_empty() {
                return Err(Failure::Usage(format!("there is no public key in {name}")));
            }
            keys.extend(found);
        }
        let request = v1::UpdateKeySetRequest {
            name: self.set.to_string(),
            add: keys.iter().map(|key| key.line.clone()).collect(),
            remove: Vec::new(),
        };
        fleet.await?.client.update_key_set(request).await?;
        said(&keys, &format!("is in {}", self.set))
    }
}

impl Rm {
    async fn run(self, fleet: impl Future<Output = Result<Fleet, Failure>>) -> Result<(), Failure> {
        let name = self.set.to_string();
        if self.yes {
            let request = v1::RemoveKeySetRequest { name: name.clone() };
            fleet.await?.client.remove_key_set(request).await?;
            return print(&format!("{name} is removed\n"));
        }
        if self.keys.is_empty() {
            return Err(Failure::Usage(format!(
                "name the keys to remove (dwell key ls {name} shows them), or write --yes to remove all of {name}"
            )));
        }
        let mut fleet = fleet.await?;
        let mut keys = Vec::new();
        let found = list(&mut fleet, &name).await?.key_sets.into_iter().flat_map(|set| set.keys);
        let found: Vec<PublicKey> = found.filter_map(|key| PublicKey::read(&key.line)).collect();
        for text in &self.keys {
            let before = keys.len();
            keys.extend(found.iter().filter(|key| key.is_meant_by(text)).cloned());
            if keys.len() == before {
                // Nobody should believe that a key has gone because its name was mistyped.
                let shown = sanitize(text, 80);
                return Err(Failure::NotFound(format!(
                    "there is no key {shown:?} in {name}, and none was removed; see `dwell key ls {name}`"
                )));
            }
        }
        let remove = keys.iter().map(|key| key.line.clone()).collect();
        let request = v1::UpdateKeySetRequest { name: name.clone(), add: Vec::new(), remove };
        fleet.client.update_key_set(request).await?;
        said(&keys, &format!("is no longer in {name}"))
    }
}

impl Ls {
    async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let name = self.set.map(|set| set.to_string()).unwrap_or_default();
        let view = list(&mut fleet, &name).await?;
        self.output.print(&view, table)
    }
}

impl Ca {
    async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let info = fleet.client.get_info(v1::GetInfoRequest {}).await?.into_inner();
        if self.user {
            let lines = openssh::authorities(&info.user_authority, &info.user_authorities)?;
            return print(&format!("{}\n", lines.join("\n")));
        }
        print(&openssh::known_hosts(&info)?)
    }
}

async fn list(fleet: &mut Fleet, name: &str) -> Result<KeySetsView, Failure> {
    let request = v1::ListKeySetsRequest { name: name.into() };
    let sets = fleet.client.list_key_sets(request).await?.into_inner().key_sets;
    if sets.is_empty() && !name.is_empty() {
        return Err(Failure::NotFound(format!("there is no key set {name}; see `dwell key ls`")));
    }
    Ok(KeySetsView::new(sets))
}

/// A file's name for people, and its text.
fn read(file: &Path) -> Result<(String, String), Failure> {
    let is_stdin = file == Path::new("-");
    let name = if is_stdin { "-".into() } else { file.display().to_string() };
    let mut text = String::new();
    let read = if is_stdin {
        io::stdin().take(SIZE_MAX).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|file| file.take(SIZE_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    Ok((name, text))
}

fn said(keys: &[PublicKey], what: &str) -> Result<(), Failure> {
    let line = |key: &PublicKey| {
        let shown = format!("{} {}", key.fingerprint, key.comment);
        format!("{} {what}\n", sanitize(&shown, 200))
    };
    print(&keys.iter().map(line).collect::<String>())
}

fn table(view: &KeySetsView) -> String {
    if view.key_sets.is_empty() {
        return "There is no key set yet. Make one with `dwell key add NAME FILE.pub`.\n".into();
    }
    let mut table = Table::new(["SET", "TYPE", "FINGERPRINT", "COMMENT", "OPTIONS"]);
    for set in &view.key_sets {
        for key in &set.keys {
            table.row([
                set.name.clone(),
                or_dash(&key.algorithm),
                or_dash(&key.fingerprint),
                or_dash(&key.comment),
                or_dash(&key.options),
            ]);
        }
        if set.keys.is_empty() {
            table.row([set.name.clone(), "-".into(), "-".into(), "-".into(), "-".into()]);
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_for_people() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG9i7+TH8H/fFYUlYAqtxvVZKEwOEfg6ylCIzdSk3wJm";
        let sets = vec![
            v1::KeySet {
                name: "team".into(),
                keys: vec![format!("{key} alice@laptop"), format!("cert-authority {key}")],
            },
            v1::KeySet { name: "empty".into(), keys: vec![] },
            v1::KeySet { name: "new".into(), keys: vec!["of a later time".into()] },
        ];
        insta::assert_snapshot!(table(&KeySetsView::new(sets)), @r"
        SET    TYPE         FINGERPRINT                                         COMMENT       OPTIONS
        empty  -            -                                                   -             -
        new    -            -                                                   -             -
        team   ssh-ed25519  SHA256:pLeZ4pBJXxkVZv2aWBRQrEYneVECcaobCYt4U3ZjfT0  alice@laptop  -
        team   ssh-ed25519  SHA256:pLeZ4pBJXxkVZv2aWBRQrEYneVECcaobCYt4U3ZjfT0  -             cert-authority
        ");
        assert!(table(&KeySetsView::new(vec![])).contains("dwell key add"));
    }
}
