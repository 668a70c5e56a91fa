//! A network in memory, for tests and simulations of the agent.
//!
//! It keeps what it was asked to make, and fails or stalls when told to. Like the real one it
//! refuses sandboxes before the host is prepared, and forgets nothing but by being asked to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dwell_core::id::InstanceName;
use dwell_core::sandbox::SandboxId;
use tokio::sync::watch;

use super::{
    Disturbances, FoundRoute, HostNetwork, Look, Network, NetworkError, PeerFailure, Policy, Probe,
    ROUTE_PROTOCOL, Reach, RouteReport, RouteTable, Sandbox, SeenSandbox, Until,
};

/// One of the operations of [`Network`], to be failed or counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`Network::ensure_host`].
    EnsureHost,
    /// [`Network::ensure_sandbox`].
    EnsureSandbox,
    /// [`Network::repair_sandbox`].
    RepairSandbox,
    /// [`Network::remove_sandbox`].
    RemoveSandbox,
    /// [`Network::sandboxes`].
    Sandboxes,
    /// [`Network::sync_routes`].
    SyncRoutes,
    /// [`Network::sync_policies`].
    SyncPolicies,
    /// [`Network::sync_leases`].
    SyncLeases,
    /// [`Network::probe`].
    Probe,
    /// [`Network::look`].
    Look,
    /// [`Network::sweep`].
    Sweep,
    /// [`Network::cleanup`].
    Cleanup,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::EnsureHost => "ensure_host",
            Self::EnsureSandbox => "ensure_sandbox",
            Self::RepairSandbox => "repair_sandbox",
            Self::RemoveSandbox => "remove_sandbox",
            Self::Sandboxes => "sandboxes",
            Self::SyncRoutes => "sync_routes",
            Self::SyncPolicies => "sync_policies",
            Self::SyncLeases => "sync_leases",
            Self::Probe => "probe",
            Self::Look => "look",
            Self::Sweep => "sweep",
            Self::Cleanup => "cleanup",
        }
    }
}

/// A network in memory. Clones share it, so that a test can look on while an agent uses it.
#[derive(Clone, Debug)]
pub struct FakeNetwork {
    state: Arc<Mutex<State>>,
    stalled: Arc<watch::Sender<bool>>,
    disturbances: Arc<watch::Sender<Disturbances>>,
}

#[derive(Debug, Default)]
struct State {
    host: Option<HostNetwork>,
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    routes: RouteTable,
    policies: Vec<Policy>,
    /// As last said.
    leases: BTreeMap<Ipv4Addr, Until>,
    /// What belongs to no sandbox.
    strays: BTreeSet<String>,
    failures: BTreeMap<Operation, usize>,
    calls: BTreeMap<Operation, usize>,
    changes: usize,
}

impl State {
    fn put(&mut self, sandbox: &Sandbox) {
        if self.sandboxes.get(&sandbox.id()) == Some(sandbox) {
            return;
        }
        if sandbox.reached
            && let Some(other) = self.sandboxes.get_mut(&sandbox.id().beside())
        {
            other.reached = false;
        }
        self.sandboxes.insert(sandbox.id(), sandbox.clone());
        self.changes += 1;
    }
}

impl Default for FakeNetwork {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            stalled: Arc::new(watch::Sender::new(false)),
            disturbances: Arc::default(),
        }
    }
}

impl FakeNetwork {
    /// Makes the next `times` calls of `operation` fail, without effect.
    pub fn fail(&self, operation: Operation, times: usize) {
        self.state().failures.insert(operation, times);
    }

    /// Holds every call, from now on, until [`FakeNetwork::resume`].
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Lets held calls go on.
    pub fn resume(&self) {
        self.stalled.send_replace(false);
    }

    /// Loses the sandboxes of an instance, as somebody who removes a namespace by hand would.
    pub fn lose(&self, instance: &InstanceName) {
        self.state().sandboxes.retain(|id, _| id.instance != *instance);
        self.disturbances.send_modify(|counts| counts.sandboxes += 1);
    }

    /// Leaves something that belongs to no sandbox.
    pub fn stray(&self, what: &str) {
        self.state().strays.insert(what.to_owned());
    }

    /// Tells that others have been at work.
    pub fn disturb(&self, change: impl FnOnce(&mut Disturbances)) {
        self.disturbances.send_modify(change);
    }

    /// What [`Network::ensure_host`] last asked for.
    #[must_use]
    pub fn host(&self) -> Option<HostNetwork> {
        self.state().host.clone()
    }

    /// The sandbox to which the address of `instance` leads, if there is one.
    #[must_use]
    pub fn sandbox(&self, instance: &InstanceName) -> Option<Sandbox> {
        let state = self.state();
        let all = state.sandboxes.values();
        all.filter(|sandbox| sandbox.reached).find(|sandbox| sandbox.instance == *instance).cloned()
    }

    /// The routes as last synchronised.
    #[must_use]
    pub fn routes(&self) -> RouteTable {
        self.state().routes.clone()
    }

    /// Until when instances are reached, as last said.
    #[must_use]
    pub fn leases(&self) -> BTreeMap<Ipv4Addr, Until> {
        self.state().leases.clone()
    }

    /// The policies as last synchronised.
    #[must_use]
    pub fn policies(&self) -> Vec<Policy> {
        self.state().policies.clone()
    }

    /// How often `operation` was called, also if it failed.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> usize {
        self.state().calls.get(&operation).copied().unwrap_or_default()
    }

    /// How many calls found something to change: stays the same at the fixpoint.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.state().changes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while stalled, then counts the call and fails it if so told.
    async fn enter(&self, operation: Operation) -> Result<MutexGuard<'_, State>, NetworkError> {
        let mut stalled = self.stalled.subscribe();
        // The sender lives as long as `self`: the wait only ends when it is no longer stalled.
        stalled.wait_for(|stalled| !stalled).await.map_err(|_| NetworkError::Stopped)?;
        let mut state = self.state();
        *state.calls.entry(operation).or_default() += 1;
        if let Some(left) = state.failures.get_mut(&operation).filter(|left| **left > 0) {
            *left -= 1;
            return Err(NetworkError::Injected(operation.name()));
        }
        Ok(state)
    }
}

#[async_trait]
impl Network for FakeNetwork {
    async fn ensure_host(&self, host: &HostNetwork) -> Result<(), NetworkError> {
        let mut state = self.enter(Operation::EnsureHost).await?;
        if state.host.as_ref() != Some(host) {
            state.host = Some(host.clone());
            state.changes += 1;
        }
        Ok(())
    }

    async fn ensure_sandbox(&self, sandbox: &Sandbox) -> Result<(), NetworkError> {
        let mut state = self.enter(Operation::EnsureSandbox).await?;
        if state.host.is_none() {
            return Err(NetworkError::HostNotReady);
        }
        state.put(sandbox);
        Ok(())
    }

    async fn repair_sandbox(&self, sandbox: &Sandbox) -> Result<(), NetworkError> {
        let mut state = self.enter(Operation::RepairSandbox).await?;
        if state.host.is_none() {
            return Err(NetworkError::HostNotReady);
        }
        if !state.sandboxes.contains_key(&sandbox.id()) {
            return Err(NetworkError::SandboxLost { instance: sandbox.instance.clone() });
        }
        state.put(sandbox);
        Ok(())
    }

    async fn remove_sandbox(&self, sandbox: &SandboxId) -> Result<(), NetworkError> {
        let mut state = self.enter(Operation::RemoveSandbox).await?;
        if state.sandboxes.remove(sandbox).is_some() {
            state.changes += 1;
        }
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxId>, NetworkError> {
        let state = self.enter(Operation::Sandboxes).await?;
        Ok(state.sandboxes.keys().cloned().collect())
    }

    async fn sync_routes(&self, routes: &RouteTable) -> Result<RouteReport, NetworkError> {
        let mut state = self.enter(Operation::SyncRoutes).await?;
        let (before, after) = (prefixes(&state.routes), prefixes(routes));
        let kept = before.intersection(&after).count();
        let known: BTreeSet<_> = routes.peers.iter().map(|peer| &peer.node).collect();
        let failures = routes
            .exceptions
            .iter()
            .filter(|exception| !known.contains(&exception.node))
            .map(|exception| PeerFailure {
                node: exception.node.clone(),
                reason: format!("{} leads to a node that is not in the table", exception.address),
            })
            .collect();
        if state.routes != *routes {
            state.routes = routes.clone();
            state.changes += 1;
        }
        Ok(RouteReport {
            in_place: kept,
            added: after.len() - kept,
            removed: before.len() - kept,
            failures,
            ..RouteReport::default()
        })
    }

    async fn sync_policies(&self, policies: &[Policy]) -> Result<(), NetworkError> {
        let mut state = self.enter(Operation::SyncPolicies).await?;
        if state.policies != policies {
            state.policies = policies.to_vec();
            state.changes += 1;
        }
        Ok(())
    }

    async fn sync_leases(&self, instances: &[Reach]) -> Result<(), NetworkError> {
        let mut state = self.enter(Operation::SyncLeases).await?;
        state.leases.extend(instances.iter().map(|reach| (reach.address, reach.until)));
        Ok(())
    }

    /// Sandboxes answer at once, and nobody else does.
    async fn probe_overlay(&self, _: Ipv4Addr) -> Result<Option<Probe>, NetworkError> {
        Ok(None)
    }

    async fn probe(&self, address: Ipv4Addr) -> Result<Probe, NetworkError> {
        let state = self.enter(Operation::Probe).await?;
        let is_here = state.sandboxes.values().any(|sandbox| sandbox.address == address);
        Ok(Probe {
            route: is_here.then(|| FoundRoute {
                prefix: address.into(),
                via: None,
                device: "dw-fake".to_owned(),
                protocol: ROUTE_PROTOCOL,
                local: true,
            }),
            round_trip: is_here.then_some(Duration::ZERO),
            mtu: if is_here { 1500 } else { 0 },
            full_size_passes: is_here.then_some(true),
        })
    }

    /// Everything is as it was last asked for, but what strays; the namespace of each sandbox is number 1.
    async fn look(&self, _: &RouteTable) -> Result<Look, NetworkError> {
        let state = self.enter(Operation::Look).await?;
        let seen = |sandbox: &Sandbox| SeenSandbox {
            namespace: Some(1),
            mac: Some(sandbox.mac),
            addresses: [sandbox.address].into(),
            link: Some("dw-fake".to_owned()),
            is_running: true,
            routed: sandbox.reached.then_some(sandbox.address).into_iter().collect(),
            sources: [sandbox.address].into(),
            ipv6: Vec::new(),
        };
        let sandboxes = state.sandboxes.iter();
        Ok(Look {
            sandboxes: sandboxes.map(|(name, sandbox)| (name.clone(), seen(sandbox))).collect(),
            strays: state.strays.clone(),
            ..Look::default()
        })
    }

    async fn sweep(&self) -> Result<(), NetworkError> {
        let mut state = self.enter(Operation::Sweep).await?;
        state.strays.clear();
        Ok(())
    }

    fn disturbances(&self) -> watch::Receiver<Disturbances> {
        self.disturbances.subscribe()
    }

    async fn cleanup(&self) -> Result<(), NetworkError> {
        let mut state = self.enter(Operation::Cleanup).await?;
        state.host = None;
        state.sandboxes.clear();
        state.routes = RouteTable::default();
        state.policies.clear();
        state.leases.clear();
        state.changes += 1;
        Ok(())
    }
}

fn prefixes(table: &RouteTable) -> BTreeSet<ipnet::Ipv4Net> {
    let blocks = table.peers.iter().flat_map(|peer| peer.blocks.iter().copied());
    let exceptions = table.exceptions.iter().map(|exception| exception.address.into());
    blocks.chain(exceptions).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dwell_core::net::Mac;

    use super::*;
    use crate::fixtures::host;

    fn sandbox() -> Sandbox {
        let address = Ipv4Addr::new(10, 80, 1, 5);
        Sandbox::only("web-0".parse().unwrap(), address, Mac::of_address(address))
    }

    #[tokio::test]
    async fn a_second_call_changes_nothing() {
        let network = FakeNetwork::default();
        network.ensure_host(&host()).await.unwrap();
        network.ensure_sandbox(&sandbox()).await.unwrap();
        let changes = network.changes();
        network.ensure_host(&host()).await.unwrap();
        network.ensure_sandbox(&sandbox()).await.unwrap();
        assert_eq!(network.changes(), changes);
    }

    #[tokio::test]
    async fn an_injected_failure_has_no_effect_and_passes() {
        let network = FakeNetwork::default();
        network.ensure_host(&host()).await.unwrap();
        network.fail(Operation::EnsureSandbox, 1);
        network.ensure_sandbox(&sandbox()).await.unwrap_err();
        assert_eq!(network.sandboxes().await.unwrap(), []);
        network.ensure_sandbox(&sandbox()).await.unwrap();
        assert_eq!(network.calls(Operation::EnsureSandbox), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_call_goes_on_when_resumed() {
        let network = FakeNetwork::default();
        network.stall();
        let wait = Duration::from_secs(60);
        tokio::time::timeout(wait, network.ensure_host(&host())).await.unwrap_err();
        network.resume();
        network.ensure_host(&host()).await.unwrap();
    }
}
