//! The terminal of the person: its size, and raw mode that is always taken back.

use std::io::{self, BufRead, IsTerminal, Write};

use dwell_proto::v1::TerminalSize;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

/// How long a line may be, in bytes, its end included: terminals cut what is longer.
const LINE_MAX: usize = 4_094;
/// How long more lines of a paste are waited for after the first one.
const PASTE_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// What a terminal sends for the interrupt key.
const INTERRUPT: u8 = 3;

/// Another mode of standard input, from its making until it is dropped: mostly raw, so that every key goes to the other side.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
    /// What becomes of input that nobody has read.
    restore: OptionalActions,
}

impl RawMode {
    /// Puts standard input into raw mode.
    ///
    /// # Errors
    /// If it is not a terminal.
    pub(crate) fn enter() -> io::Result<Self> {
        Self::with(OptionalActions::Now, Termios::make_raw)
    }

    /// Changes the modes of standard input until this is dropped.
    fn with(restore: OptionalActions, change: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut modes = before.clone();
        change(&mut modes);
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        Ok(Self { before, restore })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to take back.
        tcsetattr(io::stdin(), self.restore, &self.before).unwrap_or_default();
    }
}

/// Asks for a line that is not shown while it is typed.
///
/// # Errors
/// If standard input is not a terminal, nothing is typed before its end, or it is more than one line or a very long one;
/// nothing of that is left for whoever reads the terminal next.
pub(crate) fn ask_secret(prompt: &str) -> io::Result<String> {
    let mut errors = io::stderr();
    errors.write_all(prompt.as_bytes())?;
    errors.flush()?;
    let (line, is_all) = {
        let _silent = RawMode::with(OptionalActions::Flush, |modes| {
            // A signal would end this process and leave the terminal silent: the key ends the line instead.
            modes.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
            modes.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        })?;
        // A terminal gives one line at a time, of at most 4096 bytes.
        let line = io::stdin().lock().fill_buf()?.to_vec();
        (line, !has_more()?)
    };
    errors.write_all(b"\n")?;
    if line.contains(&INTERRUPT) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !is_all {
        return Err(io::Error::other("that was more than one line; use --password-stdin"));
    }
    if line.len() > LINE_MAX {
        return Err(io::Error::other(
            "that is longer than what a terminal passes on; use --password-stdin",
        ));
    }
    let mut line = String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

/// Whether standard input has more than the line that was read, also if it is not a whole line.
fn has_more() -> io::Result<bool> {
    let _by_bytes = RawMode::with(OptionalActions::Now, |modes| {
        modes.local_modes.remove(LocalModes::ICANON);
    })?;
    let stdin = io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
    Ok(poll(&mut watched, Some(&PASTE_WAIT))? > 0)
}

/// Whether standard input is a terminal.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// The size of the terminal, if there is one.
pub(crate) fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(io::stdout())
        .or_else(|_| tcgetwinsize(io::stderr()))
        .or_else(|_| tcgetwinsize(io::stdin()))
        .ok()?;
    Some(TerminalSize { columns: size.ws_col.into(), rows: size.ws_row.into() })
}
