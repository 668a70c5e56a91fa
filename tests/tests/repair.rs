//! What others break in a node's network is mended, and no container is touched for it.

use std::time::Duration;

use anyhow::{Result, ensure};
use dwell_tests::lab::{Host, Image, Lab, LabConfig, ensure_untouched, wait_until};

const LIMIT: Duration = Duration::from_secs(90);
/// Far below the minute after which everything is looked at although nothing was told.
const SOON: Duration = Duration::from_secs(10);

const PAIR: &str = "
workloads:
  web:
    image: hello
    replicas: 2
    healthcheck: {http: ':8080/', interval: 1s}
";

#[tokio::test]
async fn routes_links_and_rules_that_others_remove_come_back() -> Result<()> {
    Lab::test(LabConfig::new("repair").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        lab.apply(PAIR).await?.ok()?;
        let before = lab.wait_exactly("web", 2, LIMIT).await?;
        let damage: [(&str, &[&str]); 5] = [
            ("every route of ours", &["ip", "route", "flush", "proto", "157"]),
            ("every next hop", &["ip", "nexthop", "flush"]),
            ("the firewall's tables", &["nft", "flush", "ruleset"]),
            ("the uplink, for a moment", &["sh", "-c", "ip link set eth0 down; ip link set eth0 up; ip route replace default via \"$(ip -4 -o addr show eth0 | sed 's|.* inet \\([0-9.]*\\)\\.[0-9]*/.*|\\1.1|')\""]),
            ("the link of an instance", &["sh", "-c", "ip link del \"$(ip -o link | sed -n 's/^[0-9]*: \\(dw-[^@]*\\)@.*/\\1/p' | head -n 1)\""]),
        ];
        for (what, command) in damage {
            lab.host(1).exec(command).await?.ok()?;
            everybody_answers(lab, what).await?;
            ensure_untouched(&before, &lab.containers().await?)?;
        }
        ensure!(rules(lab.host(1)).await?.contains("table inet dwell"), "the rules are not back");
        Ok(())
    })
    .await
}

async fn everybody_answers(lab: &Lab, after: &str) -> Result<()> {
    wait_until(&format!("every instance to answer after the loss of {after}"), SOON, async || {
        for instance in lab.ps().await?.of("web") {
            lab.get(instance.at(8080)?).await?;
            for host in lab.hosts() {
                host.get(instance.at(8080)?).await?;
            }
        }
        Ok(())
    })
    .await
}

async fn rules(host: &Host) -> Result<String> {
    host.exec(&["nft", "list", "ruleset"]).await?.ok()
}
