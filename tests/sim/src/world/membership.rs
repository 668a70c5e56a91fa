//! Which hosts are nodes: they join, are removed by force and come back, are cloned, and are forgotten by a controller
//! that was restored from a backup. What only an operator can decide is decided here, as the documentation tells
//! operators to.

use std::collections::BTreeSet;
use std::sync::Arc;

use dwell_agent_core::CallId;
use dwell_controller::model::{Command, Join, Node, NodeChange, TokenId};
use dwell_core::clock::Timestamp;
use dwell_core::id::NodeName;

use super::{Event, Relief, World, node_name};
use crate::host::Host;

/// What a host's enrolment is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the node's present one.
    Member,
    /// It is the last one of a node that was removed.
    Removed,
    /// Another host has joined under the name since.
    Superseded,
    /// There is no such node.
    Unknown,
}

impl World {
    /// A new host joins under a name.
    pub(super) fn add_host(&mut self, name: NodeName) {
        let index = self.hosts.len();
        let number = u8::try_from(index + 10).unwrap_or(u8::MAX);
        self.hosts.push(Host::new(name.clone(), number, String::new()));
        self.enrol(index, name);
        self.schedule.at(self.now + 100, Event::StartAgent { host: index, life: 0 });
    }

    /// A host joins, with a key of its own.
    fn enrol(&mut self, host: usize, name: NodeName) -> bool {
        self.enrolments += 1;
        let enrolment = format!("e{}", self.enrolments);
        let (token, digest) = (TokenId(format!("t{}", self.enrolments)), [7; 32]);
        let expires_at = Timestamp(u64::MAX);
        let minted = self.command(Command::MintToken { id: token.clone(), digest, expires_at });
        let one = &mut self.hosts[host];
        (one.name, one.enrolment, one.copy) = (name.clone(), enrolment.clone(), false);
        one.disk.claim(one.mark());
        let (address, routes_only, host_mark) = (one.address, false, Some(one.mark()));
        let join = Join { token, digest, name, address, enrolment, routes_only, host_mark };
        let joined = self.command(Command::RedeemToken(join));
        let name = &self.hosts[host].name;
        let what = format!("host {host}: {name} joins: {minted:?}, {joined:?}");
        self.note(|| what);
        joined.is_ok()
    }

    /// What the certificate of a host is worth.
    pub(super) fn standing(&self, host: usize) -> Standing {
        let (one, model) = (&self.hosts[host], self.controller.model.as_ref());
        match model.and_then(|model| model.node(&one.name)) {
            None => Standing::Unknown,
            Some(view) if view.node.enrolment != one.enrolment => Standing::Superseded,
            Some(view) if view.node.removed => Standing::Removed,
            Some(_) => Standing::Member,
        }
    }

    /// Hosts that have the identity of this one: itself, and its clones.
    fn same_identity(&self, host: usize) -> Vec<usize> {
        let of = |host: &Host| (host.name.clone(), host.enrolment.clone());
        let identity = of(&self.hosts[host]);
        (0..self.hosts.len()).filter(|&other| of(&self.hosts[other]) == identity).collect()
    }

    pub(super) fn force_remove(&mut self, host: usize, reuse: bool) {
        let node = self.hosts[host].name.clone();
        if self.standing(host) != Standing::Member {
            return;
        }
        self.removing_by_force = true;
        let removed = self.command(Command::RemoveNode { node: node.clone(), force: true });
        self.removing_by_force = false;
        self.note(|| format!("operator: removes {node} by force: {removed:?}"));
        if removed.is_ok() {
            self.same_identity(host).into_iter().for_each(|host| self.vouch_dead(host));
            if reuse {
                self.add_host(node);
            }
        }
    }

    fn vouch_dead(&mut self, host: usize) {
        let one = &mut self.hosts[host];
        (one.vouched_dead, one.excused) = (true, true);
        self.truth.give_up(host);
    }

    /// A controller that starts says who is a node: whoever removed one may have had no answer, and a restored one may
    /// not know of a removal.
    pub(super) fn recall_members(&mut self) {
        for host in 0..self.hosts.len() {
            match self.standing(host) {
                Standing::Removed if !self.hosts[host].vouched_dead => self.vouch_dead(host),
                Standing::Member | Standing::Unknown if !self.hosts[host].retired => {
                    self.hosts[host].vouched_dead = false;
                }
                _ => {}
            }
        }
    }

    /// A host's disk is copied, and a second host starts from it. It may run nothing until an operator has decided between
    /// the two, and the first one has to be served as ever.
    pub(super) fn clone_host(&mut self, host: usize) {
        let one = &self.hosts[host];
        if self.standing(host) != Standing::Member || one.excused || one.copy {
            return;
        }
        let index = self.hosts.len();
        let number = u8::try_from(index + 10).unwrap_or(u8::MAX);
        let original = &self.hosts[host];
        let mut clone = Host::new(original.name.clone(), number, original.enrolment.clone());
        clone.disk = original.disk.clone();
        clone.volumes = original.volumes.clone();
        clone.copies = original.copies.clone();
        clone.moved_in = original.moved_in.clone();
        clone.engine.copy(&original.engine);
        clone.let_go = original.let_go.clone();
        clone.let_go.values_mut().for_each(|let_go| let_go.since = (0, CallId(0)));
        clone.copy = true;
        self.hosts.push(clone);
        self.schedule.at(self.now + 100, Event::StartAgent { host: index, life: 0 });
    }

    /// What operators do sooner or later about what the controller tells them.
    pub(super) fn operators_look(&mut self) {
        if self.controller.model.is_none() || self.rng.u8(..4) > 0 {
            return;
        }
        self.decide_between_clones();
        self.confirm_restore();
    }

    /// Of two hosts with one identity one is taken out of service, and the node is admitted again.
    fn decide_between_clones(&mut self) {
        let names: BTreeSet<NodeName> = self.hosts.iter().map(|host| host.name.clone()).collect();
        let model = self.controller.model.iter();
        let views = model.flat_map(|model| names.iter().filter_map(|name| model.node(name)));
        let is_disputed = |node: &Arc<Node>| node.contested || node.undecided().is_some();
        let nodes: Vec<_> = views.map(|view| view.node).filter(is_disputed).collect();
        for node in nodes {
            let is_of = |host: &Host| host.name == node.name && host.enrolment == node.enrolment;
            let mut alive: Vec<usize> = (0..self.hosts.len())
                .filter(|&host| is_of(&self.hosts[host]) && !self.hosts[host].retired)
                .collect();
            if alive.is_empty() {
                continue;
            }
            let kept = alive.swap_remove(self.rng.usize(..alive.len()));
            alive.into_iter().for_each(|host| self.retire(host));
            let change = NodeChange { admit: true, ..NodeChange::default() };
            let admitted = self.command(Command::UpdateNode { node: node.name.clone(), change });
            self.note(|| format!("operator: admits {} on host {kept}: {admitted:?}", node.name));
            if admitted.is_ok() && !self.hosts[kept].vouched_dead {
                self.account_for(kept);
            }
        }
    }

    /// A host is the node now, and what it runs is not on the operators' account any more.
    fn account_for(&mut self, host: usize) {
        let one = &mut self.hosts[host];
        (one.excused, one.copy) = (false, false);
        self.truth.excuse(host, false);
    }

    /// A host is switched off for good.
    fn retire(&mut self, host: usize) {
        self.note(|| format!("operator: switches host {host} off for good"));
        self.kill_agent(host);
        self.end_all(host);
        self.vouch_dead(host);
        let one = &mut self.hosts[host];
        (one.retired, one.on) = (true, false);
    }

    /// Once all nodes have said what they run, a restore is confirmed. Hosts that the backup does not know become nodes
    /// again when they attach; those that cannot, and those whose name is another's, run nothing before that. Nodes
    /// of which no host is left are removed.
    fn confirm_restore(&mut self) {
        let model = self.controller.model.as_ref().filter(|model| model.is_unconfirmed());
        let Some(missing) = model.map(|model| model.restore_view().missing) else { return };
        let mut waits = false;
        for host in 0..self.hosts.len() {
            let (standing, one) = (self.standing(host), &self.hosts[host]);
            let holds = one.agent.as_ref().is_some_and(|agent| agent.held().is_some());
            let can_attach = holds && !one.link.up_cut && !one.link.down_cut;
            let is_waited_for =
                standing == Standing::Unknown && (can_attach || !missing.is_empty());
            if is_waited_for && one.disk.assignment.is_some() && !one.vouched_dead {
                waits = true;
                continue;
            }
            let is_unknown = matches!(standing, Standing::Unknown | Standing::Superseded);
            if is_unknown && !one.vouched_dead && one.disk.assignment.is_some() {
                self.note(|| format!("operator: cleans host {host}, which is not known any more"));
                self.kill_agent(host);
                self.end_all(host);
                self.truth.give_up(host);
                self.hosts[host].clean();
                let life = self.hosts[host].life;
                self.later(1_000, 5_000, Event::StartAgent { host, life });
            }
        }
        for node in &missing {
            let mut hosts = 0..self.hosts.len();
            let is_left = |host: usize| {
                let one = &self.hosts[host];
                one.name == *node && !one.retired && self.standing(host) == Standing::Member
            };
            if !hosts.any(is_left) {
                let removed = self.command(Command::RemoveNode { node: node.clone(), force: true });
                self.note(|| format!("operator: removes {node}, which is no more: {removed:?}"));
            }
        }
        if missing.is_empty() && !waits {
            let confirmed = self.command(Command::ConfirmRestore { force: false });
            self.note(|| format!("operator: confirms the restore: {confirmed:?}"));
        }
    }

    /// Every host that is in service is to be a node, and one that came back from the dead answers for itself again.
    pub(super) fn put_members_right(&mut self) {
        for host in 0..self.hosts.len() {
            let (standing, one) = (self.standing(host), &self.hosts[host]);
            let is_out = matches!(standing, Standing::Unknown | Standing::Superseded);
            if one.retired {
                continue;
            }
            // One that was removed by force and lives may join again as well.
            let rejoins = is_out && !one.vouched_dead
                || standing != Standing::Member && self.rng.u8(..3) == 0;
            let one = &self.hosts[host];
            if rejoins {
                let name = one.name.clone();
                self.kill_agent(host);
                self.end_all(host);
                self.truth.give_up(host);
                let one = &mut self.hosts[host];
                (one.vouched_dead, one.excused) = (false, false);
                match self.rng.bool() {
                    true => one.clean(),
                    false => one.disk.leave(),
                }
                // What the controller still waits for to end there has ended.
                self.removing_by_force = true;
                let node = name.clone();
                if standing == Standing::Removed {
                    drop(self.command(Command::RemoveNode { node, force: true }));
                }
                self.removing_by_force = false;
                if !self.enrol(host, name) {
                    let number = u8::try_from(self.hosts.len() + host).unwrap_or(u8::MAX);
                    self.enrol(host, node_name(number));
                }
                self.relieve(Relief::Power(host));
            }
        }
        if self.hosts.iter().all(|one| one.vouched_dead) {
            let number = u8::try_from(self.hosts.len()).unwrap_or(u8::MAX);
            self.add_host(node_name(number));
        }
    }
}
