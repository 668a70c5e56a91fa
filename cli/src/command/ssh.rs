//! `dwell ssh` and `dwell ssh-config`: stock ssh, through the controller.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;
use dwell_core::ssh::DEFAULT_USER;
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::client::TargetArgs;
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::openssh::{self, Login};
use crate::output::{print, say};

/// Exit code if it came to no session, as ssh has it; what the command ends with is passed on.
const NO_SESSION: u8 = 255;

/// Log in to an instance, or run a command there, with ssh
///
/// No route to the instance, no key and no configuration is needed: the way leads through the controller
/// and the instance's node, with a key that is made and certified for this login. What comes after the name is
/// passed to ssh as it is. Ends with ssh's exit code: the command's, or 255.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell ssh web-0
  dwell ssh root@web-0 -- ls -l /srv
  dwell ssh web-0 -L 8080:localhost:80 -N    # everything that ssh can
  dwell ssh web-0 -t -- top")]
pub(crate) struct Ssh {
    /// User of the instance to log in as; whom its workload says if not given, or else the user that it runs as
    #[arg(short, long)]
    user: Option<String>,
    /// The instance, or a workload that has only one
    #[arg(value_name = "[USER@]NAME", value_parser = name_parser(), add = complete::subject())]
    instance: String,
    /// Options of ssh, and a command
    #[arg(value_name = "SSH-ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Ssh {
    /// Never an error: programs could not tell it from the command's.
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
        target: &TargetArgs,
    ) -> ExitCode {
        self.attempt(fleet, target).await.unwrap_or_else(|failure| {
            say(&format!("dwell: {failure}"));
            NO_SESSION.into()
        })
    }

    async fn attempt(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
        target: &TargetArgs,
    ) -> Result<ExitCode, Failure> {
        let (user, name) = openssh::split_user(self.user.as_deref(), &self.instance)?;
        let mut client = fleet.await?.client;
        let instance = names::instance(&mut client, name).await?;
        let login = Login::prepare(&mut client, target, vec![user.clone()]).await?;
        let mut arguments = vec![format!("{user}@{instance}.{}", login.zone).into()];
        arguments.extend(self.arguments);
        login.run("ssh", arguments).await
    }
}

/// Print what ssh's configuration needs to reach instances by their names
///
/// With it `ssh web-0.dwell` works, and everything that uses ssh does too: scp, sftp, rsync, git, Ansible,
/// editors. The way leads through the controller; host keys are trusted because of the cluster's
/// authority. Log in with a key of a key set (`dwell key add`) or with a certificate (`dwell key sign`).
/// Without a user's name you are whom the workload says, or else the user that it runs as.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell ssh-config >> ~/.ssh/config
  dwell ssh-config > ~/.ssh/dwell && sed -i '1i Include dwell' ~/.ssh/config
  dwell ssh-config --direct    # where instances have a route and their names resolve")]
pub(crate) struct SshConfig {
    /// Connect to the instances themselves, not through the controller
    #[arg(long)]
    direct: bool,
}

impl SshConfig {
    pub(super) async fn run(self, mut fleet: Fleet, target: &TargetArgs) -> Result<(), Failure> {
        let info = fleet.client.get_info(v1::GetInfoRequest {}).await?.into_inner();
        let mut text = format!("Host *.{}\n", info.zone);
        // Your own name is hardly one of the instances', where a name that they do not have is nobody.
        text += &format!("    User {DEFAULT_USER}\n");
        if !self.direct {
            text += &format!("    ProxyCommand {}\n", openssh::proxy_command(target)?);
        }
        // Before OpenSSH 8.5 the last line means nothing, and `dwell key ca >> ~/.ssh/known_hosts` does it.
        text += "    IgnoreUnknown KnownHostsCommand\n";
        text += &format!("    KnownHostsCommand {} key ca\n", openssh::own_command(target)?);
        print(&text)
    }
}
