//! What a node says of itself, and how it is welcomed.

use dwell_core::id::{Generation, Incarnation, Position, Revision, Term};
use dwell_core::instance::{InstanceStatus, MESSAGE_MAX, sanitize};
use dwell_core::quantity::Millis;
use dwell_core::session::{
    Acknowledge, BOOT_ID_MAX, Boot, Claim, GONE_MAX, Heartbeat, Hello, INSTANCES_MAX, Lent,
    RebootFailed, RebootOrder, SSH_EVENTS_MAX, SeenVolume, SshEvents, StatusReport, VOLUMES_MAX,
    Welcome,
};
use dwell_core::skill::Skills;
use dwell_core::ssh::SshEvent;

use super::{FromWireError, parse, parse_optional, text_or_empty};
use crate::v1;

/// The longest path of a volume in an image, in bytes.
const PATH_MAX: usize = 4096;

impl From<&Hello> for v1::Hello {
    fn from(hello: &Hello) -> Self {
        Self {
            protocol: hello.protocol,
            protocol_newest: hello.protocol_newest,
            run: hello.run,
            address: hello.address.to_string(),
            capacity: Some((&hello.capacity).into()),
            status: Some((&hello.status).into()),
            revision: hello.held.revision.0,
            directory_revision: hello.directory.revision.0,
            incarnation: hello.held.incarnation.0,
            term: hello.term.0,
            directory_incarnation: hello.directory.incarnation.0,
            takes_pieces: hello.takes_pieces,
            durable_revision: hello.durable.0,
            claims: hello.claims.iter().map(Into::into).collect(),
            host_mark: text_or_empty(hello.host_mark.as_ref()),
            block: text_or_empty(hello.block.as_ref()),
            routes_only: hello.routes_only,
            keeps_leases: hello.keeps_leases,
            fetches_ahead: hello.fetches_ahead,
            carries: hello.carries,
            knows_blocks: hello.knows_blocks,
            knows_ranges: hello.knows_ranges,
            knows_process: hello.skills.process,
            knows_machines: hello.skills.machine,
            knows_compose: hello.skills.compose,
            lets_go: hello.lets_go,
            takes_over: hello.takes_over,
            moves_volumes: hello.moves_volumes,
            boot: hello.boot.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = FromWireError;

    fn try_from(wire: v1::Hello) -> Result<Self, FromWireError> {
        at_most("hello.claims", wire.claims.len(), INSTANCES_MAX)?;
        let claims = wire.claims.into_iter().map(Claim::try_from);
        Ok(Self {
            protocol: wire.protocol,
            protocol_newest: wire.protocol_newest,
            run: wire.run,
            address: parse("hello.address", &wire.address)?,
            capacity: wire.capacity.unwrap_or_default().into(),
            status: wire.status.unwrap_or_default().try_into()?,
            held: position(wire.incarnation, wire.revision),
            term: Term(wire.term),
            directory: position(wire.directory_incarnation, wire.directory_revision),
            takes_pieces: wire.takes_pieces,
            durable: Revision(wire.durable_revision),
            claims: claims.collect::<Result<_, _>>()?,
            host_mark: parse_optional("hello.host_mark", &wire.host_mark)?,
            block: parse_optional("hello.block", &wire.block)?,
            routes_only: wire.routes_only,
            keeps_leases: wire.keeps_leases,
            fetches_ahead: wire.fetches_ahead,
            carries: wire.carries,
            knows_blocks: wire.knows_blocks,
            knows_ranges: wire.knows_ranges,
            skills: Skills {
                process: wire.knows_process,
                machine: wire.knows_machines,
                compose: wire.knows_compose,
            },
            lets_go: wire.lets_go,
            takes_over: wire.takes_over,
            moves_volumes: wire.moves_volumes,
            boot: wire.boot.map(Into::into),
        })
    }
}

impl From<&Claim> for v1::Claim {
    fn from(claim: &Claim) -> Self {
        Self {
            instance: claim.instance.to_string(),
            generation: claim.generation.0,
            address: claim.address.to_string(),
        }
    }
}

impl TryFrom<v1::Claim> for Claim {
    type Error = FromWireError;

    fn try_from(wire: v1::Claim) -> Result<Self, FromWireError> {
        Ok(Self {
            instance: parse("hello.claims.instance", &wire.instance)?,
            generation: Generation(wire.generation),
            address: parse("hello.claims.address", &wire.address)?,
        })
    }
}

impl From<&Welcome> for v1::Welcome {
    fn from(welcome: &Welcome) -> Self {
        Self {
            protocol: welcome.protocol,
            heartbeat_ms: welcome.heartbeat.0,
            cluster_id: welcome.cluster_id.clone(),
            incarnation: welcome.incarnation.0,
            term: welcome.term.0,
            ca_pem: welcome.ca_pem.clone(),
        }
    }
}

impl From<v1::Welcome> for Welcome {
    fn from(wire: v1::Welcome) -> Self {
        Self {
            protocol: wire.protocol,
            heartbeat: Millis(wire.heartbeat_ms),
            cluster_id: wire.cluster_id,
            incarnation: Incarnation(wire.incarnation),
            term: Term(wire.term),
            ca_pem: wire.ca_pem,
        }
    }
}

impl From<&Heartbeat> for v1::Heartbeat {
    fn from(heartbeat: &Heartbeat) -> Self {
        Self {
            number: heartbeat.number,
            capacity: heartbeat.capacity.as_ref().map(Into::into),
            reboot_failed: heartbeat.reboot_failed.as_ref().map(Into::into),
        }
    }
}

impl From<v1::Heartbeat> for Heartbeat {
    fn from(wire: v1::Heartbeat) -> Self {
        Self {
            number: wire.number,
            capacity: wire.capacity.map(Into::into),
            reboot_failed: wire.reboot_failed.map(Into::into),
        }
    }
}

impl From<&Boot> for v1::Boot {
    fn from(boot: &Boot) -> Self {
        Self { id: boot.id.clone(), may_reboot: boot.may_reboot }
    }
}

impl From<v1::Boot> for Boot {
    fn from(wire: v1::Boot) -> Self {
        Self { id: sanitize(&wire.id, BOOT_ID_MAX), may_reboot: wire.may_reboot }
    }
}

impl From<&RebootOrder> for v1::RebootOrder {
    fn from(order: &RebootOrder) -> Self {
        let RebootOrder { incarnation, number, boot_id } = order.clone();
        Self { incarnation: incarnation.0, number, boot_id }
    }
}

impl From<v1::RebootOrder> for RebootOrder {
    fn from(wire: v1::RebootOrder) -> Self {
        let boot_id = sanitize(&wire.boot_id, BOOT_ID_MAX);
        Self { incarnation: Incarnation(wire.incarnation), number: wire.number, boot_id }
    }
}

impl From<&RebootFailed> for v1::RebootFailed {
    fn from(failed: &RebootFailed) -> Self {
        let RebootFailed { incarnation, number, reason } = failed.clone();
        Self { incarnation: incarnation.0, number, reason }
    }
}

impl From<v1::RebootFailed> for RebootFailed {
    fn from(wire: v1::RebootFailed) -> Self {
        let reason = sanitize(&wire.reason, MESSAGE_MAX);
        Self { incarnation: Incarnation(wire.incarnation), number: wire.number, reason }
    }
}

impl From<&Lent> for v1::Lent {
    fn from(lent: &Lent) -> Self {
        Self { heartbeat: lent.heartbeat, only_renewed: lent.only_renewed }
    }
}

impl From<v1::Lent> for Lent {
    fn from(wire: v1::Lent) -> Self {
        Self { heartbeat: wire.heartbeat, only_renewed: wire.only_renewed }
    }
}

impl From<&StatusReport> for v1::StatusReport {
    fn from(report: &StatusReport) -> Self {
        Self {
            complete: report.complete,
            instances: report.instances.iter().map(Into::into).collect(),
            gone: report.gone.iter().map(ToString::to_string).collect(),
            revision: report.seen_under.revision.0,
            incarnation: report.seen_under.incarnation.0,
            volumes: volumes_of(report.volumes.as_deref(), false),
            volumes_known: report.volumes.is_some(),
            copies: volumes_of(report.volumes.as_deref(), true),
        }
    }
}

impl TryFrom<v1::StatusReport> for StatusReport {
    type Error = FromWireError;

    /// One wrong entry refuses the whole: it was made by a program, which then is wrong.
    fn try_from(wire: v1::StatusReport) -> Result<Self, FromWireError> {
        at_most("status.instances", wire.instances.len(), INSTANCES_MAX)?;
        at_most("status.gone", wire.gone.len(), GONE_MAX)?;
        let volumes = seen_volumes(&wire.volumes, &wire.copies)?;
        let instances = wire.instances.into_iter().map(InstanceStatus::try_from);
        let gone = wire.gone.iter().map(|name| parse("status.gone", name));
        Ok(Self {
            seen_under: position(wire.incarnation, wire.revision),
            complete: wire.complete,
            instances: instances.collect::<Result<_, _>>()?,
            gone: gone.collect::<Result<_, _>>()?,
            volumes: wire.volumes_known.then_some(volumes),
        })
    }
}

impl From<&SeenVolume> for v1::SeenVolume {
    fn from(seen: &SeenVolume) -> Self {
        Self {
            instance: seen.instance.to_string(),
            name: seen.name.to_string(),
            image_path: seen.image_path.clone().unwrap_or_default(),
        }
    }
}

/// The volumes among those that are there, or the copies. They are told apart by where they are said, so that a controller that knows
/// of no copies takes none for a volume.
pub(super) fn volumes_of(seen: Option<&[SeenVolume]>, copies: bool) -> Vec<v1::SeenVolume> {
    let seen = seen.unwrap_or_default().iter();
    seen.filter(|one| one.is_copy == copies).map(Into::into).collect()
}

/// Those of both lists.
pub(super) fn seen_volumes(
    volumes: &[v1::SeenVolume],
    copies: &[v1::SeenVolume],
) -> Result<Vec<SeenVolume>, FromWireError> {
    at_most("status.volumes", volumes.len(), VOLUMES_MAX)?;
    at_most("status.copies", copies.len(), VOLUMES_MAX)?;
    let volumes = volumes.iter().map(|volume| seen_volume(volume, false));
    let copies = copies.iter().map(|copy| seen_volume(copy, true));
    volumes.chain(copies).collect()
}

fn seen_volume(wire: &v1::SeenVolume, is_copy: bool) -> Result<SeenVolume, FromWireError> {
    Ok(SeenVolume {
        instance: parse("status.volumes.instance", &wire.instance)?,
        name: parse("status.volumes.name", &wire.name)?,
        image_path: Some(sanitize(&wire.image_path, PATH_MAX)).filter(|path| !path.is_empty()),
        is_copy,
    })
}

impl From<&Acknowledge> for v1::Acknowledge {
    fn from(acknowledge: &Acknowledge) -> Self {
        let Position { incarnation, revision } = acknowledge.stored;
        Self { revision: revision.0, incarnation: incarnation.0 }
    }
}

impl From<v1::Acknowledge> for Acknowledge {
    fn from(wire: v1::Acknowledge) -> Self {
        Self { stored: position(wire.incarnation, wire.revision) }
    }
}

impl From<&SshEvents> for v1::SshEvents {
    fn from(told: &SshEvents) -> Self {
        Self { events: told.events.iter().map(Into::into).collect(), dropped: told.dropped }
    }
}

impl TryFrom<v1::SshEvents> for SshEvents {
    type Error = FromWireError;

    fn try_from(wire: v1::SshEvents) -> Result<Self, FromWireError> {
        at_most("ssh_events.events", wire.events.len(), SSH_EVENTS_MAX)?;
        let events = wire.events.into_iter().map(SshEvent::try_from);
        Ok(Self { events: events.collect::<Result<_, _>>()?, dropped: wire.dropped })
    }
}

pub(super) fn position(incarnation: u64, revision: u64) -> Position {
    Position { incarnation: Incarnation(incarnation), revision: Revision(revision) }
}

pub(super) fn at_most(field: &'static str, count: usize, max: usize) -> Result<(), FromWireError> {
    if count > max {
        return Err(FromWireError::new(
            field,
            format!("has {count} entries; at most {max} are taken"),
        ));
    }
    Ok(())
}
