//! Scripts that tests write and then run.
//!
//! A file that anybody has open for writing cannot be executed, and whatever another thread starts meanwhile has all files
//! of the process open until it becomes another program. So the one who writes is another process, of which nothing
//! is started: it has ended when this returns.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a shell script that can be run from now on.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, script: &str) -> io::Result<()> {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = install.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        write!(stdin, "#!/bin/sh\n{script}\n")?;
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("install: {status}"))) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_script_can_be_run_at_once_while_others_are_started() {
        let directory = tempfile::tempdir().unwrap();
        let is_over = AtomicBool::new(false);
        let run = |program: &Path| Command::new(program).status().unwrap().code();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        run(Path::new("true"));
                    }
                });
            }
            let codes = (0..50).map(|n| {
                let path = directory.path().join(format!("script-{n}"));
                write(&path, &format!("exit {n}")).unwrap();
                run(&path)
            });
            let codes: Vec<_> = codes.collect();
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(codes, (0..50).map(Some).collect::<Vec<_>>());
        });
    }
}
