//! The terminal of the person: its size, and raw mode that is always taken back.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use dwell_proto::v1::TerminalSize;
use nix::sys::termios::{self, SetArg, Termios};

/// Raw mode of standard input, from its making until it is dropped: every key goes to the other side.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Puts standard input into raw mode.
    ///
    /// # Errors
    /// If it is not a terminal.
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to take back.
        termios::tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.before).unwrap_or_default();
    }
}

/// Whether standard input is a terminal.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// The size of the terminal, if there is one.
pub(crate) fn size() -> Option<TerminalSize> {
    let (columns, rows) = terminal_size::terminal_size()?;
    Some(TerminalSize { columns: columns.0.into(), rows: rows.0.into() })
}
