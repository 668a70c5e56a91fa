//! Instances that an operator sends to another node.
//!
//! It is the move that a drain makes, of chosen instances and now: the identity goes along, the node lets go before the
//! next one takes over, and where it goes room is kept for it meanwhile. It changes nothing but the place: an
//! instance goes as what it is, and a version that waits for its turn waits on. Nothing moves it back.

use std::collections::BTreeMap;
use std::sync::Arc;

use dwell_core::clock::Timestamp;
use dwell_core::id::{InstanceName, NodeName};
use dwell_scheduler::Misfit;

use super::arrivals::MoveOrder;
use super::command::{MoveHow, Moved, Target, check_named};
use super::object::{Instance, UpdateState};
use super::refusal::NotMoved;
use super::{Model, Refusal};

impl Model {
    /// Sends instances to a node, or each to the best other one, all or none. Those that are there already stay as they are.
    pub(super) fn move_instances(
        &mut self,
        names: &[InstanceName],
        to: Option<&NodeName>,
        kind: (MoveHow, bool),
        now: Timestamp,
    ) -> Result<Vec<Moved>, Refusal> {
        check_named(names.len())?;
        if let Some(to) = to {
            let node = self.tables.nodes().get(to).filter(|node| !node.removed);
            let node = node.ok_or_else(|| Refusal::NoNode(to.clone()))?;
            if node.block.is_none() {
                return Err(NotMoved::RoutesOnly(to.clone()).into());
            }
        }
        names.iter().map(|name| self.move_instance(name, to, kind, now)).collect()
    }

    fn move_instance(
        &mut self,
        name: &InstanceName,
        to: Option<&NodeName>,
        (how, new_address): (MoveHow, bool),
        now: Timestamp,
    ) -> Result<Moved, Refusal> {
        let target = Target::Instance(name.clone());
        let [instance] = &self.targets(&target)?[..] else {
            return Err(Refusal::NoInstance(name.clone()));
        };
        if how == MoveHow::Abort {
            return self.abort_move(&Arc::clone(instance), now);
        }
        Self::check_not_ended(instance)?;
        let Some(from) = instance.node.clone() else {
            return Err(NotMoved::NoNode(name.clone()).into());
        };
        if let Some(moving) = instance.volume_move.as_deref()
            && how == MoveHow::WithVolumes
            && to.is_none_or(|to| *to == moving.to)
        {
            return Ok(Moved {
                instance: name.clone(),
                from: moving.from.clone(),
                to: moving.to.clone(),
            });
        }
        let ordered = instance.heading.as_deref().filter(|heading| heading.order.is_some());
        let bound_for = match &instance.leaving {
            Some(leaving) => leaving.to.as_ref(),
            None => Some(ordered.map_or(&from, |heading| &heading.to)),
        };
        if to.is_some() && bound_for == to {
            let to = to.unwrap_or(&from).clone();
            return Ok(Moved { instance: name.clone(), from, to });
        }
        self.check_movable(instance, &from, how)?;
        if new_address {
            self.check_gives_up_address(instance)?;
        }
        let anywhere = to.is_none();
        let to = match to {
            Some(to) => self.check_place(instance, to)?,
            None => self.best_other(instance, &from)?,
        };
        if self.is_pinned(instance) {
            self.move_with_volumes(&Arc::clone(instance), &to, now)?;
            return Ok(Moved { instance: name.clone(), from, to });
        }
        let order = MoveOrder { new_address, by: self.by.clone(), anywhere };
        let instance = Arc::clone(instance);
        if !self.head_for(&instance, &to, Some(order.clone()), now) {
            self.send_by_order(&instance, to.clone(), order, now);
        }
        Ok(Moved { instance: name.clone(), from, to })
    }

    /// Refuses to move what must not leave its node, or not now.
    fn check_movable(
        &self,
        instance: &Instance,
        from: &NodeName,
        how: MoveHow,
    ) -> Result<(), NotMoved> {
        let name = instance.name.clone();
        if self.is_bound(instance) {
            return Err(NotMoved::Bound { instance: name, node: from.clone() });
        }
        let is_moving = instance.volume_move.is_some();
        if how == MoveHow::WithoutVolumes && self.is_pinned(instance) && !is_moving {
            return Err(NotMoved::Pinned { instance: name, node: from.clone() });
        }
        self.check_can_leave(instance, from)
    }

    /// Refuses to have an instance leave its node now, be it to come back.
    pub(super) fn check_can_leave(
        &self,
        instance: &Instance,
        from: &NodeName,
    ) -> Result<(), NotMoved> {
        let name = instance.name.clone();
        if instance.leaving.is_some() || instance.volume_move.is_some() {
            return Err(NotMoved::OnItsWay { instance: name, from: from.clone() });
        }
        if !self.is_ready(from) {
            return Err(NotMoved::NotHeard { instance: name, node: from.clone() });
        }
        if instance.update == UpdateState::Updating && !self.is_failing(&name) {
            return Err(NotMoved::Changing(name));
        }
        Ok(())
    }

    fn check_place(&self, instance: &Instance, to: &NodeName) -> Result<NodeName, NotMoved> {
        let nowhere = |misfit: Misfit| NotMoved::NoPlace {
            instance: instance.name.clone(),
            node: to.clone(),
            misfit,
        };
        match self.decide_at(&instance.name, to) {
            Some(Ok(())) => Ok(to.clone()),
            Some(Err(reason)) => match reason.refusals.first() {
                Some((_, misfit)) => Err(nowhere(misfit.clone())),
                None => Err(NotMoved::RoutesOnly(to.clone())),
            },
            None => Err(NotMoved::RoutesOnly(to.clone())),
        }
    }

    fn best_other(&self, instance: &Instance, from: &NodeName) -> Result<NodeName, Refusal> {
        let workload = self.living(instance.name.workload())?;
        let asked = BTreeMap::from([(self.demand(&workload, instance), 1)]);
        let answer = self.solve(&asked, Some(from)).into_iter().next();
        match answer.map(|(_, nodes, reason)| (nodes.into_iter().next(), reason)) {
            Some((Some(node), _)) => Ok(node),
            Some((None, Some(reason))) => {
                Err(NotMoved::Nowhere { instance: instance.name.clone(), reason }.into())
            }
            _ => Err(NotMoved::NoNode(instance.name.clone()).into()),
        }
    }
}
