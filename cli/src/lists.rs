//! Lists, fetched page by page.

use dwell_proto::v1;
use tonic::Status;

use crate::client::Client;

/// How many entries to ask for at a time. The controller may give fewer.
const PAGE: u32 = 1_000;

/// A workload, or all if the name is empty; and a revision from which a watch shows everything that
/// these answers do not.
///
/// # Errors
/// As the controller says.
pub(crate) async fn workloads(
    client: &mut Client,
    name: &str,
) -> Result<(Vec<v1::Workload>, u64), Status> {
    let mut request =
        v1::ListWorkloadsRequest { name: name.to_owned(), page_size: PAGE, ..Default::default() };
    let (mut all, mut first) = (Vec::new(), None);
    loop {
        let page = client.list_workloads(request.clone()).await?.into_inner();
        let revision = *first.get_or_insert(page.revision);
        all.extend(page.workloads);
        if page.next_page_token.is_empty() {
            return Ok((all, revision));
        }
        request.page_token = page.next_page_token;
    }
}

/// The same for instances.
///
/// # Errors
/// As the controller says.
pub(crate) async fn instances(
    client: &mut Client,
    mut request: v1::ListInstancesRequest,
) -> Result<(Vec<v1::Instance>, u64), Status> {
    request.page_size = PAGE;
    let (mut all, mut first) = (Vec::new(), None);
    loop {
        let page = client.list_instances(request.clone()).await?.into_inner();
        let revision = *first.get_or_insert(page.revision);
        all.extend(page.instances);
        if page.next_page_token.is_empty() {
            return Ok((all, revision));
        }
        request.page_token = page.next_page_token;
    }
}
