//! A terminal at `dwell exec`: raw while it is used, and given back.

use super::*;

/// A terminal of which this test is the other side.
pub(super) struct Terminal {
    pub(super) ours: std::fs::File,
    pub(super) theirs: std::fs::File,
}

impl Terminal {
    pub(super) fn open() -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let theirs = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap());
        let terminal = Self { ours: ours.into(), theirs: theirs.unwrap() };
        terminal.resize(100, 40);
        terminal
    }

    pub(super) fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.theirs, size).unwrap();
    }

    pub(super) fn is_raw(&self) -> bool {
        !tcgetattr(&self.theirs).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// Reads until `text` has been shown.
    pub(super) async fn shows(&self, text: &str) {
        let (mut ours, wanted) = (self.ours.try_clone().unwrap(), text.to_owned());
        #[expect(clippy::disallowed_methods, reason = "nothing else blocks in this program")]
        let read = tokio::task::spawn_blocking(move || {
            let mut shown = String::new();
            let mut byte = [0];
            while !shown.contains(&wanted) {
                ours.read_exact(&mut byte).unwrap();
                shown.push(char::from(byte[0]));
            }
        });
        tokio::time::timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("no {text}")).unwrap();
    }

    pub(super) fn is_silent(&self) -> bool {
        !tcgetattr(&self.theirs).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    pub(super) fn spawn(&self, fake: &Fake) -> tokio::process::Child {
        self.spawn_with(fake, &["exec", "-it", "web-0", "sh"])
    }

    pub(super) fn spawn_with(&self, fake: &Fake, arguments: &[&str]) -> tokio::process::Child {
        let side = || Stdio::from(self.theirs.try_clone().unwrap());
        let mut command = command(fake, arguments);
        command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap()
    }
}

pub(super) fn signal(child: &tokio::process::Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn exec_with_a_terminal_is_raw_resizes_and_gives_it_back() {
    let fake = Fake::start(starting());
    let mut terminal = Terminal::open();
    let mut child = terminal.spawn(&fake);
    terminal.shows("size 100x40").await;
    assert!(terminal.is_raw());
    terminal.resize(120, 50);
    signal(&child, rustix::process::Signal::WINCH);
    terminal.shows("resized 120x50").await;
    // In raw mode Ctrl-C is a key like any other.
    terminal.ours.write_all(b"\x03x").unwrap();
    terminal.shows("\x03x").await;
    terminal.ours.write_all(b"\x04").unwrap();
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(3));
    assert!(!terminal.is_raw());
}

#[tokio::test]
async fn a_terminal_is_given_back_when_exec_is_ended() {
    let fake = Fake::start(starting());
    let terminal = Terminal::open();
    let mut child = terminal.spawn(&fake);
    terminal.shows("size 100x40").await;
    assert!(terminal.is_raw());
    signal(&child, rustix::process::Signal::TERM);
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(125));
    assert!(!terminal.is_raw());
}
