use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dwell_core::directory::DirectoryInstance;
use dwell_core::id::Incarnation;

use dwell_daemon::hung_pool;

use super::*;

fn change(base: Option<u64>, revision: u64, instance: &str) -> DirectoryChange {
    let entry = DirectoryInstance { address: Ipv4Addr::new(10, 80, 0, 1), ready: true };
    DirectoryChange {
        incarnation: Incarnation::UNKNOWN,
        revision: Revision(revision),
        base: base.map(Revision),
        workloads: BTreeMap::new(),
        instances: BTreeMap::from([(instance.parse().unwrap(), entry)]),
        removed_workloads: Vec::new(),
        removed_instances: Vec::new(),
    }
}

fn names(directories: &Directories) -> Vec<String> {
    directories.borrow().instances.keys().map(ToString::to_string).collect()
}

#[test]
fn after_a_gap_all_of_it_is_asked_for_and_the_old_one_is_still_answered() {
    let mut held = HeldDirectory::new(Directory::default());
    let mut directories = held.subscribe();
    assert_eq!(held.begin().revision, Revision(0));
    held.apply(change(None, 5, "web-0")).unwrap();
    held.apply(change(Some(5), 6, "web-1")).unwrap();
    assert_eq!(held.begin().revision, Revision(6));
    directories.mark_unchanged();

    held.apply(change(Some(7), 8, "web-2")).unwrap_err();
    assert_eq!(held.begin().revision, Revision(0));
    assert!(!directories.has_changed().unwrap());
    assert_eq!(names(&directories), ["web-0", "web-1"]);

    held.apply(change(None, 8, "web-2")).unwrap();
    assert_eq!(held.begin().revision, Revision(8));
    assert_eq!(names(&directories), ["web-2"]);
}

#[test]
fn nobody_sees_half_of_a_directory() {
    let mut held = HeldDirectory::new(Directory::default());
    let mut directories = held.subscribe();
    held.apply(change(None, 5, "web-0")).unwrap();
    directories.mark_unchanged();
    held.apply(change(None, 1, "web-1")).unwrap();
    held.apply(change(Some(1), 1, "web-2")).unwrap();
    assert!(!directories.has_changed().unwrap());

    // The stream breaks: it goes on from what is held, or begins again.
    assert_eq!(held.begin().revision, Revision(5));
    held.apply(change(Some(5), 6, "web-3")).unwrap();
    assert_eq!(names(&directories), ["web-0", "web-3"]);
    held.apply(change(None, 1, "web-1")).unwrap();
    held.apply(change(None, 1, "web-1")).unwrap();
    held.apply(change(Some(1), 9, "web-2")).unwrap();
    assert_eq!(names(&directories), ["web-1", "web-2"]);
    assert_eq!(held.begin().revision, Revision(9));
}

#[test]
fn a_change_is_made_in_place_unless_somebody_holds_on() {
    let mut held = HeldDirectory::new(Directory::default());
    let directories = held.subscribe();
    held.apply(change(None, 2, "web-0")).unwrap();
    let before = Arc::as_ptr(&directories.borrow());
    held.apply(change(Some(2), 3, "web-1")).unwrap();
    assert_eq!(Arc::as_ptr(&directories.borrow()), before);

    let kept = directories.borrow().clone();
    held.apply(change(Some(3), 4, "web-2")).unwrap();
    assert_eq!((kept.revision, kept.instances.len()), (Revision(3), 2));
    assert_eq!(names(&directories).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn it_outlives_the_agent_and_is_written_once_for_many_changes() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(dir.path()), Directory::default());
    let mut held = HeldDirectory::new(load(dir.path()));
    let keeper = tokio::spawn(keep(dir.path().to_owned(), held.subscribe()));
    held.apply(change(None, 2, "web-0")).unwrap();
    until(|| load(dir.path()).revision == Revision(2)).await;
    for revision in 3..101 {
        held.apply(change(Some(revision - 1), revision, &format!("web-{revision}"))).unwrap();
        tokio::task::yield_now().await;
    }
    // Within the pause nothing is written, so that the disk is not kept busy.
    assert_eq!(load(dir.path()).revision, Revision(2));
    sleep(PAUSE_MIN).await;
    until(|| load(dir.path()).revision == Revision(100)).await;
    assert_eq!(load(dir.path()).instances.len(), 99);
    drop(held);
    keeper.await.unwrap();
}

#[test]
fn it_is_stored_while_the_blocking_pool_hangs() {
    let dir = tempfile::tempdir().unwrap();
    hung_pool::run(async || {
        let mut held = HeldDirectory::new(Directory::default());
        tokio::spawn(keep(dir.path().to_owned(), held.subscribe()));
        held.apply(change(None, 2, "web-0")).unwrap();
        until(|| load(dir.path()).revision == Revision(2)).await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_mended_gets_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("not-there-yet");
    let mut held = HeldDirectory::new(Directory::default());
    let keeper = tokio::spawn(keep(data_dir.clone(), held.subscribe()));
    held.apply(change(None, 2, "web-0")).unwrap();
    sleep(3 * PAUSE_MIN).await;
    std::fs::create_dir(&data_dir).unwrap();
    until(|| load(&data_dir).revision == Revision(2)).await;
    keeper.abort();
}

#[test]
fn a_file_that_cannot_be_read_is_none() {
    let dir = tempfile::tempdir().unwrap();
    for content in [&b"garbage"[..], b"", &[0xff; 100]] {
        std::fs::write(path(dir.path()), content).unwrap();
        assert_eq!(load(dir.path()), Directory::default());
    }
    remove(dir.path()).unwrap();
    remove(dir.path()).unwrap();
}

/// Waits for something; the paused clock runs as fast as the writing allows.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come about");
}
