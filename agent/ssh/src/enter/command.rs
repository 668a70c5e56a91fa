//! What is executed for a shell or a command, in an image that may have neither.

use std::path::Path;

use super::Work;
use super::accounts::Account;

/// The shell of those who have none of their own.
const DEFAULT_SHELL: &str = "/bin/sh";
/// The status of a command that is not there, as shells have it.
pub(super) const NOT_FOUND: i32 = 127;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Become this program.
    Execute {
        /// Its path.
        program: String,
        /// Its arguments, with its name for itself in front.
        arguments: Vec<String>,
    },
    /// Say this and end with [`NOT_FOUND`].
    Explain(String),
}

/// Decides on shells and commands; `is_program` tells of a path whether it can be executed.
pub(super) struct Planner<'a, F> {
    pub(super) instance: &'a str,
    /// The variable `PATH` of the process.
    pub(super) path: &'a str,
    pub(super) is_program: F,
}

/// The shell of an account, or what stands for it in the environment.
pub(super) fn shell_of(account: &Account, is_program: impl Fn(&Path) -> bool) -> Option<&str> {
    let own = account.shell.as_deref().unwrap_or(DEFAULT_SHELL);
    [own, DEFAULT_SHELL].into_iter().find(|shell| is_program(Path::new(shell)))
}

impl<F: Fn(&Path) -> bool> Planner<'_, F> {
    /// What to do for `work`; what dwell does itself is not executed and has no plan.
    pub(super) fn plan(&self, work: &Work, shell: Option<&str>) -> Option<Plan> {
        match work {
            Work::Shell => Some(shell.map_or_else(|| self.no_shell(), login_shell)),
            Work::Command(line) => Some(self.command(line, shell)),
            Work::Sftp(_) | Work::Account { .. } | Work::Connect(_) | Work::Listen(_) => None,
        }
    }

    fn command(&self, line: &str, shell: Option<&str>) -> Plan {
        if let Some(missing) = self.missing_tool(line) {
            return missing;
        }
        if let Some(shell) = shell {
            let arguments = [base_name(shell), "-c", line].map(str::to_owned).into();
            return Plan::Execute { program: shell.to_owned(), arguments };
        }
        let Some(arguments) = shlex::split(line).filter(|words| !words.is_empty()) else {
            return Plan::Explain(format!(
                "the command cannot be split into words, and the image of {} has no shell",
                self.instance
            ));
        };
        match arguments.first().and_then(|name| self.find(name)) {
            Some(program) => Plan::Execute { program, arguments },
            None => Plan::Explain(format!(
                "{} is not in the image of {}, and neither is a shell; \
                 commands are executed directly there",
                arguments.first().map_or("it", String::as_str),
                self.instance
            )),
        }
    }

    /// Tools run by their other half on the client, which would say little of their absence.
    fn missing_tool(&self, line: &str) -> Option<Plan> {
        let words = shlex::split(line)?;
        let [name, rest @ ..] = &*words else { return None };
        let serves = |flags: &[&str]| rest.iter().any(|word| flags.contains(&&**word));
        let instead = match base_name(name) {
            "rsync" if serves(&["--server"]) => "scp or sftp",
            "scp" if serves(&["-t", "-f"]) => "scp without -O, or sftp",
            "git-upload-pack" | "git-receive-pack" | "git-upload-archive" => {
                "git on a copy by sftp"
            }
            _ => return None,
        };
        let tool = base_name(name).split('-').next().unwrap_or_default();
        self.find(name).is_none().then(|| {
            Plan::Explain(format!(
                "{tool} is not in the image of {}; add it to the image, or use {instead}",
                self.instance
            ))
        })
    }

    /// Where a program is, as `execvp` would look for it.
    fn find(&self, name: &str) -> Option<String> {
        let is_program = |path: &str| (self.is_program)(Path::new(path));
        if name.contains('/') {
            return is_program(name).then(|| name.to_owned());
        }
        let absolute = self.path.split(':').filter(|directory| directory.starts_with('/'));
        absolute.map(|directory| format!("{directory}/{name}")).find(|path| is_program(path))
    }

    fn no_shell(&self) -> Plan {
        Plan::Explain(format!(
            "the image of {0} has no shell; sftp, scp and port forwarding work, \
             and so does `ssh {0} PROGRAM`",
            self.instance
        ))
    }
}

/// A login shell is told so by a dash before its name.
fn login_shell(shell: &str) -> Plan {
    Plan::Execute { program: shell.to_owned(), arguments: vec![format!("-{}", base_name(shell))] }
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(work: &Work, programs: &[&str]) -> Plan {
        plan_for(work, programs, None)
    }

    fn plan_for(work: &Work, programs: &[&str], own_shell: Option<&str>) -> Plan {
        let is_program = |path: &Path| programs.iter().any(|one| Path::new(one) == path);
        let account = Account {
            name: "alice".to_owned(),
            uid: 1,
            gid: 1,
            groups: Vec::new(),
            home: None,
            shell: own_shell.map(str::to_owned),
        };
        let planner = Planner { instance: "web-0", path: "/bin:relative::/usr/bin", is_program };
        planner.plan(work, shell_of(&account, is_program)).unwrap()
    }

    fn command(line: &str) -> Work {
        Work::Command(line.to_owned())
    }

    fn execute(program: &str, arguments: &[&str]) -> Plan {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Plan::Execute { program: program.to_owned(), arguments }
    }

    #[test]
    fn a_shell_is_the_accounts_own_or_the_usual_one() {
        let both = ["/bin/sh", "/bin/bash"];
        assert_eq!(
            plan_for(&Work::Shell, &both, Some("/bin/bash")),
            execute("/bin/bash", &["-bash"])
        );
        assert_eq!(plan_for(&Work::Shell, &both, Some("/bin/zsh")), execute("/bin/sh", &["-sh"]));
        let nologin = ["/bin/sh", "/sbin/nologin"];
        let refused = execute("/sbin/nologin", &["nologin", "-c", "true"]);
        assert_eq!(plan_for(&command("true"), &nologin, Some("/sbin/nologin")), refused);
        assert_eq!(plan(&command("a | b"), &both), execute("/bin/sh", &["sh", "-c", "a | b"]));
    }

    #[test]
    fn without_a_shell_commands_are_executed_directly() {
        let app = ["/usr/bin/app"];
        assert_eq!(
            plan(&command("app 'a b' \"c\""), &app),
            execute("/usr/bin/app", &["app", "a b", "c"])
        );
        assert_eq!(
            plan(&command("/usr/bin/app"), &app),
            execute("/usr/bin/app", &["/usr/bin/app"])
        );
        for line in ["ls", "", "  ", "app 'open", "./app"] {
            assert!(matches!(plan(&command(line), &app), Plan::Explain(_)), "{line:?}");
        }
        let Plan::Explain(message) = plan(&Work::Shell, &app) else { panic!("there is no shell") };
        assert!(message.starts_with("the image of web-0 has no shell; sftp"), "{message}");
    }

    #[test]
    fn a_missing_tool_is_named_with_a_remedy() {
        let shell = ["/bin/sh", "/usr/bin/scp"];
        for (line, message) in [
            (
                "rsync --server -vlogDtpre.iLsfxCIvu . /dst",
                "rsync is not in the image of web-0; add it",
            ),
            ("git-upload-pack '/repo'", "git is not in the image of web-0; add it"),
            ("/opt/scp -t /x", "scp is not in the image of web-0; add it"),
        ] {
            let Plan::Explain(explained) = plan(&command(line), &shell) else { panic!("{line}") };
            assert!(explained.starts_with(message), "{explained}");
        }
        for line in ["scp -t /x", "rsync --version", "echo rsync --server"] {
            assert_eq!(plan(&command(line), &shell), execute("/bin/sh", &["sh", "-c", line]));
        }
    }

    proptest! {
        #[test]
        fn only_what_is_there_is_executed(line in "\\PC{0,20}|(rsync|/bin/app|app)( [a-z' \"\\\\-]{0,9})?") {
            if let Plan::Execute { program, arguments } = plan(&command(&line), &["/bin/app"]) {
                prop_assert_eq!(program, "/bin/app");
                prop_assert!(!arguments.is_empty());
            }
        }
    }
}
