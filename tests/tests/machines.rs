//! Machines that people live in, on real engines: a whole Debian, whose root file system outlives everything that ends a container.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwell_core::instance::Phase;
use dwell_tests::lab::{Host, Image, InstanceRow, Lab, LabConfig, Signal, wait_until};

const LIMIT: Duration = Duration::from_secs(120);

const DEV: &str = "
workloads:
  dev:
    image: debian
    command: sleep infinity
    machine: true
    environment: {EDITION: '1'}
    update: {deadline: 20s, monitor: 1s}
";

/// What people do: install a package, make a user, change what the image has, delete some of it.
const LIVE: &str = "set -e; dpkg -i /packages/tree_*.deb > /dev/null; useradd -m -s /bin/bash ada; \
    echo 'ada ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ada; echo changed > /etc/motd; rm -r /etc/cron.d; mkdir /etc/cron.d; \
    touch /etc/cron.d/mine; rm /usr/bin/tmux; install -m 4755 -o ada /bin/true /usr/local/bin/tool; ln /usr/local/bin/tool /usr/local/bin/same; \
    mkfifo /root/pipe; ln -s pipe /root/link; dd if=/dev/urandom of=/home/ada/work bs=1k count=2000 2>/dev/null; chown ada /home/ada/work; sync";

/// All of it, as far as a shell sees it.
const LOOK: &str = "tree --version | cut -d' ' -f2; su ada -c 'sudo -n id -u'; cat /etc/motd; ls /etc/cron.d; \
    test -e /usr/bin/tmux || echo gone; stat -c '%a %U %h' /usr/local/bin/tool; readlink /root/link; test -p /root/pipe && echo pipe; \
    sha256sum /home/ada/work; stat -c %U /home/ada/work; grep -c '' /var/lib/dpkg/status";

#[tokio::test]
async fn what_is_done_in_a_machine_stays() -> Result<()> {
    let config = LabConfig::new("machine").hosts(2).images(&[Image::Debian]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply(DEV).await?.ok()?;
        lab.wait_well("dev", 1, LIMIT).await?;
        lab.exec("dev-0", &["sh", "-c", LIVE]).await?.ok()?;
        let seen = look(lab).await?;
        ensure!(seen.lines().count() == 11, "it has {seen}");
        let stays = async |what: &str| {
            lab.wait_well("dev", 1, LIMIT).await.with_context(|| what.to_owned())?;
            let now = look(lab).await.with_context(|| what.to_owned())?;
            ensure!(now == seen, "after {what} it has\n{now}\nand not\n{seen}");
            Ok(())
        };

        lab.cli(&["restart", "dev-0", "--wait"]).await?.ok()?;
        stays("a restart").await?;
        let plan = lab.cli_with(&["plan", "-f", "-"], &edition(2), LIMIT).await?.ok()?;
        ensure!(!plan.contains("files outside of volumes"), "the plan says {plan}");
        lab.cli_with(&["apply", "-f", "-", "--wait"], &edition(2), LIMIT).await?.ok()?;
        let told = lab.exec("dev-0", &["sh", "-c", "echo $EDITION"]).await?.ok()?;
        ensure!(told.trim() == "2", "its variable is {told}");
        stays("a replacement").await?;
        lab.cli(&["replace", "dev-0", "--wait"]).await?.ok()?;
        stays("another one").await?;

        let host = home(lab).await?;
        docker(host, &["restart", "-t", "1", &row(lab).await?.container_id]).await?;
        stays("a restart by Docker").await?;
        let before = row(lab).await?;
        docker(host, &["kill", &before.container_id]).await?;
        has_another_run(lab, &before).await?;
        stays("a kill").await?;
        host.stop_docker(Signal::SIGKILL).await?;
        host.stop_agent(Signal::SIGKILL).await?;
        host.start_docker().await?;
        host.start_agent().await?;
        stays("the death of Docker and the agent").await?;
        host.reboot().await?;
        stays("a loss of power").await?;

        let other = other(lab, host)?;
        lab.cli(&["move", "dev-0", "--to", &other.name(), "--volumes", "--wait"]).await?.ok()?;
        stays("a move").await?;
        ensure!(home(lab).await?.name() == other.name(), "it has not moved");
        lab.cli(&["rm", "dev", "--wait"]).await?.ok()?;
        lab.apply(DEV).await?.ok()?;
        stays("a removal, and the same declaration").await?;
        ensure!(home(lab).await?.name() == other.name(), "it is not where its root is");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_root_begins_anew_when_told_and_is_back_if_that_does_not_hold() -> Result<()> {
    let config = LabConfig::new("rebuild").hosts(1).images(&[Image::Debian]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        // It is born when it has held.
        lab.cli_with(&["apply", "-f", "-", "--wait"], DEV, LIMIT).await?.ok()?;
        let host = lab.host(1);
        lab.exec("dev-0", &["sh", "-c", "echo mine > /mine"]).await?.ok()?;
        make_image(host, "newer", "touch /newer").await?;
        let other = DEV.replace("image: debian", "image: newer");
        let plan = lab.cli_with(&["plan", "-f", "-"], &other, LIMIT).await?.ok()?;
        ensure!(plan.contains("dwell rebuild dev-0"), "the plan says {plan}");
        let before = row(lab).await?;
        lab.cli_with(&["apply", "-f", "-", "--wait"], &other, LIMIT).await?.ok()?;
        ensure!(row(lab).await?.container_id == before.container_id, "it was replaced");

        lab.cli(&["rebuild", "dev-0", "--wait"]).await?.ok()?;
        lab.exec("dev-0", &["sh", "-c", "test -e /newer && ! test -e /mine"]).await?.ok()?;
        lab.exec("dev-0", &["sh", "-c", "echo again > /mine"]).await?.ok()?;
        // One whose main process cannot be started: the root of before is back with its container, whatever is killed meanwhile.
        make_image(host, "worse", "rm /usr/bin/sleep").await?;
        let worse = DEV.replace("image: debian", "image: worse");
        lab.cli_with(&["apply", "-f", "-", "--wait"], &worse, LIMIT).await?.ok()?;
        lab.cli(&["rebuild", "dev-0"]).await?.ok()?;
        host.stop_agent(Signal::SIGKILL).await?;
        host.start_agent().await?;
        wait_until("the one before to be back", LIMIT, async || {
            let events = lab.cli(&["events", "--about", "instance/dev-0"]).await?.ok()?;
            ensure!(events.contains("instance-not-replaced"), "{events}");
            Ok(())
        })
        .await?;
        lab.wait_well("dev", 1, LIMIT).await?;
        let mine = lab.exec("dev-0", &["cat", "/mine"]).await?.ok()?;
        ensure!(mine.trim() == "again", "it has {mine}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn systemd_boots_and_does_what_it_is_told_from_inside() -> Result<()> {
    const BOX: &str = "
workloads:
  box:
    image: debian
    machine: true
    init: systemd
    resources: {memory: 512Mi, pids: 500}
    update: {monitor: 1s}
";
    let config = LabConfig::new("systemd").hosts(1).images(&[Image::Debian]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply(BOX).await?.ok()?;
        lab.wait_well("box", 1, LIMIT).await?;
        is_up(lab).await?;
        // Services, timers, the journal, and users whose programs go on.
        let script = "set -e; systemctl is-active cron dbus systemd-journald systemd-logind; systemctl enable --now cron; \
            systemd-run --on-active=1 touch /root/timer; useradd -m ada; loginctl enable-linger ada; \
            journalctl -n 1 --no-pager | grep -q .; \
            printf '[Service]\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' > /etc/systemd/system/own.service; \
            systemctl enable --now own";
        lab.exec("box-0", &["sh", "-c", script]).await?.ok()?;
        wait_until("the timer to fire", LIMIT, async || {
            lab.exec("box-0", &["test", "-e", "/root/timer"]).await?.ok().map(drop)
        })
        .await?;
        its_limits_are_not_its_own(lab).await.context("limits")?;

        let before = row_of(lab, "box").await?;
        lab.exec("box-0", &["systemctl", "reboot"]).await?.ok()?;
        has_another_run(lab, &before).await?;
        is_up(lab).await?;
        lab.exec("box-0", &["systemctl", "is-active", "own"]).await?.ok()?;
        wait_until("ada's own systemd", LIMIT, async || {
            lab.exec("box-0", &["systemctl", "is-active", "user@1000"]).await?.ok().map(drop)
        })
        .await?;

        lab.exec("box-0", &["systemctl", "poweroff"]).await?.ok()?;
        let is_off = async || {
            let row = row_of(lab, "box").await?;
            ensure!(row.phase == Phase::Stopped && row.message.contains("from inside"), "{row:?}");
            Ok(())
        };
        wait_until("it to be off", LIMIT, is_off).await?;
        // It stays off, also when the agent, Docker or the host has been away.
        lab.host(1).stop_agent(Signal::SIGKILL).await?;
        lab.host(1).start_agent().await?;
        lab.host(1).reboot().await?;
        wait_until("it to be off still", LIMIT, is_off).await?;
        lab.cli(&["start", "box-0", "--wait"]).await?.ok()?;
        is_up(lab).await?;
        lab.exec("box-0", &["systemctl", "is-active", "own"]).await?.ok()?;

        // To be stopped from outside takes no more than systemd needs.
        lab.cli(&["stop", "box-0", "--wait"]).await?.ok()?;
        let container = row_of(lab, "box").await?.container_id;
        let code = docker(lab.host(1), &["inspect", "-f", "{{.State.ExitCode}}", &container]).await?;
        ensure!(code.trim() == "130", "it was killed, or did not shut down: {code}");
        Ok(())
    })
    .await
}

/// What it may write of its control groups does not lift its limits.
async fn its_limits_are_not_its_own(lab: &Lab) -> Result<()> {
    let script = "cd /sys/fs/cgroup; for it in memory.max pids.max cpu.max; do \
        if test -e $it; then echo max > $it && echo $it is writable; fi; done; \
        find / -xdev -name memory.limit_in_bytes 2>/dev/null; mount -t cgroup -o memory none /mnt && echo mounted; \
        echo 0 > /sys/fs/cgroup/cgroup.freeze; cat /proc/1/cgroup | grep -v '^[1-9]'";
    let said = lab.exec("box-0", &["sh", "-c", script]).await?.stdout;
    ensure!(said.trim() == "0::/init.scope", "it may do more than it should: {said}");
    Ok(())
}

async fn is_up(lab: &Lab) -> Result<()> {
    wait_until("systemd to be up", LIMIT, async || {
        let state = lab.exec("box-0", &["systemctl", "is-system-running"]).await?;
        let failed = lab.exec("box-0", &["systemctl", "--failed", "--no-legend"]).await?.stdout;
        ensure!(
            state.stdout.trim() == "running",
            "it is {}, and failed are {failed}",
            state.stdout
        );
        Ok(())
    })
    .await
}

/// The declaration with another value of its variable.
fn edition(number: u32) -> String {
    DEV.replace("EDITION: '1'", &format!("EDITION: '{number}'"))
}

async fn look(lab: &Lab) -> Result<String> {
    lab.exec("dev-0", &["sh", "-c", LOOK]).await?.ok()
}

/// Makes an image of another one with a change.
async fn make_image(host: &Host, name: &str, change: &str) -> Result<()> {
    let run = ["run", "--name", "maker", "--network", "none", "debian", "sh", "-c", change];
    docker(host, &run).await?;
    docker(host, &["commit", "-c", "CMD [\"bash\"]", "maker", name]).await?;
    docker(host, &["rm", "maker"]).await.map(drop)
}

async fn docker(host: &Host, args: &[&str]) -> Result<String> {
    let socket = format!("unix://{}", host.docker_socket().display());
    host.exec(&[&["docker", "-H", &socket], args].concat()).await?.ok()
}

async fn row(lab: &Lab) -> Result<InstanceRow> {
    row_of(lab, "dev").await
}

async fn row_of(lab: &Lab, workload: &str) -> Result<InstanceRow> {
    lab.ps().await?.of(workload).pop().context("there is no instance")
}

/// Waits until the main process of an instance is another one than before.
async fn has_another_run(lab: &Lab, before: &InstanceRow) -> Result<()> {
    wait_until("another run", LIMIT, async || {
        let now = row_of(lab, &before.workload).await?;
        ensure!(now.is_well() && now.started_at != before.started_at, "{now:?}");
        Ok(())
    })
    .await
}

async fn home(lab: &Lab) -> Result<&Host> {
    let node = row(lab).await?.node;
    lab.hosts().iter().find(|host| host.name() == node).context("it is on no host")
}

fn other<'a>(lab: &'a Lab, host: &Host) -> Result<&'a Host> {
    lab.hosts().iter().find(|other| other.name() != host.name()).context("there is one host")
}
