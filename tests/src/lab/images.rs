//! The lab's container images, made from Debian packages without a registry.
//!
//! A recipe names packages and files. The packages and all they depend on are fetched with the
//! machine's own apt, unpacked into a tree (nothing is installed, but in the image of a whole Debian), and packed into an archive for
//! `docker load`. Archives are cached under a digest of their recipe; the same archive gives the
//! same image id on every host.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::command::{feed, run};

mod archive;

/// An image of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// Answers every HTTP request to port 8080 with who it is and who asked, as JSON; see
    /// [`crate::demo`]. Has a shell and busybox, and `/program`, which starts late, ends by itself, ignores that it is
    /// told to end, or leaves children behind.
    Hello,
    /// Runs its own sshd on port 22 and lets in root with the key in `AUTHORIZED_KEY`.
    Sshd,
    /// Does nothing, and has what people work with over ssh: git, rsync, python; a user `dev` beside
    /// root; and OpenSSH's server, which does not run by itself.
    Tools,
    /// One static program and nothing else: no shell, no users, no directories but those an engine makes.
    Scratch,
    /// A whole Debian or Ubuntu, of the machine's own release, with systemd and what goes with it, and an SSH server that does not run by itself; it runs a shell that has nothing to do. In
    /// `/packages` is a package that can be installed.
    Debian,
}

/// What an image is made of.
struct Recipe {
    packages: &'static [&'static str],
    /// Executable files: path within the image, content.
    files: &'static [(&'static str, &'static str)],
    command: &'static [&'static str],
    port: Option<u16>,
    /// Only this file of all, put into the root directory.
    only: Option<&'static str>,
    /// A package that lies in it uninstalled; the others are installed then, with all that makes a system.
    spare: Option<&'static str>,
}

/// Removed from every tree: nothing in it runs, and it is most of the size.
const CLUTTER: [&str; 3] =
    ["usr/share", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/gconv"];

impl Image {
    /// All images that are small.
    pub const ALL: [Self; 4] = [Self::Hello, Self::Sshd, Self::Tools, Self::Scratch];

    /// The name that engines know it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Sshd => "sshd",
            Self::Tools => "tools",
            Self::Scratch => "scratch",
            Self::Debian => "debian",
        }
    }

    fn recipe(self) -> Recipe {
        match self {
            Self::Hello => Recipe {
                packages: &["busybox-static"],
                files: &[
                    ("start", include_str!("../../images/hello/start")),
                    ("program", include_str!("../../images/hello/program")),
                    ("www/cgi-bin/index.cgi", include_str!("../../images/hello/index.cgi")),
                ],
                command: &["/start"],
                port: Some(8080),
                only: None,
                spare: None,
            },
            Self::Sshd => Recipe {
                packages: &["busybox-static", "dropbear-bin"],
                files: &[("start", include_str!("../../images/sshd/start"))],
                command: &["/start"],
                port: Some(22),
                only: None,
                spare: None,
            },
            Self::Tools => Recipe {
                packages: &["busybox-static", "git", "openssh-server", "python3", "rsync"],
                files: &[("start", include_str!("../../images/tools/start"))],
                command: &["/start"],
                port: None,
                only: None,
                spare: None,
            },
            Self::Scratch => Recipe {
                packages: &["busybox-static"],
                files: &[],
                command: &["/busybox", "sleep", "infinity"],
                port: None,
                only: Some("usr/bin/busybox"),
                spare: None,
            },
            Self::Debian => Recipe {
                packages: &[
                    "adduser",
                    "cron",
                    "dbus",
                    "iproute2",
                    "libpam-systemd",
                    "openssh-server",
                    "procps",
                    "sudo",
                    "systemd-sysv",
                    "tmux",
                ],
                files: &[],
                command: &["bash"],
                port: None,
                only: None,
                spare: Some("tree"),
            },
        }
    }

    /// The image as an archive for `docker load`, made now or taken from `cache`.
    ///
    /// # Errors
    /// If a package cannot be had or unpacked, or `cache` not be written.
    pub async fn archive(self, cache: &Path) -> Result<PathBuf> {
        make_like_parent(cache)?;
        let recipe = self.recipe();
        let path = cache.join(format!("{}-{}.tar", self.name(), &recipe.digest()[..16]));
        let _one_at_a_time = {
            let dir =
                File::open(cache).with_context(|| format!("cannot open {}", cache.display()))?;
            #[expect(clippy::disallowed_methods, reason = "a lab waits for nothing else meanwhile")]
            let locking = tokio::task::spawn_blocking(|| Flock::lock(dir, FlockArg::LockExclusive));
            locking.await?.map_err(|(_, error)| error).context("cannot lock the image cache")?
        };
        if !path.exists() {
            let work = tempfile::tempdir_in(cache).context("cannot make a directory to work in")?;
            let made = self.make(&recipe, work.path()).await;
            let made = made.with_context(|| format!("cannot make the image {}", self.name()))?;
            fs::rename(made, &path).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(path)
    }

    async fn make(self, recipe: &Recipe, work: &Path) -> Result<PathBuf> {
        if let Some(spare) = recipe.spare {
            let root = install(recipe.packages, spare, work).await?;
            return archive::pack(&root, self.name(), recipe.command, recipe.port, work).await;
        }
        let root = work.join("root");
        lay_out(&root)?;
        for package in fetch(recipe.packages, work).await? {
            unpack(&package, &root).await?;
        }
        if let Some(only) = recipe.only {
            let bare = work.join("bare");
            fs::create_dir(&bare)?;
            let name = Path::new(only).file_name().context("a recipe names no file")?;
            fs::copy(root.join(only), bare.join(name))?;
            return archive::pack(&bare, self.name(), recipe.command, recipe.port, work).await;
        }
        for clutter in CLUTTER.map(|clutter| root.join(clutter)) {
            if clutter.exists() {
                fs::remove_dir_all(clutter)?;
            }
        }
        link_applets(&root).await?;
        for (path, content) in recipe.files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&root))?;
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        archive::pack(&root, self.name(), recipe.command, recipe.port, work).await
    }
}

/// A program of the Debian package of the same name, fetched now or taken from `cache`. Nothing is installed, so no
/// service of the package is started either.
///
/// # Errors
/// If the package cannot be had or unpacked, or `cache` not be written.
pub(crate) async fn program(name: &str, cache: &Path) -> Result<PathBuf> {
    make_like_parent(cache)?;
    let path = cache.join(name);
    if !path.exists() {
        let work = tempfile::tempdir_in(cache).context("cannot make a directory to work in")?;
        let root = work.path().join("root");
        lay_out(&root)?;
        let package = fetch(&[name], work.path()).await?.into_iter().find(|file| {
            file.file_name()
                .is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}_")))
        });
        unpack(&package.with_context(|| format!("apt fetched no {name}"))?, &root).await?;
        let program = root.join("usr/bin").join(name);
        fs::rename(program, &path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

impl Recipe {
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        // Raised when the making itself changes.
        hash.update("3\0");
        for package in self.packages {
            hash.update(format!("{package}\0"));
        }
        for (path, content) in self.files {
            hash.update(format!("{path}\0{content}\0"));
        }
        hash.update(format!("{:?}\0{:?}\0{:?}", self.command, self.port, self.only));
        if let Some(spare) = self.spare {
            hash.update(format!("{spare}\0{INSTALL}"));
        }
        format!("{:x}", hash.finalize())
    }
}

/// Installs a system of the machine's own release into the directory `$1`.
const INSTALL: &str = "
set -e
. /etc/os-release
mmdebstrap --quiet --mode=root --variant=minbase --format=directory --include=\"$2\" \
    --aptopt='Acquire::Languages \"none\"' --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='systemctl --root=\"$1\" disable ssh.service ssh.socket' \
    \"$VERSION_CODENAME\" \"$1\"
";

/// A system with all of `packages` installed, and one that is not beside them.
async fn install(packages: &[&str], spare: &str, work: &Path) -> Result<PathBuf> {
    let root = work.join("root");
    let (tree, packages) = (root.display().to_string(), packages.join(","));
    run("sh", &["-c", INSTALL, "sh", &tree, &packages]).await?.ok()?;
    fs::create_dir(root.join("packages"))?;
    for package in fetch(&[spare], work).await? {
        let name = package.file_name().context("a package has no name")?;
        if name.to_string_lossy().starts_with(&format!("{spare}_")) {
            fs::copy(&package, root.join("packages").join(name))?;
        }
    }
    Ok(root)
}

/// Makes the directories and files that every image has.
fn lay_out(root: &Path) -> Result<()> {
    // Debian's merged /usr, which its packages take for granted.
    for dir in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(dir))?;
        symlink(format!("usr/{dir}"), root.join(dir))?;
    }
    for (dir, mode) in [("etc", 0o755), ("run", 0o755), ("root", 0o700), ("tmp", 0o1777)] {
        fs::create_dir(root.join(dir))?;
        fs::set_permissions(root.join(dir), fs::Permissions::from_mode(mode))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\ndev:x:1000:1000:dev:/home/dev:/bin/sh\n\
         sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\ndev:x:1000:\nteam:x:2000:dev\n")?;
    fs::create_dir_all(root.join("home/dev"))?;
    chown(root.join("home/dev"), Some(1000), Some(1000))?;
    Ok(())
}

/// Gives busybox the names of all its applets that no real program has.
async fn link_applets(root: &Path) -> Result<()> {
    let applets = run(root.join("usr/bin/busybox"), &["--list"]).await?.ok()?;
    for applet in applets.lines() {
        let mut places = ["usr/bin", "usr/sbin"].iter().map(|dir| root.join(dir).join(applet));
        if !places.any(|place| place.exists()) {
            symlink("busybox", root.join("usr/bin").join(applet))?;
        }
    }
    Ok(())
}

/// Downloads `packages` and all they depend on, as if nothing were installed.
async fn fetch(packages: &[&str], work: &Path) -> Result<Vec<PathBuf>> {
    let archives = work.join("packages");
    fs::create_dir_all(archives.join("partial"))?;
    // An empty list of what is installed makes apt resolve everything.
    let status = work.join("status");
    fs::write(&status, "")?;
    let mut args = vec![
        "-q".to_owned(),
        "-y".to_owned(),
        "--download-only".to_owned(),
        "--no-install-recommends".to_owned(),
        format!("-oDir::State::status={}", status.display()),
        format!("-oDir::Cache::archives={}", archives.display()),
        // The machine's own packages are not what is worked on, so nobody has to wait.
        "-oDebug::NoLocking=1".to_owned(),
        // Its unprivileged downloader cannot read below a home directory.
        "-oAPT::Sandbox::User=root".to_owned(),
        "install".to_owned(),
    ];
    args.extend(packages.iter().map(|package| (*package).to_owned()));
    let mut fetched = run("apt-get", &args).await?;
    if !fetched.status.success() {
        // A fresh machine has no package lists, an old one has stale ones.
        run("apt-get", &["-q", "update"]).await?.ok()?;
        fetched = run("apt-get", &args).await?;
    }
    fetched.ok().with_context(|| format!("cannot have the packages {}", packages.join(", ")))?;
    let files = fs::read_dir(&archives)?.flatten().map(|entry| entry.path());
    Ok(files.filter(|path| path.extension().is_some_and(|ext| ext == "deb")).collect())
}

async fn unpack(package: &Path, root: &Path) -> Result<()> {
    // `dpkg-deb --extract` would put a directory in the place of a link such as /lib.
    let script = "dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\" --keep-directory-symlink";
    let args =
        ["-c".as_ref(), script.as_ref(), "sh".as_ref(), package.as_os_str(), root.as_os_str()];
    feed("sh", &args, "").await?;
    Ok(())
}

/// Makes a directory that belongs to whom its parent belongs to: under sudo the build directory
/// stays the user's.
fn make_like_parent(dir: &Path) -> Result<()> {
    if dir.exists() {
        return Ok(());
    }
    let parent = dir.parent().with_context(|| format!("{} has no parent", dir.display()))?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let owner =
        fs::metadata(parent).with_context(|| format!("cannot read {}", parent.display()))?;
    chown(dir, Some(owner.uid()), Some(owner.gid()))
        .with_context(|| format!("cannot give {} to its owner", dir.display()))
}
