//! The images of the simulation: how their main processes behave, and what is declared of them.

use dwell_core::health::{HealthCheck, Probe};
use dwell_core::hook::{Hook, HookAction, Hooks};
use dwell_core::quantity::{Bytes, Millis};
use dwell_core::workload::{Resources, RestartPolicy, Template};

/// How the main process of an image behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temper {
    /// It runs and is healthy.
    Good,
    /// It ends soon after its start.
    Crashes,
    /// It runs and is unhealthy.
    Sick,
    /// It runs, is healthy and never ready.
    Busy,
    /// It runs, and its hook after the start fails.
    Uncalled,
    /// It cannot be started.
    Broken,
    /// Its image cannot be fetched.
    Absent,
    /// It does its work and ends.
    Works,
}

impl Temper {
    pub(super) fn of(image: &str) -> Self {
        match image.split(':').next() {
            Some("crashes") => Self::Crashes,
            Some("sick") => Self::Sick,
            Some("busy") => Self::Busy,
            Some("uncalled") => Self::Uncalled,
            Some("broken") => Self::Broken,
            Some("absent") => Self::Absent,
            Some("works") => Self::Works,
            _ => Self::Good,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Crashes => "crashes",
            Self::Sick => "sick",
            Self::Busy => "busy",
            Self::Uncalled => "uncalled",
            Self::Broken => "broken",
            Self::Absent => "absent",
            Self::Works => "works",
        }
    }
}

fn hook() -> Hook {
    let action = HookAction::Exec { command: vec!["hook".into()] };
    Hook { action, timeout: Hook::default_timeout() }
}

/// What is carried over.
pub(super) fn carry() -> Vec<String> {
    vec!["/identity".to_owned()]
}

/// Every other version has files carried over; the others can be tried beside the old container.
pub(super) fn template(temper: Temper, version: u8) -> Template {
    Template {
        healthcheck: Some(HealthCheck {
            restart: Some(Millis::seconds(5)),
            ..HealthCheck::new(Probe::Tcp { port: 80 })
        }),
        readiness: Some(HealthCheck::new(Probe::Tcp { port: 81 })),
        hooks: Hooks { after_start: Some(hook()), before_stop: Some(hook()) },
        carry: if version.is_multiple_of(2) { Vec::new() } else { carry() },
        restart: RestartPolicy::OnFailure { max_retries: Some(3) },
        resources: Resources { memory: Bytes::mebi(64), ..Resources::default() },
        ..Template::of_image(format!("{}:{version}", temper.name()))
    }
}
