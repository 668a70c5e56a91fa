//! The versions of a workload, and its rollout: `history`, `rollback`, `pause`, `resume`, `promote`,
//! `abort`.

use clap::Args;
use dwell_core::instance::sanitize;
use dwell_proto::v1;

use super::apply::told;
use super::{Fleet, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::time::Now;
use crate::output::view::HistoryView;
use crate::output::{OutputArgs, Table, or_dash, print};
use crate::wait::{Goal, WaitArgs, wait};

/// The longest reason that is shown in a table, in bytes.
const REASON_MAX: usize = 200;

/// Show the versions of a workload: what changed, when, by whom, and what became of it
///
/// A version is rolling out until all instances have held with it; then it is good, and what others fall back to.
/// A version with which an instance did not hold is ruled out and given to no other.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell history web
  dwell history web -o json | jq -r '.versions[] | select(.state == \"ruled-out\") | .reason'")]
pub(crate) struct History {
    /// A workload
    #[arg(value_parser = name_parser(), add = complete::workload())]
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

/// Go back to an earlier version of a workload
///
/// What that version says is declared anew, as a new version; the number of instances stays. A paused
/// rollout goes on with it.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell rollback web                 # to the version that is good, or else the one before
  dwell rollback web --to 3 --wait
  dwell rollback web --to 3 --dry-run")]
pub(crate) struct Rollback {
    /// A workload
    #[arg(value_parser = name_parser(), add = complete::workload())]
    name: String,
    /// The version, as `dwell history` numbers them
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    /// Only show what it would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Give no further instance of a workload its newest version, until it is resumed
///
/// Instances that have it keep it. Whatever has to move meanwhile, or is made anew, is what it held with last, or else what
/// is good.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:\n  dwell pause web")]
pub(crate) struct Pause {
    /// Workloads
    #[arg(value_name = "NAME", required = true, value_parser = name_parser(), add = complete::workload())]
    names: Vec<String>,
}

/// Go on with the rollout of a workload that was paused
///
/// Refused if the newest version was ruled out: apply a mended one, or roll back.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:\n  dwell resume web --wait")]
pub(crate) struct Resume {
    /// Workloads
    #[arg(value_name = "NAME", required = true, value_parser = name_parser(), add = complete::workload())]
    names: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Give the version that canaries try out to all instances
///
/// With `update: {canary: N}` a new version is given to N instances only, and the rollout waits. Refused until each of them has held
/// with it: `dwell wait NAME` waits for that.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell promote web --wait
  dwell apply -f web.yaml --wait && ./try-it && dwell promote web --wait || dwell abort web")]
pub(crate) struct Promote {
    /// Workloads
    #[arg(value_name = "NAME", required = true, value_parser = name_parser(), add = complete::workload())]
    names: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Take a rollout that has not come to its end back to the good version
///
/// What the good version says is declared anew, and all instances go back to it, a few at a time. Refused if what is declared is
/// good already: `dwell rollback` goes back from there.
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:\n  dwell abort web --wait")]
pub(crate) struct Abort {
    /// A workload
    #[arg(value_parser = name_parser(), add = complete::workload())]
    name: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl Promote {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let mut goals = Vec::new();
        for workload in names::all(&mut fleet.client, &self.names, names::workload).await? {
            let request = v1::PromoteRequest { workload: workload.clone() };
            fleet.client.promote(request).await?;
            print(&format!("the new version of {workload} is given to all its instances\n"))?;
            goals.push(Goal::Declared { workload, generation: 1 });
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}

impl Abort {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let workload = names::workload(&mut fleet.client, &self.name).await?;
        let request = v1::AbortRequest { workload };
        let v1::AbortResponse { plan, revision } = fleet.client.abort(request).await?.into_inner();
        told(plan, revision, false, (self.output, self.wait), &fleet).await
    }
}

impl History {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let workload = names::workload(&mut fleet.client, &self.name).await?;
        let request = v1::ListVersionsRequest { workload: workload.clone() };
        let found = fleet.client.list_versions(request).await?.into_inner();
        let view = HistoryView::new(workload, found.versions);
        self.output.print(&view, |view| history(view, Now::read()))
    }
}

impl Rollback {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let workload = names::workload(&mut fleet.client, &self.name).await?;
        let to = self.to.unwrap_or_default();
        let request = v1::RollBackRequest { workload, to, dry_run: self.dry_run };
        let v1::RollBackResponse { plan, revision } =
            fleet.client.roll_back(request).await?.into_inner();
        told(plan, revision, self.dry_run, (self.output, self.wait), &fleet).await
    }
}

impl Pause {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        for workload in names::all(&mut fleet.client, &self.names, names::workload).await? {
            let request = v1::SetPausedRequest { workload: workload.clone(), paused: true };
            fleet.client.set_paused(request).await?;
            print(&format!("the rollout of {workload} is paused\n"))?;
        }
        Ok(())
    }
}

impl Resume {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let mut goals = Vec::new();
        for workload in names::all(&mut fleet.client, &self.names, names::workload).await? {
            let request = v1::SetPausedRequest { workload: workload.clone(), paused: false };
            fleet.client.set_paused(request).await?;
            print(&format!("the rollout of {workload} goes on\n"))?;
            goals.push(Goal::Declared { workload, generation: 1 });
        }
        wait(self.wait, &fleet.client, &fleet.target, &goals).await
    }
}

/// The first twelve digits of a digest, as Docker shows them.
fn short(digest: &str) -> &str {
    let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
    digits.get(..12).unwrap_or(digits)
}

fn history(view: &HistoryView, now: Now) -> String {
    let mut table = Table::new([
        "VERSION",
        "STATE",
        "AGE",
        "BY",
        "INSTANCES",
        "IMAGE",
        "DIGEST",
        "CHANGED",
        "REASON",
    ]);
    for version in &view.versions {
        let state = match (version.state, version.is_newest) {
            ("rolling-out", false) => "superseded",
            (state, _) => state,
        };
        let marked = if version.is_fallback { format!("{state} *") } else { state.to_owned() };
        table.row([
            version.number.to_string(),
            marked,
            now.age(Some(version.at)),
            or_dash(&version.by),
            format!("{} of {}", version.serving, version.wanted),
            version.image.clone(),
            or_dash(short(&version.image_digest)),
            or_dash(&version.changed_fields.join(", ")),
            or_dash(&sanitize(&version.reason, REASON_MAX)),
        ]);
    }
    let mut text = table.to_string();
    if view.versions.iter().any(|version| version.is_fallback) {
        text.push_str("\n* is what is fallen back to\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_for_people() {
        let version =
            |number, state: v1::VersionState, changed: &[&str], reason: &str| v1::Version {
                number,
                template: Some(v1::Template {
                    image: format!("web:{number}"),
                    ..Default::default()
                }),
                at_ms: number * 1000,
                by: if number == 3 { "alice".into() } else { String::new() },
                state: state.into(),
                reason: reason.into(),
                changed_fields: changed.iter().map(ToString::to_string).collect(),
                wanted: if number == 2 { 3 } else { 0 },
                serving: if number == 2 { 2 } else { 0 },
                good: number == 2,
                image_digest: if number == 2 { format!("sha256:{:064}", 7) } else { String::new() },
            };
        let view = HistoryView::new(
            "web".into(),
            vec![
                version(
                    3,
                    v1::VersionState::RuledOut,
                    &["image"],
                    "web-0 did not hold: exit code 3",
                ),
                version(2, v1::VersionState::Good, &["image", "command"], ""),
                version(1, v1::VersionState::RollingOut, &[], ""),
            ],
        );
        insta::assert_snapshot!(history(&view, Now(63_000)), @r"
        VERSION  STATE       AGE   BY     INSTANCES  IMAGE  DIGEST        CHANGED         REASON
        3        ruled-out   1m0s  alice  0 of 0     web:3  -             image           web-0 did not hold: exit code 3
        2        good *      1m1s  -      2 of 3     web:2  000000000000  image, command  -
        1        superseded  1m2s  -      0 of 0     web:1  -             -               -

        * is what is fallen back to
        ");
    }
}
