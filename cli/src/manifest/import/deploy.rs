//! What Swarm is told beneath `deploy`, in the keys of dwell.

use super::Import;
use crate::manifest::tree::{Item, Key, Tree};

impl Import<'_> {
    pub(super) fn deploy(&mut self, service: &mut Item) {
        let Some(deploy) = service.get_mut("deploy") else { return };
        for (key, why) in [
            ("endpoint_mode", "the name of a workload leads to the addresses of its instances"),
            ("rollback_config", "going back is done by the same rules as going on"),
        ] {
            self.dropped(deploy, key, why);
        }
        if let Some(placement) = deploy.get_mut("placement") {
            self.dropped(placement, "preferences", "instances are spread over the nodes");
            self.dropped(placement, "max_replicas_per_node", "instances are spread over the nodes");
        }
        if let Some(resources) = deploy.get_mut("resources") {
            self.dropped(resources, "reservations", "what is promised is what \"limits\" says");
        }
        for key in ["placement", "resources"] {
            if deploy.get(key).and_then(Item::entries).is_some_and(<[_]>::is_empty) {
                deploy.remove(key);
            }
        }
        let restart = deploy.remove("restart_policy");
        let update = deploy.remove("update_config");
        if deploy.entries().is_some_and(<[_]>::is_empty) {
            service.remove("deploy");
        }
        if let Some((key, policy)) = restart {
            let text = |key| policy.get(key).and_then(Item::scalar);
            let restart = match (text("condition"), text("max_attempts")) {
                (Some("none"), _) => "no".to_owned(),
                (Some("on-failure"), Some(times)) => format!("on-failure:{times}"),
                (Some("on-failure"), None) => "on-failure".to_owned(),
                _ => "always".to_owned(),
            };
            self.note(&key.origin, format!("\"deploy.restart_policy\" is \"restart: {restart}\""));
            service.set_text("restart", &restart);
        }
        if let Some((key, config)) = update {
            self.note(&key.origin, "\"deploy.update_config\" is \"update\"; there is no \"delay\"");
            service.insert(Key { name: "update".to_owned(), origin: key.origin }, updated(&config));
        }
    }
}

fn updated(config: &Item) -> Item {
    let mut update = Item::new(Tree::Map(Vec::new()));
    for (key, value) in config.entries().unwrap_or_default() {
        let (name, value) = match (key.name.as_str(), value.scalar()) {
            ("delay", _) => continue,
            ("failure_action", _) => ("on_failure", value.clone()),
            ("max_failure_ratio", Some(ratio)) => {
                let percent = ratio.parse::<f64>().unwrap_or_default() * 100.0;
                if percent < 1.0 {
                    continue;
                }
                ("max_failures", Item::text(format!("{percent:.0}%")))
            }
            (name, _) => (name, value.clone()),
        };
        update.insert(Key { name: name.to_owned(), origin: key.origin.clone() }, value);
    }
    update
}
