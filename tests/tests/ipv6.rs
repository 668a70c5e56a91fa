//! IPv6 beside IPv4: it comes to instances that run, and is the same to everybody as IPv4 is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dwell_core::net::Ipv6Range;
use dwell_tests::lab::{
    Host, Image, InstanceRow, Lab, LabConfig, Signal, ensure_untouched, wait_until,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(120);
const PREFIX: &str = "fd00:5::/64";

/// The image's own program listens by IPv4 only.
const SERVE: &str = "[sh, -c, \"trap 'exit 0' TERM; httpd -f -p '[::]:8080' -h /www & wait $!\"]";

fn manifest(key: &str, allow_from: &str) -> String {
    format!(
        "
workloads:
  db:
    image: hello
    command: {SERVE}
    network: {{allow_from: {allow_from}}}
    healthcheck: {{http: ':8080/', interval: 1s}}
  other:
    image: hello
    command: {SERVE}
  web:
    image: hello
    command: {SERVE}
    replicas: 2
    healthcheck: {{http: ':8080/', interval: 1s}}
    ssh: {{authorized_keys: ['{key}']}}
"
    )
}

#[tokio::test]
async fn instances_have_ipv6_beside_ipv4() -> Result<()> {
    Lab::test(LabConfig::new("ipv6").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        let key = lab.ssh_public_key().await?;
        lab.apply(&manifest(&key, "[web]")).await?.ok()?;
        let web = lab.wait_well("web", 2, LIMIT).await?;
        let db = lab.wait_well("db", 1, LIMIT).await?.swap_remove(0);
        lab.wait_well("other", 1, LIMIT).await?;
        ensure!(web[0].node != web[1].node, "they are on one node");
        let without = lab.exec("web-0", &["ip", "-6", "address"]).await?.ok()?;
        ensure!(without.trim().is_empty(), "there is no prefix, and {without}");

        let before = lab.containers().await?;
        lab.set_controller(&json!({"ipv6_prefix": PREFIX}))?;
        lab.stop_controller(Signal::SIGTERM).await?;
        lab.start_controller().await?;
        wait_until("the running instances to have IPv6", SOON, async || {
            for row in lab.ps().await?.instances {
                ensure!(has_ipv6(lab, &row).await?, "{} has none", row.name);
            }
            Ok(())
        })
        .await?;
        ensure_untouched(&before, &lab.containers().await?)?;

        only_the_allowed(lab, &db, &["web-0", "web-1"]).await.context("isolation")?;
        everybody_reaches(lab, &web).await.context("reaching")?;
        nobody_borrows(lab, &web, &db).await.context("spoofing")?;
        let found = lab.audit(false).await?;
        ensure!(found.is_empty(), "{found:#?}");

        lab.apply(&manifest(&key, "[]")).await?.ok()?;
        only_the_allowed(lab, &db, &[]).await.context("nobody")?;
        lab.apply(&manifest(&key, "[other]")).await?.ok()?;
        only_the_allowed(lab, &db, &["other-0"]).await.context("another")?;

        let changed = manifest(&key, "[other]").replace("interval: 1s", "interval: 2s");
        let replaced =
            changed.replace("    replicas: 2", "    environment: {N: '1'}\n    replicas: 2");
        lab.cli_with(&["apply", "--wait", "-f", "-"], &replaced, LIMIT).await?.ok()?;
        let after = lab.wait_well("web", 2, LIMIT).await?;
        ensure!(after[0].container_id != web[0].container_id, "it is the container of before");
        everybody_reaches(lab, &after).await.context("after a replacement")?;

        lab.cli(&["node", "drain", &web[1].node, "--wait"]).await?.ok()?;
        let moved = lab.wait_well("web", 2, LIMIT).await?;
        ensure!(moved[1].node != web[1].node && moved[1].address == web[1].address, "{moved:#?}");
        everybody_reaches(lab, &moved).await.context("after a move")?;
        let db = lab.wait_well("db", 1, LIMIT).await?.swap_remove(0);
        only_the_allowed(lab, &db, &["other-0"]).await.context("isolation after a move")
    })
    .await
}

/// Restarts of each program leave it as it is, and so does a boot; it goes the other way through the overlay, and goes
/// altogether with its prefix.
#[tokio::test]
async fn the_second_address_stays_as_long_as_the_prefix_does() -> Result<()> {
    let config = LabConfig::new("ipv6-stays").hosts(2).live_restore(true).images(&[Image::Hello]);
    Lab::test(config, async |lab| {
        lab.set_controller(&json!({"ipv6_prefix": PREFIX}))?;
        lab.start_fleet().await?;
        lab.route_machine().await?;
        let key = lab.ssh_public_key().await?;
        lab.apply(&manifest(&key, "[web]")).await?.ok()?;
        let web = lab.wait_well("web", 2, LIMIT).await?;
        let db = lab.wait_well("db", 1, LIMIT).await?.swap_remove(0);
        lab.wait_well("other", 1, LIMIT).await?;
        let allowed = ["web-0", "web-1"];
        everybody_reaches(lab, &web).await?;
        only_the_allowed(lab, &db, &allowed).await?;
        for host in lab.hosts() {
            let said = host.run_agent(&["doctor", "-o", "json"]).await?.stdout;
            let found: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
            let list = found.as_array().or_else(|| found["findings"].as_array());
            let of_ipv6 = list.into_iter().flatten().find(|one| one["check"] == "ipv6");
            ensure!(of_ipv6.is_some_and(|one| one["outcome"] == "ok"), "{said}");
        }
        let before = lab.containers().await?;

        let host = host_of(lab, &web[0])?;
        host.stop_agent(Signal::SIGKILL).await?;
        ensure!(speaks(lab, &web[0], &web[1]).await?, "without an agent");
        host.start_agent().await?;
        only_the_allowed(lab, &db, &allowed).await.context("after the agent's restart")?;
        host.stop_docker(Signal::SIGTERM).await?;
        ensure!(speaks(lab, &web[0], &web[1]).await?, "without Docker");
        host.start_docker().await?;
        only_the_allowed(lab, &db, &allowed).await.context("after Docker's restart")?;
        everybody_reaches(lab, &web).await.context("after restarts")?;
        ensure_untouched(&before, &lab.containers().await?)?;

        host.reboot().await?;
        let web = lab.wait_well("web", 2, LIMIT).await?;
        let db = lab.wait_well("db", 1, LIMIT).await?.swap_remove(0);
        everybody_reaches(lab, &web).await.context("after a boot")?;
        only_the_allowed(lab, &db, &allowed).await.context("after a boot")?;

        for host in lab.hosts() {
            host.set_agent(&json!({"overlay": "always"}))?;
            host.stop_agent(Signal::SIGTERM).await?;
            host.start_agent().await?;
        }
        wait_until("routes of IPv6 through the overlay", SOON, async || {
            for host in lab.hosts() {
                let said = host.exec(&["ip", "nexthop"]).await?.ok()?;
                let through = said.lines().filter(|line| line.contains("via fe80:"));
                ensure!(through.clone().count() == 1, "{said}");
                ensure!(through.clone().all(|line| line.contains("dwell-vxlan")), "{said}");
            }
            Ok(())
        })
        .await?;
        everybody_reaches(lab, &web).await.context("through the overlay")?;
        only_the_allowed(lab, &db, &allowed).await.context("through the overlay")?;
        wait_for_a_clean_audit(lab).await?;

        let before = lab.containers().await?;
        lab.set_controller(&json!({}))?;
        lab.stop_controller(Signal::SIGTERM).await?;
        lab.start_controller().await?;
        wait_until("IPv6 to be gone", SOON, async || {
            for row in lab.ps().await?.instances {
                let said = lab.exec(&row.name, &["ip", "-6", "address"]).await?.ok()?;
                ensure!(said.trim().is_empty(), "{}: {said}", row.name);
            }
            for host in lab.hosts() {
                let left = "ip -6 route show proto 157; ip nexthop | grep fe80:; ip -6 address | grep -i 6477:6c6c; \
                            nft list table inet dwell | grep '^[[:space:]].*ip6 '";
                let said = host.exec(&["sh", "-c", left]).await?.stdout;
                ensure!(said.trim().is_empty(), "{}: {said}", host.name());
            }
            Ok(())
        })
        .await?;
        ensure_untouched(&before, &lab.containers().await?)?;
        for to in &web {
            let address = SocketAddr::new(to.address.parse()?, 8080);
            ensure!(reaches(lab, "web-0", address.ip()).await?, "{address} is not reached");
        }
        let ask = ["nslookup", "-type=aaaa", "web-0.dwell", "169.254.1.1"];
        let said = lab.exec("web-1", &ask).await?;
        ensure!(!said.stdout.contains("fd00:5:"), "{said:?}");
        wait_for_a_clean_audit(lab).await
    })
    .await
}

async fn wait_for_a_clean_audit(lab: &Lab) -> Result<()> {
    wait_until("an audit without findings", SOON, async || {
        let found = lab.audit(false).await?;
        ensure!(found.is_empty(), "{found:#?}");
        Ok(())
    })
    .await
}

/// Whether one gets an answer of the other although its node may have no agent, and no engine.
async fn speaks(lab: &Lab, from: &InstanceRow, to: &InstanceRow) -> Result<bool> {
    let host = host_of(lab, from)?;
    let netns = format!("--net={}", host.sandbox(&from.name).display());
    let url = format!("http://{}/", SocketAddr::from((six(to)?, 8080)));
    let said = host.exec(&["nsenter", &netns, "curl", "-sS", "-m", "2", &url]).await?;
    Ok(said.code() == 0)
}

fn six(row: &InstanceRow) -> Result<IpAddr> {
    let address: Ipv4Addr = row.address.parse()?;
    Ok(PREFIX.parse::<Ipv6Range>()?.address(address).into())
}

async fn has_ipv6(lab: &Lab, row: &InstanceRow) -> Result<bool> {
    let said = lab.exec(&row.name, &["ip", "-6", "address", "show", "dev", "eth0"]).await?.ok()?;
    Ok(said.contains(&six(row)?.to_string()))
}

fn host_of<'a>(lab: &'a Lab, row: &InstanceRow) -> Result<&'a Host> {
    lab.hosts().iter().find(|host| host.name() == row.node).context("it is on no host of the lab")
}

/// Whether `from` gets an answer of an instance at an address of it.
async fn reaches(lab: &Lab, from: &str, to: IpAddr) -> Result<bool> {
    let url = format!("http://{}/", SocketAddr::from((to, 8080)));
    let said = lab.exec(from, &["timeout", "2", "wget", "-q", "-O", "-", &url]).await?;
    Ok(said.code() == 0)
}

/// These and no others reach the instance, by either protocol.
async fn only_the_allowed(lab: &Lab, to: &InstanceRow, allowed: &[&str]) -> Result<()> {
    let addresses = [to.address.parse()?, six(to)?];
    wait_until(&format!("{allowed:?} and nobody else to be let in"), SOON, async || {
        for from in ["web-0", "web-1", "other-0"] {
            for address in addresses {
                let expected = allowed.contains(&from);
                let found = reaches(lab, from, address).await?;
                ensure!(found == expected, "{from} reaches {address}: {found}");
            }
        }
        Ok(())
    })
    .await
}

/// By address from every instance and every host, by name, and by SSH.
async fn everybody_reaches(lab: &Lab, rows: &[InstanceRow]) -> Result<()> {
    for to in rows {
        let address = six(to)?;
        wait_until(&format!("{address} to be reached"), SOON, async || {
            for from in rows {
                ensure!(reaches(lab, &from.name, address).await?, "not from {}", from.name);
                let ping = ["ping", "-c", "1", "-W", "2", &address.to_string()];
                lab.exec(&from.name, &ping).await?.ok()?;
                let name = format!("{}.dwell", to.name);
                let ask = ["nslookup", "-type=aaaa", &name, "169.254.1.1"];
                let said = lab.exec(&from.name, &ask).await?.ok()?;
                ensure!(said.contains(&address.to_string()), "{said}");
            }
            for host in lab.hosts() {
                let said = host.get((address, 8080).into()).await?;
                ensure!(said.contains(&to.name), "another answers: {said}");
                let said = host.exec(&with_hostname(lab, address)).await?.ok()?;
                ensure!(said.trim() == to.name, "{said}");
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn with_hostname(lab: &Lab, address: IpAddr) -> Vec<String> {
    let mut ssh = lab.ssh_command(address);
    ssh.push("hostname".to_owned());
    ssh
}

/// An instance that gives itself the address of one that is let in is not believed.
async fn nobody_borrows(lab: &Lab, web: &[InstanceRow], db: &InstanceRow) -> Result<()> {
    let Some(thief) = lab.ps().await?.of("other").into_iter().next() else { bail!("it is gone") };
    let (host, borrowed, target) = (host_of(lab, &thief)?, six(&web[0])?, six(db)?);
    let netns = format!("--net={}", host.sandbox(&thief.name).display());
    let inside = async |words: &str| {
        let words: Vec<_> = ["nsenter", &netns].into_iter().chain(words.split(' ')).collect();
        host.exec(&words).await
    };
    inside(&format!("ip -6 address add {borrowed}/128 dev eth0 nodad")).await?.ok()?;
    let said = inside(&format!("busybox ping6 -c 2 -W 1 -I {borrowed} {target}")).await?;
    ensure!(said.code() != 0 && said.stdout.contains("0 packets received"), "{said:?}");
    inside(&format!("ip -6 address del {borrowed}/128 dev eth0")).await?.ok()?;
    Ok(())
}
