//! The routing policy rules: the one that leads to the main table, and ours.
//!
//! A kernel starts with it, at priority 32766. If somebody removes it, nothing of the host is routed any more.
//! Then there is one of ours in its place, which is like it and stays: the host needs it without dwell, too.
//!
//! Of our own there are these, each only where it is needed. One leads what the firewall has marked to the overlay's table.
//! Another keeps what is for instances in the main table, where their routes are, on a host whose own rules lead
//! elsewhere. The commonest of these, `from ADDRESS lookup TABLE` for a second uplink, would have what this host itself
//! sends to its instances leave by that uplink, and the reverse-path filter drop what they send to it.
//!
//! As long as an instance has [two sandboxes](super::pair), two more lead what is marked for one of them to the route to that.
//!
//! Where instances have IPv6, the first and the last are there for it as well, the last for all that has an IPv4 image: nodes
//! are reached at theirs, too. What is marked for the overlay is of IPv4 only.

use std::io;
use std::sync::Once;

use dwell_core::net::{Ipv6Range, Ranges};
use dwell_core::sandbox::Slot;
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::libc;

use super::family::Family;
use super::netlink::Request;
use super::nftables::{MASK, mark_of};
use super::observe::{attributes, ip, u32_at};
use super::overlay::MARK;
use super::owner::Owner;
use super::pair::table_of;
use super::request::Mode;
use super::{OVERLAY_TABLE, refused, send};
use crate::{NetworkError, ROUTE_PROTOCOL};

const V4: AddressFamily = AddressFamily::Inet;
const V6: AddressFamily = AddressFamily::Inet6;

/// Where the kernel has it.
const PRIORITY: u32 = 32_766;
/// Where ours is: before the tables of others, as it is about nothing but what is marked.
const OVERLAY_PRIORITY: u32 = 1_570;
/// Where those for the sandboxes of an instance that has two are, likewise.
const SLOT_PRIORITY: u32 = 1_571;
/// Where those for the cluster's ranges are at the earliest. They are no earlier than they need to be, as the kernel puts a rule
/// without a priority right before the second of the list: with ours at 1, all such rules of others would be at 0.
const CLUSTER_PRIORITY_MIN: u32 = 1;

/// Attributes of a rule (`FRA_*`).
const FRA_DST: u16 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_L3MDEV: u16 = 19;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const HEADER_BYTES: usize = 12;

impl Owner {
    /// Makes the rule that leads what the firewall has marked to the overlay's table, if it is missing.
    pub(super) fn ensure_overlay_rule(&mut self) -> Result<(), NetworkError> {
        let action = || "make the routing rule that leads to the overlay".to_owned();
        let found = self.route.dump(|| rules(V4), |rule| Some(leads_to_overlay(rule)));
        if found.map_err(refused(action))?.contains(&true) {
            return Ok(());
        }
        let add = RouteNetlinkMessage::NewRule(overlay_rule());
        send(&mut self.route, vec![Request::new(add, Mode::Add.flags())], |_| false, action)
    }

    /// Removes it; one that is not there is no error.
    pub(super) fn remove_overlay_rule(&mut self) -> Result<(), NetworkError> {
        let action = || "remove the routing rule that leads to the overlay".to_owned();
        let delete = Request::new(RouteNetlinkMessage::DelRule(overlay_rule()), 0);
        send(&mut self.route, vec![delete], |errno| errno == Errno::ENOENT, action)
    }

    /// Makes the rules that lead what is marked for one of two sandboxes to the routes to these, or removes them.
    pub(super) fn ensure_slot_rules(&mut self, are_needed: bool) -> Result<(), NetworkError> {
        let action =
            || "make the routing rules that lead to the second of two sandboxes".to_owned();
        for family in [V4, V6] {
            let found = self.route.dump(|| rules(family), |rule| Some(slot_of(rule)));
            let found: Vec<Slot> = match found {
                // A kernel without IPv6 has no rules of it.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => continue,
                found => found.map_err(refused(action))?.into_iter().flatten().collect(),
            };
            let requests = Slot::ALL.into_iter().filter_map(|slot| {
                let rule = slot_rule(family, slot);
                match (are_needed, found.contains(&slot)) {
                    (true, false) => {
                        let add = RouteNetlinkMessage::NewRule(rule);
                        Some(Request::new(add, Mode::Add.flags()))
                    }
                    (false, true) => Some(Request::new(RouteNetlinkMessage::DelRule(rule), 0)),
                    _ => None,
                }
            });
            let expected = |errno| matches!(errno, Errno::ENOENT | Errno::EEXIST);
            send(&mut self.route, requests.collect(), expected, action)?;
        }
        Ok(())
    }

    /// Makes the rule for the main table if there is none like it; that of IPv6 where instances have it.
    pub(super) fn ensure_rule(&mut self, ipv6: Option<Ipv6Range>) -> Result<(), NetworkError> {
        self.ensure_rule_of(V4)?;
        ipv6.map_or(Ok(()), |_| self.ensure_rule_of(V6))
    }

    fn ensure_rule_of(&mut self, family: AddressFamily) -> Result<(), NetworkError> {
        let action = || "make the routing rule that leads to the main table".to_owned();
        let found = self.route.dump(|| rules(family), |rule| Some(leads_to_main(rule)));
        if found.map_err(refused(action))?.contains(&true) {
            return Ok(());
        }
        send(&mut self.route, vec![add_rule(family)], |_| false, action)
    }

    /// Has what is for the cluster's ranges go by the main table as far as that has a route for it, if rules of others
    /// could lead it elsewhere: right before the first of them, wherever that is by now. Removes its rules if there are none,
    /// since the kernel is faster without any.
    pub(super) fn ensure_cluster_rules(&mut self, cluster: &Ranges) -> Result<(), NetworkError> {
        self.ensure_cluster_rules_of(V4, &Family::V4.nets(cluster))
    }

    /// The same in IPv6. A host that has `just_begun` without may have one of an earlier agent's.
    pub(super) fn ensure_cluster_rules_ipv6(
        &mut self,
        range: Option<Ipv6Range>,
        just_begun: bool,
    ) -> Result<(), NetworkError> {
        if range.is_none() && !just_begun {
            return Ok(());
        }
        let images = range.map(|range| range.net(Ipv4Net::default()).into());
        self.ensure_cluster_rules_of(V6, images.as_slice())
    }

    fn ensure_cluster_rules_of(
        &mut self,
        family: AddressFamily,
        to: &[IpNet],
    ) -> Result<(), NetworkError> {
        let action = || "make the routing rule that leads to instances".to_owned();
        let found = self.route.dump(|| rules(family), |rule| Some(Rule::parse(rule)));
        let found = unless_unknown(found).map_err(refused(action))?;
        let wanted: Vec<ClusterRule> = priority_of_ours(&found).map_or_else(Vec::new, |priority| {
            to.iter().map(|to| ClusterRule { to: *to, priority }).collect()
        });
        let ours: Vec<ClusterRule> = found.into_iter().filter_map(|rule| rule.ours).collect();
        let missing = wanted.iter().filter(|wanted| !ours.contains(wanted)).map(|wanted| {
            Request::new(RouteNetlinkMessage::NewRule(wanted.message()), Mode::Add.flags())
        });
        // First the new ones, so that there is no moment without any.
        let wrong = ours.iter().filter(|ours| !wanted.contains(ours));
        let requests = missing.chain(wrong.map(|ours| ours.delete())).collect();
        // Somebody else may have the very same one.
        let expected = |errno| matches!(errno, Errno::ENOENT | Errno::EEXIST);
        send(&mut self.route, requests, expected, action)
    }

    /// Removes them, of both protocols; one that is not there is no error.
    pub(super) fn remove_cluster_rules(&mut self) -> Result<(), NetworkError> {
        self.ensure_cluster_rules_of(V4, &[])?;
        self.ensure_cluster_rules_of(V6, &[])
    }
}

/// A kernel without IPv6 has no rules of it.
fn unless_unknown(found: io::Result<Vec<Rule>>) -> io::Result<Vec<Rule>> {
    match found {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(Vec::new()),
        found => found,
    }
}

/// A rule of ours that keeps a range of instances in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClusterRule {
    to: IpNet,
    priority: u32,
}

/// What matters of any rule for where ours goes.
#[derive(Clone, Copy, Debug, Default)]
struct Rule {
    ours: Option<ClusterRule>,
    /// The priority of one of somebody else that may lead packets elsewhere.
    diverts: Option<u32>,
    /// The priority of one for VRFs.
    vrf: Option<u32>,
}

/// Where ours should be, if they are needed: before the first rule that diverts, but never before one for VRFs, which are apart
/// on purpose.
fn priority_of_ours(found: &[Rule]) -> Option<u32> {
    static WARNED: Once = Once::new();
    let first = found.iter().filter_map(|rule| rule.diverts).min()?;
    let behind_vrfs =
        found.iter().filter_map(|rule| rule.vrf).max().map(|vrf| vrf.saturating_add(1));
    let earliest = behind_vrfs.unwrap_or(CLUSTER_PRIORITY_MIN).max(CLUSTER_PRIORITY_MIN);
    if first <= earliest {
        WARNED.call_once(|| {
            tracing::warn!(
                priority = first,
                "a routing rule is too early for dwell's to be before it, and may lead what is for instances elsewhere; \
                 give it a priority above {earliest}"
            );
        });
    }
    Some(first.saturating_sub(1).max(earliest))
}

impl Rule {
    fn parse(rule: &[u8]) -> Self {
        let is_vrf = attributes(rule, HEADER_BYTES).any(|it| it.kind == FRA_L3MDEV);
        Self {
            ours: ClusterRule::parse(rule),
            diverts: diverts(rule).then(|| priority(rule)),
            vrf: is_vrf.then(|| priority(rule)),
        }
    }
}

impl ClusterRule {
    /// `None` for all other rules.
    fn parse(rule: &[u8]) -> Option<Self> {
        let value =
            |kind| attributes(rule, HEADER_BYTES).find(|it| it.kind == kind).map(|it| it.value);
        let is_ours = value(FRA_PROTOCOL) == Some(&[ROUTE_PROTOCOL])
            && value(FRA_SUPPRESS_PREFIXLEN) == Some(&0_u32.to_ne_bytes());
        let &[_, to_length, ..] = rule else { return None };
        let to = IpNet::new(ip(value(FRA_DST)?)?, to_length).ok().filter(|_| is_ours)?;
        Some(Self { to, priority: priority(rule) })
    }

    /// `ip rule add to CLUSTER lookup main suppress_prefixlength 0 priority PRIORITY`, as one of ours: what the main
    /// table has only its default route for is left to the rules of others.
    fn message(self) -> RuleMessage {
        let mut message = rule(match self.to {
            IpNet::V4(_) => V4,
            IpNet::V6(_) => V6,
        });
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.action = RuleAction::ToTable;
        message.header.dst_len = self.to.prefix_len();
        message.attributes = vec![
            RuleAttribute::Destination(self.to.network()),
            RuleAttribute::Priority(self.priority),
            RuleAttribute::SuppressPrefixLen(0),
            RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
        ];
        message
    }

    fn delete(self) -> Request {
        Request::new(RouteNetlinkMessage::DelRule(self.message()), 0)
    }
}

/// Without the attribute it is 0, as that of the local table is.
fn priority(rule: &[u8]) -> u32 {
    let priority = attributes(rule, HEADER_BYTES).find(|it| it.kind == FRA_PRIORITY);
    priority.and_then(|priority| u32_at(priority.value, 0)).unwrap_or(0)
}

/// Whether a rule of somebody else may lead packets elsewhere before the main table is asked.
fn diverts(rule: &[u8]) -> bool {
    let value = |kind| attributes(rule, HEADER_BYTES).find(|it| it.kind == kind).map(|it| it.value);
    let &[_, _, _, _, table, _, _, action, ..] = rule else { return false };
    // The three that a kernel starts with, and VRFs, which are apart on purpose.
    let is_common = [
        RouteHeader::RT_TABLE_UNSPEC,
        libc::RT_TABLE_LOCAL,
        RouteHeader::RT_TABLE_MAIN,
        libc::RT_TABLE_DEFAULT,
    ]
    .contains(&table);
    action == u8::from(RuleAction::ToTable)
        && !is_common
        && priority(rule) < PRIORITY
        && value(FRA_PROTOCOL) != Some(&[ROUTE_PROTOCOL])
}

/// Whether a rule leads every packet to the whole main table.
fn leads_to_main(rule: &[u8]) -> bool {
    /// Priority, table and protocol are no conditions, and padding and group suppression none of ours.
    const UNCONDITIONAL: [u16; 5] = [6, 15, 21, 18, 13];
    const INVERT: u32 = 2;
    let &[_, to_length, from_length, tos, table, _, _, action, ..] = rule else { return false };
    let is_unconditional = |rule| {
        attributes(rule, HEADER_BYTES).all(|attribute| match attribute.kind {
            FRA_SUPPRESS_PREFIXLEN => u32_at(attribute.value, 0) == Some(u32::MAX),
            kind => UNCONDITIONAL.contains(&kind),
        })
    };
    (to_length, from_length, tos) == (0, 0, 0)
        && (table, action) == (RouteHeader::RT_TABLE_MAIN, u8::from(RuleAction::ToTable))
        && u32_at(rule, 8).is_some_and(|flags| flags & INVERT == 0)
        && is_unconditional(rule)
}

/// Whether it is the rule for what is marked for the overlay.
fn leads_to_overlay(rule: &[u8]) -> bool {
    let has = |kind: u16, value: u32| {
        attributes(rule, HEADER_BYTES)
            .any(|attribute| attribute.kind == kind && u32_at(attribute.value, 0) == Some(value))
    };
    rule.get(4) == Some(&OVERLAY_TABLE)
        && has(FRA_PRIORITY, OVERLAY_PRIORITY)
        && has(FRA_FWMARK, MARK)
        && has(FRA_FWMASK, MARK)
}

/// `ip rule add fwmark MARK/MARK lookup TABLE priority PRIORITY`, as one of ours.
fn overlay_rule() -> RuleMessage {
    let mut message = rule(V4);
    message.header.table = OVERLAY_TABLE;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(OVERLAY_PRIORITY),
        RuleAttribute::FwMark(MARK),
        RuleAttribute::FwMask(MARK),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    message
}

/// The slot whose rule it is, if it is one of these.
fn slot_of(rule: &[u8]) -> Option<Slot> {
    let has = |kind: u16, value: u32| {
        attributes(rule, HEADER_BYTES)
            .any(|attribute| attribute.kind == kind && u32_at(attribute.value, 0) == Some(value))
    };
    Slot::ALL.into_iter().find(|slot| {
        rule.get(4) == Some(&table_of(*slot))
            && has(FRA_PRIORITY, SLOT_PRIORITY)
            && has(FRA_FWMARK, mark_of(*slot))
            && has(FRA_FWMASK, MASK)
    })
}

/// `ip rule add fwmark MARK/MASK lookup TABLE priority PRIORITY`, as one of ours.
fn slot_rule(family: AddressFamily, slot: Slot) -> RuleMessage {
    let mut message = rule(family);
    message.header.table = table_of(slot);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(SLOT_PRIORITY),
        RuleAttribute::FwMark(mark_of(slot)),
        RuleAttribute::FwMask(MASK),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    message
}

/// `ip rule show`, as a dump.
fn rules(family: AddressFamily) -> Request {
    Request::new(RouteNetlinkMessage::GetRule(rule(family)), 0)
}

/// `ip rule add lookup main priority 32766`, as one of ours.
fn add_rule(family: AddressFamily) -> Request {
    let mut message = rule(family);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    Request::new(RouteNetlinkMessage::NewRule(message), Mode::Add.flags())
}

fn rule(family: AddressFamily) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_right_before_the_first_that_diverts_but_never_before_a_vrf() {
        for (diverts, vrf, priority) in [
            (vec![], None, None),
            (vec![], Some(1000), None),
            (vec![1000, 500], None, Some(499)),
            (vec![32_765], Some(1000), Some(32_764)),
            (vec![100, 2000], Some(1000), Some(1001)),
            (vec![0, 1000], None, Some(1)),
        ] {
            let diverting = diverts.iter().map(|at| Rule { diverts: Some(*at), ..Rule::default() });
            let found: Vec<Rule> = diverting.chain([Rule { vrf, ..Rule::default() }]).collect();
            assert_eq!(priority_of_ours(&found), priority, "{diverts:?} {vrf:?}");
        }
    }
}
