//! Lists, fetched page by page.

use dwell_proto::v1;
use tonic::{Response, Status};

use crate::client::Client;

/// How many entries to ask for at a time. The controller may give fewer.
const PAGE: u32 = 1_000;

/// An answer that is one page of a list.
trait Page {
    /// What is listed.
    type Entry;

    /// The entries, the revision and the token for the next page.
    fn into_parts(self) -> (Vec<Self::Entry>, u64, String);
}

macro_rules! page {
    ($response:ident, $entry:ident, $entries:ident) => {
        impl Page for v1::$response {
            type Entry = v1::$entry;

            fn into_parts(self) -> (Vec<v1::$entry>, u64, String) {
                (self.$entries, self.revision, self.next_page_token)
            }
        }
    };
}

page!(ListWorkloadsResponse, Workload, workloads);
page!(ListInstancesResponse, Instance, instances);
page!(ListNodesResponse, Node, nodes);
page!(ListVolumesResponse, Volume, volumes);

/// All pages, and a revision from which a watch shows everything that they do not: that of the first.
async fn all<P: Page>(
    mut ask: impl AsyncFnMut(String) -> Result<Response<P>, Status>,
) -> Result<(Vec<P::Entry>, u64), Status> {
    let (mut all, mut first, mut token) = (Vec::new(), None, String::new());
    loop {
        let (entries, revision, next) = ask(token).await?.into_inner().into_parts();
        let revision = *first.get_or_insert(revision);
        all.extend(entries);
        if next.is_empty() {
            return Ok((all, revision));
        }
        token = next;
    }
}

/// A workload, or all if the name is empty; and a revision from which a watch shows everything that
/// these answers do not.
///
/// # Errors
/// As the controller says.
pub(crate) async fn workloads(
    client: &mut Client,
    name: &str,
) -> Result<(Vec<v1::Workload>, u64), Status> {
    all(async |page_token| {
        let name = name.to_owned();
        let request = v1::ListWorkloadsRequest { name, page_size: PAGE, page_token };
        client.list_workloads(request).await
    })
    .await
}

/// The same for instances.
///
/// # Errors
/// As the controller says.
pub(crate) async fn instances(
    client: &mut Client,
    request: v1::ListInstancesRequest,
) -> Result<(Vec<v1::Instance>, u64), Status> {
    all(async |page_token| {
        let request = v1::ListInstancesRequest { page_size: PAGE, page_token, ..request.clone() };
        client.list_instances(request).await
    })
    .await
}

/// The same for nodes: one, or all if the name is empty.
///
/// # Errors
/// As the controller says.
pub(crate) async fn nodes(client: &mut Client, name: &str) -> Result<(Vec<v1::Node>, u64), Status> {
    all(async |page_token| {
        let name = name.to_owned();
        client.list_nodes(v1::ListNodesRequest { name, page_size: PAGE, page_token }).await
    })
    .await
}

/// The same for volumes.
///
/// # Errors
/// As the controller says.
pub(crate) async fn volumes(
    client: &mut Client,
    request: v1::ListVolumesRequest,
) -> Result<Vec<v1::Volume>, Status> {
    let found = all(async |page_token| {
        let request = v1::ListVolumesRequest { page_size: PAGE, page_token, ..request.clone() };
        client.list_volumes(request).await
    });
    found.await.map(|(volumes, _)| volumes)
}
