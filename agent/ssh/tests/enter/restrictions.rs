//! A process is as restricted as `docker exec` in the same container makes it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use dwell_core::ssh::SshContainer;
use dwell_ssh::enter::{Enter, Exit, Work};

use crate::world::{World, outcome, request, start_ticks};

/// Shows all that restricts a process, and what it has of elsewhere.
const SHOW: &str = r#"
    grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|SigBlk|Cpus_allowed_list)' /proc/self/status
    echo fds; ls /proc/self/fd
    echo ns; for ns in /proc/self/ns/*; do readlink $ns; done
    echo limits; cat /proc/self/limits
    echo oom; cat /proc/self/oom_score_adj
    echo cgroup; cat /proc/self/cgroup
    echo root; ls -id / /proc/self/root/
    echo mounts; wc -l < /proc/self/mountinfo
    echo nice; cut -d' ' -f18,19,40,41 /proc/self/stat
    umask; hostname; wc -l < /proc/net/dev
    # What the filter of system calls says, by trying what harms nobody.
    unshare -U true; unshare -m true; mount -t tmpfs none /mnt; chroot / true; mknod /tmp/x c 1 3
    pivot_root / /; chown 5 /tmp; ls -l /tmp | wc -l; rm -f /tmp/x
"#;

/// What `docker exec` and what we show of a process as `user`; the same, if all is well.
async fn both(world: &World, container: &SshContainer, user: &str) -> (String, String) {
    let script = format!("exec 2>&1; {SHOW}");
    let theirs = world.docker(&["exec", "--user", user, &container.id, "sh", "-c", &script]);
    let ours = world.output(container, user, &script).await;
    (theirs, ours.trim_end().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_restricted_as_by_docker_exec() {
    let world = World::new().await;
    for options in [
        &[][..],
        &["--user=1000:1000"],
        &["--cap-drop=ALL"],
        &["--cap-drop=ALL", "--cap-add=NET_BIND_SERVICE", "--user=1000"],
        &["--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined"],
        &["--security-opt=no-new-privileges"],
        &["--security-opt=no-new-privileges", "--user=1000"],
        // Both the same: of two, runc sometimes takes the higher for `docker exec`.
        &["--ulimit=nofile=200:200", "--ulimit=core=0", "--oom-score-adj=300"],
        &["--memory=64m", "--cpus=0.5", "--pids-limit=20"],
        &["--cgroupns=private"],
        &["--pid=host"],
        &["--ipc=host", "--uts=host", "--read-only"],
        &["--group-add=77", "--user=alice"],
    ] {
        let container = world.idle(options);
        // A further group is its own user's; `docker exec` gives it to anybody.
        let users =
            if options.contains(&"--group-add=77") { &["alice"][..] } else { &["root", "alice"] };
        for user in users {
            let (theirs, ours) = both(&world, &container, user).await;
            assert_eq!(ours, theirs, "{options:?} as {user}");
        }
        world.docker(&["rm", "--force", &container.id]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_host_gets_in() {
    let world = World::new().await;
    // An open file, a variable and a directory of the host's, which may not be seen inside.
    let container = world.idle(&["--env=OWN=1", "--workdir=/tmp"]);
    let mut asked = request(&container, "alice", Work::Command("env | sort; pwd; tty".to_owned()));
    asked.environment =
        [("LANG", "C.UTF-8"), ("LD_PRELOAD", "/x.so"), ("PATH", "/x"), ("A-B", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let shown = outcome(world.enter.start(asked).await.unwrap()).await;
    let hostname = &container.id[..12];
    assert_eq!(
        shown.output,
        format!(
            "HOME=/home/alice\nHOSTNAME={hostname}\nLANG=C.UTF-8\nLOGNAME=alice\nOWN=1\n\
             PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/home/alice\n\
             SHELL=/bin/sh\nSHLVL=1\nUSER=alice\n/home/alice\nnot a tty\n"
        )
    );
    assert_eq!((shown.exit, &*shown.errors), (Exit::Code(1), ""));

    // A helper stands by, and is not to be found.
    let processes = world.output(&container, "root", "ls /proc | grep -c '^[0-9]'").await;
    assert!(processes.trim().parse::<u32>().unwrap() <= 5, "{processes}");
    let parent = world
        .output(&container, "root", "grep ^PPid /proc/self/status; cut -d' ' -f4 /proc/$$/stat")
        .await;
    assert!(parent.ends_with("\n0\n"), "the parent is seen inside: {parent}");
    let signals = world.output(&container, "root", "exec grep ^SigIgn /proc/self/status").await;
    assert!(signals.ends_with("\t0000000000000000\n"), "{signals}");
    let keyring =
        world.output(&container, "root", "cat /proc/keys 2>/dev/null | grep -c _ses || true").await;
    assert!(keyring.trim().parse::<u32>().unwrap() <= 1, "{keyring}");
}

/// As Docker's `userns-remap` makes it, by hand: that would need users of the host's.
#[tokio::test(flavor = "multi_thread")]
async fn root_is_another_user_in_a_user_namespace() {
    let directory = tempfile::tempdir().unwrap();
    let (run, bundle) = (directory.path().join("run"), directory.path().join("bundle"));
    fs::create_dir_all(run.join("bundles")).unwrap();
    fs::create_dir(&bundle).unwrap();
    let config = r#"{"process": {"cwd": "/", "env": ["A=1"], "user": {"uid": 4242, "gid": 8},
        "capabilities": {"bounding": ["CAP_CHOWN"]}}, "linux": {}}"#;
    fs::write(bundle.join("config.json"), config).unwrap();
    symlink(&bundle, run.join("bundles/c1")).unwrap();

    let mut container = Command::new("unshare")
        .args(["--user", "--mount", "--uts", "--ipc", "--net", "cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let proc = format!("/proc/{}", container.id());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let start = std::time::Instant::now();
    while fs::read_link(format!("{proc}/ns/net")).unwrap() == own {
        assert!(start.elapsed() < crate::world::PATIENCE, "no namespaces");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("{proc}/{map}"), "0 100000 65536").unwrap();
    }
    let enter = Enter::with_program(run, Path::new(env!("CARGO_BIN_EXE_dwell-ssh"))).unwrap();
    let place = SshContainer {
        id: "c1".to_owned(),
        pid: container.id(),
        start_ticks: start_ticks(container.id()),
    };
    let show = "id -u; id -g; cat /proc/self/uid_map; grep ^CapEff /proc/self/status; chown 9 / || echo refused";
    for (login, ids, capabilities) in
        [("@container", "4242\n8\n", "0000000000000000"), ("root", "0\n0\n", "0000000000000001")]
    {
        let session =
            enter.start(request(&place, login, Work::Command(show.to_owned()))).await.unwrap();
        let shown = outcome(session).await;
        let map = "         0     100000      65536\n";
        assert_eq!(
            shown.output,
            format!("{ids}{map}CapEff:\t{capabilities}\nrefused\n"),
            "{}",
            shown.errors
        );
    }
    drop(container.stdin.take());
    container.wait().unwrap();
}
