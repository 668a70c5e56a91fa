//! Lists in pages. A client that asks for no pages, as those of earlier versions do, gets all in one message, if
//! that can carry it; the model is looked at in pages all the same.

use dwell_core::id::{InstanceName, Revision, WorkloadName};
use dwell_proto::v1;
use prost::Message;
use tonic::Status;

use super::{Api, request, view};
use crate::model::InstanceFilter;

/// The most entries of one look at the model, and of one page.
const PAGE_MAX: usize = 1_000;
/// How many instances the workloads of one page have at most, but for the last.
const INSTANCES_MAX: u32 = 10_000;
/// A page ends when it is so large, in bytes.
const PAGE_BYTES: usize = 4 << 20;

/// How many entries a page has: as many as were asked for, within bounds; all for 0.
fn size(asked: u32) -> usize {
    usize::try_from(asked).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)
}

impl Api {
    pub(super) async fn instances_in_pages(
        &self,
        asked: v1::ListInstancesRequest,
    ) -> Result<v1::ListInstancesResponse, Status> {
        let name: Option<InstanceName> = request::optional(&asked.name)?;
        if let Some(name) = name {
            let (found, revision) = self.read(move |model| model.instance(&name)).await?;
            let instances = found.iter().map(view::instance).collect();
            let next_page_token = String::new();
            return Ok(v1::ListInstancesResponse {
                instances,
                revision: revision.0,
                next_page_token,
            });
        }
        let (workload, node) =
            (request::optional(&asked.workload)?, request::optional(&asked.node)?);
        let filter = InstanceFilter { workload, node };
        let mut after: Option<InstanceName> = request::optional(&asked.page_token)?;
        let mut all = Collected::new(asked.page_size);
        loop {
            let (filter, from, limit) = (filter.clone(), after.take(), size(asked.page_size));
            let limit = if asked.page_size == 0 { PAGE_MAX } else { limit };
            let look = move |model: &crate::model::Model| {
                model.instances_page(&filter, from.as_ref(), limit)
            };
            let (page, revision) = self.read(look).await?;
            let named =
                page.items.iter().map(|one| (one.instance.name.to_string(), view::instance(one)));
            let more = all.take(named, page.next.is_some(), revision);
            match page.next {
                Some(next) if more => after = Some(next),
                _ => break,
            }
        }
        let (instances, next_page_token, revision) = all.into_parts();
        Ok(v1::ListInstancesResponse { instances, revision, next_page_token })
    }

    pub(super) async fn workloads_in_pages(
        &self,
        asked: v1::ListWorkloadsRequest,
    ) -> Result<v1::ListWorkloadsResponse, Status> {
        let name: Option<WorkloadName> = request::optional(&asked.name)?;
        if let Some(name) = name {
            let (found, revision) = self.read(move |model| model.workload(&name)).await?;
            let workloads = found.iter().map(view::workload).collect();
            let next_page_token = String::new();
            return Ok(v1::ListWorkloadsResponse {
                workloads,
                revision: revision.0,
                next_page_token,
            });
        }
        let mut after: Option<WorkloadName> = request::optional(&asked.page_token)?;
        let mut all = Collected::new(asked.page_size);
        loop {
            let (from, limit) = (after.take(), size(asked.page_size));
            let limit = if asked.page_size == 0 { PAGE_MAX } else { limit };
            let look = move |model: &crate::model::Model| {
                model.workloads_page(from.as_ref(), limit, INSTANCES_MAX)
            };
            let (page, revision) = self.read(look).await?;
            let named = page
                .items
                .iter()
                .map(|one| (one.workload.spec.name.to_string(), view::workload(one)));
            let more = all.take(named, page.next.is_some(), revision);
            match page.next {
                Some(next) if more => after = Some(next),
                _ => break,
            }
        }
        let (workloads, next_page_token, revision) = all.into_parts();
        Ok(v1::ListWorkloadsResponse { workloads, revision, next_page_token })
    }
}

/// What becomes of the looks at the model: one page, or all of the list.
struct Collected<T> {
    paged: bool,
    entries: Vec<T>,
    bytes: usize,
    /// Where the next page begins.
    token: String,
    /// Of the first look: from there a watch shows whatever later ones did not.
    revision: Option<Revision>,
}

impl<T: Message> Collected<T> {
    fn new(page_size: u32) -> Self {
        let paged = page_size > 0;
        Self { paged, entries: Vec::new(), bytes: 0, token: String::new(), revision: None }
    }

    /// Takes the entries of a look; returns whether to look on.
    fn take(
        &mut self,
        named: impl Iterator<Item = (String, T)>,
        more: bool,
        revision: Revision,
    ) -> bool {
        self.revision.get_or_insert(revision);
        let mut last = String::new();
        let mut named = named.peekable();
        while let Some((name, entry)) = named.next() {
            self.bytes += entry.encoded_len();
            self.entries.push(entry);
            last = name;
            if self.paged && self.bytes >= PAGE_BYTES && (more || named.peek().is_some()) {
                self.token = last;
                return false;
            }
        }
        if self.paged && more {
            self.token = last;
        }
        !self.paged
    }

    fn into_parts(self) -> (Vec<T>, String, u64) {
        (self.entries, self.token, self.revision.unwrap_or_default().0)
    }
}
