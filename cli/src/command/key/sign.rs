//! `dwell key sign`: a certificate for somebody's key.

use std::path::{Path, PathBuf};

use clap::Args;
use dwell_core::quantity::Millis;
use dwell_proto::v1;

use super::read;
use crate::command::Fleet;
use crate::failure::Failure;
use crate::openssh;
use crate::output::{moment, print, say};
use crate::public_key::PublicKey;

/// Certify a public key for logging in to all instances
///
/// The certificate is written beside the key, as alice-cert.pub for alice.pub, where ssh finds it by
/// itself. It cannot be taken back before it expires: choose a short time.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell key sign ~/.ssh/id_ed25519.pub
  dwell key sign alice.pub --principal alice --principal root --valid 1h
  ssh bob@laptop cat .ssh/id_ed25519.pub | dwell key sign - --principal bob > id_ed25519-cert.pub")]
pub(super) struct Sign {
    /// File of the public key; - reads it from standard input and prints the certificate
    file: PathBuf,
    /// Name that it may log in as, any number of times; your own, @default and @container if not given
    ///
    /// A name is the user of that name in the container and no other. @container is the container's own user, and
    /// @default whom the workload says for those who choose no name.
    #[arg(long, value_name = "NAME")]
    principal: Vec<String>,
    /// How long it is valid, at most 720h; 8h if not given
    #[arg(long, value_name = "DURATION")]
    valid: Option<Millis>,
}

impl Sign {
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<(), Failure> {
        let (name, text) = read(&self.file)?;
        let keys = PublicKey::read_all(&text)
            .map_err(|problem| Failure::Usage(format!("{name}:{problem}")))?;
        let [key] = keys.as_slice() else {
            return Err(Failure::Usage(format!(
                "there has to be exactly one public key in {name}"
            )));
        };
        let principals =
            if self.principal.is_empty() { openssh::usual_principals()? } else { self.principal };
        let request = v1::CertifyUserRequest {
            public_key: key.line.clone(),
            principals: principals.clone(),
            valid_ms: self.valid.map_or(0, |valid| valid.0),
        };
        let made = fleet.await?.client.certify_user(request).await?.into_inner();
        let certificate = format!("{}\n", made.certificate.trim_end());
        if self.file == Path::new("-") {
            return print(&certificate);
        }
        let path = beside(&self.file);
        std::fs::write(&path, certificate)
            .map_err(|error| Failure::Other(format!("cannot write {}: {error}", path.display())))?;
        let until = moment(made.expires_at_ms);
        say(&format!(
            "{} is valid until {until}, for logging in as {}",
            path.display(),
            principals.join(", ")
        ));
        Ok(())
    }
}

/// Where ssh looks for the certificate of a key.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.with_extension("").into_os_string();
    if file.extension().is_none_or(|extension| extension != "pub") {
        name = file.as_os_str().to_owned();
    }
    name.push("-cert.pub");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_lie_beside_their_keys() {
        for (key, certificate) in [
            ("alice.pub", "alice-cert.pub"),
            ("/a/id_ed25519.pub", "/a/id_ed25519-cert.pub"),
            ("a.b.pub", "a.b-cert.pub"),
            ("alice.key", "alice.key-cert.pub"),
            ("alice", "alice-cert.pub"),
        ] {
            assert_eq!(beside(Path::new(key)), Path::new(certificate), "{key}");
        }
    }
}
