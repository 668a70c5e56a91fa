//! Images go straight from a machine's Docker to nodes, come no twice, and go when nothing needs them and not before.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use bollard::{
    models::{ContainerConfig, ContainerCreateBody},
    query_parameters::{
        CommitContainerOptions, CreateContainerOptions, ImportImageOptions, ListImagesOptions,
        RemoveContainerOptions,
    },
};
use dwell_tests::lab::{
    Host, Image, Lab, LabConfig, Output, Signal, ensure_untouched, finish, wait_until,
};
use futures_util::TryStreamExt;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

/// The command line with the Docker of a host for its own machine's.
async fn on_laptop(lab: &Lab, host: &Host, args: &[&str]) -> Result<Output> {
    let socket = format!("unix://{}", host.docker_socket().display());
    let mut command = lab.cli_command(args)?;
    command.env("DOCKER_HOST", socket);
    finish(command, "").await
}

/// Another image on top of `hello`, on a host.
async fn commit(host: &Host, name: &str) -> Result<()> {
    let docker = host.docker()?;
    let body = ContainerCreateBody { image: Some("hello".to_owned()), ..Default::default() };
    let made = docker.create_container(None::<CreateContainerOptions>, body).await?;
    let (repo, tag) = name.split_once(':').context("no tag")?;
    let options = CommitContainerOptions {
        container: Some(made.id.clone()),
        repo: Some(repo.to_owned()),
        tag: Some(tag.to_owned()),
        ..Default::default()
    };
    let config = ContainerConfig {
        labels: Some([("form".to_owned(), name.to_owned())].into()),
        ..Default::default()
    };
    docker.commit_container(options, config).await?;
    docker.remove_container(&made.id, None::<RemoveContainerOptions>).await?;
    Ok(())
}

/// The names of all images of a host.
async fn names(host: &Host) -> Result<Vec<String>> {
    let images = host.docker()?.list_images(None::<ListImagesOptions>).await?;
    let mut names: Vec<String> = images.into_iter().flat_map(|image| image.repo_tags).collect();
    names.sort();
    Ok(names)
}

/// The row of a node in what was pushed.
fn row<'a>(view: &'a Value, node: &str) -> Result<&'a Value> {
    let nodes = view["nodes"].as_array().context("no nodes")?;
    nodes.iter().find(|row| row["node"] == node).with_context(|| format!("{node}: {view}"))
}

#[tokio::test]
async fn pushed_images_run() -> Result<()> {
    Lab::test(LabConfig::new("push").hosts(2).images(&[]), async |lab| {
        let archive = Image::Hello.archive(&lab.image_cache()).await?;
        let archive = archive.to_str().context("the path is not UTF-8")?;
        lab.start_fleet().await?;
        let (first, second) = (lab.host(1), lab.host(2));
        let push = ["image", "push", "--from-file", archive, "-o", "json"];
        let pushed: Value = lab.cli(&push).await?.json()?;
        for host in [first, second] {
            let row = row(&pushed, &host.name())?;
            ensure!(row["had_it"] == false && row["held_layers"] == 0, "{row}");
            ensure!(names(host).await? == ["hello:latest"], "{} has not got it", host.name());
        }
        let again: Value = lab.cli(&push).await?.json()?;
        ensure!(row(&again, &first.name())?["had_it"] == true, "it travels twice: {again}");

        lab.apply(
            "workloads:\n  web:\n    image: hello\n    replicas: 2\n    update: {monitor: 1s}\n",
        )
        .await?
        .ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        let listed = lab.cli(&["image", "ls"]).await?.ok()?;
        ensure!(listed.contains("hello:latest") && listed.contains("web-0"), "{listed}");

        // Of another image on top of it, only what is on top travels.
        commit(first, "hello:next").await?;
        let to = ["image", "push", "hello:next", "--to", &second.name(), "-o", "json"];
        let pushed: Value = on_laptop(lab, first, &to).await?.json()?;
        let row = row(&pushed, &second.name())?;
        let size = fs::metadata(archive)?.len();
        ensure!(row["had_it"] == false && row["held_layers"] != 0, "{row}");
        ensure!(row["sent_bytes"].as_u64().is_some_and(|sent| sent < size / 10), "{row} of {size}");
        let node = second.name();
        lab.cli(&["node", "cordon", &first.name()]).await?.ok()?;
        lab.apply("workloads:\n  next:\n    image: hello:next\n    update: {monitor: 1s}\n")
            .await?
            .ok()?;
        lab.wait_exactly("next", 1, LIMIT).await?;

        let refused = lab.cli(&["image", "rm", "hello:next", "--node", &node]).await?;
        ensure!(
            !refused.status.success() && refused.stderr.contains("needed by next-0"),
            "{refused:?}"
        );
        let missing = on_laptop(lab, first, &["image", "push", "none:1"]).await?;
        ensure!(missing.stderr.contains("docker save"), "{missing:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_agent_that_is_killed_amid_a_push_leaves_nothing_half() -> Result<()> {
    const MIB: usize = 256;
    Lab::test(LabConfig::new("pushkill").images(&[]), async |lab| {
        lab.start_fleet().await?;
        let host = lab.host(1);
        let archive = large(lab, MIB).await?;
        let archive = archive.to_str().context("the path is not UTF-8")?;
        let before = names(host).await?;
        let pushing = lab.cli_command(&["image", "push", "--from-file", archive])?.output();
        let unpacking = || {
            let found = fs::read_dir(host.dir().join("data/tmp")).into_iter().flatten().flatten();
            found
                .filter(|one| one.file_name().to_string_lossy().starts_with("docker-import-"))
                .count()
        };
        let killing = async {
            wait_until("the engine to unpack", LIMIT, async || {
                ensure!(unpacking() > 0, "it has not begun");
                Ok(())
            })
            .await?;
            host.stop_agent(Signal::SIGKILL).await
        };
        let (pushed, killed) = tokio::join!(pushing, killing);
        killed?;
        let pushed = pushed?;
        ensure!(!pushed.status.success(), "it was not amid the push: {pushed:?}");
        wait_until("the engine to put away what it unpacked", LIMIT, async || {
            ensure!(unpacking() == 0, "it is there");
            Ok(())
        })
        .await?;
        ensure!(names(host).await? == before, "something half is there");

        host.start_agent().await?;
        wait_until("the push to be taken", LIMIT, async || {
            lab.cli(&["image", "push", "--from-file", archive]).await?.ok().map(drop)
        })
        .await?;
        // It is known for what came by a push, and goes as such.
        let pruned = lab.cli(&["image", "prune"]).await?.ok()?;
        ensure!(pruned.contains("large:1") && names(host).await? == before, "{pruned}");
        Ok(())
    })
    .await
}

/// An archive with one large layer.
async fn large(lab: &Lab, mebi: usize) -> Result<PathBuf> {
    let tree = lab.layout().dir().join("large");
    fs::create_dir_all(&tree)?;
    fs::File::create(tree.join("zeros"))?.set_len((mebi << 20) as u64)?;
    let script = "set -e; cd \"$1\"; tar -cf layer.tar zeros; digest=$(sha256sum layer.tar | cut -d' ' -f1); \
        printf '{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{},\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:%s\"]}}' \
        $digest > config.json; \
        printf '[{\"Config\":\"config.json\",\"RepoTags\":[\"large:1\"],\"Layers\":[\"layer.tar\"]}]' > manifest.json; \
        tar -cf ../large.tar layer.tar config.json manifest.json";
    let done = tokio::process::Command::new("sh").args(["-c", script, "sh"]).arg(&tree).status();
    ensure!(done.await?.success(), "cannot make an archive");
    Ok(lab.layout().dir().join("large.tar"))
}

fn web(image: &str, replicas: usize, health: &str) -> String {
    format!(
        "workloads:\n  web:\n    image: {image}\n    replicas: {replicas}\n    update: {{monitor: 1s, deadline: 900s}}\n{health}"
    )
}

#[tokio::test]
async fn a_prune_never_takes_a_fall_back() -> Result<()> {
    Lab::test(LabConfig::new("prune").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        let (first, second) = (lab.host(1), lab.host(2));
        for image in ["hello:one", "hello:two", "hello:three"] {
            commit(first, image).await?;
            on_laptop(lab, first, &["image", "push", image, "--to", &second.name()]).await?.ok()?;
        }
        lab.cli(&["node", "cordon", &second.name()]).await?.ok()?;
        lab.apply(&web("hello:one", 1, "")).await?.ok()?;
        lab.wait_exactly("web", 1, LIMIT).await?;
        wait_until("the first version to be good", LIMIT, async || {
            let history: Value = lab.cli(&["history", "web", "-o", "json"]).await?.json()?;
            ensure!(history["versions"][0]["state"] == "good", "{history}");
            Ok(())
        })
        .await?;

        // An instance that never was on the second node is to be of the second version, which does not become healthy: what
        // it would fall back to has no container there.
        lab.cli(&["node", "cordon", &first.name()]).await?.ok()?;
        lab.cli(&["node", "uncordon", &second.name()]).await?.ok()?;
        let never = "    healthcheck: {tcp: 9, interval: 1s, retries: 600}\n";
        lab.apply(&web("hello:two", 2, never)).await?.ok()?;
        wait_until("the new instance to be on the second node", LIMIT, async || {
            let there = second.containers().await?;
            ensure!(there.iter().any(|one| one.instance == "web-1"), "{there:?}");
            Ok(())
        })
        .await?;
        let listed = lab.cli(&["image", "ls", &second.name()]).await?.ok()?;
        ensure!(listed.contains("web-1 (fall-back)"), "{listed}");
        let pruned = lab.cli(&["image", "prune", "--all", "--node", &second.name()]).await?.ok()?;
        ensure!(pruned.contains("hello:three"), "{pruned}");
        let left = names(second).await?;
        ensure!(left == ["hello:one", "hello:two"], "{left:?}, after {pruned}");
        let refused = lab.cli(&["image", "rm", "hello:one", "--node", &second.name()]).await?;
        ensure!(refused.stderr.contains("needed by web-1"), "{refused:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nothing_is_stopped_for_an_image_that_a_node_cannot_get() -> Result<()> {
    Lab::test(LabConfig::new("ahead").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        let (first, second) = (lab.host(1), lab.host(2));
        let declared = |image: &str, deadline: u64| {
            format!(
                "workloads:\n  web:\n    image: {image}\n    replicas: 2\n    update: {{monitor: 1s, deadline: {deadline}s}}\n"
            )
        };
        lab.apply(&declared("hello", 60)).await?.ok()?;
        lab.wait_exactly("web", 2, LIMIT).await?;
        let ids = async || -> Result<Vec<String>> {
            let (mut ids, second) = (first.containers().await?, second.containers().await?);
            ids.extend(second);
            Ok(ids.into_iter().map(|container| container.id).collect())
        };
        let before = ids().await?;
        ensure!(before.len() == 2, "{before:?}");

        // The first node has the new image, the second one can get it from nowhere.
        commit(first, "hello:next").await?;
        let apply = async |deadline| {
            let command = lab.cli_command(&["apply", "-f", "-", "--wait"])?;
            finish(command, &declared("hello:next", deadline)).await
        };
        let failed = apply(10).await?;
        let says = format!("{} cannot fetch hello:next", second.name());
        ensure!(
            !failed.status.success() && failed.stderr.contains(&says) && failed.stderr.contains("nothing was stopped"),
            "{failed:?}"
        );
        ensure!(ids().await? == before, "something was stopped");

        on_laptop(lab, first, &["image", "push", "hello:next", "--to", &second.name()]).await?.ok()?;
        apply(60).await?.ok()?;
        wait_until("the old containers to be gone", LIMIT, async || {
            let after = ids().await?;
            let new = after.iter().filter(|id| !before.contains(id)).count();
            ensure!(after.len() == 2 && new == 2, "{before:?} {after:?}");
            Ok(())
        })
        .await?;
        Ok(())
    })
    .await
}

/// However long it takes to have an image where an instance goes: it runs where it is, whoever sends it away.
#[tokio::test]
async fn what_moves_runs_where_it_is_until_its_image_is_where_it_goes() -> Result<()> {
    Lab::test(LabConfig::new("arrive").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        let (first, second) = (lab.host(1), lab.host(2));
        commit(first, "hello:own").await?;
        lab.cli(&["node", "cordon", &second.name()]).await?.ok()?;
        lab.apply("workloads:\n  web: {image: 'hello:own', healthcheck: {http: ':8080/', interval: 500ms}}\n")
            .await?
            .ok()?;
        let before = lab.wait_exactly("web", 1, LIMIT).await?;
        lab.cli(&["node", "uncordon", &second.name()]).await?.ok()?;

        let says = async |what: &str| {
            wait_until(what, LIMIT, async || {
                let row = lab.ps().await?.of("web").remove(0);
                ensure!(row.message.contains(what), "{row:?}");
                Ok(row)
            })
            .await
        };
        let stays = format!("stays until {}, where it goes, has hello:own", second.name());
        lab.cli(&["move", "web-0"]).await?.ok()?;
        let row = says(&stays).await?;
        lab.cli(&["node", "drain", &first.name()]).await?.ok()?;
        for restarts in [false, true] {
            if restarts {
                lab.stop_controller(Signal::SIGKILL).await?;
                second.stop_agent(Signal::SIGKILL).await?;
                lab.start_controller().await?;
                second.start_agent().await?;
            }
            says(&stays).await?;
            ensure!(lab.get(row.at(8080)?).await?.contains("web-0"), "nobody answers");
        }
        ensure_untouched(&before, &lab.wait_exactly("web", 1, LIMIT).await?)?;
        let listed = lab.cli(&["node", "ls"]).await?.ok()?;
        ensure!(listed.contains(&stays), "{listed}");

        on_laptop(lab, first, &["image", "push", "hello:own", "--to", &second.name()]).await?.ok()?;
        lab.cli(&["node", "drain", &first.name(), "--wait"]).await?.ok()?;
        let after = lab.wait_exactly("web", 1, LIMIT).await?;
        ensure!(after[0].host == second.name(), "{after:#?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn images_that_nothing_needs_go_by_themselves() -> Result<()> {
    Lab::test(LabConfig::new("imagegc").images(&[Image::Hello]), async |lab| {
        let host = lab.host(1);
        host.set_agent(&serde_json::json!({ "images": { "keep": "20s" } }))?;
        lab.start_fleet().await?;
        let archive = fs::read(large(lab, 1).await?)?;
        // By hand: it stays.
        let loading = host.docker()?.import_image(
            ImportImageOptions::default(),
            bollard::body_full(archive.into()),
            None,
        );
        loading.try_collect::<Vec<_>>().await?;
        commit(host, "hello:old").await?;
        let socket = format!("unix://{}", host.docker_socket().display());
        let saved = lab.layout().dir().join("old.tar");
        let script = "docker save hello:old -o \"$1\" && docker rmi hello:old";
        let saving = tokio::process::Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&saved)
            .env("DOCKER_HOST", socket)
            .output();
        ensure!(saving.await?.status.success(), "cannot save an image");
        let saved = saved.to_str().context("the path is not UTF-8")?;
        lab.cli(&["image", "push", "--from-file", saved]).await?.ok()?;
        ensure!(names(host).await?.contains(&"hello:old".to_owned()), "it was not pushed");
        wait_until("the image to go", LIMIT, async || {
            let names = names(host).await?;
            ensure!(names == ["hello:latest", "large:1"], "{names:?}");
            // The agent writes that down once the engine has answered.
            let log = fs::read_to_string(host.agent().log())?;
            ensure!(
                log.contains("removed an image") && log.contains("nothing has needed it for"),
                "{log}"
            );
            Ok(())
        })
        .await
    })
    .await
}
