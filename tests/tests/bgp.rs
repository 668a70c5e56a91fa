//! A router of the fabric that learns by BGP where instances are, from BIRD on the nodes as `dwell route export` sets it up.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Image, Lab, LabConfig, run, wait_until};
use tokio::process::{Child, Command};

const LIMIT: Duration = Duration::from_secs(90);

const WEB: &str = "
workloads:
  web:
    image: hello
    replicas: 2
    stop_grace_period: 1s
";

#[tokio::test]
async fn a_router_learns_where_instances_are_and_where_they_move_to() -> Result<()> {
    Lab::test(LabConfig::new("bgp").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(WEB).await?.ok()?;
        let rows = lab.wait_well("web", 2, LIMIT).await?;
        let fabric = Fabric::new(lab)?;
        fabric.ip(&["address", "add", &format!("{}/24", fabric.address), "dev", "br0"]).await?;
        let _birds = start(lab, &fabric).await?;
        for (number, host) in (1..).zip(lab.hosts()) {
            let block = lab.nodes().await?.nodes.swap_remove(number - 1).block;
            fabric.wait_for(&format!("{block} via {}", host.address())).await?;
        }
        for row in &rows {
            fabric.reach(&row.address).await.with_context(|| row.name.clone())?;
        }

        // One moves, and takes its address along: an exception to its block.
        let moving = rows.iter().find(|row| row.node == "h1").context("none is on h1")?;
        lab.cli(&["node", "drain", "h1"]).await?.ok()?;
        fabric.wait_for(&format!("{} via {}", moving.address, lab.host(2).address())).await?;
        lab.wait_well("web", 2, LIMIT).await?;
        fabric.reach(&moving.address).await.context("after the move")
    })
    .await
}

/// The lab's switch, which is a router now.
struct Fabric {
    netns: String,
    address: String,
    dir: PathBuf,
}

impl Fabric {
    fn new(lab: &Lab) -> Result<Self> {
        let [a, b, c, _] = lab.layout().machine_address().octets();
        let dir = lab.layout().dir().join("bgp");
        fs::create_dir_all(&dir)?;
        Ok(Self { netns: lab.layout().switch_netns(), address: format!("{a}.{b}.{c}.3"), dir })
    }

    async fn ip(&self, args: &[&str]) -> Result<String> {
        run("ip", &[&["-n", &self.netns], args].concat()).await?.ok()
    }

    async fn wait_for(&self, route: &str) -> Result<()> {
        wait_until(&format!("the router to learn {route}"), LIMIT, async || {
            let routes = self.ip(&["route"]).await?;
            ensure!(routes.lines().any(|line| line.starts_with(route)), "{routes}");
            Ok(())
        })
        .await
    }

    async fn reach(&self, address: &str) -> Result<()> {
        let url = format!("http://{address}:8080/");
        wait_until(&format!("{address} to answer the router"), LIMIT, async || {
            let get =
                ["netns", "exec", &self.netns, "timeout", "2", "busybox", "wget", "-q", "-O", "-"];
            run("ip", &[&get[..], &[&url]].concat()).await?.ok()?;
            Ok(())
        })
        .await
    }

    /// BIRD in a namespace. It ends with the value.
    fn bird(&self, netns: &str, name: &str, config: &str) -> Result<Child> {
        let file = self.dir.join(format!("{name}.conf"));
        fs::write(&file, config)?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns, "bird", "-f", "-c"]).arg(file);
        command.arg("-s").arg(self.dir.join(format!("{name}.ctl"))).kill_on_drop(true);
        command.spawn().context("cannot start bird; install the package bird2")
    }
}

/// The daemons of the router and of the nodes.
async fn start(lab: &Lab, fabric: &Fabric) -> Result<Vec<Child>> {
    let address = &fabric.address;
    let mut config = format!(
        "router id {address};\nprotocol device {{}}\nprotocol kernel {{ ipv4 {{ export all; }}; }}\n"
    );
    let mut birds = Vec::new();
    for (number, host) in (1..).zip(lab.hosts()) {
        let (name, own_as) = (host.name(), format!("{}", 65_010 + number));
        config += &format!(
            "protocol bgp {name} {{ local {address} as 65000; neighbor {} as {own_as}; \
             ipv4 {{ import all; export none; }}; }}\n",
            host.address()
        );
        let export = ["route", "export", &name, "--bird", "--as", &own_as, "--neighbor", address];
        let export = [&export[..], &["--neighbor-as", "65000"]].concat();
        let node = lab.cli(&export).await?.ok()?;
        birds.push(fabric.bird(&host.netns(), &name, &node)?);
    }
    birds.push(fabric.bird(&fabric.netns, "router", &config)?);
    Ok(birds)
}
