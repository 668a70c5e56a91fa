//! A terminal of the container's: opened in its `/dev/pts`, set up as the client's is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, fchown};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, openat2};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios,
    Winsize, tcgetattr, tcsetattr, tcsetwinsize,
};

use super::Terminal;
use super::failure::{Failure, Step as _};

/// The multiplexer, which makes a new terminal each time it is opened.
const MULTIPLEXER: &str = "/dev/pts/ptmx";
/// Its device number: major 5, minor 2.
const MULTIPLEXER_DEVICE: u64 = 0x502;
/// The group of terminals on every distribution.
const TTY_GROUP: u32 = 5;

/// A terminal's two ends.
#[derive(Debug)]
pub(super) struct Pair {
    /// The one that dwell-ssh reads and writes.
    pub(super) master: OwnedFd,
    /// The one that the process has.
    pub(super) slave: OwnedFd,
    /// The path of the slave.
    pub(super) name: String,
}

impl Pair {
    /// Makes a terminal of the container that this process is in.
    pub(super) fn open(terminal: &Terminal) -> Result<Self, Failure> {
        let master = multiplexer().map_err(|_| Failure::NoTerminal)?;
        let what = "set up the terminal";
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        unlockpt(&master).step(what)?;
        let slave = ioctl_tiocgptpeer(&master, flags).step(what)?;
        let name = ptsname(&master, Vec::new()).step(what)?.to_string_lossy().into_owned();

        let mut settings = tcgetattr(&slave).step(what)?;
        for (code, value) in &terminal.modes {
            set_mode(&mut settings, *code, *value);
        }
        tcsetattr(&slave, OptionalActions::Now, &settings).step(what)?;
        resize(
            &master,
            terminal.columns,
            terminal.rows,
            terminal.pixel_width,
            terminal.pixel_height,
        )
        .step(what)?;
        Ok(Self { master: master.into(), slave, name })
    }

    /// Gives it to a user, as `login` does.
    pub(super) fn give_to(&self, uid: u32) -> io::Result<()> {
        fchown(&self.slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(TTY_GROUP)))
            // A user namespace need not have the group.
            .or_else(|_| fchown(&self.slave, Some(Uid::from_raw(uid)), None))?;
        Ok(fchmod(&self.slave, Mode::from_raw_mode(0o620))?)
    }
}

/// Tells a terminal its size, in characters and pixels; what does not fit is cut to what does.
pub(super) fn resize(
    terminal: impl AsFd,
    columns: u32,
    rows: u32,
    pixel_width: u32,
    pixel_height: u32,
) -> io::Result<()> {
    let fit = |size: u32| u16::try_from(size).unwrap_or(u16::MAX);
    let size = Winsize {
        ws_row: fit(rows),
        ws_col: fit(columns),
        ws_xpixel: fit(pixel_width),
        ws_ypixel: fit(pixel_height),
    };
    Ok(tcsetwinsize(terminal, size)?)
}

/// The container's multiplexer, if that is what lies in its place. No link is followed, since one through `/proc` might
/// lead out of the container as long as this process has privileges.
fn multiplexer() -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file =
        File::from(openat2(CWD, MULTIPLEXER, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?);
    let metadata = file.metadata()?;
    let genuine = metadata.file_type().is_char_device()
        && metadata.rdev() == MULTIPLEXER_DEVICE
        && fstatfs(&file)?.filesystem_type() == DEVPTS_SUPER_MAGIC;
    if genuine { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Applies one mode of RFC 4254, section 8; unknown ones are passed over.
fn set_mode(settings: &mut Termios, code: u8, value: u32) {
    if let Some(index) = special_code(code) {
        // 255 turns the character off, which is 0 here.
        settings.special_codes[index] =
            u8::try_from(value).ok().filter(|code| *code != 255).unwrap_or(0);
        return;
    }
    let on = value != 0;
    match code {
        30..=42 => input_mode(code).into_iter().for_each(|flag| settings.input_modes.set(flag, on)),
        50..=62 => local_mode(code).into_iter().for_each(|flag| settings.local_modes.set(flag, on)),
        70..=75 => {
            output_mode(code).into_iter().for_each(|flag| settings.output_modes.set(flag, on));
        }
        90 | 91 if on => {
            let size = if code == 90 { ControlModes::CS7 } else { ControlModes::CS8 };
            settings.control_modes.remove(ControlModes::CSIZE);
            settings.control_modes.insert(size);
        }
        92 => settings.control_modes.set(ControlModes::PARENB, on),
        93 => settings.control_modes.set(ControlModes::PARODD, on),
        // The speed of a line that is none; programs of old ask for it.
        128 => drop(settings.set_input_speed(value)),
        129 => drop(settings.set_output_speed(value)),
        _ => {}
    }
}

fn special_code(code: u8) -> Option<SpecialCodeIndex> {
    Some(match code {
        1 => SpecialCodeIndex::VINTR,
        2 => SpecialCodeIndex::VQUIT,
        3 => SpecialCodeIndex::VERASE,
        4 => SpecialCodeIndex::VKILL,
        5 => SpecialCodeIndex::VEOF,
        6 => SpecialCodeIndex::VEOL,
        7 => SpecialCodeIndex::VEOL2,
        8 => SpecialCodeIndex::VSTART,
        9 => SpecialCodeIndex::VSTOP,
        10 => SpecialCodeIndex::VSUSP,
        12 => SpecialCodeIndex::VREPRINT,
        13 => SpecialCodeIndex::VWERASE,
        14 => SpecialCodeIndex::VLNEXT,
        18 => SpecialCodeIndex::VDISCARD,
        _ => return None,
    })
}

fn input_mode(code: u8) -> Option<InputModes> {
    Some(match code {
        30 => InputModes::IGNPAR,
        31 => InputModes::PARMRK,
        32 => InputModes::INPCK,
        33 => InputModes::ISTRIP,
        34 => InputModes::INLCR,
        35 => InputModes::IGNCR,
        36 => InputModes::ICRNL,
        37 => InputModes::IUCLC,
        38 => InputModes::IXON,
        39 => InputModes::IXANY,
        40 => InputModes::IXOFF,
        41 => InputModes::IMAXBEL,
        42 => InputModes::IUTF8,
        _ => return None,
    })
}

fn local_mode(code: u8) -> Option<LocalModes> {
    Some(match code {
        50 => LocalModes::ISIG,
        51 => LocalModes::ICANON,
        52 => LocalModes::XCASE,
        53 => LocalModes::ECHO,
        54 => LocalModes::ECHOE,
        55 => LocalModes::ECHOK,
        56 => LocalModes::ECHONL,
        57 => LocalModes::NOFLSH,
        58 => LocalModes::TOSTOP,
        59 => LocalModes::IEXTEN,
        60 => LocalModes::ECHOCTL,
        61 => LocalModes::ECHOKE,
        62 => LocalModes::PENDIN,
        _ => return None,
    })
}

fn output_mode(code: u8) -> Option<OutputModes> {
    Some(match code {
        70 => OutputModes::OPOST,
        71 => OutputModes::OLCUC,
        72 => OutputModes::ONLCR,
        73 => OutputModes::OCRNL,
        74 => OutputModes::ONOCR,
        75 => OutputModes::ONLRET,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rustix::pty::{grantpt, openpt};

    use super::*;

    fn settings() -> Termios {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcgetattr(&master).unwrap()
    }

    #[test]
    fn modes_are_set_and_strange_ones_passed_over() {
        let mut settings = settings();
        for (code, value) in
            [(3, 0x08), (1, 255), (2, 1 << 20), (36, 0), (42, 1), (53, 0), (72, 1), (90, 1)]
        {
            set_mode(&mut settings, code, value);
        }
        assert_eq!(settings.special_codes[SpecialCodeIndex::VERASE], 8);
        assert_eq!(settings.special_codes[SpecialCodeIndex::VINTR], 0);
        assert_eq!(settings.special_codes[SpecialCodeIndex::VQUIT], 0);
        assert!(!settings.input_modes.contains(InputModes::ICRNL));
        assert!(settings.input_modes.contains(InputModes::IUTF8));
        assert!(!settings.local_modes.contains(LocalModes::ECHO));
        assert!(settings.output_modes.contains(OutputModes::ONLCR));
        assert_eq!(settings.control_modes & ControlModes::CSIZE, ControlModes::CS7);
        for code in 0..=u8::MAX {
            for value in [0, 1, u32::MAX] {
                set_mode(&mut settings, code, value);
            }
        }
    }

    #[test]
    fn sizes_beyond_the_kernels_are_cut() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        resize(&master, 80, 70_000, 0, u32::MAX).unwrap();
        let size = rustix::termios::tcgetwinsize(&master).unwrap();
        assert_eq!((size.ws_col, size.ws_row, size.ws_ypixel), (80, u16::MAX, u16::MAX));
    }
}
