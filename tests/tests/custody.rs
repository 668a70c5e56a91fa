//! Instances that dwell lets go, and takes back, and containers that it takes, on real engines.

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

#[tokio::test]
async fn adopting() -> Result<()> {
    Lab::test(LabConfig::new("adopting").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        let client = "workloads:\n  client:\n    image: hello\n    constraints: [node.name==h2]\n";
        apply(lab, client).await?.ok()?;
        a_plan_says_everything_and_does_nothing(lab).await.context("plan")?;
        a_container_becomes_an_instance_with_all_it_has(lab).await.context("adopted")?;
        whatever_is_killed_it_ends_in_one_of_the_two(lab).await.context("killed")?;
        what_does_not_hold_is_put_back(lab).await.context("put back")?;
        a_removal_amid_it_puts_it_back(lab).await.context("removed")?;
        what_no_instance_can_be_is_refused(lab).await
    })
    .await
}

/// What others run on the first host: with a volume, an environment, a published port, and a file of its own.
async fn run_foreign(lab: &Lab, name: &str, words: &[&str]) -> Result<()> {
    let volume = format!("{name}_data:/data");
    let options = ["run", "--detach", "--name", name, "--restart=always", "--volume", &volume];
    let more = ["--env=KEY=a value", "--publish=8080", "hello"];
    docker(lab, &[&options[..], &more, words].concat()).await?;
    let write = "echo mine > /own && echo kept > /data/file && chmod 4710 /data/file";
    docker(lab, &["exec", name, "/bin/sh", "-c", write]).await.map(drop)
}

async fn docker(lab: &Lab, words: &[&str]) -> Result<String> {
    let socket = format!("unix://{}", lab.host(1).docker_socket().display());
    lab.host(1).exec(&[&["docker", "--host", &socket], words].concat()).await?.ok()
}

/// Whether a container of others runs, its restart policy, and when it was started.
async fn foreign(lab: &Lab, name: &str) -> Result<(bool, String, String)> {
    let form = "{{.State.Running}} {{.HostConfig.RestartPolicy.Name}} {{.State.StartedAt}}";
    let said = docker(lab, &["inspect", "--format", form, name]).await?;
    let mut words = said.split_whitespace().map(ToOwned::to_owned);
    let mut next = || words.next().context("no such word");
    Ok((next()? == "true", next()?, next()?))
}

async fn adopt(lab: &Lab, name: &str, more: &[&str]) -> Result<Output> {
    let words = ["adopt", "--node", "h1", "--container", name];
    lab.cli_with(&[&words[..], more].concat(), "", LIMIT).await
}

async fn own_containers(lab: &Lab, workload: &str) -> Result<Vec<Container>> {
    let mut all = lab.containers().await?;
    all.retain(|one| one.instance.starts_with(workload));
    Ok(all)
}

async fn a_plan_says_everything_and_does_nothing(lab: &Lab) -> Result<()> {
    run_foreign(lab, "shop", &[]).await?;
    let before = foreign(lab, "shop").await?;
    let plan = adopt(lab, "shop", &["--plan"]).await?.ok()?;
    for words in [
        "would become instance shop-0",
        "localhost/dwell-adopted/shop:",
        "KEY: a value",
        "shop_data: copied to shop_data of the instance",
        "is not published any more: it is reached at its own address on port 8080",
        "node.name==h1",
    ] {
        ensure!(plan.contains(words), "{words}: {plan}");
    }
    let json = adopt(lab, "shop", &["--plan", "-o", "json"]).await?.ok()?;
    ensure!(json.contains("\"obstacles\": []"), "{json}");
    ensure!(foreign(lab, "shop").await? == before && lab.ps().await?.of("shop").is_empty());
    Ok(())
}

async fn a_container_becomes_an_instance_with_all_it_has(lab: &Lab) -> Result<()> {
    adopt(lab, "shop", &["--wait"]).await?.ok()?;
    let (runs, policy, _) = foreign(lab, "shop").await?;
    ensure!(!runs && policy == "no", "the old one: {runs} {policy}");
    has_all(lab, "shop").await?;
    let row = lab.ps().await?.of("shop").pop().context("no instance")?;
    lab.host(2).get(row.at(8080)?).await.context("by its address, from another node")?;
    let ask = ["timeout", "5", "wget", "-q", "-O", "-", "http://shop-0.dwell:8080/"];
    let said = lab.exec("client-0", &ask).await?.ok().context("by its name")?;
    ensure!(said.contains("shop-0"), "{said}");
    let left =
        docker(lab, &["run", "--rm", "--volume", "shop_data:/d", "hello", "/bin/cat", "/d/file"]);
    ensure!(left.await?.trim() == "kept", "the old volume has changed");
    let audit = lab.audit(false).await?;
    ensure!(audit.is_empty(), "{audit:?}");
    // It is an instance like any other from now on.
    lab.cli(&["restart", "shop-0", "--wait"]).await?.ok()?;
    has_all(lab, "shop").await?;
    let again = adopt(lab, "shop", &[]).await?;
    ensure!(again.code() != 0 && again.stderr.contains("does not run"), "{again:?}");
    lab.cli(&["rm", "shop", "--wait"]).await?.ok().map(drop)
}

async fn has_all(lab: &Lab, name: &str) -> Result<()> {
    let look = "cat /own /data/file && echo $KEY && stat -c %a /data/file";
    let said = lab.exec(&format!("{name}-0"), &["/bin/sh", "-c", look]).await?.ok()?;
    ensure!(said == "mine\nkept\na value\n4710\n", "{said:?}");
    Ok(())
}

async fn whatever_is_killed_it_ends_in_one_of_the_two(lab: &Lab) -> Result<()> {
    for turn in 0..6_u64 {
        let name = format!("cart{turn}");
        run_foreign(lab, &name, &[]).await?;
        adopt(lab, &name, &[]).await?.ok()?;
        tokio::time::sleep(Duration::from_millis(150 + 350 * turn)).await;
        match turn {
            2 => {
                lab.host(1).stop_docker(Signal::SIGKILL).await?;
                lab.host(1).start_docker().await?;
            }
            4 => {
                lab.stop_controller(Signal::SIGKILL).await?;
                lab.start_controller().await?;
            }
            _ => {
                lab.host(1).stop_agent(Signal::SIGKILL).await?;
                lab.host(1).start_agent().await?;
            }
        }
        wait_until("the instance to hold in its place", LIMIT, async || {
            let own = own_containers(lab, &name).await?;
            let (runs, policy, _) = foreign(lab, &name).await?;
            ensure!(
                !runs && policy == "no" && own.len() == 1,
                "turn {turn}: {runs} {policy} {own:?}"
            );
            let message = format!("holds in the place of container {name}");
            let events =
                lab.cli(&["events", "--about", &format!("instance/{name}-0")]).await?.ok()?;
            ensure!(events.contains(&message), "turn {turn}: {events}");
            Ok(())
        })
        .await?;
        has_all(lab, &name).await?;
        lab.cli(&["rm", &name, "--wait"]).await?.ok()?;
    }
    Ok(())
}

async fn what_does_not_hold_is_put_back(lab: &Lab) -> Result<()> {
    // It only runs under the name that it has now.
    let only_here = "[ -f /where ] || hostname > /where; [ $(hostname) = $(cat /where) ] && exec /start; exit 3";
    run_foreign(lab, "frail", &["/bin/sh", "-c", only_here]).await?;
    let before = foreign(lab, "frail").await?;
    let told = adopt(lab, "frail", &["--wait"]).await?;
    ensure!(told.code() != 0 && told.stderr.contains("frail was started again"), "{told:?}");
    wait_until("the container to run as before", SOON, async || {
        let (runs, policy, started) = foreign(lab, "frail").await?;
        ensure!(runs && policy == "always" && started != before.2, "{runs} {policy}");
        let own = own_containers(lab, "frail").await?;
        ensure!(own.is_empty(), "{own:?}");
        Ok(())
    })
    .await?;
    let kept = docker(lab, &["exec", "frail", "/bin/cat", "/own", "/data/file"]).await?;
    ensure!(kept == "mine\nkept\n", "{kept}");
    // Nothing more is done, whatever is started anew.
    let now = foreign(lab, "frail").await?;
    lab.host(1).stop_agent(Signal::SIGKILL).await?;
    lab.host(1).start_agent().await?;
    hold_for("the container", WHILE, async || {
        ensure!(foreign(lab, "frail").await? == now, "it was touched");
        Ok(())
    })
    .await?;
    lab.cli(&["rm", "frail", "--wait"]).await?.ok()?;
    ensure!(foreign(lab, "frail").await? == now, "its removal has touched the container");
    Ok(())
}

async fn a_removal_amid_it_puts_it_back(lab: &Lab) -> Result<()> {
    run_foreign(lab, "brief", &[]).await?;
    adopt(lab, "brief", &[]).await?.ok()?;
    wait_until("the instance to run", SOON, async || {
        ensure!(!own_containers(lab, "brief").await?.is_empty(), "it does not");
        Ok(())
    })
    .await?;
    lab.cli(&["rm", "brief", "--wait"]).await?.ok()?;
    let (runs, policy, _) = foreign(lab, "brief").await?;
    ensure!(runs && policy == "always", "{runs} {policy}");
    ensure!(own_containers(lab, "brief").await?.is_empty(), "something of it is left");
    let audit = lab.audit(false).await?;
    ensure!(audit.is_empty(), "{audit:?}");
    Ok(())
}

async fn what_no_instance_can_be_is_refused(lab: &Lab) -> Result<()> {
    docker(
        lab,
        &["run", "--detach", "--name=host", "--cap-add=NET_ADMIN", "--network=host", "hello"],
    )
    .await?;
    let plan = adopt(lab, "host", &["--plan"]).await?;
    ensure!(plan.code() != 0 && plan.stdout.contains("--cap-add"), "{plan:?}");
    let refused = adopt(lab, "host", &[]).await?;
    let says = |word: &str| refused.stderr.contains(word);
    ensure!(refused.code() != 0 && says("--network host") && says("NET_ADMIN"), "{refused:?}");
    let missing = adopt(lab, "nobody", &["--plan"]).await?;
    ensure!(missing.code() != 0 && missing.stderr.contains("nobody"), "{missing:?}");
    ensure!(foreign(lab, "host").await?.0, "it was stopped");
    Ok(())
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
