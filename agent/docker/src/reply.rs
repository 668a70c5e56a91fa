//! Docker's words for containers and events, read into ours.
//!
//! What is missing or makes no sense is an error and never a guess: a container that looked gone or
//! dead because of half a reply would be replaced.

use std::collections::HashMap;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, EventMessage, HostConfig,
};
use dwell_core::clock::Timestamp;
use dwell_core::id::{Generation, InstanceName, Revision};
use dwell_core::image::{ContainerImage, digest_of};
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{Enforced, Fingerprint, Limits, Resources};

use super::spec::{
    LABEL_ADDRESS, LABEL_FINGERPRINT, LABEL_GENERATION, LABEL_GRACE, LABEL_INSTANCE, LABEL_LIFE,
    LABEL_RESTARTS, LABEL_SLOT, MEMORY_UNLIMITED,
};
use dwell_engine::{Container, ContainerId, ContainerState, Details, Event, EventKind};

/// Reads an entry of a list. The error says which label of ours is missing or wrong: such a container is somebody
/// else's, whatever else it says.
pub(super) fn listed(entry: ContainerSummary) -> Result<Container, &'static str> {
    let state = match entry.state {
        Some(ContainerSummaryStateEnum::CREATED) => ContainerState::Created,
        // Docker restarts none of ours by itself; one that waits for it does not run.
        Some(ContainerSummaryStateEnum::EXITED | ContainerSummaryStateEnum::RESTARTING) => {
            ContainerState::Exited
        }
        Some(ContainerSummaryStateEnum::DEAD | ContainerSummaryStateEnum::REMOVING) => {
            ContainerState::Dead
        }
        // One without a state is there; whoever has to know looks closer.
        Some(
            ContainerSummaryStateEnum::RUNNING
            | ContainerSummaryStateEnum::PAUSED
            | ContainerSummaryStateEnum::STOPPING
            | ContainerSummaryStateEnum::EMPTY,
        )
        | None => ContainerState::Running,
    };
    container(entry.id, &entry.labels.unwrap_or_default(), state)
}

/// Whether the labels of a container are those of one that dwell made.
pub(super) fn is_ours(labels: &HashMap<String, String>) -> bool {
    container(Some(String::new()), labels, ContainerState::Created).is_ok()
}

/// Reads a full description.
pub(super) fn inspected(
    reply: ContainerInspectResponse,
    enforced: Enforced,
) -> Result<Container, &'static str> {
    let own_ssh = has_own_ssh(&reply);
    let config = reply.config.unwrap_or_default();
    let image = ContainerImage {
        digest: config.image.as_deref().and_then(digest_of),
        id: reply.image.and_then(|id| id.parse().ok()),
    };
    let labels = config.labels.unwrap_or_default();
    let seen = reply.state.ok_or("it has no state")?;
    let state = match seen.status {
        Some(ContainerStateStatusEnum::CREATED) => ContainerState::Created,
        Some(
            ContainerStateStatusEnum::RUNNING
            | ContainerStateStatusEnum::PAUSED
            | ContainerStateStatusEnum::STOPPING,
        ) => ContainerState::Running,
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::RESTARTING) => {
            ContainerState::Exited
        }
        Some(ContainerStateStatusEnum::DEAD | ContainerStateStatusEnum::REMOVING) => {
            ContainerState::Dead
        }
        Some(ContainerStateStatusEnum::EMPTY) | None => return Err("it has no state"),
    };
    let mut container = container(reply.id, &labels, state)?;
    let grace = labels.get(LABEL_GRACE).and_then(|text| text.parse().ok()).map(Millis);
    let running = state == ContainerState::Running;
    let pid = seen.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|&pid| pid > 0);
    let started_at = seen.started_at.as_deref().and_then(timestamp);
    // A daemon that was killed between a start and its own note of it knows no better afterwards.
    let made_at = reply.created.as_deref().and_then(timestamp).filter(|_| running);
    let started_at = started_at.or(made_at);
    if running && started_at.is_none() {
        return Err("it runs and was never made");
    }
    let exit_code = seen.exit_code.and_then(|code| i32::try_from(code).ok());
    container.details = Some(Details {
        pid: pid.filter(|_| running),
        started_at,
        finished_at: seen.finished_at.as_deref().and_then(timestamp).filter(|_| !running),
        exit_code: exit_code.filter(|_| !running && started_at.is_some()),
        out_of_memory: seen.oom_killed.unwrap_or(false),
        // Whatever the daemon repeats of what it was asked for.
        limits: enforced.of(limits(&reply.host_config.ok_or("it has no limits")?)),
        enforced,
        stop_grace: grace,
        own_ssh,
        image,
    });
    Ok(container)
}

/// Whether its image declares the port of SSH, or its main program is a server of it.
fn has_own_ssh(reply: &ContainerInspectResponse) -> bool {
    let ports = reply.config.as_ref().and_then(|config| config.exposed_ports.as_deref());
    let program = reply.path.as_deref().and_then(|path| path.rsplit('/').next());
    ports.unwrap_or_default().iter().any(|port| port == "22/tcp")
        || program.is_some_and(|program| ["sshd", "dropbear"].contains(&program))
}

fn container(
    id: Option<String>,
    labels: &HashMap<String, String>,
    state: ContainerState,
) -> Result<Container, &'static str> {
    let label = |name| labels.get(name).map(String::as_str);
    let generation = label(LABEL_GENERATION).and_then(|text| text.parse().ok());
    Ok(Container {
        id: ContainerId(id.ok_or("it has no id")?),
        instance: instance(labels)?,
        generation: Generation(generation.ok_or("its label of a generation is missing or wrong")?),
        // Those of earlier versions of dwell lack it.
        life: Revision(label(LABEL_LIFE).and_then(|text| text.parse().ok()).unwrap_or(0)),
        address: label(LABEL_ADDRESS).and_then(|text| text.parse().ok()),
        slot: label(LABEL_SLOT).and_then(|text| text.parse().ok()).unwrap_or_default(),
        fingerprint: Fingerprint(
            label(LABEL_FINGERPRINT).ok_or("its label of a fingerprint is missing")?.to_owned(),
        ),
        state,
        restarts_asked: label(LABEL_RESTARTS).and_then(|text| text.parse().ok()).unwrap_or(0),
        details: None,
    })
}

fn instance(labels: &HashMap<String, String>) -> Result<InstanceName, &'static str> {
    let name = labels.get(LABEL_INSTANCE).and_then(|text| text.parse().ok());
    name.ok_or("its label of an instance is missing or wrong")
}

pub(super) fn limits(config: &HostConfig) -> Limits {
    let positive = |number: Option<i64>| u64::try_from(number.unwrap_or(0)).unwrap_or(0);
    let quota = positive(config.cpu_quota);
    let period = positive(config.cpu_period).max(1);
    let memory = positive(config.memory);
    let share = Resources {
        cpu: Millicores(quota.saturating_mul(1000) / period),
        memory: Bytes(if memory >= MEMORY_UNLIMITED { 0 } else { memory }),
    };
    Limits { share, pids: u32::try_from(positive(config.pids_limit)).unwrap_or(u32::MAX) }
}

/// Reads an event; `None` for one that says nothing of ours.
pub(super) fn event(message: EventMessage) -> Option<Event> {
    let actor = message.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let kind = match message.action.as_deref()? {
        "start" => EventKind::Started,
        "die" => EventKind::Died {
            exit_code: attributes.get("exitCode").and_then(|code| code.parse().ok()),
        },
        "oom" => EventKind::OutOfMemory,
        "destroy" => EventKind::Removed,
        _ => EventKind::Changed,
    };
    Some(Event {
        id: ContainerId(actor.id?),
        instance: instance(&attributes).ok().filter(|_| is_ours(&attributes))?,
        at: Timestamp(u64::try_from(message.time_nano?).ok()? / 1_000_000),
        kind,
    })
}

/// Reads a time as Docker writes it; the year 1 stands for never.
fn timestamp(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use dwell_core::image::ImageDigest;

    use super::*;

    fn entry(state: &str, labels: &str) -> ContainerSummary {
        let text = format!(r#"{{"Id":"c1","State":{state},"Labels":{{{labels}}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    const LABELS: &str =
        r#""dwell.instance":"web-0","dwell.generation":"7","dwell.fingerprint":"f""#;

    #[test]
    fn states_of_a_list() {
        for (text, state) in [
            ("\"created\"", ContainerState::Created),
            ("\"running\"", ContainerState::Running),
            ("\"paused\"", ContainerState::Running),
            ("\"exited\"", ContainerState::Exited),
            ("\"removing\"", ContainerState::Dead),
        ] {
            let container = listed(entry(text, LABELS)).unwrap();
            assert_eq!(container.state, state, "{text}");
            assert_eq!(container.generation, Generation(7));
        }
    }

    #[test]
    fn a_container_without_our_labels_is_somebody_elses() {
        for wrong in [
            String::new(),
            LABELS.replace("web-0", "../x"),
            LABELS.replace('7', "-7"),
            r#""dwell.cluster":"c","dwell.instance":"zz-0""#.to_owned(),
            r#""dwell.cluster":"c","team":"web""#.to_owned(),
        ] {
            assert!(listed(entry("\"running\"", &wrong)).is_err(), "{wrong}");
            let labels: HashMap<String, String> =
                serde_json::from_str(&format!("{{{wrong}}}")).unwrap();
            assert!(!is_ours(&labels), "{wrong}");
        }
        // Half a reply hides nothing of ours.
        assert_eq!(listed(entry("null", LABELS)).unwrap().state, ContainerState::Running);
    }

    fn description(state: &str) -> Result<Container, &'static str> {
        let text = format!(
            r#"{{"Id":"c1","Created":"2026-01-02T03:00:00Z","State":{state},"Config":{{"Labels":{{{LABELS}}}}},
                "HostConfig":{{"CpuQuota":50000,"CpuPeriod":100000,"Memory":67108864}}}}"#
        );
        inspected(serde_json::from_str(&text).unwrap(), Enforced::ALL)
    }

    #[test]
    fn descriptions() {
        let running = description(
            r#"{"Status":"running","Pid":42,"StartedAt":"2026-01-02T03:04:05.678901234Z"}"#,
        );
        let expected = Details {
            pid: Some(42),
            started_at: Some(Timestamp(1_767_323_045_678)),
            limits: Limits {
                share: Resources { cpu: Millicores(500), memory: Bytes::mebi(64) },
                pids: 0,
            },
            ..Details::default()
        };
        assert_eq!(running.unwrap().details, Some(expected));
        let text = format!(
            r#"{{"Id":"c1","State":{{"Status":"created"}},"Config":{{"Labels":{{{LABELS}}}}},
                "HostConfig":{{"PidsLimit":100}}}}"#
        );
        let no_pids = Enforced { pids: false, ..Enforced::ALL };
        let unlimited = inspected(serde_json::from_str(&text).unwrap(), no_pids).unwrap();
        assert_eq!(
            unlimited.details.unwrap().limits,
            Limits::default(),
            "what cannot be is not so"
        );
        let exited = description(
            r#"{"Status":"exited","Pid":0,"ExitCode":137,"OOMKilled":true,
                "StartedAt":"2026-01-02T03:04:05.678Z","FinishedAt":"2026-01-02T03:04:06Z"}"#,
        );
        let expected = Details {
            pid: None,
            finished_at: Some(Timestamp(1_767_323_046_000)),
            exit_code: Some(137),
            out_of_memory: true,
            ..expected
        };
        assert_eq!(exited.unwrap().details, Some(expected));
        let created = description(
            r#"{"Status":"created","Pid":0,"ExitCode":0,"StartedAt":"0001-01-01T00:00:00Z"}"#,
        );
        let details = created.unwrap().details.unwrap();
        assert_eq!((details.started_at, details.exit_code), (None, None));
        let forgotten =
            description(r#"{"Status":"running","Pid":42,"StartedAt":"0001-01-01T00:00:00Z"}"#);
        let details = forgotten.unwrap().details.unwrap();
        assert_eq!(
            (details.pid, details.started_at),
            (Some(42), Some(Timestamp(1_767_322_800_000)))
        );
        assert!(description("null").is_err());
    }

    #[test]
    fn a_container_says_which_image_it_was_made_from() {
        let digest = format!("sha256:{}", "01".repeat(32));
        let image = |reference: &str| {
            let text = format!(
                r#"{{"Id":"c1","State":{{"Status":"created"}},"HostConfig":{{}},"Image":"sha256:{}",
                    "Config":{{"Labels":{{{LABELS}}},"Image":"{reference}"}}}}"#,
                "02".repeat(32)
            );
            inspected(serde_json::from_str(&text).unwrap(), Enforced::ALL)
                .unwrap()
                .details
                .unwrap()
                .image
        };
        let id = Some(ImageDigest::new([2; 32]));
        let pinned = ContainerImage { digest: Some(ImageDigest::new([1; 32])), id };
        assert_eq!(image(&format!("host:5000/a:1@{digest}")), pinned);
        assert_eq!(image("a:1"), ContainerImage { digest: None, id }, "it was made on the node");
    }

    #[test]
    fn ssh_servers_of_an_image() {
        let is_own = |path: &str, ports: &str| {
            let text = format!(
                r#"{{"Id":"c1","Path":"{path}","State":{{"Status":"created"}},"HostConfig":{{}},
                    "Config":{{"Labels":{{{LABELS}}},"ExposedPorts":{ports}}}}}"#
            );
            inspected(serde_json::from_str(&text).unwrap(), Enforced::ALL)
                .unwrap()
                .details
                .unwrap()
                .own_ssh
        };
        assert!(is_own("/usr/sbin/sshd", "null") && is_own("dropbear", "{}"));
        assert!(is_own("sh", r#"{"80/tcp":{},"22/tcp":{}}"#));
        assert!(!is_own("sh", r#"{"22/udp":{},"2222/tcp":{}}"#));
        assert!(!is_own("/opt/sshd/run", "null") && !is_own("sshd-exporter", "null"));
    }

    #[test]
    fn events_without_meaning_are_left_out() {
        let read = |text: &str| event(serde_json::from_str(text).unwrap());
        let died = read(
            r#"{"Action":"die","timeNano":1500000000,"Actor":{"ID":"c1","Attributes":
                {"dwell.instance":"web-0","dwell.generation":"7","dwell.fingerprint":"f","exitCode":"3"}}}"#,
        );
        assert_eq!(
            died,
            Some(Event {
                id: ContainerId("c1".to_owned()),
                instance: "web-0".parse().unwrap(),
                at: Timestamp(1500),
                kind: EventKind::Died { exit_code: Some(3) },
            })
        );
        assert_eq!(read(r#"{"Action":"die","timeNano":1,"Actor":{"ID":"c1"}}"#), None);
        assert_eq!(read("{}"), None);
    }
}
