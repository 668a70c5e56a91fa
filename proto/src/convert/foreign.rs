//! Containers that dwell did not make.

use std::collections::BTreeMap;

use dwell_core::container::ContainerId;
use dwell_core::foreign::{
    Adoption, Foreign, ForeignRestart, ForeignVolume, SENTENCES_MAX, VOLUMES_MAX,
};
use dwell_core::id::VolumeName;
use dwell_core::instance::{MESSAGE_MAX, sanitize};
use dwell_core::quantity::Bytes;
use dwell_core::workload::Template;

use super::{FromWireError, duration, parse, required};
use crate::v1;
use v1::foreign_restart::Kind;

/// The longest name that an engine has for a container or a volume, in bytes.
const NAME_MAX: usize = 512;

impl From<ForeignRestart> for v1::ForeignRestart {
    fn from(restart: ForeignRestart) -> Self {
        let (kind, max_retries) = match restart {
            ForeignRestart::No => (Kind::No, None),
            ForeignRestart::Always => (Kind::Always, None),
            ForeignRestart::UnlessStopped => (Kind::UnlessStopped, None),
            ForeignRestart::OnFailure(most) => (Kind::OnFailure, most),
        };
        Self { kind: kind.into(), max_retries }
    }
}

impl From<v1::ForeignRestart> for ForeignRestart {
    fn from(wire: v1::ForeignRestart) -> Self {
        match wire.kind() {
            Kind::Always => Self::Always,
            Kind::UnlessStopped => Self::UnlessStopped,
            Kind::OnFailure => Self::OnFailure(wire.max_retries),
            Kind::No | Kind::Unspecified => Self::No,
        }
    }
}

impl From<&ForeignVolume> for v1::ForeignVolume {
    fn from(volume: &ForeignVolume) -> Self {
        Self {
            name: volume.name.to_string(),
            source: volume.source.clone(),
            bytes: volume.size.map(|size| size.0),
        }
    }
}

impl TryFrom<v1::ForeignVolume> for ForeignVolume {
    type Error = FromWireError;

    fn try_from(wire: v1::ForeignVolume) -> Result<Self, FromWireError> {
        Ok(Self {
            name: parse("name", &wire.name)?,
            source: sanitize(&wire.source, NAME_MAX),
            size: wire.bytes.map(Bytes),
        })
    }
}

impl From<&Foreign> for v1::Foreign {
    fn from(foreign: &Foreign) -> Self {
        Self {
            container_id: foreign.id.0.clone(),
            name: foreign.name.clone(),
            template: Some((&foreign.template).into()),
            own_bytes: foreign.own_files.map(|size| size.0),
            volumes: foreign.volumes.iter().map(Into::into).collect(),
            restart: Some(foreign.restart.into()),
            changes: foreign.changes.clone(),
            obstacles: foreign.obstacles.clone(),
        }
    }
}

impl TryFrom<v1::Foreign> for Foreign {
    type Error = FromWireError;

    fn try_from(wire: v1::Foreign) -> Result<Self, FromWireError> {
        let sentences = |all: Vec<String>| -> Vec<String> {
            all.iter().take(SENTENCES_MAX).map(|one| sanitize(one, MESSAGE_MAX)).collect()
        };
        let volumes = wire.volumes.into_iter().take(VOLUMES_MAX).map(ForeignVolume::try_from);
        Ok(Self {
            id: ContainerId(sanitize(&wire.container_id, NAME_MAX)),
            name: sanitize(&wire.name, NAME_MAX),
            template: Template::try_from(required("template", wire.template)?)?,
            own_files: wire.own_bytes.map(Bytes),
            volumes: volumes.collect::<Result<_, _>>()?,
            restart: wire.restart.map(Into::into).unwrap_or_default(),
            changes: sentences(wire.changes),
            obstacles: sentences(wire.obstacles),
        })
    }
}

impl From<&Adoption> for v1::Adoption {
    fn from(adoption: &Adoption) -> Self {
        let volume = |(name, source): (&VolumeName, &String)| v1::ForeignVolume {
            name: name.to_string(),
            source: source.clone(),
            bytes: None,
        };
        Self {
            container_id: adoption.container.0.clone(),
            name: adoption.name.clone(),
            grace_ms: adoption.grace.0,
            restart: Some(adoption.restart.into()),
            image: adoption.image.clone().unwrap_or_default(),
            volumes: adoption.volumes.iter().map(volume).collect(),
        }
    }
}

impl TryFrom<v1::Adoption> for Adoption {
    type Error = FromWireError;

    fn try_from(wire: v1::Adoption) -> Result<Self, FromWireError> {
        let volume = |volume: v1::ForeignVolume| {
            let volume = ForeignVolume::try_from(volume)?;
            Ok((volume.name, volume.source))
        };
        let volumes: Result<BTreeMap<_, _>, FromWireError> =
            wire.volumes.into_iter().take(VOLUMES_MAX).map(volume).collect();
        Ok(Self {
            container: ContainerId(sanitize(&wire.container_id, NAME_MAX)),
            name: sanitize(&wire.name, NAME_MAX),
            grace: duration("grace_ms", wire.grace_ms)?,
            restart: wire.restart.map(Into::into).unwrap_or_default(),
            image: Some(wire.image).filter(|image| !image.is_empty()),
            volumes: volumes?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_and_what_is_ordered_come_back_as_they_went() {
        let volume = |size| ForeignVolume {
            name: "data".parse().unwrap(),
            source: "shop_data".to_owned(),
            size,
        };
        let foreign = Foreign {
            id: ContainerId("c1".to_owned()),
            name: "shop".to_owned(),
            template: Template::of_image("shop:1"),
            own_files: Some(Bytes(0)),
            volumes: vec![volume(Some(Bytes(7))), volume(None)],
            restart: ForeignRestart::OnFailure(Some(3)),
            changes: vec!["a".to_owned()],
            obstacles: vec!["b".to_owned()],
        };
        assert_eq!(Foreign::try_from(v1::Foreign::from(&foreign)), Ok(foreign));
        for restart in [
            ForeignRestart::No,
            ForeignRestart::Always,
            ForeignRestart::UnlessStopped,
            ForeignRestart::OnFailure(None),
        ] {
            let adoption = Adoption {
                container: ContainerId("c1".to_owned()),
                name: "shop".to_owned(),
                grace: dwell_core::quantity::Millis(10),
                restart,
                image: Some("localhost/x:1".to_owned()),
                volumes: [("data".parse().unwrap(), "shop_data".to_owned())].into(),
            };
            assert_eq!(Adoption::try_from(v1::Adoption::from(&adoption)), Ok(adoption));
        }
    }
}
