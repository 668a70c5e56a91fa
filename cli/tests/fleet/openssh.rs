//! `dwell ssh`, `dwell cp` and `dwell ssh-config`: what OpenSSH is told, and that the stock one understands it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use super::terminal::signal;
use super::{Fake, LIMIT, command, run, starting};

/// Shows what it was given, and ends with 7.
const SHOWS: &str = r#"
printf 'argument %s\n' "$@"
for argument; do
    case $argument in -oIdentityFile=*) key=${argument#*=} ;; esac
done
echo "modes $(stat -c %a "$(dirname "$key")" "$key" | tr '\n' ' ')"
head -n1 "$key"
cut -d' ' -f1-3 "$key-cert.pub"
cat "$(dirname "$key")/known_hosts"
exit 7
"#;

/// A place for scripts in place of `ssh` and `scp`, and for the keys of logins.
struct Machine {
    programs: TempDir,
    keys: TempDir,
}

impl Machine {
    fn new(script: &str) -> Self {
        let machine =
            Self { programs: tempfile::tempdir().unwrap(), keys: tempfile::tempdir().unwrap() };
        for name in ["ssh", "scp"] {
            let path = machine.programs.path().join(name);
            dwell_daemon::script::write(&path, script).unwrap();
        }
        machine
    }

    fn command(&self, fake: &Fake, arguments: &[&str]) -> Command {
        let mut command = command(fake, arguments);
        let path = format!("{}:/usr/bin:/bin", self.programs.path().display());
        command.env("PATH", path).env("XDG_RUNTIME_DIR", self.keys.path());
        command
    }

    /// Exit code and output, without what differs each time.
    async fn run(&self, fake: &Fake, arguments: &[&str]) -> (Option<i32>, String) {
        let output = timeout(LIMIT, self.command(fake, arguments).output()).await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap()
            + std::str::from_utf8(&output.stderr).unwrap();
        assert!(self.is_clean(), "the key is still there");
        (output.status.code(), self.plain(fake, &text))
    }

    fn plain(&self, fake: &Fake, text: &str) -> String {
        let socket = fake.socket().display().to_string().replace('%', "%%");
        let text = text
            .replace(&format!("\"{socket}\""), "[SOCKET]")
            .replace(env!("CARGO_BIN_EXE_dwell"), "[DWELL]")
            .replace(&*self.keys.path().to_string_lossy(), "[KEYS]");
        // Names of directories end in six random characters.
        let mut parts = text.split("dwell-ssh-");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| format!("{text}dwell-ssh-…{}", &part[6..]))
    }

    fn is_clean(&self) -> bool {
        fs::read_dir(self.keys.path()).unwrap().next().is_none()
    }
}

#[tokio::test]
async fn ssh_is_told_the_way_and_given_a_key() {
    let fake = Fake::start(starting());
    let machine = Machine::new(SHOWS);
    let (code, shown) =
        machine.run(&fake, &["ssh", "root@web-0.dwell", "-t", "--", "ls", "-l a"]).await;
    assert_eq!(code, Some(7));
    insta::assert_snapshot!(shown);
    assert_eq!(fake.asked(), ["certify root for 300000 ms"]);
}

#[tokio::test]
async fn scp_gets_paths_as_they_are() {
    let fake = Fake::start(starting());
    let machine = Machine::new("printf '%s\\n' \"$@\" | grep -v ^-o; exit 7");
    for (arguments, expected) in [
        (&["a", "web-0:/srv/a b"][..], "-r\n--\na\nroot@web-0.dwell:/srv/a b\n"),
        (&["--", "-a", "./b:c", "web-0:"], "-r\n--\n-a\n./b:c\nroot@web-0.dwell:\n"),
        (&["web-0:~/*.log", "."], "-r\n--\nroot@web-0.dwell:~/*.log\n.\n"),
        (&["web-0:/a", "web-1:/b"], "-r\n-3\n--\nroot@web-0.dwell:/a\nroot@web-1.dwell:/b\n"),
    ] {
        let arguments = [&["cp", "--user", "root"], arguments].concat();
        let (code, shown) = machine.run(&fake, &arguments).await;
        assert_eq!((code, shown.as_str()), (Some(7), expected), "{arguments:?}");
    }
    let (code, shown) = machine.run(&fake, &["cp", "a", "root@web-1:", "web-0:"]).await;
    assert_eq!(
        (code, shown.as_str()),
        (Some(7), "-r\n-3\n--\na\nroot@web-1.dwell:\n@default@web-0.dwell:\n")
    );
    let certified = fake.asked().into_iter().rfind(|asked| asked.starts_with("certify"));
    assert_eq!(certified.as_deref(), Some("certify root,@default,@container for 300000 ms"));
    for (arguments, code, says) in [
        (&["cp", "a", "b"][..], 2, "no side is in an instance"),
        (&["cp", "a", "db-0:b"], 3, "there is no instance or workload \"db-0\""),
        (&["cp", "a", "-oProxyCommand=x@web-0:b"], 2, "unexpected argument"),
        (&["cp", "a", "a b@web-0:b"], 2, "cannot be a user's name"),
    ] {
        let (ended, shown) = machine.run(&fake, arguments).await;
        assert!(ended == Some(code) && shown.contains(says), "{arguments:?} {shown}");
    }
}

#[tokio::test]
async fn the_key_is_removed_when_a_login_is_ended() {
    let fake = Fake::start(starting());
    let machine = Machine::new("echo here; exec sleep 1000");
    for (told, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut child =
            machine.command(&fake, &["ssh", "web-0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        assert!(!machine.is_clean());
        signal(&child, told);
        let status = timeout(LIMIT, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(code));
        assert!(machine.is_clean());
    }
}

#[tokio::test]
async fn a_login_that_is_suspended_gives_the_shell_back() {
    let fake = Fake::start(starting());
    let machine = Machine::new("kill -STOP $$; exit 5");
    let mut child = machine.command(&fake, &["ssh", "web-0"]).process_group(0).spawn().unwrap();
    let pid = child.id().unwrap();
    let stopped = async {
        // `pid (name) T …`
        while !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, stopped).await.unwrap();
    let group = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process_group(group, Signal::CONT).unwrap();
    let status = timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(5));
    assert!(machine.is_clean());
}

#[tokio::test]
async fn without_openssh_there_is_a_clear_word() {
    let fake = Fake::start(starting());
    let machine = Machine::new("");
    fs::remove_file(machine.programs.path().join("ssh")).unwrap();
    let mut command = machine.command(&fake, &["ssh", "web-0"]);
    let output = command.env("PATH", machine.programs.path()).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("ssh is not installed here; install"), "{said}");
    // What is said before ssh runs has ssh's own exit code.
    assert_eq!(output.status.code(), Some(255));
    assert_eq!(run(&fake, &["ssh", "db-0"]).await.code, 255);
    assert!(machine.is_clean());
}

/// What reaches an instance's port first when the stock ssh is run.
async fn banner(run: impl AsyncFnOnce(u16) -> Command) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut child = run(port).await.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (mut stream, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let mut banner = [0; 8];
    timeout(LIMIT, stream.read_exact(&mut banner)).await.unwrap().unwrap();
    drop(stream);
    timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    String::from_utf8(banner.into()).unwrap()
}

#[tokio::test]
async fn the_stock_ssh_comes_through() {
    let fake = Fake::start(starting());
    let come =
        banner(async |port| command(&fake, &["ssh", "web-0", "-p", &port.to_string()])).await;
    assert_eq!(come, "SSH-2.0-");

    let config = configuration(&fake, &[]).await;
    let come = banner(async |port| {
        let mut ssh = stock_ssh(config.path());
        ssh.args(["-p", &port.to_string(), "web-1.dwell"]);
        ssh
    });
    assert_eq!(come.await, "SSH-2.0-");
    let asked = fake.asked();
    let connected: Vec<_> =
        asked.iter().filter_map(|asked| asked.strip_prefix("connect ")).collect();
    assert!(connected[0].starts_with("web-0:") && connected[1].starts_with("web-1:"), "{asked:?}");
}

async fn configuration(fake: &Fake, arguments: &[&str]) -> tempfile::NamedTempFile {
    let ran = run(fake, &[&["ssh-config"], arguments].concat()).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), ran.stdout).unwrap();
    file
}

fn stock_ssh(config: &Path) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(config).args(["-o", "BatchMode=yes"]).kill_on_drop(true);
    ssh
}

#[tokio::test]
async fn the_stock_ssh_understands_its_configuration() {
    let fake = Fake::start(starting());
    for (arguments, host, proxied, known) in [
        (&[][..], "web-0.dwell", true, true),
        (&["--direct"], "web-0.dwell", false, true),
        (&[], "web-0.example", false, false),
    ] {
        let config = configuration(&fake, arguments).await;
        let output = stock_ssh(config.path()).args(["-G", host]).output().await.unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(shown.contains("\nproxycommand "), proxied, "{shown}");
        assert_eq!(shown.contains("\nknownhostscommand "), known, "{shown}");
        assert_eq!(shown.contains("\nuser @default\n"), known, "{shown}");
    }
}
