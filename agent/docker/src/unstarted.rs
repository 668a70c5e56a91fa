//! A command that Docker could not start. Docker says so in the command's standard output, in the words of its runtime;
//! here it becomes a line of standard error that names the command, and the exit code that shells give it.

use std::sync::{Arc, OnceLock};

use futures_util::{StreamExt, future, stream};
use tokio_util::bytes::Bytes;

use dwell_core::instance::sanitize;
use dwell_engine::{Output, OutputStream};

/// How Docker begins. It writes all of it at once, and nothing else comes with it.
const BEGINNING: &[u8] = b"OCI runtime exec failed: ";
/// The longest text that is read, in bytes.
const TEXT_MAX: usize = 4 * 1024;
/// The longest that is passed on, in bytes.
const SHOWN_MAX: usize = 512;
/// The exit code of a command that is not there.
const NOT_FOUND: i32 = 127;
/// The exit code of a command that is there, and cannot be run.
const NOT_RUN: i32 = 126;

/// The exit code of a command that could not be started, once its output has told so.
pub(super) type Code = Arc<OnceLock<i32>>;

/// The output of a command, in our words if it could not be started.
pub(super) fn in_our_words(mut output: OutputStream, command: String, code: Code) -> OutputStream {
    let begun = async move {
        let mut text = match output.next().await {
            Some(Ok(Output::Stdout(text) | Output::Stderr(text)))
                if text.starts_with(BEGINNING) =>
            {
                text.to_vec()
            }
            first => return stream::iter(first).chain(output).boxed(),
        };
        while let Some(Ok(Output::Stdout(more) | Output::Stderr(more))) = output.next().await {
            text.extend_from_slice(&more[..more.len().min(TEXT_MAX.saturating_sub(text.len()))]);
        }
        let (why, exit_code) = explain(&String::from_utf8_lossy(&text), &command);
        code.set(exit_code).ok();
        let line = Bytes::from(format!("dwell: {}\r\n", sanitize(&why, SHOWN_MAX)));
        stream::once(future::ready(Ok(Output::Stderr(line)))).boxed()
    };
    stream::once(begun).flatten().boxed()
}

/// What the runtime's words mean, and the exit code.
fn explain(text: &str, command: &str) -> (String, i32) {
    let text = text.trim_end();
    let text = text.strip_suffix(": unknown").unwrap_or(text);
    // What comes before differs from version to version.
    let markers = ["caused: ", "container process: ", "exec failed: "];
    let cause = markers.iter().find_map(|marker| text.rsplit_once(marker));
    let cause = cause.map_or(text, |(_, cause)| cause);
    let is_missing = cause.contains("no such file or directory");
    if let Some(rest) = cause.strip_prefix("chdir to cwd (") {
        let directory = rest.split(')').next().unwrap_or(rest);
        (format!("cannot enter the directory {directory}"), NOT_RUN)
    } else if cause.contains("executable file not found") || is_missing {
        (format!("{command}: not found in the instance"), NOT_FOUND)
    } else if cause.contains("permission denied") || cause.contains("is a directory") {
        (format!("{command}: not executable"), NOT_RUN)
    } else {
        (format!("cannot run {command}: {cause}"), NOT_RUN)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    #[test]
    fn the_runtimes_words_are_told_as_a_shell_would() {
        let new = "OCI runtime exec failed: exec failed: unable to start container process: ";
        let old = "OCI runtime exec failed: exec failed: container_linux.go:380: starting container process caused: ";
        for (cause, told, code) in [
            (
                "exec: \"no\": executable file not found in $PATH",
                "no: not found in the instance",
                127,
            ),
            (
                "exec: \"no\": stat no: no such file or directory",
                "no: not found in the instance",
                127,
            ),
            ("exec: \"no\": permission denied", "no: not executable", 126),
            (
                "chdir to cwd (\"/x\") set in config.json failed: no such file or directory",
                "cannot enter the directory \"/x\"",
                126,
            ),
            (
                "unable to find user eve: no matching entries in passwd file",
                "cannot run no: unable to find user eve: no matching entries in passwd file",
                126,
            ),
        ] {
            for version in [new, old] {
                let text = format!("{version}{cause}: unknown\r\n");
                assert_eq!(explain(&text, "no"), (told.to_owned(), code), "{text}");
            }
        }
    }

    async fn read(pieces: &[&'static str]) -> (Vec<Output>, Option<i32>) {
        let pieces: Vec<_> =
            pieces.iter().map(|text| Ok(Output::Stdout(text.as_bytes().into()))).collect();
        let code = Code::default();
        let output = in_our_words(stream::iter(pieces).boxed(), "no".into(), Arc::clone(&code));
        (output.try_collect().await.unwrap(), code.get().copied())
    }

    #[tokio::test]
    async fn only_what_docker_says_is_told_otherwise() {
        let text = "OCI runtime exec failed: exec failed: unable to start container process: exec: \"no\": executable \
                    file not found in $PATH: unknown\r\n";
        let told = Output::Stderr("dwell: no: not found in the instance\r\n".into());
        assert_eq!(read(&[text]).await, (vec![told], Some(127)));
        let out = |text: &'static str| Output::Stdout(text.into());
        assert_eq!(read(&["O", "CI"]).await, (vec![out("O"), out("CI")], None));
        assert_eq!(read(&[]).await, (vec![], None));
    }
}
