//! What a container is that dwell did not make.

use std::path::PathBuf;

use dwell_core::foreign::Foreign;
use dwell_core::quantity::Bytes;
use dwell_daemon::Lane;
use dwell_engine::{EngineError, SharedEngine};
use dwell_proto::v1;
use dwell_proto::v1::tunnel_up::Message;

use super::volumes::size_of;
use super::{Ends, TunnelError, send};

/// Looks at a container, and at how much its volumes have, and tells.
pub(super) async fn carry(
    engine: &SharedEngine,
    container: &str,
    ends: &mut Ends,
) -> Result<(), TunnelError> {
    // Cancel-safe: both branches end the tunnel, or the first one is done. Nothing is changed by looking.
    let found = tokio::select! {
        found = look(engine, container) => found?,
        _ = ends.down.message() => return Err(TunnelError::Gone),
    };
    send(&ends.up, Message::Foreign(v1::Foreign::from(&found))).await
}

async fn look(engine: &SharedEngine, container: &str) -> Result<Foreign, TunnelError> {
    let mut found = engine.foreign(container).await.map_err(|error| match error {
        EngineError::NotRunning { id } => TunnelError::ForeignRests(id),
        error => TunnelError::Engine(error),
    })?;
    for volume in &mut found.volumes {
        let Ok(data) = engine.foreign_volume(&volume.source).await else { continue };
        match measure(data).await {
            Ok(size) => volume.size = Some(size),
            Err(reason) => {
                found
                    .obstacles
                    .push(format!("its volume {} cannot be copied: {reason}", volume.source));
            }
        }
    }
    Ok(found)
}

async fn measure(data: PathBuf) -> Result<Bytes, String> {
    // A thread of its own: what hangs there hangs alone.
    let measured = Lane::new("volume").run(move || Ok(size_of(&data))).await;
    match measured {
        Ok(Ok(bytes)) => Ok(Bytes(bytes)),
        Ok(Err(error)) => Err(dwell_daemon::Causes(&error).to_string()),
        Err(error) => Err(error.to_string()),
    }
}
