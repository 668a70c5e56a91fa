//! `dwell status`: what of the fleet is not as declared.

use std::process::ExitCode;

use clap::Args;
use dwell_core::instance::sanitize;
use dwell_proto::v1;

use super::{Fleet, PROBLEMS};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::view::{CountsView, FleetFindingView, Gravity, StatusView};
use crate::output::{Now, OutputArgs};

/// The longest text of a finding that is shown, in bytes.
const TEXT_MAX: usize = 1024;
/// How many findings one screen has room for.
const SCREEN: usize = 12;

/// Show what of the fleet is not as declared
///
/// The worst first, each with its reason and, below it, the next step. What follows from something else is not named
/// again: the instances of a node that is not heard of belong to that node. A stopped workload is as somebody asked.
///
/// Ends with 0 if all is well, also while something is on its way by itself; with 1 if there are problems or warnings.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell status
  dwell status --all
  dwell status -o json | jq -r '.found[] | .subject + \": \" + .message'

It shows what the controller knows. `dwell doctor` has the hosts look themselves over, and `dwell audit` compares
what all layers claim.")]
pub(crate) struct Status {
    /// Show all of it, however long that is
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl Status {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<ExitCode, Failure> {
        let view = asked(&mut fleet.client).await?;
        let most = if self.all { usize::MAX } else { SCREEN };
        self.output.print(&view, |view| people(view, Now::read(), most))?;
        let is_well = view.found.iter().all(|one| one.gravity == Gravity::Progress);
        Ok(if is_well { ExitCode::SUCCESS } else { PROBLEMS })
    }
}

/// What the controller says of the fleet.
pub(super) async fn asked(client: &mut Client) -> Result<StatusView, Failure> {
    Ok(client.get_status(v1::GetStatusRequest {}).await?.into_inner().into())
}

fn people(view: &StatusView, now: Now, most: usize) -> String {
    if view.found.is_empty() {
        return well(view.counts);
    }
    let mut text = String::new();
    for finding in view.found.iter().take(most) {
        text += &in_words(finding, now);
    }
    let hidden = view.found.len().saturating_sub(most);
    let hidden = u64::try_from(hidden).unwrap_or(u64::MAX).saturating_add(view.left_out);
    if hidden > 0 {
        let hint = if most < usize::MAX { "; `dwell status --all` shows them" } else { "" };
        text += &format!("and {hidden} more{hint}\n");
    }
    text + "\n" + &summary(view)
}

/// A line that says what it is, and one with the next step.
fn in_words(found: &FleetFindingView, now: Now) -> String {
    let shown = |text: &str| sanitize(text, TEXT_MAX);
    let word = match found.gravity {
        Gravity::Problem => "problem",
        Gravity::Warning => "warning",
        Gravity::Progress => "progress",
    };
    let since = found.since.map(|at| format!(" for {}", now.age(Some(at))));
    let until = found.until.map(|at| match at.saturating_sub(now.0) {
        0 => String::new(),
        // As far ahead as the end is.
        left => format!(" in {}", now.age(Some(now.0.saturating_sub(left)))),
    });
    let mut text = format!(
        "{word}: {}: {}{}{}: {}\n",
        shown(&found.subject),
        shown(&found.kind),
        since.unwrap_or_default(),
        until.unwrap_or_default(),
        shown(&found.message)
    );
    if !found.next.is_empty() {
        text += &format!("    {}\n", shown(&found.next));
    }
    text
}

fn count(count: u64, one: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {one}{s}")
}

fn stopped(counts: CountsView) -> String {
    match counts.instances_stopped {
        0 => String::new(),
        stopped => format!(", {stopped} stopped as asked"),
    }
}

fn well(counts: CountsView) -> String {
    if counts.nodes == 0 {
        return "No host has joined yet. Make a token with `dwell node token`.\n".into();
    }
    format!(
        "all is well: {} ready, {} as declared, {} well{}\n",
        count(counts.nodes, "node"),
        count(counts.workloads, "workload"),
        count(counts.instances_well, "instance"),
        stopped(counts)
    )
}

fn summary(view: &StatusView) -> String {
    let of = |gravity| view.found.iter().filter(|one| one.gravity == gravity).count();
    let mut found = Vec::new();
    for (gravity, word) in [(Gravity::Problem, "problem"), (Gravity::Warning, "warning")] {
        if of(gravity) > 0 {
            found.push(count(u64::try_from(of(gravity)).unwrap_or(u64::MAX), word));
        }
    }
    if of(Gravity::Progress) > 0 {
        found.push(format!("{} on the way", of(Gravity::Progress)));
    }
    let counts = view.counts;
    format!(
        "{}; {} of {} ready, {} of {} as declared, {} of {} well{}\n",
        found.join(", "),
        counts.nodes_ready,
        count(counts.nodes, "node"),
        counts.workloads_as_declared,
        count(counts.workloads, "workload"),
        counts.instances_well,
        count(counts.instances, "instance"),
        stopped(counts)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3_600_000;

    fn one(gravity: Gravity, subject: &str, kind: &str, message: &str) -> FleetFindingView {
        FleetFindingView {
            gravity,
            subject: subject.into(),
            kind: kind.into(),
            message: message.into(),
            next: "dwell ps web".into(),
            since: None,
            until: None,
        }
    }

    fn view(found: Vec<FleetFindingView>) -> StatusView {
        let counts = CountsView {
            nodes: 3,
            nodes_ready: 2,
            workloads: 1,
            workloads_as_declared: 0,
            instances: 6,
            instances_well: 3,
            instances_stopped: 1,
        };
        StatusView { found, left_out: 0, counts, revision: 7 }
    }

    #[test]
    fn one_screen_with_reasons_and_next_steps() {
        let now = Now(100 * DAY);
        let down = FleetFindingView {
            since: Some(now.0 - 312_000),
            ..one(Gravity::Problem, "node/h2", "node-down", "has not been\u{1b}[2J heard of")
        };
        let ends = FleetFindingView {
            until: Some(now.0 + 3 * DAY),
            ..one(Gravity::Warning, "cluster", "context-expiring", "the context of ann ends")
        };
        let rolls = one(Gravity::Progress, "workload/web", "rolling-out", "2 of 5 as declared");
        let shown = view(vec![down, ends, rolls]);
        insta::assert_snapshot!(people(&shown, now, SCREEN), @r"
        problem: node/h2: node-down for 5m12s: has not been [2J heard of
            dwell ps web
        warning: cluster: context-expiring in 3d0h: the context of ann ends
            dwell ps web
        progress: workload/web: rolling-out: 2 of 5 as declared
            dwell ps web

        1 problem, 1 warning, 1 on the way; 2 of 3 nodes ready, 0 of 1 workload as declared, 3 of 6 instances well, 1 stopped as asked
        ");
        let cut = people(&shown, now, 1);
        assert!(cut.contains("\nand 2 more; `dwell status --all` shows them\n"), "{cut}");
    }

    #[test]
    fn nothing_wrong_is_one_line() {
        let calm = people(&view(Vec::new()), Now(0), SCREEN);
        assert_eq!(
            calm,
            "all is well: 3 nodes ready, 1 workload as declared, 3 instances well, 1 stopped as asked\n"
        );
        let counts = CountsView::default();
        let none = StatusView { found: Vec::new(), left_out: 0, counts, revision: 0 };
        assert!(people(&none, Now(0), SCREEN).contains("dwell node token"));
    }
}
