//! Packing a tree of files into an archive that `docker load` understands.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::lab::command::run;

/// The time that everything in an archive bears, so that the same tree gives the same image.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Packs `root` as image `name` with one layer; the archive is made in `work`.
pub(super) async fn pack(
    root: &Path,
    name: &str,
    command: &[&str],
    port: Option<u16>,
    work: &Path,
) -> Result<PathBuf> {
    let parts = work.join("parts");
    fs::create_dir_all(&parts)?;
    tar(root, &parts.join("layer.tar")).await?;
    let layer = digest(&parts.join("layer.tar"))?;
    let ports = port.map(|port| (format!("{port}/tcp"), json!({})));
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": EPOCH,
        "config": {
            "Cmd": command,
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "ExposedPorts": ports.into_iter().collect::<serde_json::Map<_, _>>(),
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "history": [{ "created": EPOCH, "created_by": "dwell-lab" }],
    });
    let config = serde_json::to_vec(&config)?;
    let config_name = format!("{:x}.json", Sha256::digest(&config));
    fs::write(parts.join(&config_name), config)?;
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": [format!("{name}:latest")],
        "Layers": ["layer.tar"],
    }]);
    fs::write(parts.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    let archive = work.join("image.tar");
    tar(&parts, &archive).await?;
    Ok(archive)
}

async fn tar(tree: &Path, archive: &Path) -> Result<()> {
    let options = ["--sort=name", "--mtime=@0", "--numeric-owner", "--create", "--file"];
    let mut args: Vec<&OsStr> = options.iter().map(AsRef::as_ref).collect();
    args.extend([archive.as_os_str(), "--directory".as_ref(), tree.as_os_str(), ".".as_ref()]);
    run("tar", &args).await?.ok()?;
    Ok(())
}

fn digest(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(format!("{:x}", hash.finalize()))
}

/// This machine's architecture in the words of container images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
