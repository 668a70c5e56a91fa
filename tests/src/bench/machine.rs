//! Machines: how soon one is there, and what its root costs.
//!
//! The peers are made of the same image on the same host: a container of Docker's with an SSH server of its own, and an instance whose
//! root file system is the container's.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    FEW,
    report::{self, Samples, against},
    runner::Runner,
};
use crate::lab::{Host, Image, Lab, LabConfig, wait_until};

/// How often each is made.
const BOOTS: usize = 7;
const LIMIT: Duration = Duration::from_secs(120);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);

const NAMES: [&str; 2] = ["machine-boot", "machine-io"];

/// A container with a server of its own, for the key in `$1`.
const SSHD: &str = "mkdir -p /run/sshd /root/.ssh; chmod 700 /root/.ssh; echo \"$1\" > /root/.ssh/authorized_keys; exec /usr/sbin/sshd -D";

/// Prints how long each takes, in seconds: 256 MiB in sequence and synced; 20,000 random blocks of 4 KiB of a file of 64 MiB, half of them
/// read and half written; a package installed and taken away five times.
const WORK: &str = r#"
set -e
cd /root
now() { perl -MTime::HiRes=time -e 'printf "%.6f\n", time'; }
begin=$(now); dd if=/dev/zero of=large bs=1M count=256 conv=fsync 2>/dev/null; end=$(now); echo "$begin $end"; rm large
dd if=/dev/zero of=file bs=1M count=64 conv=fsync 2>/dev/null
begin=$(now)
perl -e 'open F, "+<", "file" or die; srand 7; my $block = "x" x 4096;
  for (1 .. 20000) { seek F, 4096 * int(rand 16384), 0; if ($_ % 2) { read F, my $got, 4096 } else { print F $block } }
  use IO::Handle; F->flush; F->sync'
end=$(now); echo "$begin $end"; rm file
begin=$(now)
for turn in 1 2 3 4 5; do dpkg -i /packages/*.deb > /dev/null 2>&1; dpkg -P tree > /dev/null 2>&1; done
end=$(now); echo "$begin $end"
"#;

/// Runs those that are wanted.
pub(super) async fn run(runner: &Runner<'_>) {
    if !runner.wants_any(&NAMES) {
        return;
    }
    let config = LabConfig::new("benchmac").hosts(1).images(&[Image::Debian]);
    let ran = Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.cli_with(&["key", "add", "bench", "-"], &lab.ssh_public_key().await?, LIMIT)
            .await?
            .ok()?;
        let boots = async {
            let plain = boots(lab).await?.report("machine-boot", 1.0);
            let systemd = report::alone("machine-boot", "s", systemd_boots(lab).await?, 3.0);
            Ok([against(plain, "Docker and sshd"), against(systemd, "systemd, all of it")])
        };
        runner.take("machine-boot", boots).await;
        let work = async {
            let [sequence, random, install] = work(lab).await?;
            Ok([
                against(sequence.rates("machine-io", "MiB/s", 0.95), "in sequence"),
                against(random.rates("machine-io", "kIO/s", 0.95), "random"),
                against(install.rates("machine-io", "installs/s", 0.95), "packages"),
            ])
        };
        runner.take("machine-io", work).await;
        Ok(())
    });
    runner.note(&NAMES, ran.await);
}

/// From the order to a command that was run over SSH, on both sides in turns.
async fn boots(lab: &Lab) -> Result<Samples> {
    let host = lab.host(1);
    let key = lab.ssh_public_key().await?;
    let mut samples = Samples::default();
    for turn in 0..=BOOTS {
        let started = Instant::now();
        let run = ["run", "debian", "--name", "boot", "--machine", "--", "sleep", "infinity"];
        lab.cli(&run).await?.ok()?;
        prompt(lab, host, address(lab).await?, "true").await?;
        let ours = started.elapsed();
        remove(lab).await?;

        let started = Instant::now();
        let run = ["run", "-d", "--name", "boot", "debian", "sh", "-c", SSHD, "sh", &key];
        docker(host, &run).await?;
        let format = "{{.NetworkSettings.IPAddress}}";
        let address = docker(host, &["inspect", "-f", format, "boot"]).await?;
        prompt(lab, host, address.trim().parse()?, "true").await?;
        samples.add(turn, ours, started.elapsed());
        docker(host, &["rm", "-f", "boot"]).await?;
    }
    Ok(samples)
}

/// From the order until the systemd of a machine is up with all that it starts, in seconds.
async fn systemd_boots(lab: &Lab) -> Result<Vec<f64>> {
    const MANIFEST: &str =
        "workloads:\n  boot:\n    image: debian\n    machine: true\n    init: systemd\n";
    let mut times = Vec::new();
    for turn in 0..=BOOTS {
        let started = Instant::now();
        lab.apply(MANIFEST).await?.ok()?;
        let address = address(lab).await?;
        prompt(lab, lab.host(1), address, "systemctl is-system-running --wait").await?;
        if turn > 0 {
            times.push(started.elapsed().as_secs_f64());
        }
        remove(lab).await?;
    }
    Ok(times)
}

async fn address(lab: &Lab) -> Result<IpAddr> {
    wait_until("an address", LIMIT, async || {
        let row = lab.ps().await?.of("boot").pop().context("there is no instance")?;
        Ok(row.at(22)?.ip())
    })
    .await
}

async fn remove(lab: &Lab) -> Result<()> {
    lab.cli(&["rm", "boot", "--wait"]).await?.ok()?;
    lab.cli(&["volume", "rm", "boot-0", "root"]).await?.ok().map(drop)
}

/// Waits until a command is run over SSH.
async fn prompt(lab: &Lab, host: &Host, address: IpAddr, wanted: &str) -> Result<()> {
    let began = Instant::now();
    let mut command = lab.ssh_command(address);
    // What was at that address before had another host key. The first word for an option counts.
    for option in ["UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"] {
        command.splice(1..1, ["-o".to_owned(), option.to_owned()]);
    }
    command.push(wanted.to_owned());
    loop {
        let is_open = host.connect(SocketAddr::new(address, 22)).await.is_ok();
        if is_open && host.exec(&command).await?.status.success() {
            return Ok(());
        }
        ensure!(began.elapsed() < LIMIT, "nobody answers at {address}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a machine does with its root, and another instance with its container's, in turns: per second.
async fn work(lab: &Lab) -> Result<[Samples; 3]> {
    for (name, more) in [("own", &["--machine"][..]), ("plain", &[])] {
        let run = ["run", "debian", "--name", name];
        let run = [&run[..], more, &["--wait", "--", "sleep", "infinity"]].concat();
        lab.cli_with(&run, "", LIMIT).await?.ok()?;
    }
    let mut samples = [(); 3].map(|()| Samples::default());
    for turn in 0..=FEW {
        let (ours, other) = (one(lab, "own-0").await?, one(lab, "plain-0").await?);
        for (number, samples) in samples.iter_mut().enumerate() {
            let amount = [256.0, 20.0, 5.0][number];
            samples.add_values(turn, amount / ours[number], amount / other[number]);
        }
    }
    Ok(samples)
}

async fn one(lab: &Lab, instance: &str) -> Result<[f64; 3]> {
    let said = lab.cli_with(&["exec", instance, "--", "sh", "-c", WORK], "", LIMIT).await?.ok()?;
    let mut times = said.lines().map(|line| {
        let (begin, end) = line.split_once(' ').context("it prints no times")?;
        Ok(end.parse::<f64>()? - begin.parse::<f64>()?)
    });
    let mut next = || times.next().unwrap_or_else(|| anyhow::bail!("it printed {said}"));
    Ok([next()?, next()?, next()?])
}

async fn docker(host: &Host, args: &[&str]) -> Result<String> {
    let socket = format!("unix://{}", host.docker_socket().display());
    host.exec(&[&["docker", "-H", &socket], args].concat()).await?.ok()
}
