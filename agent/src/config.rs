//! The agent's configuration: one strict YAML file in which every key is optional.
//!
//! ```yaml
//! name: h1                  # this host's node name; default: the host name up to its first dot
//! address: 192.168.1.11     # its IPv4 address in the underlay; default: where its default route leaves from,
//!                           # also when that changes
//! host_id: rack7-slot3      # names this machine, and no copy of its disk; default: its firmware's product UUID; '': unknown
//! controller: ctl:7400      # HOST:PORT of the controller; default: the one it joined
//! data_dir: /var/lib/dwell/agent   # identity and the last assignment; must survive a reboot
//! run_dir: /run/dwell       # sandboxes; must not survive a reboot
//! docker:
//!   socket: /var/run/docker.sock
//! registries: {}            # how this host logs in to registries, in place of the cluster's logins; HOST: one of
//!                           # {username: NAME, password_file: PATH}, {identity_token_file: PATH}, {credential_helper: NAME}
//! images:                   # images that this agent fetched, and that no instance needs or would fall back to
//!   keep: 72h               # are removed after so long; `forever`: not for that
//!   high: 85%               # are removed sooner once the disk that they are on is so full,
//!   low: 70%                # until it is less full than this
//! allow_binds: []           # paths of this host which, with all below them, instances may mount; a path may be a link, but
//!                           # not one that lies where instances write
//! allow_capabilities: []    # capabilities that instances may have beside those that the engine gives, such as SYS_PTRACE
//! allow_devices: []         # devices of this host that instances may have, such as /dev/fuse, or directories of them, /dev/dri
//! host_access: []           # ports of this host itself that instances may connect to: 5000, 123/udp, 8000-8080/tcp
//! masquerade: true          # instances reach what is beyond the cluster under this host's address
//! untracked: true           # what instances say to each other is not tracked where no `allow_from` needs it; `false` where a
//!                           # firewall of this host's own decides about it by the state of connections, or translates it
//! connections_max: 0        # how many connections the kernel tracks at a time of those that one instance begins, at most 8192; the
//!                           # next is dropped. The more there are, the dearer is each new one. 0: any number
//! overlay: auto             # how instances of nodes are reached that share no segment with this one: auto, by VXLAN; never, not at
//!                           # all; always, by VXLAN those of all nodes; the same on all nodes, as is the port
//! overlay_port: 4789        # UDP port of VXLAN
//! routes_only: false        # run no instances, only keep the routes to them
//! reboot_command: []        # what reboots this host when the controller orders it, such as [systemctl, reboot]; [] refuses that
//! dns:
//!   enabled: true           # answer DNS at 169.254.1.1 and have instances ask there
//!   listen: []              # further ADDRESS:PORT to answer at, such as 192.168.1.11:53
//!   upstream: []            # ADDRESS:PORT of servers for other names; default: this host's resolvers
//! log: info                 # what is logged: error, warn, info, debug, also by module, such as info,dwell_agent::session=debug
//! ```
//!
//! The values above are the defaults; `dwell-agent --check` says what is wrong with a file without
//! starting anything.

mod images;
mod overlay;
mod ports;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use dwell_core::id::NodeName;
use dwell_core::registry::RegistryHost;
use dwell_daemon::config::ConfigError;
use dwell_daemon::logging;
use dwell_docker::credentials::{NotAHelper, OwnLogin};
use serde::Deserialize;

use dwell_network::GATEWAY;
use dwell_network::linux::underlay_address;

pub use self::images::{Images, Keep, Percent};
pub use self::overlay::{OverlayChoice, OverlayMode};
pub use self::ports::HostPorts;

/// Where the file is looked for when none is named.
pub const DEFAULT_PATH: &str = "/etc/dwell/agent.yaml";
/// How many ranges of ports may be opened: each is a rule.
const HOST_ACCESS_MAX: usize = 64;
/// How many connections of an instance may be counted: the kernel looks through all of them for each new one.
const CONNECTIONS_MAX: u32 = 8192;
/// How many words the command that reboots the host may have.
const REBOOT_WORDS_MAX: usize = 32;
/// The longest name of a machine, in bytes.
const HOST_ID_MAX: usize = 256;

/// Everything an operator can choose.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This host's node name.
    pub name: Option<NodeName>,
    /// Its address in the underlay.
    pub address: Option<Ipv4Addr>,
    /// Names this machine and no copy of it, in place of what its firmware says; empty if nothing does.
    pub host_id: Option<String>,
    /// `HOST:PORT` of the controller.
    pub controller: Option<String>,
    /// Directory of the identity, the last assignment and the lock.
    pub data_dir: PathBuf,
    /// Directory of the sandboxes, which `dwell-oci` shares.
    pub run_dir: PathBuf,
    /// The engine.
    pub docker: Docker,
    /// How this host logs in to registries, in place of the cluster's logins.
    pub registries: BTreeMap<RegistryHost, Registry>,
    /// How long images stay that nothing needs.
    pub images: Images,
    /// Absolute paths which, with all below them, instances may mount.
    pub allow_binds: Vec<PathBuf>,
    /// Capabilities that instances may have beside those that the engine gives, without `CAP_`.
    pub allow_capabilities: Vec<String>,
    /// Absolute paths of devices that instances may have, and of directories of them.
    pub allow_devices: Vec<PathBuf>,
    /// Ports of this host itself that instances may connect to, beside names and echoes.
    pub host_access: Vec<HostPorts>,
    /// Whether instances reach what is beyond the cluster under this host's address.
    pub masquerade: bool,
    /// Whether what instances say to each other goes without connection tracking where no policy needs it.
    pub untracked: bool,
    /// How many connections the kernel may track at a time of those that one instance begins; 0 for any number.
    pub connections_max: u32,
    /// How instances of nodes are reached that share no segment with this one.
    pub overlay: OverlayMode,
    /// The UDP port at which the nodes receive them.
    pub overlay_port: u16,
    /// Whether this host only wants the routes.
    pub routes_only: bool,
    /// What reboots the host when the controller orders it; empty refuses that.
    pub reboot_command: Vec<String>,
    /// The DNS server.
    pub dns: Dns,
    /// What is logged: a level, also by module.
    pub log: String,
}

/// How the Docker daemon is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Docker {
    /// Its socket.
    pub socket: PathBuf,
}

/// How this host logs in to one registry: by exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// As whom, with a password.
    pub username: Option<String>,
    /// The file with the password.
    pub password_file: Option<PathBuf>,
    /// The file with a token that the registry gave out.
    pub identity_token_file: Option<PathBuf>,
    /// The `NAME` of a program `docker-credential-NAME`.
    pub credential_helper: Option<String>,
}

/// What the node's DNS server does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Whether there is one. Without it, instances ask this host's resolvers.
    pub enabled: bool,
    /// Where it answers beside the gateway of the instances.
    pub listen: Vec<SocketAddr>,
    /// Who knows names that are not the cluster's; this host's resolvers if empty.
    pub upstream: Vec<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            address: None,
            host_id: None,
            controller: None,
            data_dir: "/var/lib/dwell/agent".into(),
            run_dir: dwell_oci::DEFAULT_STATE_DIR.into(),
            docker: Docker::default(),
            registries: BTreeMap::new(),
            images: Images::default(),
            allow_binds: Vec::new(),
            allow_capabilities: Vec::new(),
            allow_devices: Vec::new(),
            host_access: Vec::new(),
            masquerade: true,
            untracked: true,
            connections_max: 0,
            overlay: OverlayMode::Auto,
            overlay_port: 4789,
            routes_only: false,
            reboot_command: Vec::new(),
            dns: Dns::default(),
            log: "info".into(),
        }
    }
}

impl Default for Docker {
    fn default() -> Self {
        Self { socket: "/var/run/docker.sock".into() }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self { enabled: true, listen: Vec::new(), upstream: Vec::new() }
    }
}

/// Why what the configuration leaves to the host cannot be taken from it.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No name was given and the host's own cannot be used.
    #[error(
        "this host's name {hostname:?} cannot be a node's ({source}); set `name` in the configuration"
    )]
    Hostname {
        /// The host's name.
        hostname: String,
        /// What is wrong with it.
        source: dwell_core::id::NameError,
    },
    /// No address was given and there is no default route to take it from.
    #[error(
        "this host's address cannot be told by its default route; set `address` in the configuration"
    )]
    NoAddress(#[source] io::Error),
}

impl Config {
    /// Reads and checks a file; without one named, [`DEFAULT_PATH`] if it is there, else the defaults.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read or is not valid.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let config: Self = dwell_daemon::config::load(path, Path::new(DEFAULT_PATH))?;
        config.check()?;
        Ok(config)
    }

    /// The node name: the configured one, or the host's.
    ///
    /// # Errors
    /// [`HostError::Hostname`] if the host's name is no DNS label.
    pub fn node_name(&self) -> Result<NodeName, HostError> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let hostname = nix::unistd::gethostname().unwrap_or_default();
        let hostname = hostname.to_string_lossy().to_lowercase();
        let label = hostname.split('.').next().unwrap_or_default();
        NodeName::new(label).map_err(|source| HostError::Hostname { hostname, source })
    }

    /// The address in the underlay: the configured one, or where the default route leaves from.
    ///
    /// # Errors
    /// [`HostError::NoAddress`] without either.
    pub async fn underlay_address(&self) -> Result<Ipv4Addr, HostError> {
        match self.address {
            Some(address) => Ok(address),
            None => underlay_address().await.map_err(HostError::NoAddress),
        }
    }

    /// How this host logs in to registries by its own configuration.
    #[must_use]
    pub fn logins(&self) -> BTreeMap<RegistryHost, OwnLogin> {
        // One that makes no sense was refused with the file.
        let login = |(host, registry): (&RegistryHost, &Registry)| {
            Some((host.clone(), registry.login().ok()?))
        };
        self.registries.iter().filter_map(login).collect()
    }

    /// What is chosen about the overlay.
    #[must_use]
    pub fn overlay_choice(&self) -> OverlayChoice {
        OverlayChoice { mode: self.overlay, port: self.overlay_port }
    }

    /// What of this host instances may have.
    #[must_use]
    pub fn allowed(&self) -> dwell_docker::Allowed {
        dwell_docker::Allowed {
            binds: self.allow_binds.clone(),
            capabilities: self.allow_capabilities.clone(),
            devices: self.allow_devices.clone(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let paths = [
            ("data_dir", &self.data_dir),
            ("run_dir", &self.run_dir),
            ("docker.socket", &self.docker.socket),
        ];
        let binds = self.allow_binds.iter().map(|path| ("allow_binds", path));
        let devices = self.allow_devices.iter().map(|path| ("allow_devices", path));
        for (key, path) in paths.into_iter().chain(binds).chain(devices) {
            let plain = path.components().all(|part| part != Component::ParentDir);
            if !path.is_absolute() || !plain {
                let problem = format!("{path:?} has to be an absolute path without \"..\"");
                return Err(ConfigError::Value { key, problem });
            }
        }
        let is_capability = |name: &&String| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        };
        if let Some(name) = self
            .allow_capabilities
            .iter()
            .find(|name| !is_capability(name) || name.starts_with("CAP_"))
        {
            let problem = format!(
                "{name:?} is no capability; write its name in capitals without CAP_, such as SYS_PTRACE"
            );
            return Err(ConfigError::Value { key: "allow_capabilities", problem });
        }
        if let Some(controller) = &self.controller {
            check_endpoint(controller)
                .map_err(|problem| ConfigError::Value { key: "controller", problem })?;
        }
        let is_runnable = match self.reboot_command.split_first() {
            Some((program, _)) => !program.is_empty(),
            None => true,
        };
        let words = &self.reboot_command;
        if !is_runnable
            || words.len() > REBOOT_WORDS_MAX
            || words.iter().any(|word| word.contains('\0'))
        {
            let problem = format!(
                "has to be a program and its arguments, at most {REBOOT_WORDS_MAX} words, such as [systemctl, reboot]"
            );
            return Err(ConfigError::Value { key: "reboot_command", problem });
        }
        let is_plain = |id: &String| id.len() <= HOST_ID_MAX && !id.contains(char::is_control);
        if self.host_id.as_ref().is_some_and(|id| !is_plain(id)) {
            let problem = format!("has to be one line of at most {HOST_ID_MAX} bytes");
            return Err(ConfigError::Value { key: "host_id", problem });
        }
        if self.host_access.len() > HOST_ACCESS_MAX {
            let problem = format!("has to have at most {HOST_ACCESS_MAX} entries");
            return Err(ConfigError::Value { key: "host_access", problem });
        }
        if self.connections_max > CONNECTIONS_MAX {
            let problem = format!(
                "has to be at most {CONNECTIONS_MAX}, as the kernel looks through all of them for each new one; 0 allows any \
                 number"
            );
            return Err(ConfigError::Value { key: "connections_max", problem });
        }
        for (host, registry) in &self.registries {
            registry.login().map_err(|problem| ConfigError::Value {
                key: "registries",
                problem: format!("{host}: {problem}"),
            })?;
        }
        self.images.check()?;
        self.dns.check()?;
        if self.overlay_port == 0 {
            let problem = "0 is not a port that others can send to".to_owned();
            return Err(ConfigError::Value { key: "overlay_port", problem });
        }
        let unusable = |address: &Ipv4Addr| {
            address.is_unspecified() || address.is_multicast() || address.is_broadcast()
        };
        if let Some(address) = self.address.filter(unusable) {
            let problem = format!("{address} is not an address that a host can have");
            return Err(ConfigError::Value { key: "address", problem });
        }
        logging::check(&self.log)
            .map_err(|error| ConfigError::Value { key: "log", problem: error.to_string() })
    }
}

impl Registry {
    fn login(&self) -> Result<OwnLogin, String> {
        let Self { username, password_file, identity_token_file, credential_helper } = self;
        let login = match (username, password_file, identity_token_file, credential_helper) {
            (Some(username), Some(file), None, None) => {
                OwnLogin::Password { username: username.clone(), file: file.clone() }
            }
            (None, None, Some(file), None) => OwnLogin::IdentityToken { file: file.clone() },
            (None, None, None, Some(name)) => OwnLogin::Helper(
                name.parse()
                    .map_err(|error: NotAHelper| format!("credential_helper {name:?} {error}"))?,
            ),
            _ => {
                return Err("give one of: username with password_file, identity_token_file, \
                            credential_helper"
                    .to_owned());
            }
        };
        let (OwnLogin::Password { file, .. } | OwnLogin::IdentityToken { file }) = &login else {
            return Ok(login);
        };
        if !file.is_absolute() {
            return Err(format!("{file:?} has to be an absolute path"));
        }
        Ok(login)
    }
}

impl Dns {
    fn check(&self) -> Result<(), ConfigError> {
        for address in &self.listen {
            // From all addresses at once it could not be told which of them was asked, and has to answer.
            if address.ip().is_unspecified() || address.port() == 0 {
                let problem = format!("{address} has to be one address of this host and a port");
                return Err(ConfigError::Value { key: "dns.listen", problem });
            }
            if address.ip() == IpAddr::V4(GATEWAY) {
                let problem = format!("{address} is answered at anyway; remove it");
                return Err(ConfigError::Value { key: "dns.listen", problem });
            }
        }
        let is_own = |address: &&SocketAddr| {
            self.listen.contains(address) || address.ip() == IpAddr::V4(GATEWAY)
        };
        match self.upstream.iter().find(is_own) {
            None => Ok(()),
            Some(address) => {
                let problem = format!("{address} is this server itself; name another one");
                Err(ConfigError::Value { key: "dns.upstream", problem })
            }
        }
    }
}

/// Checks the form `HOST:PORT`.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn check_endpoint(text: &str) -> Result<(), String> {
    let parts = text.rsplit_once(':');
    match parts.map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(1..)))
            if !host.is_empty() && !host.contains(|c: char| c == '/' || c.is_whitespace()) =>
        {
            Ok(())
        }
        _ => Err(format!("{text:?} is not HOST:PORT, such as controller.example:7400")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let documented: Vec<&str> = include_str!("config.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! "))
            .skip_while(|line| !line.starts_with("name:"))
            .take_while(|line| !line.starts_with("```"))
            .collect();
        let mut config: Config = serde_saphyr::from_str(&documented.join("\n")).unwrap();
        assert!(config.name.take().is_some());
        assert!(config.address.take().is_some());
        assert!(config.host_id.take().is_some());
        assert!(config.controller.take().is_some());
        assert_eq!(config, Config::default());
        assert!(config.check().is_ok());
    }

    #[test]
    fn files_of_nothing_are_fine() {
        for text in ["", "\n\n", "# name: h1\n"] {
            assert_eq!(
                dwell_daemon::config::parse::<Config>(text),
                Ok(Config::default()),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, named) in [
            ("nmae: h1", "nmae"),
            ("name: h1\nname: h2", "name"),
            ("name: Über", "name"),
            ("address: 10.0.0.1/24", "address"),
            ("address: 0.0.0.0", "address"),
            ("host_id: \"a\\nb\"", "host_id"),
            ("controller: ctl", "controller"),
            ("controller: https://ctl:7400", "controller"),
            ("controller: 'ctl:0'", "controller"),
            ("data_dir: var", "data_dir"),
            ("allow_binds: [/srv/../etc]", "allow_binds"),
            ("allow_devices: [fuse]", "allow_devices"),
            ("allow_capabilities: [CAP_SYS_PTRACE]", "allow_capabilities"),
            ("allow_capabilities: [sys_ptrace]", "allow_capabilities"),
            ("docker: {sock: /x}", "sock"),
            ("host_access: 5000", "host_access"),
            ("host_access: [0]", "ports"),
            ("host_access: [65536]", "ports"),
            ("host_access: [9-8]", "ports"),
            ("host_access: [53/sctp]", "ports"),
            ("host_access: [all]", "ports"),
            ("masquerade: 3", "masquerade"),
            ("reboot_command: ['']", "reboot_command"),
            ("connections_max: -1", "connections_max"),
            ("connections_max: many", "connections_max"),
            ("connections_max: 8193", "at most 8192"),
            ("overlay: on", "overlay"),
            ("overlay_port: 0", "overlay_port"),
            ("registries: {ghcr: {credential_helper: a}}", "ghcr"),
            ("registries: {ghcr.io: {}}", "ghcr.io: give one of"),
            ("registries: {ghcr.io: {username: a}}", "ghcr.io: give one of"),
            ("registries: {ghcr.io: {credential_helper: a/b}}", "credential_helper"),
            ("registries: {ghcr.io: {username: a, password_file: b}}", "absolute"),
            ("registries: {ghcr.io: {password: a}}", "password"),
            ("dns: {listen: ['0.0.0.0:53']}", "dns.listen"),
            ("dns: {listen: ['192.0.2.1']}", "listen"),
            ("dns: {listen: ['169.254.1.1:53']}", "dns.listen"),
            ("dns: {listen: ['192.0.2.1:53'], upstream: ['192.0.2.1:53']}", "dns.upstream"),
            ("dns: off", "dns"),
            ("log: 'a=b=c'", "log"),
        ] {
            let refused = match dwell_daemon::config::parse::<Config>(text) {
                Err(problem) => problem,
                Ok(config) => config.check().unwrap_err().to_string(),
            };
            assert!(refused.contains(named), "{text}: {refused}");
        }
    }

    #[test]
    fn a_host_logs_in_to_registries_in_one_of_three_ways() {
        let text = "
registries:
  GHCR.io: {username: ci, password_file: /etc/dwell/ghcr}
  index.docker.io: {identity_token_file: /etc/dwell/hub}
  1.dkr.ecr.eu-central-1.amazonaws.com: {credential_helper: ecr-login}
";
        let config: Config = dwell_daemon::config::parse(text).unwrap();
        assert!(config.check().is_ok());
        let (ci, hub) = ("ci".to_owned(), "/etc/dwell/hub".into());
        let logins = [
            ("ghcr.io", OwnLogin::Password { username: ci, file: "/etc/dwell/ghcr".into() }),
            ("docker.io", OwnLogin::IdentityToken { file: hub }),
            (
                "1.dkr.ecr.eu-central-1.amazonaws.com",
                OwnLogin::Helper("ecr-login".parse().unwrap()),
            ),
        ];
        let logins = logins.map(|(host, login)| (host.parse().unwrap(), login));
        assert_eq!(config.logins(), BTreeMap::from(logins));
    }

    #[test]
    fn a_missing_file_counts_only_if_it_was_named() {
        let missing = Path::new("/nonexistent/agent.yaml");
        assert!(matches!(Config::load(Some(missing)), Err(ConfigError::Read { .. })));
    }
}
