//! Whose turn it is at a volume.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dwell_core::id::{InstanceName, VolumeName};
use tokio::sync::OwnedMutexGuard;

type Turn = tokio::sync::Mutex<()>;
type Turns = HashMap<(InstanceName, VolumeName), Weak<Turn>>;

/// One at a time may change a volume or its copy; those of other volumes do not wait. Clones share the turns.
#[derive(Clone, Debug, Default)]
pub struct VolumeTurns(Arc<Mutex<Turns>>);

impl VolumeTurns {
    /// Waits for the turn at a volume, which lasts until what is returned is dropped. Those that wait come in order.
    pub async fn take(&self, instance: &InstanceName, name: &VolumeName) -> OwnedMutexGuard<()> {
        self.at(instance, name).lock_owned().await
    }

    fn at(&self, instance: &InstanceName, name: &VolumeName) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A turn that nobody has or waits for is forgotten.
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = turns.entry((instance.clone(), name.clone())).or_default();
        turn.upgrade().unwrap_or_else(|| {
            let made = Arc::default();
            *turn = Arc::downgrade(&made);
            made
        })
    }
}
