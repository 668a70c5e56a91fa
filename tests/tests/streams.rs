//! Byte streams between people and instances, over the agents' outbound connections: logs, commands,
//! terminals, events.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use dwell_core::node::NodeState;
use dwell_tests::lab::{Image, Lab, LabConfig, finish, run, wait_until};
use nix::{
    pty::{Winsize, openpty},
    unistd::ttyname,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

const SOON: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn logs_commands_terminals_and_events() -> Result<()> {
    Lab::test(LabConfig::new("streams").hosts(2).images(&[Image::Hello]), async |lab| {
        lab.start_fleet().await?;
        lab.apply(TALKERS).await?.ok()?;
        lab.wait_exactly("talker", 2, LIMIT).await?;
        logs_are_followed_from_the_first_line(lab).await.context("logs")?;
        commands_end_with_their_exit_code(lab).await.context("exec")?;
        input_reaches_a_command(lab).await.context("exec -i")?;
        a_terminal_is_one(lab).await.context("exec -it")?;
        events_are_followed(lab).await.context("events")?;
        slow_readers_slow_their_writers_and_nobody_else(lab).await.context("back-pressure")
    })
    .await
}

/// Two that count, one on each node, so that streams cross both agents.
const TALKERS: &str = "
workloads:
  talker:
    image: hello
    replicas: 2
    stop_grace_period: 1s
    command: [sh, -c, 'i=0; while :; do echo tick $$i; i=$$(($$i+1)); sleep 1; done']
";

async fn logs_are_followed_from_the_first_line(lab: &Lab) -> Result<()> {
    for talker in ["talker-0", "talker-1"] {
        let mut logs = spawn(lab, &["logs", "-f", talker])?;
        let mut lines = BufReader::new(logs.stdout.take().context("no output")?).lines();
        let now = lab.cli(&["logs", talker]).await?.ok()?.lines().count();
        // Two more than there were: they came while it followed.
        for number in 0..now + 2 {
            let line = timeout(SOON, lines.next_line()).await.context("no line came")??;
            ensure!(line == Some(format!("tick {number}")), "line {number} is {line:?}");
        }
        let tail = lab.cli(&["logs", "--tail", "1", talker]).await?.ok()?;
        ensure!(tail.lines().count() == 1, "the last line is {tail:?}");
        logs.kill().await?;
    }
    Ok(())
}

async fn commands_end_with_their_exit_code(lab: &Lab) -> Result<()> {
    for talker in ["talker-0", "talker-1"] {
        let script = "echo out; echo err >&2; exit 7";
        let said = lab.exec(talker, &["sh", "-c", script]).await?;
        ensure!((said.code(), &*said.stdout, &*said.stderr) == (7, "out\n", "err\n"), "{said:?}");
    }
    let missing = lab.exec("talker-0", &["/no/such/program"]).await?;
    ensure!(missing.code() == 127 && missing.stdout.is_empty(), "{missing:?}");
    ensure!(missing.stderr.contains("/no/such/program: not found"), "{missing:?}");
    let nobody = lab.exec("nobody-0", &["true"]).await?;
    ensure!(nobody.code() == 125 && nobody.stderr.contains("nobody-0"), "{nobody:?}");
    Ok(())
}

async fn input_reaches_a_command(lab: &Lab) -> Result<()> {
    let text = "all of this, ".repeat(100_000);
    let command = lab.cli_command(&["exec", "-i", "talker-1", "--", "sh", "-c", "cat; exit 5"])?;
    let said = finish(command, &text).await?;
    ensure!(said.code() == 5, "it ended with {}: {}", said.code(), said.stderr);
    ensure!(said.stdout == text, "{} of {} bytes came back", said.stdout.len(), text.len());
    Ok(())
}

async fn a_terminal_is_one(lab: &Lab) -> Result<()> {
    let mut terminal = Terminal::open(24, 80)?;
    let dwell = lab.cli_command(&["exec", "-it", "talker-1", "--", "sh"])?;
    let mut shell = terminal.run(&dwell)?;
    terminal.shows("# ").await?;
    terminal.write("tty; stty size\n")?;
    terminal.shows("/dev/pts/").await?;
    terminal.shows("24 80").await?;
    terminal.resize(40, 100).await?;
    wait_until("the new size to arrive", SOON, async || {
        terminal.write("stty size\n")?;
        terminal.shows_within("40 100", Duration::from_millis(500)).await
    })
    .await?;
    // An interrupt ends the command in the instance, not the shell nor the client.
    terminal.write("sleep 1000\n")?;
    terminal.shows("sleep 1000").await?;
    wait_until("the command to run", SOON, async || {
        let all = lab.exec("talker-1", &["ps"]).await?.ok()?;
        ensure!(all.contains("sleep 1000"), "running are {all}");
        Ok(())
    })
    .await?;
    terminal.write("\u{3}")?;
    terminal.write("echo still $((40 + 2))\n")?;
    terminal.shows("still 42").await?;
    terminal.write("exit 9\n")?;
    let status = timeout(SOON, shell.wait()).await.context("it does not end")??;
    ensure!(status.code() == Some(9), "it ended with {status}, showing {}", terminal.screen());
    Ok(())
}

async fn events_are_followed(lab: &Lab) -> Result<()> {
    let mut events = spawn(lab, &["events", "-f", "-o", "json"])?;
    let mut lines = BufReader::new(events.stdout.take().context("no output")?).lines();
    lab.apply("workloads: {late: {image: hello}}").await?.ok()?;
    let seen = async {
        while let Some(line) = lines.next_line().await? {
            let event: serde_json::Value = serde_json::from_str(&line)?;
            if event["subject"] == "instance/late-0" {
                return anyhow::Ok(true);
            }
        }
        Ok(false)
    };
    ensure!(timeout(SOON, seen).await.context("it is not told")??, "the events end");
    events.kill().await?;
    lab.cli(&["rm", "late", "--wait"]).await?.ok()?;
    Ok(())
}

/// Bytes that a command writes while nobody reads.
const FLOOD: usize = 200 << 20;

/// How many such commands there are at a time, all on one node.
const FLOODS: usize = 8;

/// The most that may be on its way, in all buffers together, of all floods.
const IN_FLIGHT: u64 = 64 << 20;

/// The most that the controller may grow, in MiB.
const GROWTH_MIB: f64 = 24.0;

async fn slow_readers_slow_their_writers_and_nobody_else(lab: &Lab) -> Result<()> {
    let before = lab.controller().resident_mib()?;
    let script = format!("yes | head -c {FLOOD}");
    let words = ["exec", "talker-1", "--", "sh", "-c", &script];
    let mut floods = (0..FLOODS).map(|_| spawn(lab, &words)).collect::<Result<Vec<_>>>()?;
    let mut last = 0;
    let mut looks_alike = 0;
    let written = wait_until("the writers to be held up", SOON, async || {
        // Goes the same way as the floods do: what they hold up must not be this.
        let script = "for head in $(pidof head); do sed -n 's/^wchar: //p' /proc/$head/io; done";
        let counts = lab.exec("talker-1", &["sh", "-c", script]).await?.ok()?;
        let counts: Vec<u64> =
            counts.lines().map(str::parse).collect::<Result<_, _>>().context("no counts")?;
        let written = counts.iter().sum();
        let all = counts.len() == FLOODS && counts.iter().all(|count| *count > 0);
        looks_alike = if written == last && all { looks_alike + 1 } else { 0 };
        last = written;
        ensure!(looks_alike >= 5, "{counts:?} bytes are written and it goes on");
        Ok(written)
    })
    .await?;
    ensure!(written < IN_FLIGHT, "{written} bytes are on their way to somebody who does not read");
    let grown = lab.controller().resident_mib()? - before;
    ensure!(grown < GROWTH_MIB, "the controller has grown by {grown} MiB");
    let nodes = lab.nodes().await?.nodes;
    ensure!(nodes.iter().all(|node| node.state == NodeState::Ready), "held up as well: {nodes:?}");

    let mut flood = floods.swap_remove(0);
    let mut output = flood.stdout.take().context("no output")?;
    let mut count = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = timeout(SOON, output.read(&mut buffer)).await.context("nothing comes")??;
        if read == 0 {
            break;
        }
        count += read;
    }
    ensure!(count == FLOOD, "{count} of {FLOOD} bytes came");
    ensure!(flood.wait().await?.success(), "it failed");
    let grown = lab.controller().resident_mib()? - before;
    ensure!(grown < GROWTH_MIB, "the controller has grown by {grown} MiB");
    Ok(())
}

/// The command line, running, with its output to be read.
fn spawn(lab: &Lab, args: &[&str]) -> Result<Child> {
    let mut command = lab.cli_command(args)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().context("cannot start the command line")
}

/// A terminal with a screen that forgets nothing.
struct Terminal {
    keyboard: File,
    /// Kept open, so that the terminal outlives what runs in it.
    tty: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
    /// How much of the screen was looked at.
    seen: usize,
}

impl Terminal {
    fn open(rows: u16, columns: u16) -> Result<Self> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).context("no terminal is to be had")?;
        let keyboard = File::from(pty.master);
        let mut shown = keyboard.try_clone().context("cannot share a terminal")?;
        let screen = Arc::<Mutex<Vec<u8>>>::default();
        let shared = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = shown.read(&mut buffer) {
                if let Ok(mut screen) = shared.lock() {
                    screen.extend(&buffer[..count]);
                }
            }
        });
        Ok(Self { keyboard, tty: pty.slave, screen, seen: 0 })
    }

    /// Runs `command` in this terminal, as a login shell would.
    fn run(&self, command: &Command) -> Result<Child> {
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.as_std().get_program());
        session.args(command.as_std().get_args());
        for (name, value) in command.as_std().get_envs() {
            session.env(name, value.unwrap_or_default());
        }
        let share = || self.tty.try_clone().map(Stdio::from).context("cannot share a terminal");
        session.stdin(share()?).stdout(share()?).stderr(share()?).kill_on_drop(true);
        session.spawn().context("cannot start setsid")
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.keyboard.write_all(text.as_bytes()).context("cannot type")
    }

    async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let path: PathBuf = ttyname(&self.tty)?;
        let path = path.to_str().context("its name is not UTF-8")?;
        let size = [rows, columns].map(|count| count.to_string());
        run("stty", &["-F", path, "rows", &size[0], "cols", &size[1]]).await?.ok()?;
        Ok(())
    }

    async fn shows(&mut self, text: &str) -> Result<()> {
        self.shows_within(text, SOON).await
    }

    /// Waits until `text` appears behind what was waited for before.
    async fn shows_within(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.seen = wait_until(&format!("the terminal to show {text:?}"), limit, async || {
            let screen = self.screen();
            let at = screen.get(self.seen..).and_then(|new| new.find(text));
            let at = at.with_context(|| format!("it shows {screen:?}"))?;
            Ok(self.seen + at + text.len())
        })
        .await?;
        Ok(())
    }

    fn screen(&self) -> String {
        let screen = self.screen.lock().map(|screen| screen.clone()).unwrap_or_default();
        String::from_utf8_lossy(&screen).into_owned()
    }
}
