//! The disk that every guest begins with: Debian with systemd, Docker and the firewalls that people have.
//!
//! A tree is made by `mmdebstrap` and written into a file system; its kernel and initial file system are put beside
//! it, since guests are booted from these directly. All three are cached under a digest of the recipe. Nothing in the
//! tree is particular to one guest or secret: name, address and key come from the guest's firmware at boot.

use std::{
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::lab::command::{command, finish_within};

/// What guests are made of, beside what is essential.
const PACKAGES: [&str; 27] = [
    "apparmor",
    "busybox",
    "ca-certificates",
    "dbus",
    "docker-cli",
    "docker.io",
    "firewalld",
    "init",
    "init-system-helpers",
    "initramfs-tools",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "libnss-resolve",
    "linux-image-cloud-amd64",
    "man-db",
    "nftables",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3-minimal",
    "systemd",
    "systemd-resolved",
    "udev",
    "ufw",
    "zstd",
];

/// Run in the finished tree. Guests start what people have; the two firewalls only when a check asks for one.
const FINISH: &str = "
set -e
rm -f etc/hostname etc/machine-id var/lib/dbus/machine-id etc/ssh/ssh_host_*
touch etc/machine-id
printf '/dev/vda / ext4 rw,discard 0 1\\n' > etc/fstab
printf 'PermitRootLogin prohibit-password\\nUseDNS no\\n' > etc/ssh/sshd_config.d/lab.conf
printf '[Unit]\\nBefore=ssh.service\\n[Service]\\nType=oneshot\\nExecStart=/usr/bin/ssh-keygen -A\\n[Install]\\nWantedBy=multi-user.target\\n' \
    > etc/systemd/system/host-keys.service
printf '[Journal]\\nRateLimitBurst=0\\nStorage=persistent\\n' > etc/systemd/journald.conf.d/lab.conf
chroot . systemctl -q enable systemd-networkd systemd-resolved systemd-journald-audit.socket ssh docker host-keys
chroot . systemctl -q disable firewalld ufw systemd-networkd-wait-online || true
chroot . systemctl -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer man-db.timer \
    dpkg-db-backup.timer getty@tty1.service serial-getty@ttyS0.service
rm -rf var/lib/apt/lists/* var/cache/apt/*.bin
";

/// The size of the file system; the file has holes where nothing is written.
const DISK_SIZE: &str = "6G";

/// How long packages may take to be fetched and unpacked.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// The release of Debian that guests are made of, by its name in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite(String);

impl Default for Suite {
    /// Debian 13.
    fn default() -> Self {
        Self("trixie".to_owned())
    }
}

impl FromStr for Suite {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_meant =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.starts_with(|first: char| first.is_ascii_lowercase()) && text.bytes().all(is_meant)
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is no release of Debian; name one as its archive does, such as trixie or forky"
            ))
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a guest is booted from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BootImage {
    /// The file system; each guest has a copy.
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

impl BootImage {
    /// Takes it from `cache`, or makes it.
    ///
    /// # Errors
    /// If packages cannot be had, or `cache` not be written.
    pub(super) async fn get(cache: &Path, suite: &Suite, say: fn(&str)) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let lock = File::open(cache).context("cannot open the cache of disks")?;
        #[expect(clippy::disallowed_methods, reason = "a guest waits for nothing else meanwhile")]
        let locking = tokio::task::spawn_blocking(|| Flock::lock(lock, FlockArg::LockExclusive));
        let _one_at_a_time =
            locking.await?.map_err(|(_, error)| error).context("cannot lock the cache of disks")?;
        let place = cache.join(digest(suite));
        if !place.exists() {
            say(&format!(
                "making a disk of {suite} for the guests; later runs take it from the cache"
            ));
            let work = tempfile::tempdir_in(cache).context("cannot make a directory to work in")?;
            make(work.path(), suite).await.context("cannot make the disk of the guests")?;
            let made = work.path().join("made");
            fs::rename(&made, &place)
                .with_context(|| format!("cannot make {}", place.display()))?;
        }
        Ok(Self {
            disk: place.join("disk"),
            kernel: place.join("kernel"),
            initrd: place.join("initrd"),
        })
    }
}

fn digest(suite: &Suite) -> String {
    let mut hash = Sha256::new();
    // Raised when the making itself changes.
    hash.update("1\0");
    hash.update(PACKAGES.join(" "));
    hash.update(FINISH);
    hash.update(making(suite));
    hash.update(DISK_SIZE);
    format!("{:x}", hash.finalize())[..16].to_owned()
}

/// The script that makes the disk.
fn making(suite: &Suite) -> String {
    MAKE.replace(" trixie ", &format!(" {suite} "))
}

/// Makes the tree in memory, since installing packages waits for the disk again and again; the mount goes with its
/// namespace, however this ends.
const MAKE: &str = "
set -e
work=$1
mkdir -p $work/root $work/made
mount -t tmpfs -o size=3G,mode=755 root $work/root
mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include=$2 \
    --aptopt='Acquire::Languages \"none\"' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='cd \"$1\"; mkdir -p etc/ssh/sshd_config.d etc/systemd/journald.conf.d' \
    --customize-hook=\"$3\" trixie $work/root/tree
cp $work/root/tree/boot/vmlinuz-* $work/made/kernel
cp $work/root/tree/boot/initrd.img-* $work/made/initrd
mkfs.ext4 -q -F -E root_owner=0:0 -d $work/root/tree $work/made/disk $4
";

async fn make(work: &Path, suite: &Suite) -> Result<()> {
    let finish = format!("cd \"$1\"\n{FINISH}");
    let (work, packages) = (work.display().to_string(), PACKAGES.join(","));
    let making = making(suite);
    let script = ["--mount", "--propagation=private", "sh", "-c", &making, "sh"];
    let words = [&script[..], &[&work, &packages, &finish, DISK_SIZE]].concat();
    finish_within(LIMIT, command("unshare".as_ref(), &words), "").await?.ok().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_has_a_disk_of_its_own_and_words_for_a_shell_are_none() {
        let forky: Suite = "forky".parse().unwrap();
        assert_ne!(digest(&forky), digest(&Suite::default()));
        assert!(making(&forky).contains(" forky $work"));
        for wrong in ["", "13", "forky; reboot", "../sid", "Trixie"] {
            let said = wrong.parse::<Suite>().unwrap_err();
            assert!(said.contains("such as trixie"), "{said}");
        }
    }
}
