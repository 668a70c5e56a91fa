//! The routing policy rules: the one that leads to the main table, and ours that leads to the overlay's.
//!
//! A kernel starts with it, at priority 32766. If somebody removes it, nothing of the host is routed any more.
//! Then there is one of ours in its place, which is like it and stays: the host needs it without dwell, too.

use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::netlink::Request;
use super::observe::{attributes, u32_at};
use super::overlay::MARK;
use super::owner::Owner;
use super::request::Mode;
use super::{OVERLAY_TABLE, refused, send};
use crate::{NetworkError, ROUTE_PROTOCOL};

/// Where the kernel has it.
const PRIORITY: u32 = 32_766;
/// Where ours is: before the tables of others, as it is about nothing but what is marked.
const OVERLAY_PRIORITY: u32 = 1_570;

impl Owner {
    /// Makes the rule that leads what the firewall has marked to the overlay's table, if it is missing.
    pub(super) fn ensure_overlay_rule(&mut self) -> Result<(), NetworkError> {
        let action = || "make the routing rule that leads to the overlay".to_owned();
        let found = self.route.dump(rules, |rule| Some(leads_to_overlay(rule)));
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

    /// Makes the rule for the main table if there is none like it.
    pub(super) fn ensure_rule(&mut self) -> Result<(), NetworkError> {
        let action = || "make the routing rule that leads to the main table".to_owned();
        let rules = self.route.dump(rules, |rule| Some(leads_to_main(rule)));
        if rules.map_err(refused(action))?.contains(&true) {
            return Ok(());
        }
        send(&mut self.route, vec![add_rule()], |_| false, action)
    }
}

/// Whether a rule leads every packet to the whole main table.
fn leads_to_main(rule: &[u8]) -> bool {
    const HEADER_BYTES: usize = 12;
    const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
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
    const HEADER_BYTES: usize = 12;
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_FWMASK: u16 = 16;
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
    let mut message = rule();
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

/// `ip -4 rule show`, as a dump.
fn rules() -> Request {
    Request::new(RouteNetlinkMessage::GetRule(rule()), 0)
}

/// `ip rule add lookup main priority 32766`, as one of ours.
fn add_rule() -> Request {
    let mut message = rule();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    Request::new(RouteNetlinkMessage::NewRule(message), Mode::Add.flags())
}

fn rule() -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message
}
