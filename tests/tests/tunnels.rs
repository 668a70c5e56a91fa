//! Into instances without a route: everything goes through the controller and the agents' own connections.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use dwell_tests::lab::{Image, Lab, LabConfig, Signal, run, wait_until};
use futures_util::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(90);

/// Both on one node, so that all of it goes through one agent.
const WORKLOADS: &str = "
workloads:
  server:
    image: hello
    constraints: ['node.name==h1']
  dev:
    image: tools
    constraints: ['node.name==h1']
    stop_grace_period: 1s
";

#[tokio::test]
async fn everything_without_a_route() -> Result<()> {
    let config = LabConfig::new("tunnels").hosts(2).images(&[Image::Hello, Image::Tools]);
    Lab::test(config, async |lab| {
        lab.start_fleet().await?;
        lab.apply(WORKLOADS).await?.ok()?;
        lab.wait_well("server", 1, LIMIT).await?;
        lab.wait_well("dev", 1, LIMIT).await?;
        who_does_not_read_harms_nobody(lab).await.context("back-pressure")?;
        tunnels_end_with_their_agent(lab).await.context("an agent's end")?;
        odd_names_are_copied(lab).await.context("cp")?;
        stock_clients_go_through_the_controller(lab).await.context("ssh-config")
    })
    .await
}

/// What somebody asks for who then does not read it, in bytes.
const LARGE: usize = 64 << 20;

/// What the others ask for meanwhile, each.
const SMALL: usize = 8 << 20;

/// A port at which somebody accepts and does not read.
const DEAF_PORT: u16 = 9001;

const SLOW: usize = 8;
const OTHERS: usize = 20;

/// The most that may be on its way to those who do not read, in all buffers together.
const IN_FLIGHT: u64 = 128 << 20;

/// The most that the controller may grow, in MiB.
const GROWTH_MIB: f64 = 24.0;

async fn who_does_not_read_harms_nobody(lab: &Lab) -> Result<()> {
    for (name, size) in [("large", LARGE), ("small", SMALL)] {
        let script = format!("head -c {size} /dev/zero > /www/{name}");
        lab.exec("server-0", &["sh", "-c", &script]).await?.ok()?;
    }
    let deaf = format!("nc -ll -p {DEAF_PORT} -e sleep 1000 > /dev/null 2>&1 &");
    lab.exec("server-0", &["sh", "-c", &deaf]).await?.ok()?;

    let forward = lab.forward("server-0", &[8080, DEAF_PORT]).await?;
    let [web, deaf] = *forward.at() else { bail!("it listens at {:?}", forward.at()) };
    let alone = everybody_gets_theirs(web).await?;
    let before = lab.controller().resident_mib()?;
    let mut slow = try_join_all((0..SLOW).map(|_| ask(web, "large"))).await?;
    all_are_held_up(lab).await?;
    let unheard = try_join_all((0..SLOW).map(|_| talk_until_held_up(deaf))).await?;
    let beside = everybody_gets_theirs(web).await?;
    ensure!(beside < alone * 2 + Duration::from_secs(1), "{alone:?} became {beside:?}");
    let grown = lab.controller().resident_mib()? - before;
    ensure!(grown < GROWTH_MIB, "the controller has grown by {grown} MiB");
    // Who reads on gets the rest.
    let one = slow.swap_remove(0);
    ensure!(rest(one).await? == LARGE, "something is missing");
    drop(unheard);
    Ok(())
}

/// A connection to somebody who does not read, over which nothing more can be sent.
async fn talk_until_held_up(at: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(at).await?;
    let piece = vec![0; 1 << 20];
    let mut sent = 0;
    // A whole second without room for anything.
    while let Ok(wrote) = timeout(Duration::from_secs(1), stream.write(&piece)).await {
        sent += wrote?;
        ensure!(sent < LARGE, "{sent} bytes are on their way to somebody who does not read");
    }
    Ok(stream)
}

/// A connection over which a file was asked for, and nothing read.
async fn ask(at: SocketAddr, file: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(format!("GET /{file} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    Ok(stream)
}

/// Reads an answer to its end; how long its body is.
async fn rest(mut stream: TcpStream) -> Result<usize> {
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.context("it does not end")??;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no HTTP")?;
    Ok(answer.len() - head - 4)
}

/// Many at once; how long it takes them all.
async fn everybody_gets_theirs(at: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    let sizes = (0..OTHERS).map(async |_| rest(ask(at, "small").await?).await);
    let sizes = try_join_all(sizes).await?;
    ensure!(sizes.iter().all(|size| *size == SMALL), "they got {sizes:?}");
    Ok(start.elapsed())
}

/// Waits until the server cannot write to anybody who does not read.
async fn all_are_held_up(lab: &Lab) -> Result<()> {
    let mut last = 0;
    let mut looks_alike = 0;
    let written = wait_until("the server to be held up", SOON, async || {
        let script = "for one in $(pidof httpd); do sed -n 's/^wchar: //p' /proc/$one/io; done";
        let counts = lab.exec("server-0", &["sh", "-c", script]).await?.ok()?;
        let counts = counts.lines().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let busy = counts.iter().filter(|count| **count > 0).count();
        let written = counts.iter().sum();
        looks_alike = if written == last && busy >= SLOW { looks_alike + 1 } else { 0 };
        last = written;
        ensure!(looks_alike >= 5, "{counts:?} bytes are written, and it goes on");
        Ok(written)
    })
    .await?;
    ensure!(written < IN_FLIGHT, "{written} bytes are on their way to those who do not read");
    Ok(())
}

async fn tunnels_end_with_their_agent(lab: &Lab) -> Result<()> {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut forward = lab.forward("server-0", &[8080]).await?;
        let at = forward.at()[0];
        let cut = ask(at, "large").await?;
        cut.readable().await?;
        lab.host(1).stop_agent(signal).await?;
        let got = rest(cut).await;
        ensure!(got.is_err(), "it looks as if all had come: {got:?}");
        let said = forward.says().await?;
        ensure!(said.contains("server-0:8080") && said.contains("lost"), "{signal}: {said}");
        let refused = rest(ask(at, "small").await?).await;
        ensure!(refused.is_err(), "without an agent came {refused:?}");
        let said = forward.says().await?;
        ensure!(said.contains("node h1 is not connected"), "{signal}: {said}");
        lab.host(1).start_agent().await?;
        wait_until("a new tunnel", SOON, async || {
            let size = rest(ask(at, "small").await?).await?;
            ensure!(size == SMALL, "{size} bytes came");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What a shell, a pattern, an option, a terminal or a decoder would trip over.
const ODD_NAMES: [&[u8]; 22] = [
    b"two words",
    b" around ",
    b"-rf",
    b"--",
    b"quo'te",
    b"dou\"ble",
    b"back\\slash",
    b"star*",
    b"que?tion",
    b"br[ack]et",
    b"$HOME",
    b"$(touch here)",
    b"`id`",
    b"semi;colon&",
    b"a:b",
    b"new\nline",
    b"tab\tbell\x07",
    b"~root",
    b"%h#{}",
    b".hidden",
    "\u{fc}\u{202e}bidi".as_bytes(),
    b"not \xff\xfe UTF-8",
];

async fn odd_names_are_copied(lab: &Lab) -> Result<()> {
    let work = lab.layout().dir().join("odd");
    let original = work.join("it's an original");
    for dir in [&original, &original.join("empty one"), &original.join("-d * {}/deeper")] {
        fs::create_dir_all(dir)?;
    }
    for (number, name) in ODD_NAMES.iter().enumerate() {
        let name = OsStr::from_bytes(name);
        for dir in [&original, &original.join("-d * {}/deeper")] {
            fs::write(dir.join(name), "x".repeat(number * 1000))?;
        }
    }
    let program = original.join("program");
    fs::write(&program, "")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;

    let [original, back] = [original, work.join("back")].map(|path| path.display().to_string());
    for instance in ["server-0", "dev-0"] {
        lab.cli(&["cp", &original, &format!("{instance}:/tmp/a copy")]).await?.ok()?;
        lab.cli(&["cp", &format!("{instance}:/tmp/a copy"), &back]).await?.ok()?;
        run("diff", &["-r", &original, &back]).await?.ok()?;
        let mode = fs::metadata(format!("{back}/program"))?.permissions().mode();
        ensure!(mode & 0o100 != 0, "it cannot be run any more: {mode:o}");
        fs::remove_dir_all(&back)?;
    }
    lab.cli(&["cp", "dev-0:/tmp/a copy/two words", "server-0:/tmp/"]).await?.ok()?;
    lab.cli(&["cp", "server-0:/tmp/two words", &back]).await?.ok()?;
    run("cmp", &[&back, &format!("{original}/two words")]).await?.ok()?;
    Ok(())
}

async fn stock_clients_go_through_the_controller(lab: &Lab) -> Result<()> {
    let alice = lab.person("alice").await?;
    let key = alice.key().display().to_string();
    lab.cli(&["key", "add", "team", &format!("{key}.pub")]).await?.ok()?;
    let mut config = lab.cli(&["ssh-config"]).await?.ok()?;
    // What a person has already: a key; and nothing known of any host.
    config += &format!(
        "Host *\n  IdentityFile {key}\n  IdentitiesOnly yes\n  BatchMode yes\n  \
         StrictHostKeyChecking yes\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    );
    let file = alice.dir().join("tunnelled");
    fs::write(&file, config)?;
    let file = file.display().to_string();
    for instance in ["dev-0", "server-0"] {
        let said =
            run("ssh", &["-F", &file, &format!("{instance}.dwell"), "hostname"]).await?.ok()?;
        ensure!(said.trim() == instance, "{said}");
    }

    let data = alice.dir().join("data");
    fs::write(&data, (0..3_000_000_u32).map(|n| (n >> 7) as u8).collect::<Vec<_>>())?;
    let [data, back] = [data, alice.dir().join("back")].map(|path| path.display().to_string());
    run("scp", &["-F", &file, &data, "dev-0.dwell:/tmp/by-scp"]).await?.ok()?;
    run("scp", &["-F", &file, "dev-0.dwell:/tmp/by-scp", &back]).await?.ok()?;
    run("cmp", &[&data, &back]).await?.ok()?;
    let shell = format!("ssh -F {file}");
    run("rsync", &["-a", "-e", &shell, &data, "dev-0.dwell:/tmp/by-rsync"]).await?.ok()?;
    fs::remove_file(&back)?;
    run("rsync", &["-a", "-e", &shell, "dev-0.dwell:/tmp/by-rsync", &back]).await?.ok()?;
    run("cmp", &[&data, &back]).await?.ok()?;
    Ok(())
}
