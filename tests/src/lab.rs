//! Several hosts on one machine: namespaces, Docker engines, and dwell's real processes on them.
//!
//! ```no_run
//! # use {anyhow::Result, dwell_tests::lab::{Cut, Lab, LabConfig, Signal, wait_until}};
//! # async fn example() -> Result<()> {
//! Lab::test(LabConfig::new("example").hosts(2), async |lab| {
//!     lab.start_fleet().await?;
//!     lab.cli(&["apply", "-f", "examples/hello.yaml"]).await?.ok()?;
//!     lab.host(1).stop_docker(Signal::SIGKILL).await?;
//!     lab.host(2).cut_link(Cut::BlackHole).await?;
//!     // ... and what must be true now, by wait_until
//!     Ok(())
//! })
//! .await
//! # }
//! ```
//!
//! All state is on disk and in the kernel, under names made from the lab's (see [`Layout`]), so that
//! any process can open the lab or bring it down, also after its maker was killed.
//!
//! ```text
//! absent ──up──> up ──down, Drop──> absent
//!                 └──maker killed──> remains ──up──> up
//!                                       └────down──> absent
//! ```
//!
//! Code map: [`Layout`] names everything, `network` cables it, `process` starts and finds processes,
//! `docker`, `images` and `registry` equip the hosts, `dwell` knows dwell's programs, `fleet` runs them, `truth`
//! asks the engines what became of it, `sweep` removes it all.

use std::{fs, net::SocketAddr, path::PathBuf, thread};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use bollard::{body_full, query_parameters::ImportImageOptions};
use futures_util::{TryStreamExt, future::try_join_all};
pub use nix::sys::signal::Signal;

pub(crate) mod claim;
pub(crate) mod client;
pub(crate) mod command;
mod config;
mod docker;
mod dwell;
mod fleet;
mod forward;
mod host;
pub(crate) mod images;
mod layout;
pub(crate) mod network;
mod person;
pub mod prerequisites;
mod private_registry;
mod process;
mod reboot;
mod registry;
mod ssh;
mod sweep;
mod truth;
mod wait;
mod watch;

pub use command::{Output, finish, run};
pub use config::LabConfig;
pub use dwell::{Audit, AuditRow, InstanceRow, NodeRow, Nodes, Ps, RouteRow, Routes, WorkloadRow};
pub(crate) use dwell::{JoinToken, find_programs};
pub use forward::Forward;
pub use host::Host;
pub use images::Image;
pub use layout::{Layout, MAX_HOSTS};
pub use network::Cut;
pub use person::Person;
pub use private_registry::PrivateRegistry;
pub use process::Process;
pub use truth::{Container, ensure_untouched};
pub use wait::{hold_for, meanwhile, wait_until};
pub use watch::{RouteChange, RouteWatch};

use claim::Claim;
use config::Description;

/// Set to keep a failed test's lab for a look at it; `dwell-lab down --name NAME` removes it.
pub const KEEP_VARIABLE: &str = "DWELL_LAB_KEEP";

/// Lines of each process's log shown when a test fails.
const TAIL_LINES: usize = 25;

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    description: Description,
    hosts: Vec<Host>,
    controller: Process,
    /// Held by who brings it down when done; without it this is a visitor's handle.
    claim: Option<Claim>,
}

impl Lab {
    /// Brings up hosts with their engines and images; what remains of a lab of that name is removed
    /// first. The lab is brought down when the value is dropped.
    ///
    /// # Errors
    /// If this is not root, tools or addresses are missing, another process uses a lab of that name,
    /// or something does not start; nothing is left behind then.
    pub async fn up(config: LabConfig) -> Result<Self> {
        prerequisites::check()?;
        ensure!(
            (1..=MAX_HOSTS).contains(&config.hosts),
            "a lab has 1 to {MAX_HOSTS} hosts, not {}",
            config.hosts
        );
        let programs = find_programs()?;
        let (claim, description) = Claim::take(&config.name, config.hosts, programs).await?;
        let lab = Self::with(description, Some(claim));
        match lab.equip(&config).await {
            Ok(()) => Ok(lab),
            Err(error) => {
                let logs = lab.log_tails();
                let error = anyhow!("cannot bring up the lab {}: {error:#}\n\n{logs}", config.name);
                Err(also(error, lab.down().await))
            }
        }
    }

    /// Opens a lab that is up, without becoming responsible for bringing it down.
    ///
    /// # Errors
    /// If there is no such lab.
    pub fn open(name: &str) -> Result<Self> {
        Ok(Self::with(Description::read(name)?, None))
    }

    /// Runs a test in a lab of its own: brings it up, runs `body`, and brings it down whatever comes
    /// of it. If `body` fails, the error has the last lines of all logs of the lab.
    ///
    /// # Errors
    /// What `body` says, or if the lab does not come up or go down.
    pub async fn test(
        config: LabConfig,
        body: impl AsyncFnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let lab = Self::up(config).await?;
        // A panic in `body` drops the lab, which shows the logs and brings it down.
        if let Err(error) = body(&lab).await {
            let logs = lab.log_tails();
            // The reason first: who prints it may cut long output in the middle.
            let error = anyhow!("{error:#}\n\nin the lab, whose logs end so:\n{logs}");
            return Err(also(error, lab.down_unless_kept().await));
        }
        lab.down().await
    }

    /// Removes every trace of the lab.
    ///
    /// # Errors
    /// If something cannot be removed; a later [`down`] goes on from there.
    pub async fn down(mut self) -> Result<()> {
        // Held to the end, so that nobody makes the lab anew meanwhile.
        let _claim = self.claim.take();
        down(self.layout().name()).await
    }

    /// Leaves the lab up beyond this process.
    pub fn leave_up(mut self) {
        self.claim = None;
    }

    /// The lab's names and addresses.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.description.layout
    }

    /// Host `number`, counted from 1 as the hosts' names are.
    ///
    /// # Panics
    /// If the lab has no such host.
    #[must_use]
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// All hosts in order.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// What `to` answers to an HTTP request for `/` from the machine itself.
    ///
    /// # Errors
    /// If it cannot be connected, does not answer within two seconds, or not with success.
    pub async fn get(&self, to: SocketAddr) -> Result<String> {
        client::get(client::connect(None, to).await?).await
    }

    /// Gives the machine itself the fleet's routes, so that it reaches every instance; they go with
    /// the lab. Routes that the fleet has no more are taken away.
    ///
    /// # Errors
    /// If the controller does not answer or the kernel refuses a route.
    pub async fn route_machine(&self) -> Result<()> {
        network::route_machine(self.layout(), &self.routes().await?.routes).await
    }

    /// The process of the controller.
    #[must_use]
    pub fn controller(&self) -> &Process {
        &self.controller
    }

    /// Where the images of all labs are kept between labs.
    #[must_use]
    pub fn image_cache(&self) -> PathBuf {
        self.description.programs.join("lab-images")
    }

    /// The last lines of every log of the lab.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let hosts = self
            .hosts
            .iter()
            .flat_map(|host| [host.dockerd(), host.agent(), host.keeper(), host.ssh()]);
        let processes = hosts.chain([&self.controller]).filter(|process| process.log().exists());
        let tails = processes.map(|process| {
            format!("==> {} <==\n{}\n", process.log().display(), process.log_tail(TAIL_LINES))
        });
        tails.collect()
    }

    fn with(description: Description, claim: Option<Claim>) -> Self {
        let layout = &description.layout;
        Self {
            hosts: (1..=description.hosts)
                .map(|host| Host::new(layout, host, &description.programs))
                .collect(),
            controller: Process::new(layout, &layout.dir(), "controller", None),
            claim,
            description,
        }
    }

    async fn equip(&self, config: &LabConfig) -> Result<()> {
        let layout = self.layout();
        (config.say)(&format!(
            "cabling {} hosts at {} and up, the machine at {}",
            config.hosts,
            layout.host_address(1),
            layout.machine_address()
        ));
        network::build(layout, config.hosts).await?;
        (config.say)(
            "starting a Docker engine of its own on each host; one that the machine runs is left alone",
        );
        try_join_all(self.hosts.iter().map(async |host| {
            fs::create_dir_all(host.dir()).context("cannot make a host's directory")?;
            let runtime = dwell::runtime(host);
            host.engine().configure(config.live_restore, runtime).await?;
            host.start_docker().await
        }))
        .await?;
        for image in &config.images {
            (config.say)(&format!("giving each engine the image {}", image.name()));
            self.load(*image).await?;
        }
        Ok(())
    }

    /// Gives `image` to the engines of all hosts.
    async fn load(&self, image: Image) -> Result<()> {
        let archive = image.archive(&self.image_cache()).await?;
        let archive =
            fs::read(&archive).with_context(|| format!("cannot read {}", archive.display()))?;
        try_join_all(self.hosts.iter().map(async |host| {
            let options = ImportImageOptions::default();
            let docker = host.docker()?;
            let loading = docker.import_image(options, body_full(archive.clone().into()), None);
            loading.try_collect::<Vec<_>>().await.with_context(|| {
                format!("the engine of {} does not load the image {}", host.name(), image.name())
            })
        }))
        .await?;
        Ok(())
    }

    async fn down_unless_kept(self) -> Result<()> {
        if std::env::var_os(KEEP_VARIABLE).is_some() {
            self.leave_up();
            return Ok(());
        }
        self.down().await
    }
}

impl Drop for Lab {
    #[expect(clippy::print_stderr, reason = "a test that panics can say it nowhere else")]
    fn drop(&mut self) {
        if self.claim.is_none() {
            return;
        }
        if thread::panicking() {
            eprintln!("the lab's logs end so:\n{}", self.log_tails());
            if std::env::var_os(KEEP_VARIABLE).is_some() {
                return;
            }
        }
        let name = self.description.layout.name().to_owned();
        if let Err(error) = down_from_anywhere(name) {
            eprintln!("the lab is not brought down: {error:#}");
        }
    }
}

/// Removes every trace of lab `name`, whatever state it is in; nothing to do if there is none.
///
/// # Errors
/// If this is not root, the name is no lab's, or something cannot be removed; another call goes on
/// from there.
pub async fn down(name: &str) -> Result<()> {
    prerequisites::check()?;
    // What is removed is found by name; the slot plays no part in it.
    sweep::sweep(&Layout::new(name, 0)?).await
}

/// The names of the labs on this machine.
#[must_use]
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(layout::ROOT).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// `error`, and what went wrong after it, if anything did.
fn also(error: Error, then: Result<()>) -> Error {
    match then {
        Ok(()) => error,
        Err(then) => error.context(format!("and the lab is not brought down: {then:#}")),
    }
}

/// [`down`] for a place that cannot await, be it inside a runtime or outside.
fn down_from_anywhere(name: String) -> Result<()> {
    let done = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(down(&name))
    });
    done.join().unwrap_or_else(|_| bail!("it panicked"))
}
