//! Addresses that stay: through a reboot of their host, a move to another, a restart of its agent.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{
    Container, Host, Image, InstanceRow, Lab, LabConfig, RouteChange, RouteWatch, Signal,
    ensure_untouched, run, wait_until,
};
use futures_util::future::try_join_all;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(90);

const WEB: &str = "
workloads:
  web:
    image: hello
    replicas: 3
    healthcheck: {http: ':8080/', interval: 500ms}
";

#[tokio::test]
async fn a_reboot_brings_everything_back() -> Result<()> {
    Lab::test(LabConfig::new("reboot").hosts(3).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        lab.apply(WEB).await?.ok()?;
        let before = lab.wait_exactly("web", 3, LIMIT).await?;
        let identities = identities(lab).await?;
        let others: Vec<_> = before.into_iter().filter(|one| one.host != "h2").collect();
        ensure!(others.len() == 2, "they are not spread: {others:#?}");

        lab.host(2).reboot().await?;
        let after = lab.wait_exactly("web", 3, LIMIT).await?;
        ensure_untouched(&others, &after)?;
        ensure!(identities == self::identities(lab).await?, "they were {identities:#?}");
        everybody_reaches_everybody(lab).await.context("after one host's")?;

        // The power is cut everywhere, and the controller's machine is the last to be there again.
        lab.stop_controller(Signal::SIGKILL).await?;
        try_join_all(lab.hosts().iter().map(Host::reboot)).await?;
        wait_until("all to run without a controller", LIMIT, async || {
            let now = lab.containers().await?;
            ensure!(now.len() == 3 && now.iter().all(|one| one.pid.is_some()), "{now:#?}");
            Ok(())
        })
        .await?;
        let alone = lab.containers().await?;
        lab.start_controller().await?;
        ensure_untouched(&alone, &lab.wait_exactly("web", 3, LIMIT).await?)?;
        ensure!(identities == self::identities(lab).await?, "they were {identities:#?}");
        everybody_reaches_everybody(lab).await.context("after everybody's")
    })
    .await
}

/// Address, hardware address, hostname and SSH host key of every instance, by name.
async fn identities(lab: &Lab) -> Result<BTreeMap<String, [String; 4]>> {
    let mut identities = BTreeMap::new();
    for InstanceRow { name, address, .. } in lab.ps().await?.of("web") {
        let mac = lab.exec(&name, &["cat", "/sys/class/net/eth0/address"]).await?.ok()?;
        let hostname = lab.exec(&name, &["hostname"]).await?.ok()?;
        let key = wait_until(&format!("the host key of {name}"), SOON, async || {
            let scanned = run("ssh-keyscan", &["-t", "ed25519", &address]).await?.ok()?;
            Ok(scanned.split_whitespace().nth(2).context("it shows none")?.to_owned())
        })
        .await?;
        identities.insert(name, [address, mac, hostname, key]);
    }
    Ok(identities)
}

/// By address from every host and the machine, by name from every instance.
async fn everybody_reaches_everybody(lab: &Lab) -> Result<()> {
    let rows = lab.ps().await?.of("web");
    wait_until("everybody to reach everybody", SOON, async || {
        for row in &rows {
            let at = row.at(8080)?;
            ensure!(lab.get(at).await?.contains(&row.name), "another answers for {}", row.name);
            for host in lab.hosts() {
                host.get(at).await.with_context(|| format!("{at} from {}", host.name()))?;
            }
            for from in &rows {
                let url = format!("http://{}.dwell:8080/", row.name);
                let ask = ["timeout", "2", "wget", "-q", "-O", "-", &url];
                let answer = lab.exec(&from.name, &ask).await?.ok()?;
                ensure!(answer.contains(&row.name), "{} is told {answer}", from.name);
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_move_keeps_the_address_and_is_one_exception() -> Result<()> {
    Lab::test(LabConfig::new("move").hosts(3).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        lab.apply(WEB).await?.ok()?;
        lab.wait_exactly("web", 3, LIMIT).await?;
        let identities = identities(lab).await?;
        let mut watches = Watches::start(lab).await?;

        let first = watches.drain(lab, "h1").await.context("away from home")?;
        // The first host is closed still, so it goes to the third one.
        watches.drain(lab, &first).await.context("to a third place")?;
        for node in ["h1", &first] {
            lab.cli(&["node", "uncordon", node]).await?.ok()?;
        }
        agents_start_into_their_own_routes(lab, &mut watches).await.context("new agents")?;
        lab.cli(&["node", "cordon", &first]).await?.ok()?;
        let third = ["h2", "h3"].into_iter().find(|host| *host != first).context("no third")?;
        watches.drain(lab, third).await.context("back home")?;

        for node in [&*first, third] {
            lab.cli(&["node", "uncordon", node]).await?.ok()?;
        }
        lab.route_machine().await?;
        ensure!(identities == self::identities(lab).await?, "they were {identities:#?}");
        everybody_reaches_everybody(lab).await
    })
    .await
}

#[tokio::test]
async fn addresses_come_home() -> Result<()> {
    Lab::test(LabConfig::new("home").hosts(3).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        lab.apply(WEB).await?.ok()?;
        let before = lab.wait_exactly("web", 3, LIMIT).await?;
        let born = identities(lab).await?;
        let from = lab.ps().await?.of("web").remove(0).node;
        let to = ["h1", "h2", "h3"].into_iter().find(|host| *host != from).context("no other")?;
        lab.cli(&["move", "web-0", "--to", to, "--wait"]).await?.ok()?;
        ensure!(lab.cli(&["route", "ls"]).await?.ok()?.contains("1 of these 4 routes"));
        let refused = lab.cli(&["replace", "web-1", "--new-address"]).await?;
        ensure!(refused.stderr.contains("already; nothing was changed"), "{refused:?}");

        // It stays where it is, whoever dies meanwhile, and nobody needs a route to it.
        lab.cli(&["replace", "web-0", "--new-address"]).await?.ok()?;
        lab.stop_controller(Signal::SIGKILL).await?;
        let number: usize = to[1..].parse()?;
        lab.host(number).stop_agent(Signal::SIGKILL).await?;
        lab.start_controller().await?;
        lab.host(number).start_agent().await?;
        let after = lab.wait_exactly("web", 3, LIMIT).await?;
        only_blocks_are_routed(lab).await?;
        let mut others = before;
        others.retain(|one| one.instance != "web-0");
        ensure_untouched(&others, &after)?;
        everybody_reaches_everybody(lab).await.context("with one new address")?;
        let now = identities(lab).await?;
        let (old, new) = (&born["web-0"], &now["web-0"]);
        ensure!(old[0] != new[0] && old[1] != new[1], "it has its old address: {new:?}");
        ensure!(old[2..] == new[2..], "it was {old:?}, and is {new:?}");

        // From now on addresses follow by themselves.
        let follows = format!("{WEB}    network: {{on_move: new-address}}\n");
        lab.apply(&follows).await?.ok()?;
        lab.cli(&["node", "drain", to, "--wait"]).await?.ok()?;
        lab.wait_exactly("web", 3, LIMIT).await?;
        only_blocks_are_routed(lab).await?;
        everybody_reaches_everybody(lab).await.context("after a drain")?;
        a_block_is_moved(lab).await.context("another block")
    })
    .await
}

/// A node gets another block instead of its own, and its instances an address of that one.
async fn a_block_is_moved(lab: &Lab) -> Result<()> {
    let row = lab.ps().await?.of("web").remove(0);
    let (three, _) = row.address.rsplit_once('.').context("no address")?;
    let (two, _) = three.rsplit_once('.').context("no address")?;
    let (old, new) = (format!("{three}.0/24"), format!("{two}.77.0/24"));
    lab.cli(&["node", "block", "add", &row.node, &new]).await?.ok()?;
    lab.cli(&["node", "block", "retire", &row.node, &old]).await?.ok()?;
    lab.route_machine().await?;
    everybody_reaches_everybody(lab).await.context("with two blocks")?;
    lab.cli(&["replace", &row.name, "--new-address", "--wait"]).await?.ok()?;
    lab.wait_exactly("web", 3, LIMIT).await?;
    let now = lab.ps().await?.of("web").remove(0);
    ensure!(now.address.starts_with(&format!("{two}.77.")), "{now:?}");
    everybody_reaches_everybody(lab).await.context("from the other block")?;
    // It has had a second block since before its restart.
    let number: usize = row.node[1..].parse()?;
    lab.host(number).stop_agent(Signal::SIGKILL).await?;
    lab.host(number).start_agent().await?;
    let shown =
        lab.host(number).exec(&["ip", "-4", "route", "show", "type", "unreachable"]).await?.ok()?;
    ensure!(shown.contains(&old) && shown.contains(&new), "{shown}");
    Ok(())
}

/// A range is added while all run, they move over to it, and the first one is left out.
#[tokio::test]
async fn a_second_range_is_added_and_the_first_left_out() -> Result<()> {
    Lab::test(LabConfig::new("ranges").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.route_machine().await?;
        lab.apply(WEB).await?.ok()?;
        let before = lab.wait_exactly("web", 3, LIMIT).await?;
        let (first, second) = (lab.layout().cluster_cidr(), lab.layout().second_cidr());
        let both = json!({"cidr": first, "node_prefix": 24, "more": [second]});
        lab.set_controller(&json!({"cluster": both, "quarantine": "1s"}))?;
        lab.stop_controller(Signal::SIGTERM).await?;
        lab.start_controller().await?;
        for (number, node) in [(1, "h1"), (2, "h2")] {
            let block = second.replace("0.0/16", &format!("{number}.0/24"));
            wait_until("a block of the second range", SOON, async || {
                lab.cli(&["node", "block", "add", node, &block]).await?.ok()
            })
            .await?;
        }
        ensure_untouched(&before, &lab.wait_exactly("web", 3, LIMIT).await?)?;
        let routes = lab.routes().await?.routes;
        for old in routes.iter().filter(|route| !of(&second, &route.prefix)) {
            lab.cli(&["node", "block", "retire", &old.node, &old.prefix]).await?.ok()?;
        }
        lab.cli(&["replace", "web-0", "--new-address", "--wait"]).await?.ok()?;
        lab.wait_exactly("web", 3, LIMIT).await?;
        let rows = lab.ps().await?.of("web");
        ensure!(of(&second, &rows[0].address) && of(&first, &rows[1].address), "{rows:?}");
        lab.route_machine().await?;
        everybody_reaches_everybody(lab).await.context("of two ranges")?;
        let found = lab.audit(false).await?;
        ensure!(found.is_empty(), "{found:#?}");

        for name in ["web-1", "web-2"] {
            lab.cli(&["replace", name, "--new-address", "--wait"]).await?.ok()?;
        }
        let moved = lab.wait_exactly("web", 3, LIMIT).await?;
        wait_until("nothing of the first range", SOON, async || {
            let routes = lab.routes().await?.routes;
            ensure!(routes.iter().all(|route| of(&second, &route.prefix)), "{routes:?}");
            Ok(())
        })
        .await?;
        lab.set_controller(&json!({"cluster": {"cidr": second, "node_prefix": 24}}))?;
        lab.stop_controller(Signal::SIGTERM).await?;
        lab.start_controller().await?;
        let three = first.replace("0.0/16", "");
        wait_until("the first range to be out of all firewalls", SOON, async || {
            for host in lab.hosts() {
                let rules = host.exec(&["nft", "list", "table", "inet", "dwell"]).await?.ok()?;
                ensure!(!rules.contains(&three), "{}: {rules}", host.name());
            }
            Ok(())
        })
        .await?;
        ensure_untouched(&moved, &lab.wait_exactly("web", 3, LIMIT).await?)?;
        everybody_reaches_everybody(lab).await.context("of the second range")
    })
    .await
}

/// Whether an address or a prefix is of a range of /16.
fn of(range: &str, address: &str) -> bool {
    address.starts_with(range.trim_end_matches("0.0/16"))
}

/// Every address is of its node's block, and no host has a route to one that is elsewhere.
async fn only_blocks_are_routed(lab: &Lab) -> Result<()> {
    wait_until("no exception", SOON, async || {
        let routes = lab.routes().await?.routes;
        ensure!(routes.len() == 3, "{routes:?}");
        for row in lab.ps().await?.of("web") {
            for host in lab.hosts().iter().filter(|host| host.name() != row.node) {
                let prefix = format!("{}/32", row.address);
                let shown = host.exec(&["ip", "-4", "route", "show", &prefix]).await?.ok()?;
                ensure!(shown.is_empty(), "{}: {shown}", host.name());
            }
        }
        Ok(())
    })
    .await
}

/// What becomes of the routes of all hosts.
struct Watches {
    /// A watch, and how many of its changes were looked at, by host.
    hosts: BTreeMap<String, (RouteWatch, usize)>,
    /// The host in whose block an address lies, by address.
    homes: BTreeMap<String, String>,
}

impl Watches {
    /// Starts them while every instance is at home.
    async fn start(lab: &Lab) -> Result<Self> {
        let mut hosts = BTreeMap::new();
        for host in lab.hosts() {
            hosts.insert(host.name(), (host.watch_routes().await?, 0));
        }
        let rows = lab.ps().await?.instances;
        Ok(Self { hosts, homes: rows.into_iter().map(|row| (row.address, row.node)).collect() })
    }

    /// What is new since the last look, by host.
    fn news(&mut self) -> Result<BTreeMap<String, Vec<RouteChange>>> {
        let mut news = BTreeMap::new();
        for (host, (watch, seen)) in &mut self.hosts {
            let changes = watch.changes()?;
            news.insert(host.clone(), changes[*seen..].to_vec());
            *seen = changes.len();
        }
        Ok(news)
    }

    /// Drains `node` and looks at what becomes of the routes meanwhile; where its first instance went.
    async fn drain(&mut self, lab: &Lab, node: &str) -> Result<String> {
        let before = lab.wait_exactly("web", 3, LIMIT).await?;
        self.news()?;
        lab.cli(&["node", "drain", node, "--wait"]).await?.ok()?;
        let after = lab.wait_exactly("web", 3, LIMIT).await?;
        let news = self.news()?;
        let rows = lab.ps().await?.of("web");
        let mut moved =
            rows.iter().zip(before.iter().zip(&after)).filter(|(_, (old, _))| old.host == node);
        for (row, (old, new)) in moved.clone() {
            let story =
                || format!("{} went from {} to {}, and {news:#?}", row.name, old.host, new.host);
            self.moved_well(&row.address, old, new, &news).with_context(story)?;
        }
        self.one_exception_each(lab, &rows).await?;
        let (_, (_, first)) = moved.next().context("it has none")?;
        Ok(first.host.clone())
    }

    /// Whether every other node has changed its route once, if it had to, after the instance was gone from
    /// the old node, and before it ran on the new one; a new exception comes before the old one goes.
    fn moved_well(
        &self,
        address: &str,
        old: &Container,
        new: &Container,
        news: &BTreeMap<String, Vec<RouteChange>>,
    ) -> Result<()> {
        let home = self.homes.get(address).context("its home is not known")?;
        let mut of_sandbox =
            news[&old.host].iter().filter(|one| one.is_to(address) && !one.is_by_a_node());
        let gone = of_sandbox.find(|one| one.removed).context("the old node has it still")?;
        for (host, changes) in news {
            let changes: Vec<_> =
                changes.iter().filter(|one| one.is_to(address) && one.is_by_a_node()).collect();
            let needs_it = |node: &String| node != host && node != home;
            let expected: &[bool] = match (needs_it(&old.host), needs_it(&new.host)) {
                (false, true) => &[false],
                (true, true) => &[false, true],
                (true, false) => &[true],
                (false, false) => &[],
            };
            let removed: Vec<_> = changes.iter().map(|one| one.removed).collect();
            ensure!(removed == expected, "{host} has not {expected:?}, but {changes:#?}");
            for change in changes {
                ensure!(gone.at < change.at, "{host} led away from what was there: {change:?}");
                ensure!(change.at < new.started_at, "{host} was late: {change:?}, {new:?}");
            }
        }
        Ok(())
    }

    /// Whether everywhere there is one route to each address that is not at home, and in the fleet one exception.
    async fn one_exception_each(&self, lab: &Lab, rows: &[InstanceRow]) -> Result<()> {
        let routes = lab.routes().await?.routes;
        for row in rows {
            let prefix = format!("{}/32", row.address);
            let exceptions: Vec<_> = routes.iter().filter(|route| route.prefix == prefix).collect();
            let away = self.homes.get(&row.address) != Some(&row.node);
            ensure!(exceptions.len() == usize::from(away), "{row:?} has {exceptions:?}");
            ensure!(exceptions.iter().all(|route| route.node == row.node), "{exceptions:?}");
            for host in lab.hosts() {
                let shown = host.exec(&["ip", "-4", "route", "show", &prefix]).await?.ok()?;
                let needed = away || host.name() == row.node;
                ensure!(shown.lines().count() == usize::from(needed), "{}: {shown}", host.name());
            }
        }
        Ok(())
    }
}

/// New agents find all routes as they should be, and touch none.
async fn agents_start_into_their_own_routes(lab: &Lab, watches: &mut Watches) -> Result<()> {
    let before = lab.wait_exactly("web", 3, SOON).await?;
    watches.news()?;
    for host in lab.hosts() {
        host.stop_agent(Signal::SIGKILL).await?;
        host.start_agent().await?;
    }
    // When it makes a sandbox, it has looked at the routes.
    lab.apply(&(WEB.to_owned() + "  extra: {image: hello, replicas: 3}\n")).await?.ok()?;
    let extra = lab.wait_well("extra", 3, LIMIT).await?;
    for (host, changes) in watches.news()? {
        ensure!(extra.iter().any(|one| one.node == host), "{host} has got none of {extra:#?}");
        let touched: Vec<_> =
            changes.iter().filter(|one| !extra.iter().any(|row| one.is_to(&row.address))).collect();
        ensure!(touched.is_empty(), "{host} was told of {touched:#?}");
    }
    ensure_untouched(&before, &lab.wait_exactly("web", 3, SOON).await?)?;
    lab.cli(&["rm", "extra", "--wait"]).await?.ok()?;
    Ok(())
}
