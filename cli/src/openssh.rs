//! Stock OpenSSH, told how to reach instances through the controller, to trust their host keys, and how to be
//! let in.
//!
//! A [`Login`] is good for one run of `ssh` or `scp`: a key that is made for it, certified for a few minutes by the
//! cluster's user CA, in a directory of its own that goes when the `Login` does. The person's own configuration
//! and keys stay in force beside it, so that an instance with an SSH server of its own is reached likewise.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use dwell_core::instance::sanitize;
use dwell_core::ssh::{CONTAINERS_USER, DEFAULT_USER};
use dwell_proto::v1;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, waitpid};
use ssh_key::private::{Ed25519Keypair, PrivateKey};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::client::{Client, TargetArgs};
use crate::failure::Failure;
use crate::public_key::PublicKey;

/// How long a login may take to begin, in milliseconds; once begun it lasts as long as it likes.
const LOGIN_VALID_MS: u64 = 5 * 60 * 1000;

/// The names that a certificate has to be for, so that it is good for these users. Whoever chose no name is the
/// container's own user, where the instance does not say otherwise.
fn principals(users: Vec<String>) -> Vec<String> {
    let mut principals = users;
    if principals.iter().any(|user| user == DEFAULT_USER) {
        principals.push(CONTAINERS_USER.to_owned());
    }
    principals
}

/// The names that a person's own certificate is for, if nobody says which.
///
/// # Errors
/// If this machine has no name for the person.
pub(crate) fn usual_principals() -> Result<Vec<String>, Failure> {
    Ok(principals(vec![local_user()?, DEFAULT_USER.to_owned()]))
}

/// What one run of OpenSSH needs.
pub(crate) struct Login {
    /// The cluster's zone: OpenSSH is to call `web-0` by the name `web-0.ZONE`, which is in its certificate.
    pub(crate) zone: String,
    options: Vec<OsString>,
    /// Removed with this value.
    _directory: TempDir,
}

impl Login {
    /// Prepares to log in by these names.
    ///
    /// # Errors
    /// If the controller does not certify that, or there is no place for the key.
    pub(crate) async fn prepare(
        client: &mut Client,
        target: &TargetArgs,
        users: Vec<String>,
    ) -> Result<Self, Failure> {
        let key: PrivateKey = Ed25519Keypair::from_seed(&rand::random()).into();
        let (private, public) = key
            .to_openssh(ssh_key::LineEnding::LF)
            .and_then(|private| Ok((private, key.public_key().to_openssh()?)))
            .map_err(|error| Failure::Other(format!("cannot make a key: {error}")))?;
        let request = v1::CertifyUserRequest {
            public_key: public,
            principals: principals(users),
            valid_ms: LOGIN_VALID_MS,
        };
        let mut second = client.clone();
        let (certified, info) = tokio::try_join!(
            client.certify_user(request),
            second.get_info(v1::GetInfoRequest {}),
        )?;
        let (certified, info) = (certified.into_inner(), info.into_inner());
        let known_hosts = known_hosts(&info)?;

        let failed = |error| Failure::Other(format!("cannot keep a key for this login: {error}"));
        let directory = directory().map_err(failed)?;
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            writeln!(file, "{}", text.trim_end())?;
            Ok(path)
        };
        let key = file("key", &private).map_err(failed)?;
        let certificate = file("key-cert.pub", &certified.certificate).map_err(failed)?;
        // In place of the machine's own list, so that new keys are still learnt into the person's.
        let known_hosts = file("known_hosts", &known_hosts).map_err(failed)?;
        let option = |name: &str, value: &OsStr| {
            let mut text = OsString::from(format!("-o{name}="));
            text.push(value);
            text
        };
        let options = vec![
            option("ProxyCommand", proxy_command(target)?.as_ref()),
            option("GlobalKnownHostsFile", known_hosts.as_ref()),
            option("IdentityFile", key.as_ref()),
            // Named, it is offered first; an agent with many keys would use up the attempts otherwise.
            option("CertificateFile", certificate.as_ref()),
        ];
        Ok(Self { zone: info.zone, options, _directory: directory })
    }

    /// Runs `ssh` or `scp` with this login and these further arguments, and ends with its exit code.
    ///
    /// # Errors
    /// If the program is not there.
    pub(crate) async fn run(
        self,
        program: &str,
        arguments: Vec<OsString>,
    ) -> Result<ExitCode, Failure> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Failure::Other(format!(
                "{program} is not installed here; install OpenSSH's client (apt-get install openssh-client)"
            )),
            _ => Failure::Other(format!("cannot run {program}: {error}")),
        };
        // From here on signals end the program, and this one with it, so that the directory is removed.
        let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminated = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hung_up = signal(SignalKind::hangup()).map_err(failed)?;
        let child =
            Command::new(program).args(&self.options).args(arguments).spawn().map_err(failed)?;
        let pid = Pid::from_child(&child);
        #[expect(clippy::disallowed_methods, reason = "nothing else blocks in this program")]
        let mut ended = tokio::task::spawn_blocking(move || wait(pid));
        loop {
            // Cancel-safe: `recv` loses no signal, and a joined task keeps its result.
            let told = tokio::select! {
                status = &mut ended => {
                    let status = status.unwrap_or_else(|error| Err(error.into())).map_err(failed)?;
                    return Ok(exit_code(status));
                }
                _ = interrupted.recv() => Signal::INT,
                _ = terminated.recv() => Signal::TERM,
                _ = hung_up.recv() => Signal::HUP,
            };
            // It has ended in the meantime, or it ends.
            kill_process(pid, told).unwrap_or_default();
        }
    }
}

/// Waits until a child has ended. If it stops (ssh's `~^Z`), so does this program, so that the shell is
/// there again; what continues the one continues the other, as both are of one process group.
fn wait(child: Pid) -> io::Result<WaitStatus> {
    loop {
        match waitpid(Some(child), WaitOptions::UNTRACED) {
            Ok(Some((_, status))) if status.stopped() => kill_process(getpid(), Signal::STOP)?,
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// As a shell has it: a signal is 128 and its number.
fn exit_code(status: WaitStatus) -> ExitCode {
    let code = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1).into()
}

/// A new directory that is this person's alone, in memory if possible, whose path needs no quotes in a
/// configuration.
fn directory() -> io::Result<TempDir> {
    let plain = |path: &PathBuf| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        path.to_str().is_some_and(|path| path.starts_with('/') && path.chars().all(plain))
    };
    let make = |place: PathBuf| {
        tempfile::Builder::new()
            .prefix("dwell-ssh-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(place)
    };
    let places = [env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some(env::temp_dir())];
    // The first may belong to somebody else, as after `su`.
    let mut made = places.into_iter().flatten().filter(plain).map(make);
    made.find_map(Result::ok).map_or_else(|| make("/tmp".into()), Ok)
}

/// The value of ssh's `ProxyCommand` that leads to instances of this controller.
///
/// # Errors
/// If a path cannot be written into a configuration.
pub(crate) fn proxy_command(target: &TargetArgs) -> Result<String, Failure> {
    Ok(format!("{} proxy -- %h %p", own_command(target)?))
}

/// This program with this controller, as a shell and a configuration of OpenSSH write it.
///
/// # Errors
/// If a path cannot be written so.
pub(crate) fn own_command(target: &TargetArgs) -> Result<String, Failure> {
    let program = env::current_exe().map_err(|error| {
        Failure::Other(format!("cannot find the path of this program: {error}"))
    })?;
    let words = std::iter::once(program.into_os_string()).chain(target.arguments()?);
    let quoted = |word: OsString| {
        let quoted = word.to_str().and_then(|word| shlex::try_quote(word).ok())?;
        Some(quoted.replace('%', "%%"))
    };
    let words: Option<Vec<String>> = words.map(quoted).collect();
    words.map(|words| words.join(" ")).ok_or_else(|| {
        Failure::Usage(
            "the path of this program, or of the socket or context, is not plain text".into(),
        )
    })
}

/// The line of `known_hosts` by which ssh knows every instance; two while the cluster's authority is rotated.
///
/// # Errors
/// If the controller has no host CA.
pub(crate) fn known_hosts(info: &v1::GetInfoResponse) -> Result<String, Failure> {
    let lines = authorities(&info.host_authority, &info.host_authorities)?.into_iter();
    Ok(lines.map(|line| format!("@cert-authority *.{} {line}\n", info.zone)).collect())
}

/// The CAs that count; an earlier controller names only one.
///
/// # Errors
/// If there is none.
pub(crate) fn authorities(one: &String, all: &[String]) -> Result<Vec<String>, Failure> {
    let all = if all.is_empty() { std::slice::from_ref(one) } else { all };
    all.iter().map(|line| authority(line)).collect()
}

/// A CA's public key, if it is one: it goes into a file that ssh believes.
///
/// # Errors
/// If there is none.
fn authority(line: &str) -> Result<String, Failure> {
    match PublicKey::read(line) {
        Some(key) if !key.line.contains(['\n', '\r']) => Ok(key.line),
        _ => Err(Failure::Refused(
            "the controller has no authority for SSH; it is older than this command line: update it".into(),
        )),
    }
}

/// Whom to log in as, by a name before `@` or by none, and what to log in to.
///
/// # Errors
/// If the name cannot be one.
pub(crate) fn split_user<'a>(
    user: Option<&str>,
    text: &'a str,
) -> Result<(String, &'a str), Failure> {
    let (before, name) = match text.rsplit_once('@') {
        Some((before, name)) => (Some(before), name),
        None => (None, text),
    };
    if user.is_some() && before.is_some() {
        return Err(Failure::Usage("give the user once: as --user, or before the @".into()));
    }
    let user = user.or(before).unwrap_or(DEFAULT_USER);
    // Further characters mean something to OpenSSH or to a shell that it starts.
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-+$".contains(c);
    let is_name = !user.is_empty() && !user.starts_with('-') && user.chars().all(fits);
    if !is_name && ![CONTAINERS_USER, DEFAULT_USER].contains(&user) {
        let shown = sanitize(user, 80);
        return Err(Failure::Usage(format!(
            "{shown:?} cannot be a user's name; choose another with --user"
        )));
    }
    Ok((user.to_owned(), name))
}

/// The name of the person who runs this.
///
/// # Errors
/// If the machine knows none.
fn local_user() -> Result<String, Failure> {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    user.map(|user| user.name).ok_or_else(|| {
        Failure::Usage("this machine has no name for you; say which with --principal".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_from_what_they_log_in_to() {
        let split = |user, text| split_user(user, text).map_err(|error| error.to_string());
        assert_eq!(split(None, "root@web-0"), Ok(("root".into(), "web-0")));
        assert_eq!(split(Some("root"), "web-0"), Ok(("root".into(), "web-0")));
        assert_eq!(split(None, "web-0"), Ok(("@default".into(), "web-0")));
        assert_eq!(split(None, "@container@web-0"), Ok(("@container".into(), "web-0")));
        for (user, text) in [
            (Some("a"), "b@c"),
            (None, "@c"),
            (None, "-oX@c"),
            (Some("a b"), "c"),
            (Some("a%h"), "c"),
        ] {
            assert!(split(user, text).is_err(), "{user:?} {text}");
        }
    }

    #[test]
    fn only_a_key_becomes_an_authority() {
        for wrong in ["", "ssh-ed25519", "*.dwell ssh-ed25519 AAAA", "\n* ssh-rsa AAAA"] {
            assert!(matches!(authority(wrong), Err(Failure::Refused(_))), "{wrong}");
        }
    }
}
