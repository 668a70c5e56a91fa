//! Forwarding, in all directions, from inside the sandbox.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};

use crate::world::{Background, INSTANCE, PATIENCE, World, eventually, run, text};

const LOOPBACK: &str = "127.0.0.1";

/// Sends back to each client what it sends.
fn serve_echoes(listener: TcpListener) {
    let echo = |stream: TcpStream| {
        io::copy(&mut &stream, &mut &stream)?;
        stream.shutdown(Shutdown::Write)
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || drop(echo(stream.unwrap())));
        }
    });
}

/// Sends `length` bytes, and expects them back before the end.
fn expect_echo(
    mut sender: impl Write + Send,
    mut receiver: impl Read,
    end: impl FnOnce() + Send,
    length: usize,
) {
    let sent: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sender.write_all(&sent).unwrap();
            drop(sender);
            end();
        });
        receiver.read_to_end(&mut back).unwrap();
    });
    assert!(back == sent, "{} of {length} bytes came back", back.len());
}

fn expect_echo_from(stream: &TcpStream, length: usize) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    expect_echo(stream, stream, || stream.shutdown(Shutdown::Write).unwrap(), length);
}

/// A client with `options` that forwards ports, the first of which is `port` of its own.
fn forwarder(world: &World, options: &[&str], port: u16) -> Background {
    let mut command = world.ssh("owner");
    command.args(["-N", "-o", "ExitOnForwardFailure=yes"]).args(options).arg(INSTANCE);
    let client = Background::start(&mut command);
    eventually("the port is listened on", || world.connect("c", (LOOPBACK, port)).ok());
    client
}

#[test]
fn standard_streams_to_an_address_inside() {
    let world = World::new();
    serve_echoes(world.listen("i", (LOOPBACK, 7000)).unwrap());
    for host in [LOOPBACK, "localhost"] {
        let mut client = Background::start(world.ssh_with_input("owner").args([
            "-W",
            &format!("{host}:7000"),
            INSTANCE,
        ]));
        let (input, output) = (client.0.stdin.take().unwrap(), client.0.stdout.take().unwrap());
        expect_echo(input, output, || {}, 5_000_000);
        let both_ended = Instant::now();
        assert!(client.0.wait().unwrap().success());
        assert!(both_ended.elapsed() < Duration::from_secs(3), "{:?}", both_ended.elapsed());
    }
    let output = run(world.ssh("owner").args(["-W", "127.0.0.1:7001", INSTANCE]));
    let said = text(&output.stderr);
    assert!(said.contains("stdio forwarding failed") || said.contains("connect failed"), "{said}");
}

/// In whatever order the two sides end.
#[test]
fn standard_streams_end_as_soon_as_both_sides_have() {
    let world = World::new();
    let listener = world.listen("i", (LOOPBACK, 7000)).unwrap();
    for (case, client_first) in [("the client first", true), ("the server first", false)] {
        let mut command = world.ssh_with_input("owner");
        let mut client = Background::start(command.args(["-W", "127.0.0.1:7000", INSTANCE]));
        let (mut input, mut output) =
            (client.0.stdin.take().unwrap(), client.0.stdout.take().unwrap());
        input.write_all(b"question").unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 8]).unwrap();
        let mut rest = Vec::new();
        let ended = if client_first {
            drop(input);
            stream.read_to_end(&mut rest).unwrap();
            stream.write_all(b"answer").unwrap();
            drop(stream);
            output.read_to_end(&mut rest).unwrap();
            Instant::now()
        } else {
            stream.write_all(b"answer").unwrap();
            drop(stream);
            output.read_to_end(&mut rest).unwrap();
            drop(input);
            Instant::now()
        };
        assert_eq!(rest, b"answer", "{case}");
        assert!(client.0.wait().unwrap().success(), "{case}");
        println!("{case}: {:?}", ended.elapsed());
        assert!(ended.elapsed() < Duration::from_secs(2), "{case}: {:?}", ended.elapsed());
    }
}

/// Answers every question with the instance's address, as the node's agent does on the sandbox's gateway address.
fn serve_names(world: &World) {
    world.add_address("i", "169.254.1.1/32");
    let socket = world.inside("i", || UdpSocket::bind("169.254.1.1:53")).unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let mut message = Message::from_vec(&question[..length]).unwrap();
            let name = message.queries[0].name().clone();
            message.metadata.message_type = MessageType::Response;
            let address = RData::A(A(INSTANCE.parse().unwrap()));
            // Nothing but whole names has an address here, as with the agent.
            if name.to_ascii() == "db-0.dwell." {
                message.answers = vec![Record::from_rdata(name, 5, address)];
            }
            socket.send_to(&message.to_vec().unwrap(), from).unwrap();
        }
    });
}

#[test]
fn names_mean_what_they_mean_inside() {
    let world = World::new();
    serve_names(&world);
    serve_echoes(world.listen("i", (INSTANCE, 7000)).unwrap());
    // Whole, and short as everybody writes it.
    for (port, name) in [(6000, "db-0.dwell"), (6001, "db-0")] {
        let _client = forwarder(&world, &["-L", &format!("{port}:{name}:7000")], port);
        expect_echo_from(&world.connect("c", (LOOPBACK, port)).unwrap(), 1000);
    }
}

#[test]
fn local_ports_to_inside() {
    let world = World::new();
    serve_echoes(world.listen("i", (LOOPBACK, 7000)).unwrap());
    let _client = forwarder(&world, &["-L", "6000:127.0.0.1:7000"], 6000);
    for _ in 0..3 {
        expect_echo_from(&world.connect("c", (LOOPBACK, 6000)).unwrap(), 5_000_000);
    }
    // More at a time than one connection may have, one after the other.
    for _ in 0..100 {
        expect_echo_from(&world.connect("c", (LOOPBACK, 6000)).unwrap(), 10);
    }
}

#[test]
fn socks_to_inside() {
    let world = World::new();
    serve_echoes(world.listen("i", (INSTANCE, 7000)).unwrap());
    let _client = forwarder(&world, &["-D", "6000"], 6000);
    let mut stream = world.connect("c", (LOOPBACK, 6000)).unwrap();
    // SOCKS 5: no authentication; connect to 10.213.0.2 at 7000.
    stream.write_all(&[5, 1, 0, 5, 1, 0, 1, 10, 213, 0, 2, 0x1b, 0x58]).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..4], [5, 0, 5, 0], "{answer:?}");
    expect_echo_from(&stream, 100_000);
}

#[test]
fn remote_ports_to_the_client() {
    let world = World::new();
    serve_echoes(world.listen("c", (LOOPBACK, 7000)).unwrap());
    let mut command = world.ssh("owner");
    command.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:7000", INSTANCE]);
    let mut client = Background::start(&mut command);
    let said = client.said("Allocated port");
    let port: u16 = said.split_whitespace().nth(2).unwrap().parse().unwrap();
    for _ in 0..3 {
        expect_echo_from(&world.connect("i", (LOOPBACK, port)).unwrap(), 2_000_000);
    }
    assert!(world.connect("c", (INSTANCE, port)).is_err(), "on the loopback address alone");
    drop(client);
    eventually("the port is given back", || world.connect("i", (LOOPBACK, port)).err());
}

#[test]
fn remote_ports_where_the_client_says() {
    let world = World::new();
    serve_echoes(world.listen("c", (LOOPBACK, 7000)).unwrap());
    let mut command = world.ssh("owner");
    let _client = Background::start(command.args(["-N", "-R", "*:80:127.0.0.1:7000", INSTANCE]));
    let stream = eventually("it is listened on", || world.connect("c", (INSTANCE, 80)).ok());
    expect_echo_from(&stream, 1000);
}

/// As whoever is logged in, in the container's own file system: `/root` is one in memory here.
#[test]
fn unix_sockets_both_ways() {
    let world = World::new();
    let container = world.contain_after("mount -t tmpfs -o mode=700 none /root");
    let inside = |command: &str| {
        let output = run(world.ssh("owner").args([INSTANCE, command]));
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    // The client's own socket, which listens inside at /root/back, and the other way there again.
    let echo = world.path("echo");
    let listener = std::os::unix::net::UnixListener::bind(&echo).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            drop(io::copy(&mut &stream, &mut &stream));
        }
    });
    let there = world.path("there");
    let back = format!("/root/back:{}", echo.display());
    let to = format!("{}:/root/back", there.display());
    let mut command = world.ssh("owner");
    command.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R", &back, "-L", &to]).arg(INSTANCE);
    let client = Background::start(&mut command);
    let connect = || std::os::unix::net::UnixStream::connect(&there).ok();
    let stream = eventually("it is listened on", connect);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    expect_echo(&stream, &stream, || stream.shutdown(Shutdown::Write).unwrap(), 1_000_000);
    assert_eq!(inside("stat -c '%A %U' back").1, "srw------- root\n");
    assert!(!std::fs::exists("/root/back").unwrap(), "it is the container's");
    // Somebody listens on it.
    let second = ["-o", "ExitOnForwardFailure=yes", "-R", &back, INSTANCE, "true"];
    let refused = run(world.ssh("owner").args(second));
    assert!(text(&refused.stderr).contains("forwarding failed for listen path"), "{refused:?}");
    drop(client);
    eventually("nobody does any more", || {
        run(world.ssh("owner").args(second)).status.success().then_some(())
    });

    // Another user reaches nothing of root's, and a key that may not forward nothing at all.
    let _client = Background::start(world.ssh("owner").args(["-N", "-R", &back, INSTANCE]));
    eventually("it is there again", || inside("test -S back").0.filter(|code| *code == 0));
    for (login, options) in [("nobody", ""), ("root", "restrict"), ("root", "permitopen=\"*:80\"")]
    {
        world.key("limited", &[]);
        world.instance(|instance| {
            instance.container = Some(container.facts.clone());
            instance.authorized_keys.push(format!("{options} {}", world.read("limited.pub")));
        });
        let counts =
            || run(world.ssh("limited").args(["-l", login, INSTANCE, "true"])).status.code();
        eventually("the key counts", || counts().filter(|code| *code != 255));
        let there = world.path("refused");
        let to = format!("{}:/root/back", there.display());
        let _limited =
            Background::start(world.ssh("limited").args(["-N", "-l", login, "-L", &to, INSTANCE]));
        let connect = || std::os::unix::net::UnixStream::connect(&there).ok();
        let mut stream = eventually("the client listens", connect);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        drop(stream.write_all(b"echo"));
        let mut said = [0; 4];
        assert!(stream.read_exact(&mut said).is_err(), "{login} {options}");
        std::fs::remove_file(there).unwrap();
        for file in ["limited", "limited.pub"] {
            std::fs::remove_file(world.path(file)).unwrap();
        }
    }
}

#[test]
fn a_taken_remote_port_is_refused() {
    let world = World::new();
    let _taken = world.listen("i", (LOOPBACK, 7000)).unwrap();
    let mut command = world.ssh("owner");
    command.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R", "7000:127.0.0.1:1", INSTANCE]);
    let said = text(&run(&mut command).stderr);
    assert!(said.contains("remote port forwarding failed"), "{said}");
}

#[test]
fn what_a_key_may_not_is_refused() {
    let world = World::new();
    let cases: [(&str, &[&str]); 4] = [
        ("restrict", &["-W", "127.0.0.1:7000"]),
        ("permitopen=\"127.0.0.1:7001\"", &["-W", "127.0.0.1:7000"]),
        ("no-port-forwarding", &["-N", "-R", "0:127.0.0.1:1"]),
        ("permitlisten=\"9999\"", &["-N", "-R", "9998:127.0.0.1:1"]),
    ];
    for (options, words) in cases {
        world.key("limited", &[]);
        world.instance(|instance| {
            instance.authorized_keys = vec![format!("{options} {}", world.read("limited.pub"))];
        });
        eventually("the key counts", || world.lets_in("limited", &[]).then_some(()));
        let output = run(world
            .ssh("limited")
            .args(["-o", "ExitOnForwardFailure=yes"])
            .args(words)
            .arg(INSTANCE));
        let said = text(&output.stderr);
        let refused =
            ["administratively prohibited", "stdio forwarding failed", "port forwarding failed"];
        assert!(refused.iter().any(|refusal| said.contains(refusal)), "{options}: {said}");
        for file in ["limited", "limited.pub"] {
            std::fs::remove_file(world.path(file)).unwrap();
        }
    }
}

#[test]
fn one_that_does_not_read_harms_no_other() {
    let world = World::new();
    let stuck = world.listen("i", (LOOPBACK, 7001)).unwrap();
    serve_echoes(world.listen("i", (LOOPBACK, 7000)).unwrap());
    let _client =
        forwarder(&world, &["-L", "6000:127.0.0.1:7000", "-L", "6001:127.0.0.1:7001"], 6000);
    let writer = world.connect("c", (LOOPBACK, 6001)).unwrap();
    writer.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let (mut reader, _) = stuck.accept().unwrap();
    // Until nothing is taken for two seconds.
    let filling = std::thread::spawn(move || {
        let piece = vec![7; 1 << 16];
        let mut sent = 0;
        while let Ok(length) = (&writer).write(&piece) {
            sent += length;
            assert!(sent < 256 << 20, "somebody takes all of it");
        }
        (writer, sent)
    });
    // The same connection serves another all the while.
    while !filling.is_finished() {
        expect_echo_from(&world.connect("c", (LOOPBACK, 6000)).unwrap(), 1_000_000);
    }
    let (writer, sent) = filling.join().unwrap();
    let resident = world.resident_kib();
    assert!(resident < 64 * 1024, "{resident} KiB are kept of what nobody reads");
    // Once it reads, all of it comes.
    writer.shutdown(Shutdown::Write).unwrap();
    let received = io::copy(&mut reader, &mut io::sink()).unwrap();
    assert_eq!(received, sent as u64);
    drop(writer);
}

#[test]
fn one_that_never_reads_does_not_hold_its_connection_up_for_ever() {
    let world = World::new();
    let stuck = world.listen("i", (LOOPBACK, 7001)).unwrap();
    let sink = world.listen("i", (LOOPBACK, 7000)).unwrap();
    let _client =
        forwarder(&world, &["-L", "6000:127.0.0.1:7000", "-L", "6001:127.0.0.1:7001"], 6000);
    let writer = world.connect("c", (LOOPBACK, 6001)).unwrap();
    let (_held, _) = stuck.accept().unwrap();
    let filling = std::thread::spawn(move || io::copy(&mut io::repeat(7), &mut &writer));
    // Those that send nothing were the forwarder's trials whether it listens yet.
    let receiving = std::thread::spawn(move || {
        let received = |stream: TcpStream| io::copy(&mut &stream, &mut io::sink()).unwrap();
        sink.incoming().map(|stream| received(stream.unwrap())).find(|length| *length > 0).unwrap()
    });
    let mut sender = world.connect("c", (LOOPBACK, 6000)).unwrap();
    let length = 300 << 20;
    io::copy(&mut io::repeat(8).take(length), &mut sender).unwrap();
    drop(sender);
    assert_eq!(receiving.join().unwrap(), length);
    let resident = world.resident_kib();
    assert!(resident < 96 * 1024, "{resident} KiB are kept of what nobody reads");
    assert!(filling.join().unwrap().is_err(), "its channel was closed");
}

#[test]
fn a_client_that_is_stopped_loses_nothing() {
    let world = World::new();
    serve_echoes(world.listen("i", (LOOPBACK, 7000)).unwrap());
    let mut command = world.ssh_with_input("owner");
    let mut client =
        Background::start(command.args(["-W", "127.0.0.1:7000", INSTANCE]).stderr(Stdio::null()));
    let pid = client.0.id().to_string();
    let signal = |name: &str| {
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    let (mut input, mut output) = (client.0.stdin.take().unwrap(), client.0.stdout.take().unwrap());
    let sent = vec![3; 20_000_000];
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&sent).unwrap();
            drop(input);
        });
        let mut piece = vec![0; 1 << 16];
        while back.len() < sent.len() {
            if back.len() % 7 == 0 {
                signal("-STOP");
                signal("-CONT");
            }
            let length = output.read(&mut piece).unwrap();
            assert!(length > 0, "{} of {} bytes", back.len(), sent.len());
            back.extend_from_slice(&piece[..length]);
        }
    });
    assert!(back == sent);
}
