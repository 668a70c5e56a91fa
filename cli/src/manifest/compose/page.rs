//! The tables of `docs/compose.md`, made from what is read and what becomes of the rest.

use serde_json::Value;

use super::{Entry, Fate, Place};
use crate::manifest::schema;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compose.md");

/// All keys of Compose's specification, by their place, its name on the page, and where the schema has what is read there.
const KEYS: &[(Place, &str, &[&str], &str)] = &[
    (
        Place::File,
        "top",
        &[""],
        "configs include models name networks secrets services version volumes",
    ),
    (
        Place::Service,
        "service",
        &["/$defs/Workload"],
        "annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name \
         cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec \
         depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname driver_opts entrypoint \
         env_file environment expose extends external_links extra_hosts gpus group_add healthcheck hostname image init \
         ipc isolation label_file labels links logging mac_address mem_limit mem_reservation mem_swappiness \
         memswap_limit models network_mode networks oom_kill_disable oom_score_adj pid pids_limit platform ports \
         post_start pre_stop privileged profiles provider pull_policy pull_refresh_after read_only restart runtime scale \
         secrets security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits \
         use_api_socket user userns_mode uts volumes volumes_from working_dir",
    ),
    (
        Place::Deploy,
        "deploy",
        &["/$defs/Deploy"],
        "endpoint_mode labels mode placement replicas resources restart_policy rollback_config update_config",
    ),
    (Place::Resources, "deploy.resources", &["/$defs/DeployResources"], "limits reservations"),
    (Place::Limits, "deploy.resources.limits", &["/$defs/DeployLimits"], "cpus memory pids"),
    (
        Place::Placement,
        "deploy.placement",
        &["/$defs/DeployPlacement"],
        "constraints max_replicas_per_node preferences",
    ),
    (
        Place::HealthCheck,
        "healthcheck",
        &["/$defs/HealthCheck"],
        "disable interval retries start_interval start_period test timeout",
    ),
    (
        Place::Mount,
        "mount",
        &["/$defs/Workload/properties/volumes/items/anyOf/1"],
        "bind consistency image read_only source target tmpfs type volume",
    ),
    (Place::Volume, "volume", &["/$defs/Nothing"], "driver driver_opts external labels name"),
];

/// The page is what becomes of a file; nobody has to keep it.
#[test]
fn the_page_about_compose_is_true() {
    let is = std::fs::read_to_string(PAGE).unwrap();
    let schema = schema::value();
    let mut page = is.clone();
    for (place, name, pointers, keys) in KEYS {
        let (begin, end) = (format!("<!-- keys: {name} -->\n"), "<!-- end -->");
        let from = page.find(&begin).unwrap_or_else(|| panic!("{name} is missing")) + begin.len();
        let to = from + page[from..].find(end).unwrap();
        page.replace_range(from..to, &table(*place, pointers, keys, &schema));
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    assert!(
        is == page,
        "run: UPDATE_DOCS=1 cargo test -p dwell the_page_about_compose; it holds from the next run on"
    );
}

fn table(place: Place, pointers: &[&str], keys: &str, schema: &Value) -> String {
    let mut text = "| key | | |\n|---|---|---|\n".to_owned();
    let keys: Vec<&str> = keys.split_whitespace().collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    for Entry { key, .. } in place.entries() {
        assert!(place == Place::Limits || keys.contains(key), "{key} is none of Compose's");
    }
    for key in keys {
        let properties = pointers.iter().filter_map(|at| schema.pointer(at));
        let read = properties.filter_map(|it| it["properties"].get(key)).next();
        let entry = place.entries().iter().find(|entry| entry.key == key);
        let (verdict, words) = match (read, entry.map(|entry| &entry.fate)) {
            (Some(read), None) => ("yes", read["description"].as_str().unwrap().to_owned()),
            (None, Some(Fate::Ignored(why))) => ("ignored", (*why).to_owned()),
            (None, Some(Fate::Refused(instead))) => ("**no**", (*instead).to_owned()),
            (None, Some(Fate::Depends { harmless, why, instead })) => {
                ("**no**", format!("{instead}. `{}` is ignored: {why}", harmless.join("`, `")))
            }
            (read, entry) => panic!("{place:?} {key}: {} {}", read.is_some(), entry.is_some()),
        };
        let words = words.replace('\n', " ").replace('|', "\\|");
        text += &format!("| `{key}` | {verdict} | {} |\n", words.trim_end_matches('.'));
    }
    text
}
