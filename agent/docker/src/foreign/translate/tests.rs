//! Many small containers, as `docker inspect` shows them.

use dwell_core::foreign::ForeignRestart;
use dwell_core::health::Probe;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::workload::{
    Init, Most, MountSource, Process, Protocol, RestartPolicy, Tmpfs, Ulimit,
};
use serde_json::{Value, json};

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// Lays one object over another.
fn lay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn facts(over: Value) -> Facts {
    let mut seen = json!({
        "Id": ID, "Name": "/shop", "Image": DIGEST, "SizeRw": 4096,
        "State": {"Status": "running", "Running": true},
        "Config": {"Hostname": "0123456789ab", "Image": "shop:1", "Env": ["PATH=/bin"], "Cmd": ["serve"],
                   "Entrypoint": ["/run.sh"], "User": "www", "WorkingDir": "/srv", "Labels": {"vendor": "x"}},
        "HostConfig": {"NetworkMode": "bridge", "RestartPolicy": {"Name": "always"}, "PidsLimit": 100, "ShmSize": 67_108_864,
                       "IpcMode": "private", "CgroupnsMode": "private", "Runtime": "runc", "MemorySwappiness": null,
                       "MaskedPaths": ["/proc/kcore"]},
        "NetworkSettings": {},
        "Mounts": []
    });
    lay(&mut seen, over);
    let image = json!({
        "Id": DIGEST, "RepoTags": ["shop:1"], "RepoDigests": [],
        "Config": {"Env": ["PATH=/bin"], "Cmd": ["serve"], "Entrypoint": ["/run.sh"], "User": "www", "WorkingDir": "/srv",
                   "Labels": {"vendor": "x"}}
    });
    Facts {
        seen: serde_json::from_value(seen).unwrap(),
        image: serde_json::from_value(image).unwrap(),
        changed: Vec::new(),
        volumes: Vec::new(),
        sharers: BTreeMap::new(),
        refused: BTreeMap::new(),
    }
}

fn of(over: Value) -> Foreign {
    translate(&facts(over))
}

fn volume(name: &str) -> Volume {
    let of_docker = json!({"Name": name, "Driver": "local", "Mountpoint": "/v", "Labels": {}, "Options": {}, "Scope": "local"});
    serde_json::from_value(of_docker).unwrap()
}

#[test]
fn what_is_the_images_own_is_not_said_again() {
    let foreign = of(json!({}));
    let mut plain = Template::of_image("shop:1");
    plain.pids = Some(100);
    assert_eq!(foreign.template, plain);
    assert_eq!((foreign.id.as_str(), foreign.name.as_str()), (ID, "shop"));
    assert_eq!((foreign.changes, foreign.obstacles), (Vec::new(), Vec::new()));
    assert_eq!((foreign.own_files, foreign.restart), (None, ForeignRestart::Always));
}

#[test]
fn words_are_kept_where_they_are_not_the_images() {
    let words = |config: Value| {
        let template = of(json!({"Config": config})).template;
        (template.entrypoint.join(" "), template.command.join(" "))
    };
    let is = |entrypoint: &str, command: &str| (entrypoint.to_owned(), command.to_owned());
    assert_eq!(words(json!({"Cmd": ["sell", "a b"]})), is("", "sell a b"));
    assert_eq!(words(json!({"Entrypoint": ["/bin/sh"], "Cmd": null})), is("/bin/sh", ""));
    assert_eq!(
        words(json!({"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["ls"]})),
        is("/bin/sh -c", "ls")
    );
    assert_eq!(words(json!({"Entrypoint": null, "Cmd": ["ls", "/"]})), is("ls", "/"), "taken away");
    assert_eq!(words(json!({"Cmd": null})), is("/run.sh", ""), "without the image's command");
}

#[test]
fn the_process_is_kept() {
    let template = of(json!({
        "Config": {"Env": ["PATH=/bin", "KEY=a=b", "EMPTY="], "User": "7:8", "WorkingDir": "/w", "StopSignal": "SIGINT",
                   "StopTimeout": 90, "Tty": true, "OpenStdin": true, "Labels": {"vendor": "x", "team": "y"}}
    }))
    .template;
    let environment: Vec<_> = template.environment.into_iter().collect();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(environment, [pair("EMPTY", ""), pair("KEY", "a=b")]);
    assert_eq!((template.user.as_str(), template.working_dir.as_str()), ("7:8", "/w"));
    assert_eq!(
        (template.stop_signal.as_str(), template.stop_grace),
        ("SIGINT", Millis::seconds(90))
    );
    assert!(template.tty && template.stdin);
    assert_eq!(template.labels.into_iter().collect::<Vec<_>>(), [pair("team", "y")]);
    let endless = of(json!({"Config": {"StopTimeout": -1}}));
    assert_eq!(endless.obstacles.len(), 1, "{endless:?}");
}

#[test]
fn restart_policies_have_their_like() {
    let policy = |policy: Value| {
        let foreign = of(json!({"HostConfig": {"RestartPolicy": policy}}));
        (foreign.template.restart, foreign.restart)
    };
    let table = [
        (json!({"Name": "no"}), RestartPolicy::Never, ForeignRestart::No),
        (json!({"Name": ""}), RestartPolicy::Never, ForeignRestart::No),
        (json!({"Name": "unless-stopped"}), RestartPolicy::Always, ForeignRestart::UnlessStopped),
        (
            json!({"Name": "on-failure", "MaximumRetryCount": 3}),
            RestartPolicy::OnFailure { max_retries: Some(3) },
            ForeignRestart::OnFailure(Some(3)),
        ),
        (
            json!({"Name": "on-failure", "MaximumRetryCount": 0}),
            RestartPolicy::OnFailure { max_retries: None },
            ForeignRestart::OnFailure(None),
        ),
    ];
    for (docker, own, kept) in table {
        assert_eq!(policy(docker.clone()), (own, kept), "{docker}");
    }
}

#[test]
fn health_checks_become_commands() {
    let check = |check: Value| of(json!({"Config": {"Healthcheck": check}})).template.healthcheck;
    let found = check(
        json!({"Test": ["CMD-SHELL", "curl -f x"], "Interval": 5_000_000_000_i64, "Retries": 4,
                             "StartPeriod": 1_000_000_000}),
    )
    .unwrap();
    let Probe::Exec { command } = &found.probe else { panic!("{found:?}") };
    assert_eq!(command, &["/bin/sh", "-c", "curl -f x"]);
    assert_eq!((found.interval, found.timeout), (Millis::seconds(5), Millis::seconds(30)));
    assert_eq!((found.retries, found.start_period), (4, Millis::seconds(1)));
    let found = check(json!({"Test": ["CMD", "true"]})).unwrap();
    assert_eq!(found.probe, Probe::Exec { command: vec!["true".to_owned()] });
    for none in [json!({"Test": ["NONE"]}), json!({"Test": []}), json!({})] {
        assert_eq!(check(none.clone()), None, "{none}");
    }
}

#[test]
fn limits_are_kept_and_what_is_none_of_dwells_is_told() {
    let foreign = of(
        json!({"HostConfig": {"NanoCpus": 1_500_000_000_i64, "Memory": 268_435_456, "MemorySwap": 268_435_456,
                                           "ShmSize": 134_217_728}}),
    );
    let template = foreign.template;
    assert_eq!(
        (template.resources.cpu, template.resources.memory),
        (Millicores(1500), Bytes::mebi(256))
    );
    assert_eq!(template.shm_size, Some(Bytes::mebi(128)));
    assert_eq!(foreign.changes, Vec::<String>::new());
    let quota = of(json!({"HostConfig": {"CpuQuota": 50_000, "CpuPeriod": 100_000}}));
    assert_eq!(quota.template.resources.cpu, Millicores(500));
    let quota = of(json!({"HostConfig": {"CpuQuota": 5_000, "CpuPeriod": 10_000}}));
    assert_eq!(quota.template.resources.cpu, Millicores(500));
    let told = of(json!({"HostConfig": {"CpuShares": 512, "CpusetCpus": "0", "PidsLimit": 0,
                                        "Memory": 8_388_608, "MemorySwap": -1, "LogConfig": {"Type": "journald", "Config": {}}}}));
    assert_eq!(told.template.pids, None);
    for word in ["--cpu-shares", "--cpuset-cpus", "4096 processes", "no swap", "journald"] {
        assert!(
            told.changes.iter().any(|change| change.contains(word)),
            "{word}: {:?}",
            told.changes
        );
    }
    assert_eq!(told.obstacles, Vec::<String>::new());
}

#[test]
fn what_no_instance_can_be_forbids() {
    let table = [
        (json!({"Privileged": true, "MaskedPaths": []}), "--privileged"),
        (json!({"CapAdd": ["NET_ADMIN"]}), "--cap-add NET_ADMIN"),
        (json!({"SecurityOpt": ["no-new-privileges"]}), "--security-opt no-new-privileges"),
        (json!({"MaskedPaths": []}), "systempaths=unconfined"),
        (json!({"Devices": [{"PathOnHost": "/dev/fuse"}]}), "--device /dev/fuse"),
        (json!({"DeviceRequests": [{"Count": -1}]}), "--gpus"),
        (json!({"Sysctls": {"net.core.somaxconn": "1"}}), "--sysctl net.core.somaxconn"),
        (json!({"Runtime": "runsc"}), "--runtime runsc"),
        (json!({"AutoRemove": true}), "--rm"),
        (json!({"PidMode": "host"}), "--pid host"),
        (json!({"IpcMode": "container:x"}), "--ipc container:x"),
        (json!({"UTSMode": "host"}), "--uts host"),
        (json!({"UsernsMode": "host"}), "--userns host"),
        (json!({"NetworkMode": "host"}), "--network host"),
        (json!({"NetworkMode": "none"}), "--network none"),
        (json!({"NetworkMode": "container:x"}), "--network container:x"),
    ];
    for (host, word) in table {
        let foreign = of(json!({"HostConfig": host}));
        assert_eq!(foreign.obstacles.len(), 1, "{word}: {foreign:?}");
        assert!(foreign.obstacles[0].contains(word), "{word}: {:?}", foreign.obstacles);
    }
    let swarm = of(json!({"Config": {"Labels": {"com.docker.swarm.service.id": "x"}}}));
    assert!(swarm.obstacles[0].contains("swarm"), "{swarm:?}");
}

/// What tightens the hold on it is kept, as is what its program may rely on.
#[test]
fn how_its_processes_are_held_is_kept() {
    let foreign = of(json!({"HostConfig": {
        "Init": true, "ReadonlyRootfs": true, "GroupAdd": ["5", "audio"],
        "CapDrop": ["CAP_NET_RAW", "chown", "SYS_ADMIN"],
        "Tmpfs": {"/run": "", "/tmp": "rw,noexec,size=64m,mode=700"},
        "Mounts": [{"Type": "tmpfs", "Target": "/cache", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 448}},
                   {"Type": "tmpfs", "Target": "/x"}],
        "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": -1}],
        "ExtraHosts": ["db:10.1.1.1", "six:fd00::1"]
    }, "Mounts": [{"Type": "tmpfs", "Source": "", "Destination": "/cache", "RW": true}]}));
    let tmpfs = |target: &str, size: Option<u64>, mode| Tmpfs {
        target: target.to_owned(),
        size: size.map(Bytes),
        mode,
    };
    let expected = Process {
        init: Some(Init::Engine),
        read_only: true,
        tmpfs: vec![
            tmpfs("/run", None, None),
            tmpfs("/tmp", Some(64 << 20), Some(0o700)),
            tmpfs("/cache", Some(4096), Some(0o700)),
            tmpfs("/x", None, None),
        ],
        ulimits: [(
            "nofile".to_owned(),
            Ulimit { soft: Most::Number(1024), hard: Most::Unlimited },
        )]
        .into(),
        cap_drop: ["CHOWN".to_owned(), "NET_RAW".to_owned()].into(),
        group_add: vec!["5".to_owned(), "audio".to_owned()],
        extra_hosts: [
            ("db".to_owned(), "10.1.1.1".parse().unwrap()),
            ("six".to_owned(), "fd00::1".parse().unwrap()),
        ]
        .into(),
        ..Process::default()
    };
    assert_eq!(foreign.template.process, expected);
    assert_eq!((foreign.changes, foreign.obstacles), (Vec::new(), Vec::new()));
    assert_eq!(of(json!({"HostConfig": {"CapDrop": ["all"]}})).template.process.cap_drop.len(), 1);
}

#[test]
fn what_no_template_says_of_them_is_told() {
    let foreign = of(json!({"HostConfig": {
        "Tmpfs": {"/run": "exec,uid=7,size=10%"}, "ExtraHosts": ["a:host-gateway", "b:10.0.0.1", "b:10.0.0.2"],
        "Mounts": [{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["exec"]]}}]
    }}));
    for words in [
        "/run is in memory as before, but without exec",
        "but without uid=7",
        "but without size=10%",
        "/x is in memory as before, but without exec",
        "--add-host a:host-gateway is not kept",
        "--add-host b:10.0.0.2 is not kept",
    ] {
        let is_told = foreign.changes.iter().any(|change| change.contains(words));
        assert!(is_told, "{words}: {:?}", foreign.changes);
    }
    assert_eq!(foreign.changes.len(), 6);
    let odd = of(json!({"HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": -2, "Hard": 1}]}}));
    assert!(odd.obstacles[0].contains("--ulimit nofile"), "{odd:?}");
}

#[test]
fn the_network_is_given_up_and_each_loss_is_told() {
    let foreign = of(json!({
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "53/udp": [{"HostIp": "10.0.0.1", "HostPort": "53"}]},
                       "Links": ["/db:/shop/database"], "Dns": ["9.9.9.9"]},
        "NetworkSettings": {"Networks": {
            "bridge": {"IPAddress": "172.17.0.2", "Aliases": null},
            "back": {"IPAddress": "172.20.0.9", "IPAMConfig": {"IPv4Address": "172.20.0.9"}, "Aliases": ["web", "0123456789ab"]}}},
        "Config": {"Labels": {"com.docker.compose.project": "p"}}
    }));
    let ports: Vec<_> =
        foreign.template.expose.iter().map(|one| (one.port, one.protocol)).collect();
    assert_eq!(ports, [(53, Protocol::Udp), (80, Protocol::Tcp)]);
    for words in [
        "published port 8080 -> 80/tcp is not published any more: it is reached at its own address on port 80",
        "published port 10.0.0.1:53 -> 53/udp",
        "its link to db is not kept: database is not found",
        "--dns",
        "its address 172.17.0.2 in Docker's network bridge",
        "its fixed address 172.20.0.9 in Docker's network back",
        "web in Docker's network back does not lead to it",
        "docker compose up",
    ] {
        assert!(
            foreign.changes.iter().any(|change| change.contains(words)),
            "{words}: {:?}",
            foreign.changes
        );
    }
    assert_eq!(foreign.template.labels.len(), 0);
    assert_eq!(foreign.obstacles, Vec::<String>::new());
}

#[test]
fn volumes_get_names_and_paths_of_the_node_stay() {
    let anonymous = "f".repeat(64);
    let at = |kind: &str, name: &str, source: &str, target: &str, rw: bool| json!({"Type": kind, "Name": name, "Source": source, "Destination": target, "RW": rw, "Propagation": "rprivate"});
    let mounts = json!({"Mounts": [
        at("volume", "Shop_Data", "/v/1", "/data", true), at("volume", &anonymous, "/v/2", "/var/lib/db", true),
        at("volume", "Shop_Data", "/v/1", "/again", false), at("volume", "shop_data", "/v/3", "/x", true),
        at("bind", "", "/srv/a", "/a", false), at("tmpfs", "", "", "/tmp", true)
    ]});
    let mut facts = facts(mounts);
    facts.volumes = vec![volume("Shop_Data"), volume(&anonymous), volume("shop_data")];
    let foreign = translate(&facts);
    let shown: Vec<_> = foreign
        .template
        .mounts
        .iter()
        .map(|mount| match &mount.source {
            MountSource::Volume(name) => format!("{name} {} {}", mount.target, mount.read_only),
            MountSource::Bind(path) => format!("{path} {} {}", mount.target, mount.read_only),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "/srv/a /a true",
            "shop_data /again true",
            "shop_data /data false",
            "var-lib-db /var/lib/db false",
            "shop_data-2 /x false"
        ]
    );
    let sources: Vec<_> =
        foreign.volumes.iter().map(|one| (one.source.as_str(), one.name.as_str())).collect();
    assert_eq!(
        sources,
        [
            ("Shop_Data", "shop_data"),
            (anonymous.as_str(), "var-lib-db"),
            ("shop_data", "shop_data-2")
        ]
    );
    assert_eq!(foreign.obstacles, Vec::<String>::new());
}

#[test]
fn volumes_that_cannot_be_copied_whole_forbid() {
    let mounts = json!({"Mounts": [{"Type": "volume", "Name": "db", "Source": "/v", "Destination": "/d", "RW": true}]});
    let told = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts(mounts.clone());
        facts.volumes = vec![volume("db")];
        change(&mut facts);
        translate(&facts).obstacles.join("|")
    };
    assert_eq!(told(&|_| {}), "");
    assert!(told(&|facts| facts.volumes.clear()).contains("not there"));
    assert!(told(&|facts| facts.volumes[0].driver = "nfs".to_owned()).contains("driver nfs"));
    let mounted =
        told(&|facts| drop(facts.volumes[0].options.insert("type".to_owned(), "tmpfs".to_owned())));
    assert!(mounted.contains("options of its own"));
    let shared =
        told(&|facts| drop(facts.sharers.insert("db".to_owned(), vec!["cron".to_owned()])));
    assert!(shared.contains("mounted by cron as well"));
    let mut bind = facts(
        json!({"Mounts": [{"Type": "bind", "Source": "/etc", "Destination": "/e", "RW": true}]}),
    );
    bind.refused.insert("/etc".to_owned(), "it is not allowed".to_owned());
    assert!(translate(&bind).obstacles[0].contains("/etc of the node: it is not allowed"));
}

#[test]
fn files_of_its_own_are_what_is_not_mounted() {
    let mounts = json!({"Mounts": [{"Type": "volume", "Name": "db", "Source": "/v", "Destination": "/var/lib/db", "RW": true}]});
    let own = |paths: &[&str]| {
        let mut facts = facts(mounts.clone());
        let change =
            |path: &&str| serde_json::from_value(json!({"Path": path, "Kind": 0})).unwrap();
        facts.changed = paths.iter().map(change).collect();
        translate(&facts).own_files
    };
    assert_eq!(own(&[]), None);
    assert_eq!(own(&["/var", "/var/lib", "/var/lib/db"]), None, "made to mount at");
    assert_eq!(own(&["/var", "/var/log"]), Some(Bytes(4096)));
    assert_eq!(own(&["/var/lib/dbx"]), Some(Bytes(4096)));
}

#[test]
fn an_image_is_named_so_that_it_is_found_again() {
    let named = |asked: &str, tags: Value, digests: Value| {
        let mut facts = facts(json!({"Config": {"Image": asked}}));
        facts.image.repo_tags = serde_json::from_value(tags).unwrap();
        facts.image.repo_digests = serde_json::from_value(digests).unwrap();
        let foreign = translate(&facts);
        (foreign.template.image, foreign.own_files)
    };
    let known = format!("shop@{DIGEST}");
    let is = |name: &str| (name.to_owned(), None);
    assert_eq!(named("shop", json!(["x:1", "shop:latest"]), json!([])), is("shop"));
    assert_eq!(named("shop:1", json!(["shop:1"]), json!([known])), is(&format!("shop:1@{DIGEST}")));
    assert_eq!(named("shop:1", json!(["shop:2"]), json!([])), is("shop:2"), "the tag has moved");
    assert_eq!(named("shop:1", json!([]), json!([known])), is(&known));
    assert_eq!(named(&known, json!([]), json!([known])), is(&known));
    let nameless = named(DIGEST, json!([]), json!([]));
    assert_eq!(nameless, (String::new(), Some(Bytes(0))), "kept under a name of its own");
}
