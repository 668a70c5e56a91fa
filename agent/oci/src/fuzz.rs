//! What must hold of the parsers in here for any bytes: see `fuzz/`.
#![expect(clippy::panic, reason = "that is how a target fails")]

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Mapping;
use crate::bundle::{Cgroups, Changes, rewritten};

/// Panics if what is given breaks the parser.
pub type Holds = fn(&[u8]);

/// By their names.
pub const TARGETS: &[(&str, Holds)] = &[("bundle", bundle), ("mapping", mapping)];

/// A bundle's `config.json`: whatever it says, what is handed to the runtime has one network namespace, the sandbox, and mounts what is
/// held in place of what it names. The root is the one that is given.
fn bundle(bytes: &[u8]) {
    const NETNS: &str = "/run/dwell/netns/web-0";
    const HELD: &str = "/run/dwell/binds/0";
    let path = Path::new("config.json");
    const ROOT: &str = "/run/dwell/binds/root";
    let held = [("/data", PathBuf::from(HELD))];
    let root = Some(("/.dwell-root", Path::new(ROOT)));
    for (held, root, cgroups) in [
        (&held[..0], None, None),
        (&held, None, Some(Cgroups::Beside)),
        (&held, root, Some(Cgroups::Mounted)),
    ] {
        let sysctls = &[("net.core.somaxconn".to_owned(), "1".to_owned())].into();
        let changes = Changes { netns: Path::new(NETNS), held, root, sysctls, cgroups };
        let Ok(text) = rewritten(path, bytes, &changes) else { continue };
        let Ok(config) = serde_json::from_slice::<Value>(&text) else { panic!("it is JSON") };
        let all = config["linux"]["namespaces"].as_array().into_iter().flatten();
        let networks: Vec<_> = all.filter(|one| one["type"] == "network").collect();
        assert!(matches!(networks[..], [one] if one["path"] == NETNS), "{networks:?}");
        let mounts = config["mounts"].as_array().into_iter().flatten();
        let at = |one: &&Value| one["type"] == "bind" && one["destination"] == "/data";
        assert!(held.is_empty() || mounts.filter(at).all(|one| one["source"] == HELD));
        // Doing it twice changes nothing more.
        assert!(root.is_none() || config["root"]["path"] == ROOT);
        assert!(rewritten(path, &text, &changes).is_ok_and(|again| again == text));
    }
}

/// The file in which the agent says which sandbox a container belongs into.
fn mapping(bytes: &[u8]) {
    let Ok(mapping) = Mapping::parse("mapping".into(), bytes) else { return };
    assert!(mapping.netns.is_absolute());
    assert!(mapping.binds.iter().all(|bind| bind.root.is_absolute()));
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_kept_holds() {
        dwell_daemon::corpus::replay(super::TARGETS);
    }
}
