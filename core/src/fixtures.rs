//! What tests tell a node to run, for the tests of whoever uses these types.

use std::net::Ipv4Addr;

use crate::clock::Timestamp;
use crate::id::{Generation, Revision};
use crate::instance::{Assigned, Custody, RunState};
use crate::net::Mac;
use crate::quantity::Millis;
use crate::workload::Template;

/// An instance that is to run, at 10.80.0.1, without a way back.
///
/// # Panics
/// If `name` is no name of an instance.
#[expect(clippy::expect_used, reason = "it is for tests")]
#[must_use]
pub fn assigned(name: &str, generation: u64, template: Template) -> Assigned {
    let address = Ipv4Addr::new(10, 80, 0, 1);
    Assigned {
        instance: name.parse().expect("the name of an instance"),
        address,
        mac: Mac::of_address(address),
        generation: Generation(generation),
        run: RunState::Running,
        restarts_asked: 0,
        rebuilt: Timestamp(0),
        edition: Generation::default(),
        beside: false,
        update_deadline: Millis::seconds(60),
        monitor: Millis::seconds(10),
        life: Revision(1),
        template,
        fallback: None,
        image_digest: None,
        fallback_image_digest: None,
        image_ahead: None,
        custody: Custody::Usual,
        force_limits: false,
        lease: None,
        task: None,
        kept_volumes: std::collections::BTreeSet::new(),
        adopts: None,
        host_key: None,
    }
}

/// The same instance at another address.
#[must_use]
pub fn at(address: Ipv4Addr, assigned: Assigned) -> Assigned {
    Assigned { address, mac: Mac::of_address(address), ..assigned }
}
