//! What runs the guests' instructions: the processor itself where that works, else QEMU's translator.

use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::image::BootImage;
use crate::lab::{Layout, Process, prerequisites, wait_until};

/// How long a kernel may take to start its first program on a real processor; it takes two seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(30);
/// What the kernel says then.
const STARTED: &str = "Run /init as init process";

/// What runs the guests' instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// KVM if it boots a guest; that there is a device says little on a machine that is itself a guest.
    pub(super) async fn probe(layout: &Layout, image: &BootImage) -> Result<Self> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let dir = layout.dir();
        let console = dir.join("probe.console");
        let qemu = Process::new(layout, &dir, "probe", None);
        let (kernel, initrd) = (image.kernel.to_string_lossy(), image.initrd.to_string_lossy());
        let serial = format!("file:{}", console.display());
        let args = [
            &["-accel", Self::Kvm.name(), "-cpu", "max", "-m", "512", "-no-reboot"][..],
            &["-display", "none", "-monitor", "none", "-nic", "none", "-serial", &serial],
            &["-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0 panic=-1"],
        ]
        .concat();
        if qemu.start(&prerequisites::tool("qemu-system-x86_64")?, &args).await.is_err() {
            return Ok(Self::Tcg);
        }
        let started = wait_until("a kernel", PROBE_LIMIT, async || {
            let said = fs::read(&console)?;
            anyhow::ensure!(String::from_utf8_lossy(&said).contains(STARTED), "no kernel yet");
            Ok(())
        });
        let works = started.await.is_ok();
        qemu.stop(Signal::SIGKILL).await?;
        Ok(if works { Self::Kvm } else { Self::Tcg })
    }

    /// QEMU's word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }
}
