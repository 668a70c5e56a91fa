//! Files that a container takes over from the one in whose place it is put, on real engines.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Host, Image, Lab, LabConfig, Output, Signal, wait_until};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);
const CARRY: &str = "    carry: [/etc/app/id, /srv/state, /no/such]\n";

fn web(version: &str, more: &str) -> String {
    format!(
        "workloads:\n  web:\n    image: hello\n    environment: {{VERSION: '{version}'}}\n    \
         healthcheck: {{http: ':8080/', interval: 500ms}}\n    update: {{deadline: 10s, monitor: 1s}}\n{more}"
    )
}

#[tokio::test]
async fn carry() -> Result<()> {
    Lab::test(LabConfig::new("carry").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        apply(lab, &web("1", "")).await?.ok()?;
        lab.wait_well("web", 1, LIMIT).await?;
        let write = "mkdir -p /etc/app /srv/state/deep; echo me > /etc/app/id; chmod 640 /etc/app/id; \
                     chown 1000:2000 /etc/app/id; echo kept > /srv/state/deep/a; ln -s a /srv/state/deep/b; \
                     echo lost > /etc/other";
        lab.exec("web-0", &["sh", "-c", write]).await?.ok()?;
        to_say_so_touches_nothing(lab).await.context("live")?;
        a_version_takes_them_along(lab).await.context("another version")?;
        a_replacement_takes_them_along(lab).await.context("dwell replace")?;
        an_agent_that_dies_in_the_middle_loses_nothing(lab).await.context("agent killed")?;
        what_does_not_hold_leaves_nothing(lab).await.context("does not hold")?;
        what_is_too_much_is_put_back(lab).await.context("too much")?;
        start_first_is_refused(lab).await.context("start-first")?;
        a_move_carries_nothing(lab).await.context("move")
    })
    .await
}

async fn to_say_so_touches_nothing(lab: &Lab) -> Result<()> {
    let before = containers(lab).await?;
    apply(lab, &web("1", CARRY)).await?.ok()?;
    let after = containers(lab).await?;
    ensure!(before == after, "{before:?} became {after:?}");
    let plan = lab.cli_with(&["plan", "-f", "-"], &web("2", CARRY), LIMIT).await?;
    ensure!(plan.stdout.contains("but for /etc/app/id, /srv/state, /no/such"), "{plan:?}");
    Ok(())
}

async fn a_version_takes_them_along(lab: &Lab) -> Result<()> {
    let before = containers(lab).await?;
    apply(lab, &web("2", CARRY)).await?.ok()?;
    is_replaced(lab, &before).await?;
    ensure!(version(lab).await? == "2", "it is the old version");
    has_its_files(lab).await?;
    let other = lab.exec("web-0", &["test", "-e", "/etc/other"]).await?;
    ensure!(other.code() != 0, "what is not carried over is there: {other:?}");
    Ok(())
}

async fn a_replacement_takes_them_along(lab: &Lab) -> Result<()> {
    let before = containers(lab).await?;
    lab.cli(&["replace", "web-0", "--wait"]).await?.ok()?;
    is_replaced(lab, &before).await?;
    has_its_files(lab).await
}

async fn an_agent_that_dies_in_the_middle_loses_nothing(lab: &Lab) -> Result<()> {
    let host = home(lab).await?;
    for turn in 0..4_u64 {
        let version = format!("{}", turn + 3);
        let file = web(&version, CARRY);
        let kill = async {
            tokio::time::sleep(Duration::from_millis(100 + 250 * turn)).await;
            host.stop_agent(Signal::SIGKILL).await?;
            host.start_agent().await
        };
        let (applied, killed) = tokio::join!(apply(lab, &file), kill);
        killed?;
        applied?.ok()?;
        // The agent may have been killed after it has said that the version holds.
        wait_until("the agent to be back", SOON, async || {
            let found = self::version(lab).await?;
            ensure!(found == version, "turn {turn}: it is version {found}");
            Ok(())
        })
        .await?;
        has_its_files(lab).await.with_context(|| format!("turn {turn}"))?;
    }
    is_replaced(lab, &[]).await
}

/// What a version on trial does to its copies stays with it.
async fn what_does_not_hold_leaves_nothing(lab: &Lab) -> Result<()> {
    let before = containers(lab).await?;
    let bad = "    command: [sh, -c, 'echo bad > /etc/app/id; sleep 1000']\n";
    let applied = apply(lab, &web("8", &format!("{CARRY}{bad}"))).await?;
    ensure!(applied.code() != 0, "{applied:?}");
    wait_until("the old container to be back", SOON, async || {
        let now = containers(lab).await?;
        ensure!(now == before, "{before:?} became {now:?}");
        Ok(())
    })
    .await?;
    lab.wait_well("web", 1, LIMIT).await?;
    has_its_files(lab).await
}

async fn what_is_too_much_is_put_back(lab: &Lab) -> Result<()> {
    let before = containers(lab).await?;
    let fill = "dd if=/dev/zero of=/srv/state/big bs=1M count=65";
    lab.exec("web-0", &["sh", "-c", fill]).await?.ok()?;
    let applied = apply(lab, &web("9", CARRY)).await?;
    ensure!(applied.code() != 0, "{applied:?}");
    wait_until("the reason to be told", SOON, async || {
        let history = lab.cli(&["history", "web"]).await?.ok()?;
        ensure!(history.contains("more than 64Mi"), "{history}");
        Ok(())
    })
    .await?;
    wait_until("the old container to be back", SOON, async || {
        let now = containers(lab).await?;
        ensure!(now == before, "{before:?} became {now:?}");
        Ok(())
    })
    .await?;
    lab.wait_well("web", 1, LIMIT).await?;
    has_its_files(lab).await?;
    lab.exec("web-0", &["rm", "/srv/state/big"]).await?.ok()?;
    Ok(())
}

async fn start_first_is_refused(lab: &Lab) -> Result<()> {
    let file = web("10", CARRY).replace("monitor: 1s", "monitor: 1s, order: start-first");
    let refused = apply(lab, &file).await?;
    ensure!(refused.code() != 0 && refused.stderr.contains("carry: start-first"), "{refused:?}");
    Ok(())
}

async fn a_move_carries_nothing(lab: &Lab) -> Result<()> {
    let from = home(lab).await?.name();
    lab.cli(&["move", "web-0", "--wait"]).await?.ok()?;
    ensure!(home(lab).await?.name() != from, "it is still on {from}");
    let file = lab.exec("web-0", &["test", "-e", "/etc/app/id"]).await?;
    ensure!(file.code() != 0, "it was carried to another node");
    Ok(())
}

async fn has_its_files(lab: &Lab) -> Result<()> {
    let look = "cat /etc/app/id /srv/state/deep/a; readlink /srv/state/deep/b; stat -c '%u:%g %a' /etc/app/id";
    let found = lab.exec("web-0", &["sh", "-c", look]).await?.ok()?;
    let found = found.replace('\r', "");
    ensure!(found == "me\nkept\na\n1000:2000 640\n", "{found:?}");
    Ok(())
}

async fn apply(lab: &Lab, manifest: &str) -> Result<Output> {
    lab.cli_with(&["apply", "-f", "-", "--wait"], manifest, LIMIT).await
}

async fn containers(lab: &Lab) -> Result<Vec<String>> {
    Ok(lab.containers().await?.into_iter().map(|one| one.id).collect())
}

/// The new container is alone.
async fn is_replaced(lab: &Lab, before: &[String]) -> Result<()> {
    wait_until("the new container to be alone", SOON, async || {
        let after = containers(lab).await?;
        ensure!(after.len() == 1 && after != before, "{before:?} became {after:?}");
        Ok(())
    })
    .await
}

async fn version(lab: &Lab) -> Result<String> {
    lab.exec("web-0", &["sh", "-c", "printf %s $VERSION"]).await?.ok()
}

async fn home(lab: &Lab) -> Result<&Host> {
    let node = lab.ps().await?.of("web").swap_remove(0).node;
    lab.hosts().iter().find(|host| host.name() == node).context("no such host")
}
