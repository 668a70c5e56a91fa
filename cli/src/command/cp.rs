//! `dwell cp`: stock scp, through the controller.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;

use super::Fleet;
use crate::client::TargetArgs;
use crate::failure::Failure;
use crate::names;
use crate::openssh::{self, Login};

/// Copy files and directories from and to instances
///
/// An instance's side is written NAME:PATH; a path that does not begin with / is one of the user's home. Works
/// as `dwell ssh` does, with scp; directories are copied with all that is in them. A local path with a colon
/// in it is written as ./a:b.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell cp nginx.conf web-0:/etc/nginx/
  dwell cp root@web-0:/var/log/nginx ./logs
  dwell cp site/*.html web-0:/srv/www/
  dwell cp db-0:/backup/a.dump db-1:/backup/")]
pub(crate) struct Cp {
    /// User of the instance to log in as; whom its workload says if not given, or else the user that it runs as
    #[arg(short, long)]
    user: Option<String>,
    /// Without effect, for hands that are used to it: directories are always copied whole
    #[arg(short, long, hide = true)]
    recursive: bool,
    /// Files and directories, here or in instances
    #[arg(value_name = "[[USER@]NAME:]SOURCE", required = true)]
    sources: Vec<OsString>,
    /// Where to, here or in an instance
    #[arg(value_name = "[[USER@]NAME:]DESTINATION")]
    destination: OsString,
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Here(OsString),
    Instance { user: String, name: String, path: OsString },
}

impl Place {
    fn read(user: Option<&str>, text: OsString) -> Result<Self, Failure> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().take_while(|&&byte| byte != b'/').position(|&byte| byte == b':');
        let Some(colon) = colon.filter(|&colon| colon > 0) else { return Ok(Self::Here(text)) };
        let name = String::from_utf8_lossy(&bytes[..colon]).into_owned();
        let (user, name) = openssh::split_user(user, &name)?;
        let path = OsStr::from_bytes(&bytes[colon + 1..]).to_owned();
        Ok(Self::Instance { user, name: name.to_owned(), path })
    }

    fn is_remote(&self) -> bool {
        matches!(self, Self::Instance { .. })
    }

    /// As scp has it, which tells the two kinds apart in the same way.
    fn argument(self, zone: &str) -> OsString {
        match self {
            Self::Here(path) => path,
            Self::Instance { user, name, path } => {
                let mut text = OsString::from(format!("{user}@{name}.{zone}:"));
                text.push(path);
                text
            }
        }
    }
}

impl Cp {
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
        target: &TargetArgs,
    ) -> Result<ExitCode, Failure> {
        let read = |text| Place::read(self.user.as_deref(), text);
        let mut places = self.sources.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let destination = read(self.destination)?;
        let between = destination.is_remote() && places.iter().any(Place::is_remote);
        places.push(destination);
        if !places.iter().any(Place::is_remote) {
            return Err(Failure::Usage(
                "no side is in an instance; write that one as NAME:PATH, such as web-0:/srv/"
                    .into(),
            ));
        }
        let mut client = fleet.await?.client;
        let mut users = Vec::new();
        for place in &mut places {
            if let Place::Instance { user, name, .. } = place {
                *name = names::instance(&mut client, name).await?;
                if !users.contains(user) {
                    users.push(user.clone());
                }
            }
        }
        let login = Login::prepare(&mut client, target, users).await?;
        let mut arguments = vec!["-r".into()];
        if between {
            // Through this machine: instances cannot log in to each other with this key.
            arguments.push("-3".into());
        }
        arguments.push("--".into());
        arguments.extend(places.into_iter().map(|place| place.argument(&login.zone)));
        login.run("scp", arguments).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_are_told_apart() {
        let argument = |text: &str| {
            Place::read(Some("u"), text.into()).map(|place| {
                (place.is_remote(), place.argument("dwell").into_string().unwrap_or_default())
            })
        };
        for (text, remote, means) in [
            ("web-0:/srv/a b", true, "u@web-0.dwell:/srv/a b"),
            ("web-0:", true, "u@web-0.dwell:"),
            ("web-0:-x:y", true, "u@web-0.dwell:-x:y"),
            ("./a:b", false, "./a:b"),
            ("/a:b", false, "/a:b"),
            (":a", false, ":a"),
            ("a/b:c", false, "a/b:c"),
            ("-a", false, "-a"),
        ] {
            assert_eq!(argument(text), Ok((remote, means.to_owned())), "{text}");
        }
        assert!(argument("-oX@web-0:a").is_err(), "the user is given twice");
        assert!(Place::read(None, "-oX=y@web-0:a".into()).is_err());
    }
}
