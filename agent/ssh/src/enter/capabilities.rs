//! Which capabilities a process gets: at most the container's own.

use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
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
    /// Root and the main process's own user get what the configuration says, any other user none. What an executed
    /// program has is the kernel's matter: root's has all within the bounding set, unless new privileges are forbidden.
    pub(super) fn new(container: &Capabilities, uid: u32, own_uid: u32) -> Self {
        let bounding = set(&container.bounding);
        let none = CapabilitySet::empty();
        if uid != 0 && uid != own_uid {
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            return Self { bounding, sets, ambient: none };
        }
        let permitted = set(&container.permitted);
        let inheritable = set(&container.inheritable);
        let effective = set(&container.effective) & permitted;
        // The kernel refuses others.
        let ambient = set(&container.ambient) & permitted & inheritable & bounding;
        Self { bounding, sets: CapabilitySets { effective, permitted, inheritable }, ambient }
    }

    /// What the process would have after executing an ordinary program, for one that executes none; the kernel's rules
    /// (`capabilities(7)`).
    pub(super) fn after_exec(self, uid: u32, no_new_privileges: bool) -> Self {
        let CapabilitySets { permitted, inheritable, .. } = self.sets;
        let gained = match (uid, no_new_privileges) {
            (0, false) => self.bounding | inheritable,
            (0, true) => (self.bounding | inheritable) & permitted,
            _ => self.ambient,
        };
        Self { sets: CapabilitySets { effective: gained, permitted: gained, inheritable }, ..self }
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
            assert!(
                (granted.sets.permitted | granted.sets.inheritable | granted.ambient).is_empty()
            );
            assert_eq!(granted.bounding, chown | CapabilitySet::KILL);
        }
    }

    #[test]
    fn without_an_exec_it_is_as_after_one() {
        let (chown, bound) = (CapabilitySet::CHOWN, CapabilitySet::CHOWN | CapabilitySet::KILL);
        let none = CapabilitySet::empty();
        let mut unprivileged = container();
        unprivileged.permitted.clear();
        for (container, uid, no_new_privileges, expected) in [
            (container(), 0, false, bound),
            (container(), 0, true, chown),
            (unprivileged, 0, true, none),
            (container(), 7, false, chown),
            (container(), 8, false, none),
        ] {
            let granted = Granted::new(&container, uid, 7).after_exec(uid, no_new_privileges);
            assert_eq!(granted.sets.effective, expected, "{uid} {no_new_privileges}");
            assert_eq!(granted.sets.permitted, expected, "{uid} {no_new_privileges}");
        }
    }
}
