use dwell_core::id::Revision;
use dwell_core::registry::RegistryLogin;
use dwell_core::session::NodeNetwork;
use dwell_daemon::hung_pool;

use super::*;

fn assignment(revision: u64) -> Assignment {
    Assignment {
        revision: Revision(revision),
        ..Assignment::empty(NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap()))
    }
}

#[test]
fn what_is_stored_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(load(dir.path()).unwrap(), Cached::Nothing));
    store(dir.path(), &assignment(1)).unwrap();
    store(dir.path(), &assignment(2)).unwrap();
    let Cached::Assignment(loaded) = load(dir.path()).unwrap() else { panic!("not loaded") };
    assert_eq!(loaded, assignment(2));
    remove(dir.path()).unwrap();
    remove(dir.path()).unwrap();
    assert!(matches!(load(dir.path()).unwrap(), Cached::Nothing));
}

#[test]
fn logins_at_registries_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let login = RegistryLogin::new("ci".to_owned(), "secret".to_owned()).unwrap();
    let mut held = assignment(1);
    held.registries.insert("ghcr.io".parse().unwrap(), login);
    store(dir.path(), &held).unwrap();
    let Cached::Assignment(loaded) = load(dir.path()).unwrap() else { panic!("not loaded") };
    assert_eq!(loaded.registries, held.registries);
}

#[test]
fn only_root_reads_it_since_secrets_are_in_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &assignment(1)).unwrap();
    let mode = fs::metadata(path(dir.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

/// What an agent wrote that knew of no names, isolation or SSH.
#[test]
fn a_file_of_an_older_agent_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"revision":7,"network":{"cluster":"10.80.0.0/16","block":"10.80.1.0/24",
        "peers":{"h2":{"address":"192.168.1.2","block":"10.80.2.0/24"}},"exceptions":{}},
        "instances":{"web-0":{"instance":"web-0","address":"10.80.1.1","mac":"02:64:0a:50:01:01",
        "generation":1,"run":"running","restarts_asked":0,"update_deadline":"1m",
        "template":{"image":"web","stop_grace":"10s","resources":{"cpu":"0","memory":"0"},"restart":"always",
        "ssh":{"dwell":{"authorized_keys":[]}}}}}}"#;
    let older: serde_json::Value = serde_json::from_str(text).unwrap();
    fs::write(path(dir.path()), sealed::seal(KIND, &older).unwrap()).unwrap();
    let Cached::Assignment(loaded) = load(dir.path()).unwrap() else { panic!("not read") };
    assert_eq!((loaded.revision, loaded.instances.len()), (Revision(7), 1));
    assert_eq!(
        (loaded.network.closed, loaded.ssh_trust),
        (false, dwell_core::ssh::SshTrust::default())
    );
}

/// An agent that was downgraded goes on with what it knows of its assignment.
#[test]
fn a_file_of_a_newer_agent_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut newer = serde_json::to_value(assignment(7)).unwrap();
    newer["added_later"] = 1.into();
    newer["network"]["added_later"] = 1.into();
    fs::write(path(dir.path()), sealed::seal(KIND, &newer).unwrap()).unwrap();
    let Cached::Assignment(loaded) = load(dir.path()).unwrap() else { panic!("not read") };
    assert_eq!(loaded, assignment(7));
}

#[test]
fn a_damaged_file_is_set_aside_once() {
    let dir = tempfile::tempdir().unwrap();
    for content in [&b"garbage"[..], b"", b"\n", &[0xff; 100]] {
        fs::write(path(dir.path()), content).unwrap();
        let Cached::Damaged { aside, .. } = load(dir.path()).unwrap() else { panic!("believed") };
        assert_eq!(fs::read(aside).unwrap(), content);
        assert!(matches!(load(dir.path()).unwrap(), Cached::Nothing));
    }
}

#[test]
fn an_assignment_is_stored_while_the_blocking_pool_hangs() {
    let dir = tempfile::tempdir().unwrap();
    hung_pool::run(async || {
        let assignments = watch::Sender::new(None);
        let stored = watch::Sender::new(OnDisk::default());
        let mut seen = stored.subscribe();
        tokio::spawn(keep(dir.path().to_owned(), assignments.subscribe(), stored));
        assignments.send_replace(Some(Arc::new(assignment(3))));
        seen.wait_for(|stored| stored.position().revision == Revision(3)).await.unwrap();
    });
    let Cached::Assignment(loaded) = load(dir.path()).unwrap() else { panic!("not stored") };
    assert_eq!(loaded, assignment(3));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_delays_the_acknowledgement_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("not-there-yet");
    let assignments = watch::Sender::new(None);
    let stored = watch::Sender::new(OnDisk::default());
    let mut seen = stored.subscribe();
    let keeper = tokio::spawn(keep(data_dir.clone(), assignments.subscribe(), stored));
    for revision in 1..=5 {
        assignments.send_replace(Some(Arc::new(assignment(revision))));
        tokio::time::sleep(RETRY).await;
    }
    assert_eq!(seen.borrow().position().revision, Revision(0));
    fs::create_dir(&data_dir).unwrap();
    seen.wait_for(|stored| stored.position().revision == Revision(5)).await.unwrap();
    let Cached::Assignment(loaded) = load(&data_dir).unwrap() else { panic!("not stored") };
    assert_eq!(loaded.revision, Revision(5));
    drop(assignments);
    keeper.await.unwrap();
}
