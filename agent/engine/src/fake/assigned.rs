//! What tests tell an engine to run.

use std::net::Ipv4Addr;

use dwell_core::id::{Generation, Revision};
use dwell_core::instance::{Assigned, RunState};
use dwell_core::net::Mac;
use dwell_core::quantity::Millis;
use dwell_core::workload::Template;

/// An assignment for tests.
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
        update_deadline: Millis::seconds(60),
        monitor: Millis::seconds(10),
        life: Revision(1),
        template,
        fallback: None,
        image_digest: None,
        fallback_image_digest: None,
        host_key: None,
    }
}
