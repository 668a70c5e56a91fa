//! `dwell apply` and `dwell plan`: declare workloads from a file, or see what that would change.

mod planned;
mod shown;

use std::collections::BTreeSet;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use dwell_core::workload::Ssh;
use dwell_proto::v1;

use super::Fleet;
use crate::failure::Failure;
use crate::manifest::{self, Beside, Declared, Surroundings, Variables};
use crate::output::view::{PlanView, PlansView};
use crate::output::{OutputArgs, say};
use crate::wait::{Goal, WaitArgs, wait};

pub(super) use self::planned::Planned;
pub(super) use self::shown::{done, table};

/// Exit code of `plan --exit-code` if something would change.
const WOULD_CHANGE: u8 = 7;

/// Declare the workloads of a file
///
/// All of them or, if one is refused, none. Returns when the controller has accepted them durably; with
/// --wait, when every instance runs with good health. With --plan, what `dwell plan --out` has shown is done,
/// and nothing else: if anything has changed since by which something else would be done, it is refused.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell apply -f examples/hello.yaml
  dwell apply -f hello.yaml --wait --timeout 2m
  envsubst < hello.yaml | dwell apply -f -
  dwell plan -f hello.yaml --out hello.plan && dwell apply --plan hello.plan

The file is described in docs/spec.md; $NAME and ${NAME} in it stand for environment variables.")]
#[command(group(ArgGroup::new("what").required(true).args(["file", "plan"])))]
pub(crate) struct Apply {
    /// The file; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    profiles: Profiles,
    /// Do what a plan of `dwell plan --out` says, if it would still do just that
    #[arg(long, value_name = "PLAN")]
    plan: Option<PathBuf>,
    /// Set smaller limits also where more memory is used, or more processes run, than they allow, which can end them
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show what applying a file would change, and do nothing
///
/// For every workload and instance: what happens to it, why, where it will be, and the downtime to expect by earlier
/// changes. The classes of change are live (on the running container), in-place (container replaced on its node)
/// and move (placed on another node); addresses, names and volumes stay in all of them. Files outside of volumes
/// are deleted with a container; what a change deletes is listed. Places are the scheduler's answer as things
/// are now.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell plan -f hello.yaml
  dwell plan -f hello.yaml --exit-code   # 0: nothing would change, 7: something would
  dwell plan -f hello.yaml --out hello.plan && dwell apply --plan hello.plan

A plan that was written holds what was declared, with variables filled in, so only its owner can read it.")]
pub(crate) struct Plan {
    /// The file; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    profiles: Profiles,
    /// Write the plan into a new file, for `dwell apply --plan`
    #[arg(long, value_name = "PLAN")]
    out: Option<PathBuf>,
    /// End with exit code 7 if something would change
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which workloads of a file are meant.
#[derive(Args, Debug)]
pub(crate) struct Profiles {
    /// Take in workloads with this profile, or with any for '*'; may be given more than once
    #[arg(long = "profile", value_name = "PROFILE", requires = "file")]
    profiles: Vec<String>,
}

impl Apply {
    /// The file is read before anything is connected.
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<(), Failure> {
        let planned = match (self.plan, self.file) {
            (Some(plan), _) => Planned::open(&plan)?,
            (None, Some(file)) => Planned::of(read(&file, &self.profiles)?),
            (None, None) => return Err(Failure::Usage("no file was given; use `-f FILE`".into())),
        };
        let mut fleet = fleet.await?;
        warn_of_key_sets(&mut fleet, &planned.declared).await?;
        let planned = Planned { force: self.force, ..planned };
        let plans = apply(&mut fleet, planned, false).await?;
        follow(&plans, self.output, self.wait, &fleet).await
    }
}

impl Plan {
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<ExitCode, Failure> {
        let planned = Planned::of(read(&self.file, &self.profiles)?);
        let mut fleet = fleet.await?;
        warn_of_key_sets(&mut fleet, &planned.declared).await?;
        let plans = apply(&mut fleet, planned.clone(), true).await?;
        if let Some(out) = &self.out {
            planned.save(&plans, out)?;
        }
        self.output.print(&plans, table)?;
        let changes = plans.workloads.iter().any(|plan| plan.action != "unchanged");
        Ok(if self.exit_code && changes { WOULD_CHANGE.into() } else { ExitCode::SUCCESS })
    }
}

fn read(file: &Path, profiles: &Profiles) -> Result<Vec<Declared>, Failure> {
    let (name, bytes) = bytes_of(file)?;
    let surroundings = Surroundings {
        variables: &variables(),
        files: &beside(file),
        profiles: &profiles.profiles,
    };
    let manifest = manifest::read(&name, &bytes, &surroundings)?;
    for warning in manifest.warnings {
        say(&format!("warning: {warning}"));
    }
    Ok(manifest.declared)
}

/// The files beside one; beside standard input are those of the working directory.
pub(super) fn beside(file: &Path) -> Beside {
    Beside(file.parent().unwrap_or(Path::new("")).to_owned())
}

/// What a file is called, and what is in it.
pub(super) fn bytes_of(file: &Path) -> Result<(String, Vec<u8>), Failure> {
    let is_stdin = file == Path::new("-");
    let name = if is_stdin { "-".into() } else { file.display().to_string() };
    let bytes = if is_stdin {
        bounded(io::stdin(), manifest::SIZE_MAX)
    } else {
        File::open(file).and_then(|file| bounded(file, manifest::SIZE_MAX))
    };
    let bytes = bytes.map_err(|error| Failure::Usage(format!("cannot read {name}: {error}")))?;
    Ok((name, bytes))
}

/// All that there is, or one byte more than is allowed, which tells what is too large.
pub(crate) fn bounded(from: impl Read, max: usize) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    from.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
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
    planned: Planned,
    dry_run: bool,
) -> Result<PlansView, Failure> {
    let Planned { declared, digests, force } = planned;
    let open = declared.iter().filter(|declared| !declared.says_replicas);
    let keep_replicas = open.map(|declared| declared.spec.name.to_string()).collect();
    let workloads = declared.iter().map(|declared| (&declared.spec).into()).collect();
    let request = v1::ApplyRequest { workloads, dry_run, keep_replicas, planned: digests, force };
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
