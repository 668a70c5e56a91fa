//! `dwell audit`: what controller, nodes, engines and kernels claim of the same things, and where they disagree.

use std::process::ExitCode;

use clap::Args;
use dwell_core::instance::sanitize;
use dwell_proto::v1;

use super::{Fleet, PROBLEMS};
use crate::failure::Failure;
use crate::output::view::{AuditView, RemedyView};
use crate::output::{OutputArgs, say};

/// Exit code if the fleet could not be asked.
const NOT_ASKED: u8 = 2;
/// The longest text of a finding that is shown, in bytes.
const TEXT_MAX: usize = 1024;

/// Compare what all layers claim, and repair what needs no decision
///
/// The controller's model, the nodes' assignments and files, the engines' containers and volumes, the kernels' limits,
/// processes, sandboxes and routes: each claims something of the same things. Every disagreement is shown with both claims
/// and the next step. What is on its way, such as an update, is none: everything is looked at twice.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell audit
  dwell audit --fix
  dwell audit -o json | jq -r '.findings[] | .node + \" \" + .kind + \" \" + .subject'

--fix makes agents look at everything again and put right what is theirs to put right, and removes what is recognisably
dwell's and belongs to nothing: files, sandboxes, interfaces and routes. It restarts no instance, and touches no volume
and nothing of others.

Exit codes:
  0  all layers agree, or everything was repaired
  1  something remains
  2  the controller could not be asked")]
pub(crate) struct Audit {
    /// Repair what needs no decision
    #[arg(long)]
    fix: bool,
    #[command(flatten)]
    output: OutputArgs,
}

impl Audit {
    pub(super) async fn run(
        self,
        fleet: impl Future<Output = Result<Fleet, Failure>>,
    ) -> Result<ExitCode, Failure> {
        let answers = async {
            let request = v1::AuditRequest { repair: self.fix };
            let mut answers = fleet.await?.client.audit(request).await?.into_inner();
            let mut all = Vec::new();
            while let Some(answer) = answers.message().await? {
                all.push(answer);
            }
            Ok::<_, Failure>(all)
        };
        let view = match answers.await {
            Ok(answers) => AuditView::new(answers),
            Err(failure) => {
                say(&format!("dwell: {failure}"));
                return Ok(NOT_ASKED.into());
            }
        };
        self.output.print(&view, people)?;
        let remains = view.findings.iter().any(|finding| finding.remedy != RemedyView::Repaired);
        Ok(if remains { PROBLEMS } else { ExitCode::SUCCESS })
    }
}

/// What a person has to see to first, each with both claims and the next step below it.
fn people(view: &AuditView) -> String {
    let text = |text: &str| sanitize(text, TEXT_MAX);
    let mut shown = String::new();
    for finding in &view.findings {
        let node = if finding.node.is_empty() { "controller" } else { &finding.node };
        let is_repaired = if finding.remedy == RemedyView::Repaired { ", repaired" } else { "" };
        let (kind, subject) = (text(&finding.kind), text(&finding.subject));
        shown += &format!("{}: {kind}{is_repaired}: {subject}\n", text(node));
        for claim in &finding.claims {
            shown += &format!("    {:<10}  {}\n", text(&claim.by), text(&claim.says));
        }
        if !finding.next.is_empty() {
            shown += &format!("    next        {}\n", text(&finding.next));
        }
    }
    if !shown.is_empty() {
        shown += "\n";
    }
    shown + &summary(view)
}

fn summary(view: &AuditView) -> String {
    let of = |remedy| view.findings.iter().filter(|finding| finding.remedy == remedy).count();
    let nodes = match view.nodes {
        1 => "1 node".to_owned(),
        nodes => format!("{nodes} nodes"),
    };
    let mut parts = Vec::new();
    for (count, words) in [
        (of(RemedyView::Person), "for a person"),
        (of(RemedyView::Repair), "to be repaired with --fix"),
        (of(RemedyView::Repaired), "repaired"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    let found = if parts.is_empty() { "all layers agree".to_owned() } else { parts.join(", ") };
    format!("{nodes}: {found}\n")
}

#[cfg(test)]
mod tests {
    use dwell_proto::v1::audit_finding::Remedy;

    use super::*;

    fn answer(node: &str, findings: Vec<v1::AuditFinding>) -> v1::AuditAnswer {
        v1::AuditAnswer { node: node.into(), findings }
    }

    fn finding(kind: &str, node: &str, remedy: Remedy, next: &str) -> v1::AuditFinding {
        let claim = |by: &str, says: &str| v1::AuditClaim { by: by.into(), says: says.into() };
        v1::AuditFinding {
            kind: kind.into(),
            subject: "instance web-0".into(),
            node: node.into(),
            claims: vec![claim("engine", "cpu 250m"), claim("kernel", "cpu\u{1b}[2J 500m")],
            remedy: remedy.into(),
            next: next.into(),
        }
    }

    #[test]
    fn what_a_person_has_to_see_to_comes_first() {
        let view = AuditView::new(vec![
            answer(
                "h2",
                vec![
                    finding("mapping", "h2", Remedy::Repaired, ""),
                    finding("limits-kernel", "h2", Remedy::Repair, ""),
                    finding("process-outside", "h2", Remedy::Person, "`dwell restart web-0`"),
                ],
            ),
            answer("h1", Vec::new()),
            answer("", vec![finding("ledger", "", Remedy::Person, "restart the controller")]),
        ]);
        insta::assert_snapshot!(people(&view), @r"
        controller: ledger: instance web-0
            engine      cpu 250m
            kernel      cpu [2J 500m
            next        restart the controller
        h2: process-outside: instance web-0
            engine      cpu 250m
            kernel      cpu [2J 500m
            next        `dwell restart web-0`
        h2: limits-kernel: instance web-0
            engine      cpu 250m
            kernel      cpu [2J 500m
            next        `dwell audit --fix` repairs it
        h2: mapping, repaired: instance web-0
            engine      cpu 250m
            kernel      cpu [2J 500m

        2 nodes: 2 for a person, 1 to be repaired with --fix, 1 repaired
        ");
        let well = AuditView::new(vec![answer("h1", Vec::new()), answer("", Vec::new())]);
        assert_eq!(people(&well), "1 node: all layers agree\n");
    }
}
