//! Data outlives the instance, which comes back to it or says why it cannot; and an instance that goes has its whole
//! grace.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bollard::query_parameters::{ListVolumesOptions, RemoveContainerOptions, RemoveVolumeOptions};
use dwell_tests::lab::{Host, Image, Lab, LabConfig, Signal, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

/// Ends twelve seconds after it is asked to, longer than containers have by default, and says so in its volume.
const SLOW: &str = "
workloads:
  slow:
    image: hello
    replicas: 2
    command:
      - sh
      - -c
      - 'trap \"sleep 12; echo $$HOSTNAME > /data/ended; exit 0\" TERM; while :; do sleep 0.2; done'
    stop_grace_period: 60s
    volumes: ['data:/data']
";

#[tokio::test]
async fn volumes_outlive_instances_and_graces_declarations() -> Result<()> {
    Lab::test(LabConfig::new("volumes").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(SLOW).await?.ok()?;
        lab.wait_exactly("slow", 2, LIMIT).await?;
        let place = lab.ps().await?.of("slow").swap_remove(0).node;
        lab.cli(&["scale", "slow=0", "--wait"]).await?.ok()?;
        let listed = lab.cli(&["volume", "ls", "slow-0"]).await?.ok()?;
        ensure!(listed.contains("there is no slow-0 now"), "{listed}");

        comes_back_to_its_data_or_says_why_not(lab, &place).await.context("placed again")?;
        goes_when_it_is_told_to(lab).await.context("deleted")?;
        is_not_made_anew_behind_its_back(lab).await.context("removed by hand")
    })
    .await
}

async fn comes_back_to_its_data_or_says_why_not(lab: &Lab, place: &str) -> Result<()> {
    lab.cli(&["node", "cordon", place]).await?.ok()?;
    lab.cli(&["scale", "slow=1"]).await?.ok()?;
    wait_until("slow-0 to say where its volume is", LIMIT, async || {
        let row = lab.ps().await?.of("slow").swap_remove(0);
        let expected = format!("its volume data is on {place}, which is cordoned");
        ensure!(row.message == expected, "{row:?}");
        Ok(())
    })
    .await?;
    lab.cli(&["node", "uncordon", place]).await?.ok()?;
    lab.wait_exactly("slow", 1, LIMIT).await?;
    ensure!(lab.ps().await?.of("slow")[0].node == place, "it is elsewhere");
    let ended = lab.exec("slow-0", &["cat", "/data/ended"]).await?.ok()?;
    ensure!(ended.trim() == "slow-0", "it was not given its grace: {ended:?}");
    Ok(())
}

async fn goes_when_it_is_told_to(lab: &Lab) -> Result<()> {
    let used = lab.cli(&["volume", "rm", "slow-0", "data"]).await?;
    ensure!(used.ok().is_err(), "a volume in use was deleted");
    lab.cli(&["scale", "slow=0", "--wait"]).await?.ok()?;
    lab.cli(&["volume", "rm", "slow-0", "data"]).await?.ok()?;
    wait_until("the volume to be gone", LIMIT, async || {
        let listed = lab.cli(&["volume", "ls"]).await?.ok()?;
        ensure!(!listed.contains("slow-0") && listed.contains("slow-1"), "{listed}");
        Ok(())
    })
    .await?;
    lab.cli(&["scale", "slow=1"]).await?.ok()?;
    lab.wait_exactly("slow", 1, LIMIT).await?;
    let left = lab.exec("slow-0", &["ls", "/data"]).await?.ok()?;
    ensure!(left.trim().is_empty(), "there is {left:?} in a new volume");
    Ok(())
}

/// Somebody removes the container and its volume with Docker, while nobody looks.
async fn is_not_made_anew_behind_its_back(lab: &Lab) -> Result<()> {
    lab.exec("slow-0", &["sh", "-c", "echo mine > /data/file; sync"]).await?.ok()?;
    wait_until("its node to tell of its volume", LIMIT, async || {
        // A volume that nobody has told of may be made.
        let listed = lab.cli(&["volume", "ls", "slow-0", "-o", "json"]).await?.ok()?;
        ensure!(listed.contains("\"seen\": true") || listed.contains("\"seen\":true"), "{listed}");
        Ok(())
    })
    .await?;
    let row = lab.ps().await?.of("slow").swap_remove(0);
    let host = lab.hosts().iter().find(|host| host.name() == row.node).context("on no host")?;
    host.stop_agent(Signal::SIGKILL).await?;
    let docker = host.docker()?;
    let force = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
    docker.remove_container(&row.container_id, Some(force)).await?;
    docker.remove_volume("dwell.slow-0.data", None::<RemoveVolumeOptions>).await?;
    host.start_agent().await?;
    is_missed(lab, host).await?;

    // Nor by whatever has its container made anew.
    lab.cli(&["restart", "slow-0"]).await?.ok()?;
    lab.cli(&["replace", "slow-0"]).await?.ok()?;
    is_missed(lab, host).await.context("replaced")?;
    lab.cli(&["scale", "slow=0", "--wait"]).await?.ok()?;
    lab.cli(&["scale", "slow=1"]).await?.ok()?;
    wait_until("slow-0 to wait for its volume", LIMIT, async || {
        let row = lab.ps().await?.of("slow").swap_remove(0);
        let told = format!("its volume data was on {} and is not there any more", host.name());
        ensure!(row.node.is_empty() && row.message.starts_with(&told), "{row:?}");
        Ok(())
    })
    .await?;

    // Somebody gives it up.
    lab.cli(&["volume", "rm", "slow-0", "data", "--node", &host.name()]).await?.ok()?;
    lab.wait_exactly("slow", 1, LIMIT).await?;
    let left = lab.exec("slow-0", &["ls", "/data"]).await?.ok()?;
    ensure!(left.trim().is_empty(), "there is {left:?} in a new volume");
    Ok(())
}

/// Its instance says what is missing, and Docker has made nothing in its place.
async fn is_missed(lab: &Lab, host: &Host) -> Result<()> {
    wait_until("slow-0 to say what is missing", LIMIT, async || {
        let row = lab.ps().await?.of("slow").swap_remove(0);
        let told = "its volume data is not on this node any more";
        ensure!(row.message.contains(told), "{row:?}");
        ensure!(row.message.contains("dwell volume rm slow-0 data"), "{row:?}");
        let listed = lab.cli(&["volume", "ls", "slow-0"]).await?.ok()?;
        ensure!(listed.contains("lost"), "{listed}");
        Ok(())
    })
    .await?;
    let options = ListVolumesOptions { filters: None };
    let there = host.docker()?.list_volumes(Some(options)).await?.volumes.unwrap_or_default();
    let is_it = there.iter().any(|volume| volume.name == "dwell.slow-0.data");
    ensure!(!is_it, "an empty volume took its place");
    Ok(())
}
