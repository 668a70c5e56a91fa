//! Lists in pages. A client that asks for no pages, as those of earlier versions do, gets all in one message, if
//! that can carry it; the model is looked at in pages all the same.

use dwell_core::id::{InstanceName, NodeName, Revision, WorkloadName};
use dwell_proto::v1;
use prost::Message;
use tonic::Status;

use super::{Api, request, view};
use crate::model::{
    InstanceFilter, InstanceView, Model, NodeView, Page, VolumeKey, VolumeView, WorkloadView,
};

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

/// What is asked for: how many, and after which entry.
struct Asked<N> {
    size: u32,
    after: Option<N>,
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
        let look = move |model: &Model, after: Option<&InstanceName>, limit| {
            model.instances_page(&filter, after, limit)
        };
        let named = |one: &InstanceView| (one.instance.name.to_string(), view::instance(one));
        let after = request::optional(&asked.page_token)?;
        let asked = Asked { size: asked.page_size, after };
        let (instances, next_page_token, revision) = self.in_pages(asked, look, named).await?;
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
        let look = |model: &Model, after: Option<&WorkloadName>, limit| {
            model.workloads_page(after, limit, INSTANCES_MAX)
        };
        let named = |one: &WorkloadView| (one.workload.spec.name.to_string(), view::workload(one));
        let after = request::optional(&asked.page_token)?;
        let asked = Asked { size: asked.page_size, after };
        let (workloads, next_page_token, revision) = self.in_pages(asked, look, named).await?;
        Ok(v1::ListWorkloadsResponse { workloads, revision, next_page_token })
    }

    pub(super) async fn nodes_in_pages(
        &self,
        asked: v1::ListNodesRequest,
    ) -> Result<v1::ListNodesResponse, Status> {
        let name: Option<NodeName> = request::optional(&asked.name)?;
        if let Some(name) = name {
            let (found, revision) = self.read(move |model| model.node(&name)).await?;
            let found = found.filter(|found| !found.node.removed);
            let nodes = found.iter().map(view::node).collect();
            let next_page_token = String::new();
            return Ok(v1::ListNodesResponse { nodes, revision: revision.0, next_page_token });
        }
        let look = |model: &Model, after: Option<&NodeName>, limit| model.nodes_page(after, limit);
        let named = |one: &NodeView| (one.node.name.to_string(), view::node(one));
        let after = request::optional(&asked.page_token)?;
        let asked = Asked { size: asked.page_size, after };
        let (nodes, next_page_token, revision) = self.in_pages(asked, look, named).await?;
        Ok(v1::ListNodesResponse { nodes, revision, next_page_token })
    }

    pub(super) async fn volumes_in_pages(
        &self,
        asked: v1::ListVolumesRequest,
    ) -> Result<v1::ListVolumesResponse, Status> {
        let instance: Option<InstanceName> = request::optional(&asked.instance)?;
        let node: Option<NodeName> = request::optional(&asked.node)?;
        let look = move |model: &Model, after: Option<&VolumeKey>, limit| {
            model.volumes_page((instance.as_ref(), node.as_ref()), after, limit)
        };
        let named = |one: &VolumeView| (one.volume.key.to_string(), view::volume(one));
        let after = request::optional(&asked.page_token)?;
        let asked = Asked { size: asked.page_size, after };
        let (volumes, next_page_token, revision) = self.in_pages(asked, look, named).await?;
        Ok(v1::ListVolumesResponse { volumes, revision, next_page_token })
    }

    /// Looks at the model page by page until there is what was asked for: one page, or, for a size of 0, everything.
    /// Returns the entries, the token for the next page and the revision of the first look.
    async fn in_pages<V, N, T>(
        &self,
        asked: Asked<N>,
        look: impl Fn(&Model, Option<&N>, usize) -> Page<V, N> + Clone + Send + 'static,
        named: impl Fn(&V) -> (String, T),
    ) -> Result<(Vec<T>, String, u64), Status>
    where
        V: Send + 'static,
        N: Send + 'static,
        T: Message,
    {
        let limit = if asked.size == 0 { PAGE_MAX } else { size(asked.size) };
        let mut after = asked.after;
        let mut all = Collected::new(asked.size);
        loop {
            let (look, from) = (look.clone(), after.take());
            let (page, revision) =
                self.read(move |model| look(model, from.as_ref(), limit)).await?;
            let more = all.take(page.items.iter().map(&named), page.next.is_some(), revision);
            match page.next {
                Some(next) if more => after = Some(next),
                _ => return Ok(all.into_parts()),
            }
        }
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
