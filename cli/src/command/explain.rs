//! `dwell explain`: why something is where and what it is.

use clap::Args;
use dwell_core::instance::sanitize;
use dwell_proto::v1;

use super::{Fleet, events, name_parser};
use crate::complete;
use crate::failure::Failure;
use crate::names;
use crate::output::view::ExplainView;
use crate::output::{Now, OutputArgs};

/// The longest sentence that is shown, in bytes.
const TEXT_MAX: usize = 1024;

/// Say why a workload or an instance is where and what it is
///
/// What is so and why, where it is known since when and on whose request; below it the newest of what happened to it, and to its
/// workload.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell explain web-0
  dwell explain web
  dwell explain web-0 -o json | jq -r '.facts[] | select(.about == \"place\").text'

`dwell status` shows what of the fleet is not as declared, and `dwell events --about instance/web-0` all that the fleet's diary
knows of it.")]
pub(crate) struct Explain {
    /// A workload or an instance
    #[arg(value_parser = name_parser(), add = complete::subject())]
    name: String,
    #[command(flatten)]
    output: OutputArgs,
}

impl Explain {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let subject = names::subject(&mut fleet.client, &self.name).await?;
        let request = v1::ExplainRequest { name: subject.name().to_owned() };
        let view = ExplainView::from(fleet.client.explain(request).await?.into_inner());
        self.output.print(&view, |view| people(view, Now::read()))
    }
}

fn people(view: &ExplainView, now: Now) -> String {
    let width = view.facts.iter().map(|fact| fact.about.len()).max().unwrap_or_default();
    let mut text = format!("{}\n", sanitize(&view.subject, TEXT_MAX));
    for fact in &view.facts {
        let since = fact.since.map(|at| format!(", for {}", now.age(Some(at)))).unwrap_or_default();
        let by = match fact.by.as_str() {
            "" => String::new(),
            by => format!(" (by {})", sanitize(by, TEXT_MAX)),
        };
        let (about, what) = (sanitize(&fact.about, TEXT_MAX), sanitize(&fact.text, TEXT_MAX));
        text += &format!("  {about:width$}  {what}{since}{by}\n");
    }
    if !view.history.is_empty() {
        text += "\n";
        text.extend(view.history.iter().map(events::line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::view::{EventView, FactView};

    #[test]
    fn facts_with_their_age_and_the_history_below() {
        let fact = |about: &str, text: &str, since, by: &str| FactView {
            about: about.into(),
            text: text.into(),
            since,
            by: by.into(),
        };
        let view = ExplainView {
            subject: "instance/web-0".into(),
            facts: vec![
                fact("place", "is on h2, where it was moved on request", Some(1_000), "ann"),
                fact("address", "10.80.0.1, of the\u{1b}[2J block of h1", None, ""),
            ],
            history: vec![EventView {
                revision: 7,
                at: 1_000,
                severity: "info",
                subject: "instance/web-0".into(),
                reason: "instance-placed".into(),
                message: "placed on h2".into(),
                by: "ann".into(),
            }],
            revision: 9,
        };
        insta::assert_snapshot!(people(&view, Now(61_000)), @r"
        instance/web-0
          place    is on h2, where it was moved on request, for 1m0s (by ann)
          address  10.80.0.1, of the [2J block of h1

        1970-01-01T00:00:01.000Z  info     instance/web-0            instance-placed       placed on h2 (ann)
        ");
    }
}
