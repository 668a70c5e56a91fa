//! `dwell apply` and `dwell plan`: declare workloads from a file, or see what that would change.

use std::collections::BTreeSet;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use dwell_core::change::ChangeClass;
use dwell_core::instance::{Counted, sanitize};
use dwell_core::workload::Ssh;
use dwell_proto::v1;

use super::Fleet;
use crate::failure::Failure;
use crate::manifest::{self, Declared, Variables};
use crate::output::view::{PlanView, PlansView};
use crate::output::{OutputArgs, Table, or_dash, say};
use crate::wait::{Goal, WaitArgs, wait};

/// The longest sentence about a loss that is shown, in bytes.
const LOSS_MAX: usize = 300;
/// Exit code of `plan --exit-code` if something would change.
const WOULD_CHANGE: u8 = 7;

/// Declare the workloads of a file
///
/// All of them or, if one is refused, none. Returns when the controller has accepted them durably; with
/// --wait, when every instance runs with good health.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell apply -f examples/hello.yaml
  dwell apply -f hello.yaml --wait --timeout 2m
  envsubst < hello.yaml | dwell apply -f -

The file is described in docs/spec.md; $NAME and ${NAME} in it stand for environment variables.")]
pub(crate) struct Apply {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show what applying a file would change, and do nothing
///
/// For every workload: what happens to its instances, and the downtime to expect. The classes of change
/// are live (on the running container), in-place (container replaced on its node) and move (placed on
/// another node); addresses, names and volumes stay in all of them. Files outside of volumes are deleted
/// with a container; what a change deletes is listed.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell plan -f hello.yaml
  dwell plan -f hello.yaml --exit-code   # 0: nothing would change, 7: something would")]
pub(crate) struct Plan {
    #[command(flatten)]
    file: FileArgs,
    /// End with exit code 7 if something would change
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct FileArgs {
    /// The file; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

impl Apply {
    /// The file is read before anything is connected.
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<(), Failure> {
        let declared = self.file.read()?;
        let mut fleet = fleet.await?;
        warn_of_key_sets(&mut fleet, &declared).await?;
        let plans = apply(&mut fleet, declared, false).await?;
        follow(&plans, self.output, self.wait, &fleet).await
    }
}

impl Plan {
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<ExitCode, Failure> {
        let declared = self.file.read()?;
        let mut fleet = fleet.await?;
        warn_of_key_sets(&mut fleet, &declared).await?;
        let plans = apply(&mut fleet, declared, true).await?;
        self.output.print(&plans, table)?;
        let changes = plans.workloads.iter().any(|plan| plan.action != "unchanged");
        Ok(if self.exit_code && changes { WOULD_CHANGE.into() } else { ExitCode::SUCCESS })
    }
}

impl FileArgs {
    fn read(&self) -> Result<Vec<Declared>, Failure> {
        let is_stdin = self.file == Path::new("-");
        let name = if is_stdin { "-".into() } else { self.file.display().to_string() };
        // One byte more than allowed tells a file that is too large.
        let limit = u64::try_from(manifest::SIZE_MAX).unwrap_or(u64::MAX) + 1;
        let mut bytes = Vec::new();
        let read = if is_stdin {
            io::stdin().take(limit).read_to_end(&mut bytes)
        } else {
            File::open(&self.file).and_then(|file| file.take(limit).read_to_end(&mut bytes))
        };
        read.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
        let manifest = manifest::read(&name, &bytes, &variables())?;
        for warning in manifest.warnings {
            say(&format!("warning: {warning}"));
        }
        Ok(manifest.declared)
    }
}

/// The environment; what is not text cannot be filled into a file.
pub(super) fn variables() -> Variables {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Says which key sets workloads name that nobody has made: a typing error there locks everybody out.
async fn warn_of_key_sets(fleet: &mut Fleet, declared: &[Declared]) -> Result<(), Failure> {
    let named = |declared: &Declared| match &declared.spec.template.ssh {
        Ssh::Dwell { key_sets: Some(sets), .. } => sets.clone(),
        _ => Vec::new(),
    };
    if declared.iter().all(|declared| named(declared).is_empty()) {
        return Ok(());
    }
    let found = fleet.client.list_key_sets(v1::ListKeySetsRequest::default()).await?.into_inner();
    let made: BTreeSet<String> = found.key_sets.into_iter().map(|set| set.name).collect();
    for declared in declared {
        for set in named(declared).iter().filter(|set| !made.contains(set.as_str())) {
            say(&format!(
                "warning: workload {} names key set {set}, which does not exist: nobody logs in with keys of it until \
                 `dwell key add {set} FILE`",
                declared.spec.name
            ));
        }
    }
    Ok(())
}

/// Sends declarations.
///
/// # Errors
/// If the controller refuses them.
pub(super) async fn apply(
    fleet: &mut Fleet,
    declared: Vec<Declared>,
    dry_run: bool,
) -> Result<PlansView, Failure> {
    let open = declared.iter().filter(|declared| !declared.says_replicas);
    let keep_replicas = open.map(|declared| declared.spec.name.to_string()).collect();
    let workloads = declared.iter().map(|declared| (&declared.spec).into()).collect();
    let request = v1::ApplyRequest { workloads, dry_run, keep_replicas };
    Ok(fleet.client.apply(request).await?.into_inner().into())
}

/// Shows what came of an order to one workload, and waits for it, or only what it would change.
pub(super) async fn told(
    plan: Option<v1::WorkloadPlan>,
    revision: u64,
    dry_run: bool,
    (output, wait): (OutputArgs, WaitArgs),
    fleet: &Fleet,
) -> Result<(), Failure> {
    let plans: PlansView = v1::ApplyResponse { plans: plan.into_iter().collect(), revision }.into();
    if dry_run { output.print(&plans, table) } else { follow(&plans, output, wait, fleet).await }
}

/// Shows what was declared, and waits for it.
async fn follow(
    plans: &PlansView,
    output: OutputArgs,
    args: WaitArgs,
    fleet: &Fleet,
) -> Result<(), Failure> {
    let goals: Vec<Goal> = plans.workloads.iter().map(PlanView::goal).collect();
    output.print(plans, done)?;
    wait(args, &fleet.client, &fleet.target, &goals).await
}

impl PlanView {
    /// What waiting for it means.
    pub(super) fn goal(&self) -> Goal {
        Goal::Declared { workload: self.name.clone(), generation: self.generation }
    }
}

/// One line per workload, after the fact.
pub(super) fn done(plans: &PlansView) -> String {
    let line = |plan: &PlanView| {
        let what = match plan.action {
            "create" => format!("created, {}", Counted(plan.created.len())),
            "update" => format!("updated, {}", summary(plan)),
            _ => "unchanged".into(),
        };
        format!("{} {what}\n", plan.name)
    };
    plans.workloads.iter().map(line).collect()
}

/// What plans would change, with what is lost by it.
pub(super) fn table(plans: &PlansView) -> String {
    let mut table =
        Table::new(["WORKLOAD", "ACTION", "CHANGE", "INSTANCES", "DOWNTIME", "CHANGED FIELDS"]);
    for plan in &plans.workloads {
        let change = match plan.change {
            ChangeClass::None => String::new(),
            class => class.to_string(),
        };
        table.row([
            plan.name.clone(),
            plan.action.into(),
            or_dash(&change),
            summary(plan),
            or_dash(&plan.downtime),
            or_dash(&plan.changed_fields.join(", ")),
        ]);
    }
    let mut text = table.to_string();
    for plan in &plans.workloads {
        for note in &plan.notes {
            text.push_str(&format!("{}: {}\n", plan.name, sanitize(note, LOSS_MAX)));
        }
    }
    let losses = plans.workloads.iter().flat_map(|plan| &plan.losses);
    for (index, loss) in losses.enumerate() {
        text.push_str(if index == 0 { "\nThis deletes:\n" } else { "" });
        text.push_str(&format!("  {}\n", sanitize(loss, LOSS_MAX)));
    }
    text
}

fn summary(plan: &PlanView) -> String {
    let parts =
        [("created", &plan.created), ("changed", &plan.changed), ("removed", &plan.removed)];
    let parts = parts.iter().filter(|(_, names)| !names.is_empty());
    let parts: Vec<String> = parts.map(|(word, names)| format!("{} {word}", names.len())).collect();
    if parts.is_empty() { "none touched".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_for_people() {
        let plan = |name: &str, action, change, counts: [usize; 3], downtime: &str| PlanView {
            name: name.into(),
            action,
            generation: 2,
            change,
            changed_fields: if action == "update" { vec!["image".into()] } else { vec![] },
            created: vec![format!("{name}-9"); counts[0]],
            changed: vec![format!("{name}-0"); counts[1]],
            removed: vec![format!("{name}-8"); counts[2]],
            downtime: downtime.into(),
            losses: if counts[1] > 0 {
                vec![format!("files of {name}-0 outside of volumes")]
            } else {
                vec![]
            },
            notes: if action == "update" { vec!["something to know".into()] } else { vec![] },
        };
        let plans = PlansView {
            workloads: vec![
                plan("db", "create", ChangeClass::None, [1, 0, 0], ""),
                plan("hello", "update", ChangeClass::InPlace, [0, 6, 2], "about 1 s each"),
                plan("web", "unchanged", ChangeClass::None, [0, 0, 0], "no downtime"),
            ],
            revision: 7,
        };
        insta::assert_snapshot!(table(&plans), @r"
        WORKLOAD  ACTION     CHANGE    INSTANCES             DOWNTIME        CHANGED FIELDS
        db        create     -         1 created             -               -
        hello     update     in-place  6 changed, 2 removed  about 1 s each  image
        web       unchanged  -         none touched          no downtime     -
        hello: something to know

        This deletes:
          files of hello-0 outside of volumes
        ");
        insta::assert_snapshot!(done(&plans), @r"
        db created, 1 instance
        hello updated, 6 changed, 2 removed
        web unchanged
        ");
    }
}
