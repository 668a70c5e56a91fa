//! Daemons that are configured so that no container of theirs can be in a sandbox, or some may not have all that they could.

/// Why a daemon with these security options cannot put containers into sandboxes.
pub(super) fn reason(security_options: &[String]) -> Option<&'static str> {
    let has = |name: &str| {
        let mut parts = security_options.iter().flat_map(|option| option.split(','));
        parts.any(|part| part.strip_prefix("name=") == Some(name))
    };
    if has("rootless") {
        Some(
            "it runs without root (rootless mode) and cannot enter sandboxes, which belong to root; run it as root",
        )
    } else if has("userns") {
        Some(
            "it remaps users, and what it starts cannot enter sandboxes, which belong to the host's users; take \
             `userns-remap` out of its daemon.json and restart it",
        )
    } else {
        None
    }
}

/// Whether a daemon with these security options keeps dangerous system calls from containers, whatever they are capable of.
pub(super) fn filters_calls(security_options: &[String]) -> bool {
    let is_filter = |option: &&String| option.split(',').any(|part| part == "name=seccomp");
    let filter = security_options.iter().find(is_filter);
    filter.is_some_and(|option| !option.contains("profile=unconfined"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::PoisonError;

    use dwell_core::workload::Template;

    use super::*;
    use crate::{DockerConfig, DockerEngine, Runtime};
    use dwell_engine::{Engine, fake};

    #[test]
    fn a_daemon_that_remaps_users_or_has_no_root_is_unfit() {
        let of = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            reason(&options)
        };
        assert_eq!(of(&["name=apparmor", "name=seccomp,profile=default", "name=cgroupns"]), None);
        let remapped = of(&["name=seccomp,profile=builtin", "name=userns"]).unwrap();
        assert!(remapped.contains("userns-remap"), "{remapped}");
        assert!(of(&["name=rootless", "name=userns"]).unwrap().contains("as root"));
    }

    #[test]
    fn filters_of_calls() {
        let of = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            filters_calls(&options)
        };
        assert!(of(&["name=apparmor", "name=seccomp,profile=default"]));
        assert!(of(&["name=seccomp,profile=builtin", "name=cgroupns"]));
        assert!(of(&["name=seccomp,profile=/etc/docker/own.json"]));
        assert!(!of(&["name=seccomp,profile=unconfined"]));
        assert!(!of(&["name=apparmor"]));
    }

    #[tokio::test]
    async fn an_unfit_daemon_is_asked_for_no_container() {
        let nowhere = Path::new("/nowhere");
        let engine = DockerEngine::new(DockerConfig {
            socket: nowhere.join("socket"),
            cluster: "test".to_owned(),
            data_dir: nowhere.to_owned(),
            run_dir: nowhere.to_owned(),
            allowed: crate::Allowed::default(),
            runtime: Runtime::Dwell,
            registries: crate::credentials::Registries::default(),
            names: None,
        });
        let why = reason(&["name=userns".to_owned()]);
        *engine.unfit.lock().unwrap_or_else(PoisonError::into_inner) = why;
        let assigned = fake::assigned("web-0", 1, Template::of_image("a"));
        let refused = engine.create(&assigned).await.unwrap_err();
        // It may be configured otherwise later, so it is tried again.
        assert!(!refused.is_permanent());
        let begins = "docker failed to create a container: it remaps users";
        assert!(refused.to_string().starts_with(begins), "{refused}");
    }
}
