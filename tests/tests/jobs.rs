//! Workloads that run to completion, on real engines.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use dwell_core::instance::Phase;
use dwell_tests::lab::{Image, InstanceRow, Lab, LabConfig, Signal, finish, wait_until};
use serde_json::Value;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);

/// Its parts are done one after the other; the share of one is the node's whole processor time.
const GOOD: &str = "
workloads:
  good:
    image: hello
    replicas: 3
    job: {parallelism: 1}
    resources: {memory: 64Mi}
    command: [sh, -c, 'echo part $$DWELL_ORDINAL of $$HOSTNAME; sleep 0.2']
";

/// The first part fails once, the second always.
const BAD: &str = "
workloads:
  bad:
    image: hello
    replicas: 2
    job: {attempts: 2}
    command: [sh, -c, 'echo tried by $$DWELL_ORDINAL; test $$DWELL_ORDINAL = 1 && exit 3; test -e /once && exit 0; touch /once; exit 4']
";

/// It ends while no agent is there to see it.
const UNSEEN: &str = "
workloads:
  unseen:
    image: hello
    job: {attempts: 1}
    command: [sh, -c, 'sleep 3; echo done']
";

/// Due each minute. It does nothing before.
const TICKS: &str = "
workloads:
  ticks:
    image: hello
    job: {schedule: {cron: '* * * * *'}}
    command: [sh, -c, 'echo tick']
";

#[tokio::test]
async fn jobs_run_to_completion_and_not_again() -> Result<()> {
    Lab::test(LabConfig::new("jobs").hosts(1).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(TICKS).await?.ok()?;
        lab.apply(UNSEEN).await?.ok()?;
        wait_until("it to run", LIMIT, async || {
            let rows = lab.ps().await?.of("unseen");
            ensure!(rows.iter().any(|row| row.phase == Phase::Running), "{rows:?}");
            Ok(())
        })
        .await?;
        lab.host(1).stop_agent(Signal::SIGKILL).await?;
        one_after_the_other_is_declared(lab).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        lab.host(1).start_agent().await?;
        lab.cli(&["wait", "unseen"]).await?.ok()?;
        one_after_the_other_is_done(lab).await?;
        what_fails_is_tried_again_and_then_told(lab).await?;
        nothing_runs_again(lab).await?;
        what_is_run_once_leaves_nothing(lab).await?;
        what_is_due_is_done(lab).await
    })
    .await
}

async fn one_after_the_other_is_declared(lab: &Lab) -> Result<()> {
    let plan = lab.apply(GOOD).await?.ok()?;
    ensure!(plan.contains("good"), "{plan}");
    Ok(())
}

async fn one_after_the_other_is_done(lab: &Lab) -> Result<()> {
    let waited = lab.cli(&["wait", "good", "--timeout", "60s"]).await?;
    ensure!(waited.code() == 0, "{waited:?}");
    ensure!(waited.stderr.contains("good: 3 of 3 completed"), "{waited:?}");
    let inspected: Value = lab.cli(&["inspect", "good", "-o", "json"]).await?.json()?;
    ensure!(inspected["workload"]["job"]["completed"] == 3, "{inspected}");
    ensure!(inspected["instances"][2]["task"]["exit_code"] == 0, "{inspected}");
    for name in ["good-0", "good-1", "good-2"] {
        let printed = lab.cli(&["logs", name]).await?.ok()?;
        let ordinal = &name[5..];
        ensure!(printed.trim() == format!("part {ordinal} of {name}"), "{printed}");
    }
    // By the engine's clock none began before the one before it had ended.
    let runs = runs_of(lab, "good").await?;
    ensure!(runs.windows(2).all(|two| two[0].1 <= two[1].0), "{runs:?}");
    let node: Value =
        lab.cli(&["node", "inspect", &lab.host(1).name(), "-o", "json"]).await?.json()?;
    ensure!(
        node.to_string().contains(r#""allocated":{"cpu_millicores":0,"memory_bytes":0"#),
        "{node}"
    );
    Ok(())
}

/// When each container of a workload was started and had ended, in that order, as text that sorts.
async fn runs_of(lab: &Lab, workload: &str) -> Result<Vec<(String, String)>> {
    let docker = lab.host(1).docker()?;
    let mut runs = Vec::new();
    for row in lab.ps().await?.of(workload) {
        let state = docker.inspect_container(&row.container_id, None).await?.state;
        let state = state.unwrap_or_default();
        runs.push((state.started_at.unwrap_or_default(), state.finished_at.unwrap_or_default()));
    }
    runs.sort();
    Ok(runs)
}

async fn what_fails_is_tried_again_and_then_told(lab: &Lab) -> Result<()> {
    lab.apply(BAD).await?.ok()?;
    let waited = lab.cli(&["wait", "bad", "--timeout", "60s"]).await?;
    ensure!(waited.code() == 1, "{waited:?}");
    for word in ["bad-1 failed at each of its 2 attempts", "exit code 3", "tried by 1"] {
        ensure!(waited.stderr.contains(word), "{word}: {waited:?}");
    }
    lab.cli(&["wait", "bad-0"]).await?.ok()?;
    let shown = lab.cli(&["ps", "bad"]).await?.ok()?;
    for word in ["1/2 completed, 1 failed", "failed (3)"] {
        ensure!(shown.contains(word), "{word}: {shown}");
    }
    let explained = lab.cli(&["explain", "bad-1"]).await?.ok()?;
    ensure!(explained.contains("is not tried again"), "{explained}");
    let started = lab.cli(&["start", "bad-1"]).await?;
    ensure!(started.stderr.contains("`dwell replace bad-1`"), "{started:?}");
    Ok(())
}

/// A new agent, and a new controller, start nothing; nor does a container that is gone.
async fn nothing_runs_again(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let before: BTreeSet<_> = runs_of(lab, "good").await?.into_iter().collect();
    host.stop_agent(Signal::SIGKILL).await?;
    lab.stop_controller(Signal::SIGKILL).await?;
    lab.start_controller().await?;
    host.start_agent().await?;
    wait_until("the agent to say what it finds", LIMIT, async || {
        let rows = lab.ps().await?.of("good");
        // That they have completed the controller knows by itself.
        let is_seen = |row: &InstanceRow| !row.container_id.is_empty();
        let are_well = rows.iter().all(|row| row.phase == Phase::Completed && is_seen(row));
        ensure!(are_well, "{rows:?}");
        let nodes = lab.nodes().await?.nodes;
        ensure!(nodes.iter().all(|node| node.message.is_empty()), "{nodes:?}");
        Ok(())
    })
    .await?;
    let after: BTreeSet<_> = runs_of(lab, "good").await?.into_iter().collect();
    ensure!(before == after, "{before:?} {after:?}");
    let status = lab.cli(&["status"]).await?;
    ensure!(!status.stdout.contains("good-"), "what has completed is no finding: {status:?}");
    lab.cli(&["replace", "good-1", "--wait"]).await?.ok()?;
    lab.cli(&["wait", "good"]).await?.ok()?;
    Ok(())
}

async fn what_is_run_once_leaves_nothing(lab: &Lab) -> Result<()> {
    let ran = lab.cli(&["run", "--rm", "hello", "--", "sh", "-c", "echo said; exit 3"]).await?;
    ensure!(ran.code() == 3 && ran.stdout == "said\n", "{ran:?}");
    let read = ["run", "--rm", "-i", "hello", "--", "sh", "-c", "echo $((1 + 1)); cat; exit 4"];
    let ran = lab.cli_with(&read, "typed\n", LIMIT).await?;
    ensure!(ran.code() == 4 && ran.stdout == "2\ntyped\n", "{ran:?}");
    on_a_terminal(lab).await?;
    let ran = lab.cli(&["run", "--rm", "--name", "one", "hello", "--", "true"]).await?;
    ensure!(ran.code() == 0 && ran.stdout.is_empty(), "{ran:?}");
    wait_until("what was run once to be gone", LIMIT, async || {
        let shown = lab.cli(&["ps"]).await?.ok()?;
        ensure!(!shown.contains("one-0") && !shown.contains("run-"), "{shown}");
        Ok(())
    })
    .await
}

/// What is typed before there is anybody to read it arrives, and a prompt, which is no whole line, is shown.
async fn on_a_terminal(lab: &Lab) -> Result<()> {
    let asks = "printf 'name? '; read name; echo hello $name; test -t 0 && exit 5";
    let run = lab.cli_command(&["run", "--rm", "-it", "hello", "--", "sh", "-c"])?;
    let run = run.as_std();
    let words: Vec<_> = std::iter::once(run.get_program()).chain(run.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let line = format!("{} \"{}\"", words.join(" "), asks.replace('$', "\\$"));
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    terminal.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = finish(terminal, "you\n").await?;
    ensure!(ran.code() == 5, "{ran:?}");
    ensure!(ran.stdout.contains("name? ") && ran.stdout.contains("hello you\r\n"), "{ran:?}");
    Ok(())
}

/// It was declared before all else. A controller that was killed meanwhile goes on counting.
async fn what_is_due_is_done(lab: &Lab) -> Result<()> {
    wait_until("it to be due", Duration::from_secs(75), async || {
        let inspected: Value = lab.cli(&["inspect", "ticks", "-o", "json"]).await?.json()?;
        let runs = inspected["workload"]["job"]["runs"].as_array().cloned().unwrap_or_default();
        ensure!(runs.iter().any(|run| run["outcome"] == "completed"), "{inspected}");
        Ok(())
    })
    .await?;
    let printed = lab.cli(&["logs", "ticks-0"]).await?.ok()?;
    ensure!(printed.contains("tick"), "{printed}");
    Ok(())
}
