//! `dwell-oci`: the OCI runtime that starts a container inside its sandbox.
//!
//! An instance owns a *sandbox*: a network namespace that `dwell-agent` made and wired before there
//! was any container. Docker cannot be asked to start a container in a namespace that exists
//! already, and connecting the container after its start would leave its first instructions
//! without a network. So dwell registers this program as a runtime in Docker's `daemon.json`:
//!
//! ```json
//! {"runtimes": {"dwell": {"path": "/usr/bin/dwell-oci"}}}
//! ```
//!
//! Docker calls a runtime by runc's command line, and describes the container in the `config.json`
//! of a *bundle* directory. For `create` and `run`, this program writes the path of the sandbox
//! into that description and then becomes runc, with the arguments unchanged; for everything else
//! it becomes runc at once. Two things follow:
//!
//! - The network is complete before the first instruction of the workload.
//! - `docker restart` comes back at the same address also while the agent is down, since all that is
//!   needed is on the node: the namespace and the [`Mapping`] file that names it.
//!
//! The same file names the node's paths that the container mounts, with the roots that the operator has allowed. Each is
//! opened anew, beneath its root and through no symbolic link ([`binds`]), since a container that may write there could
//! have put a link in its place since the last start. Of the files that are the container's own, such as `/etc/hosts`, it
//! gets copies in memory, so that it cannot fill the agent's disk.
//!
//! Of a machine, it also says which volume has what differs from its image: that is laid over the image and becomes the root of the
//! container ([`root`]). What has systemd for its main process gets control groups to manage ([`dwell_oci::cgroups`]).
//!
//! ```text
//! dockerd ─ containerd-shim ─ dwell-oci create ─┬─ mapping ─ netns ─ config.json ─ exec runc
//!                                               └─ anything wrong ─ message, exit 1, no process
//! ```
//!
//! Invariant: **no workload process runs in the host's network namespace, not for an instant.**
//! Whatever cannot be understood, found or verified ends in a message and exit status 1, before
//! runc is started. So does a mount that leads anywhere but beneath what the operator allows. The message goes to
//! stderr and to runc's log file (see [`report`]), from where it reaches whoever ran `docker start`. Docker's network mode of the container does not matter here.
//! It is `host`, since with any other Docker makes a network of its own first, which takes longer than the rest of the
//! start. So there is no second line of defence: a container of dwell's that is started with another runtime, by
//! somebody who rewrites Docker's files, gets the host's network.
//!
//! The program keeps no state and takes two settings of its own, which come before runc's
//! arguments (Docker's `runtimeArgs`; giving any makes Docker interpose a shell):
//!
//! | setting | default | |
//! |---|---|---|
//! | `--dwell-state-dir=DIR` | `/run/dwell` | where the agent writes the mappings |
//! | `--dwell-runtime=PROGRAM` | `runc` | what to become: a name in `PATH` or a path |

mod args;
mod binds;
mod netns;
mod report;
mod root;

use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use dwell_oci::bundle::{self, Changes};
use dwell_oci::{Mapping, MappingError, cgroups};

use args::{Creation, Settings};

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let Err(failure) = become_runtime(&args);
    report::failure(&failure, &args);
    ExitCode::FAILURE
}

/// Replaces this process by the real runtime; returns only if that is not to happen.
fn become_runtime(args: &[OsString]) -> Result<Infallible, Failure> {
    let (settings, runtime_args) = Settings::split(args)?;
    if let Some(creation) = Creation::find(runtime_args)? {
        enter_sandbox(&settings, &creation)?;
    }
    let source = Command::new(&settings.runtime).args(runtime_args).exec();
    let runtime = settings.runtime;
    Err(match source.kind() {
        io::ErrorKind::NotFound => Failure::RuntimeMissing { runtime },
        _ => Failure::RuntimeBroken { runtime, source },
    })
}

/// Points the bundle at the container's sandbox, and `dwell-ssh` at the bundle.
fn enter_sandbox(settings: &Settings, creation: &Creation) -> Result<(), Failure> {
    let mapping = Mapping::read(&settings.state_dir, creation.container_id)?;
    netns::verify(&mapping.netns)
        .map_err(|source| Failure::Sandbox { instance: mapping.instance.clone(), source })?;
    let held = binds::hold(&settings.state_dir, &mapping)?;
    let root = root::make(&settings.state_dir, creation.bundle, &mapping)?;
    let root = mapping.root.as_ref().map(|it| it.mount.as_str()).zip(root.as_deref());
    let cgroups = mapping.systemd.then(|| cgroups::prepare(creation.container_id));
    let cgroups = cgroups.transpose()?;
    let sysctls = &mapping.sysctls;
    let changes = Changes { netns: &mapping.netns, held: &held, root, sysctls, cgroups };
    bundle::rewrite(creation.bundle, &changes)?;
    let bundle = std::path::absolute(creation.bundle).map_err(Failure::WorkingDirectory)?;
    Mapping::record_bundle(&settings.state_dir, creation.container_id, &bundle)?;
    Ok(())
}

/// Why the runtime was not started.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] args::ArgumentError),

    #[error(transparent)]
    Mapping(#[from] MappingError),

    #[error("the sandbox of {instance:?} cannot be used; dwell-agent restores it")]
    Sandbox { instance: String, source: netns::NetnsError },

    #[error(transparent)]
    Bind(#[from] binds::BindError),

    #[error(transparent)]
    Root(#[from] root::RootError),

    #[error(transparent)]
    Cgroups(#[from] cgroups::CgroupError),

    #[error(transparent)]
    Bundle(#[from] bundle::BundleError),

    #[error("cannot tell the working directory, which the bundle is relative to")]
    WorkingDirectory(#[source] io::Error),

    #[error(
        "the OCI runtime {runtime:?} is not installed; \
         install it (Debian, Ubuntu: `apt-get install runc`) \
         or name another in Docker's daemon.json: `\"runtimeArgs\": [\"--dwell-runtime=PATH\"]`"
    )]
    RuntimeMissing { runtime: OsString },

    #[error("cannot execute the OCI runtime {runtime:?}")]
    RuntimeBroken { runtime: OsString, source: io::Error },
}
