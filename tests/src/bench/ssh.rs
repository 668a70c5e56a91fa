//! Logging in to an instance: dwell-ssh on its port 22, OpenSSH's server in the same container on port 2222.
//!
//! The client is the same, with the same key and the same options, on both sides.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    FEW,
    report::{self, Report, Samples, against},
    runner::Runner,
};
use crate::lab::{Image, Lab, LabConfig, Person, wait_until};

/// How often a command is run on each side.
const COMMANDS: usize = 41;
/// How many idle instances share the memory that is measured.
const IDLE: usize = 50;
/// What is copied, in bytes.
const FILE: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(120);

/// Starts OpenSSH's server in an instance, for the key in `$1`.
const SSHD: &str = "
mkdir -p /run/sshd /root/.ssh && chmod 700 /root/.ssh && echo \"$1\" > /root/.ssh/authorized_keys
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/bench_key
/usr/sbin/sshd -f /dev/null -p 2222 -h /etc/ssh/bench_key -o UsePAM=no -o UseDNS=no -o Subsystem='sftp internal-sftp'
";

const NAMES: [&str; 3] = ["ssh-idle-memory", "ssh-exec", "sftp-throughput"];

/// Runs those that are wanted.
pub(super) async fn run(runner: &Runner<'_>) {
    if !runner.wants_any(&NAMES) {
        return;
    }
    let config = LabConfig::new("benchssh").images(&[Image::Tools, Image::Hello]);
    let ran = Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        runner.take("ssh-idle-memory", async { Ok([idle_memory(lab).await?]) }).await;
        if !runner.wants_any(&NAMES[1..]) {
            return Ok(());
        }
        let bench = Bench::start(lab).await?;
        let commands = async {
            let kept = bench.commands(true).await?.report("ssh-exec", 1.5);
            let new = bench.commands(false).await?.report("ssh-exec", 1.5);
            Ok([against(kept, "OpenSSH, kept"), against(new, "OpenSSH, new")])
        };
        runner.take("ssh-exec", commands).await;
        let copies = async {
            let [to, from] = bench.copies().await?;
            let to = to.rates("sftp-throughput", "GiB/s", 0.8);
            let from = from.rates("sftp-throughput", "GiB/s", 0.8);
            Ok([against(to, "OpenSSH, to"), against(from, "OpenSSH, from")])
        };
        runner.take("sftp-throughput", copies).await;
        Ok(())
    });
    runner.note(&NAMES, ran.await);
}

/// How much larger dwell-ssh is with idle instances than without any, for each of them.
async fn idle_memory(lab: &Lab) -> Result<Report> {
    let server = lab.host(1).ssh();
    let settled = async || -> Result<f64> {
        tokio::time::sleep(Duration::from_secs(5)).await;
        server.resident_mib()
    };
    let before = settled().await?;
    let manifest = format!("workloads:\n  idle:\n    image: hello\n    replicas: {IDLE}\n");
    lab.apply(&manifest).await?.ok()?;
    let rows = lab.wait_well("idle", IDLE, LIMIT).await?;
    for row in &rows {
        wait_until("every instance to listen", LIMIT, async || {
            lab.host(1).connect(row.at(22)?).await
        })
        .await?;
    }
    let grown = (settled().await? - before) * 1024.0 / f64::from(u32::try_from(IDLE)?);
    lab.cli(&["rm", "idle", "--wait"]).await?.ok()?;
    Ok(report::alone("ssh-idle-memory", "KiB", vec![grown], 64.0))
}

struct Bench {
    person: Person,
    address: String,
}

impl Bench {
    async fn start(lab: &Lab) -> Result<Self> {
        let key = lab.person("bench").await?.public_key()?;
        let manifest = format!(
            "workloads:\n  dev:\n    image: tools\n    ssh: {{authorized_keys: ['{key}']}}\n"
        );
        lab.apply(&manifest).await?.ok()?;
        let row = lab.wait_well("dev", 1, LIMIT).await?.swap_remove(0);
        lab.route_machine().await?;
        lab.exec("dev-0", &["sh", "-c", SSHD, "sh", &key]).await?.ok()?;
        let bench = Self { person: lab.person("bench").await?, address: row.address };
        for port in ["22", "2222"] {
            wait_until("both servers", LIMIT, async || bench.ssh(port, &[]).await).await?;
        }
        Ok(bench)
    }

    /// The options that choose a server.
    fn options(port: &str) -> [String; 4] {
        ["-o".into(), format!("Port={port}"), "-o".into(), "StrictHostKeyChecking=no".into()]
    }

    /// How long `ssh HOST true` takes.
    async fn ssh(&self, port: &str, more: &[String]) -> Result<Duration> {
        let target = format!("root@{}", self.address);
        let options = Self::options(port);
        let mut words: Vec<&str> = options.iter().chain(more).map(String::as_str).collect();
        words.extend([&*target, "true"]);
        let started = Instant::now();
        self.person.ssh(&words).await?.ok()?;
        Ok(started.elapsed())
    }

    /// The same on both sides in turns, over a connection of each that is kept, or over new ones.
    async fn commands(&self, kept: bool) -> Result<Samples> {
        let control = |port: &str| -> Vec<String> {
            let path = self.person.dir().join(format!("mux-{port}"));
            vec!["-o".into(), format!("ControlPath={}", path.display())]
        };
        let mut masters = Vec::new();
        if kept {
            for port in ["22", "2222"] {
                let target = format!("root@{}", self.address);
                let mut words = [Self::options(port).to_vec(), control(port)].concat();
                words.extend(["-M".into(), "-N".into(), target]);
                masters.push(self.person.command("ssh", &words).kill_on_drop(true).spawn()?);
                wait_until("the connection", LIMIT, async || {
                    let path = self.person.dir().join(format!("mux-{port}"));
                    ensure!(path.exists(), "there is no {}", path.display());
                    Ok(())
                })
                .await?;
            }
        }
        let mut samples = Samples::default();
        for turn in 0..=COMMANDS {
            let more = |port| if kept { control(port) } else { Vec::new() };
            let ours = self.ssh("22", &more("22")).await?;
            let other = self.ssh("2222", &more("2222")).await?;
            samples.add(turn, ours, other);
        }
        for mut master in masters {
            master.kill().await?;
        }
        Ok(samples)
    }

    /// A file to the instance and from it, on both sides in turns, in GiB per second.
    async fn copies(&self) -> Result<[Samples; 2]> {
        let path = self.person.dir().join("big");
        write_noise(&path)?;
        let [mut to, mut from] = [Samples::default(), Samples::default()];
        for turn in 0..=FEW {
            let mut rates = Vec::new();
            for port in ["22", "2222"] {
                rates.push(self.sftp(port, &format!("put {} /root/big\n", path.display())).await?);
                rates.push(self.sftp(port, "get /root/big /dev/null\n").await?);
            }
            to.add_values(turn, rates[0], rates[2]);
            from.add_values(turn, rates[1], rates[3]);
        }
        std::fs::remove_file(&path)?;
        Ok([to, from])
    }

    async fn sftp(&self, port: &str, script: &str) -> Result<f64> {
        let target = format!("root@{}", self.address);
        let options = Self::options(port);
        let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
        words.extend(["-q", "-b", "-", &target]);
        let started = Instant::now();
        self.person.run("sftp", &words, script).await?.ok()?;
        Ok(FILE as f64 / f64::from(1 << 30) / started.elapsed().as_secs_f64())
    }
}

/// Bytes that no compression makes smaller.
fn write_noise(path: &Path) -> Result<()> {
    let mut file =
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let (mut state, mut block) = (88_172_645_463_325_252_u64, vec![0_u8; 1 << 20]);
    for _ in 0..FILE >> 20 {
        for bytes in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.copy_from_slice(&state.to_ne_bytes());
        }
        file.write_all(&block)?;
    }
    Ok(())
}
