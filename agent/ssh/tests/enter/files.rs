//! Files by OpenSSH's `sftp` and `scp`, in an image that has nothing to serve them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use dwell_core::ssh::SshContainer;
use dwell_ssh::enter::{Session, SftpOptions, Work};
use tokio::io::{AsyncWriteExt as _, copy};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use crate::world::{PATIENCE, SCRATCH, World, request};

/// Runs a client whose way to the server is a session, by a program that it takes for ssh.
async fn client(
    world: &World,
    container: &SshContainer,
    login: &str,
    arguments: &[&str],
) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let ssh = directory.path().join("ssh");
    dwell_daemon::script::write(&ssh, &format!("exec busybox nc 127.0.0.1 {port}")).unwrap();

    let (program, arguments) = arguments.split_first().unwrap();
    let child = Command::new(program).arg("-S").arg(&ssh).args(arguments).output();
    let session = world
        .enter
        .start(request(container, login, Work::Sftp(SftpOptions::default())))
        .await
        .unwrap();
    let served = async {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = stream.into_split();
        let Session { mut input, mut output, control: _control, .. } = session;
        let upwards = async {
            drop(copy(&mut from_client, &mut input).await);
            drop(input.shutdown().await);
        };
        let downwards = async {
            drop(copy(&mut output, &mut to_client).await);
            drop(to_client.shutdown().await);
        };
        tokio::join!(upwards, downwards);
    };
    let both = async { tokio::join!(child, served).0 };
    timeout(PATIENCE, both).await.expect("the client ends").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_into_and_out_of_an_image_of_one_program() {
    let world = World::new().await;
    let container = world.run(&[], SCRATCH, &["/busybox", "sleep", "100000"]);
    let directory = tempfile::tempdir().unwrap();
    let here = |name: &str| directory.path().join(name).display().to_string();
    let content: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    fs::write(here("up"), &content).unwrap();
    fs::set_permissions(here("up"), Permissions::from_mode(0o640)).unwrap();
    let batch = format!(
        "mkdir /data\nput -p {up} /data/file\nget -p /data/file {down}\nln -s file /data/link\n\
         rename /data/file /data/moved\nchmod 600 /data/moved\nls -l /data\nls -ln /data/moved\ndf /\n\
         -rename -l /data/moved /data/link\nrm /data/link\npwd\nrmdir /data/absent\n",
        up = here("up"),
        down = here("down"),
    );
    fs::write(here("batch"), batch).unwrap();
    let output =
        client(&world, &container, "@container", &["sftp", "-b", &here("batch"), "web-0"]).await;
    let (shown, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("lrwxrwxrwx    1 0        0               4 "), "{shown}{errors}");
    assert!(shown.contains("-rw-------    1 0        0         3000000 "), "{shown}{errors}");
    assert!(shown.contains("Remote working directory: /\n"), "{shown}{errors}");
    assert!(
        errors.contains("remote rename \"/data/moved\" to \"/data/link\": Failure"),
        "{errors}"
    );
    assert!(errors.contains("/data/absent\": No such file or directory"), "{errors}");
    assert!(fs::read(here("down")).unwrap() == content);
    assert_eq!(fs::metadata(here("down")).unwrap().permissions().mode() & 0o777, 0o640);

    let tree = directory.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/ü \u{1}"), "odd").unwrap();
    let up =
        client(&world, &container, "@container", &["scp", "-rp", &here("tree"), "web-0:"]).await;
    assert!(up.status.success(), "{up:?}");
    let down =
        client(&world, &container, "@container", &["scp", "-rp", "web-0:~/tree", &here("back")])
            .await;
    assert!(down.status.success(), "{down:?}");
    assert_eq!(fs::read(directory.path().join("back/a/b/ü \u{1}")).unwrap(), b"odd");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_as_restricted_as_any_process() {
    let world = World::new().await;
    let container = world.idle(&[]);
    let directory = tempfile::tempdir().unwrap();
    let status = |name: &str| directory.path().join(name).display().to_string();
    let get = async |login: &str, remote: &str, local: &str| {
        let remote = format!("web-0:{remote}");
        client(&world, &container, login, &["sftp", "-q", &remote, local]).await
    };
    // The server's own status, beside that of a command.
    for login in ["root", "alice"] {
        let local = status(login);
        let output = get(login, "/proc/self/status", &local).await;
        assert!(output.status.success(), "{output:?}");
        let of = |text: &str| -> Vec<String> {
            let wanted = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:"];
            text.lines()
                .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
                .map(str::to_owned)
                .collect()
        };
        let command = world.output(&container, login, "exec cat /proc/self/status").await;
        assert_eq!(of(&fs::read_to_string(Path::new(&local)).unwrap()), of(&command), "{login}");
    }
    // Nobody but root reads what is root's, and nobody at all changes the server's program.
    let refused = get("alice", "/proc/1/environ", &status("refused")).await;
    assert!(!refused.status.success());
    fs::write(status("batch"), format!("put {} /proc/self/exe\n", status("root"))).unwrap();
    let put = client(&world, &container, "root", &["sftp", "-b", &status("batch"), "web-0"]).await;
    assert!(String::from_utf8_lossy(&put.stderr).contains("/proc/self/exe"), "{put:?}");
    assert!(!put.status.success(), "{put:?}");
    let home = get("alice", ".", &status("home")).await;
    assert!(String::from_utf8_lossy(&home.stderr).contains("/home/alice"), "{home:?}");
}
