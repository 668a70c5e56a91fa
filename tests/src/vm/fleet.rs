//! The guests of one run, dwell's packages for them, and what checks have in common.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::{Options, accelerator::Accelerator, guest::Guest, image::BootImage, listing::Listing};
use crate::lab::{
    self, Image, InstanceRow, Layout, NodeRow, Nodes, Ps, claim::Claim, command::run, network,
    wait_until,
};

/// The name of the lab that the guests are in; `dwell-lab down --name vm` removes what a killed run has left.
const NAME: &str = "vm";
/// How long the fleet may take until all is as declared, on processors that are emulated.
pub(super) const WELL_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How long something may take that takes a moment on a real host.
pub(super) const SOON: Duration = Duration::from_secs(5 * 60);
/// The workload that every check looks at.
pub(super) const WEB: &str = "web";
/// Where it listens.
pub(super) const WEB_PORT: u16 = 8080;

/// The image of its instances, on every guest.
pub(super) const IMAGE: &str = "/root/image.tar";

/// What the instances of [`WEB`] may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) millicores: u64,
    pub(super) mebibytes: u64,
}

/// What is declared at first.
pub(super) const LIMITS: Limits = Limits { millicores: 400, mebibytes: 64 };

/// What is written down of the guests for a later run that goes on with them.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    image: BootImage,
    accelerator: Accelerator,
    before: Vec<Listing>,
}

/// The guests, and what they are given.
#[derive(Debug)]
pub(super) struct Fleet {
    layout: Layout,
    guests: Vec<Guest>,
    options: Options,
    /// What each guest was like before anything of dwell was there.
    before: Vec<Listing>,
    /// Held until the lab is down.
    _claim: Claim,
}

impl Fleet {
    /// Boots the guests. What an earlier run has left is removed first.
    pub(super) async fn up(options: &Options) -> Result<Self> {
        let programs = std::env::current_exe()?;
        let programs = programs.parent().context("this program is in no directory")?.to_owned();
        let (claim, description) = Claim::take(NAME, 0, programs.clone()).await?;
        let layout = description.layout;
        let booted = Self::boot(&layout, options, &programs).await;
        match booted {
            Ok((guests, before)) => {
                Ok(Self { layout, guests, options: options.clone(), before, _claim: claim })
            }
            Err(error) => {
                Self::sweep().await?;
                Err(error)
            }
        }
    }

    /// The guests that an earlier run has kept.
    pub(super) async fn kept(options: &Options) -> Result<Self> {
        let (claim, description) =
            Claim::take_kept(NAME).context("no guests are kept to go on with")?;
        let layout = description.layout;
        let text = fs::read(kept(&layout)).context("an earlier run has not booted its guests")?;
        let Kept { image, accelerator, before } = serde_json::from_slice(&text)?;
        let key = key(&layout);
        let numbers = 1..=before.len();
        let guests: Vec<Guest> =
            numbers.map(|number| Guest::at(&layout, number, &image, accelerator, &key)).collect();
        try_join_all(guests.iter().map(Guest::connect)).await?;
        Ok(Self { layout, guests, options: options.clone(), before, _claim: claim })
    }

    async fn boot(
        layout: &Layout,
        options: &Options,
        programs: &Path,
    ) -> Result<(Vec<Guest>, Vec<Listing>)> {
        let say = options.say;
        let image = BootImage::get(&programs.join("vm-images"), &options.suite, say).await?;
        let hello = Image::Hello.archive(&Self::cache()?).await?;
        network::build(layout, 0).await?;
        let accelerator = Accelerator::probe(layout, &image).await?;
        say(&format!("booting {} guests with {}", options.guests, accelerator.name()));
        let key = key(layout);
        let words = ["-q", "-t", "ed25519", "-N", "", "-C", "dwell-lab", "-f"];
        run("ssh-keygen", &[&words[..], &[&key.to_string_lossy()]].concat()).await?.ok()?;
        let numbers = 1..=options.guests;
        let guests = try_join_all(numbers.map(async |number| {
            let guest = Guest::make(layout, number, &image, accelerator, &key).await?;
            guest.power_on().await?;
            let took = guest.wait_up().await?;
            say(&format!("{} is up after {} s", guest.name(), took.as_secs()));
            guest.copy(std::slice::from_ref(&hello), "/root").await?;
            let name = hello.file_name().context("an archive has no name")?.to_string_lossy();
            guest.sh(&format!("mv /root/{name} {IMAGE}; docker load -qi {IMAGE}")).await?;
            anyhow::Ok(guest)
        }))
        .await?;
        let before = try_join_all(guests.iter().map(Listing::take)).await?;
        let known = Kept { image, accelerator, before };
        fs::write(kept(layout), serde_json::to_vec(&known)?)
            .context("cannot write down which guests there are")?;
        Ok((guests, known.before))
    }

    /// Which Docker, kernel and systemd the guests have.
    pub(super) async fn versions(&self) -> Result<String> {
        const ASK: &str = ". /etc/os-release; echo $PRETTY_NAME, Docker $(docker version -f '{{.Server.Version}}'), kernel $(uname -r), \
                           systemd $(systemctl --version | sed -n '1s/^systemd \\([^ ]*\\).*/\\1/p')";
        self.first().sh(ASK).await
    }

    /// Where what guests are given is kept between runs.
    pub(super) fn cache() -> Result<PathBuf> {
        let program = std::env::current_exe()?;
        Ok(program.parent().context("this program is in no directory")?.join("lab-images"))
    }

    /// Removes every trace of the guests.
    pub(super) async fn down(self) -> Result<()> {
        // The claim is held to the end, so that nobody makes the lab anew meanwhile.
        Self::sweep().await
    }

    /// Leaves them there for a look.
    pub(super) fn leave_up(self) {
        drop(self);
    }

    async fn sweep() -> Result<()> {
        lab::down(NAME).await
    }

    /// The guest that has the controller; a node like the others.
    pub(super) fn first(&self) -> &Guest {
        &self.guests[0]
    }

    /// All guests.
    pub(super) fn guests(&self) -> &[Guest] {
        &self.guests
    }

    /// What guest `number`, from 0 on, was like before anything of dwell was there.
    pub(super) fn before(&self, number: usize) -> &Listing {
        &self.before[number]
    }

    /// The lab's names and addresses.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The guest that is the node `name`.
    pub(super) fn guest(&self, name: &str) -> Result<&Guest> {
        let found = self.guests.iter().find(|guest| guest.name() == name);
        found.with_context(|| format!("no guest is the node {name:?}"))
    }

    /// The packages to install.
    pub(super) fn packages(&self) -> Result<Vec<PathBuf>> {
        packages_in(&self.options.packages)
    }

    /// The same with a later version, in `directory`: what is in them is the same, but their version.
    pub(super) async fn later_packages(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        for package in self.packages()? {
            let tree = directory.join("tree").display().to_string();
            let package = package.display().to_string();
            run("dpkg-deb", &["--raw-extract", &package, &tree]).await?.ok()?;
            let control = Path::new(&tree).join("DEBIAN/control");
            let text = fs::read_to_string(&control)?;
            let later = text.lines().map(|line| match line.strip_prefix("Version: ") {
                Some(version) => format!("Version: {version}+later"),
                None => line.to_owned(),
            });
            fs::write(&control, later.collect::<Vec<_>>().join("\n") + "\n")?;
            let out = directory.display().to_string();
            run("dpkg-deb", &["--root-owner-group", "-Zgzip", "--build", &tree, &out])
                .await?
                .ok()?;
            fs::remove_dir_all(&tree)?;
        }
        packages_in(directory)
    }

    /// What `dwell ARGUMENTS` prints on the controller's guest.
    pub(super) async fn cli(&self, arguments: &str) -> Result<String> {
        self.first().sh(&format!("dwell {arguments}")).await
    }

    /// Declares the workloads of `manifest`, whatever was declared of the same names.
    pub(super) async fn apply(&self, manifest: &str) -> Result<()> {
        self.first().feed("dwell apply -f -", manifest).await?.ok()?;
        Ok(())
    }

    /// The same, and waits until all instances hold with it.
    pub(super) async fn apply_and_wait(&self, manifest: &str) -> Result<()> {
        self.first().feed("dwell apply --wait -f -", manifest).await?.ok()?;
        Ok(())
    }

    /// The declaration of [`WEB`]: an instance for each guest, which keeps what is in `/data`.
    pub(super) fn web(&self, limits: Limits) -> String {
        self.web_of("hello", limits)
    }

    /// The same, of another image.
    pub(super) fn web_of(&self, image: &str, limits: Limits) -> String {
        let Limits { millicores, mebibytes } = limits;
        format!(
            "workloads:
  {WEB}:
    image: {image}
    replicas: {}
    resources: {{cpu: {millicores}m, memory: {mebibytes}Mi}}
    volumes: ['data:/data']
    network: {{expose: [{WEB_PORT}]}}
    healthcheck: {{http: ':{WEB_PORT}/', interval: 10s, timeout: 30s, retries: 5}}
    update: {{deadline: 15m}}
",
            self.guests.len()
        )
    }

    /// The instances of `workload`.
    pub(super) async fn instances(&self, workload: &str) -> Result<Vec<InstanceRow>> {
        let ps: Ps = self.first().run("dwell ps -o json").await?.json()?;
        Ok(ps.of(workload))
    }

    /// Waits until all instances of [`WEB`] are well, and can be reached from every guest.
    pub(super) async fn wait_well(&self) -> Result<Vec<InstanceRow>> {
        let all = self.guests.len();
        let rows = wait_until("all instances to be well", WELL_LIMIT, async || {
            let rows = self.instances(WEB).await?;
            let well = rows.iter().filter(|row| row.is_well()).count();
            ensure!(well == all, "{well} of {all} are: {rows:?}");
            Ok(rows)
        })
        .await?;
        self.wait_reached(&rows).await?;
        Ok(rows)
    }

    /// Waits until every guest reaches these instances at their addresses.
    pub(super) async fn wait_reached(&self, rows: &[InstanceRow]) -> Result<()> {
        try_join_all(self.guests.iter().map(async |guest| {
            for row in rows {
                let what = format!("{} to reach {}", guest.name(), row.name);
                wait_until(&what, SOON, async || {
                    let said = get(guest, &row.address).await?;
                    ensure!(said.contains(&format!("\"{}\"", row.name)), "somebody else: {said}");
                    Ok(())
                })
                .await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        Ok(())
    }

    /// Waits until every guest is a ready node.
    pub(super) async fn wait_nodes(&self) -> Result<()> {
        wait_until("all nodes to be ready", WELL_LIMIT, async || {
            let nodes: Nodes = self.first().run("dwell node ls -o json").await?.json()?;
            let is_ready = |node: &NodeRow| node.state == dwell_core::node::NodeState::Ready;
            let ready = nodes.nodes.iter().filter(|node| is_ready(node)).count();
            ensure!(ready == self.guests.len(), "{ready} are, of {nodes:?}");
            Ok(())
        })
        .await
    }

    /// Which processes the containers of all guests are; the same as long as nobody touches one.
    pub(super) async fn processes(&self) -> Result<Vec<String>> {
        const FORMAT: &str = "{{.Id}} {{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}";
        let script = format!("docker ps -q | xargs -r docker inspect -f '{FORMAT}' | sort");
        try_join_all(self.guests.iter().map(async |guest| guest.sh(&script).await)).await
    }

    /// Does something that is to touch no instance, and looks whether one was touched.
    pub(super) async fn untouched(
        &self,
        what: &str,
        work: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let before = self.processes().await?;
        work.await.with_context(|| what.to_owned())?;
        self.wait_nodes().await.with_context(|| format!("after {what}"))?;
        self.wait_well().await.with_context(|| format!("after {what}"))?;
        let after = self.processes().await?;
        ensure!(before == after, "{what} touched an instance:\n{before:#?}\nbecame\n{after:#?}");
        Ok(())
    }
}

/// The key that root is let in by on every guest.
fn key(layout: &Layout) -> PathBuf {
    layout.dir().join("key")
}

/// Where [`Kept`] is.
fn kept(layout: &Layout) -> PathBuf {
    layout.dir().join("guests.json")
}

/// What the instance at `address` answers, asked from `guest`.
pub(super) async fn get(guest: &Guest, address: &str) -> Result<String> {
    guest.sh(&format!("busybox wget -T 20 -qO- http://{address}:{WEB_PORT}/")).await
}

fn packages_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("cannot read {}; `make deb` builds them", directory.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut packages: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
    packages.sort();
    ensure!(packages.len() == 3, "{} has not three packages: {packages:?}", directory.display());
    Ok(packages)
}
