//! `dwell ps`: workloads and their instances.

mod watch;

use clap::Args;
use dwell_core::health::Health;
use dwell_core::instance::{Phase, RunState};
use dwell_proto::v1;

use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::lists;
use crate::names;
use crate::output::time;
use crate::output::view::{InstanceView, PsView, WorkloadView};
use crate::output::{Now, OutputArgs, Style, Table, Tone, or_dash, print};

/// List workloads and their instances
///
/// SEEN is `now` for what the instance's node says of it at present. A node that is not heard of makes its
/// instances unknown, whatever they were before; then SEEN says how long ago it reported them. RESTARTS counts how
/// often the main process was started again after it had ended without being asked to, with Docker or its host as
/// well as by itself. RUN says of a job how many of its instances have completed, and when it is due next. On a terminal long lines are cut; `dwell inspect` shows everything.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell ps
  dwell ps hello
  dwell ps --node h1
  dwell ps --unwell                     # what does not run with good health
  dwell ps -w
  dwell ps -q hello | xargs dwell restart
  dwell ps -o json | jq -r '.instances[] | select(.health != \"healthy\") | .name'")]
pub(crate) struct Ps {
    /// Only this workload
    #[arg(value_parser = name_parser(), add = complete::workload())]
    workload: Option<String>,
    /// Only what is on this node
    #[arg(long, value_name = "NODE", value_parser = name_parser(), add = complete::node())]
    node: Option<String>,
    /// Only instances that are not as they are to be
    #[arg(long)]
    unwell: bool,
    /// Print only the names of instances
    #[arg(short, long, conflicts_with = "output")]
    quiet: bool,
    /// Stay and show what changes
    #[arg(short, long, conflicts_with_all = ["quiet", "output"])]
    watch: bool,
    /// Without effect, for hands that are used to it: everything is always listed
    #[arg(short, long, hide = true)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// What of the fleet is listed; empty names are all.
#[derive(Clone, Debug)]
struct Filter {
    workload: String,
    node: String,
    unwell: bool,
}

impl Filter {
    /// Takes out what is not wanted: instances, and then workloads of which none is left.
    fn apply(&self, view: &mut PsView) {
        if self.node.is_empty() && !self.unwell {
            return;
        }
        view.instances.retain(|instance| {
            (self.node.is_empty() || instance.node == self.node || instance.moving_to == self.node)
                && (!self.unwell || tone(instance) != Tone::Plain)
        });
        let instances = &view.instances;
        view.workloads.retain(|workload| {
            instances.iter().any(|instance| instance.workload == workload.name)
                || (self.unwell && self.node.is_empty() && !workload.message.is_empty())
        });
    }
}

impl Ps {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let workload = match &self.workload {
            Some(name) => names::workload(&mut fleet.client, name).await?,
            None => String::new(),
        };
        let node = match &self.node {
            Some(name) => names::node(&mut fleet.client, name).await?,
            None => String::new(),
        };
        let filter = Filter { workload, node, unwell: self.unwell };
        if self.watch {
            return watch::watch(&fleet, &filter).await;
        }
        let (workloads, instances) = fetch(&mut fleet, filter.workload.clone()).await?;
        let mut view = PsView::new(workloads, instances);
        filter.apply(&mut view);
        if self.quiet {
            let names = view.instances.iter().map(|instance| format!("{}\n", instance.name));
            return print(&names.collect::<String>());
        }
        self.output.print(&view, |view| {
            if view.instances.is_empty() && (self.unwell || self.node.is_some()) {
                let tables = if view.workloads.is_empty() {
                    String::new()
                } else {
                    tables(view, Now::read(), Style::of_stdout())
                };
                return format!("{tables}No instance is of that kind.\n");
            }
            tables(view, Now::read(), Style::of_stdout())
        })
    }
}

/// How much an instance wants to be seen.
fn tone(instance: &InstanceView) -> Tone {
    let wanted = match instance.run {
        RunState::Running => Phase::Running,
        RunState::Stopped => Phase::Stopped,
    };
    let is_good = instance.health.is_good() && instance.readiness.is_good();
    match instance.phase {
        Phase::Failed | Phase::Backoff => Tone::Trouble,
        Phase::Completed => Tone::Plain,
        Phase::Running if [instance.health, instance.readiness].contains(&Health::Unhealthy) => {
            Tone::Trouble
        }
        phase if phase == wanted && (phase == Phase::Stopped || is_good) => Tone::Plain,
        // It has done its work.
        Phase::Stopped if instance.exit_code == Some(0) => Tone::Plain,
        _ => Tone::Attention,
    }
}

/// Whether a workload is to run or, of a job, how far it is.
fn run(workload: &WorkloadView) -> String {
    match &workload.job {
        _ if workload.removing => "removing".to_owned(),
        Some(job) if workload.run == RunState::Running => {
            let mut words = vec![format!("{}/{} completed", job.completed, workload.replicas)];
            words.extend((job.failed > 0).then(|| format!("{} failed", job.failed)));
            // Its schedule is of a time zone of its own; this is everybody's.
            let next = job.next_due.map(|due| format!("due {}", time::minute(due)));
            words.extend(next);
            words.join(", ")
        }
        _ => workload.run.to_string(),
    }
}

/// What is to be known of an instance, limits of its own last.
fn said(instance: &InstanceView) -> String {
    let own = instance.own_size.as_ref().map(|own| format!("limits of its own: {own}"));
    let message = Some(instance.message.clone()).filter(|message| !message.is_empty());
    message.into_iter().chain(own).collect::<Vec<_>>().join("; ")
}

/// Where an instance is in its life; of a job's that has failed, with its exit code.
fn phase(instance: &InstanceView) -> String {
    let failed = instance.task.as_ref().filter(|_| instance.phase == Phase::Failed);
    let code = failed.and_then(|task| task.exit_code);
    let phase = match code {
        Some(code) => format!("{} ({code})", instance.phase),
        None => instance.phase.to_string(),
    };
    match instance {
        InstanceView { removing: true, .. } => format!("{phase}, removing"),
        InstanceView { let_go: true, .. } => format!("{phase}, let go"),
        _ => phase,
    }
}

/// What the checks of an instance say, in a word or two.
fn health(instance: &InstanceView) -> String {
    match (instance.health, instance.readiness) {
        (health, Health::None) => health.to_string(),
        (Health::None, Health::Healthy) => "ready".to_owned(),
        (health, Health::Healthy) => health.to_string(),
        (health, _) if health.is_good() => "not ready".to_owned(),
        (health, _) => health.to_string(),
    }
}

/// A workload, or all if the name is empty, with its instances.
pub(super) async fn fetch(
    fleet: &mut Fleet,
    workload: String,
) -> Result<(Vec<v1::Workload>, Vec<v1::Instance>), Failure> {
    let mut second = fleet.client.clone();
    let (workloads, instances) = tokio::try_join!(
        lists::workloads(&mut fleet.client, &workload),
        lists::instances(
            &mut second,
            v1::ListInstancesRequest { workload: workload.clone(), ..Default::default() }
        ),
    )?;
    Ok((workloads.0, instances.0))
}

fn tables(view: &PsView, now: Now, style: Style) -> String {
    if view.workloads.is_empty() && view.instances.is_empty() {
        return "Nothing runs here yet. Declare something with `dwell apply -f FILE` or `dwell run IMAGE --name NAME`.\n"
            .into();
    }
    let mut workloads =
        Table::new(["WORKLOAD", "READY", "UPDATED", "RUN", "IMAGE", "AGE", "MESSAGE"]);
    for workload in &view.workloads {
        let tone = if workload.message.is_empty() { Tone::Plain } else { Tone::Attention };
        workloads.toned_row(
            tone,
            [
                workload.name.clone(),
                format!("{}/{}", workload.ready, workload.replicas),
                format!("{}/{}", workload.updated, workload.replicas),
                run(workload),
                workload.image.clone(),
                now.age(Some(workload.created_at)),
                workload.message.clone(),
            ],
        );
    }
    let mut instances = Table::new([
        "INSTANCE", "NODE", "ADDRESS", "PHASE", "HEALTH", "UP", "RESTARTS", "SEEN", "MESSAGE",
    ]);
    for instance in &view.instances {
        let running = instance.phase == Phase::Running;
        instances.toned_row(
            tone(instance),
            [
                instance.name.clone(),
                match instance.moving_to.as_str() {
                    "" => or_dash(&instance.node),
                    to => format!("{} → {to}", or_dash(&instance.node)),
                },
                or_dash(&instance.address),
                phase(instance),
                // What was seen last is no longer known to be so.
                if running { health(instance) } else { "-".into() },
                if running { now.age(instance.started_at) } else { "-".into() },
                instance.restarts.to_string(),
                match instance.observed_at {
                    Some(_) if instance.phase != Phase::Unknown => "now".into(),
                    observed_at => now.age(observed_at),
                },
                said(instance),
            ],
        );
    }
    format!("{}\n{}", workloads.render(style), instances.render(style))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(ordinal: u32, phase: v1::Phase, health: v1::Health, message: &str) -> v1::Instance {
        v1::Instance {
            name: format!("hello-{ordinal}"),
            workload: "hello".into(),
            ordinal,
            node: "h1".into(),
            address: format!("10.80.1.{ordinal}"),
            status: Some(v1::InstanceStatus {
                phase: phase.into(),
                health: health.into(),
                started_at_ms: Some(1_000_000_000),
                observed_at_ms: 1_000_000_500,
                message: message.into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_filter_keeps_what_is_asked_for() {
        let view = || {
            let of = |name: &str| v1::Workload {
                spec: Some(v1::WorkloadSpec { name: name.into(), ..Default::default() }),
                ..Default::default()
            };
            let elsewhere = v1::Instance {
                name: "db-0".into(),
                workload: "db".into(),
                node: "h2".into(),
                ..instance(0, v1::Phase::Running, v1::Health::Unhealthy, "")
            };
            let instances = vec![
                instance(0, v1::Phase::Running, v1::Health::Healthy, ""),
                instance(1, v1::Phase::Running, v1::Health::Starting, ""),
                elsewhere,
            ];
            PsView::new(vec![of("hello"), of("db")], instances)
        };
        let names = |node: &str, unwell: bool| {
            let mut view = view();
            Filter { workload: String::new(), node: node.into(), unwell }.apply(&mut view);
            let workloads = view.workloads.into_iter().map(|workload| workload.name);
            let instances = view.instances.into_iter().map(|instance| instance.name);
            workloads.chain(instances).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("", false), "db hello db-0 hello-0 hello-1");
        assert_eq!(names("h2", false), "db db-0");
        assert_eq!(names("", true), "db hello db-0 hello-1");
        assert_eq!(names("h1", true), "hello hello-1");
        assert_eq!(names("h3", false), "");
    }

    #[test]
    fn tables_for_people() {
        let workload = v1::Workload {
            spec: Some(v1::WorkloadSpec {
                name: "hello".into(),
                replicas: 4,
                template: Some(v1::Template { image: "hello".into(), ..Default::default() }),
                ..Default::default()
            }),
            ready: 1,
            updated: 4,
            created_at_ms: 990_000_000,
            message: "h2 is not heard of".into(),
            ..Default::default()
        };
        let moving = v1::Instance {
            moving_to: "h2".into(),
            ..instance(4, v1::Phase::Stopping, v1::Health::Healthy, "leaves this node")
        };
        let instances = vec![
            moving,
            instance(10, v1::Phase::Unknown, v1::Health::Healthy, "h2 was heard of last 2m ago"),
            instance(2, v1::Phase::Running, v1::Health::Healthy, ""),
            instance(3, v1::Phase::Backoff, v1::Health::Unhealthy, "exit 1\u{1b}[2J\r\nagain"),
            v1::Instance { name: "hello-0".into(), workload: "hello".into(), ..Default::default() },
        ];
        let view = PsView::new(vec![workload], instances);
        insta::assert_snapshot!(tables(&view, Now(1_000_061_000), Style::PLAIN), @r"
        WORKLOAD  READY  UPDATED  RUN      IMAGE  AGE    MESSAGE
        hello     1/4    4/4      running  hello  2h47m  h2 is not heard of

        INSTANCE  NODE     ADDRESS     PHASE     HEALTH   UP    RESTARTS  SEEN  MESSAGE
        hello-0   -        -           pending   -        -     0         -
        hello-2   h1       10.80.1.2   running   healthy  1m1s  0         now
        hello-3   h1       10.80.1.3   backoff   -        -     0         now   exit 1 [2J  again
        hello-4   h1 → h2  10.80.1.4   stopping  -        -     0         now   leaves this node
        hello-10  h1       10.80.1.10  unknown   -        -     0         1m0s  h2 was heard of last 2m ago
        ");
        let empty = PsView { workloads: vec![], instances: vec![] };
        assert!(tables(&empty, Now(0), Style::PLAIN).starts_with("Nothing runs here yet"));
    }
}
