//! What this node finds when it compares what its layers claim.

use dwell_proto::v1::tunnel_up::Message;
use tokio::sync::Mutex;

use super::{Ends, TunnelError, send};
use crate::audit::Audited;

/// Audits the node, when it is this one's turn, and tells.
pub(super) async fn carry(
    node: &Audited,
    repair: bool,
    turn: &Mutex<()>,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    let auditing = async {
        let _turn = turn.lock().await;
        node.audit(repair).await
    };
    // Cancel-safe: both branches end the tunnel, or the first one is done. A repair that is cut short is a part of one.
    let audited = tokio::select! {
        audited = auditing => audited.map_err(TunnelError::NotAudited)?,
        _ = ends.down.message() => return Err(TunnelError::Gone),
    };
    send(&ends.up, Message::Audit((&audited).into())).await
}
