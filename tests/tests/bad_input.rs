//! What makes no sense is refused clearly and changes nothing; what cannot be done yet says why, and is
//! done as soon as it can be.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use bollard::query_parameters::TagImageOptionsBuilder;
use dwell_core::instance::Phase;
use dwell_tests::lab::{
    Image, InstanceRow, Lab, LabConfig, ensure_untouched, hold_for, run, wait_until,
};
use nix::mount::{MsFlags, mount};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

/// Exit code for input that makes no sense.
const USAGE: i32 = 2;
/// Exit code for what cannot be done in this state.
const REFUSED: i32 = 4;

#[tokio::test]
async fn declarations_that_cannot_be() -> Result<()> {
    Lab::test(LabConfig::new("refused").images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(
            "workloads: {web: {image: hello, network: {ip: IP}}}"
                .replace("IP", &address(lab, 1, 77))
                .as_str(),
        )
        .await?
        .ok()?;
        let before = lab.wait_exactly("web", 1, LIMIT).await?;
        let controller = lab.controller().pid();
        for (manifest, code, words) in &refusals(lab) {
            let said = lab.apply(manifest).await?;
            let shown: String = manifest.chars().take(300).collect();
            let plain = said.stderr.chars().all(|c| c == '\n' || !c.is_control());
            ensure!(said.code() == *code && plain, "{shown}\nis answered with {said:?}");
            for word in *words {
                ensure!(said.stderr.contains(word), "{shown}\nno {word:?} in {}", said.stderr);
            }
        }
        let ps = lab.ps().await?;
        ensure!(
            ps.workloads.len() == 1 && ps.instances.len() == 1,
            "something was changed: {ps:#?}"
        );
        ensure!(lab.controller().pid() == controller, "the controller was restarted");
        ensure_untouched(&before, &lab.containers().await?)
    })
    .await
}

/// Manifests, the exit code they are refused with, and words that the message has.
fn refusals(lab: &Lab) -> Vec<(String, i32, &'static [&'static str])> {
    let taken = address(lab, 1, 77);
    let mut refusals: Vec<(String, i32, &[&str])> = vec![
        ("".into(), USAGE, &[]),
        ("workloads: [".into(), USAGE, &["1:"]),
        ("\u{0}\u{1}".into(), USAGE, &[]),
        ("workloads:\n  web:\n    imagee: hello\n".into(), USAGE, &[":3:", "imagee", "image"]),
        ("workloads:\n  a: {image: b}\n  a: {image: c}\n".into(), USAGE, &[":3:", "a"]),
        (
            "workloads: {good: {image: hello}, bad: {image: hello, replicas: -1}}".into(),
            USAGE,
            &["1:"],
        ),
        (anchor_bomb(), USAGE, &[]),
        ("[".repeat(100_000), USAGE, &[]),
        (format!("# {}", "x".repeat(2 << 20)), USAGE, &["larger"]),
        (of("network: {ip: 192.0.2.1}"), USAGE, &["192.0.2.1"]),
        (of("network: {ip: 10.0.0.0/33}"), USAGE, &["10.0.0.0/33"]),
        (of(&format!("network: {{ip: {taken}}}")), REFUSED, &["web-0"]),
    ];
    for name in ["Web_1", "../etc", "-rf", "wéb", "a.b", "\"a\\nb\"", "\"a\\0b\"", "\"\\u202ea\""]
    {
        refusals.push((format!("workloads: {{{name}: {{image: hello}}}}"), USAGE, &[]));
    }
    refusals.push((format!("workloads: {{{}: {{image: hello}}}}", "a".repeat(64)), USAGE, &[]));
    for (line, words) in [
        ("replicas: 1000000000", &["replicas"] as &[_]),
        ("resources: {memory: -5Mi}", &["-5Mi"]),
        ("resources: {memory: .nan}", &[]),
        ("resources: {memory: 1}", &["memory"]),
        ("resources: {cpu: 99999999999999999999999}", &[]),
        ("volumes: ['data:/proc/sys']", &["/proc/sys"]),
        ("volumes: ['../../etc:/mnt']", &[]),
        ("volumes: ['/srv/../etc:/mnt']", &[]),
        ("image: --privileged", &[]),
        ("privileged: true", &["privileged"]),
        ("labels: {dwell.instance: other-0}", &["dwell.instance"]),
        ("healthcheck: {tcp: 70000}", &[]),
    ] {
        let line = if line.starts_with("image:") { format!("{{{line}}}") } else { of_web(line) };
        refusals.push((format!("workloads: {{bad: {line}}}"), USAGE, words));
    }
    refusals
}

/// A workload with one more key.
fn of(line: &str) -> String {
    format!("workloads: {{bad: {}}}", of_web(line))
}

fn of_web(line: &str) -> String {
    format!("{{image: hello, {line}}}")
}

/// Nine levels of nine: a few hundred bytes that want to become 400 million.
fn anchor_bomb() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let nine = vec![format!("*a{}", level - 1); 9].join(", ");
        text += &format!("a{level}: &a{level} [{nine}]\n");
    }
    text
}

/// An address of the block of node `node`, as blocks are given out in order.
fn address(lab: &Lab, node: u8, last: u8) -> String {
    let cidr = lab.layout().cluster_cidr();
    let prefix = cidr.trim_end_matches(".0.0/16");
    format!("{prefix}.{node}.{last}")
}

#[tokio::test]
async fn what_fits_nowhere_waits_and_says_why() -> Result<()> {
    Lab::test(LabConfig::new("pending").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        for (line, words) in [
            ("resources: {cpu: 1000}", ["h1", "h2", "1000"]),
            ("resources: {memory: 1000Gi}", ["h1", "h2", "1000Gi"]),
            ("constraints: ['disk==ssd']", ["h1", "h2", "disk==ssd"]),
            ("pool: moon", ["h1", "h2", "moon"]),
        ] {
            lab.apply(&of(line)).await?.ok()?;
            let bad = one_with(lab, "bad", &words).await.context(line)?;
            ensure!(bad.phase == Phase::Pending && bad.node.is_empty(), "{bad:?}");
        }
        // The reason goes, and so does the instance.
        lab.cli(&["node", "label", "h2", "--pool", "moon"]).await?.ok()?;
        let containers = lab.wait_exactly("bad", 1, SOON).await?;
        ensure!(containers[0].host == "h2", "{containers:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_image_that_does_not_exist_yet() -> Result<()> {
    Lab::test(LabConfig::new("image").images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello}}").await?.ok()?;
        let others = lab.wait_exactly("web", 1, LIMIT).await?;
        let agent = lab.host(1).agent().pid();
        lab.apply("workloads: {bad: {image: 'localhost:9/late:1'}}").await?.ok()?;
        one_with(lab, "bad", &["localhost:9/late:1"]).await?;
        let tag = TagImageOptionsBuilder::default().repo("localhost:9/late").tag("1").build();
        lab.host(1).docker()?.tag_image(Image::Hello.name(), Some(tag)).await?;
        lab.wait_exactly("bad", 1, LIMIT).await?;
        ensure!(lab.host(1).agent().pid() == agent, "the agent was restarted");
        ensure_untouched(&others, &lab.containers().await?)
    })
    .await
}

#[tokio::test]
async fn only_allowed_paths_are_mounted() -> Result<()> {
    Lab::test(LabConfig::new("binds").images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        let shared = lab.host(1).shared_dir();
        fs::create_dir(&shared)?;
        symlink("/etc", shared.join("way-out"))?;
        for path in [PathBuf::from("/etc"), shared.join("way-out"), lab.host(1).docker_socket()] {
            let path = path.to_str().context("it is not UTF-8")?;
            lab.apply(&of(&format!("volumes: ['{path}:/mnt']"))).await?.ok()?;
            one_with(lab, "bad", &[path]).await?;
            // Not even for an instant.
            let containers = lab.containers().await?;
            ensure!(containers.iter().all(|one| one.pid.is_none()), "it runs: {containers:?}");
        }
        fs::write(shared.join("given"), "by the operator")?;
        lab.apply(&of(&format!("volumes: ['{}:/mnt:ro']", shared.display()))).await?.ok()?;
        lab.wait_exactly("bad", 1, LIMIT).await?;
        let given = lab.exec("bad-0", &["cat", "/mnt/given"]).await?.ok()?;
        ensure!(given == "by the operator", "inside is {given:?}");
        let written = lab.exec("bad-0", &["touch", "/mnt/taken"]).await?;
        ensure!(written.code() == 1, "it can write where it may only read: {written:?}");
        Ok(())
    })
    .await
}

/// Waits until the one instance of `workload` says all `words`, and does not run.
async fn one_with(lab: &Lab, workload: &str, words: &[&str]) -> Result<InstanceRow> {
    wait_until("the reason to be told", SOON, async || {
        let instances = lab.ps().await?.of(workload);
        let [instance] = instances.try_into().ok().context("there is not one of it")?;
        let all = words.iter().all(|word| instance.message.contains(word));
        ensure!(all && instance.phase != Phase::Running, "{instance:?}");
        Ok(instance)
    })
    .await
}

/// The controller's disk in this test, in bytes.
const DISK: usize = 8 << 20;

#[tokio::test]
async fn a_full_disk_at_the_controllers_store() -> Result<()> {
    Lab::test(LabConfig::new("full").images(&[Image::Hello]), async |lab| {
        // A disk of its own, small enough to fill; it goes with the lab.
        let disk = lab.layout().dir().join("controller");
        fs::create_dir(&disk)?;
        let options = format!("size={DISK},mode=0700");
        mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some(&*options))?;
        lab.start_fleet().await?;
        lab.apply("workloads: {web: {image: hello}}").await?.ok()?;
        let before = lab.wait_exactly("web", 1, LIMIT).await?;

        let rest = disk.join("rest");
        let full = run("dd", &["if=/dev/zero", &format!("of={}", rest.display())]).await?;
        ensure!(full.stderr.contains("No space left"), "the disk is not full: {full:?}");
        // What is there of files already may have room for a little more.
        let mut taken = 0;
        let refused = wait_until("a declaration to be refused", SOON, async || {
            let text = "x".repeat(30_000);
            let declared = format!(
                "workloads: {{more-{taken}: {{image: hello, replicas: 0, \
                 environment: {{A: {text}, B: {text}, C: {text}}}}}}}"
            );
            let said = lab.apply(&declared).await?;
            taken += usize::from(said.status.success());
            ensure!(!said.status.success(), "{taken} were taken");
            Ok(said)
        })
        .await?;
        ensure!(refused.code() == 5 || refused.code() == REFUSED, "{refused:?}");
        ensure!(refused.stderr.contains("nothing was changed"), "{refused:?}");
        let half_done = || async {
            let workloads = lab.ps().await?.workloads;
            ensure!(workloads.len() == taken + 1, "{taken} were taken; there are {workloads:#?}");
            ensure_untouched(&before, &lab.containers().await?)
        };
        hold_for("peace on a full disk", Duration::from_secs(3), async || half_done().await)
            .await?;

        fs::remove_file(rest)?;
        wait_until("declarations to be taken again", SOON, async || {
            lab.apply("workloads: {late: {image: hello}}").await?.ok()
        })
        .await?;
        lab.wait_exactly("late", 1, LIMIT).await?;
        ensure_untouched(&before, &lab.containers().await?)
    })
    .await
}
