//! A registry that lets in nobody without a login, and whose certificate no engine trusts until it is told to.
//!
//! It runs on the machine itself, where all hosts reach it. Engines look for certificates in `/etc/docker/certs.d`, which
//! the hosts share with the machine; what is put there goes with the registry.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use bollard::auth::DockerCredentials;
use tokio::net::TcpStream;

use super::{Lab, images, process::Process};

/// Where it listens, at the machine's address in the lab.
const PORT: u16 = 5443;

/// How long it may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Who may push and pull: `push` with the same for a password, and [`PrivateRegistry::USERNAME`]. The hashes are bcrypt's,
/// the only ones that the program reads.
const USERS: &str = "push:$2a$05$4lMDEBINs2qPs09lvHNmJeKuICop0wMkSXRKgTFBYJorkM6LGkpqa
ci:$2a$05$09hssP9pVKpSzo9psKFY4ukk0ZDVvdEmfpwllln1aoyRdi5isA/1O
";

/// A running registry. Dropping it has engines forget its certificate.
#[derive(Debug)]
pub struct PrivateRegistry {
    host: String,
    certificate: String,
    trusted: PathBuf,
}

impl PrivateRegistry {
    /// Who may log in.
    pub const USERNAME: &str = "ci";
    /// With what. In base64 it has characters that stand for themselves in one alphabet and not in the other.
    pub const PASSWORD: &str = "right?>~?>~";

    /// What references of images in it begin with.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Has all engines trust its certificate.
    ///
    /// # Errors
    /// If the certificate cannot be written.
    pub fn trust(&self) -> Result<()> {
        fs::create_dir_all(&self.trusted)
            .and_then(|()| fs::write(self.trusted.join("ca.crt"), &self.certificate))
            .with_context(|| format!("cannot write into {}", self.trusted.display()))
    }

    /// To push with, past dwell.
    #[must_use]
    pub fn credentials(&self) -> DockerCredentials {
        DockerCredentials {
            username: Some("push".to_owned()),
            password: Some("push".to_owned()),
            serveraddress: Some(self.host.clone()),
            ..DockerCredentials::default()
        }
    }
}

impl Drop for PrivateRegistry {
    fn drop(&mut self) {
        // It is there only if somebody trusted it.
        fs::remove_dir_all(&self.trusted).ok();
    }
}

impl Lab {
    /// Starts it, empty.
    ///
    /// # Errors
    /// If the program cannot be had, or does not answer within half a minute.
    pub async fn start_private_registry(&self) -> Result<PrivateRegistry> {
        let program = images::program("docker-registry", &self.image_cache()).await?;
        let address = self.layout().machine_address();
        let at = SocketAddr::from((address, PORT));
        let host = at.to_string();
        let dir: PathBuf = self.layout().dir().join("private-registry");
        fs::create_dir_all(&dir).context("cannot make the registry's directory")?;
        let own = rcgen::generate_simple_self_signed(vec![address.to_string()])?;
        let certificate = own.cert.pem();
        let write = |name: &str, content: &str| {
            let path = dir.join(name);
            fs::write(&path, content).context("cannot write the registry's files")?;
            path.into_os_string().into_string().ok().context("the lab's path is not UTF-8")
        };
        let config = serde_json::json!({
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": dir.join("data")}},
            "http": {
                "addr": host,
                "tls": {
                    "certificate": write("certificate.pem", &certificate)?,
                    "key": write("key.pem", &own.signing_key.serialize_pem())?,
                },
            },
            "auth": {"htpasswd": {"realm": "lab", "path": write("users", USERS)?}},
        });
        let config = write("config.yml", &config.to_string())?;
        let process = Process::new(self.layout(), &dir, "private-registry", None);
        process.start(&program, &["serve", &config]).await?;
        process.ready(START_LIMIT, async || Ok(TcpStream::connect(at).await.map(drop)?)).await?;
        let trusted = PathBuf::from("/etc/docker/certs.d").join(&host);
        Ok(PrivateRegistry { host, certificate, trusted })
    }
}
