//! A registry that lets in nobody without a login, and what an operator sees on the way to an image that is in there.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use bollard::query_parameters::{PushImageOptions, RemoveImageOptions, TagImageOptions};
use dwell_tests::lab::{Host, Image, Lab, LabConfig, PrivateRegistry, wait_until};
use futures_util::TryStreamExt;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

fn workload(name: &str, image: &str) -> String {
    format!("workloads:\n  {name}:\n    image: {image}\n    update: {{monitor: 1s}}\n")
}

#[tokio::test]
async fn a_private_image_runs_once_the_cluster_has_logged_in() -> Result<()> {
    Lab::test(LabConfig::new("registries").hosts(2).images(&[Image::Hello]), async |lab| {
        let registry = lab.start_private_registry().await?;
        lab.start_fleet().await?;
        let (first, second) = (
            format!("{}/team/hello:1", registry.host()),
            format!("{}/team/hello:2", registry.host()),
        );
        // It pushes, and has the image for that time.
        let second_host = lab.host(2);
        lab.cli(&["node", "cordon", &second_host.name()]).await?.ok()?;
        lab.apply(&workload("web", &first)).await?.ok()?;
        says(lab, "web-0", &["x509", &format!("/etc/docker/certs.d/{}/ca.crt", registry.host())])
            .await
            .context("an unknown certificate")?;
        registry.trust()?;
        for image in [&first, &second] {
            push(second_host, &registry, image).await.context("push")?;
        }
        let login = format!("`dwell registry login {}`", registry.host());
        says(lab, "web-0", &["without credentials", &login]).await.context("no login")?;

        log_in(lab, &registry, "wrong").await?;
        says(lab, "web-0", &[&format!("from {} as \"ci\"", registry.host()), &login])
            .await
            .context("a wrong password")?;
        log_in(lab, &registry, PrivateRegistry::PASSWORD).await?;
        lab.wait_exactly("web", 1, LIMIT).await.context("it is to run without further ado")?;
        let listed = lab.cli(&["registry", "ls"]).await?.ok()?;
        ensure!(listed.contains(registry.host()) && listed.contains("ci"), "{listed}");

        lab.cli(&["node", "uncordon", &second_host.name()]).await?.ok()?;
        lab.cli(&["scale", "web=2"]).await?.ok()?;
        let both = lab.wait_exactly("web", 2, LIMIT).await?;
        let hosts: BTreeSet<&str> = both.iter().map(|one| one.host.as_str()).collect();
        ensure!(hosts.len() == 2, "both are on one node: {both:#?}");
        let mut digests = BTreeSet::new();
        for instance in ["web-0", "web-1"] {
            let shown: Value = lab.cli(&["inspect", instance, "-o", "json"]).await?.json()?;
            digests.insert(shown["image_digest"].to_string());
        }
        ensure!(digests.len() == 1, "the nodes have different images: {digests:?}");
        ensure!(digests.iter().all(|one| one.contains("sha256:")), "it is not pinned: {digests:?}");

        lab.cli(&["registry", "logout", registry.host()]).await?.ok()?;
        lab.apply(&workload("late", &second)).await?.ok()?;
        says(lab, "late-0", &["without credentials", &login]).await.context("after the logout")?;
        lab.wait_exactly("web", 2, LIMIT).await.context("what runs runs on")?;
        let told = lab.cli(&["events"]).await?.ok()? + &lab.log_tails();
        ensure!(!told.contains(PrivateRegistry::PASSWORD), "the password is told");
        Ok(())
    })
    .await
}

/// Waits until `dwell ps` says all of this of an instance.
async fn says(lab: &Lab, instance: &str, words: &[&str]) -> Result<()> {
    wait_until(&format!("{words:?} to be said of {instance}"), LIMIT, async || {
        let ps = lab.ps().await?;
        let row =
            ps.instances.iter().find(|one| one.name == instance).context("it is not there")?;
        ensure!(words.iter().all(|word| row.message.contains(word)), "{}", row.message);
        Ok(())
    })
    .await
}

async fn log_in(lab: &Lab, registry: &PrivateRegistry, password: &str) -> Result<()> {
    let username = PrivateRegistry::USERNAME;
    let arguments = ["registry", "login", registry.host(), "-u", username, "--password-stdin"];
    lab.cli_with(&arguments, password, LIMIT).await?.ok().map(drop)
}

/// Pushes a host's image `hello` under a name, by which the host itself does not know it afterwards.
async fn push(host: &Host, registry: &PrivateRegistry, name: &str) -> Result<()> {
    let docker = host.docker()?;
    let (repo, tag) = name.rsplit_once(':').context("no tag")?;
    let options = TagImageOptions { repo: Some(repo.to_owned()), tag: Some(tag.to_owned()) };
    docker.tag_image("hello", Some(options)).await?;
    let options = PushImageOptions { tag: Some(tag.to_owned()), ..Default::default() };
    let pushed = docker.push_image(repo, Some(options), Some(registry.credentials()));
    pushed.try_collect::<Vec<_>>().await?;
    docker.remove_image(name, None::<RemoveImageOptions>, None).await?;
    Ok(())
}
