//! dwell on real machines: Debian with systemd, control groups of version 2 and the packages, under QEMU.
//!
//! The [`lab`](crate::lab) runs dwell's processes by hand in network namespaces, so it says nothing of what only a real
//! boot has: units with their filters and bounds, a shutdown, control groups of version 2, a kernel of its own, other
//! people's firewalls, package upgrades and removals. This suite does, and takes the time for it.
//!
//! ```text
//!  packages ─┐
//!            ├─▶ fleet ──▶ check after check, each on what the one before has left
//!  image ────┤     └─ guest (QEMU, SSH) ─ TAP ─ bridge in the lab's namespace
//!  accelerator
//! ```
//!
//! The guests are a lab by the name of `vm`: its processes, namespaces and files are found by name and mark, so a run
//! removes what a killed one has left, and so does `dwell-lab down --name vm`. They reach nothing but each other and this
//! machine's end of the lab's network.
//!
//! Code map: `image` makes the disk, `accelerator` decides how guests run, `guest` is one of them, `fleet` all of them
//! with dwell's words, `listing` compares two moments of a guest, `check` is what must hold.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail, ensure};
use nix::unistd::Uid;

use crate::lab::prerequisites;

mod accelerator;
mod check;
mod fleet;
mod guest;
mod image;
mod listing;

use check::Check;
use fleet::Fleet;
pub use image::Suite;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory with the packages.
    pub packages: PathBuf,
    /// Which release of Debian the guests have.
    pub suite: Suite,
    /// How many guests, 1 to 3.
    pub guests: usize,
    /// Only the first checks, which one guest is enough for.
    pub short: bool,
    /// Only these checks, by name, and those that all others begin with.
    pub only: Vec<String>,
    /// Keep the guests afterwards, for a look at them or for a run that goes on with them.
    pub keep: bool,
    /// Go on with the guests that an earlier run has kept, as it has left them.
    pub kept: bool,
    /// Where its progress goes, a line at a time.
    pub say: fn(&str),
}

/// Boots guests, installs the packages, and looks whether all that must hold does.
///
/// # Errors
/// The checks that failed, each with its reason; or why there are no guests.
pub async fn run(options: &Options) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "network namespaces and file systems are made here, which only root can; run this as root or with sudo"
    );
    let missing = prerequisites::missing_for_machines();
    ensure!(
        missing.is_empty(),
        "virtual machines need the packages {}; `dwell-lab setup --vm` installs them",
        missing.join(", ")
    );
    ensure!((1..=3).contains(&options.guests), "there are 1 to 3 guests, not {}", options.guests);
    let say = options.say;
    let start = Instant::now();
    let (checks, fleet) = if options.kept {
        let fleet = Fleet::kept(options).await?;
        let all = Check::all(false, fleet.guests().len());
        (Check::named(&all, &options.only)?, fleet)
    } else {
        let all = Check::all(options.short, options.guests);
        let checks = Check::only(all, &options.only)?;
        (checks, Fleet::up(options).await?)
    };
    say(&format!("guests: {}", fleet.versions().await?));
    let (mut failed, mut passed) = (Vec::new(), 0);
    for check in &checks {
        let began = Instant::now();
        let done = check.run(&fleet).await;
        let took = began.elapsed().as_secs();
        match done {
            Ok(shown) => {
                say(&format!("ok      {} ({took} s): {shown}", check.name()));
                passed += 1;
            }
            Err(error) => {
                say(&format!("FAILED  {} ({took} s): {error:#}", check.name()));
                failed.push(check.name());
                if check.is_ground() {
                    break;
                }
            }
        }
    }
    if options.keep {
        say("the guests are kept; `dwell-lab down --name vm` removes them");
        fleet.leave_up();
    } else {
        fleet.down().await?;
    }
    let minutes = start.elapsed().as_secs().div_ceil(60);
    say(&format!(
        "{passed} passed, {} failed, {} not run, in {minutes} minutes",
        failed.len(),
        checks.len() - passed - failed.len()
    ));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
