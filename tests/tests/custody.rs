//! Instances that dwell lets go, and takes back, on real engines.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use dwell_tests::lab::{
    Container, Image, InstanceRow, Lab, LabConfig, Output, Signal, hold_for, meanwhile, wait_until,
};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);
const WHILE: Duration = Duration::from_secs(4);
/// What is let go.
const ONE: &str = "web-1";

fn web(version: &str, replicas: usize) -> String {
    format!(
        "workloads:\n  web:\n    image: hello\n    replicas: {replicas}\n    \
         environment: {{VERSION: '{version}'}}\n    healthcheck: {{http: ':8080/', interval: 500ms}}\n    \
         update: {{deadline: 20s, monitor: 1s}}\n"
    )
}

#[tokio::test]
async fn custody() -> Result<()> {
    Lab::test(LabConfig::new("custody").hosts(1).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        apply(lab, &web("1", 2)).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        let (one, row) = (container(lab).await?, row(lab).await?);
        let at = row.at(8080)?;
        let stories = async {
            to_let_go_touches_nothing(lab, &one).await.context("let go")?;
            nothing_sweeps_it(lab, &one).await.context("agent and controller killed")?;
            to_take_it_back_touches_nothing(lab, &one).await.context("taken back")?;
            a_crash_ends_in_one_of_the_two(lab, &one).await.context("crashes")?;
            nothing_that_is_declared_reaches_it(lab, &one, &row).await.context("declared")
        };
        // Its clients are served all the while.
        meanwhile(stories, async || lab.host(1).get(at).await.map(drop)).await?;
        what_is_taken_back_follows_its_workload(lab, &one).await.context("rollout")?;
        its_name_is_free_when_its_container_is_gone(lab).await.context("removed by hand")
    })
    .await
}

async fn to_let_go_touches_nothing(lab: &Lab, one: &Container) -> Result<()> {
    lab.cli(&["dissociate", ONE, "--wait"]).await?.ok()?;
    is_untouched(lab, one).await?;
    let status = lab.cli(&["status", "-o", "json"]).await?.stdout;
    ensure!(status.contains("instance-let-go") && status.contains(ONE), "{status}");
    let node = lab.cli(&["node", "inspect", "h1"]).await?.ok()?;
    ensure!(node.contains("let_go") && node.contains(ONE), "{node}");
    let ps = lab.cli(&["ps"]).await?.ok()?;
    ensure!(ps.contains("running, let go"), "{ps}");
    let refused = lab.cli(&["restart", ONE]).await?;
    ensure!(refused.code() != 0 && refused.stderr.contains("dwell adopt web-1"), "{refused:?}");
    let refused = lab.cli(&["rm", ONE]).await?;
    ensure!(refused.code() != 0 && refused.stderr.contains("was let go"), "{refused:?}");
    let audit = lab.audit(false).await?;
    ensure!(audit.is_empty(), "{audit:?}");
    // It is entered as before.
    lab.exec(ONE, &["true"]).await?.ok().map(drop)
}

async fn nothing_sweeps_it(lab: &Lab, one: &Container) -> Result<()> {
    let host = lab.host(1);
    host.stop_agent(Signal::SIGKILL).await?;
    host.start_agent().await?;
    stays_untouched(lab, one).await.context("agent")?;
    lab.stop_controller(Signal::SIGKILL).await?;
    host.stop_agent(Signal::SIGTERM).await?;
    let cleanup = host.run_agent(&["cleanup", "--yes"]).await?;
    ensure!(cleanup.code() != 0 && cleanup.stderr.contains("was let go"), "{cleanup:?}");
    host.start_agent().await?;
    stays_untouched(lab, one).await.context("no controller")?;
    lab.start_controller().await?;
    stays_untouched(lab, one).await.context("controller")?;
    is_let_go(lab, true).await
}

async fn to_take_it_back_touches_nothing(lab: &Lab, one: &Container) -> Result<()> {
    lab.cli(&["adopt", ONE, "--wait"]).await?.ok()?;
    is_let_go(lab, false).await?;
    stays_untouched(lab, one).await?;
    lab.wait_exactly("web", 2, LIMIT).await.map(drop)
}

async fn a_crash_ends_in_one_of_the_two(lab: &Lab, one: &Container) -> Result<()> {
    for turn in 0..3_u64 {
        for order in ["dissociate", "adopt"] {
            let kill = async {
                tokio::time::sleep(Duration::from_millis(100 + 150 * turn)).await;
                lab.host(1).stop_agent(Signal::SIGKILL).await?;
                lab.host(1).start_agent().await
            };
            let words = [order, ONE, "--wait"];
            let (ordered, ()) = tokio::try_join!(lab.cli(&words), kill)?;
            ordered.ok()?;
            is_untouched(lab, one).await.with_context(|| format!("{order}, turn {turn}"))?;
            wait_until("the instance to be seen again", SOON, async || {
                let row = row(lab).await?;
                ensure!(row.is_well(), "{row:?}");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

async fn nothing_that_is_declared_reaches_it(
    lab: &Lab,
    one: &Container,
    before: &InstanceRow,
) -> Result<()> {
    lab.cli(&["dissociate", ONE, "--wait"]).await?.ok()?;
    apply(lab, &web("2", 1)).await?.ok()?;
    stays_untouched(lab, one).await?;
    apply(lab, &web("2", 3)).await?.ok()?;
    let rows = lab.ps().await?.of("web");
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    ensure!(names == ["web-0", ONE, "web-2", "web-3"], "{names:?}");
    let same = rows.iter().filter(|row| row.address == before.address).count();
    ensure!(same == 1, "its address was given to another: {rows:?}");
    apply(lab, &web("2", 1)).await?.ok()?;
    stays_untouched(lab, one).await
}

async fn what_is_taken_back_follows_its_workload(lab: &Lab, one: &Container) -> Result<()> {
    lab.cli(&["adopt", ONE, "--wait"]).await?.ok()?;
    wait_until("the newer version to reach it", LIMIT, async || {
        let now = container(lab).await?;
        ensure!(now.id != one.id, "it is still {now:?}");
        Ok(())
    })
    .await?;
    lab.wait_exactly("web", 2, LIMIT).await.map(drop)
}

async fn its_name_is_free_when_its_container_is_gone(lab: &Lab) -> Result<()> {
    lab.cli(&["dissociate", ONE, "--wait"]).await?.ok()?;
    let id = container(lab).await?.id;
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    lab.host(1).docker()?.remove_container(&id, Some(force)).await?;
    wait_until("the name to be free", SOON, async || lab.cli(&["rm", ONE]).await?.ok()).await?;
    lab.wait_exactly("web", 1, LIMIT).await?;
    wait_until("its sandbox to be gone", SOON, async || {
        ensure!(!lab.host(1).sandbox(ONE).exists(), "it is there");
        Ok(())
    })
    .await?;
    let audit = lab.audit(false).await?;
    ensure!(audit.is_empty(), "{audit:?}");
    Ok(())
}

async fn apply(lab: &Lab, manifest: &str) -> Result<Output> {
    lab.cli_with(&["apply", "-f", "-", "--wait"], manifest, LIMIT).await
}

async fn row(lab: &Lab) -> Result<InstanceRow> {
    let rows = lab.ps().await?.of("web");
    rows.into_iter().find(|row| row.name == ONE).context("no such instance")
}

async fn container(lab: &Lab) -> Result<Container> {
    let mut all = lab.containers().await?;
    all.retain(|one| one.instance == ONE);
    let found = format!("{all:?}");
    all.pop().filter(|_| all.is_empty()).with_context(|| format!("not one container: {found}"))
}

async fn is_untouched(lab: &Lab, one: &Container) -> Result<()> {
    let now = container(lab).await?;
    ensure!(now == *one, "{one:?} became {now:?}");
    Ok(())
}

async fn stays_untouched(lab: &Lab, one: &Container) -> Result<()> {
    hold_for("the container", WHILE, async || is_untouched(lab, one).await).await
}

async fn is_let_go(lab: &Lab, expected: bool) -> Result<()> {
    wait_until("status to say whether it is let go", SOON, async || {
        let status = lab.cli(&["status", "-o", "json"]).await?.stdout;
        ensure!(status.contains("instance-let-go") == expected, "{status}");
        Ok(())
    })
    .await
}
