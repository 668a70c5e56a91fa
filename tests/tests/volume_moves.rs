//! Instances that go to another host with their volumes, on real engines: nothing is lost, whatever is killed in the middle.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Host, Image, InstanceRow, Lab, LabConfig, Signal, meanwhile, wait_until};
use nix::mount::{MsFlags, mount};

const LIMIT: Duration = Duration::from_secs(120);

/// Writes a line for each start and one every tenth of a second.
const DATABASE: &str = "
workloads:
  db:
    image: hello
    healthcheck: {http: ':8080/', interval: 500ms}
    volumes: ['data:/data']
    update: {deadline: 20s, monitor: 1s}
";

/// All kinds of files, some of which are large enough for a copy to take a while.
const FILL: &str = "cd /data; mkdir -p deep/er; chmod 2750 deep; \
    dd if=/dev/urandom of=large bs=1M count=48 2>/dev/null; \
    dd if=/dev/urandom of=deep/er/small bs=1k count=3 2>/dev/null; ln large other; ln -s deep/er/small link; \
    mkfifo pipe; chmod 4755 deep/er/small; chown 1000:2000 large; touch -d '2020-01-02 03:04:05' deep/er/small; \
    printf x | dd of=sparse bs=1 seek=512M 2>/dev/null; : > empty; sync";

/// All of it, as far as a shell sees it.
const LOOK: &str = "cd /data; find . -type f ! -name log | sort | while read f; do \
    sha256sum $f; stat -c '%a %u %g %s %Y %h' $f; done; stat -c '%a' deep; readlink link; test -p pipe && echo pipe; \
    test large -ef other && echo same; du -m sparse | cut -f1";

#[tokio::test]
async fn volumes_move_with_their_instance() -> Result<()> {
    Lab::test(LabConfig::new("volmove").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(DATABASE).await?.ok()?;
        lab.wait_well("db", 1, LIMIT).await?;
        lab.exec("db-0", &["sh", "-c", FILL]).await?.ok()?;
        let data = look(lab).await?;
        is_refused_unless_told_so(lab).await.context("refused")?;
        comes_with_all_that_it_has(lab, &data).await.context("moved")?;
        stays_when_it_is_called_off(lab, &data).await.context("called off")?;
        the_agent_that_sends_is_killed(lab, &data).await.context("sender killed")?;
        the_agent_that_receives_is_killed(lab, &data).await.context("receiver killed")?;
        the_controller_is_killed(lab, &data).await.context("controller killed")
    })
    .await
}

/// What the volumes of a host may take in the test that wants for room, in MiB: less than a copy and what has to be left beside it.
const SMALL_MIB: u64 = 280;

#[tokio::test]
async fn a_move_to_a_node_without_room_says_so_and_nothing_is_lost() -> Result<()> {
    Lab::test(LabConfig::new("volroom").hosts(2).images(&[Image::Hello]), async |lab| {
        for host in lab.hosts() {
            // They go with the lab.
            let disk = volumes_dir(host);
            std::fs::create_dir_all(&disk)?;
            let options = format!("size={SMALL_MIB}m,mode=0701");
            mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some(&*options))?;
        }
        lab.start_fleet().await?;
        lab.apply(DATABASE).await?.ok()?;
        lab.wait_well("db", 1, LIMIT).await?;
        lab.exec("db-0", &["sh", "-c", FILL]).await?.ok()?;
        let data = look(lab).await?;
        let (from, to) = places(lab).await?;
        let id = row(lab).await?.container_id;
        let order = ["move", "db-0", "--to", &to.name(), "--volumes"];
        wait_until("the move to begin", LIMIT, async || lab.cli(&order).await?.ok().map(drop))
            .await?;
        wait_until("the reason to be told", LIMIT, async || {
            let events = lab.cli(&["events"]).await?.ok()?;
            let told = format!("its volumes do not move to {}", to.name());
            ensure!(events.contains(&told) && events.contains("MiB are needed"), "{events}");
            Ok(())
        })
        .await?;
        has_only(lab, from).await?;
        let stayed = row(lab).await?;
        ensure!(stayed.container_id == id && stayed.is_well(), "it was touched: {stayed:?}");
        ensure!(look(lab).await? == data, "its data has changed");

        let options = format!("size={}m", 2 * SMALL_MIB);
        mount(None::<&str>, &volumes_dir(to), None::<&str>, MsFlags::MS_REMOUNT, Some(&*options))?;
        lab.cli(&order).await?.ok()?;
        has_moved(lab, from, to, &data).await.context("once there is room")
    })
    .await
}

fn volumes_dir(host: &Host) -> PathBuf {
    host.dir().join("data/volumes")
}

async fn is_refused_unless_told_so(lab: &Lab) -> Result<()> {
    let refused = lab.cli(&["move", "db-0"]).await?;
    ensure!(refused.code() != 0, "it moves without its data: {refused:?}");
    ensure!(refused.stderr.contains("dwell move db-0 --volumes"), "{refused:?}");
    Ok(())
}

async fn comes_with_all_that_it_has(lab: &Lab, data: &str) -> Result<()> {
    let (from, to) = places(lab).await?;
    let address = row(lab).await?.at(8080)?;
    lab.cli(&["move", "db-0", "--to", &to.name(), "--volumes"]).await?.ok()?;
    let copied = wait_until("the copy to be whole", LIMIT, async || {
        let row = row(lab).await?;
        ensure!(!row.message.contains("it runs meanwhile"), "{}", row.message);
        Ok(())
    });
    // Whoever connects is served for as long as it is copied.
    meanwhile(copied, async || {
        let row = row(lab).await?;
        let is_copied = row.message.contains("it runs meanwhile");
        let answer = from.get(address).await;
        let is_still = self::row(lab).await?.message.contains("it runs meanwhile");
        ensure!(!is_copied || !is_still || answer.is_ok(), "it does not answer: {answer:?}");
        Ok(())
    })
    .await?;
    has_moved(lab, from, to, data).await
}

async fn stays_when_it_is_called_off(lab: &Lab, data: &str) -> Result<()> {
    let (from, to) = places(lab).await?;
    begin(lab, to).await?;
    let id = row(lab).await?.container_id;
    lab.cli(&["move", "db-0", "--abort"]).await?.ok()?;
    has_only(lab, from).await?;
    let row = row(lab).await?;
    ensure!(row.container_id == id && row.is_well(), "it was touched: {row:?}");
    ensure!(look(lab).await? == data, "its data has changed");
    let again = lab.cli(&["move", "db-0", "--abort"]).await?;
    ensure!(again.stderr.contains("nothing to call off"), "{again:?}");
    Ok(())
}

async fn the_agent_that_sends_is_killed(lab: &Lab, data: &str) -> Result<()> {
    let (from, to) = places(lab).await?;
    begin(lab, to).await?;
    from.stop_agent(Signal::SIGKILL).await?;
    from.start_agent().await?;
    has_moved(lab, from, to, data).await
}

async fn the_agent_that_receives_is_killed(lab: &Lab, data: &str) -> Result<()> {
    let (from, to) = places(lab).await?;
    begin(lab, to).await?;
    to.stop_agent(Signal::SIGKILL).await?;
    to.start_agent().await?;
    has_moved(lab, from, to, data).await
}

async fn the_controller_is_killed(lab: &Lab, data: &str) -> Result<()> {
    let (from, to) = places(lab).await?;
    begin(lab, to).await?;
    lab.stop_controller(Signal::SIGKILL).await?;
    lab.start_controller().await?;
    has_moved(lab, from, to, data).await
}

/// Has it begin to move, and waits until some of it is where it goes.
async fn begin(lab: &Lab, to: &Host) -> Result<()> {
    // Its node has to have said that it has the volume.
    let order = ["move", "db-0", "--to", &to.name(), "--volumes"];
    wait_until("the move to begin", LIMIT, async || lab.cli(&order).await?.ok().map(drop)).await?;
    wait_until("a copy to begin", LIMIT, async || {
        let volumes = volumes(to).await?;
        ensure!(volumes.contains(&"dwell.db-0.data.copy".to_owned()), "{volumes:?}");
        Ok(())
    })
    .await
}

/// It does well where it was sent, with all that it had, and nothing of it is left where it was.
async fn has_moved(lab: &Lab, from: &Host, to: &Host, data: &str) -> Result<()> {
    has_only(lab, to).await?;
    wait_until("it to do well", LIMIT, async || {
        let row = row(lab).await?;
        ensure!(row.node == to.name() && row.is_well(), "{row:?}");
        Ok(())
    })
    .await?;
    let now = look(lab).await?;
    ensure!(now == data, "its data was\n{data}\nand is\n{now}");
    ensure!(volumes(from).await?.is_empty(), "{} has kept something", from.name());
    Ok(())
}

/// One host has the volume, and no host anything else.
async fn has_only(lab: &Lab, home: &Host) -> Result<()> {
    wait_until("one volume to be left", LIMIT, async || {
        for host in lab.hosts() {
            let volumes = volumes(host).await?;
            let expected: &[&str] = match host.name() == home.name() {
                true => &["dwell.db-0.data"],
                false => &[],
            };
            let message = row(lab).await?.message;
            ensure!(volumes == expected, "{} has {volumes:?}; {message}", host.name());
        }
        Ok(())
    })
    .await
}

async fn look(lab: &Lab) -> Result<String> {
    lab.exec("db-0", &["sh", "-c", LOOK]).await?.ok()
}

async fn row(lab: &Lab) -> Result<InstanceRow> {
    lab.ps().await?.of("db").into_iter().next().context("there is no db-0")
}

/// Where it is, and the other host.
async fn places(lab: &Lab) -> Result<(&Host, &Host)> {
    let node = row(lab).await?.node;
    let home = lab.hosts().iter().find(|host| host.name() == node).context("on no host")?;
    let other = lab.hosts().iter().find(|host| host.name() != node).context("no other host")?;
    Ok((home, other))
}

/// The names of all volumes of a host's Docker.
async fn volumes(host: &Host) -> Result<Vec<String>> {
    let options = bollard::query_parameters::ListVolumesOptions { filters: None };
    let listed = host.docker()?.list_volumes(Some(options)).await?.volumes.unwrap_or_default();
    Ok(listed.into_iter().map(|volume| volume.name).collect())
}
