//! Nodes on different segments, with a router between them that knows no instances: as in most clouds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Host, Image, InstanceRow, Lab, LabConfig, run, wait_until};

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn instances_on_different_segments_live_together() -> Result<()> {
    Lab::test(LabConfig::new("overlay").hosts(2).images(&[Image::Hello]), async |lab| {
        separate(lab).await.context("separating the hosts")?;
        lab.start_fleet().await?;
        let key = lab.ssh_public_key().await?;
        let manifest = format!(
            "
workloads:
  web:
    image: hello
    replicas: 2
    healthcheck: {{http: ':8080/', interval: 1s}}
    ssh: {{authorized_keys: ['{key}']}}
"
        );
        lab.apply(&manifest).await?.ok()?;
        let rows = lab.wait_well("web", 2, LIMIT).await?;
        ensure!(rows[0].node != rows[1].node, "they are on one node");
        for (from, to) in [(&rows[0], &rows[1]), (&rows[1], &rows[0])] {
            reach_each_other(lab, from, to).await.with_context(|| from.name.clone())?;
        }
        ensure!(leaks(lab).await? == 0, "the router has seen instances");
        let found = lab.audit(false).await?;
        ensure!(found.is_empty(), "{found:#?}");
        is_repaired(lab, &rows).await.context("repair")?;
        is_only_between_peers(lab).await.context("strangers")
    })
    .await
}

fn router(lab: &Lab) -> String {
    format!("{}router", lab.layout().netns_prefix())
}

/// Gives every host a segment of its own, on which there is nobody but a router.
async fn separate(lab: &Lab) -> Result<()> {
    let (router, switch) = (router(lab), lab.layout().switch_netns());
    let [a, b, c, _] = lab.layout().machine_address().octets();
    let (fabric, cluster) = (format!("{a}.{b}.{c}.2"), lab.layout().cluster_cidr());
    let mut script = format!(
        "ip netns add {router}
         ip -n {switch} link add router type veth peer name fabric netns {router}
         ip -n {switch} link set router up master br0
         ip -n {router} link set lo up
         ip -n {router} address add {fabric}/24 dev fabric
         ip -n {router} link set fabric up
         in_router() {{ ip netns exec {router} \"$@\"; }}
         in_router sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
         in_router sysctl -q -w net.ipv4.conf.fabric.rp_filter=0 net.ipv4.conf.fabric.proxy_arp=1
         in_router nft add table ip fabric
         in_router nft add chain ip fabric through '{{ type filter hook forward priority 0; }}'
         in_router nft add rule ip fabric through ip saddr {cluster} counter drop
         in_router nft add rule ip fabric through ip daddr {cluster} counter drop\n"
    );
    for host in lab.hosts() {
        let (name, netns, address) = (host.name(), host.netns(), host.address());
        script += &format!(
            "ip -n {switch} link set {name} nomaster
             ip -n {switch} link set {name} netns {router}
             ip -n {router} link set {name} up
             ip -n {router} route add {address}/32 dev {name}
             ip -n {netns} address flush dev eth0
             ip -n {netns} address add {address}/32 dev eth0
             ip -n {netns} route add {fabric}/32 dev eth0 scope link
             ip -n {netns} route add default via {fabric}\n"
        );
    }
    run("sh", &["-ec", &script]).await?.ok()?;
    Ok(())
}

/// How many packets of instances the router has met and dropped.
async fn leaks(lab: &Lab) -> Result<u64> {
    let list = ["netns", "exec", &router(lab), "nft", "list", "chain", "ip", "fabric", "through"];
    let rules = run("ip", &list).await?.ok()?;
    let counts = rules.split("packets ").skip(1);
    counts.map(|rest| Ok(rest.split_whitespace().next().context("no count")?.parse::<u64>()?)).sum()
}

fn host_of<'a>(lab: &'a Lab, row: &InstanceRow) -> Result<&'a Host> {
    lab.hosts().iter().find(|host| host.name() == row.node).context("it is on no host of the lab")
}

async fn reach_each_other(lab: &Lab, from: &InstanceRow, to: &InstanceRow) -> Result<()> {
    let exec = async |command: &[&str]| lab.exec(&from.name, command).await?.ok();
    // The overlay has taken 50 bytes of each packet, and sandboxes have followed.
    wait_until("the sandbox to follow the overlay", SOON, async || {
        let link = exec(&["ip", "link", "show", "eth0"]).await?;
        ensure!(link.contains("mtu 1450"), "{link}");
        Ok(())
    })
    .await?;
    let full = "1422";
    exec(&["ping", "-c", "2", "-W", "2", "-s", full, &to.address]).await?;
    // By name, and the answer shows who asked.
    let url = format!("http://{}.dwell:8080/", to.name);
    let said = exec(&["timeout", "5", "wget", "-q", "-O", "-", &url]).await?;
    ensure!(said.contains(&from.address), "it is not seen under its own address: {said}");
    // Whole packets of TCP, there and back.
    let listen = "nc -l -p 9000 -e cat </dev/null >/dev/null 2>&1 &";
    lab.exec(&to.name, &["sh", "-c", listen]).await?.ok()?;
    let stream = format!(
        "dd if=/dev/zero bs=1024 count=512 2>/dev/null | nc -w 5 {} 9000 | wc -c",
        to.address
    );
    let echoed = exec(&["sh", "-c", &stream]).await?;
    ensure!(echoed.trim() == "524288", "{echoed} bytes came back");
    // From the other node itself, with plain ssh.
    let mut ssh = lab.ssh_command(to.address.parse()?);
    ssh.push("hostname".to_owned());
    let said = host_of(lab, from)?.exec(&ssh).await?.ok()?;
    ensure!(said.trim() == to.name, "{said}");
    Ok(())
}

async fn is_repaired(lab: &Lab, rows: &[InstanceRow]) -> Result<()> {
    let to: std::net::SocketAddr = rows[1].at(8080)?;
    let host = host_of(lab, &rows[0])?;
    for damage in [
        "ip link del dwell-vxlan",
        "ip neighbour flush dev dwell-vxlan nud permanent",
        "ip rule del priority 1570",
        "nft delete table inet dwell",
    ] {
        host.exec(&["sh", "-c", damage]).await?.ok()?;
        wait_until(&format!("`{damage}` to be mended"), SOON, async || {
            host.get(to).await?;
            let url = format!("http://{to}/");
            lab.exec(&rows[0].name, &["timeout", "2", "wget", "-q", "-O", "-", &url])
                .await?
                .ok()?;
            let rules = host.exec(&["ip", "rule"]).await?.ok()?;
            ensure!(rules.contains("lookup 157"), "{rules}");
            Ok(())
        })
        .await?;
    }
    wait_until("the audit to find nothing", SOON, async || {
        let found = lab.audit(false).await?;
        ensure!(found.is_empty(), "{found:#?}");
        Ok(())
    })
    .await
}

/// What the router sends into the overlay, which is no node, is dropped.
async fn is_only_between_peers(lab: &Lab) -> Result<()> {
    let host = lab.host(1);
    let dropped = async || -> Result<u64> {
        let rules = host.exec(&["nft", "list", "chain", "inet", "dwell", "host"]).await?.ok()?;
        let rule = rules.lines().find(|line| line.contains("ip saddr != @tunnelled"));
        let count = rule.and_then(|rule| rule.split("packets ").nth(1)).context("no such rule")?;
        Ok(count.split_whitespace().next().context("no count")?.parse()?)
    };
    let before = dropped().await?;
    // A header with the overlay's number.
    let packet = "\\x08\\x00\\x00\\x00\\x00\\x00\\x9d\\x00";
    let forge = format!("printf '{packet}' >/dev/udp/{}/4789", host.address());
    run("ip", &["netns", "exec", &router(lab), "bash", "-c", &forge]).await?.ok()?;
    ensure!(dropped().await? > before, "a stranger's packet was let in");
    Ok(())
}
