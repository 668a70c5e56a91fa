//! A version that does not work, on real engines: what served comes back, whatever happens next, and everybody can
//! read why.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use dwell_tests::lab::{
    Container, Image, Lab, LabConfig, ensure_untouched, finish, hold_for, wait_until,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

/// What the bad version prints before it ends with exit code 3.
const LAST_WORDS: &str = "FATAL: no config file";

/// The workload `web` at a version, which its instances can tell, with more lines.
fn web(version: &str, more: &[&str]) -> String {
    let lines = more.iter().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "workloads:\n  web:\n    image: hello\n    environment: {{VERSION: '{version}'}}\n    \
         healthcheck: {{http: ':8080/', interval: 500ms}}\n{lines}"
    )
}

#[tokio::test]
async fn a_version_that_fails_is_never_gone_back_to() -> Result<()> {
    Lab::test(LabConfig::new("versions").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(&web("1", &["replicas: 2"])).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        becomes(lab, 1, "good").await?;
        a_failure_is_told_wherever_one_looks(lab).await.context("the failure")?;
        a_drain_takes_along_what_served(lab).await.context("drain")?;
        a_container_removed_by_hand_is_made_as_it_served(lab).await.context("docker rm")?;
        a_new_instance_is_of_the_good_version(lab).await.context("scale")?;
        a_rollback_ends_the_pause_and_touches_nothing(lab).await.context("rollback")?;
        a_pause_holds_until_it_is_resumed(lab).await.context("pause")?;
        what_one_has_tried_out_is_given_to_the_others(lab).await.context("canary")
    })
    .await
}

async fn a_failure_is_told_wherever_one_looks(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, LIMIT).await?;
    let command = format!("command: [sh, -c, 'echo \"{LAST_WORDS}\"; exit 3']");
    lab.apply(&web("2", &[&command])).await?.ok()?;
    let reason = becomes(lab, 2, "ruled-out").await?;
    tells_why("the history", &reason)?;
    let after = lab.wait_exactly("web", 2, LIMIT).await?;
    ensure!(ids(&before) == ids(&after), "{before:#?} became {after:#?}");
    let untouched: Vec<_> = before.iter().filter(|one| after.contains(one)).collect();
    ensure!(
        untouched.len() == 1,
        "one is to be tried, and no other: {before:#?} became {after:#?}"
    );
    let tried = before.iter().find(|one| !after.contains(one)).context("none was tried")?;

    let workloads = lab.ps().await?.workloads;
    tells_why("the workload", &workloads[0].message)?;
    // The node has taken up the order to be what it was before, and still knows.
    wait_until("the instance to be what it was", LIMIT, async || {
        let row = instance(lab, &tried.instance).await?;
        ensure!(row["generation"] == row["observed_generation"], "{row:#}");
        ensure!((&row["version"], &row["serving_version"]) == (&1.into(), &1.into()), "{row:#}");
        Ok(())
    })
    .await?;
    let about = format!("instance/{}", tried.instance);
    let told = lab.cli(&["events", "--about", &about, "-o", "json"]).await?;
    let told: Value = told.json()?;
    let events = told["events"].as_array().context("there are no events")?;
    let rolled_back: Vec<_> =
        events.iter().filter(|event| event["reason"] == "instance-rolled-back").collect();
    ensure!(rolled_back.len() == 1, "it is to be told once: {told:#}");
    tells_why("the event", rolled_back[0]["message"].as_str().unwrap_or_default())?;
    previous_shows_the_last_words(lab, &tried.instance).await?;
    ensure_untouched(&after, &lab.wait_exactly("web", 2, LIMIT).await?)?;
    everything_agrees(lab).await
}

async fn a_drain_takes_along_what_served(lab: &Lab) -> Result<()> {
    let from = lab.ps().await?.of("web")[0].node.clone();
    lab.cli(&["node", "drain", &from, "--wait"]).await?.ok()?;
    let moved = lab.wait_exactly("web", 2, LIMIT).await?;
    ensure!(moved.iter().all(|one| one.host != from), "left on {from}: {moved:#?}");
    all_are_at(lab, "1").await?;
    lab.cli(&["node", "uncordon", &from]).await?.ok()?;
    everything_agrees(lab).await
}

async fn a_container_removed_by_hand_is_made_as_it_served(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, LIMIT).await?;
    let victim = &before[0];
    let host = lab.hosts().iter().find(|host| host.name() == victim.host);
    let docker = host.context("it is on no host")?.docker()?;
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&victim.id, Some(force)).await?;
    let after = wait_until("another container to be made", LIMIT, async || {
        let after = lab.look_exactly("web", 2).await?;
        ensure!(after.iter().all(|one| one.id != victim.id), "{after:#?}");
        Ok(after)
    })
    .await?;
    ensure_untouched(&before[1..], &after)?;
    all_are_at(lab, "1").await?;
    everything_agrees(lab).await
}

async fn a_new_instance_is_of_the_good_version(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 2, LIMIT).await?;
    lab.cli(&["scale", "web=3"]).await?.ok()?;
    ensure_untouched(&before, &lab.wait_exactly("web", 3, LIMIT).await?)?;
    all_are_at(lab, "1").await
}

async fn a_rollback_ends_the_pause_and_touches_nothing(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 3, LIMIT).await?;
    let refused = lab.cli(&["resume", "web"]).await?;
    ensure!(refused.code() != 0, "what was ruled out went on: {refused:?}");
    lab.cli(&["rollback", "web", "--wait"]).await?.ok()?;
    becomes(lab, 3, "good").await?;
    let message = lab.ps().await?.workloads[0].message.clone();
    ensure!(message.is_empty(), "it still says {message:?}");
    ensure_untouched(&before, &lab.wait_exactly("web", 3, LIMIT).await?)?;
    everything_agrees(lab).await
}

async fn a_pause_holds_until_it_is_resumed(lab: &Lab) -> Result<()> {
    let before = lab.wait_exactly("web", 3, LIMIT).await?;
    lab.cli(&["pause", "web"]).await?.ok()?;
    lab.apply(&web("4", &[])).await?.ok()?;
    hold_for("all to be as they were", Duration::from_secs(3), async || {
        ensure_untouched(&before, &lab.look_exactly("web", 3).await?)
    })
    .await?;
    let message = lab.ps().await?.workloads[0].message.clone();
    ensure!(message.contains("paused"), "it says {message:?}");
    lab.cli(&["resume", "web", "--wait"]).await?.ok()?;
    becomes(lab, 4, "good").await?;
    all_are_at(lab, "4").await?;
    everything_agrees(lab).await
}

async fn what_one_has_tried_out_is_given_to_the_others(lab: &Lab) -> Result<()> {
    let replicas = lab.ps().await?.of("web").len();
    let lines = [format!("replicas: {replicas}"), "update: {canary: 1, parallelism: 100%}".into()];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let apply = async |version: &str| -> Result<()> {
        let command = lab.cli_command(&["apply", "-f", "-", "--wait"])?;
        let said = finish(command, &web(version, &lines)).await?;
        ensure!(said.code() == 0 && said.stderr.contains("dwell promote"), "{said:?}");
        Ok(())
    };
    let before = lab.wait_exactly("web", replicas, LIMIT).await?;
    apply("canary").await?;
    let tried = lab.wait_exactly("web", replicas, LIMIT).await?;
    let kept = before.iter().filter(|one| tried.contains(one)).count();
    ensure!(kept == replicas - 1, "{kept} of {replicas} were left alone");
    let status = lab.cli(&["status"]).await?;
    ensure!(status.stdout.contains("dwell promote web"), "{status:?}");
    lab.cli(&["abort", "web", "--wait"]).await?.ok()?;
    let back = lab.wait_exactly("web", replicas, LIMIT).await?;
    ensure!(before.iter().filter(|one| back.contains(one)).count() == replicas - 1, "{back:#?}");
    let nothing = lab.cli(&["abort", "web"]).await?;
    ensure!(nothing.code() == 4 && nothing.stderr.contains("no rollout"), "{nothing:?}");
    apply("canary").await?;
    lab.cli(&["promote", "web", "--wait"]).await?.ok()?;
    all_are_at(lab, "canary").await?;
    let why = lab.cli(&["explain", "web-0"]).await?.ok()?;
    ensure!(why.contains("has held with version") && why.contains("version-promoted"), "{why}");
    let nothing = lab.cli(&["promote", "web"]).await?;
    ensure!(nothing.code() == 4 && nothing.stderr.contains("waits to be promoted"), "{nothing:?}");
    Ok(())
}

#[tokio::test]
async fn a_limit_that_a_program_cannot_live_with_is_taken_back() -> Result<()> {
    Lab::test(LabConfig::new("limits").hosts(1).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        let big = |memory: &str| {
            format!(
                "workloads:\n  big:\n    image: hello\n    replicas: 2\n    \
                 update: {{monitor: 2s, deadline: 10s}}\n    resources: {{memory: {memory}}}\n    \
                 command: [sh, -c, 'x=$(head -c 24000000 /dev/zero | tr \"\\\\0\" x); while :; do sleep 1; done']\n"
            )
        };
        lab.apply(&big("256Mi")).await?.ok()?;
        lab.wait_exactly("big", 2, LIMIT).await?;
        wait_until("it to be good", LIMIT, async || state_of(lab, "big", 1, "good").await).await?;
        // It uses more than that, so it is not tried.
        let before = lab.look_exactly("big", 2).await?;
        let alone = lab.cli(&["resize", "big-1", "--memory", "9Mi", "--wait"]).await?;
        ensure!(alone.stderr.contains("more than the new limit of 9Mi"), "{alone:?}");
        lab.apply(&big("8Mi")).await?.ok()?;
        let refused = async || state_of(lab, "big", 2, "ruled-out").await;
        let why = wait_until("it to be ruled out", LIMIT, refused).await?;
        ensure!(why.contains("MiB of memory, more than the new limit of 8Mi"), "{why}");
        ensure_untouched(&before, &lab.look_exactly("big", 2).await?)?;

        // By force it is, and it cannot live with it.
        finish(lab.cli_command(&["apply", "--force", "-f", "-"])?, &big("8Mi")).await?.ok()?;
        let fails = async || state_of(lab, "big", 3, "ruled-out").await;
        let why = wait_until("it to be ruled out", LIMIT, fails).await?;
        ensure!(!why.contains("more than the new limit"), "{why}");
        wait_until("the old limits to be back", LIMIT, async || {
            for container in lab.look_exactly("big", 2).await? {
                let docker = lab.hosts()[0].docker()?;
                let inspected = docker.inspect_container(&container.id, None).await?;
                let memory = inspected.host_config.and_then(|config| config.memory);
                ensure!(memory == Some(256 << 20), "{container:?} has {memory:?}");
            }
            Ok(())
        })
        .await?;
        everything_agrees(lab).await
    })
    .await
}

/// Waits until a version of `web` is in this state, and returns the reason of it.
async fn becomes(lab: &Lab, number: u64, state: &str) -> Result<String> {
    let what = format!("version {number} to be {state}");
    wait_until(&what, LIMIT, async || state_of(lab, "web", number, state).await).await
}

async fn state_of(lab: &Lab, workload: &str, number: u64, state: &str) -> Result<String> {
    let history: Value = lab.cli(&["history", workload, "-o", "json"]).await?.json()?;
    let versions = history["versions"].as_array().context("there are no versions")?;
    let version = versions.iter().find(|version| version["number"] == number);
    let version = version.with_context(|| format!("it is not in {history:#}"))?;
    ensure!(version["state"] == state, "{version:#}; {:#?}", lab.ps().await?);
    Ok(version["reason"].as_str().unwrap_or_default().to_owned())
}

/// An instance as `dwell ps` shows it, with all its fields.
async fn instance(lab: &Lab, name: &str) -> Result<Value> {
    let ps: Value = lab.cli(&["ps", "-o", "json"]).await?.json()?;
    let instances = ps["instances"].as_array().context("there are no instances")?;
    let found = instances.iter().find(|instance| instance["name"] == name);
    found.cloned().with_context(|| format!("{name} is not in {ps:#}"))
}

fn tells_why(who: &str, text: &str) -> Result<()> {
    let tells = text.contains("exit code 3") && text.contains(LAST_WORDS);
    ensure!(tells, "{who} does not tell why, but {text:?}");
    Ok(())
}

async fn previous_shows_the_last_words(lab: &Lab, instance: &str) -> Result<()> {
    wait_until("the failed container's output to be kept", LIMIT, async || {
        let printed = lab.cli(&["logs", "--previous", instance]).await?.ok()?;
        ensure!(printed.contains(LAST_WORDS), "`logs --previous` shows {printed:?}");
        Ok(())
    })
    .await
}

/// Waits until all instances of `web` say that they are at a version.
async fn all_are_at(lab: &Lab, version: &str) -> Result<()> {
    wait_until(&format!("all to be at version {version}"), LIMIT, async || {
        for row in lab.ps().await?.of("web") {
            let said = lab.exec(&row.name, &["sh", "-c", "echo $VERSION"]).await?.ok()?;
            ensure!(said.trim() == version, "{} is at {}", row.name, said.trim());
        }
        Ok(())
    })
    .await
}

async fn everything_agrees(lab: &Lab) -> Result<()> {
    wait_until("all layers to agree", LIMIT, async || {
        let found = lab.audit(false).await?;
        ensure!(found.is_empty(), "{found:#?}");
        Ok(())
    })
    .await
}

fn ids(containers: &[Container]) -> BTreeSet<&str> {
    containers.iter().map(|container| container.id.as_str()).collect()
}
