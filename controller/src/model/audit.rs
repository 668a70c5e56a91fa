//! Comparing the model with itself, and with what nodes hold: the disagreements that no node can see.
//!
//! What is on its way is left out: an instance that moves, changes or goes, and whatever its node has not been told yet.
//! The rest is compared with what each node said a moment ago, so that whoever asks does so twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use dwell_core::audit::{Finding, Kind, Layer, NodeAudit, Remedy, Statement};
use dwell_core::id::{InstanceName, NodeName};
use dwell_core::session::Claim;
use dwell_core::workload::Resources;

use super::Model;
use super::object::{Instance, UpdateState};
use super::tables::Occupancy;

/// What the nodes that could be asked said.
pub type Answers = BTreeMap<NodeName, NodeAudit>;

impl Model {
    /// Where the model disagrees with itself, or with what nodes hold.
    #[must_use]
    pub fn audit(&self, answers: &Answers) -> Vec<Finding> {
        let instances = self.tables.instances().values();
        let mut found = audit_ledger(instances, &self.tables.index().occupancy);
        found.extend(self.audit_addresses(answers));
        for (node, answer) in answers {
            self.audit_assigned(node, answer, &mut found);
            self.audit_volumes(node, answer, &mut found);
        }
        self.audit_running(answers, &mut found);
        found
    }

    /// No address is two instances', here or on any node.
    fn audit_addresses(&self, answers: &Answers) -> Vec<Finding> {
        let mut holders: BTreeMap<Ipv4Addr, BTreeSet<(&InstanceName, Option<&NodeName>)>> =
            BTreeMap::new();
        for instance in self.tables.instances().values() {
            if let Some(identity) = instance.identity {
                holders.entry(identity.address).or_default().insert((&instance.name, None));
            }
        }
        for (node, answer) in answers {
            for claim in answer.assigned.iter().chain(answer.running.iter().flatten()) {
                holders.entry(claim.address).or_default().insert((&claim.instance, Some(node)));
            }
        }
        let mut found = Vec::new();
        for (address, holders) in holders {
            let Some((first, by)) = holders.first() else { continue };
            let Some((other, node)) = holders.iter().find(|(name, _)| name != first) else {
                continue;
            };
            let claim = |name: &InstanceName, node: Option<&NodeName>| match node {
                Some(node) => (Layer::Assignment, format!("on {node} it is {name}'s")),
                None => (Layer::Controller, format!("it is {name}'s")),
            };
            found.push(finding(
                Kind::AddressTwice,
                format!("address {address}"),
                *node,
                claim(first, *by),
                claim(other, *node),
                "remove one of them, and apply it again: it gets another address",
            ));
        }
        found
    }

    /// What a node is to run, by itself and by the model.
    fn audit_assigned(&self, node: &NodeName, answer: &NodeAudit, found: &mut Vec<Finding>) {
        let next = if self.is_unconfirmed() {
            "`dwell restore status` says what the restored controller has forgotten".to_owned()
        } else {
            format!("`systemctl restart dwell-agent` on {node}: it asks what it is to run anew")
        };
        let mut note = |kind, name: &InstanceName, model: String, has: String| {
            found.push(finding(
                kind,
                format!("instance {name}"),
                Some(node),
                (Layer::Controller, model),
                (Layer::Assignment, has),
                &next,
            ));
        };
        // What it has not been told of is no disagreement; nor can be told what that is once it is forgotten.
        let held = answer.held.within(self.incarnation());
        let Some(untold) = self.assignment_since(node, held) else { return };
        let untold: BTreeSet<&InstanceName> =
            untold.changed.iter().map(|one| &one.instance).chain(&untold.removed).collect();
        let claims: BTreeMap<&InstanceName, &Claim> =
            answer.assigned.iter().map(|claim| (&claim.instance, claim)).collect();
        for (&name, claim) in claims.iter().filter(|(name, _)| !untold.contains(*name)) {
            let has =
                format!("it is here, of generation {}, at {}", claim.generation, claim.address);
            let Some(instance) = self.tables.instances().get(name) else {
                note(Kind::InstanceElsewhere, name, "there is no such instance".to_owned(), has);
                continue;
            };
            if !self.is_settled(instance) {
                continue;
            }
            if instance.node.as_ref() != Some(node) {
                let place = instance.node.as_ref().map_or("no node", NodeName::as_str);
                note(Kind::InstanceElsewhere, name, format!("it is on {place}"), has);
            } else if (Some(claim.address), claim.generation)
                != (instance.identity.map(|identity| identity.address), instance.generation)
            {
                let address = instance.identity.map(|identity| identity.address.to_string());
                let model = format!(
                    "it is of generation {}, at {}",
                    instance.generation,
                    address.unwrap_or_else(|| "no address".to_owned())
                );
                note(Kind::InstanceOutdated, name, model, has);
            }
        }
        let occupancy = self.tables.index().occupancy.get(node);
        let here = occupancy.into_iter().flat_map(|there| &there.instances);
        for name in here.filter(|name| !claims.contains_key(*name)) {
            let Some(instance) = self.tables.instances().get(name) else { continue };
            let is_told = instance.assigned_to() == Some(node) && !untold.contains(name);
            if is_told && self.is_settled(instance) && !self.is_unconfirmed() {
                let has = "it is not among what the node is to run".to_owned();
                note(Kind::InstanceMissing, name, format!("it is on {node}"), has);
            }
        }
    }

    /// Where an instance runs is where it is, once.
    fn audit_running(&self, answers: &Answers, found: &mut Vec<Finding>) {
        let mut places: BTreeMap<&InstanceName, Vec<&NodeName>> = BTreeMap::new();
        for (node, answer) in answers {
            for claim in answer.running.iter().flatten() {
                places.entry(&claim.instance).or_default().push(node);
            }
        }
        for (name, nodes) in places {
            let own = self.tables.instances().get(name).and_then(|instance| instance.node.as_ref());
            let Some(other) = nodes.iter().find(|node| Some(**node) != own) else { continue };
            if nodes.len() > 1 {
                let model =
                    own.map_or("it is on no node".to_owned(), |own| format!("it is on {own}"));
                let all: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
                found.push(finding(
                    Kind::InstanceTwice,
                    format!("instance {name}"),
                    Some(other),
                    (Layer::Controller, model),
                    (Layer::Engine, format!("it runs on {}", all.join(" and "))),
                    &format!("`dwell doctor {other}` says what keeps {other} from stopping it"),
                ));
            }
        }
    }

    fn audit_volumes(&self, node: &NodeName, answer: &NodeAudit, found: &mut Vec<Finding>) {
        let Some(there) = &answer.volumes else { return };
        let there: BTreeSet<_> = there.iter().map(|seen| (&seen.instance, &seen.name)).collect();
        let mut known = BTreeSet::new();
        for volume in self.tables.volumes_on(node) {
            let key = &volume.key;
            known.insert((&key.instance, &key.name));
            let is_missing = !there.contains(&(&key.instance, &key.name));
            if volume.has_been_there() && is_missing {
                let (instance, name) = (&key.instance, &key.name);
                found.push(finding(
                    Kind::VolumeMissing,
                    format!("volume {name} of {instance}"),
                    Some(node),
                    (Layer::Controller, format!("it is kept on {node}")),
                    (Layer::Engine, "there is no such volume".to_owned()),
                    &format!(
                        "somebody deleted it by hand: restore it there, or give it up with `dwell volume rm {instance} {name}`"
                    ),
                ));
            }
        }
        for (instance, name) in there.difference(&known) {
            found.push(finding(
                Kind::VolumeUnknown,
                format!("volume {name} of {instance}"),
                Some(node),
                (Layer::Controller, "there is no such volume".to_owned()),
                (Layer::Engine, format!("it is on {node}")),
                "its node tells of it within ten minutes; from then on `dwell volume ls` shows it",
            ));
        }
    }

    /// Whether nothing of an instance is on its way.
    fn is_settled(&self, instance: &Arc<Instance>) -> bool {
        instance.leaving.is_none() && !instance.removing && instance.update != UpdateState::Updating
    }
}

/// What each node is promised is what its instances were promised.
pub(super) fn audit_ledger<'a>(
    instances: impl Iterator<Item = &'a Arc<Instance>>,
    ledger: &BTreeMap<NodeName, Occupancy>,
) -> Vec<Finding> {
    let mut sums: BTreeMap<&NodeName, Resources> = BTreeMap::new();
    for instance in instances {
        let here = instance.node.as_ref().map(|node| (node, instance.promised()));
        let there = instance.arrives_on().map(|node| (node, instance.share_there()));
        for (node, promised) in here.into_iter().chain(there) {
            let sum = sums.entry(node).or_default();
            *sum = sum.plus(promised);
        }
    }
    let nodes: BTreeSet<&NodeName> = sums.keys().copied().chain(ledger.keys()).collect();
    let difference = |node: &NodeName| {
        let counted = ledger.get(node).map(|there| there.promised).unwrap_or_default();
        let sum = sums.get(node).copied().unwrap_or_default();
        (counted != sum).then(|| {
            finding(
                Kind::Ledger,
                format!("node {node}"),
                Some(node),
                (Layer::Controller, format!("its instances were promised {}", share(sum))),
                (Layer::Controller, format!("its ledger says {}", share(counted))),
                "restart the controller, which counts anew: `systemctl restart dwell-controller`",
            )
        })
    };
    nodes.into_iter().filter_map(difference).collect()
}

fn finding(
    kind: Kind,
    subject: String,
    node: Option<&NodeName>,
    right: (Layer, String),
    wrong: (Layer, String),
    next: &str,
) -> Finding {
    let claims = [right, wrong].map(|(by, says)| Statement { by, says });
    Finding { kind, subject, node: node.cloned(), claims, remedy: Remedy::Person(next.to_owned()) }
}

fn share(resources: Resources) -> String {
    format!("cpu {}, memory {}", resources.cpu, resources.memory)
}
