//! `dwell ps --watch`: the tables, drawn again whenever something changes.

use std::collections::BTreeMap;
use std::time::Duration;

use dwell_proto::v1::{self, watch_response::Change};
use tokio::time::{Instant, timeout_at};

use super::{Filter, tables};
use crate::client::Client;
use crate::command::Fleet;
use crate::failure::Failure;
use crate::lists;
use crate::output::view::PsView;
use crate::output::{Now, Style, print};
use crate::watch::{Next, Watcher};

/// Changes within this time are drawn together.
const TOGETHER: Duration = Duration::from_millis(100);
/// Ages are drawn again after this time without a change.
const AGES: Duration = Duration::from_secs(5);
/// Cursor to the upper left corner; clear to the end of the screen.
const HOME: &str = "\u{1b}[H\u{1b}[J";

/// What is known of the fleet, by names.
#[derive(Default)]
struct Known {
    workloads: BTreeMap<String, v1::Workload>,
    instances: BTreeMap<String, v1::Instance>,
}

/// Draws until it is interrupted.
pub(super) async fn watch(fleet: &Fleet, filter: &Filter) -> Result<(), Failure> {
    let style = Style::of_stdout();
    let kinds = vec![v1::Kind::Workload, v1::Kind::Instance];
    let (mut known, revision) = Known::list(&mut fleet.client.clone(), filter).await?;
    let mut watcher = Watcher::new(fleet.client.clone(), &fleet.target, kinds, revision);
    let mut changed = true;
    loop {
        if changed || !style.is_plain() {
            let mut view = known.view();
            filter.apply(&mut view);
            let text = tables(&view, Now::read(), style);
            print(&if style.is_plain() { text + "\n" } else { fitting(&text) })?;
        }
        // The first change as long as it takes, further ones as long as they come together.
        let mut until = Instant::now() + AGES;
        changed = false;
        while let Ok(next) = timeout_at(until, watcher.next()).await {
            let differs = match next? {
                Next::Change(change) => known.take(change.change, filter),
                Next::Missed(mut client) => {
                    let (again, revision) = Known::list(&mut client, filter).await?;
                    known = again;
                    watcher.resume(revision);
                    true
                }
            };
            if differs && !changed {
                changed = true;
                until = until.min(Instant::now() + TOGETHER);
            }
        }
    }
}

/// What fits on the screen, in place of what was there.
fn fitting(text: &str) -> String {
    let rows = crate::terminal::size().map_or(24, |size| size.rows);
    let rows = usize::try_from(rows).unwrap_or(usize::MAX).saturating_sub(1);
    let lines: String = text.split_inclusive('\n').take(rows).collect();
    format!("{HOME}{lines}")
}

impl Known {
    async fn list(client: &mut Client, filter: &Filter) -> Result<(Self, u64), Failure> {
        let workload = filter.workload.clone();
        let mut second = client.clone();
        let (workloads, instances) = tokio::try_join!(
            lists::workloads(client, &workload),
            lists::instances(
                &mut second,
                v1::ListInstancesRequest { workload: workload.clone(), ..Default::default() }
            ),
        )?;
        let mut known = Self::default();
        for workload in workloads.0 {
            known.take(Some(Change::Workload(workload)), filter);
        }
        for instance in instances.0 {
            known.take(Some(Change::Instance(instance)), filter);
        }
        Ok((known, workloads.1.min(instances.1)))
    }

    /// Takes in a change; whether it is about anything that is listed.
    fn take(&mut self, change: Option<Change>, filter: &Filter) -> bool {
        let wanted = |workload: &str| filter.workload.is_empty() || workload == filter.workload;
        match change {
            Some(Change::Workload(workload)) => {
                let name = workload.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
                let wanted = wanted(&name);
                if wanted {
                    self.workloads.insert(name, workload);
                }
                wanted
            }
            Some(Change::Instance(instance)) => {
                let wanted = wanted(&instance.workload);
                if wanted {
                    self.instances.insert(instance.name.clone(), instance);
                }
                wanted
            }
            Some(Change::Deleted(deleted)) => match deleted.kind() {
                v1::Kind::Workload => self.workloads.remove(&deleted.name).is_some(),
                v1::Kind::Instance => self.instances.remove(&deleted.name).is_some(),
                _ => false,
            },
            _ => false,
        }
    }

    fn view(&self) -> PsView {
        let workloads = self.workloads.values().cloned().collect();
        PsView::new(workloads, self.instances.values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_others_are_not_drawn() {
        let filter = Filter { workload: "web".into(), node: String::new(), unwell: false };
        let mut known = Known::default();
        let instance = |workload: &str| {
            let name = format!("{workload}-0");
            Change::Instance(v1::Instance { name, workload: workload.into(), ..Default::default() })
        };
        let deleted = |name: &str| {
            Change::Deleted(v1::Deleted { kind: v1::Kind::Instance.into(), name: name.into() })
        };
        assert!(known.take(Some(instance("web")), &filter));
        assert!(!known.take(Some(instance("db")), &filter));
        assert!(!known.take(Some(Change::Bookmark(true)), &filter));
        assert_eq!(known.view().instances.len(), 1);
        assert!(!known.take(Some(deleted("db-0")), &filter));
        assert!(known.take(Some(deleted("web-0")), &filter));
        assert!(known.view().instances.is_empty());
    }
}
