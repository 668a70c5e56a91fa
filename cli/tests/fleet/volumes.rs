//! `dwell volume`.

use dwell_proto::v1;

use super::{Fake, run, starting};

#[tokio::test]
async fn volumes_are_listed_and_deleted() {
    let fake = Fake::start(starting());
    assert_eq!(run(&fake, &["volume", "ls"]).await.stdout, "There are no volumes.\n");
    let volume = |instance: &str| v1::Volume {
        instance: instance.into(),
        name: "data".into(),
        node: "h1".into(),
        state: v1::volume::State::Kept.into(),
        message: format!("there is no {instance} now"),
        ..v1::Volume::default()
    };
    fake.state.lock().unwrap().volumes = vec![volume("db-0"), volume("db-1")];
    let all = run(&fake, &["volume", "ls"]).await;
    assert!(all.stdout.contains("db-0") && all.stdout.contains("db-1"), "{}", all.stdout);
    let one = run(&fake, &["volume", "inspect", "db-1", "data", "-o", "json"]).await;
    assert!(one.stdout.contains("\"state\": \"kept\""), "{}", one.stdout);
    assert!(!one.stdout.contains("db-0"), "{}", one.stdout);
    // An instance's whole name is needed: what is deleted is never guessed from its beginning.
    assert_ne!(run(&fake, &["volume", "rm", "db", "data"]).await.code, 0);
    let removed = run(&fake, &["volume", "rm", "db-1", "data"]).await;
    assert_eq!(removed.stdout, "volume data of db-1 is being deleted\n");
    assert_eq!(run(&fake, &["volume", "inspect", "db-1", "data"]).await.code, 3);
}
