//! A process is as restricted as `docker exec` in the same container makes it.

use dwell_core::ssh::SshContainer;
use dwell_ssh::enter::{Exit, Work};

use crate::world::{World, outcome, request};

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
        &["--ulimit=nofile=100:200", "--ulimit=core=0", "--oom-score-adj=300"],
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
