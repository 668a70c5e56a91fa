//! Into every instance over SSH, with no sshd in its image: the stock clients against dwell-ssh.

use std::{
    collections::BTreeMap,
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dwell_tests::lab::{Image, Lab, LabConfig, Person, Signal, wait_until};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Child,
};

const SOON: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(120);

/// What alice may log in to by the key in the specification.
fn manifest(key: &str, version: u32) -> String {
    format!(
        "
workloads:
  dev:
    image: tools
    replicas: 3
    environment: {{GREETING: 'hello there', VERSION: '{version}'}}
    ssh: {{authorized_keys: ['{key}'], key_sets: [team], account_keys: true}}
    stop_grace_period: 2s
  bare:
    image: scratch
    ssh: {{authorized_keys: ['{key}'], key_sets: []}}
    stop_grace_period: 1s
  own:
    image: sshd
    environment: {{AUTHORIZED_KEY: '{key}'}}
  closed:
    image: tools
    ssh: off
    stop_grace_period: 1s
"
    )
}

/// A fleet with these workloads, and alice.
async fn workplace(lab: &Lab) -> Result<Person> {
    lab.start_fleet().await?;
    let alice = lab.person("alice").await?;
    lab.apply(&manifest(&alice.public_key()?, 1)).await?.ok()?;
    for (workload, count) in [("dev", 3), ("bare", 1), ("own", 1), ("closed", 1)] {
        lab.wait_well(workload, count, LIMIT).await?;
    }
    lab.route_machine().await?;
    let alice = lab.person("alice").await?;
    for name in ["dev-0", "dev-1", "dev-2"] {
        logs_in(&alice, name).await?;
    }
    Ok(alice)
}

async fn logs_in(person: &Person, name: &str) -> Result<()> {
    wait_until(&format!("{name} to let in"), SOON, async || {
        let said = person.ssh(&[&format!("{name}.dwell"), "hostname"]).await?.ok()?;
        ensure!(said.trim() == name, "it says {said:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn stock_clients_work_in_every_instance() -> Result<()> {
    let images = [Image::Tools, Image::Scratch, Image::Sshd];
    Lab::test(LabConfig::new("ssh").hosts(3).images(&images), async |lab| {
        let alice = workplace(lab).await?;
        commands_are_the_containers(&alice).await.context("commands")?;
        logins_are_users(&alice).await.context("users")?;
        accounts_let_others_in(lab, &alice).await.context("keys of accounts")?;
        terminals_are_terminals(&alice).await.context("terminals")?;
        files_go_both_ways(&alice).await.context("files")?;
        an_image_without_a_shell_says_so(&alice).await.context("bare")?;
        ports_are_forwarded(&alice).await.context("forwarding")?;
        one_leads_to_the_next(&alice).await.context("jumping")?;
        an_agent_is_forwarded(&alice).await.context("agent forwarding")?;
        one_connection_has_many_sessions(&alice).await.context("multiplexing")?;
        git_pushes(&alice).await.context("git")?;
        ansible_pings_and_copies(&alice).await.context("ansible")?;
        weak_algorithms_are_refused(&alice).await.context("algorithms")?;
        dwell_stays_off_port_22_where_told(lab, &alice).await.context("off")
    })
    .await
}

async fn commands_are_the_containers(alice: &Person) -> Result<()> {
    let said = alice.ssh(&["dev-0.dwell", "echo \"$GREETING\"; id -un; pwd; exit 7"]).await?;
    ensure!(said.code() == 7, "{said:?}");
    ensure!(said.stdout == "hello there\nroot\n/root\n", "{said:?}");
    let killed = alice.ssh(&["dev-0.dwell", "kill -KILL $$"]).await?;
    ensure!(killed.code() == 255, "ssh says 255 for a signal, not {killed:?}");
    let missing = alice.ssh(&["dev-0.dwell", "nonexistent"]).await?;
    ensure!(missing.code() == 127, "{missing:?}");
    let echoed = alice.run("ssh", &["dev-0.dwell", "cat; echo also >&2"], "through").await?;
    ensure!((&*echoed.stdout, &*echoed.stderr) == ("through", "also\n"), "{echoed:?}");
    // It is in the container's namespaces: the first process is the image's.
    let first = alice.ssh(&["dev-0.dwell", "tr '\\0' ' ' < /proc/1/cmdline"]).await?.ok()?;
    ensure!(first.contains("/start"), "process 1 is {first:?}");
    Ok(())
}

async fn logins_are_users(alice: &Person) -> Result<()> {
    let dev = alice.ssh(&["dev@dev-0.dwell", "id; echo $HOME; pwd"]).await?.ok()?;
    ensure!(dev.starts_with("uid=1000(dev) gid=1000(dev)"), "{dev}");
    ensure!(dev.contains("2000(team)") && dev.ends_with("/home/dev\n/home/dev\n"), "{dev}");
    let unknown = alice.ssh(&["alice@dev-0.dwell", "id -un"]).await?;
    let says = "dev-0 has no user \"alice\"; it has root, dev: ssh root@dev-0.dwell";
    ensure!(unknown.code() == 255 && unknown.stderr.contains(says), "{unknown:?}");
    for name in ["@container", "@default"] {
        let own = alice.ssh(&["-l", name, "dev-0.dwell", "id -un"]).await?.ok()?;
        ensure!(own == "root\n", "the image's user is root, not {own}");
    }
    Ok(())
}

async fn accounts_let_others_in(lab: &Lab, alice: &Person) -> Result<()> {
    let bob = lab.person("bob").await?;
    let refused = bob.ssh(&["dev@dev-0.dwell", "true"]).await?;
    ensure!(refused.code() == 255 && refused.stderr.contains("ermission denied"), "{refused:?}");
    let (config, key) = (alice.config(), bob.key().with_extension("pub"));
    let config = config.to_str().context("the lab's path is not UTF-8")?;
    let key = key.to_str().context("the lab's path is not UTF-8")?;
    // It works in a directory there.
    fs::create_dir_all(alice.dir().join(".ssh"))?;
    // Without -f it would log in as bob first, whose private key alice does not have.
    alice
        .run("ssh-copy-id", &["-f", "-F", config, "-i", key, "dev@dev-0.dwell"], "")
        .await?
        .ok()?;
    ensure!(bob.ssh(&["dev@dev-0.dwell", "id -un"]).await?.ok()? == "dev\n", "bob is not in");
    for other in ["root@dev-0.dwell", "dev-0.dwell", "dev@dev-1.dwell"] {
        ensure!(bob.ssh(&[other, "true"]).await?.code() == 255, "bob is in at {other}");
    }
    alice.ssh(&["dev-0.dwell", "chmod 666 /home/dev/.ssh/authorized_keys"]).await?.ok()?;
    ensure!(bob.ssh(&["dev@dev-0.dwell", "true"]).await?.code() == 255, "anybody may write it");
    Ok(())
}

async fn terminals_are_terminals(alice: &Person) -> Result<()> {
    let tty = alice.ssh(&["-tt", "dev-0.dwell", "tty; test -t 0 && test -t 1 && echo yes"]).await?;
    let said = tty.ok()?;
    ensure!(said.contains("/dev/pts/") && said.contains("yes"), "{said}");
    // A terminal that is hung up takes its processes along.
    let mut child = spawn(alice, &["-tt", "dev-0.dwell", "echo ready; sleep 4242"])?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    ensure!(lines.next_line().await?.is_some_and(|line| line.contains("ready")), "no word");
    child.kill().await?;
    wait_until("the command to be hung up", SOON, async || {
        let left = alice.ssh(&["dev-0.dwell", "ps | grep -c '[s]leep 4242'"]).await?;
        ensure!(left.stdout.trim() == "0", "{left:?}");
        Ok(())
    })
    .await
}

async fn files_go_both_ways(alice: &Person) -> Result<()> {
    let data: Vec<u8> =
        (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let original = alice.dir().join("original");
    fs::write(&original, &data)?;
    let same = |name: &str| -> Result<()> {
        ensure!(fs::read(alice.dir().join(name))? == data, "{name} is another");
        Ok(())
    };
    alice.run("scp", &["original", "dev-0.dwell:/tmp/one"], "").await?.ok()?;
    alice.run("scp", &["dev-0.dwell:/tmp/one", "by-scp"], "").await?.ok()?;
    same("by-scp")?;
    let script = "put original /tmp/two\nget /tmp/two by-sftp\nmkdir /tmp/d\nrename /tmp/two /tmp/d/two\nls -l /tmp/d\n";
    let listed = alice.run("sftp", &["-b", "-", "dev-0.dwell"], script).await?.ok()?;
    same("by-sftp")?;
    ensure!(listed.contains("5000000"), "{listed}");
    alice.run("rsync", &["-a", "original", "dev-0.dwell:/tmp/three"], "").await?.ok()?;
    alice.run("rsync", &["-a", "dev-0.dwell:/tmp/three", "by-rsync"], "").await?.ok()?;
    same("by-rsync")?;
    // Files belong to who wrote them, and rights are what they are.
    alice.run("scp", &["original", "dev@dev-0.dwell:mine"], "").await?.ok()?;
    let owner = alice.ssh(&["dev-0.dwell", "stat -c %U /home/dev/mine"]).await?.ok()?;
    ensure!(owner == "dev\n", "{owner}");
    let refused = alice.run("scp", &["original", "dev@dev-0.dwell:/etc/passwd"], "").await?;
    ensure!(refused.code() != 0 && refused.stderr.contains("ermission denied"), "{refused:?}");
    Ok(())
}

async fn an_image_without_a_shell_says_so(alice: &Person) -> Result<()> {
    let shell = alice.ssh(&["-tt", "bare-0.dwell"]).await?;
    let said = format!("{}{}", shell.stdout, shell.stderr);
    ensure!(shell.code() != 0 && said.contains("shell") && said.contains("bare-0"), "{shell:?}");
    let rsync = alice.run("rsync", &["-a", "key.pub", "bare-0.dwell:/"], "").await?;
    ensure!(rsync.stderr.contains("rsync is not in the image"), "{rsync:?}");
    let direct = alice.ssh(&["bare-0.dwell", "/busybox echo it runs"]).await?.ok()?;
    ensure!(direct == "it runs\n", "{direct}");
    alice.run("scp", &["key.pub", "bare-0.dwell:/copied"], "").await?.ok()?;
    alice.run("scp", &["bare-0.dwell:/copied", "back"], "").await?.ok()?;
    ensure!(fs::read(alice.dir().join("back"))? == fs::read(alice.key().with_extension("pub"))?);
    Ok(())
}

async fn ports_are_forwarded(alice: &Person) -> Result<()> {
    alice
        .ssh(&[
            "dev-1.dwell",
            "mkdir -p /www; echo inside > /www/index.html; busybox httpd -p 127.0.0.1:9000 -h /www",
        ])
        .await?
        .ok()?;
    let outside = TcpListener::bind("127.0.0.1:0").await?;
    let back = outside.local_addr()?.port();
    let (local, dynamic) = (free_port().await?, free_port().await?);
    let forward = format!("{local}:127.0.0.1:9000");
    let reverse = format!("9100:127.0.0.1:{back}");
    let mut child = spawn(
        alice,
        &[
            "-o",
            "ExitOnForwardFailure=yes",
            "-L",
            &forward,
            "-R",
            &reverse,
            "-D",
            &dynamic.to_string(),
            "dev-1.dwell",
            "echo ready; cat",
        ],
    )?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    ensure!(lines.next_line().await?.as_deref() == Some("ready"), "no word");

    let mut stream = TcpStream::connect(("127.0.0.1", local)).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.contains("inside"), "-L: {answer:?}");

    let mut stream = through_socks(dynamic, 9000).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    answer.clear();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.contains("inside"), "-D: {answer:?}");

    let asking = alice.ssh(&["dev-1.dwell", "echo question | busybox nc -w 5 127.0.0.1 9100"]);
    let answering = async {
        let (mut stream, _) = outside.accept().await?;
        let mut question = String::new();
        BufReader::new(&mut stream).read_line(&mut question).await?;
        stream.write_all(format!("answer to {question}").as_bytes()).await?;
        anyhow::Ok(())
    };
    let (said, answered) = tokio::join!(asking, answering);
    answered?;
    ensure!(said?.stdout == "answer to question\n", "-R");
    child.kill().await?;
    Ok(())
}

/// A connection to a port of the instance's loopback address, by the client's SOCKS proxy.
async fn through_socks(dynamic: u16, port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", dynamic)).await?;
    stream.write_all(&[5, 1, 0]).await?;
    stream.read_exact(&mut [0; 2]).await?;
    let [high, low] = port.to_be_bytes();
    stream.write_all(&[5, 1, 0, 1, 127, 0, 0, 1, high, low]).await?;
    stream.read_exact(&mut [0; 10]).await?;
    Ok(stream)
}

async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

async fn one_leads_to_the_next(alice: &Person) -> Result<()> {
    let said = alice
        .ssh(&["-J", "dev-0.dwell", "dev-2.dwell", "hostname; echo $SSH_CONNECTION"])
        .await?
        .ok()?;
    ensure!(said.starts_with("dev-2\n"), "{said}");
    Ok(())
}

async fn an_agent_is_forwarded(alice: &Person) -> Result<()> {
    let key = alice.key();
    let config = alice.config();
    let script = format!(
        "eval $(ssh-agent) >/dev/null; trap 'kill $SSH_AGENT_PID' EXIT; ssh-add -q {}; \
         ssh -F {} -A dev-0.dwell ssh-add -l",
        key.display(),
        config.display()
    );
    let listed = alice.run("sh", &["-c", &script], "").await?.ok()?;
    ensure!(listed.contains("alice"), "{listed}");
    Ok(())
}

async fn one_connection_has_many_sessions(alice: &Person) -> Result<()> {
    let path = alice.dir().join("mux");
    let path = path.to_str().context("the lab's path is not UTF-8")?;
    let control = format!("ControlPath={path}");
    let mut master = spawn(alice, &["-M", "-N", "-o", &control, "dev-0.dwell"])?;
    wait_until("the connection", SOON, async || {
        alice.ssh(&["-O", "check", "-o", &control, "dev-0.dwell"]).await?.ok()
    })
    .await?;
    let sessions = (0..8).map(|number| {
        let control = control.clone();
        async move {
            let command = format!("sleep 1; echo {number}");
            alice.ssh(&["-o", &control, "dev-0.dwell", &command]).await?.ok()
        }
    });
    let started = Instant::now();
    let said = futures_util::future::try_join_all(sessions).await?;
    ensure!(said == (0..8).map(|n| format!("{n}\n")).collect::<Vec<_>>(), "{said:?}");
    ensure!(started.elapsed() < Duration::from_secs(7), "they ran one after the other");
    master.kill().await?;
    Ok(())
}

async fn git_pushes(alice: &Person) -> Result<()> {
    alice.ssh(&["dev-0.dwell", "git init -q --bare /tmp/repository"]).await?.ok()?;
    let script = "git init -q repository && cd repository && git -c user.name=alice -c user.email=a@example.com \
                  commit -q --allow-empty -m first && git push -q dev-0.dwell:/tmp/repository HEAD:main";
    alice.run("sh", &["-c", script], "").await?.ok()?;
    let log =
        alice.ssh(&["dev-0.dwell", "git -C /tmp/repository log --format=%s main"]).await?.ok()?;
    ensure!(log == "first\n", "{log}");
    Ok(())
}

async fn ansible_pings_and_copies(alice: &Person) -> Result<()> {
    let inventory = alice.dir().join("inventory");
    let config = alice.config();
    fs::write(
        &inventory,
        format!(
            "[all:vars]\nansible_ssh_common_args=-F {}\nansible_python_interpreter=/usr/bin/python3\n\
             [fleet]\ndev-0.dwell\ndev-1.dwell\n",
            config.display()
        ),
    )?;
    for module in [&["-m", "ping"][..], &["-m", "copy", "-a", "src=key.pub dest=/tmp/by-ansible"]] {
        let args = [&["fleet", "-i", "inventory"], module].concat();
        let said = alice.run("ansible", &args, "").await?.ok()?;
        ensure!(said.matches("=> {").count() == 2 && !said.contains("FAILED"), "{said}");
    }
    let copied = alice.ssh(&["dev-1.dwell", "cat /tmp/by-ansible"]).await?.ok()?;
    ensure!(copied.trim() == alice.public_key()?, "{copied}");
    Ok(())
}

async fn weak_algorithms_are_refused(alice: &Person) -> Result<()> {
    // The MAC plays a part only where the cipher does not authenticate by itself.
    let with = async |options: &[&str]| {
        let options = options.iter().flat_map(|option| ["-o", option]);
        let words: Vec<&str> = options.chain(["dev-0.dwell", "echo in"]).collect();
        alice.ssh(&words).await
    };
    let strong = [
        "KexAlgorithms=curve25519-sha256",
        "Ciphers=aes256-ctr",
        "MACs=hmac-sha2-256-etm@openssh.com",
    ];
    ensure!(with(&strong).await?.ok()? == "in\n", "the strong ones are refused");
    for (kind, weak) in [
        (0, "KexAlgorithms=diffie-hellman-group14-sha1"),
        (0, "KexAlgorithms=diffie-hellman-group1-sha1"),
        (0, "KexAlgorithms=diffie-hellman-group-exchange-sha1"),
        (1, "Ciphers=aes128-cbc"),
        (1, "Ciphers=3des-cbc"),
        (2, "MACs=hmac-sha1"),
        (2, "MACs=hmac-md5-96"),
    ] {
        let mut options = strong;
        options[kind] = weak;
        let said = with(&options).await?;
        ensure!(said.code() == 255 && said.stdout.is_empty(), "{weak}: {said:?}");
    }
    let rsa = with(&["HostKeyAlgorithms=ssh-rsa,rsa-sha2-512"]).await?;
    ensure!(rsa.code() == 255, "it has an RSA host key: {rsa:?}");
    Ok(())
}

async fn dwell_stays_off_port_22_where_told(lab: &Lab, alice: &Person) -> Result<()> {
    let ps = lab.ps().await?;
    let closed = ps.of("closed").swap_remove(0).at(22)?;
    ensure!(lab.hosts()[0].connect(closed).await.is_err(), "somebody listens on {closed}");
    // Nobody said `ssh: image` here: the image's port says it.
    let own = ps.of("own").swap_remove(0).at(22)?;
    let mut banner = String::new();
    BufReader::new(TcpStream::connect(own).await?).read_line(&mut banner).await?;
    ensure!(banner.contains("dropbear"), "port 22 of own-0 answers {banner:?}");
    let words = ["-o", "StrictHostKeyChecking=no", "root@own-0.dwell", "hostname"];
    ensure!(alice.ssh(&words).await?.ok()? == "own-0\n", "its own sshd does not let in");
    Ok(())
}

fn spawn(person: &Person, args: &[&str]) -> Result<Child> {
    let mut command = person.command("ssh", args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("cannot start ssh")
}

#[tokio::test]
async fn keys_sessions_and_hosts_outlive_what_is_under_them() -> Result<()> {
    let images = [Image::Tools, Image::Scratch, Image::Sshd];
    Lab::test(LabConfig::new("sshkeep").hosts(3).images(&images), async |lab| {
        let alice = workplace(lab).await?;
        key_sets_reach_running_instances(lab).await.context("key sets")?;
        certificates_log_in(lab).await.context("certificates")?;
        a_session_outlives_the_agent(lab, &alice).await.context("an agent's restart")?;
        refusals_are_limited_and_told(lab).await.context("refusals")?;
        host_keys_stay(lab, &alice).await.context("host keys")
    })
    .await
}

async fn key_sets_reach_running_instances(lab: &Lab) -> Result<()> {
    let bob = lab.person("bob").await?;
    let refused = bob.ssh(&["dev-0.dwell", "true"]).await?;
    ensure!(refused.code() == 255 && refused.stderr.contains("ermission denied"), "{refused:?}");
    let key = bob.key().with_extension("pub");
    let key = key.to_str().context("the lab's path is not UTF-8")?;
    lab.cli(&["key", "add", "team", key]).await?.ok()?;
    wait_until("the key to count", Duration::from_secs(2), async || {
        bob.ssh(&["dev-0.dwell", "true"]).await?.ok()
    })
    .await?;
    let elsewhere = bob.ssh(&["bare-0.dwell", "/busybox true"]).await?;
    ensure!(elsewhere.code() == 255, "bare-0 takes no key set: {elsewhere:?}");
    lab.cli(&["key", "rm", "team", "bob"]).await?.ok()?;
    wait_until("the key not to count any more", Duration::from_secs(2), async || {
        ensure!(bob.ssh(&["dev-0.dwell", "true"]).await?.code() == 255, "it does");
        Ok(())
    })
    .await
}

async fn certificates_log_in(lab: &Lab) -> Result<()> {
    let carol = lab.person("carol").await?;
    let key = carol.key().with_extension("pub");
    let key = key.to_str().context("the lab's path is not UTF-8")?;
    lab.cli(&["key", "sign", key, "--principal", "carol", "--valid", "1h"]).await?.ok()?;
    let refused = carol.ssh(&["carol@dev-0.dwell", "id -un"]).await?;
    let says = refused.stderr.contains("no user \"carol\", and this key or certificate is good");
    ensure!(
        refused.code() == 255 && says,
        "there is no carol, and she is nobody else: {refused:?}"
    );
    let both = ["--principal", "carol", "--principal", "@container"];
    lab.cli(&[&["key", "sign", key, "--valid", "1h"][..], &both].concat()).await?.ok()?;
    ensure!(carol.ssh(&["dev-0.dwell", "id -un"]).await?.ok()? == "root\n", "without a name");
    let other = carol.ssh(&["dev@dev-0.dwell", "true"]).await?;
    ensure!(other.code() == 255, "the certificate does not say dev: {other:?}");
    Ok(())
}

async fn a_session_outlives_the_agent(lab: &Lab, alice: &Person) -> Result<()> {
    let mut child = spawn(alice, &["dev-0.dwell", "while read line; do echo got $line; done"])?;
    let mut input = child.stdin.take().context("no input")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut ask = async |word: &str| -> Result<()> {
        input.write_all(format!("{word}\n").as_bytes()).await?;
        let line = lines.next_line().await?.context("it ended")?;
        ensure!(line == format!("got {word}"), "{line}");
        Ok(())
    };
    ask("before").await?;
    for host in lab.hosts() {
        host.stop_agent(Signal::SIGKILL).await?;
    }
    ask("without").await?;
    // New log-ins need no agent either.
    logs_in(alice, "dev-0").await?;
    for host in lab.hosts() {
        host.start_agent().await?;
    }
    lab.wait_well("dev", 3, LIMIT).await?;
    ask("after").await?;
    child.kill().await?;
    // The server's own restart cuts sessions, and takes new ones at once.
    for host in lab.hosts() {
        host.ssh().stop(Signal::SIGTERM).await?;
        host.start_ssh().await?;
    }
    logs_in(alice, "dev-0").await
}

async fn refusals_are_limited_and_told(lab: &Lab) -> Result<()> {
    let mallory = lab.person("mallory").await?;
    for _ in 0..5 {
        ensure!(mallory.ssh(&["dev-1.dwell", "true"]).await?.code() == 255, "mallory is in");
    }
    wait_until("the events of all this", Duration::from_secs(90), async || {
        let events: Value = lab.cli(&["events", "-o", "json"]).await?.json()?;
        let text = events.to_string();
        let mut count = BTreeMap::new();
        for reason in ["ssh-opened", "ssh-closed", "ssh-refused"] {
            count.insert(reason, text.matches(reason).count());
        }
        ensure!(count.values().all(|&count| count > 0), "{count:?}");
        ensure!(text.contains("SHA256:") && text.contains("alice"), "{text}");
        Ok(())
    })
    .await
}

/// The public host key that an instance shows.
async fn host_key(lab: &Lab, name: &str) -> Result<String> {
    let row = lab.ps().await?.instances.into_iter().find(|row| row.name == name);
    let address = row.context("it is gone")?.address;
    wait_until("the host key", SOON, async || {
        let scanned =
            dwell_tests::lab::run("ssh-keyscan", &["-t", "ed25519", &address]).await?.ok()?;
        let key = scanned.split_whitespace().nth(2).context("no key")?.to_owned();
        Ok(key)
    })
    .await
}

async fn host_keys_stay(lab: &Lab, alice: &Person) -> Result<()> {
    let before = host_key(lab, "dev-0").await?;
    lab.cli(&["restart", "dev-0"]).await?.ok()?;
    logs_in(alice, "dev-0").await?;
    ensure!(host_key(lab, "dev-0").await? == before, "a restart changed it");

    lab.apply(&manifest(&alice.public_key()?, 2)).await?.ok()?;
    wait_until("the replacement", LIMIT, async || {
        let said = alice.ssh(&["dev-0.dwell", "echo $VERSION"]).await?.ok()?;
        ensure!(said == "2\n", "{said}");
        Ok(())
    })
    .await?;
    ensure!(host_key(lab, "dev-0").await? == before, "a replacement changed it");

    let row = lab.ps().await?.of("dev").swap_remove(0);
    lab.cli(&["node", "drain", &row.node]).await?.ok()?;
    wait_until("the move", LIMIT, async || {
        let now = lab.ps().await?.of("dev").swap_remove(0);
        ensure!(now.node != row.node && now.is_well(), "{now:?}");
        ensure!(now.address == row.address, "it has another address");
        Ok(())
    })
    .await?;
    lab.route_machine().await?;
    logs_in(alice, "dev-0").await?;
    ensure!(host_key(lab, "dev-0").await? == before, "a move changed it");
    Ok(())
}
