//! What this node finds when it looks itself over.

use dwell_proto::v1;
use dwell_proto::v1::tunnel_up::Message;
use tokio::sync::Mutex;

use super::{Ends, TunnelError, send};
use crate::doctor::{self, Host, report};
use crate::identity::wall_clock;

/// Looks the host over, when it is this one's turn, and tells.
pub(super) async fn carry(
    host: &Host,
    turn: &Mutex<()>,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    let looking = async {
        let _turn = turn.lock().await;
        doctor::examine(host).await
    };
    // Cancel-safe: both branches end the tunnel, or the first one is done. Nothing is changed by looking.
    let findings = tokio::select! {
        findings = looking => findings,
        _ = ends.down.message() => return Err(TunnelError::Gone),
    };
    let findings = findings.into_iter().map(report::wire).collect();
    let diagnosis = v1::Diagnosis { at_ms: wall_clock().0, findings };
    send(&ends.up, Message::Diagnosis(diagnosis)).await
}
