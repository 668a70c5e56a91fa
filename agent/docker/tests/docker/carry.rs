//! What Docker's archives keep of files that are carried over.

use dwell_core::container::ContainerId;
use dwell_core::id::Generation;
use dwell_core::instance::Assigned;
use dwell_docker::Runtime;
use dwell_docker::world::{Node, World, shell};
use dwell_engine::fake::assigned;
use dwell_engine::{Engine, EngineError, LogOptions};

use crate::texts;

/// Runs a script to its end in one container, carries paths over into the next, runs another script there; what that printed.
async fn carried(
    node: &Node,
    paths: &[&str],
    before: &str,
    after: &str,
) -> Result<String, EngineError> {
    let first = assigned(&format!("{}-0", node.config.cluster), 1, shell(before));
    let second = Assigned { generation: Generation(2), template: shell(after), ..first.clone() };
    let old = node.run(&first).await;
    assert_eq!(node.engine.wait(&old).await, Ok(0), "{before}");
    let new = node.engine.create(&second).await?;
    let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
    let carried = node.engine.carry(&old, &new, &paths).await;
    let printed = match carried {
        Ok(_) => Ok(printed(node, &new).await),
        Err(error) => Err(error),
    };
    node.engine.remove(&old).await?;
    node.engine.remove(&new).await?;
    printed
}

async fn printed(node: &Node, id: &ContainerId) -> String {
    node.engine.start(id).await.unwrap();
    node.engine.wait(id).await.unwrap();
    texts(node.engine.logs(id, &LogOptions::default()).await.unwrap()).await.0
}

#[tokio::test]
async fn owners_modes_times_and_links_are_kept() {
    let node = World::shared().await.node("carrykeeps", Runtime::Dwell);
    let before = "
        set -e; b=/bin/busybox
        $b mkdir -p /srv/app/state /opt/deep/er
        echo one > /srv/app/state/id; $b chown 1000:2000 /srv/app/state/id; $b chmod 640 /srv/app/state/id
        echo suid > /srv/app/state/suid; $b chown 9:9 /srv/app/state/suid; $b chmod 4750 /srv/app/state/suid
        $b touch -d @86400 /srv/app/state/id
        $b ln /srv/app/state/id /srv/app/state/hard
        $b ln -s ../elsewhere /srv/app/state/soft
        $b ln -s /etc/content/file /opt/deep/er/link
        $b mkfifo /srv/app/state/pipe
        $b chown 7:8 /srv/app/state; $b chmod 0711 /srv/app/state
        $b touch -d @172800 /srv/app/state
        echo changed > /etc/content/file";
    let after = "
        b=/bin/busybox
        $b stat -c '%n %u:%g %a %Y %h %F' /srv/app/state /srv/app/state/id /srv/app/state/pipe
        $b stat -c '%u:%g %a' /srv/app/state/suid
        $b readlink /srv/app/state/soft; $b readlink /opt/deep/er/link
        cat /srv/app/state/hard /etc/content/file
        $b stat -c '%n %u:%g %a' /srv/app /opt/deep";
    let paths = ["/srv/app/state", "/opt/deep/er/link", "/etc/content/file"];
    let printed = carried(&node, &paths, before, after).await.unwrap();
    assert_eq!(
        printed.lines().collect::<Vec<_>>(),
        [
            "/srv/app/state 7:8 711 172800 2 directory",
            "/srv/app/state/id 1000:2000 640 86400 2 regular file",
            "/srv/app/state/pipe 0:0 644 PIPE 1 fifo",
            "9:9 4750",
            "../elsewhere",
            "/etc/content/file",
            "one",
            "changed",
            "/srv/app 0:0 755",
            "/opt/deep 0:0 755",
        ]
        .map(|line| line.replace(
            "PIPE",
            printed.lines().nth(2).and_then(|line| line.split(' ').nth(3)).unwrap_or_default()
        ))
    );
}

#[tokio::test]
async fn links_above_a_path_lead_to_no_place_outside() {
    let node = World::shared().await.node("carrylinks", Runtime::Dwell);
    let before =
        "b=/bin/busybox; $b mkdir /real; $b ln -s ../../../../real /alias; echo x > /real/id";
    // The link is resolved in each of the two containers.
    let printed = carried(&node, &["/alias/id"], before, "cat /alias/id").await.unwrap();
    assert_eq!(printed, "x\n");
}

#[tokio::test]
async fn a_directory_and_a_file_do_not_take_each_others_place() {
    let node = World::shared().await.node("carryplaces", Runtime::Dwell);
    let before = "b=/bin/busybox; $b rm -r /etc/content; echo file > /etc/content";
    let error = carried(&node, &["/etc/content"], before, "true").await.unwrap_err();
    assert!(matches!(error, EngineError::Refused { .. } | EngineError::Other { .. }), "{error}");
    assert!(error.to_string().contains("/etc/content"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_carried_over_can_be_used() {
    let node = World::shared().await.node("carryprogram", Runtime::Dwell);
    let before = "/bin/busybox cp /bin/busybox /bin/busybox-mine";
    let printed = carried(&node, &["/bin/busybox-mine"], before, "/bin/busybox-mine echo works")
        .await
        .unwrap();
    assert_eq!(printed, "works\n");
}
