//! Forwarding, in all directions, from inside the sandbox.

use std::io::{Read, Write};
use std::process::Command;

use dwell_core::ssh::SshInstance;

use crate::world::{Background, INSTANCE, World, eventually, run, text};

/// A server on `address` that sends back what it gets.
const ECHO: &str = "import socketserver,sys\n\
class Echo(socketserver.BaseRequestHandler):\n\
    def handle(self):\n\
        while data := self.request.recv(65536): self.request.sendall(data)\n\
class Server(socketserver.ThreadingTCPServer): allow_reuse_address=True; daemon_threads=True\n\
server=Server((sys.argv[1],int(sys.argv[2])),Echo); print('ready',file=sys.stderr,flush=True); server.serve_forever()";
/// A server that accepts and never reads.
const STUCK: &str = "import socket,sys,time\n\
s=socket.create_server((sys.argv[1],int(sys.argv[2]))); print('ready',file=sys.stderr,flush=True)\n\
held=[]\n\
while True: held.append(s.accept())";

fn server(world: &World, which: &str, program: &str, address: &str, port: u16) -> Background {
    let mut command = world.within(which, "/usr/bin/python3");
    let mut server = Background::start(command.args(["-c", program, address, &port.to_string()]));
    server.said("ready");
    server
}

/// Sends `bytes` through `command`'s standard streams, and expects them back.
fn echoes(command: &mut Command, bytes: usize) {
    let mut child = Background::start(command);
    let mut input = child.0.stdin.take().unwrap();
    let sent: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let expected = sent.clone();
    let writing = std::thread::spawn(move || drop(input.write_all(&sent)));
    let mut back = Vec::new();
    child.0.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    let mut said = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(back == expected, "{} of {} bytes: {said}", back.len(), expected.len());
}

/// A client that listens on a port of the clients' namespace, with `option`.
fn forwarder(world: &World, options: &[&str], port: u16) -> Background {
    let mut command = world.ssh("owner");
    command.args(["-N", "-o", "ExitOnForwardFailure=yes"]).args(options).arg(INSTANCE);
    let client = Background::start(&mut command);
    eventually("the forwarded port is listened on", || {
        let mut command = world.within("c", "bash");
        command.args(["-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{port}")]);
        run(&mut command).status.success().then_some(())
    });
    client
}

/// Connects to a port of the clients' namespace with the standard streams.
fn connect(world: &World, port: u16) -> Command {
    let program = "import socket,sys,threading\n\
s=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n\
def up():\n\
    while data := sys.stdin.buffer.read1(65536): s.sendall(data)\n\
    s.shutdown(1)\n\
threading.Thread(target=up,daemon=True).start()\n\
while data := s.recv(65536): sys.stdout.buffer.write(data)\n\
sys.stdout.flush()";
    let mut command = world.within("c", "/usr/bin/python3");
    command.args(["-c", program, &port.to_string()]);
    command
}

#[test]
fn standard_streams_to_an_address_inside() {
    let world = World::new();
    let _echo = server(&world, "i", ECHO, "127.0.0.1", 7000);
    for host in ["127.0.0.1", "localhost"] {
        let mut command = world.ssh("owner");
        // Not -n: it has an input.
        command = rebuild_without_n(&command);
        echoes(command.args(["-W", &format!("{host}:7000"), INSTANCE]), 5_000_000);
    }
    let output = run(world.ssh("owner").args(["-W", "127.0.0.1:7001", INSTANCE]));
    assert!(
        text(&output.stderr).contains("open failed: connect failed"),
        "{}",
        text(&output.stderr)
    );
}

fn rebuild_without_n(command: &Command) -> Command {
    let mut other = Command::new(command.get_program());
    other.args(command.get_args().filter(|word| *word != "-n"));
    other
}

#[test]
fn local_ports_to_inside() {
    let world = World::new();
    let _echo = server(&world, "i", ECHO, "127.0.0.1", 7000);
    let _client = forwarder(&world, &["-L", "6000:127.0.0.1:7000"], 6000);
    for _ in 0..3 {
        echoes(&mut connect(&world, 6000), 1_000_000);
    }
}

#[test]
fn remote_ports_to_the_client() {
    let world = World::new();
    let _echo = server(&world, "c", ECHO, "127.0.0.1", 7000);
    let mut command = world.ssh("owner");
    command.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:7000", INSTANCE]);
    let mut client = Background::start(&mut command);
    let said = client.said("Allocated port");
    let port: u16 = said.split_whitespace().nth(2).unwrap().parse().unwrap();
    let mut inside = connect(&world, port);
    // The same program, but in the sandbox.
    let words: Vec<_> = inside.get_args().skip(2).map(ToOwned::to_owned).collect();
    inside = world.within("i", "/usr/bin/python3");
    echoes(inside.args(&words[1..]), 1_000_000);
}

#[test]
fn a_taken_remote_port_is_refused() {
    let world = World::new();
    let _echo = server(&world, "i", ECHO, "127.0.0.1", 7000);
    let mut command = world.ssh("owner");
    command.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R", "7000:127.0.0.1:1", INSTANCE]);
    let output = run(&mut command);
    assert!(
        text(&output.stderr).contains("remote port forwarding failed"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn what_a_key_may_not_is_refused() {
    let world = World::new();
    let _echo = server(&world, "i", ECHO, "127.0.0.1", 7000);
    let with = |options: &str| {
        world.instance(|instance: &mut SshInstance| {
            instance.authorized_keys = vec![format!("{options} {}", world.read("owner.pub"))];
        });
        // The file is in force when the log says that it was read; a log-in shows the same.
        eventually("it is in force", || world.lets_in("owner", &[]).then_some(()));
    };
    let refused = |options: &str, words: &[&str]| {
        with(options);
        eventually(options, || {
            let output = run(world
                .ssh("owner")
                .args(["-o", "ExitOnForwardFailure=yes"])
                .args(words)
                .arg(INSTANCE));
            let said = text(&output.stderr);
            (said.contains("administratively prohibited")
                || said.contains("port forwarding failed"))
            .then_some(())
        });
    };
    refused("restrict", &["-W", "127.0.0.1:7000"]);
    refused("permitopen=\"127.0.0.1:7001\"", &["-W", "127.0.0.1:7000"]);
    refused("no-port-forwarding", &["-N", "-R", "0:127.0.0.1:1"]);
    refused("permitlisten=\"9999\"", &["-N", "-R", "9998:127.0.0.1:1"]);
}

#[test]
fn one_that_does_not_read_harms_no_other() {
    let world = World::new();
    let _stuck = server(&world, "i", STUCK, "127.0.0.1", 7001);
    let _echo = server(&world, "i", ECHO, "127.0.0.1", 7000);
    let _client =
        forwarder(&world, &["-L", "6000:127.0.0.1:7000", "-L", "6001:127.0.0.1:7001"], 6000);
    let mut writer = Background::start(&mut connect(&world, 6001));
    let mut input = writer.0.stdin.take().unwrap();
    let filling = std::thread::spawn(move || {
        let piece = vec![0; 1 << 20];
        let mut sent = 0;
        while sent < 64 && input.write_all(&piece).is_ok() {
            sent += 1;
        }
        sent
    });
    // The same connection serves another all the while.
    for _ in 0..5 {
        echoes(&mut connect(&world, 6000), 1_000_000);
    }
    let resident = world.resident_kib();
    assert!(resident < 64 * 1024, "{resident} KiB of what nobody reads are kept");
    drop(writer);
    assert!(filling.join().unwrap() < 64, "somebody took all of it");
}
