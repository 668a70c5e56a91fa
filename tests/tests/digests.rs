//! All containers of a version are made from the image that its first instance ran, though its tag was moved.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bollard::{
    models::{ContainerConfig, ContainerCreateBody},
    query_parameters::{
        CommitContainerOptions, CreateContainerOptions, PushImageOptions, RemoveContainerOptions,
        TagImageOptions,
    },
};
use dwell_tests::lab::{Host, Image, Lab, LabConfig, wait_until};
use futures_util::TryStreamExt;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

fn web(image: &str, replicas: usize) -> String {
    format!(
        "workloads:\n  web:\n    image: {image}\n    replicas: {replicas}\n    update: {{monitor: 1s}}\n"
    )
}

#[tokio::test]
async fn a_moved_tag_changes_no_instance_of_a_version() -> Result<()> {
    Lab::test(LabConfig::new("digests").hosts(2).images(&[Image::Hello]), async |lab| {
        let registry = lab.start_registries().await?;
        let image = format!("{registry}/team/hello:1");
        let (first, second) = (lab.host(1), lab.host(2));
        push(first, "hello", &image).await.context("first push")?;
        lab.start_fleet().await?;
        lab.cli(&["node", "cordon", &second.name()]).await?.ok()?;
        lab.apply(&web(&image, 1)).await?.ok()?;
        lab.wait_exactly("web", 1, LIMIT).await?;
        let bytes = image_of(lab, "web-0").await?;
        let pinned = pinned(lab).await?;
        ensure!(text(&inspect(lab, "web-0").await?, "image_digest")? == pinned, "it says another");

        let other = commit(first).await.context("another image")?;
        ensure!(other != bytes, "it is the same image");
        push(first, &other, &image).await.context("second push")?;
        lab.cli(&["node", "uncordon", &second.name()]).await?.ok()?;
        lab.cli(&["node", "cordon", &first.name()]).await?.ok()?;
        let said = lab.apply(&web(&image, 1)).await?.ok()?;
        ensure!(said.contains("unchanged"), "{said}");
        lab.cli(&["scale", "web=2"]).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        ensure!(image_of(lab, "web-1").await? == bytes, "the other node has the moved tag's");

        // The first node has the tag at the other image, and makes another container.
        let before = first.containers().await?.pop().context("web-0 is gone")?;
        let force = RemoveContainerOptions { force: true, ..Default::default() };
        first.docker()?.remove_container(&before.id, Some(force)).await?;
        wait_until("another container", LIMIT, async || {
            let now = first.containers().await?;
            ensure!(now.iter().any(|now| now.id != before.id && now.pid.is_some()), "{now:?}");
            Ok(())
        })
        .await?;
        ensure!(image_of(lab, "web-0").await? == bytes, "its own node has the moved tag's");
        let events = lab.cli(&["events"]).await?.ok()?;
        ensure!(!events.contains("instance-other-image"), "{events}");

        // By its digest or another tag the new image is had.
        let next = format!("{registry}/team/hello:2");
        push(first, &other, &next).await?;
        lab.apply(&web(&next, 2)).await?.ok()?;
        wait_until("the other image", LIMIT, async || {
            for name in ["web-0", "web-1"] {
                ensure!(image_of(lab, name).await? == other, "{name} runs the first");
            }
            Ok(())
        })
        .await
    })
    .await
}

/// Gives an image of a host a name, and pushes it under that.
async fn push(host: &Host, image: &str, name: &str) -> Result<()> {
    let docker = host.docker()?;
    let (repo, tag) = name.rsplit_once(':').context("no tag")?;
    let options = TagImageOptions { repo: Some(repo.to_owned()), tag: Some(tag.to_owned()) };
    docker.tag_image(image, Some(options)).await?;
    let options = PushImageOptions { tag: Some(tag.to_owned()), ..Default::default() };
    docker.push_image(repo, Some(options), None).try_collect::<Vec<_>>().await?;
    Ok(())
}

/// Makes another image of `hello` on a host, and returns its id.
async fn commit(host: &Host) -> Result<String> {
    let docker = host.docker()?;
    let body = ContainerCreateBody { image: Some("hello".to_owned()), ..Default::default() };
    let made = docker.create_container(None::<CreateContainerOptions>, body).await?;
    let options = CommitContainerOptions { container: Some(made.id.clone()), ..Default::default() };
    let config = ContainerConfig {
        labels: Some([("form".to_owned(), "other".to_owned())].into()),
        ..Default::default()
    };
    let image = docker.commit_container(options, config).await?;
    docker.remove_container(&made.id, None::<RemoveContainerOptions>).await?;
    Ok(image.id)
}

async fn inspect(lab: &Lab, instance: &str) -> Result<Value> {
    lab.cli(&["inspect", instance, "-o", "json"]).await?.json()
}

fn text(value: &Value, key: &str) -> Result<String> {
    let text = value.get(key).and_then(Value::as_str).with_context(|| format!("no {key}"))?;
    Ok(text.to_owned())
}

/// The digest that the newest version of `web` is pinned to.
async fn pinned(lab: &Lab) -> Result<String> {
    let history: Value = lab.cli(&["history", "web", "-o", "json"]).await?.json()?;
    let digest = text(&history["versions"][0], "image_digest")?;
    ensure!(digest.starts_with("sha256:"), "it is not pinned: {history}");
    Ok(digest)
}

/// The id of the image that the container of an instance runs with, as its engine says.
async fn image_of(lab: &Lab, instance: &str) -> Result<String> {
    let containers = lab.containers().await?;
    let mut own = containers.iter().filter(|one| one.instance == instance && one.pid.is_some());
    let own = own.next().with_context(|| format!("{instance} does not run"))?;
    let host = lab.hosts().iter().find(|host| host.name() == own.host).context("which host?")?;
    let seen = host.docker()?.inspect_container(&own.id, None).await?;
    seen.image.context("the engine does not say its image")
}
