//! `dwell events`: what happened, and what happens.

use clap::Args;
use dwell_core::instance::sanitize;
use dwell_proto::v1::{self, watch_response::Change};

use super::Fleet;
use super::logs::{Since, since_parser};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::view::{EventView, EventsView};
use crate::output::{Format, Now, OutputArgs, moment, print, say};
use crate::watch::{Next, Watcher};

/// How many events are listed, and the most that the controller lists at once.
const LISTED: u32 = 100;
const LISTED_MAX: u32 = 10_000;
/// The longest message that is shown, in bytes.
const MESSAGE_MAX: usize = 1024;

/// Show what happened in the fleet
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  dwell events
  dwell events --about node/h1 --limit 20
  dwell events --since 10m
  dwell events -f
  dwell events -f -o json | jq -r .reason    # one object per line")]
pub(crate) struct Events {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Only about this: workload/NAME, instance/NAME, node/NAME or cluster
    #[arg(long, value_name = "SUBJECT", default_value = "", hide_default_value = true)]
    about: String,
    /// Only what is younger than this, or happened after it
    #[arg(long, value_name = "DURATION|TIME", value_parser = since_parser)]
    since: Option<Since>,
    /// At most so many of the newest that have happened already; 100 if not given, all with --since
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

impl Events {
    pub(super) async fn run(self, mut fleet: Fleet) -> Result<(), Failure> {
        let limit = self.limit.unwrap_or(if self.since.is_some() { LISTED_MAX } else { LISTED });
        let since = self.since.map_or(0, |since| since.moment(Now::read()));
        let (mut events, mut shown) = self.list(&mut fleet.client, limit).await?;
        events.retain(|event| event.at >= since);
        if !self.follow {
            let view = EventsView { events };
            return self.output.print(&view, |view| view.events.iter().map(line).collect());
        }
        events.iter().try_for_each(|event| self.print_one(event))?;
        let mut watcher =
            Watcher::new(fleet.client.clone(), &fleet.target, vec![v1::Kind::Event], shown);
        loop {
            match watcher.next().await? {
                Next::Change(change) => {
                    shown = shown.max(change.revision);
                    if let Some(Change::Event(event)) = change.change
                        && (self.about.is_empty() || event.subject == self.about)
                    {
                        self.print_one(&event.into())?;
                    }
                }
                Next::Missed(mut client) => {
                    say("some changes were missed while the connection was lost; listing again");
                    let (events, revision) = self.list(&mut client, LISTED_MAX).await?;
                    let missed = events.iter().filter(|event| event.revision > shown);
                    missed.into_iter().try_for_each(|event| self.print_one(event))?;
                    shown = revision;
                    watcher.resume(revision);
                }
            }
        }
    }

    async fn list(
        &self,
        client: &mut Client,
        limit: u32,
    ) -> Result<(Vec<EventView>, u64), Failure> {
        let request = v1::ListEventsRequest { subject: self.about.clone(), limit };
        // A limit of 0 asks for the default on the wire, for nothing here.
        let found = client.list_events(request).await?.into_inner();
        let count = usize::try_from(limit).unwrap_or(usize::MAX);
        let events = found.events.into_iter().take(count).map(Into::into).collect();
        Ok((events, found.revision))
    }

    /// While following, every event stands for itself: a line of JSON, a YAML document, a line.
    fn print_one(&self, event: &EventView) -> Result<(), Failure> {
        match self.output.output {
            Format::Table => print(&line(event)),
            Format::Json => {
                let text = serde_json::to_string(event)
                    .map_err(|error| Failure::Other(format!("cannot write an event: {error}")))?;
                print(&(text + "\n"))
            }
            Format::Yaml => {
                let text = crate::output::serialized(event, Format::Yaml)?;
                print(&format!("---\n{text}"))
            }
        }
    }
}

/// Columns of fixed width, since what comes later cannot be measured.
pub(super) fn line(event: &EventView) -> String {
    let text = |text: &str| sanitize(text, MESSAGE_MAX);
    let by = match event.by.as_str() {
        "" => String::new(),
        by => format!(" ({})", text(by)),
    };
    format!(
        "{}  {:7}  {:24}  {:20}  {}{by}\n",
        moment(event.at),
        event.severity,
        text(&event.subject),
        text(&event.reason),
        text(&event.message)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_people() {
        let event = EventView {
            revision: 7,
            at: 1_769_860_800_250,
            severity: "warning",
            subject: "instance/hello-3".into(),
            reason: "instance-unplaced".into(),
            message: "no node fits\u{1b}[2J\n: h1 has 100m left".into(),
            by: String::new(),
        };
        insta::assert_snapshot!(line(&event), @"2026-01-31T12:00:00.250Z  warning  instance/hello-3          instance-unplaced     no node fits [2J : h1 has 100m left");
        let event = EventView { by: "ann".into(), ..event };
        assert!(line(&event).ends_with("100m left (ann)\n"));
    }
}
