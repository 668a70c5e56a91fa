//! Sessions: commands, terminals, files, and their ends.

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use crate::world::{Background, INSTANCE, World, eventually, run, text};

fn exec(world: &World, command: &str) -> Output {
    run(world.ssh("owner").args([INSTANCE, command]))
}

#[test]
fn commands_have_two_outputs_and_a_status() {
    let world = World::new();
    let _container = world.contain();
    let output = exec(&world, "echo out; echo err >&2; exit 42");
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(text(&output.stdout), "out\n");
    assert!(text(&output.stderr).ends_with("err\n"));
    // OpenSSH's client makes 255 of a signal.
    let output = run(world.ssh("owner").args(["-v", INSTANCE, "kill -TERM $$"]));
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stderr).contains("rtype exit-signal"), "{}", text(&output.stderr));
}

#[test]
fn input_and_output_of_any_size() {
    let world = World::new();
    let _container = world.contain();
    let sent: Vec<u8> = (0..30_000_000_u32).map(|at| (at % 253) as u8).collect();
    let mut client = Background::start(
        world.ssh_with_input("owner").args([INSTANCE, "cat"]).stderr(Stdio::null()),
    );
    let mut input = client.0.stdin.take().unwrap();
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&sent).unwrap();
            drop(input);
        });
        client.0.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    });
    assert!(back == sent, "{} bytes came back", back.len());
    assert!(client.0.wait().unwrap().success());
}

#[test]
fn a_client_reads_when_it_likes() {
    let world = World::new();
    let _container = world.contain();
    // What it sends fills every buffer before it reads anything: neither side may wait for the other.
    let mut client = Background::start(
        world.ssh_with_input("owner").args([INSTANCE, "cat"]).stderr(Stdio::null()),
    );
    let mut input = client.0.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(&vec![1; 40_000_000]));
    let before = world.resident_kib();
    eventually("everything is full", || {
        let now = world.resident_kib();
        std::thread::sleep(std::time::Duration::from_millis(300));
        (now > before && world.resident_kib() == now).then_some(())
    });
    assert!(world.resident_kib() < before + 16 * 1024, "{} KiB", world.resident_kib());
    let mut back = Vec::new();
    client.0.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(back.len(), 40_000_000);
}

#[test]
fn a_shell_reads_its_commands() {
    let world = World::new();
    let _container = world.contain();
    let mut client = Background::start(world.ssh_with_input("owner").arg(INSTANCE));
    client.0.stdin.take().unwrap().write_all(b"echo $FROM_IMAGE; exit 3\n").unwrap();
    let mut said = String::new();
    client.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.ends_with("yes\n"), "{said:?}");
    assert_eq!(client.0.wait().unwrap().code(), Some(3));
}

#[test]
fn the_environment_of_clients_is_harmless() {
    let world = World::new();
    let _container = world.contain();
    let mut command = world.ssh("owner");
    command.env("LC_DSH", "a b").env("GIT_PROTOCOL", "version=2").env("LD_PRELOAD", "/evil.so");
    command.args(["-o", "SendEnv=LC_DSH GIT_PROTOCOL LD_PRELOAD", INSTANCE, "env"]);
    let variables = text(&run(&mut command).stdout);
    let has = |line: &str| variables.lines().any(|other| other == line);
    assert!(
        has("LC_DSH=a b") && has("GIT_PROTOCOL=version=2") && has("FROM_IMAGE=yes"),
        "{variables}"
    );
    assert!(variables.contains("SSH_CONNECTION=10.213.0.1 "), "{variables}");
    assert!(!variables.contains("LD_PRELOAD"), "{variables}");
}

#[test]
fn terminals() {
    let world = World::new();
    let _container = world.contain();
    let mut command = world.ssh("owner");
    let output = run(command.env("TERM", "dsh-term").args([
        "-tt",
        INSTANCE,
        "test -t 0 && test -t 2 && echo $TERM; exit 4",
    ]));
    assert_eq!(text(&output.stdout), "dsh-term\r\n", "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(4));
    // One whose process left something behind that holds it open.
    let output = run(world.ssh("owner").args(["-tt", INSTANCE, "sleep 60 & echo bye"]));
    assert!(text(&output.stdout).contains("bye"), "{}", text(&output.stderr));
}

#[test]
fn forced_commands_and_restricted_keys() {
    let world = World::new();
    let container = world.contain();
    world.instance(|instance| {
        instance.container = Some(container.facts.clone());
        let key = world.read("owner.pub");
        instance.authorized_keys =
            vec![format!(r#"restrict,command="echo got: $SSH_ORIGINAL_COMMAND" {key}"#)];
    });
    let said = eventually("the command is forced", || {
        let said = text(&exec(&world, "id -u").stdout);
        said.starts_with("got").then_some(said)
    });
    assert_eq!(said, "got: id -u\n");
    let output = run(world.ssh("owner").args(["-tt", INSTANCE, "true"]));
    assert!(
        text(&output.stderr).contains("PTY allocation request failed"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn files_by_scp_and_sftp() {
    let world = World::new();
    let _container = world.contain();
    let content: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 249) as u8).collect();
    std::fs::write(world.path("original"), &content).unwrap();
    let transfer = |program: &str, options: &[&str], from: &str, to: &str| {
        let ssh = world.ssh_with_input("owner");
        // The options of the client, without the namespace, the program, and what only the command line knows.
        let words: Vec<_> = ssh.get_args().skip(3).map(ToOwned::to_owned).collect();
        let mut command: Command = world.within("c", program);
        let output = run(command.args(words).args(options).args([from, to]));
        assert!(output.status.success(), "{program} {from} {to}: {}", text(&output.stderr));
        assert!(std::fs::read(world.path(to.rsplit(':').next().unwrap())).unwrap() == content);
    };
    let remote = |name: &str| format!("root@{INSTANCE}:{}", world.path(name).display());
    transfer("scp", &["-q"], "original", &remote("up"));
    transfer("scp", &["-q"], &remote("up"), "down");
    transfer("scp", &["-q", "-O"], &remote("up"), "old");
    transfer("sftp", &["-q"], &remote("up"), "get");
}

#[test]
fn sessions_of_one_connection_do_not_wait_for_each_other() {
    let world = World::new();
    let _container = world.contain();
    let control = format!("ControlPath={}", world.path("control").display());
    let shared = ["-o", "ControlMaster=auto", "-o", &control];
    let mut master = world.ssh("owner");
    let _master = Background::start(master.args(shared).args(["-N", INSTANCE]));
    eventually("the connection is there", || world.path("control").exists().then_some(()));
    // One that is fed without end and reads nothing.
    let mut stuck = Command::new("sh");
    let ssh = world.ssh_with_input("owner");
    let words: Vec<_> = ssh.get_args().map(|word| word.to_str().unwrap()).collect();
    let line = format!(
        "exec nsenter {} {} {INSTANCE} 'sleep 60' </dev/zero",
        words.join(" "),
        shared.join(" ")
    );
    let _stuck = Background::start(stuck.args(["-c", &line]));
    for round in 0..20 {
        let output =
            run(world.ssh("owner").args(shared).args([INSTANCE, &format!("echo {round}")]));
        assert_eq!(text(&output.stdout), format!("{round}\n"), "{}", text(&output.stderr));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(world.resident_kib() < 64 * 1024, "{} KiB", world.resident_kib());
}

#[test]
fn agents_are_forwarded() {
    let world = World::new();
    let _container = world.contain();
    let socket = world.path("agent");
    let mut agent = Command::new("ssh-agent");
    let _agent = Background::start(agent.arg("-D").arg("-a").arg(&socket));
    // Its socket is there a moment before it listens.
    eventually("the agent takes the key", || {
        let mut add = Command::new("ssh-add");
        let added = run(add.arg("-q").arg(world.path("owner")).env("SSH_AUTH_SOCK", &socket));
        added.status.success().then_some(())
    });
    let mut command = world.ssh("owner");
    command.env("SSH_AUTH_SOCK", &socket);
    // The first value of an option counts.
    let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut with_agent = Command::new("nsenter");
    with_agent.env("SSH_AUTH_SOCK", &socket).current_dir(world.dir.path());
    with_agent.args(words.iter().map(|word| {
        if word == "IdentityAgent=none" { "ForwardAgent=yes".into() } else { word.clone() }
    }));
    let output = run(with_agent.args([INSTANCE, "ssh-add -l && ssh-add -l"]));
    assert_eq!(text(&output.stdout).matches("owner").count(), 2, "{}", text(&output.stderr));
}

#[test]
fn a_process_ends_with_its_client() {
    let world = World::new();
    let _container = world.contain();
    let pid_file = world.path("pid");
    for options in [&[][..], &["-tt"]] {
        let mut command = world.ssh("owner");
        let line =
            format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", pid_file.display());
        let client = Background::start(command.args(options).args([INSTANCE, &line]));
        let inside = eventually("it runs", || std::fs::read_to_string(&pid_file).ok());
        std::fs::remove_file(&pid_file).unwrap();
        drop(client);
        let alive = format!("kill -0 {}", inside.trim());
        eventually("it is gone", || (!exec(&world, &alive).status.success()).then_some(()));
    }
}

#[test]
fn a_session_ends_with_its_container() {
    let world = World::new();
    let container = world.contain();
    let mut client = Background::start(world.ssh("owner").args([INSTANCE, "sleep 1000"]));
    eventually("it runs", || (world.events.lock().unwrap().len() >= 3).then_some(()));
    drop(container);
    let status = eventually("it ends", || client.0.try_wait().unwrap());
    assert!(!status.success());
}

#[test]
fn new_keys_in_the_middle_of_a_transfer() {
    let world = World::new();
    let _container = world.contain();
    let mut command = world.ssh("owner");
    command.args(["-v", "-o", "RekeyLimit=1M", INSTANCE, "head -c 20000000 /dev/zero"]);
    let output = run(&mut command);
    assert_eq!(output.stdout.len(), 20_000_000);
    let rekeyed = text(&output.stderr).matches("SSH2_MSG_NEWKEYS received").count();
    assert!(rekeyed > 5, "{rekeyed} times");
}
