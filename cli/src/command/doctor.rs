//! `dwell doctor`: what is wrong with the nodes, and what puts it right.

use std::process::ExitCode;

use clap::Args;
use dwell_core::instance::sanitize;
use dwell_proto::v1;

use super::{Fleet, PROBLEMS, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::OutputArgs;
use crate::output::view::{DiagnosisView, DoctorView, FindingView, Severity};

/// The longest text of a finding that is shown, in bytes.
const TEXT_MAX: usize = 1024;

/// Say what is wrong with the nodes, and the command that puts it right
///
/// Every node looks itself over: what forwards and filters packets, what takes addresses and ports, its kernel,
/// its container engine, its clock. The worst comes first. Ends with 1 if there are problems, or a node does
/// not answer.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell doctor
  dwell doctor h1 --all
  dwell doctor -o json | jq -r '.nodes[] | .node + \": \" + .findings[].fix'

The commands are to be run on the node. `dwell-agent doctor` does the same there, without a controller.")]
pub(crate) struct Doctor {
    /// Only this node
    #[arg(value_parser = name_parser(), add = complete::node())]
    node: Option<String>,
    /// Show what is well, too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl Doctor {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<ExitCode, Failure> {
        let node = match &self.node {
            Some(name) => names::node(&mut fleet.client, name).await?,
            None => String::new(),
        };
        let mut answers = fleet.client.diagnose(v1::DiagnoseRequest { node }).await?.into_inner();
        let mut diagnoses = Vec::new();
        while let Some(diagnosis) = answers.message().await? {
            diagnoses.push(diagnosis);
        }
        let view = DoctorView::new(diagnoses);
        self.output.print(&view, |view| people(view, self.all))?;
        Ok(if view.count(Severity::Problem) + view.silent() > 0 {
            PROBLEMS
        } else {
            ExitCode::SUCCESS
        })
    }
}

impl DoctorView {
    fn findings(&self) -> impl Iterator<Item = (&DiagnosisView, &FindingView)> {
        self.nodes.iter().flat_map(|node| node.findings.iter().map(move |finding| (node, finding)))
    }

    fn count(&self, outcome: Severity) -> usize {
        self.findings().filter(|(_, finding)| finding.outcome == outcome).count()
    }

    /// How many nodes could not be asked.
    fn silent(&self) -> usize {
        self.nodes.iter().filter(|node| !node.problem.is_empty()).count()
    }
}

/// The worst of all nodes first, each with the command below it, ready to be copied.
fn people(view: &DoctorView, all: bool) -> String {
    if view.nodes.is_empty() {
        return "No host has joined yet. Make a token with `dwell node token`.\n".into();
    }
    let text = |text: &str| sanitize(text, TEXT_MAX);
    let mut shown = String::new();
    for node in view.nodes.iter().filter(|node| !node.problem.is_empty()) {
        shown += &format!("{}: no answer: {}\n", text(&node.node), text(&node.problem));
    }
    let mut findings: Vec<_> = view.findings().collect();
    // A stable sort: nodes stay in the order of their names.
    findings.sort_by_key(|(_, finding)| finding.outcome);
    for (node, finding) in findings {
        let word = match finding.outcome {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            Severity::Unknown => "unknown",
            Severity::Ok if all => "ok",
            Severity::Ok => continue,
        };
        let (node, check) = (text(&node.node), text(&finding.check));
        shown += &format!("{node}: {word}: {check}: {}\n", text(&finding.message));
        if !finding.fix.is_empty() {
            shown += &format!("    {}\n", text(&finding.fix));
        }
    }
    if !shown.is_empty() {
        shown += "\n";
    }
    shown + &summary(view)
}

fn summary(view: &DoctorView) -> String {
    let count = |count: usize, one: &str, more: &str| {
        let word = if count == 1 { one } else { more };
        format!("{count} {word}")
    };
    let mut found = Vec::new();
    for (number, one, more) in [
        (view.count(Severity::Problem), "problem", "problems"),
        (view.count(Severity::Warning), "warning", "warnings"),
        (view.count(Severity::Unknown), "check not possible", "checks not possible"),
        (view.silent(), "node does not answer", "nodes do not answer"),
    ] {
        if number > 0 {
            found.push(count(number, one, more));
        }
    }
    let nodes = count(view.nodes.len(), "node", "nodes");
    let found = if found.is_empty() { "all is well".into() } else { found.join(", ") };
    let well = count(view.count(Severity::Ok), "check passed", "checks passed");
    format!("{nodes}: {found}; {well}\n")
}

#[cfg(test)]
mod tests {
    use dwell_proto::v1::finding::Outcome;

    use super::*;

    fn finding(check: &str, outcome: Outcome, message: &str, fix: &str) -> v1::Finding {
        v1::Finding {
            check: check.into(),
            outcome: outcome.into(),
            message: message.into(),
            fix: fix.into(),
        }
    }

    fn node(name: &str, findings: Vec<v1::Finding>) -> v1::NodeDiagnosis {
        let diagnosis = Some(v1::Diagnosis { at_ms: 1_000, findings });
        v1::NodeDiagnosis { node: name.into(), diagnosis, ..Default::default() }
    }

    #[test]
    fn the_worst_of_all_nodes_comes_first() {
        let view = DoctorView::new(vec![
            node(
                "h2",
                vec![
                    finding("mtu", Outcome::Ok, "1500 bytes pass", ""),
                    finding(
                        "clock-skew",
                        Outcome::Warning,
                        "700 ms ahead",
                        "timedatectl set-ntp true",
                    ),
                    finding(
                        "ip-forward",
                        Outcome::Problem,
                        "packets are not\u{1b}[2J forwarded",
                        "sysctl -w net.ipv4.ip_forward=1",
                    ),
                ],
            ),
            node("h1", vec![finding("rp-filter", Outcome::Problem, "rp_filter is 1 on eth0", "")]),
            v1::NodeDiagnosis {
                node: "h3".into(),
                problem: "h3 was heard of last 2m ago".into(),
                ..Default::default()
            },
            node("h4", vec![finding("kernel", Outcome::Unknown, "cannot read /proc", "")]),
        ]);
        insta::assert_snapshot!(people(&view, false), @r"
        h3: no answer: h3 was heard of last 2m ago
        h1: problem: rp-filter: rp_filter is 1 on eth0
        h2: problem: ip-forward: packets are not [2J forwarded
            sysctl -w net.ipv4.ip_forward=1
        h2: warning: clock-skew: 700 ms ahead
            timedatectl set-ntp true
        h4: unknown: kernel: cannot read /proc

        4 nodes: 2 problems, 1 warning, 1 check not possible, 1 node does not answer; 1 check passed
        ");
        assert!(people(&view, true).contains("h2: ok: mtu: 1500 bytes pass\n"));
        let well = DoctorView::new(vec![node("h1", vec![finding("mtu", Outcome::Ok, "", "")])]);
        assert_eq!(people(&well, false), "1 node: all is well; 1 check passed\n");
    }
}
