//! The replacement of one running container by a new one: how long a client is not let in, and what the journal costs.
//!
//! Host 1 is a node; host 2 has a Docker engine, where the same container is recreated in the steps of
//! `docker compose up --force-recreate`, and which is a Swarm of one, where a service is updated. The client connects
//! to the instance's address, and to the ports that Docker and Swarm publish at the host's.

use std::{
    fs,
    net::SocketAddr,
    net::TcpStream,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use super::{
    plain::Plain,
    report::{self, Report, Samples, against},
    runner::Runner,
    swarm::Swarm,
};
use crate::lab::{Image, Lab, LabConfig, Signal};

const RUNS: usize = 5;
const LIMIT: Duration = Duration::from_secs(90);
/// How long one try to connect may take: what is lost on the way is not sent again before a second has passed.
const TRY_LIMIT: Duration = Duration::from_millis(10);
/// The same where none is to fail: what takes longer on a busy machine is no failure.
const START_FIRST_LIMIT: Duration = Duration::from_secs(1);
/// The pause after a try.
const PAUSE: Duration = Duration::from_millis(1);
/// For how long the client goes on when the replacement is said to be done.
const AFTERWARDS: Duration = Duration::from_millis(500);

const NAMES: [&str; 3] = ["replace-downtime", "start-first", "journal-cost"];
/// How many replacements the client of `start-first` goes through.
const SWAPS: usize = 1_000;

/// Runs those that are wanted.
pub(super) async fn run(runner: &Runner<'_>) {
    if runner.wants_any(&NAMES) {
        let config = LabConfig::new("benchrep").hosts(2).images(&[Image::Hello]);
        let ran = Lab::test(config, async |lab| {
            lab.start_nodes(&lab.hosts()[..1]).await?;
            lab.route_machine().await?;
            runner.take("replace-downtime", Box::pin(downtime(lab))).await;
            runner.take("start-first", Box::pin(start_first(lab))).await;
            runner.take("journal-cost", Box::pin(journal_cost(lab))).await;
            Ok(())
        });
        runner.note(&NAMES, Box::pin(ran).await);
    }
}

async fn apply(lab: &Lab, version: usize) -> Result<()> {
    apply_in(lab, "stop-first", version).await
}

async fn apply_in(lab: &Lab, order: &str, version: usize) -> Result<()> {
    let manifest = format!(
        "workloads:\n  web:\n    image: hello\n    environment: {{VERSION: '{version}'}}\n    \
         healthcheck: {{tcp: 8080, interval: 1s}}\n    update: {{order: {order}}}\n"
    );
    lab.cli_with(&["apply", "-f", "-", "--wait"], &manifest, LIMIT).await?.ok()?;
    Ok(())
}

async fn downtime(lab: &Lab) -> Result<[Report; 2]> {
    apply(lab, 0).await?;
    let ours = lab.wait_well("web", 1, LIMIT).await?.swap_remove(0).at(8080)?;
    let engine = lab.host(2);
    let at = |port: u16| SocketAddr::from((engine.address(), port));
    let plain = Plain::new(engine).await?;
    plain.recreate(18_080).await?;
    let swarm = Swarm::init(engine).await?;
    swarm.publish("web", 18_081).await?;
    let [mut recreated, mut updated] = [Samples::default(), Samples::default()];
    for turn in 0..=RUNS {
        let dwell = gap(ours, apply(lab, turn + 1)).await.context("dwell")?;
        let plain = gap(at(18_080), plain.recreate(18_080)).await.context("Docker")?;
        recreated.add(turn, dwell, plain);
        let swarm = gap(at(18_081), swarm.update("web")).await.context("Swarm")?;
        updated.add(turn, dwell, swarm);
    }
    Ok([
        against(recreated.report("replace-downtime", 0.5), "Compose"),
        against(updated.report("replace-downtime", 0.5), "Swarm"),
    ])
}

/// How often the client is not let in while one container after the other is started beside the one before.
async fn start_first(lab: &Lab) -> Result<[Report; 1]> {
    const FIRST: usize = 10_000;
    apply_in(lab, "start-first", FIRST).await?;
    let to = lab.wait_well("web", 1, LIMIT).await?.swap_remove(0).at(8080)?;
    let ends = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ends);
    let client = thread::spawn(move || {
        let [mut made, mut failed] = [0_u64; 2];
        while !told.load(Ordering::Relaxed) {
            made += 1;
            failed += u64::from(TcpStream::connect_timeout(&to, START_FIRST_LIMIT).is_err());
            thread::sleep(PAUSE);
        }
        [made, failed]
    });
    let swaps = async {
        for turn in 1..=SWAPS {
            apply_in(lab, "start-first", FIRST + turn).await.context(turn)?;
        }
        anyhow::Ok(())
    };
    let swapped = swaps.await;
    tokio::time::sleep(AFTERWARDS).await;
    ends.store(true, Ordering::Relaxed);
    let [made, failed] = client.join().map_err(|_| anyhow!("the client panicked"))?;
    swapped?;
    ensure!(made >= 10 * SWAPS as u64, "the client tried only {made} times");
    Ok([report::alone("start-first", "tries", vec![failed as f64], 0.0)])
}

/// The longest time between two connections of a client that connects every millisecond while `work` goes on.
async fn gap(to: SocketAddr, work: impl Future<Output = Result<()>>) -> Result<Duration> {
    let ends = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ends);
    let client = thread::spawn(move || {
        let (mut last, mut longest, mut count) = (Instant::now(), Duration::ZERO, 0_u32);
        while !told.load(Ordering::Relaxed) {
            if TcpStream::connect_timeout(&to, TRY_LIMIT).is_ok() {
                count += 1;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            thread::sleep(PAUSE);
        }
        (longest.max(last.elapsed()), count)
    });
    let worked = work.await;
    tokio::time::sleep(AFTERWARDS).await;
    ends.store(true, Ordering::Relaxed);
    let (longest, count) = client.join().map_err(|_| anyhow!("the client panicked"))?;
    worked?;
    ensure!(count >= 2, "the client got in only {count} times");
    Ok(longest)
}

/// From the agent's own log: how long its steps took that write the journal, for each replacement.
async fn journal_cost(lab: &Lab) -> Result<[Report; 1]> {
    let host = lab.host(1);
    host.set_agent(&json!({ "log": "info,dwell_agent_core=debug" }))?;
    host.stop_agent(Signal::SIGTERM).await?;
    host.start_agent().await?;
    apply(lab, 1_000).await?;
    let mut costs = Vec::new();
    for turn in 0..=RUNS {
        let before = fs::read_to_string(host.agent().log())?.len();
        apply(lab, 1_001 + turn).await?;
        // Counters and the like are written when there is nothing else to do.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let log = fs::read_to_string(host.agent().log())?;
        costs.push(journal_ms(log.get(before..).context("the log became shorter")?)?);
    }
    costs.remove(0);
    Ok([report::alone("journal-cost", "ms", costs, 2.0)])
}

/// How long the steps took in a log that wrote or removed the journal of web-0, in milliseconds.
fn journal_ms(log: &str) -> Result<f64> {
    let (mut begun, mut sum, mut count) = (None, 0.0, 0);
    for line in log.lines().filter(|line| line.contains("web-0")) {
        let is_journal = line.contains("step=Record(") || line.contains("step=Forget");
        if is_journal && line.contains("step begins") {
            begun = Some(time_ms(line)?);
        } else if is_journal && line.contains("step done") {
            let at = begun.take().context("a step ends that has not begun")?;
            sum += time_ms(line)? - at;
            count += 1;
        }
    }
    ensure!(count > 0, "the log tells of no journal");
    Ok(sum)
}

/// The time of day at which a line of a log was written, in milliseconds.
fn time_ms(line: &str) -> Result<f64> {
    let time = line.split_once('T').and_then(|(_, rest)| rest.split_once('Z'));
    let (time, _) = time.with_context(|| format!("no time in {line:?}"))?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut part = || parts.next().context("a part of the time is missing")?.context("no number");
    let (hours, minutes, seconds) = (part()?, part()?, part()?);
    Ok((hours * 3600.0 + minutes * 60.0 + seconds) * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_of_a_journal_are_added_up() {
        let log = "2026-11-26T10:00:00.001000Z DEBUG x: step begins instance=web-0 step=Record(Journal)\n\
                   2026-11-26T10:00:00.002500Z DEBUG x: step done instance=web-0 step=Record(Journal)\n\
                   2026-11-26T10:00:00.003000Z DEBUG x: step begins instance=web-0 step=Start\n\
                   2026-11-26T10:00:00.004000Z DEBUG x: step begins instance=web-0 step=Forget\n\
                   2026-11-26T10:00:00.004500Z DEBUG x: step done instance=web-0 step=Forget\n";
        assert!((journal_ms(log).unwrap() - 2.0).abs() < 1e-6);
        assert!(journal_ms("").is_err());
    }
}
