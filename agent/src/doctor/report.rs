//! Findings as text for people, as JSON for programs, and on the wire.

use dwell_proto::v1;
use serde_json::{Value, json};

use super::{Finding, Outcome};

impl Outcome {
    /// One word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Ok => "ok",
        }
    }
}

/// For people: a line for each, and under it the command that puts it right.
#[must_use]
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, outcome, message, fix } in findings {
        text.push_str(&format!("{:<8} {check:<15} {message}\n", outcome.word()));
        if !fix.is_empty() {
            text.push_str(&format!("{:<25}fix: {fix}\n", ""));
        }
    }
    text
}

/// For programs: an array of objects with `check`, `outcome`, `message` and `fix`.
#[must_use]
pub fn json(findings: &[Finding]) -> Value {
    let object = |Finding { check, outcome, message, fix }: &Finding| json!({ "check": check, "outcome": outcome.word(), "message": message, "fix": fix });
    findings.iter().map(object).collect()
}

/// For the controller.
#[must_use]
pub fn wire(finding: Finding) -> v1::Finding {
    use v1::finding::Outcome as Wire;
    let outcome = match finding.outcome {
        Outcome::Problem => Wire::Problem,
        Outcome::Warning => Wire::Warning,
        Outcome::Unknown => Wire::Unknown,
        Outcome::Ok => Wire::Ok,
    };
    v1::Finding {
        check: finding.check.to_owned(),
        outcome: outcome.into(),
        message: finding.message,
        fix: finding.fix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_stands_under_its_problem() {
        let findings = [
            Finding::problem("ip-forward", "it is 0", "sysctl -w net.ipv4.ip_forward=1"),
            Finding::ok("kernel", "fine"),
        ];
        assert_eq!(
            text(&findings),
            "problem  ip-forward      it is 0\n\
             \u{20}                        fix: sysctl -w net.ipv4.ip_forward=1\n\
             ok       kernel          fine\n"
        );
        assert_eq!(json(&findings)[1]["outcome"], "ok");
    }
}
