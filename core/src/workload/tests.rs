use super::*;
use crate::health::{HealthCheck, Probe};
use crate::hook::{Hook, HookAction};
use crate::id::VolumeName;
use crate::quantity::{Bytes, Millicores};

pub(super) fn spec() -> WorkloadSpec {
    WorkloadSpec {
        name: WorkloadName::new("web").unwrap(),
        replicas: 1,
        run: None,
        template: Template::of_image("nginx:1"),
        addresses: Vec::new(),
        placement: Placement::default(),
        update: UpdatePolicy::default(),
        on_lost: OnLost::Keep,
        on_move: OnMove::default(),
        job: None,
        labels: BTreeMap::new(),
    }
}

fn refused(change: impl FnOnce(&mut WorkloadSpec)) -> String {
    let mut spec = spec();
    change(&mut spec);
    spec.check().unwrap_err().to_string()
}

fn bind(path: &str, target: &str) -> Mount {
    Mount { source: MountSource::Bind(path.into()), target: target.into(), read_only: false }
}

#[test]
fn a_plain_workload_is_fine() {
    assert_eq!(spec().check(), Ok(()));
}

#[test]
fn jobs_contradict_neither_restarts_nor_updates() {
    let job = |change: &dyn Fn(&mut WorkloadSpec)| {
        let mut spec = spec();
        spec.job = Some(Job::default());
        spec.template.restart = RestartPolicy::of_attempts(Job::ATTEMPTS_DEFAULT);
        change(&mut spec);
        spec.check().map_err(|error| error.to_string())
    };
    let with = |change: &dyn Fn(&mut Job)| job(&|spec| spec.job.iter_mut().for_each(change));
    assert_eq!(job(&|_| {}), Ok(()));
    assert_eq!(job(&|spec| spec.template.restart = RestartPolicy::Never), Ok(()));
    let for_ever = RestartPolicy::OnFailure { max_retries: None };
    assert_eq!(job(&|spec| spec.template.restart = for_ever), Ok(()), "until it is done");
    assert_eq!(job(&|spec| spec.on_lost = OnLost::ReplaceAfter(Millis::seconds(60))), Ok(()));
    assert_eq!(with(&|job| job.ttl = Some(Millis(0))), Ok(()), "goes at once");
    let too_often = RestartPolicy::of_attempts(Job::ATTEMPTS_MAX + 1);
    let year = Millis(Job::TIME_MAX.0 + 1);
    for (says, found) in [
        (
            "restart: what is started again",
            job(&|one| one.template.restart = RestartPolicy::Always),
        ),
        ("job.attempts: at most 1000", job(&|one| one.template.restart = too_often)),
        ("job.parallelism: 0 is not", with(&|job| job.parallelism = Some(0))),
        ("job.parallelism: 10001 is not", with(&|job| job.parallelism = Some(10_001))),
        ("job.deadline: 999ms is not", with(&|job| job.deadline = Some(Millis(999)))),
        ("job.deadline:", with(&|job| job.deadline = Some(year))),
        ("job.ttl: more than", with(&|job| job.ttl = Some(year))),
        ("update.canary: a job", job(&|one| one.update.canary = Portion::Count(1))),
        ("update.order: two containers", job(&|one| one.update.order = UpdateOrder::StartFirst)),
        ("update.max_failures: an", job(&|one| one.update.max_failures = Portion::Count(1))),
        ("update.on_failure: a job", job(&|one| one.update.on_failure = OnFailure::Continue)),
        ("update.on_failure: a job", job(&|one| one.update.on_failure = OnFailure::Rollback)),
    ] {
        let error = found.unwrap_err();
        assert!(error.starts_with(says), "expected {says:?}: {error}");
    }
}

#[test]
fn two_containers_at_once_do_not_write_to_one_place() {
    let beside = |mount: Mount| {
        let mut spec = spec();
        spec.update.order = UpdateOrder::StartFirst;
        spec.template.mounts = vec![mount];
        spec.check()
    };
    let problem = beside(bind("/srv", "/data")).unwrap_err();
    assert_eq!(problem.field, "update.order");
    assert!(problem.problem.contains("mounted at /data") && problem.problem.contains("stop-first"));
    assert_eq!(beside(Mount { read_only: true, ..bind("/srv", "/data") }), Ok(()));
}

#[test]
fn what_is_on_one_node_is_not_replaced_on_another() {
    let volume = |read_only| Mount {
        source: MountSource::Volume(VolumeName::new("data").unwrap()),
        target: "/data".into(),
        read_only,
    };
    let replaced = |mount: Mount| {
        let mut spec = spec();
        spec.on_lost = OnLost::ReplaceAfter(Millis::seconds(60));
        spec.template.mounts = vec![mount];
        spec
    };
    for mount in [volume(false), volume(true), bind("/srv", "/data")] {
        let problem = replaced(mount).check().unwrap_err().to_string();
        assert!(
            problem.starts_with("on_lost: what is mounted at /data is on one node"),
            "{problem}"
        );
    }
    let read_only = Mount { read_only: true, ..bind("/etc/localtime", "/etc/localtime") };
    assert_eq!(replaced(read_only).check(), Ok(()));
    let problem = refused(|s| s.on_lost = OnLost::ReplaceAfter(Millis::seconds(5)));
    assert_eq!(problem, "on_lost: the time has to be from 15s to 168h");
}

#[test]
fn refusals_name_the_field() {
    type Change = Box<dyn FnOnce(&mut WorkloadSpec)>;
    let cases: Vec<(&str, Change)> = vec![
        ("replicas:", Box::new(|s| s.replicas = 1_000_000_000)),
        ("image: is missing", Box::new(|s| s.template.image.clear())),
        ("image:", Box::new(|s| s.template.image = "--privileged".into())),
        ("image:", Box::new(|s| s.template.image = "a b".into())),
        ("image:", Box::new(|s| s.template.image = "x".repeat(600))),
        ("network.ip:", Box::new(|s| s.addresses = vec![Ipv4Addr::LOCALHOST; 2])),
        ("update.parallelism:", Box::new(|s| s.update.parallelism = Portion::Count(0))),
        ("update.parallelism:", Box::new(|s| s.update.parallelism = Portion::Percent(0))),
        ("update.max_failures:", Box::new(|s| s.update.max_failures = Portion::Percent(101))),
        (
            "update.max_failures: with",
            Box::new(|s| {
                s.update.max_failures = Portion::Count(1);
                s.update.on_failure = OnFailure::Continue;
            }),
        ),
        ("update.canary:", Box::new(|s| s.update.canary = Portion::Percent(101))),
        (
            "environment:",
            Box::new(|s| drop(s.template.environment.insert("A=B".into(), String::new()))),
        ),
        (
            "environment:",
            Box::new(|s| drop(s.template.environment.insert("A".into(), "a\0b".into()))),
        ),
        (
            "environment:",
            Box::new(|s| {
                s.template
                    .environment
                    .extend((0..10_000).map(|i| (format!("V{i}"), String::new())));
            }),
        ),
        ("labels:", Box::new(|s| drop(s.labels.insert("a".into(), "x".repeat(1 << 20))))),
        (
            "resources.cpu: 5m is less than 10m",
            Box::new(|s| s.template.resources.cpu = Millicores(5)),
        ),
        (
            "labels: \"a b\" is not the key",
            Box::new(|s| drop(s.labels.insert("a b".into(), "c".into()))),
        ),
        (
            "labels:",
            Box::new(|s| {
                drop(s.template.labels.insert("dwell.instance".into(), "web-1".into()));
            }),
        ),
        ("working_dir:", Box::new(|s| s.template.working_dir = "srv".into())),
        ("hostname:", Box::new(|s| s.template.hostname = "a.b\n".into())),
        ("resources.memory:", Box::new(|s| s.template.resources.memory = Bytes(1))),
        ("resources.pids: 15 is not", Box::new(|s| s.template.pids = Some(15))),
        ("resources.pids: 4194305 is", Box::new(|s| s.template.pids = Some(4_194_305))),
        (
            "network.expose:",
            Box::new(|s| {
                s.template.expose = vec![ServicePort { port: 0, protocol: Protocol::Tcp }];
            }),
        ),
        ("volumes:", Box::new(|s| s.template.mounts = vec![bind("/srv/../etc", "/data")])),
        ("volumes:", Box::new(|s| s.template.mounts = vec![bind("srv", "/data")])),
        ("volumes:", Box::new(|s| s.template.mounts = vec![bind("/srv", "/")])),
        ("volumes:", Box::new(|s| s.template.mounts = vec![bind("/srv", "/proc/sys")])),
        (
            "volumes: \"//proc\" has two",
            Box::new(|s| s.template.mounts = vec![bind("/srv", "//proc")]),
        ),
        ("volumes:", Box::new(|s| s.template.mounts = vec![bind("/srv", "/a//b")])),
        ("volumes:", Box::new(|s| s.template.mounts = vec![bind("/srv", "//")])),
        (
            "volumes:",
            Box::new(|s| s.template.mounts = vec![bind("/a", "/data"), bind("/b", "/data/")]),
        ),
        (
            "restart:",
            Box::new(|s| s.template.restart = RestartPolicy::OnFailure { max_retries: Some(0) }),
        ),
        (
            "healthcheck.restart: `restart: \"no\"` starts nothing again",
            Box::new(|s| {
                let check = HealthCheck::new(Probe::Tcp { port: 80 });
                let restart = Some(Millis::seconds(60));
                s.template.healthcheck = Some(HealthCheck { restart, ..check });
                s.template.restart = RestartPolicy::Never;
            }),
        ),
        (
            "healthcheck:",
            Box::new(|s| s.template.healthcheck = Some(HealthCheck::new(Probe::Tcp { port: 0 }))),
        ),
        (
            "healthcheck:",
            Box::new(|s| {
                s.template.healthcheck =
                    Some(HealthCheck::new(Probe::Http { port: 80, path: "http://x".into() }));
            }),
        ),
    ];
    for (says, change) in cases {
        let error = refused(change);
        assert!(error.starts_with(says), "expected {says:?}: {error}");
        assert!(error.len() < 400, "unbounded: {error}");
    }
}

#[test]
fn an_image_that_is_to_be_pinned_has_to_name_its_digest() {
    let mut spec = spec();
    spec.template.image_policy = ImagePolicy::Pinned;
    let refused = spec.check().unwrap_err().to_string();
    assert!(refused.starts_with("image_policy: pinned wants"), "{refused}");
    let fingerprint = spec.template.fingerprint();
    spec.template.image_policy = ImagePolicy::Newest;
    assert_eq!(spec.template.fingerprint(), fingerprint, "it replaces no container");
    assert!(spec.check().is_ok());
    spec.template.image_policy = ImagePolicy::Pinned;
    spec.template.image = format!("a:1@sha256:{}", "0a".repeat(32));
    assert!(spec.check().is_ok());
}

#[test]
fn whoever_chooses_no_name_is_one_that_is_let_in() {
    let check = |users: Option<&[&str]>, login_as: &str| {
        let mut spec = spec();
        spec.template.ssh = Ssh::Dwell {
            authorized_keys: Vec::new(),
            key_sets: None,
            users: users.map(|users| users.iter().map(|user| (*user).to_owned()).collect()),
            login_as: Some(login_as.to_owned()),
            account_keys: None,
        };
        spec.check().map_err(|error| error.to_string())
    };
    assert_eq!(check(None, "deploy"), Ok(()));
    assert_eq!(check(Some(&["deploy", "root"]), "deploy"), Ok(()));
    for (users, login_as, says) in [
        (Some(&["root"][..]), "deploy", "not among ssh.users"),
        (None, "@default", "stands for whom ssh.login_as names"),
        (Some(&["@default"][..]), "root", "ssh.users"),
        (None, "a b", "not a name to log in as"),
    ] {
        let said = check(users, login_as).unwrap_err();
        assert!(said.contains(says), "{login_as}: {said}");
    }
}

/// Whatever is sent to a node with every instance counts.
#[test]
fn all_texts_of_a_declaration_are_bounded_together() {
    type Edit = Box<dyn Fn(&mut WorkloadSpec)>;
    fn text() -> String {
        "x".repeat(30_000)
    }
    fn many() -> Vec<String> {
        (0..9).map(|_| text()).collect()
    }
    let changes: [Edit; 4] = [
        Box::new(|s| {
            let probe = Probe::Exec { command: many() };
            s.template.healthcheck = Some(HealthCheck::new(probe));
        }),
        Box::new(|s| {
            s.template.ssh = Ssh::Dwell {
                authorized_keys: many(),
                key_sets: None,
                users: None,
                login_as: None,
                account_keys: None,
            };
        }),
        Box::new(|s| {
            let path = |number: usize| format!("/{number}/{}", "x".repeat(4_000));
            s.template.mounts = (0..70).map(|number| bind("/srv", &path(number))).collect();
        }),
        Box::new(|s| {
            let labels = (0..9).map(|number| (number.to_string(), text()));
            s.template.labels = labels.collect();
        }),
    ];
    for change in changes {
        let error = refused(change);
        assert!(error.contains("bytes together; at most 262144 are allowed"), "{error}");
    }
}

#[test]
fn what_is_carried_goes_with_stop_first_and_with_what_runs_on() {
    let carries = |spec: &mut WorkloadSpec| spec.template.carry = vec!["/id".to_owned()];
    let mut plain = spec();
    carries(&mut plain);
    assert_eq!(plain.check(), Ok(()));
    let of_job = refused(|spec| {
        carries(spec);
        spec.job = Some(Job::default());
        spec.template.restart = RestartPolicy::Never;
    });
    assert!(of_job.starts_with("carry: what a job"), "{of_job}");
    let beside = refused(|spec| {
        carries(spec);
        spec.update.order = UpdateOrder::StartFirst;
    });
    assert!(beside.starts_with("carry: start-first"), "{beside}");
}

#[test]
fn live_fields_leave_the_fingerprint_alone() {
    let template = Template::of_image("nginx:1");
    let mut live = template.clone();
    live.resources = Resources { cpu: Millicores(500), memory: Bytes::mebi(64) };
    live.pids = Some(100);
    live.restart = RestartPolicy::Never;
    let action = HookAction::Exec { command: vec!["bye".into()] };
    let hook = Some(Hook { action, timeout: Hook::default_timeout() });
    live.hooks.before_stop = hook.clone();
    live.readiness = Some(HealthCheck::new(Probe::Tcp { port: 81 }));
    live.healthcheck = Some(HealthCheck::new(Probe::Tcp { port: 80 }));
    live.expose = vec![ServicePort { port: 80, protocol: Protocol::Tcp }];
    live.ssh = Ssh::Off;
    live.allow_from = Some(Vec::new());
    live.stop_grace = Millis::seconds(1);
    live.carry = vec!["/etc/app/id".to_owned()];
    assert_eq!(template.fingerprint(), live.fingerprint());

    // What has to be done after a start belongs to the container that is started.
    live.hooks.after_start = hook;
    assert_ne!(template.fingerprint(), live.fingerprint());

    let mut other = template.clone();
    other.environment.insert("A".into(), "1".into());
    assert_ne!(template.fingerprint(), other.fingerprint());
    let mut other = template.clone();
    other.mounts.push(Mount {
        source: MountSource::Volume(VolumeName::new("data").unwrap()),
        target: "/data".into(),
        read_only: false,
    });
    assert_ne!(template.fingerprint(), other.fingerprint());
}

/// If this fails, an upgrade of dwell would replace every container of every fleet.
#[test]
fn the_fingerprint_of_a_template_never_changes() {
    assert_eq!(Template::of_image("nginx:1").fingerprint().0, "e39c763d6457de82");
}

#[test]
fn constraints() {
    let constraint: Constraint = "disk == ssd".parse().unwrap();
    assert_eq!(constraint.to_string(), "disk==ssd");
    assert!(!"zone!=a".parse::<Constraint>().unwrap().equal);
    for wrong in ["", "disk", "==ssd", "disk==", "disk=ssd"] {
        assert!(wrong.parse::<Constraint>().is_err(), "{wrong}");
    }
}

#[test]
fn signals_and_users_are_ones_that_there_are() {
    let check = |change: &dyn Fn(&mut Template)| {
        let mut spec = spec();
        change(&mut spec.template);
        spec.check().map_err(|error| error.to_string())
    };
    let signal = |text: &str| check(&|template| template.stop_signal = text.to_owned());
    for good in ["", "SIGTERM", "term", "QUIT", "15", "64", "SIGRTMIN+3", "RTMAX-1", "SIGWINCH"] {
        assert_eq!(signal(good), Ok(()), "{good}");
    }
    for wrong in ["SIGFOO", "0", "65", "-1", "SIG", "RTMIN+99", "SIGTERM "] {
        let said = signal(wrong).unwrap_err();
        assert!(said.contains("is not a signal; write one such as SIGTERM"), "{said}");
    }
    let user = |text: &str| check(&|template| template.user = text.to_owned());
    for good in ["", "www", "1000", "1000:1000", "www:www", "2147483647"] {
        assert_eq!(user(good), Ok(()), "{good}");
    }
    for wrong in ["99999999999", "1000:2147483648"] {
        assert!(user(wrong).unwrap_err().contains("2147483647 is the largest"), "{wrong}");
    }
}
