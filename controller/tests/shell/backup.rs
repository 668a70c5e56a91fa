//! Backups of the program while it works, and what it is after one was put back.

use std::path::Path;
use std::process::{Command, Output};

use tonic::Code;

use crate::crash::{Program, fleet, names};
use crate::fixture::{apply, workload};

/// Runs `dwell-controller ACTION FILE` for the controller of this directory.
fn run(directory: &Path, action: &str, file: &Path) -> Output {
    let program = Command::new(env!("CARGO_BIN_EXE_dwell-controller"))
        .arg(action)
        .arg(file)
        .arg("--config")
        .arg(directory.join("config.yaml"))
        .output();
    program.unwrap()
}

pub(crate) fn succeed(directory: &Path, action: &str, file: &Path) -> String {
    let output = run(directory, action, file);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{action}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_backup_that_is_made_amid_changes_has_all_that_was_accepted_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::start(directory.path(), "");
    let mut client = fleet(directory.path()).await;
    for number in 0..5 {
        client.apply(apply(vec![workload(&format!("early-{number}"), 1)])).await.unwrap();
    }
    let mut writer = client.clone();
    let writes = tokio::spawn(async move {
        let mut number = 0;
        while writer.apply(apply(vec![workload(&format!("late-{number:04}"), 1)])).await.is_ok() {
            number += 1;
        }
        number
    });
    let file = directory.path().join("backup.tar");
    let (place, to) = (directory.path().to_owned(), file.clone());
    #[expect(clippy::disallowed_methods, reason = "nothing else blocks in this test")]
    let backing_up = tokio::task::spawn_blocking(move || succeed(&place, "backup", &to));
    backing_up.await.unwrap();

    // A controller that runs is not replaced under its own feet.
    let refused = run(directory.path(), "restore", &file);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stop it"), "{refused:?}");
    drop(program);
    assert!(writes.await.unwrap() > 0);

    let told = succeed(directory.path(), "restore", &file);
    assert!(told.contains("what was there before is in"), "{told}");
    let _program = Program::start(directory.path(), "");
    let mut client = fleet(directory.path()).await;
    let found = names(&mut client).await;
    assert!((0..5).all(|number| found.contains(&format!("early-{number}"))), "{found:?}");
    // Whatever it has of the later ones, it has from the beginning on, none left out.
    let late = found.iter().filter(|name| name.starts_with("late-")).enumerate();
    for (number, name) in late {
        assert_eq!(*name, format!("late-{number:04}"));
    }
    // It knows that it may know less than its nodes.
    let refused = client.apply(apply(vec![workload("more", 1)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("dwell restore"), "{refused}");
}

#[tokio::test]
async fn what_is_typed_wrong_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let config = format!("data_dir: {}/data\n", directory.path().display());
    std::fs::write(directory.path().join("config.yaml"), config).unwrap();
    for (action, file, said) in [
        ("backup", "/nowhere/backup.tar", "there is no store at"),
        ("restore", "/nowhere/backup.tar", "cannot read /nowhere/backup.tar"),
        ("restore", "/dev/null", "/dev/null is not a whole backup of a controller: it is empty"),
    ] {
        let output = run(directory.path(), action, Path::new(file));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(said), "{action} {file}: {error}");
    }
}
