use dwell_core::clock::Timestamp;
use dwell_core::container::ContainerId;
use dwell_core::foreign::{Adoption, ForeignRestart};
use dwell_core::health::{Health, HealthCheck, Probe};
use dwell_core::hook::{Hook, HookAction, Hooks};
use dwell_core::id::{Generation, Incarnation, Revision, VolumeName, WorkloadName};
use dwell_core::image::{ContainerImage, ImageDigest};
use dwell_core::instance::{
    AheadState, Assigned, Custody, HookFailed, ImageAhead, InstanceStatus, Outcome, Phase,
    ProcessEnd, RunState, Verdict,
};
use dwell_core::job::{Job, Overlap, Schedule, Task, TaskEnd, TaskOutcome, TaskReport};
use dwell_core::net::Mac;
use dwell_core::quantity::{Bytes, Millicores, Millis};
use dwell_core::session::Hello;
use dwell_core::ssh::HostKey;
use dwell_core::workload::{
    AllowRule, AllowSource, Device, ImagePolicy, Init, Lease, Machine, Most, Mount, MountSource,
    OnFailure, OnImageChange, OnLost, OnMove, Placement, PortRange, Portion, Process, Protocol,
    Resources, RestartPolicy, ServicePort, Ssh, Template, Tmpfs, Ulimit, UpdateOrder, UpdatePolicy,
    WorkloadSpec,
};

use crate::v1;

/// A template in which no field has its default.
fn full_template() -> Template {
    let volume = MountSource::Volume(VolumeName::new("data").unwrap());
    Template {
        image: "nginx:1".into(),
        image_policy: ImagePolicy::Newest,
        entrypoint: vec!["/bin/sh".into()],
        command: vec!["-c".into(), "true".into()],
        environment: [("A".into(), "1".into())].into(),
        user: "www".into(),
        working_dir: "/srv".into(),
        hostname: "front".into(),
        labels: [("team".into(), "web".into())].into(),
        mounts: vec![
            Mount { source: volume, target: "/data".into(), read_only: true },
            Mount {
                source: MountSource::Bind("/srv".into()),
                target: "/srv".into(),
                read_only: false,
            },
        ],
        stdin: true,
        tty: true,
        process: Process {
            init: Some(Init::Systemd),
            read_only: true,
            tmpfs: vec![Tmpfs {
                target: "/run".into(),
                size: Some(Bytes::mebi(16)),
                mode: Some(0o700),
            }],
            ulimits: [("nofile".into(), Ulimit { soft: Most::Number(1), hard: Most::Unlimited })]
                .into(),
            cap_drop: ["NET_RAW".into()].into(),
            group_add: vec!["audio".into()],
            extra_hosts: [("db".into(), "192.0.2.9".parse().unwrap())].into(),
            sysctls: [("net.core.somaxconn".into(), "1024".into())].into(),
            cap_add: ["SYS_PTRACE".into()].into(),
            devices: vec![Device {
                source: "/dev/fuse".into(),
                target: "/dev/fuse".into(),
                permissions: "rw".into(),
            }],
            dns_search: vec!["corp.example".into()],
            dns_options: vec!["ndots:2".into()],
        },
        stop_signal: "SIGINT".into(),
        machine: Some(Machine {
            volume: VolumeName::new("root").unwrap(),
            on_image_change: OnImageChange::Rebuild,
        }),
        carry: vec!["/etc/app/id".into(), "/var/lib/app".into()],
        shm_size: Some(Bytes::mebi(64)),
        stop_grace: Millis(0),
        resources: Resources { cpu: Millicores(500), memory: Bytes::mebi(64) },
        pids: Some(100),
        restart: RestartPolicy::OnFailure { max_retries: Some(3) },
        healthcheck: Some(HealthCheck {
            interval: Millis(1000),
            timeout: Millis(100),
            retries: 7,
            start_period: Millis(5),
            restart: Some(Millis(6000)),
            ..HealthCheck::new(Probe::Http { port: 80, path: "/up".into() })
        }),
        readiness: Some(HealthCheck::new(Probe::Exec { command: vec!["ready".into()] })),
        hooks: Hooks {
            after_start: Some(Hook {
                action: HookAction::Exec { command: vec!["warm".into(), "up".into()] },
                timeout: Millis(1_500),
            }),
            before_stop: Some(Hook {
                action: HookAction::Http { port: 80, path: "/bye".into() },
                timeout: Hook::default_timeout(),
            }),
        },
        expose: vec![ServicePort { port: 53, protocol: Protocol::Udp }],
        ssh: Ssh::Dwell {
            authorized_keys: vec!["ssh-ed25519 AAAA me".into()],
            key_sets: Some(vec!["team".parse().unwrap()]),
            users: Some(vec!["deploy".into()]),
            login_as: Some("deploy".into()),
            account_keys: Some(false),
        },
        allow_to: Some(vec![AllowRule {
            from: AllowSource::SameWorkload,
            ports: vec![PortRange { protocol: Protocol::Tcp, first: 1, last: 9 }],
        }]),
        allow_from: Some(vec![
            AllowRule { from: AllowSource::Any, ports: Vec::new() },
            AllowRule {
                from: AllowSource::Labels([("tier".into(), "front".into())].into()),
                ports: vec![PortRange { protocol: Protocol::Udp, first: 53, last: 54 }],
            },
            AllowRule {
                from: AllowSource::Cidr("192.0.2.0/24".parse().unwrap()),
                ports: Vec::new(),
            },
        ]),
    }
}

#[test]
fn specifications_survive_the_round_trip() {
    let spec = WorkloadSpec {
        name: WorkloadName::new("web").unwrap(),
        replicas: 3,
        run: Some(RunState::Stopped),
        template: full_template(),
        addresses: vec!["10.80.0.9".parse().unwrap()],
        placement: Placement {
            pool: Some("big".parse().unwrap()),
            constraints: vec!["disk==ssd".parse().unwrap(), "zone!=a".parse().unwrap()],
            one_per_node: true,
        },
        update: UpdatePolicy {
            order: UpdateOrder::StartFirst,
            parallelism: Portion::Percent(25),
            canary: Portion::Count(2),
            deadline: Millis(1),
            monitor: Millis(3),
            max_failures: Portion::Percent(10),
            on_failure: OnFailure::Rollback,
        },
        on_lost: OnLost::ReplaceAfter(Millis::seconds(60)),
        on_move: OnMove::NewAddress,
        job: Some(Job {
            parallelism: Some(2),
            deadline: Some(Millis::seconds(3600)),
            ttl: Some(Millis(0)),
            schedule: Some(Schedule {
                time_zone: "Europe/Berlin".into(),
                overlap: Overlap::Replace,
                catch_up: Millis::seconds(60),
                history: 3,
                ..Schedule::of("30 2 * * *")
            }),
        }),
        labels: [("tier".into(), "front".into())].into(),
    };
    assert_eq!(WorkloadSpec::try_from(v1::WorkloadSpec::from(&spec)), Ok(spec));
}

#[test]
fn assignments_and_statuses_survive_the_round_trip() {
    let assigned = Assigned {
        instance: "web-1".parse().unwrap(),
        address: "10.80.0.9".parse().unwrap(),
        mac: Mac([2, 0, 0, 0, 0, 9]),
        generation: Generation(4),
        run: RunState::Stopped,
        restarts_asked: 2,
        edition: Generation(6),
        rebuilt: Timestamp(7),
        beside: true,
        update_deadline: Millis(500),
        monitor: Millis::seconds(10),
        life: Revision(1),
        template: full_template(),
        fallback: Some(Template::of_image("app:0")),
        image_digest: Some(ImageDigest::new([1; 32])),
        fallback_image_digest: Some(ImageDigest::new([2; 32])),
        image_ahead: Some("web:2".into()),
        custody: Custody::LetGo(Generation(6)),
        force_limits: true,
        lease: Some(Lease(Millis::seconds(54))),
        task: Some(Task { number: Generation(3), failed_before: 2 }),
        kept_volumes: ["data".parse().unwrap()].into(),
        adopts: Some(Adoption {
            container: ContainerId("c1".into()),
            name: "shop".into(),
            grace: Millis::seconds(10),
            restart: ForeignRestart::Always,
            image: None,
            volumes: [("data".parse().unwrap(), "shop_data".into())].into(),
        }),
        host_key: Some(HostKey { private_key: "PEM".into(), certificate: "cert".into() }),
    };
    assert_eq!(Assigned::try_from(v1::AssignedInstance::from(&assigned)), Ok(assigned));

    let status = InstanceStatus {
        instance: "web-1".parse().unwrap(),
        generation: Generation(4),
        phase: Phase::Backoff,
        health: Health::Unhealthy,
        readiness: Health::Starting,
        container_id: "abc".into(),
        address: Some("10.80.0.9".parse().unwrap()),
        image: ContainerImage {
            digest: Some(ImageDigest::new([3; 32])),
            id: Some(ImageDigest::new([4; 32])),
        },
        started_at: Some(Timestamp(7)),
        restarts: 3,
        exit_code: Some(-1),
        ends: vec![ProcessEnd {
            number: 3,
            at: Timestamp(9),
            ran_for: Millis(5),
            code: 137,
            out_of_memory: true,
            given_up: Some("it was unhealthy for 30s".into()),
        }],
        hook_failed: Some(HookFailed { at: Timestamp(8), reason: "no answer".into() }),
        restarts_done: 2,
        message: "exited".into(),
        observed_at: Timestamp(9),
        verdict: None,
        image_ahead: Some(ImageAhead { image: "web:2".into(), state: AheadState::Here }),
        let_go: Some(Generation(6)),
        task: Some(TaskReport {
            life: Revision(1),
            number: Generation(3),
            failed: 1,
            end: Some(TaskEnd {
                outcome: TaskOutcome::Completed,
                code: 0,
                at: Timestamp(9),
                ran_for: Millis(5),
            }),
        }),
    };
    let reason = || "it does not answer".to_owned();
    for outcome in [
        Outcome::Open,
        Outcome::Held,
        Outcome::RolledBack { reason: reason() },
        Outcome::Failing { reason: reason() },
    ] {
        let verdict = Some(Verdict { generation: Generation(5), outcome });
        let status = InstanceStatus { verdict, ..status.clone() };
        assert_eq!(InstanceStatus::try_from(v1::InstanceStatus::from(&status)), Ok(status));
    }
    assert_eq!(InstanceStatus::try_from(v1::InstanceStatus::from(&status)), Ok(status));
}

#[test]
fn a_roll_back_is_understood_by_older_programs_and_theirs_by_us() {
    let wire = v1::InstanceStatus {
        instance: "web-0".into(),
        message: "generation 5 was rolled back: does not answer".into(),
        failed_generation: Some(5),
        ..v1::InstanceStatus::default()
    };
    let status = InstanceStatus::try_from(wire).unwrap();
    let reason = "generation 5 was rolled back: does not answer".to_owned();
    let rolled_back = Outcome::RolledBack { reason };
    assert_eq!(status.verdict_on(Generation(5)), Some(&rolled_back));
    assert_eq!(status.verdict_on(Generation(6)), None);
    assert_eq!(v1::InstanceStatus::from(&status).failed_generation, Some(5));

    let old = v1::AssignedInstance {
        instance: "web-0".into(),
        address: "10.80.0.9".into(),
        mac: "02:00:00:00:00:09".into(),
        template: Some((&full_template()).into()),
        ..v1::AssignedInstance::default()
    };
    let assigned = Assigned::try_from(old).unwrap();
    assert_eq!((assigned.monitor, assigned.life), (Millis::seconds(10), Revision(0)));
    assert_eq!((assigned.image_digest, status.image), (None, ContainerImage::default()));
    let policy =
        UpdatePolicy::try_from(v1::UpdatePolicy { parallelism: 1, ..v1::UpdatePolicy::default() });
    assert_eq!(policy.unwrap().monitor, Millis::seconds(10));
}

#[test]
fn what_is_wrong_is_named() {
    let good = v1::WorkloadSpec {
        name: "web".into(),
        template: Some((&full_template()).into()),
        ..v1::WorkloadSpec::default()
    };
    type Spoil = fn(&mut v1::WorkloadSpec);
    let cases: [(&str, Spoil); 5] = [
        ("name", |wire| wire.name = "../web".into()),
        ("template", |wire| wire.template = None),
        ("addresses", |wire| wire.addresses = vec!["10.80.0.999".into()]),
        ("constraints", |wire| wire.constraints = vec!["ssd".into()]),
        ("template.expose.port", |wire| {
            wire.template.as_mut().unwrap().expose[0].port = 70_000;
        }),
    ];
    for (field, spoil) in cases {
        let mut wire = good.clone();
        spoil(&mut wire);
        assert_eq!(WorkloadSpec::try_from(wire).unwrap_err().field, field);
    }
}

#[test]
fn messages_of_others_are_cleaned() {
    let wire = v1::InstanceStatus {
        instance: "web-0".into(),
        message: "\u{1b}[2Jgone\r\n".into(),
        ..v1::InstanceStatus::default()
    };
    assert_eq!(InstanceStatus::try_from(wire).unwrap().message, " [2Jgone");
}

#[test]
fn a_digest_that_is_none_is_refused_in_an_order_and_unknown_in_a_status() {
    let order = v1::AssignedInstance {
        instance: "web-0".into(),
        address: "10.80.0.9".into(),
        mac: "02:00:00:00:00:09".into(),
        template: Some((&full_template()).into()),
        image_digest: "sha512:00".into(),
        ..v1::AssignedInstance::default()
    };
    assert_eq!(Assigned::try_from(order).unwrap_err().field, "image_digest");
    let status = v1::InstanceStatus {
        instance: "web-0".into(),
        image_digest: "x".repeat(10_000),
        image_id: format!("sha256:{}", "00".repeat(32)),
        ..v1::InstanceStatus::default()
    };
    let image = InstanceStatus::try_from(status).unwrap().image;
    let id = Some(ImageDigest::new([0; 32]));
    assert_eq!(image, ContainerImage { digest: None, id });
}

#[test]
fn versions_are_ranges_that_have_to_meet() {
    use crate::{PROTOCOL_NEWEST, common_protocol};
    // An agent of the first release, of this one, of a later one, and of one that has given version 2 up.
    for (oldest, newest, common) in [
        (1, 0, Some(1)),
        (1, 2, Some(2)),
        (1, 9, Some(PROTOCOL_NEWEST)),
        (2, 9, Some(2)),
        (3, 9, None),
        (99, 0, None),
    ] {
        assert_eq!(common_protocol(oldest, newest), common, "{oldest} to {newest}");
    }
}

#[test]
fn what_a_host_is_known_by_may_be_absent_and_may_not_be_nonsense() {
    let wire = v1::Hello { address: "192.0.2.1".into(), ..v1::Hello::default() };
    let hello = Hello::try_from(wire.clone()).unwrap();
    assert_eq!((hello.host_mark, hello.block, hello.routes_only), (None, None, false));
    let known = v1::Hello {
        host_mark: "0f".repeat(32),
        block: "10.80.3.0/24".into(),
        routes_only: true,
        keeps_leases: true,
        carries: true,
        lets_go: true,
        takes_over: true,
        moves_volumes: true,
        boot: Some(v1::Boot { id: "b1".into(), may_reboot: true }),
        ..wire.clone()
    };
    let hello = Hello::try_from(known.clone()).unwrap();
    assert_eq!(hello.host_mark.as_ref().map(ToString::to_string), Some("0f".repeat(32)));
    let again = v1::Hello::from(&hello);
    assert_eq!(
        (again.host_mark, again.block, again.routes_only, again.keeps_leases),
        (known.host_mark, known.block, true, true)
    );
    assert_eq!(again.boot, known.boot);
    let nonsense = v1::Hello { host_mark: "0F".repeat(32), ..wire.clone() };
    assert_eq!(Hello::try_from(nonsense).unwrap_err().field, "hello.host_mark");
    let nonsense = v1::Hello { block: "10.80.3.0/99".into(), ..wire };
    assert_eq!(Hello::try_from(nonsense).unwrap_err().field, "hello.block");
}

#[test]
fn orders_to_reboot_survive_the_round_trip() {
    use dwell_core::session::{Heartbeat, RebootFailed, RebootOrder};
    let order = RebootOrder { incarnation: Incarnation(7), number: 9, boot_id: "b1".into() };
    assert_eq!(RebootOrder::from(v1::RebootOrder::from(&order)), order);
    let reboot_failed =
        Some(RebootFailed { incarnation: Incarnation(7), number: 9, reason: "exit code 1".into() });
    let beat = Heartbeat { number: 1, capacity: None, reboot_failed };
    assert_eq!(Heartbeat::from(v1::Heartbeat::from(&beat)), beat);
    assert_eq!(Heartbeat::from(v1::Heartbeat::default()).reboot_failed, None);
}

#[test]
fn what_a_node_knows_of_the_network_survives_the_round_trip() {
    use dwell_core::session::{NodeNetwork, NodePeer};
    let block = Some("10.80.2.0/24".parse().unwrap());
    let peer = NodePeer {
        address: [192, 0, 2, 12].into(),
        block,
        more_blocks: vec!["10.80.7.0/24".parse().unwrap()],
    };
    for address in [None, Some([192, 0, 2, 11].into())] {
        let network = NodeNetwork {
            block: Some("10.80.1.0/24".parse().unwrap()),
            more_blocks: vec!["10.80.8.0/24".parse().unwrap()],
            address,
            peers: [("h2".parse().unwrap(), peer.clone())].into(),
            exceptions: [([10, 80, 9, 1].into(), "h2".parse().unwrap())].into(),
            closed: true,
            zone: "dwell".to_owned(),
            ..NodeNetwork::of_cluster("10.80.0.0/16".parse().unwrap())
        };
        assert_eq!(NodeNetwork::try_from(v1::NodeNetwork::from(&network)), Ok(network));
    }
}
