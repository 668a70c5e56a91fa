//! Programs that know credentials, as Docker's command line uses them: `docker-credential-NAME get` is told a registry on
//! its standard input and prints JSON. It is run without a shell, and bounded in time and output.

use std::fmt;
use std::pin::pin;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use dwell_core::instance::sanitize;
use futures_util::future::{Either, select};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long it may take: some ask a cloud's service.
const LIMIT: Duration = Duration::from_secs(20);
/// How long what it has written to its standard error is waited for once it has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How much it may print, in bytes.
const OUTPUT_MAX: u64 = 64 * 1024;
/// How much of what it complains is passed on, in bytes.
const COMPLAINT_MAX: usize = 256;
/// Where helpers look for their configuration if the environment names no other place: units have no HOME.
const HOME: &str = "/root";
/// The longest name.
const NAME_MAX: usize = 64;

/// The `NAME` of a program `docker-credential-NAME`.
#[derive(Clone, PartialEq, Eq)]
pub struct HelperName(String);

/// Why a text is no such name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not the NAME of a program docker-credential-NAME; use 1 to {NAME_MAX} letters, digits, '-' and '_', such as ecr-login"
)]
pub struct NotAHelper;

impl FromStr for HelperName {
    type Err = NotAHelper;

    fn from_str(text: &str) -> Result<Self, NotAHelper> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let fits = (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(is_plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(NotAHelper) }
    }
}

impl fmt::Debug for HelperName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a helper says.
#[derive(Deserialize)]
pub(super) struct Said {
    #[serde(rename = "Username")]
    pub(super) username: String,
    #[serde(rename = "Secret")]
    pub(super) secret: String,
}

impl HelperName {
    /// The program.
    pub(super) fn program(&self) -> String {
        format!("docker-credential-{}", self.0)
    }

    /// Asks for the credentials of a registry.
    ///
    /// # Errors
    /// What went wrong, to be said of the program.
    pub(super) async fn ask(&self, registry: &str) -> Result<Said, String> {
        ask(&self.program(), registry, LIMIT).await
    }
}

/// A program and whatever it has started, which ends with this.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // It has an id for as long as nobody has waited for it, so that the group cannot be another one's by now.
        if let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            killpg(Pid::from_raw(id), Signal::SIGKILL).ok();
        }
    }
}

async fn ask(program: &str, registry: &str, limit: Duration) -> Result<Said, String> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if std::env::var_os("HOME").is_none() {
        command.env("HOME", HOME);
    }
    command.process_group(0).kill_on_drop(true);
    let child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
    let mut group = Group(child);
    let answer = timeout(limit, talk(&mut group.0, registry)).await;
    let Answer { is_success, output, complaint } = answer
        .map_err(|_| format!("does not answer within {} s", limit.as_secs()))?
        .map_err(|error| format!("cannot be talked to: {error}"))?;
    if output.len() as u64 > OUTPUT_MAX {
        return Err(format!("prints more than {OUTPUT_MAX} bytes"));
    }
    let is_silent = output.trim_ascii().is_empty();
    if !is_success || is_silent {
        // By agreement it prints its complaint, and nothing secret, to its standard output.
        let complaint = if is_silent { complaint } else { output };
        let complaint = sanitize(&String::from_utf8_lossy(&complaint), COMPLAINT_MAX);
        return Err(format!("has no credentials for {registry}: {complaint}"));
    }
    read(&output)
}

fn read(output: &[u8]) -> Result<Said, String> {
    // The error could quote the secret.
    serde_json::from_slice(output)
        .map_err(|_| "does not print JSON with Username and Secret".to_owned())
}

/// A name of a helper, and what the helper prints.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(Ok(name)) = std::str::from_utf8(bytes).map(str::parse::<HelperName>) {
        assert!(!name.program().contains(['/', ' ', '\0']), "{name:?}");
    }
    if let Err(problem) = read(bytes) {
        // Nothing of what it printed is told.
        assert_eq!(problem, "does not print JSON with Username and Secret");
    }
}

/// What came of a program.
struct Answer {
    is_success: bool,
    /// What it printed, to one byte more than it may.
    output: Vec<u8>,
    /// The beginning of what it wrote to its standard error.
    complaint: Vec<u8>,
}

/// Tells a program the registry, and takes what it prints.
async fn talk(child: &mut Child, registry: &str) -> std::io::Result<Answer> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut complaint = Vec::new();
    let answer = async {
        if let Some(mut stdin) = stdin {
            // One that does not read what it is told may know the answer anyway.
            stdin.write_all(registry.as_bytes()).await.ok();
        }
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(OUTPUT_MAX + 1).read_to_end(&mut output).await?;
        }
        if output.len() as u64 > OUTPUT_MAX {
            return Ok((false, output));
        }
        std::io::Result::Ok((child.wait().await?.success(), output))
    };
    let overhear = async {
        let Some(mut stderr) = stderr else { return };
        (&mut stderr).take(COMPLAINT_MAX as u64).read_to_end(&mut complaint).await.ok();
        // The rest is read as well, so that the program never waits for us.
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.ok();
    };
    let (is_success, output) = match select(pin!(answer), pin!(overhear)).await {
        Either::Right(((), answer)) => answer.await?,
        Either::Left((answer, overhear)) => {
            let answer = answer?;
            if answer.1.trim_ascii().is_empty() {
                // What the program has started may hold its standard error open.
                timeout(LAST_WORDS, overhear).await.ok();
            }
            answer
        }
    };
    Ok(Answer { is_success, output, complaint })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn helper(directory: &Path, script: &str) -> String {
        let path = directory.join("docker-credential-test");
        dwell_daemon::script::write(&path, script).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn said(script: &str, limit: Duration) -> Result<(String, String), String> {
        let directory = tempfile::tempdir().unwrap();
        let program = helper(directory.path(), script);
        ask(&program, "registry.lan:5000", limit).await.map(|said| (said.username, said.secret))
    }

    #[tokio::test]
    async fn a_helper_is_told_the_registry_and_says_who_and_with_what() {
        let script = r#"[ "$1" = get ] && printf '{"ServerURL":"x","Username":"ci","Secret":"for %s"}' "$(cat)""#;
        let (username, secret) = said(script, LIMIT).await.unwrap();
        assert_eq!((username.as_str(), secret.as_str()), ("ci", "for registry.lan:5000"));
        let at_home = r#"[ -n "$HOME" ] && echo '{"Username":"ci","Secret":"x"}'"#;
        assert!(said(at_home, LIMIT).await.is_ok());
        let deaf = r#"exec </dev/null; echo '{"Username":"ci","Secret":"x"}'"#;
        assert!(said(deaf, LIMIT).await.is_ok());
    }

    #[tokio::test]
    async fn a_helper_that_fails_is_named_with_its_reason_and_its_secret_is_not_told() {
        let refused = said("echo credentials not found in native keychain; exit 1", LIMIT).await;
        assert_eq!(
            refused.unwrap_err(),
            "has no credentials for registry.lan:5000: credentials not found in native keychain"
        );
        let silent = said("printf 'no keyring\\033[2J here' >&2; exit 1", LIMIT).await.unwrap_err();
        let beginning = "has no credentials for registry.lan:5000: no keyring";
        assert!(silent.starts_with(beginning) && !silent.contains('\u{1b}'), "{silent}");
        let talkative = said("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1", LIMIT).await;
        assert!(talkative.unwrap_err().ends_with("xxx"));
        let lasting = said("sleep 600 >/dev/null & echo no >&2; exit 1", LIMIT).await.unwrap_err();
        assert!(lasting.ends_with(": no"), "{lasting}");
        let odd = said(r#"echo '{"Username":"ci","Secret":hunter2}'"#, LIMIT).await.unwrap_err();
        assert!(odd.contains("JSON") && !odd.contains("hunter2"), "{odd}");
        let missing = ask("/nonexistent/docker-credential-x", "a", LIMIT).await.err().unwrap();
        assert!(missing.starts_with("cannot be started"), "{missing}");
    }

    #[tokio::test]
    async fn a_helper_is_bounded_in_output_and_in_time_with_all_that_it_started() {
        let flood = said("exec cat /dev/zero", LIMIT).await.unwrap_err();
        assert!(flood.contains("more than 65536 bytes"), "{flood}");
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("child");
        let program =
            helper(directory.path(), &format!("sleep 600 & echo $! > {}; wait", mark.display()));
        let hung = ask(&program, "a", Duration::from_secs(1)).await.err().unwrap();
        assert_eq!(hung, "does not answer within 1 s");
        let child = fs::read_to_string(&mark).unwrap();
        let status = Path::new("/proc").join(child.trim()).join("stat");
        for _ in 0..1_000 {
            let state = fs::read_to_string(&status).unwrap_or_default();
            // Nobody but the reaper of orphans may wait for it: a zombie has ended as well.
            if state.is_empty() || state.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the helper's own child runs on");
    }

    #[test]
    fn a_helpers_name_is_no_path() {
        assert!("ecr-login".parse::<HelperName>().is_ok());
        for text in ["", "a/b", "../x", "a b", "a;b", &"a".repeat(65)] {
            assert_eq!(text.parse::<HelperName>(), Err(NotAHelper));
        }
    }
}
