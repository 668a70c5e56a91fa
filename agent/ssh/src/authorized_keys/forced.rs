//! What a key or a certificate forces to run, whatever is asked for.

use crate::enter::SftpOptions;

/// The command that stands for our SFTP server.
pub(crate) const INTERNAL_SFTP: &str = "internal-sftp";

/// Runs instead of whatever was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forced {
    /// A command line.
    Command(String),
    /// Our SFTP server.
    Sftp(SftpOptions),
}

impl Forced {
    /// Reads the value of `command=` or `force-command`; nothing if it asks our SFTP server for something that this
    /// cannot do, which may be a restriction. As with `sshd`, words are separated by spaces and not quoted.
    pub fn parse(command: &str) -> Option<Self> {
        let mut words = command.split_whitespace();
        if words.next() != Some(INTERNAL_SFTP) {
            return Some(Self::Command(command.to_owned()));
        }
        let mut options = SftpOptions::default();
        while let Some(word) = words.next() {
            let mut letters = word.strip_prefix('-').filter(|letters| !letters.is_empty())?.chars();
            while let Some(letter) = letters.next() {
                let mut value = || match std::mem::replace(&mut letters, "".chars()).as_str() {
                    "" => words.next().map(str::to_owned),
                    rest => Some(rest.to_owned()),
                };
                match letter {
                    'R' => options.read_only = true,
                    // What is to be logged, and where: ours logs nothing.
                    'e' => {}
                    'f' | 'l' => drop(value()?),
                    // `%` would stand for something that we do not fill in.
                    'd' => options.directory = Some(value().filter(|path| !path.contains('%'))?),
                    _ => return None,
                }
            }
        }
        Some(Self::Sftp(options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sftp(read_only: bool, directory: Option<&str>) -> Option<Forced> {
        Some(Forced::Sftp(SftpOptions { read_only, directory: directory.map(str::to_owned) }))
    }

    #[test]
    fn what_restricts_the_sftp_server_is_understood_or_refused() {
        assert_eq!(Forced::parse("internal-sftp"), sftp(false, None));
        assert_eq!(Forced::parse("internal-sftp -R"), sftp(true, None));
        assert_eq!(Forced::parse(" internal-sftp  -d /srv -R"), sftp(true, Some("/srv")));
        assert_eq!(Forced::parse("internal-sftp -eRd/srv"), sftp(true, Some("/srv")));
        assert_eq!(Forced::parse("internal-sftp -l INFO -f AUTH -e"), sftp(false, None));
        for unknown in
            ["-u 022", "-P remove", "-p read", "-d", "-d %h", "-Rx", "/srv", "-", "--", "\"-R\""]
        {
            assert_eq!(Forced::parse(&format!("internal-sftp {unknown}")), None, "{unknown}");
        }
        let other = "internal-sftp2 -R";
        assert_eq!(Forced::parse(other), Some(Forced::Command(other.to_owned())));
    }
}
