//! Which capabilities a process gets: at most the container's own.

use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use super::bundle::Capabilities;

/// What a process gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    bounding: CapabilitySet,
    sets: CapabilitySets,
    ambient: CapabilitySet,
}

impl Granted {
    /// What a process gets that runs as `uid`, where the container's main process runs as `own_uid`.
    ///
    /// Root gets what the main process has, and so does the main process's own user. Any other user gets none; what
    /// a set-uid program may give is bounded by the bounding set, as for everybody.
    pub(super) fn new(container: &Capabilities, uid: u32, own_uid: u32) -> Self {
        let bounding = set(&container.bounding);
        let none = CapabilitySet::empty();
        if uid != 0 && uid != own_uid {
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            return Self { bounding, sets, ambient: none };
        }
        let permitted = set(&container.permitted);
        let inheritable = set(&container.inheritable);
        let sets = if uid == 0 && own_uid != 0 {
            // The configuration speaks of a user who is not root, so that only the bound is known.
            CapabilitySets { effective: bounding, permitted: bounding, inheritable }
        } else {
            let effective = set(&container.effective) & permitted;
            CapabilitySets { effective, permitted, inheritable }
        };
        // The kernel refuses others.
        let ambient = set(&container.ambient) & sets.permitted & sets.inheritable;
        Self { bounding, sets, ambient }
    }

    /// Takes everything beyond the bound from what any program may give later. Needs `CAP_SETPCAP`.
    pub(super) fn bound(&self) -> rustix::io::Result<()> {
        for number in 0..CapabilitySet::empty().bits().count_zeros() {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if self.bounding.contains(one) {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                // Beyond the last that the kernel knows.
                Err(rustix::io::Errno::INVAL) => break,
                result => result?,
            }
        }
        Ok(())
    }

    /// Makes the capabilities of this process what they are to be; after the user was changed.
    pub(super) fn apply(&self) -> rustix::io::Result<()> {
        set_capabilities(None, self.sets)?;
        match clear_ambient_capability_set() {
            // A kernel without ambient capabilities has none to clear.
            Err(rustix::io::Errno::INVAL) => {}
            result => result?,
        }
        for one in self.ambient.iter() {
            configure_capability_in_ambient_set(one, true)?;
        }
        Ok(())
    }
}

/// Those of the names that are known; one that is not, is not given.
fn set(names: &[String]) -> CapabilitySet {
    let known = |name: &String| CapabilitySet::from_name(name.strip_prefix("CAP_")?);
    names.iter().filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| format!("CAP_{name}")).collect()
    }

    fn container() -> Capabilities {
        Capabilities {
            bounding: names(&["CHOWN", "KILL", "FROM_THE_FUTURE"]),
            effective: names(&["CHOWN"]),
            permitted: names(&["CHOWN"]),
            inheritable: names(&["CHOWN"]),
            ambient: names(&["CHOWN", "KILL"]),
        }
    }

    #[test]
    fn only_root_and_the_containers_own_user_have_any() {
        let chown = CapabilitySet::CHOWN;
        for (uid, own_uid) in [(0, 0), (7, 7)] {
            let granted = Granted::new(&container(), uid, own_uid);
            assert_eq!(granted.sets.permitted, chown, "{uid}");
            assert_eq!(granted.ambient, chown, "{uid}");
        }
        for (uid, own_uid) in [(8, 7), (8, 0)] {
            let granted = Granted::new(&container(), uid, own_uid);
            assert!((granted.sets.permitted | granted.sets.inheritable | granted.ambient).is_empty());
            assert_eq!(granted.bounding, chown | CapabilitySet::KILL);
        }
    }

    #[test]
    fn root_beside_another_user_has_the_bound() {
        let granted = Granted::new(&container(), 0, 7);
        assert_eq!(granted.sets.effective, CapabilitySet::CHOWN | CapabilitySet::KILL);
    }
}
