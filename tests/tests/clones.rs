//! An identity belongs to a machine: a copy of a node's disk on another one is neither believed nor runs anything.

use std::time::Duration;

use anyhow::{Result, ensure};
use dwell_core::node::NodeState;
use dwell_tests::lab::{
    Image, Lab, LabConfig, Signal, ensure_untouched, hold_for, run, wait_until,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);

/// The original is drained while it is away. Its copy has an empty engine and says so, which frees nothing.
#[tokio::test]
async fn a_copy_is_refused_and_runs_nothing_while_the_original_is_away() -> Result<()> {
    Lab::test(LabConfig::new("clones").hosts(3).images(&[Image::Hello]), async |lab| {
        let [one, two, copy] = lab.hosts() else { unreachable!("it has three hosts") };
        one.set_agent(&json!({ "host_id": "machine one" }))?;
        lab.start_nodes(&lab.hosts()[..2]).await?;
        lab.apply("workloads: {web: {image: hello, replicas: 2}}").await?.ok()?;
        let before = lab.wait_exactly("web", 2, LIMIT).await?;
        let web = lab.ps().await?.of("web");
        let of_one: Vec<_> = web.into_iter().filter(|web| web.node == one.name()).collect();
        ensure!(!of_one.is_empty(), "nothing runs on {}", one.name());

        one.stop_agent(Signal::SIGTERM).await?;
        let paths = [one, copy].map(|host| host.dir().join("agent").display().to_string());
        let script = "rm -rf \"$2\" && cp -a \"$1\" \"$2\"";
        run("sh", &["-c", script, "sh", &paths[0], &paths[1]]).await?.ok()?;
        copy.set_agent(&json!({ "name": one.name(), "host_id": "machine two" }))?;
        copy.start_agent().await?;
        wait_until("the copy to be refused", LIMIT, async || {
            let listed = lab.cli(&["node", "ls", "-o", "json"]).await?.ok()?;
            ensure!(listed.contains("is used on another machine"), "{listed}");
            Ok(())
        })
        .await?;
        lab.cli(&["node", "drain", &one.name()]).await?.ok()?;
        hold_for("what the original runs is left alone", Duration::from_secs(8), async || {
            let containers = lab.containers().await?;
            ensure!(containers.len() == 2, "{containers:?}");
            ensure_untouched(&before, &containers)?;
            for instance in &of_one {
                let web = lab.ps().await?.of("web");
                let now = web.into_iter().find(|web| web.name == instance.name);
                ensure!(now.is_some_and(|now| now.node == one.name()), "{} moved", instance.name);
            }
            Ok(())
        })
        .await?;

        // The original is served as ever, and drained.
        one.start_agent().await?;
        wait_until("the original to be drained", LIMIT, async || {
            let web = lab.ps().await?.of("web");
            ensure!(web.iter().all(|web| web.node == two.name()), "{web:?}");
            Ok(())
        })
        .await?;
        lab.wait_exactly("web", 2, LIMIT).await?;

        // The node moves to the other machine.
        one.stop_agent(Signal::SIGTERM).await?;
        lab.cli(&["node", "admit", &one.name()]).await?.ok()?;
        lab.cli(&["node", "uncordon", &one.name()]).await?.ok()?;
        wait_until("the other machine to be the node", LIMIT, async || {
            let listed = lab.cli(&["node", "ls", "-o", "json"]).await?.ok()?;
            ensure!(!listed.contains("is used on another machine"), "{listed}");
            let nodes = lab.nodes().await?.nodes;
            let ready = |name: &str| {
                nodes.iter().any(|node| node.name == name && node.state == NodeState::Ready)
            };
            ensure!(ready(&one.name()), "{nodes:?}");
            Ok(())
        })
        .await
    })
    .await
}
