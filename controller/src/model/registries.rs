//! Logins at registries of images: what the cluster pulls with.
//!
//! A login is asked for by people, kept in the store, and told to the nodes whose instances have an image of that registry,
//! and to nobody else: not in events, lists or logs. Which registry a node needs follows from its assignment.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::NodeName;
use dwell_core::instance::sanitize;
use dwell_core::registry::{LOGINS_MAX, RegistryHost, RegistryLogin, RegistryLogins, USERNAME_MAX};

use super::object::{Instance, Registry, Severity, Subject};
use super::record::{Key, Record};
use super::{Model, Refusal};

impl Model {
    /// All registries that the cluster is logged in to, by host.
    #[must_use]
    pub fn registries(&self) -> Vec<Arc<Registry>> {
        self.tables.registries().values().cloned().collect()
    }

    /// The login that the image of a reference needs, if the cluster has one.
    #[must_use]
    pub fn logins_for(&self, image: &str) -> RegistryLogins {
        let host = RegistryHost::of(image);
        let found = host.and_then(|host| Some((self.tables.registries().get(&host)?, host)));
        found.map(|(found, host)| (host, found.login.clone())).into_iter().collect()
    }

    /// Keeps a login in place of an earlier one. The same one again is told to the nodes again, so that a pull that was refused
    /// is tried at once.
    pub(super) fn set_registry_login(
        &mut self,
        host: RegistryHost,
        login: RegistryLogin,
        by: String,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let is_new = !self.tables.registries().contains_key(&host);
        if is_new && self.tables.registries().len() >= LOGINS_MAX {
            return Err(Refusal::TooManyRegistries);
        }
        let as_whom = sanitize(&login.username, USERNAME_MAX);
        let message = told(&by, &format!("logged in to registry {host} as {as_whom}"));
        self.put_with(|given| {
            let login = RegistryLogin { given, ..login };
            Record::Registry(Arc::new(Registry { host, login, changed_at: now, by }))
        });
        self.event(now, Severity::Info, Subject::Cluster, "registry-login", message);
        Ok(())
    }

    /// Forgets a login. What was pulled with it stays on the nodes and runs.
    pub(super) fn remove_registry_login(
        &mut self,
        host: &RegistryHost,
        by: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if !self.tables.registries().contains_key(host) {
            return Err(Refusal::NoRegistryLogin(host.clone()));
        }
        self.delete(Key::Registry(host.clone()));
        let message = told(by, &format!("logged out of registry {host}"));
        self.event(now, Severity::Info, Subject::Cluster, "registry-logout", message);
        Ok(())
    }

    /// The logins that a node needs for the images of its instances and of what they fall back to; none for a removed node.
    pub(super) fn registries_of(&self, node: &NodeName) -> RegistryLogins {
        let logins = self.tables.registries();
        if logins.is_empty() || !self.is_member(node) {
            return RegistryLogins::new();
        }
        let occupancy = self.tables.index().occupancy.get(node);
        let names = occupancy.into_iter().flat_map(|occupancy| &occupancy.instances);
        let instances = names.filter_map(|name| self.tables.instances().get(name));
        let is_here = |instance: &&Arc<Instance>| instance.assigned_to() == Some(node);
        let mut hosts = BTreeSet::new();
        for instance in instances.filter(is_here) {
            let workload = self.tables.workloads().get(instance.name.workload());
            let fallback = workload.and_then(|workload| self.fallback(workload, instance));
            let forms = [Some(&instance.wanted), fallback.as_ref()];
            let images = forms.into_iter().flatten().map(|form| self.image_as(instance, form));
            hosts.extend(images.filter_map(|image| RegistryHost::of(&image)));
        }
        let login = |host: RegistryHost| {
            let login = logins.get(&host)?.login.clone();
            Some((host, login))
        };
        hosts.into_iter().filter_map(login).collect()
    }
}

/// Who did something, for people.
fn told(by: &str, what: &str) -> String {
    match by {
        "" => format!("somebody {what}"),
        by => format!("{by} {what}"),
    }
}
