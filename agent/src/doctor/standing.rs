//! Whether this node is believed: its certificate, and its clock.

use dwell_core::clock::Timestamp;

use super::reading::{self, Printed};
use super::{Finding, Host};
use crate::identity::{Identity, Validity, wall_clock};

const CERTIFICATE: &str = "certificate";
const CLOCK: &str = "clock";
const DAY_MS: u64 = 24 * 3600 * 1000;

pub(super) async fn findings(host: &Host) -> Vec<Finding> {
    let data_dir = host.config.data_dir.clone();
    let validity = reading::blocking(move || {
        let identity = Identity::load(&data_dir).map_err(|error| error.to_string())?;
        identity.validity()
    });
    let synchronised = ["show", "--property=NTPSynchronized", "--value"];
    let clock = reading::run("timedatectl", &synchronised).await;
    let validity = validity.await.unwrap_or_else(|| Err("the doctor was interrupted".to_owned()));
    vec![certificate(validity, wall_clock()), judge_clock(&clock)]
}

fn certificate(validity: Result<Validity, String>, now: Timestamp) -> Finding {
    let validity = match validity {
        Ok(validity) => validity,
        Err(why) => return Finding::problem(CERTIFICATE, why, ""),
    };
    let Validity { from, until } = validity;
    let left = until.0.saturating_sub(now.0);
    let shown = |ms: u64| match ms / DAY_MS {
        0 => format!("{} hours", ms / (DAY_MS / 24)),
        days => format!("{days} days"),
    };
    if now < from {
        let message = format!(
            "this node's certificate is valid only in {}: this host's clock is behind",
            shown(from.0 - now.0)
        );
        return Finding::problem(CERTIFICATE, message, "timedatectl set-ntp true");
    }
    if left == 0 {
        let message = format!(
            "this node's certificate has expired {} ago; the agent renews it by itself, and its log says why it could not",
            shown(now.0 - until.0)
        );
        return Finding::problem(CERTIFICATE, message, "journalctl -u dwell-agent");
    }
    // It is renewed when two thirds of its time are over; half of the last third later something is wrong.
    if left < until.0.saturating_sub(from.0) / 6 {
        let message = format!(
            "this node's certificate is valid for {} more and was not renewed; can the agent reach the controller?",
            shown(left)
        );
        return Finding::warning(CERTIFICATE, message, "systemctl restart dwell-agent");
    }
    Finding::ok(CERTIFICATE, format!("this node's certificate is valid for {}", shown(left)))
}

fn judge_clock(printed: &Printed) -> Finding {
    match printed {
        Printed::Text(text) if text.trim() == "yes" => {
            Finding::ok(CLOCK, "the clock is synchronised")
        }
        Printed::Text(text) if text.trim() == "no" => Finding::warning(
            CLOCK,
            "the clock is not synchronised with any time server; certificates depend on it",
            "timedatectl set-ntp true",
        ),
        Printed::Text(_) | Printed::Failed(_) | Printed::Missing => {
            Finding::unknown(CLOCK, "timedatectl does not say whether the clock is synchronised")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn certificates_expire_with_a_warning() {
        let validity =
            || Ok(Validity { from: Timestamp(10 * DAY_MS), until: Timestamp(70 * DAY_MS) });
        for (now_days, outcome, said) in [
            (8, Outcome::Problem, "valid only in 2 days"),
            (10, Outcome::Ok, "60 days"),
            (60, Outcome::Ok, "10 days"),
            (61, Outcome::Warning, "9 days"),
            (70, Outcome::Problem, "expired 0 hours ago"),
            (75, Outcome::Problem, "expired 5 days ago"),
        ] {
            let found = certificate(validity(), Timestamp(now_days * DAY_MS));
            assert_eq!(found.outcome, outcome, "{found:?}");
            assert!(found.message.contains(said), "{found:?}");
        }
        let missing = certificate(Err("this host has not joined".to_owned()), Timestamp(0));
        assert_eq!(missing.outcome, Outcome::Problem);
    }

    #[test]
    fn a_clock_that_nobody_sets_is_noticed() {
        for (text, outcome) in
            [("yes\n", Outcome::Ok), ("no\n", Outcome::Warning), ("", Outcome::Unknown)]
        {
            assert_eq!(judge_clock(&Printed::Text(text.to_owned())).outcome, outcome, "{text:?}");
        }
        assert_eq!(judge_clock(&Printed::Missing).outcome, Outcome::Unknown);
    }
}
