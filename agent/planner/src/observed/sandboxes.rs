//! What is known of an instance's sandboxes.

use dwell_core::sandbox::Slot;

/// The two sandboxes that an instance can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sandboxes([Sandbox; 2]);

impl Default for Sandboxes {
    /// Nobody has looked. A second one is there only if somebody has seen it, or made it.
    fn default() -> Self {
        Self::only(Sandbox::Doubtful)
    }
}

impl Sandboxes {
    /// There is no second one.
    #[must_use]
    pub fn only(first: Sandbox) -> Self {
        Self([first, Sandbox::Absent])
    }

    /// What is known of the one in a slot.
    #[must_use]
    pub fn of(&self, slot: Slot) -> Sandbox {
        self.0[slot as usize]
    }

    /// Takes note of it.
    pub fn set(&mut self, slot: Slot, sandbox: Sandbox) {
        self.0[slot as usize] = sandbox;
    }

    /// One that was right has to be looked at again.
    pub fn doubt(&mut self, slot: Slot) {
        if self.of(slot) != Sandbox::Absent {
            self.set(slot, Sandbox::Doubtful);
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn are_absent(&self) -> bool {
        *self == Self::only(Sandbox::Absent)
    }

    /// The one in a slot is complete. An address leads to one place.
    pub(super) fn made(&mut self, slot: Slot, reached: bool) {
        self.set(slot, if reached { Sandbox::Ready } else { Sandbox::Beside });
        if reached && self.of(slot.other()) == Sandbox::Ready {
            self.set(slot.other(), Sandbox::Beside);
        }
    }
}

/// How sure it is that a sandbox of an instance is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// There is none: somebody has looked.
    Absent,
    /// It has to be checked: nobody has looked yet, or something has happened since.
    #[default]
    Doubtful,
    /// It is complete, and the instance's address leads to it.
    Ready,
    /// It is complete, and the instance's address leads elsewhere.
    Beside,
}
