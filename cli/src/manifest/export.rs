//! The other way: a workload as a file that declares it. Reading the file gives the same workload, whatever the
//! environment: texts that would stand for variables are escaped.

use dwell_core::health::{HealthCheck, Probe};
use dwell_core::hook::{HookAction, Hooks};
use dwell_core::instance::RunState;
use dwell_core::job::{Job, Schedule};
use dwell_core::workload::{
    AllowRule, AllowSource, MountSource, OnMove, Process, Protocol, RestartPolicy, Ssh, Template,
    Ulimit, UpdatePolicy, WorkloadSpec,
};
use serde_json::{Map, Value, json};

use super::held::{shown, shown_device};

/// A file with one workload, as YAML; what is as it is without being said is left out.
///
/// # Errors
/// None that is known of: specifications are plain data.
pub(crate) fn export(spec: &WorkloadSpec) -> Result<String, serde_saphyr::SerializeError> {
    let mut workload = Map::new();
    let mut add = |key: &str, value: Value| {
        let empty = match &value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if !empty {
            workload.insert(key.to_owned(), escaped(value));
        }
    };
    // Every field is named, so that one that is added is not forgotten.
    let Template {
        image,
        image_policy,
        entrypoint,
        command,
        environment,
        user,
        working_dir,
        hostname,
        labels,
        mounts,
        machine,
        carry,
        stdin,
        tty,
        process,
        stop_signal,
        stop_grace,
        resources,
        pids,
        shm_size,
        restart: policy,
        healthcheck,
        readiness,
        hooks,
        expose: _,
        ssh: access,
        allow_from: _,
        allow_to: _,
    } = &spec.template;
    let plain = Template::of_image(image.clone());
    add("image", json!(image));
    if *image_policy != plain.image_policy {
        add("image_policy", json!(image_policy));
    }
    add("entrypoint", json!(entrypoint));
    add("command", json!(command));
    add("environment", json!(environment));
    add("user", json!(user));
    add("working_dir", json!(working_dir));
    add("hostname", json!(hostname));
    add("labels", json!(labels));
    if spec.placement.one_per_node {
        add("one_per_node", json!(true));
    } else {
        add("replicas", json!(spec.replicas));
    }
    add("stopped", json!(spec.run.map(|run| run == RunState::Stopped)));
    let mut limits = if *resources == plain.resources { json!({}) } else { json!(resources) };
    if let Some(pids) = pids {
        limits["pids"] = json!(pids);
    }
    add("resources", limits);
    if *shm_size != plain.shm_size {
        add("shm_size", json!(shm_size));
    }
    add("volumes", mounts.iter().map(mount).collect());
    add("machine", machine.as_ref().map_or(Value::Null, super::machine::shown));
    add("carry", json!(carry));
    add("stdin_open", json!(stdin.then_some(true)));
    add("tty", json!(tty.then_some(true)));
    held(process, &mut add);
    add("stop_signal", json!(stop_signal));
    if *stop_grace != plain.stop_grace {
        add("stop_grace_period", json!(stop_grace));
    }
    // Of a job with a bound, its attempts say that.
    let is_said = spec.job.is_some() && policy.attempts().is_some();
    if *policy != plain.restart && !is_said {
        add("restart", restart(*policy));
    }
    add("healthcheck", healthcheck.as_ref().map_or(Value::Null, health_check));
    add("hooks", each_hook(hooks));
    add("readiness", readiness.as_ref().map_or(Value::Null, health_check));
    add("network", network(spec));
    add("ssh", ssh(access));
    add("pool", json!(spec.placement.pool));
    add("constraints", json!(spec.placement.constraints));
    if spec.update != UpdatePolicy::default() {
        add("update", json!(spec.update));
    }
    if !spec.on_lost.is_keep() {
        add("on_lost", json!(spec.on_lost));
    }
    if !spec.labels.is_empty() {
        add("deploy", json!({ "labels": spec.labels }));
    }
    if let Some(rules) = &spec.job {
        // Also one that says nothing: that it is a job is something.
        workload.insert("job".into(), job(rules, *policy));
    }
    serde_saphyr::to_string(&json!({ "workloads": { spec.name.to_string(): workload } }))
}

/// How processes are held.
fn held(process: &Process, add: &mut impl FnMut(&str, Value)) {
    let Process { init, read_only, tmpfs, ulimits, cap_drop, group_add, extra_hosts, .. } = process;
    let Process { sysctls, cap_add, devices, dns_search, dns_options, .. } = process;
    let limit = |limit: &Ulimit| match limit.soft == limit.hard {
        true => json!(limit.soft),
        false => json!({ "soft": limit.soft, "hard": limit.hard }),
    };
    let ulimits = ulimits.iter().map(|(name, one)| (name.clone(), limit(one)));
    add("init", json!(init));
    add("read_only", json!(read_only.then_some(true)));
    add("tmpfs", tmpfs.iter().map(shown).collect());
    add("ulimits", Value::Object(ulimits.collect()));
    add("cap_drop", json!(cap_drop));
    add("group_add", json!(group_add));
    add("extra_hosts", json!(extra_hosts));
    add("sysctls", json!(sysctls));
    add("cap_add", json!(cap_add));
    add("devices", devices.iter().map(shown_device).collect());
    add("dns_search", json!(dns_search));
    add("dns_opt", json!(dns_options));
}

/// With `$$` for every `$` in its texts.
fn escaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('$', "$$")),
        Value::Array(items) => items.into_iter().map(escaped).collect(),
        Value::Object(entries) => {
            entries.into_iter().map(|(key, value)| (key, escaped(value))).collect()
        }
        other => other,
    }
}

fn mount(mount: &dwell_core::workload::Mount) -> Value {
    let (kind, source) = match &mount.source {
        MountSource::Volume(name) => ("volume", name.to_string()),
        MountSource::Bind(path) => ("bind", path.clone()),
    };
    let mut long = json!({ "type": kind, "source": source, "target": mount.target });
    if mount.read_only {
        long["read_only"] = json!(true);
    }
    long
}

/// Without the number of attempts where that has no bound.
fn job(rules: &Job, policy: RestartPolicy) -> Value {
    // Every field is named, so that one that is added is not forgotten.
    let Job { parallelism, deadline, ttl, schedule: times } = rules;
    let fields = [
        ("attempts", policy.attempts().map(|attempts| json!(attempts))),
        ("parallelism", parallelism.map(|most| json!(most))),
        ("deadline", deadline.map(|time| json!(time))),
        ("ttl", ttl.map(|time| json!(time))),
        ("schedule", times.as_ref().map(schedule)),
    ];
    fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

fn schedule(times: &Schedule) -> Value {
    let Schedule { cron, time_zone, overlap, catch_up, history } = times;
    let usual = Schedule::of("");
    let mut fields = json!({ "cron": cron, "time_zone": time_zone });
    if *overlap != usual.overlap {
        fields["overlap"] = json!(overlap.to_string());
    }
    if *catch_up != usual.catch_up {
        fields["catch_up"] = json!(catch_up);
    }
    if *history != usual.history {
        fields["history"] = json!(history);
    }
    fields
}

fn restart(policy: RestartPolicy) -> Value {
    match policy {
        RestartPolicy::Always => json!("always"),
        RestartPolicy::Never => json!("no"),
        RestartPolicy::OnFailure { max_retries: None } => json!("on-failure"),
        RestartPolicy::OnFailure { max_retries: Some(times) } => {
            json!(format!("on-failure:{times}"))
        }
    }
}

fn each_hook(hooks: &Hooks) -> Value {
    let mut all = Map::new();
    for (name, hook) in [("after_start", &hooks.after_start), ("before_stop", &hooks.before_stop)] {
        let Some(hook) = hook else { continue };
        let mut text = match &hook.action {
            HookAction::Exec { command } => json!({ "exec": command }),
            HookAction::Http { port, path } => json!({ "http": { "port": port, "path": path } }),
        };
        text["timeout"] = json!(hook.timeout);
        all.insert(name.into(), text);
    }
    Value::Object(all)
}

fn health_check(check: &HealthCheck) -> Value {
    let mut text = match &check.probe {
        Probe::Tcp { port } => json!({ "tcp": port }),
        Probe::Http { port, path } => json!({ "http": { "port": port, "path": path } }),
        Probe::Exec { command } => {
            let words = std::iter::once("CMD").chain(command.iter().map(String::as_str));
            json!({ "test": words.collect::<Vec<_>>() })
        }
    };
    text["interval"] = json!(check.interval);
    text["timeout"] = json!(check.timeout);
    text["retries"] = json!(check.retries);
    text["start_period"] = json!(check.start_period);
    if let Some(after) = check.restart {
        text["restart"] = json!(after);
    }
    text
}

fn network(spec: &WorkloadSpec) -> Value {
    let mut network = Map::new();
    if !spec.addresses.is_empty() {
        network.insert("ip".into(), json!(spec.addresses));
    }
    if spec.on_move != OnMove::default() {
        network.insert("on_move".into(), json!(spec.on_move));
    }
    let expose = spec.template.expose.iter();
    let expose: Vec<String> =
        expose.map(|expose| port(&expose.port.to_string(), expose.protocol)).collect();
    if !expose.is_empty() {
        network.insert("expose".into(), json!(expose));
    }
    let lists = [("allow_from", &spec.template.allow_from), ("allow_to", &spec.template.allow_to)];
    for (key, rules) in lists {
        if let Some(rules) = rules {
            network.insert(key.into(), rules.iter().map(rule).collect());
        }
    }
    Value::Object(network)
}

fn port(numbers: &str, protocol: Protocol) -> String {
    match protocol {
        Protocol::Tcp => numbers.to_owned(),
        Protocol::Udp => format!("{numbers}/udp"),
    }
}

fn rule(rule: &AllowRule) -> Value {
    let mut long = match &rule.from {
        AllowSource::Any => json!({ "any": true }),
        AllowSource::SameWorkload => json!({ "same-workload": true }),
        AllowSource::Workload(name) => json!({ "workload": name }),
        AllowSource::Labels(labels) => json!({ "labels": labels }),
        AllowSource::Cidr(range) => json!({ "cidr": range }),
    };
    let ports = rule.ports.iter().map(|ports| {
        let numbers = if ports.first == ports.last {
            ports.first.to_string()
        } else {
            format!("{}-{}", ports.first, ports.last)
        };
        port(&numbers, ports.protocol)
    });
    let ports: Vec<String> = ports.collect();
    if !ports.is_empty() {
        long["ports"] = json!(ports);
    }
    long
}

fn ssh(ssh: &Ssh) -> Value {
    match ssh {
        Ssh::Image => json!("image"),
        Ssh::Off => json!("off"),
        Ssh::Dwell { authorized_keys, key_sets, users, login_as, account_keys } => {
            let mut keys = Map::new();
            if !authorized_keys.is_empty() {
                keys.insert("authorized_keys".into(), json!(authorized_keys));
            }
            if let Some(key_sets) = key_sets {
                keys.insert("key_sets".into(), json!(key_sets));
            }
            if let Some(users) = users {
                keys.insert("users".into(), json!(users));
            }
            if let Some(login_as) = login_as {
                keys.insert("login_as".into(), json!(login_as));
            }
            if let Some(account_keys) = account_keys {
                keys.insert("account_keys".into(), json!(account_keys));
            }
            Value::Object(keys)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Surroundings, Variables, read};

    #[test]
    fn what_is_exported_is_read_back() {
        let key = [("AUTHORIZED_KEY".to_owned(), "ssh-ed25519 AAAA me".to_owned())];
        let variables: Variables = key.into();
        for text in [
            include_str!("testdata/full.yaml"),
            include_str!("testdata/compose.yaml"),
            include_str!("../../../examples/database.yaml"),
            include_str!("../../../examples/shell.yaml"),
            include_str!("../../../examples/job.yaml"),
            include_str!("../../../examples/nightly.yaml"),
            "workloads: {w: {image: a, job: {schedule: {cron: '0 0 * * 1-5', overlap: wait, catch_up: 1h, history: 3}}}}",
            "workloads: {w: {image: a, command: ['$$HOME', '${X:-$$}', '1', 'yes'], environment: {A: ''}, restart: no}}",
            "workloads: {w: {image: a, network: {allow_from: [], allow_to: []}, ssh: {key_sets: [], users: [deploy], login_as: deploy, account_keys: true}, restart: on-failure}}",
            "workloads: {w: {image: a, job: {}}, v: {image: a, job: {attempts: 1, parallelism: 2, deadline: 1h, ttl: 0s}}}",
            "workloads: {w: {image: a, job: {ttl: 1d}, restart: on-failure}, v: {image: a, job: {}, restart: no}}",
            "workloads: {w: {image: a, on_lost: replace after 2m}}",
            "workloads: {w: {image: a, network: {on_move: new-address}}}",
            "workloads: {w: {image: a, update: {max_failures: 10%, on_failure: rollback}}, v: {image: a, update: {on_failure: continue}}}",
            "workloads: {w: {image: a, init: true, read_only: true, tmpfs: [/run, '/tmp:size=64Mi,mode=1777'], ulimits: {nofile: 9, core: {soft: 0, hard: -1}}, cap_drop: [ALL], group_add: [27, audio], extra_hosts: {db: 192.0.2.9}}}",
            "workloads: {w: {image: a, sysctls: {net.core.somaxconn: 1024, kernel.sem: 1 2 3 4}, cap_drop: [ALL], cap_add: [CAP_CHOWN, sys_ptrace], devices: [/dev/fuse, '/dev/a:/dev/b:r'], dns_search: corp.example, dns_opt: ['ndots:2']}}",
            "workloads: {w: {image: a, stopped: true}, v: {image: a, stopped: false}}",
            "workloads: {w: {image: a, ssh: off, network: {allow_from: [any, 10.0.0.0/8, {labels: {a: b}, ports: [80, 1-2/udp]}], allow_to: [db, {cidr: 192.0.2.1, ports: [443]}]}}}",
            "workloads: {w: {image: a, hooks: {after_start: {exec: [warm, '$$UP'], timeout: 2m}, before_stop: {http: ':80/bye'}}}}",
            "workloads: {w: {image: a, healthcheck: {tcp: 80, restart: 2m}, readiness: {http: ':80/ready', interval: 200ms, retries: 1}}}",
            "workloads: {w: {image: a, healthcheck: {test: 'a && b', interval: 1m30s}, resources: {cpu: 1500m, pids: 100}, shm_size: 256m}}",
        ] {
            for declared in
                read("f.yaml", text.as_bytes(), &Surroundings::of(&variables)).unwrap().declared
            {
                let exported = export(&declared.spec).unwrap();
                // Whoever applies it has other variables.
                let again =
                    read("f.yaml", exported.as_bytes(), &Surroundings::of(&Variables::new()));
                let again = again.unwrap_or_else(|error| panic!("{error}\n{exported}")).declared;
                assert_eq!(again.len(), 1);
                assert_eq!(again[0].spec, declared.spec, "{exported}");
            }
        }
    }
}
