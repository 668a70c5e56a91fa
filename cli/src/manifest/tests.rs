use dwell_core::health::Probe;
use dwell_core::hook::HookAction;
use dwell_core::job::Job;
use dwell_core::quantity::Millis;
use dwell_core::workload::{ImagePolicy, MountSource, RestartPolicy, Ssh};
use proptest::prelude::*;

use super::*;

fn variables() -> Variables {
    [("TAG".to_owned(), "1.27".to_owned()), ("HOME".to_owned(), "/root".to_owned())].into()
}

fn good(text: &str) -> Vec<WorkloadSpec> {
    let declared =
        read("f.yaml", text.as_bytes(), &Surroundings::of(&variables())).unwrap().declared;
    declared.into_iter().map(|declared| declared.spec).collect()
}

fn bad(text: &str) -> String {
    read("f.yaml", text.as_bytes(), &Surroundings::of(&variables())).unwrap_err().to_string()
}

/// One workload with these lines in it.
fn workload(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("workloads:\n  web:\n    image: a\n{lines}")
}

#[test]
fn a_plain_compose_file_applies_as_it_is() {
    let specs = good(include_str!("testdata/compose.yaml"));
    insta::assert_json_snapshot!(specs);
}

#[test]
fn every_key_of_ours_is_read() {
    let specs = good(include_str!("testdata/full.yaml"));
    insta::assert_json_snapshot!(specs);
}

#[test]
fn a_job_says_once_how_often_it_is_tried() {
    let read = |lines: &str| {
        let spec = good(&workload(lines)).remove(0);
        (spec.job, spec.template.restart.attempts())
    };
    let plain = Job::default();
    assert_eq!(read(""), (None, None));
    assert_eq!(read("job: {}"), (Some(plain.clone()), Some(Job::ATTEMPTS_DEFAULT)));
    assert_eq!(read("job: {attempts: 1}"), (Some(plain.clone()), Some(1)));
    assert_eq!(read("job: {}\nrestart: no"), (Some(plain.clone()), Some(1)));
    assert_eq!(read("job: {}\nrestart: on-failure:4"), (Some(plain.clone()), Some(5)));
    assert_eq!(read("job: {}\nrestart: on-failure"), (Some(plain.clone()), None));
    assert_eq!(good(&workload("restart: no"))[0].job, None, "that is no job");
    let full = Job {
        parallelism: Some(3),
        deadline: Some(Millis::seconds(7200)),
        ttl: Some(Millis::seconds(86_400)),
        schedule: None,
    };
    assert_eq!(read("job: {parallelism: 3, deadline: 2h, ttl: 1d}").0, Some(full));
    for (lines, says) in [
        ("job: {attempts: 0}", "job.attempts: 0 is never; use at least 1"),
        ("job: {attempts: 2}\nrestart: no", "job.attempts and restart both say"),
        ("job: {}\nrestart: always", "started again whenever it ends never completes"),
        ("job: {}\nrestart: unless-stopped", "never completes"),
        ("job: {parallelism: 0}", "job.parallelism: 0 is not between 1 and 10000"),
        ("job: {schedule: {}}", "key \"cron\" is missing"),
        ("job: {schedule: {cron: '@daily'}}", "job.schedule.cron: \"@daily\" is not an expression"),
        ("job: {schedule: {cron: '0 0 0 * * *'}}", "job.schedule.cron: \"0 0 0 * * *\" is not"),
        ("job: {schedule: {cron: '0 0 * * *', overlap: allow}}", "allow"),
        ("job: {schedule: {cron: '0 0 * * *', catch_up: 0s}}", "job.schedule.catch_up: 0s is not"),
        ("job: {schedule: {cron: '0 0 * * *', history: 0}}", "job.schedule.history: 0 is not"),
        ("job: {ttl: 1d, schedule: {cron: '0 0 * * *'}}", "job.ttl: a job with a schedule is not"),
        ("job: {retries: 2}", "unknown key \"retries\""),
        ("job: {}\nupdate: {canary: 1}", "update.canary: a job tries no version out"),
        ("job: {}\nupdate: {on_failure: rollback}", "update.on_failure: a job does not go back"),
    ] {
        let refused = bad(&workload(lines));
        assert!(refused.contains(says), "{lines}: {refused}");
    }
}

#[test]
fn when_a_registry_is_asked_is_said_in_our_words_or_in_composes() {
    let policy = |lines: &str| good(&workload(lines))[0].template.image_policy;
    assert_eq!(policy(""), ImagePolicy::Missing);
    for (line, meant) in [
        ("image_policy: missing", ImagePolicy::Missing),
        ("image_policy: newest", ImagePolicy::Newest),
        ("pull_policy: always", ImagePolicy::Newest),
        ("pull_policy: if_not_present", ImagePolicy::Missing),
    ] {
        assert_eq!(policy(line), meant, "{line}");
    }
    for (lines, says) in [
        ("image_policy: pinned", "named by its digest"),
        ("image_policy: always", "write missing, newest or pinned"),
        ("pull_policy: never", "write missing, or always"),
        ("pull_policy: build", "build and push"),
        ("image_policy: newest\npull_policy: missing", "pull_policy"),
    ] {
        let refused = bad(&workload(lines));
        assert!(refused.contains(says), "{lines}: {refused}");
    }
}

#[test]
fn examples_are_good() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let key = [("AUTHORIZED_KEY".to_owned(), "ssh-ed25519 AAAA me".to_owned())];
        let specs = read(&path.display().to_string(), &bytes, &Surroundings::of(&key.into()));
        assert!(specs.is_ok(), "{}", specs.unwrap_err());
    }
}

#[test]
fn the_schema_in_the_docs_is_up_to_date() {
    let kept = include_str!("../../../docs/schema.json");
    assert!(kept == schema(), "run: cargo run -p dwell -- schema > docs/schema.json");
}

#[test]
fn a_limit_of_processes_is_written_in_three_ways_and_once() {
    for lines in
        ["resources: {pids: 100}", "pids_limit: 100", "deploy: {resources: {limits: {pids: 100}}}"]
    {
        let template = good(&workload(lines)).remove(0).template;
        assert_eq!((template.pids, template.limits().pids), (Some(100), 100), "{lines}");
    }
    let plain = good(&workload("")).remove(0).template;
    assert_eq!((plain.pids, plain.limits().pids), (None, 4096));
}

#[test]
fn spellings() {
    let one = |lines: &str| good(&workload(lines)).remove(0);
    let template = |lines: &str| one(lines).template;
    assert_eq!(template("command: sh -c 'a b'").command, ["sh", "-c", "a b"]);
    assert_eq!(template("command: [a, 1, true, 1.10]").command, ["a", "1", "true", "1.10"]);
    let environment =
        template("environment: {A: 1.10, B: true, C: '', HOME: , UNSET: }").environment;
    let expected = [("A", "1.10"), ("B", "true"), ("C", ""), ("HOME", "/root")];
    assert!(environment.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(expected));
    assert_eq!(template("environment: [A=1=2, HOME]").environment.len(), 2);
    assert_eq!(template("restart: no").restart, RestartPolicy::Never);
    assert_eq!(template("restart: unless-stopped").restart, RestartPolicy::Always);
    let three = RestartPolicy::OnFailure { max_retries: Some(3) };
    assert_eq!(template("restart: on-failure:3").restart, three);
    assert_eq!(template("ssh: off").ssh, Ssh::Off);
    assert_eq!(template("ssh: image").ssh, Ssh::Image);
    let ssh = |key_sets| Ssh::Dwell {
        authorized_keys: vec![],
        key_sets,
        users: None,
        login_as: None,
        account_keys: None,
    };
    assert_eq!(template("ssh: {authorized_keys: []}").ssh, ssh(None));
    assert_eq!(template("ssh: {key_sets: []}").ssh, ssh(Some(vec![])));
    let team = Some(vec!["team".parse().unwrap()]);
    assert_eq!(template("ssh: {key_sets: [team]}").ssh, ssh(team));
    let probe = |lines: &str| template(lines).healthcheck.unwrap().probe;
    let http = Probe::Http { port: 8080, path: "/healthz?a=1".into() };
    assert_eq!(probe("healthcheck: {http: ':8080/healthz?a=1'}"), http);
    assert_eq!(probe("healthcheck: {http: {port: 8080, path: '/healthz?a=1'}}"), http);
    assert_eq!(probe("healthcheck: {http: ':80'}"), Probe::Http { port: 80, path: "/".into() });
    assert_eq!(probe("healthcheck: {tcp: 5432}"), Probe::Tcp { port: 5432 });
    let shell = Probe::Exec { command: vec!["/bin/sh".into(), "-c".into(), "true".into()] };
    assert_eq!(probe("healthcheck: {test: [CMD-SHELL, 'true']}"), shell);
    assert_eq!(probe("healthcheck: {test: 'true'}"), shell);
    let hooks = template(
        "hooks: {after_start: {exec: warm up}, before_stop: {http: ':80/bye', timeout: 5s}}",
    )
    .hooks;
    let after_start = hooks.after_start.unwrap();
    let command = vec!["warm".to_owned(), "up".to_owned()];
    assert_eq!(after_start.action, HookAction::Exec { command });
    assert_eq!(after_start.timeout, Millis::seconds(30));
    assert_eq!(hooks.before_stop.unwrap().timeout, Millis::seconds(5));
    let ready = template("readiness: {http: ':80/ready', interval: 1s}").readiness.unwrap();
    assert_eq!(ready.probe, Probe::Http { port: 80, path: "/ready".into() });
    assert_eq!((ready.interval, ready.retries, ready.restart), (Millis::seconds(1), 3, None));
    let check = template("healthcheck: {tcp: 80, restart: 2m}").healthcheck.unwrap();
    assert_eq!(check.restart, Some(Millis::seconds(120)));
    assert_eq!(template("healthcheck: {tcp: 80}").healthcheck.unwrap().restart, None);
    assert_eq!(template("healthcheck: {test: [NONE]}").healthcheck, None);
    assert_eq!(template("healthcheck: {disable: true}").healthcheck, None);
    let mount = template("volumes: ['/srv:/data:ro']").mounts.remove(0);
    assert_eq!((mount.source, mount.read_only), (MountSource::Bind("/srv".into()), true));
    let expose = |lines: &str| -> Vec<u16> {
        template(lines).expose.into_iter().map(|expose| expose.port).collect()
    };
    assert_eq!(expose("expose: ['8000-8002', 53/udp]"), [8000, 8001, 8002, 53]);
    assert_eq!(one("scale: 4").replicas, 4);
    assert_eq!(one("deploy: {replicas: 4}").replicas, 4);
    assert_eq!(one("network: {ip: 10.80.0.9}").addresses.len(), 1);
    assert_eq!(
        one("constraints: ['node.labels.disk == ssd']").placement.constraints[0].key,
        "disk"
    );
}

#[test]
fn access_is_given_in_both_spellings() {
    let allow_from = |value: &str| {
        let mut spec = good(&workload(&format!("network: {{allow_from: {value}}}"))).remove(0);
        spec.template.allow_from.take()
    };
    assert_eq!(allow_from(""), None);
    assert_eq!(allow_from("[]"), Some(vec![]), "nobody");
    for (short, long) in [
        ("any", "{any: true}"),
        ("same-workload", "{same-workload: true}"),
        ("db", "{workload: db}"),
        ("10.0.0.0/8", "{cidr: 10.0.0.0/8}"),
        ("10.1.2.3", "{cidr: 10.1.2.3/32, ports: []}"),
    ] {
        let rules = allow_from(&format!("[{short}]"));
        assert_eq!(rules, allow_from(&format!("[{long}]")), "{short}");
        assert_eq!(rules.map(|rules| rules.len()), Some(1), "{short}");
    }
    let rules = allow_from(
        "[same-workload, {labels: {tier: front, canary: }, ports: [80, 53/udp, 8000-8010, 9000-9010/udp]}]",
    );
    insta::assert_json_snapshot!(rules);
}

#[test]
fn variables_are_filled_in() {
    let specs =
        good("workloads:\n  web:\n    image: nginx:$TAG\n    command: [\"$$A\", \"${NO:-x}\"]\n");
    assert_eq!(specs[0].template.image, "nginx:1.27");
    assert_eq!(specs[0].template.command, ["$A", "x"]);
}

#[test]
fn what_is_wrong_is_said_where_it_is() {
    let cases = [
        (
            "workloads:\n  web:\n    imgae: a\n",
            "f.yaml:3:5: unknown key \"imgae\"; did you mean \"image\"?",
        ),
        ("workloads:\n  web:\n    imagee: a\n    image: b\n", "f.yaml:3:5: unknown key \"imagee\""),
        ("wrokloads: {}\n", "f.yaml:1:1: unknown key \"wrokloads\"; did you mean \"workloads\"?"),
        ("workloads:\n  web: {}\n", "f.yaml:2:8: key \"image\" is missing"),
        (
            "workloads:\n  web:\n    image: a\n    image: b\n",
            "f.yaml:4:5: key \"image\" is given twice",
        ),
        (
            "workloads:\n  a:\n    image: a\n  a:\n    image: b\n",
            "f.yaml:4:3: key \"a\" is given twice",
        ),
        ("", "f.yaml: declares nothing"),
        ("workloads: {}\n", "f.yaml: declares nothing"),
        ("workloads: [a]\n", "f.yaml:1:12: "),
        ("a: [", "f.yaml:1:"),
        ("workloads:\n\tweb: 1\n", "f.yaml:2:"),
        ("workloads:\n  a: {image: a}\nservices:\n  b: {image: b}\n", "f.yaml: has both"),
        ("workloads:\n  a: {image: a}\n---\nworkloads: {}\n", "second document"),
        ("workloads:\n  ../etc:\n    image: a\n", "f.yaml:2:3: workload name \"../etc\" has '.'"),
        (
            "workloads:\n  a-b: {image: a}\n  a_b: {image: b}\n",
            "f.yaml:3:3: workload \"a_b\" would be called a-b",
        ),
        ("workloads:\n  web:\n    image: --privileged\n", "f.yaml:2:3: workload \"web\": image:"),
        ("workloads:\n  web:\n    image: $NOPE\n", "f.yaml:3:12: variable \"NOPE\" is not set"),
        ("workloads: &a {web: *a}\n", "f.yaml:1:"),
        (
            "workloads:\n  web:\n    image: a:${TAG:-1}\n    command: [$$x]\n    repicas: 3\n    secrets: [a]\n",
            "f.yaml:5:5: unknown key \"repicas\"; did you mean \"replicas\"?\nf.yaml:6:5: \"secrets\" is not supported: ",
        ),
    ];
    for (text, says) in cases {
        let error = bad(text);
        assert!(error.contains(says), "{text}\nexpected {says}\ngot      {error}");
    }
    let cases = [
        ("ports: ['80:80']", "f.yaml:4:5: \"ports\" is not supported: every instance is reached"),
        ("build: .", "\"build\" is not supported: "),
        ("networks: [a]", "\"networks\" is not supported: "),
        ("privileged: true", "\"privileged\" is not supported: "),
        (
            "replicas: -1",
            "f.yaml:4:15: \"-1\" does not fit here; write a whole number from 0 to 4294967295",
        ),
        ("replicas: many", "f.yaml:4:15: \"many\" does not fit here; write a whole number from 0"),
        (
            "healthcheck: {tcp: 70000}",
            "\"70000\" does not fit here; write a whole number from 0 to 65535",
        ),
        ("healthcheck: {disable: maybe}", "\"maybe\" does not fit here; write true or false"),
        ("volumes: a:/a", "f.yaml:4:14: this is a single value; write a list, [A, B]"),
        ("image2: [a]\ngpus: all", "f.yaml:5:5: \"gpus\" is not supported"),
        (
            "sysctls: [kernel.pid_max=1]",
            "\"kernel.pid_max\" is not a setting that an instance has for itself",
        ),
        ("sysctls: {vm.overcommit_memory: 1}", "all others are its node's"),
        ("cap_add: [ALL]", "cap_add: ALL is refused"),
        ("devices: [/etc/x]", "devices: \"/etc/x\" is not beneath /dev"),
        ("dns: 8.8.8.8", "\"dns\" is not supported: instances ask their node"),
        ("replicas: 1000000000", "f.yaml:2:3: workload \"web\": replicas: "),
        ("replicas: .nan", "f.yaml:4:15: "),
        ("replicas: 99999999999999999999", "f.yaml:4:15: "),
        ("replicas: 2\nscale: 2", "replicas and scale mean the same"),
        ("resources: {cpu: -1}", "is not an amount of processor"),
        ("resources: {cpu: .inf}", "f.yaml:4:"),
        ("resources: {memory: 0.3Ki}", "f.yaml:4:25: \"0.3Ki\" is not an amount of memory"),
        ("resources: {memory: 1}", "resources.memory: "),
        ("resources: {pids: 1}", "resources.pids: 1 is not between 16 and 4194304"),
        ("resources: {mem: 1}", "unknown key \"mem\""),
        ("command: \"a 'b\"", "f.yaml:4:14: the command line ends within quotes"),
        ("command: {a: b}", "write a command line or a list of words"),
        ("command: 5", "write a command line or a list of words"),
        ("environment: a", "write a mapping KEY: VALUE"),
        ("environment: {A: [1]}", "f.yaml:4:22: this is a list; write a single value"),
        ("environment: [A=1, A=2]", "\"A\" is given twice"),
        ("environment: {'A=B': 1}", "environment: "),
        ("volumes: ['./a:/a']", "f.yaml:4:15: \"./a\" is relative"),
        ("volumes: [/data]", "is not SOURCE:TARGET"),
        (
            "volumes: ['a:/a:x']",
            "f.yaml:4:15: \"x\" is not an option of a mount; write SOURCE:TARGET",
        ),
        ("volumes: ['a:/a:ro:z']", "is not SOURCE:TARGET"),
        ("volumes: [{type: bind, source: a, target: /a}]", "does not fit its type"),
        ("volumes: [{type: tmpfs, target: /a}]", "f.yaml:4:"),
        ("volumes: ['a_b_:/a']", "volume name"),
        ("volumes: ['a:/proc']", "cannot be mounted over"),
        ("network: {ip: 10.80.0.0/24}", "is not an IPv4 address"),
        ("network: {ip: [10.80.0.9, 10.80.0.9]}", "network.ip: "),
        ("expose: [0]", "network.expose: "),
        ("expose: ['9-8']", "\"9-8\" is not a port"),
        ("expose: ['1-65535']", "\"1-65535\" is not a port"),
        ("expose: [70000]", "\"70000\" is not a port"),
        ("expose: [80/sctp]", "\"80/sctp\" is not a port"),
        ("healthcheck: {}", "exactly one of"),
        ("healthcheck: {tcp: 1, http: ':1'}", "exactly one of"),
        ("healthcheck: {test: [CMD]}", "write [CMD, PROGRAM"),
        ("healthcheck: {http: 'x'}", "names no port"),
        ("healthcheck: {http: [80]}", "or port and path"),
        ("healthcheck: {http: {prot: 80}}", "unknown key \"prot\"; did you mean \"port\"?"),
        ("healthcheck: {tcp: 1, interval: 5}", "is not a duration"),
        ("healthcheck: {tcp: 1, restart: 10ms}", "healthcheck.restart: has to be at least 1s"),
        ("hooks: {after_start: {}}", "hooks.after_start: give exactly one of"),
        ("hooks: {before_stop: {exec: a, http: ':1'}}", "hooks.before_stop: give exactly one of"),
        ("hooks: {before_stop: {tcp: 1}}", "unknown key \"tcp\""),
        ("hooks: {post_start: {exec: a}}", "\"post_start\" is not supported"),
        ("hooks: {before_stop: {exec: []}}", "hooks.before_stop: the command is empty"),
        (
            "hooks: {before_stop: {exec: a, timeout: 2h}}",
            "hooks.before_stop.timeout: 2h is not between 100ms and 1h",
        ),
        ("hooks: {after_start: {http: ':0'}}", "hooks.after_start: port 0 is not a port"),
        ("readiness: {}", "readiness: give exactly one of"),
        ("readiness: {tcp: 1, restart: 1m}", "unknown key \"restart\""),
        ("readiness: {test: [NONE]}", "readiness.test: [NONE] asks for nothing"),
        ("readiness: {tcp: 0}", "readiness: port 0 is not a port"),
        ("readiness: {tcp: 1, retries: 0}", "readiness.retries: has to be at least 1"),
        ("update: {on_failure: stop}", "expected one of pause, rollback, continue"),
        (
            "update: {on_failure: continue, max_failures: 2}",
            "update.max_failures: with \"on_failure: continue\" the rollout goes on however many fail",
        ),
        (
            "job: {}\nupdate: {max_failures: 1}",
            "update.max_failures: an instance of a job that fails is tried again",
        ),
        ("restart: sometimes", "\"sometimes\" is not a restart policy"),
        ("constraints: [ssd]", "\"ssd\" is not a constraint"),
        ("constraints: ['node.role == worker']", "is nothing nodes are known by"),
        ("ssh: {keys: []}", "unknown key \"keys\""),
        ("ssh: dropbear", "\"dropbear\" is not known"),
        ("ssh: {key_sets: [a_b]}", "f.yaml:4:"),
        ("network: {allow_from: any}", "f.yaml:4:"),
        (
            "network: {allow_from: [a_b]}",
            "f.yaml:4:28: \"a_b\" is nobody; write any, same-workload",
        ),
        (
            "network: {allow_from: [10.0.0.0/33]}",
            "\"10.0.0.0/33\" is not a range of IPv4 addresses",
        ),
        ("network: {allow_from: ['fe80::/10']}", "is not a range of IPv4 addresses"),
        ("network: {allow_from: [10.0.0.1/8]}", "network.allow_from: 10.0.0.1/8 has bits set"),
        ("network: {allow_from: [{any: false}]}", "f.yaml:4:28: a rule only allows"),
        ("network: {allow_from: [{ports: [80]}]}", "f.yaml:4:28: give exactly one of"),
        ("network: {allow_from: [{any: true, workload: a}]}", "give exactly one of"),
        ("network: {allow_from: [{labels: {}}]}", "a selector without labels"),
        (
            "network: {allow_from: [{any: true, port: 80}]}",
            "unknown key \"port\"; did you mean \"ports\"?",
        ),
        ("network: {allow_from: [{any: true, ports: [0]}]}", "\"0\" names no ports"),
        ("network: {allow_from: [{any: true, ports: [9-8]}]}", "\"9-8\" names no ports"),
        ("network: {allow_from: [{any: true, ports: [80/sctp]}]}", "\"80/sctp\" names no ports"),
        ("network: {allow_from: [{any: true, ports: [http]}]}", "\"http\" names no ports"),
        ("labels: {dwell.x: 1}", "is reserved"),
        ("stop_grace_period: 5", "is not a duration"),
        (
            "deploy: {mode: global, replicas: 2}",
            "replicas: how many there are follows from the nodes",
        ),
        ("image: [1]", "f.yaml:4:5: key \"image\" is given twice"),
    ];
    for (lines, says) in cases {
        let error = bad(&workload(lines));
        assert!(error.contains(says), "{lines}\nexpected {says}\ngot      {error}");
    }
}

#[test]
fn what_other_tools_and_anchors_need_is_left_alone() {
    let text = "x-common: &common {user: www}\nx-other: [1]\nworkloads:\n  web:\n    image: a\n    <<: *common\n    x-tool: {a: b}\n    update: {x-mine: 1}\n";
    assert_eq!(good(text)[0].template.user, "www");
}

#[test]
fn one_on_every_node_is_said_in_our_words_or_in_composes() {
    let one = |lines: &str| good(&workload(lines)).remove(0);
    let ours = one("one_per_node: true");
    assert!(ours.placement.one_per_node);
    assert_eq!(one("deploy: {mode: global}"), ours);
    assert!(!one("deploy: {mode: replicated, replicas: 2}").placement.one_per_node);
}

#[test]
fn whether_a_file_says_how_many_is_told() {
    let says = |lines: &str| {
        read("f.yaml", workload(lines).as_bytes(), &Surroundings::of(&variables()))
            .unwrap()
            .declared[0]
            .says_replicas
    };
    assert!(!says("user: www"));
    for lines in ["replicas: 1", "scale: 1", "deploy: {replicas: 1}"] {
        assert!(says(lines), "{lines}");
    }
}

/// A file in the shape of those that projects publish: nothing of it changes what runs, so it applies as it is.
#[test]
fn what_makes_no_difference_is_ignored_with_a_warning() {
    let manifest =
        read("f.yaml", include_bytes!("testdata/harmless.yaml"), &Surroundings::of(&variables()))
            .unwrap();
    assert_eq!(manifest.declared.len(), 3);
    insta::assert_snapshot!(manifest.warnings.join("\n"));
    let warnings = |lines: &str| {
        read("f.yaml", workload(lines).as_bytes(), &Surroundings::of(&variables()))
            .unwrap()
            .warnings
    };
    for asks_for_nothing in
        ["privileged: false", "ports: []", "tty: false", "networks: {}", "secrets: ", "x-a: 1"]
    {
        assert_eq!(warnings(asks_for_nothing), Vec::<String>::new(), "{asks_for_nothing}");
    }
    assert_eq!(warnings("networks: {default: {aliases: [a]}}").len(), 1);
}

/// A file in the same shape with all that dwell cannot honour: one look says everything.
#[test]
fn what_has_to_be_changed_in_a_compose_file_is_said_at_once() {
    insta::assert_snapshot!(bad(include_str!("testdata/refused.yaml")));
}

/// Every key of a service in Compose's specification is read or refused with a reason; only others are
/// taken for typing errors.
#[test]
fn no_key_of_compose_is_taken_for_a_typing_error() {
    let keys = "annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs \
        container_name cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset \
        credential_spec depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname \
        driver_opts entrypoint env_file environment expose extends external_links extra_hosts gpus group_add \
        healthcheck hostname image init ipc isolation label_file labels links logging mac_address mem_limit \
        mem_reservation mem_swappiness memswap_limit models network_mode networks oom_kill_disable oom_score_adj pid \
        platform ports post_start pre_stop privileged profiles provider pull_refresh_after \
        read_only restart runtime scale secrets security_opt shm_size stdin_open stop_grace_period stop_signal \
        storage_opt sysctls tmpfs tty ulimits use_api_socket user userns_mode uts volumes volumes_from working_dir";
    for key in keys.split_whitespace() {
        if key == "image" {
            continue;
        }
        if let Err(error) = read(
            "f.yaml",
            workload(&format!("{key}: ")).as_bytes(),
            &Surroundings::of(&variables()),
        ) {
            let error = error.to_string();
            assert!(!error.contains("unknown key"), "{error}");
        }
    }
}

/// Reads a file with others beside it, and the profiles `a` and `b`.
fn with_files(text: &str) -> Result<Manifest, ManifestError> {
    let files = files::Given::from([
        ("one.env", "A=1\nB=file\nC=${TAG}\n"),
        ("two.env", "A='2'\n"),
        ("odd.env", "A=1\nB='hush\n"),
        (
            "lib/common.yaml",
            "services:\n  base:\n    image: base\n    env_file: ../two.env\n    environment: {D: $TAG}\n  bad: {image: a, nonsense: 1}\n",
        ),
    ]);
    let profiles = ["a".to_owned(), "b".to_owned()];
    let surroundings = Surroundings { variables: &variables(), files: &files, profiles: &profiles };
    read("f.yaml", text.as_bytes(), &surroundings)
}

#[test]
fn variables_of_files_count_less_than_those_of_the_declaration() {
    let variables = |lines: &str| {
        let read = with_files(&workload(lines)).map_err(|error| error.to_string());
        let environment =
            read.map(|manifest| manifest.declared[0].spec.template.environment.clone());
        environment
            .map(|all| all.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "))
    };
    for (lines, are) in [
        ("env_file: one.env", "A=1 B=file C=1.27"),
        ("env_file: ./one.env", "A=1 B=file C=1.27"),
        ("env_file: [one.env, two.env]\nenvironment: {B: mine}", "A=2 B=mine C=1.27"),
        ("env_file: [two.env, {path: none.env, required: false}]", "A=2"),
        ("env_file: [{path: two.env, format: raw}]", "A='2'"),
        ("env_file: two.env\nenvironment: [HOME, UNSET, A]", "A=2 HOME=/root"),
    ] {
        assert_eq!(variables(lines).as_deref(), Ok(are), "{lines}");
    }
    for (lines, says) in [
        ("env_file: none.env", "f.yaml:2:3: workload \"web\": env_file: cannot read none.env: "),
        ("env_file: odd.env", "env_file: odd.env: line 2: the quote is never closed"),
        ("env_file: {path: one.env}", "f.yaml:4:"),
        ("env_file: [{path: one.env, format: json}]", "f.yaml:4:"),
        ("env_file: ['']", "this is no path"),
    ] {
        let refused = variables(lines).unwrap_err();
        assert!(refused.contains(says) && !refused.contains("hush"), "{lines}: {refused}");
    }
}

#[test]
fn workloads_with_profiles_are_left_out_until_they_are_asked_for() {
    let text = "services:\n  web: {image: a}\n  debug: {image: a, profiles: [b, c]}\n  other: {image: a, profiles: [d]}\n";
    let names = |manifest: Manifest| -> Vec<String> {
        manifest.declared.into_iter().map(|declared| declared.spec.name.to_string()).collect()
    };
    assert_eq!(names(with_files(text).unwrap()), ["web", "debug"]);
    let plain = Surroundings::of(&variables()).variables.clone();
    let read_with = |profiles: &[String]| {
        let surroundings = Surroundings { profiles, ..Surroundings::of(&plain) };
        read("f.yaml", text.as_bytes(), &surroundings)
    };
    let left_out = read_with(&[]).unwrap();
    assert_eq!(
        left_out.warnings,
        [
            "f.yaml:3:3: workload \"debug\" is left out, since it has profiles; \"--profile b or c\" takes it in",
            "f.yaml:4:3: workload \"other\" is left out, since it has profiles; \"--profile d\" takes it in",
        ]
    );
    assert_eq!(names(left_out), ["web"]);
    assert_eq!(names(read_with(&["*".to_owned()]).unwrap()), ["web", "debug", "other"]);
    let none = bad("services:\n  a: {image: a, profiles: [x]}\n");
    assert!(none.contains("declares nothing, since every workload has profiles"), "{none}");
}

#[test]
fn names_become_names_in_dns() {
    let manifest = with_files("services: {my_db: {image: a}}").unwrap();
    assert_eq!(manifest.declared[0].spec.name.as_str(), "my-db");
    assert_eq!(
        manifest.warnings,
        [
            "f.yaml:1:12: workload \"my_db\" is called my-db, since names are names in DNS; whoever reaches it by its name has to say my-db"
        ]
    );
    assert!(bad("services: {_db: {image: a}}").contains("workload name \"-db\""));
}

#[test]
fn what_is_extended_is_read_and_refused_where_it_is() {
    let text = "services:\n  web:\n    extends: {file: lib/common.yaml, service: base}\n    environment: [E=$$x]\n";
    let spec = with_files(text).unwrap().declared.remove(0).spec;
    let expected = [("A", "2"), ("D", "1.27"), ("E", "$x")];
    assert_eq!(spec.template.image, "base");
    let environment = &spec.template.environment;
    assert!(environment.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(expected));
    for (lines, says) in [
        (
            "extends: {file: lib/common.yaml, service: bad}",
            "f.yaml:3:14: lib/common.yaml:6:19: unknown key \"nonsense\"",
        ),
        (
            "extends: {file: lib/common.yaml, service: base}\n    replicas: many",
            "f.yaml:4:15: \"many\" does not fit here",
        ),
        (
            "extends: {file: lib/common.yaml, service: base}\n    image: $NOPE",
            "f.yaml:4:12: variable \"NOPE\" is not set",
        ),
    ] {
        let refused = with_files(&format!("services:\n  web:\n    {lines}\n")).unwrap_err();
        assert!(refused.to_string().contains(says), "{lines}: {refused}");
    }
}

#[test]
fn several_problems_are_said_at_once() {
    let error = bad(
        "workloads:\n  web:\n    image: a:$NOPE\n    replicas: many\n    ports: [80]\n    healthcheck: {retry: 1}\n",
    );
    insta::assert_snapshot!(error);
    let error = bad("workloads:\n  a.b: {image: a}\n  web: {image: '', replicas: 1, scale: 2}\n");
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn hostile_files_end_soon_and_are_not_echoed() {
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
        ('b'..='z').map(|c| {
            let before = char::from(c as u8 - 1);
            format!("{c}: &{c} [*{before},*{before},*{before},*{before},*{before},*{before},*{before}]\n")
        }).collect::<String>()
    );
    let deep = format!("workloads: {}", "[".repeat(100_000));
    let wide = format!("workloads:\n  web:\n    image: {}\n", "x".repeat(500_000));
    let key = format!("{}: 1\n", "k".repeat(500_000));
    let ansi = "workloads:\n  web:\n    \"\\e[2J\\u202e\": 1\n".to_owned();
    for text in [bomb, deep, wide, key, ansi] {
        let error = bad(&text);
        assert!(error.len() < 1000 && !error.contains(['\u{1b}', '\u{202e}']), "{error:?}");
    }
    let large =
        read("f.yaml", &vec![b' '; SIZE_MAX + 1], &Surroundings::of(&variables())).unwrap_err();
    assert!(large.to_string().contains("is larger than"));
    let binary = read("f.yaml", b"a: \xff\n", &Surroundings::of(&variables())).unwrap_err();
    assert!(binary.to_string().contains("is not UTF-8"));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(read("f.yaml", &bytes, &Surroundings::of(&variables())));
    }

    /// Pieces of the format in any order come much deeper than random bytes.
    #[test]
    fn no_text_makes_it_panic(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("workloads:"), Just("web:"), Just("image: a"), Just("command:"), Just("healthcheck:"),
                Just("test:"), Just("http:"), Just("volumes:"), Just("environment:"), Just("network:"), Just("ip:"),
                Just("&a"), Just("*a"), Just("<<: *a"), Just("["), Just("]"), Just("{"), Just("}"), Just(","), Just("- "),
                Just("\n"), Just("\n  "), Just("\n    "), Just("\n      "), Just("$"), Just("${"), Just("'"), Just("\""),
                Just("10.80.0.1"), Just("-1"), Just("1e999"), Just("|"), Just(">"), Just("!!binary"), Just("~"), Just("é"),
            ],
            0..60,
        )
    ) {
        drop(read("f.yaml", pieces.concat().as_bytes(), &Surroundings::of(&variables())));
    }
}
